"""How figures look and how they are saved."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import markupsafe
import matplotlib
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, NullLocator

from tandem_reports.views.figures.inline import inlined, with_tips

PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#404040")
"""Okabe and Ito's colours, which stay apart under the common colour blindnesses; their yellow is too pale."""
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
INK = "#1f2328"
MUTED = "#6a737d"
GRID = "#e4e8ec"
PNG_DPI = 144
WIDTH = 9.6
"""Inches; every figure of a page has this width, so that their text has one size."""

RC: Any = {
    "font.family": ["DejaVu Sans"],
    "font.size": 9,
    "axes.titlesize": 9.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelsize": 9,
    "axes.labelcolor": INK,
    "axes.edgecolor": "#aab2bb",
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "text.color": INK,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "xtick.labelsize": 8.5,
    "ytick.labelsize": 8.5,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "lines.linewidth": 1.8,
    "lines.markersize": 5,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
    "svg.hashsalt": "tandem",
    "svg.fonttype": "path",
}


@dataclass(frozen=True)
class Picture:
    """A finished figure. `name` is its file name without the suffix."""

    name: str
    title: str
    caption: str
    svg: bytes
    png: bytes

    @property
    def inline(self) -> markupsafe.Markup:
        """The SVG for embedding in a page: made here, with every text from records as outlines or escaped."""
        return markupsafe.Markup(inlined(self.svg.decode("utf-8"), self.name, self.title))


_TIPS: WeakKeyDictionary[Figure, list[str]] = WeakKeyDictionary()


def tip(artist: Artist, text: str) -> None:
    """What a part of a figure says when pointed at."""
    figure = artist.figure
    assert isinstance(figure, Figure)
    texts = _TIPS.setdefault(figure, [])
    artist.set_gid(f"tip-{len(texts)}")
    texts.append(text)


def tip_at(axes: Axes, x: float, y: float, text: str) -> None:
    """The same for a point of a line: a wide spot that is not seen."""
    (spot,) = axes.plot([x], [y], "o", markersize=13, alpha=0, scalex=False, scaley=False)
    tip(spot, text)


def canvas(height: float, *, left: float, right: float, top: float, bottom: float) -> Figure:
    """A figure of the common width with margins in inches: far quicker than an automatic layout."""
    figure = Figure(figsize=(WIDTH, height))
    figure.subplots_adjust(
        left=left / WIDTH, right=1 - right / WIDTH, top=1 - top / height, bottom=bottom / height
    )
    return figure


def panels(rows: int, columns: int, wspace: float) -> tuple[Figure, Any]:
    """A figure with rows of panels under a legend, and its axes as an array [rows, columns]."""
    panel, gap, top = 2.5, 0.85, 0.75  # inches
    figure = canvas(top + (panel + gap) * rows - gap + 0.5, left=0.72, right=0.12, top=top, bottom=0.5)
    spaces = {"hspace": gap / panel, "wspace": wspace}
    return figure, figure.subplots(rows, columns, squeeze=False, gridspec_kw=spaces)


def text_width(texts: Sequence[str], points: float = 8.5) -> float:
    """Inches that the longest of some texts takes at most; DejaVu Sans is about 0.62 em wide."""
    return max(len(text) for text in texts) * 0.62 * points / 72


def legend(figure: Figure, handles: Sequence[Any], columns: int) -> None:
    """The legend at the top left corner."""
    height = figure.get_figheight()
    figure.legend(
        handles=handles, loc="upper left", bbox_to_anchor=(0.1 / WIDTH, 1 - 0.04 / height), ncols=columns
    )


def styled() -> Any:
    """The context in which figures are made and saved."""
    return matplotlib.rc_context(RC)


def picture(name: str, title: str, caption: str, figure: Figure) -> Picture:
    """Renders a figure. Neither file holds a date or a program's version."""
    svg, png = io.BytesIO(), io.BytesIO()
    figure.savefig(svg, format="svg", metadata={"Date": None, "Creator": None})
    options = {"compress_level": 4}
    figure.savefig(png, format="png", dpi=PNG_DPI, metadata={"Software": None}, pil_kwargs=options)
    text = with_tips(svg.getvalue().decode("utf-8"), _TIPS.get(figure, []))
    return Picture(name, title, caption, text.encode("utf-8"), png.getvalue())


def plain_number(value: float, _position: object = None) -> str:
    """A tick's text without exponents: 0.5, 200, 10k, 3M."""
    for factor, suffix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= factor * 0.9999999:
            return f"{value / factor:g}{suffix}"
    return f"{value:g}"


def log_ticks(axes: Axes, which: str, low: float, high: float) -> None:
    """A logarithmic axis from `low` to `high` with plain numbers; fewer decades get more ticks."""
    axis = axes.xaxis if which == "x" else axes.yaxis
    (axes.set_xscale if which == "x" else axes.set_yscale)("log")
    (axes.set_xlim if which == "x" else axes.set_ylim)(low, high)
    span = high / low
    multiples = (1, 1.5, 2, 3, 4, 5, 6, 8) if span < 8 else (1, 2, 5) if span < 300 else (1,)
    axis.set_major_locator(LogLocator(base=10, subs=multiples, numticks=20))
    axis.set_major_formatter(FuncFormatter(plain_number))
    axis.set_minor_locator(NullLocator())
    axis.set_minor_formatter(NullFormatter())


def value_ticks(axes: Axes, values: Sequence[int]) -> None:
    """A logarithmic x axis that is labelled at the measured values alone."""
    axes.set_xscale("log", base=2)
    axes.set_xticks(list(values), [plain_number(value) for value in values])
    axes.xaxis.set_minor_locator(NullLocator())
    margin = 1.18
    axes.set_xlim(values[0] / margin, values[-1] * margin)
