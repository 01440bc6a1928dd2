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
from tandem_reports.gate.deciding import Evidence, Shares, SuiteDecision, decide, shares
from tandem_reports.gate.forecast import MOST_PAIRS, forecast, smallest_effect, spread
from tandem_reports.gate.order import OrderEffect, order_effects
from tandem_reports.gate.policy import Policy, SuitePolicy, allowed
from tandem_reports.gate.soundness import first_fault, remarks
from tandem_reports.reading.duet import Group, Look
from tandem_reports.reading.records import Case
from tandem_reports.reading.runs import Run
from tandem_reports.stats.cases import CaseResult, natural_order
from tandem_reports.stats.paired import holm, pseudo_median
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


@dataclass(frozen=True)
class Verdict:
    """What the gate concludes of one case. Ratio and interval are B over A; None where there is none.

    `status` is one of VERDICTS: those of a comparison, or failed, missing, new, unmeasured (on neither side)
    and allowed (missing, failed or inaccurate, but named by the policy). `look` is the one that decided a
    case by its times, 0 where none has. `more_pairs` forecasts how many more pairs would decide an unknown
    case; `spread` is the noise of one process and `shows` the smallest slow-down that 13 pairs with it find,
    both fractions.
    """

    case: Case
    status: str
    note: str
    pairs: int = 0
    look: int = 0
    median_a_us: float | None = None
    median_b_us: float | None = None
    ratio: float | None = None
    interval: Interval | None = None
    p_slower: float | None = None
    p_faster: float | None = None
    more_pairs: int | None = None
    spread: float | None = None
    shows: float | None = None


@dataclass(frozen=True)
class SuiteVerdict:
    """The mean over the cases of a suite, B over A, and whether it is slower than the minimum effect."""

    suite: str
    cases: int
    pairs: int
    status: str
    ratio: float | None
    interval: Interval | None
    p_slower: float
    note: str = ""


@dataclass(frozen=True)
class GateResult:
    """All verdicts of one gate. `taken` are the looks it stands on, `spent` what the last one could spend."""

    a: Run
    b: Run
    verdicts: tuple[Verdict, ...]
    suites: tuple[SuiteVerdict, ...]
    policy: Policy
    taken: tuple[Look, ...]
    spent: Shares
    interleaved: bool
    common: int
    orders: tuple[OrderEffect, ...] = ()
    confirmed_by: str = ""
    policy_source: str = ""
    sweep_source: str = ""

    @property
    def look(self) -> int:
        """The number of the last look, 0 before the first."""
        return self.taken[-1].number if self.taken else 0

    @property
    def looks(self) -> int:
        """How many looks there are to be at most."""
        return self.taken[-1].of if self.taken else 0

    def count(self, *statuses: str) -> int:
        """Cases with one of some statuses."""
        return sum(1 for verdict in self.verdicts if verdict.status in statuses)

    @property
    def exit_code(self) -> int:
        """1 when anything has a status of BAD; else 4 when anything is undecided; else 0."""
        statuses = {verdict.status for verdict in self.verdicts} | {item.status for item in self.suites}
        if statuses & set(BAD):
            return BAD_RESULT
        return NOT_ENOUGH_EVIDENCE if statuses & set(OPEN) else GOOD

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
    evidence: Evidence
    note: str


def paired_logs(a: CaseResult, b: CaseResult) -> tuple[dict[int, float], int]:
    """ln(b / a) of the workers of one index, and how many pairs someone else on the card spoilt."""
    left = {record.worker: record for record in a.ok}
    logs: dict[int, float] = {}
    contended = 0
    for record in b.ok:
        twin = left.get(record.worker)
        if twin is None or twin.summary is None or record.summary is None:
            continue
        if twin.contended or record.contended:
            contended += 1
            continue
        logs[record.worker] = math.log(record.summary.median_us / twin.summary.median_us)
    return logs, contended


def _pairs(a: CaseResult, b: CaseResult, rules: SuitePolicy) -> _Measured:
    """Pairs the workers; that some are left out is said."""
    logs, contended = paired_logs(a, b)
    note = f"{formats.plural(contended, 'pair')} contended and left out" if contended else ""
    pairs = tuple(sorted(logs))
    evidence = Evidence(a.case.suite, rules, pairs, tuple(logs[pair] for pair in pairs))
    return _Measured(a.case, a, b, evidence, "; ".join(filter(None, (note, remarks(a, b)))))


def _noted(words: str, note: str) -> str:
    return "; ".join(filter(None, (words, note)))


def _forecast_words(more: int | None, pair_s: float | None) -> str:
    if more is None:
        return f"over {MOST_PAIRS} pairs"
    words = f"about {formats.plural(more, 'more pair')}"
    if pair_s is None:
        return words
    # Pairs get shorter as cases leave.
    seconds = more * pair_s
    return (
        f"{words} (at most {seconds:.0f} s)" if seconds < 99 else f"{words} (at most {seconds / 60:.0f} min)"
    )


def _ratios(interval: Interval | None) -> Interval | None:
    """The interval of a ratio, from that of its logarithm."""
    if interval is None:
        return None
    return Interval(math.exp(interval.low), math.exp(interval.high), interval.coverage)


