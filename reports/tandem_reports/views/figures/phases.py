"""Figures of a profile: time by phase as bars, one replay as a timeline, phases under the roofline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.patches import Patch

from tandem_reports import formats
from tandem_reports.reading.profiles import Measured
from tandem_reports.reading.traces import per_replay
from tandem_reports.stats.trace_analysis import ORPHAN, Analysis
from tandem_reports.views.figures.style import (
    GRID,
    INK,
    MUTED,
    WIDTH,
    Picture,
    canvas,
    legend,
    log_ticks,
    picture,
    styled,
    text_width,
    tip,
)

COLOURS = {
    "embed": "#999999", "norm": "#b8a16b", "self.qkv": "#0072B2", "self.attention": "#56B4E9",
    "self.out": "#7fa8d9", "cross.qkv": "#009E73", "cross.attention": "#4fc4a3", "cross.out": "#8fd3bf",
    "cross.kv": "#1b6e57", "ffn.up": "#E69F00", "ffn.down": "#D55E00", "head": "#CC79A7", "select": "#8c5674",
    "comm": "#6a3d9a",
}  # fmt: skip
ORPHAN_COLOUR = "#d62728"
IDLE_COLOUR = "#d9dee4"
MAX_BARS = 30
MAX_SLICES = 1500


def colour(phase: str) -> str:
    """A phase's colour, the same in every figure; `phase` without its side."""
    return COLOURS.get(phase, ORPHAN_COLOUR)


def _handles(phases: Sequence[str], idle: bool) -> list[Patch]:
    known = [phase for phase in COLOURS if phase in phases]
    handles = [Patch(color=COLOURS[phase], label=phase) for phase in known]
    if "" in phases:
        handles.append(Patch(color=ORPHAN_COLOUR, label=ORPHAN))
    if idle:
        handles.append(Patch(color=IDLE_COLOUR, label="gaps"))
    return handles


