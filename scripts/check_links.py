#!/usr/bin/env python3
"""Do the pages' links and paths lead somewhere? Prints each that does not; exit code 1 if there is one."""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LINK = re.compile(r"\]\(([^)#\s]+)[^)]*\)")
PATH = re.compile(
    r"`((?:harness|kernels|reference|suites|reports|scripts)/[\w./-]*\w/?)`"
)


def faults(page: Path, text: str) -> list[str]:
    """Links of `page` that are relative to it, and paths in backticks from the root, which are not there."""
    links = [link for link in LINK.findall(text) if "://" not in link]
    found = [f"link to {link}" for link in links if not (page.parent / link).exists()]
    paths = [
        path for path in PATH.findall(text) if Path(path).stem.split("_")[-1] != "x"
    ]  # x stands for a name
    return found + [f"`{path}`" for path in paths if not (ROOT / path).exists()]


def main() -> int:
    """Goes through the tracked pages."""
    names = subprocess.run(
        ["git", "ls-files", "*.md"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    ).stdout.split()
    bad = [
        f"{name}: {fault}"
        for name in names
        for fault in faults(ROOT / name, (ROOT / name).read_text())
    ]
    for line in bad:
        print(line)
    print(f"links: {len(names)} pages" + ("" if bad else " lead where they say"))
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
