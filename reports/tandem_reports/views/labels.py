"""Short names for cases: what all of them share is said once, what differs names each."""

from __future__ import annotations

from collections.abc import Sequence

from tandem_reports.reading.records import Case

AXIS_ORDER = (
    "op", "model", "batch", "src", "tgt", "precision", "sparsity", "tp", "engine",
    "weights", "lengths", "kv", "calibration", "head", "dp", "allreduce", "decode", "stop", "kernel",
    "memory",
)  # fmt: skip
"""The order of a case's name: first what it always prints, then the rest."""

DEFAULTS: dict[str, str | int] = {
    "model": "transformer-base", "weights": "seed:0", "batch": 1, "src": 128, "tgt": 128, "lengths": "full",
    "precision": "bf16", "kv": "same", "sparsity": "dense", "calibration": "none", "head": "same",
    "tp": 1, "dp": 1, "allreduce": "auto", "decode": "greedy",
    "stop": "fixed", "kernel": "auto", "memory": "level1", "engine": "cuda", "op": "",
}  # fmt: skip
"""Defaults are constants of the case id and never change."""

ALWAYS = ("op", "model", "batch", "src", "tgt", "precision", "sparsity", "tp", "engine")
"""Axes that a name prints even at their default."""

_PREFIXED = {"batch": "b", "src": "s", "tgt": "t", "tp": "tp", "dp": "dp"}
_BARE = ("op", "model", "precision", "sparsity", "engine")


def axis_names(cases: Sequence[Case]) -> list[str]:
    """All axes of some cases, in the order of a name; axes of a newer schema come last."""
    extra = sorted({name for case in cases for name in case.axes if name not in AXIS_ORDER})
    return [*AXIS_ORDER, *extra]


def split_axes(cases: Sequence[Case]) -> tuple[list[str], list[str]]:
    """The axes in which the cases differ, and those in which they agree."""
    varying: list[str] = []
    common: list[str] = []
    for name in axis_names(cases):
        values = {case.axes.get(name) for case in cases}
        (varying if len(values) > 1 else common).append(name)
    return varying, common


def axis_text(axis: str, value: str | int | None) -> str:
    """One axis as a short name shows it: "b8", "bf16", "kv:fp8"."""
    if value is None or value == "":
        return ""
    if axis in _PREFIXED:
        return f"{_PREFIXED[axis]}{value}"
    return str(value) if axis in _BARE else f"{axis}:{value}"


def short_name(case: Case, axes: Sequence[str]) -> str:
    """The case by the given axes alone: "transformer-big b8 s128 bf16".

    As in full names, seldom changed axes are left out at their default; an encoder has no generated length.
    """
    parts = []
    for axis in axes:
        value = case.axes.get(axis)
        silent = axis not in ALWAYS and value == DEFAULTS.get(axis)
        if not silent and not (axis == "tgt" and case.suite == "encoder"):
            parts.append(axis_text(axis, value))
    return " ".join(part for part in parts if part) or case.suite


def common_text(cases: Sequence[Case], axes: Sequence[str]) -> str:
    """What the cases share, leaving out what is at its default and seldom changed: "precision bf16, tp 1"."""
    if not cases:
        return ""
    parts = []
    for axis in axes:
        value = cases[0].axes.get(axis)
        if value not in (None, "") and (axis in ALWAYS or value != DEFAULTS.get(axis)):
            parts.append(f"{axis} {value}")
    return ", ".join(parts)
