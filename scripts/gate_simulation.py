#!/usr/bin/env python3
"""How often is the gate wrong, and how soon is it right? Seeded duets of invented noise, judged by the gate.

usage: .venv/bin/python scripts/gate_simulation.py [--duets N] [--seed N] [--jobs N] [--write PAGE]

Prints a table, or puts it on a page (reports/GATE.md) between its two marks. A duet here has 20 cases of one
suite and up to 64 pairs; a case that is decided leaves. The noise is that of a process: CV is the standard
deviation of ln(B / A) over sqrt(2), in percent, whatever the distribution.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from tandem_reports.gate import deciding
from tandem_reports.gate.deciding import (
    Decision,
    Evidence,
    SuiteDecision,
    decide,
    planned_pairs,
)
from tandem_reports.gate.forecast import forecast
from tandem_reports.gate.policy import SuitePolicy
from tandem_reports.gate.self_test import lower_bound, upper_bound
from tandem_reports.reading.duet import Look

CASES, LOOKS, ALPHA = 20, 8, 0.01
PLAN = planned_pairs(ALPHA, CASES, LOOKS)
RULES = SuitePolicy()
MARKS = ("<!-- gate_simulation -->", "<!-- /gate_simulation -->")

Noise = Callable[[np.random.Generator, int], np.ndarray]
"""ln(time) of [case][process] in the order in which processes run, with a standard deviation of ln(B / A) of
sqrt(2) between the two processes of a pair."""


def log_normal(rng: np.random.Generator, processes: int) -> np.ndarray:
    """Each process is independent."""
    return rng.normal(size=(CASES, processes))


def student(rng: np.random.Generator, processes: int) -> np.ndarray:
    """Heavy tails: Student's t with 3 degrees of freedom."""
    return rng.standard_t(3, size=(CASES, processes)) / math.sqrt(3)


def spikes(rng: np.random.Generator, processes: int) -> np.ndarray:
    """One process of twenty is slower, by 5 standard deviations of the others in the mean."""
    shape = (CASES, processes)
    noise = rng.normal(size=shape) + (rng.random(shape) < 0.05) * rng.exponential(
        5, size=shape
    )
    return noise / math.sqrt(1 + 0.05 * 2 * 25 - (0.05 * 5) ** 2)


def shared(rng: np.random.Generator, processes: int) -> np.ndarray:
    """Half of the variance is common to all cases of a process."""
    own = rng.normal(size=(CASES, processes))
    return (own + rng.normal(size=(1, processes))) / math.sqrt(2)


def autoregressive(rng: np.random.Generator, processes: int) -> np.ndarray:
    """Each process remembers half of what the one before it was."""
    shocks = rng.normal(size=(CASES, processes)) * math.sqrt(1 - 0.25)
    series = np.empty_like(shocks)
    series[:, 0] = rng.normal(size=CASES)
    for step in range(1, processes):
        series[:, step] = 0.5 * series[:, step - 1] + shocks[:, step]
    return series / math.sqrt(1 - 0.5)


def two_clocks(rng: np.random.Generator, processes: int) -> np.ndarray:
    """Half of the variance of a pair is a card with two clocks, which changes in a fifth of the steps."""
    state = np.cumsum(rng.random(processes) < 0.2) % 2
    step = math.sqrt(1 / 0.2)
    return rng.normal(size=(CASES, processes)) / math.sqrt(2) + step * state


NOISES: dict[str, Noise] = {
    "log-normal": log_normal,
    "t3": student,
    "5 % spikes": spikes,
    "shared by a process": shared,
    "AR(0.5)": autoregressive,
    "two clock states": two_clocks,
}


def duet(
    rng: np.random.Generator, noise: Noise, cv: float, change: Sequence[float]
) -> list[Evidence]:
    """The pairs of a duet of cases that are changed by so much; who goes first is drawn for each pair."""
    pairs = PLAN[-1]
    times = noise(rng, 2 * pairs)[: len(change)] * cv
    turned = rng.random(pairs) < 0.5
    logs = np.where(
        turned, times[:, ::2] - times[:, 1::2], times[:, 1::2] - times[:, ::2]
    )
    logs += np.log1p(np.asarray(change))[:, None]
    numbers = tuple(range(pairs))
    return [Evidence("encoder", RULES, numbers, tuple(row)) for row in logs.tolist()]


LOOKS_TAKEN = tuple(
    Look(number, LOOKS, pairs) for number, pairs in enumerate(PLAN, start=1)
)


def judged(cases: Sequence[Evidence]) -> tuple[list[Decision], list[SuiteDecision]]:
    """What the gate decides over all planned looks."""
    return decide(cases, ALPHA, LOOKS_TAKEN)


def by(decision: Decision, status: str, pairs: int) -> bool:
    """Whether a case has a status after so many pairs at most."""
    return decision.status == status and PLAN[decision.look - 1] <= pairs


