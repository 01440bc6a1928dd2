"""Where the time of a trace goes: phases, layers, kernels, gaps by reason, overlap, the critical path."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tandem_reports.reading.traces import KINDS, Activities, Ints, Phase, PhaseCost, Trace, Work, per_replay

ORPHAN = "no phase"
COMMUNICATION = KINDS.index("communication")
GAP_REASONS = ("dependency", "launch", "host", "unknown")
GAP_MEANINGS = {
    "dependency": "the work was enqueued: the device waited for its own predecessor",
    "launch": "from the host's call to the start on the device",
    "host": "nothing was enqueued yet: the host was elsewhere",
    "unknown": "the trace has no call for what came next",
}


def owned(activities: Activities) -> tuple[Ints, Ints]:
    """For each activity: the time that is its own, and the gap before it.

    An instant in which several run belongs to the one that started first, so that owned times sum to busy
    time. Owned times and gaps together tile the span.
    """
    if not len(activities):
        empty = np.zeros(0, dtype=np.int64)
        return empty, empty
    covered = np.concatenate((activities.start[:1], np.maximum.accumulate(activities.end)[:-1]))
    own = np.maximum(0, activities.end - np.maximum(activities.start, covered))
    return own, np.maximum(0, activities.start - covered)


def union_ns(start: Ints, end: Ints) -> int:
    """Time in which at least one of the intervals, ordered by start, runs."""
    if not len(start):
        return 0
    covered = np.concatenate((start[:1], np.maximum.accumulate(end)[:-1]))
    return int(np.maximum(0, end - np.maximum(start, covered)).sum())


@dataclass(frozen=True)
class Split:
    """Gaps of one replay by their reason, in nanoseconds."""

    dependency: int = 0
    launch: int = 0
    host: int = 0
    unknown: int = 0

    @property
    def total(self) -> int:
        """All gaps."""
        return self.dependency + self.launch + self.host + self.unknown


def _calls(trace: Trace) -> dict[int, tuple[int, int]]:
    """Begin and end of the call that enqueued, by correlation; nested calls of one correlation are one."""
    calls: dict[int, tuple[int, int]] = {}
    for call in trace.calls:
        if call.correlation:
            start, end = calls.get(call.correlation, (call.start, call.end))
            calls[call.correlation] = (min(start, call.start), max(end, call.end))
    return calls


def split_gaps(work: Work, calls: Mapping[int, tuple[int, int]]) -> Split:
    """The gaps of a replay: each instant belongs to what the device was waiting for.

    Host: before the call that enqueues what comes next began. Launch: from there until that work starts.
    Dependency: the call was over, or what comes next is of the same graph launch as what came before.
    """
    activities = work.activities
    _, gap = owned(activities)
    gap[0] = max(0, int(activities.start[0]) - work.begin)
    sums = dict.fromkeys(GAP_REASONS, 0)
    for at in np.flatnonzero(gap):
        size = int(gap[at])
        end = int(activities.start[at])
        start = end - size
        same_graph = (
            at > 0
            and activities.graph_node[at] != 0
            and activities.correlation[at] == activities.correlation[at - 1]
        )
        call = calls.get(int(activities.correlation[at]))
        if same_graph:
            sums["dependency"] += size
        elif call is None:
            sums["unknown"] += size
        elif call[0] >= start:
            host = min(call[0], end) - start
            sums["host"] += host
            sums["launch"] += size - host
        else:
            sums["launch" if call[1] > start else "dependency"] += size
    return Split(**sums)


@dataclass(frozen=True)
class Row:
    """Busy time of a phase, layer or kernel in one replay, as a mean over replays."""

    busy_us: float
    launches: float
    total_us: float
    """Sum of durations: over busy_us where work overlaps."""

    @property
    def beside_us(self) -> float:
        """Time beside work that had started before, which busy_us leaves to that."""
        return max(0.0, self.total_us - self.busy_us)

    @property
    def mean_us(self) -> float:
        """Duration of one launch."""
        return self.total_us / self.launches if self.launches else 0.0


@dataclass(frozen=True)
class PhaseRow:
    """A phase, all its layers together."""

    name: str
    side: str
    phase: str
    row: Row
    cost: PhaseCost | None

    @property
    def tb_per_s(self) -> float | None:
        """Counted bytes over busy time."""
        if self.cost is None or not self.row.busy_us or not self.cost.bytes:
            return None
        return self.cost.bytes / self.row.busy_us * 1e-6

    @property
    def tflop_per_s(self) -> float | None:
        """Counted operations over busy time."""
        if self.cost is None or not self.row.busy_us or not self.cost.flops:
            return None
        return self.cost.flops / self.row.busy_us * 1e-6

    @property
    def floor_ratio(self) -> float | None:
        """Busy time over the phase's floor."""
        if self.cost is None or not self.cost.floor_us:
            return None
        return self.row.busy_us / self.cost.floor_us


@dataclass(frozen=True)
class KernelRow:
    """A kernel in a phase."""

    name: str
    phase: str
    row: Row


