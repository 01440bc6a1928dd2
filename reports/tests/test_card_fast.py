"""scripts/card_fast: right before fast, resumed, in time. Programs that note calls stand for a build."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from conftest import REPOSITORY

NOTES = """#!/bin/bash
echo "$(basename "$0") $*" >> calls
case "$(basename "$0")" in
  "${BROKEN:-}") echo "1 FAILED TEST"; exit 1 ;;
  suite_kernels)
    name=kernels/model:t5-3b/batch:64/src:128/precision:bf16/sparsity:dense/tp:1/engine:cuda/op:norm
    echo "$name  3.50 us" ;;
  tandem) echo "verdicts"; exit "${DUET:-0}" ;;
esac
"""
PROGRAMS = [
    *("tandem", "suite_generate", "suite_kernels"),
    *("skinny_test", "head_test", "norm_test", "decode_attention_test", "step_race_test"),
]


def _run(tmp_path: Path, *flags: str, **environment: str) -> subprocess.CompletedProcess[str]:
    (tmp_path / "scripts").mkdir(exist_ok=True)
    for name in ("card_fast", "lib.sh"):
        shutil.copy(REPOSITORY / "scripts" / name, tmp_path / "scripts" / name)
    for name in PROGRAMS:
        program = tmp_path / "build" / "bin" / name
        program.parent.mkdir(parents=True, exist_ok=True)
        program.write_text(NOTES)
        program.chmod(0o755)
    command = ["scripts/card_fast", "--no-build", *flags]
    return subprocess.run(
        command, cwd=tmp_path, env={**os.environ, **environment}, capture_output=True, text=True, check=False
    )


def _calls(tmp_path: Path) -> list[str]:
    path = tmp_path / "calls"
    calls = path.read_text().splitlines() if path.exists() else []
    path.unlink(missing_ok=True)
    return calls


def test_right_before_fast_and_nothing_twice(tmp_path: Path) -> None:
    """Without it a wrong kernel is timed, or a second call begins from the start."""
    done = _run(tmp_path, "--out", "o", "--a", "build/bin")
    assert done.returncode == 0, done.stderr
    said = _calls(tmp_path)
    calls = [call.split()[0] for call in said]
    assert calls[:5] == PROGRAMS[3:]
    assert set(calls[5:10]) == {"suite_kernels"}
    assert set(calls[10:-1]) == {"suite_generate"} and calls[-1] == "tandem"
    assert all("--kernel own,library,auto" in call for call in said[10:-1])
    assert "t5-3b/batch:64/src:128/op:norm  3.50 us" in done.stdout
    assert _run(tmp_path, "--out", "o", "--a", "build/bin").returncode == 0
    assert _calls(tmp_path) == []


def test_what_is_wrong_ends_it(tmp_path: Path) -> None:
    """Without it a kernel is timed whose test failed, or a failed part is taken for done."""
    done = _run(tmp_path, BROKEN="norm_test")
    assert done.returncode == 1 and "norm_test: exit 1" in done.stderr
    assert [call.split()[0] for call in _calls(tmp_path)] == ["skinny_test", "head_test", "norm_test"]
    assert _run(tmp_path).returncode == 0
    assert [call.split()[0] for call in _calls(tmp_path)][:2] == ["norm_test", "decode_attention_test"]


def test_it_ends_in_time(tmp_path: Path) -> None:
    """Without it a call runs into the limit of whoever lends the card, and loses what it was at."""
    done = _run(tmp_path, "--seconds", "50")
    assert done.returncode == 4 and "call again" in done.stderr
    assert _calls(tmp_path) == []
    done = _run(tmp_path, "--seconds", "200", "--a", "build/bin")
    assert done.returncode == 4 and "duet" in done.stderr
    assert _run(tmp_path, "--seconds", "300", "--a", "build/bin").returncode == 0


def test_the_duets_sides(tmp_path: Path) -> None:
    """Without it a change is compared with itself, or a slower one ends well."""
    assert _run(tmp_path, "--out", "o").returncode == 0
    assert not [call for call in _calls(tmp_path) if call.startswith("tandem")], "nothing to compare with"
    assert _run(tmp_path, "--out", "o", "--a", "build/bin", DUET="1").returncode == 1
    (duet,) = _calls(tmp_path)
    assert "--a build/bin --b build/bin" in duet and "--resume" not in duet
    assert not (tmp_path / "o" / "duet.txt").exists()
    (tmp_path / "o" / "duet").mkdir()
    assert _run(tmp_path, "--out", "o", "--a", "build/bin", DUET="4").returncode == 0
    (duet,) = _calls(tmp_path)
    assert "--resume" in duet and (tmp_path / "o" / "duet.txt").exists()
    wrong = _run(tmp_path, "--a", "nowhere")
    assert wrong.returncode == 2 and "--a: no tandem in 'nowhere'" in wrong.stderr
