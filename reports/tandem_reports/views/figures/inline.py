"""A figure's SVG as a part of a page: its colours follow the page's, its points say their values.

Files beside the page keep plain colours: only what stands in a page has variables, which not every viewer
knows.
"""

from __future__ import annotations

import re

COLOURS = {
    "#ffffff": "paper",
    "#1f2328": "ink",
    "#6a737d": "muted",
    "#e4e8ec": "line",
    "#aab2bb": "edge",
    "#d9dee4": "rest",
    "#404040": "strong",
    "#0072b2": "blue",
    "#d55e00": "red",
    "#009e73": "green",
    "#9b1c2c": "bad-ink",
}
"""Colours of figures that a page may turn round, with the variables of page.css that stand for them."""

_COLOUR = re.compile("|".join(COLOURS), re.IGNORECASE)
_IDS = re.compile(r'(\bid="|href="#|url\(#)([^")]+)')
_TIP = re.compile(r'<g id="tip-(\d+)">')


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace('"', "&quot;")


def with_tips(svg: str, tips: list[str]) -> str:
    """Gives each group that is named tip-N the N-th text as its title, which viewers show when pointed at."""

    def titled(match: re.Match[str]) -> str:
        return f'<g class="tip"><title>{_escaped(tips[int(match[1])])}</title>'

    return _TIP.sub(titled, svg)


def inlined(svg: str, name: str, title: str) -> str:
    """The SVG element alone: ids of its own, colours by variables, a label for screen readers."""
    svg = svg[svg.index("<svg ") :]
    svg = re.sub(r"<metadata>.*?</metadata>\s*", "", svg, flags=re.DOTALL)
    svg = _IDS.sub(lambda match: f"{match[1]}{name}.{match[2]}", svg)
    svg = _COLOUR.sub(lambda match: f"var(--{COLOURS[match[0].lower()]})", svg)
    size = re.match(r'<svg [^>]*?width="([\d.]+)pt" height="([\d.]+)pt"', svg)
    assert size is not None
    start = svg.index(">") + 1
    box = f"0 0 {size[1]} {size[2]}"
    label = f'role="img" aria-label="{_escaped(title)}"'
    return (
        f'<svg class="figure" viewBox="{box}" xmlns:xlink="http://www.w3.org/1999/xlink" {label}>'
        + svg[start:]
    )
