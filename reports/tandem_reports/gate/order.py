"""Does it matter which side of a pair goes first? Estimated over each group of cases that share a process.

The order is drawn for a pair and turned round for the next, so that a block of both holds the order effect
and no difference of the builds: half of ln(B / A) where A went first less that where B did.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tandem_reports.gate.deciding import Evidence
from tandem_reports.reading.duet import Group
from tandem_reports.stats.paired import pseudo_median, signed_rank_interval
from tandem_reports.stats.small_samples import Interval

LEVEL = 0.95


@dataclass(frozen=True)
class OrderEffect:
    """What the second process of a pair takes over the first, as a ratio, in the mean over a group's cases.

    `interval` is None where there are fewer than six blocks of two pairs.
    """

    name: str
    cases: int
    blocks: int
    ratio: float
    interval: Interval | None

    @property
    def seen(self) -> bool:
        """Whether the order matters, as far as the interval tells."""
        return self.interval is not None and not self.interval.low <= 1 <= self.interval.high


def order_effects(groups: Sequence[Group], evidence: Mapping[str, Evidence]) -> list[OrderEffect]:
    """One effect for each group of a duet that has a whole block. `evidence` is by case id."""
    found = []
    for group in groups:
        cases = [
            dict(zip(evidence[case_id].pairs, evidence[case_id].logs, strict=True))
            for case_id in group.case_ids
            if case_id in evidence
        ]
        effects = []
        for pair in range(0, max((1 + max(case) for case in cases if case), default=0), 2):
            if group.first.get(pair) is None or group.first.get(pair) == group.first.get(pair + 1):
                continue
            sign = 0.5 if group.first[pair] == "a" else -0.5
            halves = [
                sign * (case[pair] - case[pair + 1]) for case in cases if pair in case and pair + 1 in case
            ]
            if halves:
                effects.append(math.fsum(halves) / len(halves))
        if not effects:
            continue
        interval = signed_rank_interval(effects, LEVEL)
        ratios = interval and Interval(math.exp(interval.low), math.exp(interval.high), interval.coverage)
        found.append(
            OrderEffect(group.name, len(cases), len(effects), math.exp(pseudo_median(effects)), ratios)
        )
    return found
