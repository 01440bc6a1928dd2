"""Cards side by side: what tensor parallelism (tp) and replicas (dp) make of one card's case.

The denominator is the case with tp 1 and dp 1 of the same run that differs in nothing else. `batch` is a
replica's: with dp every card has as many sequences as the one card, with tp all share the sequences of one.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

from tandem_reports.gate.comparison import condition_differences
from tandem_reports.reading.records import MODEL_SUITES, Case, Record
from tandem_reports.stats.cases import CaseResult, natural_order

DEGREES = ("tp", "dp")


@dataclass(frozen=True)
class Scaled:
    """A case on several cards beside its own on one; None, the reason in `note`, where nothing compares."""

    result: CaseResult
    speedup: float | None = None
    """One card's latency over its own: above 1 only by tp."""
    throughput: float | None = None
    """Its tokens per second over one card's."""
    note: str = ""

    @property
    def tp(self) -> int:
        """Cards that share one replica's matrices."""
        return self.result.case.integer("tp")

    @property
    def dp(self) -> int:
        """Replicas."""
        return self.result.case.integer("dp")

    @property
    def cards(self) -> int:
        """Cards, or processes of an engine on the host."""
        return self.tp * self.dp

    @property
    def efficiency(self) -> float | None:
        """The share of so many cards' throughput that is reached."""
        return None if self.throughput is None else self.throughput / self.cards

    @property
    def exchange_us(self) -> float | None:
        """Exposed communication a step: what the rank that waits longest spends on the others, where told."""
        return self.result.over_workers(exchange_us)


@dataclass(frozen=True)
class ScalingGroup:
    """Cases of one run that differ in tp and dp alone, one card first."""

    single: CaseResult
    scaled: tuple[Scaled, ...]

    @property
    def case(self) -> Case:
        """The case on one card."""
        return self.single.case

    def curve(self, degree: str) -> list[Scaled]:
        """The cases in which this degree alone is over 1, by cards."""
        (other,) = (name for name in DEGREES if name != degree)
        return [s for s in self.scaled if s.result.case.integer(other) == 1 and s.cards > 1]


def steps(case: Case) -> int:
    """Generated tokens of a sequence for suite_generate; else one pass."""
    return case.integer("tgt") if case.suite == "generate" else 1


def exchange_us(record: Record) -> float | None:
    """Of one worker."""
    waits = [rank.wait_us for rank in record.ranks if rank.wait_us is not None]
    if not waits or len(waits) < len(record.ranks):
        return None
    return max(waits) / steps(record.case)


def rest_of(case: Case) -> tuple[tuple[str, str | int], ...]:
    """The axes other than the degrees, and how the ranks reduce."""
    return tuple(sorted((name, v) for name, v in case.axes.items() if name not in DEGREES))


def _scaled(result: CaseResult, single: CaseResult) -> Scaled:
    if not result.ok:
        return Scaled(result, note=result.failed[0].status)
    if not single.ok:
        return Scaled(result, note="no time on one card in this run")
    if different := condition_differences(single, result):
        return Scaled(result, note="; ".join(different))
    speedup = (single.median_us or 0.0) / (result.median_us or 1.0)
    return Scaled(result, speedup, speedup * result.case.integer("dp"))


def scaling_groups(results: Sequence[CaseResult]) -> list[ScalingGroup]:
    """The groups of model suites in which one card stands beside several, in natural order."""
    found: dict[tuple[object, ...], list[CaseResult]] = {}
    for result in results:
        if result.case.suite in MODEL_SUITES:
            key = (result.run.label, result.case.suite, rest_of(result.case))
            found.setdefault(key, []).append(result)
    groups = []
    for members in found.values():
        single = next((r for r in members if r.case.integer("tp") * r.case.integer("dp") == 1), None)
        several = [r for r in members if r is not single]
        if single is None or not any(r.ok for r in several):
            continue
        several.sort(key=lambda r: (r.case.integer("tp") * r.case.integer("dp"), r.case.integer("tp")))
        groups.append(ScalingGroup(single, tuple(_scaled(r, single) for r in several)))
    return sorted(groups, key=lambda group: natural_order(group.case))


@dataclass(frozen=True)
class Crossover:
    """So many cards, as one replica or as copies: where copies begin to give more tokens per second.

    `sequences` are those of all cards together. None: one of the two gives more over the whole range in which
    both were measured, from `low` to `high`.
    """

    cards: int
    case: Case
    low: int
    high: int
    sequences: float | None
    copies_win: bool
    """At `high`."""


def _points(results: Sequence[CaseResult], cards: int, degree: str) -> list[tuple[int, float]]:
    """(sequences of all cards, tokens per second), by sequences."""
    points = {}
    for result in results:
        case = result.case
        other = "dp" if degree == "tp" else "tp"
        if case.integer(degree) != cards or case.integer(other) != 1 or not result.tokens_per_second:
            continue
        points[case.integer("batch") * case.integer("dp")] = result.tokens_per_second
    return sorted(points.items())


def _at(points: Sequence[tuple[int, float]], x: float) -> float:
    """Along the straight lines between points, both axes in logarithms."""
    for (x0, y0), (x1, y1) in itertools.pairwise(points):
        if x0 <= x <= x1:
            t = (math.log(x) - math.log(x0)) / (math.log(x1) - math.log(x0))
            return math.exp((1 - t) * math.log(y0) + t * math.log(y1))
    return points[0][1] if x <= points[0][0] else points[-1][1]


def _crossover(results: Sequence[CaseResult], cards: int) -> Crossover | None:
    shared, copies = _points(results, cards, "tp"), _points(results, cards, "dp")
    if not shared or not copies:
        return None
    low, high = max(shared[0][0], copies[0][0]), min(shared[-1][0], copies[-1][0])
    if low > high:
        return None
    places = sorted({low, high} | {x for x, _ in (*shared, *copies) if low < x < high})
    leads = [math.log(_at(copies, x) / _at(shared, x)) for x in places]
    where = None
    for (x0, a), (x1, b) in itertools.pairwise(zip(places, leads, strict=True)):
        if a < 0 <= b:
            where = math.exp(math.log(x0) + (math.log(x1) - math.log(x0)) * a / (a - b))
    return Crossover(cards, results[0].case, low, high, where, leads[-1] >= 0)


def crossovers(results: Sequence[CaseResult]) -> list[Crossover]:
    """For every shape whose batches were measured both as one replica and as copies on as many cards."""
    found: dict[tuple[object, ...], list[CaseResult]] = {}
    for result in results:
        if result.case.suite in MODEL_SUITES and result.ok:
            rest = tuple(pair for pair in rest_of(result.case) if pair[0] != "batch")
            found.setdefault((result.run.label, result.case.suite, rest), []).append(result)
    crossings = []
    for members in found.values():
        for cards in sorted({r.case.integer("tp") for r in members} - {1}):
            crossing = _crossover(members, cards)
            if crossing is not None:
                crossings.append(crossing)
    return crossings
