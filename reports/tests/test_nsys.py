"""Exports of nsys that other people make: names, tables, devices, processes and threads."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from conftest import Outcome

from tandem_reports.errors import ReportError
from tandem_reports.reading.nsys import read_nsys
from tandem_reports.stats.trace_analysis import analyse
from tandem_reports.views.perfetto import perfetto

NODE = Path(__file__).parent / "recorded" / "decoder-transformer-big-node.json"
STRINGS = ("gemm_kernel", "cudaLaunchKernel_v7000", "cudaGraphLaunch_v10000", "cudaStreamSynchronize_v3020",
           "encoder/self", "decoder/self")  # fmt: skip


def export_of(
    path: Path,
    kernels: Sequence[tuple[int, int, int, int, int]] = (),
    graphs: Sequence[tuple[int, int, int]] = (),
    calls: Sequence[tuple[int, int, int, int, int]] = (),
    ranges: Sequence[tuple[int, int, int, int]] = (),
    kernel_name: str = "demangledName",
) -> Path:
    """An export in nsys's layout. Kernels: start, end, device, correlation, process.

    Graphs: start, end, correlation. Calls: start, end, thread, correlation, string.
    Ranges: start, end, thread, string.
    """
    with sqlite3.connect(path) as db:
        db.execute("CREATE TABLE StringIds (id INT, value TEXT)")
        db.executemany("INSERT INTO StringIds VALUES (?, ?)", list(enumerate(STRINGS, start=1)))
        if kernels:
            db.execute(
                "CREATE TABLE CUPTI_ACTIVITY_KIND_KERNEL (start INT, end INT, deviceId INT, "
                f"correlationId INT, globalPid INT, streamId INT, {kernel_name} INT, graphNodeId INT)"
            )
            rows = [(s, e, d, c, p << 24) for s, e, d, c, p in kernels]
            db.executemany("INSERT INTO CUPTI_ACTIVITY_KIND_KERNEL VALUES (?, ?, ?, ?, ?, 7, 1, NULL)", rows)
        if graphs:
            db.execute(
                "CREATE TABLE CUPTI_ACTIVITY_KIND_GRAPH_TRACE (start INT, end INT, correlationId INT, "
                "deviceId INT, streamId INT, globalPid INT)"
            )
            db.executemany("INSERT INTO CUPTI_ACTIVITY_KIND_GRAPH_TRACE VALUES (?, ?, ?, 0, 7, 9)", graphs)
        db.execute(
            "CREATE TABLE CUPTI_ACTIVITY_KIND_RUNTIME "
            "(start INT, end INT, globalTid INT, correlationId INT, nameId INT)"
        )
        db.executemany("INSERT INTO CUPTI_ACTIVITY_KIND_RUNTIME VALUES (?, ?, ?, ?, ?)", calls)
        db.execute(
            "CREATE TABLE NVTX_EVENTS "
            "(start INT, end INT, eventType INT, text TEXT, globalTid INT, textId INT)"
        )
        db.executemany("INSERT INTO NVTX_EVENTS VALUES (?, ?, 59, NULL, ?, ?)", ranges)
    return path


def one_kernel_a_replay(path: Path, **more: Any) -> Path:
    """Four replays of one kernel of 100 us, in a phase of the encoder."""
    at = [1_000_000 + 150_000 * i for i in range(4)]
    return export_of(
        path,
        kernels=[(t + 10_000, t + 110_000, 0, 2 * i + 1, 0) for i, t in enumerate(at)],
        calls=[(t, t + 5_000, 77, 2 * i + 1, 2) for i, t in enumerate(at)]
        + [(t + 9_000, t + 115_000, 77, 2 * i + 2, 4) for i, t in enumerate(at)],
        ranges=[(t - 1_000, t + 8_000, 77, 5) for t in at],
        **more,
    )


@pytest.mark.parametrize("name", ["run#1.sqlite", "a?mode=rw.sqlite", "50%20.sqlite", "plain.sqlite"])
def test_names_that_a_uri_would_cut(name: str, cli: Callable[..., Outcome], tmp_path: Path) -> None:
    # Breaks when a path is pasted into a URI: the file is not found, and an empty one is left beside it.
    found = cli("trace", one_kernel_a_replay(tmp_path / name))
    assert found.code == 0, found.err
    assert "4 replays, 1 activities each: busy 100.0 µs" in found.out
    assert "encoder self" in found.out
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_an_export_of_whole_graphs_has_no_kernels(cli: Callable[..., Outcome], tmp_path: Path) -> None:
    # Breaks when an export in which every launch was a graph is said to hold nothing.
    at = [1_000_000 + 250_000 * i for i in range(4)]
    path = export_of(
        tmp_path / "graphs.sqlite",
        graphs=[(t + 12_000, t + 212_000, 100 + i) for i, t in enumerate(at)],
        calls=[(t, t + 8_000, 77, 100 + i, 3) for i, t in enumerate(at)]
        + [(t + 9_000, t + 215_000, 77, 200 + i, 4) for i, t in enumerate(at)],
    )
    found = cli("trace", path)
    assert found.code == 0, found.err
    assert "graph level" in found.out
    assert "4 replays, 1 activities each: busy 200.0 µs" in found.out


def two_devices(path: Path) -> Path:
    """One kernel of 100 us on each of two devices a replay, launched by two threads in their own phases."""
    at = [1_000_000 + 150_000 * i for i in range(4)]
    kernels, calls, ranges = [], [], []
    for i, t in enumerate(at):
        for device, thread in ((0, 77), (1, 78)):
            kernels.append(
                (t + 10_000 + 10 * device, t + 110_000 + 10 * device, device, 3 * i + device + 1, 0)
            )
            calls.append((t, t + 5_000, thread, 3 * i + device + 1, 2))
            ranges.append((t - 1_000, t + 8_000, thread, 5 + device))
        calls.append((t + 9_000, t + 115_000, 77, 3 * i + 3, 4))
    return export_of(path, kernels=kernels, calls=calls, ranges=ranges)


def test_devices_are_not_merged(cli: Callable[..., Outcome], tmp_path: Path) -> None:
    # Breaks when two devices' work is read as one device's, whose second kernel then takes 0.01 us.
    path = two_devices(tmp_path / "two.sqlite")
    refused = cli("trace", path)
    assert refused.code == 2
    assert "2 devices (0, 1), which are not merged: choose one with --device" in refused.err
    for device, phase in ((0, "encoder self"), (1, "decoder self")):
        found = cli("trace", path, "--device", str(device))
        assert found.code == 0, found.err
        assert f"device {device})" in found.out
        assert "busy 100.0 µs" in found.out
        assert phase in found.out
    assert "--device 2: nothing ran there; there is 0, 1" in cli("trace", path, "--device", "2").err
    assert "of one process and one device" in cli("trace", NODE, "--device", "0").err


def test_correlation_ids_start_anew_in_each_process(cli: Callable[..., Outcome], tmp_path: Path) -> None:
    # Breaks when a kernel gets its phase from the call of another process that has the same correlation id.
    first, second = 11, 12
    path = export_of(
        tmp_path / "processes.sqlite",
        kernels=[(10_000, 110_000, 0, 1, first), (20_000, 70_000, 0, 1, second)],
        calls=[(0, 5_000, first << 24 | 1, 1, 2), (1_000, 6_000, second << 24 | 1, 1, 2)],
        ranges=[(0, 8_000, first << 24 | 1, 5), (500, 8_000, second << 24 | 1, 6)],
    )
    refused = cli("trace", path)
    assert refused.code == 2
    assert "2 processes (11, 12), which are not merged: choose one with --process" in refused.err
    for process, words in (
        (first, ("encoder self", "busy 100.0 µs")),
        (second, ("decoder self", "busy 50.00 µs")),
    ):
        found = cli("trace", path, "--process", str(process))
        assert found.code == 0, found.err
        assert all(word in found.out for word in words), found.out


def test_columns_of_other_versions(tmp_path: Path) -> None:
    # Breaks when an export that names kernels in another column, or lacks one that nothing needs, is refused.
    found = analyse(read_nsys(one_kernel_a_replay(tmp_path / "short.sqlite", kernel_name="shortName")))
    assert [row.name for row in found.kernels] == ["gemm_kernel"]


def test_an_export_with_a_log_beside_it_is_refused(tmp_path: Path) -> None:
    # Breaks when the part of an export that is not in its file yet is left out in silence.
    path = one_kernel_a_replay(tmp_path / "open.sqlite")
    (tmp_path / "open.sqlite-wal").write_bytes(b"x")
    with pytest.raises(ReportError, match="still being written"):
        read_nsys(path)


def test_rows_of_the_timeline_nest(tmp_path: Path) -> None:
    # Breaks when calls of several host threads share a row: the viewer drops what does not nest.
    path = two_devices(tmp_path / "two.sqlite")
    events = json.loads(perfetto(read_nsys(path, device=0)))["traceEvents"]
    open_ends: dict[tuple[int, int], list[float]] = {}
    for event in sorted((e for e in events if e["ph"] == "X"), key=lambda e: (e["ts"], -e["dur"])):
        ends = open_ends.setdefault((event["pid"], event["tid"]), [])
        while ends and ends[-1] <= event["ts"] + 1e-6:
            ends.pop()
        assert not ends or event["ts"] + event["dur"] <= ends[-1] + 1e-6, event
        ends.append(event["ts"] + event["dur"])
    names = {e["args"]["name"] for e in events if e["name"] == "thread_name"}
    assert {"calls of thread 77", "calls of thread 78"} <= names


def test_the_numbers_of_a_kernel_add_up(cli: Callable[..., Outcome], tmp_path: Path) -> None:
    # Breaks when launches × mean is not the time that stands beside it and the page does not say why, or when
    # what tracing slows stands after the times that it slowed.
    path = export_of(
        tmp_path / "overlap.sqlite",
        kernels=[(10_000, 110_000, 0, 1, 0), (60_000, 160_000, 0, 2, 0)],
        calls=[(0, 5_000, 77, 1, 2), (5_000, 6_000, 77, 2, 2)],
    )
    found = cli("trace", path).out
    row = next(line for line in found.splitlines() if line.startswith("  gemm_kernel"))
    assert row.split()[-6:] == ["2", "100.0", "150.0", "50.00", "100.0", "%"], row
    assert "Launches × mean = busy + beside others" in found
    lines = cli("trace", NODE).out.splitlines()
    assert lines[1].startswith("Tracing changed the time of a replay by ")
    assert "as traced" in lines[1]
    assert any("when an event happens is not in a trace" in line for line in lines)
    assert any("nothing is scaled" in line for line in lines)
    phase = next(line for line in lines if "decoder ffn.up" in line)
    assert ".000 " not in phase, phase
