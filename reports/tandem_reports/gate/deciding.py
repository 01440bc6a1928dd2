"""What the pairs of a duet say over the looks at them, and which cases may leave it.

A case that is decided at a look leaves: it gets no more pairs and keeps its verdict, so that the time goes to
the noisy ones. It stays in the family of the others. Everything here follows from the pairs and from when the
looks were, so that a finished duet can be judged again, or extended, and says the same.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Sequence
from dataclasses import dataclass

from tandem_reports.gate.policy import SuitePolicy
from tandem_reports.reading.duet import Look
from tandem_reports.stats.paired import fewest_pairs, holm, signed_rank_greater, signed_rank_interval
from tandem_reports.stats.small_samples import Interval

SUITE_SHARE = 0.02
"""The part of alpha that goes to the means over the suites' cases. With more of it, none of the 13 pairs at
which one of 20 cases can first be slower may point the other way, which costs power."""
SAME_SHARES = (0.4, 0.15, 0.3)
"""What the first looks spend of the alpha for `same`; each one after them takes half of what is left. The
first is the least with which 8 pairs can decide, the third what unchanged builds with noise of 0.4 % need."""
GROWTH = 1.23
"""Pairs at a look over those at the look before, from the third on."""


@dataclass(frozen=True)
class Shares:
    """What one look may spend of alpha: on `same` for each case, on changes of cases, on means of suites."""

    same: float
    change: float
    suites: float


def shares(alpha: float, look: Look) -> Shares:
    """By Bonferroni all looks together keep alpha, for `same` and for changes, however many they are.

    They have no last one that takes all: a duet may be extended without a debt. The first of several looks
    comes with too few pairs to call one case of many slower, so that it spends on `same` alone; each one
    after it spends half of what is left. A single look takes all.
    """
    if look.of == 1:
        same = change = alpha
    else:
        first = len(SAME_SHARES)
        left = (1 - sum(SAME_SHARES)) / 2 ** max(look.number - first, 0)
        same = alpha * (SAME_SHARES[look.number - 1] if look.number <= first else left)
        change = alpha / 2 ** (look.number - 1) if look.number > 1 else 0.0
    return Shares(same, (1 - SUITE_SHARE) * change, SUITE_SHARE * change)


def planned_pairs(alpha: float, cases: int, looks: int) -> list[int]:
    """Pairs at which each of several looks is planned.

    The first look comes with the fewest pairs at which a case can be called the same, the second with one
    more than the fewest at which one can be called slower, so that a pair may point the other way; each one
    after it has GROWTH times as many. A single look has the fewest that can decide both.
    """
    if looks == 1:
        return [fewest_pairs(shares(alpha, Look(1, 1)).change / max(cases, 1))]
    plan = [fewest_pairs(shares(alpha, Look(1, looks)).same)]
    for number in range(2, looks + 1):
        share = shares(alpha, Look(number, looks))
        pairs = max(fewest_pairs(share.same), fewest_pairs(share.change / max(cases, 1)) + 1)
        plan.append(max(pairs, math.ceil(GROWTH * plan[-1])))
    return plan


@dataclass(frozen=True)
class Evidence:
    """One case: the log-ratios ln(B / A) of its pairs, by the pairs' numbers, which ascend."""

    suite: str
    rules: SuitePolicy
    pairs: tuple[int, ...]
    logs: tuple[float, ...]

    def until(self, look: Look) -> tuple[float, ...]:
        """The log-ratios that were there at a look."""
        return self.logs if look.pairs is None else self.logs[: bisect.bisect_left(self.pairs, look.pairs)]


@dataclass(frozen=True)
class Decision:
    """What the pairs of one case say: slower, faster, same or unknown. `interval` is of the log-ratio.

    `logs` are those that say it; `look` is the one that did, 0 where none has.
    """

    status: str
    look: int
    logs: tuple[float, ...]
    interval: Interval | None
    p_slower: float
    p_faster: float


@dataclass(frozen=True)
class SuiteDecision:
    """Whether the cases of a suite are slower in the mean. `logs` are the means over its cases, by pair.

    The pairs counted are those in which all cases ran: once one has left, there are no more. `look` is the
    one that found it slower, 0 where none has.
    """

    suite: str
    cases: int
    look: int
    logs: tuple[float, ...]
    interval: Interval | None
    p_slower: float

    @property
    def slower(self) -> bool:
        """Whether the mean is over the suite's minimum effect."""
        return self.look > 0


def inside(interval: Interval | None, band: float) -> bool:
    """Whether an interval of a log-ratio lies in ±band."""
    reach = math.log1p(band)
    return interval is not None and -reach <= interval.low and interval.high <= reach


def _p(logs: Sequence[float], rules: SuitePolicy) -> tuple[float, float]:
    shift = math.log1p(rules.minimum_effect)
    return signed_rank_greater(logs, shift), signed_rank_greater([-value for value in logs], shift)


