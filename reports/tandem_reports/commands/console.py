"""What the subcommands share: percentages as arguments, warnings, and where output goes."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from tandem_reports.views import page


def percent(text: str) -> float:
    """A percentage on the command line, as a fraction."""
    try:
        value = float(text.removesuffix("%"))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a percentage such as 0.5") from None
    if not 0 < value < 100:
        raise argparse.ArgumentTypeError(f"{text!r} is not over 0 and under 100 percent")
    return value / 100


def add_command(
    commands: Any, name: str, summary: str, description: str, epilog: str | None = None
) -> argparse.ArgumentParser:
    """Declares a subcommand, whose description and epilog are printed as they are laid out."""
    parser: argparse.ArgumentParser = commands.add_parser(
        name,
        help=summary,
        description=description,
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    return parser


def add_output(parser: argparse.ArgumentParser, formats: Sequence[str]) -> None:
    """Declares --format and --out."""
    parser.add_argument("--format", choices=formats, default="terminal", help="default: terminal")
    parser.add_argument("--out", metavar="FILE", type=Path, help="write there instead of to stdout")


def warn(messages: Iterable[str]) -> None:
    """One line each on stderr."""
    for message in messages:
        print(f"tandem-report: warning: {message}", file=sys.stderr)


def wants_colour(out: Path | None) -> bool:
    """Whether the reader is a terminal that takes colour."""
    return out is None and sys.stdout.isatty() and "NO_COLOR" not in os.environ


def deliver(text: str, out: Path | None) -> None:
    """Prints the text, or writes it to a file and prints its path."""
    if out is None:
        sys.stdout.write(text)
    else:
        page.write(out, text)
        print(out)
