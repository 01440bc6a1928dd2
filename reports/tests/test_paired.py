"""Paired statistics against published exact values, other implementations and simulation."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest

from tandem_reports.stats.paired import (
    fewest_pairs,
    holm,
    pseudo_median,
    signed_rank_counts,
    signed_rank_greater,
    signed_rank_interval,
)

# The largest w with P(W <= w) not over the level, one-sided: the table of Wilcoxon and Wilcox.
CRITICAL_5 = {
    5: 0,
    6: 2,
    7: 3,
    8: 5,
    9: 8,
    10: 10,
    11: 13,
    12: 17,
    13: 21,
    14: 25,
    15: 30,
    16: 35,
    20: 60,
    25: 100,
}
CRITICAL_1 = {7: 0, 8: 1, 9: 3, 10: 5, 11: 7, 12: 9, 13: 12, 14: 15, 15: 19, 16: 23, 20: 43, 25: 76}


@pytest.mark.parametrize(("table", "level"), [(CRITICAL_5, 0.05), (CRITICAL_1, 0.01)])
def test_signed_rank_critical_values_are_the_published_ones(table: dict[int, int], level: float) -> None:
    for n, critical in table.items():
        counts = signed_rank_counts(n)
        assert sum(counts) == 2**n
        assert sum(counts[: critical + 1]) / 2**n <= level < sum(counts[: critical + 2]) / 2**n


# P for values around 0, 0.3 and 1, as they are and less 0.2, as scipy 1.17.1 gives them:
# stats.wilcoxon(values, alternative="greater", method="exact").pvalue.
SIGNED_RANK_SCIPY = [
    (1, [(0.5, 0.5), (0.5, 0.5), (0.5, 0.5)]),
    (5, [(0.9375, 0.9375), (0.40625, 0.5), (0.0625, 0.09375)]),
    (8, [(0.0078125, 0.01953125), (0.09765625, 0.37109375), (0.01171875, 0.02734375)]),
    (13, [(0.6822509765625, 0.891845703125), (0.054931640625, 0.1527099609375),
          (0.0040283203125, 0.016357421875)]),
    (25, [(0.1375921368598938, 0.3754964768886566), (0.03549182415008545, 0.28910312056541443),
          (5.036592483520508e-06, 0.0004559457302093506)]),
]  # fmt: skip


@pytest.mark.parametrize(("n", "expected"), SIGNED_RANK_SCIPY)
def test_signed_rank_p_is_scipys(n: int, expected: list[tuple[float, float]]) -> None:
    rng = random.Random(n)
    for centre, (plain, shifted) in zip((0.0, 0.3, 1.0), expected, strict=True):
        values = [rng.gauss(centre, 1) for _ in range(n)]
        assert signed_rank_greater(values) == pytest.approx(plain, rel=1e-12)
        assert signed_rank_greater(values, 0.2) == pytest.approx(shifted, rel=1e-12)


def brute_force(values: list[float]) -> float:
    """P over all sign patterns of the mid-ranks, by counting them one by one; zeros count as negative."""
    sizes = [abs(v) for v in values]
    ranks = [(sum(w < v for w in sizes) + sum(w <= v for w in sizes) + 1) / 2 for v in sizes]
    observed = sum(rank for rank, v in zip(ranks, values, strict=True) if v > 0)
    hits = 0
    for pattern in range(2 ** len(values)):
        hits += sum(rank for bit, rank in enumerate(ranks) if pattern >> bit & 1) >= observed - 1e-9
    return float(hits / 2 ** len(values))


@pytest.mark.parametrize(
    "values", [[1.0, 1.0, -1.0, 2.0, 2.0, -3.0], [0.0, 0.0, 1.0, 2.0, 3.0], [1.0] * 8, [0.0] * 4, [-1.0, 1.0]]
)
def test_ties_and_zeros_are_exact(values: list[float]) -> None:
    assert signed_rank_greater(values) == pytest.approx(brute_force(values), abs=1e-15)


def test_all_on_one_side_gives_the_least_p() -> None:
    assert signed_rank_greater([0.1, 0.2, 0.3, 0.4, 0.5, 0.6]) == 1 / 64
    assert signed_rank_greater([]) == 1.0
    assert fewest_pairs(0.01) == 7
    assert fewest_pairs(1 / 64) == 6
    assert fewest_pairs(0.01 / 20) == 11


# Hollander and Wolfe, Nonparametric Statistical Methods, chapter 3: depression scores of nine patients before
# and after a tranquilliser; W = 5 of 45, estimate -0.46, 96 % interval (-0.786, -0.010).
HAMILTON = [-0.952, 0.147, -1.022, -0.430, -0.620, -0.590, -0.490, 0.080, -0.010]


def test_the_textbook_example() -> None:
    assert signed_rank_greater([-v for v in HAMILTON]) == pytest.approx(0.0195, abs=5e-5)
    assert pseudo_median(HAMILTON) == pytest.approx(-0.46, abs=5e-4)
    interval = signed_rank_interval(HAMILTON, 0.95)
    assert interval is not None
    assert interval.coverage == pytest.approx(0.961, abs=5e-4)
    assert interval.low == pytest.approx(-0.786, abs=5e-4)
    assert interval.high == pytest.approx(-0.010, abs=5e-4)


@pytest.mark.parametrize("n", range(6, 31, 6))
def test_interval_covers_what_it_says(n: int) -> None:
    rng = np.random.default_rng(5000 + n)
    trials, hits, coverage = 2000, 0, 0.0
    for _ in range(trials):
        interval = signed_rank_interval((0.02 + 0.01 * rng.standard_t(3, n)).tolist(), 0.95)
        assert interval is not None
        hits += interval.low <= 0.02 <= interval.high
        coverage = interval.coverage
    assert coverage >= 0.95
    assert abs(hits / trials - coverage) < 4 * math.sqrt(coverage * (1 - coverage) / trials)


# What the project promises: at least 94.5 % seen at every number of pairs from six on.
def test_every_n_from_six_covers() -> None:
    rng = np.random.default_rng(20261124)
    trials = 8000
    for n in range(6, 31):
        first, second = np.triu_indices(n)
        values = rng.standard_t(3, size=(trials, n))  # true centre 0
        walsh = np.sort((values[:, first] + values[:, second]) / 2, axis=1)
        one = signed_rank_interval(values[0].tolist(), 0.95)
        assert one is not None
        assert one.coverage >= 0.95
        rank = int(np.searchsorted(walsh[0], one.low))
        assert (walsh[0, rank], walsh[0, -1 - rank]) == pytest.approx((one.low, one.high), rel=1e-12)
        covered = float(np.mean((walsh[:, rank] <= 0) & (walsh[:, -1 - rank] >= 0)))
        print(f"n {n}: w({rank + 1}), exact coverage {one.coverage:.4%}, seen {covered:.4%}")
        assert covered >= 0.945


def test_too_few_pairs_have_no_interval() -> None:
    assert signed_rank_interval([1.0], 0.5) is None
    assert signed_rank_interval([1.0, 2.0, 3.0, 4.0, 5.0], 0.95) is None
    assert signed_rank_interval([1.0, 2.0, 3.0, 4.0, 5.0, 6.0], 0.95) is not None


def test_holm() -> None:
    # The first step that fails ends it, whatever comes after: 0.0126 <= 0.05/3, 0.049 > 0.05/2.
    assert holm([0.0126, 0.0001, 0.049, 0.2], 0.05) == [True, True, False, False]
    assert holm([0.0123, 0.0170, 0.0126, 0.0124], 0.05) == [True, True, True, True]
    # Worked by hand at 0.05: 0.005 <= 0.05/4, 0.01 <= 0.05/3, 0.03 > 0.05/2; so the last two stay, 0.04 too.
    assert holm([0.01, 0.04, 0.03, 0.005], 0.05) == [True, False, False, True]
    assert holm([0.01, 0.02, 0.03, 0.005], 0.05) == [True, True, True, True]
    assert holm([], 0.05) == []
    assert holm([0.02, 0.02, 0.02], 0.05) == [False, False, False]
