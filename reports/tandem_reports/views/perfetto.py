"""A trace as Chrome's trace events, which ui.perfetto.dev opens."""

from __future__ import annotations

from tandem_reports.reading.traces import KINDS, Trace, dumps
from tandem_reports.stats.trace_analysis import ORPHAN, owned, short_kernel

DEVICE, HOST = 1, 2
PHASES = 10_000_000
"""Row of the phases; streams have smaller numbers."""
LANES = 100
"""Rows of one stream: its work may overlap (a dependent launch begins before its predecessor ends), slices of
a row may not."""


class _NestedLanes:
    """Rows of the host's spans: those of a thread nest; where a clock says otherwise, on the next row."""

    def __init__(self) -> None:
        self.open: dict[int, list[list[int]]] = {}

    def take(self, thread: int, start: int, end: int) -> int:
        """Spans of a thread come in the order of their start, the longer of two first."""
        lanes = self.open.setdefault(thread, [])
        for lane, ends in enumerate(lanes):
            while ends and ends[-1] <= start:
                ends.pop()
            if not ends or end <= ends[-1]:
                ends.append(end)
                return lane
        lanes.append([end])
        return len(lanes) - 1


class _Lanes:
    """The first row of a stream that is free."""

    def __init__(self) -> None:
        self.ends: dict[int, list[int]] = {}

    def take(self, stream: int, start: int, end: int) -> int:
        lanes = self.ends.setdefault(stream, [])
        for lane, busy_until in enumerate(lanes):
            if busy_until <= start:
                lanes[lane] = end
                return lane
        if len(lanes) < LANES:
            lanes.append(end)
        return len(lanes) - 1


def _phase_text(trace: Trace, place: int) -> str:
    if place < 0:
        return ORPHAN
    phase = trace.phases[place]
    return phase.name if phase.layer < 0 else f"{phase.side}/{phase.layer}/{phase.phase}"


def perfetto(trace: Trace) -> str:
    """The timeline: rows for each stream, the phases, the replays, the host's calls and its marked ranges.

    Times are microseconds from the first record.
    """
    activities = trace.activities
    starts = [int(activities.start.min())] if len(activities) else []
    starts += [span.start for span in (*trace.calls, *trace.markers)] + [
        window.start for window in trace.replays
    ]
    zero = min(starts, default=0)
    events: list[dict[str, object]] = []

    def meta(kind: str, process: int, thread: int, name: str) -> None:
        events.append({"ph": "M", "name": kind, "pid": process, "tid": thread, "args": {"name": name}})

    def slice_(
        name: str, process: int, thread: int, start: int, end: int, arguments: dict[str, object]
    ) -> None:
        event: dict[str, object] = {
            "ph": "X", "name": name, "pid": process, "tid": thread,
            "ts": (start - zero) / 1e3, "dur": (end - start) / 1e3,
        }  # fmt: skip
        if arguments:
            event["args"] = arguments
        events.append(event)

    meta("process_name", DEVICE, 0, "device")
    meta("process_name", HOST, 0, "host")
    meta("thread_name", DEVICE, PHASES, "phases")
    meta("thread_name", HOST, 0, "replays")
    lanes = _Lanes()
    own, _ = owned(activities)
    for at in range(len(activities)):
        start, end = int(activities.start[at]), int(activities.end[at])
        name = short_kernel(trace.names[activities.name[at]])
        phase = _phase_text(trace, int(activities.phase[at]))
        more: dict[str, object] = {"kind": KINDS[activities.kind[at]], "phase": phase}
        if activities.bytes[at]:
            more["bytes"] = int(activities.bytes[at])
        stream = int(activities.stream[at])
        slice_(name, DEVICE, stream * LANES + lanes.take(stream, start, end), start, end, more)
        if own[at]:
            slice_(phase, DEVICE, PHASES, end - int(own[at]), end, {})
    for stream, ends in sorted(lanes.ends.items()):
        for lane in range(len(ends)):
            more_name = f"stream {stream}" + (f", overlapping {lane}" if lane else "")
            meta("thread_name", DEVICE, stream * LANES + lane, more_name)
    for number, window in enumerate(trace.replays):
        slice_(f"replay {number}", HOST, 0, window.start, window.end, {})
    row = 0
    for kind, spans in (("calls", trace.calls), ("ranges", trace.markers)):
        threads = sorted({span.thread for span in spans})
        nested = _NestedLanes()
        rows: dict[tuple[int, int], int] = {}
        for span in sorted(spans, key=lambda s: (s.thread, s.start, -s.end)):
            place = span.thread, nested.take(span.thread, span.start, span.end)
            if place not in rows:
                row = rows[place] = row + 1
                name = kind if len(threads) == 1 else f"{kind} of thread {span.thread & 0xFFFFFF}"
                meta("thread_name", HOST, row, name + (f", overlapping {place[1]}" if place[1] else ""))
            slice_(span.name, HOST, rows[place], span.start, span.end, {})
    return dumps({"displayTimeUnit": "ns", "otherData": {"title": trace.title}, "traceEvents": events}) + "\n"
