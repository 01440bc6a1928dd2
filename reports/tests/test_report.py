"""The report command: what stands on the page, determinism, and speed."""

from __future__ import annotations

import csv
import html.parser
import json
import os
import random
import re
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fixture_runs
import pytest
from conftest import REPOSITORY, Outcome
from fixture_runs import case

from tandem_reports.reading.audit import audit_samples
from tandem_reports.reading.runs import load_run, load_runs
from tandem_reports.stats.cases import MARKS, collect, marks
from tandem_reports.views.figures.curves import LIMITS, MAX_PANELS, _plates
from tandem_reports.views.glossary import terms
from tandem_reports.views.report_page import build
from tandem_reports.views.tables import case_table


class Page(html.parser.HTMLParser):
    """The text of a page, its tables, ids and what it refers to."""

    VOID = ("meta", "img", "input", "br", "link", "hr", "wbr")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.links: list[str] = []
        self.sources: list[str] = []
        self.rows: list[list[str]] = []
        self.open: list[str] = []
        self.feed(text)
        assert self.open == [], "unclosed elements"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        if values.get("id"):
            self.ids.append(str(values["id"]))
        if tag == "a":
            self.links.append(str(values.get("href")))
        for name in ("src", "data", "srcset"):
            if values.get(name):
                self.sources.append(str(values[name]))
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.rows and self.rows[-1] and "tr" in self.open:
            self.rows[-1][-1] += data.strip() + " "


def report(run: Path, out: Path, cli: Callable[..., Outcome]) -> str:
    outcome = cli("report", run, "--out", out)
    assert outcome.code == 0, outcome.err
    assert outcome.out == f"{out / 'report.html'}\n"
    return (out / "report.html").read_text()


def row_with(page: Page, *words: str) -> list[str]:
    found = [
        row
        for row in page.rows
        if all(any(word == cell.split()[0] for cell in row if cell) for word in words)
    ]
    assert found, words
    return found[0]


# Without it the page could lose a number or show another than the record holds.
def test_the_page_shows_what_the_records_hold(
    gpu_a: Path, tmp_path: Path, cli: Callable[..., Outcome]
) -> None:
    page = Page(report(gpu_a, tmp_path, cli))
    result = next(r for r in collect([load_run(gpu_a)]) if r.case.integer("batch") == 64 and r.ok)
    assert result.median_us is not None
    assert result.interval is not None
    found = row_with(page, "transformer-big", "64")
    row = " | ".join(found)
    assert f"{result.median_us:.1f}" in row
    assert f"{result.interval.low:.1f} – {result.interval.high:.1f}" in row
    assert f"{min(result.medians):.1f} – {max(result.medians):.1f}" in row
    assert f"{result.floor_us:.2f}" in row
    assert f"{result.floor_ratio:.2f}×" in row
    assert "0.0061 ≤ 0.02" in row
    assert "tokens equal" in row
    assert "GFLOP" in " ".join(page.rows[page.rows.index(found) + 1]), "folded below the row"


def test_one_worker_gets_no_interval(cpu_smoke: Path, tmp_path: Path, cli: Callable[..., Outcome]) -> None:
    text = report(cpu_smoke, tmp_path, cli)
    assert "no interval: 1 worker" in text
    assert "so that no interval across workers can be given" in text
    assert "needs a device; this machine has none" in text


# Without it a failure could drop off the page, or an invalid case could get a time.
def test_failures_and_skips_stand_with_their_reasons(
    gpu_a: Path, tmp_path: Path, cli: Callable[..., Outcome]
) -> None:
    text = report(gpu_a, tmp_path, cli)
    page = Page(text)
    for status, reason in [
        (
            "invalid",
            "logits differ from the reference (error 0.31 over 0.02, worst at step 3, row 17, token 8812",
        ),
        ("oom", "103079215104 bytes asked"),
        ("crashed", "signal 11 (segmentation fault) (attempt 2)"),
        ("timeout", "no record within 60 s"),
        ("skipped", "tp 4 needs 4 cards; this machine has 1"),
    ]:
        rows = [row for row in page.rows if row and row[0].strip() == status]
        assert any(reason in " ".join(row) for row in rows), status
    cases = (tmp_path / "cases.csv").read_text()
    assert "batch:128" not in cases


