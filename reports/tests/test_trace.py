"""Traces: analysis against invented truth, our files, exports of nsys, and the command."""

from __future__ import annotations

import json
import os
import random
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Outcome, schema, validator

from tandem_reports.errors import ReportError
from tandem_reports.reading.nsys import read_nsys
from tandem_reports.reading.profiles import Measured, read_profiles
from tandem_reports.reading.runs import load_runs
from tandem_reports.reading.trace_files import read_any
from tandem_reports.reading.traces import Activities, Phase, Replay, Span, Trace, sorted_activities
from tandem_reports.stats.trace_analysis import (
    GAP_REASONS,
    ORPHAN,
    analyse,
    critical_path,
    kernel_differences,
    owned,
    phase_differences,
    short_kernel,
    union_ns,
)
from tandem_reports.views import profile_section
from tandem_reports.views.perfetto import perfetto
from tandem_reports.views.trace_grids import memory_lines

RECORDED = Path(__file__).parent / "recorded"
"""What an H200 left, cut short; the invented runs are in fixtures/."""
NSYS = RECORDED / "nsys-decoder-t5-small.sqlite"
PROFILES = RECORDED / "profiles.jsonl"
NODE = RECORDED / "decoder-transformer-big-node.json"
PHASES = (Phase("decoder", "self.qkv", 0), Phase("decoder", "self.qkv", 1), Phase("decoder", "head"))


def seed() -> int:
    chosen = int(os.environ.get("TANDEM_TEST_SEED") or random.SystemRandom().randrange(2**32))
    print(f"seed {chosen}")
    return chosen


def activities(rows: list[dict[str, int]]) -> Activities:
    return sorted_activities({
        column: [row.get(column, -1 if column == "phase" else 0) for row in rows]
        for column in Activities.__dataclass_fields__
    })  # fmt: skip


def trace(rows: list[dict[str, int]], **more: Any) -> Trace:
    names = ("void mine<a>(int)", "planted(int)", "ncclDevKernel_AllReduce")
    return Trace("tandem", "case", "node", names, PHASES, activities(rows), **more)


def test_owned_time_and_gaps_tile_the_span() -> None:
    # Breaks when an overlap is counted twice, or a gap is a remainder.
    rng = random.Random(seed())
    for _ in range(50):
        rows = []
        for _ in range(rng.randrange(1, 40)):
            start = rng.randrange(2000)
            rows.append({"start": start, "end": start + rng.randrange(200)})
        found = activities(rows)
        own, gap = owned(found)
        busy = np.zeros(2300, dtype=bool)
        for row in rows:
            busy[row["start"] : row["end"]] = True
        assert own.sum() == busy.sum() == union_ns(found.start, found.end)
        assert own.sum() + gap.sum() == found.end.max() - found.start.min()
        parts, waits = critical_path(found)
        assert sum(ns for _, ns in parts) + waits == found.end.max() - found.start[0]


def test_an_instant_belongs_to_the_one_that_started_first() -> None:
    # Breaks when phases no longer sum to busy time.
    found = analyse(
        trace(
            [
                {"start": 0, "end": 100, "phase": 0},
                {"start": 60, "end": 150, "phase": 2},
                {"start": 200, "end": 210},
            ]
        )
    )
    assert {row.name: row.row.busy_us for row in found.phases} == {
        "decoder self.qkv": pytest.approx(0.1),
        "decoder head": pytest.approx(0.05),
        ORPHAN: pytest.approx(0.01),
    }
    assert found.busy_us == pytest.approx(0.16)
    assert found.attributed == pytest.approx(1 - 0.01 / 0.16)
    assert [row.name for row in found.orphans] == ["mine<a>"]


