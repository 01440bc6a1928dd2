"""The report page: everything about one or several runs, put together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tandem_reports import __version__, formats
from tandem_reports.gate.collectives import collective_groups
from tandem_reports.gate.precisions import format_groups
from tandem_reports.gate.scaling import crossovers, pays, scaling_groups
from tandem_reports.reading.audit import SampleAudit
from tandem_reports.reading.records import MODEL_SUITES
from tandem_reports.reading.runs import Run
from tandem_reports.stats.cases import (
    MARKS,
    CaseResult,
    Mark,
    beats_floor,
    by_suite,
    collect,
    marks,
    telling_ratio,
)
from tandem_reports.views import glossary, page
from tandem_reports.views.export import case_csv
from tandem_reports.views.facts import facts
from tandem_reports.views.figures.curves import curves
from tandem_reports.views.figures.floors import floors
from tandem_reports.views.figures.footprints import footprints
from tandem_reports.views.figures.frontier import frontier
from tandem_reports.views.figures.kept import kept
from tandem_reports.views.figures.pareto import pareto
from tandem_reports.views.figures.scaling import scaling
from tandem_reports.views.figures.speedups import speedups
from tandem_reports.views.figures.spread import spread
from tandem_reports.views.figures.style import Picture
from tandem_reports.views.figures.ways import ways
from tandem_reports.views.growth import growth_table
from tandem_reports.views.overview import (
    SuiteOverview,
    conditions,
    environment_table,
    machine,
    numbers,
    problems,
    suite_overview,
)
from tandem_reports.views.precisions import losses_text
from tandem_reports.views.profile_section import ProfileSection
from tandem_reports.views.scaling import (
    collective_texts,
    crossover_texts,
    model_note,
    model_table,
    pays_texts,
)
from tandem_reports.views.tables import Cell, Column, Row, Table, case_table


@dataclass(frozen=True)
class Section:
    """One suite of a page."""

    suite: str
    title: str
    table: Table | None
    figures: tuple[Picture, ...]
    growth: Table | None = None
    model: Table | None = None
    model_note: str = ""


@dataclass(frozen=True)
class Tile:
    """One number at the top of a page."""

    value: str
    label: str
    bad: bool = False


TITLES = {
    "encoder": "Encoder: one pass",
    "decoder": "Decoder: one step",
    "generate": "Generate: encoder and all steps",
    "kernels": "Kernels",
    "collectives": "Collectives",
    "memory": "Memory",
    "limits": "Limits of the machine",
}


def _tiles(suites: Sequence[SuiteOverview], results: Sequence[CaseResult]) -> list[Tile]:
    failed = sum(suite.failed for suite in suites)
    ratios = [ratio for result in results if (ratio := telling_ratio(result)) is not None]
    tiles = [
        Tile(f"{sum(suite.measured for suite in suites):,}", "cases measured"),
        Tile(numbers([len(result.ok) for result in results if result.ok]) or "0", "workers per case"),
        Tile(f"{failed:,}", "failed", bad=failed > 0),
        Tile(f"{sum(suite.skipped for suite in suites):,}", "skipped"),
    ]
    if ratios:
        nearest = min(ratios)
        words = "nearest to its floor" if nearest >= 1 else "under its floor: see marks"
        tiles.append(Tile(formats.ratio(nearest), words, bad=nearest < 1))
        tiles.append(Tile(formats.ratio(max(ratios)), "furthest from its floor"))
    return tiles


def _overview_table(suites: Sequence[SuiteOverview]) -> Table:
    columns = (
        Column("suite", numeric=False), Column("measured"), Column("failed"), Column("skipped"),
        Column("workers per case", "worker"), Column("geometric mean × floor", "geomean"),
        Column("nearest", "ratio"), Column("furthest", "ratio"),
    )  # fmt: skip
    rows = []
    for suite in suites:
        cells = (
            Cell(suite.suite, sort=suite.suite),
            Cell(f"{suite.measured:,}", sort=suite.measured),
            Cell(f"{suite.failed:,}", sort=suite.failed, bad=suite.failed > 0),
            Cell(f"{suite.skipped:,}", sort=suite.skipped),
            Cell(suite.workers or formats.MISSING),
            Cell(formats.ratio(suite.geomean), sort=suite.geomean),
            Cell(formats.ratio(suite.nearest), sort=suite.nearest),
            Cell(formats.ratio(suite.furthest), sort=suite.furthest),
        )
        rows.append(Row(suite.suite, cells))
    return Table(columns, tuple(rows))


def _sentences(results: Sequence[CaseResult], audit: SampleAudit) -> list[str]:
    measured = [result for result in results if result.ok]
    if not measured:
        return ["No case was measured; the reasons are below."]
    checked = sum(1 for result in measured if result.check is not None)
    if checked == len(measured):
        first = "Every case was checked for correctness before it was timed."
    else:
        first = f"{checked} of {len(measured)} measured cases carry a check of correctness."
    few = sum(1 for result in measured if result.interval is None)
    if few == len(measured):
        second = "No case has six workers, so that no interval across workers can be given."
    elif few:
        second = f"{few} of {len(measured)} cases have fewer than six workers and so no interval."
    else:
        second = "Intervals are 95 % intervals of the median across workers."
    if audit.damaged:
        third = f"The raw samples of {len(audit.damaged)} of {audit.total} records do not match their record."
    elif audit.absent == audit.total:
        third = "The raw samples are not kept beside the records."
    elif audit.absent:
        third = f"The raw samples of {audit.matching} of {audit.total} records are here and match them."
    else:
        third = f"The raw samples of all {audit.total} records are here and match them."
    texts = [
        *_doubts(measured),
        _clocks(measured),
        losses_text(format_groups(results)),
        *crossover_texts(crossovers(results)),
        *pays_texts(pays(results)),
        *collective_texts(collective_groups(results)),
    ]
    return [f"{first} {second} {third}", *filter(None, texts)]


def _clocks(measured: Sequence[CaseResult]) -> str:
    """Whether the clock had settled, as far as the records of cards say."""
    records = [[r for r in result.ok if r.regime in ("burst", "sustained")] for result in measured]
    known = [each for each in records if each]
    throttled = sum(1 for each in known if any(record.throttled for record in each))
    moved = sum(1 for each in known if any(record.unsettled for record in each))
    if not throttled and not moved:
        return ""
    words = [f"throttled in {throttled}"] if throttled else []
    words += [f"not settled in {moved}"] if moved else []
    return f"Of {formats.plural(len(known), 'case')} the clock was {' and '.join(words)}: see marks."


def _doubts(measured: Sequence[CaseResult]) -> list[str]:
    """What puts the ceilings of each run in question."""
    found = []
    for run in {result.run.label: result.run for result in measured}.values():
        beaten = [r for r in measured if r.run.label == run.label and beats_floor(r)]
        ceilings = run.environment.ceilings or {}
        said = [str(ceilings["doubt"])] if ceilings.get("doubt") else []
        if beaten:
            most = min(beaten, key=lambda result: result.floor_ratio or 1.0)
            said.append(
                f"{formats.plural(len(beaten), 'case')} faster than the floor, {most.case.name} at "
                f"{formats.ratio(most.floor_ratio)} of it"
            )
        if said:
            when = ceilings.get("measured_at", "at an unknown time")
            found.append(
                f"The ceilings of {run.label}, measured {when}, are in question: {'; '.join(said)}. "
                "Floors of this run are not to be believed."
            )
    return found


def _damaged_of(result: CaseResult, audit: SampleAudit) -> set[tuple[str, int]]:
    return {(case, worker) for label, case, worker in audit.damaged if label == result.run.label}


def build(
    runs: Sequence[Run], audit: SampleAudit, profiles: ProfileSection | None = None
) -> tuple[str, list[Picture], str]:
    """The page, its figures and the CSV of all cases."""
    results = collect(runs)
    suites = by_suite(results)

    def marks_of(result: CaseResult) -> list[Mark]:
        return marks(result, _damaged_of(result, audit))

    overviews = [suite_overview(suite, found) for suite, found in suites.items()]
    lines = curves(suites)
    sections = []
    for suite, found in suites.items():
        measured = [result for result in found if result.ok]
        bars = floors(suite, measured)
        every = format_groups(found)
        # Single kernels have their speed-ups in the table: a heat map of each would be a page of its own.
        groups = every if suite in MODEL_SUITES else []
        by_format = (
            speedups(suite, groups), kept(suite, every), pareto(suite, groups), footprints(suite, groups)
        )  # fmt: skip
        cards = scaling_groups(found)
        by_way = ways(collective_groups(found))
        optional = (
            bars, frontier(suite, measured), *lines.get(suite, []), scaling(suite, cards), by_way, *by_format
        )  # fmt: skip
        figures = [figure for figure in optional if figure is not None]
        table = case_table(measured, marks_of, lambda result: facts(runs, result)) if measured else None
        growth, model = growth_table(suite, found), model_table(cards)
        sections.append(
            Section(suite, TITLES[suite], table, tuple(figures), growth, model, model_note(cards))
        )
    dots = spread(results)
    pictures = [figure for section in sections for figure in section.figures]
    if dots is not None:
        pictures.append(dots)
    if profiles is not None:
        pictures += profiles.pictures
    machines = list(dict.fromkeys(machine(run.environment) for run in runs))
    used = {mark.key for result in results for mark in marks_of(result)}
    text = page.render(
        "report.html.j2",
        title=f"Tandem report: {', '.join(run.label for run in runs)}",
        machine=", ".join(machines),
        runs=runs,
        conditions=conditions,
        tiles=_tiles(overviews, results),
        sentences=_sentences(results, audit),
        overview=_overview_table(overviews),
        sections=sections,
        spread=dots,
        profiles=profiles,
        failures=problems(results, skipped=False),
        skips=problems(results, skipped=True),
        environment=environment_table(runs),
        terms=[*glossary.terms()["report"], *(glossary.terms()["profile"] if profiles else ())],
        marks=[mark for mark in MARKS if mark.key in used],
        version=__version__,
        schema=", ".join(sorted({run.environment.schema for run in runs})),
    )
    return text, pictures, case_csv(results)
