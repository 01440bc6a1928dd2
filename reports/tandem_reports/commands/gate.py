"""tandem-report gate: verdicts on build B against build A, and an exit code that a CI can act on."""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tandem_reports import __version__, formats
from tandem_reports.commands import console
from tandem_reports.errors import GOOD, USAGE, ReportError
from tandem_reports.gate.deciding import planned_pairs
from tandem_reports.gate.policy import Policy, find_policy
from tandem_reports.gate.verdicts import GateResult, confirm, gate, unconfirmed
from tandem_reports.reading.duet import DuetNotes, Look, read_duet
from tandem_reports.reading.profiles import FILE as PROFILES
from tandem_reports.reading.runs import Run, load_runs
from tandem_reports.views import glossary, page
from tandem_reports.views.overview import conditions, environment_table, machine
from tandem_reports.views.tables import Cell, Column, Row, Table
from tandem_reports.views.text import names
from tandem_reports.views.verdicts import (
    HEADER,
    SCHEMA,
    as_json,
    beside,
    cells,
    github,
    headline,
    junit,
    markdown,
    method,
    terminal,
)

DESCRIPTION = """\
Says of every case whether build B is slower than build A, from paired workers:

  slower, faster   a change beyond the minimum effect; the chance of any false "slower" in the whole gate is
                   at most alpha, and so is that of any false "faster" (signed-rank test, Holm over the cases)
  same             the interval lies wholly inside the equivalence band
  unknown          not enough evidence; says how many more pairs would decide
  not-comparable   another card, driver, clock setting, build type, regime or L2 state; a time of A that does
                   not count
  missing, failed  measured in A but not in B; a new failure in B, or a time that does not count: its output
                   changed, its error is over its tolerance, a profiler was mapped
  inaccurate       a lossy case (8-bit or 4-bit types, sparsity) whose error against dense fp32 is over 1.1
                   times A's and beyond noise; where a side does not state its accuracy, or states it
                   on other tokens, it is not-comparable

A case that is decided at a look of a duet leaves it and keeps its verdict; the others go on. The mean over
the cases of a suite is tested too, against its minimum effect at 2 % of alpha: slower in the mean fails.

Give two runs, or one duet: a folder that holds the runs a and b, whose workers of the same index ran next to
each other. Pairs of two separate runs share nothing but an index, so that drift between the runs counts as a
difference: prefer a duet.

Rules come from --policy; else they are those that the duet keeps, which `tandem duet` took from side A, or
that run A keeps from its build, so that a change cannot choose what it is judged by; else they come from
suites/gates.json below the working folder; else they are built in. The output says which.
"""
EPILOG = """\
exit codes:
  0  every case is same, faster or new
  1  something is slower, inaccurate, failed or missing, or the output could not be written
  2  usage, an input that cannot be read, no case in common, or nothing comparable
  4  not 1, but something is unknown or not comparable
  70 a fault of this tool: no verdict
"""
FORMATS = ("terminal", "markdown", "junit", "github", "html", "json")


def _look(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"([1-9][0-9]*)/([1-9][0-9]*)", text)
    if match is None or int(match[1]) > int(match[2]):
        raise argparse.ArgumentTypeError(f"{text!r} is not a look such as 2/5")
    return int(match[1]), int(match[2])


def _cases(text: str) -> int:
    if re.fullmatch(r"[1-9][0-9]{0,5}", text) is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of cases")
    return int(text)


def add(commands: Any) -> None:
    """Declares the subcommand."""
    parser = console.add_command(
        commands,
        "gate",
        "is B slower than A, or less accurate? verdicts and an exit code",
        DESCRIPTION,
        EPILOG,
    )
    parser.add_argument("paths", metavar="RUN", nargs="*", type=Path, help="A and B, or one DUET")
    parser.add_argument(
        "--policy", metavar="FILE", type=Path, help="rules (default: those that the duet or run A keeps)"
    )
    parser.add_argument(
        "--confirm", metavar="RUN", type=Path,
        help="a second duet, or a second run of B against the same A, that slow-downs must recur in",
    )  # fmt: skip
    parser.add_argument(
        "--look", metavar="I/N", type=_look,
        help="this is look I of at most N at growing data: alpha is shared among them (default: the looks "
        "that a duet says were taken, else 1/1)",
    )  # fmt: skip
    parser.add_argument(
        "--plan", metavar="CASES", type=_cases,
        help="instead of judging: print the pairs at which N looks (--look 1/N) at so many cases are planned",
    )  # fmt: skip
    console.add_output(parser, FORMATS)
    parser.add_argument(
        "--json", action="store_const", const="json", dest="format", help="the same as --format json"
    )
    parser.set_defaults(run=run)


