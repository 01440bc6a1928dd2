"""The compare command: verdicts only where there is evidence, and nothing missing in silence."""

from __future__ import annotations

import csv
import io
import json
import math
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fixture_runs
import pytest
from conftest import Outcome
from fixture_runs import Model, case, make_run

from tandem_reports.gate.comparison import Rules, compare, machine_differences, workers_needed
from tandem_reports.gate.sessions import false_call_chance
from tandem_reports.reading.environment import parse_environment
from tandem_reports.reading.runs import load_run
from tandem_reports.stats.small_samples import benjamini_hochberg, mann_whitney_greater

CASES = [case("decoder", model="t5-base", batch=batch) for batch in (1, 8, 32, 64)]


def two_runs(
    tmp_path: Path,
    factor: float = 1.0,
    *,
    workers: int = 6,
    cases: Any = CASES,
    environment: Any = None,
    sd: float = 0.002,
    seed: int = 1,
) -> tuple[Path, Path]:
    a = make_run(tmp_path / "a", cases, workers=workers, seed=2 * seed, model=Model(worker_sd=sd, samples=24))
    slower = Model(factor=lambda axes: factor if axes["batch"] == 64 else 1.0, worker_sd=sd, samples=24)
    b = make_run(
        tmp_path / "b", cases, workers=workers, seed=2 * seed + 1, model=slower,
        environment=environment or fixture_runs.gpu_environment("b"),
    )  # fmt: skip
    return a, b


def statuses(a: Path, b: Path, rules: Rules | None = None) -> dict[int, str]:
    found = compare(load_run(a), load_run(b), rules or Rules())
    return {pair.case.integer("batch"): pair.status for pair in found.pairs}


@pytest.mark.parametrize(("factor", "status"), [(1.03, "slower"), (0.97, "faster"), (1.0, "same")])
def test_verdicts(factor: float, status: str, tmp_path: Path) -> None:
    assert statuses(*two_runs(tmp_path, factor)) == {1: "same", 8: "same", 32: "same", 64: status}


# Five workers a side can be apart by chance: a verdict from them would be worth nothing.
@pytest.mark.parametrize("workers", [1, 5])
def test_few_workers_are_never_a_verdict(workers: int, tmp_path: Path, cli: Callable[..., Outcome]) -> None:
    a, b = two_runs(tmp_path, 1.5, workers=workers)
    assert set(statuses(a, b).values()) == {"unknown"}
    outcome = cli("compare", a, b)
    assert outcome.code == 0
    assert f"{workers} + {workers} workers; 6 a side are needed" in outcome.out
    assert "+50." in outcome.out or "+49." in outcome.out


def test_noise_is_unknown(tmp_path: Path) -> None:
    assert statuses(*two_runs(tmp_path, 1.01, sd=0.03))[64] == "unknown"


# A change inside the minimum effect is no slow-down, however sure it is.
def test_small_changes_are_not_called(tmp_path: Path) -> None:
    a, b = two_runs(tmp_path, 1.004, sd=0.0002)
    assert statuses(a, b)[64] == "same"
    assert statuses(a, b, Rules(minimum_effect=0.001))[64] == "slower"


# Under no change the share of tables with a false call must stay near the rate asked for.
def test_false_calls_are_rare() -> None:
    from tandem_reports.stats.small_samples import benjamini_hochberg, mann_whitney_greater

    rng = random.Random(11)
    tables, wrong = 300, 0
    for _ in range(tables):
        p = []
        for _ in range(10):
            a, b = ([math.exp(rng.gauss(0, 0.005)) for _ in range(6)] for _ in range(2))
            p.append(mann_whitney_greater(a, b, 1.0))
        wrong += any(benjamini_hochberg(p, 0.05))
    assert wrong / tables < 0.05 + 4 * math.sqrt(0.05 * 0.95 / tables)


def other(**changes: Any) -> dict[str, Any]:
    return fixture_runs.gpu_environment("b", **changes)


def other_driver() -> dict[str, Any]:
    environment = fixture_runs.gpu_environment("b")
    environment["software"]["driver"] = "590.00"
    return environment


