"""An analysed trace as tables, for a terminal, Markdown, CSV and pages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tandem_reports import formats
from tandem_reports.reading.profiles import Measured
from tandem_reports.stats.trace_analysis import (
    GAP_REASONS,
    Analysis,
    Difference,
    Row,
    kernel_differences,
    phase_differences,
)
from tandem_reports.views.export import csv_text, number
from tandem_reports.views.text import aligned, markdown_table

MOST_KERNELS = 24
MOST_DIFFERENCES = 20
MEMORY_TOLERANCE = 0.1
REPLAY = "replay"
"""The range of the counters that is a whole replay."""


@dataclass(frozen=True)
class Grid:
    """A table as text: `numeric` says which columns are numbers."""

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    numeric: range
    note: str = ""


def _share(part: float, whole: float) -> str:
    return formats.percent(part / whole, 1) if whole else formats.MISSING


def _per_step(analysis: Analysis) -> float:
    return float(analysis.trace.steps)


def unit(analysis: Analysis) -> str:
    """What the times of the tables are of."""
    if analysis.trace.steps > 1:
        return f"one replay of {analysis.trace.steps} steps"
    return "one replay"


OVERLAP_LEAST_US = 5e-4
"""Overlaps under this are not shown: tables have four digits."""
BESIDE = "beside others (µs)"
BESIDE_NOTE = (
    "Launches × mean = busy + beside others: an instant in which several run is busy time of the one that "
    "started first."
)


def _beside(rows: Sequence[Row]) -> bool:
    return any(row.beside_us >= OVERLAP_LEAST_US for row in rows)


def as_traced(analysis: Analysis) -> str:
    """What the times of the tables are, where tracing changed them: they are scaled by nothing."""
    slower = slowdown(analysis)
    if slower is None:
        return f"Times are of {unit(analysis)}."
    change = formats.change(slower)
    return f"Times are of {unit(analysis)} as traced, {change} against untraced; nothing is scaled."


def slowdown(analysis: Analysis) -> float | None:
    """Time of a traced replay over an untraced one."""
    untraced = analysis.trace.untraced_us
    return analysis.event_us / untraced if untraced and analysis.event_us else None


def phase_grid(analysis: Analysis, measured: Mapping[str, Measured] | None = None) -> Grid:
    """Busy time by phase, with rates and the distance to the phase's floor. `measured`: by phase name."""
    with_cost = any(row.cost is not None for row in analysis.phases)
    beside = _beside([row.row for row in analysis.phases])
    header = ["phase", "busy (µs)", "share", *([BESIDE] if beside else []), "launches"]
    if with_cost:
        header += ["TB/s counted"]
    if measured:
        header += ["TB/s measured", "bytes measured/counted"]
    if with_cost:
        header += ["TFLOP/s", "floor (µs)", "× floor"]
    rows = []
    for row in analysis.phases:
        cells = [
            row.name, formats.micros(row.row.busy_us), _share(row.row.busy_us, analysis.busy_us),
            *([formats.micros(row.row.beside_us)] if beside else []), formats.launches(row.row.launches),
        ]  # fmt: skip
        if with_cost:
            cells += [formats.significant(row.tb_per_s, 3)]
        if measured:
            found = measured.get(row.name)
            rate = found.bytes / row.row.busy_us * 1e-6 if found and row.row.busy_us else None
            counted = row.cost.bytes if row.cost else 0.0
            ratio = found.bytes / counted if found and counted else None
            cells += [formats.significant(rate, 3), formats.significant(ratio, 3)]
        if with_cost:
            floor = row.cost.floor_us if row.cost else None
            cells += [
                formats.significant(row.tflop_per_s, 3), formats.micros(floor) if floor else formats.MISSING,
                formats.ratio(row.floor_ratio),
            ]  # fmt: skip
        rows.append(tuple(cells))
    note = as_traced(analysis) + (f" {BESIDE_NOTE.replace('Launches × mean', 'Durations')}" if beside else "")
    return Grid("Phases", tuple(header), tuple(rows), range(1, len(header)), note)


