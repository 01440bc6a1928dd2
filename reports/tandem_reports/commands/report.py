"""tandem-report report: one HTML page about one or several runs, its figures and a CSV beside it."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tandem_reports.commands import console
from tandem_reports.errors import GOOD
from tandem_reports.reading.records import lines_by_case
from tandem_reports.reading.runs import Run, load_runs
from tandem_reports.stats.cases import collect
from tandem_reports.views import page

PAGE = "report.html"

DESCRIPTION = """\
Writes one self-contained HTML page about one or several runs, with its figures (SVG and PNG), the records of
each case (JSON) and a table of all cases (CSV) beside it, and prints the page's path. The same records give
the same bytes.

A run is a folder that holds environment.json and records.jsonl, as `tandem run` leaves it.
"""


def add(commands: Any) -> None:
    """Declares the subcommand."""
    parser = console.add_command(
        commands, "report", "write an HTML page with tables and figures about a run", DESCRIPTION
    )
    parser.add_argument("runs", metavar="RUN", nargs="+", type=Path, help="a run folder")
    parser.add_argument(
        "--out", metavar="DIR", type=Path, help="where to write (default: folder report in the first RUN)"
    )
    parser.set_defaults(run=run)


def _write_records(runs: Sequence[Run], out: Path) -> None:
    """The records of each measured case as they stand in their run, for the page's links."""
    from tandem_reports.views.facts import RECORDS, record_file

    texts: dict[Path, list[str]] = {}
    for run in runs:
        found = lines_by_case(run.path / "records.jsonl")
        for result in collect([run]):
            if result.ok:
                texts[out / record_file(runs, result)] = found[result.case.id]
    folder = out / RECORDS
    if folder.is_dir():
        for old in sorted(folder.iterdir()):
            if re.fullmatch(r"[0-9a-f]{16}(-\d+)?\.json", old.name) and old not in texts:
                old.unlink()
    for path, lines in texts.items():
        page.write(path, "[\n" + ",\n".join(lines) + "\n]\n")


def run(arguments: argparse.Namespace) -> int:
    """Does the work; prints the page's path."""
    # Drawing and arrays take a while to import; other commands do without.
    from tandem_reports.reading.audit import audit_samples
    from tandem_reports.views import profile_section
    from tandem_reports.views.report_page import build

    runs = load_runs(arguments.runs)
    audit = audit_samples(runs)
    profiles, said = profile_section.build(runs)
    console.warn([*(warning for run in runs for warning in run.warnings), *audit.messages, *said])
    out: Path = arguments.out or arguments.runs[0] / "report"
    text, pictures, table = build(runs, audit, profiles)
    figures = out / "figures"
    names = {f"{figure.name}.{suffix}" for figure in pictures for suffix in ("svg", "png")}
    if figures.is_dir():
        # Figures of an earlier report that this one does not have would be taken for its own.
        for old in sorted(figures.iterdir()):
            if (
                re.fullmatch(
                    r"(\w+-(over-\w+(-\d+)?|floors|speedup|pareto|memory|frontier|scaling|kept)|spread|profile-phases|(roofline|timeline)-\d+)\.(svg|png)",
                    old.name,
                )
                and old.name not in names
            ):
                old.unlink()
    for figure in pictures:
        page.write(figures / f"{figure.name}.svg", figure.svg)
        page.write(figures / f"{figure.name}.png", figure.png)
    _write_records(runs, out)
    page.write(out / "cases.csv", table)
    page.write(out / PAGE, text)
    print(out / PAGE)
    return GOOD
