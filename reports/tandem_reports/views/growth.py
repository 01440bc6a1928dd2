"""Cases of two points as a table: a line through two points is no curve."""

from __future__ import annotations

from collections.abc import Sequence

from tandem_reports import formats
from tandem_reports.stats.cases import CaseResult
from tandem_reports.views.figures.curves import AXIS_TITLES, QUANTITIES, shapes, worth_drawing
from tandem_reports.views.tables import Cell, Column, Row, Table


def _from_to(values: Sequence[float | None], show_count: bool) -> Cell:
    first, last = values
    if first is None or last is None:
        return Cell(formats.MISSING)
    show = formats.count if show_count else formats.micros
    return Cell(f"{show(first)} → {show(last)}", f"{formats.ratio(last / first)}", last / first)


def growth_table(suite: str, results: Sequence[CaseResult]) -> Table | None:
    """How times change between two batches or source lengths, where a shape has no third; else None."""
    measured = [result for result in results if result.ok]
    if suite not in QUANTITIES or not measured:
        return None
    rows = []
    for axis, title in AXIS_TITLES.items():
        for shape, lines in shapes(measured, axis).items():
            if worth_drawing(lines, axis):
                continue
            for label, line in lines.items():
                first, last = line[0], line[-1]
                ends = f"{first.case.integer(axis)} → {last.case.integer(axis)}"
                cells = [Cell(label, sort=label), Cell(shape, sort=shape), Cell(f"{title} {ends}", sort=ends)]
                for quantity in QUANTITIES[suite]:
                    pair = (quantity.read(first), quantity.read(last))
                    cells.append(_from_to(pair, quantity.floor is None))
                rows.append(Row(f"{label} {shape}", tuple(cells)))
    if not rows:
        return None
    columns = [Column(name, numeric=False) for name in ("line", "shape", "over")]
    columns += [Column(quantity.title) for quantity in QUANTITIES[suite]]
    return Table(tuple(columns), tuple(rows))
