"""A comparison as text: for the terminal, as Markdown, as CSV."""

from __future__ import annotations

from collections.abc import Sequence

from tandem_reports import formats
from tandem_reports.gate.comparison import STATUSES, Comparison, Lost, Pair, interval_text
from tandem_reports.gate.sessions import SessionRisk
from tandem_reports.views.export import csv_text, number
from tandem_reports.views.labels import AXIS_ORDER
from tandem_reports.views.overview import environment_table
from tandem_reports.views.text import aligned, escape, markdown_table, names, sides

COLOURS = {"slower": 33, "inaccurate": 33, "faster": 36, "same": 32}
HEADER = ("case", "A (µs)", "B (µs)", "B/A", "change", "95 % interval", "status", "note")
NUMERIC = range(1, 6)
CAVEAT = (
    "Runs made one after the other: drift between them is not in the intervals. Ratio: medians over workers' "
    "medians. Interval: Mann-Whitney, unpaired."
)


def counts_text(comparison: Comparison) -> str:
    """How many cases have which status, in words."""
    words = [f"{comparison.count(status)} {status}" for status in STATUSES if comparison.count(status)]
    words += [f"{len(comparison.lost)} only in A"] if comparison.lost else []
    words += [f"{len(comparison.gained)} only in B"] if comparison.gained else []
    return ", ".join(words)


def _cells(pair: Pair) -> list[str]:
    ratio = pair.ratio
    return [
        formats.micros(pair.a.median_us),
        formats.micros(pair.b.median_us),
        formats.MISSING if ratio is None else f"{ratio:.4f}",
        formats.MISSING if ratio is None else formats.change(ratio),
        interval_text(pair.interval),
        pair.status,
        pair.note,
    ]


def differing(comparison: Comparison) -> list[str]:
    """Lines of the environments in which the runs differ."""
    lines = environment_table([comparison.a, comparison.b])
    return [f"{line.name}: {line.values[0]} → {line.values[1]}" for line in lines if line.differs]


def _lost_lines(title: str, lost: Sequence[Lost]) -> list[str]:
    return [title, *(f"  {item.case.name}  {item.text}" for item in lost)] if lost else []


def _rows(comparison: Comparison, short: Sequence[str]) -> list[list[str]]:
    return [[name, *_cells(pair)] for name, pair in zip(short, comparison.pairs, strict=True)]


def terminal(comparison: Comparison, colour: bool, risk: SessionRisk | None = None) -> str:
    """An aligned table; `colour` adds escape sequences to the statuses, `risk` says what sessions can do."""
    short, shared = names([pair.case for pair in comparison.pairs])
    lines = sides(comparison.a, comparison.b)
    lines += [f"   all cases: {shared}"] if shared else []
    table = [list(HEADER), *_rows(comparison, short)]
    lines += ["", *aligned(table, NUMERIC, COLOURS if colour else None), ""]
    lines += _lost_lines("Measured in A, not in B:", comparison.lost)
    lines += _lost_lines("Measured in B, not in A:", comparison.gained)
    lines.append(counts_text(comparison) + ".")
    lines.append(CAVEAT)
    lines += [risk.text] if risk is not None else []
    return "\n".join(lines) + "\n"


def markdown(comparison: Comparison, risk: SessionRisk | None = None) -> str:
    """Tables that GitHub and others render."""
    short, shared = names([pair.case for pair in comparison.pairs])
    lines = [f"### {escape(comparison.b.label)} over {escape(comparison.a.label)}", ""]
    lines += [f"- {escape(side)}" for side in sides(comparison.a, comparison.b)]
    lines += [f"- all cases: {escape(shared)}"] if shared else []
    lines += ["", f"**{counts_text(comparison)}**", ""]
    lines += markdown_table(HEADER, _rows(comparison, short), NUMERIC)
    for title, lost in (
        ("Measured in A, not in B", comparison.lost),
        ("Measured in B, not in A", comparison.gained),
    ):
        if lost:
            lines += ["", f"{title}:", ""]
            lines += [f"- `{item.case.name}` {escape(item.text)}" for item in lost]
    changed = differing(comparison)
    if changed:
        lines += ["", "<details><summary>What differs between the environments</summary>", ""]
        lines += [f"- {escape(line)}" for line in changed]
        lines += ["", "</details>"]
    said = f"{CAVEAT} {risk.text}" if risk is not None else CAVEAT
    lines += ["", f"<sub>{said}</sub>"]
    return "\n".join(lines) + "\n"


def comparison_csv(comparisons: Sequence[Comparison]) -> str:
    """One row a pair, unrounded; cases of one side alone have an empty other side."""
    header = ["run_a", "run_b", "id", "name", "suite", *AXIS_ORDER]
    header += [
        "workers_a",
        "workers_b",
        "median_a_us",
        "median_b_us",
        "ratio",
        "interval_low",
        "interval_high",
    ]
    header += ["coverage", "status", "note"]
    rows: list[list[object]] = []
    for c in comparisons:
        for pair in c.pairs:
            interval = pair.interval
            row: list[object] = [c.a.label, c.b.label, pair.case.id, pair.case.name, pair.case.suite]
            row += [pair.case.axes[axis] for axis in AXIS_ORDER]
            row += [len(pair.a.ok), len(pair.b.ok), number(pair.a.median_us), number(pair.b.median_us)]
            row += [number(pair.ratio)]
            row += (
                ["", "", ""]
                if interval is None
                else [repr(interval.low), repr(interval.high), repr(interval.coverage)]
            )
            rows.append([*row, pair.status, pair.note])
        for side, lost in (("B", c.lost), ("A", c.gained)):
            for item in lost:
                row = [c.a.label, c.b.label, item.case.id, item.case.name, item.case.suite]
                row += [item.case.axes[axis] for axis in AXIS_ORDER]
                rows.append([*row, *[""] * 8, "", f"in {side}: {item.text}"])
    return csv_text(header, rows)
