"""Sums over ranks: the own kernels beside NCCL, and the message from which NCCL is the faster one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tandem_reports.stats.cases import CaseResult

NCCL = "nccl"
OWN = ("oneshot", "twoshot")


@dataclass(frozen=True)
class Point:
    """One way of summing a message of `size` bytes a rank."""

    size: float
    us: float
    result: CaseResult

    @property
    def bus_gbs(self) -> float:
        """What nccl-tests calls bus bandwidth of an all-reduce, 1e9 bytes/s: its bytes over any one link."""
        ranks = self.result.case.integer("tp")
        return 2 * (ranks - 1) / ranks * self.size / self.us * 1e-3


@dataclass(frozen=True)
class CollectiveGroup:
    """All ways of one operation over so many ranks in one run, each by the size of the message."""

    op: str
    ranks: int
    run: str
    ways: dict[str, tuple[Point, ...]]

    @property
    def leads(self) -> list[tuple[float, float]]:
        """(size, NCCL's time over the best own one) where both were measured."""
        nccl = {p.size: p.us for p in self.ways.get(NCCL, ())}
        own: dict[float, float] = {}
        for way in OWN:
            for p in self.ways.get(way, ()):
                own[p.size] = min(p.us, own.get(p.size, p.us))
        return [(size, nccl[size] / own[size]) for size in sorted(nccl.keys() & own.keys())]

    @property
    def nccl_from(self) -> int | None:
        """The first of `leads` from which on NCCL is faster at each; None where it is not at the last."""
        ahead = [i for i, (_, lead) in enumerate(self.leads) if lead >= 1]
        first = ahead[-1] + 1 if ahead else 0
        return first if first < len(self.leads) else None


def collective_groups(results: Sequence[CaseResult]) -> list[CollectiveGroup]:
    """By operation and ranks."""
    found: dict[tuple[str, str, int, str], dict[str, list[Point]]] = {}
    for result in results:
        case, us = result.case, result.median_us
        if case.suite != "collectives" or us is None or result.bytes is None:
            continue
        key = (result.run.label, case.text("op"), case.integer("tp"), case.text("precision"))
        ways = found.setdefault(key, {})
        ways.setdefault(case.text("allreduce"), []).append(Point(result.bytes, us, result))
    return [
        CollectiveGroup(
            op, ranks, run, {w: tuple(sorted(ps, key=lambda p: p.size)) for w, ps in sorted(ways.items())}
        )
        for (run, op, ranks, _), ways in sorted(found.items())
    ]
