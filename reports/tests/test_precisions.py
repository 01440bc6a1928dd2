"""Precisions side by side: speed-up over bf16, what it loses, and what it holds in memory."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fixture_runs
import pytest
from conftest import Outcome
from fixture_runs import Model, base_record, case, make_run

from tandem_reports.errors import ReportError
from tandem_reports.gate.precisions import Format, FormatGroup, format_groups, format_label, frontier
from tandem_reports.reading.records import parse_record
from tandem_reports.reading.runs import load_run, load_runs
from tandem_reports.stats.cases import CaseResult, collect, marks
from tandem_reports.views.figures.footprints import footprints
from tandem_reports.views.figures.pareto import MAX_PANELS, pareto, spaced
from tandem_reports.views.figures.speedups import LOSS, panels, speedups, tile
from tandem_reports.views.labels import short_name
from tandem_reports.views.precisions import evidence, losses_text, speedup_text
from tandem_reports.views.tables import Cell, case_table

PRECISIONS = ("bf16", "fp8", "w8a16", "w4a16")
TIMES = {"bf16": 1.0, "fp8": 0.5, "w8a16": 0.8, "w4a16": 0.7}
ERRORS = {"fp8": 0.03, "w8a16": 0.006, "w4a16": 0.09}
SIZES = {"bf16": 2.0, "fp8": 1.0, "w8a16": 1.0, "w4a16": 0.5}
PHASES = [
    {"side": "decoder", "phase": "self.attention", "bytes_read": 1e6, "bytes_written": 2e5, "flops": 1.0},
    {"side": "decoder", "phase": "cross.attention", "bytes_read": 3e6, "bytes_written": 0, "flops": 1.0},
    {"side": "decoder", "phase": "ffn.up", "bytes_read": 9e6, "bytes_written": 0, "flops": 1.0},
]


def decoder(batch: int = 1, precision: str = "bf16", **axes: Any) -> dict[str, Any]:
    return case("decoder", model="t5-base", batch=batch, precision=precision, **axes)


def fields(axes: dict[str, Any]) -> dict[str, Any]:
    """Accuracy, memory and phases of a record."""
    error = ERRORS.get(axes["precision"], 0.002 if axes["kv"] != "same" else None)
    encoder = axes["suite"] == "encoder"
    stated = {
        "relative_error": error, "kl": None if encoder else 0.001, "tokens_agree": None if encoder else 0.98,
        "free_tokens_agree": None if encoder else 0.75, "tokens": 256,
        "teacher_forced": not encoder, "against": "dense fp32",
        "synthetic_weights": axes["weights"] != "checkpoint",
    }  # fmt: skip
    weights = 2e8 * SIZES[axes["precision"]]
    return {
        "accuracy": None if error is None else stated,
        "memory": {"weights_bytes": weights, "peak_bytes": weights + 1e8, "planned_bytes": None},
        "cost": {"bytes": 1e8, "flops": 1e9, "phases": [] if encoder else PHASES},
    }


def results(
    path: Path,
    cases: list[dict[str, Any]],
    *,
    workers: int = 6,
    slow: dict[tuple[int, str], float] | None = None,
) -> list[CaseResult]:
    """Times are those of bf16 by TIMES, or by `slow` for a batch and precision."""

    def factor(axes: dict[str, Any]) -> float:
        twin = axes | {"precision": "bf16"}
        by = (slow or {}).get((axes["batch"], axes["precision"]), TIMES[axes["precision"]])
        return by * expected(twin) / expected(axes)

    model = Model(factor=factor, worker_sd=0.001, samples=12, extra=fields)
    return collect([load_run(make_run(path, cases, workers=workers, model=model, keep_samples=False))])


def expected(axes: dict[str, Any]) -> float:
    """What fixture_runs takes a case's time from."""
    size, flops, _ = fixture_runs.work(axes)
    rates = fixture_runs.RATES[axes["engine"]]
    return 1.18 * max(size / rates[0], flops / rates[1]) + 24


def grid(batches: tuple[int, ...] = (1, 8, 64)) -> list[dict[str, Any]]:
    return [decoder(batch, precision) for batch in batches for precision in PRECISIONS]


def by_label(group: FormatGroup) -> dict[str, Format]:
    return {found.label: found for found in group.formats}


