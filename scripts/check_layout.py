#!/usr/bin/env python3
"""Keeps the walls between the rooms: who may include whom, nothing stray at the top, no file or folder over its limit.

Prints one line per breach, `file:line: what`, and exits 1 if there is any.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

TOP = {
    "README.md", "CONTRIBUTING.md", "LICENSE", "CMakeLists.txt", "CMakePresets.json", "CHANGELOG.md", "CITATION.cff",
    "harness", "kernels", "reference", "suites", "reports", "scripts",
}  # fmt: skip
MAX_LINES = 500
MAX_SOURCES = 20  # of a folder, without its tests

# From the ground up: a room sees those before it.
HARNESS = ["base", "card", "memory", "model", "parallel", "weights", "sweep", "cost", "engine", "record", "trace", "run",
           "fuzz", "driver"]  # fmt: skip
# Rooms of one tuple do not see each other.
KERNELS = [
    ("common",),
    (
        "gemm",
        "norm",
        "embedding",
        "activation",
        "quantise",
        "sparse",
        "attention",
        "skinny",
        "decoding",
        "seeded",
    ),
    # The rate of products is the library's: gemm. A row that is reduced goes on into its norm, a product into its activation.
    ("limits", "collectives", "tiled_gemm"),
    ("bench",),
    ("plan",),
    ("runtime",),
    ("ops",),
    ("engine",),
]
REFERENCE = ["ops", "model", "testing", "engine"]

# What the rooms of kernels/ and reference/ see of the harness.
TYPES = {"base", "model", "weights"}
PIPELINE = TYPES | {"memory", "parallel", "sweep", "cost", "engine"}

# All other JSON comes from outside: parse_json bounds its depth. Tests read what they wrote, json_schema.cc what was
# compiled in.
TRUSTED_JSON = re.compile(
    r"_test\.(cc|cu)$|/testing/|^harness/base/json_text\.cc$|^harness/record/json_schema\.cc$"
)

# Bytes of elements have one owner: types under 8 bits, scales and metadata are not elements times a width.
MULTIPLIES_A_WIDTH = re.compile(
    r"\*\s*(?:static_cast<\w+>\()?dtype_(?:bytes|bits)\("
    r"|\bdtype_(?:bytes|bits)\((?:[^()]|\([^()]*\))*\)+\s*\*"
)
MAY_MULTIPLY = re.compile(r"^harness/weights/|^harness/base/tensor\.h$")

# What an engine is like, its traits say (harness/engine/traits.h); only what makes engines knows them by name.
ENGINE_BY_NAME = re.compile(r'[!=]= *"reference"|"reference" *[!=]=')
MAKES_ENGINES = {"suites/engines_cuda.cc", "suites/engines_host.cc"}


def room(path: str) -> tuple[str, str]:
    """`harness/run/x.cc` is in ("harness", "run"); a file at the top of a part has no room."""
    parts = path.split("/")
    return parts[0], parts[1] if len(parts) > 2 else ""


def is_test(path: str) -> bool:
    return re.search(r"_(test|test_util)\.(cc|cu|h)$|/testing/", path) is not None


def kernel_level(name: str) -> int:
    return next((i for i, level in enumerate(KERNELS) if name in level), len(KERNELS))


def allowed(source: str, target: str) -> bool:
    """May `source` include `target` (both relative to the root)?"""
    (top, own), (to, other) = room(source), room(target)
    if top == "suites" or (top, own) == (to, other):
        return True
    if top == "harness":
        return (
            to == "harness"
            and other in HARNESS
            and own in HARNESS
            and HARNESS.index(other) < HARNESS.index(own)
        )
    if to == "harness":
        if top == "kernels":
            sees = PIPELINE if own in ("plan", "runtime", "ops", "engine") else TYPES
            sees = sees | {"run"} if is_test(source) and own == "engine" else sees
        else:
            # Tests of the reference compare with the contract's own comparison.
            sees = (
                PIPELINE
                if own == "engine"
                else TYPES
                | {"parallel"}
                | ({"engine"} if is_test(source) or not own else set())
            )
        return other in sees
    if top == "kernels" and to == "kernels":
        return kernel_level(other) < kernel_level(own)
    if top == "kernels" and to == "reference":
        return is_test(source)
    if top == "reference" and to == "reference":
        return (
            not own
            or REFERENCE.index(other) < REFERENCE.index(own)
            or (is_test(source) and other == "testing")
        )
    return False


def includes(path: str, text: str) -> list[str]:
    """Breaches of the walls, JSON parsed without a bound, and engines told by name, in one source."""
    breaches = []
    by_traits = (
        path.startswith(("harness/run/", "harness/driver/", "suites/"))
        and not is_test(path)
        and path not in MAKES_ENGINES
    )
    for number, line in enumerate(text.splitlines(), 1):
        match = re.match(
            r'\s*#include "((?:harness|kernels|reference|suites)/[^"]+)"', line
        )
        if match and not allowed(path, match.group(1)):
            breaches.append(f"{path}:{number}: may not include {match.group(1)}")
        if "json::parse(" in line and not TRUSTED_JSON.search(path):
            breaches.append(
                f"{path}:{number}: json::parse of what may nest without end; use parse_json"
            )
        if by_traits and ENGINE_BY_NAME.search(line):
            breaches.append(
                f"{path}:{number}: an engine told by its name; ask engine_traits or Engine::traits"
            )
    return breaches


def widths(path: str, text: str) -> list[str]:
    """Products of a number of elements and the width of their type, which tensor_bytes makes."""
    if MAY_MULTIPLY.search(path):
        return []
    breaches = []
    for match in MULTIPLIES_A_WIDTH.finditer(text):
        number = text.count("\n", 0, match.start()) + 1
        line = text.splitlines()[number - 1]
        if not line.lstrip().startswith("//"):
            breaches.append(
                f"{path}:{number}: multiplies by the width of a type; use tensor_bytes(type, elements)"
            )
    return breaches


def crowded(files: list[str]) -> list[str]:
    """Folders of harness/ and kernels/ with more sources than a reader can keep in mind."""
    counts = Counter(
        str(Path(f).parent)
        for f in files
        if f.startswith(("harness/", "kernels/"))
        and not is_test(f)
        and not f.endswith("CMakeLists.txt")
        and not f.startswith("harness/fuzz/corpus/")
        and "testdata" not in f
    )
    return [f"{folder}:1: {n} sources that are no tests; at most {MAX_SOURCES}" for folder, n in counts.items()
            if n > MAX_SOURCES]  # fmt: skip


def main() -> int:
    root = Path(__file__).resolve().parent.parent
    listed = subprocess.run(
        ["git", "ls-files"], cwd=root, check=True, capture_output=True, text=True
    )
    files = [f for f in listed.stdout.splitlines() if (root / f).is_file()]
    breaches: list[str] = crowded(files)
    for name in sorted({f.split("/")[0] for f in files}):
        if name not in TOP and not name.startswith("."):
            breaches.append(f"{name}:1: nothing else belongs at the top level")
    for f in files:
        if not re.search(r"\.(cc|cu|cuh|h|py)$", f):
            continue
        text = (root / f).read_text(encoding="utf-8")
        lines = len(text.splitlines())
        if lines > MAX_LINES:
            breaches.append(
                f"{f}:{lines}: over {MAX_LINES} lines; one file wants to be two"
            )
        if not f.endswith(".py"):
            breaches += includes(f, text) + widths(f, text)
    print(
        "\n".join(breaches)
        if breaches
        else f"layout: {len(files)} files keep to their rooms",
        file=sys.stderr,
    )
    return 1 if breaches else 0


if __name__ == "__main__":
    sys.exit(main())
