"""The peer engines `hf` and `hf-step`: their model of Tandem's models, and the worker protocol.

What needs torch and transformers is skipped without them; what compares with engine reference needs a build.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import REPOSITORY, built
from hf import engine as hf_engine
from hf import families as hf_families
from twin import model as tandem_model
from twin import sampling as peer_sampling
from twin import seeded

PEERS = REPOSITORY / "scripts" / "peers"

needs_torch = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("torch", "transformers")),
    reason="needs torch and transformers",
)
FIXTURES = ("t5", "t5_gated", "bart", "marian", "m2m100")
VASWANI = {
    "name": "vaswani",
    "d_model": 48,
    "head_dim": 16,
    "vocab": 103,
    "encoder": {"layers": 2, "heads": 3, "d_ff": 72},
    "decoder": {"layers": 2, "heads": 3, "d_ff": 72},
    "embedding_scale": math.sqrt(48),
    "max_positions": 64,
}


def tiny_models() -> dict[str, dict[str, Any]]:
    """A tiny configuration of each family, in our words."""
    models = {"vaswani": VASWANI}
    for name in FIXTURES:
        config = json.loads((REPOSITORY / "reference" / "testdata" / f"{name}.json").read_text())["config"]
        config["decoder"]["layers"] = config["encoder"]["layers"]
        models[name] = config
    scaled = math.sqrt(models["bart"]["d_model"])
    models["mbart"] = models["bart"] | {"placement": "pre", "final_norm": True, "embedding_scale": scaled}
    return models


def case_of(model: str, suite: str, engine: str, **axes: Any) -> dict[str, Any]:
    """A case as the driver writes it."""
    axes = {
        "suite": suite,
        "model": model,
        "weights": "seed:0",
        "batch": 3,
        "src": 15,
        "tgt": 12,
        "lengths": "ragged:0.6",
        "precision": "fp32",
        "kv": "same",
        "sparsity": "dense",
        "calibration": "none",
        "head": "same",
        "tp": 1,
        "dp": 1,
        "allreduce": "auto",
        "decode": "greedy",
        "stop": "fixed",
        "kernel": "auto",
        "memory": "level1",
        "engine": engine,
        "op": "",
    } | axes
    text = json.dumps(axes, sort_keys=True)
    return axes | {"id": hashlib.sha256(text.encode()).hexdigest()[:16], "name": f"{suite}/{model}"}


# Breaks when the twin of presets, scales, sources or prefixes leaves the C++: this hash is of its output.
def test_twin_of_every_preset() -> None:
    lines = []
    for name in tandem_model.PRESETS:
        m = tandem_model.load_model(name)
        for t in tandem_model.weight_layout(m):
            words = [name, t.name, t.rows, t.cols, t.exponent, f"{t.base:.9g}", int(t.outlier_rows)]
            lines.append(" ".join(map(str, words)))
        for lengths in ("full", "ragged:0.5", "ragged:0.83"):
            sources = tandem_model.source_batch(m, lengths, 7, 33)
            ids = [i for source in sources for i in source]
            lines.append(" ".join(map(str, [name, lengths, *map(len, sources), *ids])))
            prefix = tandem_model.decoder_prefix(m, 7, 40).reshape(-1).tolist()
            lines.append(" ".join(map(str, [name, "prefix", *prefix])))
    text = "".join(f"{line}\n" for line in sorted(lines))
    assert (
        hashlib.sha256(text.encode()).hexdigest()
        == "496fee19c4a6e11b7344f4f8d7b6755a0e099a49564bfcb9ba45fc7656cc4585"
    )


# Breaks when two of our tensors would fill one of theirs, or a preset has no family.
def test_every_preset_has_a_family_and_its_names() -> None:
    families = {}
    for name in tandem_model.PRESETS:
        m = tandem_model.load_model(name)
        family = families[name] = hf_families.family_of(m)
        ours = [t.name for t in tandem_model.weight_layout(m)]
        assert len({hf_families.hf_name(family, t, m.gated) for t in ours}) == len(ours)
    assert families["transformer-big"] == families["marian-base"] == "marian"
    assert families["flan-t5-xl"] == families["t5-3b"] == "t5"
    assert families["nllb-1.3b"] == "m2m_100"
    assert families["bart-large"] == "bart"


# Breaks when a model that transformers computes otherwise is measured all the same.
@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"position": "none"}, "position"),
        ({"norm": "rms"}, "norm"),
        ({"bias": False}, "bias"),
        ({"head_dim": 8}, "head_dim"),
        ({"placement": "pre", "final_norm": True}, "interleaved"),
        ({"shared_embeddings": False}, "embedding tables"),
        ({"decoder": {"layers": 3, "heads": 3, "d_ff": 72}}, "decoder layers"),
    ],
)
def test_refuses_what_no_family_computes(change: dict[str, Any], word: str) -> None:
    m = tandem_model.model_from_json(VASWANI | change)
    with pytest.raises(hf_families.UnsupportedError, match=word):
        hf_families.family_of(m)


# Breaks when a case of another kind is measured, or refused without naming its axis.
@pytest.mark.parametrize(
    ("kind", "axes", "word"),
    [
        ("hf", {"suite": "decoder"}, "suite: "),
        ("hf-step", {"suite": "encoder"}, "suite: "),
        ("hf", {"precision": "fp8"}, "precision: "),
        ("hf", {"decode": "beam:4"}, "decode: "),
        ("hf", {"stop": "eos"}, "stop: "),
        ("hf", {"kernel": "own"}, "kernel: "),
        ("hf", {"weights": "checkpoint"}, "weights: "),
        ("hf", {"model": "no-such"}, "model: "),
        ("hf", {"model": "./no-such.json"}, "no-such.json"),
        ("hf", {}, None),
    ],
)
def test_refuses_axes_by_name(
    kind: str, axes: dict[str, Any], word: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hf_engine, "missing_packages", list)
    suite = axes.pop("suite", "generate")
    reason = hf_engine.unsupported(case_of(axes.pop("model", "tiny"), suite, kind, **axes), kind)
    assert (reason is None) if word is None else (reason is not None and word in reason)


# Breaks when a machine without torch gets a traceback and not a reason.
def test_says_which_packages_are_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda n: None if n == "torch" else find(n))
    reason = hf_engine.unsupported(case_of("tiny", "generate", "hf"), "hf")
    assert reason is not None
    assert "torch" in reason


class Ticking:
    """A workload of constant time."""

    def repeat(self) -> dict[str, float]:
        return {"total_us": 5.0}


# Breaks when sampling ignores its rule or the driver's wish for short samples.
def test_sampling_stops(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TANDEM_SAMPLE_SECONDS", "0:0.5")
    samples, said = peer_sampling.take_samples(Ticking(), cpu=True)
    assert 10 <= len(samples) < 100
    assert said["stop"]["reached"]
    assert peer_sampling.median([3.0, 1.0, 2.0, 9.0]) == 2.5


# Breaks when the interval is another than a worker's own: the values of stats_test.cc.
def test_the_interval_is_that_of_our_own_workers() -> None:
    rising = [float(i) for i in range(50)]
    assert peer_sampling.median_interval(rising[:49]) is None
    assert peer_sampling.median_interval(rising) == (7, 42)
    skewed = [10.0 if i < 99 and i % 11 >= 5 else 0.0 for i in range(110)]
    assert peer_sampling.median_interval(skewed) == (0, 10)


# Breaks when torch's generator and numpy's give other bits, with outliers or in chunks.
@needs_torch
def test_seeded_values_in_torch() -> None:
    import torch
    from hf import runners

    for shape, outliers in (((257, 2051), True), ((1, 77), False), ((3, 40), False)):
        t = tandem_model.Tensor("a.b", *shape, exponent=-17, base=-0.625, outlier_rows=True)
        slot = torch.empty(shape)
        runners.fill_seeded(slot, 3, t, outliers)
        expected = seeded.seeded_tensor(3, "a.b", shape, base=-0.625, exponent=-17, outliers=outliers)
        assert np.array_equal(slot.numpy().view(np.uint32), expected.view(np.uint32))
        half = torch.empty(shape, dtype=torch.bfloat16)
        runners.fill_seeded(half, 3, t, outliers)
        assert torch.equal(half, torch.from_numpy(expected).to(torch.bfloat16))


def call(kind: str, *arguments: str) -> list[dict[str, Any]]:
    """The lines of one worker process."""
    command = [sys.executable, str(PEERS / "hf" / "engine.py"), "--kind", kind, *arguments]
    environment = os.environ | {"TANDEM_SAMPLE_SECONDS": "0:0.02", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def run_worker(
    kind: str, cases: list[dict[str, Any]], out: Path
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Both passes, as the driver makes them."""
    file = out / "cases.json"
    file.write_text(json.dumps(cases))
    (out / "samples").mkdir()
    common = ["--cases", str(file), "--out", str(out), "--device", "0"]
    checked = call(kind, *common, "--validate")
    (out / "validation.jsonl").write_text("".join(json.dumps(line) + "\n" for line in checked))
    return checked, call(kind, *common, "--worker", "2", "--attempt", "1")


