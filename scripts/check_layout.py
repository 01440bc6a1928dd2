#!/usr/bin/env python3
"""Keeps the walls between the folders: who may include whom, nothing stray at the top, no file over the limit.

Prints one line per breach, `file:line: what`, and exits 1 if there is any.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

TOP = {
    "README.md", "CONTRIBUTING.md", "LICENSE", "CMakeLists.txt", "CMakePresets.json",
    "harness", "kernels", "reference", "suites", "reports", "scripts",
}  # fmt: skip
MAX_LINES = 520  # "about 500"

BASE = {"harness/base"}
MODEL = BASE | {"harness/model"}
ENGINE = MODEL | {"harness/memory", "harness/parallel", "harness/cost", "harness/sweep"}
ENGINE_FILES = {"harness/run/engine.h", "harness/run/plan.h", "harness/run/compare.h"}
# All other JSON comes from outside: parse_json bounds its depth. Tests read what they wrote, json_schema.cc what was
# compiled in.
TRUSTED_JSON = re.compile(
    r"_test\.(cc|cu)$|/testing/|^harness/base/json_text\.cc$|^harness/record/json_schema\.cc$"
)


def folder(path: str) -> str:
    parts = path.split("/")
    return "/".join(parts[:2]) if len(parts) > 2 else parts[0]


def allowed(source: str, target: str) -> bool:
    """May `source` include `target` (both relative to the root)?"""
    top, room, to = source.split("/")[0], folder(source), folder(target)
    test = re.search(r"_(test|bench|test_util)\.(cc|cu|h)$", source) is not None
    if room == to or target in {"harness/run/compare.h"}:
        return True
    if top == "suites":
        return True
    if room in BASE | MODEL:
        return to in BASE  # of its own room: above
    if top == "harness":
        return target.startswith("harness/")
    if top == "kernels":
        if room == "kernels/engine":
            return (
                target.startswith("kernels/")
                or to in ENGINE
                or target in ENGINE_FILES
                or (test and target.startswith(("reference/", "harness/run/")))
            )
        return (
            to in MODEL
            or to == "kernels/common"
            or (room, to)
            == (
                "kernels/limits",
                "kernels/gemm",
            )  # the rate of products is the library's
            or (test and (target.startswith(("reference/", "kernels/"))))
        )
    if top == "reference":
        if target.startswith("kernels/"):
            return False
        if room == "reference/engine":
            return (
                target.startswith("reference/")
                or to in ENGINE
                or target in ENGINE_FILES
            )
        return target.startswith("reference/") or to in MODEL
    return True


def main() -> int:
    root = Path(__file__).resolve().parent.parent
    listed = subprocess.run(
        ["git", "ls-files"], cwd=root, check=True, capture_output=True, text=True
    )
    files = [f for f in listed.stdout.splitlines() if (root / f).is_file()]
    breaches: list[str] = []
    for name in sorted({f.split("/")[0] for f in files}):
        if name not in TOP and not name.startswith("."):
            breaches.append(f"{name}:1: nothing else belongs at the top level")
    for f in files:
        if not re.search(r"\.(cc|cu|cuh|h|py)$", f):
            continue
        lines = (root / f).read_text(encoding="utf-8").splitlines()
        if len(lines) > MAX_LINES:
            breaches.append(
                f"{f}:{len(lines)}: over {MAX_LINES} lines; one file wants to be two"
            )
        if f.endswith(".py"):
            continue
        for number, line in enumerate(lines, 1):
            match = re.match(
                r'\s*#include "((?:harness|kernels|reference|suites)/[^"]+)"', line
            )
            if match and not allowed(f, match.group(1)):
                breaches.append(f"{f}:{number}: may not include {match.group(1)}")
            if "json::parse(" in line and not TRUSTED_JSON.search(f):
                breaches.append(
                    f"{f}:{number}: json::parse of what may nest without end; use parse_json"
                )
    print(
        "\n".join(breaches)
        if breaches
        else f"layout: {len(files)} files keep to their rooms",
        file=sys.stderr,
    )
    return 1 if breaches else 0


if __name__ == "__main__":
    sys.exit(main())
