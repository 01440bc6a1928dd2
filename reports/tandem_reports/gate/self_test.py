"""How often the gate is wrong: false alarms and power, from recorded duets of builds that are known.

Duets of a build against itself say how often an unchanged build is called changed; duets against a build with
a planted slow-down (its environment says so) how often one of that size is found. What duets said live comes
first. What is recomputed from their pairs is called so: it knows no difference between two builds that should
be one, which redrawn labels take out.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tandem_reports.errors import ReportError
from tandem_reports.gate.comparison import Matching
from tandem_reports.gate.deciding import Evidence, decide
from tandem_reports.gate.policy import Policy, SuitePolicy
from tandem_reports.gate.verdicts import GateResult, gate, paired_logs
from tandem_reports.reading.duet import Look, read_duet
from tandem_reports.reading.records import Case
from tandem_reports.reading.runs import Run, load_runs
from tandem_reports.stats.cases import CaseResult
from tandem_reports.stats.small_samples import binomial_at_most

CONFIDENCE = 0.95
"""Of the bounds, each one-sided."""
LONG_US = 100.0
"""Cases over this are those that power and spread are promised for."""
SPREAD_LIMIT = 0.005
"""Coefficient of variation of process medians that a case should stay within."""


def upper_bound(hits: int, trials: int) -> float:
    """The largest rate that so few hits are still likely under (Clopper and Pearson 1934)."""
    if trials == 0 or hits == trials:
        return 1.0
    low, high = hits / trials, 1.0
    while (rate := (low + high) / 2) not in (low, high):
        if binomial_at_most(hits, trials, rate) > 1.0 - CONFIDENCE:
            low = rate
        else:
            high = rate
    return high


def lower_bound(hits: int, trials: int) -> float:
    """The smallest rate that so many hits are still likely under."""
    return 1.0 - upper_bound(trials - hits, trials)


@dataclass(frozen=True)
class KnownDuet:
    """A duet of which it is known what was planted. `logs` [case][pair] is ln(planted / plain), or ln(B / A).

    `groups` [case] numbers the worker processes that a case shared; where a pair lacks a case there is NaN.
    `looks` are the planned numbers of pairs.
    """

    path: Path
    percent: float
    alpha: float
    cases: tuple[Case, ...]
    rules: tuple[SuitePolicy, ...]
    groups: tuple[int, ...]
    logs: np.ndarray
    medians_us: tuple[float, ...]
    spreads: tuple[float, ...]
    looks: tuple[int, ...]
    live: GateResult
    expected: str
    spent_s: float | None
    end: str | None

    @property
    def pairs(self) -> int:
        """Pairs that were run."""
        return int(self.logs.shape[1])

    @property
    def long(self) -> list[int]:
        """Indices of the cases over LONG_US."""
        return [index for index, middle in enumerate(self.medians_us) if middle > LONG_US]

    @property
    def found_live(self) -> int:
        """Long cases whose live verdict is the expected one."""
        status = {verdict.case.id: verdict.status for verdict in self.live.verdicts}
        return sum(status.get(self.cases[index].id) == self.expected for index in self.long)


def _percent(run: Run) -> float:
    value = run.environment.planted.get("delay_percent", 0.0)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value < 0:
        raise ReportError(f"{run.path}: build.planted.delay_percent is not a percentage")
    return float(value)


def load_known(path: Path, policy: Policy) -> KnownDuet:
    """Loads a duet with what its environments say was planted. Raises ReportError."""
    if not (path / "a").is_dir() or not (path / "b").is_dir():
        raise ReportError(f"{path}: not a duet (a folder that holds the runs a and b)")
    notes = read_duet(path)
    a, b = load_runs([path / "a", path / "b"])
    planted = (_percent(a), _percent(b))
    if planted[0] and planted[1]:
        raise ReportError(f"{path}: both sides are planted builds; one must be plain")
    sign = -1.0 if planted[0] else 1.0
    taken = notes.taken if notes.taken or notes.plan else (Look(1, 1),)
    live = gate(a, b, policy, looks=taken, interleaved=True, ignore=notes.axes)
    matching = Matching(ignore=notes.axes)
    left, right = matching.select(a, ""), matching.select(b, "")
    shared = [key for key in left if key in right and left[key].ok and right[key].ok]
    if not shared:
        raise ReportError(f"{path}: no case was measured on both sides")
    paired = [paired_logs(left[key], right[key])[0] for key in shared]
    pairs = sorted(set().union(*paired))
    logs = np.array([[sign * by_pair.get(pair, math.nan) for pair in pairs] for by_pair in paired])
    spreads = tuple(max(map(_variation, (left[key], right[key]))) for key in shared)
    cases = tuple(left[key].case for key in shared)
    kinds = [
        (
            case.suite,
            *(case.axes[name] for name in ("engine", "model", "weights", "precision", "kv", "sparsity")),
            *(case.axes.get(name) for name in ("calibration", "head")),  # records before them lack both
        )
        for case in cases
    ]
    order = {kind: number for number, kind in enumerate(dict.fromkeys(kinds))}
    return KnownDuet(
        path=path,
        percent=max(planted),
        alpha=policy.alpha,
        cases=cases,
        rules=tuple(policy.of(case.suite) for case in cases),
        groups=tuple(order[kind] for kind in kinds),
        logs=logs,
        medians_us=tuple(left[key].median_us or 0.0 for key in shared),
        spreads=spreads,
        looks=notes.plan or (len(pairs),),
        live=live,
        expected="same" if not max(planted) else "faster" if planted[0] else "slower",
        spent_s=notes.spent_s,
        end=notes.end,
    )


def _variation(side: CaseResult) -> float:
    values = [r.summary.median_us for r in side.ok if r.summary is not None and not r.contended]
    return float(np.std(values, ddof=1) / np.mean(values)) if len(values) > 1 else math.nan


def whole_gate(duet: KnownDuet, logs: np.ndarray) -> list[str]:
    """The verdicts of a gate on these log-ratios [case][pair], with the looks that the duet had planned.

    It ends where nothing is unknown, or where the pairs run out: what a live duet would have added after that
    is not made up. A pair in which a case did not run, since it had left, is none of that case's.
    """
    pairs = logs.shape[1]
    looks = [
        Look(number, len(duet.looks), until)
        for number, until in enumerate(duet.looks, start=1)
        if until <= pairs
    ]
    cases = []
    for case, rules, row in zip(duet.cases, duet.rules, logs, strict=True):
        there = np.flatnonzero(np.isfinite(row))
        cases.append(Evidence(case.suite, rules, tuple(there.tolist()), tuple(row[there].tolist())))
    return [decision.status for decision in decide(cases, duet.alpha, looks)[0]]


@dataclass(frozen=True)
class FalseAlarms:
    """Gates of unchanged builds: live, and recomputed with the labels of each pair drawn anew."""

    duets: int
    decisions: int
    alarms: int
    verdicts: int
    unknown: int
    live_alarms: int

    @property
    def bound(self) -> float:
        """Upper bound of the rate of false alarms of a recomputed gate."""
        return upper_bound(self.alarms, self.decisions)

    @property
    def live_bound(self) -> float:
        """Upper bound of the rate of false alarms of a whole duet."""
        return upper_bound(self.live_alarms, self.duets)


def false_alarms(duets: Sequence[KnownDuet], decisions: int, rng: np.random.Generator) -> FalseAlarms:
    """Counts live alarms, and those of gates recomputed with other labels.

    As the driver draws who goes first: for each pair alone, and for all cases of a process at once.
    """
    alarms = verdicts = unknown = 0
    for number in range(decisions):
        duet = duets[number % len(duets)]
        signs = rng.choice([-1.0, 1.0], size=(1 + max(duet.groups), duet.pairs))
        labels = signs[list(duet.groups)]
        statuses = whole_gate(duet, duet.logs * labels)
        alarms += any(status in ("slower", "faster") for status in statuses)
        verdicts += len(statuses)
        unknown += statuses.count("unknown")
    live = sum(duet.live.count("slower", "faster", "failed", "missing") > 0 for duet in duets)
    return FalseAlarms(len(duets), decisions, alarms, verdicts, unknown, live)


@dataclass(frozen=True)
class Power:
    """How often a planted slow-down is found, over the long cases of all duets with it."""

    percent: float
    duets: int
    cases: int
    found_live: int
    trials: int
    found: int
    weakest: float
    ratio: float
    held: int

    @property
    def bound(self) -> float:
        """Lower bound of the rate at which it is found in recomputed gates."""
        return lower_bound(self.found, self.trials)

    @property
    def live_bound(self) -> float:
        """Lower bound of the rate at which a case is found live, as if cases were independent."""
        return lower_bound(self.found_live, self.cases)


PLANT_POINTS = 0.2
"""How far a case's growth may be from what was planted, in points; or two standard errors of its pairs."""


