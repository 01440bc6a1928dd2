"""The numbers of a report for other programs: CSV, unrounded, empty where nobody measured."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence

from tandem_reports.gate.precisions import format_groups
from tandem_reports.stats.cases import CaseResult
from tandem_reports.views.labels import AXIS_ORDER

NUMBERS: dict[str, Callable[[CaseResult], float | None]] = {
    "median_us": lambda r: r.median_us,
    "interval_low_us": lambda r: None if r.interval is None else r.interval.low,
    "interval_high_us": lambda r: None if r.interval is None else r.interval.high,
    "min_us": lambda r: min(r.medians),
    "max_us": lambda r: max(r.medians),
    "fastest_sample_us": lambda r: r.fastest_sample_us,
    "floor_us": lambda r: r.floor_us,
    "floor_ratio": lambda r: r.floor_ratio,
    "tokens_per_second": lambda r: r.tokens_per_second,
    "step_us": lambda r: r.step_us,
    "bytes": lambda r: r.bytes,
    "flops": lambda r: r.flops,
    "peak_device_bytes": lambda r: r.peak_bytes,
    "weights_bytes": lambda r: r.weights_bytes,
    "kv_bytes": lambda r: r.kv_bytes,
    "check_error": lambda r: None if r.check is None else r.check.error,
    "check_tolerance": lambda r: None if r.check is None else r.check.tolerance,
    "relative_error": lambda r: None if r.accuracy is None else r.accuracy.relative_error,
    "kl": lambda r: None if r.accuracy is None else r.accuracy.kl,
    "tokens_agree": lambda r: None if r.accuracy is None else r.accuracy.tokens_agree,
    "free_tokens_agree": lambda r: None if r.accuracy is None else r.accuracy.free_tokens_agree,
}
LAST = ("synthetic_weights", "speedup_over_bf16")


def number(value: float | None) -> str:
    """A number in full, or nothing."""
    return "" if value is None else repr(value)


def csv_text(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Rows as CSV."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return text.getvalue()


def case_csv(results: Sequence[CaseResult]) -> str:
    """One row a measured case and run, every axis in a column."""
    rows: list[list[object]] = []
    speedups = {id(f.result): f.speedup for group in format_groups(results) for f in group.formats}
    for result in results:
        if result.ok:
            case = result.case
            row: list[object] = [result.run.label, case.id, case.name, case.suite]
            row += [case.axes[axis] for axis in AXIS_ORDER]
            row += [len(result.ok), *(number(read(result)) for read in NUMBERS.values())]
            synthetic = "" if result.accuracy is None else str(result.accuracy.synthetic_weights).lower()
            row += [synthetic, number(speedups.get(id(result)))]
            rows.append(row)
    header = ["run", "id", "name", "suite", *AXIS_ORDER, "workers", *NUMBERS, *LAST]
    return csv_text(header, rows)