def check_lines(cases: list[dict[str, Any]], checked: Any, timed: Any, out: Path) -> None:
    """What harness/driver/session/protocol.h asks of the lines of cases that are ok."""
    ids = [case["id"] for case in cases]
    assert [line["id"] for line in checked] == [line["id"] for line in timed] == ids
    for case, check, line in zip(cases, checked, timed, strict=True):
        assert check["status"] == "ok", check
        assert check["check"]["error"] <= check["check"]["tolerance"]
        assert check["check"]["tokens_equal"]
        assert line["status"] == "ok", line
        assert line["check"]["digest"] == line["check"]["digest_after"]
        data = (out / line["samples"]["file"]).read_bytes()
        assert line["samples"]["file"] == f"samples/{case['id']}-2.f32"
        assert len(data) == 4 * line["samples"]["n"]
        assert hashlib.sha256(data).hexdigest() == line["samples"]["sha256"]
        assert np.all(np.frombuffer(data, np.float32) > 0)
        if case["suite"] == "generate":
            assert line["metrics"]["step_us"] > 0
            # Without a bound the truth of 128 tokens takes longer than all timing.
            assert 0 < check["check"]["tokens_compared"] <= 8 * case["batch"]


# Breaks when a family computes other tokens than the reference, or the lines leave the protocol.
@needs_torch
@pytest.mark.parametrize("kind", ["hf", "hf-step"])
def test_families(kind: str, tmp_path: Path) -> None:
    models = {}
    for name, config in tiny_models().items():
        models[name] = str(tmp_path / f"{name}.json")
        Path(models[name]).write_text(json.dumps(config))
    cases = [case_of(path, "generate", kind) for path in models.values()]
    cases.append(
        case_of(models["t5"], "generate", kind, precision="bf16", lengths="full", weights="seed:7,outliers")
    )
    if kind == "hf-step":
        cases += [case_of(path, "decoder", kind) for path in models.values()]
    checked, timed = run_worker(kind, cases, tmp_path)
    check_lines(cases, checked, timed, tmp_path)
    digests = reference_digests(list(models.values()), tmp_path)
    if digests is None:
        pytest.skip("tokens not compared with the reference: no build/*/bin has tandem and suite_generate")
    for case, line in zip(cases, checked, strict=True):
        if case["suite"] == "generate" and case["precision"] == "fp32":
            assert line["check"]["digest"] == digests[case["model"]], case["name"]