@dataclass(frozen=True)
class PathPart:
    """What the end of a replay waited for: time of one phase on the critical path."""

    name: str
    us: float
    links: float


@dataclass(frozen=True)
class Analysis:
    """Means over the replays of one trace, in microseconds."""

    trace: Trace
    replays: int
    busy_us: float
    span_us: float
    event_us: float | None
    launches: float
    gaps_us: Mapping[str, float]
    phases: tuple[PhaseRow, ...]
    layers: Mapping[tuple[str, int], Row]
    kernels: tuple[KernelRow, ...]
    path: tuple[PathPart, ...]
    path_waits_us: float
    communication_us: float
    exposed_us: float

    @property
    def idle_us(self) -> float:
        """All gaps."""
        return sum(self.gaps_us.values())

    @property
    def attributed(self) -> float | None:
        """Share of busy time that belongs to a phase."""
        if not self.busy_us or self.trace.level == "graph":
            return None
        orphans = sum(row.row.busy_us for row in self.phases if row.name == ORPHAN)
        return 1 - orphans / self.busy_us

    @property
    def orphans(self) -> tuple[KernelRow, ...]:
        """Kernels without a phase."""
        return tuple(row for row in self.kernels if row.phase == ORPHAN)


def short_kernel(name: str) -> str:
    """A kernel's name without return type, parameters and our namespaces; the same from CUPTI and nsys."""
    text = re.sub(r"^void ", "", name)
    text = text.replace("<unnamed>::", "").replace("(bool)0", "false").replace("(bool)1", "true")
    text = re.sub(r"\((?:unsigned )?(?:int|long)\)(?=-?\d)", "", text).replace("> >", ">>")
    text = (
        text.replace("(anonymous namespace)::", "").replace("tandem::kernels::", "").replace("tandem::", "")
    )
    depth = 0
    for at, letter in enumerate(text):
        depth += (letter == "<") - (letter == ">")
        if letter == "(" and depth == 0 and at > 0:
            return text[:at]
    return text


def critical_path(activities: Activities) -> tuple[list[tuple[int, int]], int]:
    """What the last end waited for, walking back: places with the time each adds, and the time nothing ran.

    Before each activity comes the one that ended last among those that had started. The times and the waits
    sum to the span.
    """
    if not len(activities):
        return [], 0
    latest = np.maximum.accumulate(activities.end)
    # Place of the latest end among the first i activities.
    holder = np.maximum.accumulate(np.where(activities.end == latest, np.arange(len(latest)), 0))
    at = int(holder[-1])
    parts, waits = [], 0
    while True:
        if at == 0:
            parts.append((at, int(activities.end[at] - activities.start[at])))
            return parts, waits
        before = int(holder[at - 1])
        begin = int(activities.start[at])
        ended = int(activities.end[before])
        parts.append((at, int(activities.end[at]) - max(begin, ended)))
        waits += max(0, begin - ended)
        at = before


def _phase_names(trace: Trace) -> list[str]:
    return [phase.name for phase in trace.phases] + [ORPHAN]  # -1 finds the last


def _rows(keys: npt.NDArray[np.int64], own: Ints, durations: Ints, replays: int) -> dict[int, Row]:
    rows = {}
    for key in np.unique(keys):
        chosen = keys == key
        rows[int(key)] = Row(
            busy_us=float(own[chosen].sum()) * 1e-3 / replays,
            launches=float(chosen.sum()) / replays,
            total_us=float(durations[chosen].sum()) * 1e-3 / replays,
        )
    return rows


def _merge(rows: Sequence[Row]) -> Row:
    return Row(
        sum(row.busy_us for row in rows), sum(row.launches for row in rows), sum(row.total_us for row in rows)
    )


def _phase_rows(trace: Trace, by_place: Mapping[int, Row]) -> tuple[PhaseRow, ...]:
    groups: dict[tuple[str, str], list[Row]] = {}
    for place, row in by_place.items():
        phase = trace.phases[place] if place >= 0 else Phase("", "")
        groups.setdefault((phase.side, phase.phase), []).append(row)
    rows = [
        PhaseRow(
            f"{side} {phase}" if phase else ORPHAN, side, phase, _merge(found), trace.cost.get((side, phase))
        )
        for (side, phase), found in groups.items()
    ]
    return tuple(sorted(rows, key=lambda row: (-row.row.busy_us, row.name)))


def _path(trace: Trace, parts: Sequence[tuple[Activities, list[tuple[int, int]]]]) -> tuple[PathPart, ...]:
    names = _phase_names(trace)
    times: dict[str, list[int]] = {}
    for activities, path in parts:
        for at, ns in path:
            times.setdefault(names[activities.phase[at]], []).append(ns)
    count = max(1, len(parts))
    found = [PathPart(name, sum(ns) * 1e-3 / count, len(ns) / count) for name, ns in times.items()]
    return tuple(sorted(found, key=lambda part: (-part.us, part.name)))


def _waits(work: Work, path: Sequence[tuple[int, int]]) -> int:
    """The rest of the span: between the path's activities, before its first and after its last."""
    return work.end - work.begin - sum(ns for _, ns in path)