def test_gaps_belong_to_what_the_device_waited_for() -> None:
    # Breaks when the host's absence is taken for the device's, or the reverse.
    rows = [
        {"start": 1000, "end": 1100, "graph_node": 1, "correlation": 5, "phase": 0},
        {"start": 1110, "end": 1200, "graph_node": 2, "correlation": 5, "phase": 1},
        {"start": 1500, "end": 1600, "correlation": 6, "phase": 2},
        {"start": 1630, "end": 1700, "correlation": 7, "phase": 2},
        {"start": 1750, "end": 1800, "correlation": 8, "phase": 2},
    ]
    calls = (
        Span("cudaEventRecord_v3020", 850, 920, 4), Span("graph", 940, 990, 5),
        Span("launch", 1420, 1440, 6), Span("launch", 1450, 1480, 7),
        Span("cudaEventRecord_v3020", 1490, 1500, 9),
    )  # fmt: skip
    found = analyse(trace(rows, calls=calls, replays=(Replay(800, 1900, 0.88),)))
    us = {reason: found.gaps_us[reason] * 1e3 for reason in GAP_REASONS}
    # Host 920-940, 1200-1420; launch 940-1000, 1420-1500; dependency 1100-1110, 1600-1630; unknown 1700-1750.
    assert us == pytest.approx({"host": 240, "launch": 140, "dependency": 40, "unknown": 50})
    assert found.busy_us + found.idle_us == pytest.approx(found.span_us) == pytest.approx(0.88)


def test_set_up_before_the_timed_part_does_not_count() -> None:
    # Breaks when what prepares a replay counts as the case, by events or, without them, by its first graph.
    rows = [
        {"start": 10, "end": 20, "correlation": 1},
        {"start": 50, "end": 90, "graph_node": 1, "correlation": 3, "phase": 0},
    ]
    calls = (Span("cudaEventRecord_v3020", 12, 15, 2), Span("cudaEventRecord_v3020", 45, 47, 4))
    for with_calls in ((), calls):
        found = analyse(trace(rows, calls=with_calls, replays=(Replay(0, 200),)))
        assert found.busy_us == pytest.approx(0.04)
        assert found.attributed == 1
        assert found.span_us == pytest.approx(0.07 if with_calls else 0.04)


def test_communication_beside_compute() -> None:
    # Breaks when hidden communication counts as exposed.
    rows = [
        {"start": 0, "end": 100, "phase": 0, "stream": 1},
        {"start": 50, "end": 150, "kind": 4, "name": 2, "stream": 2},
    ]
    found = analyse(trace(rows))
    assert found.communication_us == pytest.approx(0.1)
    assert found.exposed_us == pytest.approx(0.05)


def test_differences_of_two_profiles() -> None:
    # Breaks when a kernel that only one side has hides below small changes, or gaps are no phase.
    a = analyse(trace([{"start": 0, "end": 100, "phase": 0}, {"start": 120, "end": 130, "phase": 2}]))
    b = analyse(
        trace([{"start": 0, "end": 140, "phase": 0}, {"start": 140, "end": 145, "name": 1, "phase": 2}])
    )
    phases = phase_differences(a, b)
    assert (phases[0].name, phases[0].change_us) == ("decoder self.qkv", pytest.approx(0.04))
    assert [row.name for row in phases if row.name.startswith("gaps")] == ["gaps: unknown"]
    kernels = kernel_differences(a, b)
    assert kernels[0].name == "planted"
    assert kernels[0].a_us is None


@pytest.mark.parametrize(
    ("name", "short"),
    [
        (
            "void tandem::kernels::(anonymous namespace)::k<__nv_bfloat16, 8>(tandem::P)",
            "k<__nv_bfloat16, 8>",
        ),
        ("void tandem::kernels::<unnamed>::k<__nv_bfloat16, (int)8>(tandem::P)", "k<__nv_bfloat16, 8>"),
        ("void k<S<float, (bool)1>, (bool)0>(int)", "k<S<float, true>, false>"),
        ("void k<S<float, true> >(int)", "k<S<float, true>>"),
        ("nvjet_sm90_tst_64x32", "nvjet_sm90_tst_64x32"),
    ],
)
def test_kernels_have_one_name(name: str, short: str) -> None:
    # Breaks when the same kernel has another name in our traces than in nsys's.
    assert short_kernel(name) == short


def test_a_recorded_trace_of_ours() -> None:
    # Breaks when a trace that `tandem profile` wrote on an H200 is read differently.
    found = analyse(read_any(NODE))
    assert found.replays == 3
    assert found.launches == 50
    assert found.attributed == 1
    assert found.busy_us == pytest.approx(213.8, rel=0.01)
    assert {row.phase for row in found.phases} >= {"self.qkv", "ffn.up", "head", "embed"}
    assert len(found.layers) == 6
    head = next(row for row in found.phases if row.phase == "head")
    assert head.tb_per_s is not None
    assert 2 < head.tb_per_s < 4.6


