"""What makes a measured time worth nothing, and what must be said beside it."""

from __future__ import annotations

from tandem_reports.reading.records import Record
from tandem_reports.stats.cases import CaseResult
from tandem_reports.stats.small_samples import median


def fault(record: Record) -> str:
    """Why the time of a record with status ok does not count; empty where it does."""
    check = record.check
    if check is not None:
        if check.digest is not None and check.digest_after is not None and check.digest != check.digest_after:
            return "its output changed while it was timed"
        if check.error is not None and check.tolerance is not None and not check.error <= check.tolerance:
            return f"its error {check.error:.3g} is over its tolerance {check.tolerance:.3g}"
    return "a profiler was mapped" if record.profiler_mapped else ""


def first_fault(result: CaseResult) -> str:
    """The first fault of a side's measured records."""
    return next(filter(None, map(fault, result.ok)), "")


def _cycles(a: CaseResult, b: CaseResult) -> str:
    """B against A in SM cycles, pair by pair; empty where no pair has them."""
    left, right = (
        {record.worker: record.metrics.sm_cycles for record in side.ok if record.metrics.sm_cycles}
        for side in (a, b)
    )
    ratios = [right[worker] / left[worker] for worker in left.keys() & right.keys()]
    return f" ({100 * (median(ratios) - 1):+.2f} % in SM cycles)" if ratios else ""


def remarks(a: CaseResult, b: CaseResult) -> str:
    """Samples that were throttled, never settled or stopped at their cap, by side; empty without any.

    Time is judged. Under a power limit it moves with the clock, so that cycles stand beside it.
    """
    found = []
    for words, seen in (
        ("throttled", lambda record: record.throttled),
        ("not settled", lambda record: record.unsettled),
        ("stopped at cap", lambda record: record.capped),
    ):
        sides = [name for name, side in (("A", a), ("B", b)) if any(map(seen, side.ok))]
        found += [f"{words} in {' and '.join(sides)}"] if sides else []
    if found and any(record.throttled for side in (a, b) for record in side.ok):
        found[0] += _cycles(a, b)
    return "; ".join(found)
