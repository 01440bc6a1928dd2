"""What a reader does with the report's page: reads headlines, unfolds rows, points at figures, prints."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import Outcome
from test_report import Page, report, row_with

from tandem_reports.reading.runs import load_run
from tandem_reports.stats.cases import collect, marks
from tandem_reports.views.figures.floors import floors
from tandem_reports.views.figures.frontier import best
from tandem_reports.views.tables import case_table


# A reader of one page must be able to run a case again, and see all that its record says.
def test_each_case_has_its_command_and_its_record(
    gpu_a: Path, tmp_path: Path, cli: Callable[..., Outcome]
) -> None:
    text = report(gpu_a, tmp_path, cli)
    result = next(r for r in collect([load_run(gpu_a)]) if r.case.integer("batch") == 64 and r.ok)
    assert f"tandem repro fixture-gpu-a:{result.case.id}" in text
    assert "suite_decoder --model transformer-big --batch 64 --src 128 --tgt 128 --precision bf16 " in text
    assert "again (built from git 0123456789ab)" in text
    records = json.loads((tmp_path / "records" / f"{result.case.id}.json").read_text())
    assert [record["worker"] for record in records] == [0, 1, 2, 3, 4, 5]
    assert {record["id"] for record in records} == {result.case.id}
    lines = set((gpu_a / "records.jsonl").read_text().splitlines())
    assert all(json.dumps(record, separators=(",", ":")) in lines for record in records)


# "Reproduced from its record" needs the revision: without it a page says so.
def test_a_run_without_revision_says_so(
    good_record: dict[str, Any], run_with: Callable[..., Path], tmp_path: Path, cli: Callable[..., Outcome]
) -> None:
    run = run_with(good_record)
    environment = json.loads((run / "environment.json").read_text())
    environment["git"] = {"revision": None, "dirty": None}
    (run / "environment.json").write_text(json.dumps(environment))
    text = report(run, tmp_path / "out", cli)
    assert "again (from a revision that is not recorded)" in text
    assert "built from git" not in text


# A headline must not call the clock settled over rows that are throttled or not settled.
@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"clocks": {"throttled_samples": 3}}, "Of 1 case the clock was throttled in 1: see marks."),
        ({"warmup": {"steady": False}}, "Of 1 case the clock was not settled in 1: see marks."),
        ({}, ""),
    ],
)
def test_headlines_agree_with_their_records(
    change: dict[str, Any], said: str, good_record: dict[str, Any], run_with: Callable[..., Path],
    tmp_path: Path, cli: Callable[..., Outcome],
) -> None:  # fmt: skip
    run = run_with(good_record | change)
    text = report(run, tmp_path / "out", cli)
    assert said in text
    assert ("the clock was" in text) == bool(said)
    keys = {mark.key for mark in marks(collect([load_run(run)])[0])}
    assert ("sustained" in keys) != bool(said)


# `tiny` exists for tests: 600 floors of it on top of a page say nothing about any model.
def test_tiny_makes_no_headline(
    gpu_a: Path, cpu_smoke: Path, tmp_path: Path, cli: Callable[..., Outcome]
) -> None:
    assert "furthest from its floor" not in report(cpu_smoke, tmp_path / "cpu", cli)
    assert "furthest from its floor" in report(gpu_a, tmp_path / "gpu", cli)


# Two points make no curve: they stand in a table, with what they grow by.
def test_two_points_are_a_table(gpu_a: Path, tmp_path: Path, cli: Callable[..., Outcome]) -> None:
    text = report(gpu_a, tmp_path, cli)
    assert not (tmp_path / "figures" / "encoder-over-src.svg").exists()
    assert (tmp_path / "figures" / "decoder-over-batch.svg").exists()
    row = row_with(Page(text), "source")
    assert "source length (tokens) 128 → 512" in " ".join(row)


# Bars that begin anywhere but at 0 show a case at 16 % of its floor as nearly full.
def test_floor_bars_are_linear_from_nothing_to_all(gpu_a: Path) -> None:
    results = [r for r in collect([load_run(gpu_a)]) if r.ok and r.case.suite == "decoder"]
    figure = floors("decoder", results)
    assert figure is not None
    svg = figure.svg.decode()
    bars = r'<g class="tip"><title>(.*?): median [^<]*</title>\s*<path d="M ([\d.]+) [\d.]+ \s*L ([\d.]+)'
    widths = {name: float(right) - float(left) for name, left, right in re.findall(bars, svg)}
    times_ratio = [widths[result.case.name] * (result.floor_ratio or 0.0) for result in results]
    assert len(times_ratio) == 3
    assert max(times_ratio) == pytest.approx(min(times_ratio), rel=1e-3)


# Figures stand in the page with variables for colours, in files without; a point says its values in both.
def test_figures_follow_the_page_and_say_their_values(
    gpu_a: Path, tmp_path: Path, cli: Callable[..., Outcome]
) -> None:
    text = report(gpu_a, tmp_path, cli)
    assert "fill: var(--ink)" in text
    assert "fill: #1f2328" not in text
    file = (tmp_path / "figures" / "decoder-floors.svg").read_text()
    assert "var(" not in file
    for content in (text, file):
        assert re.search(
            r"<title>decoder/model:transformer-big/batch:1/[^<]*: median [\d.]+ µs, floor", content
        )


# Who beats whom: a point stays when none has less latency with as much throughput.
def test_the_frontier_keeps_what_is_not_beaten() -> None:
    assert best([(1.0, 10.0), (2.0, 30.0), (3.0, 20.0), (4.0, 40.0), (4.0, 35.0)]) == [0, 1, 3]
    assert best([(1.0, 1.0), (1.0, 2.0)]) == [1]


# Headers are buttons for keys, rows unfold by one, and nothing is folded on paper.
def test_tables_fold_and_print_whole(gpu_a: Path, tmp_path: Path, cli: Callable[..., Outcome]) -> None:
    text = report(gpu_a, tmp_path, cli)
    for column in case_table(
        [r for r in collect([load_run(gpu_a)]) if r.case.suite == "decoder"], marks
    ).columns:
        inside = f"<dt>{column.title}</dt>" if column.place == "fold" else f">{column.title}</th>"
        assert inside in text, column.title
    assert 'document.createElement("button")' in text
    assert "prefers-color-scheme: dark" in text
    assert "@media print" in text
