"""duet.json: how the two sides of a duet differ by intention, and which looks were taken at it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tandem_reports.reading.fields import Fields, check_schema, read_json
from tandem_reports.reading.records import INTEGER_AXES, LATER_AXES, TEXT_AXES


@dataclass(frozen=True)
class Look:
    """A look at the pairs below number `pairs`, or at all there are: `number` of at most `of`."""

    number: int
    of: int
    pairs: int | None = None


@dataclass(frozen=True)
class Group:
    """Cases that share a process; `first` is the side that went first, by the pairs that are whole."""

    name: str
    case_ids: tuple[str, ...]
    first: Mapping[int, str] = field(default_factory=dict)


@dataclass(frozen=True)
class DuetNotes:
    """What a gate needs to know of a duet: nothing that tells which side is which build.

    `axes` are set on a side and left out when cases are matched; `taken` are the looks so far; `plan` the
    pairs at which looks were planned; `pair_s` what a pair took in the last stretch; `end` why it ended, None
    where it has not; `sweep` and `policy` where its sweep and its rules came from, in words; `groups` are
    empty where the duet does not say which cases share a process.
    """

    axes: tuple[str, ...] = ()
    taken: tuple[Look, ...] = ()
    groups: tuple[Group, ...] = ()
    plan: tuple[int, ...] = ()
    spent_s: float | None = None
    pair_s: float | None = None
    end: str | None = None
    sweep: str | None = None
    policy: str | None = None


def _groups(fields: Fields, path: Path) -> tuple[Group, ...]:
    names, members = fields.texts("groups"), fields.items("members")
    if not members:
        return ()
    if len(members) != len(names):
        fields.fail("members", f"must name the cases of {len(names)} groups, not of {len(members)}")
    first: list[dict[int, str]] = [{} for _ in names]
    for content in fields.items("order"):
        turn = Fields(content, f"{path}: order")
        group, pair = turn.integer("group", minimum=0), turn.integer("pair", minimum=0)
        if group >= len(names):
            turn.fail("group", f"must be under {len(names)}, the number of groups")
        if not turn.optional_flag("broken"):
            first[group][pair] = turn.optional_choice("first", ("a", "b")) or "a"
    listed = Fields(dict(zip(map(str, range(len(members))), members, strict=True)), f"{path}: members")
    return tuple(Group(name, listed.texts(str(number)), first[number]) for number, name in enumerate(names))


def _pair_s(fields: Fields, path: Path) -> float | None:
    """Seconds of a pair in the last stretch between looks, or up to where the duet is."""
    points = [(0, 0.0)]
    entries = [Fields(content, f"{path}: taken") for content in fields.items("taken")]
    for entry in (*entries, fields):
        spent = entry.optional_number("spent_s", minimum=0)
        pairs = entry.integer("pairs", minimum=0) if "pairs" in entry.values else 0
        if spent is not None and pairs > points[-1][0]:
            points.append((pairs, spent))
    if len(points) < 2:
        return None
    (before, start), (after, end) = points[-2:]
    return max(end - start, 0.0) / (after - before)


def read_duet(folder: Path) -> DuetNotes:
    """Reads a duet's notes; a folder that holds just the two runs has none. Raises ReportError."""
    path = folder / "duet.json"
    if not path.is_file():
        return DuetNotes()
    fields = Fields(read_json(path), str(path))
    check_schema(fields.text("schema"), str(path))
    axes = fields.texts("axes")
    for name in axes:
        if name not in (*TEXT_AXES, *LATER_AXES, *INTEGER_AXES):
            fields.fail("axes", f"{name!r} is not an axis")
    taken = []
    for number, content in enumerate(fields.items("taken"), start=1):
        entry = Fields(content, f"{path}: taken")
        look = Look(
            entry.integer("look", minimum=1),
            entry.integer("of", minimum=1),
            entry.integer("pairs", minimum=0),
        )
        if look.number != number:
            entry.fail("look", f"must be {number}, the looks in their order, not {look.number}")
        if look.number > look.of:
            entry.fail("look", f"is {look.number}, over {look.of}")
        taken.append(look)
    plan = Fields({str(index): pairs for index, pairs in enumerate(fields.items("plan"))}, f"{path}: plan")
    rules = fields.optional_child("rules") or Fields({}, f"{path}: rules")
    return DuetNotes(
        axes,
        tuple(taken),
        _groups(fields, path),
        tuple(plan.integer(name, minimum=1) for name in plan.values),
        fields.optional_number("spent_s", minimum=0),
        _pair_s(fields, path),
        fields.optional_text("end"),
        rules.optional_text("sweep"),
        rules.optional_text("policy"),
    )
