"""Exports of NVIDIA Nsight Systems (`nsys export --type sqlite`), read into the same traces as our own.

The export's tables appear only where there is something to put into them and their columns change between
versions, so that each is looked at before it is read. An export may hold several processes, whose correlation
ids start anew, and several devices: one of each is read, and where there are more the reader says which.
"""

from __future__ import annotations

import bisect
import itertools
import os
import shutil
import sqlite3
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import numpy as np

from tandem_reports.errors import ReportError
from tandem_reports.reading.traces import KINDS, Activities, Phase, Replay, Span, Trace, sorted_activities

KERNELS = "CUPTI_ACTIVITY_KIND_KERNEL"
COPIES = "CUPTI_ACTIVITY_KIND_MEMCPY"
MEMSETS = "CUPTI_ACTIVITY_KIND_MEMSET"
GRAPHS = "CUPTI_ACTIVITY_KIND_GRAPH_TRACE"
WORK = (KERNELS, COPIES, MEMSETS, GRAPHS)
KERNEL_NAMES = ("demangledName", "shortName", "mangledName")
PUSH_POP = 59
SAMPLES = "samples"
MEASURED = "measured"


@dataclass(frozen=True)
class _Range:
    start: int
    end: int
    thread: int
    text: str
    value: int | None


class _Export:
    """One sqlite export, open for reading."""

    def __init__(self, path: Path) -> None:
        self.path = path
        log = Path(f"{path}-wal")
        if log.exists() and log.stat().st_size:
            raise ReportError(f"{path}: {log.name} beside it: the export is still being written")
        # Immutable: sqlite writes nothing beside the file, no lock and no log.
        uri = f"file:{quote(os.fsencode(path.absolute()))}?mode=ro&immutable=1"
        try:
            self.database = sqlite3.connect(uri, uri=True)
            tables = self.database.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
        except sqlite3.Error as error:
            raise ReportError(f"{path}: not an sqlite file that can be read: {error}") from None
        self.tables = {str(name) for (name,) in tables}
        if not self.tables & {"StringIds", "TARGET_INFO_SYSTEM_ENV", "META_DATA_EXPORT", "META_DATA_CAPTURE"}:
            raise ReportError(f"{path}: an sqlite file, but not an export of nsys")
        if not self.tables & set(WORK):
            raise ReportError(
                f"{path}: holds none of the tables {', '.join(WORK)}: "
                "nothing ran on a device while nsys recorded, or it did not trace cuda"
            )
        self.strings = {_int(key): value for key, value in self.rows("StringIds", ("id", "value"))}

    def close(self) -> None:
        self.database.close()

    def columns(self, table: str) -> set[str]:
        return {str(row[1]) for row in self.database.execute(f"PRAGMA table_info({table})")}

    def rows(
        self, table: str, columns: Sequence[str], optional: Sequence[str] = ()
    ) -> Iterator[tuple[object, ...]]:
        """The rows of a table. An absent optional column reads as NULL; an absent table has no rows."""
        if table not in self.tables:
            return
        known = self.columns(table)
        absent = [column for column in columns if column not in known]
        if absent:
            raise ReportError(
                f"{self.path}: {table} has no column {absent[0]}: this version of nsys is not known"
            )
        chosen = [*columns, *(c if c in known else "NULL" for c in optional)]
        try:
            yield from self.database.execute(f"SELECT {', '.join(chosen)} FROM {table}")
        except sqlite3.Error as error:
            raise ReportError(f"{self.path}: {table} cannot be read: {error}") from None

    def text(self, key: object) -> str:
        return str(self.strings.get(_int(key), "?"))


def _int(value: object) -> int:
    return value if isinstance(value, int) else 0


def _process(identifier: object) -> int:
    """The process of a global id of nsys: 8 bits of a machine, 24 of a process, 24 of a thread."""
    return _int(identifier) >> 24 & 0xFFFFFF


@dataclass(frozen=True)
class Place:
    """The process and the device that a trace is of."""

    process: int
    device: int


def _places(export: _Export) -> list[Place]:
    """Every process and device on which something ran."""
    found = set()
    for table in WORK:
        for process, device in export.rows(table, (), ("globalPid", "deviceId")):
            found.add(Place(_process(process), _int(device)))
    return sorted(found, key=lambda place: (place.process, place.device))


