"""Two runs side by side: what can be said of each case that both measured.

The runs were made one after the other, so that workers are not paired and drift between the runs is not in
the intervals. Only interleaved pairs remove it; this module says no more than it can.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tandem_reports import formats
from tandem_reports.errors import ReportError
from tandem_reports.gate.accuracy import Finding
from tandem_reports.gate.accuracy import judge as judge_accuracy
from tandem_reports.reading.environment import Environment
from tandem_reports.reading.records import Case, Record
from tandem_reports.reading.runs import Run
from tandem_reports.stats.cases import CaseResult, collect, natural_order
from tandem_reports.stats.small_samples import (
    MIN_WORKERS,
    Interval,
    benjamini_hochberg,
    mann_whitney_greater,
    ratio_interval,
)

STATUSES = ("slower", "inaccurate", "faster", "unknown", "not-comparable", "same")
FALSE_CALL_RATE = 0.05
"""Expected share of false calls among the cases called faster or slower."""


@dataclass(frozen=True)
class Rules:
    """When a difference counts. Both are fractions."""

    minimum_effect: float = 0.005
    equivalence: float = 0.01
    any_machine: bool = False


@dataclass(frozen=True)
class Pair:
    """One case that both runs measured. Ratio and interval are B over A; None where there is none."""

    case: Case
    a: CaseResult
    b: CaseResult
    ratio: float | None
    interval: Interval | None
    status: str
    note: str


@dataclass(frozen=True)
class Lost:
    """A case that only one side measured: what the other side has instead, and why."""

    case: Case
    what: str
    reason: str

    @property
    def text(self) -> str:
        """Both in one."""
        return f"{self.what}: {self.reason}" if self.reason else self.what


@dataclass(frozen=True)
class Comparison:
    """Two runs. `lost` are A's cases without a number in B, `gained` B's without one in A."""

    a: Run
    b: Run
    pairs: tuple[Pair, ...]
    lost: tuple[Lost, ...]
    gained: tuple[Lost, ...]
    common: int
    """Cases that both runs hold, measured or not."""

    def count(self, status: str) -> int:
        """Pairs with a status."""
        return sum(1 for pair in self.pairs if pair.status == status)


@dataclass(frozen=True)
class Difference:
    """One way in which two machines differ; a gate's policy may allow a kind."""

    kind: str
    text: str


def machine_differences(a: Environment, b: Environment) -> list[Difference]:
    """Why times of the two environments cannot be told from a change of the machine; empty where they can.

    The cards are those in use: two runs on two cards of one machine differ.

    Kinds: device (card or none), build (type), cpu, model (of the card), card (another of the same model),
    driver, clocks (policy and power limit), setting (ECC, MIG).
    """
    found = []
    if bool(a.used) != bool(b.used):
        return [Difference("device", "one run used a card and the other did not")]
    if a.build_type != b.build_type:
        found.append(Difference("build", f"another build type: {a.build_type} and {b.build_type}"))
    if not a.used:
        for name, x, y in (("CPU", a.cpu, b.cpu), ("number of cores", a.cores, b.cores)):
            if x != y:
                found.append(Difference("cpu", f"another {name}: {x} and {y}"))
        return found
    models = ([card.name for card in a.used], [card.name for card in b.used])
    if models[0] != models[1]:
        found.append(Difference("model", f"another card: {', '.join(models[0])} and {', '.join(models[1])}"))
    elif sorted(card.uuid for card in a.used) != sorted(card.uuid for card in b.used):
        found.append(Difference("card", "another card of the same model"))
    drivers = (a.software.get("driver"), b.software.get("driver"))
    if drivers[0] != drivers[1]:
        found.append(Difference("driver", f"another driver: {drivers[0]} and {drivers[1]}"))
    for kind, field, words in (
        ("clocks", "clock_policy", "clock policy"),
        ("clocks", "power_limit_w", "power limit"),
        ("setting", "ecc", "ECC setting"),
        ("setting", "mig", "MIG setting"),
    ):
        x, y = getattr(a.used[0], field), getattr(b.used[0], field)
        if x != y:
            found.append(Difference(kind, f"another {words}: {x} and {y}"))
    return found


def condition_differences(a: CaseResult, b: CaseResult) -> list[str]:
    """Conditions of the measurement itself that differ.

    Whether a replay fits in L2 follows from the case and is no condition; whether L2 was emptied is one.
    """
    found = []
    readers: dict[str, Callable[[Record], str | None]] = {
        "regime": lambda record: record.regime,
        "L2 state": lambda record: "in_situ" if record.l2 == "resident" else record.l2,
    }
    for words, read in readers.items():
        x = {value for value in map(read, a.ok) if value is not None}
        y = {value for value in map(read, b.ok) if value is not None}
        if x and y and x != y:
            found.append(f"another {words}: {', '.join(sorted(x))} and {', '.join(sorted(y))}")
    return found


def workers_needed(cases: int) -> int:
    """Workers a side with which a single case, its workers all apart, is called among so many cases."""
    workers = MIN_WORKERS
    while 1 / math.comb(2 * workers, workers) > FALSE_CALL_RATE / max(cases, 1):
        workers += 1
    return workers


def _contended(a: CaseResult, b: CaseResult) -> str:
    sides = [name for name, side in (("A", a), ("B", b)) if any(r.contended for r in side.ok)]
    return f"contended in {' and '.join(sides)}" if sides else ""