def test_a_recorded_export_of_nsys() -> None:
    # Breaks when an export of nsys 2025.3 is read differently, or its phases are not found.
    found = analyse(read_any(NSYS))
    assert found.replays == 6
    assert found.launches == 50
    assert found.attributed == 1
    assert found.trace.notes == ()
    assert {row.name: row.row.launches for row in found.phases}["decoder ffn.up"] == 6
    assert len(found.layers) == 6
    # nsys makes launching a graph kernel by kernel slow: the device waits for the call.
    assert found.gaps_us["launch"] > 10 * found.gaps_us["dependency"] > 0
    assert found.gaps_us["unknown"] == 0
    total = sum(row.row.total_us for row in found.kernels) * found.replays
    database = sqlite3.connect(NSYS)
    nodes = database.execute(
        "SELECT SUM(end - start) FROM CUPTI_ACTIVITY_KIND_KERNEL WHERE graphNodeId IS NOT NULL"
    ).fetchone()[0]
    assert total == pytest.approx(nodes * 1e-3)


def test_nsys_without_the_pass_without_graphs_says_so(tmp_path: Path) -> None:
    # Breaks when kernels of graphs get phases by guessing.
    path = tmp_path / "cut.sqlite"
    shutil.copy(NSYS, path)
    with sqlite3.connect(path) as database:
        database.execute("DELETE FROM CUPTI_ACTIVITY_KIND_KERNEL WHERE graphNodeId IS NULL")
    found = analyse(read_nsys(path))
    assert found.attributed == 0
    assert "no phases" in found.trace.notes[0]


def test_nsys_that_saw_the_capture(tmp_path: Path) -> None:
    # Breaks when the moment a node was created in no longer gives its phase.
    path = tmp_path / "created.sqlite"
    shutil.copy(NSYS, path)
    with sqlite3.connect(path) as database:
        nodes = [
            row[0]
            for row in database.execute(
                "SELECT DISTINCT graphNodeId FROM CUPTI_ACTIVITY_KIND_KERNEL WHERE graphNodeId NOT NULL"
            )
        ]
        moment, thread = database.execute(
            "SELECT N.start, globalTid FROM NVTX_EVENTS N JOIN StringIds ON textId = id "
            "WHERE value = 'decoder/embed'"
        ).fetchone()
        database.execute("DELETE FROM CUPTI_ACTIVITY_KIND_KERNEL WHERE graphNodeId IS NULL")
        database.execute(
            "CREATE TABLE CUDA_GRAPH_NODE_EVENTS "
            "(start INT, globalTid INT, graphNodeId INT, originalGraphNodeId INT)"
        )
        rows = [(moment, thread, 7, None)] + [(0, thread, node, 7) for node in nodes]
        database.executemany("INSERT INTO CUDA_GRAPH_NODE_EVENTS VALUES (?, ?, ?, ?)", rows)
    found = analyse(read_nsys(path))
    assert [row.name for row in found.phases] == ["decoder embed"]


def _bad_files(folder: Path) -> dict[str, str]:
    """Files that are no traces, and what must be said of them."""
    (folder / "other.json").write_text('{"traceEvents": []}')
    (folder / "list.json").write_text("[1, 2]")
    (folder / "cut.json").write_bytes(NODE.read_bytes()[:3000])
    (folder / "binary.json").write_bytes(b"{\xff\xfe")
    (folder / "empty.sqlite").write_bytes(b"")
    (folder / "cut.sqlite").write_bytes(NSYS.read_bytes()[:20000])
    sqlite3.connect(folder / "foreign.sqlite").execute("CREATE TABLE t (x)").connection.commit()
    with sqlite3.connect(folder / "no-kernels.sqlite") as database:
        database.execute("CREATE TABLE StringIds (id INT, value TEXT)")
    with sqlite3.connect(folder / "old.sqlite") as database:
        database.execute("CREATE TABLE StringIds (id INT, value TEXT)")
        database.execute("CREATE TABLE CUPTI_ACTIVITY_KIND_KERNEL (begin INT)")
    spoilt = json.loads(NODE.read_text())
    spoilt["activities"]["phase"][0] = 10_000
    (folder / "spoilt.json").write_text(json.dumps(spoilt))
    spoilt["schema"] = "2.0.0"
    (folder / "newer.json").write_text(json.dumps(spoilt))
    return {
        "missing.json": "cannot read",
        "other.json": "not a trace of tandem profile",
        "list.json": "neither a trace",
        "cut.json": "not JSON",
        "binary.json": "not UTF-8",
        "empty.sqlite": "neither a trace",
        "cut.sqlite": "cut.sqlite",
        "foreign.sqlite": "not an export of nsys",
        "no-kernels.sqlite": "CUPTI_ACTIVITY_KIND_KERNEL",
        "old.sqlite": "no column start",
        "spoilt.json": "phase: must hold places under",
        "newer.json": "2.0.0 is not supported",
        "gone.nsys-rep": "no such file",
    }


