"""What removing single weights buys: the speed-up over dense, by the fraction of the weights that is kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tandem_reports.gate.precisions import BF16, Format, FormatGroup, rest_of
from tandem_reports.reading.records import Case

FRACTIONS = ("unstructured", "threshold")
"""The patterns whose fraction can be any."""


@dataclass(frozen=True)
class Point:
    """One pruned case beside its dense twin."""

    kept: float
    pattern: str  # "2:4" or one of FRACTIONS
    format: Format
    stored: float | None
    """Its counted bytes over the dense twin's: masks and metadata cost too."""


@dataclass(frozen=True)
class Line:
    """The pruned cases of one dense case, by rising fraction."""

    group: FormatGroup
    points: tuple[Point, ...]

    @property
    def batch(self) -> int:
        """Rows of its products, in suite_kernels."""
        return self.group.case.integer("batch")


def pattern_of(case: Case) -> str | None:
    """How single weights of the case were chosen; None where none, or more than that, was removed."""
    name = case.text("sparsity").partition(":")[0]
    alone = all(case.text(axis) == value for axis, value in BF16.items() if axis != "sparsity")
    if not alone or "+" in case.text("sparsity"):
        return None
    return {"2": "2:4"}.get(name, name if name in FRACTIONS else None)


def _kept(found: Format, pattern: str) -> float | None:
    counted = found.result.over_workers(lambda record: record.fraction_kept)
    if counted is not None or pattern == "threshold":
        return counted
    return 0.5 if pattern == "2:4" else 1 - float(found.result.case.text("sparsity").partition(":")[2])


def _points(group: FormatGroup) -> list[Point]:
    found = []
    for one in group.formats:
        pattern = pattern_of(one.result.case)
        kept = None if pattern is None else _kept(one, pattern)
        if pattern is None or kept is None or one.speedup is None:
            continue
        dense = None if group.baseline is None else group.baseline.bytes
        own = one.result.bytes
        found.append(Point(kept, pattern, one, own / dense if own and dense else None))
    return sorted(found, key=lambda point: (point.kept, point.pattern))


def panels(groups: Sequence[FormatGroup]) -> list[list[Line]]:
    """Lines that differ in their batch alone, smallest first, for each shape with two fractions or more."""
    found: dict[tuple[object, ...], list[Line]] = {}
    for group in groups:
        points = _points(group)
        if points:
            key = (group.run_label, group.case.suite, rest_of(group.case, "batch"))
            found.setdefault(key, []).append(Line(group, tuple(points)))
    every = []
    for lines in found.values():
        if len({point.kept for line in lines for point in line.points}) > 1:
            every.append(sorted(lines, key=lambda line: line.batch))
    return every
