"""tandem-report trend: cases over many runs, and the runs at which they step to another level."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tandem_reports import __version__, formats
from tandem_reports.commands import console
from tandem_reports.errors import BAD_RESULT, GOOD, ReportError
from tandem_reports.gate.trend import History, Step, histories, in_order, slower_steps
from tandem_reports.reading.runs import Run, load_runs
from tandem_reports.views import glossary, page
from tandem_reports.views.export import csv_text, number
from tandem_reports.views.overview import conditions, machine
from tandem_reports.views.tables import Cell, Column, Row, Table
from tandem_reports.views.text import aligned, markdown_table, names

DESCRIPTION = """\
Shows every case over many runs, oldest first, and finds the runs at which its level changed. A run counts for
a case where machine and conditions are those of the last run that measured it. The result is a function of
the records alone.

First, last and change are measured medians. Steps are changes of level that noise of neighbouring runs which
resemble each other would show in any of the cases at most once in 20 such histories; where the clock moved
along, the step says by how much the cycles changed.
"""
EPILOG = """\
exit codes:
  0  good; steps or not, unless --fail-on-step is given
  1  with --fail-on-step: a case stepped to a slower level; or the output could not be written
  2  usage, a run that cannot be read, or no case that two comparable runs measured
"""
HEADER = ("case", "runs", "first (µs)", "last (µs)", "change", "level (µs)", "steps")
NUMERIC = range(1, 6)

FORMATS = ("terminal", "markdown", "csv", "html")


def add(commands: Any) -> None:
    """Declares the subcommand."""
    parser = console.add_command(
        commands, "trend", "cases over many runs, and where they step", DESCRIPTION, EPILOG
    )
    parser.add_argument(
        "runs", metavar="RUN", nargs="+", type=Path, help="a run folder; the order does not matter"
    )
    console.add_output(parser, FORMATS)
    parser.add_argument(
        "--figure", metavar="FILE", type=Path, help="also draw the histories: an .svg or .png file"
    )
    parser.add_argument(
        "--minimum-effect", metavar="PERCENT", type=console.percent, default=0.005,
        help="smaller steps are not reported (default: 0.5)",
    )  # fmt: skip
    parser.add_argument(
        "--fail-on-step", action="store_true", help="end with 1 where a case stepped to a slower level"
    )
    parser.add_argument(
        "--newest", metavar="RUNS", type=_count,
        help="with --fail-on-step: only steps within each case's newest RUNS runs count",
    )  # fmt: skip
    parser.set_defaults(run=run)


def _count(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 0 < len(text) < 10 or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of runs from 1")
    return int(text)


def _step(history: History, step: Step) -> str:
    run = history.results[step.index].run
    revision = run.environment.git_revision
    where = run.label + (f" (git {revision[:12]})" if revision else "")
    clock = ""
    if step.cycles is not None:
        clock = f", clock {formats.micros(step.before_mhz)} → {formats.micros(step.after_mhz)} MHz, "
        clock += f"in cycles {formats.change(step.cycles)}"
    return f"{formats.change(step.ratio)} at {where}{clock}"


def _rows(found: Sequence[History]) -> list[list[str]]:
    short, _ = names([history.case for history in found])
    rows = []
    for name, history in zip(short, found, strict=True):
        left_out = f" ({history.left_out} left out)" if history.left_out else ""
        rows.append([
            name,
            f"{len(history.results)}{left_out}",
            formats.micros(history.medians[0]),
            formats.micros(history.medians[-1]),
            formats.change(history.overall),
            " → ".join(formats.micros(level.level) for level in history.levels),
            "; ".join(_step(history, step) for step in history.steps) or "none",
        ])  # fmt: skip
    return rows


def _terminal(found: Sequence[History]) -> str:
    _, shared = names([history.case for history in found])
    steps = sum(len(history.steps) for history in found)
    lines = [f"all cases: {shared}", ""] if shared else []
    lines += aligned([list(HEADER), *_rows(found)], NUMERIC)
    return (
        "\n".join([*lines, "", f"{formats.plural(len(found), 'case')}, {formats.plural(steps, 'step')}."])
        + "\n"
    )


def _markdown(found: Sequence[History]) -> str:
    return "\n".join(markdown_table(HEADER, _rows(found), NUMERIC)) + "\n"


def _csv(found: Sequence[History]) -> str:
    rows: list[list[object]] = []
    for history in found:
        starts = {level.first for level in history.levels[1:]}
        for index, (result, middle) in enumerate(zip(history.results, history.medians, strict=True)):
            level = next(level for level in history.levels if level.first <= index < level.last)
            environment = result.run.environment
            row: list[object] = [history.case.id, history.case.name, environment.created, result.run.label]
            row += [environment.git_revision or "", number(middle), number(level.level)]
            rows.append([*row, int(index in starts)])
    return csv_text(["id", "name", "created", "run", "git", "median_us", "level_us", "step"], rows)


def _html(found: Sequence[History], runs: Sequence[Run]) -> str:
    # Drawing takes a while to import, and only this format draws.
    from tandem_reports.views.figures.histories import trend_picture

    terms = ("", "", "median", "median", "", "level", "step-change")
    columns = tuple(
        Column(title, term, numeric=index in NUMERIC, place="wide" if title == "level (µs)" else "row")
        for index, (title, term) in enumerate(zip(HEADER, terms, strict=True))
    )
    rows = []
    for history, texts in zip(found, _rows(found), strict=True):
        sorts: list[float | str] = [texts[0], float(len(history.results)), history.medians[0]]
        sorts += [history.medians[-1], history.overall, history.levels[-1].level, float(len(history.steps))]
        cells = tuple(Cell(text, sort=sort) for text, sort in zip(texts, sorts, strict=True))
        rows.append(Row(history.case.name, cells))
    _, shared = names([history.case for history in found])
    return page.render(
        "trend.html.j2",
        title=f"Tandem trend: {runs[0].label} to {runs[-1].label}",
        machine=machine(runs[-1].environment),
        runs=runs,
        conditions=conditions,
        figure=trend_picture(found),
        table=Table(columns, tuple(rows), shared),
        terms=glossary.terms()["trend"],
        version=__version__,
    )


def run(arguments: argparse.Namespace) -> int:
    """Does the work; prints the table, or the path of the file it was written to."""
    figure: Path | None = arguments.figure
    if figure is not None and figure.suffix not in (".svg", ".png"):
        raise ReportError(f"--figure {figure}: must end in .svg or .png")
    runs = in_order(load_runs(arguments.runs))
    console.warn(warning for one in runs for warning in one.warnings)
    found = histories(runs, arguments.minimum_effect)
    if not found:
        raise ReportError("no case was measured by two comparable runs")
    if arguments.format == "html":
        text = _html(found, runs)
    else:
        text = {"terminal": _terminal, "markdown": _markdown, "csv": _csv}[arguments.format](found)
    if figure is not None:
        from tandem_reports.views.figures.histories import trend_picture

        drawn = trend_picture(found)
        if drawn is None:
            raise ReportError("--figure: no case was measured by three comparable runs")
        page.write(figure, drawn.svg if figure.suffix == ".svg" else drawn.png)
    console.deliver(text, arguments.out)
    slower = slower_steps(found, arguments.newest) if arguments.fail_on_step else 0
    if slower:
        print(f"tandem-report: {formats.plural(slower, 'step')} to a slower level", file=sys.stderr)
    return BAD_RESULT if slower else GOOD
