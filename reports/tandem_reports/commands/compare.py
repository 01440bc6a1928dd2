"""tandem-report compare: runs side by side, case by case."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tandem_reports import __version__, formats
from tandem_reports.commands import console
from tandem_reports.errors import BAD_RESULT, GOOD, USAGE, ReportError
from tandem_reports.gate.comparison import Comparison, Matching, Rules, compare, interval_text
from tandem_reports.gate.sessions import USUAL_SHIFT, SessionRisk, session_risk
from tandem_reports.reading.records import INTEGER_AXES
from tandem_reports.reading.runs import load_runs
from tandem_reports.views import glossary, page
from tandem_reports.views.comparison import CAVEAT, comparison_csv, counts_text, markdown, terminal
from tandem_reports.views.labels import AXIS_ORDER, axis_names, common_text, split_axes
from tandem_reports.views.overview import conditions, environment_table, machine
from tandem_reports.views.tables import MAX_AXES, Cell, Column, Row, Table

DESCRIPTION = """\
Compares run A with run B, and with every further run: for each case that both measured the two medians, the
ratio B/A with its 95 % interval, and what that is evidence for:

  slower, faster   the change is beyond the minimum effect, at a false call rate of 5 %
  same             the interval lies wholly inside the equivalence band
  unknown          neither; always so with fewer than six workers a side
  inaccurate       a lossy case whose error against dense fp32 is over 1.1 times A's and beyond noise
  not-comparable   another card, driver, clock setting, regime or L2 state; a side that states no accuracy

With --ignore the two sides may differ in an axis: two engines, or, of one run, two precisions:

  tandem-report compare RUN RUN --ignore precision --only-a precision:bf16 --only-b precision:fp8

Cases that only one side measured are listed. The runs were made one after the other, so that drift between
them is not in the interval: what it can do stands below the verdicts.
"""
EPILOG = """\
exit codes:
  0  nothing is slower, and all that A measured was measured in B
  1  something is slower, inaccurate, missing or failed in B, or the output could not be written
  2  usage, a run that cannot be read, no case in common, or nothing comparable