def reference_digests(models: list[str], folder: Path) -> dict[str, str] | None:
    """SHA-256 of the tokens of engine reference by model, or None without its program."""
    programs = built("generate")
    if programs is None:
        return None
    axes = {"suite": "generate", "model": models, "batch": 3, "src": 15, "tgt": 12, "precision": "fp32"}
    sweep = {"workers": 1, "groups": [axes | {"lengths": "ragged:0.6"}]}
    (folder / "sweep.json").write_text(json.dumps(sweep))
    command = [
        programs / "tandem",
        "run",
        folder / "sweep.json",
        "--engine",
        "reference",
        "--out",
        folder / "reference",
    ]
    subprocess.run(command, capture_output=True, check=True)
    lines = (folder / "reference" / "records.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    return {r["case"]["model"]: r["check"]["digest"] for r in records}


# Breaks when a checkpoint folder is not measured with its own weights.
@needs_torch
def test_checkpoint_folder(tmp_path: Path) -> None:
    import transformers

    folder = tmp_path / "t5"
    config = hf_families.config_values("t5", tandem_model.model_from_json(tiny_models()["t5"]))
    transformers.T5ForConditionalGeneration(transformers.T5Config(**config)).save_pretrained(folder)
    case = case_of(str(folder), "generate", "hf", weights="checkpoint")
    checked, timed = run_worker("hf", [case], tmp_path)
    check_lines([case], checked, timed, tmp_path)
