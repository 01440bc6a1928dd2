"""Whether the raw samples of a run are the ones its records speak of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from tandem_reports.errors import ReportError
from tandem_reports.reading.runs import Run
from tandem_reports.reading.samples import read_samples, samples_path, summary_agrees


@dataclass
class SampleAudit:
    """Counts over the measured records, and what does not match.

    `damaged` holds (run label, case id, worker).
    """

    matching: int = 0
    absent: int = 0
    damaged: set[tuple[str, str, int]] = field(default_factory=set)
    messages: list[str] = field(default_factory=list)

    @property
    def total(self) -> int:
        """Measured records."""
        return self.matching + self.absent + len(self.damaged)


def audit_samples(runs: Sequence[Run]) -> SampleAudit:
    """Reads every raw sample file that is there: hash, length, values and median must be the record's.

    A missing file is counted, not complained about: a baseline may be kept without its samples.
    """
    audit = SampleAudit()
    for run in runs:
        for record in run.records:
            if record.status != "ok" or record.summary is None:
                continue
            try:
                if record.samples is None or not samples_path(run.path, record.samples).is_file():
                    audit.absent += 1
                    continue
                samples = read_samples(run.path, record.samples)
                if not summary_agrees(samples, record.summary.median_us):
                    raise ReportError(
                        f"{run.path}/{record.samples.file}: its median is not the record's "
                        f"({record.summary.median_us:g} µs)"
                    )
                audit.matching += 1
            except ReportError as error:
                audit.damaged.add((run.label, record.case.id, record.worker))
                audit.messages.append(str(error))
    return audit
