"""Scaling over cards: speed-up, efficiency, exchange, and where replicas overtake one shared replica."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import fixture_runs
import jsonschema
import pytest
from conftest import REPOSITORY
from fixture_runs import Model, case, make_run

from tandem_reports.gate.collectives import collective_groups
from tandem_reports.gate.scaling import ScalingGroup, crossovers, pays, scaling_groups
from tandem_reports.reading.audit import audit_samples
from tandem_reports.reading.profiles import read_profiles
from tandem_reports.reading.runs import load_run
from tandem_reports.stats.cases import CaseResult, collect
from tandem_reports.views.figures.scaling import scaling
from tandem_reports.views.figures.ways import ways
from tandem_reports.views.profile_section import rank_lines
from tandem_reports.views.report_page import build
from tandem_reports.views.scaling import collective_texts, crossover_texts, model_table, pays_texts
from tandem_reports.views.tables import case_table

TIMES = {(1, 1): 1.0, (2, 1): 0.8, (4, 1): 1.25, (1, 2): 1.0, (1, 4): 1.02, (2, 2): 0.82}
"""Latency over that of one card, by tp and dp."""


def generate(tp: int = 1, dp: int = 1, **axes: Any) -> dict[str, Any]:
    return case("generate", tp=tp, dp=dp, **{"model": "t5-base", "batch": 8, "tgt": 16} | axes)


def expected(axes: dict[str, Any]) -> float:
    size, flops, _ = fixture_runs.work(axes)
    rates = fixture_runs.RATES[axes["engine"]]
    return 1.18 * max(size / rates[0], flops / rates[1]) + 24 * axes["tgt"]


def results(path: Path, cases: list[dict[str, Any]], *, wait_us: float | None = 32.0) -> list[CaseResult]:
    """Times by TIMES; every rank waits so long."""

    def fields(axes: dict[str, Any]) -> dict[str, Any]:
        ranks = axes["tp"] * axes["dp"]
        return {
            "ranks": []
            if ranks == 1
            else [
                {"rank": r, "host": "h", "device": r, "card": "c", "median_us": 1.0, "wait_us": wait_us}
                for r in range(ranks)
            ]
        }

    model = Model(
        factor=lambda axes: TIMES[axes["tp"], axes["dp"]],
        worker_sd=1e-5,
        sample_sd=1e-5,
        samples=12,
        extra=fields,
    )
    return collect([load_run(make_run(path, cases, workers=2, model=model, keep_samples=False))])


@pytest.fixture
def group(tmp_path: Path) -> ScalingGroup:
    cases = [generate(tp, dp) for tp, dp in TIMES]
    (found,) = scaling_groups(results(tmp_path / "run", cases))
    return found


# Breaks when the denominator is another layout, or the replicas' tokens are counted twice or not at all.
def test_speed_up_and_efficiency_are_over_one_card(group: ScalingGroup) -> None:
    by_layout = {(s.tp, s.dp): s for s in group.scaled}
    assert set(by_layout) == set(TIMES) - {(1, 1)}
    for (tp, dp), found in by_layout.items():
        assert found.speedup == pytest.approx(1 / TIMES[tp, dp], rel=1e-3)
        assert found.throughput == pytest.approx(dp / TIMES[tp, dp], rel=1e-3)
        assert found.efficiency == pytest.approx(1 / TIMES[tp, dp] / tp, rel=1e-3)
        assert found.exchange_us == 32 / 16, "a generated token"
    assert [s.cards for s in group.curve("tp")] == [2, 4]
    assert [s.cards for s in group.curve("dp")] == [2, 4], "replicas that are split too stand on neither line"


# Breaks when a time that nobody told becomes a number.
def test_an_exchange_that_nobody_told_is_missing(tmp_path: Path) -> None:
    (found,) = scaling_groups(results(tmp_path / "run", [generate(), generate(2)], wait_us=None))
    assert found.scaled[0].exchange_us is None


# Breaks when groups mix batches or there is a group without a case on one card.
def test_only_the_degrees_differ_within_a_group(tmp_path: Path) -> None:
    cases = [generate(tp, batch=batch) for tp in (1, 2) for batch in (1, 8)] + [generate(2, src=64)]
    groups = scaling_groups(results(tmp_path / "run", cases))
    assert [g.case.integer("batch") for g in groups] == [1, 8]
    assert all(len(g.scaled) == 1 for g in groups)


# Breaks when the table calls a slower layout faster, or the page has no picture of the curves.
def test_the_table_and_the_figure(tmp_path: Path) -> None:
    found = results(tmp_path / "run", [generate(tp, dp) for tp, dp in TIMES])
    table = case_table(found, lambda _: ())
    place = [column.title for column in table.columns].index("over one card")
    cells = {row.name: row.cells[place] for row in table.rows}
    slower = next(cell for name, cell in cells.items() if "tp:4" in name)
    assert slower.text == "0.800× slower"
    assert slower.bad
    replicas = next(cell for name, cell in cells.items() if "dp:4" in name)
    assert replicas.sub.startswith("98 % of 4 cards; exchange 2")
    picture = scaling("generate", scaling_groups(found))
    assert picture is not None
    assert picture.name == "generate-scaling"
    assert scaling("generate", scaling_groups(found[:1])) is None


def measured(path: Path, rates: dict[tuple[int, int, int], float]) -> list[CaseResult]:
    """Tokens per second by tp, dp and a replica's batch."""
    cases = [generate(tp, dp, batch=batch) for tp, dp, batch in rates]
    model = Model(
        samples=12,
        extra=lambda axes: {
            "metrics": {"tokens_per_second": rates[axes["tp"], axes["dp"], axes["batch"]]},
        },
    )
    return collect([load_run(make_run(path, cases, workers=1, model=model, keep_samples=False))])


