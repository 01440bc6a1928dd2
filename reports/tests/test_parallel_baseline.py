"""scripts/parallel_baseline: the arithmetic of its bars, too few GPUs, a second call, its steps on a CPU."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import fixture_runs
import pytest
from conftest import REPOSITORY, built
from fixture_runs import Model, case, make_run

from tandem_reports.gate.collectives import collective_groups
from tandem_reports.reading.runs import load_run
from tandem_reports.stats.cases import CaseResult, collect

PROGRAM = REPOSITORY / "scripts" / "parallel_baseline"


def load(name: str) -> ModuleType:
    path = REPOSITORY / "scripts" / "parallel" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"parallel_{name}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # its dataclasses look themselves up
    spec.loader.exec_module(module)
    return module


bars = load("bars")


def made(
    path: Path, cases: dict[str, tuple[dict[str, Any], dict[str, Any]]], workers: int = 1
) -> list[CaseResult]:
    """Records of these cases, each with fields of its own."""
    by_id = {fixture_runs.case_id(axes): fields for axes, fields in cases.values()}
    model = Model(samples=12, extra=lambda axes: by_id[fixture_runs.case_id(axes)])
    axes = [axes for axes, _ in cases.values()]
    return collect([load_run(make_run(path, axes, workers=workers, model=model, keep_samples=False))])


def t5(
    suite: str, median_us: float, *, step_us: float | None = None, **axes: Any
) -> tuple[dict[str, Any], dict[str, Any]]:
    axes = case(suite, **{"model": "t5-3b", "precision": "bf16", "batch": 64} | axes)
    ranks = axes["tp"] * axes["dp"]
    table = {"exchange": "oneshot:262144 twoshot:4194304 nccl"} if axes["tp"] > 1 else {}
    return axes, {
        "summary": fixture_runs.summarize([median_us] * 12),
        "metrics": {"step_us": step_us, "tokens_per_second": axes["dp"] * 1e9 / median_us},
        "ranks": []
        if ranks == 1
        else [{"rank": r, "host": "h", "device": r, "card": "c"} | table for r in range(ranks)],
    }


@pytest.fixture(autouse=True)
def a_large_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(fixture_runs.PARAMETERS, "t5-3b", 2.8e9)


def states(found: list[Any]) -> dict[str, str]:
    return {bar.name: bar.state for bar in found}


def parallel(
    path: Path, *, step_b1: float = 1000.0, encoder: float = 18000.0, dp2: float = 100e3
) -> list[CaseResult]:
    cases = {
        "b1": t5("generate", 150e3, step_us=1190.0, batch=1),
        "b1 tp 2": t5("generate", 130e3, step_us=step_b1, batch=1, tp=2),
        "wide": t5("generate", 800e3, step_us=6000.0, src=512),
        "wide tp 2": t5("generate", 500e3, step_us=4100.0, src=512, tp=2),
        "encoder": t5("encoder", 32700.0),
        "encoder tp 2": t5("encoder", encoder, tp=2),
        "b64": t5("generate", 100e3, step_us=3000.0),
        "b64 dp 2": t5("generate", dp2, step_us=3000.0, dp=2),
    }
    return made(path, cases)


# Breaks when a ratio is turned round or of whole generations, or a bar takes another's cases.
def test_speed_bars(tmp_path: Path) -> None:
    found = bars.speed_bars(parallel(tmp_path / "run"), 2)
    by_name = {bar.name: bar for bar in found}
    assert by_name["tp 2, batch 1 step"].measured == pytest.approx(1.19)
    assert by_name["tp 2, batch 64, source 512, step"].measured == pytest.approx(6000 / 4100)
    assert by_name["tp 2, batch 64 encoder"].measured == pytest.approx(32700 / 18000)
    assert by_name["dp 2, batch 64 a GPU, tokens per second"].measured == pytest.approx(2)
    assert [bar.state for bar in found] == ["met", "met", "met", "missed", "met", "met"]
    assert by_name["tp 2, batch 64, source 512, step"].text == (
        "missed        tp 2, batch 64, source 512, step: 1.463x (at least 1.5x); 6,000 to 4,100 us"
    )
    slow = bars.speed_bars(parallel(tmp_path / "slow", step_b1=1180.0, encoder=20000.0, dp2=120e3), 2)
    assert [bar.state for bar in slow][2:] == ["missed", "missed", "missed", "missed"]
    assert set(states(bars.speed_bars([], 4)).values()) == {"not measured"}
    assert sum(name.startswith(("tp 4", "dp 4")) for name in states(bars.speed_bars([], 4))) == 4


# Breaks when a speed-up over a single GPU that is slower than before counts.
def test_a_slow_single_gpu_is_said(tmp_path: Path) -> None:
    cases = {"one": t5("generate", 150e3, step_us=1300.0, batch=1), "encoder": t5("encoder", 33000.0)}
    found = bars.speed_bars(made(tmp_path / "run", cases), 2)
    assert [bar.state for bar in found[:2]] == ["missed", "met"]


def sums(path: Path, own_us: dict[int, float], nccl_us: dict[int, float], op: str) -> list[CaseResult]:
    cases = {}
    for way, times in (("oneshot", own_us), ("nccl", nccl_us)):
        for size, us in times.items():
            axes = case("collectives", model="t5-3b", op=op, tp=2, batch=size // 2048, allreduce=way)
            fields = {"summary": fixture_runs.summarize([us] * 12), "cost": {"bytes": size}}
            cases[f"{way} {size}"] = (axes, fields)
    return made(path, cases)


# Breaks when the chain's bar takes another size, or NCCL is held against a way that auto would not pick.
def test_bars_of_sums(tmp_path: Path) -> None:
    chain = sums(tmp_path / "chain", {2048: 2.0, 65536: 7.0}, {2048: 9.0, 65536: 10.0}, "chain")
    plain = sums(
        tmp_path / "plain",
        {2048: 2.0, 65536: 8.0, 1 << 20: 30.0},
        {2048: 8.0, 65536: 7.8, 1 << 20: 9.0},
        "all_reduce",
    )
    groups = collective_groups(chain + plain)
    table = {2: "oneshot:262144 twoshot:4194304 nccl"}
    first, second, own = bars.collective_bars(groups, table, 2)
    assert (first.measured, first.state) == (2.0, "met")
    assert (second.measured, second.state) == (7.0, "missed")
    assert own.measured == pytest.approx(7.8 / 8), "1 MiB goes by two shots there"
    assert own.state == "met"
    worse = bars.collective_bars(groups, {2: "oneshot:2097152 nccl"}, 2)[2]
    assert (worse.measured, worse.state) == (pytest.approx(0.3), "missed")
    assert (
        bars.collective_bars(groups, {2: "nccl: ranks 0 and 1: no peer access"}, 2)[2].state == "not measured"
    )
    assert bars.tables_of(parallel(tmp_path / "run")) == table
    assert len(bars.collective_bars([], {}, 4)) == 6


# Breaks when the way of a size is taken from its neighbour in the table.
def test_the_way_of_a_size() -> None:
    table = "oneshot:262144 twoshot:4194304 nccl"
    assert [bars.way_of(table, size) for size in (1, 262144, 262145, 4194304, 1e9)] == [
        "oneshot", "oneshot", "twoshot", "twoshot", "nccl",
    ]  # fmt: skip
    assert bars.way_of("oneshot", 1e9) == "oneshot"


def checked(
    path: Path, *, wrong: bool = False, other_rank: bool = False, other_bits: bool = False
) -> list[CaseResult]:
    cases: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {}
    for tp in (1, 2):
        for precision in ("fp32", "bf16"):
            axes = case("generate", model="tiny", tp=tp, precision=precision)
            check = {"reference": "r", "error": 1e-7, "tolerance": 1e-5, "tokens_equal": True}
            check |= {"digest": "ab" * 32, "digest_after": "ab" * 32}
            if other_bits and tp == 2:
                check["digest_after"] = "cd" * 32
            cases[f"{tp} {precision}"] = (axes, {"check": check})
    good = made(path, cases, workers=2)
    if not (wrong or other_rank):
        return good
    axes = case("generate", model="tiny", tp=2, precision="fp32", src=9)
    reason = (
        "tp: rank 1 computed another output (SHA-256 1) than rank 0 (2)" if other_rank else "2 wrong tokens"
    )
    bad = fixture_runs.base_record(axes, 0, "invalid", reason)
    environment = fixture_runs.gpu_environment("bad")
    return good + collect([load_run(fixture_runs.write_run(path / "bad", environment, [bad]))])


# Breaks when a case that is wrong, ranks that disagree or bits that change are met bars.
def test_bars_of_checks(tmp_path: Path) -> None:
    names = [bar.name for bar in bars.check_bars([], [2])]
    assert [bar.state for bar in bars.check_bars([], [2])] == ["not measured"] * 4
    good = bars.check_bars(checked(tmp_path / "good"), [2])
    assert [bar.state for bar in good] == ["met"] * 4
    assert good[1].measured == pytest.approx(0.01)
    assert good[0].note == "of 1; 1 of 1 texts are the very tokens of one rank, 0 tokens excused"
    wrong = states(bars.check_bars(checked(tmp_path / "wrong", wrong=True), [2]))
    assert [wrong[name] for name in names] == ["missed", "met", "met", "met"]
    other = states(bars.check_bars(checked(tmp_path / "other", other_rank=True), [2]))
    assert [other[name] for name in names] == ["missed", "met", "missed", "met"]
    bits = states(bars.check_bars(checked(tmp_path / "bits", other_bits=True), [2]))
    assert [bits[name] for name in names] == ["met", "met", "met", "missed"]


# Breaks when the GPU with least memory counts, or a case that hung or left a process passes.
def test_bars_of_memory_and_a_killed_rank() -> None:
    two, four = bars.memory_bars({1: [20e9, 0.0], 2: [10e9, 11.2e9], 4: [5e9] * 4}, 4)
    assert (two.measured, two.state) == (pytest.approx(0.56), "missed")
    assert (four.measured, four.state) == (pytest.approx(0.25), "met")
    assert [bar.state for bar in bars.memory_bars({}, 2)] == ["not measured"]
    assert bars.killed_bar(None, None, None, 0).state == "not measured"
    assert bars.killed_bar(3.0, "rank_lost", "rank 1 lost", 0).state == "met"
    assert bars.killed_bar(31.0, "rank_lost", "rank 1 lost", 0).state == "missed"
    assert bars.killed_bar(3.0, "crashed", "killed", 0).state == "missed"
    assert bars.killed_bar(3.0, "rank_lost", "rank 1 lost", 1).state == "missed"


def environment_with(tmp_path: Path, gpus: int) -> dict[str, str]:
    """A machine with so many GPUs, as far as nvidia-smi tells; each has 1 MiB in use, then 100."""
    programs = tmp_path / "programs"
    programs.mkdir()
    smi = programs / "nvidia-smi"
    smi.write_text(
        "#!/bin/bash\n"
        f'gpus() {{ for i in $(seq 0 {gpus - 1}); do echo "$1" | sed s/INDEX/$i/; done; }}\n'
        'case "$*" in\n'
        '  *query-gpu=name*) gpus "Fixture H200" ;;\n'
        "  *-lms*) while sleep 0.05; do gpus 'INDEX, 101'; done ;;\n"
        "  *memory.used*) gpus 'INDEX, 1' ;;\n"
        "esac\n"
    )
    smi.chmod(0o755)
    return {k: v for k, v in os.environ.items() if k != "CUDA_VISIBLE_DEVICES"} | {
        "PATH": f"{programs}:{os.environ['PATH']}"
    }


def called(
    *words: str, environment: dict[str, str], root: Path = REPOSITORY
) -> subprocess.CompletedProcess[str]:
    program = [sys.executable, str(root / "scripts" / "parallel" / "baseline.py"), *words]
    path = str(REPOSITORY / "reports")
    return subprocess.run(
        program,
        capture_output=True,
        text=True,
        check=False,
        timeout=580,
        env=environment | {"PYTHONPATH": path},
    )


# Breaks when a machine with one GPU builds for minutes, or ends as if something had failed or passed.
def test_one_gpu_says_what_is_missing(tmp_path: Path) -> None:
    one = environment_with(tmp_path, 1)
    done = called("--look", environment=one)
    assert done.returncode == 3
    assert "2 GPUs are needed, 1 is here: missing are the speed of tp" in done.stderr
    assert called("--look", "--gpus", "4", environment=one).returncode == 3
    (tmp_path / "two").mkdir()
    assert called("--look", environment=environment_with(tmp_path / "two", 2)).returncode == 0


STAND_IN = """#!/usr/bin/env python3
import json, pathlib, sys, time
words = sys.argv[1:]
out = pathlib.Path(words[words.index("--out") + 1])
with open(out.parent / "calls", "a") as calls:
    calls.write(" ".join(words) + "\\n")
