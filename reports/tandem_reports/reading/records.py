"""Records: what one worker left for one case, read strictly from records.jsonl."""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tandem_reports.errors import ReportError
from tandem_reports.reading.cards import CardModel, Rank, read_model, read_rank
from tandem_reports.reading.fields import Fields, check_schema, parse_line, whole_lines

SUITES = ("encoder", "decoder", "generate", "kernels", "collectives", "memory", "limits")
MODEL_SUITES = ("encoder", "decoder", "generate")
"""The suites that measure a pass of a model."""
STATUSES = ("ok", "invalid", "skipped", "oom", "crashed", "timeout", "rank_lost", "error")
TEXT_AXES = (
    "model", "weights", "lengths", "precision", "kv", "sparsity", "decode", "stop", "kernel", "memory",
    "engine", "op",
)  # fmt: skip
CLOCK_STATES = ("settled", "not settled", "throttled")
LATER_AXES = {"calibration": "none", "head": "same", "allreduce": "auto"}
"""Axes that older records do not name, and what they stood at."""
KV_PHASES = (("decoder", "self.attention"), ("decoder", "cross.attention"))
INTEGER_AXES = ("batch", "src", "tgt", "tp", "dp")


@dataclass(frozen=True)
class Case:
    """One point of a sweep. `axes` holds every axis by its name, `suite` apart."""

    id: str
    name: str
    suite: str
    axes: Mapping[str, str | int] = field(hash=False)

    def text(self, axis: str) -> str:
        """The axis's value as text."""
        return str(self.axes[axis])

    def integer(self, axis: str) -> int:
        """The value of a numeric axis."""
        return int(self.axes[axis])


@dataclass(frozen=True)
class Summary:
    """Statistics of one worker's samples, in microseconds."""

    n: int
    median_us: float
    q1_us: float | None
    q3_us: float | None
    min_us: float | None
    p95_us: float | None
    p99_us: float | None
    ci95_us: tuple[float, float] | None


@dataclass(frozen=True)
class SamplesRef:
    """Where the raw samples are: little-endian float32 microseconds, `file` relative to the run folder."""

    file: str
    n: int
    sha256: str


@dataclass(frozen=True)
class Check:
    """The validation that came before timing."""

    reference: str
    error: float | None
    tolerance: float | None
    where: str | None
    tokens_equal: bool | None
    tokens_compared: int | None
    tokens_excused: int | None
    digest: str | None
    digest_after: str | None
    remembered_from: str | None = None  # when an earlier run made it


@dataclass(frozen=True)
class Accuracy:
    """What a lossy form costs, against the dense fp32 model; of an encoder's output the error only.

    `tokens` are the places compared; None in records before 1.3, which compared each case's own inputs. Of
    `free_tokens_agree` each model was fed its own tokens.
    """

    relative_error: float
    kl: float | None
    tokens_agree: float | None
    free_tokens_agree: float | None
    tokens: int | None
    teacher_forced: bool
    against: str
    synthetic_weights: bool


@dataclass(frozen=True)
class Metrics:
    """Medians beside the sample's own."""

    step_us: float | None = None
    first_token_us: float | None = None
    sm_cycles: float | None = None
    inter_token_p50_us: float | None = None
    inter_token_p95_us: float | None = None
    inter_token_p99_us: float | None = None
    tokens_per_second: float | None = None
    graph_build_us: float | None = None
    load_us: float | None = None
    gigabytes_per_second: float | None = None
    teraflops: float | None = None


@dataclass(frozen=True)
class Floor:
    """The least times the hardware allows, in microseconds."""

    floor_us: float | None = None
    floor_phases_us: float | None = None
    floor_l2_us: float | None = None
    step_floor_us: float | None = None
    bound: str | None = None
    link_gbs: float | None = None
    links_us: float | None = None


