"""What a session's shift can do to a comparison of two runs.

All workers of a run share its session: how warm the room was, which clock the card settled at, where memory
lay. What that does to all of them is no part of their spread: more workers do not average it away.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist, stdev

from tandem_reports import formats
from tandem_reports.gate.comparison import FALSE_CALL_RATE, Comparison, Pair, Rules
from tandem_reports.stats.small_samples import median

USUAL_SHIFT = 0.005
"""Standard deviation of sessions that is asked about where nobody says theirs."""
CALLS = ("faster", "slower", "same")
_STEPS = 400


@dataclass(frozen=True)
class SessionRisk:
    """The chance that two equal builds are called different; all shares are fractions."""

    shift: float
    workers: int
    spread: float
    chance: float
    together: float
    """Median of the ratios: what all cases have in common."""

    @property
    def text(self) -> str:
        """One line."""
        return (
            f"{self.workers} workers a side share one session each: where sessions differ by "
            f"{100 * self.shift:.2g} % (standard deviation), two equal builds are called different in "
            f"{100 * self.chance:.0f} of 100 comparisons, and more workers do not help; a duet does. "
            f"The middle case moved by {formats.change(self.together)}."
        )


def false_call_chance(shift: float, workers: int, spread: float, minimum_effect: float) -> float:
    """Chance that some case of two equal builds is called faster or slower.

    The two sessions differ by a normal logarithm of standard deviation sqrt(2) `shift`, shared by all cases;
    around it the rank-sum test has its normal approximation (relative efficiency 3 / pi). A sum over equal
    shares of the normal distribution.
    """
    normal = NormalDist()
    error = spread * math.sqrt(2 / workers * math.pi / 3)
    critical = normal.inv_cdf(1 - FALSE_CALL_RATE)
    total = 0.0
    for step in range(_STEPS):
        apart = math.sqrt(2) * shift * abs(normal.inv_cdf((step + 0.5) / _STEPS)) - math.log1p(minimum_effect)
        total += float(apart > 0) if error == 0 else normal.cdf(apart / error - critical)
    return total / _STEPS


def _spread(pairs: Sequence[Pair]) -> float:
    sides = [side.medians for pair in pairs for side in (pair.a, pair.b)]
    return median([stdev(map(math.log, values)) for values in sides])


def session_risk(comparison: Comparison, rules: Rules, shift: float) -> SessionRisk | None:
    """Of the cases that got a verdict; None where there is none, or machines may differ anyway."""
    called = [pair for pair in comparison.pairs if pair.status in CALLS]
    if not called or rules.any_machine:
        return None
    workers = min(min(len(pair.a.ok), len(pair.b.ok)) for pair in called)
    spread = _spread(called)
    return SessionRisk(
        shift=shift,
        workers=workers,
        spread=spread,
        chance=false_call_chance(shift, workers, spread, rules.minimum_effect),
        together=median([pair.ratio for pair in called if pair.ratio is not None]),
    )
