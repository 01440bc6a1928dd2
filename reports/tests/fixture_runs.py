"""Makes run folders for tests: invented times on invented machines, in the shape that Tandem writes.

`python tests/fixture_runs.py` writes the committed fixtures again.
"""

from __future__ import annotations

import hashlib
import json
import math
import random
import struct
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FIXTURES = Path(__file__).parent / "fixtures"
ALWAYS = ("model", "batch", "src", "tgt", "precision", "sparsity", "tp", "engine")
AXES: dict[str, Any] = {
    "model": "transformer-base", "weights": "seed:0", "batch": 1, "src": 128, "tgt": 128, "lengths": "full",
    "precision": "bf16", "kv": "same", "sparsity": "dense", "tp": 1, "dp": 1, "decode": "greedy",
    "stop": "fixed", "kernel": "auto", "memory": "level1", "engine": "cuda", "op": "",
}  # fmt: skip
LATER: dict[str, Any] = {"calibration": "none", "head": "same", "allreduce": "auto"}
"""Axes that came after the committed fixtures: their records lack them."""
PARAMETERS = {
    "tiny": 1e5,
    "transformer-base": 4.8e7,
    "transformer-big": 2.1e8,
    "bart-large": 4.1e8,
    "t5-base": 2.2e8,
}
RATES = {"cuda": (4.4e6, 786e6), "reference": (2.0e4, 2.0e4)}
"""Invented ceilings of each engine: bytes and operations a microsecond."""


def gpu_environment(run_id: str, **card: Any) -> dict[str, Any]:
    return {
        "schema": "1.0.0",
        "run_id": run_id,
        "created": "2026-01-15T10:20:30Z",
        "command": ["tandem", "run", "suites/decode.json", "--workers", "6"],
        "sweep": {"file": "suites/decode.json", "sha256": "ab" * 32, "workers": 6},
        "git": {"revision": "0123456789abcdef0123456789abcdef01234567", "dirty": False},
        "build": {
            "type": "Release",
            "compiler": "g++ 12.2.0, nvcc 13.0",
            "flags": "-O3 -std=c++20",
            "cuda_architectures": "90a",
            "binaries": {"suite_decoder": "cd" * 32, "suite_encoder": "ef" * 32},
        },
        "host": {
            "name": "fixture",
            "cpu": "Fixture CPU 16 x 2.0 GHz",
            "cores": 16,
            "kernel": "6.1.0",
            "memory_bytes": 128e9,
        },
        "software": {
            "driver": "580.00",
            "cuda": "13.0",
            "cublas": "13.0.2",
            "nccl": "2.28.3",
            "cupti": "13.0",
        },
        "cards": [
            {
                "name": "Fixture GPU 96GB",
                "uuid": "GPU-00000000-0000-0000-0000-000000000001",
                "compute_capability": "9.0",
                "sms": 132,
                "l2_bytes": 50e6,
                "memory_bytes": 96e9,
                "ecc": True,
                "mig": False,
                "power_limit_w": 700,
                "clock_policy": "unlocked",
                "nvlink": None,
            }
            | card
        ],
        "ceilings": {
            "read_gbs": 4400.0,
            "copy_gbs": 4270.0,
            "teraflops": {"bf16": {"burst": 786.0, "sustained": 670.0}},
        },
        "env": {"CUDA_MODULE_LOADING": "EAGER"},
    }


def cpu_environment(run_id: str) -> dict[str, Any]:
    environment = gpu_environment(run_id)
    environment["command"] = ["tandem", "run", "suites/smoke.json"]
    environment["sweep"] = {"file": "suites/smoke.json", "sha256": "ba" * 32, "workers": 1}
    environment["cards"] = []
    environment["build"]["cuda_architectures"] = None
    environment["software"] = {"driver": None, "cuda": None, "cublas": None, "nccl": None, "cupti": None}
    environment["ceilings"] = {"read_gbs": 20.0, "copy_gbs": 16.0, "teraflops": {"fp32": {"burst": 0.02}}}
    environment["env"] = {"OMP_NUM_THREADS": "2"}
    return environment


