"""The command line: subcommands, and errors as one line."""

from __future__ import annotations

import argparse
import difflib
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

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


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one line."""

    def error(self, message: str) -> NoReturn:
        """Exits with 2."""
        self.exit(USAGE, f"{self.prog}: {message} (see {self.prog} --help)\n")


def meant(word: str, known: Sequence[str]) -> str:
    """What a mistyped word stands for, as the end of a message."""
    near = difflib.get_close_matches(word, known, n=1)
    return f"; did you mean '{near[0]}'?" if near else ""


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """`help COMMAND` is `COMMAND --help`; an unknown command or flag is told with the one that was meant."""
    parser = build_parser()
    words = list(arguments)
    if words[:1] == ["help"]:
        words = [*words[1:2], "--help"]
    commands = next(a.choices for a in parser._actions if isinstance(a, argparse._SubParsersAction))
    if words and not words[0].startswith("-") and words[0] not in commands:
        hint = meant(words[0], list(commands)) or f"; one of {' '.join(commands)}"
        parser.exit(USAGE, f"tandem-report: unknown command '{words[0]}'{hint}\n")
    parsed, left = parser.parse_known_args(words)
    if left:
        command = commands[words[0]]
        flags = [flag for action in command._actions for flag in action.option_strings]
        wrong = next((word for word in left if word.startswith("-")), left[0])
        command.error(f"unknown argument '{wrong}'{meant(wrong.split('=')[0], flags)}")
    return parsed


def build_parser() -> argparse.ArgumentParser:
    """The parser with all subcommands."""
    parser = Parser(
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
    parsed = parse(sys.argv[1:] if arguments is None else arguments)
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
