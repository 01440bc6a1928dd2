"""What a record says of several cards: the ranks of its case, and a model of other numbers of them."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from tandem_reports.reading.fields import Fields


@dataclass(frozen=True)
class RankClocks:
    """A rank's card while its samples were taken: medians over blocks."""

    sm_mhz: float | None
    mean_sm_mhz: float | None
    temperature_c: float | None
    power_w: float | None
    throttled_blocks: int | None
    reasons: tuple[str, ...]
    contended: bool | None


@dataclass(frozen=True)
class Rank:
    """One of several processes of a case."""

    rank: int
    host: str
    device: int | None  # None of an engine on the host
    card: str | None
    uuid: str | None
    median_us: float | None
    wait_us: float | None
    exchange: str | None  # as clocks
    clocks: RankClocks | None  # None of an engine on the host, and in records before 1.4


@dataclass(frozen=True)
class Modelled:
    """What the model says of a case on `tp` cards: nobody measured it."""

    tp: int
    sample_us: float
    comm_us: float
    step_us: float | None


@dataclass(frozen=True)
class CardModel:
    """A model of several cards of a host, with the links it was asked about."""

    card_gbs: float
    call_us: float
    degrees: tuple[Modelled, ...]

    def on(self, tp: int) -> Modelled | None:
        """Of this degree; None where it does not divide the model."""
        return next((degree for degree in self.degrees if degree.tp == tp), None)


def _known(fields: Fields, kind: type) -> Fields:
    fields.refuse_unknown([field.name for field in dataclasses.fields(kind)])
    return fields


def _rank_clocks(fields: Fields) -> RankClocks:
    _known(fields, RankClocks)
    return RankClocks(
        sm_mhz=fields.optional_number("sm_mhz", minimum=0),
        mean_sm_mhz=fields.optional_number("mean_sm_mhz", minimum=0),
        temperature_c=fields.optional_number("temperature_c", minimum=0),
        power_w=fields.optional_number("power_w", minimum=0),
        throttled_blocks=fields.optional_integer("throttled_blocks", minimum=0),
        reasons=tuple(fields.texts("reasons")),
        contended=fields.optional_flag("contended"),
    )


def read_rank(fields: Fields) -> Rank:
    """One of `ranks`."""
    _known(fields, Rank)
    clocks = fields.optional_child("clocks")
    return Rank(
        rank=fields.integer("rank", minimum=0),
        host=fields.text("host"),
        device=fields.optional_integer("device", minimum=0),
        card=fields.optional_text("card"),
        uuid=fields.optional_text("uuid"),
        median_us=fields.optional_time("median_us"),
        wait_us=fields.optional_number("wait_us", minimum=0),
        exchange=fields.optional_text("exchange"),
        clocks=None if clocks is None else _rank_clocks(clocks),
    )


def read_model(fields: Fields) -> CardModel:
    """The field `model`."""
    degrees = [Fields(d, f"{fields.where}: degrees[{i}]") for i, d in enumerate(fields.items("degrees"))]
    return CardModel(
        card_gbs=fields.number("card_gbs", minimum=0),
        call_us=fields.number("call_us", minimum=0),
        degrees=tuple(
            Modelled(
                tp=d.integer("tp", minimum=1),
                sample_us=d.time("sample_us"),
                comm_us=d.number("comm_us", minimum=0),
                step_us=d.optional_time("step_us"),
            )
            for d in degrees
        ),
    )