def memory_lines(analysis: Analysis, measured: Mapping[str, Measured]) -> list[str]:
    """What a replay moved through device memory beside what was counted; over 10 % apart, where they part."""
    whole = measured.get(REPLAY)
    counted = sum(cost.bytes for cost in analysis.trace.cost.values())
    if whole is None or not counted:
        return []
    ratio = whole.bytes / counted
    line = (
        f"Device memory in a replay: {formats.scaled(whole.bytes, 'B')} by counters, "
        f"{formats.scaled(counted, 'B')} counted ({formats.change(ratio)})"
    )
    if abs(ratio - 1) <= MEMORY_TOLERANCE:
        return [line + "."]
    apart = {
        f"{side} {phase}": measured[f"{side} {phase}"].bytes - cost.bytes
        for (side, phase), cost in analysis.trace.cost.items()
        if f"{side} {phase}" in measured
    }
    if not apart:
        return [line + "."]
    most = max(apart, key=lambda name: (abs(apart[name]), name))
    kind = "more" if apart[most] > 0 else "less"
    return [
        f"{line}; {most} carries most of it: {formats.scaled(abs(apart[most]), 'B')} {kind} than counted."
    ]


def gap_grid(analysis: Analysis) -> Grid:
    """Gaps by their reason."""
    rows = tuple(
        (reason, formats.micros(us), _share(us, analysis.span_us))
        for reason in GAP_REASONS
        if (us := analysis.gaps_us[reason]) or reason != "unknown"
    )
    return Grid("Gaps", ("reason", "time (µs)", "of the span"), rows, range(1, 3))


def kernel_grid(analysis: Analysis, most: int = MOST_KERNELS) -> Grid:
    """Kernels by their busy time."""
    rows = []
    beside = _beside([row.row for row in analysis.kernels])
    for row in analysis.kernels[:most]:
        per_step = row.row.launches / _per_step(analysis)
        rows.append((
            row.name, row.phase, formats.launches(per_step), formats.micros(row.row.mean_us),
            formats.micros(row.row.busy_us), *([formats.micros(row.row.beside_us)] if beside else []),
            _share(row.row.busy_us, analysis.busy_us),
        ))  # fmt: skip
    notes = [BESIDE_NOTE] if beside else []
    if len(analysis.kernels) > most:
        rest = sum(row.row.busy_us for row in analysis.kernels[most:])
        notes.append(
            f"{len(analysis.kernels) - most} more take {_share(rest, analysis.busy_us)} of busy time."
        )
    if analysis.trace.steps > 1:
        notes.append(f"Launches are of a step, times of all {analysis.trace.steps} steps.")
    launches = "launches a step" if analysis.trace.steps > 1 else "launches"
    header = ("kernel", "phase", launches, "mean (µs)", "busy (µs)", *([BESIDE] if beside else []), "share")
    return Grid("Kernels", header, tuple(rows), range(2, len(header)), " ".join(notes))


def path_grid(analysis: Analysis) -> Grid:
    """What the end of a replay waited for."""
    rows = [
        (
            part.name,
            formats.micros(part.us),
            _share(part.us, analysis.span_us),
            formats.launches(part.links),
        )
        for part in analysis.path
    ]
    if analysis.path:
        waits = analysis.path_waits_us
        rows.append(("waits between", formats.micros(waits), _share(waits, analysis.span_us), ""))
    header = ("phase", "on the path (µs)", "of the span", "activities")
    return Grid("Critical path", header, tuple(rows), range(1, 4))


def _by_events(event_us: float, span_us: float) -> str:
    apart = event_us - span_us
    return (
        f"; by CUDA events {formats.micros(event_us)} µs, {formats.micros(abs(apart))} µs "
        f"{'more' if apart >= 0 else 'less'}: when an event happens is not in a trace"
    )


