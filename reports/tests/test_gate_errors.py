"""How often the gate is wrong, and what must not look like a verdict."""

from __future__ import annotations

import json
import math
import random
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import Outcome
from fixture_runs import Model, base_record, make_run
from test_gate import CASES, duet, verdicts

from tandem_reports.gate.deciding import Evidence, decide
from tandem_reports.gate.policy import Policy, SuitePolicy
from tandem_reports.gate.verdicts import Verdict, gate
from tandem_reports.reading.runs import load_run


def _share(pairs: int, sd: float, shift: float, status: str, duets: int = 100, cases: int = 20) -> float:
    """Share of seeded gates of log-normal noise whose cases all have a status; `sd` is that of a process."""
    rng = random.Random(pairs)
    hits = 0
    for _ in range(duets):
        found = [
            Evidence(
                "encoder", SuitePolicy(), tuple(range(pairs)),
                tuple(rng.gauss(shift, sd * math.sqrt(2)) for _ in range(pairs)),
            )
            for _ in range(cases)
        ]  # fmt: skip
        hits += all(decision.status == status for decision in decide(found, 0.01)[0])
    return hits / duets


# Breaks when the same is tested at alpha over the cases again: unchanged builds would stay unknown.
@pytest.mark.parametrize(("pairs", "sd"), [(13, 0.003), (16, 0.004)])
def test_unchanged_builds_pass(pairs: int, sd: float) -> None:
    assert _share(pairs, sd, 0.0, "same") >= 0.95


# Breaks when the band is tested at less than alpha a side.
def test_just_outside_the_band_is_seldom_the_same() -> None:
    assert _share(13, 0.003, math.log1p(0.0101), "same", duets=1000, cases=1) <= 0.02


# Breaks when a slow-down may be confirmed by the pairs that it was found in.
def test_a_duet_does_not_confirm_itself(tmp_path: Path, cli: Callable[..., Outcome]) -> None:
    root = duet(tmp_path, 1.05)
    outcome = cli("gate", root, "--confirm", root)
    assert outcome.code == 2
    assert "the very run of B" in outcome.err


