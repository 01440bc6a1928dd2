"""Speed-up over accuracy error: what each format gains over bf16 and what it loses."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes

from tandem_reports import formats
from tandem_reports.gate.precisions import Format, FormatGroup, frontier
from tandem_reports.views.figures.style import (
    INK,
    MARKERS,
    MUTED,
    PALETTE,
    Picture,
    canvas,
    log_ticks,
    picture,
    styled,
    tip,
)
from tandem_reports.views.precisions import group_titles, speedup_text

MAX_PANELS = 9
COLUMNS = 3
HEIGHT, GAP = 2.3, 0.85
LOSS_INK = "#9b1c2c"
LEAST_ERROR = 1e-4
"""Where smaller errors are drawn: the axis is logarithmic."""
LINE = 11.0
"""Points between two labels."""


def _drawn(group: FormatGroup) -> list[Format]:
    return [found for found in group.formats if found.error is not None and found.speedup is not None]


def _x(found: Format) -> float:
    return max(found.error or 0.0, LEAST_ERROR)


def spaced(heights: Sequence[float], least: float) -> list[float]:
    """Ascending heights, pushed up until each is `least` above the one before."""
    found: list[float] = []
    for height in heights:
        found.append(height if not found else max(height, found[-1] + least))
    return found


def _draw(axes: Axes, group: FormatGroup, labels: Sequence[str]) -> None:
    points = _drawn(group)
    ends = [end for f in points if f.interval is not None for end in (f.interval.low, f.interval.high)]
    values = [1.0, *ends, *(f.speedup or 1.0 for f in points)]
    low, high = min(values), max(values)
    room = 0.14 * max(high - low, 0.1)
    low, high = low - room, high + 1.6 * room
    errors = [_x(found) for found in points]
    log_ticks(axes, "x", min(errors) / 2.2, max(errors) * 2.2)
    axes.set_ylim(low, high)
    axes.axhline(1, color=MUTED, linewidth=1.1, linestyle="--")
    best = frontier(group.formats)
    if best:
        xs = [axes.get_xlim()[0], *(_x(found) for found in best), axes.get_xlim()[1]]
        ys = [1.0, *(found.speedup or 1.0 for found in best), best[-1].speedup or 1.0]
        axes.plot(xs, ys, color=INK, linewidth=1, alpha=0.55, drawstyle="steps-post")
    ordered = sorted(points, key=lambda found: found.speedup or 1.0)
    scale = HEIGHT * 72 / (high - low)
    places = spaced([((f.speedup or 1.0) - low) * scale for f in ordered], LINE)
    for found, place in zip(ordered, places, strict=True):
        index = labels.index(found.label)
        colour, marker = PALETTE[index % len(PALETTE)], MARKERS[index % len(MARKERS)]
        height = found.speedup or 1.0
        right = _x(found) < (min(errors) * max(errors)) ** 0.5 or len(points) == 1
        if found.interval is not None:
            reach = [found.interval.low, found.interval.high]
            axes.plot([_x(found)] * 2, reach, color=colour, linewidth=3.5, alpha=0.35)
        (dot,) = axes.plot(
            [_x(found)], [height], marker, color=colour, markersize=7.5,
            markeredgecolor=LOSS_INK if found.loses else "white",
        )  # fmt: skip
        tip(dot, f"{found.result.case.name}: {speedup_text(found)}, error {formats.error(found.error)}")
        weight = "bold" if found in best else "normal"
        axes.annotate(
            f"{found.label} {speedup_text(found)}", (_x(found), height),
            xytext=(7 if right else -7, place - (height - low) * scale + 7), textcoords="offset points",
            ha="left" if right else "right", va="center", fontsize=8, fontweight=weight,
            color=LOSS_INK if found.loses else INK,
            bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 0.6},
        )  # fmt: skip


def _error_words(group: FormatGroup) -> str:
    accuracies = [found.result.accuracy for found in _drawn(group)]
    synthetic = any(accuracy is not None and accuracy.synthetic_weights for accuracy in accuracies)
    what = "the output" if group.case.suite == "encoder" else "the logits"
    return f"relative error of {what}" + (" (synthetic weights)" if synthetic else "")


def pareto(suite: str, groups: Sequence[FormatGroup]) -> Picture | None:
    """One panel a case; None where no format has both a speed-up over bf16 and an accuracy."""
    known = [group for group in groups if _drawn(group)]
    if not known:
        return None
    shown = known[:MAX_PANELS]
    caption = (
        "Up is faster, left is more accurate: speed-up over the bf16 case of the same run, over the error "
        "against dense fp32 (logarithmic; under 1e-4 drawn there). The line is the frontier: no format beats "
        "one on it in both; one slower than bf16, in red, is never on it. Thick strokes: 95 % intervals, "
        "where there are six workers. bf16's own error is not measured: the dashed line is its speed."
    )
    if any(
        a is not None and a.synthetic_weights for g in shown for f in _drawn(g) for a in [f.result.accuracy]
    ):
        caption += " Synthetic weights come from a seed: a trained model may lose more or less."
    if len(known) > len(shown):
        caption += f" {formats.plural(len(known) - len(shown), 'more case')} in the table only."
    titles = group_titles(known)[: len(shown)]
    labels = list(dict.fromkeys(found.label for group in known for found in _drawn(group)))
    with styled():
        columns = min(COLUMNS, len(shown))
        rows = -(-len(shown) // COLUMNS)
        height = rows * (HEIGHT + GAP) - GAP + 0.85
        right = 0.12 + (COLUMNS - columns) * 2.6
        figure = canvas(height, left=0.6, right=right, top=0.3, bottom=0.55)
        grid = figure.subplots(
            rows, columns, squeeze=False, gridspec_kw={"hspace": GAP / HEIGHT, "wspace": 0.18}
        )
        for axes in grid.flat[len(shown) :]:
            axes.set_visible(False)
        for axes, title, group in zip(grid.flat, titles, shown, strict=False):
            _draw(axes, group, labels)
            axes.set_title(title)
            ratio = None if group.baseline is None else group.baseline.floor_ratio
            floor = "no floor" if ratio is None else f"{formats.ratio(ratio)} its floor"
            axes.set_title(f"bf16: {floor}", loc="right", fontsize=8, fontweight="normal", color=MUTED)
            axes.set_xlabel(_error_words(group))
        for row in grid:
            row[0].set_ylabel("speed-up over bf16")
        return picture(f"{suite}-pareto", f"{suite}: speed-up by accuracy error", caption, figure)
