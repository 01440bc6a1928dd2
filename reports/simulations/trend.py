"""How often trend is wrong: false steps and steps found in simulated histories. Seeded; prints Markdown.

Every history is 30 runs of 20 cases with a standard deviation of 1 % about a level, and goes through the
function that `tandem-report trend` calls. From the folder `reports`: python -m simulations.trend [HISTORIES]
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from tandem_reports.stats.changepoints import segments

Array = NDArray[np.float64]
Noise = Callable[[np.random.Generator], Array]

RUNS, CASES, SD, STEP_AT = 30, 20, 0.01, 15
HISTORIES = 1000


def autoregressive(rng: np.random.Generator, cases: int, correlation: float) -> Array:
    """Stationary AR(1) noise of unit variance, cases by runs."""
    fresh = rng.standard_normal((cases, RUNS))
    found = fresh.copy()
    for run in range(1, RUNS):
        found[:, run] = correlation * found[:, run - 1] + math.sqrt(1 - correlation**2) * fresh[:, run]
    return found


def two_states(rng: np.random.Generator, stay: float) -> Array:
    """Every run has one of two clocks, 3 % apart, for all cases; the next keeps it with chance `stay`."""
    leave = rng.random(RUNS) > stay
    state = (np.cumsum(leave) + rng.integers(2)) % 2
    return 3.0 * state[None, :] + 0.5 * rng.standard_normal((CASES, RUNS))


NOISES: dict[str, Noise] = {
    "independent": lambda rng: rng.standard_normal((CASES, RUNS)),
    "AR(.5)": lambda rng: autoregressive(rng, CASES, 0.5),
    "AR(.8)": lambda rng: autoregressive(rng, CASES, 0.8),
    "ten cases AR(.8), ten independent": lambda rng: np.concatenate([
        autoregressive(rng, CASES // 2, 0.8), rng.standard_normal((CASES // 2, RUNS))
    ]),
    "AR(.5), .8 of it shared by all cases": lambda rng: (
        0.8 * autoregressive(rng, 1, 0.5) + 0.6 * autoregressive(rng, CASES, 0.5)
    ),
    "t3": lambda rng: rng.standard_t(3, (CASES, RUNS)) / math.sqrt(3),
    "independent, 5 % spikes of 5 %": lambda rng: (
        rng.standard_normal((CASES, RUNS)) + 5 * (rng.random((CASES, RUNS)) < 0.05)
    ),
    "two clock states, drawn for each run": lambda rng: two_states(rng, 0.5),
    "two clock states, kept with .75": lambda rng: two_states(rng, 0.75),
}  # fmt: skip


def false_and_found(noise: Noise, histories: int, seed: int, effect: float = 0.03) -> tuple[int, int]:
    """Histories with any step where nothing changed, and those in which one case's step is found."""
    rng = np.random.default_rng(seed)
    false = found = 0
    for _ in range(histories):
        values = SD * noise(rng)
        false += any(len(levels) > 1 for levels in segments(np.exp(values).tolist()))
        values[0, STEP_AT:] += math.log1p(effect)
        stepped = segments(np.exp(values).tolist())[0]
        found += len(stepped) > 1
    return false, found


def main() -> None:
    """Prints the table."""
    histories = int(sys.argv[1]) if len(sys.argv) > 1 else HISTORIES
    print("| noise about the level | any false step | +3 % at run 15 found | +5 % |")
    print("| --- | ---: | ---: | ---: |")
    for seed, (name, noise) in enumerate(NOISES.items(), start=2026):
        false, found = false_and_found(noise, histories, seed)
        _, larger = false_and_found(noise, histories // 2, seed, 0.05)
        shares = (100 * false / histories, 100 * found / histories, 200 * larger / histories)
        print(f"| {name} | {shares[0]:.1f} % | {shares[1]:.0f} % | {shares[2]:.0f} % |", flush=True)


if __name__ == "__main__":
    main()
