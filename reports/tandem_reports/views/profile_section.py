"""The part of a report page about profiles: each profiled case, and what two runs differ in."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from tandem_reports import formats
from tandem_reports.errors import ReportError
from tandem_reports.reading.profiles import Measured, Profile, read_profiles, trace_of
from tandem_reports.reading.runs import Run
from tandem_reports.stats.trace_analysis import Analysis, analyse
from tandem_reports.views import trace_grids
from tandem_reports.views.figures.phases import phase_bars, roofline, timeline
from tandem_reports.views.figures.style import Picture
from tandem_reports.views.tables import Cell, Column, Row, Table
from tandem_reports.views.trace_grids import Grid

SHAPED = 5
"""Parts of a case's name up to its lengths."""
NARROW = 6
"""Columns of a table that a narrow page has room for."""
MAX_DETAILED = 12
"""Cases shown with figures and tables of their own; all are in the overview."""


@dataclass(frozen=True)
class Sheet:
    """A table of the section with its title."""

    title: str
    table: Table
    note: str


@dataclass(frozen=True)
class ProfiledCase:
    """One case in detail."""

    anchor: str
    title: str
    lines: tuple[str, ...]
    pictures: tuple[Picture, ...]
    sheets: tuple[Sheet, ...]


@dataclass(frozen=True)
class ProfileSection:
    """Everything about profiles on a page."""

    overview: Table
    bars: Picture | None
    cases: tuple[ProfiledCase, ...]
    differences: tuple[Sheet, ...]
    pictures: tuple[Picture, ...]
    left_out: int


def _sheet(grid: Grid) -> Sheet:
    columns = tuple(
        Column(
            title,
            TERMS.get(title, ""),
            numeric=place in grid.numeric,
            place="wide" if len(grid.header) > NARROW and place >= NARROW - 1 else "row",
        )
        for place, title in enumerate(grid.header)
    )
    rows = tuple(
        Row(row[0], tuple(Cell(text, css="" if len(text) < 30 else "mono name") for text in row))
        for row in grid.rows
    )
    return Sheet(grid.title, Table(columns, rows), grid.note)


TERMS = {
    "busy (µs)": "busy", "TB/s counted": "phase-rate", "TFLOP/s": "phase-rate",
    "TB/s measured": "measured-bytes", "bytes measured/counted": "measured-bytes", "× floor": "phase-floor",
    "reason": "gaps", "on the path (µs)": "path",
}  # fmt: skip


@dataclass(frozen=True)
class _Entry:
    run: Run
    profile: Profile
    analysis: Analysis
    measured: dict[str, Measured] | None


def _percent(value: float | None) -> str:
    return formats.MISSING if value is None else formats.change(1 + value)


def _overview(runs: Sequence[Run], profiles: Sequence[dict[tuple[str, str], Profile]]) -> Table:
    columns = (
        Column("run", numeric=False), Column("case", numeric=False), Column("pass", numeric=False),
        Column("status", numeric=False), Column("busy (µs)", "busy"),
        Column("gaps (µs)", "gaps", place="wide"),
        Column("by events (µs)", "busy", place="wide"), Column("attributed", "attributed", place="wide"),
        Column("slow-down", "slowdown", place="wide"), Column("J/token", "energy", place="wide"),
        Column("W", "energy", place="wide"),
    )  # fmt: skip
    rows = []
    for run, found in zip(runs, profiles, strict=True):
        for profile in sorted(found.values(), key=lambda p: (_natural(p.name), p.kind)):
            good = profile.status == "ok"
            cells = (
                Cell(run.label), Cell(profile.name, css="mono name"), Cell(profile.kind),
                Cell(profile.status, sub="" if good else profile.reason or "", bad=not good),
                Cell(formats.micros(profile.busy_us)), Cell(formats.micros(profile.gaps_us)),
                Cell(formats.micros(profile.event_us)), Cell(formats.percent(profile.attributed, 2)),
                Cell(_percent(profile.slowdown), sub="" if profile.slowdown_timed is None else
                     f"{_percent(profile.slowdown_timed)} beside the timed one"),
                Cell(formats.significant(profile.joules_per_token, 3)),
                Cell(formats.significant(profile.watts, 3)),
            )  # fmt: skip
            rows.append(Row(profile.name, cells))
    return Table(columns, tuple(rows))


