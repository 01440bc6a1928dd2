"""When a peer's samples are enough: the stopping rule of Tandem's own workers (harness/run/sampling/measure.h), in Python."""

from __future__ import annotations

import itertools
import math
import os
import statistics
import time
from typing import Any


def sample_seconds(cpu: bool) -> tuple[float, float]:
    """Least and most seconds of samples, from TANDEM_SAMPLE_SECONDS where it is set."""
    text = os.environ.get("TANDEM_SAMPLE_SECONDS")
    if text:
        least, most = text.split(":")
        return float(least), float(most)
    return (0.05, 1.0) if cpu else (0.2, 2.0)


BLOCKS, BLOCK_SAMPLES = 10, 5
"""Of an interval within one process."""


def median_interval(
    samples: list[float], block_samples: int = BLOCK_SAMPLES
) -> tuple[float, float] | None:
    """At least 95 % of the median, as blocked_median_interval (harness/base/stats.h) has it.

    From the medians of ten blocks of neighbouring samples, because neighbours are not independent: the second and
    the ninth of ten, widened to hold the median of all. None with blocks of fewer samples.
    """
    n = len(samples)
    if n < BLOCKS * block_samples:
        return None
    ends = [i * n // BLOCKS for i in range(BLOCKS + 1)]
    medians = sorted(
        statistics.median(samples[a:b]) for a, b in itertools.pairwise(ends)
    )
    middle = statistics.median(samples)
    return min(medians[1], middle), max(medians[-2], middle)


def half_width(samples: list[float]) -> float:
    """Of the 95 % interval of the median, over the median: to stop by, so that ten samples may do."""
    interval = median_interval(samples, 1)
    if interval is None:
        return math.inf
    return (interval[1] - interval[0]) / 2 / statistics.median(samples)


def take_samples(
    workload: Any, cpu: bool
) -> tuple[list[dict[str, float]], dict[str, Any]]:
    """Repetitions after warming up, by the stopping rule of Tandem's own workers, and what the record says of both."""
    least, most = sample_seconds(cpu)
    target = 0.02 if cpu else 0.0025
    start, warm = time.perf_counter(), 0
    # The first calls compile and record; then a second for the clock.
    while warm < (1 if cpu else 4) or time.perf_counter() - start < (
        0.02 if cpu else 1.0
    ):
        workload.repeat()
        warm += 1
    warm_s = time.perf_counter() - start
    samples: list[dict[str, float]] = []
    start, checked = time.perf_counter(), 0
    while True:
        samples.append(workload.repeat())
        elapsed, n = time.perf_counter() - start, len(samples)
        # The interval at every tenth more samples, so that judging costs little beside measuring.
        if n >= 10 and elapsed >= least and n >= checked * 1.1:
            checked = n
            if half_width([s["total_us"] for s in samples]) <= target:
                break
        if n >= 5000 or elapsed >= most:
            break
    reached = half_width([s["total_us"] for s in samples]) <= target
    rule = "half width of the 95 % interval of the median, from blocks"
    return samples, {
        "warmup": {"repetitions": warm, "seconds": warm_s},
        "stop": {"rule": rule, "target": target, "reached": reached},
    }


def median(values: list[float]) -> float | None:
    """Of what was measured; None of nothing."""
    ordered, n = sorted(values), len(values)
    return (ordered[(n - 1) // 2] + ordered[n // 2]) / 2 if n else None
