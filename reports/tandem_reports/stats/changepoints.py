"""Where series of medians step to another level. Deterministic, and deaf to single outliers.

Runs that follow each other resemble each other: a room warms up, a card stays in one of two clock states. So
the logarithms of a series are taken as an AR(1) process about its level, and a step is believed when it makes
them likelier by more than such noise gives in any of the cases: chances are controlled over the family. The
correlation is nobody's to choose. It is a mixture over GRID that all series share and that is estimated from
them (Laird 1978), so that many steady cases do not hide one that drifts; of their variances, too, the series
say as much about each other as they are alike (Smyth 2004). Splits are sought one at a time, or two for a
level that comes and goes, and then in each part (binary segmentation, Vostrikova 1981).
`reports/simulations/trend.py` has the error rates.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

GRID = np.arange(0.0, 0.95, 0.1)
"""Correlations of neighbouring runs that are considered."""
PSEUDO_CASES = 0.5
"""Cases spread evenly over GRID that the estimate of the mixture starts from."""
SHORTEST = 2
"""Runs in a segment: one run alone is no evidence of a step."""
PRIOR_NOISE = 0.005
PRIOR_RUNS = 2
"""Short histories say little about their noise: 0.5 % counts as much as so many runs."""
FEW_CASES = 5
"""From so many cases on their own noise takes the place of 0.5 %: the more alike, the more it counts."""
MOST_PRIOR_RUNS = 30
SPREAD_OF_LOG = 2.6
"""Variance of the logarithm of a mean square of n differences of neighbours, times n."""
CAP = 3.0
"""A run counts as at most so many deviations from the middle: a few outliers cannot buy a step."""
PAIRED_SPLITS = 100
"""Places at which pairs of splits are sought in a longer history; each is then placed again by itself."""
FALSE_STEPS = 0.05
"""Largest chance of any false step in any of the cases of a history."""


@dataclass(frozen=True)
class Segment:
    """Runs first to last - 1 at one level."""

    first: int
    last: int
    level: float


def threshold(cases: int, correlation: float, alpha: float = FALSE_STEPS) -> float:
    """Twice the gain in log-likelihood that one step must bring, so that none of the cases has a false one.

    Twice a logarithm as for a chi-square; the rest is fitted to simulated noise of 6 to 60 runs and 1 to 100
    cases, where correlated noise needs more, and a few cases say less about theirs.
    """
    fitted = 2.4 if cases >= FEW_CASES else 4.2
    return 2 * math.log(cases / alpha) + fitted - (2.2 + 3 / math.sqrt(cases)) * math.log1p(-correlation)


def _capped(logs: Array) -> Array:
    middle = np.median(logs)
    scale = max(PRIOR_NOISE, 1.4826 * float(np.median(np.abs(logs - middle))))
    return np.clip(logs, middle - CAP * scale, middle + CAP * scale)


@dataclass(frozen=True)
class _Fits:
    """Log-likelihoods of one series over GRID: no step, the best one, the best two; and where those are."""

    gains: tuple[Array, Array, Array]
    one: NDArray[np.int64]
    two: NDArray[np.int64]


@dataclass(frozen=True)
class _Noise:
    """What is known of a series' noise before it is seen: a mean square that counts as so many runs.

    Of the differences of neighbours, which steps hardly disturb: q = 2 v (1 - r) for a variance v about the
    level, so that the whitened noise has the variance q (1 + r) / 2.
    """

    square: float = 2 * PRIOR_NOISE**2
    runs: float = PRIOR_RUNS

    def likelihoods(self, squares: Array, n: int) -> Array:
        """Over GRID, the variance integrated out under its inverse chi-square prior (Smyth 2004)."""
        share = (1 + GRID) / 2
        prior = self.runs * self.square * share
        spread = (n - 1 + self.runs) / 2 * np.log(np.maximum(squares, 0) + prior)
        return np.asarray(0.5 * np.log1p(-(GRID**2)) + self.runs / 2 * np.log(share) - spread)


def _shared_noise(family: Sequence[Array]) -> _Noise:
    """What the series say about each other's noise; little where they are few or unlike."""
    logs, spread = [], []
    for series in family:
        differences = np.diff(_capped(series))
        count = len(differences) + PRIOR_RUNS
        logs.append(math.log((float(differences @ differences) + PRIOR_RUNS * 2 * PRIOR_NOISE**2) / count))
        spread.append(SPREAD_OF_LOG / len(differences))
    if len(logs) < FEW_CASES:
        return _Noise()
    unlike = float(np.var(logs, ddof=1)) - float(np.mean(spread))
    runs = 2 / unlike if unlike > 0 else math.inf
    return _Noise(math.exp(float(np.mean(logs))), min(max(runs, PRIOR_RUNS), MOST_PRIOR_RUNS))


