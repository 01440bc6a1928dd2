"""environment.json: the machine and build that a run was made with, read strictly."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tandem_reports.reading.fields import Fields, check_schema, read_json, shown


@dataclass(frozen=True)
class Card:
    """One accelerator."""

    name: str
    uuid: str
    compute_capability: str | None
    sms: int | None
    l2_bytes: float | None
    memory_bytes: float | None
    ecc: bool | None
    mig: bool | None
    power_limit_w: float | None
    clock_policy: str | None
    nvlink: tuple[object, ...]


@dataclass(frozen=True)
class Environment:
    """What a run was made with. A null in the file is None here: unknown, never a default."""

    schema: str
    run_id: str
    created: str
    command: tuple[str, ...]
    sweep_file: str | None
    sweep_sha256: str | None
    sweep_workers: int | None
    git_revision: str | None
    git_dirty: bool | None
    build_type: str | None
    compiler: str | None
    compiler_flags: str | None
    cuda_architectures: str | None
    binaries: Mapping[str, str]
    planted: Mapping[str, object]
    host_name: str | None
    cpu: str | None
    cores: int | None
    kernel: str | None
    host_memory_bytes: float | None
    software: Mapping[str, str | None]
    cards: tuple[Card, ...]
    ceilings: Mapping[str, object] | None
    variables: Mapping[str, str]
    device: str | None
    """UUID of the card in use; None where the file does not say or no card was used."""
    used: tuple[Card, ...]
    """The cards that the times are of: the one in use, or every card where the file does not say which."""


def _card(value: object, where: str) -> Card:
    fields = Fields(value, where)
    return Card(
        name=fields.text("name"),
        uuid=fields.text("uuid"),
        compute_capability=fields.optional_text("compute_capability"),
        sms=fields.optional_integer("sms", minimum=1),
        l2_bytes=fields.optional_number("l2_bytes", minimum=0),
        memory_bytes=fields.optional_number("memory_bytes", minimum=0),
        ecc=fields.optional_flag("ecc"),
        mig=fields.optional_flag("mig"),
        power_limit_w=fields.optional_number("power_limit_w", minimum=0),
        clock_policy=fields.optional_text("clock_policy"),
        nvlink=tuple(fields.items("nvlink")),
    )


def _plain(value: object) -> str:
    return value if isinstance(value, str) else shown(value)


def _text_map(fields: Fields) -> dict[str, str | None]:
    return {name: None if value is None else _plain(value) for name, value in sorted(fields.values.items())}


def parse_environment(value: object, where: str) -> Environment:
    """Reads one environment. Raises ReportError naming `where`, the field and what is allowed."""
    fields = Fields(value, where)
    schema = fields.text("schema")
    check_schema(schema, where)
    sweep = fields.optional_child("sweep") or Fields({}, where)
    git = fields.child("git")
    build = fields.child("build")
    host = fields.child("host")
    binaries = build.optional_child("binaries") or Fields({}, where)
    planted = build.optional_child("planted")
    ceilings = fields.optional_child("ceilings")
    cards = tuple(_card(card, f"{where}: cards[{index}]") for index, card in enumerate(fields.items("cards")))
    device = fields.optional_text("device")
    used = tuple(card for card in cards if card.uuid == device) if "device" in fields.values else cards
    if device is not None and not used:
        fields.fail("device", f"{device!r} is not the UUID of one of the cards")
    return Environment(
        schema=schema,
        run_id=fields.text("run_id"),
        created=fields.text("created"),
        command=fields.texts("command"),
        sweep_file=sweep.optional_text("file"),
        sweep_sha256=sweep.optional_text("sha256"),
        sweep_workers=sweep.optional_integer("workers", minimum=1),
        git_revision=git.optional_text("revision"),
        git_dirty=git.optional_flag("dirty"),
        build_type=build.optional_text("type"),
        compiler=build.optional_text("compiler"),
        compiler_flags=build.optional_text("flags"),
        cuda_architectures=build.optional_text("cuda_architectures"),
        binaries={name: binaries.text(name) for name in sorted(binaries.values)},
        planted=planted.values if planted is not None else {},
        host_name=host.optional_text("name"),
        cpu=host.optional_text("cpu"),
        cores=host.optional_integer("cores", minimum=1),
        kernel=host.optional_text("kernel"),
        host_memory_bytes=host.optional_number("memory_bytes", minimum=0),
        software=_text_map(fields.child("software")),
        cards=cards,
        ceilings=None if ceilings is None else ceilings.values,
        device=device,
        used=used,
        variables={name: text or "" for name, text in _text_map(fields.child("env")).items()},
    )


def read_environment(path: Path) -> Environment:
    """Reads environment.json. Raises ReportError with one line for anything that is not one."""
    return parse_environment(read_json(path), str(path))
