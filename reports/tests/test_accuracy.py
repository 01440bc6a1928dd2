"""Accuracy in compare and gate: a lossy case that loses more in B fails, whatever its time."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import REPOSITORY, Outcome
from fixture_runs import Model, case, case_name, make_run

from tandem_reports.gate.accuracy import NOISE, rule
from tandem_reports.gate.comparison import Rules, compare
from tandem_reports.gate.policy import Policy, SuitePolicy, read_policy
from tandem_reports.gate.verdicts import Verdict, gate
from tandem_reports.reading.runs import load_run

LOSSY = case("decoder", model="t5-base", precision="fp8")
PLAIN = case("decoder", model="t5-base")


def stated(error: float = 0.03, kl: float | None = 0.001, agree: float | None = 0.98, **more: Any) -> Any:
    return {
        "relative_error": error, "kl": kl, "tokens_agree": agree, "free_tokens_agree": 0.75,
        "tokens": 256, "teacher_forced": kl is not None,
        "against": "dense fp32", "synthetic_weights": True,
    } | more  # fmt: skip


def model(accuracy: Any, factor: float = 1.0) -> Model:
    """Times by `factor`; the lossy case carries `accuracy`."""
    return Model(
        factor=lambda axes: factor if axes["precision"] == "fp8" else 1.0,
        worker_sd=0.001,
        samples=12,
        extra=lambda axes: {"accuracy": accuracy if axes != PLAIN else None},
    )


def duet(
    tmp_path: Path, a: Any, b: Any, *, factor: float = 1.0, lossy: dict[str, Any] = LOSSY, name: str = "duet"
) -> Path:
    """A duet of a bf16 case and a lossy one, whose accuracy is `a` on one side and `b` on the other."""
    root = tmp_path / name
    for side, accuracy, seed in (("a", a, 1), ("b", b, 2)):
        made = model(accuracy, factor if side == "b" else 1.0)
        make_run(root / side, [PLAIN, lossy], workers=14, seed=seed, model=made, keep_samples=False)
    return root


def verdict(root: Path, policy: Policy | None = None) -> Verdict:
    result = gate(load_run(root / "a"), load_run(root / "b"), policy or Policy())
    (plain,) = [v for v in result.verdicts if v.case.name == case_name(PLAIN)]
    (lossy,) = [v for v in result.verdicts if v is not plain]
    assert plain.status == "same"
    return lossy


# Without it a build that is faster because it computes less well would pass.
@pytest.mark.parametrize(
    ("worse", "words"),
    [
        ({"error": 0.0331}, "over 1.1 times A's: relative error 0.0331 in B, 0.0300 in A"),
        ({"kl": 0.00112}, "KL 0.00112 in B, 0.00100 in A"),
        ({"agree": 0.97}, "tokens that differ 0.0300 in B, 0.0200 in A"),
        (
            {"error": 0.05, "agree": 0.9},
            "relative error 0.0500 in B, 0.0300 in A, tokens that differ 0.100 in B, 0.0200 in A",
        ),
    ],
)
def test_a_larger_error_fails_with_both_numbers(
    worse: dict[str, float], words: str, tmp_path: Path, cli: Callable[..., Outcome]
) -> None:
    root = duet(tmp_path, stated(), stated(**worse))
    assert verdict(root).status == "inaccurate"
    outcome = cli("gate", root)
    assert outcome.code == 1
    assert words in outcome.out
    assert "synthetic weights" in outcome.out
    assert "gate: fail (1 inaccurate, 1 same)" in outcome.out
    compared = cli("compare", root / "a", root / "b")
    assert compared.code == 1
    assert words in compared.out
    assert "1 inaccurate, 1 same" in compared.out


# Without it every change of a kernel's order of sums would fail the gate, or a small loss would pass.
@pytest.mark.parametrize(
    ("a", "b", "status"),
    [
        ({"error": 0.03}, {"error": 0.033}, "same"),
        ({"error": 0.03}, {"error": 0.001}, "same"),
        ({"error": 0.0}, {"error": 1e-4}, "same"),
        ({"error": 0.0}, {"error": 1.1e-4}, "inaccurate"),
        ({"kl": 0.0}, {"kl": 1e-6}, "same"),
        ({"kl": 0.0}, {"kl": 1.1e-6}, "inaccurate"),
        ({"agree": 1.0}, {"agree": 255 / 256}, "same"),
        ({"agree": 1.0}, {"agree": 254 / 256}, "inaccurate"),
        ({"agree": 251 / 256}, {"agree": 250 / 256}, "same"),
        ({"agree": 0.5}, {"agree": 0.46}, "same"),
        ({"kl": None, "agree": None}, {"kl": None, "agree": None}, "same"),
    ],
)
def test_limit_and_noise(a: Any, b: Any, status: str, tmp_path: Path) -> None:
    assert verdict(duet(tmp_path, stated(**a), stated(**b))).status == status


# Without it text that parts at a tie, by chance, would fail a build that computes as well as before.
def test_free_running_text_is_not_judged(tmp_path: Path) -> None:
    found = verdict(duet(tmp_path, stated(free_tokens_agree=1), stated(free_tokens_agree=0.1)))
    assert (found.status, found.note) == ("same", "")


# Without it a lossy case would pass on its time alone where nobody measured what it loses.
@pytest.mark.parametrize(
    ("a", "b", "words"),
    [
        (None, stated(), "accuracy stated in B alone"),
        (stated(), None, "accuracy stated in A alone"),
        (None, None, "accuracy stated on neither side"),
        (stated(), stated(kl=None, teacher_forced=True), "KL stated in A alone"),
        (stated(), stated(teacher_forced=False), "teacher-forced in A alone"),
        (stated(), stated(tokens=128), "accuracy on 256 tokens in A, on 128 tokens in B"),
        (stated(tokens=None), stated(), "accuracy on the case's own inputs in A, on 256 tokens in B"),
    ],
)
def test_missing_accuracy_is_not_comparable(
    a: Any, b: Any, words: str, tmp_path: Path, cli: Callable[..., Outcome]
) -> None:
    root = duet(tmp_path, a, b, factor=0.9)
    found = verdict(root)
    assert (found.status, found.note, found.ratio) == ("not-comparable", words, None)
    outcome = cli("gate", root)
    assert outcome.code == 4
    assert words in outcome.out
    pairs = compare(load_run(root / "a"), load_run(root / "b"), Rules()).pairs
    assert [(pair.status, pair.ratio) for pair in pairs if pair.note] == [("not-comparable", None)]
    # A slow-down stays one: what is missing excuses nothing.
    slow = verdict(duet(tmp_path, a, b, factor=1.05, name="slow"))
    assert (slow.status, slow.note) == ("slower", words)


# Without it times and losses would hide each other.
def test_time_and_accuracy_are_both_said(tmp_path: Path) -> None:
    slow = verdict(duet(tmp_path, stated(), stated(error=0.06), factor=1.05))
    assert slow.status == "inaccurate"
    assert "; slower too" in slow.note
    assert slow.ratio == pytest.approx(1.05, abs=0.01)
    quick = verdict(duet(tmp_path, stated(), stated(error=0.06), factor=0.95, name="quick"))
    assert quick.status == "inaccurate"
    assert "slower" not in quick.note


# Without it another regime, which says nothing of accuracy, would hide a loss.
def test_other_conditions_do_not_excuse(tmp_path: Path) -> None:
    root = duet(tmp_path, stated(), stated(error=0.06))
    path = root / "b" / "records.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    for record in lines:
        record["regime"] = "burst" if record["case"]["precision"] == "fp8" else record["regime"]
    path.write_text("".join(json.dumps(record) + "\n" for record in lines))
    found = verdict(root)
    assert found.status == "inaccurate"
    assert "another regime" in found.note
    pairs = compare(load_run(root / "a"), load_run(root / "b"), Rules()).pairs
    assert {pair.status for pair in pairs} == {"same", "inaccurate"}


# Without it an intended loss could not be let through, or would hide a slow-down.
def test_the_rules_may_allow_it(tmp_path: Path, cli: Callable[..., Outcome]) -> None:
    root = duet(tmp_path, stated(), stated(error=0.04))
    named = SuitePolicy(allow_failed=("decoder/*precision:fp8*",))
    assert verdict(root, Policy(default=named)).status == "allowed"
    assert verdict(root, Policy(default=SuitePolicy(accuracy_growth=0.5))).status == "same"
    slow = duet(tmp_path, stated(), stated(error=0.04), factor=1.05, name="slow")
    assert verdict(slow, Policy(default=named)).status == "inaccurate"
    path = tmp_path / "gates.json"
    path.write_text(json.dumps({"default": {"allow_failed": ["decoder/*precision:fp8*"]}}))
    for style in ("terminal", "html"):
        assert cli("gate", root, "--policy", path, "--format", style).code == 0


# Without it 8-bit K/V would be held to nothing, or 16 bits to an accuracy that nobody states.
@pytest.mark.parametrize(
    ("lossy", "status"),
    [
        (case("decoder", model="t5-base", kv="fp8"), "inaccurate"),
        (case("decoder", model="t5-base", sparsity="2:4"), "inaccurate"),
        (case("decoder", model="t5-base", kv="16bit"), "same"),
        (case("decoder", model="t5-base", kernel="own"), "same"),
    ],
)
def test_what_is_lossy(lossy: dict[str, Any], status: str, tmp_path: Path) -> None:
    assert verdict(duet(tmp_path, stated(), stated(error=0.06), lossy=lossy)).status == status


# Two formats side by side differ in accuracy by nature; judging that would fail each comparison of formats.
def test_two_formats_are_said_and_not_judged(tmp_path: Path, cli: Callable[..., Outcome]) -> None:
    root = duet(tmp_path, stated(), stated(), factor=0.9)
    sides = ("--ignore", "precision", "--only-a", "precision:bf16", "--only-b", "precision:fp8")
    outcome = cli("compare", root / "b", root / "b", *sides)
    assert outcome.code == 0
    assert "relative error – in A, 0.03 in B" in outcome.out
    assert "inaccurate" not in outcome.out


# Without it the worst of several workers could hide behind the first.
def test_the_worst_worker_counts(tmp_path: Path) -> None:
    root = duet(tmp_path, stated(), stated())
    path = root / "b" / "records.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    victim = next(r for r in lines if r["worker"] == 9 and r["case"]["precision"] == "fp8")
    victim["accuracy"] = stated(error=0.06)
    path.write_text("".join(json.dumps(record) + "\n" for record in lines))
    assert verdict(root).status == "inaccurate"
    victim["accuracy"] = None
    path.write_text("".join(json.dumps(record) + "\n" for record in lines))
    assert verdict(root).note == "accuracy stated in A alone"


# Without it the rule on the page could be another than the one that is kept.
def test_the_rule_is_said(tmp_path: Path, cli: Callable[..., Outcome]) -> None:
    root = duet(tmp_path, stated(), stated(error=0.06))
    for style in ("terminal", "markdown", "html"):
        assert "over 1.1 times A" in cli("gate", root, "--format", style).out
    text = rule(0.1)
    assert text.count(". ") == 1
    assert all(f"{name} {value:g}" in text for name, value in NOISE.items())
    assert "over 1.5 times" in rule(0.5)
    assert read_policy(REPOSITORY / "suites" / "gates.json").default.accuracy_growth == 0.1
    content = json.loads(cli("gate", root, "--json").out)
    assert content["counts"]["inaccurate"] == 1
    assert content["stop"]
    junit = cli("gate", root, "--format", "junit").out
    assert '<failure type="inaccurate"' in junit
    assert "::error title=tandem gate%3A inaccurate" in cli("gate", root, "--format", "github").out


# Without it the figure of a comparison would end in a traceback.
@pytest.mark.parametrize("command", [("gate",), ("compare",)])
def test_pages_show_it(command: tuple[str], tmp_path: Path, cli: Callable[..., Outcome]) -> None:
    root = duet(tmp_path, stated(), stated(error=0.06))
    outcome = cli(*command, root / "a", root / "b", "--format", "html")
    assert outcome.code == 1
    assert 'status inaccurate"' in outcome.out
