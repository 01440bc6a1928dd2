"""Traces: what a tracer recorded of a profiled case, as arrays; read from what `tandem profile` writes."""

from __future__ import annotations

import bisect
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tandem_reports.errors import ReportError
from tandem_reports.reading.fields import Fields, check_schema, read_json

Ints = npt.NDArray[np.int64]

KINDS = ("kernel", "copy", "memset", "graph", "communication")
SIDES = ("encoder", "decoder")


@dataclass(frozen=True, order=True)
class Phase:
    """A named part of the work: side, layer (-1: in no layer) and phase."""

    side: str
    phase: str
    layer: int = -1

    @property
    def name(self) -> str:
        """The phase without its layer: decoder ffn.up."""
        return f"{self.side} {self.phase}"


@dataclass(frozen=True)
class Activities:
    """Device work, ordered by start. Times in nanoseconds; `phase` and `name` are places in the lists.

    -1: none.
    """

    kind: Ints
    name: Ints
    start: Ints
    end: Ints
    stream: Ints
    bytes: Ints
    graph_node: Ints
    correlation: Ints
    phase: Ints

    def __len__(self) -> int:
        return len(self.start)

    def where(self, chosen: npt.NDArray[Any]) -> Activities:
        """The activities at these places, or where this mask is true."""
        return Activities(*(getattr(self, column)[chosen] for column in self.__dataclass_fields__))


@dataclass(frozen=True)
class Span:
    """A call or a marked range of the host."""

    name: str
    start: int
    end: int
    correlation: int = 0
    thread: int = 0


@dataclass(frozen=True)
class Replay:
    """The host's window around one computation of the case, and the time its own clock gave it."""

    start: int
    end: int
    event_us: float | None = None


@dataclass(frozen=True)
class PhaseCost:
    """The fewest bytes and the operations of one phase in a replay, all its layers together."""

    bytes_read: float
    bytes_written: float
    flops: float
    floor_us: float | None
    tflops_ceiling: float | None

    @property
    def bytes(self) -> float:
        """Bytes both ways."""
        return self.bytes_read + self.bytes_written


@dataclass(frozen=True)
class Trace:
    """One profile of one case. `source`: tandem or nsys; `level`: node, graph or eager."""

    source: str
    title: str
    level: str
    names: tuple[str, ...]
    phases: tuple[Phase, ...]
    activities: Activities
    calls: tuple[Span, ...] = ()
    markers: tuple[Span, ...] = ()
    replays: tuple[Replay, ...] = ()
    dropped: int = 0
    untimed: int = 0
    missing: int = 0
    case: Mapping[str, Any] = field(default_factory=dict)
    case_id: str = ""
    cost: Mapping[tuple[str, str], PhaseCost] = field(default_factory=dict)
    read_gbs: float | None = None
    untraced_us: float | None = None
    device: int | None = None
    process: int | None = None
    notes: tuple[str, ...] = ()

    @property
    def complete(self) -> bool:
        """Whether nothing was lost."""
        return not (self.dropped or self.untimed or self.missing)

    @property
    def steps(self) -> int:
        """Decode steps in one replay; 1 where it is one pass or one step."""
        if self.case.get("suite") != "generate":
            return 1
        steps = self.case.get("tgt", 1)
        return steps if isinstance(steps, int) and steps > 0 else 1


def sorted_activities(columns: Mapping[str, Sequence[int]]) -> Activities:
    """Activities from lists, brought into the order of their start, the longer of two first."""
    arrays = {name: np.asarray(columns[name], dtype=np.int64) for name in Activities.__dataclass_fields__}
    order = np.lexsort((-arrays["end"], arrays["start"]))
    return Activities(**{name: array[order] for name, array in arrays.items()})


def _integers(fields: Fields, name: str, size: int | None, *, minimum: int | None = 0) -> list[int]:
    values = fields.items(name)
    if size is not None and len(values) != size:
        fields.fail(name, f"has {len(values)} values where the other columns have {size}")
    for value in values:
        if isinstance(value, bool) or not isinstance(value, int) or (minimum is not None and value < minimum):
            fields.fail(
                name, "must be a list of whole numbers" + ("" if minimum is None else f" from {minimum}")
            )
    return [int(value) for value in values if isinstance(value, int)]


def _places(fields: Fields, name: str, size: int, most: int, *, optional: bool = False) -> list[int]:
    values = fields.items(name)
    if len(values) != size:
        fields.fail(name, f"has {len(values)} values where the other columns have {size}")
    places = []
    for value in values:
        if value is None and optional:
            places.append(-1)
        elif isinstance(value, int) and not isinstance(value, bool) and 0 <= value < most:
            places.append(value)
        else:
            fields.fail(name, f"must hold places under {most}")
    return places


def _spans(fields: Fields | None, names: Sequence[str]) -> tuple[Span, ...]:
    if fields is None:
        return ()
    start = _integers(fields, "start", None, minimum=None)
    duration = _integers(fields, "duration", len(start))
    correlation = _integers(fields, "correlation", len(start))
    name = _places(fields, "name", len(start), len(names))
    rows = zip(name, start, duration, correlation, strict=True)
    return tuple(Span(names[n], s, s + d, c) for n, s, d, c in rows)


