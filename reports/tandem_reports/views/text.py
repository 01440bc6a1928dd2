"""Tables as text, for terminals and as Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tandem_reports.reading.records import Case
from tandem_reports.reading.runs import Run
from tandem_reports.views.labels import common_text, short_name, split_axes
from tandem_reports.views.overview import conditions, machine


def names(cases: Sequence[Case]) -> tuple[list[str], str]:
    """A short name for each case, and what all of them share."""
    varying, common = split_axes(cases)
    short = [f"{case.suite} {short_name(case, varying)}" if varying else case.suite for case in cases]
    return short, common_text(cases, common)


def sides(a: Run, b: Run) -> list[str]:
    """One line about each of two runs."""
    return [
        f"{name}  {run.label}: {machine(run.environment)}, {conditions(run.environment)}"
        for name, run in (("A", a), ("B", b))
    ]


def aligned(
    rows: Sequence[Sequence[str]], numeric: range, colours: Mapping[str, int] | None = None
) -> list[str]:
    """Lines of a table whose first row is its header; `colours` gives an ANSI colour to cells that say so."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = []
        for column, cell in enumerate(row):
            padded = cell.rjust(widths[column]) if column in numeric else cell.ljust(widths[column])
            code = (colours or {}).get(cell)
            cells.append(padded if code is None else f"\033[{code}m{padded}\033[0m")
        lines.append("  ".join(cells).rstrip())
    return lines


def escape(text: str) -> str:
    """Text for a Markdown table's cell."""
    return text.replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;").replace("`", "\\`")


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]], numeric: range) -> list[str]:
    """Lines of a Markdown table."""
    ruler = ["---:" if column in numeric else "---" for column in range(len(header))]
    lines = [f"| {' | '.join(header)} |", f"| {' | '.join(ruler)} |"]
    return [*lines, *(f"| {' | '.join(map(escape, row))} |" for row in rows)]