# Breaks when sequences are a replica's instead of all cards', or the place is not where the lines cross.
def test_replicas_overtake_where_the_lines_cross(tmp_path: Path) -> None:
    shared = {(2, 1, 2): 100.0, (2, 1, 8): 200.0, (2, 1, 32): 400.0}
    copies = {(1, 2, 1): 50.0, (1, 2, 4): 200.0, (1, 2, 16): 800.0}
    (crossing,) = crossovers(measured(tmp_path / "run", shared | copies))
    assert (crossing.cards, crossing.low, crossing.high, crossing.copies_win) == (2, 2, 32, True)
    assert crossing.sequences == pytest.approx(8)
    assert crossover_texts([crossing]) == [
        "generate, t5-base s128 t16 bf16 dense, on 2 cards: replicas give more tokens per second than one "
        "shared replica from about 8 sequences on (straight lines between the measured points, 2 to 32 "
        "sequences)."
    ]


# Breaks when a crossing is made up beyond what was measured.
def test_no_crossing_is_made_up(tmp_path: Path) -> None:
    shared = {(2, 1, 2): 100.0, (2, 1, 8): 200.0}
    slow = {(1, 2, 1): 50.0, (1, 2, 4): 100.0}
    (crossing,) = crossovers(measured(tmp_path / "slow", shared | slow))
    assert crossing.sequences is None
    assert crossover_texts([crossing])[0].endswith(
        "at 2 to 8 sequences on all cards one shared replica gives more tokens per second."
    )
    assert not crossovers(measured(tmp_path / "apart", shared | {(1, 2, 16): 900.0})), (
        "no sequences in common"
    )
    assert not crossovers(measured(tmp_path / "alone", shared)), "nothing to cross"


def model_of(axes: dict[str, Any]) -> dict[str, Any]:
    """As a record has it: 1.6 times as fast on 2 cards and 2.5 times on 4, at half the fixture's times."""
    times = {1: 0.5, 2: 0.5 / 1.6, 4: 0.2, 8: 0.15}
    one = expected(axes)
    degrees = [
        {"tp": tp, "sample_us": share * one, "comm_us": float(tp > 1), "step_us": share * one / axes["tgt"]}
        for tp, share in times.items()
    ]
    return {"model": {"card_gbs": 450, "call_us": 3.7, "degrees": degrees}}


