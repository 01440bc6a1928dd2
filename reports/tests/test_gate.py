"""The gate: right verdicts, rare false alarms, and nothing missing that passes."""

from __future__ import annotations

import json
import math
import random
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fixture_runs
import pytest
from conftest import Outcome
from fixture_runs import Model, base_record, case, case_name, make_run

from tandem_reports.errors import ReportError
from tandem_reports.gate.policy import Policy, SuitePolicy, parse_policy
from tandem_reports.gate.verdicts import gate
from tandem_reports.reading.duet import Look
from tandem_reports.reading.runs import load_run
from tandem_reports.stats.paired import holm, signed_rank_greater

CASES = [case("decoder", model="t5-base", batch=batch) for batch in (1, 8, 32, 64)]


def duet(
    tmp_path: Path,
    factor: float = 1.0,
    *,
    pairs: int = 14,
    sd: float = 0.001,
    seed: int = 1,
    name: str = "duet",
    extra_b: Any = (),
    cases_b: Any = CASES,
    environment_b: Any = None,
) -> Path:
    """A duet in which batch 64 takes `factor` times as long in b."""
    slow = Model(factor=lambda axes: factor if axes["batch"] == 64 else 1.0, worker_sd=sd, samples=12)
    quick = Model(worker_sd=sd, samples=12)
    root = tmp_path / name
    make_run(root / "a", CASES, workers=pairs, seed=100 + seed, model=quick, keep_samples=False)
    make_run(
        root / "b", cases_b, workers=pairs, seed=200 + seed, model=slow, keep_samples=False, extra=extra_b,
        environment=environment_b,
    )  # fmt: skip
    return root


def verdicts(root: Path, policy: Policy | None = None, **options: Any) -> dict[int, str]:
    result = gate(load_run(root / "a"), load_run(root / "b"), policy or Policy(), **options)
    return {verdict.case.integer("batch"): verdict.status for verdict in result.verdicts}


@pytest.mark.parametrize(
    ("factor", "status", "code"),
    [(1.02, "slower", 1), (0.98, "faster", 0), (1.0, "same", 0), (1.003, "same", 0)],
)
def test_verdicts_and_exit_codes(
    factor: float, status: str, code: int, tmp_path: Path, cli: Callable[..., Outcome]
) -> None:
    root = duet(tmp_path, factor)
    assert verdicts(root) == {1: "same", 8: "same", 32: "same", 64: status}
    outcome = cli("gate", root)
    assert outcome.code == code
    assert outcome.out.rstrip().splitlines()[-1].startswith("gate: " + ("fail" if code else "pass"))
    assert "Pairs of processes run next to each other" in outcome.out
    separate = cli("gate", root / "a", root / "b")
    assert separate.code == code
    assert "drift between them" in separate.out


# 2^-6 is over 0.01 / 4: six pairs decide nothing, however large the change, and the gate must not pass.
def test_few_pairs_are_unknown_and_say_how_many_more(tmp_path: Path, cli: Callable[..., Outcome]) -> None:
    root = duet(tmp_path, 1.1, pairs=6)
    outcome = cli("gate", root, "--json")
    assert outcome.code == 4
    content = json.loads(outcome.out)
    assert content["counts"]["unknown"] == 4
    assert {entry["more_pairs"] for entry in content["cases"]} == {1, 3}
    assert not content["stop"] or content["look"] == content["looks"]
    decided = duet(tmp_path, 1.1, pairs=6 + 4, name="more")
    assert verdicts(decided)[64] == "slower"


# The whole gate over ten cases: a false alarm of any kind in at most alpha of the gates.
def test_false_alarms_of_whole_gates() -> None:
    rng = random.Random(2026)
    gates, alarms, at_zero = 2000, 0, 0
    for _ in range(gates):
        p_gate, p_zero = [], []
        for _ in range(10):
            logs = [rng.gauss(0, 0.005) - rng.gauss(0, 0.005) for _ in range(14)]
            p_gate.append(signed_rank_greater(logs, math.log1p(0.005)))
            p_zero.append(signed_rank_greater(logs))
        alarms += any(holm(p_gate, 0.01))
        at_zero += any(holm(p_zero, 0.01))
    assert alarms == 0
    assert at_zero / gates < 0.01 + 4 * math.sqrt(0.01 * 0.99 / gates)


