"""Strict reading of JSON objects: every complaint names the place, the field and what is allowed."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn, TypeVar

from tandem_reports.errors import ReportError

SUPPORTED_MAJOR = 1
"""The major schema version of records and environments that this package reads."""

SHORTEST_US, LONGEST_US = 1e-6, 1e15
"""A picosecond and thirty years: no time that is measured lies outside."""
LARGEST_INTEGER = 2**53

T = TypeVar("T")


def parse_json(text: str, where: str) -> object:
    """Parses JSON proper: no NaN, no Infinity. Raises ReportError naming `where`."""

    def refuse(constant: str) -> NoReturn:
        raise ReportError(f"{where}: {constant} is not a number that a record may hold")

    try:
        value: object = json.loads(text, parse_constant=refuse)
    except json.JSONDecodeError as error:
        raise ReportError(f"{where}: not JSON: {error.msg} at character {error.pos + 1}") from None
    except (ValueError, RecursionError) as error:
        raise ReportError(f"{where}: not JSON that can be read: {error}") from None
    return value


def read_json(path: Path) -> object:
    """Parses a whole file. Raises ReportError naming it."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ReportError(f"{path}: cannot read: {error.strerror}") from None
    return parse_line(data, str(path))


def parse_line(data: bytes, where: str) -> object:
    """Parses JSON as it stands in a file: a line, or all of it. Raises ReportError naming `where`."""
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ReportError(f"{where}: not UTF-8 at byte {error.start + 1}") from None
    return parse_json(text, where)


def whole_lines(path: Path) -> tuple[list[tuple[str, bytes]], list[str]]:
    """Each line of a file with its place, and warnings. Raises OSError.

    A last line without its newline is what a kill leaves behind: it is left out, with a warning.
    """
    *lines, rest = path.read_bytes().split(b"\n")
    placed = [(f"{path} line {number}", line) for number, line in enumerate(lines, start=1)]
    warnings = [f"{path} line {len(lines) + 1}: ends without a newline and is ignored"] if rest else []
    return placed, warnings


def check_schema(version: str, where: str) -> None:
    """Accepts any minor version of the supported major; raises ReportError for everything else."""
    match = re.fullmatch(r"(\d{1,6})\.(\d{1,6})\.(\d{1,6})", version)
    if match is None:
        raise ReportError(f"{where}: schema: must be a version such as 1.0.0, not {shown(version)}")
    if int(match[1]) != SUPPORTED_MAJOR:
        raise ReportError(
            f"{where}: schema {version} is not supported: this program reads version {SUPPORTED_MAJOR}.x.y"
        )


def shown(value: object) -> str:
    """A value as an error message quotes it: JSON, cut short."""
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."


