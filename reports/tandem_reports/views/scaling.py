"""Several cards, in words and as a table: replicas, tensor parallelism, ways of summing, and the model."""

from __future__ import annotations

from collections.abc import Sequence

from tandem_reports import formats
from tandem_reports.gate.collectives import CollectiveGroup
from tandem_reports.gate.scaling import Crossover, Pays, Prediction, ScalingGroup
from tandem_reports.views.figures.scaling import titles
from tandem_reports.views.labels import short_name
from tandem_reports.views.tables import Cell, Column, Row, Table


def crossover_texts(crossings: Sequence[Crossover]) -> list[str]:
    """A sentence for each shape and number of cards: from how many sequences on replicas give more."""
    texts = []
    for c in crossings:
        axes = [axis for axis in ("model", "src", "tgt", "precision", "sparsity") if axis in c.case.axes]
        where = f"{c.case.suite}, {short_name(c.case, axes)}, on {c.cards} cards"
        measured = f"{c.low} to {c.high} sequences" if c.low < c.high else f"{c.low} sequences"
        if c.sequences is not None:
            texts.append(
                f"{where}: replicas give more tokens per second than one shared replica from about "
                f"{round(c.sequences)} sequences on (straight lines between the measured points, {measured})."
            )
        else:
            winner = "replicas give" if c.copies_win else "one shared replica gives"
            texts.append(f"{where}: at {measured} on all cards {winner} more tokens per second.")
    return texts


def pays_texts(found: Sequence[Pays]) -> list[str]:
    """A sentence for each axis of a shape: from which point on several cards are faster than one."""
    texts = []
    for p in found:
        axes = ["model", "batch", "src", "tgt", "precision", "sparsity"]
        where = f"{p.case.suite}, {short_name(p.case, [a for a in axes if a != p.axis])}, tp {p.tp}"
        values = [f"{value} ({formats.ratio(speedup)})" for value, speedup in p.points]
        if p.start is None:
            texts.append(f"{where}: not faster than one card at {p.axis} {values[-1]}, the largest measured.")
        elif p.start == 0:
            texts.append(f"{where}: faster than one card at every {p.axis} measured: {', '.join(values)}.")
        else:
            texts.append(
                f"{where}: faster than one card from {p.axis} {values[p.start]} on, "
                f"not yet at {values[p.start - 1]}."
            )
    return texts


def collective_texts(groups: Sequence[CollectiveGroup]) -> list[str]:
    """A sentence for each operation: from which message on NCCL is faster than the own kernels."""
    texts = []
    for group in groups:
        leads, start = group.leads, group.nccl_from
        if not leads:
            continue
        sizes = [formats.scaled(size, "B") for size, _ in leads]
        where = f"{group.op} over {group.ranks} cards: "
        measured = sizes[0] if len(sizes) == 1 else f"{sizes[0]} to {sizes[-1]}"
        if start is None:
            least = formats.ratio(min(lead for _, lead in leads))
            texts.append(f"{where}the own kernels are as fast as NCCL up to the last message of {measured}")
            texts[-1] += f" (NCCL's time over theirs at the least {least})."
        elif start == 0:
            texts.append(f"{where}NCCL is faster than the own kernels at every message measured, {measured}.")
        else:
            texts.append(
                f"{where}NCCL is faster than the own kernels from {sizes[start]} on "
                f"({formats.ratio(leads[start][1])} their time), not yet at {sizes[start - 1]} "
                f"({formats.ratio(leads[start - 1][1])})."
            )
    return texts


def _row(title: str, group: ScalingGroup, found: Prediction) -> Row:
    one = group.single.median_us
    measured = None if found.measured is None else found.measured
    cells = (
        Cell(title, sort=title),
        Cell(str(found.tp), sort=found.tp),
        Cell(formats.micros(found.sample_us), sort=found.sample_us),
        Cell(formats.ratio(found.speedup), sort=found.speedup),
        Cell(formats.micros(None if measured is None else measured.result.median_us)),
        Cell(formats.ratio(None if measured is None else measured.speedup)),
        Cell(formats.MISSING if found.time_error is None else formats.change(1 + found.time_error)),
        Cell(formats.MISSING if found.speedup_error is None else formats.change(1 + found.speedup_error)),
    )
    return Row(f"{title} {found.tp} {one}", cells)


def model_table(groups: Sequence[ScalingGroup]) -> Table | None:
    """The model's times by cards, beside what was measured, and how far it is off; None without a model."""
    rows = [
        _row(title, group, found)
        for title, group in zip(titles(groups), groups, strict=True)
        for found in group.predictions
    ]
    if not rows:
        return None
    columns = (
        Column("shape", numeric=False), Column("tp"), Column("model (µs)"), Column("model, over one card"),
        Column("measured (µs)"), Column("measured, over one card"), Column("model's time off by"),
        Column("model's speed-up off by"),
    )  # fmt: skip
    return Table(columns, tuple(rows))


def model_note(groups: Sequence[ScalingGroup]) -> str:
    """What the model stands on; empty without one."""
    for group in groups:
        if group.model is not None:
            return (
                "A model, not a measurement, also of cards that are not here: each phase at the ceilings of "
                "the machine, launches at an empty node, and sums over ranks at "
                f"{formats.significant(group.model.card_gbs, 3)} GB/s of a card to its peers and "
                f"{formats.significant(group.model.call_us, 3)} µs each, both published figures "
                "(harness/cost/links.h); nothing is overlapped, and nothing is fitted to the time of a pass."
            )
    return ""
