#!/usr/bin/env python3
"""What reports/pyproject.toml asks of a Python, for scripts/bootstrap. Runs on a bare Python 3.11.

python_env.py check EXTRA...         says what this Python lacks, and exits 1 if it lacks anything
python_env.py requirements EXTRA...  the requirements, one a line, as pip reads them
python_env.py places                 the folders where this Python finds packages
python_env.py link VENV PLACE...     VENV sees the reports of this clone, and the packages of these folders
"""

from __future__ import annotations

import importlib.metadata
import itertools
import re
import site
import sys
import sysconfig
import tomllib
from pathlib import Path

REPORTS = Path(__file__).resolve().parents[1] / "reports"
TOOL = """\
#!/bin/sh
exec "$(dirname "$(readlink -f "$0")")/python" -m tandem_reports "$@"
"""


def requirements(extras: list[str]) -> list[str]:
    """Of the package and of these extras; "dev" has those of "test" too."""
    project = tomllib.loads((REPORTS / "pyproject.toml").read_text())["project"]
    wanted = list(project["dependencies"])
    for extra in ["test", *extras] if "dev" in extras else extras:
        wanted += project["optional-dependencies"][extra]
    return list(dict.fromkeys(wanted))


def numbers(version: str) -> tuple[int, ...]:
    """(2, 4, 6) of "2.4.6" and of "2.4.6rc1+local"."""
    match = re.match(r"\d+(\.\d+)*", version)
    return tuple(int(part) for part in match[0].split(".")) if match else ()


def within(version: str, bounds: str) -> bool:
    """Whether a version keeps to bounds such as ">=1.24,<3"; knows the operators that pyproject.toml uses."""
    for bound in bounds.split(","):
        match = re.fullmatch(r"(>=|<|==)([\d.]+)", bound.strip())
        if not match:
            raise SystemExit(
                f"reports/pyproject.toml: bound '{bound}' is not understood; >=, < and == are"
            )
        pairs = itertools.zip_longest(numbers(version), numbers(match[2]), fillvalue=0)
        order = next((a - b for a, b in pairs if a != b), 0)
        if not {">=": order >= 0, "<": order < 0, "==": order == 0}[match[1]]:
            return False
    return True


def lacking(wanted: list[str]) -> list[str]:
    """What this Python does not have within bounds, in words."""
    lacks = []
    for requirement in wanted:
        name, bounds = re.fullmatch(r"([\w.-]+)(.*)", requirement).groups()
        try:
            version = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            lacks.append(requirement)
            continue
        if not within(version, bounds):
            lacks.append(f"{requirement} (it has {version})")
    return lacks


def places() -> list[str]:
    """Folders of packages: of a virtual environment its own and those that it is given."""
    own = [
        sysconfig.get_path("purelib"),
        sysconfig.get_path("platlib"),
        *site.getsitepackages(),
    ]
    if site.ENABLE_USER_SITE:
        own.append(site.getusersitepackages())
    listed = [
        place
        for place in sys.path
        if place.endswith(("site-packages", "dist-packages"))
    ]
    return [place for place in dict.fromkeys([*own, *listed]) if Path(place).is_dir()]


def link(venv: Path, folders: list[str]) -> None:
    """Writes a .pth file and the program tandem-report."""
    packages = next((venv / "lib").glob("python3*/site-packages"))
    lines = [f"import site; site.addsitedir({folder!r})" for folder in folders]
    (packages / "tandem.pth").write_text("\n".join([str(REPORTS), *lines]) + "\n")
    tool = venv / "bin" / "tandem-report"
    tool.write_text(TOOL)
    tool.chmod(0o755)


def main(command: str, *arguments: str) -> int:
    """The exit code of a command."""
    if command == "check":
        lacks = lacking(requirements(list(arguments)))
        print("\n".join(lacks), end="\n" if lacks else "")
        return 1 if lacks else 0
    if command == "link":
        link(Path(arguments[0]), list(arguments[1:]))
        return 0
    print(
        *{"requirements": requirements(list(arguments)), "places": places()}[command],
        sep="\n",
    )
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