@pytest.mark.parametrize(("change", "least"), [(0.02, 0.95), (0.05, 0.999)])
def test_power(change: float, least: float) -> None:
    rng = random.Random(99)
    trials = 1000
    found = 0
    for _ in range(trials):
        logs = [math.log1p(change) + rng.gauss(0, 0.003) - rng.gauss(0, 0.003) for _ in range(16)]
        found += signed_rank_greater(logs, math.log1p(0.005)) <= 0.01 / 20
    assert found / trials >= least


def test_looks_spend_alpha(tmp_path: Path, cli: Callable[..., Outcome]) -> None:
    root = duet(tmp_path, 1.1, pairs=10)
    assert verdicts(root)[64] == "slower"
    assert verdicts(root, looks=(Look(4, 5),))[64] == "unknown"
    content = json.loads(cli("gate", root, "--json", "--look", "4/5").out)
    assert content["alpha_of_look"] == pytest.approx(0.98 * 0.01 / 8)
    assert content["alpha_of_look_for_same"] == pytest.approx(0.00075)
    assert content["stop"] is False
    assert json.loads(cli("gate", root, "--json", "--look", "5/5").out)["stop"] is True


@pytest.mark.parametrize("text", ["0/5", "6/5", "1", "a/b", "1/5x", "-1/2"])
def test_bad_looks_are_usage_errors(text: str, gpu_a: Path, cli: Callable[..., Outcome]) -> None:
    outcome = cli("gate", gpu_a, gpu_a, f"--look={text}")
    assert outcome.code == 2
    assert "is not a look such as 2/5" in outcome.err


# Without these a case that vanished or broke would pass.
def test_missing_cases_fail(tmp_path: Path, cli: Callable[..., Outcome]) -> None:
    root = duet(tmp_path, cases_b=CASES[:3])
    outcome = cli("gate", root)
    assert outcome.code == 1
    assert verdicts(root)[64] == "missing"
    policy = tmp_path / "gates.json"
    policy.write_text(json.dumps({"suites": {"decoder": {"allow_missing": ["decoder/*/batch:64/*"]}}}))
    assert cli("gate", root, "--policy", policy).code == 0
    policy.write_text(json.dumps({"suites": {"encoder": {"allow_missing": ["*"]}}}))
    assert cli("gate", root, "--policy", policy).code == 1


@pytest.mark.parametrize("worker", [0, 14])
@pytest.mark.parametrize("status", ["invalid", "oom", "crashed", "timeout", "rank_lost", "error"])
def test_new_failures_fail(status: str, worker: int, tmp_path: Path, cli: Callable[..., Outcome]) -> None:
    """In place of a case's first worker's record, or in a worker more."""
    bad = base_record(CASES[0], worker, status, "why", attempt=2)
    root = duet(tmp_path, extra_b=[bad])
    assert verdicts(root)[1] == "failed"
    outcome = cli("gate", root)
    assert outcome.code == 1
    assert f"{status} in B: why" in outcome.out
    assert verdicts(root, Policy(default=SuitePolicy(allow_failed=("decoder/*",))))[1] == "allowed"


def test_a_case_skipped_in_b_is_missing(tmp_path: Path) -> None:
    root = duet(tmp_path, cases_b=CASES[1:], extra_b=[base_record(CASES[0], 0, "skipped", "no such card")])
    result = gate(load_run(root / "a"), load_run(root / "b"), Policy())
    assert [(v.status, v.note) for v in result.verdicts if v.case.integer("batch") == 1] == [
        ("missing", "not measured in B: no such card")
    ]


def test_old_failures_and_new_cases_do_not_fail(tmp_path: Path, cli: Callable[..., Outcome]) -> None:
    root = duet(tmp_path, cases_b=[*CASES, case("decoder", model="t5-base", batch=16)])
    broken = base_record(case("decoder", model="t5-base", batch=512), 0, "oom", "too large")
    for side in ("a", "b"):
        with (root / side / "records.jsonl").open("a") as file:
            file.write(json.dumps(broken) + "\n")
    found = verdicts(root)
    assert found[16] == "new"
    assert found[512] == "unmeasured"
    assert cli("gate", root).code == 0


def another(**card: Any) -> dict[str, Any]:
    return fixture_runs.gpu_environment("b", **card)


def second_card() -> dict[str, Any]:
    """The machine of side A with one card more, which is the one in use."""
    environment = fixture_runs.gpu_environment("b")
    environment["cards"].append(environment["cards"][0] | {"uuid": "GPU-2"})
    return environment | {"device": "GPU-2"}


def another_driver() -> dict[str, Any]:
    environment = fixture_runs.gpu_environment("b")
    environment["software"]["driver"] = "590.00"
    return environment


