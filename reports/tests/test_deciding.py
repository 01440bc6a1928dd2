"""Deciding over looks: what each may spend, who leaves, who stays in the family, and the means of suites."""

from __future__ import annotations

import itertools
import json
import math
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import Outcome
from fixture_runs import Model, case, make_run
from test_gate import CASES, duet

from tandem_reports.gate.deciding import SUITE_SHARE, Evidence, decide, planned_pairs, shares
from tandem_reports.gate.policy import Policy, SuitePolicy
from tandem_reports.gate.verdicts import gate
from tandem_reports.reading.duet import Look
from tandem_reports.reading.runs import load_run
from tandem_reports.stats.paired import signed_rank_greater, signed_rank_interval

SHIFT = math.log1p(0.005)


def evidence(logs: list[float], suite: str = "encoder") -> Evidence:
    return Evidence(suite, SuitePolicy(), tuple(range(len(logs))), tuple(logs))


def around(centre: float, n: int, step: float = 1e-5) -> list[float]:
    """n different values close to a centre."""
    return [centre + step * (place - n / 2) for place in range(n)]


# Breaks when the looks together could spend more than alpha, also after a duet has been extended.
@pytest.mark.parametrize("looks", [1, 2, 5, 30])
def test_alpha_is_spent_at_most_once(looks: int) -> None:
    spent = [shares(0.01, Look(number, looks)) for number in range(1, looks + 1)]
    assert sum(share.same for share in spent) <= 0.01
    assert sum(share.change + share.suites for share in spent) <= 0.01
    assert all(share.suites == pytest.approx(share.change * SUITE_SHARE / 0.98) for share in spent)
    if looks > 1:
        assert [shares(0.01, Look(number, 40)) for number in range(1, looks + 1)] == spent


# Breaks when a look comes where nothing can be decided, or when more looks move the ones before them.
@pytest.mark.parametrize("cases", [1, 5, 20, 200])
def test_looks_are_planned_where_they_can_decide(cases: int) -> None:
    plan = planned_pairs(0.01, cases, 8)
    for number, pairs in enumerate(plan, start=1):
        share = shares(0.01, Look(number, 8))
        values = around(0.1, pairs)
        assert signed_rank_interval(values, 1 - 2 * share.same) is not None, "same"
        if number > 1:
            assert signed_rank_greater(values) <= share.change / cases, "slower"
    assert all(later >= 1.23 * earlier for earlier, later in itertools.pairwise(plan[1:]))
    assert planned_pairs(0.01, cases, 4) == plan[:4]
    assert planned_pairs(0.01, 20, 1) == [11]
    assert planned_pairs(0.01, 20, 6) == [8, 13, 16, 20, 25, 31]


# Breaks when a case that has left is judged again, or one that goes on by the pairs of an early look.
def test_who_is_decided_leaves_and_keeps_the_verdict() -> None:
    quiet = evidence(around(0.0, 8))
    noisy = evidence([0.02 * (-1) ** place for place in range(8)] + around(0.0, 42, 1e-4))
    turned = evidence(around(0.0, 8) + around(0.1, 42))
    looks = [Look(number, 6, pairs) for number, pairs in enumerate((8, 12, 16, 21, 28, 50), start=1)]
    found = decide([quiet, noisy, turned], 0.01, looks)[0]
    assert [(item.status, item.look, len(item.logs)) for item in found] == [
        ("same", 1, 8),
        ("same", 6, 50),
        ("same", 1, 8),
    ]
    assert [item.status for item in decide([noisy], 0.01, looks[:1])[0]] == ["unknown"]
    assert [item.status for item in decide([noisy], 0.01, ())[0]] == ["unknown"]