def _short(names: Sequence[str]) -> list[str]:
    """Case names without the axes that all of them share; of one case its suite, model and shape."""
    split = [name.split("/") for name in names]
    if len(split) == 1:
        return [" ".join(split[0][:SHAPED])]
    shared = set.intersection(*map(set, split))
    return [" ".join(part for part in parts if part not in shared) or parts[0] for parts in split]


def _natural(name: str) -> list[tuple[int, str]]:
    """Sorts batch:8 before batch:64."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]


def _entries(
    runs: Sequence[Run], profiles: Sequence[dict[tuple[str, str], Profile]], warnings: list[str]
) -> list[_Entry]:
    entries = []
    for run, found in zip(runs, profiles, strict=True):
        for (case_id, kind), profile in sorted(found.items(), key=lambda item: _natural(item[1].name)):
            if kind != "node" or profile.trace is None:
                continue
            try:
                analysis = analyse(trace_of(run.path, profile))
            except ReportError as error:
                warnings.append(str(error))
                continue
            counters = found.get((case_id, "counters"))
            measured = dict(counters.measured) if counters and counters.measured else None
            entries.append(_Entry(run, profile, analysis, measured))
    return entries


def rank_lines(profile: Profile) -> list[str]:
    """A line for every other rank: the tables show rank 0's device."""
    lines = []
    for rank in profile.ranks:
        words = [f"busy {formats.micros(rank.busy_us)} µs"]
        if rank.communication_us is not None:
            words.append(f"{formats.micros(rank.communication_us)} µs of it communication")
        if rank.status != "ok":
            words.append(rank.status)
        lines.append(
            f"Rank {rank.rank}, on a device of its own: {', '.join(words)}; its trace is {rank.trace}."
        )
    return lines


def _case(entry: _Entry, number: int, label: str) -> ProfiledCase:
    title = f"{entry.profile.name}{label}"
    drawn = (
        roofline(f"roofline-{number}", "Phases under the roofline", entry.analysis, entry.measured),
        timeline(f"timeline-{number}", "Timeline", entry.analysis),
    )
    grids = trace_grids.grids(entry.analysis, entry.measured)
    return ProfiledCase(
        anchor=f"profile-{number}",
        title=title,
        lines=(
            *trace_grids.summary_lines(entry.analysis)[1:],
            *trace_grids.memory_lines(entry.analysis, entry.measured or {}),
            *rank_lines(entry.profile),
        ),
        pictures=tuple(figure for figure in drawn if figure is not None),
        sheets=tuple(_sheet(grid) for grid in grids),
    )


def _differences(runs: Sequence[Run], entries: Sequence[_Entry]) -> list[Sheet]:
    """For each case that the first two runs profiled: where they differ."""
    if len(runs) < 2:
        return []
    sheets = []
    a = {entry.profile.case_id: entry for entry in entries if entry.run is runs[0]}
    for other in (entry for entry in entries if entry.run is runs[1]):
        first = a.get(other.profile.case_id)
        if first is not None:
            for grid in trace_grids.comparison_grids(first.analysis, other.analysis):
                sheet = _sheet(grid)
                title = f"{other.profile.name}: {grid.title.lower()}"
                sheets.append(Sheet(title, sheet.table, sheet.note))
    return sheets


def build(runs: Sequence[Run]) -> tuple[ProfileSection | None, list[str]]:
    """The section, and warnings about what could not be read; None where no run was profiled."""
    profiles, warnings = [], []
    for run in runs:
        found, said = read_profiles(run.path)
        profiles.append(found)
        warnings += said
    if not any(profiles):
        return None, warnings
    entries = _entries(runs, profiles, warnings)
    several = len({entry.run.label for entry in entries}) > 1
    labels = [f" ({entry.run.label})" if several else "" for entry in entries]
    short = _short([entry.profile.name for entry in entries])
    bars = phase_bars(
        "profile-phases",
        [(name + label, e.analysis) for name, label, e in zip(short, labels, entries, strict=True)],
    )
    cases = [
        _case(entry, number, label)
        for number, (entry, label) in enumerate(zip(entries, labels, strict=True), start=1)
        if number <= MAX_DETAILED
    ]
    pictures = ([bars] if bars else []) + [figure for case in cases for figure in case.pictures]
    section = ProfileSection(
        overview=_overview(runs, profiles),
        bars=bars,
        cases=tuple(cases),
        differences=tuple(_differences(runs, entries)),
        pictures=tuple(pictures),
        left_out=len(entries) - len(cases),
    )
    return section, warnings
