"""Cases over their workers: the numbers that tables and figures show."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Sequence
from dataclasses import dataclass, replace

from tandem_reports.reading.records import MODEL_SUITES, SUITES, Accuracy, Case, Check, Record
from tandem_reports.reading.runs import Run
from tandem_reports.stats.small_samples import MIN_WORKERS, Interval, median, median_interval

TINY = "tiny"
"""The model for tests: its launches are all of its time, and say nothing about another one."""
LOSSY_PRECISIONS = ("fp8", "int8", "w8a16", "w4a16")
LOSSY_KV = ("fp8", "int8")


@dataclass(frozen=True)
class CaseResult:
    """One case of one run. Times are in microseconds; None is what nobody measured."""

    run: Run
    case: Case
    ok: tuple[Record, ...]
    failed: tuple[Record, ...]

    @property
    def medians(self) -> list[float]:
        """The workers' medians, in the order of the workers."""
        return [record.summary.median_us for record in self.ok if record.summary is not None]

    @property
    def median_us(self) -> float | None:
        """Median over the workers' medians."""
        return median(self.medians) if self.ok else None

    @property
    def interval(self) -> Interval | None:
        """95 % interval of the median across workers, from six workers on."""
        return median_interval(self.medians) if len(self.ok) >= MIN_WORKERS else None

    @property
    def samples(self) -> int:
        """Samples over all workers."""
        return sum(record.summary.n for record in self.ok if record.summary is not None)

    @property
    def fastest_sample_us(self) -> float | None:
        """The fastest single sample."""
        values = [r.summary.min_us for r in self.ok if r.summary is not None and r.summary.min_us is not None]
        return min(values) if values else None

    def over_workers(self, read: Callable[[Record], float | None]) -> float | None:
        """Median over the workers that have the value; None where none has."""
        values = [value for value in map(read, self.ok) if value is not None]
        return median(values) if values else None

    @property
    def floor_us(self) -> float | None:
        """The strict floor."""
        return self.over_workers(lambda record: record.floor.floor_us)

    @property
    def floor_ratio(self) -> float | None:
        """Median over floor."""
        floor, middle = self.floor_us, self.median_us
        return None if floor is None or middle is None else middle / floor

    @property
    def bound(self) -> str | None:
        """Which term of the floor binds."""
        return next((record.floor.bound for record in self.ok if record.floor.bound is not None), None)

    @property
    def tokens_per_second(self) -> float | None:
        """Median over workers."""
        return self.over_workers(lambda record: record.metrics.tokens_per_second)

    @property
    def step_us(self) -> float | None:
        """Median over workers of the mean decode step."""
        return self.over_workers(lambda record: record.metrics.step_us)

    @property
    def step_floor_us(self) -> float | None:
        """Floor of the mean decode step."""
        return self.over_workers(lambda record: record.floor.step_floor_us)

    @property
    def bytes(self) -> float | None:
        """Bytes counted for the case."""
        return self.over_workers(lambda record: record.bytes)

    @property
    def flops(self) -> float | None:
        """Operations counted for the case."""
        return self.over_workers(lambda record: record.flops)

    @property
    def peak_bytes(self) -> float | None:
        """Largest peak of device memory over the workers."""
        values = [record.peak_bytes for record in self.ok if record.peak_bytes is not None]
        return max(values) if values else None

    @property
    def weights_bytes(self) -> float | None:
        """Bytes of the loaded weights as they are stored."""
        return self.over_workers(lambda record: record.weights_bytes)

    @property
    def kv_bytes(self) -> float | None:
        """Bytes of K/V that a decode step reads and appends."""
        return self.over_workers(lambda record: record.kv_bytes)

    @property
    def check(self) -> Check | None:
        """The check with the largest error among the workers'; None when a worker has none."""
        checks = [record.check for record in self.ok]
        known = [check for check in checks if check is not None]
        if not known or len(known) < len(checks):
            return None
        return max(known, key=lambda check: -1.0 if check.error is None else check.error)

    @property
    def accuracy(self) -> Accuracy | None:
        """The worst of the workers' accuracies, error by error; None when a worker has none."""
        known = [record.accuracy for record in self.ok if record.accuracy is not None]
        if not known or len(known) < len(self.ok):
            return None
        kl = [accuracy.kl for accuracy in known if accuracy.kl is not None]
        agree = [accuracy.tokens_agree for accuracy in known if accuracy.tokens_agree is not None]
        free = [accuracy.free_tokens_agree for accuracy in known if accuracy.free_tokens_agree is not None]
        tokens = [accuracy.tokens for accuracy in known if accuracy.tokens is not None]
        return replace(
            known[0],
            relative_error=max(accuracy.relative_error for accuracy in known),
            kl=max(kl) if len(kl) == len(known) else None,
            tokens_agree=min(agree) if len(agree) == len(known) else None,
            free_tokens_agree=min(free) if len(free) == len(known) else None,
            tokens=min(tokens) if len(tokens) == len(known) else None,
            teacher_forced=all(accuracy.teacher_forced for accuracy in known),
            synthetic_weights=any(accuracy.synthetic_weights for accuracy in known),
        )


def telling_ratio(result: CaseResult) -> float | None:
    """Median over floor, for headlines; None for `tiny`."""
    return None if result.case.axes.get("model") == TINY else result.floor_ratio


