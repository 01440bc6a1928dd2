"""Formats side by side: what each precision and sparsity of a case gains over dense bf16, and what it loses.

The denominator is the dense bf16 case that differs in the format alone, never that of another run or shape.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from tandem_reports.gate.comparison import condition_differences
from tandem_reports.reading.records import MODEL_SUITES, SUITES, Case
from tandem_reports.stats.cases import CaseResult
from tandem_reports.stats.small_samples import MIN_WORKERS, Interval, ratio_interval

BF16 = {"precision": "bf16", "kv": "same", "sparsity": "dense", "calibration": "none", "head": "same"}
"""The format that others are measured against, axis by axis."""
GROUPED = (*MODEL_SUITES, "kernels")
"""The suites whose cases compute in a format."""
ORDER = ("bf16", "fp32", "tf32", "fp16", "fp8", "int8", "w8a16", "w4a16")


@dataclass(frozen=True)
class Format:
    """One format of a case. `speedup` is bf16's median over its own; None with the reason in `note`."""

    result: CaseResult
    label: str
    is_baseline: bool
    speedup: float | None = None
    interval: Interval | None = None
    note: str = ""

    @property
    def loses(self) -> bool:
        """Whether it is slower than bf16."""
        return self.speedup is not None and self.speedup < 1

    @property
    def error(self) -> float | None:
        """Relative error against dense fp32; None where the record states none."""
        accuracy = self.result.accuracy
        return None if accuracy is None else accuracy.relative_error


@dataclass(frozen=True)
class FormatGroup:
    """The formats of one case: they agree in run, suite and every other axis; bf16 is first."""

    formats: tuple[Format, ...]

    @property
    def case(self) -> Case:
        """A case whose axes, but for the format, are all of the group's."""
        return self.formats[0].result.case

    @property
    def run_label(self) -> str:
        """The run that all of it was measured in."""
        return self.formats[0].result.run.label

    @property
    def baseline(self) -> CaseResult | None:
        """The bf16 case; None where the run has not measured it."""
        first = self.formats[0]
        return first.result if first.is_baseline and first.result.ok else None


def format_label(case: Case) -> str:
    """A format in a word or two: "fp8", "2:4" (in bf16), "fp8 2:4", "bf16 kv:int8", "w4a16 awq"."""
    axes = {axis: case.text(axis) for axis in BF16}
    pruned = axes["sparsity"] != BF16["sparsity"]
    words = [axes["precision"]] if not pruned or axes["precision"] != BF16["precision"] else []
    words += [axes["sparsity"]] if pruned else []
    words += [f"kv:{axes['kv']}"] if axes["kv"] != BF16["kv"] else []
    words += [axes["calibration"]] if axes["calibration"] != BF16["calibration"] else []
    words += [f"head:{axes['head']}"] if axes["head"] != BF16["head"] else []
    return " ".join(words)


def rest_of(case: Case, *more: str) -> tuple[tuple[str, str | int], ...]:
    """The axes that are no part of a format, without those of `more`."""
    return tuple(sorted((name, v) for name, v in case.axes.items() if name not in (*BF16, *more)))


def is_baseline(case: Case) -> bool:
    """Whether the case is in plain dense bf16."""
    return all(case.text(axis) == value for axis, value in BF16.items())


def _format(result: CaseResult, baseline: CaseResult | None) -> Format:
    label = format_label(result.case)
    base = is_baseline(result.case)
    if not result.ok:
        return Format(result, label, base, note=result.failed[0].status)
    if base:
        return Format(result, label, base)
    if baseline is None or not baseline.ok:
        return Format(result, label, base, note="no time in bf16 in this run")
    different = condition_differences(baseline, result)
    if any(record.contended for record in (*baseline.ok, *result.ok)):
        different.append("contended")
    if different:
        return Format(result, label, base, note="; ".join(different))
    speedup = (baseline.median_us or 0.0) / (result.median_us or 1.0)
    enough = min(len(baseline.ok), len(result.ok)) >= MIN_WORKERS
    interval = ratio_interval(result.medians, baseline.medians) if enough else None
    return Format(result, label, base, speedup, interval)


def _place(result: CaseResult) -> tuple[object, ...]:
    precision = result.case.text("precision")
    known = ORDER.index(precision) if precision in ORDER else len(ORDER)
    return (not is_baseline(result.case), known, format_label(result.case), result.case.id)


def _groups(results: Iterable[CaseResult]) -> Iterator[list[CaseResult]]:
    found: dict[tuple[object, ...], list[CaseResult]] = {}
    for result in results:
        if result.case.suite in GROUPED:
            key = (result.run.label, result.case.suite, rest_of(result.case))
            found.setdefault(key, []).append(result)
    yield from found.values()


def _order(case: Case) -> tuple[object, ...]:
    """As names read, but with the batches of one shape together."""
    return (
        SUITES.index(case.suite),
        case.text("op"),
        case.text("model"),
        *(case.integer(a) for a in ("src", "tgt", "batch")),
        case.name,
    )


def format_groups(results: Sequence[CaseResult]) -> list[FormatGroup]:
    """The groups in which two formats or more were measured, in natural order."""
    groups = []
    for members in _groups(results):
        if len({format_label(result.case) for result in members if result.ok}) > 1:
            members.sort(key=_place)
            baseline = next((result for result in members if is_baseline(result.case)), None)
            groups.append(FormatGroup(tuple(_format(result, baseline) for result in members)))
    groups.sort(key=lambda group: (group.run_label, *_order(group.case)))
    return groups


def frontier(formats: Iterable[Format]) -> list[Format]:
    """The formats that no other beats in both speed and accuracy, by growing error.

    One that is slower than bf16 is on no frontier, nor one whose accuracy or speed-up nobody states.
    """
    known = [f for f in formats if f.error is not None and f.speedup is not None and f.speedup >= 1]
    found: list[Format] = []
    for candidate in sorted(known, key=lambda f: (f.error or 0.0, -(f.speedup or 0.0))):
        if not found or (candidate.speedup or 0.0) > (found[-1].speedup or 0.0):
            found.append(candidate)
    return found
