"""scripts/gate_self_test: which builds meet in its duets. Programs that note their calls stand for builds."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from conftest import REPOSITORY

TANDEM = """#!/bin/bash
echo "$(basename "$(dirname "$(readlink -f "$0")")") $*" >> calls
while [ $# -gt 0 ]; do [ "$1" != --out ] || mkdir -p "$2"; shift; done
"""
REPORT = """#!/bin/bash
while [ $# -gt 0 ]; do [ "$1" != --out ] || echo table > "$2"; shift; done
"""


def _program(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)


def _option(call: str, name: str) -> str | None:
    words = call.split()
    return words[words.index(name) + 1] if name in words else None


# Breaks when side B of an unchanged duet is A's own file, so that what linking moves goes unseen; when no B
# allocates first; or when a planted build is called by a name that says what it is.
def test_side_b_is_a_build_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "scripts").mkdir()
    for name in ("gate_self_test", "lib.sh"):
        shutil.copy(REPOSITORY / "scripts" / name, tmp_path / "scripts" / name)
    for name in ("bin", "bin-apart", "bin-plus-2", "bin-plus-5"):
        _program(tmp_path / "build" / "gate-self-test-cpu" / name / "tandem", TANDEM)
    _program(tmp_path / ".venv" / "bin" / "tandem-report", REPORT)
    command = [
        "scripts/gate_self_test",
        "--engine",
        "reference",
        "--no-build",
        "--aa",
        "1",
        "--aa-small",
        "3",
    ]
    done = subprocess.run(
        [*command, "--out", "out"],
        cwd=tmp_path,
        env=dict(os.environ),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "table\n"
    calls = (tmp_path / "calls").read_text().splitlines()
    assert all(call.startswith("bin duet ") for call in calls), "the plain build drives every duet"
    sides = {(_option(call, "--out") or "").rpartition("/")[2]: call for call in calls}
    assert list(sides)[:4] == ["unchanged-1", *(f"unchanged-small-{i}" for i in (1, 2, 3))]
    assert [Path(_option(call, "--a") or "").name for call in calls] == ["bin"] * 8
    for name, call in sides.items():
        side_b = Path(_option(call, "--b") or "")
        first = _option(call, "--b-env")
        if name.startswith("unchanged"):
            assert side_b.name == "bin-apart"
            assert first == ("TANDEM_ALLOCATE_FIRST=2097152" if name == "unchanged-small-3" else None)
        else:
            assert side_b.name == name.removeprefix("planted-")
            assert first is None