def natural_order(case: Case) -> tuple[object, ...]:
    """Sorts cases as their names read: suite, model, then numbers by size."""
    axes = case.axes
    known = ("op", "model", "batch", "src", "tgt", "precision", "sparsity", "tp", "engine")
    return (SUITES.index(case.suite), *(axes[name] for name in known), case.name, case.id)


def collect(runs: Sequence[Run]) -> list[CaseResult]:
    """Every case of every run, in natural order, runs in the order given."""
    results = []
    for run in runs:
        by_case: dict[str, list[Record]] = {}
        for record in run.records:
            by_case.setdefault(record.case.id, []).append(record)
        for records in by_case.values():
            ok = tuple(record for record in records if record.status == "ok")
            failed = tuple(record for record in records if record.status != "ok")
            results.append(CaseResult(run, records[0].case, ok, failed))
    results.sort(key=lambda result: natural_order(result.case))
    return results


def by_suite(results: Iterable[CaseResult]) -> dict[str, list[CaseResult]]:
    """The results of each suite, in the suites' order."""
    groups: dict[str, list[CaseResult]] = {}
    for result in results:
        groups.setdefault(result.case.suite, []).append(result)
    return groups


@dataclass(frozen=True)
class Mark:
    """A remark that a record carries about its own conditions."""

    key: str
    label: str
    meaning: str
    serious: bool


MARKS = (
    Mark("changed", "output changed", "The output after timing is not the output that was checked.", True),
    Mark("profiler", "profiler mapped", "A profiler library was mapped into the timed process.", True),
    Mark("partial", "workers failed", "At least one worker failed on this case; the others are shown.", True),
    Mark("unchecked", "not checked", "No validation stands in the record of at least one worker.", True),
    Mark("samples", "samples differ", "The raw samples beside the record do not match it.", True),
    Mark(
        "below",
        "under its floor",
        "Faster than its floor: its counted bytes do not fit it, or the ceilings are in question.",
        True,
    ),
    Mark("contended", "contended", "A process of someone else's was on the card.", True),
    Mark("throttled", "throttled", "The clocks were held down during some samples; they are kept.", True),
    Mark("unsteady", "not settled", "The clock moved on after warm-up, or while samples were taken.", True),
    Mark("capped", "stopped at cap", "Sampling reached its cap before the precision it aimed at.", False),
    Mark("unqualified", "accuracy not stated", "A lossy case without its accuracy beside it.", True),
    Mark(
        "resident",
        "L2 resident",
        "A replay moves under twice the L2: the floor at L2 rate counts.",
        False,
    ),
    Mark("cold", "L2 cold", "L2 was emptied before each sample.", False),
    Mark("burst", "burst", "Cool card at full clock; a sustained load runs slower.", False),
    Mark("sustained", "sustained", "The clock had settled, often at the power limit.", False),
    Mark("cpu", "CPU", "Measured on a CPU.", False),
    Mark("synthetic", "synthetic weights", "Weights came from a seed, not from a trained model.", False),
)
MARK_BY_KEY = {mark.key: mark for mark in MARKS}


def is_lossy(case: Case) -> bool:
    """Whether the case trades accuracy for speed."""
    lossy_kv = case.text("kv") in LOSSY_KV
    return case.text("precision") in LOSSY_PRECISIONS or lossy_kv or case.text("sparsity") != "dense"


def _record_marks(record: Record) -> set[str]:
    check = record.check
    digests = (None, None) if check is None else (check.digest, check.digest_after)
    model_suite = record.case.suite in MODEL_SUITES
    conditions = {
        "changed": None not in digests and digests[0] != digests[1],
        "profiler": record.profiler_mapped is True,
        "unchecked": check is None,
        "contended": record.contended is True,
        "throttled": record.throttled,
        "unsteady": record.unsettled,
        "capped": record.capped,
        "unqualified": model_suite and is_lossy(record.case) and record.accuracy is None,
        "resident": record.l2 == "resident",
        "cold": record.l2 == "cold",
        "burst": record.regime == "burst",
        "sustained": record.regime == "sustained" and not record.throttled and not record.unsettled,
        "cpu": record.regime == "cpu",
        "synthetic": model_suite and record.case.text("weights").startswith("seed:"),
    }
    return {key for key, holds in conditions.items() if holds}


BEATEN = 0.99
"""A median below this share of the floor beats it; less is the noise of both."""


def beats_floor(result: CaseResult) -> bool:
    """Whether the case is faster than the hardware allows, which puts the ceilings in question."""
    return result.floor_ratio is not None and result.floor_ratio < BEATEN


def marks(result: CaseResult, damaged: Container[tuple[str, int]] = ()) -> list[Mark]:
    """The marks of a case: those of any of its workers, in the order of MARKS.

    `damaged` holds (case id, worker) of the records whose raw samples do not match.
    """
    keys: set[str] = set().union(*map(_record_marks, result.ok)) if result.ok else set()
    if any((result.case.id, record.worker) in damaged for record in result.ok):
        keys.add("samples")
    if beats_floor(result):
        keys.add("below")
    if result.ok and result.failed:
        keys.add("partial")
    return [mark for mark in MARKS if mark.key in keys]