@pytest.mark.parametrize(
    ("environment", "policy", "enough"),
    [
        (another(uuid="GPU-2"), {"cards": "same-model"}, True),
        (another(uuid="GPU-2"), {"drivers": "any", "clocks": "any"}, False),
        (another(name="Other"), {"cards": "same-model"}, False),
        (another(name="Other", uuid="GPU-2"), {"cards": "any"}, True),
        (second_card(), {}, False),
        (second_card(), {"cards": "same-model"}, True),
        (another_driver(), {"drivers": "any"}, True),
        (another_driver(), {"cards": "any"}, False),
        (another(clock_policy="locked"), {"clocks": "any"}, True),
        (another(power_limit_w=500), {"clocks": "any"}, True),
        (another(mig=True), {"cards": "any", "drivers": "any", "clocks": "any"}, False),
    ],
)
def test_other_machines_never_pass_unless_named(
    environment: Any, policy: Any, enough: bool, tmp_path: Path, cli: Callable[..., Outcome]
) -> None:
    root = duet(tmp_path, environment_b=environment)
    outcome = cli("gate", root)
    assert outcome.code == 2
    assert "nothing is comparable" in outcome.err
    path = tmp_path / "gates.json"
    path.write_text(json.dumps(policy))
    assert cli("gate", root, "--policy", path).code == (0 if enough else 2)


def test_contended_pairs_are_left_out(tmp_path: Path) -> None:
    root = duet(tmp_path, 1.05, pairs=16)
    lines = [json.loads(line) for line in (root / "b" / "records.jsonl").read_text().splitlines()]
    for record in lines:
        record["contended"] = record["worker"] < 3
    (root / "b" / "records.jsonl").write_text("".join(json.dumps(record) + "\n" for record in lines))
    result = gate(load_run(root / "a"), load_run(root / "b"), Policy())
    assert {verdict.pairs for verdict in result.verdicts} == {13}
    assert all("3 pairs contended and left out" in verdict.note for verdict in result.verdicts)


def test_confirmation(tmp_path: Path, cli: Callable[..., Outcome]) -> None:
    slow = duet(tmp_path, 1.03)
    again = duet(tmp_path, 1.03, seed=2, name="again")
    fluke = duet(tmp_path, 1.0, seed=3, name="fluke")
    outcome = cli("gate", slow, "--confirm", again)
    assert outcome.code == 1
    assert "confirmed in a second run" in outcome.out
    outcome = cli("gate", slow, "--confirm", fluke)
    assert outcome.code == 4
    assert "slower here, not in the second run" in outcome.out
    policy = tmp_path / "gates.json"
    policy.write_text('{"confirm": true}')
    outcome = cli("gate", slow, "--policy", policy)
    assert outcome.code == 4
    assert "the policy wants a second run" in outcome.out
    assert cli("gate", slow, "--policy", policy, "--confirm", again).code == 1
    assert cli("gate", fluke, "--policy", policy).code == 0


@pytest.mark.parametrize(
    ("policy", "message"),
    [
        ('{"alhpa": 0.05}', "alhpa: is not a known key; known are alpha, cards"),
        ('{"suites": {"encoders": {}}}', "encoders: is not a known key"),
        ('{"suites": {"encoder": {"alpha": 0.1}}}', "suites: encoder: alpha: is not a known key"),
        ('{"default": {"equivalence": "1 %"}}', "equivalence: must be a finite number over 0"),
        ('{"default": {"equivalence": null}}', "equivalence: must be a finite number over 0"),
        ('{"default": {"minimum_effect": 1}}', "minimum_effect: must be over 0 and under 1"),
        ('{"alpha": 0}', "alpha: must be a finite number over 0"),
        ('{"cards": "some"}', "cards: must be one of same, same-model, any"),
        ('{"confirm": "yes"}', "confirm: must be true or false"),
        ('{"default": {"allow_missing": "x"}}', "allow_missing: must be a list"),
        ("[]", "must be a JSON object"),
        ("{", "not JSON"),
    ],
)
def test_bad_policies_are_refused(
    policy: str, message: str, gpu_a: Path, tmp_path: Path, cli: Callable[..., Outcome]
) -> None:
    path = tmp_path / "gates.json"
    path.write_text(policy)
    outcome = cli("gate", gpu_a, gpu_a, "--policy", path)
    assert outcome.code == 2
    assert message in outcome.err
    assert "gates.json" in outcome.err
    assert outcome.err.count("\n") == 1


