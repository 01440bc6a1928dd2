"""The committed sweeps of model suites, expanded without the C++ of the harness."""

from __future__ import annotations

import itertools
import json
import math
import re
from typing import Any

import pytest
from conftest import REPOSITORY
from fixture_runs import AXES, case, case_id, case_name

SUITES = REPOSITORY / "suites"
PRECISION_SHARDS = ("t5-3b/.*src:128", "nllb|src:512")
FORMAT = ("precision", "kv")


def cases(name: str) -> list[dict[str, Any]]:
    """Every case of a sweep of model suites: each combination in a group, in the order of the axes."""
    found = []
    for group in json.loads((SUITES / name).read_text())["groups"]:
        values = {key: value for key, value in group.items() if key not in ("suite", "needs")}
        if group["suite"] == "encoder":
            values.pop("tgt", None)
        axes = sorted(values, key=list(AXES).index)
        lists = [values[axis] if isinstance(values[axis], list) else [values[axis]] for axis in axes]
        found += [
            case(group["suite"], **dict(zip(axes, chosen, strict=True)))
            for chosen in itertools.product(*lists)
        ]
    return found


def golden() -> list[str]:
    return (SUITES / "testdata" / "golden" / "cases.txt").read_text().splitlines()


# Breaks when a sweep gains a case whose id is not committed, or an id follows other rules than the README's.
@pytest.mark.parametrize(
    "name",
    [
        "axes.json",
        "crossover.json",
        "decode.json",
        "encoder.json",
        "gate.json",
        "gate-cpu.json",
        "generate.json",
        "precision.json",
        "pruning.json",
        "smoke.json",
    ],
)
def test_ids_are_committed(name: str) -> None:
    lines = [f"{case_id(axes)} {case_name(axes)}" for axes in cases(name)]
    text = "\n".join(golden())
    assert "\n".join(lines) in text


# Breaks when a committed id is that of another case: an id is a pure function of what the name spells.
def test_every_committed_id_follows_from_its_name() -> None:
    for line in golden():
        given, name = line.split(" ")
        suite, *parts = re.split("/(?=[a-z]+:)", name)  # a model may be a path
        axes = case(suite, **dict(part.split(":", 1) for part in parts))
        numbers = {axis: int(axes[axis]) for axis in ("batch", "src", "tgt", "tp", "dp")}
        assert case_id(axes | numbers) == given, name


def shard(number: int) -> list[dict[str, Any]]:
    return [axes for axes in cases("precision.json") if re.search(PRECISION_SHARDS[number], case_name(axes))]


# Breaks when the sweep of the precisions loses a cell of the report, or one has no bf16 case beside it.
def test_the_precision_sweep() -> None:
    every = cases("precision.json")
    assert len(every) == len({case_id(axes) for axes in every}) == 35
    assert {axes["weights"] for axes in every} == {"seed:0,outliers"}, (
        "outliers, so that no format is flattered"
    )
    names = [{case_name(axes) for axes in shard(number)} for number in (0, 1)]
    assert names[0] | names[1] == {case_name(axes) for axes in every}
    assert not names[0] & names[1]
    for number in (0, 1):
        for axes in shard(number):
            twin = axes | {"precision": "bf16", "kv": "same"}
            assert case_name(twin) in names[number], "both halves hold the bf16 case of each of their own"
    page = (REPOSITORY / "reports" / "READING.md").read_text()
    assert all(f"--filter '{pattern}'" in page for pattern in PRECISION_SHARDS)


# Breaks when the sweep of pruning loses a cell, a pattern its dense case, or a reduced shape its twin.
def test_the_pruning_sweep() -> None:
    every = cases("pruning.json")
    names = {case_name(axes) for axes in every}
    assert len(every) == len(names) == 28
    assert {axes["weights"] for axes in every} == {"seed:0,outliers"}, "as in precision.json: one picture"
    twins = {
        "heads:0.5": ("heads", "suites/models/t5-3b-heads-16.json"),
        "ffn:0.5": ("d_ff", "suites/models/t5-3b-ffn-8192.json"),
        "layers:0.5": ("layers", "suites/models/t5-3b-layers-12.json"),
    }
    for axes in every:
        assert case_name(axes | {"sparsity": "dense", "precision": "bf16"}) in names
        if axes["sparsity"] in twins:
            assert case_name(axes | {"sparsity": "dense", "model": twins[axes["sparsity"]][1]}) in names
    whole = {"heads": 32, "d_ff": 16384, "layers": 24}
    for field, path in twins.values():
        model = json.loads((REPOSITORY / path).read_text())
        for side in ("encoder", "decoder"):
            assert model[side] == whole | {field: whole[field] // 2}


# Breaks when the sweep of tensor parallelism loses a cell, or a degree its case on one card.
def test_the_tensor_parallel_sweep() -> None:
    every = cases("tensor_parallel.json")
    names = {case_name(axes) for axes in every}
    assert len(every) == len(names) == 16
    for axes in every:
        assert case_name(axes | {"tp": 1, "dp": 1}) in names
        assert axes["tp"] == 1 or axes["dp"] == 1
    assert (
        sum(axes["precision"] == "fp8" for axes in every)
        == sum(axes["sparsity"] == "2:4" for axes in every)
        == 2
    )


# Breaks when two axes no longer meet in CI.
def test_the_axes_sweep_crosses() -> None:
    every = cases("axes.json")
    axes = ("batch", "src", "precision", "sparsity", "tp")
    values = [{found[axis] for found in every} for axis in axes]
    assert all(len(found) > 1 for found in values)
    assert len(every) == math.prod(map(len, values))


# Breaks when the gate no longer watches what quantised formats cost and lose.
def test_the_gate_watches_lossy_formats() -> None:
    every = cases("gate.json")
    assert len(every) == 24
    lossy = [axes for axes in every if axes["precision"] != "bf16"]
    assert {axes["precision"] for axes in lossy} == {"fp8", "w4a16"}
    assert len(lossy) == 4
