"""The bars of scripts/gate_simulation.py with fewer duets, and the page that holds its table."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from tandem_reports.gate.forecast import MOST_PAIRS, distance, forecast
from tandem_reports.gate.policy import SuitePolicy
from tandem_reports.reading.duet import Look
from tandem_reports.stats.paired import signed_rank_greater

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "scripts" / "gate_simulation.py"


@pytest.fixture(scope="module")
def simulation() -> ModuleType:
    spec = importlib.util.spec_from_file_location("gate_simulation", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


# Breaks when a noise has another spread than it says: every line would be about another CV.
def test_noises_have_the_spread_they_say(simulation: ModuleType) -> None:
    for name, noise in simulation.NOISES.items():
        times = noise(np.random.default_rng(1), 40000)
        spread = float(np.std(times[:, ::2] - times[:, 1::2])) / np.sqrt(2)
        assert spread == pytest.approx(1, abs=0.02), name


# Breaks when the gate rings too often, at the effect that is not to be rung for, under any of the noises.
@pytest.mark.parametrize("noise", range(6))
def test_few_false_alarms(simulation: ModuleType, noise: int) -> None:
    name = list(simulation.NOISES)[noise]
    (row,) = simulation.false_slower(name, 0.004, 300, np.random.default_rng(2))
    assert row.hits <= 7, "at a rate of 1 % 8 or more come in one of 80 runs"
    (same,) = simulation.false_same(name, 0.004, 600, np.random.default_rng(3))
    assert same.hits <= 12


# Breaks when unchanged builds stay unknown, a slow case is missed, or a forecast promises what does not come.
def test_soon_right(simulation: ModuleType) -> None:
    def rng() -> np.random.Generator:
        return np.random.default_rng(4)

    assert simulation.passes("log-normal", 0.003, 13, 200, rng())[0].share >= 0.94
    assert simulation.passes("log-normal", 0.004, 16, 200, rng())[0].share >= 0.92
    assert simulation.found(0.02, 0.005, 16, 200, rng())[0].share >= 0.95
    assert simulation.found(0.05, 0.005, 16, 200, rng())[0].share == 1
    case, either = simulation.everywhere(0.01, 0.006, 16, 100, rng())
    assert either.share > case.share
    (row,) = simulation.forecasts("log-normal", 0.0, 800, rng())
    assert row.trials > 200
    assert 0.7 <= row.share <= 0.92


# Breaks when a forecast is given where nothing can be decided, or where no duet would go.
def test_forecasts_are_looks_to_come() -> None:
    rules = SuitePolicy()
    rng = np.random.default_rng(5)
    noisy = rng.normal(0, 0.008, size=13).tolist()
    more = forecast(noisy, rules, 0.01, Look(2, 8), 20)
    assert more is not None
    assert 13 + more in (16, 20, 25, 31, 39, 48, 60)
    assert forecast(rng.normal(0, 0.2, size=8).tolist(), rules, 0.01, Look(1, 8), 20) is None
    assert forecast([], rules, 0.01, Look(0, 8), 20) == 8
    assert forecast([], rules, 0.01, Look(1, 1), 20) == 7
    assert forecast([0.1] * 5, rules, 0.01, Look(1, 1), 1) == 2
    assert MOST_PAIRS == 100
    # The distance is that of the test: normal values so far out are rejected about half the time.
    for n, alpha in ((13, 0.00025), (30, 0.001)):
        far = distance(n, alpha)
        hits = [signed_rank_greater(row, 0) <= alpha for row in rng.normal(far, 1, size=(400, n)).tolist()]
        assert 0.35 <= np.mean(hits) <= 0.65
    assert distance(7, 0.001) == np.inf


# Breaks when the page's table was not made by the script as it is.
def test_the_page_holds_the_table(simulation: ModuleType) -> None:
    page = (ROOT / "reports" / "GATE.md").read_text(encoding="utf-8")
    table = page.split(simulation.MARKS[0])[1].split(simulation.MARKS[1])[0]
    assert f"looks at {', '.join(map(str, simulation.PLAN))} pairs" in table
    assert "**no**" not in table, "a bar is missed"
    lines = [line for line in table.splitlines() if line.startswith("| ")]
    rows = simulation.rows(20, 1)
    assert [line.split(" | ")[0] for line in lines[2:]] == ["| " + row.what for row in rows]