@dataclass(frozen=True)
class Row:
    """One line: what was simulated, what came of how many, and the bar.

    `most` and `least` are for the share that was seen, `bound` for its upper 95 % bound.
    """

    what: str
    noise: str
    hits: int
    trials: int
    most: float = 1.0
    least: float = 0.0
    bound: float = 1.0

    @property
    def share(self) -> float:
        """The share that was seen."""
        return self.hits / self.trials

    @property
    def holds(self) -> bool:
        """Whether the bar is kept."""
        return (
            self.least <= self.share <= self.most
            and upper_bound(self.hits, self.trials) <= self.bound
        )

    @property
    def cells(self) -> list[str]:
        """The line of the table."""
        bars = [f"bound <= {100 * self.bound:g} %"] if self.bound < 1 else []
        bars += [f">= {100 * self.least:g} %"] if self.least else []
        bars += [f"<= {100 * self.most:g} %"] if self.most < 1 else []
        low, high = (
            lower_bound(self.hits, self.trials),
            upper_bound(self.hits, self.trials),
        )
        kept = ("yes" if self.holds else "**no**") if bars else ""
        seen = f"{100 * self.share:.4g} % ({100 * low:.3g} to {100 * high:.3g})"
        return [self.what, self.noise, str(self.trials), seen, ", ".join(bars), kept]


UNCHANGED = (0.0,) * CASES


def false_slower(
    name: str, cv: float, duets: int, rng: np.random.Generator
) -> list[Row]:
    """Every case is slower by the minimum effect: nothing may be called slower, no mean either."""
    hits = 0
    for _ in range(duets):
        decisions, suites = judged(
            duet(rng, NOISES[name], cv, [RULES.minimum_effect] * CASES)
        )
        hits += any(item.status == "slower" for item in decisions) or any(
            item.slower for item in suites
        )
    what = f"all cases +0.5 %, CV {100 * cv:g} %: a gate is red"
    return [Row(what, name, hits, duets, bound=0.015)]