def test_bad_traces_are_one_clear_line(cli: Callable[..., Outcome], tmp_path: Path) -> None:
    # Breaks when a trace from another tool, a truncated or a foreign file is a traceback.
    for name, said in _bad_files(tmp_path).items():
        found = cli("trace", tmp_path / name)
        assert found.code == 2, name
        assert len(found.err.strip().splitlines()) == 1, name
        assert said in found.err, name


def test_a_report_of_nsys_without_nsys(
    cli: Callable[..., Outcome], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Breaks when the way out is not named.
    (tmp_path / "x.nsys-rep").write_bytes(b"x")
    monkeypatch.setenv("PATH", str(tmp_path))
    found = cli("trace", tmp_path / "x.nsys-rep")
    assert found.code == 2
    assert "nsys export" in found.err
    assert "tandem profile" in found.err


def test_the_command_prints_phases_kernels_and_gaps(cli: Callable[..., Outcome], tmp_path: Path) -> None:
    # Breaks when a table is gone, or the formats differ in what they hold.
    text = cli("trace", NODE, "--perfetto", tmp_path / "timeline.json").out
    for words in ("100.00 % of busy time", "decoder self.qkv", "Kernels", "Gaps", "Critical path", "× floor"):
        assert words in text
    assert "| decoder head |" in cli("trace", NODE, "--format", "markdown").out
    rows = cli("trace", NODE, "--format", "csv").out.splitlines()
    assert rows[0] == "phase,kernel,launches,mean_us,busy_us,share"
    assert sum(float(row.rsplit(",", 1)[1]) for row in rows[1:]) == pytest.approx(1)
    events = json.loads((tmp_path / "timeline.json").read_text())["traceEvents"]
    assert {event["args"]["name"] for event in events if event["name"] == "thread_name"} >= {
        "phases",
        "replays",
    }


def test_two_traces_beside_each_other(cli: Callable[..., Outcome]) -> None:
    # Breaks when the comparison of a trace with itself finds a difference, or loses a side.
    found = cli("trace", NODE, "--against", NODE)
    assert found.code == 0
    assert found.out.startswith("A: ")
    assert "\nB: " in found.out
    assert "Where the difference sits" in found.out
    assert "+0.000" in found.out
    assert "−" not in found.out.split("Where the difference sits")[1].replace("B − A", "")


def test_slices_of_a_row_never_overlap() -> None:
    # Breaks when the timeline's viewer would drop slices: dependent launches overlap in one stream.
    events = json.loads(perfetto(read_any(NODE)))["traceEvents"]
    ends: dict[tuple[int, int], float] = {}
    for event in sorted((e for e in events if e["ph"] == "X" and e["pid"] == 1), key=lambda e: e["ts"]):
        row = (event["pid"], event["tid"])
        assert event["ts"] >= ends.get(row, 0.0) - 1e-3
        ends[row] = event["ts"] + event["dur"]


def test_recorded_profiles_keep_the_schema_and_are_read(tmp_path: Path) -> None:
    # Breaks when the committed contract, what a card left, and what is read here part ways.
    lines = PROFILES.read_text().splitlines()
    for line in lines:
        validator("profile").validate(json.loads(line))
    shutil.copy(PROFILES, tmp_path / "profiles.jsonl")
    profiles, warnings = read_profiles(tmp_path)
    assert warnings == []
    found = {kind: profile for (_, kind), profile in profiles.items()}
    assert set(found) == {"node", "counters", "energy"}
    assert found["node"].attributed == 1
    assert found["counters"].measured["replay"].bytes == pytest.approx(248.8e6, rel=0.01)
    assert found["energy"].joules_per_token == pytest.approx(0.0687, rel=0.01)
    properties = set(schema("profile")["properties"])
    assert set().union(*(json.loads(line) for line in lines)) <= properties


def test_measured_bytes_beside_counted_ones() -> None:
    # Breaks when a difference over 10 % hides, or its phase is not named.
    found = analyse(read_any(NODE))
    counted = sum(cost.bytes for cost in found.trace.cost.values())
    near = memory_lines(found, {"replay": Measured(counted * 1.02)})
    assert near[0].endswith("(+2.00 %).")
    phases = {f"{side} {phase}": Measured(cost.bytes) for (side, phase), cost in found.trace.cost.items()}
    far = memory_lines(found, {**phases, "replay": Measured(counted * 1.2), "decoder head": Measured(2e8)})
    assert "decoder head carries most of it" in far[0]
    assert memory_lines(found, {}) == []


def _profiled_run(run_with: Callable[..., Path], good_record: dict[str, Any], name: str) -> Path:
    run = run_with(good_record, name=name)
    (run / "traces").mkdir()
    shutil.copy(NODE, run / "traces" / "a-node.json")
    case = json.loads(NODE.read_text())
    line = {"schema": "1.0.0", "id": case["id"], "name": case["name"], "status": "ok", "reason": None}
    lines = [
        {**line, "pass": "node", "trace": "traces/a-node.json", "gpu_busy_attributed": 1.0, "slowdown": 0.05},
        {**line, "pass": "counters", "ranges": [
            {"range": "decoder/head", "dram_read_bytes": 66e6, "dram_written_bytes": 1e6}]},
        {**line, "pass": "energy", "joules_per_token": 0.12, "watts": 400.0, "joules_per_repetition": 0.12},
        {**line, "pass": "eager", "status": "unavailable", "reason": "no permission"},
        {**line, "pass": "node", "id": "f" * 16, "trace": "traces/gone.json"},
    ]  # fmt: skip
    text = "".join(json.dumps(row) + "\n" for row in lines) + "{ broken\n"
    (run / "profiles.jsonl").write_text(text)
    return run


def test_a_report_shows_profiles_and_survives_bad_ones(
    cli: Callable[..., Outcome], run_with: Callable[..., Path], good_record: dict[str, Any]
) -> None:
    # Breaks when a record whose trace is gone, or a damaged line, takes the rest of the report with it.
    run = _profiled_run(run_with, good_record, "run")
    found = cli("report", run)
    assert found.code == 0
    assert found.err.count("warning") == 2
    assert "gone.json" in found.err
    text = (run / "report" / "report.html").read_text()
    for words in (
        "Where the time goes",
        "Phases under the roofline",
        "no permission",
        "Critical path",
        "TB/s measured",
    ):
        assert words in text
    assert {"profile-phases.svg", "roofline-1.svg", "timeline-1.svg"} <= {
        path.name for path in (run / "report" / "figures").iterdir()
    }


def test_two_runs_say_where_they_differ(run_with: Callable[..., Path], good_record: dict[str, Any]) -> None:
    # Breaks when two profiled runs stand beside each other without their difference.
    runs = [_profiled_run(run_with, good_record, name) for name in ("a", "b")]
    section, warnings = profile_section.build(load_runs(runs))
    assert section is not None
    assert len(section.differences) == 2
    assert len(warnings) == 4


def test_a_trace_outside_the_run_is_not_opened(tmp_path: Path) -> None:
    # Breaks when profiles.jsonl can name any file of the machine.
    line = {"schema": "1.0.0", "id": "a", "name": "a", "pass": "node", "status": "ok", "reason": None}
    (tmp_path / "profiles.jsonl").write_text(json.dumps({**line, "trace": "../x.json"}) + "\n")
    profiles, _ = read_profiles(tmp_path)
    with pytest.raises(ReportError, match="not in the run folder"):
        profile_section.trace_of(tmp_path, profiles["a", "node"])


def test_one_bad_line_of_profiles_costs_that_line_only(tmp_path: Path) -> None:
    # Breaks when a byte that is no UTF-8, or a line that a kill cut off, hides the other profiles.
    line = {"schema": "1.0.0", "name": "a\u2028b", "pass": "node", "status": "ok", "reason": None}
    text = [json.dumps({**line, "id": name}, ensure_ascii=False).encode() for name in "abc"]
    (tmp_path / "profiles.jsonl").write_bytes(b"\n".join([text[0], b'{"id": "\xff"}', text[1], text[2][:20]]))
    profiles, warnings = read_profiles(tmp_path)
    assert [case for case, _ in profiles] == ["a", "b"]
    assert len(warnings) == 2
    assert any("line 2: not UTF-8" in warning for warning in warnings)
    assert any("line 4: ends without a newline" in warning for warning in warnings)
