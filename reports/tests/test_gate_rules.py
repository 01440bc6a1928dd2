"""Where the gate takes its rules from."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Outcome
from test_gate import duet


def test_the_usual_policy_is_read_and_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cli: Callable[..., Outcome]
) -> None:
    root = duet(tmp_path, 1.02)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    outcome = cli("gate", root)
    assert outcome.code == 1
    assert "Rules: built-in rules." in outcome.out
    (elsewhere / "suites").mkdir()
    lenient = {"default": {"minimum_effect": 0.05, "equivalence": 0.05}}
    (elsewhere / "suites" / "gates.json").write_text(json.dumps(lenient))
    outcome = cli("gate", root)
    assert outcome.code == 0
    assert "Rules: suites/gates.json." in outcome.out
    assert json.loads(cli("gate", root, "--json").out)["policy"] == "suites/gates.json"


# Without it a page would print the default's bands over cases that were judged by their suite's own.
def test_the_printed_rule_is_that_of_the_suite(tmp_path: Path, cli: Callable[..., Outcome]) -> None:
    root = duet(tmp_path, 1.02)
    policy = tmp_path / "gates.json"
    of_decoder = "minimum effect 3 %, same inside ±4 %"
    policy.write_text(json.dumps({"suites": {"decoder": {"minimum_effect": 0.03, "equivalence": 0.04}}}))
    for style in ("terminal", "markdown", "html"):
        outcome = cli("gate", root, "--policy", policy, "--format", style)
        assert outcome.code == 0, "2 % is the same by the rule of its suite"
        assert of_decoder in outcome.out
        assert "minimum effect 0.5 %" not in outcome.out
    for side in "ab":
        path = root / side / "records.jsonl"
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        other = [
            {
                **line,
                "suite": "encoder",
                "name": line["name"].replace("decoder", "encoder"),
                "case": {**line["case"], "suite": "encoder"},
                "id": line["id"][::-1],
            }
            for line in lines
        ]
        path.write_text("".join(json.dumps(line) + "\n" for line in (*lines, *other)))
    text = cli("gate", root, "--policy", policy).out
    assert f"decoder: {of_decoder}" in text
    assert "encoder: minimum effect 0.5 %, same inside ±1 %" in text


# Without it a workflow that renders the verdicts in the change's checkout would judge by the change's rules.
def test_the_rules_that_a_duet_or_run_a_keeps_go_before_those_at_hand(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cli: Callable[..., Outcome]
) -> None:
    root = duet(tmp_path, 1.02)
    change = tmp_path / "change"
    (change / "suites").mkdir(parents=True)
    lenient = {"default": {"minimum_effect": 0.05, "equivalence": 0.05}}
    (change / "suites" / "gates.json").write_text(json.dumps(lenient))
    monkeypatch.chdir(change)
    assert cli("gate", root).code == 0
    (root / "gates.json").write_text("{}")
    notes = {
        "schema": "1.0.0",
        "axes": [],
        "plan": [14],
        "taken": [{"look": 1, "of": 1, "pairs": 14}],
        "rules": {"policy": "of A", "sweep": "gate, of A"},
    }
    (root / "duet.json").write_text(json.dumps(notes))
    outcome = cli("gate", root)
    assert outcome.code == 1
    assert "Rules: of A. Sweep: gate, of A." in outcome.out
    again = duet(tmp_path, 1.02, seed=2, name="again")
    assert cli("gate", root, "--confirm", again).code == 1, "a second duet confirms by the same rules"
    assert cli("gate", root, "--policy", "suites/gates.json").code == 0
    assert cli("gate", root / "a", root / "b").code == 0
    (root / "a" / "gates.json").write_text("{}")
    (root / "b" / "gates.json").write_text(json.dumps(lenient))
    outcome = cli("gate", root / "a", root / "b")
    assert outcome.code == 1
    assert "duet/a/gates.json" in outcome.out
