"""Throughput over latency: what each way to compute a shape offers, batch by batch, and what is beaten."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from tandem_reports import formats
from tandem_reports.stats.cases import CaseResult
from tandem_reports.views.figures.curves import SHAPE_WORDS, line_labels
from tandem_reports.views.figures.style import (
    INK,
    MARKERS,
    PALETTE,
    Picture,
    canvas,
    legend,
    log_ticks,
    picture,
    styled,
    tip,
)
from tandem_reports.views.labels import short_name, split_axes

SUITES = ("encoder", "decoder", "generate")
LEAST_POINTS = 3
MAX_PANELS = 6
COLUMNS = 2
HEIGHT, GAP = 2.5, 0.8
LEGEND_COLUMNS = 3


def _latency(result: CaseResult) -> float | None:
    return result.step_us if result.case.suite == "generate" else result.median_us


def best(points: Sequence[tuple[float, float]]) -> list[int]:
    """Places of the points that none beats in both: no less latency with as much throughput or more."""
    order = sorted(range(len(points)), key=lambda place: (points[place][0], -points[place][1]))
    found: list[int] = []
    for place in order:
        if not found or points[place][1] > points[found[-1]][1]:
            found.append(place)
    return found


Shape = dict[str, list[tuple[float, float, CaseResult]]]


def _worth_drawing(lines: Shape) -> bool:
    """Whether there are batches to choose from: a line of two points, and three points in all."""
    sizes = [len(line) for line in lines.values()]
    return max(sizes) > 1 and sum(sizes) >= LEAST_POINTS


def shapes(results: Sequence[CaseResult]) -> dict[str, Shape]:
    """Shape -> line -> latency, throughput and case of its batches; shapes of three points or more.

    Where there are more lines than colours, every model has a shape of its own.
    """
    varying, _ = split_axes([result.case for result in results])
    suite = results[0].case.suite
    fixed = [axis for axis in SHAPE_WORDS if axis != "batch" and (axis != "lengths" or axis in varying)]
    fixed = [axis for axis in fixed if axis != "tgt" or suite != "encoder"]
    many = len(set(line_labels(results))) > len(PALETTE)
    found: dict[str, Shape] = {}
    for result, label in zip(results, line_labels(results), strict=True):
        x, y = _latency(result), result.tokens_per_second
        if x is None or y is None:
            continue
        shape = short_name(result.case, ["model", *fixed] if many else fixed)
        found.setdefault(shape, {}).setdefault(label, []).append((x, y, result))
    return {shape: lines for shape, lines in found.items() if _worth_drawing(lines)}


def _draw(axes: Axes, lines: Shape, labels: Sequence[str]) -> None:
    points = [point for line in lines.values() for point in line]
    places = best([(x, y) for x, y, _ in points])
    xs, ys = [points[place][0] for place in places], [points[place][1] for place in places]
    on_line = set(zip(xs, ys, strict=True))
    lowest = min(y for _, y, _ in points)
    edge = max(x for x, _, _ in points) * 1.5
    axes.plot(
        [xs[0], *xs, edge],
        [lowest / 1.5, *ys, ys[-1]],
        color=INK,
        linewidth=1,
        alpha=0.5,
        drawstyle="steps-post",
    )
    for label, line in lines.items():
        index = labels.index(label)
        line.sort(key=lambda point: point[2].case.integer("batch"))
        style: Any = {"color": PALETTE[index % len(PALETTE)], "marker": MARKERS[index % len(MARKERS)]}
        axes.plot([x for x, _, _ in line], [y for _, y, _ in line], color=style["color"], linewidth=1.1)
        for x, y, result in line:
            (dot,) = axes.plot([x], [y], markersize=6.5, markeredgecolor="white", **style)
            tip(dot, f"{result.case.name}: {formats.micros(x)} µs, {formats.count(y)} tokens/s")
            if (x, y) not in on_line:
                continue
            axes.annotate(
                f"b{result.case.integer('batch')}", (x, y), xytext=(5, -9), textcoords="offset points",
                fontsize=7.5, color=INK,
            )  # fmt: skip
    log_ticks(axes, "x", min(x for x, _, _ in points) / 1.4, edge)
    log_ticks(axes, "y", lowest / 1.5, max(y for _, y, _ in points) * 1.5)


def frontier(suite: str, results: Sequence[CaseResult]) -> Picture | None:
    """A panel a shape; None where no shape has three points."""
    measured = [result for result in results if result.ok]
    every = shapes(measured) if suite in SUITES and measured else {}
    if not every:
        return None
    shown = dict(list(every.items())[:MAX_PANELS])
    labels = sorted({label for lines in shown.values() for label in lines})[: len(PALETTE)]
    shown = {
        shape: {label: line for label, line in lines.items() if label in labels}
        for shape, lines in shown.items()
    }
    shown = {shape: lines for shape, lines in shown.items() if lines}
    what = "mean step" if suite == "generate" else "latency"
    caption = (
        f"Up is more throughput, left is less {what}; both axes are logarithmic, b is the batch. No case is "
        "above and to the left of the dark line: what lies below it is beaten in both."
    )
    if len(every) > len(shown):
        caption += f" {formats.plural(len(every) - len(shown), 'more shape')} in the table only."
    with styled():
        columns = min(COLUMNS, len(shown))
        rows = -(-len(shown) // columns)
        top = 0.46 + 0.2 * -(-len(labels) // LEGEND_COLUMNS)
        height = top + (HEIGHT + GAP) * rows - GAP + 0.5
        right = 0.12 + (COLUMNS - columns) * 3.4
        figure = canvas(height, left=0.72, right=right, top=top, bottom=0.5)
        spaces = {"hspace": GAP / HEIGHT, "wspace": 0.22}
        grid = figure.subplots(rows, columns, squeeze=False, gridspec_kw=spaces)
        for axes in grid.flat[len(shown) :]:
            axes.set_visible(False)
        for axes, (title, lines) in zip(grid.flat, shown.items(), strict=False):
            _draw(axes, lines, labels)
            axes.set_title(title)
            axes.set_xlabel(f"{what} (µs)")
        for row in grid:
            row[0].set_ylabel("tokens/s")
        handles = [
            Line2D(
                [], [], label=label, color=PALETTE[i % len(PALETTE)], marker=MARKERS[i % len(MARKERS)],
                markeredgecolor="white",
            )
            for i, label in enumerate(labels)
        ]  # fmt: skip
        legend(figure, handles, LEGEND_COLUMNS)
        return picture(f"{suite}-frontier", f"{suite}: throughput over {what}", caption, figure)
