"""Shared by all tests: the fixtures' folder and a way to call the command line."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fixture_runs
import pytest

from tandem_reports.cli import main

REPOSITORY = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Outcome:
    code: int
    out: str
    err: str


def built(*suites: str) -> Path | None:
    """The folder of a build with `tandem` and these suites: TANDEM_BIN, or this machine's before others."""
    named = os.environ.get("TANDEM_BIN")
    here = REPOSITORY / "build"
    folders = [Path(named)] if named else [here / "bin", *sorted(here.glob("*/bin"))]
    names = ("tandem", *(f"suite_{suite}" for suite in suites))
    return next((f for f in folders if all((f / name).exists() for name in names)), None)


def schema(name: str) -> Any:
    """A committed schema of records, environments or profiles."""
    return json.loads((REPOSITORY / "harness" / "record" / f"{name}.schema.json").read_text())


def validator(name: str) -> Any:
    """Holds JSON to a committed schema; skips the test where jsonschema is not installed."""
    return pytest.importorskip("jsonschema").Draft202012Validator(schema(name))


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Callable[..., Outcome]:
    """Calls tandem-report in this process."""

    def call(*arguments: object) -> Outcome:
        try:
            code = main([str(argument) for argument in arguments])
        except SystemExit as exit_:
            code = int(exit_.code or 0)
        captured = capsys.readouterr()
        return Outcome(code, captured.out, captured.err)

    return call


@pytest.fixture
def gpu_a() -> Path:
    return fixture_runs.FIXTURES / "gpu_a"


@pytest.fixture
def gpu_b() -> Path:
    return fixture_runs.FIXTURES / "gpu_b"


@pytest.fixture
def cpu_smoke() -> Path:
    return fixture_runs.FIXTURES / "cpu_smoke"


@pytest.fixture
def good_record(gpu_a: Path) -> dict[str, Any]:
    """One measured record, as a dictionary that a test may spoil."""
    record: dict[str, Any] = json.loads((gpu_a / "records.jsonl").read_text().splitlines()[0])
    return record


@pytest.fixture
def run_with(tmp_path: Path) -> Callable[..., Path]:
    """A run folder that holds exactly these records or these raw lines."""

    def make(*records: Any, name: str = "run", tail: str = "") -> Path:
        path = fixture_runs.write_run(tmp_path / name, fixture_runs.gpu_environment(name), [])
        lines = [r if isinstance(r, str) else json.dumps(r) for r in records]
        (path / "records.jsonl").write_text("".join(f"{line}\n" for line in lines) + tail)
        return path

    return make