def on_card(index: int, device: bool = True) -> dict[str, Any]:
    """A machine of two cards, of which one is in use; `device`: the file says which."""
    environment = fixture_runs.gpu_environment("b")
    environment["cards"].append(
        environment["cards"][0]
        | {"index": 1, "name": "Fixture GPU 80GB", "uuid": "GPU-2", "power_limit_w": 500}
    )
    if device:
        environment["device"] = environment["cards"][index]["uuid"]
    return environment


# Without it a run on the second card of a machine would be judged against one on the first.
def test_two_cards_of_one_machine_differ() -> None:
    first, second = (parse_environment(on_card(index), "here") for index in (0, 1))
    assert machine_differences(first, first) == []
    assert [difference.kind for difference in machine_differences(first, second)] == ["model", "clocks"]
    unused = parse_environment(on_card(0) | {"device": None}, "here")
    assert [difference.kind for difference in machine_differences(first, unused)] == ["device"]
    # A run that does not say which card it used is one of the whole machine; one card is the card.
    whole = parse_environment(on_card(0, device=False), "here")
    assert machine_differences(whole, whole) == []
    assert machine_differences(first, whole) != []
    alone = parse_environment(fixture_runs.gpu_environment("a"), "here")
    assert machine_differences(first, alone) == []


@pytest.mark.parametrize(
    ("environment", "words"),
    [
        (on_card(1), "another card: Fixture GPU 96GB and Fixture GPU 80GB"),
        (other(name="Fixture GPU 80GB"), "another card: Fixture GPU 96GB and Fixture GPU 80GB"),
        (other(uuid="GPU-2"), "another card of the same model"),
        (other_driver(), "another driver: 580.00 and 590.00"),
        (other(clock_policy="locked 1400 MHz"), "another clock policy"),
        (other(power_limit_w=600), "another power limit"),
        (other(ecc=False), "another ECC setting"),
        (other(mig=True), "another MIG setting"),
        (fixture_runs.cpu_environment("b"), "one run used a card and the other did not"),
    ],
)
def test_other_machines_are_not_comparable(
    environment: Any, words: str, tmp_path: Path, cli: Callable[..., Outcome]
) -> None:
    a, b = two_runs(tmp_path, 1.5, environment=environment)
    outcome = cli("compare", a, b)
    assert outcome.code == 2
    assert words in outcome.err
    assert outcome.err.count("\n") == 1
    assert "4 not-comparable" in outcome.out
    assert "1.5" not in outcome.out.replace("GPU-", "")
    assert statuses(a, b, Rules(any_machine=True))[64] == "slower"
    assert cli("compare", a, b, "--any-machine").code == 1


def test_other_cpus_are_not_comparable(tmp_path: Path) -> None:
    cpu = [case("decoder", model="tiny", batch=batch, engine="reference") for batch in (1, 64)]
    here, there = fixture_runs.cpu_environment("a"), fixture_runs.cpu_environment("b")
    there["host"]["cpu"] = "another"
    a = make_run(tmp_path / "a", cpu, environment=here, model=Model(samples=24))
    b = make_run(tmp_path / "b", cpu, environment=there, model=Model(samples=24))
    assert set(statuses(a, b).values()) == {"not-comparable"}


@pytest.mark.parametrize(("field", "value"), [("regime", "burst"), ("l2", "cold")])
def test_other_conditions_are_not_comparable(field: str, value: str, tmp_path: Path) -> None:
    a, b = two_runs(tmp_path)
    lines = [json.loads(line) for line in (b / "records.jsonl").read_text().splitlines()]
    for record in lines:
        if record["case"]["batch"] == 8:
            record[field] = value
    (b / "records.jsonl").write_text("".join(json.dumps(record) + "\n" for record in lines))
    assert statuses(a, b) == {1: "same", 8: "not-comparable", 32: "same", 64: "same"}


def test_contended_workers_give_no_verdict(tmp_path: Path, cli: Callable[..., Outcome]) -> None:
    a, b = two_runs(tmp_path, 1.2)
    text = (b / "records.jsonl").read_text().replace('"contended":false', '"contended":true', 24)
    (b / "records.jsonl").write_text(text)
    assert set(statuses(a, b).values()) == {"unknown"}
    assert "contended in B" in cli("compare", a, b).out


