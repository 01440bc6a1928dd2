"""Sums over ranks by the size of the message: each way's time and bus bandwidth, and the links' floor."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from tandem_reports import formats
from tandem_reports.gate.collectives import CollectiveGroup, Point
from tandem_reports.views.figures.style import (
    INK,
    MARKERS,
    PALETTE,
    Picture,
    legend,
    log_ticks,
    panels,
    picture,
    styled,
    tip_at,
)

MAX_GROUPS = 6
ORDER = ("nccl", "oneshot", "twoshot", "auto")
STYLES = dict(zip(ORDER, zip(PALETTE, MARKERS, strict=False), strict=False))


def _panel(axes: Axes, group: CollectiveGroup, bandwidth: bool) -> None:
    drawn: list[tuple[float, float]] = []
    for way, points in group.ways.items():
        colour, marker = STYLES.get(way, (PALETTE[-1], MARKERS[-1]))
        line = [(p.size, p.bus_gbs if bandwidth else p.us) for p in points]
        drawn += line
        axes.plot(*zip(*line, strict=True), color=colour, marker=marker, markeredgecolor="white")
        for p in points:
            text = f"{way}, {formats.scaled(p.size, 'B')}: {formats.micros(p.us)} µs, "
            text += f"{formats.significant(p.bus_gbs, 3)} GB/s of the bus"
            tip_at(axes, p.size, p.bus_gbs if bandwidth else p.us, text)
    if not bandwidth:
        floors = sorted(
            {(p.size, f) for ps in group.ways.values() for p in ps if (f := _floor(p)) is not None}
        )
        if len(floors) > 1:
            axes.plot(*zip(*floors, strict=True), "--", color=INK, linewidth=1.1)
    sizes, values = [x for x, _ in drawn], [y for _, y in drawn]
    log_ticks(axes, "x", min(sizes) / 1.5, max(sizes) * 1.5)
    log_ticks(axes, "y", min(values) / 1.4, max(values) * 1.4)
    axes.set_xlabel("message (bytes a rank)")
    axes.set_ylabel("bus bandwidth (GB/s)" if bandwidth else "time (µs)")


def _floor(point: Point) -> float | None:
    return point.result.floor_us


def ways(groups: Sequence[CollectiveGroup]) -> Picture | None:
    """A row of panels for each operation and number of cards; None where no way has two sizes."""
    known = [group for group in groups if any(len(points) > 1 for points in group.ways.values())]
    if not known:
        return None
    shown = known[:MAX_GROUPS]
    caption = (
        "Median time of a sum over all ranks by each way, and its bus bandwidth as nccl-tests defines it. "
        "Dashed: the fewest bytes at the published rate of the links, without latency."
    )
    if len(known) > len(shown):
        caption += f" {formats.plural(len(known) - len(shown), 'more operation')} in the table only."
    with styled():
        figure, grid = panels(len(shown), 2, wspace=0.25)
        for group, (time, bandwidth) in zip(shown, grid, strict=True):
            _panel(time, group, bandwidth=False)
            _panel(bandwidth, group, bandwidth=True)
            time.set_title(f"{group.op} over {group.ranks} cards")
        seen = {way for group in shown for way in group.ways}
        handles = [
            Line2D([], [], color=colour, marker=marker, label=way)
            for way, (colour, marker) in STYLES.items()
            if way in seen
        ]
        handles.append(Line2D([], [], color=INK, linestyle="--", linewidth=1.1, label="floor of the links"))
        legend(figure, handles, 5)
        return picture("collectives-ways", "collectives: ways of summing", caption, figure)