def test_a_failed_worker_marks_its_case(good_record: dict[str, Any], run_with: Callable[..., Path]) -> None:
    crashed = good_record | {"worker": 1, "status": "crashed", "reason": "signal 11", "summary": None}
    results = collect([load_run(run_with(good_record, crashed))])
    assert len(results) == 1
    assert next(mark.key for mark in marks(results[0])) == "partial"


SPOILED: list[tuple[str, dict[str, Any]]] = [
    (
        "changed",
        {"check": {"reference": "r", "error": 0, "tolerance": 1, "digest": "a", "digest_after": "b"}},
    ),
    ("profiler", {"process": {"profiler_mapped": True}}),
    ("unchecked", {"check": None}),
    ("below", {"floor": {"floor_us": 1e9}}),
    ("contended", {"contended": True}),
    ("throttled", {"clocks": {"throttled_samples": 3}}),
    ("unsteady", {"warmup": {"steady": False}}),
    ("capped", {"stop": {"reached": False}}),
    ("resident", {"l2": "resident"}),
    ("cold", {"l2": "cold"}),
    ("burst", {"regime": "burst"}),
    ("cpu", {"regime": "cpu"}),
]


# Without it a condition that makes a number suspect could go unsaid.
@pytest.mark.parametrize(("key", "change"), SPOILED)
def test_marks_come_from_the_record(
    key: str, change: dict[str, Any], good_record: dict[str, Any], run_with: Callable[..., Path],
    tmp_path: Path, cli: Callable[..., Outcome],
) -> None:  # fmt: skip
    run = run_with(good_record | change)
    assert key in {mark.key for mark in marks(collect([load_run(run)])[0])}
    label = next(mark.label for mark in MARKS if mark.key == key)
    assert label in report(run, tmp_path / "out", cli)


# Without it floors that a case has beaten, or that stand on doubtful ceilings, look as if they were right.
def test_ceilings_in_question_are_said_first(
    good_record: dict[str, Any], run_with: Callable[..., Path], tmp_path: Path, cli: Callable[..., Outcome]
) -> None:
    good = report(run_with(good_record, name="good"), tmp_path / "good-out", cli)
    assert "are in question: " not in good
    run = run_with(good_record | {"floor": {"floor_us": 1e9}}, name="beaten")
    assert "are in question: 1 case faster than the floor" in report(run, tmp_path / "out", cli)


ACCURACY = {
    "relative_error": 0.03, "kl": 0.0012, "tokens_agree": 0.98, "free_tokens_agree": 0.75, "tokens": 256,
    "teacher_forced": True,
    "against": "dense fp32", "synthetic_weights": True,
}  # fmt: skip


@pytest.mark.parametrize(
    ("axes", "accuracy", "marked"),
    [
        ({"precision": "fp8"}, None, True),
        ({"sparsity": "2:4"}, None, True),
        ({"kv": "fp8"}, None, True),
        ({"precision": "fp8"}, ACCURACY, False),
        ({}, None, False),
    ],
)
def test_lossy_cases_carry_their_accuracy(
    axes: dict[str, Any], accuracy: Any, marked: bool, tmp_path: Path, cli: Callable[..., Outcome]
) -> None:
    lossy = case("decoder", model="t5-base", **axes)
    record = fixture_runs.ok_record(lossy, 0, fixture_runs.Model(samples=24), random.Random(1), None)
    record["accuracy"] = accuracy
    run = fixture_runs.write_run(tmp_path / "run", fixture_runs.gpu_environment("lossy"), [record])
    text = report(run, tmp_path / "out", cli)
    assert ("accuracy not stated" in text) == marked
    if accuracy is not None:
        assert "relative error 0.0300" in text
        words = "KL 0.00120; tokens agree 0.980 (free-running 0.750); teacher-forced; synthetic weights"
        assert words in text
        assert "against: dense fp32, on 256 tokens" in text


