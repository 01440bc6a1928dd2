"""Latency and throughput over batch and source length: a line for each model, precision and engine."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from tandem_reports import formats
from tandem_reports.stats.cases import CaseResult
from tandem_reports.views.figures.style import (
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
    tip_at,
    value_ticks,
)
from tandem_reports.views.labels import axis_names, short_name, split_axes

LEGEND_COLUMNS = 4
ROW_HEIGHT = 2.4
GAP = 0.75
"""Inches between two rows of panels."""
MAX_LINES = len(PALETTE)
MAX_PANELS = 40
LIMITS = ((4, 3), (3, 3), (2, 3), (2, 2), (1, 2), (1, 1))
"""Rows a figure and figures a suite and axis: the first that keeps a page within MAX_PANELS is taken."""

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
class Plate:
    """One figure before it is drawn: a row of panels a shape, a line for each way to compute it.

    `rows` holds (title, label -> results along the axis); `left_out` says in words what is not drawn.
    """

    suite: str
    axis: str
    number: str
    labels: tuple[str, ...]
    rows: tuple[tuple[str, dict[str, list[CaseResult]]], ...]
    left_out: str

    @property
    def panels(self) -> int:
        """How many panels it takes."""
        return len(self.rows) * len(QUANTITIES[self.suite])


SHAPE_WORDS = {"batch": "batch", "src": "source length", "tgt": "generated length", "lengths": "lengths"}


def line_labels(results: Sequence[CaseResult]) -> list[str]:
    """The line that each result belongs to."""
    cases = [result.case for result in results]
    varying, _ = split_axes(cases)
    words = [axis for axis in axis_names(cases) if axis not in SHAPE_WORDS]
    words = [axis for axis in words if axis in varying or axis in ("model", "precision", "engine")]
    runs = {result.run.label for result in results}
    ends = [f" ({result.run.label})" if len(runs) > 1 else "" for result in results]
    return [short_name(case, words) + end for case, end in zip(cases, ends, strict=True)]


def worth_drawing(lines: Mapping[str, Sequence[CaseResult]], axis: str) -> bool:
    """Whether any of a shape's lines has three points or more: two are a table's."""
    return any(len({result.case.integer(axis) for result in line}) > 2 for line in lines.values())


def shapes(results: Sequence[CaseResult], axis: str) -> dict[str, dict[str, list[CaseResult]]]:
    """Shape -> label -> results along the axis, of the lines that have two points or more."""
    varying, _ = split_axes([result.case for result in results])
    fixed = [name for name in SHAPE_WORDS if name != axis and (name != "lengths" or name in varying)]
    fixed = [name for name in fixed if name != "tgt" or results[0].case.suite != "encoder"]
    groups: dict[tuple[str | int, ...], dict[str, list[CaseResult]]] = {}
    for result, label in zip(results, line_labels(results), strict=True):
        key = tuple(result.case.axes[name] for name in fixed)
        groups.setdefault(key, {}).setdefault(label, []).append(result)
    found = {}
    for key in sorted(groups, key=lambda key: tuple((isinstance(part, str), part) for part in key)):
        lines = {}
        for label, line in groups[key].items():
            line.sort(key=lambda result: result.case.integer(axis))
            if len({result.case.integer(axis) for result in line}) > 1:
                lines[label] = line
        if lines:
            found[", ".join(f"{SHAPE_WORDS[n]} {v}" for n, v in zip(fixed, key, strict=True))] = lines
    return found


def _plates(suite: str, results: Sequence[CaseResult], max_rows: int, max_figures: int) -> Iterator[Plate]:
    for axis in AXIS_TITLES:
        drawn = {t: lines for t, lines in shapes(results, axis).items() if worth_drawing(lines, axis)}
        labels = sorted({label for lines in drawn.values() for label in lines})
        size = -(-len(labels) // max(1, -(-len(labels) // MAX_LINES)))
        chunks = [labels[start : start + size] for start in range(0, len(labels), size or 1)]
        for number, chunk in enumerate(chunks[:max_figures], start=1):
            rows = [
                (title, {label: line for label, line in lines.items() if label in chunk})
                for title, lines in drawn.items()
            ]
            rows = [(title, lines) for title, lines in rows if lines]
            left_out = [formats.plural(len(rows) - max_rows, "more shape")] if len(rows) > max_rows else []
            hidden = sum(map(len, chunks[max_figures:]))
            left_out += [formats.plural(hidden, "more line")] if hidden else []
            yield Plate(
                suite=suite,
                axis=axis,
                number=str(number) if len(chunks) > 1 else "",
                labels=tuple(chunk),
                rows=tuple(rows[:max_rows]),
                left_out=" and ".join(left_out),
            )


def _line_style(index: int) -> dict[str, Any]:
    return {
        "color": PALETTE[index % len(PALETTE)],
        "marker": MARKERS[index % len(MARKERS)],
        "markeredgecolor": "white",
        "markeredgewidth": 0.7,
        "linestyle": "-",
    }


def _draw(axes: Axes, lines: dict[str, list[CaseResult]], quantity: Quantity, plate: Plate) -> None:
    axis = plate.axis
    drawn: list[float] = []
    values: set[int] = set()
    for label, line in lines.items():
        style = _line_style(plate.labels.index(label))
        colour = style["color"]
        points = [(r.case.integer(axis), quantity.read(r), r) for r in line]
        known = [(x, y, r) for x, y, r in points if y is not None]
        if not known:
            continue
        xs, ys = [x for x, _, _ in known], [y for _, y, _ in known]
        axes.plot(xs, ys, **style)
        drawn += ys
        values.update(xs)
        for x, y, result in known:
            tip_at(axes, x, y, f"{result.case.name}: {quantity.title} {formats.significant(y)}")
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


def _figure(plate: Plate) -> Figure:
    quantities = QUANTITIES[plate.suite]
    handles = [Line2D([], [], label=label, **_line_style(i)) for i, label in enumerate(plate.labels)]
    handles.append(Line2D([], [], color=INK, linestyle=":", linewidth=1.2, label="floor"))
    top = 0.46 + 0.2 * -(-len(handles) // LEGEND_COLUMNS)
    height = top + (ROW_HEIGHT + GAP) * len(plate.rows) - GAP + 0.5
    figure = canvas(height, left=0.72, right=0.12, top=top, bottom=0.5)
    spaces = {"hspace": GAP / ROW_HEIGHT, "wspace": 0.2 if len(quantities) == 2 else 0.3}
    grid = figure.subplots(len(plate.rows), len(quantities), squeeze=False, gridspec_kw=spaces)
    for (title, lines), panels in zip(plate.rows, grid, strict=True):
        for quantity, axes in zip(quantities, panels, strict=True):
            _draw(axes, lines, quantity, plate)
            axes.set_ylabel(quantity.title)
        panels[0].set_title(title)
    for axes in grid[-1]:
        axes.set_xlabel(AXIS_TITLES[plate.axis])
    legend(figure, handles, LEGEND_COLUMNS)
    return figure


def draw(plate: Plate) -> Picture:
    """Draws one figure."""
    over = {"batch": "batch", "src": "source length"}[plate.axis]
    caption = (
        "Median over workers; the thick stroke behind a point is its 95 % interval, where there is one. "
        "Dotted: the floor of the same case. Both axes are logarithmic."
    )
    if plate.left_out:
        caption += f" {plate.left_out[0].upper()}{plate.left_out[1:]} in the table only."
    number = f" ({plate.number})" if plate.number else ""
    with styled():
        return picture(
            "-".join(filter(None, (plate.suite, "over", plate.axis, plate.number))),
            f"{plate.suite}: latency and throughput over {over}{number}",
            caption,
            _figure(plate),
        )


def curves(suites: Mapping[str, Sequence[CaseResult]]) -> dict[str, list[Picture]]:
    """The figures of every suite; none where no three cases differ in batch or source length alone."""
    measured = {suite: [result for result in results if result.ok] for suite, results in suites.items()}
    measured = {suite: results for suite, results in measured.items() if suite in QUANTITIES and results}
    plates: list[Plate] = []
    for max_rows, max_figures in LIMITS:
        plates = [
            p for suite, found in measured.items() for p in _plates(suite, found, max_rows, max_figures)
        ]
        if sum(plate.panels for plate in plates) <= MAX_PANELS:
            break
    pictures: dict[str, list[Picture]] = {}
    for plate in plates:
        pictures.setdefault(plate.suite, []).append(draw(plate))
    return pictures