# Breaks when a prediction is shown as measured, or has an error just where no cards were measured.
def test_the_model_stands_beside_what_was_measured(tmp_path: Path) -> None:
    model = Model(
        factor=lambda axes: TIMES[axes["tp"], axes["dp"]],
        worker_sd=1e-5,
        sample_sd=1e-5,
        samples=12,
        extra=model_of,
    )
    cases = [generate(tp, dp) for tp, dp in ((1, 1), (2, 1), (1, 2))]
    run = load_run(make_run(tmp_path / "run", cases, workers=2, model=model, keep_samples=False))
    schema = json.loads((REPOSITORY / "harness" / "record" / "record.schema.json").read_text())
    line = json.loads((tmp_path / "run" / "records.jsonl").read_text().splitlines()[0])
    jsonschema.Draft202012Validator({"$defs": schema["$defs"]} | schema["properties"]["model"]).validate(
        line["model"]
    )
    (group,) = scaling_groups(collect([run]))
    two, four, eight = group.predictions
    assert [p.tp for p in (two, four, eight)] == [2, 4, 8]
    assert two.speedup == pytest.approx(1.6)
    assert two.speedup_error == pytest.approx(1.6 * 0.8 - 1, rel=1e-3)
    assert two.time_error == pytest.approx(0.5 / 1.6 / 0.8 - 1, rel=1e-3)
    assert four.time_error is None and eight.speedup_error is None, "nobody measured them"
    table = model_table([group])
    assert table is not None
    assert [row.cells[1].text for row in table.rows] == ["2", "4", "8"]
    assert [row.cells[6].text for row in table.rows] == ["−60.94 %", "–", "–"]
    picture = scaling("generate", [group])
    assert picture is not None
    assert "model of tp 8, not measured: speed-up 3.33" in picture.svg.decode()
    assert "not a measurement" in picture.caption
    page, _, _ = build([run], audit_samples([run]))
    assert "a model of several cards, not measured" in page
    assert "450 GB/s of a card to its peers and 3.70 µs each" in page
    plain = collect([load_run(make_run(tmp_path / "none", cases, workers=1, keep_samples=False))])
    assert model_table(scaling_groups(plain)) is None


# Breaks when a batch is called paying though a larger one loses, or models are sorted by their names.
def test_where_several_cards_begin_to_pay(tmp_path: Path) -> None:
    gains = {1: 0.9, 8: 1.1, 64: 1.5}

    def found(model_name: str, weights: int, by_batch: dict[int, float]) -> list[CaseResult]:
        model = Model(
            factor=lambda axes: 1.0 if axes["tp"] == 1 else 1 / by_batch[axes["batch"]],
            worker_sd=1e-6,
            sample_sd=1e-6,
            samples=12,
            extra=lambda axes: {"memory": {"peak_bytes": None, "weights_bytes": weights}},
        )
        cases = [generate(tp, batch=b, model=model_name) for tp in (1, 2) for b in by_batch]
        path = make_run(tmp_path / model_name, cases, workers=1, model=model, keep_samples=False)
        return collect([replace(load_run(path), label="one run")])

    results = found("t5-base", 4 << 20, gains) + found("bart-large", 2 << 20, {64: 0.95})
    by_axis = {(p.axis, p.case.text("model")): p for p in pays(results)}
    batch = by_axis["batch", "t5-base"]
    assert [value for value, _ in batch.points] == [1, 8, 64]
    assert batch.start == 1
    (model,) = (p for p in by_axis.values() if p.axis == "model")
    assert [value for value, _ in model.points] == ["bart-large", "t5-base"], "by the bytes of their weights"
    texts = pays_texts([batch, model])
    assert "tp 2: faster than one card from batch 8 (1.10×) on, not yet at 1 (0.900×)." in texts[0]
    assert "from model t5-base (1.50×) on, not yet at bart-large (0.950×)." in texts[1]
    assert replace(batch, points=((1, 1.2), (8, 0.9))).start is None
    assert (
        "not faster than one card at batch 8" in pays_texts([replace(batch, points=((1, 1.2), (8, 0.9)))])[0]
    )
    assert replace(batch, points=((1, 1.2), (8, 1.3))).start == 0


