"""Tables as data: what stands in each cell, for every renderer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tandem_reports import formats
from tandem_reports.gate.precisions import Format, FormatGroup, format_groups
from tandem_reports.gate.scaling import Scaled, scaling_groups
from tandem_reports.reading.records import INTEGER_AXES, MODEL_SUITES
from tandem_reports.stats.cases import CaseResult, Mark
from tandem_reports.stats.small_samples import MIN_WORKERS
from tandem_reports.views import glossary
from tandem_reports.views.labels import axis_names, common_text, split_axes
from tandem_reports.views.precisions import evidence, speedup_text


@dataclass(frozen=True)
class Column:
    """A column; `term` is the glossary entry that explains it.

    `place` is where its cells stand: `row`, always in the table; `wide`, in the table of a wide page, else
    folded away below the row; `fold`, always below the row.
    """

    title: str
    term: str = ""
    numeric: bool = True
    main: bool = False
    place: str = "row"

    @property
    def tip(self) -> str:
        """What the header says when pointed at."""
        found = [term for group in glossary.terms().values() for term in group if term.key == self.term]
        if not found:
            return ""
        return "\n".join(part for part in (found[0].formula, found[0].meaning) if part)


@dataclass(frozen=True)
class Cell:
    """One cell: the value, a smaller second line, and what the table sorts by."""

    text: str
    sub: str = ""
    sort: float | str | None = None
    tip: str = ""
    bar: float | None = None
    marks: tuple[Mark, ...] = ()
    bad: bool = False
    css: str = ""


@dataclass(frozen=True)
class Fact:
    """A line below a row: a command to copy, or a link within the report's folder."""

    title: str
    text: str
    link: str = ""


@dataclass(frozen=True)
class Row:
    """One row; `name` is what a text filter finds it by, `facts` stand below it, folded away."""

    name: str
    cells: tuple[Cell, ...]
    facts: tuple[Fact, ...] = ()


@dataclass(frozen=True)
class Table:
    """A table ready for a page; `note` says what all rows share."""

    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    note: str = ""

    @property
    def shown(self) -> list[tuple[int, Column]]:
        """The columns that a wide page has, with their places among the cells."""
        return [(index, column) for index, column in enumerate(self.columns) if column.place != "fold"]

    @property
    def folded(self) -> list[tuple[int, Column]]:
        """The columns whose cells stand below the row, on a narrow page or on any."""
        return [(index, column) for index, column in enumerate(self.columns) if column.place != "row"]

    @property
    def narrow_only(self) -> bool:
        """Whether a wide page has nothing below the rows."""
        facts = any(row.facts for row in self.rows)
        return not facts and all(column.place != "fold" for column in self.columns)


@dataclass(frozen=True)
class _Field:
    column: Column
    cell: Callable[[CaseResult], Cell]
    always: bool = False
    """Shown even where no row has a value: then its absence is what the table says."""


def interval_text(result: CaseResult) -> str:
    """The interval across workers, or why there is none."""
    interval = result.interval
    if interval is None:
        return f"no interval: {formats.plural(len(result.ok), 'worker')}"
    return f"{formats.micros(interval.low)} – {formats.micros(interval.high)}"


def _median(result: CaseResult) -> Cell:
    interval = result.interval
    if interval is None:
        tip = f"an interval needs {MIN_WORKERS} workers"
    else:
        tip = f"order statistics over {len(result.ok)} workers, coverage {100 * interval.coverage:.1f} %"
    return Cell(formats.micros(result.median_us), interval_text(result), result.median_us, tip)


def _range(result: CaseResult, same_workers: bool) -> Cell:
    who = formats.plural(result.samples, "sample")
    if not same_workers:
        who = f"{formats.plural(len(result.ok), 'worker')}, {who}"
    if len(result.ok) < 2:
        return Cell(formats.MISSING, who)
    low, high = min(result.medians), max(result.medians)
    return Cell(f"{formats.micros(low)} – {formats.micros(high)}", who, high / low)


def _quartiles(result: CaseResult) -> Cell:
    low = result.over_workers(lambda r: None if r.summary is None else r.summary.q1_us)
    high = result.over_workers(lambda r: None if r.summary is None else r.summary.q3_us)
    if low is None or high is None:
        return Cell(formats.MISSING)
    tail = result.over_workers(lambda r: None if r.summary is None else r.summary.p99_us)
    sub = "" if tail is None else f"p99 {formats.micros(tail)}"
    return Cell(f"{formats.micros(low)} – {formats.micros(high)}", sub, high / low)


