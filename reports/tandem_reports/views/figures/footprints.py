"""Memory by format: the weights as stored, K/V where it is known, and the peak."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.patches import Patch

from tandem_reports import formats
from tandem_reports.gate.precisions import FormatGroup
from tandem_reports.stats.cases import CaseResult
from tandem_reports.views.figures.style import (
    INK,
    WIDTH,
    Picture,
    canvas,
    legend,
    picture,
    styled,
    text_width,
    tip,
)
from tandem_reports.views.precisions import group_titles

MAX_BARS = 40
BAR, GAP = 0.25, 0.55
"""Inches."""
WEIGHTS_COLOUR, KV_COLOUR, REST_COLOUR = "#0072B2", "#E69F00", "#d9dee4"


@dataclass(frozen=True)
class Bar:
    """One format of one case."""

    label: str
    result: CaseResult
    text: str

    @property
    def reach(self) -> float:
        """Where it ends, in bytes."""
        parts = (self.result.weights_bytes or 0.0) + (self.result.kv_bytes or 0.0)
        return max(self.result.peak_bytes or 0.0, parts)


def _text(result: CaseResult, baseline: CaseResult | None) -> str:
    words = []
    weights = result.weights_bytes
    if weights is not None:
        share = ""
        if baseline is not None and baseline is not result and baseline.weights_bytes:
            share = f" ({formats.ratio(weights / baseline.weights_bytes)})"
        words.append(f"weights {formats.scaled(weights, 'B')}{share}")
    if result.kv_bytes is not None:
        words.append(f"K/V {formats.scaled(result.kv_bytes, 'B')}")
    words.append(
        "peak not known" if result.peak_bytes is None else f"peak {formats.scaled(result.peak_bytes, 'B')}"
    )
    return ", ".join(words)


def _bars(groups: Sequence[FormatGroup]) -> dict[tuple[str, str], list[Bar]]:
    """The bars of each run and model, which share an axis."""
    found: dict[tuple[str, str], list[Bar]] = {}
    for group, title in zip(groups, group_titles(groups), strict=True):
        key = (group.run_label, group.case.text("model"))
        for item in group.formats:
            result = item.result
            if result.ok and (result.peak_bytes is not None or result.weights_bytes is not None):
                bar = Bar(f"{title} {item.label}", result, _text(result, group.baseline))
                found.setdefault(key, []).append(bar)
    return found


def footprints(suite: str, groups: Sequence[FormatGroup]) -> Picture | None:
    """Horizontal bars, one panel a model; None where no record holds memory."""
    panels = _bars(groups)
    total = sum(map(len, panels.values()))
    if not total:
        return None
    room = MAX_BARS
    shown: list[list[Bar]] = []
    for bars in panels.values():
        if room:
            shown.append(bars[:room])
            room -= len(shown[-1])
    count = sum(map(len, shown))
    caption = (
        "Bytes on the device: the weights in the form that they were loaded in, the K/V that one decode "
        "step reads and appends (suite decoder), and up to the peak whatever else was held. In brackets: the "
        "weights over those of bf16."
    )
    if total > count:
        caption += f" {count} of {total} cases; all are in the table."
    with styled():
        left = 0.15 + text_width([bar.label for bars in shown for bar in bars])
        tall = [BAR * len(bars) for bars in shown]
        height = 0.42 + sum(tall) + GAP * len(shown)
        figure = canvas(height, left=left, right=0.12, top=0.38, bottom=0.5)
        top = 0.38
        for bars, inches in zip(shown, tall, strict=True):
            box = (left / WIDTH, 1 - (top + inches) / height, 1 - (left + 0.12) / WIDTH, inches / height)
            axes = figure.add_axes(box)
            places = range(len(bars))
            weights = [bar.result.weights_bytes or 0.0 for bar in bars]
            axes.barh(places, [bar.reach for bar in bars], height=0.68, color=REST_COLOUR)
            drawn = axes.barh(places, weights, height=0.68, color=WEIGHTS_COLOUR)
            for patch, bar in zip(drawn, bars, strict=True):
                tip(patch, f"{bar.result.case.name}: {bar.text}")
            axes.barh(
                places,
                [bar.result.kv_bytes or 0.0 for bar in bars],
                left=weights,
                height=0.68,
                color=KV_COLOUR,
            )
            for place, bar in enumerate(bars):
                axes.annotate(
                    bar.text, (bar.reach, place), xytext=(5, 0), textcoords="offset points", va="center",
                    fontsize=8, color=INK,
                )  # fmt: skip
            # The longest text stands behind the longest bar.
            reach = max(bar.reach for bar in bars)
            axes.set_xlim(0, reach / max(0.2, 1 - text_width([bar.text for bar in bars], 8) / (WIDTH - left)))
            axes.set_yticks(list(places), [bar.label for bar in bars])
            axes.xaxis.set_major_formatter(lambda value, _: f"{value / 1e9:g} GB")
            axes.tick_params(axis="y", length=0)
            axes.grid(axis="y", visible=False)
            axes.set_ylim(len(bars) - 0.5, -0.5)
            top += inches + GAP
        handles = [
            Patch(color=WEIGHTS_COLOUR, label="weights"),
            Patch(color=REST_COLOUR, label="everything else, up to the peak"),
        ]
        if any(bar.result.kv_bytes is not None for bars in shown for bar in bars):
            handles.insert(1, Patch(color=KV_COLOUR, label="K/V"))
        legend(figure, handles, 3)
        return picture(f"{suite}-memory", f"{suite}: memory by precision", caption, figure)