class Fields:
    """One JSON object, read field by field.

    The readers without `optional_` demand the field; those with it give None for one that is null or missing.
    Unknown fields are left alone: a newer minor version may have added them.
    """

    def __init__(self, value: object, where: str) -> None:
        if not isinstance(value, dict):
            raise ReportError(f"{where}: must be a JSON object, not {shown(value)}")
        self.values: dict[str, object] = value
        self.where = where

    def fail(self, name: str, message: str) -> NoReturn:
        """Raises ReportError about one field."""
        raise ReportError(f"{self.where}: {name}: {message}")

    def refuse_unknown(self, known: Sequence[str]) -> None:
        """Raises ReportError naming the first field that is not in `known`."""
        for name in self.values:
            if name not in known:
                self.fail(name, f"is not a known key; known are {', '.join(known)}")

    def _optional(self, name: str, read: Callable[[str], T]) -> T | None:
        return None if self.values.get(name) is None else read(name)

    def _required(self, name: str) -> object:
        if name not in self.values:
            self.fail(name, "is missing")
        return self.values[name]

    def text(self, name: str) -> str:
        """A string."""
        value = self._required(name)
        if not isinstance(value, str):
            self.fail(name, f"must be a string, not {shown(value)}")
        if any("\ud800" <= letter <= "\udfff" for letter in value):
            self.fail(name, f"must be text that has a UTF-8, not {shown(value)}")
        return value

    def optional_text(self, name: str) -> str | None:
        """A string, or None."""
        return self._optional(name, self.text)

    def choice(self, name: str, allowed: Sequence[str]) -> str:
        """One of a few strings."""
        value = self.text(name)
        if value not in allowed:
            self.fail(name, f"must be one of {', '.join(allowed)}, not {shown(value)}")
        return value

    def optional_choice(self, name: str, allowed: Sequence[str]) -> str | None:
        """One of a few strings, or None."""
        return self._optional(name, lambda field: self.choice(field, allowed))

    def flag(self, name: str) -> bool:
        """A boolean."""
        value = self._required(name)
        if not isinstance(value, bool):
            self.fail(name, f"must be true or false, not {shown(value)}")
        return value

    def optional_flag(self, name: str) -> bool | None:
        """A boolean, or None."""
        return self._optional(name, self.flag)

    def number(self, name: str, *, above: float | None = None, minimum: float | None = None) -> float:
        """A finite number, over `above` or at least `minimum` where given."""
        value = self._required(name)
        allowed = "a finite number"
        if above is not None:
            allowed = f"a finite number over {above:g}"
        elif minimum is not None:
            allowed = f"a finite number of at least {minimum:g}"
        if isinstance(value, bool) or not isinstance(value, int | float):
            self.fail(name, f"must be {allowed}, not {shown(value)}")
        try:
            number = float(value)
        except OverflowError:
            self.fail(name, f"must be {allowed}, not an integer of {len(str(value))} digits")
        if not math.isfinite(number):
            self.fail(name, f"must be {allowed}")
        if (above is not None and number <= above) or (minimum is not None and number < minimum):
            self.fail(name, f"must be {allowed}, not {shown(value)}")
        return number

    def optional_number(
        self, name: str, *, above: float | None = None, minimum: float | None = None
    ) -> float | None:
        """A finite number as in `number`, or None."""
        return self._optional(name, lambda field: self.number(field, above=above, minimum=minimum))

    def time(self, name: str) -> float:
        """A time in microseconds: over 0, and such that ratios of two are numbers."""
        number = self.number(name, above=0)
        if not SHORTEST_US <= number <= LONGEST_US:
            self.fail(name, f"must be {SHORTEST_US:g} to {LONGEST_US:g} microseconds, not {number:g}")
        return number

    def optional_time(self, name: str) -> float | None:
        """A time as in `time`, or None."""
        return self._optional(name, self.time)

    def integer(self, name: str, *, minimum: int | None = None) -> int:
        """A whole number, at least `minimum` where given, that a double holds exactly."""
        value = self._required(name)
        allowed = "a whole number" if minimum is None else f"a whole number of at least {minimum}"
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int):
            self.fail(name, f"must be {allowed}, not {shown(value)}")
        if abs(value) > LARGEST_INTEGER:
            self.fail(name, f"must be {allowed} and at most {LARGEST_INTEGER}")
        if minimum is not None and value < minimum:
            self.fail(name, f"must be {allowed}, not {value}")
        return value

    def optional_integer(self, name: str, *, minimum: int | None = None) -> int | None:
        """A whole number as in `integer`, or None."""
        return self._optional(name, lambda field: self.integer(field, minimum=minimum))

    def child(self, name: str) -> Fields:
        """A nested object."""
        return Fields(self._required(name), f"{self.where}: {name}")

    def optional_child(self, name: str) -> Fields | None:
        """A nested object, or None."""
        return self._optional(name, self.child)

    def items(self, name: str) -> list[object]:
        """A list; missing or null reads as empty."""
        value = self.values.get(name)
        if value is None:
            return []
        if not isinstance(value, list):
            self.fail(name, f"must be a list, not {shown(value)}")
        return value

    def texts(self, name: str) -> tuple[str, ...]:
        """A list of strings; missing or null reads as empty."""
        values = self.items(name)
        for value in values:
            if not isinstance(value, str):
                self.fail(name, f"must be a list of strings; it holds {shown(value)}")
        return tuple(str(value) for value in values)
