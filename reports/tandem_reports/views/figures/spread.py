"""Spread across workers: how well a case repeats in a fresh process."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tandem_reports import formats
from tandem_reports.stats.cases import CaseResult
from tandem_reports.views.figures.style import INK, PALETTE, Picture, canvas, picture, styled, text_width, tip
from tandem_reports.views.labels import short_name, split_axes

MAX_CASES = 30


def _range(result: CaseResult) -> float:
    return (max(result.medians) - min(result.medians)) / (result.median_us or 1.0)


def spread(results: Sequence[CaseResult]) -> Picture | None:
    """A dot a worker, the widest cases on top; None where no case has two workers."""
    known = [result for result in results if len(result.ok) > 1]
    if not known:
        return None
    varying, _ = split_axes([result.case for result in known])
    many_runs = len({result.run.label for result in known}) > 1
    ordered = sorted(known, key=lambda result: -_range(result))
    shown = ordered[:MAX_CASES]
    caption = (
        "Each dot is one worker's median, as its difference from the case's median; the bar is the 95 % "
        "interval of that median, where there are six workers."
    )
    if len(ordered) > len(shown):
        caption += f" The {len(shown)} widest of {len(ordered)} cases."
    with styled():
        labels = []
        for result in shown:
            name = f"{result.case.suite} {short_name(result.case, varying)}".strip()
            labels.append(name + (f" ({result.run.label})" if many_runs else ""))
        height = 0.25 * len(shown) + 0.62
        figure = canvas(height, left=0.15 + text_width(labels), right=0.15, top=0.08, bottom=0.5)
        axes = figure.subplots()
        axes.axvline(0, color="#aab2bb", linewidth=1)
        for place, result in enumerate(shown):
            middle = result.median_us or 1.0
            if result.interval is not None:
                low, high = (100 * (end / middle - 1) for end in (result.interval.low, result.interval.high))
                axes.barh(place, high - low, left=low, height=0.62, color=PALETTE[0], alpha=0.16)
            offsets = [100 * (value / middle - 1) for value in result.medians]
            dots: dict[str, Any] = {
                "color": PALETTE[0],
                "markersize": 4.2,
                "alpha": 0.85,
                "markeredgecolor": "white",
            }
            for offset, value in zip(offsets, result.medians, strict=True):
                (dot,) = axes.plot([offset], [place], "o", markeredgewidth=0.5, **dots)
                tip(
                    dot, f"{result.case.name}: {formats.micros(value)} µs, {formats.change(1 + offset / 100)}"
                )
        axes.set_yticks(range(len(shown)), labels)
        axes.tick_params(axis="y", length=0)
        axes.grid(axis="y", visible=False)
        axes.set_ylim(len(shown) - 0.5, -0.5)
        widest = max(abs(100 * (v / (r.median_us or 1.0) - 1)) for r in shown for v in r.medians)
        axes.set_xlim(-1.1 * max(widest, 0.05), 1.1 * max(widest, 0.05))
        axes.set_xlabel("worker's median less the case's median (%)", color=INK)
        return picture("spread", "Spread across workers", caption, figure)