# A case that vanished must not pass for a good one.
def test_missing_and_failed_cases_are_listed(tmp_path: Path, cli: Callable[..., Outcome]) -> None:
    a = make_run(tmp_path / "a", CASES, seed=1)
    failed = fixture_runs.base_record(CASES[3], 0, "invalid", "logits differ")
    new = case("decoder", model="t5-base", batch=128)
    b = make_run(tmp_path / "b", [*CASES[:2], new], seed=2, extra=[failed])
    outcome = cli("compare", a, b)
    assert outcome.code == 1
    assert "Measured in A, not in B:" in outcome.out
    assert f"{fixture_runs.case_name(CASES[2])}  missing" in outcome.out
    assert f"{fixture_runs.case_name(CASES[3])}  invalid: logits differ" in outcome.out
    assert "Measured in B, not in A:" in outcome.out
    assert f"{fixture_runs.case_name(new)}  missing" in outcome.out
    assert "2 same, 2 only in A, 1 only in B." in outcome.out


def test_exit_codes(tmp_path: Path, cli: Callable[..., Outcome], gpu_a: Path, cpu_smoke: Path) -> None:
    a, b = two_runs(tmp_path, 1.03)
    assert cli("compare", a, b).code == 1
    assert cli("compare", b, a).code == 0
    assert cli("compare", a, a).code == 0
    outcome = cli("compare", gpu_a, cpu_smoke)
    assert outcome.code == 2
    assert "have no case in common" in outcome.err
    assert outcome.err.count("\n") == 1
    assert outcome.out == ""


@pytest.mark.parametrize("text", ["x", "0", "-1", "100", ""])
def test_bad_percentages_are_usage_errors(text: str, gpu_a: Path, cli: Callable[..., Outcome]) -> None:
    outcome = cli("compare", gpu_a, gpu_a, f"--equivalence={text}")
    assert outcome.code == 2
    assert "--equivalence" in outcome.err


def test_unknown_says_how_many_workers_would_do() -> None:
    # 1 / C(2n, n) must reach 0.05 / cases: C(12, 6) = 924, C(14, 7) = 3432.
    assert workers_needed(1) == 6
    assert workers_needed(46) == 6
    assert workers_needed(47) == 7
    assert workers_needed(171) == 7
    assert workers_needed(172) == 8


def test_apart_but_too_many_cases(tmp_path: Path, cli: Callable[..., Outcome]) -> None:
    many = [case("decoder", model="t5-base", batch=batch) for batch in range(17, 17 + 60)]
    a, b = two_runs(tmp_path, 1.1, cases=many)
    outcome = cli("compare", a, b)
    assert "apart, but among 60 cases that takes 7 workers a side" in outcome.out


def test_terminal_is_plain_when_it_is_no_terminal(
    gpu_a: Path, gpu_b: Path, cli: Callable[..., Outcome]
) -> None:
    outcome = cli("compare", gpu_a, gpu_b)
    assert "\033" not in outcome.out
    lines = outcome.out.splitlines()
    header = next(line for line in lines if line.startswith("case"))
    rows = [line for line in lines if line.startswith(("decoder", "encoder"))]
    assert len(rows) == 5
    assert all(row[header.index("status") :].split()[0] in ("same", "slower") for row in rows)
    assert "all cases: model transformer-big" in outcome.out
    assert "git 0123456789ab" in outcome.out


def test_markdown(gpu_a: Path, gpu_b: Path, cli: Callable[..., Outcome]) -> None:
    outcome = cli("compare", gpu_a, gpu_b, "--format", "markdown")
    rows = [line for line in outcome.out.splitlines() if line.startswith("|")]
    assert len({row.count("|") for row in rows}) == 1
    assert len(rows) == 7
    assert "**1 slower, 4 same**" in outcome.out


def test_csv(gpu_a: Path, gpu_b: Path, cpu_smoke: Path, tmp_path: Path, cli: Callable[..., Outcome]) -> None:
    out = tmp_path / "deep" / "c.csv"
    outcome = cli("compare", gpu_a, gpu_b, "--format", "csv", "--out", out)
    assert outcome.out == f"{out}\n"
    rows = list(csv.DictReader(io.StringIO(out.read_text())))
    assert [row["status"] for row in rows] == ["same", "same", "same", "same", "slower"]
    assert float(rows[4]["ratio"]) == float(rows[4]["median_b_us"]) / float(rows[4]["median_a_us"])
    assert float(rows[4]["interval_low"]) < float(rows[4]["ratio"]) < float(rows[4]["interval_high"])
    assert float(rows[4]["coverage"]) >= 0.95
    assert rows[0]["suite"] == "encoder"