# Without it the page would need the network, or a link in it would lead nowhere.
def test_the_page_is_self_contained(
    gpu_a: Path, cpu_smoke: Path, tmp_path: Path, cli: Callable[..., Outcome]
) -> None:
    outcome = cli("report", gpu_a, cpu_smoke, "--out", tmp_path)
    assert outcome.code == 0
    text = (tmp_path / "report.html").read_text()
    page = Page(text)
    assert page.sources == []
    assert text.count('<svg class="figure"') == len(list((tmp_path / "figures").glob("*.svg")))
    assert len(page.ids) == len(set(page.ids))
    inside = [link[1:] for link in page.links if link.startswith("#")]
    assert set(inside) <= set(page.ids)
    beside = [link for link in page.links if not link.startswith("#")]
    assert all(re.fullmatch(r"records/[0-9a-f]{16}-[12]\.json", link) for link in beside)
    assert {tmp_path / link for link in beside} == set((tmp_path / "records").iterdir())
    without_namespaces = re.sub(r'xmlns:xlink="[^"]*"', "", text)
    assert "http:" not in without_namespaces
    assert "https:" not in without_namespaces
    assert "@import" not in text
    assert str(gpu_a) not in text
    for figure in (tmp_path / "figures").glob("*.svg"):
        assert (figure.with_suffix(".png")).read_bytes()[:4] == b"\x89PNG"


# Text in records comes from file names, compilers and error messages: it must never become markup.
def test_text_from_records_is_escaped(
    good_record: dict[str, Any], run_with: Callable[..., Path], tmp_path: Path, cli: Callable[..., Outcome]
) -> None:
    evil = '<script>alert("x")</script>'
    failed = good_record | {"id": "ab" * 8, "status": "error", "reason": evil, "summary": None}
    named = json.loads(json.dumps(good_record))
    named["case"]["model"] = evil
    named["check"]["reference"] = evil
    text = report(run_with(named, failed), tmp_path / "out", cli)
    assert "<script>alert" not in text
    assert "&lt;script&gt;alert" in text


@pytest.mark.parametrize("reordered", [False, True])
def test_same_records_same_bytes(reordered: bool, gpu_a: Path, tmp_path: Path) -> None:
    """In fresh processes with other hash seeds, another folder and the lines in another order."""
    copy = tmp_path / "elsewhere" / "run"
    (copy / "samples").mkdir(parents=True)
    for file in gpu_a.rglob("*"):
        if file.is_file():
            (copy / file.relative_to(gpu_a)).write_bytes(file.read_bytes())
    if reordered:
        lines = (copy / "records.jsonl").read_text().splitlines(keepends=True)
        random.Random(4).shuffle(lines)
        (copy / "records.jsonl").write_text("".join(lines))
    for index, run in enumerate((gpu_a, copy)):
        command = [
            sys.executable,
            "-m",
            "tandem_reports",
            "report",
            str(run),
            "--out",
            str(tmp_path / str(index)),
        ]
        environment = os.environ | {"PYTHONHASHSEED": str(index + 1), "TZ": ("UTC", "Asia/Tokyo")[index]}
        subprocess.run(command, check=True, cwd=REPOSITORY / "reports", env=environment, capture_output=True)
    files = sorted(path.relative_to(tmp_path / "0") for path in (tmp_path / "0").rglob("*") if path.is_file())
    assert len(files) > 8
    assert files == sorted(p.relative_to(tmp_path / "1") for p in (tmp_path / "1").rglob("*") if p.is_file())
    for file in files:
        assert (tmp_path / "0" / file).read_bytes() == (tmp_path / "1" / file).read_bytes(), file