class _Cases:
    """All cases over the looks."""

    def __init__(self, cases: Sequence[Evidence]) -> None:
        self.cases = cases
        self.left: dict[int, Decision] = {}

    def _family(self, side: str, p_values: dict[int, float]) -> list[float]:
        """The p of every case, gone ones too: what has been rejected stays so, and the rest can no more be.

        Without the gone ones Holm would divide alpha by fewer, and cases that are near the minimum effect
        would ring too often (Ye, Li, Liu and Yao 2013 give the sequential form of Holm).
        """
        gone = {index: 0.0 if found.status == side else 1.0 for index, found in self.left.items()}
        return [{**p_values, **gone}[index] for index in range(len(self.cases))]

    def take(self, look: Look, share: Shares) -> None:
        """One look: those that it decides leave."""
        going = [index for index in range(len(self.cases)) if index not in self.left]
        logs = {index: self.cases[index].until(look) for index in going}
        p = {index: _p(logs[index], self.cases[index].rules) for index in going}
        slower = holm(self._family("slower", {index: p[index][0] for index in going}), share.change)
        faster = holm(self._family("faster", {index: p[index][1] for index in going}), share.change)
        for index in going:
            interval = signed_rank_interval(logs[index], 1 - 2 * share.same)
            status = ""
            if slower[index]:
                status = "slower"
            elif faster[index]:
                status = "faster"
            elif inside(interval, self.cases[index].rules.equivalence):
                status = "same"
            if status:
                self.left[index] = Decision(status, look.number, logs[index], interval, *p[index])

    def decisions(self, share: Shares) -> list[Decision]:
        """Of all cases; open ones with the numbers of all their pairs."""
        found = []
        for index, case in enumerate(self.cases):
            decision = self.left.get(index)
            if decision is None:
                interval = signed_rank_interval(case.logs, 1 - 2 * share.same)
                decision = Decision("unknown", 0, case.logs, interval, *_p(case.logs, case.rules))
            found.append(decision)
        return found


class _Suite:
    """The mean over a suite's cases over the looks."""

    def __init__(self, cases: Sequence[Evidence], members: Sequence[int]) -> None:
        self.cases = [cases[index] for index in members]
        self.members = frozenset(members)
        self.pairs: tuple[int, ...] = ()
        self.look = 0
        common = set.intersection(*(set(case.pairs) for case in self.cases))
        by_pair = [dict(zip(case.pairs, case.logs, strict=True)) for case in self.cases]
        self.means = {
            pair: math.fsum(logs[pair] for logs in by_pair) / len(by_pair) for pair in sorted(common)
        }

    def logs(self, look: Look) -> tuple[float, ...]:
        return tuple(mean for pair, mean in self.means.items() if look.pairs is None or pair < look.pairs)

    def take(self, look: Look, alpha: float) -> None:
        if not self.look and signed_rank_greater(self.logs(look), self._shift()) <= alpha:
            self.look = look.number

    def _shift(self) -> float:
        return math.log1p(self.cases[0].rules.minimum_effect)

    def decision(self, last: Look, share: Shares) -> SuiteDecision:
        logs = self.logs(last)
        interval = signed_rank_interval(logs, 1 - 2 * share.same)
        p = signed_rank_greater(logs, self._shift())
        return SuiteDecision(self.cases[0].suite, len(self.cases), self.look, logs, interval, p)


def decide(
    cases: Sequence[Evidence], alpha: float, looks: Sequence[Look] = (Look(1, 1),)
) -> tuple[list[Decision], list[SuiteDecision]]:
    """The verdicts on several cases, and on the means of suites of at least two, after some looks.

    Holm over the cases, for slow-downs and for speed-ups. A gate passes only where every case is the same,
    so each case is tested for that without division by the cases: an intersection-union test (Berger 1982).
    Both ends of the band are tested, hence the interval at 1 - 2 alpha (Schuirmann 1987).

    The mean of a suite is tested against its minimum effect until a case leaves: after that its pairs are no
    more those of all cases, and what is left of its alpha stays unspent.
    """
    by_suite: dict[str, list[int]] = {}
    for index, case in enumerate(cases):
        by_suite.setdefault(case.suite, []).append(index)
    suites = [_Suite(cases, members) for members in by_suite.values() if len(members) > 1]
    all_cases = _Cases(cases)
    share = shares(alpha, Look(1, 1))
    for look in looks:
        share = shares(alpha, look)
        for suite in suites:
            if not suite.members & all_cases.left.keys():
                suite.take(look, share.suites / len(suites))
        all_cases.take(look, share)
    last = looks[-1] if looks else Look(1, 1)
    return all_cases.decisions(share), [suite.decision(last, share) for suite in suites]
