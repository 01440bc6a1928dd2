"""The command line: subcommands, and errors as one line."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from tandem_reports import __version__
from tandem_reports.commands import compare, gate, report, self_test, trace, trend
from tandem_reports.errors import CRASHED, USAGE, ReportError

DESCRIPTION = """\
Reads what `tandem run` recorded and turns it into pages, tables and comparisons. It measures nothing and
needs no network and no GPU.
"""
EPILOG = """\
exit codes:
  0  good
  1  something is slower, failed or missing, or the output could not be written
  2  usage, an input that cannot be read, or nothing to compare
  4  gate only: not enough evidence to say
"""


def build_parser() -> argparse.ArgumentParser:
    """The parser with all subcommands."""
    parser = argparse.ArgumentParser(
        prog="tandem-report",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"tandem-report {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for command in (report, compare, gate, trend, trace, self_test):
        command.add(commands)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one subcommand; returns the exit code. A ReportError is one line on stderr."""
    parsed = build_parser().parse_args(arguments)
    try:
        code = int(parsed.run(parsed))
        sys.stdout.flush()
    except ReportError as error:
        print(f"tandem-report: {' '.join(str(error).split())}", file=sys.stderr)
        return error.exit_code
    except BrokenPipeError:
        # The reader of our output has gone (head, less): not an error, but nothing more can be written.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return USAGE
    except KeyboardInterrupt:
        return 130
    except Exception as error:  # no crash may look like a verdict
        if os.environ.get("TANDEM_TRACEBACK"):
            raise
        what = f"{type(error).__name__}: {' '.join(str(error).split())}"
        print(
            f"tandem-report: internal error, {what[:300]} (TANDEM_TRACEBACK=1 shows where)", file=sys.stderr
        )
        return CRASHED
    return code
