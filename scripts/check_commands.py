#!/usr/bin/env python3
"""Do the pages' commands work? Every flag must be one that the program has, and every suite must have cases by its axes;
what a CPU can do in seconds is run.

usage: scripts/check_commands.py BIN    BIN: the folder of a build's programs, such as build/cpu/bin

A command is a line of a fenced block that starts with "$ ", or text in backticks that names a program of Tandem and says
more than its name. Prints each command with what became of it; exit code 1 if one of them is wrong.
"""

import os
import re
import shlex
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
OURS = re.compile(
    r"^(?:build/(?:\w+/)?bin/|\.venv/bin/)?(?P<name>tandem|tandem-report|suite_\w+|skinny_search|tiled_search)$"
)
FLAG = re.compile(r"^--[a-z][\w-]*")
# Run in this order in one folder: the command as the page has it, and what is added so that it takes seconds.
RUN = [
    (r"suite_decoder --model tiny ", ""),
    (r"tandem list suites/smoke\.json", ""),
    (
        r"tandem run suites/smoke\.json --out runs/mine",
        "--engine reference --filter model:tiny/batch:1/ --workers 2",
    ),
    (r"tandem-report report runs/mine", ""),
    (r"tandem-report compare runs/yesterday runs/mine", ""),
    (
        r"tandem run suites/smoke\.json --engine example ",
        "--filter ^encoder/model:tiny/batch:1/ --workers 1",
    ),
    (r"tandem doctor", ""),
]


def commands(text: str) -> list[str]:
    """The commands of a page, continued lines joined, comments after '  #' taken off."""
    found: list[str] = []
    fenced = False
    lines = iter(text.splitlines())
    for line in lines:
        if line.startswith("```"):
            fenced = not fenced
        elif fenced and line.startswith("$ "):
            whole = line[2:]
            while whole.endswith("\\"):
                whole = whole[:-1] + next(lines, "").strip()
            found.append(re.split(r"\s{2,}#", whole)[0])
        elif not fenced:
            found += [
                span
                for span in re.findall(r"`([^`]+)`", line)
                if " " in span and program(span)
            ]
    return found


def program(command: str) -> str | None:
    """The program of Tandem that a command starts, or None; variables before it and mpirun's words are passed over."""
    words = shlex.split(command)
    names = [match["name"] for word in words if (match := OURS.match(word))]
    return names[0] if names else None


def path_of(name: str, folder: Path) -> Path:
    """Where a program is: the reports' in the virtual environment, all others in the build."""
    return ROOT / ".venv" / "bin" / name if name == "tandem-report" else folder / name


@cache
def help_of(path: Path, subcommand: str) -> str:
    """What `--help` prints, all of it."""
    words = [str(path), *([subcommand] if subcommand else []), "--help"]
    done = subprocess.run(
        words, capture_output=True, text=True, timeout=60, check=False
    )
    if done.returncode != 0:
        raise ValueError(f"{shlex.join(words)} exits {done.returncode}")
    return done.stdout


def fault(command: str, folder: Path) -> str | None:
    """Why a command cannot work, or None: its subcommand, its flags, and the sweep files it names."""
    words = shlex.split(command)
    name = program(command)
    assert name is not None
    start = next(i for i, word in enumerate(words) if OURS.match(word))
    words = words[start + 1 :]
    has_commands = name in ("tandem", "tandem-report")
    subcommand = (
        words.pop(0) if has_commands and words and not words[0].startswith("-") else ""
    )
    path = path_of(name, folder)
    if not path.exists():
        # A program for cards, which this build leaves out, has its source all the same.
        sources = [
            *ROOT.glob(f"kernels/bench/{name}.c[cu]"),
            *ROOT.glob(f"suites/{name}.cc"),
        ]
        return None if sources else f"no program {name}"
    try:
        text = help_of(path, subcommand)
    except ValueError as error:
        return str(error)
    for word in words:
        flag = FLAG.match(word)
        if (
            flag
            and not flag[0].startswith("--benchmark_")
            and not re.search(re.escape(flag[0]) + r"(?![\w-])", text)
        ):
            return f"{name} {subcommand} has no {flag[0]}"
        if (
            re.match(r"^(suites|scripts|reports)/.*\.\w+$", word)
            and not (ROOT / word).exists()
        ):
            return f"no file {word}"
    return cases_fault(path, words) if name.startswith("suite_") else None


def cases_fault(path: Path, words: list[str]) -> str | None:
    """Why a suite has no cases by these axes, or None. Nothing is measured; the engine is the one that is here."""
    if any(word in ("--help", "--measure-ceilings") for word in words):
        return None
    listed = [str(path), "--benchmark_list_tests"]
    for flag, value in zip(words[::2], words[1::2], strict=True):
        if flag != "--engine":
            listed += [flag, value]
    done = subprocess.run(
        listed, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    return None if done.returncode == 0 and done.stdout else done.stderr.strip()


def run(command: str, more: str, folder: Path, where: Path) -> str | None:
    """Runs a command of a page in `where`; why it failed, or None."""
    words = [
        str(path_of(match["name"], folder)) if (match := OURS.match(word)) else word
        for word in shlex.split(command)
    ]
    # A flag of ours replaces the page's.
    extra = shlex.split(more)
    for flag in [word for word in extra if word.startswith("--")]:
        if flag in words:
            at = words.index(flag)
            del words[at : at + 2]
    done = subprocess.run(
        words + extra,
        cwd=where,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
        env=os.environ | {"TANDEM_REPORT": str(path_of("tandem-report", folder))},
    )
    if done.returncode != 0:
        return f"exit {done.returncode}: {(done.stderr or done.stdout)[-600:]}"
    return None


def main(folder: Path) -> int:
    """Checks the tracked pages' commands and runs those of RUN."""
    pages = subprocess.run(
        ["git", "ls-files", "*.md"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    ).stdout.split()
    found = [
        (page, command)
        for page in pages
        for command in commands((ROOT / page).read_text())
        if program(command)
    ]
    wrong = 0
    for page, command in found:
        if reason := fault(command, folder):
            wrong += 1
            print(f"{page}: {command}\n  {reason}")
    ran = 0
    with tempfile.TemporaryDirectory() as scratch:
        where = Path(scratch)
        for name in ("suites", "scripts"):
            (where / name).symlink_to(ROOT / name)
        (where / "runs").mkdir()
        (where / "runs" / "yesterday").symlink_to(where / "runs" / "mine")
        for pattern, more in RUN:
            command = next((c for _, c in found if re.search(pattern, c)), None)
            reason = run(command, more, folder, where) if command else "no page has it"
            ran += 1
            if reason:
                wrong += 1
                print(f"{command or pattern}\n  {reason}")
    print(
        f"commands: {len(found)} on {len(pages)} pages, {ran} of them run, {wrong} wrong"
    )
    return 1 if wrong else 0


if __name__ == "__main__":
    if len(sys.argv) != 2 or not Path(sys.argv[1], "tandem").exists():
        sys.exit(__doc__)
    sys.exit(main(Path(sys.argv[1]).resolve()))
