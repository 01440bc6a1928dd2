"""What stands below a case's row: what it was checked against, how to run it again, and its record."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from tandem_reports.reading.runs import Run
from tandem_reports.stats.cases import CaseResult
from tandem_reports.views.labels import ALWAYS, AXIS_ORDER, DEFAULTS
from tandem_reports.views.tables import Fact

RECORDS = "records"
"""The folder beside the page that holds each case's records."""
OWN_ENGINES = ("cuda", "reference")


def suite_command(result: CaseResult) -> str:
    """The suite's command line for one case, as `tandem repro` prints it but for the device."""
    case = result.case
    words = [f"suite_{case.suite}"]
    for axis in AXIS_ORDER:
        value = case.axes.get(axis)
        used = value not in (None, "") and (axis in ALWAYS or value != DEFAULTS.get(axis))
        if used and not (axis == "tgt" and case.suite == "encoder"):
            words += [f"--{axis}", str(value)]
    return shlex.join(words)


def record_file(runs: Sequence[Run], result: CaseResult) -> str:
    """Where the case's records stand beside the page; runs are told apart by their number."""
    number = next(index for index, run in enumerate(runs, start=1) if run.label == result.run.label)
    return f"{RECORDS}/{result.case.id}{f'-{number}' if len(runs) > 1 else ''}.json"


def facts(runs: Sequence[Run], result: CaseResult) -> tuple[Fact, ...]:
    """The lines below one case."""
    found = []
    references = dict.fromkeys(record.check.reference for record in result.ok if record.check is not None)
    if references:
        found.append(Fact("checked against", "; ".join(references)))
    if result.case.text("engine") in OWN_ENGINES:
        revision = result.run.environment.git_revision
        dirty = " with uncommitted changes" if result.run.environment.git_dirty else ""
        built = (
            f"built from git {revision[:12]}{dirty}" if revision else "from a revision that is not recorded"
        )
        found.append(Fact(f"again ({built})", suite_command(result)))
        found.append(
            Fact("again, and compared", f"tandem repro {shlex.quote(result.run.label)}:{result.case.id}")
        )
    found.append(Fact("record", f"{result.case.id}, as measured", record_file(runs, result)))
    return tuple(found)
