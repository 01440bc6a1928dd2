#!/usr/bin/env python3
"""Host code under clang: every file of a build is parsed; a warning is an error. Nothing is generated.

It reads the nlohmann-json of reports/constraints.txt, Ubuntu 24.04's 3.11.3; Debian 12 builds with 3.11.2.
With it `text == json` has no meaning from clang 16 and g++ 13 on (an operator== is not turned round where
there is an operator!= like it: P2468R2), but `json == text` and `text == json.get<std::string>()` have.

usage: scripts/check_clang.py BUILD [FILE...]

BUILD is a configured folder, such as build/cpu; with FILEs these alone are checked.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

COMPILERS = (
    *(f"clang++-{version}" for version in range(25, 15, -1)),
    "clang++",
    "clang++-14",
)
ROOT = Path(__file__).resolve().parents[1]
# What the code calls of OpenMP: clang has a header of its own only beside libomp, and does not take g++'s.
OPENMP = 'extern "C" int omp_get_max_threads(void), omp_get_thread_num(void);\n'
FLAGS = ("-fsyntax-only", "-Wall", "-Wextra", "-Werror")


def command_of(entry: dict[str, str], compiler: str) -> list[str]:
    """The build's own command for a file, by this compiler and without its output."""
    words = shlex.split(entry["command"])
    first = next(
        i for i, word in enumerate(words) if word.startswith("-")
    )  # after the launcher and the compiler
    rest = words[first:]
    at = rest.index("-o")
    return [compiler, *rest[:at], *rest[at + 2 :], *FLAGS]


def main(build: str, *files: str) -> int:
    """Exit code 1 where clang finds fault."""
    compiler = next(
        (found for name in COMPILERS if (found := shutil.which(name))), None
    )
    if compiler is None:
        print("check_clang: no clang++ here")
        return 1
    newer = next(
        ROOT.glob(".venv/lib/python3*/site-packages/nlohmann_json/include"), None
    )
    library = ("-isystem", str(newer)) if newer else ()
    wanted = {str(Path(file).resolve()) for file in files}
    entries = [
        entry
        for entry in json.loads((Path(build) / "compile_commands.json").read_text())
        if entry["file"].endswith(".cc") and (not wanted or entry["file"] in wanted)
    ]

    scratch = tempfile.TemporaryDirectory()
    (Path(scratch.name) / "omp.h").write_text(OPENMP)
    added = (*library, "-idirafter", scratch.name)

    def check(entry: dict[str, str]) -> str:
        done = subprocess.run(
            [*command_of(entry, compiler), *added],
            cwd=entry["directory"],
            capture_output=True,
            text=True,
            check=False,
        )
        return done.stderr if done.returncode else ""

    faults = 0
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for fault in filter(None, pool.map(check, entries)):
            faults += 1
            print(fault, end="", flush=True)
    print(
        f"check_clang: {len(entries)} files with {Path(compiler).name}, {faults} with faults; "
        f"nlohmann-json of {'reports/constraints.txt' if newer else 'this system'}"
    )
    return 1 if faults or not entries else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]) if len(sys.argv) > 1 else __doc__)
