"""Does it matter which side of a pair goes first? Estimated over each group of cases that share a process.

The order is drawn for each pair alone: then the labels of any pair could as well be swapped, whatever noise
the processes share, and the signed-rank test of the builds is exact. An order effect is part of that noise.
Orders drawn for several pairs at once, or made to balance, would tie the signs of their log-ratios together:
noise that lasts over several processes then rings too often. So there may be more pairs of one order than of
the other, and the effect is half of what the two kinds of pairs differ by, as of two samples. What the builds
differ by is in both and falls out.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from tandem_reports.gate.deciding import Evidence
from tandem_reports.reading.duet import Group
from tandem_reports.stats.small_samples import Interval, ratio_interval

LEVEL = 0.95


@dataclass(frozen=True)
class OrderEffect:
    """What the second process of a pair takes over the first, as a ratio, in the mean over a group's cases.

    `a_first` and `b_first` count the pairs. `interval` is None where they are too few for one.
    """

    name: str
    cases: int
    a_first: int
    b_first: int
    ratio: float
    interval: Interval | None

    @property
    def seen(self) -> bool:
        """Whether the order matters, as far as the interval tells."""
        return self.interval is not None and not self.interval.low <= 1 <= self.interval.high


def _centred(case: Evidence, first: Mapping[int, str]) -> dict[int, float]:
    """A case's log-ratios by pair, without the builds' difference; empty where all have one order.

    Cases leave a duet: means over those that are there would differ by which ones are.
    """
    known = {pair: log for pair, log in zip(case.pairs, case.logs, strict=True) if pair in first}
    sides = [[log for pair, log in known.items() if first[pair] == side] for side in "ab"]
    if not all(sides):
        return {}
    centre = sum(math.fsum(logs) / len(logs) for logs in sides) / 2
    return {pair: log - centre for pair, log in known.items()}


def order_effects(groups: Sequence[Group], evidence: Mapping[str, Evidence]) -> list[OrderEffect]:
    """One effect for each group of a duet that has pairs of both orders. `evidence` is by case id."""
    found = []
    for group in groups:
        centred = [
            _centred(evidence[case_id], group.first) for case_id in group.case_ids if case_id in evidence
        ]
        cases = [case for case in centred if case]
        samples: dict[str, list[float]] = {"a": [], "b": []}
        for pair, side in sorted(group.first.items()):
            logs = [case[pair] for case in cases if pair in case]
            if logs:
                samples[side].append(math.fsum(logs) / len(logs))
        a_first, b_first = samples["a"], samples["b"]
        if not a_first or not b_first:
            continue
        apart = np.subtract.outer(a_first, b_first)
        # The two kinds of pairs differ by the effect twice: it is on B's side in one and on A's in the other.
        twice = ratio_interval(np.exp(b_first).tolist(), np.exp(a_first).tolist(), LEVEL)
        ratios = twice and Interval(math.sqrt(twice.low), math.sqrt(twice.high), twice.coverage)
        ratio = math.exp(float(np.median(apart)) / 2)
        found.append(OrderEffect(group.name, len(cases), len(a_first), len(b_first), ratio, ratios))
    return found
