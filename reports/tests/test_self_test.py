"""How often the gate is wrong: the arithmetic of the self-test, on invented duets whose truth is known."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import fixture_runs
import numpy as np
import pytest
from conftest import Outcome
from fixture_runs import Model, case, make_run

from tandem_reports.gate import self_test
from tandem_reports.gate.policy import Policy, SuitePolicy
from tandem_reports.gate.self_test import load_known, lower_bound, upper_bound, whole_gate

CASES = [case("decoder", model="t5-base", batch=batch) for batch in (32, 64)] + [
    case("encoder", model="t5-base", batch=batch, src=512) for batch in (32, 64)
]


def known_duet(
    root: Path, percent: float = 0.0, *, side: str = "b", pairs: int = 16, sd: float = 0.0015, seed: int = 1
) -> Path:
    """A duet whose side `side` is a build with `percent` planted, which its environment says."""
    for number, name in enumerate("ab"):
        here = name == side and percent > 0
        environment = fixture_runs.gpu_environment(f"{root.name}-{name}")
        environment["build"]["planted"] = {"delay_percent": percent} if here else None
        factor = 1 + percent / 100 if here else 1.0
        model = Model(factor=lambda axes, factor=factor: factor, worker_sd=sd, samples=12)
        make_run(
            root / name, CASES, workers=pairs, seed=10 * seed + number, model=model, keep_samples=False,
            environment=environment,
        )  # fmt: skip
    notes: dict[str, Any] = {
        "schema": "1.0.0", "axes": [], "plan": [11, 16], "spent_s": 60.0, "end": "decided",
        "taken": [{"look": 1, "of": 2, "pairs": 11}, {"look": 2, "of": 2, "pairs": 16}],
    }  # fmt: skip
    (root / "duet.json").write_text(json.dumps(notes))
    return root


# The published values: 0 of 300 bounds a rate at 0.99 % (the rule of three), 0 of 20 at 14 %.
@pytest.mark.parametrize(
    ("hits", "trials", "bound"),
    [(0, 300, 0.00994), (0, 20, 0.1391), (1, 20, 0.2161), (20, 20, 1.0), (0, 0, 1.0)],
)
def test_bounds_are_the_exact_ones(hits: int, trials: int, bound: float) -> None:
    assert upper_bound(hits, trials) == pytest.approx(bound, abs=5e-5)
    assert lower_bound(trials - hits, trials) == pytest.approx(1 - bound, abs=5e-5)


# As scipy 1.17.1 gives them: stats.beta.ppf(0.95, hits + 1, trials - hits). Few hits, many, and many trials.
@pytest.mark.parametrize(
    ("hits", "trials", "bound"),
    [
        (0, 300, 0.009936081944457708), (3, 20, 0.3436638043142818), (19, 20, 0.9974386212234697),
        (7, 240, 0.05408350320687559), (120, 5000, 0.027873652385490822), (4999, 5000, 0.9999897413937423),
    ],
)  # fmt: skip
def test_bounds_are_scipys(hits: int, trials: int, bound: float) -> None:
    assert upper_bound(hits, trials) == pytest.approx(bound, rel=1e-9)


def test_a_quiet_machine_passes(tmp_path: Path, cli: Callable[..., Outcome]) -> None:
    duets = [
        known_duet(tmp_path / "one"),
        known_duet(tmp_path / "two", seed=2),
        known_duet(tmp_path / "x", 2.0, seed=3),
        known_duet(tmp_path / "y", 5.0, seed=4),
    ]
    outcome = cli("self-test", *duets, "--trials", "100", "--format", "json")
    assert outcome.code == 0, outcome.out
    content = json.loads(outcome.out)
    assert content["false_alarms"]["alarms"] == 0
    assert content["false_alarms"]["decisions"] == 300
    assert content["false_alarms"]["unknown"] <= 0.1 * content["false_alarms"]["verdicts"]
    assert [item["planted_percent"] for item in content["power"]] == [2.0, 5.0]
    assert all(item["found_live"] == item["cases"] >= 3 for item in content["power"])
    assert all(item["found"] >= 0.95 * item["trials"] for item in content["power"])
    assert content["power"][0]["measured_ratio"] == pytest.approx(1.02, abs=0.002)
    assert content["spread"]["within"] == content["spread"]["cases"] >= 6
    assert cli("self-test", *duets, "--trials", "100", "--format", "json").out == outcome.out
    table = cli("self-test", *duets, "--trials", "20").out
    live = "| false alarms, live | 0 of 2 duets | at most 77.64 % |"
    assert live in table
    recomputed = "| false alarms, recomputed | 0 of 300 gates | at most 0.9936 % |"
    assert table.index(live) < table.index("+2 % planted, live") < table.index(recomputed)
    assert content["power"][0]["live_lower_bound"] == lower_bound(*[content["power"][0]["cases"]] * 2)
    assert all(item["as_planted"] == item["cases"] for item in content["power"])


# Without it labels would be redrawn as no driver draws them: by pair, and all cases of a process at once.
def test_labels_are_redrawn_by_pair(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    duet = load_known(known_duet(tmp_path / "one"), Policy())
    seen = []

    def watch(duet: self_test.KnownDuet, logs: np.ndarray) -> list[str]:
        seen.append(np.sign(logs / duet.logs))
        return ["same"] * len(logs)

    monkeypatch.setattr(self_test, "whole_gate", watch)
    self_test.false_alarms([duet], 200, np.random.default_rng(1))
    drawn = np.array(seen)
    groups = np.array(duet.groups)
    for group in set(duet.groups):
        assert (drawn[:, groups == group] == drawn[:, groups == group][:, :1]).all()
    one_a_process = drawn[:, [duet.groups.index(group) for group in sorted(set(duet.groups))]]
    streams = one_a_process.reshape(200, -1).T  # of each group and pair
    alike = np.abs(streams @ streams.T / 200 - np.eye(len(streams)))
    assert alike.max() < 0.35, "no two of them are tied; 5 standard deviations"
    assert np.abs(streams.mean(axis=1)).max() < 0.35


# Without it a plant that is not what it says (a planted 2 % that was 0.7 % on a card) would blame the gate.
def test_a_plant_of_another_size_fails(tmp_path: Path, cli: Callable[..., Outcome]) -> None:
    root = known_duet(tmp_path / "short", 5.0)
    environment = json.loads((root / "b" / "environment.json").read_text())
    environment["build"]["planted"] = {"delay_percent": 6.0, "padding_bytes": 4096}
    (root / "b" / "environment.json").write_text(json.dumps(environment))
    outcome = cli("self-test", root, "--trials", "20", "--format", "json")
    assert outcome.code == 1
    (found,) = json.loads(outcome.out)["power"]
    assert (found["found_live"], found["as_planted"]) == (found["cases"], 0)


# Without it a build that was linked apart, with its code moved, would count as a slow-down.
def test_a_build_linked_apart_is_unchanged(tmp_path: Path, cli: Callable[..., Outcome]) -> None:
    root = known_duet(tmp_path / "apart")
    environment = json.loads((root / "b" / "environment.json").read_text())
    environment["build"]["planted"] = {"padding_bytes": 4096}
    (root / "b" / "environment.json").write_text(json.dumps(environment))
    assert load_known(root, Policy()).expected == "same"
    assert "planted" not in cli("gate", root).err


# Without it a gate that misses what it promises to find would pass its own test.
def test_what_is_not_found_fails(tmp_path: Path, cli: Callable[..., Outcome]) -> None:
    missed = known_duet(tmp_path / "missed", 0.3)
    outcome = cli("self-test", missed, "--trials", "20", "--format", "json")
    assert outcome.code == 1
    assert json.loads(outcome.out)["false_alarms"] is None
    assert json.loads(outcome.out)["power"][0]["found_live"] == 0


# Without it a difference between two builds that should be one would not count as a false alarm.
def test_a_real_difference_is_a_live_false_alarm(tmp_path: Path, cli: Callable[..., Outcome]) -> None:
    root = known_duet(tmp_path / "biased", 3.0)
    environment = json.loads((root / "b" / "environment.json").read_text())
    environment["build"]["planted"] = None
    (root / "b" / "environment.json").write_text(json.dumps(environment))
    outcome = cli("self-test", root, "--format", "json")
    assert outcome.code == 1
    content = json.loads(outcome.out)["false_alarms"]
    assert content["live_alarms"] == 1
    # 11 pairs fall alike in one draw of 1024, for either group: nothing but that brings the difference back.
    assert content["alarms"] <= 5, "labels drawn anew take the difference out"


# Without it a duet of a CPU, whose rules are wide, would be judged by a card's, and noise called a failure.
def test_a_duet_is_judged_by_the_rules_it_keeps(tmp_path: Path, cli: Callable[..., Outcome]) -> None:
    root = known_duet(tmp_path / "planted", 1.0)
    assert cli("self-test", root, "--trials", "20").code == 0
    (root / "gates.json").write_text('{"default": {"minimum_effect": 0.05, "equivalence": 0.06}}')
    outcome = cli("self-test", root, "--trials", "20", "--format", "json")
    assert outcome.code == 1
    (found,) = json.loads(outcome.out)["power"]
    assert found["found_live"] == found["found"] == 0, "1 % is no slow-down by these rules"
    (tmp_path / "narrow.json").write_text("{}")
    assert cli("self-test", root, "--trials", "20", "--policy", tmp_path / "narrow.json").code == 0


def test_the_planted_side_may_be_either(tmp_path: Path) -> None:
    right = load_known(known_duet(tmp_path / "right", 5.0), Policy())
    left = load_known(known_duet(tmp_path / "left", 5.0, side="a"), Policy())
    assert (right.expected, left.expected) == ("slower", "faster")
    assert right.found_live == left.found_live == len(right.long) >= 3
    assert float(np.nanmedian(left.logs)) == pytest.approx(np.log(1.05), abs=0.002)
    assert len(set(right.groups)) == 2, "cases of one suite and model share their processes"


def test_looks_and_lost_pairs(tmp_path: Path) -> None:
    duet = load_known(known_duet(tmp_path / "one", 5.0), Policy())
    logs = duet.logs.copy()
    assert set(whole_gate(duet, logs)) == {"slower"}
    logs[0, :11] = np.nan
    assert whole_gate(duet, logs)[0] == "unknown", "five pairs are too few at any alpha of 0.005"


# Without it the looks could each be right and together ring too often. The least effect counts: every
# rejection here is a false one.
def test_all_looks_together_keep_alpha(tmp_path: Path) -> None:
    alpha = 0.05
    duet = replace(
        load_known(known_duet(tmp_path / "one"), Policy()),
        alpha=alpha,
        rules=(SuitePolicy(minimum_effect=1e-12, equivalence=1e-9),) * 4,
        looks=(9, 13, 18),
    )
    rng = np.random.default_rng(11)
    gates, alarms = 1500, 0
    for _ in range(gates):
        logs = rng.normal(0, 0.01, size=(4, 18)) * rng.choice([0.3, 3.0], size=(1, 18))
        alarms += any(status in ("slower", "faster") for status in whole_gate(duet, logs))
    # Slow-downs and speed-ups have an alpha each.
    assert alarms / gates < 2 * alpha + 3 * math.sqrt(2 * alpha * (1 - 2 * alpha) / gates)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda notes: notes.update(axes=["colour"]), "axes: 'colour' is not an axis"),
        (lambda notes: notes.update(schema="2.0.0"), "schema 2.0.0 is not supported"),
        (lambda notes: notes.update(plan=[0]), "plan: 0: must be a whole number of at least 1"),
        (
            lambda notes: notes.update(taken=[{"look": 1, "of": 0, "pairs": 5}]),
            "of: must be a whole number of at least 1",
        ),
    ],
)
def test_bad_notes_are_one_line(
    spoil: Callable[[dict[str, Any]], None], message: str, tmp_path: Path, cli: Callable[..., Outcome]
) -> None:
    root = known_duet(tmp_path / "one")
    notes = json.loads((root / "duet.json").read_text())
    spoil(notes)
    (root / "duet.json").write_text(json.dumps(notes))
    for command in ("self-test", "gate"):
        outcome = cli(command, root)
        assert outcome.code == 2
        assert message in outcome.err
        assert outcome.err.count("\n") == 1


def test_bad_input_is_one_line(tmp_path: Path, gpu_a: Path, cli: Callable[..., Outcome]) -> None:
    both = known_duet(tmp_path / "both", 2.0)
    environment = json.loads((both / "a" / "environment.json").read_text())
    environment["build"]["planted"] = {"delay_percent": 2.0}
    (both / "a" / "environment.json").write_text(json.dumps(environment))
    for arguments, message in [
        ([gpu_a], "not a duet"),
        ([both], "both sides are planted builds"),
        ([known_duet(tmp_path / "few", pairs=1)], "1 whole pair: nothing to resample"),
        ([both, "--decisions", "0"], "is not a number from 1"),
    ]:
        outcome = cli("self-test", *arguments)
        assert outcome.code == 2
        assert message in outcome.err