# Breaks when Holm divides by those that are left alone: cases near the minimum effect ring twice as often.
def test_who_left_stays_in_the_family() -> None:
    looks = [Look(1, 6, 8), Look(2, 6, 12)]
    # At the second look p is 2 / 2^12: enough for one case of nine, not for one of twenty.
    slow = evidence([0.02] * 8 + around(0.02, 3) + [SHIFT - 1e-6])
    p = signed_rank_greater(slow.logs, SHIFT)
    assert shares(0.01, looks[1]).change / 20 < p < shares(0.01, looks[1]).change / 9
    same = [evidence(around(0.0, 8)) for _ in range(19)]
    assert decide([slow, *same], 0.01, looks)[0][0].status == "unknown"
    assert decide([slow, *same[:8]], 0.01, looks)[0][0].status == "slower"
    # Those that were found slower before are rejected for good, and leave their part to the others.
    found = [evidence(around(0.1, 13, 1e-3)) for _ in range(19)]
    small = [0.001 * place for place in range(1, 11)]
    later = evidence([SHIFT + x for x in (-0.0115, -0.0125, *small, *around(0.02, 9))])
    three = [*looks, Look(3, 6, 21)]
    assert signed_rank_greater(later.logs, SHIFT) > shares(0.01, three[2]).change / 20
    assert signed_rank_greater(later.logs, SHIFT) < shares(0.01, three[2]).change
    decisions = decide([later, *found], 0.01, three)[0]
    assert {item.status for item in decisions[1:]} == {"slower"}
    assert decisions[0].status == "slower"
    assert decide([later, *same], 0.01, three)[0][0].status == "unknown"


def _family(shift: float, pairs: int, sd: float, rng: random.Random) -> list[Evidence]:
    return [evidence([rng.gauss(shift, sd * math.sqrt(2)) for _ in range(pairs)]) for _ in range(20)]


# Breaks when a build that is a little slower everywhere passes because no single case shows it.
def test_the_mean_over_a_suite_finds_what_no_case_shows() -> None:
    rng = random.Random(4)
    looks = [Look(1, 6, 8), Look(2, 6, 12), Look(3, 6, 16)]
    means = cases = 0
    for _ in range(40):
        decisions, suites = decide(_family(math.log1p(0.014), 16, 0.014, rng), 0.01, looks)
        means += suites[0].slower
        cases += any(item.status == "slower" for item in decisions)
    assert means >= 26
    assert cases <= means / 2
    # At the minimum effect itself it is a false alarm: rarer than SUITE_SHARE of alpha.
    assert not any(decide(_family(SHIFT, 16, 0.006, rng), 0.01, looks)[1][0].slower for _ in range(100))


# Breaks when a mean goes on over the cases that are left, as if it were that of all, or one case has a mean.
def test_the_mean_ends_where_a_case_leaves() -> None:
    looks = [Look(1, 6, 8), Look(2, 6, 12), Look(3, 6, 16)]
    turns = [0.03 * (-1) ** place for place in range(16)]
    slow = evidence([x + turn for x, turn in zip(around(0.02, 16), turns, strict=True)])
    other = [x - turn for x, turn in zip(around(0.02, 16), turns, strict=True)]
    for first, slower in ((around(0.0, 8) + [0.2] * 8, False), (other, True)):
        suites = decide([slow, evidence(first)], 0.01, looks)[1]
        assert [(item.suite, item.cases, len(item.logs), item.slower) for item in suites] == [
            ("encoder", 2, 16, slower)
        ]
    assert decide([slow, evidence(around(0.0, 16), "decoder")], 0.01, looks)[1] == []
    short = Evidence("encoder", SuitePolicy(), (0, 2, 3), (0.1, 0.2, 0.3))
    assert decide([slow, short], 0.01, ())[1][0].logs[1] == pytest.approx((slow.logs[2] + 0.2) / 2)