def test_policies_inherit_from_their_default() -> None:
    policy = parse_policy(
        {"default": {"equivalence": 0.02}, "suites": {"encoder": {"minimum_effect": 0.01}}}, "p"
    )
    assert policy.of("encoder") == SuitePolicy(minimum_effect=0.01, equivalence=0.02)
    assert policy.of("decoder") == SuitePolicy(equivalence=0.02)
    with pytest.raises(ReportError):
        parse_policy({"default": []}, "p")


def test_bad_folders(
    gpu_a: Path, gpu_b: Path, cpu_smoke: Path, tmp_path: Path, cli: Callable[..., Outcome]
) -> None:
    for arguments, message in [
        ([gpu_a], "not a duet"),
        ([gpu_a, gpu_b, gpu_a], "two runs or one duet"),
        ([gpu_a, cpu_smoke], "have no case in common"),
        ([gpu_a, tmp_path / "x"], "not a run folder"),
        ([gpu_a, gpu_b, "--policy", tmp_path / "none.json"], "No such file"),
    ]:
        outcome = cli("gate", *arguments)
        assert outcome.code == 2
        assert message in outcome.err
        assert outcome.err.count("\n") == 1
        assert outcome.out == ""


# Without these a broken run would end in a traceback, or in a verdict.
@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda record: record.update(schema="2.0.0"), "schema 2.0.0 is not supported"),
        (
            lambda record: record["summary"].update(median_us=-1.0),
            "median_us: must be a finite number over 0",
        ),
        (lambda record: record["summary"].update(median_us=float("nan")), "NaN is not a number"),
        (
            lambda record: record["summary"].update(median_us=None),
            "median_us: must be a finite number over 0",
        ),
        (lambda record: record.pop("worker"), "worker: is missing"),
    ],
)
def test_bad_records_are_one_line(
    spoil: Callable[[dict[str, Any]], Any], message: str, tmp_path: Path, cli: Callable[..., Outcome]
) -> None:
    root = duet(tmp_path)
    path = root / "b" / "records.jsonl"
    lines = path.read_text().splitlines()
    record = json.loads(lines[3])
    spoil(record)
    lines[3] = json.dumps(record)
    path.write_text("\n".join(lines) + "\n")
    outcome = cli("gate", root)
    assert outcome.code == 2
    assert message in outcome.err
    assert "records.jsonl line 4" in outcome.err
    assert outcome.err.count("\n") == 1
    assert outcome.out == ""


def test_a_malformed_line_is_refused_and_a_cut_one_warned_of(
    tmp_path: Path, cli: Callable[..., Outcome]
) -> None:
    root = duet(tmp_path)
    path = root / "b" / "records.jsonl"
    whole = path.read_text()
    path.write_text(whole + '{"id": "cut')
    outcome = cli("gate", root)
    assert outcome.code == 0
    assert "ends without a newline and is ignored" in outcome.err
    path.write_text('{"id": "cut\n' + whole)
    outcome = cli("gate", root)
    assert outcome.code == 2
    assert "records.jsonl line 1: not JSON" in outcome.err
    assert outcome.err.count("\n") == 1


def test_settings_of_one_build_are_matched_without_their_axis(
    tmp_path: Path, cli: Callable[..., Outcome]
) -> None:
    root = tmp_path / "duet"
    own = [case("decoder", model="t5-base", batch=batch, kernel="own") for batch in (1, 8)]
    library = [case("decoder", model="t5-base", batch=batch, kernel="library") for batch in (1, 8)]
    make_run(root / "a", own, workers=14, seed=1, model=Model(worker_sd=0.001), keep_samples=False)
    slow = Model(factor=lambda axes: 1.05, worker_sd=0.001)
    make_run(root / "b", library, workers=14, seed=2, model=slow, keep_samples=False)
    assert cli("gate", root).code == 2, "nothing in common"
    notes = {
        "schema": "1.0.0",
        "axes": ["kernel"],
        "plan": [14],
        "taken": [{"look": 1, "of": 1, "pairs": 14}],
    }
    (root / "duet.json").write_text(json.dumps(notes))
    content = json.loads(cli("gate", root, "--json").out)
    assert content["counts"]["slower"] == 2
    assert (content["look"], content["looks"]) == (1, 1), "the look that the duet says was taken"