@dataclass(frozen=True)
class Record:
    """One line of records.jsonl. A status other than ok carries a reason and no time.

    `kv_bytes` are what a decode step reads of the K/V cache and appends to it; None in other suites.
    """

    case: Case
    worker: int
    attempt: int
    status: str
    reason: str | None
    samples: SamplesRef | None
    summary: Summary | None
    metrics: Metrics
    floor: Floor
    model: CardModel | None
    bytes: float | None
    flops: float | None
    kv_bytes: float | None
    peak_bytes: float | None
    weights_bytes: float | None
    fraction_kept: float | None
    check: Check | None
    accuracy: Accuracy | None
    regime: str | None
    l2: str | None
    contended: bool | None
    warmup_steady: bool | None
    stop_reached: bool | None
    throttled_samples: int | None
    clock_state: str | None
    ranks: tuple[Rank, ...]
    sm_mhz_median: float | None
    profiler_mapped: bool | None
    wall_s: float

    @property
    def throttled(self) -> bool:
        """Whether the clocks were held down during some samples."""
        return self.clock_state == "throttled" or bool(self.throttled_samples)

    @property
    def unsettled(self) -> bool:
        """Whether the clock (on a CPU the time) still moved, after warm-up or while samples were taken."""
        return self.clock_state == "not settled" or self.warmup_steady is False

    @property
    def capped(self) -> bool:
        """Whether sampling reached its cap before the precision it aimed at."""
        return self.stop_reached is False


def _sha256(fields: Fields, name: str) -> str:
    value = fields.text(name)
    if re.fullmatch(r"[0-9a-f]{64}", value) is None:
        fields.fail(name, f"must be 64 lower-case hex digits, not {value[:80]!r}")
    return value


def _case(fields: Fields) -> Case:
    case_id = fields.text("id")
    if re.fullmatch(r"[0-9a-f]{16}", case_id) is None:
        fields.fail("id", f"must be 16 lower-case hex digits, not {case_id[:80]!r}")
    suite = fields.choice("suite", SUITES)
    case = fields.child("case")
    if case.text("suite") != suite:
        case.fail("suite", f"is {case.text('suite')!r} but the record's suite is {suite!r}")
    axes: dict[str, str | int] = {}
    for name in TEXT_AXES:
        axes[name] = case.text(name)
    for name, default in LATER_AXES.items():
        axes[name] = case.text(name) if name in case.values else default
    for name in INTEGER_AXES:
        axes[name] = case.integer(name, minimum=1)
    # Axes of a newer minor version are kept, so that cases which differ in them alone stay apart in tables.
    for name, value in case.values.items():
        if name not in axes and name != "suite" and isinstance(value, str | int):
            axes[name] = value
    return Case(id=case_id, name=fields.text("name"), suite=suite, axes=axes)


def _summary(fields: Fields) -> Summary:
    interval = fields.items("ci95_us")
    ci95: tuple[float, float] | None = None
    if interval:
        if len(interval) != 2:
            fields.fail("ci95_us", f"must be null or two numbers, not {len(interval)}")
        ends = Fields({"low": interval[0], "high": interval[1]}, f"{fields.where}: ci95_us")
        ci95 = (ends.time("low"), ends.time("high"))
    summary = Summary(
        n=fields.integer("n", minimum=1),
        median_us=fields.time("median_us"),
        q1_us=fields.optional_time("q1_us"),
        q3_us=fields.optional_time("q3_us"),
        min_us=fields.optional_time("min_us"),
        p95_us=fields.optional_time("p95_us"),
        p99_us=fields.optional_time("p99_us"),
        ci95_us=ci95,
    )
    ordered = [
        ("min_us", summary.min_us),
        ("q1_us", summary.q1_us),
        ("median_us", summary.median_us),
        ("q3_us", summary.q3_us),
    ]
    known = [(name, value) for name, value in ordered if value is not None]
    for (low_name, low), (high_name, high) in itertools.pairwise(known):
        if low > high:
            fields.fail(low_name, f"is {low:g}, over {high_name} ({high:g})")
    if ci95 is not None and ci95[0] > ci95[1]:
        fields.fail("ci95_us", "its first number is over its second")
    if ci95 is not None and not ci95[0] <= summary.median_us <= ci95[1]:
        fields.fail("ci95_us", f"does not hold median_us ({summary.median_us:g})")
    return summary


