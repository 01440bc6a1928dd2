"""Scaling over cards: tensor parallelism and replicas beside one card, and where one overtakes the other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from tandem_reports import formats
from tandem_reports.gate.scaling import Scaled, ScalingGroup
from tandem_reports.views.figures.style import (
    INK,
    MARKERS,
    MUTED,
    PALETTE,
    Picture,
    legend,
    log_ticks,
    panels,
    picture,
    styled,
    tip,
    tip_at,
    value_ticks,
)
from tandem_reports.views.labels import short_name, split_axes

MAX_GROUPS = 6
STYLES = {"tp": (PALETTE[0], MARKERS[0]), "dp": (PALETTE[1], MARKERS[1])}
HOLLOW: dict[str, Any] = {"linestyle": ":", "marker": "o", "markerfacecolor": "white", "color": MUTED}
WORDS = {"tp": "tensor parallel: one replica on all cards", "dp": "replicas: one a card"}


def titles(groups: Sequence[ScalingGroup]) -> list[str]:
    """A short name for each group by what tells them apart; always with the model."""
    varying, _ = split_axes([group.case for group in groups])
    axes = ["model", *(axis for axis in varying if axis != "model")]
    many_runs = len({group.single.run.label for group in groups}) > 1
    return [
        short_name(group.case, axes) + (f" ({group.single.run.label})" if many_runs else "")
        for group in groups
    ]


def _model(axes: Axes, group: ScalingGroup, kind: str) -> list[tuple[int, float]]:
    """The model's points, hollow and dotted: nobody measured them."""
    points = [(1, 1.0)]
    for found in group.predictions:
        value = found.speedup if kind == "speed-up" else found.speedup / found.tp
        points.append((found.tp, value))
    if len(points) > 1:
        axes.plot(*zip(*points, strict=True), **HOLLOW)
        for x, y in points[1:]:
            text = f"model of tp {x}, not measured: {kind} {formats.significant(y, 3)}"
            tip_at(axes, x, y, text)
    return points


def _lines(axes: Axes, group: ScalingGroup, kind: str) -> None:
    modelled = _model(axes, group, kind)
    cards = sorted({*(s.cards for s in group.scaled), *(x for x, _ in modelled)})
    most = cards[-1]
    drawn = [y for _, y in modelled]
    for degree, (colour, marker) in STYLES.items():
        points = [(1, 1.0)]
        for found in group.curve(degree):
            value = {"speed-up": found.throughput, "efficiency": found.efficiency}[kind]
            if value is not None:
                points.append((found.cards, value))
        if len(points) > 1:
            axes.plot(*zip(*points, strict=True), color=colour, marker=marker, markeredgecolor="white")
            drawn += [y for _, y in points]
            for x, y in points:
                tip_at(
                    axes, x, y, f"{degree} on {formats.plural(x, 'card')}: {kind} {formats.significant(y, 3)}"
                )
    axes.plot([1, most], [1, most] if kind == "speed-up" else [1, 1], "--", color=INK, linewidth=1.1)
    if kind == "speed-up":
        log_ticks(axes, "y", min(drawn) / 1.25, max(most, *drawn) * 1.25)
    else:
        axes.set_ylim(0, 1.1 * max(drawn))
    value_ticks(axes, cards)


def _trade(axes: Axes, group: ScalingGroup) -> None:
    """Latency against throughput, a point for every layout."""
    points: list[tuple[Scaled, float, float]] = [
        (s, s.result.step_us or s.result.median_us or 0.0, s.result.tokens_per_second or 0.0)
        for s in (Scaled(group.single), *group.scaled)
        if s.result.ok and s.result.tokens_per_second
    ]
    for found, x, y in points:
        degree = "tp" if found.tp > 1 else "dp"
        colour, marker = STYLES[degree] if found.cards > 1 else (MUTED, "D")
        (dot,) = axes.plot([x], [y], marker=marker, color=colour, markersize=7, markeredgecolor="white")
        tip(dot, f"{found.result.case.name}: {formats.micros(x)} µs, {formats.count(y)} tokens/s")
        name = " ".join(f"{n} {v}" for n, v in (("tp", found.tp), ("dp", found.dp)) if v > 1) or "one card"
        axes.annotate(name, (x, y), xytext=(6, 4), textcoords="offset points", fontsize=7.5)
    if points:
        log_ticks(axes, "y", min(y for _, _, y in points) / 1.4, max(y for _, _, y in points) * 1.4)
        axes.set_xlim(0, 1.3 * max(x for _, x, _ in points))


def scaling(suite: str, groups: Sequence[ScalingGroup]) -> Picture | None:
    """A row of panels a shape; None where no case has a time on one card and on several."""
    known = [group for group in groups if any(found.speedup is not None for found in group.scaled)]
    if not known:
        return None
    shown = known[:MAX_GROUPS]
    caption = (
        "Tokens per second over those of one card in the same run, the share of so many cards' that is "
        "reached, and latency against throughput. batch is a replica's: replicas have as many times the "
        "sequences. Dashed: perfect scaling. Dotted, hollow: a model of tensor parallelism from rates, "
        "launches and links, not a measurement."
    )
    if len(known) > len(shown):
        caption += f" {formats.plural(len(known) - len(shown), 'more shape')} in the table only."
    with styled():
        figure, grid = panels(len(shown), 3, wspace=0.3)
        for title, group, (speed, share, trade) in zip(titles(shown), shown, grid, strict=True):
            _lines(speed, group, "speed-up")
            _lines(share, group, "efficiency")
            _trade(trade, group)
            speed.set_title(title)
            speed.set_ylabel("throughput over one card")
            share.set_ylabel("efficiency")
            trade.set_ylabel("throughput (tokens/s)")
            trade.set_xlabel("mean decode step (µs)" if suite == "generate" else "latency (µs)")
            for axes in (speed, share):
                axes.set_xlabel("cards")
        handles = [
            Line2D([], [], color=colour, marker=marker, label=WORDS[degree])
            for degree, (colour, marker) in STYLES.items()
        ]
        handles.append(Line2D([], [], color=INK, linestyle="--", linewidth=1.1, label="perfect"))
        if any(group.predictions for group in shown):
            handles.append(Line2D([], [], label="model of tp, not measured", **HOLLOW))
        legend(figure, handles, 4)
        return picture(f"{suite}-scaling", f"{suite}: scaling over cards", caption, figure)
