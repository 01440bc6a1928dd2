"""tandem-report trace: where the time of one profile goes, or where two profiles differ."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from tandem_reports.commands import console
from tandem_reports.errors import GOOD
from tandem_reports.views import page

DESCRIPTION = """\
Reads one trace and says where its time goes: busy time by phase and kernel, gaps by their reason, the
critical path. A trace is

  a file of traces/ in a run folder, as `tandem profile` writes it
  FILE.sqlite     an export of NVIDIA Nsight Systems (nsys export --type sqlite)
  FILE.nsys-rep   its report, where nsys is on the PATH to export it

With --against a second one, it says where the two differ, phase by phase and kernel by kernel.
"""
EPILOG = """\
exit codes:
  0  good
  1  the output could not be written
  2  usage, or a trace that cannot be read
"""
FORMATS = ("terminal", "markdown", "csv")


def add(commands: Any) -> None:
    """Declares the subcommand."""
    parser = console.add_command(commands, "trace", "where the time of a profile goes", DESCRIPTION, EPILOG)
    parser.add_argument("trace", metavar="FILE", type=Path, help="a trace")
    parser.add_argument(
        "--against", metavar="FILE", type=Path, help="a second trace: B, beside the first as A"
    )
    parser.add_argument("--device", metavar="K", type=int, help="of an export of several devices, this one")
    parser.add_argument(
        "--process", metavar="PID", type=int, help="of an export of several processes, this one"
    )
    parser.add_argument(
        "--perfetto", metavar="FILE", type=Path, help="also write the timeline for ui.perfetto.dev"
    )
    console.add_output(parser, FORMATS)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Does the work; prints the tables."""
    # Arrays take a while to import; other commands do without.
    from tandem_reports.reading.trace_files import read_any
    from tandem_reports.stats.trace_analysis import analyse
    from tandem_reports.views import trace_grids
    from tandem_reports.views.perfetto import perfetto

    analysis = analyse(read_any(arguments.trace, arguments.process, arguments.device))
    lines = trace_grids.summary_lines(analysis)
    if arguments.against is None:
        tables = trace_grids.grids(analysis)
    else:
        other = analyse(read_any(arguments.against, arguments.process, arguments.device))
        lines = ["A: " + lines[0], *lines[1:], "", *trace_grids.summary_lines(other)]
        lines[lines.index("") + 1] = "B: " + lines[lines.index("") + 1]
        tables = trace_grids.comparison_grids(analysis, other)
    if arguments.perfetto is not None:
        page.write(arguments.perfetto, perfetto(analysis.trace))
    if arguments.format == "csv":
        text = trace_grids.kernels_csv(analysis)
    elif arguments.format == "markdown":
        text = trace_grids.markdown([line for line in lines if line], tables)
    else:
        text = trace_grids.terminal(lines, tables)
    console.deliver(text, arguments.out)
    return GOOD
