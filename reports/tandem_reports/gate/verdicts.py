"""The gate: is build B slower than build A, or less accurate, and how sure is that?

Workers of the two sides are paired by their index. In a duet the two processes of a pair ran next to each
other on one card, so that drift hits both; two separate runs are paired in name only, which the output says.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from tandem_reports import formats
from tandem_reports.errors import BAD_RESULT, GOOD, NOT_ENOUGH_EVIDENCE
from tandem_reports.gate.accuracy import judge as judge_accuracy
from tandem_reports.gate.comparison import Matching, condition_differences, machine_differences
from tandem_reports.gate.policy import Policy, SuitePolicy, allowed
from tandem_reports.gate.soundness import first_fault, remarks
from tandem_reports.reading.records import Case
from tandem_reports.reading.runs import Run
from tandem_reports.stats.cases import CaseResult, natural_order
from tandem_reports.stats.paired import (
    fewest_pairs,
    holm,
    pseudo_median,
    signed_rank_greater,
    signed_rank_interval,
    spent_alpha,
    stretched,
)
from tandem_reports.stats.small_samples import Interval, median

VERDICTS = (
    "slower",
    "inaccurate",
    "failed",
    "missing",
    "unknown",
    "not-comparable",
    "faster",
    "same",
    "new",
    "allowed",
    "unmeasured",
)
BAD = ("slower", "inaccurate", "failed", "missing")
OPEN = ("unknown", "not-comparable")
MOST_PAIRS = 100
"""Pairs beyond which no forecast is given."""


@dataclass(frozen=True)
class Verdict:
    """What the gate concludes of one case. Ratio and interval are B over A; None where there is none.

    `status` is one of VERDICTS: those of a comparison, or failed, missing, new, unmeasured (on neither side)
    and allowed (missing, failed or inaccurate, but named by the policy). `more_pairs` forecasts how many more
    pairs would decide an unknown case.
    """

    case: Case
    status: str
    note: str
    pairs: int = 0
    median_a_us: float | None = None
    median_b_us: float | None = None
    ratio: float | None = None
    interval: Interval | None = None
    p_slower: float | None = None
    p_faster: float | None = None
    more_pairs: int | None = None


@dataclass(frozen=True)
class GateResult:
    """All verdicts of one gate. `alpha` is what this look could spend of the policy's."""

    a: Run
    b: Run
    verdicts: tuple[Verdict, ...]
    policy: Policy
    look: int
    looks: int
    alpha: float
    interleaved: bool
    common: int
    confirmed_by: str = ""
    policy_source: str = ""
    sweep_source: str = ""

    def count(self, *statuses: str) -> int:
        """Cases with one of some statuses."""
        return sum(1 for verdict in self.verdicts if verdict.status in statuses)

    @property
    def exit_code(self) -> int:
        """1 when anything has a status of BAD; else 4 when anything is undecided; else 0."""
        if self.count(*BAD):
            return BAD_RESULT
        return NOT_ENOUGH_EVIDENCE if self.count(*OPEN) else GOOD

    @property
    def stop(self) -> bool:
        """Whether more pairs would be of no use: nothing is unknown, or this was the last look."""
        return self.look == self.looks or not self.count("unknown")


@dataclass(frozen=True)
class _Measured:
    """A case with its pairs: the log-ratios ln(b / a) of workers with the same index."""

    case: Case
    a: CaseResult
    b: CaseResult
    logs: tuple[float, ...]
    note: str


def _pairs(a: CaseResult, b: CaseResult) -> _Measured:
    """Pairs the workers; a pair during which someone else was on the card is left out, and said."""
    left = {record.worker: record for record in a.ok}
    logs, contended = [], 0
    for record in b.ok:
        twin = left.get(record.worker)
        if twin is None or twin.summary is None or record.summary is None:
            continue
        if twin.contended or record.contended:
            contended += 1
            continue
        logs.append(math.log(record.summary.median_us / twin.summary.median_us))
    note = f"{formats.plural(contended, 'pair')} contended and left out" if contended else ""
    return _Measured(a.case, a, b, tuple(logs), "; ".join(filter(None, (note, remarks(a, b)))))


def _inside(interval: Interval | None, band: float) -> bool:
    reach = math.log1p(band)
    return interval is not None and -reach <= interval.low and interval.high <= reach


def _decides(logs: Sequence[float], rules: SuitePolicy, alpha: float, cases: int) -> bool:
    shift = math.log1p(rules.minimum_effect)
    each = alpha / cases
    if signed_rank_greater(logs, shift) <= each or signed_rank_greater([-x for x in logs], shift) <= each:
        return True
    return _inside(signed_rank_interval(logs, 1 - 2 * alpha), rules.equivalence)


