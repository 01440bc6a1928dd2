"""Distance to floor: how much of each case's time the hardware explains."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.patches import Patch

from tandem_reports import formats
from tandem_reports.stats.cases import CaseResult
from tandem_reports.views.figures.style import (
    INK,
    Picture,
    canvas,
    legend,
    log_ticks,
    picture,
    styled,
    text_width,
)
from tandem_reports.views.labels import short_name, split_axes

MAX_BARS = 40
FLOOR_COLOURS = {"bytes": "#0072B2", "operations": "#009E73"}
REST_COLOUR = "#d9dee4"
UNKNOWN_COLOUR = "#6a737d"


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
    known = [result for result in results if result.floor_ratio is not None]
    if not known:
        return None
    names = dict(zip([id(result) for result in known], _names(known), strict=True))
    ordered = sorted(known, key=lambda result: -(result.floor_ratio or 0.0))
    shown = ordered[:MAX_BARS]
    caption = (
        "A bar ends at the measured median (logarithmic time); its dark part ends at the floor. The numbers "
        "are median over floor, and floor as a fraction of the median."
    )
    if len(ordered) > len(shown):
        caption += f" The {len(shown)} furthest of {len(ordered)} cases; all are in the table."
    with styled():
        left = 0.15 + text_width([names[id(result)] for result in shown])
        figure = canvas(0.25 * len(shown) + 0.95, left=left, right=0.12, top=0.38, bottom=0.5)
        axes = figure.subplots()
        floor_values = [result.floor_us or 0.0 for result in shown]
        medians = [result.median_us or 0.0 for result in shown]
        low = min(*floor_values, *medians) / 2
        places = range(len(shown))
        colours = [FLOOR_COLOURS.get(result.bound or "", UNKNOWN_COLOUR) for result in shown]
        axes.barh(places, [m - low for m in medians], left=low, height=0.68, color=REST_COLOUR)
        axes.barh(places, [f - low for f in floor_values], left=low, height=0.68, color=colours)
        log_ticks(axes, "x", low, max(medians) * (max(medians) / low) ** 0.16)
        for place, result in enumerate(shown):
            ratio = result.floor_ratio or 1.0
            text = f"{formats.ratio(ratio)}   {formats.percent(1 / ratio)}"
            axes.annotate(
                text,
                (max(medians[place], floor_values[place]), place),
                xytext=(5, 0),
                textcoords="offset points",
                va="center",
                fontsize=8.5,
                color=INK,
            )
        axes.set_yticks(list(places), [names[id(result)] for result in shown])
        axes.tick_params(axis="y", length=0)
        axes.invert_yaxis()
        axes.grid(axis="y", visible=False)
        axes.margins(y=0.01)
        axes.set_xlabel("time (µs)")
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
