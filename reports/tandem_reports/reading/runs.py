"""A run: a folder of records with the environment they were made in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from tandem_reports.errors import ReportError
from tandem_reports.reading.environment import Environment, read_environment
from tandem_reports.reading.records import Case, Record, read_records


@dataclass(frozen=True)
class Run:
    """One loaded run. `label` tells runs apart in tables; it never depends on where the folder lies."""

    path: Path
    label: str
    environment: Environment
    records: tuple[Record, ...]
    warnings: tuple[str, ...]


def load_run(path: Path) -> Run:
    """Loads a run folder. Raises ReportError naming file, line and field.

    Records come ordered by case and worker, one for each pair: the last attempt.
    """
    if not path.is_dir():
        raise ReportError(
            f"{path}: not a run folder (a folder that holds environment.json and records.jsonl)"
        )
    environment = read_environment(path / "environment.json")
    records, warnings = read_records(path / "records.jsonl")
    last: dict[tuple[str, int], Record] = {}
    cases: dict[str, Case] = {}
    for record in records:
        case, key = record.case, (record.case.id, record.worker)
        where = f"{path / 'records.jsonl'}: id {case.id}"
        if cases.setdefault(case.id, case) != case:
            raise ReportError(f"{where} is that of two cases: {_apart(cases[case.id], case)}")
        if key in last and record.attempt == last[key].attempt:
            raise ReportError(f"{where}: worker {record.worker}, attempt {record.attempt} is there twice")
        if key not in last or record.attempt > last[key].attempt:
            last[key] = record
    if not last:
        warnings.append(f"{path / 'records.jsonl'}: holds no record")
    ordered = tuple(last[key] for key in sorted(last))
    return Run(path, environment.run_id, environment, ordered, tuple(warnings))


def _apart(a: Case, b: Case) -> str:
    names = [name for name in a.axes if a.axes[name] != b.axes.get(name)] or ["name"]
    values = [(a.axes.get(name, a.name), b.axes.get(name, b.name)) for name in names]
    return ", ".join(f"{name} {x} and {y}" for name, (x, y) in zip(names, values, strict=True))


def load_runs(paths: Sequence[Path]) -> list[Run]:
    """Loads several runs and makes their labels distinct, in the order given."""
    runs = [load_run(path) for path in paths]
    labels = [run.label for run in runs]
    distinct = []
    for index, run in enumerate(runs):
        if labels.count(run.label) > 1:
            run = replace(run, label=f"{run.label} ({labels[: index + 1].count(run.label)})")
        distinct.append(run)
    return distinct
