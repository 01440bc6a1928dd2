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
from tandem_reports.reading.cards import CardModel
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
class Prediction:
    """One replica on so many cards, as the model of the records has it. Nobody measured it."""

    tp: int
    sample_us: float
    speedup: float
    """Over one card in the same model."""
    measured: Scaled | None
    """The same degree, where it was measured beside one card."""

    @property
    def time_error(self) -> float | None:
        """The model's time over the measured one, less 1: a model of rates is below."""
        return None if self.measured is None else self.sample_us / (self.measured.result.median_us or 1.0) - 1

    @property
    def speedup_error(self) -> float | None:
        """The same of the speed-up."""
        found = None if self.measured is None else self.measured.speedup
        return None if found is None else self.speedup / found - 1


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

    @property
    def model(self) -> CardModel | None:
        """The records' model: of the widest case that has one, because ranks know the rate of their links."""
        results = (*(s.result for s in reversed(self.scaled)), self.single)
        return next((record.model for r in results for record in r.ok if record.model is not None), None)

    @property
    def predictions(self) -> list[Prediction]:
        """What the model says by tensor parallelism, by cards; empty without one."""
        one = None if self.model is None else self.model.on(1)
        if self.model is None or one is None:
            return []
        measured = {s.tp: s for s in self.curve("tp") if s.speedup is not None}
        return [
            Prediction(d.tp, d.sample_us, one.sample_us / d.sample_us, measured.get(d.tp))
            for d in self.model.degrees
            if d.tp > 1
        ]


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


@dataclass(frozen=True)
class Pays:
    """One replica on `tp` cards beside one card, along an axis: where it begins to be the faster one."""

    tp: int
    axis: str
    """batch or model; models by the bytes of their weights."""
    case: Case
    points: tuple[tuple[str | int, float], ...]
    """Value and speed-up, as measured, in order; at least two."""

    @property
    def start(self) -> int | None:
        """The first point from which on every one is faster than one card; None where the last is not."""
        slower = [i for i, (_, speedup) in enumerate(self.points) if speedup <= 1]
        first = slower[-1] + 1 if slower else 0
        return first if first < len(self.points) else None


def pays(results: Sequence[CaseResult]) -> list[Pays]:
    """For every shape that was measured on one card and on several at two batches, or with two models."""
    found: dict[tuple[object, ...], list[tuple[float, str | int, float, Case]]] = {}
    for group in scaling_groups(results):
        sizes = {"batch": group.case.integer("batch"), "model": group.single.weights_bytes}
        for axis, size in sizes.items():
            rest = tuple(pair for pair in rest_of(group.case) if pair[0] != axis)
            for s in group.curve("tp"):
                if size is not None and s.speedup is not None:
                    key = (axis, s.tp, group.single.run.label, group.case.suite, rest)
                    point = (float(size), group.case.axes[axis], s.speedup, group.case)
                    found.setdefault(key, []).append(point)
    return [
        Pays(int(str(key[1])), str(key[0]), points[0][3], tuple((v, s) for _, v, s, _ in ordered))
        for key, points in found.items()
        if len(ordered := sorted(points, key=lambda point: point[0])) > 1
    ]