def rewrite(run: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    path = run / "records.jsonl"
    records = [json.loads(line) for line in path.read_text().splitlines()]
    for record in records:
        change(record)
    path.write_text("".join(json.dumps(record) + "\n" for record in records))


# Without it a speed-up could be over another batch, another shape or another run.
def test_the_denominator_is_the_twin_in_bf16(tmp_path: Path) -> None:
    others = [
        decoder(1, "fp8", src=512),
        decoder(1, "fp8", weights="seed:1"),
        decoder(1, "fp8", kernel="own"),
    ]
    groups = format_groups(results(tmp_path / "run", [*grid(), *others]))
    assert [group.case.integer("batch") for group in groups] == [1, 8, 64]
    for group in groups:
        assert [found.label for found in group.formats] == list(PRECISIONS)
        assert group.baseline is not None
        for found in group.formats[1:]:
            assert found.speedup == pytest.approx(1 / TIMES[found.label], rel=0.01)
            assert found.speedup == (group.baseline.median_us or 0) / (found.result.median_us or 1)
            assert found.interval is not None
            assert found.interval.low < found.speedup < found.interval.high


# Without it a run without bf16 would borrow the baseline of another build or card.
def test_another_run_is_no_denominator(tmp_path: Path) -> None:
    results(tmp_path / "a", [decoder(1, "bf16"), decoder(1, "fp8")])
    results(tmp_path / "b", [decoder(1, "fp8"), decoder(1, "w8a16")])
    groups = format_groups(collect(load_runs([tmp_path / "a", tmp_path / "b"])))
    assert len(groups) == 2
    assert by_label(groups[0])["fp8"].speedup is not None
    assert groups[1].baseline is None
    assert {f.speedup for f in groups[1].formats} == {None}
    assert {f.note for f in groups[1].formats} == {"no time in bf16 in this run"}


# Without it a ratio would be claimed of times that were made under other conditions.
@pytest.mark.parametrize(
    ("field", "value", "note"),
    [
        ("regime", "burst", "another regime"),
        ("l2", "cold", "another L2 state"),
        ("contended", True, "contended"),
    ],
)
def test_no_ratio_across_conditions(field: str, value: Any, note: str, tmp_path: Path) -> None:
    results(tmp_path / "run", [decoder(1, "bf16"), decoder(1, "fp8")])
    rewrite(tmp_path / "run", lambda r: r.update({field: value}) if r["case"]["precision"] == "fp8" else None)
    (group,) = format_groups(collect([load_run(tmp_path / "run")]))
    fp8 = by_label(group)["fp8"]
    assert fp8.speedup is None
    assert note in fp8.note
    assert tile(group, fp8).text == "no speed-up"
    assert speedups("decoder", [group]) is None
    assert pareto("decoder", [group]) is None


# Without it two formats could have one name, or one format two.
def test_formats_by_name(tmp_path: Path) -> None:
    made = results(tmp_path / "run", [decoder(8, kv=kv) for kv in ("same", "fp8", "int8")])
    (group,) = format_groups(made)
    assert [found.label for found in group.formats] == ["bf16", "bf16 kv:fp8", "bf16 kv:int8"]
    for calibration, head, label in (
        ("smoothquant", "16bit", "int8 smoothquant head:16bit"),
        ("none", "same", "int8"),
    ):
        axes = decoder(precision="int8") | {"calibration": calibration, "head": head}
        record = parse_record(base_record(decoder(), 0, "skipped", "x") | {"case": axes}, "line")
        assert format_label(record.case) == label
        named = short_name(record.case, ["precision", "calibration", "head"])
        assert named == ("int8" if label == "int8" else "int8 calibration:smoothquant head:16bit")


# Without it the line would pass through formats that another beats, or that lose to bf16.
def test_frontier(tmp_path: Path) -> None:
    found = results(tmp_path / "run", grid((1,)), slow={(1, "w8a16"): 1.05})
    (group,) = format_groups(found)
    assert [f.label for f in frontier(group.formats)] == ["fp8"], "w8a16 is slower, w4a16 beaten in both"
    found = results(tmp_path / "better", grid((1,)), slow={(1, "w4a16"): 0.3})
    (group,) = format_groups(found)
    assert [f.label for f in frontier(group.formats)] == ["w8a16", "fp8", "w4a16"]
    rewrite(
        tmp_path / "better", lambda r: r.update(accuracy=None) if r["case"]["precision"] == "fp8" else None
    )
    (group,) = format_groups(collect([load_run(tmp_path / "better")]))
    assert [f.label for f in frontier(group.formats)] == ["w8a16", "w4a16"], "no accuracy, no place"
    assert frontier([]) == []


# Without it the names of formats that are close would be unreadable.
def test_labels_do_not_overlap() -> None:
    assert spaced([0, 3, 40], 11) == [0, 11, 40]
    assert spaced([], 11) == []


# A loss must never read as an even score.
@pytest.mark.parametrize(
    ("speedup", "text"),
    [
        (1.4237, "1.42×"),
        (1.0, "1.00×"),
        (0.9999, "0.999× slower"),
        (0.9384, "0.93× slower"),
        (0.5, "0.50× slower"),
        (None, "–"),
    ],
)
def test_speedup_in_words(speedup: float | None, text: str, tmp_path: Path) -> None:
    result = results(tmp_path / "run", [decoder()], workers=1)[0]
    assert speedup_text(Format(result, "fp8", False, speedup)) == text


def column(cases: list[CaseResult], title: str) -> list[Cell]:
    table = case_table(cases, marks)
    place = [c.title for c in table.columns].index(title)
    return [row.cells[place] for row in table.rows]


# Without it a reader of the table would have to find the loss by dividing.
def test_a_loss_is_said_in_its_cell(tmp_path: Path, cli: Callable[..., Outcome]) -> None:
    found = results(tmp_path / "run", grid(), slow={(64, "w4a16"): 1.08})
    cells = dict(
        zip(
            [(r.case.integer("batch"), r.case.text("precision")) for r in found],
            column(found, "over bf16"),
            strict=True,
        )
    )
    lost = cells[(64, "w4a16")]
    assert lost.text == "0.92× slower"
    assert lost.bad
    assert "n 6; bf16 at " in lost.sub
    assert "× its floor" in lost.sub
    assert (cells[(1, "fp8")].text, cells[(1, "fp8")].bad) == ("2.00×", False)
    assert cells[(1, "bf16")].text == "baseline"
    assert "its floor" in cells[(1, "bf16")].sub
    assert losses_text(format_groups(found)) == (
        "Of 9 cases with a bf16 case beside them, 1 is slower than bf16; its cell says so."
    )
    even = results(tmp_path / "even", grid((1,)), slow={(1, "w8a16"): 1.0015})
    assert "1 is slower than bf16 (1 with an interval that holds 1); its" in losses_text(format_groups(even))
    assert cli("report", tmp_path / "run", "--out", tmp_path / "out").code == 0
    text = (tmp_path / "out" / "report.html").read_text()
    assert "1 is slower than bf16; its cell says so" in text
    assert re.search(r'class="num[^"]* bad"', text)
    assert text.count("synthetic weights") > 9


# Without it the row of a quantised product would stand without the dense one's time beside it.
def test_kernels_stand_beside_the_dense_product(tmp_path: Path, cli: Callable[..., Outcome]) -> None:
    rows = [
        case("kernels", model="t5-base", op=op, kernel=kernel, precision=precision)
        for op in ("gemm_qkv", "gemm_out")
        for kernel, precisions in (("own", PRECISIONS), ("library", ("bf16",)))
        for precision in precisions
    ]
    found = results(tmp_path / "run", rows, slow={(1, "w4a16"): 1.25})
    groups = format_groups(found)
    assert [(group.case.text("op"), group.case.text("kernel")) for group in groups] == [
        ("gemm_out", "own"),
        ("gemm_qkv", "own"),
    ]
    texts = [cell.text for cell in column(found, "over bf16")]
    assert sorted(texts) == sorted(2 * ["–", "baseline", "2.00×", "1.25×", "0.80× slower"])
    assert cli("report", tmp_path / "run", "--out", tmp_path / "out").code == 0
    assert not list((tmp_path / "out" / "figures").glob("kernels-speedup*"))


# Without it every page of plain bf16 would carry empty figures.
def test_no_column_without_several_precisions(tmp_path: Path) -> None:
    found = results(tmp_path / "run", [decoder(batch) for batch in (1, 8)])
    assert "over bf16" not in [c.title for c in case_table(found, marks).columns]
    assert format_groups(found) == []
    assert losses_text([]) == ""
    assert (speedups("decoder", []), pareto("decoder", []), footprints("decoder", [])) == (None, None, None)


# Without it a heat map could show a number for what failed, or a gain where there is a loss.
def test_cells_of_the_heat_map(tmp_path: Path) -> None:
    cases = [axes for axes in grid((1, 64)) if (axes["batch"], axes["precision"]) != (64, "w8a16")]
    results(tmp_path / "run", cases, slow={(64, "w4a16"): 1.08})
    with (tmp_path / "run" / "records.jsonl").open("a") as file:
        file.write(json.dumps(base_record(decoder(64, "w8a16"), 0, "oom", "too large")) + "\n")
    groups = format_groups(collect([load_run(tmp_path / "run")]))
    (panel,) = panels(groups)
    assert panel.title == "t5-base"
    assert panel.labels == list(PRECISIONS)
    assert [group.case.integer("batch") for group in panel.groups] == [1, 64]
    first, last = (by_label(group) for group in panel.groups)
    gain = tile(panel.groups[0], first["fp8"])
    assert gain.text == "2.00×"
    assert gain.below.endswith(", n 6")
    assert gain.face != LOSS
    lost = tile(panel.groups[1], last["w4a16"])
    assert (lost.text, lost.face) == ("0.92× slower", LOSS)
    assert (tile(panel.groups[1], last["w8a16"]).text, tile(panel.groups[1], last["w8a16"]).below) == (
        "not measured",
        "oom",
    )
    base = tile(panel.groups[0], first["bf16"])
    assert base.text.endswith(" µs")
    assert "× its floor, n 6" in base.below
    assert tile(panel.groups[0], None).text == ""


# Without it a ratio of few workers would look as sure as one of many.
def test_workers_are_said_on_both_sides(tmp_path: Path) -> None:
    results(tmp_path / "run", [decoder(), decoder(precision="fp8")], workers=3)
    path = tmp_path / "run" / "records.jsonl"
    lines = [line for line in path.read_text().splitlines() if not ('"worker":2' in line and '"fp8"' in line)]
    path.write_text("\n".join(lines) + "\n")
    (group,) = format_groups(collect([load_run(tmp_path / "run")]))
    assert group.baseline is not None
    assert evidence(group.formats[1], group.baseline) == "n 2, bf16 3"
    assert group.formats[1].interval is None


# Without it weights from a seed would pass for a trained model's where their accuracy is drawn.
@pytest.mark.parametrize(("weights", "said"), [("seed:0,outliers", True), ("checkpoint", False)])
def test_figures_and_synthetic_weights(weights: str, said: bool, tmp_path: Path) -> None:
    cases = [case("encoder", model="t5-base", precision=p, weights=weights) for p in ("bf16", "fp8")]
    groups = format_groups(results(tmp_path / "run", cases))
    made = [draw("encoder", groups) for draw in (speedups, pareto, footprints)]
    assert [p.name for p in made if p is not None] == ["encoder-speedup", "encoder-pareto", "encoder-memory"]
    assert all(p is not None and p.svg and p.png for p in made)
    assert made[1] is not None
    assert ("a trained model may lose more or less" in made[1].caption) == said


# Without it a large sweep would make a page that no browser opens, and would not say what is missing.
def test_figures_are_bounded_and_say_so(tmp_path: Path) -> None:
    cases = [decoder(b, p, src=s) for b in (1, 8) for s in range(64, 64 + 20) for p in ("bf16", "fp8")]
    groups = format_groups(results(tmp_path / "run", cases, workers=1))
    assert len(groups) == 40
    for draw, words in (
        (speedups, "8 more shapes in the table only"),
        (pareto, f"{40 - MAX_PANELS} more cases in the table only"),
        (footprints, "40 of 80 cases"),
    ):
        made = draw("decoder", groups)
        assert made is not None
        assert words in made.caption


# Without it other phases' bytes would pass for K/V, or what is not known for 0.
def test_memory_of_a_record(tmp_path: Path) -> None:
    found = results(tmp_path / "run", [decoder(), decoder(precision="w4a16")], workers=2)
    assert [r.kv_bytes for r in found] == [4.2e6, 4.2e6], "K/V read and appended, nothing else"
    assert [r.weights_bytes for r in found] == [4e8, 1e8]
    made = footprints("decoder", format_groups(found))
    assert made is not None
    assert "K/V that one decode step reads" in made.caption
    encoder = results(tmp_path / "encoder", [case("encoder", model="t5-base")], workers=1)
    assert encoder[0].kv_bytes is None
    bad = json.loads((tmp_path / "run" / "records.jsonl").read_text().splitlines()[0])
    bad["cost"]["phases"][0]["bytes_read"] = "x"
    with pytest.raises(ReportError, match=r"phases\[0\]: bytes_read: must be a finite number"):
        parse_record(bad, "line")


# Without it other programs would have to work out gain and loss, and old figures would stay.
def test_csv_holds_gain_and_loss(tmp_path: Path, cli: Callable[..., Outcome]) -> None:
    results(tmp_path / "run", grid((1,)), workers=2)
    figures = tmp_path / "out" / "figures"
    figures.mkdir(parents=True)
    for name in ("generate-pareto.svg", "generate-speedup.png", "generate-memory.svg"):
        (figures / name).write_text("of an earlier report")
    assert cli("report", tmp_path / "run", "--out", tmp_path / "out").code == 0
    rows = {
        r["precision"]: r for r in csv.DictReader((tmp_path / "out" / "cases.csv").read_text().splitlines())
    }
    assert rows["bf16"]["speedup_over_bf16"] == rows["bf16"]["relative_error"] == ""
    assert float(rows["fp8"]["speedup_over_bf16"]) == pytest.approx(2, rel=0.02)
    stated = ("relative_error", "kl", "tokens_agree", "free_tokens_agree")
    assert [rows["fp8"][name] for name in stated] == ["0.03", "0.001", "0.98", "0.75"]
    assert rows["fp8"]["synthetic_weights"] == "true"
    assert (rows["w4a16"]["weights_bytes"], rows["w4a16"]["kv_bytes"]) == ("100000000.0", "4200000.0")
    assert sorted(path.stem for path in figures.glob("*.svg")) == [
        "decoder-floors", "decoder-memory", "decoder-pareto", "decoder-speedup", "spread",
    ]  # fmt: skip