def holds(logs: np.ndarray, percent: float) -> bool:
    """Whether the pairs of a case grew by what was planted, within PLANT_POINTS or two standard errors."""
    known = logs[np.isfinite(logs)]
    if len(known) < 2:
        return False
    error = 100 * float(np.std(known, ddof=1)) / math.sqrt(len(known))
    return abs(100 * math.expm1(float(np.mean(known))) - percent) <= max(PLANT_POINTS, 2 * error)


def power(duets: Sequence[KnownDuet], trials: int, rng: np.random.Generator) -> Power:
    """Draws whole gates from the pairs of processes that ran, with replacement, and counts what they find."""
    found = total = live = cases = 0
    weakest = 1.0
    for duet in duets:
        hits = np.zeros(len(duet.cases), dtype=int)
        for _ in range(trials):
            drawn = rng.integers(0, duet.pairs, size=duet.pairs)
            statuses = whole_gate(duet, duet.logs[:, drawn])
            hits += [status == "slower" for status in statuses]
        for index in duet.long:
            found += int(hits[index])
            total += trials
            weakest = min(weakest, hits[index] / trials)
        live += duet.found_live
        cases += len(duet.long)
    centres = [float(np.nanmedian(duet.logs[index])) for duet in duets for index in duet.long]
    ratio = math.exp(float(np.median(centres))) if centres else math.nan
    held = sum(holds(duet.logs[index], duet.percent) for duet in duets for index in duet.long)
    return Power(duets[0].percent, len(duets), cases, live, total, found, float(weakest), ratio, held)


@dataclass(frozen=True)
class Spread:
    """Variation of process medians over the long cases of the duets of unchanged builds."""

    cases: int
    within: int
    processes: int
    largest: float


def spread(duets: Sequence[KnownDuet]) -> Spread:
    """Counts the long cases whose process medians vary by SPREAD_LIMIT at most, on the wider side."""
    values = [duet.spreads[index] for duet in duets for index in duet.long]
    within = sum(value <= SPREAD_LIMIT for value in values)
    processes = min((duet.pairs for duet in duets), default=0)
    return Spread(len(values), within, processes, max(values, default=math.nan))