def _samples(fields: Fields) -> SamplesRef:
    return SamplesRef(
        file=fields.text("file"), n=fields.integer("n", minimum=1), sha256=_sha256(fields, "sha256")
    )


def _check(fields: Fields) -> Check:
    return Check(
        reference=fields.text("reference"),
        error=fields.optional_number("error", minimum=0),
        tolerance=fields.optional_number("tolerance", minimum=0),
        where=fields.optional_text("where"),
        tokens_equal=fields.optional_flag("tokens_equal"),
        tokens_compared=fields.optional_integer("tokens_compared", minimum=0),
        tokens_excused=fields.optional_integer("tokens_excused", minimum=0),
        digest=fields.optional_text("digest"),
        digest_after=fields.optional_text("digest_after"),
        remembered_from=fields.optional_text("remembered_from"),
    )


def _fraction(fields: Fields, name: str) -> float | None:
    value = fields.optional_number(name, minimum=0)
    if value is not None and value > 1:
        fields.fail(name, f"must be a fraction, 0 to 1, not {value:g}")
    return value


def _accuracy(fields: Fields) -> Accuracy:
    fields.refuse_unknown([field.name for field in dataclasses.fields(Accuracy)])
    return Accuracy(
        relative_error=fields.number("relative_error", minimum=0),
        kl=fields.optional_number("kl", minimum=0),
        tokens_agree=_fraction(fields, "tokens_agree"),
        free_tokens_agree=_fraction(fields, "free_tokens_agree"),
        tokens=fields.optional_integer("tokens", minimum=1),
        teacher_forced=fields.flag("teacher_forced"),
        against=fields.choice("against", ("dense fp32",)),
        synthetic_weights=fields.flag("synthetic_weights"),
    )


def _cycles(fields: Fields) -> float | None:
    """Such that ratios of two are numbers: no clock of today counts 1e19 within LONGEST_US."""
    cycles = fields.optional_number("sm_cycles", minimum=1)
    if cycles is not None and cycles > 1e19:
        fields.fail("sm_cycles", f"must be at most 1e+19, not {cycles:g}")
    return cycles


def _metrics(fields: Fields) -> Metrics:
    return Metrics(
        step_us=fields.optional_time("step_us"),
        first_token_us=fields.optional_time("first_token_us"),
        sm_cycles=_cycles(fields),
        inter_token_p50_us=fields.optional_time("inter_token_p50_us"),
        inter_token_p95_us=fields.optional_time("inter_token_p95_us"),
        inter_token_p99_us=fields.optional_time("inter_token_p99_us"),
        tokens_per_second=fields.optional_number("tokens_per_second", minimum=0),
        graph_build_us=fields.optional_time("graph_build_us"),
        load_us=fields.optional_time("load_us"),
        gigabytes_per_second=fields.optional_number("gigabytes_per_second", minimum=0),
        teraflops=fields.optional_number("teraflops", minimum=0),
    )


def _floor(fields: Fields) -> Floor:
    return Floor(
        floor_us=fields.optional_time("floor_us"),
        floor_phases_us=fields.optional_time("floor_phases_us"),
        floor_l2_us=fields.optional_time("floor_l2_us"),
        step_floor_us=fields.optional_time("step_floor_us"),
        bound=fields.optional_choice("bound", ("bytes", "operations", "links")),
        link_gbs=fields.optional_number("link_gbs", minimum=0),
        links_us=fields.optional_number("links_us", minimum=0),
    )


def _kv_bytes(suite: str, cost: Fields) -> float | None:
    """Of a decode step, what its two attention phases move: K/V is all that they count."""
    phases = [Fields(phase, f"{cost.where}: phases[{i}]") for i, phase in enumerate(cost.items("phases"))]
    found = [
        phase.number("bytes_read", minimum=0) + phase.number("bytes_written", minimum=0)
        for phase in phases
        if (phase.text("side"), phase.text("phase")) in KV_PHASES
    ]
    return sum(found) if suite == "decoder" and found else None