def _throttled(a: CaseResult, b: CaseResult) -> str:
    sides = [name for name, side in (("A", a), ("B", b)) if any(r.throttled for r in side.ok)]
    return f"throttled in {' and '.join(sides)}" if sides else ""


def _judge(
    pairs: Sequence[tuple[CaseResult, CaseResult]], rules: Rules, machine: Sequence[str]
) -> list[Pair]:
    usable = []
    for a, b in pairs:
        enough = min(len(a.ok), len(b.ok)) >= MIN_WORKERS
        usable.append(enough and not condition_differences(a, b) and (rules.any_machine or not machine))
    up = 1 + rules.minimum_effect
    judged = [pair for pair, use in zip(pairs, usable, strict=True) if use]
    p_slower = [mann_whitney_greater(a.medians, b.medians, up) for a, b in judged]
    p_faster = [mann_whitney_greater(b.medians, a.medians, up) for a, b in judged]
    calls = {
        id(pair): "slower" if slower else "faster" if faster else ""
        for pair, slower, faster in zip(
            judged,
            benjamini_hochberg(p_slower, FALSE_CALL_RATE),
            benjamini_hochberg(p_faster, FALSE_CALL_RATE),
            strict=True,
        )
    }
    found = []
    for pair, use in zip(pairs, usable, strict=True):
        a, b = pair
        blocking = [] if rules.any_machine else machine
        different = [*blocking, *condition_differences(a, b)]
        accuracy = Finding() if blocking else judge_accuracy(a, b)
        case = a.case
        if different:
            status, note = accuracy.over("not-comparable", "; ".join(different))
            found.append(Pair(case, a, b, None, None, status, note))
            continue
        ratio = (b.median_us or 0.0) / (a.median_us or 1.0)
        notes = [_throttled(a, b)]
        interval = ratio_interval(a.medians, b.medians) if use else None
        status = "unknown"
        if not use:
            notes.insert(0, f"{len(a.ok)} + {len(b.ok)} workers; {MIN_WORKERS} a side are needed")
        elif _contended(a, b):
            notes.insert(0, _contended(a, b))
        elif calls[id(pair)]:
            status = calls[id(pair)]
        elif interval is not None:
            band = 1 + rules.equivalence
            if 1 / band <= interval.low and interval.high <= band:
                status = "same"
            elif max(a.medians) * up < min(b.medians) or max(b.medians) * up < min(a.medians):
                needed = workers_needed(len(judged))
                notes.insert(0, f"apart, but among {len(judged)} cases that takes {needed} workers a side")
        status, note = accuracy.over(status, "; ".join(filter(None, notes)))
        if status == "not-comparable":
            found.append(Pair(case, a, b, None, None, status, note))
        else:
            found.append(Pair(case, a, b, ratio, interval, status, note))
    return found


def _lost(case: Case, other: CaseResult | None) -> Lost:
    if other is None:
        return Lost(case, "missing", "")
    record = other.failed[0]
    return Lost(case, record.status, record.reason or "no reason in the record")


@dataclass(frozen=True)
class Matching:
    """Which cases of two runs belong together.

    Cases match in their suite and all axes but those of `ignore`; patterns choose cases of A and B by name.
    """

    ignore: tuple[str, ...] = ()
    only_a: str = ""
    only_b: str = ""

    def key(self, case: Case) -> tuple[object, ...]:
        """What matching cases have in common; the id where nothing is ignored."""
        if not self.ignore:
            return (case.id,)
        axes = sorted((name, value) for name, value in case.axes.items() if name not in self.ignore)
        return (case.suite, *axes)

    def select(self, run: Run, pattern: str) -> dict[tuple[object, ...], CaseResult]:
        """A run's cases by their key. Raises ReportError where two cases have the same."""
        found: dict[tuple[object, ...], CaseResult] = {}
        for result in collect([run]):
            if pattern and re.search(pattern, result.case.name) is None:
                continue
            key = self.key(result.case)
            if key in found:
                twins = f"{found[key].case.name} and {result.case.name}"
                without = f"{run.path}: without {', '.join(self.ignore)}"
                raise ReportError(
                    f"{without}, {twins} are the same case; choose one with --only-a or --only-b"
                )
            found[key] = result
        return found


def compare(a: Run, b: Run, rules: Rules, matching: Matching | None = None) -> Comparison:
    """Compares two runs case by case."""
    matching = matching or Matching()
    left, right = matching.select(a, matching.only_a), matching.select(b, matching.only_b)
    shared = sorted(left.keys() & right.keys(), key=lambda key: natural_order(left[key].case))
    pairs = [(left[key], right[key]) for key in shared if left[key].ok and right[key].ok]
    paired = {matching.key(first.case) for first, _ in pairs}
    machine = [difference.text for difference in machine_differences(a.environment, b.environment)]
    return Comparison(
        a=a,
        b=b,
        pairs=tuple(_judge(pairs, rules, machine)),
        lost=tuple(_lost(r.case, right.get(key)) for key, r in left.items() if r.ok and key not in paired),
        gained=tuple(_lost(r.case, left.get(key)) for key, r in right.items() if r.ok and key not in paired),
        common=len(shared),
    )


def interval_text(interval: Interval | None) -> str:
    """An interval of a ratio."""
    if interval is None:
        return formats.MISSING
    return f"{interval.low:.4f} – {interval.high:.4f}"
