"""How many more pairs would decide a case, from those it has.

The pairs to come are taken to be like those at hand: the mean of n pairs in all is normal about the mean so
far, with the variance that a flat prior gives. Whether it decides a case, the critical distances of the look
say. The forecast is the first look at which that is likely enough.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from statistics import NormalDist, fmean, stdev

import numpy as np

from tandem_reports.gate.deciding import Shares, planned_pairs, shares
from tandem_reports.gate.policy import SuitePolicy
from tandem_reports.reading.duet import Look
from tandem_reports.stats.paired import fewest_pairs, signed_rank_counts, signed_rank_greater

MOST_PAIRS = 100
"""Pairs beyond which no forecast is given."""
LIKELY = 0.45
"""How likely a decision must be at the look that is forecast."""
NORMAL = NormalDist()
SHOWN_PAIRS = 13
"""Pairs for which the smallest effect that a case can show is told."""


@lru_cache(maxsize=4096)
def distance(n: int, alpha: float) -> float:
    """How far beyond a limit the mean of n normal values must be, in their standard deviations, to reject.

    From the critical value of the signed-rank statistic T: under a shift d, T / (n(n+1)/2) is about
    Phi(d sqrt(2)) for the Walsh averages. Infinite where n values cannot reject.
    """
    counts = signed_rank_counts(n)
    tail, critical = 0, len(counts)
    for value in range(len(counts) - 1, -1, -1):
        tail += counts[value]
        if tail / 2**n > alpha:
            break
        critical = value
    if critical == len(counts):
        return math.inf
    # Half a step towards the middle: at the extreme value itself the quantile has no end.
    return NORMAL.inv_cdf((critical - 0.5) / (len(counts) - 1)) / math.sqrt(2)


def spread(logs: Sequence[float]) -> float | None:
    """The noise of one process, as a fraction, from that of ln(B / A). None of under six pairs."""
    return stdev(logs) / math.sqrt(2) if len(logs) >= 6 else None


@lru_cache(maxsize=64)
def visible(pairs: int, alpha: float) -> float:
    """The shift, in standard deviations of ln(B / A), that so many normal pairs find in 9 of 10 duets."""
    noise = np.random.default_rng(13).normal(size=(1000, pairs)).tolist()

    def found(shift: float) -> float:
        return fmean(signed_rank_greater(row, -shift) <= alpha for row in noise)

    low, high = 0.0, 8.0
    if found(high) < 0.9:
        return math.inf
    while high - low > 0.02:
        middle = (low + high) / 2
        low, high = (low, middle) if found(middle) >= 0.9 else (middle, high)
    return high


def smallest_effect(logs: Sequence[float], rules: SuitePolicy, alpha: float, cases: int) -> float | None:
    """The smallest slow-down, as a fraction, that 13 pairs like these find in 9 of 10 duets."""
    noise = spread(logs)
    if noise is None:
        return None
    shift = visible(SHOWN_PAIRS, shares(alpha, Look(2, 8)).change / max(cases, 1))
    effect = math.log1p(rules.minimum_effect) + shift * noise * math.sqrt(2)
    return math.expm1(effect) if math.isfinite(effect) else None


def chance(logs: Sequence[float], n: int, rules: SuitePolicy, share: Shares, cases: int) -> float:
    """How likely n pairs in all decide a case whose first ones are at hand, one of so many cases."""
    have = len(logs)
    middle, spread = fmean(logs), stdev(logs)
    if spread == 0:
        spread = 1e-12
    error = NormalDist(middle, spread * math.sqrt((n - have) / (n * have)))
    same = math.log1p(rules.equivalence) - distance(n, share.same) * spread
    change = math.log1p(rules.minimum_effect) + (
        distance(n, share.change / cases) * spread if share.change else math.inf
    )
    decided = (1 - error.cdf(change)) + error.cdf(-change)
    if same > 0:
        low, high = max(-same, -change), min(same, change)
        decided += error.cdf(high) - error.cdf(low)
    return decided


def forecast(logs: Sequence[float], rules: SuitePolicy, alpha: float, last: Look, cases: int) -> int | None:
    """How many more pairs will likely decide one of so many cases; None beyond MOST_PAIRS.

    After a look of several it is one of the looks that are planned to follow; after a single one, any number.
    """
    have = len(logs)
    if last.of == 1:
        looks = [Look(1, 1, n) for n in range(max(have + 1, fewest_pairs(alpha)), MOST_PAIRS + 1)]
    else:
        plan = planned_pairs(alpha, cases, 20)
        looks = [
            Look(number, 20, n)
            for number, n in enumerate(plan, start=1)
            if have < n <= MOST_PAIRS and number > last.number
        ]
    for look in looks:
        assert look.pairs is not None
        share = shares(alpha, look)
        if have < 2 or chance(logs, look.pairs, rules, share, cases) >= LIKELY:
            return look.pairs - have
    return None
