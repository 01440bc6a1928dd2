"""Exact statistics of paired log-ratios, for verdicts that may block a merge.

Under no change the two labels of a pair could be swapped, so that each log-ratio is symmetric about 0: that,
and independence of the pairs, is all that the signed-rank test needs (Wilcoxon 1945).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from tandem_reports.stats.small_samples import Interval


def _sums(ranks: Sequence[int]) -> list[int]:
    """How many of the 2^n subsets of some ranks have each sum."""
    counts = [1] + [0] * sum(ranks)
    reach = 0
    for rank in ranks:
        reach += rank
        for total in range(reach, rank - 1, -1):
            counts[total] += counts[total - rank]
    return counts


@lru_cache(maxsize=512)
def signed_rank_counts(n: int) -> tuple[int, ...]:
    """How many of the 2^n sign patterns give each value 0..n(n+1)/2 of the signed-rank statistic."""
    return tuple(_sums(range(1, n + 1)))


@lru_cache(maxsize=512)
def _signed_rank_tail(n: int) -> tuple[float, ...]:
    """The exact chance that the statistic of n values is at least 0, 1, ..., n(n+1)/2."""
    left, tail = 2**n, []
    for count in signed_rank_counts(n):
        tail.append(left / 2**n)
        left -= count
    return tuple(tail)


def signed_rank_greater(values: Sequence[float], shift: float = 0.0) -> float:
    """One-sided exact p of "the centre of the values lies over `shift`".

    Equal distances share their mean rank and the distribution is the one of these ranks; a value at the shift
    itself counts against rejecting. So p is never too small.
    """
    distances = [value - shift for value in values]
    order = sorted(range(len(distances)), key=lambda index: abs(distances[index]))
    doubled = [0] * len(distances)
    start = 0
    while start < len(order):
        end = start
        while end + 1 < len(order) and abs(distances[order[end + 1]]) == abs(distances[order[start]]):
            end += 1
        for place in range(start, end + 1):
            doubled[order[place]] = start + end + 2
        start = end + 1
    statistic = sum(rank for rank, distance in zip(doubled, distances, strict=True) if distance > 0)
    if all(rank % 2 == 0 for rank in doubled) and len(set(doubled)) == len(doubled):
        return _signed_rank_tail(len(doubled))[statistic // 2]
    return float(sum(_sums(doubled)[statistic:]) / 2 ** len(doubled))


@lru_cache(maxsize=4096)
def signed_rank_ends(n: int, level: float) -> tuple[int, float]:
    """Which Walsh average of n values from either end ends their interval, and its coverage; 0 for none."""
    counts = signed_rank_counts(n)
    below = 0
    rank, coverage = 0, 0.0
    for k in range(1, len(counts) // 2 + 1):
        below += counts[k - 1]
        covered = 1 - 2 * below / 2**n
        if covered < level:
            break
        rank, coverage = k, covered
    return rank, coverage


@lru_cache(maxsize=512)
def _upper_triangle(n: int) -> tuple[np.ndarray, np.ndarray]:
    first, second = np.triu_indices(n)
    return first, second


def signed_rank_interval(values: Sequence[float], level: float) -> Interval | None:
    """Interval of the centre: order statistics of the Walsh averages, the inversion of the signed-rank test.

    None where even the widest covers under `level`: n values cover at most 1 - 2^(1-n).
    """
    n = len(values)
    if n < 2:
        return None
    rank, coverage = signed_rank_ends(n, level)
    if rank == 0:
        return None
    array = np.asarray(values, dtype=np.float64)
    first, second = _upper_triangle(n)
    walsh = np.sort((array[first] + array[second]) / 2)
    return Interval(float(walsh[rank - 1]), float(walsh[-rank]), coverage)


def pseudo_median(values: Sequence[float]) -> float:
    """Hodges and Lehmann's estimate of the centre: the median of the Walsh averages."""
    array = np.asarray(values, dtype=np.float64)
    first, second = _upper_triangle(len(array))
    return float(np.median((array[first] + array[second]) / 2))


def holm(p_values: Sequence[float], alpha: float) -> list[bool]:
    """Which hypotheses are rejected with the chance of any false rejection held at `alpha` (Holm 1979)."""
    rejected = [False] * len(p_values)
    order = sorted(range(len(p_values)), key=lambda index: p_values[index])
    for step, index in enumerate(order):
        if p_values[index] > alpha / (len(p_values) - step):
            break
        rejected[index] = True
    return rejected


def fewest_pairs(alpha: float) -> int:
    """The fewest pairs with which the one-sided test can reject at `alpha` at all: 2^-n <= alpha."""
    return math.ceil(-math.log2(alpha) - 1e-12)