def _floor(result: CaseResult) -> Cell:
    sub = "" if result.bound is None else f"by {result.bound}"
    resident = result.over_workers(lambda r: r.floor.floor_l2_us)
    if resident is not None:
        sub = f"{formats.micros(resident)} from L2"
    phases = result.over_workers(lambda r: r.floor.floor_phases_us)
    tip = "" if phases is None else f"summed phase by phase: {formats.micros(phases)} µs"
    return Cell(formats.micros(result.floor_us), sub, result.floor_us, tip)


def _ratio(result: CaseResult) -> Cell:
    value = result.floor_ratio
    if value is None:
        return Cell(formats.MISSING)
    return Cell(formats.ratio(value), formats.share(1 / value), value, bar=min(1.0, 1 / value))


def _over_bf16(found: Format | None, baseline: CaseResult | None) -> Cell:
    """The speed-up over bf16, with what it stands on; a loss says so."""
    if found is None:
        return Cell(formats.MISSING)
    ratio = None if baseline is None else baseline.floor_ratio
    distance = "" if ratio is None else f"{formats.ratio(ratio)} its floor"
    if found.is_baseline:
        return Cell("baseline", distance, 1.0)
    if found.speedup is None or baseline is None:
        return Cell(formats.MISSING, found.note)
    words = [evidence(found, baseline), f"bf16 at {distance}" if distance else ""]
    tip = "median of the bf16 case of this run over the median of this one"
    return Cell(speedup_text(found), "; ".join(filter(None, words)), found.speedup, tip, bad=found.loses)


def _over_one_card(found: Scaled | None) -> Cell:
    """The throughput over that of one card, the efficiency, and what a step spends on the other ranks."""
    if found is None:
        return Cell(formats.MISSING)
    if found.throughput is None or found.efficiency is None:
        return Cell(formats.MISSING, found.note)
    words = [f"{formats.percent(found.efficiency)} of {formats.plural(found.cards, 'card')}"]
    if found.exchange_us is not None:
        words.append(f"exchange {formats.micros(found.exchange_us)} µs a step")
    slower = found.tp > 1 and found.dp == 1 and found.throughput < 1
    text = formats.ratio(found.throughput) + (" slower" if slower else "")
    tip = "tokens per second over those of the case with tp 1 and dp 1 in this run"
    return Cell(text, "; ".join(words), found.throughput, tip, bad=slower)


def _throughput(result: CaseResult) -> Cell:
    return Cell(formats.count(result.tokens_per_second), sort=result.tokens_per_second)


def _step(result: CaseResult) -> Cell:
    step, floor = result.step_us, result.step_floor_us
    sub = "" if step is None or floor is None else f"{formats.ratio(step / floor)} floor"
    return Cell(formats.micros(step), sub, step)


def _plain(
    read: Callable[[CaseResult], float | None], show: Callable[[float | None], str]
) -> Callable[[CaseResult], Cell]:
    return lambda result: Cell(show(read(result)), sort=read(result))


def _inter_token(result: CaseResult) -> Cell:
    """The three percentiles in one cell; a missing one is a dash, all of them where there is no first."""
    values = [
        result.over_workers(lambda record: record.metrics.inter_token_p50_us),
        result.over_workers(lambda record: record.metrics.inter_token_p95_us),
        result.over_workers(lambda record: record.metrics.inter_token_p99_us),
    ]
    if values[0] is None:
        return Cell(formats.micros(None), sort=None)
    return Cell(" / ".join(map(formats.micros, values)), sort=values[0])


def _counted(value: float | None, median_us: float | None, unit: str, rate_unit: str) -> Cell:
    rate = None if value is None or median_us is None else value / median_us * 1e6
    sub = "" if rate is None else formats.scaled(rate, rate_unit)
    return Cell(formats.scaled(value, unit), sub, value)


SHORT_REFERENCE = 28
"""Letters of a reference that a cell has room for; the whole of it stands below the row."""