def _choose(export: _Export, process: int | None, device: int | None) -> Place:
    """The one place that is asked for. Raises ReportError where none or several are left."""
    places = _places(export)
    for flag, wanted, field in (("--process", process, "process"), ("--device", device, "device")):
        here = sorted({int(getattr(place, field)) for place in places})
        listed = ", ".join(map(str, here))
        if wanted is None and len(here) > 1:
            kind = "processes" if flag == "--process" else "devices"
            raise ReportError(
                f"{export.path}: holds work of {len(here)} {kind} ({listed}), which are not merged: "
                f"choose one with {flag}"
            )
        if wanted is not None and here and wanted not in here:
            raise ReportError(f"{export.path}: {flag} {wanted}: nothing ran there; there is {listed}")
        places = [place for place in places if wanted is None or getattr(place, field) == wanted]
    return places[0] if places else Place(0, 0)


def _ranges(export: _Export, process: int) -> list[_Range]:
    rows = export.rows(
        "NVTX_EVENTS",
        ("start", "end", "eventType", "globalTid"),
        ("text", "textId", "int64Value", "uint64Value"),
    )
    found = []
    for start, end, kind, thread, text, text_id, signed, unsigned in rows:
        if kind != PUSH_POP or start is None or _process(thread) != process:
            continue
        name = text if isinstance(text, str) else export.text(text_id)
        value = signed if isinstance(signed, int) else unsigned
        last = _int(end) if end is not None else 2**62
        found.append(_Range(_int(start), last, _int(thread), name, value if isinstance(value, int) else None))
    return sorted(found, key=lambda r: r.start)


def _phase_of(text: str, value: int | None) -> Phase | None:
    side, _, name = text.partition("/")
    if side not in ("encoder", "decoder") or not name:
        return None
    return Phase(side, name, -1 if value is None else value)


class _Phases:
    """Which phase a moment of a thread lies in. Phase ranges do not nest."""

    def __init__(self, ranges: Sequence[_Range]) -> None:
        self.list: list[Phase] = []
        self._places: dict[Phase, int] = {}
        self._threads: dict[int, tuple[list[int], list[int], list[int]]] = {}
        for found in ranges:
            phase = _phase_of(found.text, found.value)
            if phase is None:
                continue
            starts, ends, places = self._threads.setdefault(found.thread, ([], [], []))
            starts.append(found.start)
            ends.append(found.end)
            places.append(self.place(phase))

    def place(self, phase: Phase) -> int:
        if phase not in self._places:
            self._places[phase] = len(self.list)
            self.list.append(phase)
        return self._places[phase]

    def at(self, thread: int, moment: int) -> int:
        starts, ends, places = self._threads.get(thread, ([], [], []))
        at = bisect.bisect_right(starts, moment) - 1
        return places[at] if at >= 0 and moment <= ends[at] else -1


def _calls(export: _Export, process: int) -> tuple[list[Span], dict[int, tuple[int, int]]]:
    """The calls of the process, and by correlation their thread and start."""
    spans = []
    threads: dict[int, tuple[int, int]] = {}
    rows = export.rows(
        "CUPTI_ACTIVITY_KIND_RUNTIME", ("start", "end", "correlationId", "nameId"), ("globalTid",)
    )
    for start, end, correlation, name, thread in rows:
        if _process(thread) != process:
            continue
        text = export.text(name)
        spans.append(Span(text, _int(start), _int(end), _int(correlation), _int(thread)))
        threads.setdefault(_int(correlation), (_int(thread), _int(start)))
    return sorted(spans, key=lambda span: span.start), threads


def _created(export: _Export, phases: _Phases) -> dict[int, int]:
    """The phase of each graph node, from the moment it was created in, where nsys saw that."""
    table = "CUDA_GRAPH_NODE_EVENTS"
    if table not in export.tables or not {"start", "graphNodeId", "globalTid"} <= export.columns(table):
        return {}
    originals: dict[int, int] = {}
    found: dict[int, int] = {}
    for start, node, thread, original in export.rows(
        table, ("start", "graphNodeId", "globalTid"), ("originalGraphNodeId",)
    ):
        place = phases.at(_int(thread), _int(start))
        if place >= 0:
            found[_int(node)] = place
        if isinstance(original, int) and original:
            originals[_int(node)] = original
    for node, original in originals.items():
        if node not in found and original in found:
            found[node] = found[original]
    return found


