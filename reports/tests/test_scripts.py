"""The scripts from the outside: --help never acts, and a mistyped argument is one line."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tandem_reports import cli

REPOSITORY = Path(__file__).resolve().parents[2]
SCRIPTS = [
    "baseline",
    "bench",
    "bootstrap",
    "card_fast",
    "check",
    "fresh_machine",
    "gate_self_test",
    "nsys",
    "parallel_baseline",
    "test",
]
PYTHON = sorted(
    p
    for p in (REPOSITORY / "scripts" / "peers").rglob("*.py")
    if p.name.startswith("make_") or p.name in ("engine.py", "example.py")
)
ACTING = [
    "cmake",
    "ninja",
    "apt-get",
    "sudo",
    "pip",
    "python3",
    "nvcc",
    "ctest",
    "nsys",
    "debootstrap",
    "mount",
    "git",
]


@pytest.fixture
def fenced(tmp_path: Path) -> tuple[Path, dict[str, str], Path]:
    """A copy of the scripts, where every program that does something only notes that it was called."""
    (tmp_path / "scripts").mkdir()
    for name in [*SCRIPTS, "lib.sh"]:
        copy = tmp_path / "scripts" / name
        copy.write_bytes((REPOSITORY / "scripts" / name).read_bytes())
        copy.chmod(0o755)
    programs, log = tmp_path / "programs", tmp_path / "called"
    programs.mkdir()
    for name in ACTING:
        (programs / name).write_text(f'#!/bin/sh\necho {name} "$@" >>{log}\nexit 1\n')
        (programs / name).chmod(0o755)
    return tmp_path, os.environ | {"PATH": f"{programs}:{os.environ['PATH']}"}, log


# Breaks when who asks what a script does gets it done: `scripts/bootstrap --help` installed packages.
@pytest.mark.parametrize("flag", ["--help", "-h"])
@pytest.mark.parametrize("name", SCRIPTS)
def test_help_never_acts(name: str, flag: str, fenced: tuple[Path, dict[str, str], Path]) -> None:
    root, environment, log = fenced
    before = sorted(root.rglob("*"))
    done = subprocess.run(
        [root / "scripts" / name, flag],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert f"usage: scripts/{name}" in done.stdout
    assert done.stderr == ""
    assert not log.exists(), log.read_text()
    assert sorted(root.rglob("*")) == before


# Breaks when a slip of the pen installs and builds for minutes before it is noticed, or never.
@pytest.mark.parametrize(
    "name",
    ["bench", "bootstrap", "check", "baseline", "gate_self_test", "fresh_machine", "parallel_baseline"],
)
def test_a_mistyped_argument_is_one_line(name: str, fenced: tuple[Path, dict[str, str], Path]) -> None:
    root, environment, log = fenced
    done = subprocess.run(
        [root / "scripts" / name, "--hlep"],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
        timeout=60,
    )
    assert done.returncode == 2
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1
    assert "--hlep" in done.stderr
    assert not log.exists(), log.read_text()


# Breaks when help needs the packages that the help says how to install.
@pytest.mark.parametrize("path", PYTHON, ids=lambda p: p.name)
def test_help_of_a_peer_needs_no_packages(path: Path) -> None:
    command = [sys.executable, "-I", "-S", str(path), "--help"]  # no site-packages
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) > 3


# Breaks when scripts/bench builds tests and benches again, kernels for a card that is not there, or
# starts to build without a word of how long.
@pytest.mark.parametrize(("card", "preset"), [("", "cpu"), ("9.0", "cuda")])
def test_bench_builds_what_it_runs_and_says_how_long(
    card: str, preset: str, fenced: tuple[Path, dict[str, str], Path]
) -> None:
    root, environment, log = fenced
    (root / "scripts" / "bootstrap").write_text("#!/bin/sh\n")
    (root / "programs" / "nvcc").write_text("#!/bin/sh\necho release 13.0, V13.0.48\n")
    (root / "programs" / "nvidia-smi").write_text(f"#!/bin/sh\necho {card}\n")
    (root / "programs" / "nvidia-smi").chmod(0o755)
    # Stands for cmake: a dry run with steps to do, then a build that fails, which ends the script.
    steps = "\n".join(["[1/3] Building CXX object a.cc.o"] * 300 + ["[2/3] Building CUDA object b.cu.o"] * 30)
    (root / "steps").write_text(steps)
    (root / "programs" / "cmake").write_text(
        f'#!/bin/sh\necho "$@" >>{log}\n'
        f'case "$*" in *" -n") cat {root}/steps; exit 0 ;; --preset*) exit 0 ;; esac\nexit 1\n'
    )
    done = subprocess.run(
        [root / "scripts" / "bench"], capture_output=True, text=True, env=environment, check=False, timeout=60
    )
    assert done.returncode != 0
    said = [line for line in done.stderr.splitlines() if "building with" in line]
    assert len(said) == 1, done.stderr
    assert "about" in said[0]
    builds = [
        line
        for line in log.read_text().splitlines()
        if line.startswith("--build") and not line.endswith("-n")
    ]
    assert len(builds) == 1
    assert builds[0].startswith(f"--build build/{preset} ")
    targets = builds[0].split("--target ")[1].split(" --")[0].split()
    assert set(targets) == {"tandem", "suite_encoder", "suite_decoder", "suite_generate", "suite_limits"}


# Breaks when programs lie somewhere else on a machine with the toolkit than in the pages' commands.
@pytest.mark.parametrize(("card", "preset"), [("", "cpu"), ("9.0", "cuda")])
def test_the_programs_are_in_build_bin_on_every_machine(
    card: str, preset: str, fenced: tuple[Path, dict[str, str], Path]
) -> None:
    root, environment, _ = fenced
    (root / "scripts" / "bootstrap").write_text("#!/bin/sh\n")
    (root / "programs" / "nvcc").write_text("#!/bin/sh\necho release 13.0, V13.0.48\n")
    (root / "programs" / "nvidia-smi").write_text(f"#!/bin/sh\necho {card}\n")
    (root / "programs" / "nvidia-smi").chmod(0o755)
    (root / "programs" / "cmake").write_text(f"#!/bin/sh\nmkdir -p {root}/build/{preset}/bin\n")
    subprocess.run(
        [root / "scripts" / "bench"], capture_output=True, env=environment, check=False, timeout=60
    )
    assert (root / "build" / "bin").resolve() == root / "build" / preset / "bin"


# Breaks when a network without Python packages costs a first user his numbers, after minutes of building
# and with the reason far above.
def test_bench_measures_where_pip_fails(fenced: tuple[Path, dict[str, str], Path]) -> None:
    root, environment, log = fenced
    (root / "scripts" / "bootstrap").write_text('#!/bin/sh\n[ "$1" = --packages ]\n')
    programs = root / "build" / "cpu" / "bin"
    programs.mkdir(parents=True)
    (programs / "tandem").write_text(f'#!/bin/sh\necho tandem "$@" >>{log}\n')
    (programs / "tandem").chmod(0o755)
    (root / "programs" / "cmake").write_text("#!/bin/sh\n")
    (root / "programs" / "nvcc").write_text("#!/bin/sh\necho release 12.0, V12.0.76\n")
    done = subprocess.run(
        [root / "scripts" / "bench"], capture_output=True, text=True, env=environment, check=False, timeout=60
    )
    run = log.read_text().splitlines()[-1].split()
    assert run[:3] == ["tandem", "run", "suites/smoke.json"]
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].endswith(f"tandem-report report {run[-1]}")


# Breaks when a card that engine cuda cannot use, or what nvidia-smi says without one, is compiled for:
# that fails in the assembler after minutes.
@pytest.mark.parametrize(
    ("says", "preset", "architecture"),
    [
        ("7.5", "cpu", ""),
        ("8.0", "cuda", "80"),
        ("9.0", "cuda", "90a"),
        ("12.0", "cuda", "120"),
        ("No devices were found", "h200", ""),
        ("NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver.", "h200", ""),
    ],
)
def test_the_preset_fits_the_card(
    says: str, preset: str, architecture: str, fenced: tuple[Path, dict[str, str], Path]
) -> None:
    root, environment, _ = fenced
    (root / "programs" / "nvcc").write_text("#!/bin/sh\necho release 13.0, V13.0.48\n")
    (root / "programs" / "nvidia-smi").write_text(f'#!/bin/sh\necho "{says}"\n')
    (root / "programs" / "nvidia-smi").chmod(0o755)
    done = subprocess.run(
        ["bash", "-c", '. scripts/lib.sh; choose_preset; echo "$preset ${configure_flags[*]}"'],
        capture_output=True,
        text=True,
        env=environment,
        cwd=root,
        check=True,
        timeout=60,
    )
    flags = done.stdout.split()
    assert flags[0] == preset
    asked = [f.removeprefix("-DCMAKE_CUDA_ARCHITECTURES=") for f in flags if "ARCHITECTURES" in f]
    assert asked == ([architecture] if architecture else [])


# Breaks when a slip of the pen is answered with a page of usage, or help is something else than --help.
@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["reprot"], 2, "tandem-report: unknown command 'reprot'; did you mean 'report'?\n"),
        (["x"], 2, "tandem-report: unknown command 'x'; one of report compare gate trend trace self-test\n"),
        (
            ["compare", "a", "b", "--formatt", "x"],
            2,
            "unknown argument '--formatt'; did you mean '--format'? (see",
        ),
        (["compare"], 2, "required: A, B (see tandem-report compare --help)\n"),
        (["help", "gate"], 0, ""),
    ],
)
def test_reports_say_what_was_meant(
    words: list[str], code: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(words)
    assert ended.value.code == code
    captured = capsys.readouterr()
    assert said in captured.err
    assert len(captured.err.splitlines()) == (1 if code else 0)
    assert bool(captured.out) == (code == 0)