# Breaks when NCCL is held against the slower of the own kernels, or said to win from where it loses again.
def test_the_message_from_which_nccl_is_faster(tmp_path: Path) -> None:
    times = {"nccl": (10, 10, 11, 60), "oneshot": (4, 6, 12, 90), "twoshot": (6, 6, 9, 70)}
    sizes = {1: 2e3, 32: 64e3, 256: 512e3, 8192: 16e6}

    def us(axes: dict[str, Any]) -> float:
        return float(times[axes["allreduce"]][list(sizes).index(axes["batch"])])

    def fields(axes: dict[str, Any]) -> dict[str, Any]:
        samples = fixture_runs.summarize([us(axes)] * 12)
        floor = {"floor_us": sizes[axes["batch"]] / 450e3, "bound": "links", "link_gbs": 450}
        return {"summary": samples, "cost": {"bytes": sizes[axes["batch"]]}, "floor": floor}

    cases = [
        case("collectives", model="t5-base", op="all_reduce", tp=2, allreduce=way, batch=batch)
        for way in times
        for batch in sizes
    ]
    model = Model(samples=12, extra=fields)
    run = load_run(make_run(tmp_path / "run", cases, workers=1, model=model, keep_samples=False))
    (group,) = collective_groups(collect([run]))
    assert [round(lead, 3) for _, lead in group.leads] == [2.5, 1.667, 1.222, 0.857]
    assert group.nccl_from == 3
    assert group.ways["nccl"][3].bus_gbs == pytest.approx(16e6 / 60e3)
    assert collective_texts([group]) == [
        "all_reduce over 2 cards: NCCL is faster than the own kernels from 16.00 MB on (0.857× their time), "
        "not yet at 512.0 kB (1.22×)."
    ]
    picture = ways([group])
    assert picture is not None
    assert "twoshot, 512.0 kB" in picture.svg.decode()
    page, _, _ = build([run], audit_samples([run]))
    assert "NCCL is faster than the own kernels from 16.00 MB on" in page


# Breaks when the devices of other ranks vanish from a profile, or their sums are taken for rank 0's.
def test_a_profile_says_what_other_ranks_did(tmp_path: Path) -> None:
    rank = {
        "rank": 1, "status": "ok", "reason": None, "records": 4, "busy_us": 14.0, "gaps_us": 1.0,
        "event_us": 15.0, "trace": "traces/a-node-rank1.json",
        "phases": [
            {"side": "decoder", "phase": "ffn.down", "busy_us": 9.0, "launches": 1.0},
            {"side": "decoder", "phase": "comm", "busy_us": 5.0, "launches": 1.0},
        ],
    }  # fmt: skip
    line = {
        "schema": "1.0.0", "id": "a" * 16, "name": "n", "pass": "node", "status": "ok", "reason": None,
        "timed_us": 15.0, "busy_us": 12.0, "ranks": [rank],
    }  # fmt: skip
    schema = json.loads((REPOSITORY / "harness" / "record" / "profile.schema.json").read_text())
    jsonschema.Draft202012Validator(schema).validate(line)
    (tmp_path / "profiles.jsonl").write_text(json.dumps(line) + "\n")
    profiles, warnings = read_profiles(tmp_path)
    assert not warnings
    profile = profiles["a" * 16, "node"]
    assert profile.busy_us == 12
    assert rank_lines(profile) == [
        "Rank 1, on a device of its own: busy 14.00 µs, 5.000 µs of it communication; its trace is "
        "traces/a-node-rank1.json."
    ]
