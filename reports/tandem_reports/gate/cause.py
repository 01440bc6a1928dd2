"""Why a case is slower: which phase and kernel carry the difference, from a profile of each side.

A profile is one traced process of each build, so that it says where a difference sits and never whether
there is one: that is the duet's word. Three things may carry it. A few phases that stand out from the rest;
then the build is named by its phase and kernel. All phases alike; then it is the card, whose clock moves them
together. Or nothing that the profiles show; then it is noise, or what tracing hides.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from tandem_reports import formats
from tandem_reports.errors import ReportError
from tandem_reports.gate.comparison import Matching
from tandem_reports.gate.verdicts import GateResult
from tandem_reports.reading.profiles import Profile, read_profiles, trace_of
from tandem_reports.stats.cases import CaseResult
from tandem_reports.stats.small_samples import median
from tandem_reports.stats.trace_analysis import GAP_REASONS, Analysis, analyse

SEEN = 0.5
"""Share of the timed change that the profiles must show before they explain it."""
COMMON = 2 / 3
"""Share of the change, spread evenly over the phases, from which on no phase is named."""
CARRIES = 2 / 3
"""Share of the change that the named phases carry together: the fewest of them."""
COUNTS = 0.01
"""Share of the busy time from which on a phase has a say in what is common to all."""
MOST_NAMED = 3
KINDS = ("node", "eager")
"""Passes with a record a kernel, the better one first."""


@dataclass(frozen=True)
class Part:
    """A phase or a kind of gap: its time in both profiles, and what is its own of the change."""

    name: str
    a_us: float
    b_us: float
    own_us: float


@dataclass(frozen=True)
class Card:
    """What the timed processes saw of the card: median clocks in MHz, None where nobody read them."""

    a_mhz: float | None = None
    b_mhz: float | None = None
    throttled: bool = False

    @property
    def slower(self) -> float:
        """How much longer the lower clock of B makes what runs at the clock; 0 where it is not lower."""
        if not self.a_mhz or not self.b_mhz:
            return 0.0
        return max(0.0, self.a_mhz / self.b_mhz - 1)

    @property
    def words(self) -> str:
        """The clocks, for people; empty where they are not known."""
        known = self.a_mhz is not None and self.b_mhz is not None
        clocks = f"clock {self.a_mhz:.0f} MHz in A, {self.b_mhz:.0f} MHz in B" if known else ""
        return ", ".join(filter(None, (clocks, "throttled in B" if self.throttled else "")))


def _common(a: Mapping[str, float], b: Mapping[str, float]) -> float:
    """By what factor all phases changed together: the median of theirs; 1 where too few could tell."""
    least = COUNTS * sum(a.values())
    factors = [b[name] / us for name, us in a.items() if us >= least and us > 0 and b.get(name)]
    return median(factors) if len(factors) >= 3 else 1.0


def parts(a: Analysis, b: Analysis) -> tuple[float, list[Part]]:
    """The factor that all phases share, and what each changed beyond it, the largest first."""
    left = {row.name: row.row.busy_us for row in a.phases}
    right = {row.name: row.row.busy_us for row in b.phases}
    factor = _common(left, right)
    found = []
    for name in left.keys() | right.keys():
        x, y = left.get(name, 0.0), right.get(name, 0.0)
        found.append(Part(name, x, y, y - factor * x))
    for reason in GAP_REASONS:
        x, y = a.gaps_us[reason], b.gaps_us[reason]
        found.append(Part(f"gaps ({reason})", x, y, y - x))
    return factor, sorted(found, key=lambda part: (-part.own_us, part.name))


def _times(a_us: float | None, b_us: float | None) -> str:
    return f"{formats.micros(a_us)} to {formats.micros(b_us)} µs"


def kernel_of(a: Analysis, b: Analysis, phase: str) -> str:
    """The kernel that carries a phase's change, in words; empty for gaps and where nothing grew."""
    sides: list[dict[str, tuple[float, float]]] = []
    for analysis in (a, b):
        rows: dict[str, tuple[float, float]] = {}
        for kernel in (row for row in analysis.kernels if row.phase == phase):
            us, launches = rows.get(kernel.name, (0.0, 0.0))
            rows[kernel.name] = (us + kernel.row.busy_us, launches + kernel.row.launches)
        sides.append(rows)
    left, right = sides
    if not right:
        return ""
    none = (0.0, 0.0)
    name = max(right, key=lambda key: right[key][0] - left.get(key, none)[0])
    us, launches = right[name]
    if name in left:
        before, count = left[name]
        more = f", {formats.launches(count)} to {formats.launches(launches)} launches"
        return f"kernel {name} {_times(before, us)}{more if count != launches else ''}"
    gone = sorted(left.keys() - right.keys(), key=lambda key: -left[key][0])
    return f"kernel {name} {f'instead of {gone[0]}' if gone else 'is new'}"


