"""Where a series of medians steps to another level. Deterministic, and deaf to single outliers.

Optimal partitioning of the logarithms (Jackson et al. 2005; Killick, Fearnhead and Eckley 2012 for pruning):
a segment costs the sum of its squared distances from its median, in units of the noise and capped so that one
outlier cannot buy a segment; every further segment costs PENALTY.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

PENALTY = 16.0
"""A step must explain so much: for one clean split of Gaussian noise that is 4 standard deviations."""
CAP = 9.0
SHORTEST = 2
"""Runs in a segment: one run alone is no evidence of a step."""
PRIOR_NOISE = 0.005
PRIOR_WEIGHT = 2.0
"""Short histories say little about their noise: 0.5 % counts as much as so many differences of neighbours."""


@dataclass(frozen=True)
class Segment:
    """Runs first to last - 1 at one level."""

    first: int
    last: int
    level: float


def noise(logs: NDArray[np.float64]) -> float:
    """Spread of a run about its level, from differences of neighbours, which a few steps do not disturb."""
    steps = np.abs(np.diff(logs))
    if len(steps) == 0:
        return PRIOR_NOISE
    spread = 1.4826 * float(np.median(steps)) / math.sqrt(2)
    weight = PRIOR_WEIGHT + len(steps)
    return math.sqrt((PRIOR_WEIGHT * PRIOR_NOISE**2 + len(steps) * spread**2) / weight)


def _cost(logs: NDArray[np.float64], first: int, last: int, sigma: float) -> float:
    part = logs[first:last]
    return float(np.minimum(((part - np.median(part)) / sigma) ** 2, CAP).sum())


def _partition(logs: NDArray[np.float64], sigma: float) -> list[int]:
    """The first indices of all segments but the first."""
    n = len(logs)
    best = [-PENALTY] + [math.inf] * n
    previous = [0] * (n + 1)
    starts = [0]
    for end in range(SHORTEST, n + 1):
        costs = {
            start: best[start] + _cost(logs, start, end, sigma) for start in starts if end - start >= SHORTEST
        }
        for start, cost in costs.items():
            if cost + PENALTY < best[end]:
                best[end], previous[end] = cost + PENALTY, start
        # A start that is already worse by a whole penalty can never be the best one again.
        starts = [start for start in starts if start not in costs or costs[start] <= best[end] + PENALTY]
        if math.isfinite(best[end - SHORTEST + 1]):
            starts.append(end - SHORTEST + 1)
    found = []
    end = n
    while previous[end] > 0:
        end = previous[end]
        found.append(end)
    return found[::-1]


def segments(values: Sequence[float], minimum_effect: float = 0.005) -> list[Segment]:
    """Splits positive values into segments of one level, each `minimum_effect` or more from the next."""
    logs = np.log(np.asarray(values, dtype=np.float64))
    starts = [0, *_partition(logs, noise(logs))] if len(logs) >= 2 * SHORTEST else [0]
    while True:
        edges = [*starts, len(logs)]
        levels = [float(np.median(logs[a:b])) for a, b in itertools.pairwise(edges)]
        sizes = [abs(b - a) for a, b in itertools.pairwise(levels)]
        if not sizes or min(sizes) >= math.log1p(minimum_effect):
            return [
                Segment(a, b, math.exp(level))
                for a, b, level in zip(edges[:-1], edges[1:], levels, strict=True)
            ]
        del starts[sizes.index(min(sizes)) + 1]
