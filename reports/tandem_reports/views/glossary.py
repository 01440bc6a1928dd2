"""What every number of a page means, with its formula: glossary.toml, read."""

from __future__ import annotations

import functools
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Term:
    """One entry; `key` is its anchor in a page."""

    key: str
    name: str
    formula: str = ""
    meaning: str = ""


@functools.cache
def terms() -> Mapping[str, tuple[Term, ...]]:
    """The entries of each kind of page, in the order they are shown."""
    with (Path(__file__).parent / "glossary.toml").open("rb") as file:
        groups = tomllib.load(file)
    return {group: tuple(Term(**entry) for entry in entries) for group, entries in groups.items()}