def _judge(
    measured: Sequence[_Measured], policy: Policy, looks: Sequence[Look], pair_s: float | None
) -> tuple[list[Verdict], list[SuiteVerdict]]:
    """The verdicts with their numbers."""
    last = looks[-1] if looks else Look(0, 2)
    verdicts = []
    decisions, means = decide([item.evidence for item in measured], policy.alpha, looks)
    for item, decision in zip(measured, decisions, strict=True):
        note, more = item.note, None
        if decision.status == "unknown":
            more = forecast(decision.logs, item.evidence.rules, policy.alpha, last, len(measured))
            note = _noted(f"{_forecast_words(more, pair_s)} would decide", note)
        ratio = math.exp(pseudo_median(decision.logs)) if decision.logs else None
        verdicts.append(
            Verdict(
                item.case, decision.status, note, len(decision.logs), decision.look, median(item.a.medians),
                median(item.b.medians), ratio, _ratios(decision.interval), decision.p_slower,
                decision.p_faster, more, spread(item.evidence.logs),
                smallest_effect(item.evidence.logs, item.evidence.rules, policy.alpha, len(measured)),
            )
        )  # fmt: skip
    return verdicts, [_suite(mean) for mean in means]


def _suite(mean: SuiteDecision) -> SuiteVerdict:
    """`measured` says that a mean was taken and is no verdict: a suite has one only where it is slower."""
    ratio = math.exp(pseudo_median(mean.logs)) if mean.logs else None
    status = "slower" if mean.slower else "measured"
    interval = _ratios(mean.interval)
    return SuiteVerdict(mean.suite, mean.cases, len(mean.logs), status, ratio, interval, mean.p_slower)


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
    looks: Sequence[Look] = (Look(1, 1),),
    interleaved: bool = False,
    ignore: tuple[str, ...] = (),
    pair_s: float | None = None,
    groups: Sequence[Group] = (),
) -> GateResult:
    """Judges every case of two runs, matched by their ids, or by their axes without those of `ignore`.

    `looks` are all that were taken at the data, this one last: cases may have left at earlier ones. `pair_s`
    is what a pair takes, for forecasts; `groups` are the cases that share a process, with who went first.
    """
    matching = Matching(ignore=ignore)
    left, right = matching.select(a, ""), matching.select(b, "")
    blocking = blocking_differences(a, b, policy)
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
                measured.append(_pairs(first, second, policy.of(case.suite)))
    measured.sort(key=lambda item: natural_order(item.case))
    judged, suites = _judge(measured, policy, looks, pair_s)
    verdicts += [
        _with_accuracy(verdict, item.a, item.b, policy.of(item.case.suite))
        for verdict, item in zip(judged, measured, strict=True)
    ]
    verdicts.sort(key=lambda verdict: natural_order(verdict.case))
    spent = shares(policy.alpha, looks[-1]) if looks else Shares(0.0, 0.0, 0.0)
    common = len(left.keys() & right.keys())
    orders = tuple(order_effects(groups, {item.case.id: item.evidence for item in measured}))
    return GateResult(
        a, b, tuple(verdicts), tuple(suites), policy, tuple(looks), spent, interleaved, common, orders
    )


def confirm(result: GateResult, second: GateResult) -> GateResult:
    """Keeps a slower verdict, of a case or of a suite's mean, only where a second session finds it too.

    Else it is unknown. The second session's family are the cases to be confirmed alone, at what its own last
    look could spend.
    """
    p_of = {
        verdict.case.id: 0.0 if verdict.status == "slower" else verdict.p_slower
        for verdict in second.verdicts
    }
    flagged = [verdict.case.id for verdict in result.verdicts if verdict.status == "slower"]
    p_values = [1.0 if (p := p_of.get(case_id)) is None else p for case_id in flagged]
    kept = {
        case_id for case_id, found in zip(flagged, holm(p_values, second.spent.change), strict=True) if found
    }
    slow_suites = {item.suite for item in second.suites if item.status == "slower"}

    def words(again: bool) -> str:
        return "confirmed in a second run" if again else "slower here, not in the second run"

    verdicts = [
        replace(
            verdict,
            status="slower" if verdict.case.id in kept else "unknown",
            note=_noted(words(verdict.case.id in kept), verdict.note),
        )
        if verdict.status == "slower"
        else verdict
        for verdict in result.verdicts
    ]
    suites = [
        replace(
            item,
            status="slower" if item.suite in slow_suites else "unknown",
            note=words(item.suite in slow_suites),
        )
        if item.status == "slower"
        else item
        for item in result.suites
    ]
    return replace(result, verdicts=tuple(verdicts), suites=tuple(suites), confirmed_by=second.b.label)


def unconfirmed(result: GateResult) -> GateResult:
    """Where the policy wants a second run and there is none, slower is not yet a verdict."""
    note = "slower; the policy wants a second run (--confirm)"
    verdicts = [
        replace(v, status="unknown", note=_noted(note, v.note)) if v.status == "slower" else v
        for v in result.verdicts
    ]
    suites = [
        replace(item, status="unknown", note=note) if item.status == "slower" else item
        for item in result.suites
    ]
    return replace(result, verdicts=tuple(verdicts), suites=tuple(suites))