def more_pairs_needed(logs: Sequence[float], rules: SuitePolicy, alpha: float, cases: int = 1) -> int | None:
    """How many more pairs like those at hand would decide one of so many cases; None beyond MOST_PAIRS."""
    if len(logs) < 2:
        return max(fewest_pairs(alpha) - len(logs), 1)
    low = max(fewest_pairs(alpha), len(logs) + 1)
    high = low
    while not _decides(stretched(logs, high), rules, alpha, cases):
        low = high + 1
        high = high + max(2, high // 4)
        if high > MOST_PAIRS:
            return None
    while low < high:
        middle = (low + high) // 2
        if _decides(stretched(logs, middle), rules, alpha, cases):
            high = middle
        else:
            low = middle + 1
    return high - len(logs)


@dataclass(frozen=True)
class Decision:
    """What the pairs of one case say; `interval` is of the log-ratio."""

    status: str
    interval: Interval | None
    p_slower: float
    p_faster: float


def decide(logs: Sequence[Sequence[float]], rules: Sequence[SuitePolicy], alpha: float) -> list[Decision]:
    """The verdicts on the log-ratios of several cases: slower, faster, same or unknown.

    Holm over the cases, for slow-downs and for speed-ups. A gate passes only where every case is the same,
    so each case is tested for that at the whole alpha: an intersection-union test (Berger 1982). Both ends
    of the band are tested at alpha, hence the interval at 1 - 2 alpha (Schuirmann 1987).
    """
    shifts = [math.log1p(rule.minimum_effect) for rule in rules]
    p_slower = [signed_rank_greater(values, shift) for values, shift in zip(logs, shifts, strict=True)]
    p_faster = [
        signed_rank_greater([-x for x in values], shift) for values, shift in zip(logs, shifts, strict=True)
    ]
    slower, faster = holm(p_slower, alpha), holm(p_faster, alpha)
    found = []
    for index, values in enumerate(logs):
        interval = signed_rank_interval(values, 1 - 2 * alpha)
        status = "unknown"
        if slower[index]:
            status = "slower"
        elif faster[index]:
            status = "faster"
        elif _inside(interval, rules[index].equivalence):
            status = "same"
        found.append(Decision(status, interval, p_slower[index], p_faster[index]))
    return found


def _judge(measured: Sequence[_Measured], policy: Policy, alpha: float, alpha_ahead: float) -> list[Verdict]:
    """The verdicts with their numbers. Forecasts are for a look that may spend `alpha_ahead`."""
    rules = [policy.of(item.case.suite) for item in measured]
    verdicts = []
    decisions = decide([item.logs for item in measured], rules, alpha)
    for item, rule, decision in zip(measured, rules, decisions, strict=True):
        note, more = item.note, None
        if decision.status == "unknown":
            more = more_pairs_needed(item.logs, rule, alpha_ahead, len(measured))
            forecast = (
                f"over {MOST_PAIRS} pairs" if more is None else f"about {formats.plural(more, 'more pair')}"
            )
            note = "; ".join(filter(None, (f"{forecast} would decide", note)))
        ratio = math.exp(pseudo_median(item.logs)) if item.logs else None
        shown = None
        if decision.interval is not None:
            low, high = decision.interval.low, decision.interval.high
            shown = Interval(math.exp(low), math.exp(high), decision.interval.coverage)
        verdicts.append(
            Verdict(
                item.case, decision.status, note, len(item.logs), median(item.a.medians),
                median(item.b.medians), ratio, shown, decision.p_slower, decision.p_faster, more,
            )
        )  # fmt: skip
    return verdicts


def blocking_differences(a: Run, b: Run, policy: Policy) -> list[str]:
    """Differences between the machines that the policy does not allow."""
    permitted = set()
    if policy.cards in ("same-model", "any"):
        permitted.add("card")
    if policy.cards == "any":
        permitted.add("model")
    if policy.drivers == "any":
        permitted.add("driver")
    if policy.clocks == "any":
        permitted.add("clocks")
    found = machine_differences(a.environment, b.environment)
    return [difference.text for difference in found if difference.kind not in permitted]


def _without_numbers(
    case: Case, a: CaseResult | None, b: CaseResult | None, rules: SuitePolicy
) -> Verdict | None:
    """The verdict on a case that cannot be measured on both sides; None where neither side has anything."""
    a_ok = a is not None and bool(a.ok)
    failures = [record for record in b.failed if record.status != "skipped"] if b is not None else []
    # A failure in A excuses the same one in B, no other.
    before = {(record.status, record.reason) for record in a.failed} if a is not None else set()
    new = [record for record in failures if (record.status, record.reason) not in before]
    if new:
        record = new[0]
        note = f"{record.status} in B: {record.reason or 'no reason in the record'}"
        return Verdict(case, "allowed" if allowed(rules.allow_failed, case.name) else "failed", note)
    if a_ok and (b is None or not b.ok):
        skips = [record.reason for record in b.failed if record.status == "skipped"] if b is not None else []
        note = "not in B" if b is None else f"not measured in B: {skips[0] if skips else 'as in A'}"
        return Verdict(case, "allowed" if allowed(rules.allow_missing, case.name) else "missing", note)
    if b is not None and b.ok and not a_ok:
        return Verdict(case, "new", "not measured in A")
    if a_ok and b is not None and b.ok:
        return None
    reasons = [
        record.reason for side in (a, b) if side is not None for record in side.failed if record.reason
    ]
    return Verdict(case, "unmeasured", reasons[0] if reasons else "measured on neither side")


def _with_accuracy(verdict: Verdict, a: CaseResult, b: CaseResult, rules: SuitePolicy) -> Verdict:
    """The verdict on the times, with what the accuracies of a lossy case say."""
    finding = judge_accuracy(a, b, rules.accuracy_growth)
    status, note = finding.over(verdict.status, verdict.note)
    if status == "not-comparable":
        return Verdict(verdict.case, status, note)
    if (
        status == "inaccurate"
        and verdict.status not in BAD
        and allowed(rules.allow_failed, verdict.case.name)
    ):
        status = "allowed"
    return replace(verdict, status=status, note=note)


def gate(
    a: Run,
    b: Run,
    policy: Policy,
    *,
    look: int = 1,
    looks: int = 1,
    interleaved: bool = False,
    ignore: tuple[str, ...] = (),
) -> GateResult:
    """Judges every case of two runs, matched by their ids, or by their axes without those of `ignore`."""
    matching = Matching(ignore=ignore)
    left, right = matching.select(a, ""), matching.select(b, "")
    blocking = blocking_differences(a, b, policy)
    alpha = spent_alpha(policy.alpha, look, looks)
    alpha_ahead = spent_alpha(policy.alpha, look + 1, looks) if look < looks else alpha
    verdicts: list[Verdict] = []
    measured: list[_Measured] = []
    for key in left.keys() | right.keys():
        first, second = left.get(key), right.get(key)
        case = (first or right[key]).case
        special = _without_numbers(case, first, second, policy.of(case.suite))
        if special is not None:
            verdicts.append(special)
        elif first is not None and second is not None and first.ok and second.ok:
            different = condition_differences(first, second)
            unsound = first_fault(first), first_fault(second)
            if unsound[1] and not unsound[0]:
                rules = policy.of(case.suite)
                status = "allowed" if allowed(rules.allow_failed, case.name) else "failed"
                verdicts.append(Verdict(case, status, f"in B {unsound[1]}"))
            elif unsound[0]:
                verdicts.append(Verdict(case, "not-comparable", f"in A {unsound[0]}"))
            elif blocking:
                verdicts.append(Verdict(case, "not-comparable", "; ".join((*blocking, *different))))
            elif different:
                verdict = Verdict(case, "not-comparable", "; ".join(different))
                verdicts.append(_with_accuracy(verdict, first, second, policy.of(case.suite)))
            else:
                measured.append(_pairs(first, second))
    measured.sort(key=lambda item: natural_order(item.case))
    judged = _judge(measured, policy, alpha, alpha_ahead)
    verdicts += [
        _with_accuracy(verdict, item.a, item.b, policy.of(item.case.suite))
        for verdict, item in zip(judged, measured, strict=True)
    ]
    verdicts.sort(key=lambda verdict: natural_order(verdict.case))
    return GateResult(
        a, b, tuple(verdicts), policy, look, looks, alpha, interleaved, len(left.keys() & right.keys())
    )


def confirm(result: GateResult, second: GateResult) -> GateResult:
    """Keeps a slower verdict only where a second session finds it too; else it is unknown.

    The second session's family are the cases to be confirmed alone, at the alpha of its own last look.
    """
    p_of = {verdict.case.id: verdict.p_slower for verdict in second.verdicts}
    flagged = [verdict for verdict in result.verdicts if verdict.status == "slower"]
    p_values = [1.0 if p_of.get(v.case.id) is None else float(p_of[v.case.id] or 0.0) for v in flagged]
    kept = dict(zip([v.case.id for v in flagged], holm(p_values, second.alpha), strict=True))
    verdicts = []
    for verdict in result.verdicts:
        if verdict.status == "slower":
            words = (
                "confirmed in a second run" if kept[verdict.case.id] else "slower here, not in the second run"
            )
            status = "slower" if kept[verdict.case.id] else "unknown"
            verdict = replace(verdict, status=status, note="; ".join(filter(None, (words, verdict.note))))
        verdicts.append(verdict)
    return replace(result, verdicts=tuple(verdicts), confirmed_by=second.b.label)


def unconfirmed(result: GateResult) -> GateResult:
    """Where the policy wants a second run and there is none, slower is not yet a verdict."""
    note = "slower; the policy wants a second run (--confirm)"
    verdicts = [
        replace(v, status="unknown", note="; ".join(filter(None, (note, v.note))))
        if v.status == "slower"
        else v
        for v in result.verdicts
    ]
    return replace(result, verdicts=tuple(verdicts))