def summary_lines(analysis: Analysis) -> list[str]:
    """What a reader must know first."""
    trace = analysis.trace
    place = [
        f"{word} {value}"
        for word, value in (("process", trace.process), ("device", trace.device))
        if value is not None
    ]
    lines = [f"{trace.title} ({', '.join([trace.source, f'{trace.level} level', *place])})"]
    if not analysis.replays:
        return [*lines, "Nothing ran on the device in this trace."]
    slower = slowdown(analysis)
    if slower is not None:
        lines.append(
            f"Tracing changed the time of a replay by {formats.change(slower)}, from "
            f"{formats.micros(trace.untraced_us)} to {formats.micros(analysis.event_us)} µs; "
            "all times below are as traced."
        )
    lines.append(
        f"{formats.plural(analysis.replays, 'replay')}, {formats.launches(analysis.launches)} activities "
        f"each: busy {formats.micros(analysis.busy_us)} µs + gaps {formats.micros(analysis.idle_us)} µs = "
        f"span {formats.micros(analysis.span_us)} µs"
        + ("" if analysis.event_us is None else _by_events(analysis.event_us, analysis.span_us))
    )
    if analysis.attributed is not None:
        lines.append(f"{formats.percent(analysis.attributed, 2)} of busy time belongs to a named phase.")
        for orphan in analysis.orphans[:3]:
            lines.append(f"without a phase: {orphan.name}, {formats.micros(orphan.row.busy_us)} µs")
    if analysis.communication_us:
        hidden = 1 - analysis.exposed_us / analysis.communication_us
        lines.append(
            f"communication {formats.micros(analysis.communication_us)} µs, "
            f"{formats.percent(hidden, 1)} of it beside other work"
        )
    if not trace.complete:
        lines.append(
            f"INCOMPLETE: {trace.dropped} records dropped, {trace.untimed} without a time, "
            f"{trace.missing} missing."
        )
    return [*lines, *trace.notes]


def difference_grid(title: str, rows: Sequence[Difference], most: int = MOST_DIFFERENCES) -> Grid:
    """Two profiles side by side."""

    def launches(row: Difference) -> str:
        sides = [formats.launches(value) for value in (row.a_launches, row.b_launches)]
        return sides[0] if sides[0] == sides[1] else " → ".join(sides)

    cells = tuple(
        (
            row.name,
            formats.micros(row.a_us),
            formats.micros(row.b_us),
            f"{row.change_us:+.3f}".replace("-", "−"),
            launches(row),
        )
        for row in rows[:most]
    )
    note = f"{len(rows) - most} more changed less." if len(rows) > most else ""
    return Grid(title, ("name", "A (µs)", "B (µs)", "B − A (µs)", "launches"), cells, range(1, 5), note)


def grids(analysis: Analysis, measured: Mapping[str, Measured] | None = None) -> list[Grid]:
    """All tables of one trace that have rows."""
    if analysis.trace.level == "graph":
        found = [gap_grid(analysis)]
    else:
        found = [
            phase_grid(analysis, measured), kernel_grid(analysis), gap_grid(analysis), path_grid(analysis)
        ]  # fmt: skip
    return [grid for grid in found if grid.rows]


def comparison_grids(a: Analysis, b: Analysis) -> list[Grid]:
    """Where two profiles differ."""
    return [
        difference_grid("Where the difference sits", phase_differences(a, b)),
        difference_grid("Kernels", kernel_differences(a, b)),
    ]


def terminal(lines: Sequence[str], tables: Sequence[Grid]) -> str:
    """Plain text."""
    parts = ["\n".join(lines)]
    for grid in tables:
        body = aligned([list(grid.header), *(list(row) for row in grid.rows)], grid.numeric)
        parts.append(
            "\n".join([grid.title, *(f"  {line}" for line in body), *([grid.note] if grid.note else [])])
        )
    return "\n\n".join(parts) + "\n"


def markdown(lines: Sequence[str], tables: Sequence[Grid]) -> str:
    """Markdown."""
    parts = ["\n\n".join(lines)]
    for grid in tables:
        body = markdown_table(grid.header, [list(row) for row in grid.rows], grid.numeric)
        parts.append("\n".join([f"### {grid.title}", "", *body, *(["", grid.note] if grid.note else [])]))
    return "\n\n".join(parts) + "\n"


def kernels_csv(analysis: Analysis) -> str:
    """Every kernel of every phase, for other tools."""
    rows: list[list[object]] = [
        [
            row.phase, row.name, number(row.row.launches), number(row.row.mean_us), number(row.row.busy_us),
            number(row.row.busy_us / analysis.busy_us if analysis.busy_us else None),
        ]
        for row in analysis.kernels
    ]  # fmt: skip
    return csv_text(["phase", "kernel", "launches", "mean_us", "busy_us", "share"], rows)
