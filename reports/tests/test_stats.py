"""Statistics against published exact values, other implementations and simulation."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest

from tandem_reports.stats.small_samples import (
    benjamini_hochberg,
    binomial_at_most,
    geometric_mean,
    mann_whitney_counts,
    mann_whitney_greater,
    median,
    median_interval,
    order_statistic_ranks,
    ratio_interval,
)

# n, rank r and coverage in percent of the narrowest symmetric interval of a median at 95 %, as the tables of
# the sign test's interval have them (Conover, Practical Nonparametric Statistics; Gibbons and Chakraborti).
SIGN_TABLE = [
    (6, 1, 96.88), (7, 1, 98.44), (8, 1, 99.22), (9, 2, 96.09), (10, 2, 97.85), (11, 2, 98.83),
    (12, 3, 96.14), (13, 3, 97.75), (14, 3, 98.71), (15, 4, 96.48), (16, 4, 97.87), (17, 5, 95.10),
    (18, 5, 96.91), (19, 5, 98.08), (20, 6, 95.86), (25, 8, 95.67),
]  # fmt: skip


@pytest.mark.parametrize(("n", "rank", "percent"), SIGN_TABLE)
def test_order_statistic_interval_is_the_published_one(n: int, rank: int, percent: float) -> None:
    found = order_statistic_ranks(n)
    assert found is not None
    assert found[0] == rank
    assert round(100 * found[1], 2) == pytest.approx(percent, abs=0.006)
    assert found[1] == pytest.approx(1 - 2 * binomial_at_most(rank - 1, n, 0.5), abs=1e-13)


@pytest.mark.parametrize("n", range(6))
def test_five_values_have_no_interval(n: int) -> None:
    assert order_statistic_ranks(n) is None
    assert median_interval([1.0] * n) is None


# Without it the stated coverage could be wrong by a rank: every n from 6 to 30 must cover what it says.
@pytest.mark.parametrize("n", range(6, 31, 4))
def test_order_statistic_interval_covers_what_it_says(n: int) -> None:
    rng = np.random.default_rng(20260115 + n)
    trials = 4000
    values = np.exp(rng.normal(size=(trials, n)))  # true median 1
    hits = 0
    for row in values:
        interval = median_interval(row.tolist())
        assert interval is not None
        hits += interval.low <= 1.0 <= interval.high
    ranks = order_statistic_ranks(n)
    assert ranks is not None
    sd = math.sqrt(ranks[1] * (1 - ranks[1]) / trials)
    assert abs(hits / trials - ranks[1]) < 4 * sd


# What the project promises: at least 94.5 % seen at every number of workers from six on; heavy tails here.
def test_every_n_from_six_covers() -> None:
    rng = np.random.default_rng(20261123)
    trials = 20000
    for n in range(6, 61):
        ranks = order_statistic_ranks(n)
        assert ranks is not None
        low, coverage = ranks
        assert coverage >= 0.95
        values = np.sort(rng.standard_t(2, size=(trials, n)), axis=1)  # true median 0
        covered = float(np.mean((values[:, low - 1] <= 0) & (values[:, n - low] >= 0)))
        print(f"n {n}: x({low}) to x({n + 1 - low}), exact coverage {coverage:.4%}, seen {covered:.4%}")
        assert covered >= 0.945
        one = median_interval(values[0].tolist())
        assert one is not None
        assert (one.low, one.high, one.coverage) == (values[0, low - 1], values[0, n - low], coverage)


def test_median() -> None:
    assert median([3.0, 1.0, 2.0]) == 2.0
    assert median([4.0, 1.0, 2.0, 3.0]) == 2.5
    with pytest.raises(ValueError, match="no values"):
        median([])


# P(U <= u) of small samples, from Mann and Whitney 1947, table I (three decimals).
MANN_WHITNEY_TABLE = [
    (3, 3, 0, 0.050), (3, 3, 1, 0.100), (3, 3, 4, 0.500), (4, 4, 0, 0.014), (4, 4, 1, 0.029),
    (4, 4, 2, 0.057), (5, 5, 4, 0.048), (6, 6, 5, 0.021), (6, 6, 7, 0.047), (7, 7, 11, 0.049),
    (8, 8, 15, 0.041),
]  # fmt: skip


@pytest.mark.parametrize(("m", "n", "u", "p"), MANN_WHITNEY_TABLE)
def test_mann_whitney_distribution_is_the_published_one(m: int, n: int, u: int, p: float) -> None:
    counts = mann_whitney_counts(m, n)
    assert sum(counts) == math.comb(m + n, m)
    assert counts == counts[::-1]
    assert sum(counts[: u + 1]) / sum(counts) == pytest.approx(p, abs=0.0011)


# P for samples moved by 0, 0.5 and 2, of `b` over `a` and over 1.05 `a`, as scipy 1.17.1 gives them:
# stats.mannwhitneyu(b, a, alternative="greater", method="exact").pvalue.
MANN_WHITNEY_SCIPY = [
    (6, 6, [(0.24242424242424243, 0.2943722943722944), (0.5313852813852814, 0.5313852813852814),
            (0.0010822510822510823, 0.0010822510822510823)]),
    (6, 9, [(0.5680319680319681, 0.6555444555444555), (0.22797202797202792, 0.2643356643356643),
            (0.0001998001998001998, 0.0001998001998001998)]),
    (12, 7, [(0.8077716916726205, 0.850440581090736), (0.034174803524648724, 0.0415575136937366),
             (3.9691990156386444e-05, 3.9691990156386444e-05)]),
    (20, 20, [(0.15704213484597485, 0.21454082028875276), (0.06370953521410548, 0.08267000970246119),
              (3.265950937276564e-08, 6.706008543799324e-08)]),
]  # fmt: skip


@pytest.mark.parametrize(("m", "n", "expected"), MANN_WHITNEY_SCIPY)
def test_mann_whitney_p_is_scipys(m: int, n: int, expected: list[tuple[float, float]]) -> None:
    rng = random.Random(m * 100 + n)
    for shift, (plain, slower) in zip((0.0, 0.5, 2.0), expected, strict=True):
        a = [math.exp(rng.gauss(0, 1)) for _ in range(m)]
        b = [math.exp(rng.gauss(shift, 1)) for _ in range(n)]
        assert mann_whitney_greater(a, b) == pytest.approx(plain, rel=1e-12)
        assert mann_whitney_greater(a, b, 1.05) == pytest.approx(slower, rel=1e-12)


def test_ties_count_against_rejecting() -> None:
    assert mann_whitney_greater([1.0] * 6, [1.0] * 6) == 1.0
    assert mann_whitney_greater([1.0, 2.0, 3.0], [4.0, 5.0, 6.0]) == pytest.approx(1 / 20)
    assert mann_whitney_greater([1.0, 2.0, 4.0], [4.0, 5.0, 6.0]) == pytest.approx(2 / 20)


# Under no change at most so many samples may be rejected as the level says; ties must not break that.
@pytest.mark.parametrize("digits", [1, 12])
def test_mann_whitney_false_alarms(digits: int) -> None:
    rng = random.Random(7)
    trials = 3000
    rejected = 0
    for _ in range(trials):
        a, b = ([round(math.exp(rng.gauss(0, 0.5)), digits) for _ in range(6)] for _ in range(2))
        rejected += mann_whitney_greater(a, b) <= 0.05
    assert rejected / trials < 0.05 + 4 * math.sqrt(0.05 * 0.95 / trials)


def test_ratio_interval_is_the_hand_worked_one() -> None:
    # 2P(U <= k-1) <= 0.05 at 6 + 6 workers: P(U <= 5) = 19/924, P(U <= 6) = 30/924; so k = 6 and 1 - 38/924.
    a = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]
    b = [2.0, 4.0, 6.0, 8.0, 10.0, 12.0]
    interval = ratio_interval(a, b)
    assert interval is not None
    ratios = sorted(y / x for x in a for y in b)
    assert interval.low == ratios[5]
    assert interval.high == ratios[30]
    assert interval.coverage == pytest.approx(1 - 38 / 924)
    assert ratio_interval([1.0, 2.0, 3.0], [1.0, 2.0, 3.0]) is None


@pytest.mark.parametrize(("m", "n"), [(6, 6), (6, 10), (9, 9)])
def test_ratio_interval_covers(m: int, n: int) -> None:
    rng = np.random.default_rng(m * 31 + n)
    trials = 2000
    hits, coverage = 0, 0.0
    for _ in range(trials):
        a = np.exp(rng.normal(0, 0.01, m)).tolist()
        b = (1.03 * np.exp(rng.normal(0, 0.01, n))).tolist()
        interval = ratio_interval(a, b)
        assert interval is not None
        hits += interval.low <= 1.03 <= interval.high
        coverage = interval.coverage
    assert coverage >= 0.95
    assert abs(hits / trials - coverage) < 4 * math.sqrt(coverage * (1 - coverage) / trials)


# The example of Benjamini and Hochberg 1995, section 3.2: of 15 p-values the first four are rejected at 0.05.
def test_benjamini_hochberg_is_the_published_example() -> None:
    p = [0.0001, 0.0004, 0.0019, 0.0095, 0.0201, 0.0278, 0.0298, 0.0344]
    p += [0.0459, 0.3240, 0.4262, 0.5719, 0.6528, 0.7590, 1.0]
    assert benjamini_hochberg(p, 0.05) == [True] * 4 + [False] * 11
    assert benjamini_hochberg(p[::-1], 0.05) == [False] * 11 + [True] * 4
    assert benjamini_hochberg([], 0.05) == []
    assert benjamini_hochberg([0.04, 0.045], 0.05) == [True, True]


def test_geometric_mean() -> None:
    assert geometric_mean([1.0, 4.0]) == pytest.approx(2.0)