@dataclass(frozen=True)
class Sides:
    """The two runs of a gate, and what a duet says of them."""

    a: Run
    b: Run
    interleaved: bool
    notes: DuetNotes


def is_duet(path: Path) -> bool:
    """Whether a folder holds the runs a and b."""
    return (path / "a").is_dir() and (path / "b").is_dir()


def load_sides(paths: Sequence[Path]) -> Sides:
    """Loads A and B, or the two runs of a duet's folder. Raises ReportError."""
    if len(paths) == 1:
        duet = paths[0]
        if not is_duet(duet):
            raise ReportError(
                f"{duet}: not a duet (a folder that holds the runs a and b); give A and B instead"
            )
        first, second = load_runs([duet / "a", duet / "b"])
        return Sides(first, second, True, read_duet(duet))
    if len(paths) != 2:
        raise ReportError(f"a gate takes two runs or one duet, not {len(paths)} folders")
    first, second = load_runs(paths)
    return Sides(first, second, False, DuetNotes())


def looks_of(notes: DuetNotes, asked: tuple[int, int] | None) -> tuple[Look, ...]:
    """The looks to judge at: one that is asked for and those before it, else those that a duet took.

    A duet whose time was up before its first look has none, and a gate of two runs a single one.
    """
    if asked is not None:
        return (*(look for look in notes.taken if look.number < asked[0]), Look(*asked))
    return notes.taken if notes.taken or notes.plan else (Look(1, 1),)


def _judge(
    paths: Sequence[Path],
    arguments: argparse.Namespace,
    look: tuple[int, int] | None,
    rules: tuple[Policy, str] | None = None,
) -> GateResult:
    """`rules`: those of another gate, where this one is to confirm it."""
    sides = load_sides(paths)
    a, b = sides.a, sides.b
    console.warn((*a.warnings, *b.warnings))
    if any("delay_percent" in run.environment.planted for run in (a, b)):
        console.warn(["a build here carries a planted slow-down: it tests the gate and is none to release"])
    policy, source = rules or find_policy(arguments.policy, paths[0], sides.notes.policy)
    looks = looks_of(sides.notes, look)
    result = gate(
        a, b, policy, looks=looks, interleaved=sides.interleaved, ignore=sides.notes.axes,
        pair_s=sides.notes.pair_s, groups=sides.notes.groups,
    )  # fmt: skip
    if result.common == 0:
        raise ReportError(f"{a.path} and {b.path} have no case in common")
    if any((run_.path / PROFILES).is_file() for run_ in (a, b)):
        # Arrays take a while to import; a gate without profiles does without.
        from tandem_reports.gate.cause import with_causes

        result, warnings = with_causes(result, sides.notes.axes)
        console.warn(warnings)
    return replace(result, policy_source=source, sweep_source=sides.notes.sweep or "")


def _plan(arguments: argparse.Namespace) -> int:
    if arguments.paths:
        raise ReportError("--plan takes no runs")
    looks = (arguments.look or (1, 1))[1]
    policy, _ = find_policy(arguments.policy)
    pairs = planned_pairs(policy.alpha, arguments.plan, looks)
    if arguments.format == "json":
        content = {"schema": SCHEMA, "cases": arguments.plan, "looks": looks, "alpha": policy.alpha}
        console.deliver(json.dumps({**content, "pairs": pairs}) + "\n", arguments.out)
    else:
        console.deliver(" ".join(str(number) for number in pairs) + "\n", arguments.out)
    return GOOD


