"""Cases over many runs: their history on one machine, and where it steps."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

from tandem_reports.gate.comparison import condition_differences, machine_differences
from tandem_reports.reading.records import Case
from tandem_reports.reading.runs import Run
from tandem_reports.stats.cases import CaseResult, collect, natural_order
from tandem_reports.stats.changepoints import Segment, segments
from tandem_reports.stats.small_samples import median


@dataclass(frozen=True)
class Step:
    """One change of level: `index` is the first run of the new one, `ratio` new level over old."""

    index: int
    before_us: float
    after_us: float
    before_mhz: float | None = None
    after_mhz: float | None = None

    @property
    def cycles(self) -> float | None:
        """New level over old in cycles, where the clock moved with the step by a third of it or more."""
        if self.before_mhz is None or self.after_mhz is None:
            return None
        clock = math.log(self.after_mhz / self.before_mhz)
        return self.ratio * math.exp(clock) if -clock / math.log(self.ratio) > 1 / 3 else None

    @property
    def ratio(self) -> float:
        """New level over old."""
        return self.after_us / self.before_us


@dataclass(frozen=True)
class History:
    """One case over the runs that can be compared with the last one that measured it."""

    case: Case
    results: tuple[CaseResult, ...]
    medians: tuple[float, ...]
    """The case's median in every run, in microseconds."""
    left_out: int
    levels: tuple[Segment, ...]

    @property
    def steps(self) -> list[Step]:
        """The changes of level, oldest first."""
        return [
            Step(new.first, old.level, new.level, self._clock(old), self._clock(new))
            for old, new in itertools.pairwise(self.levels)
        ]

    @property
    def overall(self) -> float:
        """The last run's median over the first one's, as compare has it for these two runs."""
        return self.medians[-1] / self.medians[0]

    def _clock(self, level: Segment) -> float | None:
        """Median clock of the runs at a level, in MHz; None where one does not say."""
        found = [
            result.over_workers(lambda record: record.sm_mhz_median)
            for result in self.results[level.first : level.last]
        ]
        known = [clock for clock in found if clock is not None]
        return median(known) if len(known) == len(found) else None


def slower_steps(found: Sequence[History], newest: int | None) -> int:
    """Steps to a slower level, in all runs or in each history's newest ones."""
    return sum(
        1
        for history in found
        for step in history.steps
        if step.ratio > 1 and (newest is None or step.index >= len(history.results) - newest)
    )


def in_order(runs: Sequence[Run]) -> list[Run]:
    """Runs by the time they were made."""
    return sorted(runs, key=lambda run: (run.environment.created, run.label))


def histories(runs: Sequence[Run], minimum_effect: float) -> list[History]:
    """The history of every case that at least two comparable runs measured, in natural order."""
    by_case: dict[str, list[tuple[CaseResult, float]]] = {}
    for run in in_order(runs):
        for result in collect([run]):
            if result.median_us is not None:
                by_case.setdefault(result.case.id, []).append((result, result.median_us))
    parts = []
    for results in by_case.values():
        last, _ = results[-1]
        kept = [
            (result, middle)
            for result, middle in results
            if not machine_differences(result.run.environment, last.run.environment)
            and not condition_differences(result, last)
        ]
        if len(kept) > 1:
            parts.append((kept, len(results) - len(kept)))
    levels = segments([[middle for _, middle in kept] for kept, _ in parts], minimum_effect)
    found = [
        History(
            case=kept[-1][0].case,
            results=tuple(result for result, _ in kept),
            medians=tuple(middle for _, middle in kept),
            left_out=left_out,
            levels=tuple(level),
        )
        for (kept, left_out), level in zip(parts, levels, strict=True)
    ]
    found.sort(key=lambda history: natural_order(history.case))
    return found