def _named(a: Analysis, b: Analysis, found: Sequence[Part], change: float) -> str:
    top: list[Part] = []
    for part in found:
        if len(top) == MOST_NAMED or sum(named.own_us for named in top) >= CARRIES * change:
            break
        top.append(part)
    words = []
    for part in top:
        text = f"{part.name} {_times(part.a_us, part.b_us)} carries {100 * part.own_us / change:.0f} % of it"
        kernel = kernel_of(a, b, part.name)
        words.append(f"{text} ({kernel})" if kernel else text)
    return "; ".join(words)


def explain(a: Analysis, b: Analysis, ratio: float, card: Card) -> str:
    """One line on why B takes `ratio` times as long as A, from a profile of each."""
    whole = a.busy_us + a.idle_us
    change = b.busy_us + b.idle_us - whole
    timed = (ratio - 1) * whole
    clock_explains = card.slower >= SEEN * (ratio - 1)
    words = f" ({card.words})" if card.words else ""
    if whole <= 0 or timed <= 0:
        return "the profiles are empty"
    if change < SEEN * timed:
        shown = f"the profiles show {formats.change(1 + change / whole)} instead of {formats.change(ratio)}"
        if clock_explains or card.throttled:
            return f"the card: {card.words}; {shown}"
        return f"noise, or what tracing hides: {shown}{words}"
    factor, found = parts(a, b)
    if (factor - 1) * a.busy_us >= COMMON * change:
        even = f"all phases take {formats.change(factor)}, none stands out"
        if clock_explains or card.throttled:
            return f"the card: {even}; {card.words}"
        return f"the card, or what touches every kernel (compiler, flags): {even}{words}"
    named = _named(a, b, found, change)
    return f"{named}; B's clock is lower too{words}" if clock_explains else named


def _profile(side: str, result: CaseResult | None, known: Mapping[tuple[str, str], Profile]) -> Profile | str:
    """A side's profile of a case, or why there is none."""
    reason = "not made"
    for kind in KINDS:
        found = known.get((result.case.id, kind)) if result is not None else None
        if found is not None and found.status in ("ok", "incomplete") and found.trace is not None:
            return found
        if found is not None:
            reason = found.reason or found.status
    return f"no profile of {side}: {reason}"


def _cause(a: CaseResult, b: CaseResult, ratio: float, found: Sequence[Profile | str]) -> str:
    first, second = found
    if isinstance(first, str):
        return first
    if isinstance(second, str):
        return second
    if first.kind != second.kind:
        return f"the profiles are of two kinds: {first.kind} in A, {second.kind} in B"
    try:
        sides = [analyse(trace_of(side.run.path, p)) for side, p in ((a, first), (b, second))]
    except ReportError as error:
        return f"no cause: {error}"
    card = Card(
        a.over_workers(lambda record: record.sm_mhz_median),
        b.over_workers(lambda record: record.sm_mhz_median),
        any(record.throttled_samples for record in b.ok),
    )
    lost = "" if all(side.trace.complete for side in sides) else " (records of the profiles were lost)"
    return explain(sides[0], sides[1], ratio, card) + lost


def with_causes(result: GateResult, ignore: tuple[str, ...] = ()) -> tuple[GateResult, list[str]]:
    """The gate's result with the cause in the note of each slower case, and warnings of the profiles' files.

    `ignore`: the axes by which the sides' cases differ on purpose.
    """
    profiles_a, warnings_a = read_profiles(result.a.path)
    profiles_b, warnings_b = read_profiles(result.b.path)
    if not profiles_a and not profiles_b:
        return result, []
    matching = Matching(ignore=ignore)
    left, right = matching.select(result.a, ""), matching.select(result.b, "")
    verdicts = []
    for verdict in result.verdicts:
        a, b = left.get(matching.key(verdict.case)), right.get(matching.key(verdict.case))
        if verdict.status == "slower" and verdict.ratio is not None and a is not None and b is not None:
            found = (_profile("A", a, profiles_a), _profile("B", b, profiles_b))
            cause = f"cause: {_cause(a, b, verdict.ratio, found)}"
            verdict = replace(verdict, note="; ".join(filter(None, (cause, verdict.note))))
        verdicts.append(verdict)
    return replace(result, verdicts=tuple(verdicts)), [*warnings_a, *warnings_b]
