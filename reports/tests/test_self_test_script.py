"""scripts/gate_self_test: which builds meet in its duets. Programs that note their calls stand for builds."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

from conftest import REPOSITORY

TANDEM = """#!/bin/bash
echo "$(basename "$(dirname "$(readlink -f "$0")")") $*" >> calls
while [ $# -gt 0 ]; do
  [ "$1" != --out ] || { mkdir -p "$2"; out=$2; }
  shift
done
echo "verdicts of $out"
case $out in *unchanged*) exit "${UNCHANGED:-0}" ;; *) exit 1 ;; esac
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


def _self_test(tmp_path: Path, *flags: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs the script in a folder of builds that are there."""
    (tmp_path / "scripts").mkdir(exist_ok=True)
    for name in ("gate_self_test", "lib.sh"):
        shutil.copy(REPOSITORY / "scripts" / name, tmp_path / "scripts" / name)
    for name in ("bin", "bin-apart", "bin-plus-2", "bin-plus-5", "bin-plus-10"):
        _program(tmp_path / "build" / "gate-self-test-cpu" / name / "tandem", TANDEM)
    _program(tmp_path / ".venv" / "bin" / "tandem-report", REPORT)
    command = ["scripts/gate_self_test", "--engine", "reference", "--no-build", "--out", "out", *flags]
    return subprocess.run(
        command, cwd=tmp_path, env={**os.environ, **environment}, capture_output=True, text=True, check=False
    )


# Breaks when side B of an unchanged duet is A's own file, so that what linking moves goes unseen; when no B
# allocates first; or when a planted build is called by a name that says what it is.
def test_side_b_is_a_build_of_its_own(tmp_path: Path) -> None:
    done = _self_test(tmp_path, "--aa-small", "3", "--planted", "2 5", "--repeat", "2")
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


# Breaks when one call on a CPU takes rules or cases of a card, has time for more than ten minutes, hides the
# verdicts, or passes an unchanged duet that nobody could decide.
def test_a_cpu_takes_ten_minutes(tmp_path: Path) -> None:
    done = _self_test(tmp_path)
    assert done.returncode == 0, done.stderr
    calls = (tmp_path / "calls").read_text().splitlines()
    assert [_option(call, "--out") for call in calls] == ["out/unchanged-1", "out/planted-1"]
    for call in calls:
        assert "bin duet suites/gate-cpu.json " in call
        assert _option(call, "--policy") == "suites/gates-cpu.json"
        assert _option(call, "--budget") == "4m"
        assert f"verdicts of {_option(call, '--out')}\n" in done.stderr
    assert re.search(r"duet unchanged-1: exit code 0 after \d+ s\n", done.stderr)
    assert re.search(r"duet planted-1: exit code 1 after \d+ s\n", done.stderr)
    assert _self_test(tmp_path, "--sweep", "mine.json", UNCHANGED="4").returncode == 4
    assert _option((tmp_path / "calls").read_text().splitlines()[-1], "--policy") is None
    assert _self_test(tmp_path, UNCHANGED="2").returncode == 2


# Breaks when builds are measured by a call that was to make them, or are made by one that was to take them.
def test_builds_may_be_made_before(tmp_path: Path) -> None:
    assert _self_test(tmp_path, "--build-only").returncode == 0
    assert not (tmp_path / "calls").exists()
    done = _self_test(tmp_path, "--planted", "7")
    assert (done.returncode, done.stdout) == (2, "")
    assert "no build in" in done.stderr
    assert "bin-plus-7" in done.stderr
