"""The walls between the rooms of harness/, kernels/ and reference/: scripts/check_layout.py."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "check_layout.py"
spec = importlib.util.spec_from_file_location("check_layout", SCRIPT)
assert spec is not None and spec.loader is not None
check_layout = importlib.util.module_from_spec(spec)
spec.loader.exec_module(check_layout)


def breach(source: str, target: str) -> bool:
    return bool(check_layout.includes(source, f'// A comment.\n#include "{target}"\n'))


# Breaks when an include that leads upward, to a room that is built on this one, passes unseen.
@pytest.mark.parametrize("upper", range(1, len(check_layout.HARNESS)))
def test_an_upward_include_of_the_harness_is_refused(upper: int) -> None:
    low, high = check_layout.HARNESS[upper - 1], check_layout.HARNESS[upper]
    assert breach(f"harness/{low}/x.h", f"harness/{high}/y.h")
    assert breach(f"harness/{low}/x_test.cc", f"harness/{high}/y.h")
    assert not breach(f"harness/{high}/x.h", f"harness/{low}/y.h")


@pytest.mark.parametrize("upper", range(1, len(check_layout.KERNELS)))
def test_an_upward_include_of_the_kernels_is_refused(upper: int) -> None:
    low, high = check_layout.KERNELS[upper - 1][0], check_layout.KERNELS[upper][0]
    assert breach(f"kernels/{low}/x.cu", f"kernels/{high}/y.h")
    assert not breach(f"kernels/{high}/x.cu", f"kernels/{low}/y.h")


# Breaks when the outer walls fall: the harness computes nothing, the reference knows no kernel.
@pytest.mark.parametrize(
    ("source", "target", "refused"),
    [
        ("harness/driver/main.cc", "kernels/engine/cuda_engine.h", True),
        ("harness/run/worker.cc", "reference/engine/reference_engine.h", True),
        ("reference/engine/reference_engine.cc", "kernels/plan/builder.h", True),
        ("reference/ops/norm_test.cc", "kernels/norm/norm.h", True),
        ("kernels/norm/norm.cu", "kernels/gemm/gemm.h", True),
        ("kernels/norm/norm.cu", "reference/ops/norm.h", True),
        ("kernels/norm/norm_test.cc", "reference/ops/norm.h", False),
        ("kernels/norm/norm.cu", "harness/engine/plan.h", True),
        ("kernels/engine/cuda_engine.cc", "harness/run/worker.h", True),
        ("kernels/plan/builder.h", "harness/engine/plan.h", False),
        ("suites/engines_cuda.cc", "kernels/engine/cuda_engine.h", False),
        ("harness/unknown/x.cc", "harness/base/error.h", True),
    ],
)
def test_the_outer_walls(source: str, target: str, refused: bool) -> None:
    assert breach(source, target) is refused


# Breaks when a second place multiplies elements by the width of their type: 4-bit weights would be read as 8.
@pytest.mark.parametrize(
    "line",
    [
        "return n * dtype_bytes(t);",
        "return layout.elements * dtype_bits(t) / 8;",
        "const auto n = static_cast<size_t>(dtype_bytes(w.dtype)) * count;",
        "x = n *\n    static_cast<int>(dtype_bytes(dtype()));",
        "at += dtype_bytes(weight_dtype(c.precision)) * first;",
    ],
)
def test_a_product_with_a_width_is_refused(line: str) -> None:
    [breach_line] = check_layout.widths("kernels/ops/x.cc", f"// A comment.\n{line}\n")
    assert breach_line.startswith("kernels/ops/x.cc:2: ")
    assert check_layout.widths("harness/weights/x.cc", line) == []
    assert check_layout.widths("harness/base/tensor.h", line) == []


def test_a_question_of_width_or_alignment_is_none() -> None:
    for line in (
        "if (stride % dtype_bytes(t) == 0) return;",
        "const auto* p = f(dtype_bytes(t));",
        "count = bytes / dtype_bytes(t);",
        "n = tensor_bytes(t, rows * cols);",
        "// rows * dtype_bytes(t), once",
    ):
        assert check_layout.widths("kernels/ops/x.cc", line) == []


def test_a_crowded_folder_is_named() -> None:
    files = [f"harness/run/f{i}.cc" for i in range(check_layout.MAX_SOURCES + 1)]
    tests = [f"harness/sweep/f{i}_test.cc" for i in range(40)]
    assert [line.split(":")[0] for line in check_layout.crowded(files + tests)] == ["harness/run"]
    assert check_layout.crowded(files[1:] + tests) == []
