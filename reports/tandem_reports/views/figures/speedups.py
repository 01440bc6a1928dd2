"""Heat maps of the speed-up over bf16: formats down, batches across. A loss is red and says so."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, to_hex
from matplotlib.patches import Rectangle

from tandem_reports import formats
from tandem_reports.gate.precisions import Format, FormatGroup, rest_of
from tandem_reports.views.figures.style import MUTED, WIDTH, Picture, canvas, picture, styled, text_width
from tandem_reports.views.precisions import evidence, group_titles, speedup_text

MAX_CELLS = 48
"""Of a figure: a page of a large sweep must stay quick to make and to read."""
CELL_HEIGHT, CELL_WIDTH, GAP, TITLE = 0.46, 1.5, 0.32, 0.3
"""Inches."""
LOSS, EVEN, NONE = "#f3b0ac", "#eef1f4", "#ffffff"
TILE_INK = "#1f2329"
"""Tiles are light on a dark page too: their ink is not the page's, which turns round."""
LOSS_INK = "#9b1c2d"
GAIN = LinearSegmentedColormap.from_list("gain", ["#eaf3fa", "#7fb6de"])
MOST = 3.0
"""The speed-up from which on the colour no longer deepens."""


@dataclass(frozen=True)
class Panel:
    """One heat map: the groups that differ in their batch alone, smallest batch first."""

    title: str
    groups: tuple[FormatGroup, ...]

    @property
    def labels(self) -> list[str]:
        """The formats, bf16 first, in the order that the groups have them."""
        return list(dict.fromkeys(found.label for group in self.groups for found in group.formats))

    @property
    def cells(self) -> int:
        """How many cells it takes."""
        return len(self.labels) * len(self.groups)


@dataclass(frozen=True)
class Tile:
    """What a cell shows."""

    text: str
    below: str
    face: str
    ink: str = TILE_INK


def panels(groups: Sequence[FormatGroup]) -> list[Panel]:
    """The heat maps of a suite."""
    found: dict[tuple[object, ...], list[FormatGroup]] = {}
    for group in groups:
        found.setdefault((group.run_label, rest_of(group.case, "batch")), []).append(group)
    for members in found.values():
        members.sort(key=lambda group: group.case.integer("batch"))
    firsts = [members[0] for members in found.values()]
    titles = group_titles(firsts, "batch")
    return [Panel(title, tuple(members)) for title, members in zip(titles, found.values(), strict=True)]


def tile(group: FormatGroup, found: Format | None) -> Tile:
    """The cell of one format at one batch."""
    if found is None:
        return Tile("", "", NONE)
    if not found.result.ok:
        return Tile("not measured", found.note, NONE, MUTED)
    baseline = group.baseline
    if found.is_baseline:
        ratio = found.result.floor_ratio
        below = "no floor" if ratio is None else f"{formats.ratio(ratio)} its floor"
        return Tile(
            f"{formats.micros(found.result.median_us)} µs", f"{below}, n {len(found.result.ok)}", EVEN
        )
    if found.speedup is None or baseline is None:
        return Tile("no speed-up", found.note if len(found.note) < 24 else "not comparable", NONE, MUTED)
    if found.loses:
        return Tile(speedup_text(found), evidence(found, baseline), LOSS, LOSS_INK)
    depth = min(1.0, (found.speedup - 1) / (MOST - 1))
    return Tile(speedup_text(found), evidence(found, baseline), to_hex(GAIN(depth)))


def _draw(axes: Axes, panel: Panel) -> None:
    labels = panel.labels
    for column, group in enumerate(panel.groups):
        by_label = {found.label: found for found in group.formats}
        for row, label in enumerate(labels):
            content = tile(group, by_label.get(label))
            place = (column - 0.48, row - 0.46)
            axes.add_patch(Rectangle(place, 0.96, 0.92, facecolor=content.face, edgecolor="none"))
            middle: Any = {"ha": "center", "va": "center", "color": content.ink}
            axes.text(column, row - 0.15, content.text, fontsize=9, fontweight="bold", **middle)
            axes.text(column, row + 0.24, content.below, fontsize=7, **middle)
    axes.set_xlim(-0.5, len(panel.groups) - 0.5)
    axes.set_ylim(len(labels) - 0.5, -0.5)
    axes.set_xticks(range(len(panel.groups)), [f"batch {g.case.integer('batch')}" for g in panel.groups])
    axes.set_yticks(range(len(labels)), labels)
    axes.xaxis.tick_top()
    axes.tick_params(length=0)
    axes.grid(visible=False)
    for spine in axes.spines.values():
        spine.set_visible(False)
    axes.set_title(panel.title, pad=16)


def _fitting(every: Sequence[Panel]) -> list[Panel]:
    """The first panels, as many as MAX_CELLS holds, and one at least."""
    used = itertools.accumulate(panel.cells for panel in every)
    return [
        panel
        for place, (panel, cells) in enumerate(zip(every, used, strict=True))
        if not place or cells <= MAX_CELLS
    ]


def _rows(shown: Sequence[Panel], left: float) -> list[list[Panel]]:
    """Panels side by side as far as the page is wide."""
    rows: list[list[Panel]] = []
    used = WIDTH
    for panel in shown:
        width = left + CELL_WIDTH * len(panel.groups)
        if used + width > WIDTH:
            rows.append([])
            used = 0.0
        rows[-1].append(panel)
        used += width
    return rows


def speedups(suite: str, groups: Sequence[FormatGroup]) -> Picture | None:
    """The heat maps of a suite; None where no case stands beside its twin in bf16."""
    known = [group for group in groups if any(found.speedup is not None for found in group.formats)]
    if not known:
        return None
    every = panels(known)
    shown = _fitting(every)
    caption = (
        "Speed-up over the bf16 case of the same run that differs in nothing else; red: slower than bf16. "
        "Under it the 95 % interval, where both have six workers, and n, the workers. The row bf16 has its "
        "time and how far it is from its own floor: a gain over a baseline far from its floor says less of "
        "the format."
    )
    if len(every) > len(shown):
        caption += f" {formats.plural(len(every) - len(shown), 'more shape')} in the table only."
    with styled():
        left = 0.25 + text_width([label for panel in shown for label in panel.labels])
        rows = _rows(shown, left)
        heights = [max(len(panel.labels) for panel in row) * CELL_HEIGHT for row in rows]
        total = sum(heights) + len(rows) * (TITLE + 0.22) + (len(rows) - 1) * GAP + 0.1
        figure = canvas(total, left=0, right=0, top=0, bottom=0)
        top = 0.0
        for row, height in zip(rows, heights, strict=True):
            top += TITLE + 0.22
            across = 0.0
            for panel in row:
                across += left
                tall = len(panel.labels) * CELL_HEIGHT
                cell = min(CELL_WIDTH, (WIDTH - left - 0.1) / len(panel.groups))
                wide = cell * len(panel.groups)
                box = (across / WIDTH, 1 - (top + tall) / total, wide / WIDTH, tall / total)
                _draw(figure.add_axes(box), panel)
                across += wide
            top += height + GAP
        return picture(f"{suite}-speedup", f"{suite}: speed-up over bf16", caption, figure)