# Breaks when a crash of the tool ends with the code that a CI reads as slower.
def test_a_crash_is_no_verdict(
    cli: Callable[..., Outcome], gpu_a: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError("at\nsomething")

    monkeypatch.setattr("tandem_reports.commands.gate._judge", broken)
    outcome = cli("gate", gpu_a, gpu_a)
    assert outcome.code == 70
    assert outcome.err == (
        "tandem-report: internal error, ZeroDivisionError: at something (TANDEM_TRACEBACK=1 shows where)\n"
    )


# Breaks when a failure of B passes because A failed otherwise.
def test_only_the_same_failure_is_excused(tmp_path: Path) -> None:
    def failed(reason: str) -> Any:
        return [base_record(CASES[0], 0, "error", reason)]

    for name, reasons, status in (
        ("one", ("out of luck", "out of luck"), "unmeasured"),
        ("two", ("a", "b"), "failed"),
    ):
        root = tmp_path / name
        for side, reason in zip("ab", reasons, strict=True):
            make_run(
                root / side,
                CASES[1:],
                workers=8,
                seed=3,
                model=Model(samples=12),
                keep_samples=False,
                extra=failed(reason),
            )
        assert verdicts(root)[1] == status


# Breaks when a reason's control characters make the file no XML.
def test_junit_is_xml_whatever_a_reason_holds(tmp_path: Path, cli: Callable[..., Outcome]) -> None:
    record = base_record(CASES[0], 0, "crashed", "\x1b[31mred\x00")
    root = duet(tmp_path, pairs=8, cases_b=CASES[1:], extra_b=[record])
    text = cli("gate", root, "--format", "junit").out
    assert "red" in next(
        element.get("message", "") for element in ElementTree.fromstring(text).iter("failure")
    )


def _changed(root: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Changes the records of batch 64."""
    path = root / "records.jsonl"
    records = [json.loads(line) for line in path.read_text().splitlines()]
    for record in records:
        if record["case"]["batch"] == 64:
            change(record)
    path.write_text("".join(json.dumps(record) + "\n" for record in records))


# Breaks when a time passes whose output changed, was wrong, or was taken under a profiler.
@pytest.mark.parametrize(
    ("field", "values", "words"),
    [
        ("check", {"digest": "ab" * 32, "digest_after": "cd" * 32}, "its output changed while it was timed"),
        ("check", {"error": 0.5, "tolerance": 0.02}, "its error 0.5 is over its tolerance 0.02"),
        ("process", {"profiler_mapped": True}, "a profiler was mapped"),
    ],
)
def test_unsound_times_are_no_evidence(
    field: str, values: dict[str, Any], words: str, tmp_path: Path
) -> None:
    def change(record: dict[str, Any]) -> None:
        record[field] = {**record[field], **values}

    root = duet(tmp_path, pairs=13)
    _changed(root / "b", change)
    found = _verdict(root)
    assert (found.status, found.note) == ("failed", f"in B {words}")
    _changed(root / "a", change)
    found = _verdict(root)
    assert (found.status, found.note) == ("not-comparable", f"in A {words}")


def _verdict(root: Path) -> Verdict:
    """That of batch 64."""
    result = gate(load_run(root / "a"), load_run(root / "b"), Policy())
    return next(verdict for verdict in result.verdicts if verdict.case.integer("batch") == 64)


# Breaks when samples of one side that are worth less stand beside a verdict without a word.
@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"warmup": {"steady": False}}, "not settled"),
        ({"clocks": {"state": "not settled"}}, "not settled"),
        ({"stop": {"reached": False}}, "stopped at cap"),
        ({"warmup": {"steady": False}, "stop": {"reached": False}}, "not settled in {0}; stopped at cap"),
    ],
)
def test_samples_of_less_worth_are_said(fields: dict[str, Any], words: str, tmp_path: Path) -> None:
    def change(record: dict[str, Any]) -> None:
        for name, values in fields.items():
            record[name] = {**record[name], **values}

    root = duet(tmp_path, 1.03, pairs=14)
    assert (_verdict(root).status, _verdict(root).note) == ("slower", "")
    _changed(root / "b", change)
    assert (_verdict(root).status, _verdict(root).note) == ("slower", f"{words} in B".format("B"))
    _changed(root / "a", change)
    assert _verdict(root).note == f"{words} in A and B".format("A and B")


# Breaks when throttled samples, or a debug build, leave no trace in the answer.
def test_conditions_are_said(tmp_path: Path) -> None:
    def throttle(record: dict[str, Any]) -> None:
        record["clocks"] = {**record["clocks"], "throttled_samples": 3}

    root = duet(tmp_path, pairs=13)
    _changed(root / "b", throttle)
    found = _verdict(root)
    assert (found.status, found.note) == ("same", "throttled in B")

    def cycles(per_us: float) -> Callable[[dict[str, Any]], None]:
        def set_cycles(record: dict[str, Any]) -> None:
            record["metrics"] = {"sm_cycles": per_us * record["summary"]["median_us"]}
            record["clocks"] = {**record["clocks"], "state": "throttled"}

        return set_cycles

    _changed(root / "a", cycles(1700))
    _changed(root / "b", cycles(1683))
    found = _verdict(root)
    match = re.fullmatch(r"throttled in A and B \(([+-][0-9.]+) % in SM cycles\)", found.note)
    assert match is not None, found.note
    assert found.ratio is not None
    assert float(match[1]) == pytest.approx(100 * (0.99 * found.ratio - 1), abs=0.2)
    path = root / "b" / "environment.json"
    environment = json.loads(path.read_text())
    environment["build"]["type"] = "Debug"
    path.write_text(json.dumps(environment))
    found = _verdict(root)
    assert (found.status, found.note) == ("not-comparable", "another build type: Release and Debug")