def _table(result: GateResult) -> Table:
    numeric = {"A (µs)", "B (µs)", "B/A", "interval", "pairs", "CV", "shows", "p slower"}
    terms = {
        "B/A": "paired-ratio",
        "interval": "paired-interval",
        "CV": "pair-cv",
        "shows": "shows",
        "p slower": "p-slower",
        "verdict": "verdict",
    }
    wide = ("A (µs)", "B (µs)", "pairs", "p slower")
    columns = tuple(
        Column(
            title, terms.get(title, ""), title in numeric, main=title == "B/A",
            place="wide" if title in wide else "row",
        )
        for title in HEADER
    )  # fmt: skip
    rows = []
    short, shared = names([verdict.case for verdict in result.verdicts])
    for name, verdict in zip(short, result.verdicts, strict=True):
        texts = [name, *cells(verdict)]
        values = [verdict.case.name, verdict.median_a_us, verdict.median_b_us, verdict.ratio]
        sorts = [
            *values,
            None,
            float(verdict.pairs),
            verdict.spread,
            verdict.shows,
            verdict.p_slower,
            verdict.status,
            None,
        ]
        row = [Cell(text, sort=sort) for text, sort in zip(texts, sorts, strict=True)]
        row[0] = Cell(name, sort=verdict.case.name, tip=f"{verdict.case.name}\nid {verdict.case.id}")
        row[-1] = Cell(verdict.note, css="wrap" if verdict.note else "")
        if verdict.ratio is not None:
            row[3] = Cell(row[3].text, formats.change(verdict.ratio), verdict.ratio)
        row[9] = Cell(verdict.status, sort=verdict.status, css=f"status {verdict.status}")
        rows.append(Row(verdict.case.name, tuple(row)))
    return Table(columns, tuple(rows), shared)


def _html(result: GateResult) -> str:
    # Drawing takes a while to import, and only this format draws.
    from tandem_reports.views.figures.ratios import ratios

    runs = [result.a, result.b]
    title = f"{result.b.label} over {result.a.label}"
    # Suites may have bands of their own: the narrowest is drawn.
    band = min(result.policy.of(verdict.case.suite).equivalence for verdict in result.verdicts)
    figure = ratios(result.verdicts, "gate", "Change of each case", band, "intervals at 1 - 2 alpha")
    return page.render(
        "gate.html.j2",
        title=f"Tandem gate: {title}",
        machine=", ".join(dict.fromkeys(machine(run.environment) for run in runs)),
        runs=runs,
        conditions=conditions,
        headline=headline(result),
        method=method(result),
        figure=figure,
        table=_table(result),
        means=beside(result),
        environment=environment_table(runs),
        terms=glossary.terms()["gate"],
        version=__version__,
    )


def render(result: GateResult, style: str, colour: bool) -> str:
    """The verdicts in one of FORMATS."""
    if style == "terminal":
        return terminal(result, colour)
    renderers = {"markdown": markdown, "junit": junit, "github": github, "html": _html, "json": as_json}
    return renderers[style](result)


def run(arguments: argparse.Namespace) -> int:
    """Does the work; prints the verdicts, or the path of the file they were written to."""
    if arguments.plan is not None:
        return _plan(arguments)
    result = _judge(arguments.paths, arguments, arguments.look)
    if arguments.confirm is not None:
        # A run alone is one of B; its A is the one at hand.
        again = arguments.confirm
        first = arguments.paths[0] / "a" if len(arguments.paths) == 1 else arguments.paths[0]
        rules = (result.policy, result.policy_source)
        second = _judge([again] if is_duet(again) else [first, again], arguments, None, rules)
        if second.b.path.resolve() == result.b.path.resolve():
            raise ReportError(f"--confirm {again}: the very run of B that is judged; allowed: another one")
        result = confirm(result, second)
    elif result.policy.confirm:
        result = unconfirmed(result)
    colour = console.wants_colour(arguments.out)
    text = render(result, arguments.format, colour)
    console.deliver(text, arguments.out)
    compared = [v for v in result.verdicts if v.status not in ("new", "unmeasured", "allowed")]
    if all(verdict.status == "not-comparable" for verdict in compared):
        why = next((verdict.note for verdict in compared), "no case was measured in both")
        print(f"tandem-report: nothing is comparable: {why}", file=sys.stderr)
        return USAGE
    return result.exit_code
