"""Change points over many runs: real steps soon, false ones hardly ever, the same answer every time."""

from __future__ import annotations

import csv
import io
import json
import math
import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fixture_runs
import pytest
from conftest import Outcome
from fixture_runs import Model, case, make_run

from simulations.trend import NOISES, false_and_found
from tandem_reports.stats.changepoints import segments


def starts(values: list[float]) -> list[int]:
    return [segment.first for segment in segments([values])[0]][1:]


def series(rng: random.Random, levels: list[tuple[int, float]], sd: float) -> list[float]:
    return [level * math.exp(rng.gauss(0, sd)) for count, level in levels for _ in range(count)]


def test_exact_steps() -> None:
    assert starts([100.0] * 10) == []
    assert starts([100.0] * 5 + [102.0] * 5) == [5]
    assert starts([100.0] * 4 + [102.0] * 4 + [90.0] * 4) == [4, 8]
    (found,) = segments([[100.0] * 4 + [110.0] * 4])
    assert [(s.first, s.last, round(s.level, 9)) for s in found] == [(0, 4, 100.0), (4, 8, 110.0)]


@pytest.mark.parametrize("n", [1, 2, 3])
def test_short_series_have_no_steps(n: int) -> None:
    assert starts([100.0, 150.0, 90.0][:n]) == []


# Steps under the minimum effect are nobody's business, however clear.
def test_small_steps_are_merged() -> None:
    assert starts([100.0] * 20 + [100.3] * 20) == []
    assert starts([100.0] * 20 + [101.0] * 20) == [20]


# One bad run, even a wild one, must not be reported as two changes.
@pytest.mark.parametrize("place", [0, 10, 29])
def test_single_outliers_make_no_step(place: int) -> None:
    values = series(random.Random(4), [(30, 100.0)], 0.003)
    values[place] *= 3
    assert starts(values) == []


# A 2 % step at a spread of 0.5 % is found within five runs, though one case says little of its correlation.
def test_a_two_percent_step_is_found_within_five_runs() -> None:
    rng = random.Random(20)
    trials, found = 300, 0
    for trial in range(trials):
        before = 10 + trial % 30
        direction = 1.02 if trial % 2 else 1 / 1.02
        steps = starts(series(rng, [(before, 100.0), (5, 100.0 * direction)], 0.005))
        found += any(abs(step - before) <= 2 for step in steps)
    assert found / trials >= 0.9


# The bar: at most one false step in 1,000 runs, whatever the spread.
@pytest.mark.parametrize("sd", [0.001, 0.005, 0.02])
def test_false_steps_are_rare(sd: float) -> None:
    rng = random.Random(31)
    runs = false = 0
    for length in (6, 12, 25, 50, 100) * 12:
        false += len(starts(series(rng, [(length, 100.0)], sd)))
        runs += length
    assert runs > 2000
    assert false / runs <= 1 / 1000


# The bars on whole histories, in short: 20 cases of 30 runs, a false step in any of them counts. Without
# control over the cases, or with neighbouring runs taken as independent, nearly every history had one.
@pytest.mark.parametrize(
    ("noise", "least"),
    [("AR(.5)", 0.7), ("independent", 0.9), ("two clock states, kept with .75", 0.0)],
)
def test_false_steps_of_a_whole_history(noise: str, least: float) -> None:
    histories = 80
    false, found = false_and_found(NOISES[noise], histories, seed=5)
    assert false <= 9, "more than 9 of 80 have a chance of 1 in 100 at 5 %"
    assert found / histories >= least


# A level that comes and goes again is two steps, and one that lasts two runs at the end is not yet one.
def test_a_level_that_returns() -> None:
    rng = random.Random(12)
    found = starts(series(rng, [(10, 100.0), (10, 105.0), (12, 100.0)], 0.005))
    assert [min(abs(start - place) for start in found) <= 1 for place in (10, 20)] == [True, True]
    assert len(found) == 2


# A long history takes no longer than a reader waits: pairs of splits would be 125,000 in each case.
def test_five_hundred_runs() -> None:
    rng = random.Random(3)
    values = series(rng, [(300, 100.0), (200, 103.0)], 0.01)
    assert any(abs(start - 300) <= 3 for start in starts(values))


def test_same_values_same_steps() -> None:
    values = series(random.Random(8), [(40, 10.0), (40, 10.4), (40, 9.9)], 0.006)
    assert len({tuple(starts(list(values))) for _ in range(3)}) == 1
    assert starts(values) == starts([1000 * value for value in values])


CASES = [case("decoder", model="t5-base", batch=batch) for batch in (1, 64)]


def many_runs(tmp_path: Path, count: int = 12) -> list[Path]:
    """A history in which batch 64 gets 4 % slower at run 7."""
    paths = []
    for index in range(count):
        late = index >= 7
        environment = fixture_runs.gpu_environment(f"run-{index:02}")
        environment["created"] = f"2026-02-{index + 1:02}T08:00:00Z"
        environment["git"]["revision"] = f"{index:040x}"
        model = Model(
            factor=lambda axes, late=late: 1.04 if late and axes["batch"] == 64 else 1.0,
            worker_sd=0.002,
            samples=12,
        )
        path = tmp_path / f"r{index}"
        make_run(path, CASES, workers=3, seed=index, model=model, environment=environment, keep_samples=False)
        paths.append(path)
    return paths


