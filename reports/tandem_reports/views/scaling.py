"""Tensor parallelism against replicas, in words."""

from __future__ import annotations

from collections.abc import Sequence

from tandem_reports.gate.scaling import Crossover
from tandem_reports.views.labels import short_name


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
