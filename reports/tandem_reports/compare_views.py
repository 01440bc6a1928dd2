"""A comparison as text: for the terminal, as Markdown, as CSV."""

from __future__ import annotations

from collections.abc import Sequence

from tandem_reports import formats
from tandem_reports.comparison import STATUSES, Comparison, Lost, Pair, interval_text
from tandem_reports.export import csv_text, number
from tandem_reports.labels import AXIS_ORDER, common_text, short_name, split_axes
from tandem_reports.overview import conditions, environment_table, machine

COLOURS = {"slower": "\033[33m", "faster": "\033[36m", "same": "\033[32m"}
HEADER = ("case", "A (µs)", "B (µs)", "B/A", "change", "95 % interval", "status", "note")
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


def _names(comparison: Comparison) -> tuple[list[str], str]:
    cases = [pair.case for pair in comparison.pairs]
    varying, common = split_axes(cases)
    suites = {case.suite for case in cases}
    prefix = len(suites) > 1 or not varying
    names = [
        f"{c.suite} {short_name(c, varying)}" if prefix and varying else short_name(c, varying) for c in cases
    ]
    shared = common_text(cases, common)
    return names, shared if len(suites) > 1 or not suites else f"suite {suites.pop()}, {shared}"


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


def _sides(comparison: Comparison) -> list[str]:
    lines = []
    for name, run in (("A", comparison.a), ("B", comparison.b)):
        lines.append(f"{name}  {run.label}: {machine(run.environment)}, {conditions(run.environment)}")
    return lines


def differing(comparison: Comparison) -> list[str]:
    """Lines of the environments in which the runs differ."""
    lines = environment_table([comparison.a, comparison.b])
    return [f"{line.name}: {line.values[0]} → {line.values[1]}" for line in lines if line.differs]


def _lost_lines(title: str, lost: Sequence[Lost]) -> list[str]:
    return [title, *(f"  {item.case.name}  {item.text}" for item in lost)] if lost else []


def terminal(comparison: Comparison, colour: bool) -> str:
    """An aligned table; `colour` adds escape sequences to the statuses."""
    names, shared = _names(comparison)
    rows = [
        list(HEADER),
        *([name, *_cells(pair)] for name, pair in zip(names, comparison.pairs, strict=True)),
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEADER))]
    lines = _sides(comparison)
    lines += [f"   all cases: {shared}"] if shared else []
    lines.append("")
    for row in rows:
        left = row[0].ljust(widths[0])
        numbers = [row[column].rjust(widths[column]) for column in range(1, 6)]
        status = row[6].ljust(widths[6])
        if colour and row[6] in COLOURS:
            status = f"{COLOURS[row[6]]}{status}\033[0m"
        lines.append("  ".join([left, *numbers, status, row[7]]).rstrip())
    lines.append("")
    lines += _lost_lines("Measured in A, not in B:", comparison.lost)
    lines += _lost_lines("Measured in B, not in A:", comparison.gained)
    lines.append(counts_text(comparison) + ".")
    lines.append(CAVEAT)
    return "\n".join(lines) + "\n"


def _escape(text: str) -> str:
    return text.replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;").replace("`", "\\`")


def markdown(comparison: Comparison) -> str:
    """Tables that GitHub and others render."""
    names, shared = _names(comparison)
    lines = [f"### {_escape(comparison.b.label)} over {_escape(comparison.a.label)}", ""]
    lines += [f"- {_escape(side)}" for side in _sides(comparison)]
    lines += [f"- all cases: {_escape(shared)}"] if shared else []
    lines += ["", f"**{counts_text(comparison)}**", ""]
    lines.append("| " + " | ".join(HEADER) + " |")
    lines.append("| --- | ---: | ---: | ---: | ---: | ---: | --- | --- |")
    for name, pair in zip(names, comparison.pairs, strict=True):
        lines.append("| " + " | ".join(_escape(cell) for cell in (name, *_cells(pair))) + " |")
    for title, lost in (
        ("Measured in A, not in B", comparison.lost),
        ("Measured in B, not in A", comparison.gained),
    ):
        if lost:
            lines += ["", f"{title}:", ""]
            lines += [f"- `{item.case.name}` {_escape(item.text)}" for item in lost]
    changed = differing(comparison)
    if changed:
        lines += ["", "<details><summary>What differs between the environments</summary>", ""]
        lines += [f"- {_escape(line)}" for line in changed]
        lines += ["", "</details>"]
    lines += ["", f"<sub>{CAVEAT}</sub>"]
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