def test_default_folder_and_stale_figures(gpu_b: Path, tmp_path: Path, cli: Callable[..., Outcome]) -> None:
    run = tmp_path / "run"
    run.mkdir()
    for name in ("environment.json", "records.jsonl"):
        (run / name).write_bytes((gpu_b / name).read_bytes())
    figures = run / "report" / "figures"
    figures.mkdir(parents=True)
    (figures / "generate-over-batch-2.svg").write_text("old")
    (figures / "mine.svg").write_text("keep")
    assert cli("report", run).out == f"{run / 'report' / 'report.html'}\n"
    assert not (figures / "generate-over-batch-2.svg").exists()
    assert (figures / "mine.svg").read_text() == "keep"
    assert "The raw samples are not kept beside the records" in (run / "report" / "report.html").read_text()


# Without it a page could be made of samples that are not the record's.
@pytest.mark.parametrize("damage", ["flip", "cut", "escape"])
def test_damaged_samples_are_said(
    damage: str, gpu_a: Path, tmp_path: Path, cli: Callable[..., Outcome]
) -> None:
    run = tmp_path / "run"
    (run / "samples").mkdir(parents=True)
    for file in gpu_a.rglob("*"):
        if file.is_file():
            (run / file.relative_to(gpu_a)).write_bytes(file.read_bytes())
    victim = sorted((run / "samples").iterdir())[0]
    data = victim.read_bytes()
    if damage == "flip":
        victim.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    elif damage == "cut":
        victim.write_bytes(data[:-4])
    else:
        text = (run / "records.jsonl").read_text().replace(f"samples/{victim.name}", "../outside.f32")
        (run / "records.jsonl").write_text(text)
    outcome = cli("report", run)
    assert outcome.code == 0
    assert outcome.err.count("warning") == 1
    page = (run / "report" / "report.html").read_text()
    assert "samples differ" in page
    assert "The raw samples of 1 of 30 records do not match their record" in page


def test_an_empty_run_makes_a_page(run_with: Callable[..., Path], cli: Callable[..., Outcome]) -> None:
    outcome = cli("report", run_with())
    assert outcome.code == 0
    assert "holds no record" in outcome.err


def test_unwritable_output_is_one_line_and_exit_1(
    gpu_b: Path, tmp_path: Path, cli: Callable[..., Outcome]
) -> None:
    (tmp_path / "file").write_text("")
    outcome = cli("report", gpu_b, "--out", tmp_path / "file" / "out")
    assert outcome.code == 1
    assert "could not write" in outcome.err
    assert outcome.err.count("\n") == 1


def test_several_runs_stay_apart(gpu_a: Path, gpu_b: Path) -> None:
    runs = load_runs([gpu_a, gpu_b])
    results = [r for r in collect(runs) if r.ok and r.case.suite == "decoder"]
    table = case_table(results, marks)
    assert table.columns[0].title == "run"
    assert [row.cells[0].text for row in table.rows[:2]] == ["fixture-gpu-a", "fixture-gpu-b"]


def test_every_column_is_in_the_glossary(tmp_path: Path) -> None:
    run = fixture_runs.make_run(
        tmp_path / "run", fixture_runs.wide_cases(), workers=2, model=fixture_runs.Model(samples=24)
    )
    known = {term.key for group in terms().values() for term in group} | {"", "marks"}
    for suite in ("encoder", "decoder", "generate"):
        table = case_table([r for r in collect([load_run(run)]) if r.case.suite == suite], marks)
        assert {column.term for column in table.columns} <= known
    keys = [term.key for group in terms().values() for term in group]
    assert len(keys) == len(set(keys))