def slow_everywhere(root: Path) -> Path:
    """A duet of 16 pairs whose cases are all 1.6 % slower, and noisy."""
    cases = [case("decoder", model="t5-base", batch=batch) for batch in range(1, 21)]
    for side, factor in (("a", 1.0), ("b", 1.016)):
        model = Model(factor=lambda axes, factor=factor: factor, worker_sd=0.017, samples=12)
        make_run(root / side, cases, workers=16, seed=ord(side) + 9, model=model, keep_samples=False)
    taken = [{"look": n, "of": 6, "pairs": pairs} for n, pairs in enumerate((8, 12, 16), start=1)]
    notes = {"schema": "1.0.0", "axes": [], "plan": [8, 12, 16, 21, 28, 37], "taken": taken}
    (root / "duet.json").write_text(json.dumps(notes))
    return root


# Breaks when a slower mean is not told, not counted, or passes.
def test_a_slower_mean_fails_and_is_said_everywhere(tmp_path: Path, cli: Callable[..., Outcome]) -> None:
    root = slow_everywhere(tmp_path / "duet")
    outcome = cli("gate", root)
    assert outcome.code == 1
    assert "decoder: mean of 20 cases +1." in outcome.out
    assert "decoder slower in the mean" in outcome.out.splitlines()[-1]
    content = json.loads(cli("gate", root, "--json").out)
    assert content["counts"]["slower"] == 0
    mean = content["means"][0]
    assert (mean["suite"], mean["verdict"], mean["cases"], mean["pairs"]) == ("decoder", "slower", 20, 16)
    assert mean["ratio"] == pytest.approx(1.016, abs=0.004)
    assert 'name="decoder: mean"' in cli("gate", root, "--format", "junit").out
    assert "::error title=tandem gate%3A slower in the mean::" in cli("gate", root, "--format", "github").out
    for style in ("markdown", "html"):
        assert "mean of 20 cases" in cli("gate", root, "--format", style).out
    policy = tmp_path / "gates.json"
    policy.write_text('{"confirm": true}')
    assert cli("gate", root, "--policy", policy).code == 4
    other = duet(tmp_path, pairs=13, name="other")
    assert cli("gate", root, "--confirm", other).code == 4, "the second session does not find it"
    again = slow_everywhere(tmp_path / "again")
    assert cli("gate", root, "--confirm", again).code == 1


# Breaks when cases of different numbers of pairs are no duet, or a later look forgets an earlier verdict.
def test_cases_that_left_early_have_fewer_pairs(tmp_path: Path, cli: Callable[..., Outcome]) -> None:
    root = duet(tmp_path, pairs=16)
    for side in "ab":
        path = root / side / "records.jsonl"
        kept = [json.loads(line) for line in path.read_text().splitlines()]
        kept = [record for record in kept if record["worker"] < 8 or record["case"]["batch"] == 64]
        path.write_text("".join(json.dumps(record) + "\n" for record in kept))
    taken = [{"look": 1, "of": 6, "pairs": 8}, {"look": 2, "of": 6, "pairs": 11}]
    notes: dict[str, Any] = {"schema": "1.0.0", "axes": [], "plan": [8, 11, 15], "taken": taken}
    (root / "duet.json").write_text(json.dumps(notes))
    outcome = cli("gate", root, "--json")
    assert outcome.code == 0, outcome.out
    entries = json.loads(outcome.out)["cases"]
    assert {(entry["verdict"], entry["pairs"], entry["decided_at_look"]) for entry in entries} == {
        ("same", 8, 1)
    }
    result = gate(load_run(root / "a"), load_run(root / "b"), Policy(), looks=())
    assert result.count("unknown") == len(CASES)
    assert sorted(verdict.pairs for verdict in result.verdicts) == [8, 8, 8, 16]
    notes["taken"] = []
    (root / "duet.json").write_text(json.dumps(notes))
    assert cli("gate", root).code == 4, "no look was taken: nothing is decided"
    for bad, words in (
        ([{"look": 2, "of": 6, "pairs": 8}], "must be 1, the looks in their order, not 2"),
        ([{"look": 1, "of": 6}], "pairs: is missing"),
    ):
        notes["taken"] = bad
        (root / "duet.json").write_text(json.dumps(notes))
        outcome = cli("gate", root)
        assert outcome.code == 2
        assert words in outcome.err
