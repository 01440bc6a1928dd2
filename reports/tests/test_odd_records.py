"""Records that no run leaves: one line names file and field, and nothing is taken in silence."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import Outcome
from test_gate import duet
from test_records import put

from tandem_reports.errors import ReportError
from tandem_reports.reading.runs import load_run


def _lines(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "records.jsonl").read_text().splitlines()]


def _copy(run: Path, to: Path, records: list[dict[str, Any]]) -> Path:
    to.mkdir()
    (to / "environment.json").write_bytes((run / "environment.json").read_bytes())
    (to / "records.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    return to


# Breaks when a value that a calculation cannot bear gets past the reader.
@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        ("schema", "1." * 2500 + "0", "schema: must be a version"),
        ("schema", "1.0." + "9" * 5000, "schema: must be a version"),
        ("schema", "9" * 5000 + ".0.0", "schema: must be a version"),
        ("summary.median_us", 5e-324, "median_us: must be 1e-06 to 1e+15 microseconds"),
        ("summary.median_us", 1e308, "median_us: must be 1e-06 to 1e+15 microseconds"),
        ("case.batch", 10**400, "batch: must be a whole number"),
        ("worker", 10**18, "worker: must be a whole number"),
        ("name", "decoder/\ud800", "name: must be text"),
        ("summary.n", 10**6, "n: is 1000000, but samples hold"),
        ("summary.ci95_us", [1e9, 2e9], "ci95_us: does not hold median_us"),
    ],
)
def test_odd_values(
    path: str, value: Any, words: str, gpu_a: Path, tmp_path: Path, cli: Callable[..., Outcome]
) -> None:
    records = _lines(gpu_a)
    place = next(index for index, record in enumerate(records) if record["status"] == "ok")
    records[place] = put(records[place], path, value)
    run = _copy(gpu_a, tmp_path / "run", records)
    outcome = cli("gate", gpu_a, run)
    assert outcome.code == 2
    assert outcome.err.count("\n") == 1
    assert words in outcome.err


# Breaks when a notes or environment file may say what a record may not: the same faults, in the brothers.
@pytest.mark.parametrize("name", ["environment.json", "duet.json"])
@pytest.mark.parametrize(
    ("field", "value"), [("schema", "1.0." + "9" * 5000), ("schema", 10**400), ("schema", "1.\ud800.0")]
)
def test_odd_versions_of_other_files(
    name: str, field: str, value: Any, tmp_path: Path, cli: Callable[..., Outcome]
) -> None:
    root = duet(tmp_path, pairs=2)
    path = root / name if name == "duet.json" else root / "a" / name
    content = json.loads(path.read_text()) if path.is_file() else {"axes": []}
    path.write_text(json.dumps(content | {field: value}))
    outcome = cli("gate", root)
    assert outcome.code == 2
    assert outcome.err.count("\n") == 1
    assert "schema" in outcome.err


# Breaks when bytes that are no text end in a traceback, in any file that a gate reads.
@pytest.mark.parametrize("name", ["a/environment.json", "a/records.jsonl", "duet.json", "gates.json"])
def test_files_that_are_no_text(name: str, tmp_path: Path, cli: Callable[..., Outcome]) -> None:
    root = duet(tmp_path, pairs=2)
    (root / name).write_bytes(b'{"schema": "1.0.0", "run": "\xff"}\n')
    for command in ("gate", "self-test"):
        outcome = cli(command, root)
        assert outcome.code == 2
        assert outcome.err.count("\n") == 1
        assert f"{name}" in outcome.err
        assert "not UTF-8 at byte 29" in outcome.err


# Breaks when cycles that no clock counts end in a traceback, or in a number that looks like a finding.
@pytest.mark.parametrize("cycles", [5e-324, 1e308, 10**400, -1, "many"])
def test_odd_cycles(cycles: Any, gpu_a: Path, tmp_path: Path, cli: Callable[..., Outcome]) -> None:
    records = _lines(gpu_a)
    for place, record in enumerate(records):
        if record["status"] == "ok":
            records[place] = put(record, "metrics", {"sm_cycles": cycles})
    outcome = cli("gate", gpu_a, _copy(gpu_a, tmp_path / "run", records))
    assert outcome.code == 2
    assert outcome.err.count("\n") == 1
    assert "sm_cycles: must be" in outcome.err


# Breaks when of two records of one worker one is dropped in silence, or one id stands for two cases.
def test_a_worker_has_one_record_and_an_id_one_case(gpu_a: Path, tmp_path: Path) -> None:
    records = _lines(gpu_a)
    with pytest.raises(ReportError, match="worker 0, attempt 1 is there twice"):
        load_run(_copy(gpu_a, tmp_path / "twice", [records[0], records[0]]))
    other = put(put(records[0], "worker", 7), "case.src", 77)
    with pytest.raises(ReportError, match="is that of two cases: src"):
        load_run(_copy(gpu_a, tmp_path / "two", [records[0], other]))
