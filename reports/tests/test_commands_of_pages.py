"""scripts/check_commands.py: which commands it finds on a page, and what it says of wrong ones."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "check_commands.py"


def load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("check_commands", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def build(tmp_path: Path) -> Path:
    """A build whose `tandem run` knows --out and nothing else, with a suite that has fp8 and no CUDA."""
    for name, text in {
        "tandem": '[ "$1" = run ] || exit 2\necho "  --out TEXT  --out-of-range"\n',
        "suite_decoder": 'case "$*" in --help) echo "--precision --engine"; exit 0;; *fp9*|*cuda*) '
        'echo "precision: not allowed" >&2; exit 2;; esac\necho case\n',
    }.items():
        program = tmp_path / name
        program.write_text("#!/bin/sh\n" + text)
        program.chmod(0o755)
    return tmp_path


def test_commands_of_blocks_and_of_text_are_found() -> None:
    """Without it a page's command could be wrong and nobody looked."""
    block = "```\n$ build/bin/tandem run a.json \\\n    --out x   # why\nnot one\n```\n"
    page = "Say `tandem list A.json` or `tandem`.\n" + block
    assert load().commands(page) == ["tandem list A.json", "build/bin/tandem run a.json --out x"]


def test_the_program_is_found_after_variables_and_mpirun() -> None:
    """Without it commands that start with something else would pass unread."""
    script = load()
    assert script.program("A=b mpirun -n 4 -x A build/cuda/bin/suite_generate --tp 4") == "suite_generate"
    assert script.program("git log --oneline") is None


def test_wrong_flags_commands_and_files_are_named(build: Path) -> None:
    """Without it a renamed flag would stay on a page for ever."""
    script = load()
    assert script.fault("tandem run suites/smoke.json --out x", build) is None
    assert script.fault("tandem run suites/smoke.json --ou x", build) == "tandem run has no --ou"
    assert script.fault("tandem run suites/none.json", build) == "no file suites/none.json"
    assert script.fault("build/bin/skinny_search --m 1", build) is None
    assert script.fault("build/bin/suite_decoder --precision fp8 --engine cuda", build) is None
    assert script.fault("build/bin/suite_decoder --precision fp9", build) == "precision: not allowed"
    assert script.fault("build/bin/suite_encode --m 1", build) == "no program suite_encode"
    assert "exits 2" in str(script.fault("tandem walk", build))
