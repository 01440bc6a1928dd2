"""Formats of a case in words: the speed-up over bf16, what it stands on, and losses said aloud."""

from __future__ import annotations

import math
from collections.abc import Sequence

from tandem_reports import formats
from tandem_reports.gate.precisions import BF16, Format, FormatGroup
from tandem_reports.stats.cases import CaseResult
from tandem_reports.views.labels import short_name, split_axes


def speedup_text(found: Format) -> str:
    """1.42×, or 0.93× slower: a loss is rounded down, so that none reads as 1."""
    if found.speedup is None:
        return formats.MISSING
    if found.loses:
        decimals = 2 if found.speedup < 0.95 else 3
        return f"{math.floor(10**decimals * found.speedup) / 10**decimals:.{decimals}f}× slower"
    return formats.ratio(found.speedup)


def evidence(found: Format, baseline: CaseResult) -> str:
    """The interval, where there is one, and the workers on both sides."""
    own, base = len(found.result.ok), len(baseline.ok)
    words = [f"n {own}" if own == base else f"n {own}, bf16 {base}"]
    if found.interval is not None:
        low, high = found.interval.low, found.interval.high
        words.insert(0, f"{formats.significant(low, 3)} – {formats.significant(high, 3)}")
    return ", ".join(words)


def group_titles(groups: Sequence[FormatGroup], *without: str) -> list[str]:
    """A short name for each group by what tells them apart; always with the model."""
    cases = [group.case for group in groups]
    varying, _ = split_axes(cases)
    words = (*BF16, *without)
    axes = ["model", *(axis for axis in varying if axis not in ("model", *words))]
    many_runs = len({group.run_label for group in groups}) > 1
    return [short_name(group.case, axes) + (f" ({group.run_label})" if many_runs else "") for group in groups]


def losses_text(groups: Sequence[FormatGroup]) -> str:
    """How many cases are slower than in bf16, in a sentence; empty where there is no such comparison."""
    known = [found for group in groups for found in group.formats if found.speedup is not None]
    if not known:
        return ""
    slower = sum(found.loses for found in known)
    beside = (
        f"{formats.plural(len(known), 'case')} with a bf16 case beside {'it' if len(known) == 1 else 'them'}"
    )
    if not slower:
        return f"None of the {beside} is slower than bf16."
    doubtful = sum(f.loses and f.interval is not None and f.interval.high >= 1 for f in known)
    doubt = f" ({doubtful} with an interval that holds 1)" if doubtful else ""
    verb, whose = ("is", "its cell says") if slower == 1 else ("are", "their cells say")
    return f"Of {beside}, {slower} {verb} slower than bf16{doubt}; {whose} so."