def _fits(logs: Array, noise: _Noise) -> _Fits:
    """Generalised least squares for every split and every pair of splits, each correlation of GRID.

    A series is whitened: i * y of the first run, y(t) - r * y(t-1) of the others, i^2 = 1 - r^2; so is the
    level (i, q, q, ...; q = 1 - r) and a step at t (0, ..., 1, q, q, ...). Their products have closed forms.
    """
    n = len(logs)
    r = GRID[:, None]
    q, i = 1 - r, np.sqrt(1 - r * r)
    logs = _capped(logs)
    logs = logs - logs.mean()
    white = np.concatenate([i * logs[0], logs[1:] - r * logs[:-1]], axis=1)
    rest = np.cumsum(white[:, ::-1], axis=1)[:, ::-1]
    splits = np.arange(SHORTEST, n - SHORTEST + 1)
    after = (n - 1 - splits)[None, :]
    level = i * i + (n - 1) * q * q
    by_level = i * white[:, :1] + q * rest[:, 1:2]
    by_step = (1 - q) * white[:, splits] + q * rest[:, splits]
    step = 1 + q * q * after
    both = q + q * q * after
    by_step = by_step - both / level * by_level
    step = step - both * both / level
    left = (white * white).sum(axis=1) - (by_level * by_level / level)[:, 0]
    gain = by_step * by_step / step
    one = gain.argmax(axis=1)
    rows = np.arange(len(GRID))
    best = gain[rows, one]
    coarse = np.arange(0, len(splits), -(-len(splits) // PAIRED_SPLITS))
    a, b = (coarse[index] for index in np.triu_indices(len(coarse), 1))
    a, b = a[b - a >= SHORTEST], b[b - a >= SHORTEST]
    best_two, two = best, np.stack([one, one], axis=1)
    if len(a):
        cross = both[:, b] - both[:, a] * both[:, b] / level
        x, y, u, v = by_step[:, a], by_step[:, b], step[:, a], step[:, b]
        gain = (v * x * x - 2 * cross * x * y + u * y * y) / (u * v - cross * cross)
        pair = gain.argmax(axis=1)
        best_two, two = gain[rows, pair], np.stack([a[pair], b[pair]], axis=1)
    none, first, second = (noise.likelihoods(each, n) for each in (left, left - best, left - best_two))
    return _Fits((none, first, second), splits[one], splits[two])


def _mixture(family: Sequence[_Fits], needed: float) -> Array:
    """How much of each correlation there is in the family: expectation and maximisation over GRID."""
    start = np.full(len(GRID), 1 / len(GRID))
    if not family:
        return start
    best = np.stack([
        np.max([none, one - needed / 2, two - needed], axis=0) for none, one, two in (f.gains for f in family)
    ])  # fmt: skip
    likelihood = np.exp(best - best.max(axis=1, keepdims=True))
    weights = start
    for _ in range(30):
        share = likelihood * weights
        share /= share.sum(axis=1, keepdims=True)
        weights = (share.sum(axis=0) + PSEUDO_CASES * start) / (len(family) + PSEUDO_CASES)
    return weights


def _log_sum(values: Array) -> float:
    top = float(values.max())
    return top + math.log(float(np.exp(values - top).sum()))


@dataclass(frozen=True)
class _Judge:
    """What all series of a family share, and what one needs for a step."""

    noise: _Noise
    weights: Array
    cases: int
    alpha: float

    def splits(self, fits: _Fits) -> list[int]:
        """The best split, the best two, or none where neither is believed."""
        none, one, two = (gain + np.log(self.weights) for gain in fits.gains)
        base = _log_sum(none)
        correlation = float((np.exp(none - base) * GRID).sum())
        needed = threshold(self.cases, correlation, self.alpha)
        over_one = 2 * (_log_sum(one) - base) - needed
        over_two = 2 * (_log_sum(two) - base) - 2 * needed
        if max(over_one, over_two) <= 0:
            return []
        if over_two > over_one:
            return [int(split) for split in fits.two[two.argmax()]]
        return [int(fits.one[one.argmax()])]

    def starts(self, logs: Array, fits: _Fits | None = None) -> list[int]:
        """First runs of all segments but the first."""
        if len(logs) < 2 * SHORTEST:
            return []
        found = self.splits(fits or _fits(logs, self.noise))
        parts = itertools.pairwise([0, *found, len(logs)]) if found else ()
        return sorted([*found, *(a + start for a, b in parts for start in self.starts(logs[a:b]))])

    def placed(self, logs: Array, starts: Sequence[int]) -> list[int]:
        """The starts, each found again between its neighbours, or dropped where it is not."""
        found: list[int] = []
        for after in [*starts[1:], len(logs)] if starts else []:
            before = found[-1] if found else 0
            fits = _fits(logs[before:after], self.noise)
            if self.splits(fits):
                place = (fits.gains[1] + np.log(self.weights)).argmax()
                found.append(before + int(fits.one[place]))
        return found


def _merged(logs: Array, starts: list[int], minimum_effect: float) -> list[Segment]:
    while True:
        edges = [0, *starts, len(logs)]
        levels = [float(np.median(logs[a:b])) for a, b in itertools.pairwise(edges)]
        sizes = [abs(b - a) for a, b in itertools.pairwise(levels)]
        if not sizes or min(sizes) >= math.log1p(minimum_effect):
            return [
                Segment(a, b, math.exp(level))
                for (a, b), level in zip(itertools.pairwise(edges), levels, strict=True)
            ]
        starts = [*starts]
        del starts[sizes.index(min(sizes))]


def segments(
    family: Sequence[Sequence[float]], minimum_effect: float = 0.005, alpha: float = FALSE_STEPS
) -> list[list[Segment]]:
    """Splits each series of positive values into levels, each `minimum_effect` or more from the next.

    The chance of a split anywhere in the family where nothing changed is about `alpha` at most.
    """
    series = [np.log(np.asarray(values, dtype=np.float64)) for values in family]
    long_enough = [logs for logs in series if len(logs) >= 2 * SHORTEST]
    noise = _shared_noise(long_enough)
    fits = [_fits(logs, noise) if len(logs) >= 2 * SHORTEST else None for logs in series]
    known = [fit for fit in fits if fit is not None]
    cases = max(len(known), 1)
    judge = _Judge(noise, _mixture(known, threshold(cases, 0.0, alpha)), cases, alpha)
    found = []
    for logs, fit in zip(series, fits, strict=True):
        starts = judge.starts(logs, fit)
        found.append(_merged(logs, judge.placed(logs, starts) if len(starts) > 1 else starts, minimum_effect))
    return found
