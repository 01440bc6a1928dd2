"""Change points over many runs: real steps soon, false ones hardly ever, the same answer every time."""

from __future__ import annotations

import csv
import io
import json
import math
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fixture_runs
import pytest
from conftest import Outcome
from fixture_runs import Model, case, make_run

from tandem_reports.stats.changepoints import segments


def starts(values: list[float]) -> list[int]:
    return [segment.first for segment in segments(values)][1:]


def series(rng: random.Random, levels: list[tuple[int, float]], sd: float) -> list[float]:
    return [level * math.exp(rng.gauss(0, sd)) for count, level in levels for _ in range(count)]


def test_exact_steps() -> None:
    assert starts([100.0] * 10) == []
    assert starts([100.0] * 5 + [102.0] * 5) == [5]
    assert starts([100.0] * 4 + [102.0] * 4 + [90.0] * 4) == [4, 8]
    found = segments([100.0] * 4 + [110.0] * 4)
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


# The bar: a 2 % step at a spread of 0.5 % is found within five runs.
def test_a_two_percent_step_is_found_within_five_runs() -> None:
    rng = random.Random(20)
    trials, found = 300, 0
    for trial in range(trials):
        before = 10 + trial % 30
        direction = 1.02 if trial % 2 else 1 / 1.02
        steps = starts(series(rng, [(before, 100.0), (5, 100.0 * direction)], 0.005))
        found += any(abs(step - before) <= 2 for step in steps)
    assert found / trials >= 0.97


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
    assert "data:image/svg+xml" in (tmp_path / "one").read_text()
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
    ]:
        outcome = cli("trend", *arguments)
        assert outcome.code == 2
        assert message in outcome.err