def phase_bars(name: str, analyses: Sequence[tuple[str, Analysis]]) -> Picture | None:
    """One bar a case: the time of a replay by phase, gaps last, as shares of its span."""
    shown = [(label, analysis) for label, analysis in analyses if analysis.span_us][:MAX_BARS]
    if not shown:
        return None
    phases = list(dict.fromkeys(row.phase for _, analysis in shown for row in analysis.phases))
    rows = -(-(len(phases) + 1) // 8)
    with styled():
        left = 0.15 + text_width([label for label, _ in shown])
        top = 0.12 + 0.22 * rows
        figure = canvas(0.3 * len(shown) + 0.5 + top, left=left, right=0.9, top=top, bottom=0.5)
        axes = figure.subplots()
        for place, (_, analysis) in enumerate(shown):
            at = 0.0
            ordered = sorted(
                analysis.phases,
                key=lambda row: (row.side != "encoder", list(COLOURS).index(row.phase) if row.phase else 99),
            )
            for row in ordered:
                share = 100 * row.row.busy_us / analysis.span_us
                (bar,) = axes.barh(
                    place,
                    share,
                    left=at,
                    height=0.7,
                    color=colour(row.phase),
                    edgecolor="white",
                    linewidth=0.5,
                )
                tip(bar, f"{row.name}: {formats.micros(row.row.busy_us)} µs, {share:.1f} %")
                at += share
            axes.barh(place, max(0.0, 100 - at), left=at, height=0.7, color=IDLE_COLOUR)
            axes.annotate(
                f"{formats.micros(analysis.span_us)} µs", (100, place), xytext=(5, 0),
                textcoords="offset points", va="center", fontsize=8.5, color=INK,
            )  # fmt: skip
        axes.set_yticks(range(len(shown)), [label for label, _ in shown])
        axes.tick_params(axis="y", length=0)
        axes.invert_yaxis()
        axes.grid(axis="y", visible=False)
        axes.set_xlim(0, 100)
        axes.set_xlabel("% of a replay")
        legend(figure, _handles(phases, True), 8)
        caption = (
            "Busy time of each phase over the span of a replay, all layers together. Where kernels overlap, "
            "an instant belongs to the one that started first. The number is the span."
        )
        return picture(name, "Where the time goes", caption, figure)


def timeline(name: str, title: str, analysis: Analysis) -> Picture | None:
    """One replay, or the last step of one, kernel by kernel."""
    works = per_replay(analysis.trace)
    if not works:
        return None
    activities = works[-1].activities
    steps = analysis.trace.steps
    if steps > 1:
        activities = activities.where(
            np.arange(max(0, len(activities) - len(activities) // steps), len(activities))
        )
    activities = activities.where(np.arange(min(len(activities), MAX_SLICES)))
    phases = [analysis.trace.phases[place].phase if place >= 0 else "" for place in activities.phase]
    zero = int(activities.start[0])
    starts = (activities.start - zero) * 1e-3
    lengths = (activities.end - activities.start) * 1e-3
    lanes: list[float] = []
    rows = []
    for start, length in zip(starts, lengths, strict=True):
        lane = next((i for i, end in enumerate(lanes) if end <= start), len(lanes))
        if lane == len(lanes):
            lanes.append(0.0)
        lanes[lane] = start + length
        rows.append(lane)
    with styled():
        legend_rows = -(-len(set(phases)) // 8)
        top = 0.12 + 0.22 * legend_rows
        figure = canvas(0.22 * len(lanes) + 0.6 + top, left=0.2, right=0.2, top=top, bottom=0.5)
        axes = figure.subplots()
        axes.barh(rows, lengths, left=starts, height=0.86, color=[colour(phase) for phase in phases])
        axes.set_yticks([])
        axes.invert_yaxis()
        axes.grid(axis="y", visible=False)
        axes.set_xlim(0, float((starts + lengths).max()) * 1.005)
        axes.set_xlabel("time (µs)")
        legend(figure, _handles(list(dict.fromkeys(phases)), False), 8)
        what = "The last step of a replay" if steps > 1 else "One replay"
        caption = (
            f"{what}: a bar a kernel, from its start to its end. A kernel that starts before its predecessor "
            "has ended, as dependent launches do, is a row further down."
        )
        return picture(name, title, caption, figure)


def roofline(
    name: str, title: str, analysis: Analysis, measured: Mapping[str, Measured] | None = None
) -> Picture | None:
    """Each phase as a point: operations a byte, and the rate it reached; None without costs or ceilings."""
    points = [
        row
        for row in analysis.phases
        if row.cost is not None and row.cost.flops and row.cost.bytes and row.row.busy_us
    ]
    peaks = [row.cost.tflops_ceiling for row in points if row.cost is not None and row.cost.tflops_ceiling]
    if not points or not peaks or analysis.trace.read_gbs is None:
        return None
    peak, bandwidth = max(peaks), analysis.trace.read_gbs * 1e-3
    placed = []
    for row in points:
        assert row.cost is not None
        rate = row.tflop_per_s or 0.0
        placed.append((row, row.cost.flops / row.cost.bytes, rate, False))
        found = (measured or {}).get(row.name)
        if found and found.bytes:
            placed.append((row, row.cost.flops / found.bytes, rate, True))
    low = min(x for _, x, _, _ in placed) / 2
    high = max([peak / bandwidth * 4, *(x * 2 for _, x, _, _ in placed)])
    with styled():
        figure = canvas(3.6, left=0.75, right=2.4, top=0.15, bottom=0.5)
        axes = figure.subplots()
        axes.plot([low, peak / bandwidth, high], [low * bandwidth, peak, peak], color=MUTED, linewidth=1.4)
        small: Any = {"textcoords": "offset points", "fontsize": 8, "color": MUTED}
        middle = (low * peak / bandwidth) ** 0.5
        axes.annotate(
            f"{bandwidth:.2f} TB/s read", (middle, middle * bandwidth), xytext=(-6, 4), ha="right", **small
        )
        axes.annotate(f"{peak:.0f} TFLOP/s", (high, peak), xytext=(-4, 4), ha="right", **small)
        for row, x, y, hollow in placed:
            face = "white" if hollow else colour(row.phase)
            (dot,) = axes.plot(
                [x], [y], "o", markersize=6.5, markerfacecolor=face, markeredgecolor=colour(row.phase)
            )
            tip(
                dot,
                f"{row.name}: {formats.significant(x, 3)} FLOP/B, {formats.significant(y, 3)} TFLOP/s",
            )
        log_ticks(axes, "x", low, high)
        log_ticks(axes, "y", min(y for _, _, y, _ in placed) / 3, peak * 2.5)
        axes.grid(which="major", color=GRID)
        axes.set_xlabel("operations a byte")
        axes.set_ylabel("TFLOP/s")
        handles = [Patch(color=colour(row.phase), label=row.name) for row in points]
        figure.legend(handles=handles, loc="center left", bbox_to_anchor=(1 - 2.3 / WIDTH, 0.5), ncols=1)
        caption = (
            "Filled: operations over the fewest bytes, as counted. Hollow, where counters were read: over "
            "the bytes that went through device memory. The lines are rates measured on this machine."
        )
        return picture(name, title, caption, figure)
