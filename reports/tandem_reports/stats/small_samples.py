"""Statistics of small samples, exact where the field has an exact answer. No randomness, no approximation.

The unit is a worker's median: samples inside one process refine that median and say nothing about the spread
between processes.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

MIN_WORKERS = 6
"""Fewer workers give no 95 % interval of a median: 1 - 2 / 2^5 is 93.75 %."""


@dataclass(frozen=True)
class Interval:
    """A confidence interval and the coverage it really has."""

    low: float
    high: float
    coverage: float


def median(values: Sequence[float]) -> float:
    """The middle value, or the mean of the two middle ones."""
    if not values:
        raise ValueError("no values")
    ordered = sorted(values)
    half = len(ordered) // 2
    if len(ordered) % 2:
        return ordered[half]
    return (ordered[half - 1] + ordered[half]) / 2


def binomial_at_most(hits: int, trials: int, rate: float) -> float:
    """P(Binomial(trials, rate) <= hits), for a rate from 0 to 1."""
    if rate <= 0.0:
        return 1.0
    if rate >= 1.0:
        return 1.0 if hits >= trials else 0.0
    whole = math.lgamma(trials + 1)
    logs = (
        whole
        - math.lgamma(k + 1)
        - math.lgamma(trials - k + 1)
        + k * math.log(rate)
        + (trials - k) * math.log1p(-rate)
        for k in range(hits + 1)
    )
    return min(1.0, math.fsum(map(math.exp, logs)))


def order_statistic_ranks(n: int, level: float = 0.95) -> tuple[int, float] | None:
    """The rank r for which [x(r), x(n+1-r)] is the narrowest symmetric interval of the median.

    Gives r (from 1) and the exact coverage 1 - 2 P(Binomial(n, 1/2) < r), or None where even the whole range
    covers less than `level`. Holds for any continuous distribution (David and Nagaraja, Order Statistics,
    section 7.1).
    """
    below = 0
    best = None
    for r in range(1, n // 2 + 1):
        below += math.comb(n, r - 1)
        coverage = 1 - 2 * below / 2**n
        if coverage < level:
            break
        best = (r, coverage)
    return best


def median_interval(values: Sequence[float], level: float = 0.95) -> Interval | None:
    """The order-statistic interval of the median, or None where the values are too few."""
    ranks = order_statistic_ranks(len(values), level)
    if ranks is None:
        return None
    r, coverage = ranks
    ordered = sorted(values)
    return Interval(ordered[r - 1], ordered[len(ordered) - r], coverage)


@lru_cache(maxsize=256)
def mann_whitney_counts(m: int, n: int) -> tuple[int, ...]:
    """How many of the C(m+n, m) orderings give each value 0..mn of the Mann-Whitney statistic.

    The counts are the coefficients of the Gaussian binomial, the product over i = 1..m of
    (1 - q^(n+i)) / (1 - q^i) (Mann and Whitney 1947).
    """
    counts = [1] + [0] * (m * n)
    for i in range(1, m + 1):
        for power in range(m * n, n + i - 1, -1):
            counts[power] -= counts[power - n - i]
        for power in range(i, m * n + 1):
            counts[power] += counts[power - i]
    return tuple(counts)


def mann_whitney_greater(a: Sequence[float], b: Sequence[float], factor: float = 1.0) -> float:
    """One-sided exact p of "b is over a times `factor`", for positive values of two independent samples.

    A tie counts against rejecting, so p is never too small.
    """
    statistic = sum(1 for x, y in itertools.product(a, b) if y > x * factor)
    counts = mann_whitney_counts(len(a), len(b))
    return sum(counts[statistic:]) / sum(counts)


def ratio_interval(a: Sequence[float], b: Sequence[float], level: float = 0.95) -> Interval | None:
    """Interval of the ratio b / a of two independent samples of positive values.

    It inverts the Mann-Whitney test: the ends are order statistics of all pairwise ratios, so that it holds
    at any sample size for distributions which differ by a factor. None where even the widest covers under
    `level`.
    """
    counts = mann_whitney_counts(len(a), len(b))
    total = sum(counts)
    ratios = sorted(y / x for x, y in itertools.product(a, b))
    below = 0
    best = None
    for k in range(1, len(ratios) // 2 + 1):
        below += counts[k - 1]
        coverage = 1 - 2 * below / total
        if coverage < level:
            break
        best = Interval(ratios[k - 1], ratios[len(ratios) - k], coverage)
    return best


def benjamini_hochberg(p_values: Sequence[float], rate: float) -> list[bool]:
    """Which hypotheses are rejected when the expected share of false rejections is held at `rate`."""
    order = sorted(range(len(p_values)), key=lambda index: p_values[index])
    rejected = [False] * len(p_values)
    largest = 0
    for rank, index in enumerate(order, start=1):
        if p_values[index] <= rate * rank / len(p_values):
            largest = rank
    for index in order[:largest]:
        rejected[index] = True
    return rejected


def geometric_mean(values: Sequence[float]) -> float:
    """The geometric mean of positive values."""
    return math.exp(math.fsum(math.log(value) for value in values) / len(values))
