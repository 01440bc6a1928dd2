"""What being second in a pair does, and what a case can show: beside the verdicts of a duet."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Outcome
from test_gate import CASES, duet

from tandem_reports.gate.deciding import Evidence, shares
from tandem_reports.gate.forecast import smallest_effect, spread, visible
from tandem_reports.gate.order import order_effects
from tandem_reports.gate.policy import SuitePolicy
from tandem_reports.reading.duet import Group, Look
from tandem_reports.stats.paired import signed_rank_greater


def drawn(effect: float, change: float, pairs: int, seed: int) -> tuple[Group, dict[str, Evidence]]:
    """Three cases of one group; the second process takes `effect` more, B `change` more."""
    rng = np.random.default_rng(seed)
    first = {pair: "ab"[rng.integers(2)] for pair in range(pairs)}
    signs = np.array([1 if first[pair] == "a" else -1 for pair in range(pairs)])
    cases = {}
    for name in ("x", "y", "z"):
        logs = change + signs * effect + rng.normal(0, 0.002, size=pairs)
        cases[name] = Evidence("encoder", SuitePolicy(), tuple(range(pairs)), tuple(logs.tolist()))
    return Group("encoder|cuda||m", ("x", "y", "z", "gone"), first), cases


# Breaks when the order goes unnoticed, is taken for the builds' difference, or is seen where there is none;
# seed 1 draws 12 pairs of one order and 4 of the other.
@pytest.mark.parametrize("effect", [0.0, 0.004, -0.004])
@pytest.mark.parametrize("seed", [1, 3])
def test_the_order_is_told_from_the_builds(effect: float, seed: int) -> None:
    group, cases = drawn(effect, 0.02, 16, seed)
    (found,) = order_effects([group], cases)
    a_first = list(group.first.values()).count("a")
    assert (found.name, found.cases) == ("encoder|cuda||m", 3)
    assert (found.a_first, found.b_first) == (a_first, 16 - a_first)
    assert math.log(found.ratio) == pytest.approx(effect, abs=0.001)
    assert found.seen == (effect != 0)


# Breaks when the interval covers less than it says: one order came more often, or cases left. The builds
# differ by 2 % in one case alone: means over those that are there jump where it leaves.
def test_the_interval_holds() -> None:
    held = trials = 0
    for seed in range(300):
        group, cases = drawn(0.001, 0.0, 20, seed)
        moved = [log + 0.02 for log in cases["x"].logs]
        cases["x"] = Evidence("encoder", SuitePolicy(), tuple(range(12)), tuple(moved[:12]))
        for found in order_effects([group], cases):
            if found.interval is not None:
                trials += 1
                held += found.interval.low <= math.exp(0.001) <= found.interval.high
    assert trials > 280
    assert held / trials >= 0.92


# Breaks when a case that left, a pair cut apart or a duet of one order ends in nonsense.
def test_what_says_nothing_is_left_out() -> None:
    group, cases = drawn(0.004, 0.0, 16, 3)
    one_order = [pair for pair, side in group.first.items() if side == "a"][:2]
    short = {**cases, "x": Evidence("encoder", SuitePolicy(), tuple(one_order), (0.5, 0.5))}
    (found,) = order_effects([group], short)
    assert (found.cases, found.a_first + found.b_first) == (2, 16)
    assert math.log(found.ratio) == pytest.approx(0.004, abs=0.001)
    cut = Group(group.name, group.case_ids, {pair: side for pair, side in group.first.items() if pair > 1})
    (found,) = order_effects([cut], cases)
    assert found.a_first + found.b_first == 14
    assert order_effects([group], {"x": short["x"]}) == []
    two = Evidence("encoder", SuitePolicy(), (0, 1), (0.5, 0.5))
    (found,) = order_effects([Group("g", ("x",), {0: "a", 1: "b"})], {"x": two})
    assert (found.ratio, found.interval, found.seen) == (1.0, None, False)
    assert order_effects([group], {}) == []


def with_order(root: Path, pairs: int) -> dict[str, Any]:
    """Gives a duet one group of all its cases."""
    records = [json.loads(line) for line in (root / "a" / "records.jsonl").read_text().splitlines()]
    order = [{"pair": pair, "group": 0, "first": "ab"[(pair + pair // 2) % 2]} for pair in range(pairs)]
    notes = {
        "schema": "1.1.0", "axes": [], "plan": [pairs], "pairs": pairs, "spent_s": 5.0 * pairs,
        "taken": [{"look": 1, "of": 1, "pairs": pairs, "spent_s": 5.0 * pairs}],
        "groups": ["decoder|cuda"], "members": [sorted({record["id"] for record in records})], "order": order,
    }  # fmt: skip
    (root / "duet.json").write_text(json.dumps(notes))
    return notes


# Breaks when the report is silent on the order, on a case's noise, or on what it can show.
def test_a_duet_says_order_noise_and_what_it_can_show(tmp_path: Path, cli: Callable[..., Outcome]) -> None:
    root = duet(tmp_path, pairs=14)
    notes = with_order(root, 14)
    text = cli("gate", root).out
    assert "order in decoder cuda: the second process of a pair " in text
    assert "A first in 7 of 14 pairs" in text
    content = json.loads(cli("gate", root, "--json").out)
    assert content["orders"][0]["cases"] == len(CASES)
    for entry in content["cases"]:
        assert 0.0004 < entry["cv"] < 0.0016
        assert 0.006 < entry["smallest_effect_at_13_pairs"] < 0.012
    assert "CV" in text
    for style in ("markdown", "html"):
        assert "order in decoder cuda" in cli("gate", root, "--format", style).out
    for change, message in (
        ({"members": []}, None),
        ({"members": [[], []]}, "members: must name the cases of 1 groups, not of 2"),
        ({"order": [{"pair": 0, "group": 1, "first": "a"}]}, "group: must be under 1"),
        ({"order": [{"pair": 0, "group": 0, "first": "c"}]}, "first: must be one of a, b"),
    ):
        (root / "duet.json").write_text(json.dumps({**notes, **change}))
        outcome = cli("gate", root)
        assert outcome.code == (2 if message else 0)
        assert message is None or message in outcome.err


# Breaks when a forecast has no minutes though the duet knows what a pair takes.
def test_forecasts_say_how_long(tmp_path: Path, cli: Callable[..., Outcome]) -> None:
    root = duet(tmp_path, pairs=14, sd=0.004)
    notes = with_order(root, 14)
    notes["plan"] = [8, 11, 14, 18]
    notes["taken"] = [
        {"look": 1, "of": 4, "pairs": 8, "spent_s": 100},
        {"look": 2, "of": 4, "pairs": 10, "spent_s": 160},
    ]
    notes |= {"pairs": 10, "spent_s": 160}
    (root / "duet.json").write_text(json.dumps(notes))
    text = cli("gate", root).out
    assert " more pairs (at most " in text, "30 s a pair"
    assert " min) would decide" in text


# Breaks when the smallest effect is one that 13 pairs do not find.
def test_the_smallest_effect_is_found() -> None:
    alpha = shares(0.01, Look(2, 8)).change / 20
    shift = visible(13, alpha)
    rng = np.random.default_rng(8)
    found = [signed_rank_greater(row, 0) <= alpha for row in rng.normal(shift, 1, size=(2000, 13)).tolist()]
    assert 0.87 <= np.mean(found) <= 0.94
    logs = [0.01 * (-1) ** place for place in range(12)]
    noise = spread(logs)
    assert noise == pytest.approx(0.01 * math.sqrt(12 / 11) / math.sqrt(2))
    effect = smallest_effect(logs, SuitePolicy(), 0.01, 20)
    assert effect == pytest.approx(math.expm1(math.log1p(0.005) + shift * noise * math.sqrt(2)))
    assert spread(logs[:5]) is smallest_effect(logs[:5], SuitePolicy(), 0.01, 20) is None
    assert smallest_effect(logs, SuitePolicy(), 0.01, 2000) is None