def false_same(name: str, cv: float, duets: int, rng: np.random.Generator) -> list[Row]:
    """Just outside the band. A duet of 20 such cases counts 20 times: none of them knows of the others."""
    hits = 0
    for _ in range(duets // CASES):
        decisions, _ = judged(duet(rng, NOISES[name], cv, [0.0101] * CASES))
        hits += sum(item.status == "same" for item in decisions)
    what = f"a case +1.01 %, CV {100 * cv:g} %: it is the same"
    return [Row(what, name, hits, duets // CASES * CASES, most=0.01)]


def passes(
    name: str,
    cv: float,
    pairs: int,
    duets: int,
    rng: np.random.Generator,
    least: float = 0.0,
) -> list[Row]:
    """Unchanged builds: exit 0 within so many pairs."""
    hits = 0
    for _ in range(duets):
        decisions, suites = judged(duet(rng, NOISES[name], cv, UNCHANGED))
        hits += all(by(item, "same", pairs) for item in decisions) and not any(
            item.slower for item in suites
        )
    return [
        Row(
            f"no change, CV {100 * cv:g} %: exit 0 by {pairs} pairs",
            name,
            hits,
            duets,
            least=least,
        )
    ]


def found(
    change: float,
    cv: float,
    pairs: int,
    duets: int,
    rng: np.random.Generator,
    least: float = 0.0,
) -> list[Row]:
    """One case of the family is slower: found within so many pairs."""
    hits = 0
    for _ in range(duets):
        decisions, _ = judged(duet(rng, log_normal, cv, [change, *UNCHANGED[1:]]))
        hits += by(decisions[0], "slower", pairs)
    what = f"one case +{100 * change:g} %, CV {100 * cv:g} %: found by {pairs} pairs"
    return [Row(what, "log-normal", hits, duets, least=least)]


def everywhere(
    change: float, cv: float, pairs: int, duets: int, rng: np.random.Generator
) -> list[Row]:
    """All cases are slower: a gate is red by one of them, and by one of them or their mean."""
    single = either = 0
    for _ in range(duets):
        decisions, suites = judged(duet(rng, log_normal, cv, [change] * CASES))
        case = any(by(item, "slower", pairs) for item in decisions)
        single += case
        either += case or any(
            item.slower and PLAN[item.look - 1] <= pairs for item in suites
        )
    what = f"all cases +{100 * change:g} %, CV {100 * cv:g} %, {pairs} pairs: red by "
    return [
        Row(what + "a case", "log-normal", single, duets),
        Row(what + "a case or the mean", "log-normal", either, duets),
    ]


def forecasts(
    name: str, change: float, duets: int, rng: np.random.Generator
) -> list[Row]:
    """Forecasts for unknown cases at each look, of noisy cases: the share that is decided when they said."""
    hits = trials = 0
    for number in range(duets // 4):
        cv = (0.004, 0.006, 0.008, 0.01)[number % 4]
        cases = duet(rng, NOISES[name], cv, [change, *UNCHANGED[1:]])
        decisions, _ = judged(cases)
        for case, decision in zip(cases[:2], decisions[:2], strict=True):
            if change and case is not cases[0]:
                continue
            for look in LOOKS_TAKEN:
                if decision.look and look.number >= decision.look:
                    break
                more = forecast(case.until(look), RULES, ALPHA, look, CASES)
                until = PLAN[look.number - 1] + (more or 0)
                if more is None or until > PLAN[-1]:
                    continue
                trials += 1
                hits += decision.look > 0 and PLAN[decision.look - 1] <= until
    change_words = f"+{100 * change:g} %" if change else "no change"
    what = f"{change_words}, CV 0.4 to 1 %: decided when the forecast says"
    return [Row(what, name, hits, trials, least=0.7, most=0.9)]


SUITE_SHARE = deciding.SUITE_SHARE


def lines() -> list[tuple[Callable[..., list[Row]], dict[str, Any]]]:
    """All lines of the table, in its order: a function, and what it is called with beside duets and rng."""
    found_at_13 = {"change": 0.02, "cv": 0.005, "pairs": 13}
    return [
        *[(false_slower, {"name": name, "cv": 0.004}) for name in NOISES],
        (false_slower, {"name": "log-normal", "cv": 0.01}),
        *[(false_same, {"name": name, "cv": 0.004}) for name in NOISES],
        *[(false_same, {"name": "log-normal", "cv": cv}) for cv in (0.002, 0.008)],
        (passes, {"name": "log-normal", "cv": 0.003, "pairs": 13, "least": 0.95}),
        (passes, {"name": "log-normal", "cv": 0.004, "pairs": 16, "least": 0.95}),
        *[
            (passes, {"name": name, "cv": 0.004, "pairs": 16})
            for name in list(NOISES)[1:]
        ],
        (found, {"change": 0.02, "cv": 0.005, "pairs": 16, "least": 0.95}),
        (found, {"change": 0.05, "cv": 0.005, "pairs": 16, "least": 0.999}),
        *[
            (found, {**found_at_13, "suite_share": share})
            for share in (0.0, SUITE_SHARE, 0.05, 0.2)
        ],
        (everywhere, {"change": 0.01, "cv": 0.006, "pairs": 16}),
        *[(forecasts, {"name": name, "change": 0.0}) for name in NOISES],
        (forecasts, {"name": "log-normal", "change": 0.02}),
    ]


def line(number: int, duets: int, seed: int) -> list[Row]:
    """One line, with random numbers of its own, so that lines can be made in any order."""
    function, arguments = lines()[number]
    share = arguments.pop("suite_share", None)
    deciding.SUITE_SHARE = SUITE_SHARE if share is None else share
    try:
        made = function(
            duets=duets,
            rng=np.random.default_rng([seed, 99 if share is not None else number]),
            **arguments,
        )
    finally:
        deciding.SUITE_SHARE = SUITE_SHARE
    if share is None:
        return made
    return [
        replace(row, what=f"{row.what}, means have {100 * share:g} % of alpha")
        for row in made
    ]


def rows(duets: int, seed: int, jobs: int = 1) -> list[Row]:
    """The whole table."""
    work = partial(line, duets=duets, seed=seed)
    numbers = range(len(lines()))
    if jobs == 1:
        return [row for number in numbers for row in work(number)]
    with ProcessPoolExecutor(jobs) as pool:
        return [row for made in pool.map(work, numbers) for row in made]


def as_markdown(table: Sequence[Row], duets: int, seed: int) -> str:
    """The table with how it was made."""
    header = ["what", "noise", "trials", "share (95 % bounds)", "bar", "kept"]
    lines = [
        (
            f"`scripts/gate_simulation.py --duets {duets} --seed {seed}`: looks at "
            f"{', '.join(map(str, PLAN))} pairs, {CASES} cases of one suite."
        ),
        "",
        "| " + " | ".join(header) + " |",
        "| " + " | ".join(["---"] * len(header)) + " |",
    ]
    return (
        "\n".join([*lines, *("| " + " | ".join(row.cells) + " |" for row in table)])
        + "\n"
    )


def main() -> int:
    """0 where all bars are kept, 1 otherwise."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument(
        "--duets", type=int, default=4000, help="a line (default: %(default)s)"
    )
    parser.add_argument("--seed", type=int, default=21, help="(default: %(default)s)")
    parser.add_argument(
        "--jobs", type=int, default=1, help="processes that share the lines"
    )
    parser.add_argument(
        "--write",
        metavar="PAGE",
        type=Path,
        help="put the table between the marks of a page",
    )
    arguments = parser.parse_args()
    if arguments.duets < CASES:
        parser.error(f"--duets: {arguments.duets} is not allowed; {CASES} or more")
    table = rows(arguments.duets, arguments.seed, arguments.jobs)
    text = as_markdown(table, arguments.duets, arguments.seed)
    if arguments.write is None:
        print(text, end="")
    else:
        page = arguments.write.read_text(encoding="utf-8")
        before, rest = page.split(MARKS[0], 1)
        after = rest.split(MARKS[1], 1)[1]
        arguments.write.write_text(
            f"{before}{MARKS[0]}\n{text}{MARKS[1]}{after}", encoding="utf-8"
        )
    return 0 if all(row.holds for row in table) else 1


if __name__ == "__main__":
    sys.exit(main())