def _check(result: CaseResult, same_reference: bool) -> Cell:
    check = result.check
    if check is None:
        return Cell("not checked", bad=True)
    limit = "" if check.tolerance is None else f" ≤ {formats.error(check.tolerance)}"
    text = f"{formats.error(check.error)}{limit}" if check.error is not None else "–"
    words = []
    if check.tokens_equal is not None:
        words.append("tokens equal" if check.tokens_equal else "tokens differ")
    if check.tokens_excused:
        words.append(f"{check.tokens_excused} excused")
    if check.remembered_from:
        words.append(f"made {check.remembered_from}")
    over = None not in (check.error, check.tolerance) and (check.error or 0.0) > (check.tolerance or 0.0)
    if not same_reference and len(check.reference) <= SHORT_REFERENCE:
        words.append(check.reference)
    bad = over or check.tokens_equal is False
    return Cell(text, ", ".join(words), check.error, f"against: {check.reference}", bad=bad)


def _accuracy(result: CaseResult) -> Cell:
    accuracy = result.accuracy
    if accuracy is None:
        return Cell(formats.MISSING)
    words = []
    if accuracy.kl is not None:
        words.append(f"KL {formats.significant(accuracy.kl, 3)}")
    if accuracy.tokens_agree is not None:
        words.append(f"tokens agree {formats.significant(accuracy.tokens_agree, 3)}")
        if accuracy.free_tokens_agree is not None:
            words[-1] += f" (free-running {formats.significant(accuracy.free_tokens_agree, 3)})"
    if accuracy.teacher_forced:
        words.append("teacher-forced")
    if accuracy.synthetic_weights:
        words.append("synthetic weights")
    error = formats.significant(accuracy.relative_error, 3)
    on = "" if accuracy.tokens is None else f", on {accuracy.tokens} tokens"
    return Cell(f"relative error {error}", "; ".join(words), tip=f"against: {accuracy.against}{on}")


@dataclass(frozen=True)
class _Shared:
    """What is the same in every row, so that the note says it once."""

    workers: bool
    reference: bool


def _shared(results: Sequence[CaseResult]) -> tuple[_Shared, list[str]]:
    workers = {len(result.ok) for result in results}
    references = {None if result.check is None else result.check.reference for result in results}
    several = len(results) > 1
    shared = _Shared(several and len(workers) == 1, several and len(references) == 1)
    words = []
    if shared.workers:
        words.append(formats.plural(workers.pop(), "worker"))
    reference = references.pop() if shared.reference else None
    if reference is not None:
        words.append(f"checked against {reference}")
    return shared, words


def _fields(
    model_suite: bool, shared: _Shared, groups: Sequence[FormatGroup], scaled: dict[int, Scaled]
) -> list[_Field]:
    of_result = {id(f.result): (f, group.baseline) for group in groups for f in group.formats}

    return [
        _Field(Column("median (µs)", "median", main=True), _median, True),
        _Field(Column("min – max (µs)", "range", place="wide"), lambda r: _range(r, shared.workers), True),
        _Field(Column("floor (µs)", "floor", place="wide"), _floor, model_suite),
        _Field(Column("× floor", "ratio"), _ratio, model_suite),
        _Field(
            Column("over bf16", "over-bf16", place="wide"),
            lambda r: _over_bf16(*of_result.get(id(r), (None, None))),
        ),
        _Field(
            Column("over one card", "over-one-card", place="wide"),
            lambda r: _over_one_card(scaled.get(id(r))),
        ),
        _Field(Column("check", "check", place="wide"), lambda r: _check(r, shared.reference), True),
        _Field(Column("tokens/s", "throughput", place="wide"), _throughput),
        _Field(Column("step (µs)", "step", place="wide"), _step),
        _Field(
            Column("first token (µs)", "first-token", place="fold"),
            _plain(lambda r: r.over_workers(lambda x: x.metrics.first_token_us), formats.micros),
        ),
        _Field(
            Column("token to token p50 / p95 / p99 (µs)", "inter-token", place="fold"),
            _inter_token,
        ),
        _Field(
            Column("GB/s", "rate"),
            _plain(lambda r: r.over_workers(lambda x: x.metrics.gigabytes_per_second), formats.significant),
        ),
        _Field(
            Column("TFLOP/s", "rate"),
            _plain(lambda r: r.over_workers(lambda x: x.metrics.teraflops), formats.significant),
        ),
        _Field(Column("bytes", "bytes", place="fold"), lambda r: _counted(r.bytes, r.median_us, "B", "B/s")),
        _Field(
            Column("operations", "operations", place="fold"),
            lambda r: _counted(r.flops, r.median_us, "FLOP", "FLOP/s"),
        ),
        _Field(
            Column("weights", "weights", place="fold"),
            _plain(lambda r: r.weights_bytes, lambda value: formats.scaled(value, "B")),
        ),
        _Field(
            Column("peak memory", "peak", place="fold"),
            _plain(lambda r: r.peak_bytes, lambda value: formats.scaled(value, "B")),
        ),
        _Field(Column("quartiles (µs)", "quartiles", place="fold"), _quartiles),
        _Field(
            Column("load (µs)", "load", place="fold"),
            _plain(lambda r: r.over_workers(lambda x: x.metrics.load_us), formats.micros),
        ),
        _Field(
            Column("graph build (µs)", "load", place="fold"),
            _plain(lambda r: r.over_workers(lambda x: x.metrics.graph_build_us), formats.micros),
        ),
        _Field(Column("accuracy", "accuracy", numeric=False, place="fold"), _accuracy),
    ]