def parse_record(value: object, where: str) -> Record:
    """Reads one record. Raises ReportError naming `where`, the field and what is allowed."""
    fields = Fields(value, where)
    check_schema(fields.text("schema"), where)
    status = fields.choice("status", STATUSES)
    reason = fields.optional_text("reason")
    samples = fields.optional_child("samples")
    summary = fields.optional_child("summary")
    if status == "ok" and summary is None:
        fields.fail("summary", "is missing though the status is ok")
    metrics = fields.optional_child("metrics")
    floor = fields.optional_child("floor")
    model = fields.optional_child("model")
    cost = fields.optional_child("cost") or Fields({}, where)
    memory = fields.optional_child("memory") or Fields({}, where)
    check = fields.optional_child("check")
    accuracy = fields.optional_child("accuracy")
    warmup = fields.optional_child("warmup") or Fields({}, where)
    stop = fields.optional_child("stop") or Fields({}, where)
    clocks = fields.optional_child("clocks") or Fields({}, where)
    process = fields.optional_child("process") or Fields({}, where)
    if clocks.values.get("state") == "settled" and clocks.values.get("throttled_samples"):
        clocks.fail("state", "is 'settled' though throttled_samples is not 0")
    case = _case(fields)
    read_samples = None if samples is None else _samples(samples)
    read_summary = None if summary is None else _summary(summary)
    if read_samples is not None and read_summary is not None and read_samples.n != read_summary.n:
        fields.fail("summary", f"n: is {read_summary.n}, but samples hold {read_samples.n}")
    return Record(
        case=case,
        worker=fields.integer("worker", minimum=0),
        attempt=fields.integer("attempt", minimum=1),
        status=status,
        reason=reason,
        samples=read_samples,
        summary=read_summary,
        metrics=Metrics() if metrics is None else _metrics(metrics),
        floor=Floor() if floor is None else _floor(floor),
        model=None if model is None else read_model(model),
        bytes=cost.optional_number("bytes", minimum=0),
        flops=cost.optional_number("flops", minimum=0),
        kv_bytes=_kv_bytes(case.suite, cost),
        peak_bytes=memory.optional_number("peak_bytes", minimum=0),
        weights_bytes=memory.optional_number("weights_bytes", minimum=0),
        fraction_kept=_fraction(memory, "fraction_kept"),
        check=None if check is None else _check(check),
        accuracy=None if accuracy is None else _accuracy(accuracy),
        regime=fields.optional_choice("regime", ("burst", "sustained", "cpu")),
        l2=fields.optional_choice("l2", ("in_situ", "resident", "cold")),
        contended=fields.optional_flag("contended"),
        warmup_steady=warmup.optional_flag("steady"),
        stop_reached=stop.optional_flag("reached"),
        ranks=tuple(
            read_rank(Fields(rank, f"{where}: ranks[{i}]")) for i, rank in enumerate(fields.items("ranks"))
        ),
        throttled_samples=clocks.optional_integer("throttled_samples", minimum=0),
        clock_state=clocks.optional_choice("state", CLOCK_STATES),
        sm_mhz_median=clocks.optional_number("sm_mhz_median", minimum=0),
        profiler_mapped=process.optional_flag("profiler_mapped"),
        wall_s=fields.number("wall_s", minimum=0),
    )


def read_records(path: Path) -> tuple[list[Record], list[str]]:
    """Reads records.jsonl: the records in the order of the file, and warnings.

    A last line without its newline is what a kill leaves behind: it is ignored, with a warning. Any other
    line that is not a record raises ReportError with its number.
    """
    try:
        lines, warnings = whole_lines(path)
    except OSError as error:
        raise ReportError(f"{path}: {error.strerror}") from None
    return [parse_record(parse_line(line, where), where) for where, line in lines], warnings


def lines_by_case(path: Path) -> dict[str, list[str]]:
    """The whole lines of a records.jsonl by the id of their case, in the order of their workers."""
    lines, _ = whole_lines(path)
    found: dict[str, list[tuple[int, int, str]]] = {}
    for where, line in lines:
        fields = Fields(parse_line(line, where), where)
        place = (fields.integer("worker", minimum=0), fields.integer("attempt", minimum=1))
        found.setdefault(fields.text("id"), []).append((*place, line.decode("utf-8")))
    return {case: [text for _, _, text in sorted(texts)] for case, texts in found.items()}
