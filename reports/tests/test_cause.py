"""The cause of a slow-down: what was planted in a recorded trace is what is named."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import Outcome
from fixture_runs import Model, case, case_id, case_name, make_run
from test_trace import NODE, seed

from tandem_reports.gate.cause import Card, explain, kernel_of, parts
from tandem_reports.reading.traces import trace_from_json
from tandem_reports.stats.trace_analysis import Analysis, analyse, owned

CASE = case("decoder", model="transformer-big")
RECORDED: dict[str, Any] = json.loads(NODE.read_text())
"""One step of transformer-big as an H200 ran it, kernels overlapping as graphs let them."""


def shifted(trace: dict[str, Any], at: int, by: int) -> None:
    """Puts `by` nanoseconds into a trace at one instant: what runs then takes longer, the rest is later."""
    rows = trace["activities"]
    for place, start in enumerate(rows["start"]):
        end = start + rows["duration"][place]
        rows["start"][place] = start + (by if start >= at else 0)
        rows["duration"][place] = end + (by if end > at else 0) - rows["start"][place]
    for replay in trace["replays"]:
        for edge in ("start", "end"):
            replay[edge] += by if replay[edge] > at else 0


def planted(phase: str, share: float) -> dict[str, Any]:
    """The recorded trace with longer kernels in a phase, so that a replay grows by `share` of its time."""
    trace = copy.deepcopy(RECORDED)
    rows = trace["activities"]
    chosen = [
        place
        for place, at in enumerate(rows["phase"])
        if at is not None and trace["phases"][at]["phase"] == phase
    ]
    whole = analyse(trace_from_json(RECORDED, "recorded"))
    each = round(share * 1e3 * (whole.busy_us + whole.idle_us) * whole.replays / len(chosen))
    for place in chosen:
        shifted(trace, rows["start"][place] + rows["duration"][place] - 1, each)
    return trace


def stretched(factor: float, spread: float = 0.0) -> dict[str, Any]:
    """The recorded trace as a lower clock would run it; each kernel a little more or less than that."""
    trace = copy.deepcopy(RECORDED)
    rng = random.Random(seed())
    rows = trace["activities"]
    rows["start"] = [round(start * factor) for start in rows["start"]]
    rows["duration"] = [
        round(duration * factor * (1 + rng.uniform(-spread, spread))) for duration in rows["duration"]
    ]
    for replay in trace["replays"]:
        replay |= {edge: round(replay[edge] * factor) for edge in ("start", "end")}
    return trace


def noisy(trace: dict[str, Any], rng: random.Random, phase_sd: float, clock_sd: float) -> dict[str, Any]:
    """Another process: each phase a little longer or shorter, and all of them with the clock."""
    changed = copy.deepcopy(trace)
    rows = changed["activities"]
    activities = trace_from_json(changed, "trace").activities
    order = sorted(
        range(len(rows["start"])), key=lambda place: (rows["start"][place], -rows["duration"][place])
    )
    owns = dict(zip(order, owned(activities)[0], strict=True))
    factors = {phase["phase"]: rng.gauss(0, phase_sd) for phase in changed["phases"]}
    for place, own in owns.items():
        by = round(int(own) * factors[changed["phases"][rows["phase"][place]]["phase"]])
        end = rows["start"][place] + rows["duration"][place]
        shifted(changed, end - 1, max(by, 1 - rows["duration"][place]))
    clock = 1 + rng.gauss(0, clock_sd)
    for column in ("start", "duration"):
        rows[column] = [round(value * clock) for value in rows[column]]
    for replay in changed["replays"]:
        replay |= {edge: round(replay[edge] * clock) for edge in ("start", "end")}
    return changed


def analysed(trace: dict[str, Any]) -> Analysis:
    return analyse(trace_from_json(trace, "trace"))


PHASES = (
    "ffn.up",
    "self.qkv",
    "cross.qkv",
    "head",
    "self.attention",
    "ffn.down",
    "self.out",
    "cross.attention",
)


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("share", [0.01, 0.05, 0.3])
def test_a_planted_phase_is_named(phase: str, share: float) -> None:
    # Breaks when the change of one phase is laid on another, or on the card.
    a, b = analysed(RECORDED), analysed(planted(phase, share))
    found = explain(a, b, 1 + share, Card(1755, 1755))
    assert found.startswith(f"decoder {phase} "), found
    assert "the card" not in found
    kernel = next(row.name for row in a.kernels if row.phase == f"decoder {phase}")
    assert f"kernel {kernel}" in found
    _, shares = parts(a, b)
    assert shares[0].own_us == pytest.approx(share * (a.busy_us + a.idle_us), rel=0.1)


def test_noise_makes_no_other_phase_the_culprit() -> None:
    # Breaks when what processes differ by anyway is named: half a percent a phase, a third from the clock.
    rng = random.Random(seed())
    right = 0
    for phase in PHASES:
        a = analysed(noisy(RECORDED, rng, 0.005, 0.003))
        b = analysed(noisy(planted(phase, 0.02), rng, 0.005, 0.003))
        found = explain(a, b, 1.02, Card(1755, 1755))
        assert found.startswith((f"decoder {phase} ", "the card", "noise")), (phase, found)
        right += found.startswith(f"decoder {phase} ")
    assert right >= 4, f"{right} of {len(PHASES)}"


@pytest.mark.parametrize("share", [0.01, 0.05])
def test_an_even_difference_is_the_cards(share: float) -> None:
    # Breaks when a lower clock is laid on whichever phase is the longest.
    a, b = analysed(RECORDED), analysed(stretched(1 + share, share / 10))
    found = explain(a, b, 1 + share, Card(1755, 1755 / (1 + share)))
    assert found.startswith("the card: all phases take +"), found
    assert f"clock 1755 MHz in A, {1755 / (1 + share):.0f} MHz in B" in found
    unknown = explain(a, b, 1 + share, Card())
    assert unknown.startswith("the card, or what touches every kernel (compiler, flags): all phases"), unknown
    assert "throttled in B" in explain(a, b, 1 + share, Card(throttled=True))


def test_a_difference_that_no_profile_shows_is_noise_or_the_clock() -> None:
    # Breaks when the largest of many small differences is named as the cause.
    a, b = analysed(RECORDED), analysed(stretched(1.0, 0.002))
    found = explain(a, b, 1.02, Card(1755, 1754))
    assert found.startswith("noise, or what tracing hides: the profiles show "), found
    assert "instead of +2.00 %" in found
    assert explain(a, b, 1.02, Card(1755, 1720)).startswith("the card: clock 1755 MHz in A, 1720 MHz in B;")
    empty = analysed(RECORDED | {"replays": [], "activities": {k: [] for k in RECORDED["activities"]}})
    assert explain(empty, empty, 1.02, Card()) == "the profiles are empty"


def test_several_phases_gaps_and_another_kernel() -> None:
    # Breaks when one of two culprits is named alone, a late host is a phase's, or a new kernel is "0 to x".
    a = analysed(RECORDED)
    both = planted("head", 0.05)
    rows = both["activities"]
    out = [p for p, at in enumerate(rows["phase"]) if both["phases"][at]["phase"] == "self.out"]
    for place in out:
        shifted(both, rows["start"][place] + rows["duration"][place] - 1, round(0.05 * 215e3 * 3 / len(out)))
    found = explain(a, analysed(both), 1.1, Card())
    assert "decoder head" in found
    assert "decoder self.out" in found
    late = copy.deepcopy(RECORDED)
    rows = late["activities"]
    for place in [place for place, phase in enumerate(rows["phase"]) if phase == 1]:
        shifted(late, rows["start"][place], 10000)
    assert explain(a, analysed(late), 1.04, Card()).startswith("gaps (dependency) "), "the device waits"
    other = planted("head", 0.05)
    other["names"] = [*other["names"], "void slow_head_kernel<float>(int)"]
    rows = other["activities"]
    for place, at in enumerate(rows["phase"]):
        if other["phases"][at]["phase"] == "head":
            rows["name"][place] = len(other["names"]) - 1
    old = next(row.name for row in a.kernels if row.phase == "decoder head")
    assert kernel_of(a, analysed(other), "decoder head") == f"kernel slow_head_kernel<float> instead of {old}"
    assert kernel_of(a, analysed(other), "gaps (host)") == ""


def profiled(side: Path, trace: dict[str, Any] | None, **line: Any) -> None:
    profile = {
        "schema": "1.0.0",
        "id": case_id(CASE),
        "name": case_name(CASE),
        "pass": "node",
        "status": "ok",
    }
    profile |= {"reason": None, "timed_us": 200.0} | line
    if trace is None:
        profile["trace"] = "traces/gone.json"
    else:
        file = f"traces/{profile['id']}-node.json"
        (side / "traces").mkdir(exist_ok=True)
        (side / file).write_text(json.dumps(trace))
        profile["trace"] = file
    with (side / "profiles.jsonl").open("a") as out:
        out.write(json.dumps(profile) + "\n")


def duet(tmp_path: Path, name: str = "duet") -> Path:
    cases = [CASE, case("decoder", model="transformer-big", batch=8)]
    root = tmp_path / name
    quick, slow = Model(worker_sd=0.001), Model(lambda axes: 1.05 if axes["batch"] == 1 else 1, 0.001)
    make_run(root / "a", cases, workers=14, seed=1, model=quick, keep_samples=False)
    make_run(root / "b", cases, workers=14, seed=2, model=slow, keep_samples=False)
    return root


def test_the_gate_says_why(tmp_path: Path, cli: Callable[..., Outcome]) -> None:
    # Breaks when the profiles of a duet are not found, or a cause is given to a case that is not slower.
    root = duet(tmp_path)
    assert "cause:" not in cli("gate", root).out, "nobody made a profile"
    profiled(root / "a", RECORDED)
    content = json.loads(cli("gate", root, "--json").out)
    note = {row["verdict"]: row["note"] for row in content["cases"]}
    assert note["slower"] == "cause: no profile of B: not made"
    profiled(root / "b", planted("ffn.down", 0.05))
    for style in ("terminal", "markdown", "junit", "github", "html", "json"):
        outcome = cli("gate", root, "--format", style)
        assert outcome.code == 1
        assert outcome.out.count("cause: decoder ffn.down ") == 1, style
    profiled(root / "b", None, status="unavailable", reason="no permission")
    assert "cause: no profile of B: no permission" in cli("gate", root).out
    profiled(root / "b", None)
    outcome = cli("gate", root)
    assert outcome.code == 1
    assert "gone.json: cannot read" in outcome.out
    profiled(root / "b", planted("head", 0.05) | {"dropped": 7}, status="incomplete", reason="7 lost")
    outcome = cli("gate", root)
    assert "cause: decoder head" in outcome.out
    assert "records of the profiles were lost" in outcome.out
