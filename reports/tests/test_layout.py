"""The rooms of tandem_reports: each package imports those before it in ORDER and the modules of BASE."""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

import tandem_reports

ROOT = Path(tandem_reports.__file__).parent
ORDER = ("reading", "stats", "gate", "views", "commands")
BASE = ("errors", "formats")
ENTRY = ("cli", "__main__")
MOST_MODULES = 20

RANKS = (
    dict.fromkeys(BASE, 0)
    | {name: rank for rank, name in enumerate(ORDER, 1)}
    | dict.fromkeys(ENTRY, len(ORDER) + 1)
)


def rank(module: str) -> int:
    """Where a dotted name stands. What the root itself defines, such as __version__, is of the base."""
    parts = module.split(".")
    return RANKS.get(parts[1], 0) if len(parts) > 1 else 0


def imported(source: str) -> Iterator[tuple[int, str]]:
    """Line and dotted name of each import, wherever in the source; a relative name begins with a dot."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            start = "." * node.level + (node.module or "")
            yield from ((node.lineno, f"{start}.{alias.name}") for alias in node.names)


def breaches(module: str, source: str) -> list[str]:
    """The imports that a module of this source may not have."""
    found = []
    for line, name in imported(source):
        if name.startswith("."):
            found.append(f"{module}:{line}: imports a relative name, {name}")
        elif name.split(".")[0] == "tandem_reports" and rank(name) > rank(module):
            found.append(f"{module}:{line}: may not import {name}")
    return found


def modules() -> dict[str, Path]:
    """Every module by its dotted name."""
    files = sorted(ROOT.rglob("*.py"))
    return {
        ".".join(("tandem_reports", *file.relative_to(ROOT).with_suffix("").parts)): file for file in files
    }


# Breaks when a package imports one that stands to its right: what is read would know how it is shown.
def test_packages_import_to_the_left() -> None:
    found = modules()
    assert len(found) > 40
    assert [text for name, file in found.items() for text in breaches(name, file.read_text())] == []


# Breaks when the checker overlooks an import: in a function, of a package, of several names, relative.
@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("reading.runs", "from tandem_reports.views import page"),
        ("reading.runs", "from tandem_reports.stats.cases import collect"),
        ("stats.cases", "import tandem_reports.gate.verdicts"),
        ("gate.verdicts", "from tandem_reports import formats, views"),
        ("views.figures.style", "def later():\n    from tandem_reports.commands import console"),
        ("errors", "from tandem_reports.reading.runs import Run"),
        ("commands.gate", "from tandem_reports.cli import main"),
        ("views.page", "from . import tables"),
    ],
)
def test_refuses_an_upward_import(module: str, source: str) -> None:
    assert len(breaches(f"tandem_reports.{module}", source)) == 1


# Breaks when the checker refuses what is right.
@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("views.page", "from tandem_reports.reading.runs import Run"),
        ("views.page", "from tandem_reports import __version__, formats"),
        ("views.page", "from tandem_reports.views.figures.style import Picture"),
        ("reading.runs", "import json\nfrom tandem_reports.errors import ReportError"),
    ],
)
def test_allows_an_import_to_the_left(module: str, source: str) -> None:
    assert breaches(f"tandem_reports.{module}", source) == []


# Breaks when a module is left in the root, or a package is made that has no place in ORDER.
def test_every_module_has_a_room() -> None:
    assert {path.stem for path in ROOT.glob("*.py")} == {"__init__", *BASE, *ENTRY}
    assert {path.parent.name for path in ROOT.glob("*/*.py")} == set(ORDER)


# Breaks when a folder outgrows what a reader takes in; one that does wants to be two.
def test_no_folder_is_crowded() -> None:
    counts = Counter(str(file.parent.relative_to(ROOT)) for file in modules().values())
    assert {folder: count for folder, count in counts.items() if count > MOST_MODULES} == {}
