"""profiles.jsonl of a run folder: what `tandem profile` left for its cases."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tandem_reports.errors import ReportError
from tandem_reports.reading.fields import Fields, check_schema, parse_line, whole_lines
from tandem_reports.reading.trace_files import read_any
from tandem_reports.reading.traces import Trace

PASSES = ("graph", "node", "eager", "counters", "energy")
FILE = "profiles.jsonl"


@dataclass(frozen=True)
class Measured:
    """What counters read for a phase in one replay."""

    bytes: float
    tensor_percent: float | None = None
    sm_percent: float | None = None


@dataclass(frozen=True)
class RankProfile:
    """What another rank left of the same replays, on a device of its own."""

    rank: int
    status: str
    busy_us: float | None
    communication_us: float | None
    trace: str


@dataclass(frozen=True)
class Profile:
    """One pass of one case. `status` other than ok and incomplete: there is nothing but the reason."""

    case_id: str
    name: str
    kind: str
    status: str
    reason: str | None
    trace: str | None = None
    attributed: float | None = None
    slowdown: float | None = None
    slowdown_timed: float | None = None
    busy_us: float | None = None
    gaps_us: float | None = None
    event_us: float | None = None
    measured: Mapping[str, Measured] = field(default_factory=dict)
    joules_per_token: float | None = None
    joules: float | None = None
    watts: float | None = None
    ranks: tuple[RankProfile, ...] = ()
    """The others: the fields above are rank 0's."""


def _rank(fields: Fields) -> RankProfile:
    phases = [Fields(row, f"{fields.where}: phases") for row in fields.items("phases")]
    sums = [row.number("busy_us", minimum=0) for row in phases if row.optional_text("phase") == "comm"]
    return RankProfile(
        rank=fields.integer("rank", minimum=1),
        status=fields.text("status"),
        busy_us=fields.optional_number("busy_us", minimum=0),
        communication_us=sum(sums) if phases else None,
        trace=fields.text("trace"),
    )


def _measured(fields: Fields) -> dict[str, Measured]:
    found = {}
    for row in fields.items("ranges"):
        counted = Fields(row, f"{fields.where}: ranges")
        name = counted.text("range").replace("/", " ")
        bytes_ = counted.number("dram_read_bytes", minimum=0) + counted.number(
            "dram_written_bytes", minimum=0
        )
        found[name] = Measured(
            bytes_,
            counted.optional_number("tensor_percent", minimum=0),
            counted.optional_number("sm_percent", minimum=0),
        )
    return found


def _profile(line: bytes, where: str) -> Profile:
    fields = Fields(parse_line(line, where), where)
    check_schema(fields.text("schema"), where)
    return Profile(
        case_id=fields.text("id"),
        name=fields.text("name"),
        kind=fields.choice("pass", PASSES),
        status=fields.text("status"),
        reason=fields.optional_text("reason"),
        trace=fields.optional_text("trace"),
        attributed=fields.optional_number("gpu_busy_attributed", minimum=0),
        slowdown=fields.optional_number("slowdown"),
        slowdown_timed=fields.optional_number("slowdown_timed"),
        busy_us=fields.optional_number("busy_us", minimum=0),
        gaps_us=fields.optional_number("gaps_us", minimum=0),
        event_us=fields.optional_number("event_us", minimum=0),
        measured=_measured(fields),
        joules_per_token=fields.optional_number("joules_per_token", minimum=0),
        joules=fields.optional_number("joules_per_repetition", minimum=0),
        watts=fields.optional_number("watts", minimum=0),
        ranks=tuple(_rank(Fields(row, f"{where}: ranks")) for row in fields.items("ranks")),
    )


def read_profiles(run: Path) -> tuple[dict[tuple[str, str], Profile], list[str]]:
    """The last line of each case and pass, and a warning for each line that cannot be read."""
    path = run / FILE
    found: dict[tuple[str, str], Profile] = {}
    try:
        lines, warnings = whole_lines(path)
    except FileNotFoundError:
        return {}, []
    except OSError as error:
        return {}, [f"{path}: cannot read: {error.strerror}"]
    for where, line in lines:
        try:
            profile = _profile(line, where)
        except ReportError as error:
            warnings.append(str(error))
            continue
        found[profile.case_id, profile.kind] = profile
    return found, warnings


def trace_of(run: Path, profile: Profile) -> Trace:
    """The trace that a profile names. Raises ReportError where it is gone, damaged or outside the run."""
    if profile.trace is None:
        raise ReportError(f"{run / FILE}: {profile.name}: the {profile.kind} pass left no trace")
    path = (run / profile.trace).resolve()
    if not path.is_relative_to(run.resolve()):
        raise ReportError(f"{run / FILE}: {profile.name}: trace {profile.trace!r} is not in the run folder")
    return read_any(path)
