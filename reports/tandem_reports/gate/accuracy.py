"""Accuracy of lossy cases side by side: does B lose more than A?

A build that is faster because it computes less well must not pass. Accuracy is measured once for a group of
cases, on inputs that the seed gives, and repeats bit for bit: no test is needed, only a limit. Free-running
text is not judged: from the first token that differs, near a tie by chance, it is another text.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from tandem_reports import formats
from tandem_reports.reading.records import MODEL_SUITES, Accuracy, Case
from tandem_reports.stats.cases import CaseResult, is_lossy

GROWTH = 0.1
"""How much larger than A's an error of B's may be: 1.1 times."""

NOISE: Mapping[str, float] = {"relative error": 1e-4, "KL": 1e-6, "tokens that differ": 0.005}
"""Changes up to this much are the noise of sums in another order, however large beside an error near 0.

A fifth of what fp16 rounds by, about the nats that such an error of the logits gives, and one step of 256.
"""

FORMAT_AXES = ("precision", "kv", "sparsity", "calibration", "head")
"""The axes that say what a case trades accuracy for."""


@dataclass(frozen=True)
class Finding:
    """What two accuracies say; `status` is inaccurate, not-comparable, or empty where they agree."""

    status: str = ""
    note: str = ""

    def over(self, status: str, note: str) -> tuple[str, str]:
        """Status and note of a case whose times say `status`; what is missing excuses no slow-down."""
        if self.status == "inaccurate":
            first = [self.note, "slower too" if status == "slower" else ""]
            return self.status, "; ".join(filter(None, (*first, note)))
        kept = status if status == "slower" or not self.status else self.status
        return kept, "; ".join(filter(None, (self.note, note)))


def errors(accuracy: Accuracy) -> dict[str, float | None]:
    """The errors by their name, 0 where nothing is lost; None where there is no such error."""
    agree = accuracy.tokens_agree
    return {
        "relative error": accuracy.relative_error,
        "KL": accuracy.kl,
        "tokens that differ": None if agree is None else 1 - agree,
    }


def rule(growth: float) -> str:
    """The rule in two sentences."""
    noise = ", ".join(f"{name} {value:g}" for name, value in NOISE.items())
    return (
        f"A lossy case is inaccurate where one of its errors against dense fp32 is over {1 + growth:g} times "
        f"A's and beyond it by more than noise ({noise}). "
        "Where a side does not state its accuracy, or states it on other tokens, the case is not comparable."
    )


def format_of(case: Case) -> tuple[str, ...]:
    """What the case trades accuracy for."""
    return tuple(case.text(axis) for axis in FORMAT_AXES)


def _missing(name: str, a: object, b: object) -> str:
    if a is None and b is None:
        return f"{name} stated on neither side"
    return f"{name} stated in {'A' if b is None else 'B'} alone"


def _across_formats(a: Accuracy | None, b: Accuracy | None) -> Finding:
    """Two formats compared on purpose differ in accuracy by nature: both are said, and none is judged."""
    if a is None and b is None:
        return Finding()
    values = [None if side is None else side.relative_error for side in (a, b)]
    return Finding(note="relative error {} in A, {} in B".format(*map(formats.error, values)))


def judge(a: CaseResult, b: CaseResult, growth: float = GROWTH) -> Finding:
    """Compares the accuracies of one case's two sides. Nothing to say of cases that are not lossy."""
    if a.case.suite not in MODEL_SUITES or not (is_lossy(a.case) or is_lossy(b.case)):
        return Finding()
    x, y = a.accuracy, b.accuracy
    if format_of(a.case) != format_of(b.case):
        return _across_formats(x, y)
    if x is None or y is None:
        return Finding("not-comparable", _missing("accuracy", x, y))
    if x.teacher_forced != y.teacher_forced:
        return Finding("not-comparable", f"teacher-forced in {'A' if x.teacher_forced else 'B'} alone")
    if x.tokens != y.tokens:
        counts = ["the case's own inputs" if n is None else f"{n} tokens" for n in (x.tokens, y.tokens)]
        return Finding("not-comparable", "accuracy on {} in A, on {} in B".format(*counts))
    worse, missing = [], []
    of_a, of_b = errors(x), errors(y)
    for name, noise in NOISE.items():
        first, second = of_a[name], of_b[name]
        if first is None or second is None:
            missing += [] if first is second else [_missing(name, first, second)]
        elif second > (1 + growth) * first and second - first > noise:
            worse.append(
                f"{name} {formats.significant(second, 3)} in B, {formats.significant(first, 3)} in A"
            )
    if worse:
        words = [f"over {1 + growth:g} times A's: {', '.join(worse)}"]
        words += ["synthetic weights"] if y.synthetic_weights else []
        return Finding("inaccurate", "; ".join(words))
    return Finding("not-comparable", ", ".join(missing)) if missing else Finding()
