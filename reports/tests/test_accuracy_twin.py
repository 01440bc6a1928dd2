"""What engine `reference` says of the accuracy of every form, against the twin's pass in numpy.

recorded/accuracy.json holds what the records said when it was made; the suites run again where built.
TANDEM_WRITE_TABLE=1 writes the table anew from such a run.
"""

from __future__ import annotations

import itertools
import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from conftest import REPOSITORY, built
from twin import forward
from twin import model as tandem_model

TABLE = Path(__file__).parent / "recorded" / "accuracy.json"
AXES = ("suite", "model", "weights", "precision", "kv", "head")
"""Of a group of cases, which share one accuracy."""
NUMBERS = ("relative_error", "kl", "tokens_agree", "free_tokens_agree", "tokens")
SUITES = ("encoder", "decoder", "generate")
# Biased; gated, pre-norm rms with relative positions and no bias; learned positions, a bias on the head too.
MODELS = ("tiny", "t5_gated", "bart")


def config(model: str) -> dict[str, Any]:
    values: dict[str, Any] = json.loads(
        (REPOSITORY / "reference" / "testdata" / f"{model}.json").read_text()
    )["config"]
    return values


def twin_model(model: str) -> tandem_model.Model:
    return tandem_model.preset(model) if model == "tiny" else tandem_model.model_from_json(config(model))


def close(case: dict[str, Any], found: dict[str, Any]) -> None:
    want = forward.accuracy(twin_model(case["model"]), case)
    assert found["relative_error"] == pytest.approx(want["relative_error"], rel=1e-5), case
    for counted in ("tokens_agree", "free_tokens_agree", "tokens"):
        assert found[counted] == want[counted], (counted, case)
    assert found["kl"] == (None if want["kl"] is None else pytest.approx(want["kl"], rel=1e-4, abs=1e-9)), (
        case
    )


# Breaks when the twin changes what it says: the table was made by engine reference.
@pytest.mark.parametrize(
    "row", json.loads(TABLE.read_text()), ids=lambda row: "-".join(map(str, row["case"].values()))
)
def test_the_table_is_the_twins(row: dict[str, Any]) -> None:
    close(row["case"], row["accuracy"])


# Breaks when a form, a suite or a model drops out of the table.
def test_the_table_has_every_form() -> None:
    rows = [row["case"] for row in json.loads(TABLE.read_text())]
    seen = {(r["model"], r["suite"], r["precision"], r["kv"], r["head"]) for r in rows}
    forms = [(p, "same", "same") for p in ("fp8", "int8", "w8a16", "w4a16")]
    caches = [("bf16", "fp8", "same"), ("bf16", "int8", "same"), ("fp8", "16bit", "16bit")]
    for model, suite in itertools.product(MODELS, SUITES):
        assert {(model, suite, *form) for form in (forms if suite == "encoder" else forms + caches)} <= seen


# Breaks when what a record says of a form is not what an independent computation finds, or depends on the
# sizes of its case.
def test_records_say_what_the_twin_finds(tmp_path: Path) -> None:
    programs = built(*SUITES)
    if programs is None:
        pytest.skip("no build/*/bin has tandem and the suites of a model; the table was compared")
    names = {}
    for model in MODELS:
        names[model] = model if model == "tiny" else str(tmp_path / f"{model}.json")
        if model != "tiny":
            Path(names[model]).write_text(json.dumps(config(model)))
    axes = {"model": list(names.values()), "weights": "seed:0,outliers", "batch": [1, 2], "src": 9, "tgt": 5}
    forms: list[dict[str, Any]] = [
        {"precision": ["fp8", "int8", "w8a16", "w4a16"]},
        {"precision": "bf16", "kv": ["fp8", "int8"]},
        {"precision": "fp8", "kv": "16bit", "head": "16bit"},
    ]
    groups = [{"suite": s} | axes | f for s in SUITES for f in (forms[:1] if s == "encoder" else forms)]
    (tmp_path / "sweep.json").write_text(json.dumps({"workers": 1, "groups": groups}))
    command = [programs / "tandem", "run", tmp_path / "sweep.json", "--engine", "reference"]
    done = subprocess.run(
        [*map(str, command), "--out", str(tmp_path / "run")],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"TANDEM_SAMPLE_SECONDS": "0:0.001", "XDG_CACHE_HOME": str(tmp_path / "cache")},
    )
    assert done.returncode == 0, done.stderr
    rows: list[dict[str, Any]] = []
    for line in (tmp_path / "run" / "records.jsonl").read_text().splitlines():
        record = json.loads(line)
        assert record["status"] == "ok", record
        case = {axis: record["case"][axis] for axis in AXES}
        case["model"] = next(model for model, name in names.items() if name == case["model"])
        row = {"case": case, "accuracy": {name: record["accuracy"][name] for name in NUMBERS}}
        same = [other for other in rows if other["case"] == case]
        assert all(row == other for other in same)
        rows += [] if same else [row]
    assert len(rows) == len(MODELS) * (4 + 2 * 7)
    if os.environ.get("TANDEM_WRITE_TABLE"):
        rows.sort(key=lambda row: list(map(str, row["case"].values())))
        TABLE.write_text("[\n" + ",\n".join(json.dumps(row) for row in rows) + "\n]\n")
    for row in rows:
        close(row["case"], row["accuracy"])
