"""Distance to floor: how much of each case's time the hardware explains."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.patches import Patch

from tandem_reports import formats
from tandem_reports.stats.cases import TINY, CaseResult, telling_ratio
from tandem_reports.views.figures.style import (
    INK,
    Picture,
    canvas,
    legend,
    picture,
    styled,
    text_width,
    tip,
)
from tandem_reports.views.labels import short_name, split_axes

MAX_BARS = 40
FLOOR_COLOURS = {"bytes": "#0072B2", "operations": "#009E73", "links": "#CC79A7"}
REST_COLOUR = "#d9dee4"
UNKNOWN_COLOUR = "#6a737d"
BESIDE = 2.05
"""Inches for the numbers beside the bars."""
OFFSETS = (31, 94, 142)
"""Points to the right end of each number."""


def _names(results: Sequence[CaseResult]) -> list[str]:
    cases = [result.case for result in results]
    varying, _ = split_axes(cases)
    if results[0].case.suite in ("encoder", "decoder", "generate") and "model" not in varying:
        varying = ["model", *varying]
    many_runs = len({result.run.label for result in results}) > 1
    return [
        short_name(result.case, varying) + (f" ({result.run.label})" if many_runs else "")
        for result in results
    ]


def floors(suite: str, results: Sequence[CaseResult]) -> Picture | None:
    """Horizontal bars, the furthest from its floor on top; None where no case has a floor."""
    every = [result for result in results if result.floor_ratio is not None]
    known = [result for result in every if telling_ratio(result) is not None] or every
    if not known:
        return None
    names = dict(zip([id(result) for result in known], _names(known), strict=True))
    ordered = sorted(known, key=lambda result: -(result.floor_ratio or 0.0))
    shown = ordered[:MAX_BARS]
    caption = (
        "A bar is the floor as a share of the measured median: full is the best that the hardware allows. "
        "Beside it: the share, the median, and how many floors that is."
    )
    if len(ordered) > len(shown):
        caption += f" The {len(shown)} furthest of {len(ordered)} cases; all are in the table."
    if len(known) < len(every):
        caption += f" Cases of {TINY}, which is for tests, are in the table only."
    with styled():
        left = 0.15 + text_width([names[id(result)] for result in shown])
        figure = canvas(0.25 * len(shown) + 0.95, left=left, right=BESIDE, top=0.38, bottom=0.5)
        axes = figure.subplots()
        places = range(len(shown))
        shares = [100 / (result.floor_ratio or 1.0) for result in shown]
        colours = [FLOOR_COLOURS.get(result.bound or "", UNKNOWN_COLOUR) for result in shown]
        axes.barh(places, [100] * len(shown), height=0.68, color=REST_COLOUR)
        bars = axes.barh(places, [min(share, 100.0) for share in shares], height=0.68, color=colours)
        axes.set_xlim(0, 100)
        for place, (result, share, bar) in enumerate(zip(shown, shares, bars, strict=True)):
            share_text, median = formats.share(share / 100), formats.micros(result.median_us)
            texts = (share_text, f"{median} µs", formats.ratio(result.floor_ratio))
            for text, offset in zip(texts, OFFSETS, strict=True):
                axes.annotate(
                    text, (100, place), xytext=(offset, 0), textcoords="offset points", va="center",
                    ha="right", fontsize=8.5, color=INK,
                )  # fmt: skip
            bound = f", bound by {result.bound}" if result.bound else ""
            floor = formats.micros(result.floor_us)
            tip(bar, f"{result.case.name}: median {median} µs, floor {floor} µs{bound}, {share_text}")
        axes.set_yticks(list(places), [names[id(result)] for result in shown])
        axes.tick_params(axis="y", length=0)
        axes.invert_yaxis()
        axes.grid(axis="y", visible=False)
        axes.margins(y=0.01)
        axes.set_xlabel("floor over median (%)")
        bounds = {result.bound for result in shown}
        handles = [
            Patch(color=colour, label=f"floor, bound by {bound}")
            for bound, colour in FLOOR_COLOURS.items()
            if bound in bounds
        ]
        if None in bounds:
            handles.append(Patch(color=UNKNOWN_COLOUR, label="floor"))
        handles.append(Patch(color=REST_COLOUR, label="above the floor"))
        legend(figure, handles, 4)
        return picture(f"{suite}-floors", f"{suite}: distance to floor", caption, figure)
