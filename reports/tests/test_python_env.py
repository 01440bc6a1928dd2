"""scripts/bootstrap: what a Python has within bounds is taken, without a network; what it lacks is named."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import REPOSITORY

PROGRAM = REPOSITORY / "scripts" / "python_env.py"


@pytest.fixture(scope="module")
def python_env() -> Any:
    found = importlib.util.spec_from_file_location("python_env", PROGRAM)
    assert found and found.loader
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


# Without it 1.10 would lie under 1.9, or a release candidate or a local version would be no version.
@pytest.mark.parametrize(
    ("version", "bounds", "kept"),
    [
        ("2.4.6", ">=1.24,<3", True), ("1.9.1", ">=1.10", False), ("1.10", ">=1.10.0", True),
        ("3.0.0", ">=1.24,<3", False), ("14.0.6", "==14.0.6", True), ("14.0.7", "==14.0.6", False),
        ("2.11.0+cu130", ">=2.11,<3", True), ("2.5.0rc1", "<2.5", False), ("7", "", True),
    ],
)  # fmt: skip
def test_bounds(python_env: Any, version: str, bounds: str, kept: bool) -> None:
    if not bounds:
        assert python_env.numbers(version) == (7,)
        return
    assert python_env.within(version, bounds) is kept


def test_a_bound_that_is_not_understood_is_said(python_env: Any) -> None:
    with pytest.raises(SystemExit, match="is not understood"):
        python_env.within("1.4.2", "~=1.4")


# Both are named, a missing package and one out of bounds: else bootstrap took a Python that cannot report.
def test_what_is_lacking_is_named(python_env: Any) -> None:
    assert python_env.lacking(python_env.requirements([])) == []
    lacks = python_env.lacking(["numpy>=99", "no-such-package>=1", "numpy<99"])
    assert [line.split()[0] for line in lacks] == ["numpy>=99", "no-such-package>=1"]


# `pip install reports/` must fit beside other packages: a pin in what the package itself needs is a fault.
# CI's versions must lie within the bounds, or bootstrap could not install them.
def test_bounds_not_pins_and_the_constraints_keep_them(python_env: Any) -> None:
    locked = dict(
        line.lower().replace("_", "-").split("==")
        for line in (REPOSITORY / "reports" / "constraints.txt").read_text().splitlines()
        if not line.startswith("#")
    )
    assert not [r for r in python_env.requirements([]) if "==" in r]
    for requirement in python_env.requirements(["dev"]):
        name = requirement.split(">")[0].split("=")[0].split("<")[0]
        assert python_env.within(locked[name], requirement[len(name) :]), requirement


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """What bootstrap reads of this clone, in a folder with a blank in its name."""
    root = tmp_path / "a clone"
    (root / "scripts").mkdir(parents=True)
    for name in ("bootstrap", "lib.sh", "python_env.py"):
        shutil.copy(REPOSITORY / "scripts" / name, root / "scripts")
    (root / "reports").symlink_to(REPOSITORY / "reports")
    return root


def bootstrap(clone: Path, *arguments: str, hidden: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    """Runs it on this Python, with no network for pip and apt, and without the programs `hidden`."""
    programs = clone.parent / "programs"
    shutil.rmtree(programs, ignore_errors=True)
    programs.mkdir()
    for folder in ("/usr/bin", "/bin", "/usr/local/bin"):
        for program in Path(folder).iterdir():
            link = programs / program.name
            if program.name not in hidden and not os.path.lexists(link):
                link.symlink_to(program)
    for name, text in {
        "python3": f'#!/bin/sh\nexec {sys.executable} "$@"\n',
        "apt-get": "#!/bin/sh\necho no network >&2\nexit 100\n",
    }.items():
        (programs / name).unlink(missing_ok=True)
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)
    environment = {"PATH": str(programs), "HOME": str(clone), "PIP_NO_INDEX": "1", "LC_ALL": "C.UTF-8"}
    command = ["bash", str(clone / "scripts" / "bootstrap"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)


def built_here() -> bool:
    headers = ("benchmark/benchmark.h", "gtest/gtest.h", "fmt/core.h", "nlohmann/json.hpp", "CLI/CLI.hpp")
    return all(Path("/usr/include", header).exists() for header in headers)


needs_headers = pytest.mark.skipif(
    not built_here(), reason="bootstrap would install headers that are not here"
)


# A machine with PyTorch's Python and no network could run neither scripts/bench nor scripts/test before.
@needs_headers
def test_packages_that_are_there_need_no_network(clone: Path) -> None:
    done = bootstrap(clone, "--test", hidden=("ccache",))
    assert done.returncode == 0, done.stderr
    assert "over the packages of" in done.stderr
    assert "going on without" in done.stderr  # a faster build is a wish, no need
    tool = clone / ".venv" / "bin" / "tandem-report"
    said = subprocess.run([tool, "--version"], capture_output=True, text=True, check=True, cwd="/")
    assert said.stdout.startswith("tandem-report ")
    drawing = [
        clone / ".venv" / "bin" / "python",
        "-c",
        "import matplotlib, numpy, jinja2, pytest, tandem_reports",
    ]
    subprocess.run(drawing, check=True, cwd="/")
    again = bootstrap(clone, "--test", hidden=("ccache",))
    assert (again.returncode, again.stderr) == (0, "")


# Breaks when scripts/bench has to wait for Python's packages before it builds.
@needs_headers
def test_packages_of_the_system_alone(clone: Path) -> None:
    done = bootstrap(clone, "--packages", hidden=("ccache",))
    assert done.returncode == 0, done.stderr
    assert not (clone / ".venv").exists()


@needs_headers
def test_what_cannot_be_built_without_is_an_error(clone: Path) -> None:
    done = bootstrap(clone, hidden=("ninja",))
    assert done.returncode == 1
    assert "ninja-build" in done.stderr


@pytest.mark.parametrize(("argument", "code"), [("--help", 0), ("--halp", 2), ("extra", 2)])
def test_help_and_mistakes_install_nothing(clone: Path, argument: str, code: int) -> None:
    done = bootstrap(clone, argument)
    assert done.returncode == code
    assert "usage" in done.stdout + done.stderr
    assert not (clone / ".venv").exists()
