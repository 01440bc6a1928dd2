"""What a gate lets pass: a JSON file, by suite where suites differ."""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path

from tandem_reports.gate.accuracy import GROWTH
from tandem_reports.reading.fields import Fields, read_json
from tandem_reports.reading.records import SUITES


@dataclass(frozen=True)
class SuitePolicy:
    """Rules for the cases of one suite. Effects are fractions, allowances are patterns of case names.

    `accuracy_growth` is how much larger than A's an error of a lossy case may be, as a fraction of A's.
    """

    minimum_effect: float = 0.005
    equivalence: float = 0.01
    accuracy_growth: float = GROWTH
    allow_missing: tuple[str, ...] = ()
    allow_failed: tuple[str, ...] = ()


@dataclass(frozen=True)
class Policy:
    """A gate's rules. `alpha` bounds the chance of any false slower in the whole gate, and of any faster."""

    alpha: float = 0.01
    cards: str = "same"
    drivers: str = "same"
    clocks: str = "same"
    confirm: bool = False
    default: SuitePolicy = SuitePolicy()
    suites: Mapping[str, SuitePolicy] = field(default_factory=dict)

    def of(self, suite: str) -> SuitePolicy:
        """The rules of one suite."""
        return self.suites.get(suite, self.default)


CHOICES = {"cards": ("same", "same-model", "any"), "drivers": ("same", "any"), "clocks": ("same", "any")}
KEYS = ("alpha", *CHOICES, "confirm", "default", "suites")
SUITE_KEYS = tuple(item.name for item in fields(SuitePolicy))


def allowed(patterns: tuple[str, ...], name: str) -> bool:
    """Whether a case's name matches one of the patterns (shell wildcards)."""
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def _fraction(fields_: Fields, name: str, value: float) -> float:
    if name not in fields_.values:
        return value
    number = fields_.number(name, above=0)
    if number >= 1:
        fields_.fail(name, f"must be over 0 and under 1, not {number:g}")
    return number


def _suite(fields_: Fields, base: SuitePolicy) -> SuitePolicy:
    fields_.refuse_unknown(SUITE_KEYS)
    given = fields_.values
    return SuitePolicy(
        minimum_effect=_fraction(fields_, "minimum_effect", base.minimum_effect),
        equivalence=_fraction(fields_, "equivalence", base.equivalence),
        accuracy_growth=_fraction(fields_, "accuracy_growth", base.accuracy_growth),
        allow_missing=fields_.texts("allow_missing") if "allow_missing" in given else base.allow_missing,
        allow_failed=fields_.texts("allow_failed") if "allow_failed" in given else base.allow_failed,
    )


def parse_policy(value: object, where: str) -> Policy:
    """Reads a policy; an unknown key is refused, so that a misspelt rule is never silently without effect."""
    fields_ = Fields(value, where)
    fields_.refuse_unknown(KEYS)
    base = Policy()
    default = _suite(fields_.optional_child("default") or Fields({}, where), base.default)
    suites = fields_.optional_child("suites") or Fields({}, where)
    suites.refuse_unknown(SUITES)
    return Policy(
        alpha=_fraction(fields_, "alpha", base.alpha),
        confirm=bool(fields_.optional_flag("confirm")),
        default=default,
        suites={name: _suite(suites.child(name), default) for name in suites.values},
        **{name: fields_.optional_choice(name, allowed_) or "same" for name, allowed_ in CHOICES.items()},
    )


KEPT = "gates.json"
"""The rules in a duet's folder, and in a run's: those of the build that was run."""
USUAL = Path("suites") / KEPT
"""Where a policy is looked for, from the working folder, when none is named and none is kept."""


def read_policy(path: Path | None) -> Policy:
    """Reads a policy file; without one the defaults hold. Raises ReportError naming file and key."""
    if path is None:
        return Policy()
    return parse_policy(read_json(path), str(path))


def find_policy(given: Path | None, base: Path | None = None, said: str | None = None) -> tuple[Policy, str]:
    """The rules and where they come from: those that are named, those that `base` keeps, the usual ones.

    `base` is a duet, or run A; `said` is where a duet says that its rules came from.
    """
    if given is not None:
        return read_policy(given), given.as_posix()
    if base is not None and (base / KEPT).is_file():
        return read_policy(base / KEPT), said or (base / KEPT).as_posix()
    if USUAL.is_file():
        return read_policy(USUAL), USUAL.as_posix()
    return read_policy(None), "built-in rules"