def _exposed(activities: Activities) -> tuple[int, int]:
    """Time of communication, and the part of it in which nothing else runs."""
    chosen = activities.kind == COMMUNICATION
    comm = activities.where(chosen)
    rest = activities.where(~chosen)
    both = union_ns(activities.start, activities.end)
    return union_ns(comm.start, comm.end), both - union_ns(rest.start, rest.end)


def analyse(trace: Trace) -> Analysis:
    """Everything about a trace. One without any activity gives zeros."""
    works = per_replay(trace)
    replays = [work.activities for work in works]
    count = max(1, len(replays))
    calls = _calls(trace)
    splits = [split_gaps(work, calls) for work in works]
    times = [owned(activities)[0] for activities in replays]
    paths = [critical_path(activities) for activities in replays]
    exposed = [_exposed(activities) for activities in replays]

    def joined(column: str) -> Ints:
        return (
            np.concatenate([getattr(a, column) for a in replays]) if replays else np.zeros(0, dtype=np.int64)
        )

    own = np.concatenate(times) if times else np.zeros(0, dtype=np.int64)
    durations = joined("end") - joined("start")
    phase, name = joined("phase"), joined("name")
    by_phase = _rows(phase, own, durations, count)
    layers: dict[tuple[str, int], list[Row]] = {}
    for place, row in by_phase.items():
        if place >= 0 and trace.phases[place].layer >= 0:
            layers.setdefault((trace.phases[place].side, trace.phases[place].layer), []).append(row)
    phase_names = _phase_names(trace)
    kernel_groups: dict[tuple[str, str], list[Row]] = {}
    width = max(1, len(trace.names))
    for key, row in _rows((phase + 1) * width + name, own, durations, count).items():
        kernel_groups.setdefault(
            (short_kernel(trace.names[key % width]), phase_names[key // width - 1]), []
        ).append(row)
    kernels = [KernelRow(kernel, where, _merge(rows)) for (kernel, where), rows in kernel_groups.items()]
    events = [window.event_us for window in trace.replays if window.event_us is not None]
    return Analysis(
        trace=trace,
        replays=len(replays),
        busy_us=float(own.sum()) * 1e-3 / count,
        span_us=sum(work.end - work.begin for work in works) * 1e-3 / count,
        event_us=sum(events) / len(events) if events else None,
        launches=len(phase) / count,
        gaps_us={reason: sum(getattr(s, reason) for s in splits) * 1e-3 / count for reason in GAP_REASONS},
        phases=_phase_rows(trace, by_phase),
        layers={key: _merge(rows) for key, rows in sorted(layers.items())},
        kernels=tuple(sorted(kernels, key=lambda row: (-row.row.busy_us, row.name, row.phase))),
        path=_path(trace, list(zip(replays, [path for path, _ in paths], strict=True))),
        path_waits_us=sum(_waits(work, path) for work, (path, _) in zip(works, paths, strict=True))
        * 1e-3
        / count,
        communication_us=sum(whole for whole, _ in exposed) * 1e-3 / count,
        exposed_us=sum(alone for _, alone in exposed) * 1e-3 / count,
    )


@dataclass(frozen=True)
class Difference:
    """One phase or kernel in two profiles; None where a side does not have it."""

    name: str
    a_us: float | None
    b_us: float | None
    a_launches: float | None
    b_launches: float | None

    @property
    def change_us(self) -> float:
        """B minus A."""
        return (self.b_us or 0.0) - (self.a_us or 0.0)


def _differences(a: Mapping[str, Row], b: Mapping[str, Row]) -> list[Difference]:
    rows = []
    for name in a.keys() | b.keys():
        left, right = a.get(name), b.get(name)
        rows.append(
            Difference(
                name,
                left.busy_us if left else None,
                right.busy_us if right else None,
                left.launches if left else None,
                right.launches if right else None,
            )
        )
    return sorted(rows, key=lambda row: (-abs(row.change_us), row.name))


def phase_differences(a: Analysis, b: Analysis) -> list[Difference]:
    """Where the difference of two profiles sits, phase by phase, gaps at the end as phases of their own."""
    sides = [{row.name: row.row for row in analysis.phases} for analysis in (a, b)]
    rows = _differences(*sides)
    for reason in GAP_REASONS:
        left, right = a.gaps_us[reason], b.gaps_us[reason]
        if left or right:
            rows.append(Difference(f"gaps: {reason}", left, right, None, None))
    return rows


def kernel_differences(a: Analysis, b: Analysis) -> list[Difference]:
    """Kernels of two profiles: those that only one has first by their time, then by how much they changed."""
    sides: list[dict[str, Row]] = []
    for analysis in (a, b):
        groups: dict[str, list[Row]] = {}
        for row in analysis.kernels:
            groups.setdefault(row.name, []).append(row.row)
        sides.append({name: _merge(rows) for name, rows in groups.items()})
    return sorted(
        _differences(*sides),
        key=lambda row: (row.a_us is not None and row.b_us is not None, -abs(row.change_us), row.name),
    )