(out).mkdir(exist_ok=True)
(out / "environment.json").write_text("{}")
if out.name == "tensor_parallel" and "--resume" not in words:
    time.sleep(60)
"""


# Breaks when a second call does again what is done, or a part that the clock cut off is taken for done.
def test_a_second_call_does_what_is_missing(tmp_path: Path) -> None:
    environment = environment_with(tmp_path, 2)
    (tmp_path / "bin").mkdir()
    tandem = tmp_path / "bin" / "tandem"
    tandem.write_text(STAND_IN)
    tandem.chmod(0o755)
    out = tmp_path / "out"
    out.mkdir()
    words = ["--bin", str(tmp_path / "bin"), "--out", str(out), "--keep", ""]
    (out / "parts.json").write_text(
        json.dumps({"killed": {"seconds": 1.0, "status": "rank_lost", "left": []}})
    )
    first = called(*words, "--minutes", "0.3", environment=environment)
    calls = (out / "calls").read_text().splitlines()
    assert [Path(c.split()[3]).name for c in calls] == ["checks", "tensor_parallel"]
    assert "suites/tensor_parallel.json" in calls[1]
    assert "another call goes on" in first.stderr
    assert list(json.loads((out / "parts.json").read_text())) == ["killed", "checks"]
    second = called(*words, environment=environment)
    calls = (out / "calls").read_text().splitlines()[2:]
    names = ["tensor_parallel", "collectives", "memory-tp1", "memory-tp2", "crossover"]
    assert [Path(c.split()[3]).name for c in calls] == names
    assert "--resume" in calls[0]
    assert second.returncode == 4, "no record: nothing was measured"
    assert "met           a killed rank ends its case: 1 s (at most 30 s)" in second.stdout
    assert "not measured  tp 2, batch 1 step: - (at least 1.03x)" in second.stdout


# Breaks when checks that the clock cut off are met bars, or bars cannot be read without a GPU.
def test_half_of_the_checks_say_nothing(tmp_path: Path) -> None:
    checked(tmp_path / "checks")
    words = ["--bars", "--gpus", "2", "--out", str(tmp_path)]
    half = called(*words, environment=environment_with(tmp_path, 0))
    assert half.returncode == 4
    assert "not measured  tp 2, fp32: cases with a wrong token or value: - (at most 0)" in half.stdout
    (tmp_path / "parts.json").write_text(json.dumps({"checks": {}}))
    whole = called(*words, environment=dict(os.environ))
    assert "met           tp 2, fp32: cases with a wrong token or value: 0 (at most 0)" in whole.stdout


# Breaks when a machine without packages, which has been given a build and no more, must install some first.
def test_it_needs_no_packages() -> None:
    program = "import sys; sys.path[:0] = sys.argv[1:]; import baseline"
    folders = [str(REPOSITORY / "reports"), str(REPOSITORY / "scripts" / "parallel")]
    subprocess.run([sys.executable, "-I", "-S", "-c", program, *folders], check=True, timeout=60)


# Breaks when a step of the command does not work: all of them, with `tiny` on two processes of a CPU.
def test_the_steps_on_a_cpu(tmp_path: Path) -> None:
    programs = built("generate", "encoder", "decoder")
    if programs is None:
        pytest.skip("no build/*/bin has tandem and the suites of a model")
    environment = environment_with(tmp_path, 2) | {
        "TANDEM_SAMPLE_SECONDS": "0.3:0.3",
        "XDG_CACHE_HOME": str(tmp_path / "cache"),
    }
    words = ["--engine", "reference", "--bin", str(programs), "--out", str(tmp_path / "out")]
    words += ["--keep", str(tmp_path / "kept")]
    done = called(*words, environment=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == 5
    assert all(line.startswith("met ") for line in lines), done.stdout
    assert "rank_lost: rank 1 lost: it was killed by SIGKILL" in done.stdout
    assert "4 cases, the check and two timed processes each" in done.stdout
    parts = json.loads((tmp_path / "out" / "parts.json").read_text())
    for tp in (1, 2):
        assert parts[f"memory-tp{tp}"]["bytes"] == [100 * 1024 * 1024] * 2
    kept = sorted(p.name[11:] for p in (tmp_path / "kept").iterdir())
    assert kept == ["bars.txt", "checks", "crossover", "parts.json", "tensor-parallel"]
    (figure,) = (tmp_path / "kept").glob("*-tensor-parallel/*.png")
    assert figure.name == "generate-scaling.png"
    again = called(*words, environment=environment)
    assert again.returncode == 0
    assert again.stdout == done.stdout
    assert "s left" not in again.stderr, "nothing was done again"