# Other suites have no shape and no check of their own kind; the table must fit them too.
def test_kernel_and_limit_rows(tmp_path: Path, cli: Callable[..., Outcome]) -> None:
    records = []
    for suite, op in (("limits", "read"), ("limits", "gemm"), ("memory", "cold_load"), ("kernels", "norm")):
        record = fixture_runs.ok_record(
            case(suite, op=op), 0, fixture_runs.Model(samples=24), random.Random(2), None
        )
        record["metrics"] = {"gigabytes_per_second": 4400.0, "teraflops": 786.0 if op == "gemm" else None}
        record["floor"] = None
        records.append(record)
    run = fixture_runs.write_run(tmp_path / "run", fixture_runs.gpu_environment("limits"), records)
    text = report(run, tmp_path / "out", cli)
    assert "4,400" in text
    assert "Limits of the machine" in text
    assert "cold_load" in text
    rows = list(csv.DictReader((tmp_path / "out" / "cases.csv").read_text().splitlines()))
    assert [row["op"] for row in rows] == ["norm", "cold_load", "gemm", "read"]
    assert rows[0]["floor_us"] == ""


def test_figures_are_bounded_and_say_so(tmp_path: Path) -> None:
    axes = [
        case("generate", model=model, batch=batch, src=src, precision=precision, sparsity=sparsity)
        for model in fixture_runs.PARAMETERS
        for batch in (1, 8, 64)
        for src in (128, 512, 1024, 2048)
        for precision in ("bf16", "fp16")
        for sparsity in ("dense", "2:4")
    ]
    run = fixture_runs.make_run(tmp_path / "run", axes, workers=1, model=fixture_runs.Model(samples=6))
    results = collect([load_run(run)])
    plates = list(_plates("generate", results, 2, 2))
    assert len(plates) == 4
    assert plates[0].left_out == "2 more shapes and 6 more lines"
    assert all(len(plate.labels) <= 7 for plate in plates)
    assert min(rows * figures for rows, figures in LIMITS) * 3 * 2 * 3 <= MAX_PANELS


# The bar is 10 s of a core of its own. Processor time is asked for, and three times the bar: beside four busy
# processes on two cores the report was seen to take 14 s.
def test_a_thousand_records_take_seconds(tmp_path: Path) -> None:
    axes = [
        case(suite, model=model, batch=batch, src=src, precision=precision, engine=engine)
        for suite in ("encoder", "decoder", "generate")
        for model in fixture_runs.PARAMETERS
        for batch in (1, 8, 16, 32, 64)
        for src in (64, 128, 512)
        for precision in ("bf16", "fp16", "fp8")
        for engine in ("cuda", "reference")
    ][:1000]
    run = fixture_runs.make_run(
        tmp_path / "run", axes, workers=1, model=fixture_runs.Model(samples=24), keep_samples=False
    )
    assert len((run / "records.jsonl").read_text().splitlines()) == 1000
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, "-m", "tandem_reports", "report", str(run)]
    subprocess.run(command, check=True, cwd=REPOSITORY / "reports", capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    print(f"1,000 records: {seconds:.1f} s of processor time")
    assert seconds < 30


def test_build_needs_no_files(gpu_b: Path) -> None:
    runs = load_runs([gpu_b])
    text, pictures, table = build(runs, audit_samples(runs))
    assert text.startswith("<!doctype html>")
    assert {picture.name for picture in pictures} >= {
        "decoder-over-batch",
        "decoder-frontier",
        "encoder-floors",
        "spread",
    }
    assert len(table.splitlines()) == 6


# Breaks when a check that an earlier run made passes on the page for one made now.
def test_a_remembered_check_says_when_it_was_made(cpu_smoke: Path, tmp_path: Path) -> None:
    lines = [json.loads(line) for line in (cpu_smoke / "records.jsonl").read_text().splitlines()]
    lines[0]["check"]["remembered_from"] = "2026-01-02T03:04:05Z"
    (tmp_path / "records.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (tmp_path / "environment.json").write_bytes((cpu_smoke / "environment.json").read_bytes())
    records = load_run(tmp_path).records
    made = {r.case.id: r.check.remembered_from for r in records if r.check is not None}
    assert made.pop(lines[0]["id"]) == "2026-01-02T03:04:05Z"
    assert made
    assert not any(made.values())
    runs = load_runs([tmp_path])
    assert "made 2026-01-02T03:04:05Z" in build(runs, audit_samples(runs))[0]
