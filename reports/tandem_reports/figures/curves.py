"""Latency and throughput over batch and source length: a panel a model, a line a precision and engine."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from tandem_reports.cases import CaseResult
from tandem_reports.figures.style import (
    INK,
    MARKERS,
    MUTED,
    PALETTE,
    Picture,
    canvas,
    legend,
    log_ticks,
    picture,
    styled,
    value_ticks,
)
from tandem_reports.labels import axis_names, short_name, split_axes

LEGEND_COLUMNS = 4
ROW_HEIGHT = 2.7
ROWS_PER_FIGURE = 5
MAX_ROWS = 10
"""Rows of panels drawn for one suite and axis; the caption says how many more there are."""

AXIS_TITLES = {"batch": "batch", "src": "source length (tokens)"}


@dataclass(frozen=True)
class Quantity:
    """One column of panels."""

    title: str
    read: Callable[[CaseResult], float | None]
    floor: Callable[[CaseResult], float | None] | None


LATENCY = Quantity("latency (µs)", lambda r: r.median_us, lambda r: r.floor_us)
STEP = Quantity("mean decode step (µs)", lambda r: r.step_us, lambda r: r.step_floor_us)
THROUGHPUT = Quantity("throughput (tokens/s)", lambda r: r.tokens_per_second, None)
QUANTITIES = {
    "encoder": (LATENCY, THROUGHPUT),
    "decoder": (LATENCY, THROUGHPUT),
    "generate": (LATENCY, STEP, THROUGHPUT),
}


@dataclass(frozen=True)
class Row:
    """The cases of one row of panels: one shape, a line for each way to compute it."""

    title: str
    lines: dict[str, list[CaseResult]]


SHAPE_WORDS = {"batch": "batch", "src": "source length", "tgt": "generated length", "lengths": "lengths"}


def _labels(results: Sequence[CaseResult], with_model: bool) -> dict[int, str]:
    """The line that each result belongs to."""
    cases = [result.case for result in results]
    varying, _ = split_axes(cases)
    words = [axis for axis in axis_names(cases) if axis not in (*SHAPE_WORDS, "model")]
    words = [axis for axis in words if axis in varying or axis in ("precision", "engine")]
    if with_model:
        words.insert(0, "model")
    runs = {result.run.label for result in results}
    return {
        id(result): short_name(result.case, words) + (f" ({result.run.label})" if len(runs) > 1 else "")
        for result in results
    }


def _rows(results: Sequence[CaseResult], axis: str) -> list[Row]:
    """Groups results into rows and lines, keeping rows in which some line has two points or more.

    Models share a row, a line each, until there are more lines than colours; then each model has its
    own rows.
    """
    varying, _ = split_axes([result.case for result in results])
    fixed = [name for name in SHAPE_WORDS if name != axis]
    fixed = [name for name in fixed if name != "tgt" or results[0].case.suite != "encoder"]
    lines = _labels(results, with_model=True)
    split = len(set(lines.values())) > len(PALETTE)
    if split:
        lines = _labels(results, with_model=False)
        fixed.insert(0, "model")
    groups: dict[tuple[str | int, ...], Row] = {}
    for result in results:
        key = tuple(result.case.axes[name] for name in fixed)
        words = [f"{SHAPE_WORDS.get(name, '')} {result.case.axes[name]}".strip() for name in fixed]
        shown = [
            word for name, word in zip(fixed, words, strict=True) if name != "lengths" or name in varying
        ]
        row = groups.setdefault(key, Row(", ".join(shown), {}))
        row.lines.setdefault(lines[id(result)], []).append(result)
    rows = []
    for key in sorted(groups, key=lambda key: tuple((isinstance(part, str), part) for part in key)):
        row = groups[key]
        for line in row.lines.values():
            line.sort(key=lambda result: result.case.integer(axis))
        if any(len({result.case.integer(axis) for result in line}) > 1 for line in row.lines.values()):
            rows.append(row)
    return rows


def _line_style(index: int) -> dict[str, Any]:
    return {
        "color": PALETTE[index % len(PALETTE)],
        "marker": MARKERS[index % len(MARKERS)],
        "markeredgecolor": "white",
        "markeredgewidth": 0.7,
        "linestyle": "-" if index < len(PALETTE) else "--",
    }


def _draw(axes: Axes, row: Row, axis: str, quantity: Quantity, labels: Sequence[str]) -> None:
    drawn: list[float] = []
    values: set[int] = set()
    for label, line in row.lines.items():
        style = _line_style(labels.index(label))
        colour = style["color"]
        points = [(r.case.integer(axis), quantity.read(r), r) for r in line]
        known = [(x, y, r) for x, y, r in points if y is not None]
        if not known:
            continue
        xs, ys = [x for x, _, _ in known], [y for _, y, _ in known]
        axes.plot(xs, ys, **style)
        drawn += ys
        values.update(xs)
        floors = [(x, None if quantity.floor is None else quantity.floor(r)) for x, _, r in known]
        below = [(x, y) for x, y in floors if y is not None]
        if below:
            axes.plot([x for x, _ in below], [y for _, y in below], ":", color=colour, linewidth=1.2)
            drawn += [y for _, y in below]
        if quantity is LATENCY:
            for x, _, result in known:
                if result.interval is not None:
                    ends = [result.interval.low, result.interval.high]
                    axes.plot([x, x], ends, color=colour, linewidth=3.5, alpha=0.35, solid_capstyle="butt")
    if not drawn:
        axes.text(0.5, 0.5, "not measured", transform=axes.transAxes, ha="center", color=MUTED)
        axes.set_xticks([])
        axes.set_yticks([])
        return
    log_ticks(axes, "y", min(drawn) / 1.25, max(drawn) * 1.25)
    value_ticks(axes, sorted(values))


def _figure(rows: Sequence[Row], axis: str, quantities: Sequence[Quantity], labels: Sequence[str]) -> Figure:
    handles = [Line2D([], [], label=label, **_line_style(i)) for i, label in enumerate(labels)]
    handles.append(Line2D([], [], color=INK, linestyle=":", linewidth=1.2, label="floor"))
    top = 0.48 + 0.2 * -(-len(handles) // LEGEND_COLUMNS)
    height = top + ROW_HEIGHT * len(rows)
    figure = canvas(height, left=0.72, right=0.12, top=top, bottom=0.5)
    grid = figure.subplots(
        len(rows),
        len(quantities),
        squeeze=False,
        gridspec_kw={"hspace": 0.92 / (ROW_HEIGHT - 0.92), "wspace": 0.2 if len(quantities) == 2 else 0.3},
    )
    for row, panels in zip(rows, grid, strict=True):
        for quantity, axes in zip(quantities, panels, strict=True):
            _draw(axes, row, axis, quantity, labels)
            axes.set_ylabel(quantity.title)
            axes.set_xlabel(AXIS_TITLES[axis])
        panels[0].set_title(row.title)
    legend(figure, handles, LEGEND_COLUMNS)
    return figure


def curves(suite: str, results: Sequence[CaseResult]) -> Iterator[Picture]:
    """The figures of one suite; none where no two cases differ in batch or source length alone."""
    measured = [result for result in results if result.ok]
    if suite not in QUANTITIES or not measured:
        return
    for axis, title in (("batch", "batch"), ("src", "source length")):
        rows = _rows(measured, axis)
        shown = rows[:MAX_ROWS]
        labels = sorted({label for row in shown for label in row.lines})
        pages = [shown[start : start + ROWS_PER_FIGURE] for start in range(0, len(shown), ROWS_PER_FIGURE)]
        for index, page in enumerate(pages, start=1):
            part = f" ({index} of {len(pages)})" if len(pages) > 1 else ""
            caption = (
                "Median over workers; the thick stroke behind a point is its 95 % interval, where there is "
                "one. Dotted: the floor of the same case. Both axes are logarithmic."
            )
            if len(rows) > len(shown):
                caption += f" {len(rows) - len(shown)} more shapes are in the table only."
            with styled():
                figure = _figure(page, axis, QUANTITIES[suite], labels)
                name = f"{suite}-over-{axis}" + (f"-{index}" if len(pages) > 1 else "")
                yield picture(name, f"{suite}: latency and throughput over {title}{part}", caption, figure)
