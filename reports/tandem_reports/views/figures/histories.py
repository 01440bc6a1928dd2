"""Small multiples: each case over the runs, its levels and steps."""

from __future__ import annotations

import math
from collections.abc import Sequence

from matplotlib.lines import Line2D

from tandem_reports import formats
from tandem_reports.gate.trend import History
from tandem_reports.views.figures.style import PALETTE, Picture, canvas, legend, picture, styled, tip
from tandem_reports.views.labels import short_name, split_axes

COLUMNS = 3
MAX_PANELS = 24
ROW_HEIGHT, GAP = 1.55, 0.52
SLOWER, FASTER = "#D55E00", "#009E73"


def _size(history: History) -> float:
    return max((abs(math.log(step.ratio)) for step in history.steps), default=0.0)


def trend_picture(every: Sequence[History]) -> Picture | None:
    """The cases with the largest steps first; None where none has three runs: two are a table's."""
    histories = [history for history in every if len(history.results) > 2]
    if not histories:
        return None
    shown = sorted(histories, key=lambda history: -_size(history))[:MAX_PANELS]
    varying, _ = split_axes([history.case for history in histories])
    many_suites = len({history.case.suite for history in histories}) > 1
    caption = (
        "Each dot is a run's median over its workers (µs), oldest left; lines are the levels found, a dashed "
        "line the first run of a new one. Cases with the largest steps first; vertical axes differ."
    )
    if len(shown) < len(histories):
        caption += f" {len(shown)} of {len(histories)} cases; all are in the table."
    with styled():
        rows = -(-len(shown) // COLUMNS)
        top = 0.72
        height = top + rows * (ROW_HEIGHT + GAP) - GAP + 0.4
        figure = canvas(height, left=0.72, right=0.12, top=top, bottom=0.4)
        spaces = {"hspace": GAP / ROW_HEIGHT, "wspace": 0.26}
        grid = figure.subplots(rows, COLUMNS, squeeze=False, gridspec_kw=spaces).ravel()
        for axes in grid[len(shown) :]:
            axes.set_axis_off()
        for axes, history in zip(grid, shown, strict=False):
            medians = history.medians
            for index, (median, result) in enumerate(zip(medians, history.results, strict=True)):
                (dot,) = axes.plot([index], [median], "o", color=PALETTE[0], markersize=3.6, alpha=0.75)
                tip(dot, f"{result.run.label}: {formats.micros(median)} µs")
            for level in history.levels:
                axes.plot(
                    [level.first - 0.4, level.last - 0.6], [level.level] * 2, color="#404040", linewidth=1.5
                )
            for step in history.steps:
                colour = SLOWER if step.ratio > 1 else FASTER
                axes.axvline(step.index - 0.5, color=colour, linewidth=1.2, linestyle="--")
                axes.annotate(
                    formats.change(step.ratio), (step.index - 0.5, 1.0), xycoords=("data", "axes fraction"),
                    xytext=(3, -9), textcoords="offset points", fontsize=7.5, color=colour,
                )  # fmt: skip
            middle = sorted(medians)[len(medians) // 2]
            low, high = min(*medians, middle * 0.99), max(*medians, middle * 1.01)
            axes.set_ylim(low - 0.15 * (high - low), high + 0.3 * (high - low))
            axes.set_xlim(-0.8, max(len(medians) - 0.2, 1))
            axes.set_xticks([])
            axes.ticklabel_format(axis="y", useOffset=False, style="plain")
            axes.locator_params(axis="y", nbins=4)
            name = short_name(history.case, varying)
            axes.set_title(f"{history.case.suite} {name}" if many_suites else name, fontsize=8.5)
        handles = [
            Line2D([], [], color=PALETTE[0], marker="o", linestyle="", label="run"),
            Line2D([], [], color="#404040", label="level"),
            Line2D([], [], color=SLOWER, linestyle="--", label="slower from here"),
            Line2D([], [], color=FASTER, linestyle="--", label="faster from here"),
        ]
        legend(figure, handles, 4)
        return picture("trend", "Each case over the runs", caption, figure)