def _cost(fields: Fields) -> dict[tuple[str, str], PhaseCost]:
    cost = {}
    for row in fields.items("cost"):
        phase = Fields(row, f"{fields.where}: cost")
        cost[phase.choice("side", SIDES), phase.text("phase")] = PhaseCost(
            bytes_read=phase.number("bytes_read", minimum=0),
            bytes_written=phase.number("bytes_written", minimum=0),
            flops=phase.number("flops", minimum=0),
            floor_us=phase.optional_number("floor_us", minimum=0),
            tflops_ceiling=phase.optional_number("tflops_ceiling", minimum=0),
        )
    return cost


def _activities(fields: Fields, names: int, phases: int) -> Activities:
    start = _integers(fields, "start", None, minimum=None)
    size = len(start)
    duration = _integers(fields, "duration", size)
    kinds = fields.texts("kind")
    unknown = sorted(set(kinds) - set(KINDS))
    if unknown or len(kinds) != size:
        fields.fail("kind", f"must be {size} of {', '.join(KINDS)}")
    return sorted_activities({
        "kind": [KINDS.index(kind) for kind in kinds],
        "name": _places(fields, "name", size, names),
        "start": start,
        "end": [s + d for s, d in zip(start, duration, strict=True)],
        "stream": _integers(fields, "stream", size),
        "bytes": _integers(fields, "bytes", size),
        "graph_node": _integers(fields, "graph_node", size),
        "correlation": _integers(fields, "correlation", size),
        "phase": _places(fields, "phase", size, phases, optional=True),
    })  # fmt: skip


def trace_from_json(value: object, where: str) -> Trace:
    """A trace from the parsed file. Raises ReportError naming the field that is wrong."""
    fields = Fields(value, where)
    if fields.values.get("format") != "tandem-trace":
        raise ReportError(f"{where}: not a trace of tandem profile (format is not tandem-trace)")
    check_schema(fields.text("schema"), where)
    names = fields.texts("names")
    phases = []
    for row in fields.items("phases"):
        phase = Fields(row, f"{where}: phases")
        phases.append(
            Phase(phase.choice("side", SIDES), phase.text("phase"), phase.integer("layer", minimum=-1))
        )
    replays = []
    for row in fields.items("replays"):
        window = Fields(row, f"{where}: replays")
        replays.append(
            Replay(
                window.integer("start"), window.integer("end"), window.optional_number("event_us", minimum=0)
            )
        )
    ceilings = fields.optional_child("ceilings")
    case = fields.optional_child("case")
    return Trace(
        source="tandem",
        title=fields.text("name"),
        level=fields.choice("pass", ("node", "graph", "eager")),
        names=names,
        phases=tuple(phases),
        activities=_activities(fields.child("activities"), len(names), len(phases)),
        calls=tuple(sorted(_spans(fields.optional_child("calls"), names), key=lambda span: span.start)),
        markers=_spans(fields.optional_child("markers"), names),
        replays=tuple(replays),
        dropped=fields.integer("dropped", minimum=0),
        untimed=fields.integer("untimed", minimum=0),
        missing=fields.integer("missing", minimum=0),
        case={} if case is None else case.values,
        case_id=fields.text("id"),
        cost=_cost(fields),
        read_gbs=None if ceilings is None else ceilings.optional_number("read_gbs", above=0),
        untraced_us=fields.optional_time("untraced_us"),
    )


def read_trace(path: Path) -> Trace:
    """Reads a trace that `tandem profile` wrote. Raises ReportError in one line."""
    return trace_from_json(read_json(path), str(path))


@dataclass(frozen=True)
class Work:
    """What one replay left on the device, and where it was timed."""

    activities: Activities
    begin: int
    end: int


def _window(trace: Trace, window: Replay, events: Sequence[Span]) -> Work:
    """`events`: the calls in the window that recorded one."""
    activities = trace.activities
    first, last = np.searchsorted(activities.start, (window.start, window.end))
    own = activities.where(np.arange(first, last))
    if len(events) >= 2:
        before = own.where(own.correlation < events[0].correlation)
        own = own.where(
            (own.correlation > events[0].correlation) & (own.correlation < events[-1].correlation)
        )
        begin = max(events[0].end, int(before.end.max()) if len(before) else 0)
        return Work(own, begin, max(begin, int(own.end.max()) if len(own) else 0))
    launched = np.flatnonzero((own.graph_node != 0) | (own.kind == KINDS.index("graph")))
    if len(launched):
        own = own.where(np.arange(launched[0], len(own)))
    return _whole(own)


def _whole(own: Activities) -> Work:
    return Work(own, int(own.start[0]), int(own.end.max())) if len(own) else Work(own, 0, 0)


def per_replay(trace: Trace) -> list[Work]:
    """The work of each replay that left any: what starts in its window, where it was timed.

    It was timed from its first CUDA event to its last, which have no time of their own in a trace: the first
    happened when the call that recorded it was over, or later, when what had been enqueued before it was
    done; the last after the last of the work between them. Without such calls it begins with its first
    graph, which leaves out what set the state up. A trace without replays is one replay as a whole.
    """
    events = [call for call in trace.calls if call.name.startswith("cudaEventRecord")]
    if not trace.replays:
        found = [_whole(trace.activities)]
    else:
        starts = [event.start for event in events]
        found = []
        for window in trace.replays:
            low, high = bisect.bisect_left(starts, window.start), bisect.bisect_left(starts, window.end)
            found.append(_window(trace, window, events[low:high]))
    return [work for work in found if len(work.activities)]


def dumps(value: object) -> str:
    """JSON without spaces."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)
