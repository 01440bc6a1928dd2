"""Cases over many runs: their history on one machine, and where it steps."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from tandem_reports.gate.comparison import condition_differences, machine_differences
from tandem_reports.reading.records import Case
from tandem_reports.reading.runs import Run
from tandem_reports.stats.cases import CaseResult, collect, natural_order
from tandem_reports.stats.changepoints import Segment, segments


@dataclass(frozen=True)
class Step:
    """One change of level: `index` is the first run of the new one, `ratio` new level over old."""

    index: int
    before_us: float
    after_us: float

    @property
    def ratio(self) -> float:
        """New level over old."""
        return self.after_us / self.before_us


@dataclass(frozen=True)
class History:
    """One case over the runs that can be compared with the last one that measured it."""

    case: Case
    results: tuple[CaseResult, ...]
    left_out: int
    levels: tuple[Segment, ...]

    @property
    def medians(self) -> list[float]:
        """The case's median in every run, in microseconds."""
        return [result.median_us or 0.0 for result in self.results]

    @property
    def steps(self) -> list[Step]:
        """The changes of level, oldest first."""
        return [Step(new.first, old.level, new.level) for old, new in itertools.pairwise(self.levels)]

    @property
    def overall(self) -> float:
        """Last level over first."""
        return self.levels[-1].level / self.levels[0].level


def in_order(runs: Sequence[Run]) -> list[Run]:
    """Runs by the time they were made."""
    return sorted(runs, key=lambda run: (run.environment.created, run.label))


def histories(runs: Sequence[Run], minimum_effect: float) -> list[History]:
    """The history of every case that at least two comparable runs measured, in natural order."""
    by_case: dict[str, list[CaseResult]] = {}
    for run in in_order(runs):
        for result in collect([run]):
            if result.ok:
                by_case.setdefault(result.case.id, []).append(result)
    found = []
    for results in by_case.values():
        last = results[-1]
        kept = [
            result
            for result in results
            if not machine_differences(result.run.environment, last.run.environment)
            and not condition_differences(result, last)
        ]
        if len(kept) > 1:
            levels = segments([result.median_us or 0.0 for result in kept], minimum_effect)
            found.append(History(last.case, tuple(kept), len(results) - len(kept), tuple(levels)))
    found.sort(key=lambda history: natural_order(history.case))
    return found