def _axis_cell(result: CaseResult, axis: str) -> Cell:
    value = result.case.axes.get(axis)
    tip = f"{result.case.name}\nid {result.case.id}"
    text = formats.MISSING if value in (None, "") else str(value)
    return Cell(text, sort=value, tip=tip)


def _axes_shown(results: Sequence[CaseResult]) -> tuple[list[str], list[str]]:
    """The axes that get a column, and those that the note states once."""
    cases = [result.case for result in results]
    suite = cases[0].suite
    varying, common = split_axes(cases)
    shape = {"encoder": ("model", "batch", "src"), "decoder": ("model", "batch", "src", "tgt")}
    wanted = {*varying, *shape.get(suite, shape["decoder"] if suite in MODEL_SUITES else ())}
    if not wanted:
        wanted = {"op" if cases[0].axes.get("op") else "model"}
    ignored = {"tgt"} if suite == "encoder" else set()
    shown = [axis for axis in axis_names(cases) if axis in wanted]
    return shown, [axis for axis in common if axis not in wanted | ignored]


MAX_AXES = 6
"""Columns of axes that a narrow page has room for; further ones are folded away there."""


def case_table(
    results: Sequence[CaseResult],
    marks_of: Callable[[CaseResult], Sequence[Mark]],
    facts_of: Callable[[CaseResult], tuple[Fact, ...]] = lambda result: (),
) -> Table:
    """The measured cases of one suite, one row a case and run.

    Axes in which all rows agree, and marks that all rows carry and that are no warning, are said in the note.
    """
    measured = [result for result in results if result.ok]
    row_marks = [list(marks_of(result)) for result in measured]
    common_marks: list[Mark] = []
    if len(measured) > 1:
        common_marks = [m for m in row_marks[0] if not m.serious and all(m in others for others in row_marks)]
    shared, shared_words = _shared(measured)
    axes, common = _axes_shown(measured)
    columns: list[Column] = []
    rows: list[list[Cell]] = [[] for _ in measured]

    def add(column: Column, cells: Sequence[Cell]) -> None:
        columns.append(column)
        for row, cell in zip(rows, cells, strict=True):
            row.append(cell)

    if len({result.run.label for result in measured}) > 1:
        add(Column("run", numeric=False), [Cell(r.run.label, sort=r.run.label) for r in measured])
    for index, axis in enumerate(axes):
        numeric = axis in INTEGER_AXES
        place = "row" if index < MAX_AXES else "wide"
        add(Column(axis, "case", numeric, place=place), [_axis_cell(result, axis) for result in measured])
    badges = [tuple(m for m in found if m not in common_marks) for found in row_marks]
    groups = format_groups(measured)
    scaled = {id(s.result): s for group in scaling_groups(measured) for s in group.scaled}
    for field in _fields(measured[0].case.suite in MODEL_SUITES, shared, groups, scaled):
        cells = [field.cell(result) for result in measured]
        if field.always or any(cell.text != formats.MISSING for cell in cells):
            add(field.column, cells)
        if field.column.title == "check" and any(badges):
            add(Column("marks", "marks", numeric=False), [Cell("", marks=badge) for badge in badges])
    parts = [common_text([result.case for result in measured], common)]
    parts += [*shared_words, ", ".join(mark.label for mark in common_marks)]
    named = [Row(r.case.name, tuple(cells), facts_of(r)) for r, cells in zip(measured, rows, strict=True)]
    return Table(tuple(columns), tuple(named), "; ".join(part for part in parts if part))
