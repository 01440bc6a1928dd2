"""scripts/check_clang.py: a file of a build that clang finds fault with fails the check."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import REPOSITORY


def check(build: Path, text: str) -> subprocess.CompletedProcess[str]:
    source = build / "a.cc"
    source.write_text(text)
    command = f"ccache c++ -I/nowhere -O3 -o CMakeFiles/a.o -c {source}"
    entry = {"directory": str(build), "command": command, "file": str(source)}
    (build / "compile_commands.json").write_text(json.dumps([entry, {**entry, "file": "kernel.cu"}]))
    program = REPOSITORY / "scripts" / "check_clang.py"
    return subprocess.run([sys.executable, program, build], capture_output=True, text=True, check=False)


# Without it the step of CI could pass whatever it reads, as it would with a command that clang does not take.
@pytest.mark.skipif(not shutil.which("clang++"), reason="no clang++ here")
def test_faults_and_warnings_fail_the_check(tmp_path: Path) -> None:
    good = check(tmp_path, "int main() { return 0; }\n")
    assert good.returncode == 0, good.stdout + good.stderr
    assert "1 files" in good.stdout
    assert not (tmp_path / "CMakeFiles").exists()
    for text in ("int main() { int unused; }\n", "int main() { return none; }\n"):
        bad = check(tmp_path, text)
        assert bad.returncode == 1
        assert "error:" in bad.stdout
        assert "1 with faults" in bad.stdout
