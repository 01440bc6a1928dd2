"""The command line: help for a stranger, one-line errors, and both ways to start it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import REPOSITORY, Outcome

from tandem_reports import __version__


@pytest.mark.parametrize("arguments", [["--help"], ["report", "--help"], ["compare", "--help"]])
def test_help_names_what_it_takes(arguments: list[str], cli: Callable[..., Outcome]) -> None:
    outcome = cli(*arguments)
    assert outcome.code == 0
    assert "usage: tandem-report" in outcome.out
    assert max(map(len, outcome.out.splitlines())) <= 112
    if len(arguments) == 2:
        assert "records.jsonl" in outcome.out or "exit codes" in outcome.out


@pytest.mark.parametrize("arguments", [[], ["nonsense"], ["report"], ["compare", "only-one"]])
def test_usage_errors_exit_2(arguments: list[str], cli: Callable[..., Outcome]) -> None:
    outcome = cli(*arguments)
    assert outcome.code == 2
    assert outcome.err.startswith("tandem-report")
    assert len(outcome.err.splitlines()) == 1


def test_version(cli: Callable[..., Outcome]) -> None:
    assert cli("--version").out == f"tandem-report {__version__}\n"


def test_runs_as_a_module(gpu_a: Path) -> None:
    command = [sys.executable, "-m", "tandem_reports", "compare", str(gpu_a), str(gpu_a)]
    done = subprocess.run(command, cwd=REPOSITORY / "reports", capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert "5 same" in done.stdout


# `tandem-report compare ... | head` must not end in a traceback.
def test_a_closed_pipe_is_quiet(gpu_a: Path) -> None:
    script = f"{sys.executable} -m tandem_reports compare {gpu_a} {gpu_a} | true"
    done = subprocess.run(
        ["sh", "-c", script], cwd=REPOSITORY / "reports", capture_output=True, text=True, check=False
    )
    assert "Traceback" not in done.stderr
    assert "BrokenPipe" not in done.stderr


# Comparing must stay quick: drawing libraries are loaded only by what draws.
def test_comparing_loads_no_drawing() -> None:
    script = "import sys, tandem_reports.cli; sys.exit('matplotlib.axes' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], cwd=REPOSITORY / "reports", check=False)
    assert done.returncode == 0
