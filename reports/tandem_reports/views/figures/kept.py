"""Speed-up over dense by the fraction of the weights kept, beside what stored bytes would allow."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from tandem_reports import formats
from tandem_reports.gate.kept import Line, panels
from tandem_reports.gate.precisions import FormatGroup
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
    tip,
)
from tandem_reports.views.precisions import group_titles, speedup_text

MAX_PANELS = 6
COLUMNS = 2
HEIGHT, GAP = 3.0, 0.8
LEGEND_COLUMNS = 6
LOSS_INK = "#9b1c2c"


def _draw(axes: Axes, lines: Sequence[Line], batches: Sequence[int]) -> None:
    points = [point for line in lines for point in line.points]
    speeds = [point.format.speedup or 1.0 for point in points]
    least = min(point.kept for point in points)
    log_ticks(axes, "y", min(0.95, *speeds) / 1.25, max(1.0 / least, *speeds) * 1.12)
    axes.set_xlim(min(1.0, 1.08 * max(point.kept for point in points)), 0)
    reach = np.linspace(least * 0.9, 1, 100)
    axes.plot(reach, 1 / reach, "--", color=INK, linewidth=1.1)
    axes.axhline(1, color=MUTED, linewidth=1)
    for line in lines:
        index = batches.index(line.batch)
        colour, marker = PALETTE[index % len(PALETTE)], MARKERS[index % len(MARKERS)]
        any_fraction = [point for point in line.points if point.pattern != "2:4"]
        if index == 0:
            stored = [(point.kept, 1 / point.stored) for point in any_fraction if point.stored]
            axes.plot([x for x, _ in stored], [y for _, y in stored], ":", color=INK, linewidth=1.3)
        axes.plot(
            [point.kept for point in any_fraction],
            [point.format.speedup or 1.0 for point in any_fraction],
            color=colour,
        )
        for point in line.points:
            height = point.format.speedup or 1.0
            if point.format.interval is not None:
                ends = [point.format.interval.low, point.format.interval.high]
                axes.plot([point.kept] * 2, ends, color=colour, linewidth=3.5, alpha=0.35)
            (dot,) = axes.plot(
                [point.kept], [height], "*" if point.pattern == "2:4" else marker, color=colour,
                markersize=11 if point.pattern == "2:4" else 6,
                markeredgecolor=LOSS_INK if point.format.loses else "white",
            )  # fmt: skip
            tip(dot, f"{point.format.result.case.name}: {speedup_text(point.format)}")
            if point.format.loses:
                axes.annotate(
                    speedup_text(point.format), (point.kept, height), xytext=(0, -11), ha="center",
                    textcoords="offset points", fontsize=7.5, color=LOSS_INK,
                )  # fmt: skip


def kept(suite: str, groups: Sequence[FormatGroup]) -> Picture | None:
    """One panel a shape, one line a batch; None where no shape has two fractions beside a dense case."""
    every = panels(groups)
    if not every:
        return None
    shown = every[:MAX_PANELS]
    batches = sorted({line.batch for lines in shown for line in lines})
    caption = (
        "Speed-up over the dense bf16 case of the same run that differs in nothing else, over the fraction "
        "of the weights that is kept (to the right more is removed). Dashed, ideal: 1 over the fraction. "
        "Dotted: dense bytes over stored bytes, masks included. Stars: 2:4. Red edges lose to dense and say "
        "by how much. Thick strokes: 95 % intervals, where there are six workers."
    )
    if len(every) > len(shown):
        caption += f" {formats.plural(len(every) - len(shown), 'more shape')} in the table only."
    titles = group_titles([lines[0].group for lines in every], "batch")[: len(shown)]
    with styled():
        handles = [
            Line2D([], [], color=PALETTE[i % len(PALETTE)], marker=MARKERS[i % len(MARKERS)],
                   markeredgecolor="white", label=f"batch {batch}")
            for i, batch in enumerate(batches)
        ]  # fmt: skip
        handles.append(Line2D([], [], color=INK, linestyle="--", linewidth=1.1, label="ideal"))
        handles.append(Line2D([], [], color=INK, linestyle=":", linewidth=1.3, label="by stored bytes"))
        columns = min(COLUMNS, len(shown))
        rows = -(-len(shown) // COLUMNS)
        top = 0.46 + 0.2 * -(-len(handles) // LEGEND_COLUMNS)
        height = top + rows * (HEIGHT + GAP) - GAP + 0.55
        right = 0.12 + (COLUMNS - columns) * 5.2
        figure = canvas(height, left=0.6, right=right, top=top, bottom=0.55)
        grid = figure.subplots(
            rows, columns, squeeze=False, gridspec_kw={"hspace": GAP / HEIGHT, "wspace": 0.16}
        )
        for axes in grid.flat[len(shown) :]:
            axes.set_visible(False)
        for axes, title, lines in zip(grid.flat, titles, shown, strict=False):
            _draw(axes, lines, batches)
            axes.set_title(title)
            axes.set_xlabel("fraction of the weights kept")
        for row in grid:
            row[0].set_ylabel("speed-up over dense")
        legend(figure, handles, LEGEND_COLUMNS)
        return picture(f"{suite}-kept", f"{suite}: speed-up by fraction kept", caption, figure)