def test_html(gpu_a: Path, gpu_b: Path, tmp_path: Path, cli: Callable[..., Outcome]) -> None:
    for name in ("one", "two"):
        assert cli("compare", gpu_a, gpu_b, gpu_a, "--format", "html", "--out", tmp_path / name).code == 1
    text = (tmp_path / "one").read_text()
    assert text == (tmp_path / "two").read_text()
    assert "fixture-gpu-b over fixture-gpu-a" in text
    assert text.count('<svg class="figure"') == 2
    assert "+3.9" in text or "+4.0" in text
    assert "Benjamini" in text


def test_a_run_with_itself_is_all_same(gpu_a: Path) -> None:
    found = compare(load_run(gpu_a), load_run(gpu_a), Rules())
    assert {pair.status for pair in found.pairs} == {"same"}
    assert {pair.ratio for pair in found.pairs} == {1.0}
    assert not found.lost


# Engines and precisions are compared with each other, not only builds.
def test_ignoring_an_axis(tmp_path: Path, cli: Callable[..., Outcome]) -> None:
    both = [case("decoder", model="t5-base", batch=b, precision=p) for b in (1, 64) for p in ("bf16", "fp8")]
    run = make_run(tmp_path / "run", both, seed=3, model=Model(samples=24))
    sides = ("--only-a", "precision:bf16", "--only-b", "precision:fp8")
    outcome = cli("compare", run, run, "--ignore", "precision", *sides)
    assert outcome.code == 0
    assert "2 faster." in outcome.out
    ambiguous = cli("compare", run, run, "--ignore", "precision")
    assert ambiguous.code == 2
    assert "are the same case; choose one with --only-a" in ambiguous.err
    nothing = cli("compare", run, run, *sides)
    assert nothing.code == 2
    assert "have no case in common" in nothing.err
    assert cli("compare", run, run, "--ignore", "colour").code == 2
    assert "is not a regular expression" in cli("compare", run, run, "--only-a", "(").err


# Two runs are two sessions. Without this line a shift that all workers share reads like a change of build.
def test_what_a_session_can_do_is_said(tmp_path: Path, gpu_a: Path, cli: Callable[..., Outcome]) -> None:
    a = make_run(tmp_path / "a", CASES, seed=1, model=Model(samples=12), keep_samples=False)
    b = make_run(tmp_path / "b", CASES, seed=2, model=Model(samples=12), keep_samples=False)
    for style in ("terminal", "markdown", "html"):
        out = cli("compare", a, b, "--format", style).out
        assert "6 workers a side share one session each: where sessions differ by 0.5 %" in out
    assert "differ by 2 %" in cli("compare", a, b, "--session-sd", "2").out
    few = make_run(tmp_path / "c", CASES, workers=3, seed=3, model=Model(samples=12), keep_samples=False)
    assert "share one session" not in cli("compare", a, few).out


# The chance that the line states is that of the real tests: a simulation of the whole comparison.
@pytest.mark.parametrize(("shift", "spread"), [(0.005, 0.002), (0.005, 0.005), (0.01, 0.004), (0.002, 0.002)])
def test_the_chance_of_a_false_call_is_right(shift: float, spread: float) -> None:
    rng = random.Random(9)
    trials, called = 120, 0
    for _ in range(trials):
        apart = rng.gauss(0, math.sqrt(2) * shift)
        slower, faster = [], []
        for _ in range(12):
            a = [math.exp(rng.gauss(0, spread)) for _ in range(6)]
            b = [math.exp(apart + rng.gauss(0, spread)) for _ in range(6)]
            slower.append(mann_whitney_greater(a, b, 1.005))
            faster.append(mann_whitney_greater(b, a, 1.005))
        called += any(benjamini_hochberg(slower, 0.05)) or any(benjamini_hochberg(faster, 0.05))
    assert abs(false_call_chance(shift, 6, spread, 0.005) - called / trials) < 0.12
