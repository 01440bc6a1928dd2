"""duet.json: how the two sides of a duet differ by intention, and which looks were taken at it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tandem_reports.errors import ReportError
from tandem_reports.reading.fields import Fields, check_schema, parse_json
from tandem_reports.reading.records import INTEGER_AXES, LATER_AXES, TEXT_AXES


@dataclass(frozen=True)
class Look:
    """A look at the pairs below number `pairs`, or at all there are: `number` of at most `of`."""

    number: int
    of: int
    pairs: int | None = None


@dataclass(frozen=True)
class DuetNotes:
    """What a gate needs to know of a duet: nothing that tells which side is which build.

    `axes` are set on a side and left out when cases are matched; `taken` are the looks so far; `plan` the
    pairs at which looks were planned; `end` why it ended, None where it has not; `sweep` and `policy` where
    its sweep and its rules came from, in words.
    """

    axes: tuple[str, ...] = ()
    taken: tuple[Look, ...] = ()
    plan: tuple[int, ...] = ()
    spent_s: float | None = None
    end: str | None = None
    sweep: str | None = None
    policy: str | None = None


def read_duet(folder: Path) -> DuetNotes:
    """Reads a duet's notes; a folder that holds just the two runs has none. Raises ReportError."""
    path = folder / "duet.json"
    if not path.is_file():
        return DuetNotes()
    try:
        text = path.read_bytes().decode("utf-8")
    except OSError as error:
        raise ReportError(f"{path}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise ReportError(f"{path}: not UTF-8 at byte {error.start + 1}") from None
    fields = Fields(parse_json(text, str(path)), str(path))
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
        tuple(plan.integer(name, minimum=1) for name in plan.values),
        fields.optional_number("spent_s", minimum=0),
        fields.optional_text("end"),
        rules.optional_text("sweep"),
        rules.optional_text("policy"),
    )