def test_trend_names_the_run(tmp_path: Path, cli: Callable[..., Outcome]) -> None:
    paths = many_runs(tmp_path)
    outcome = cli("trend", *paths)
    assert outcome.code == 0
    rows = [line for line in outcome.out.splitlines() if line.startswith("decoder")]
    assert rows[0].endswith("none")
    assert "% at run-07 (git 000000000000)" in rows[1]
    assert "2 cases, 1 step." in outcome.out
    assert cli("trend", *reversed(paths)).out == outcome.out


# Two runs are compared, not fitted: trend says what compare says.
def test_first_and_last_are_measured(tmp_path: Path, cli: Callable[..., Outcome]) -> None:
    paths = many_runs(tmp_path, 9)
    rows = [line for line in cli("trend", paths[0], paths[8]).out.splitlines() if line.startswith("decoder")]
    compared = cli("compare", paths[0], paths[8]).out
    changes = re.findall(r"[+−]\d+\.\d\d %", "\n".join(rows))
    assert changes == re.findall(r"[+−]\d+\.\d\d %", compared)
    assert float(changes[1].removesuffix(" %")) > 3


# A CI asks for a step to a slower level, and may look at the newest runs only; a faster one fails nothing.
def test_fail_on_step(tmp_path: Path, cli: Callable[..., Outcome]) -> None:
    paths = many_runs(tmp_path)
    assert cli("trend", *paths).code == 0
    outcome = cli("trend", *paths, "--fail-on-step")
    assert (outcome.code, outcome.err) == (1, "tandem-report: 1 step to a slower level\n")
    assert cli("trend", *paths, "--fail-on-step", "--newest", "5").code == 1
    assert cli("trend", *paths, "--fail-on-step", "--newest", "4").code == 0
    for path in paths:
        environment = json.loads((path / "environment.json").read_text())
        day = 28 - int(environment["created"][8:10])
        environment["created"] = f"2026-02-{day:02}T08:00:00Z"
        (path / "environment.json").write_text(json.dumps(environment))
    assert "1 step." in cli("trend", *paths).out
    assert cli("trend", *paths, "--fail-on-step").code == 0


# A step that the clock carries is one of the time and not of the cycles; the reader learns both.
def test_a_step_of_the_clock_says_so(tmp_path: Path, cli: Callable[..., Outcome]) -> None:
    paths = many_runs(tmp_path)
    for index, path in enumerate(paths):
        if index >= 7:
            records = path / "records.jsonl"
            records.write_text(records.read_text().replace('_mhz_median":1965', '_mhz_median":1889'))
    out = cli("trend", *paths).out
    assert re.search(r"clock 1,965 → 1,889 MHz, in cycles [+−]0\.\d\d %", out)


def test_trend_formats(tmp_path: Path, cli: Callable[..., Outcome]) -> None:
    paths = many_runs(tmp_path)
    rows = list(csv.DictReader(io.StringIO(cli("trend", *paths, "--format", "csv").out)))
    assert len(rows) == 24
    assert [row["run"] for row in rows if row["step"] == "1"] == ["run-07"]
    assert cli("trend", *paths, "--format", "markdown").out.count("\n") == 4
    for name in ("one", "two"):
        figure = tmp_path / f"{name}.svg"
        outcome = cli("trend", *paths, "--format", "html", "--out", tmp_path / name, "--figure", figure)
        assert outcome.code == 0
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    assert (tmp_path / "one.svg").read_bytes() == (tmp_path / "two.svg").read_bytes()
    assert '<svg class="figure"' in (tmp_path / "one").read_text()
    assert cli("trend", *paths, "--figure", tmp_path / "t.png").code == 0
    assert (tmp_path / "t.png").read_bytes()[:4] == b"\x89PNG"


# A new driver in the middle is no slow-down of the code: the runs before it do not count, and that is said.
def test_other_machines_are_left_out(tmp_path: Path, cli: Callable[..., Outcome]) -> None:
    paths = many_runs(tmp_path)
    for path in paths[:7]:
        environment: dict[str, Any] = json.loads((path / "environment.json").read_text())
        environment["software"]["driver"] = "570.00"
        (path / "environment.json").write_text(json.dumps(environment))
    outcome = cli("trend", *paths)
    assert outcome.out.count("5 (7 left out)") == 2
    assert "0 steps" in outcome.out


def test_trend_errors(tmp_path: Path, gpu_a: Path, cpu_smoke: Path, cli: Callable[..., Outcome]) -> None:
    for arguments, message in [
        ([gpu_a], "no case was measured by two comparable runs"),
        ([gpu_a, cpu_smoke], "no case was measured by two comparable runs"),
        ([gpu_a, gpu_a, "--figure", tmp_path / "x.pdf"], "must end in .svg or .png"),
        ([gpu_a, gpu_a, "--minimum-effect", "no"], "is not a percentage"),
        ([gpu_a, gpu_a, "--fail-on-step", "--newest", "0"], "is not a number of runs from 1"),
    ]:
        outcome = cli("trend", *arguments)
        assert outcome.code == 2
        assert message in outcome.err