class _Columns:
    """Activities as they are collected."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self._places: dict[str, int] = {}
        self.values: dict[str, list[int]] = {name: [] for name in Activities.__dataclass_fields__}
        self.untimed = 0

    def add(self, kind: str, name: str, **values: object) -> None:
        start, end = values["start"], values["end"]
        if not isinstance(start, int) or not isinstance(end, int) or not start or end < start:
            self.untimed += 1
            return
        if name not in self._places:
            self._places[name] = len(self.names)
            self.names.append(name)
        row = {
            "kind": KINDS.index(kind),
            "name": self._places[name],
            "bytes": 0,
            "graph_node": 0,
            "phase": -1,
        }
        for column, value in values.items():
            row[column] = _int(value)
        for column, cells in self.values.items():
            cells.append(row[column])


def _collect(export: _Export, place: Place) -> _Columns:
    columns = _Columns()
    common = ("start", "end", "streamId", "correlationId")

    def rows(table: str, *more: str) -> Iterator[tuple[object, ...]]:
        needed, optional = more[:1], more[1:]
        for *cells, process, device in export.rows(
            table, (*common, *needed), (*optional, "globalPid", "deviceId")
        ):
            if _process(process) == place.process and _int(device) == place.device:
                yield tuple(cells)

    known = export.columns(KERNELS) if KERNELS in export.tables else set()
    named = next((column for column in KERNEL_NAMES if column in known), KERNEL_NAMES[0])
    for start, end, stream, correlation, name, node in rows(KERNELS, named, "graphNodeId"):
        text = export.text(name)
        kind = "communication" if text.startswith("ncclDevKernel") else "kernel"
        columns.add(kind, text, start=start, end=end, stream=stream, correlation=correlation, graph_node=node)
    for table, kind in ((COPIES, "copy"), (MEMSETS, "memset")):
        for start, end, stream, correlation, size, node in rows(table, "bytes", "graphNodeId"):
            columns.add(
                kind,
                kind,
                start=start,
                end=end,
                stream=stream,
                correlation=correlation,
                bytes=size,
                graph_node=node,
            )
    for start, end, stream, correlation in rows(GRAPHS):
        columns.add("graph", "graph", start=start, end=end, stream=stream, correlation=correlation)
    return columns


def _launches(activities: Activities) -> list[np.ndarray[tuple[int], np.dtype[np.int64]]]:
    """The places of each graph launch, in order of their first start."""
    chosen = np.flatnonzero(activities.graph_node)
    _, first, group = np.unique(activities.correlation[chosen], return_index=True, return_inverse=True)
    return [chosen[group == g] for g in np.argsort(first)]


def _phases_by_order(activities: Activities, place: np.ndarray[tuple[int], np.dtype[np.int64]]) -> bool:
    """Gives the nodes of graphs the phases of the same kernels launched one by one, where that was recorded.

    The eager pass is what scripts/nsys has a suite do first. Its kernels in order, less what sets the state
    up on either side, must be those of the graph launches of each replay; otherwise nothing is attributed.
    `place` is filled in; tells whether it was.
    """
    launches = _launches(activities)
    if not launches:
        return False
    before = np.arange(len(activities)) < launches[0][0]
    eager = np.flatnonzero((activities.graph_node == 0) & (place >= 0) & before)
    names = activities.name
    for skipped, left in itertools.product(range(min(3, len(eager))), repeat=2):
        pattern = eager[skipped : len(eager) - left]
        at = 0
        starts = []
        for nodes in launches:
            if not len(pattern) or not np.array_equal(names[nodes], names[pattern[at : at + len(nodes)]]):
                break
            starts.append(at)
            at = (at + len(nodes)) % len(pattern)
        if len(starts) == len(launches):
            for nodes, start in zip(launches, starts, strict=True):
                place[nodes] = place[pattern[start : start + len(nodes)]]
            return True
    return False


def _attribute(
    export: _Export, activities: Activities, ranges: Sequence[_Range], threads: dict[int, tuple[int, int]]
) -> tuple[Activities, _Phases, list[str]]:
    phases = _Phases(ranges)
    created = _created(export, phases)
    place = np.full(len(activities), -1, dtype=np.int64)
    for at in range(len(activities)):
        node = int(activities.graph_node[at])
        if node:
            place[at] = created.get(node, -1)
        else:
            thread, moment = threads.get(int(activities.correlation[at]), (0, -1))
            place[at] = phases.at(thread, moment)
    notes = []
    in_graphs = activities.graph_node != 0
    if in_graphs.any() and not (place[in_graphs] >= 0).any() and not _phases_by_order(activities, place):
        notes.append("no phases: nsys saw neither the capture of the graphs nor a pass without graphs")
    values = {name: getattr(activities, name) for name in Activities.__dataclass_fields__}
    return Activities(**{**values, "phase": place}), phases, notes


def _replays(activities: Activities, ranges: Sequence[_Range], calls: Sequence[Span]) -> tuple[Replay, ...]:
    """One replay from each wait of the host to the next, inside the samples where they are marked."""
    samples = [r for r in ranges if r.text == SAMPLES]
    first, last = (samples[-1].start, samples[-1].end) if samples else (0, 2**62)
    waits = [c.end for c in calls if "Synchronize" in c.name and first <= c.end <= last]
    begin = first
    windows = []
    starts = (
        activities.start[activities.graph_node != 0]
        if (activities.graph_node != 0).any()
        else activities.start
    )
    for end in waits:
        low, high = np.searchsorted(starts, (begin, end))
        if high > low:
            windows.append(Replay(begin, end))
        begin = end
    return tuple(windows)


def _convert(path: Path, folder: Path) -> Path:
    """The sqlite export of a report of nsys, made by nsys itself."""
    nsys = shutil.which("nsys")
    if nsys is None:
        raise ReportError(
            f"{path}: reading a .nsys-rep needs nsys, which is not on the PATH; export it where nsys is "
            f"(nsys export --type sqlite {path.name}), or use tandem profile, which needs none"
        )
    out = folder / f"{path.stem}.sqlite"
    command = [
        nsys,
        "export",
        "--type",
        "sqlite",
        "--force-overwrite",
        "true",
        "--output",
        str(out),
        str(path),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0 or not out.exists():
        last = (done.stderr or done.stdout).strip().splitlines()[-1:] or ["no message"]
        raise ReportError(f"{path}: nsys export failed: {last[0]}")
    return out


def _read(path: Path, title: str, process: int | None, device: int | None) -> Trace:
    export = _Export(path)
    try:
        place = _choose(export, process, device)
        collected = _collect(export, place)
        calls, threads = _calls(export, place.process)
        ranges = _ranges(export, place.process)
        activities = sorted_activities(collected.values)
        activities, phases, notes = _attribute(export, activities, ranges, threads)
        return Trace(
            source="nsys",
            title=title,
            level="graph" if (activities.kind == KINDS.index("graph")).any() else "node",
            names=tuple(collected.names),
            phases=tuple(phases.list),
            activities=activities,
            calls=tuple(calls),
            markers=tuple(Span(r.text, r.start, r.end, thread=r.thread) for r in ranges if r.end < 2**62),
            replays=_replays(activities, ranges, calls),
            untimed=collected.untimed,
            device=device,
            process=process,
            notes=tuple(notes),
        )
    except sqlite3.Error as error:
        raise ReportError(f"{path}: damaged: {error}") from None
    finally:
        export.close()


def read_nsys(path: Path, process: int | None = None, device: int | None = None) -> Trace:
    """Reads an sqlite export of nsys, or a .nsys-rep where nsys is there to export it.

    `process` and `device`: those that the trace is of; needed where the export holds several. Raises
    ReportError in one line.
    """
    if not path.is_file():
        raise ReportError(f"{path}: cannot read: no such file")
    if path.suffix == ".nsys-rep":
        with tempfile.TemporaryDirectory() as folder:
            return _read(_convert(path, Path(folder)), path.name, process, device)
    return _read(path, path.name, process, device)
