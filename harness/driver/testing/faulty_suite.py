#!/usr/bin/env python3
"""A real suite binary whose process fails as planted: puts itself where the driver looks for suite_NAME.

FAULTY_SUITES is the folder of the real binaries. FAULTY_PLAN is a JSON file: case id to fault.
  segv, hang   this process, while it times the case
  oom          the real suite under a limit of its address space, so that loading the weights fails
  wrong        the real suite is told another digest than the one of the output that was checked
"""

import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

# Room for a suite with the CUDA libraries (about 650 MB of address space before it starts), and less than the 837 MB that
# transformer-big's encoder asks for in fp32.
ADDRESS_SPACE = 750 << 20


def value(arguments: list[str], flag: str) -> str:
    return arguments[arguments.index(flag) + 1]


def limit() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE, ADDRESS_SPACE))


def other_digest(run: Path, folder: Path) -> None:
    """A run folder whose validations hold another digest."""
    lines = []
    for line in (run / "validation.jsonl").read_text().splitlines():
        validation = json.loads(line)
        if validation["check"] is not None:
            validation["check"]["digest"] = "0" * 64
        lines.append(json.dumps(validation))
    (folder / "validation.jsonl").write_text("\n".join(lines) + "\n")


def main() -> int:
    arguments = sys.argv[1:]
    suite = Path(os.environ["FAULTY_SUITES"]) / Path(sys.argv[0]).name
    if "--cases" not in arguments:
        os.execv(suite, [str(suite), *arguments])
    plan = json.loads(Path(os.environ["FAULTY_PLAN"]).read_text())
    timed = "--worker" in arguments
    run = Path(value(arguments, "--out"))
    code = 0
    with tempfile.TemporaryDirectory() as scratch:
        for case in json.loads(Path(value(arguments, "--cases")).read_text()):
            fault = plan.get(case["id"])
            if timed and fault == "segv":
                os.kill(os.getpid(), signal.SIGSEGV)
            if timed and fault == "hang":
                time.sleep(3600)
            one = Path(scratch) / "case.json"
            one.write_text(json.dumps([case]))
            changed = list(arguments)
            changed[changed.index("--cases") + 1] = str(one)
            if timed and fault == "wrong":
                other_digest(run, Path(scratch))
                changed[changed.index("--out") + 1] = scratch
            done = subprocess.run(
                [str(suite), *changed], check=False, preexec_fn=limit if fault == "oom" else None
            )
            code = code or done.returncode
    return code


if __name__ == "__main__":
    sys.exit(main())
