"""One version everywhere: the CMake project's is the one that counts."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from conftest import REPOSITORY

import tandem_reports


def found(path: str, pattern: str) -> str:
    match = re.search(pattern, Path(REPOSITORY / path).read_text(), re.MULTILINE)
    assert match, f"{path} has no {pattern}"
    return match[1]


# Without it a report, a package or a citation would name another release than the programs' `--version`.
@pytest.mark.parametrize(
    ("path", "pattern"),
    [
        ("reports/tandem_reports/__init__.py", r'^__version__ = "(.+)"$'),
        ("CHANGELOG.md", r"\A(?:(?!^## ).*\n)*## (\S+)"),
        ("CITATION.cff", r"^version: (.+)$"),
    ],
)
def test_says_the_version_of_the_project(path: str, pattern: str) -> None:
    assert found(path, pattern) == found("CMakeLists.txt", r"^project\(tandem VERSION (\S+) ")


# The wheel's version is read from the package: a second number in pyproject.toml would be forgotten.
def test_the_wheel_takes_the_packages_version() -> None:
    assert found("reports/pyproject.toml", r"^dynamic = (.*)$") == '["version"]'
    assert tandem_reports.__version__ == found("CMakeLists.txt", r"^project\(tandem VERSION (\S+) ")