"""

FORMATS = ("terminal", "markdown", "csv", "html")


def _pattern(text: str) -> str:
    try:
        re.compile(text)
    except re.error as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not a regular expression: {error}") from None
    return text


def add(commands: Any) -> None:
    """Declares the subcommand."""
    parser = console.add_command(
        commands, "compare", "compare runs: medians, ratios, intervals", DESCRIPTION, EPILOG
    )
    parser.add_argument("a", metavar="A", type=Path, help="the run that the others are compared with")
    parser.add_argument("others", metavar="B", nargs="+", type=Path, help="a run to compare with A")
    console.add_output(parser, FORMATS)
    parser.add_argument(
        "--minimum-effect", metavar="PERCENT", type=console.percent, default=0.005,
        help="changes up to this much are never called faster or slower (default: 0.5)",
    )  # fmt: skip
    parser.add_argument(
        "--equivalence", metavar="PERCENT", type=console.percent, default=0.01,
        help="half width of the band that counts as the same (default: 1)",
    )  # fmt: skip
    parser.add_argument(
        "--ignore", metavar="AXIS", choices=AXIS_ORDER, action="append", default=[],
        help="match cases that differ in this axis, such as engine or precision; may be given again",
    )  # fmt: skip
    for side in ("a", "b"):
        parser.add_argument(
            f"--only-{side}", metavar="REGEX", type=_pattern, default="",
            help=f"take only the cases of {side.upper()} whose name matches",
        )  # fmt: skip
    parser.add_argument(
        "--any-machine",
        action="store_true",
        help="compare across cards, drivers and clock settings; the verdict is then about machine and build",
    )
    parser.add_argument(
        "--session-sd", metavar="PERCENT", type=console.percent, default=USUAL_SHIFT,
        help="how far sessions of one build lie apart on this machine (standard deviation): the chance of a "
        "false call that follows stands below the verdicts (default: 0.5)",
    )  # fmt: skip
    parser.set_defaults(run=run)


def _table(comparison: Comparison) -> Table:
    cases = [pair.case for pair in comparison.pairs]
    varying, common = split_axes(cases)
    axes = [axis for axis in axis_names(cases) if axis in varying]
    columns = [Column("suite", "case", numeric=False)]
    columns += [
        Column(axis, "case", axis in INTEGER_AXES, place="row" if index < MAX_AXES else "wide")
        for index, axis in enumerate(axes)
    ]
    columns += [
        Column("A (µs)", "median", place="wide"), Column("B (µs)", "median", place="wide"),
        Column("B/A", "ratio-ba", main=True), Column("95 % interval", "ratio-interval"),
        Column("status", "status", numeric=False),
    ]  # fmt: skip
    notes = any(pair.note for pair in comparison.pairs)
    columns += [Column("note", numeric=False)] if notes else []
    rows = []
    for pair in comparison.pairs:
        tip = f"{pair.case.name}\nid {pair.case.id}"
        cells = [Cell(pair.case.suite, sort=pair.case.suite, tip=tip)]
        for axis in axes:
            value = pair.case.axes.get(axis)
            cells.append(Cell(formats.MISSING if value in (None, "") else str(value), sort=value, tip=tip))
        for side in (pair.a, pair.b):
            text = formats.plural(len(side.ok), "worker")
            cells.append(Cell(formats.micros(side.median_us), text, side.median_us))
        if pair.ratio is None:
            cells.append(Cell(formats.MISSING))
        else:
            cells.append(Cell(f"{pair.ratio:.4f}", formats.change(pair.ratio), pair.ratio))
        covered = "" if pair.interval is None else f"coverage {100 * pair.interval.coverage:.1f} %"
        cells += [
            Cell(interval_text(pair.interval), covered),
            Cell(pair.status, sort=pair.status, css=f"status {pair.status}"),
        ]
        cells += [Cell(pair.note, css="wrap" if pair.note else "")] if notes else []
        rows.append(Row(pair.case.name, tuple(cells)))
    return Table(tuple(columns), tuple(rows), common_text(cases, common))


def _html(comparisons: Sequence[Comparison], rules: Rules, risks: Sequence[SessionRisk | None]) -> str:
    # Drawing takes a while to import, and only this format draws.
    from tandem_reports.views.figures.ratios import ratios

    runs = [comparisons[0].a, *(comparison.b for comparison in comparisons)]
    sections = [
        {
            "comparison": comparison,
            "counts": counts_text(comparison),
            "risk": "" if risk is None else risk.text,
            "table": _table(comparison) if comparison.pairs else None,
            "figure": ratios(
                comparison.pairs,
                f"ratios-{index}",
                "Change of each case",
                rules.equivalence,
                "95 % intervals, where both sides have six workers",
            ),
        }
        for index, (comparison, risk) in enumerate(zip(comparisons, risks, strict=True), start=1)
    ]
    terms = [term for term in glossary.terms()["report"] if term.key in ("case", "worker", "median")]
    return page.render(
        "compare.html.j2",
        title=f"Tandem comparison: {', '.join(run.label for run in runs)}",
        machine=", ".join(dict.fromkeys(machine(run.environment) for run in runs)),
        runs=runs,
        conditions=conditions,
        sections=sections,
        rules=rules,
        caveat=CAVEAT,
        environment=environment_table(runs),
        terms=[*terms, *glossary.terms()["comparison"]],
        version=__version__,
    )


def _render(comparisons: Sequence[Comparison], rules: Rules, arguments: argparse.Namespace) -> str:
    risks = [session_risk(comparison, rules, arguments.session_sd) for comparison in comparisons]
    if arguments.format == "html":
        return _html(comparisons, rules, risks)
    if arguments.format == "csv":
        return comparison_csv(comparisons)
    if arguments.format == "markdown":
        return "\n".join(map(markdown, comparisons, risks))
    colour = console.wants_colour(arguments.out)
    return "\n".join(
        terminal(comparison, colour, risk) for comparison, risk in zip(comparisons, risks, strict=True)
    )


def run(arguments: argparse.Namespace) -> int:
    """Does the work; prints the comparison, or the path of the file it was written to."""
    runs = load_runs([arguments.a, *arguments.others])
    console.warn(warning for run in runs for warning in run.warnings)
    rules = Rules(arguments.minimum_effect, arguments.equivalence, arguments.any_machine)
    matching = Matching(tuple(arguments.ignore), arguments.only_a, arguments.only_b)
    comparisons = [compare(runs[0], other, rules, matching) for other in runs[1:]]
    for comparison in comparisons:
        if comparison.common == 0:
            raise ReportError(f"{comparison.a.path} and {comparison.b.path} have no case in common")
    text = _render(comparisons, rules, arguments)
    console.deliver(text, arguments.out)
    judged = [pair for comparison in comparisons for pair in comparison.pairs]
    if all(pair.status == "not-comparable" for pair in judged):
        why = next((pair.note for pair in judged), "no case was measured in both")
        print(f"tandem-report: nothing is comparable: {why}", file=sys.stderr)
        return USAGE
    bad = any(pair.status in ("slower", "inaccurate") for pair in judged) or any(
        comparison.lost for comparison in comparisons
    )
    return BAD_RESULT if bad else GOOD
