"""The Python twin of masks, and pruned cases in a report."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Outcome
from fixture_runs import Model, case, make_run
from twin import model as models
from twin import pruning, seeded

from tandem_reports.gate.kept import panels
from tandem_reports.gate.precisions import format_groups
from tandem_reports.reading.runs import load_run
from tandem_reports.stats.cases import CaseResult, collect
from tandem_reports.views.figures.kept import kept as kept_figure
from tandem_reports.views.figures.pareto import pareto


def kept(sparsity: str, *rows: list[float]) -> list[list[int]]:
    values = np.array(rows, dtype=np.float32)
    return pruning.mask(values, pruning.parse_sparsity(sparsity)).astype(int).tolist()


# Breaks when a tie keeps another weight than the first, or a sign or a zero counts.
def test_by_hand() -> None:
    assert kept("2:4", [1, -3, 2, 0.5, 0, -0.0, 0, 0]) == [[0, 1, 1, 0, 1, 1, 0, 0]]
    assert kept("2:4", [2, 1, -1, 1]) == [[1, 1, 0, 0]]
    assert kept("unstructured:0.5", [1, -3, 2], [2, -2, 0.5]) == [[0, 1, 1], [1, 0, 0]]
    assert kept("unstructured:0.3", [1, 1], [1, 1]) == [[1, 1], [1, 0]], "floor(1.2), the last of equals"
    assert kept("threshold:2", [1, -3, 2, 0.5]) == [[0, 1, 1, 0]]
    assert kept("dense", [0, 1]) == [[1, 1]]


# Breaks when a mask follows one row, or values after rounding: its fraction is exact over the whole matrix.
@pytest.mark.parametrize("fraction", [0.25, 0.5, 0.8, 0.95])
def test_the_fraction_is_exact(fraction: float) -> None:
    values = seeded.seeded_tensor(17, "pruned", (33, 52), exponent=-20, outliers=True)
    mask = pruning.mask(values, {"unstructured": fraction})
    assert int(mask.sum()) == values.size - int(fraction * values.size)
    threshold = float(np.abs(values[mask]).min())
    assert (np.abs(values[~mask]) <= threshold).all()
    if not (np.abs(values[~mask]) == threshold).any():
        assert (pruning.mask(values, {"threshold": threshold}) == mask).all(), "the same by its threshold"


FRACTIONS = (0.25, 0.5, 0.8, 0.95)
PATTERNS = ("dense", "2:4", *(f"unstructured:{fraction}" for fraction in FRACTIONS))


def share(sparsity: str) -> float:
    """Invented: the fraction kept and an eighth of the dense bytes for the mask."""
    kept = {"dense": 1.0, "2:4": 0.5}.get(sparsity)
    return 1 - float(sparsity.partition(":")[2]) if kept is None else kept


def results(path: Path, cases: list[dict[str, Any]], **options: Any) -> list[CaseResult]:
    def fields(axes: dict[str, Any]) -> dict[str, Any]:
        part = share(axes["sparsity"])
        stored = part if part == 1 else part + 0.0625
        stated = {
            "relative_error": 0.4 * (1 - part), "kl": 0.1, "tokens_agree": 0.5, "free_tokens_agree": 0.5,
            "tokens": 256, "teacher_forced": True, "against": "dense fp32", "synthetic_weights": True,
        }  # fmt: skip
        return {
            "accuracy": None if part == 1 or axes["suite"] == "kernels" else stated,
            "memory": {"weights_bytes": None, "peak_bytes": 1e9, "fraction_kept": part},
            "cost": {"bytes": 1e8 * stored, "flops": 1e9, "phases": []},
        }

    slow = options.pop("slow", 0.1)
    model = Model(
        factor=lambda axes: share(s := axes["sparsity"]) + (slow if s == "unstructured:0.25" else 0.1),
        worker_sd=0.001, samples=12, extra=fields,
    )  # fmt: skip
    return collect([load_run(make_run(path, cases, model=model, keep_samples=False, **options))])


def rows(suite: str = "kernels", **axes: Any) -> list[dict[str, Any]]:
    op = {"op": "gemm_ffn_down", "kernel": "own"} if suite == "kernels" else {}
    return [
        case(suite, model="t5-base", batch=batch, sparsity=sparsity, **op, **axes)
        for batch in (1, 8)
        for sparsity in PATTERNS
    ]


TWINS = {
    "2:4": "76b5e47ae71a1de87893baf422a0efb32d0e836468b13c8f9c0ca4775a4dec9d",
    "unstructured:0.5": "3a74e91a8321375d917b16fa6cde699ecb1897399f97c0e3909e784e8bd20db7",
    "threshold:0.05": "5a359860c9d6bdd96efd19a14ed1d05ea9696079c8951709e673d99e649d012d",
    "unstructured:0.8+heads:0.5": "87af85eb67702ac10de777ad3fe754beab86b123b39a319c66cd72b6c1461132",
    "2:4+ffn:0.25+layers:0.5": "125b68b0143b7d2315a77876d9bb80e11cfffd643fbddbef603b273b71ab5f63",
}
"""SHA-256 over the fp32 values of a small model, names in their order."""


# Breaks when weights are chosen otherwise here than in harness/weights/pruning, whose test has the hashes.
@pytest.mark.parametrize("sparsity", TWINS)
def test_pruned_models_are_the_engines_too(sparsity: str) -> None:
    m = replace(models.preset("tiny"), position="relative")
    dense = {
        t.name: seeded.seeded_tensor(
            17, t.name, (t.rows, t.cols), base=t.base, exponent=t.exponent, outliers=t.outlier_rows
        )
        for t in models.weight_layout(m)
    }
    _, tensors = pruning.pruned(m, dense, sparsity)
    sha = hashlib.sha256()
    for name in sorted(tensors):
        sha.update(name.encode())
        sha.update(tensors[name].astype("<f4").tobytes())
    assert sha.hexdigest() == TWINS[sparsity]


# Without it a pruned product would stand beside another batch's dense one, or at another fraction.
def test_points_stand_beside_their_dense_twin(tmp_path: Path) -> None:
    found = panels(format_groups(results(tmp_path / "run", rows())))
    assert [[line.batch for line in lines] for lines in found] == [[1, 8]]
    for line in found[0]:
        assert [(round(point.kept, 6), point.pattern) for point in line.points] == [
            (0.05, "unstructured"), (0.2, "unstructured"), (0.5, "2:4"), (0.5, "unstructured"),
            (0.75, "unstructured"),
        ]  # fmt: skip
        for point in line.points:
            assert point.format.speedup == pytest.approx(1.1 / (point.kept + 0.1), rel=0.02)
            assert point.stored == pytest.approx(point.kept + 0.0625)


# Without it a figure would be drawn of one point, of structured pruning or of several changes at once.
def test_what_is_no_line(tmp_path: Path) -> None:
    one = [row for row in rows() if row["sparsity"] in ("dense", "2:4")]
    assert panels(format_groups(results(tmp_path / "one", one))) == []
    mixed = [row for row in rows() if row["sparsity"] == "dense"]
    mixed += [
        row | {"sparsity": sparsity} for row in mixed for sparsity in ("heads:0.5", "ffn:0.25", "layers:0.5")
    ]
    assert panels(format_groups(results(tmp_path / "mixed", mixed))) == []
    assert kept_figure("kernels", format_groups(results(tmp_path / "alone", rows()[1:2]))) is None


# Without it a pattern that loses to dense would be a point like any other, or the page lack a figure.
def test_the_page_has_both_figures(tmp_path: Path, cli: Callable[..., Outcome]) -> None:
    found = results(tmp_path / "run", [*rows(), *rows("decoder")], slow=0.9)
    groups = format_groups([result for result in found if result.case.suite == "kernels"])
    picture = kept_figure("kernels", groups)
    assert picture is not None
    assert any(point.format.loses for line in panels(groups)[0] for point in line.points)
    decoder = format_groups([result for result in found if result.case.suite == "decoder"])
    assert [f.label for f in decoder[0].formats][:2] == ["bf16", "2:4"]
    assert pareto("decoder", decoder) is not None, "patterns and precisions share the picture"
    assert cli("report", tmp_path / "run", "--out", tmp_path / "out").code == 0
    page = (tmp_path / "out" / "report.html").read_text()
    assert "kernels: speed-up by fraction kept" in page
    assert "decoder: speed-up by accuracy error" in page