def test_a_second_run_of_b_confirms_too(tmp_path: Path, cli: Callable[..., Outcome]) -> None:
    slow = duet(tmp_path, 1.03)
    again = duet(tmp_path, 1.03, seed=2, name="again")
    fluke = duet(tmp_path, 1.0, seed=3, name="fluke")
    assert cli("gate", slow, "--confirm", again / "b").code == 1
    assert cli("gate", slow, "--confirm", fluke / "b").code == 4
    assert cli("gate", slow / "a", slow / "b", "--confirm", again / "b").code == 1


def test_plan(cli: Callable[..., Outcome], gpu_a: Path, tmp_path: Path) -> None:
    assert cli("gate", "--plan", "20", "--look", "1/3").out == "8 13 16\n"
    content = json.loads(cli("gate", "--plan", "5", "--look", "1/2", "--json").out)
    assert content["pairs"] == [8, 11]
    for arguments in (["--plan", "0"], ["--plan", "x"], [gpu_a, "--plan", "5"], []):
        assert cli("gate", *arguments).code == 2
    policy = tmp_path / "p.json"
    policy.write_text('{"alhpa": 1}')
    assert cli("gate", "--plan", "5", "--policy", policy).code == 2


def test_a_planted_build_is_warned_of(tmp_path: Path, cli: Callable[..., Outcome]) -> None:
    environment = fixture_runs.gpu_environment("b")
    environment["build"]["planted"] = {"delay_percent": 2.0}
    outcome = cli("gate", duet(tmp_path, environment_b=environment))
    assert outcome.code == 0
    assert "carries a planted slow-down" in outcome.err


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    """One case of every kind: slower, missing, failed, same; with a name that needs escaping."""
    failed = base_record(CASES[1], 0, "invalid", 'logits differ: <1 & "2" 50 % | x,y', attempt=2)
    return duet(tmp_path, 1.05, cases_b=[CASES[0], CASES[1], CASES[3]], extra_b=[failed])


def test_junit(mixed: Path, cli: Callable[..., Outcome]) -> None:
    outcome = cli("gate", mixed, "--format", "junit")
    assert outcome.code == 1
    root = ElementTree.fromstring(outcome.out)
    suite = root.find("testsuite")
    assert suite is not None
    # Four cases, and the mean of the two that were measured.
    assert (suite.get("tests"), suite.get("failures"), suite.get("errors")) == ("5", "4", "0"), (
        "four cases and the mean of the two measured"
    )
    kinds = {item.get("type") for item in root.iter("failure")}
    assert kinds == {"slower", "missing", "failed"}
    assert 'logits differ: <1 & "2" 50 % | x,y' in " ".join(
        str(item.get("message")) for item in root.iter("failure")
    )


def test_junit_counts_unknown_as_error(tmp_path: Path, cli: Callable[..., Outcome]) -> None:
    root = ElementTree.fromstring(cli("gate", duet(tmp_path, pairs=6), "--format", "junit").out)
    assert len(list(root.iter("error"))) == 4


def test_github(mixed: Path, cli: Callable[..., Outcome]) -> None:
    lines = cli("gate", mixed, "--format", "github").out.splitlines()
    assert sum(line.startswith("::error title=tandem gate%3A ") for line in lines) == 4
    counts = "1 slower, 1 failed, 1 missing, 1 same, decoder slower in the mean"
    assert lines[-1] == f"::notice title=tandem gate::gate: fail ({counts})"
    assert any("50 %25 | x,y" in line for line in lines)
    assert all(line.startswith("::") for line in lines)


def test_markdown(mixed: Path, cli: Callable[..., Outcome]) -> None:
    text = cli("gate", mixed, "--format", "markdown").out
    assert text.startswith("### Gate: fail (1 slower, 1 failed, 1 missing, 1 same, decoder slower")
    assert "<details><summary>1 other case</summary>" in text
    assert "&lt;1" in text
    assert "\\|" in text
    assert text.index("slower |") < text.index("<details>") < text.index("same |")


def test_html_and_json_are_reproducible(mixed: Path, tmp_path: Path, cli: Callable[..., Outcome]) -> None:
    for style in ("html", "json"):
        for name in ("one", "two"):
            assert cli("gate", mixed, "--format", style, "--out", tmp_path / name).code == 1
        assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    content = json.loads((tmp_path / "one").read_text())
    assert content["exit_code"] == 1
    slower = next(entry for entry in content["cases"] if entry["verdict"] == "slower")
    assert slower["name"] == case_name(CASES[3])
    assert slower["ratio"] == pytest.approx(1.05, abs=0.005)
    assert slower["pairs"] == 14
    assert slower["interval"][0] < slower["ratio"] < slower["interval"][1]
    assert slower["coverage"] > 0.98
