"""Ratios of two runs with their intervals, the largest slow-down on top."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol

from matplotlib.lines import Line2D

from tandem_reports import formats
from tandem_reports.reading.records import Case
from tandem_reports.stats.small_samples import Interval
from tandem_reports.views.figures.style import (
    GRID,
    INK,
    MUTED,
    Picture,
    canvas,
    legend,
    picture,
    styled,
    text_width,
    tip,
)
from tandem_reports.views.labels import short_name, split_axes

MAX_CASES = 60
COLOURS = {
    "slower": "#D55E00",
    "inaccurate": "#CC79A7",
    "faster": "#0072B2",
    "same": "#009E73",
    "unknown": "#8a939c",
    "allowed": "#404040",
}
MARKERS = {"slower": ">", "inaccurate": "X", "faster": "<", "same": "o", "unknown": "s", "allowed": "D"}


class Rated(Protocol):
    """A case with a ratio B over A and a status."""

    @property
    def case(self) -> Case:
        """The case."""

    @property
    def ratio(self) -> float | None:
        """B over A."""

    @property
    def interval(self) -> Interval | None:
        """Of the ratio."""

    @property
    def status(self) -> str:
        """What the ratio is evidence for."""


def _size(pair: Rated) -> float:
    return abs(math.log(pair.ratio or 1.0))


def ratios(
    pairs: Sequence[Rated], name: str, title: str, equivalence: float, intervals: str
) -> Picture | None:
    """One line a case; None where no pair has a ratio. `intervals` says in words what the bars are."""
    known = [pair for pair in pairs if pair.ratio is not None]
    if not known:
        return None
    varying, _ = split_axes([pair.case for pair in known])
    many_suites = len({pair.case.suite for pair in known}) > 1
    largest = sorted(known, key=lambda pair: -_size(pair))[:MAX_CASES]
    shown = sorted(largest, key=lambda pair: -(pair.ratio or 1.0))
    caption = (
        f"B over A: to the right of 0 B takes longer. Bars are {intervals}; "
        f"the grey band is ±{100 * equivalence:g} %."
    )
    if len(known) > len(shown):
        caption += f" The {len(shown)} largest changes of {len(known)} cases."
    labels = [
        " ".join(filter(None, (pair.case.suite if many_suites else "", short_name(pair.case, varying))))
        for pair in shown
    ]
    with styled():
        height = 0.25 * len(shown) + 1.0
        figure = canvas(height, left=0.15 + text_width(labels), right=0.2, top=0.42, bottom=0.5)
        axes = figure.subplots()
        axes.axvspan(100 * (1 / (1 + equivalence) - 1), 100 * equivalence, color=GRID, zorder=0)
        axes.axvline(0, color="#aab2bb", linewidth=1)
        reach = 100 * equivalence
        for place, pair in enumerate(shown):
            colour = COLOURS[pair.status]
            middle = 100 * ((pair.ratio or 1.0) - 1)
            ends = [middle]
            if pair.interval is not None:
                ends = [100 * (pair.interval.low - 1), 100 * (pair.interval.high - 1)]
                axes.plot(ends, [place, place], color=colour, linewidth=2.2, solid_capstyle="butt")
            (dot,) = axes.plot(
                [middle], [place], MARKERS[pair.status], color=colour, markersize=7, markeredgecolor="white"
            )
            reach_text = "" if pair.interval is None else f", interval {ends[0]:+.2f} to {ends[1]:+.2f} %"
            tip(dot, f"{pair.case.name}: {formats.change(pair.ratio or 1.0)}{reach_text}, {pair.status}")
            reach = max(reach, *map(abs, ends), abs(middle))
        axes.set_yticks(range(len(shown)), labels)
        axes.tick_params(axis="y", length=0)
        axes.invert_yaxis()
        axes.grid(axis="y", visible=False)
        axes.margins(y=0.01)
        axes.set_ylim(len(shown) - 0.4, -0.6)
        low, high = axes.get_xlim()
        axes.set_xlim(max(low, -1.08 * reach), min(high, 1.08 * reach))
        axes.set_xlabel("change of the median, B over A (%)", color=INK)
        statuses = [status for status in COLOURS if any(pair.status == status for pair in shown)]
        handles = [
            Line2D(
                [], [], color=COLOURS[s], marker=MARKERS[s], linestyle="-", markeredgecolor="white", label=s
            )
            for s in statuses
        ]
        legend(figure, handles or [Line2D([], [], color=MUTED)], 4)
        return picture(name, title, caption, figure)
