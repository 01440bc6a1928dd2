"""The bars of several GPUs: what the records of a run say of each, and whether that meets it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from tandem_reports import formats
from tandem_reports.gate.collectives import (
    NCCL,
    OWN,
    CollectiveGroup,
    collective_groups,
)
from tandem_reports.gate.scaling import scaling_groups
from tandem_reports.stats.cases import CaseResult

MET, MISSED, UNKNOWN = "met", "missed", "not measured"

# Least speed-ups over one GPU of the same run, by cards, of suites/tensor_parallel.json's T5-3B in bf16.
STEP_B1 = {2: 1.03, 4: 1.2}
STEP_B64_S512 = {2: 1.5, 4: 2.2}
ENCODER_B64 = {2: 1.7, 4: 2.8}
REPLICAS_B64 = {2: 1.9, 4: 3.8}
# Most microseconds of a sum in a chain of 72, by cards, at 2 KiB and 64 KiB.
CHAIN_US = {2: {2048: 4.0, 65536: 6.5}, 4: {2048: 4.5, 65536: 8.0}}
# A speed-up counts only over a single GPU that is no slower than this (one H200, 2026-11-29), with 2 % for noise.
ONE_GPU_US = {"batch 1 step": 1201.0, "encoder, batch 64": 32700.0}
NOISE = 1.02
# What the own sum may lose to NCCL where it is picked.
LEAST_OF_NCCL = 0.97
MEMORY = {2: 0.55, 4: 0.30}
KILLED_S = 30.0


@dataclass(frozen=True)
class Bar:
    """One line. `measured` None: nobody measured it yet."""

    name: str
    measured: float | None
    bar: float
    at_least: bool
    unit: str = ""
    note: str = ""

    @property
    def state(self) -> str:
        """met, missed or not measured."""
        if self.measured is None:
            return UNKNOWN
        good = self.measured >= self.bar if self.at_least else self.measured <= self.bar
        return MET if good else MISSED

    @property
    def text(self) -> str:
        """The line."""
        value = "-" if self.measured is None else f"{self.measured:.4g}{self.unit}"
        limit = f"{'at least' if self.at_least else 'at most'} {self.bar:g}{self.unit}"
        note = f"; {self.note}" if self.note else ""
        return f"{self.state:<12}  {self.name}: {value} ({limit}){note}"


def _is(result: CaseResult, suite: str, **axes: str | int) -> bool:
    wanted = {
        "model": "t5-3b",
        "precision": "bf16",
        "sparsity": "dense",
        "allreduce": "auto",
    } | axes
    return result.case.suite == suite and all(
        result.case.axes.get(k) == v for k, v in wanted.items()
    )


def _one(
    results: Sequence[CaseResult], suite: str, **axes: str | int
) -> CaseResult | None:
    return next((r for r in results if r.ok and _is(r, suite, **axes)), None)


def _ratio(one: float | None, several: float | None) -> float | None:
    return None if one is None or several is None else one / several


def speed_bars(results: Sequence[CaseResult], cards: int) -> list[Bar]:
    """Of suites/tensor_parallel.json."""
    b1 = {"batch": 1, "src": 128, "dp": 1}
    wide = {"batch": 64, "src": 512, "dp": 1}
    encoder = {"batch": 64, "src": 128, "dp": 1}

    def of(suite: str, axes: dict[str, int], tp: int) -> CaseResult | None:
        return _one(results, suite, **axes, tp=tp)

    def step(axes: dict[str, int], tp: int) -> float | None:
        found = of("generate", axes, tp)
        return None if found is None else found.step_us

    def whole(axes: dict[str, int], tp: int) -> float | None:
        found = of("encoder", axes, tp)
        return None if found is None else found.median_us

    bars = [
        Bar(f"{name} on one GPU of this run, over {us:g} us", _ratio(measured, us), NOISE, False, "x",
            "speed-ups count only over a single GPU that is no slower")
        for name, us, measured in (
            ("batch 1 step", ONE_GPU_US["batch 1 step"], step(b1, 1)),
            ("encoder, batch 64", ONE_GPU_US["encoder, batch 64"], whole(encoder, 1)),
        )
    ]  # fmt: skip
    for tp in (2, 4):
        if tp > cards:
            continue
        lines = (
            ("batch 1 step", step(b1, 1), step(b1, tp), STEP_B1),
            (
                "batch 64, source 512, step",
                step(wide, 1),
                step(wide, tp),
                STEP_B64_S512,
            ),
            ("batch 64 encoder", whole(encoder, 1), whole(encoder, tp), ENCODER_B64),
        )
        for name, one, several, least in lines:
            us = (
                ""
                if one is None or several is None
                else f"{formats.micros(one)} to {formats.micros(several)} us"
            )
            bars.append(
                Bar(f"tp {tp}, {name}", _ratio(one, several), least[tp], True, "x", us)
            )
        copies = next(
            (
                s.throughput
                for group in scaling_groups(results)
                if _is(group.single, "generate", batch=64, src=128)
                for s in group.scaled
                if (s.tp, s.dp) == (1, tp)
            ),
            None,
        )
        bars.append(
            Bar(
                f"dp {tp}, batch 64 a GPU, tokens per second",
                copies,
                REPLICAS_B64[tp],
                True,
                "x",
            )
        )
    return bars


def way_of(table: str, size: float) -> str | None:
    """Which way a choice takes for a message: of "oneshot:262144 twoshot:4194304 nccl" the first that holds it.

    None for a text that is no table: NCCL with the reason why all is left to it.
    """
    if not re.fullmatch(r"(\w+:\d+ )*\w+", table):
        return None
    for word in table.split(" "):
        way, _, up_to = word.partition(":")
        if not up_to or size <= int(up_to):
            return way
    return None


def collective_bars(
    groups: Sequence[CollectiveGroup], tables: dict[int, str], cards: int
) -> list[Bar]:
    """Of suites/collectives.json. `tables`: how auto picks, by ranks, as a record of ranks tells it."""
    bars = []
    for ranks in (2, 4):
        if ranks > cards:
            continue
        chain = next((g for g in groups if g.op == "chain" and g.ranks == ranks), None)
        for size, most in CHAIN_US[ranks].items():
            times = {
                way: point.us
                for way, points in (chain.ways.items() if chain else ())
                for point in points
                if point.size == size
            }
            own = [times[way] for way in OWN if way in times]
            note = ", ".join(f"{way} {us:.3g}" for way, us in times.items())
            name = f"{ranks} GPUs, a sum of {size // 1024} KiB in a chain of 72"
            bars.append(Bar(name, min(own, default=None), most, False, " us", note))
        plain = next(
            (g for g in groups if g.op == "all_reduce" and g.ranks == ranks), None
        )
        table = tables.get(ranks)
        leads: dict[float, float] = {}
        if plain is not None and table is not None:
            nccl = {p.size: p.us for p in plain.ways.get(NCCL, ())}
            for way in OWN:
                for p in plain.ways.get(way, ()):
                    if p.size in nccl and way_of(table, p.size) == way:
                        leads[p.size] = nccl[p.size] / p.us
        worst = min(leads, key=lambda size: leads[size], default=None)
        note = table or ""
        if worst is not None:
            note = f"at {formats.scaled(worst, 'B')} of {len(leads)} messages; auto: {table}"
        name = f"{ranks} GPUs, NCCL's time over the own sum's where auto picks that"
        bars.append(
            Bar(
                name,
                None if worst is None else leads[worst],
                LEAST_OF_NCCL,
                True,
                "x",
                note,
            )
        )
    return bars


def _token_bar(results: Sequence[CaseResult], tp: int) -> Bar:
    """In fp32: each case was held against the truth on one rank, token by token."""
    several = _of_ranks(results, tp, "fp32")
    wrong = [r for r in several if not r.ok or r.failed]
    texts = [r for r in several if r.ok and r.case.suite == "generate"]
    same = sum(1 for r in texts if _digest(r) == _digest_of_one(results, r))
    excused = sum(r.check.tokens_excused or 0 for r in texts if r.check is not None)
    note = f"of {len(several)}; {same} of {len(texts)} texts are the very tokens of one rank, {excused} tokens excused"
    name = f"tp {tp}, fp32: cases with a wrong token or value"
    return Bar(
        name,
        len(wrong) if several else None,
        0,
        False,
        note=note if several else "",
    )


def _tolerance_bar(results: Sequence[CaseResult], tp: int) -> Bar:
    """In bf16; a case that is wrong has no error that could be within."""
    several = _of_ranks(results, tp, "bf16")
    errors = [
        check.error / check.tolerance
        if not r.failed
        and (check := r.check) is not None
        and check.error is not None
        and check.tolerance
        else float("inf")
        for r in several
    ]
    name = f"tp {tp}, bf16: largest error over its tolerance"
    return Bar(
        name,
        max(errors, default=None),
        1,
        False,
        "x",
        f"{len(several)} cases" if several else "",
    )


def _of_ranks(
    results: Sequence[CaseResult], tp: int, precision: str
) -> list[CaseResult]:
    wanted = (tp, precision)
    return [
        r for r in results if (r.case.integer("tp"), r.case.text("precision")) == wanted
    ]


def check_bars(results: Sequence[CaseResult], degrees: Sequence[int]) -> list[Bar]:
    """Of the checks: the same cases on one rank and on several, two processes each."""
    bars = [
        make(results, tp) for tp in degrees for make in (_token_bar, _tolerance_bar)
    ]
    ranked = [r for r in results if r.case.integer("tp") * r.case.integer("dp") > 1]
    differ = [
        record
        for r in ranked
        for record in (*r.ok, *r.failed)
        if record.reason is not None and "computed another output" in record.reason
    ]
    checked = any(r.ok for r in ranked)
    bars.append(
        Bar(
            "ranks whose outputs differ in a bit",
            len(differ) if checked else None,
            0,
            False,
        )
    )
    twice = [r for r in ranked if len(r.ok) > 1]
    changed = [
        r
        for r in twice
        if len({d for record in r.ok for d in _digests(record.check)}) != 1
    ]
    bars.append(
        Bar("cases whose bits change from process to process", len(changed) if twice else None, 0, False, "",
            f"{len(twice)} cases, the check and two timed processes each, one file of choices" if twice else "")
    )  # fmt: skip
    return bars


def _digests(check: object) -> list[str]:
    return [
        d
        for d in (getattr(check, "digest", None), getattr(check, "digest_after", None))
        if d
    ]


def _digest(result: CaseResult) -> str | None:
    return next(iter(_digests(result.check)), None)


def _digest_of_one(results: Sequence[CaseResult], result: CaseResult) -> str | None:
    axes = dict(result.case.axes) | {"tp": 1, "dp": 1}
    one = next(
        (
            r
            for r in results
            if r.case.suite == result.case.suite and dict(r.case.axes) == axes
        ),
        None,
    )
    return None if one is None else _digest(one)


def memory_bars(bytes_by_tp: dict[int, list[float]], cards: int) -> list[Bar]:
    """Of the largest GPU of each degree: t5-3b, batch 64, source 512, as NVML sees it."""
    one = max(bytes_by_tp.get(1, []), default=0.0) or None  # 0: no worker was seen
    bars = []
    for tp in (2, 4):
        if tp > cards:
            continue
        most = max(bytes_by_tp.get(tp, [])[:tp], default=0.0) or None
        note = (
            ""
            if one is None or most is None
            else f"{formats.scaled(one, 'B')} to {formats.scaled(most, 'B')}"
        )
        bars.append(
            Bar(
                f"tp {tp}, memory a GPU over one GPU's",
                _ratio(most, one),
                MEMORY[tp],
                False,
                "x",
                note,
            )
        )
    return bars


def killed_bar(
    seconds: float | None, status: str | None, reason: str | None, left: int
) -> Bar:
    """Of a case whose rank was killed; one that does not end as rank_lost, or leaves a process, is missed."""
    good = status == "rank_lost" and left == 0
    measured = None if seconds is None else seconds if good else float("inf")
    note = (
        ""
        if seconds is None
        else f"{status}: {reason}" + (f"; {left} processes left" if left else "")
    )
    return Bar("a killed rank ends its case", measured, KILLED_S, False, " s", note)


def tables_of(results: Sequence[CaseResult]) -> dict[int, str]:
    """How auto sums, by ranks, as the records of cases with tp say."""
    return {
        r.case.integer("tp"): rank.exchange
        for r in results
        if r.case.axes.get("allreduce") == "auto"
        for record in r.ok
        for rank in record.ranks
        if rank.exchange is not None
    }


def sweep_bars(
    parallel: Sequence[CaseResult], collectives: Sequence[CaseResult], cards: int
) -> list[Bar]:
    """Of both sweeps together."""
    return [
        *speed_bars(parallel, cards),
        *collective_bars(collective_groups(collectives), tables_of(parallel), cards),
    ]
