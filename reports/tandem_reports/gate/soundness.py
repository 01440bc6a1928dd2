"""What makes a measured time worth nothing, and what must be said beside it."""

from __future__ import annotations

from tandem_reports.reading.records import Record
from tandem_reports.stats.cases import CaseResult


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


def remarks(a: CaseResult, b: CaseResult) -> str:
    """Samples that were throttled or never steady, by side; empty where there are none."""
    found = []
    for words, seen in (
        ("throttled", lambda record: bool(record.throttled_samples)),
        ("not steady after warm-up", lambda record: record.warmup_steady is False),
    ):
        sides = [name for name, side in (("A", a), ("B", b)) if any(map(seen, side.ok))]
        found += [f"{words} in {' and '.join(sides)}"] if sides else []
    return "; ".join(found)