def case(suite: str, **axes: Any) -> dict[str, Any]:
    return {"suite": suite} | AXES | axes


def case_id(axes: dict[str, Any]) -> str:
    differing = {key: value for key, value in axes.items() if key == "suite" or value != (AXES | LATER)[key]}
    if axes["model"].endswith(".json"):
        content = (FIXTURES.parents[2] / axes["model"]).read_bytes()
        differing["model"] = f"sha256:{hashlib.sha256(content).hexdigest()}"
    text = json.dumps(differing, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def case_name(axes: dict[str, Any]) -> str:
    defaults = AXES | LATER
    rest = (key for key in defaults if key not in ALWAYS)
    shown = [*ALWAYS, *(key for key in rest if axes.get(key, defaults[key]) != defaults[key])]
    return "/".join([axes["suite"], *(f"{key}:{axes[key]}" for key in shown)])


def work(axes: dict[str, Any]) -> tuple[float, float, float]:
    """Invented bytes, operations and tokens of a case."""
    parameters = PARAMETERS[axes["model"]]
    size = {"fp32": 4, "fp8": 1, "int8": 1}.get(axes["precision"], 2)
    batch, src, tgt = axes["batch"], axes["src"], axes["tgt"]
    step_bytes = parameters * 0.55 * size + batch * (src + tgt / 2) * math.sqrt(parameters) * 0.4 * size
    step_flops = 2 * parameters * 0.55 * batch
    if axes["suite"] == "encoder":
        return parameters * 0.35 * size, 2 * parameters * 0.35 * batch * src, batch * src
    if axes["suite"] == "decoder":
        return step_bytes, step_flops, batch
    return step_bytes * tgt, step_flops * tgt + 2 * parameters * 0.35 * batch * src, batch * tgt


@dataclass(frozen=True)
class Model:
    """The time model: `factor` scales a case's time, `worker_sd` spreads workers, `sample_sd` samples."""

    factor: Callable[[dict[str, Any]], float] = lambda axes: 1.0
    worker_sd: float = 0.002
    sample_sd: float = 0.004
    samples: int = 120
    extra: Callable[[dict[str, Any]], dict[str, Any]] = lambda axes: {}
    """Fields of the record that replace the usual ones."""


def order_interval(values: list[float]) -> list[float] | None:
    n = len(values)
    below, best = 0, None
    for r in range(1, n // 2 + 1):
        below += math.comb(n, r - 1)
        if 1 - 2 * below / 2**n < 0.95:
            break
        best = r
    return None if best is None else [values[best - 1], values[n - best]]


def quantile(ordered: list[float], fraction: float) -> float:
    place = fraction * (len(ordered) - 1)
    low = math.floor(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)


def summarize(samples: list[float]) -> dict[str, Any]:
    ordered = sorted(samples)
    n = len(ordered)
    return {
        "n": n,
        "median_us": quantile(ordered, 0.5),
        "q1_us": quantile(ordered, 0.25),
        "q3_us": quantile(ordered, 0.75),
        "min_us": ordered[0],
        "p95_us": quantile(ordered, 0.95) if n >= 20 else None,
        "p99_us": quantile(ordered, 0.99) if n >= 100 else None,
        "ci95_us": order_interval(ordered),
    }


def base_record(
    axes: dict[str, Any], worker: int, status: str, reason: str | None, attempt: int = 1
) -> dict[str, Any]:
    return {
        "schema": "1.0.0",
        "id": case_id(axes),
        "name": case_name(axes),
        "suite": axes["suite"],
        "case": axes,
        "worker": worker,
        "attempt": attempt,
        "status": status,
        "reason": reason,
        "samples": None,
        "summary": None,
        "metrics": None,
        "floor": None,
        "cost": None,
        "memory": None,
        "check": None,
        "accuracy": None,
        "regime": None,
        "l2": None,
        "contended": None,
        "warmup": None,
        "stop": None,
        "clocks": None,
        "ranks": [],
        "seeds": {"inputs": 0, "order": 7},
        "process": None,
        "choices_sha256": None,
        "wall_s": 0.01,
        "started": "2026-01-15T10:21:00Z",
    }


def ok_record(
    axes: dict[str, Any], worker: int, model: Model, rng: random.Random, run: Path | None
) -> dict[str, Any]:
    """A measured record; its samples are written below `run` when that is given."""
    byte_rate, operation_rate = RATES[axes["engine"]]
    size, flops, tokens = work(axes)
    floor = max(size / byte_rate, flops / operation_rate)
    launches = 0.4 * 60 * (axes["tgt"] if axes["suite"] == "generate" else 1)
    middle = (1.18 * floor + launches) * model.factor(axes) * math.exp(rng.gauss(0, model.worker_sd))
    raw = [
        middle * math.exp(abs(rng.gauss(0, model.sample_sd)) - 0.67 * model.sample_sd)
        for _ in range(model.samples)
    ]
    data = struct.pack(f"<{len(raw)}f", *raw)
    samples = list(struct.unpack(f"<{len(raw)}f", data))
    record = base_record(axes, worker, "ok", None)
    file = f"samples/{record['id']}-{worker}.f32"
    if run is not None:
        (run / "samples").mkdir(exist_ok=True)
        (run / file).write_bytes(data)
    summary = summarize(samples)
    median = summary["median_us"]
    generate = axes["suite"] == "generate"
    cpu = axes["engine"] == "reference"
    record |= {
        "samples": {"file": file, "n": len(samples), "sha256": hashlib.sha256(data).hexdigest()},
        "summary": summary,
        "metrics": {
            "step_us": 0.94 * median / axes["tgt"] if generate else None,
            "first_token_us": 0.07 * median if generate else None,
            "tokens_per_second": tokens / median * 1e6,
        },
        "floor": {
            "floor_us": floor,
            "floor_phases_us": 1.07 * floor,
            "floor_l2_us": None,
            "step_floor_us": 0.97 * floor / axes["tgt"] if generate else None,
            "ratio": median / floor,
            "bound": "bytes" if size / byte_rate >= flops / operation_rate else "operations",
        },
        "cost": {"bytes": size, "flops": flops, "phases": []},
        "memory": {"peak_bytes": None if cpu else round(1.3 * size) + 40_000_000, "planned_bytes": None},
        "check": {
            "reference": "reference without K/V cache"
            if cpu
            else "witness: 2 + 2 layers against reference; fp32 at full size",
            "error": 2.4e-7 if cpu else 0.0061,
            "tolerance": 1e-5 if cpu else 0.02,
            "where": None,
            "tokens_equal": None if axes["suite"] == "encoder" else True,
            "tokens_compared": None if axes["suite"] == "encoder" else 128,
            "tokens_excused": None if axes["suite"] == "encoder" else 0,
            "digest": "12" * 32,
            "digest_after": "12" * 32,
        },
        "regime": "cpu" if cpu else "sustained",
        "l2": None if cpu else "resident" if size < 100e6 else "in_situ",
        "contended": False,
        "warmup": {"repetitions": 40, "seconds": 0.35, "steady": True},
        "stop": {"rule": "ci_halfwidth", "target": 0.005, "reached": True},
        "clocks": None
        if cpu
        else {
            "sm_mhz_median": 1965,
            "sm_mhz_min": 1950,
            "throttled_samples": 0,
            "blocks": [
                {
                    "first_sample": 0,
                    "samples": len(samples),
                    "sm_mhz": 1965,
                    "temperature_c": 54,
                    "power_w": 510,
                    "reasons": [],
                }
            ],
        },
        "process": {"profiler_mapped": False, "pid": 4000 + worker},
        "wall_s": 0.5 + 2e-6 * sum(samples),
    }
    return record | model.extra(axes)


def write_run(path: Path, environment: dict[str, Any], records: Iterable[dict[str, Any]]) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    (path / "environment.json").write_text(json.dumps(environment, indent=1) + "\n")
    lines = [json.dumps(record, separators=(",", ":")) + "\n" for record in records]
    (path / "records.jsonl").write_text("".join(lines))
    return path


def make_run(
    path: Path,
    cases: Iterable[dict[str, Any]],
    *,
    workers: int = 6,
    seed: int = 1,
    model: Model | None = None,
    environment: dict[str, Any] | None = None,
    extra: Iterable[dict[str, Any]] = (),
    keep_samples: bool = True,
) -> Path:
    """A run of `workers` workers over `cases`, with `extra` records after them."""
    path.mkdir(parents=True, exist_ok=True)
    rng = random.Random(seed)
    cases = list(cases)
    records = [
        ok_record(axes, worker, model or Model(), rng, path if keep_samples else None)
        for worker in range(workers)
        for axes in cases
    ]
    return write_run(path, environment or gpu_environment(f"run-{seed}"), [*records, *extra])


def decode_cases() -> list[dict[str, Any]]:
    """A small decode sweep: two models, two precisions, four batches."""
    return [
        case("decoder", model=model, batch=batch, precision=precision)
        for model in ("transformer-big", "t5-base")
        for precision in ("bf16", "fp16")
        for batch in (1, 8, 32, 64)
    ]


def wide_cases() -> list[dict[str, Any]]:
    """Encoder, decoder and generate over batch and source length."""
    cases = []
    for model in ("transformer-big", "bart-large", "t5-base"):
        for batch in (1, 8, 64):
            for src in (128, 512):
                for precision in ("bf16", "fp8"):
                    cases.append(case("encoder", model=model, batch=batch, src=src, precision=precision))
                cases.append(case("generate", model=model, batch=batch, src=src))
    return cases + decode_cases()


def failures() -> list[dict[str, Any]]:
    """One record of each way to fail, and skipped cases."""
    invalid = base_record(
        case("decoder", model="t5-base", batch=128), 0, "invalid", "logits differ from the reference"
    )
    invalid["check"] = {
        "reference": "reference", "error": 0.31, "tolerance": 0.02, "where": "step 3, row 17, token 8812",
        "tokens_equal": False, "tokens_compared": 128, "tokens_excused": 0,
    }  # fmt: skip
    return [
        invalid,
        base_record(
            case("decoder", model="t5-base", batch=512),
            0,
            "oom",
            "level 2: 103079215104 bytes asked, 96 GB card",
        ),
        base_record(
            case("decoder", model="t5-base", batch=256),
            2,
            "crashed",
            "signal 11 (segmentation fault)",
            attempt=2,
        ),
        base_record(
            case("decoder", model="t5-base", batch=2), 1, "timeout", "no record within 60 s", attempt=2
        ),
        base_record(
            case("decoder", model="t5-base", tp=2), 0, "skipped", "tp 2 needs 2 cards; this machine has 1"
        ),
        base_record(
            case("decoder", model="t5-base", tp=4), 0, "skipped", "tp 4 needs 4 cards; this machine has 1"
        ),
    ]


def write_fixtures(root: Path) -> None:
    """The committed fixtures: a card with two builds, and a smoke run on a CPU."""
    cases = [case("decoder", model="transformer-big", batch=batch) for batch in (1, 8, 64)]
    cases += [case("encoder", model="transformer-big", batch=8, src=src) for src in (128, 512)]
    quick = Model(samples=24)
    slower = Model(samples=24, factor=lambda axes: 1.04 if axes["batch"] == 64 else 1.0)
    make_run(
        root / "gpu_a",
        cases,
        seed=11,
        model=quick,
        environment=gpu_environment("fixture-gpu-a"),
        extra=failures(),
    )
    make_run(
        root / "gpu_b",
        cases,
        seed=12,
        model=slower,
        environment=gpu_environment("fixture-gpu-b"),
        keep_samples=False,
    )
    smoke = [
        case("decoder", model="tiny", batch=batch, precision="fp32", engine="reference") for batch in (1, 4)
    ]
    skip = base_record(
        case("generate", precision="fp32", engine="reference"),
        0,
        "skipped",
        "needs a device; this machine has none",
    )
    make_run(
        root / "cpu_smoke", smoke, workers=1, seed=13, model=Model(samples=24),
        environment=cpu_environment("fixture-cpu-smoke"), extra=[skip],
    )  # fmt: skip


if __name__ == "__main__":
    write_fixtures(FIXTURES)
