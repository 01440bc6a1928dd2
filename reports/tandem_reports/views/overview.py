"""What stands around the tables of a report: overview, environment, failures and skips."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tandem_reports import formats
from tandem_reports.reading.environment import Card, Environment
from tandem_reports.reading.fields import shown
from tandem_reports.reading.records import STATUSES
from tandem_reports.reading.runs import Run
from tandem_reports.stats.cases import CaseResult, telling_ratio
from tandem_reports.stats.small_samples import geometric_mean


@dataclass(frozen=True)
class SuiteOverview:
    """One line of the overview. Ratios are None where no case but those of `tiny` has a floor."""

    suite: str
    measured: int
    failed: int
    skipped: int
    workers: str
    geomean: float | None
    nearest: float | None
    furthest: float | None


@dataclass(frozen=True)
class Problem:
    """A case that has no number, or lost a worker, and why."""

    status: str
    name: str
    case_id: str
    run: str
    workers: str
    reason: str


def numbers(values: Sequence[int]) -> str:
    """Numbers in words: "3", "0 to 5", "1, 4, 6"."""
    values = sorted(set(values))
    if len(values) > 2 and values[-1] - values[0] == len(values) - 1:
        return f"{values[0]} to {values[-1]}"
    return ", ".join(map(str, values))


def suite_overview(suite: str, results: Sequence[CaseResult]) -> SuiteOverview:
    """Counts and distances to floor of one suite."""
    ratios = [ratio for result in results if (ratio := telling_ratio(result)) is not None]
    workers = [len(result.ok) for result in results if result.ok]
    return SuiteOverview(
        suite=suite,
        measured=len(workers),
        failed=sum(1 for r in results if any(record.status != "skipped" for record in r.failed)),
        skipped=sum(
            1 for r in results if not r.ok and all(record.status == "skipped" for record in r.failed)
        ),
        workers=numbers(workers),
        geomean=geometric_mean(ratios) if ratios else None,
        nearest=min(ratios, default=None),
        furthest=max(ratios, default=None),
    )


def problems(results: Sequence[CaseResult], *, skipped: bool) -> list[Problem]:
    """Failures, or skips: one line for each case, status and reason, with the workers it befell."""
    found = []
    for result in results:
        groups: dict[tuple[str, str], list[int]] = {}
        for record in result.failed:
            if (record.status == "skipped") != skipped:
                continue
            reason = record.reason or "no reason in the record"
            check = record.check
            if record.status == "invalid" and check is not None:
                parts = [f"error {formats.error(check.error)} over {formats.error(check.tolerance)}"]
                parts += [] if check.where is None else [f"worst at {check.where}"]
                reason += f" ({', '.join(parts)}; against {check.reference})"
            if record.attempt > 1:
                reason += f" (attempt {record.attempt})"
            groups.setdefault((record.status, reason), []).append(record.worker)
        for (status, reason), workers in groups.items():
            found.append(
                Problem(status, result.case.name, result.case.id, result.run.label, numbers(workers), reason)
            )
    found.sort(key=lambda problem: STATUSES.index(problem.status))
    return found


def _flag(value: bool | None) -> str:
    return formats.MISSING if value is None else "on" if value else "off"


def _text(value: object) -> str:
    return formats.MISSING if value in (None, "") else str(value)


def _workers(number: int | None) -> list[str]:
    return [] if number is None else [formats.plural(number, "worker")]


def _card_rows(cards: Sequence[Card], used: Sequence[Card]) -> list[tuple[str, str]]:
    rows = [] if used else [("card", "none used")]
    for index, card in enumerate([*used, *(card for card in cards if card not in used)]):
        prefix = "card" if len(used) == 1 else f"card {index}"
        if card not in used:
            rows.append((f"another card {index}", f"{card.name}, {card.uuid}, not used"))
            continue
        rows += [
            (
                prefix,
                f"{card.name}, compute capability {_text(card.compute_capability)}, {_text(card.sms)} SMs",
            ),
            (f"{prefix} UUID", card.uuid),
            (
                f"{prefix} memory",
                f"{formats.scaled(card.memory_bytes, 'B')}, L2 {formats.scaled(card.l2_bytes, 'B')}, "
                f"ECC {_flag(card.ecc)}, MIG {_flag(card.mig)}",
            ),
            (
                f"{prefix} clocks",
                f"{_text(card.clock_policy)}, power limit "
                + (formats.MISSING if card.power_limit_w is None else f"{card.power_limit_w:g} W"),
            ),
        ]
        if card.nvlink:
            rows.append((f"{prefix} NVLink", ", ".join(shown(link).strip('"') for link in card.nvlink)))
    return rows


def _flat(values: Mapping[str, object], prefix: str = "") -> list[tuple[str, str]]:
    rows = []
    for key, value in sorted(values.items()):
        name = f"{prefix} {key.replace('_', ' ')}".strip()
        if isinstance(value, dict):
            rows += _flat(value, name)
        elif isinstance(value, int | float) and not isinstance(value, bool):
            rows.append((name, f"{value:,.6g}"))
        else:
            rows.append((name, _text(value)))
    return rows


def environment_rows(environment: Environment) -> list[tuple[str, str]]:
    """An environment as named lines."""
    e = environment
    dirty = {None: "", True: ", with uncommitted changes", False: ""}[e.git_dirty]
    rows = [("run", e.run_id), ("created", e.created), *_card_rows(e.cards, e.used)]
    rows += [(name, _text(version)) for name, version in e.software.items()]
    rows += [
        ("CPU", f"{_text(e.cpu)}, {_text(e.cores)} cores, {formats.scaled(e.host_memory_bytes, 'B')}"),
        ("kernel", _text(e.kernel)),
        ("git revision", _text(e.git_revision) + dirty),
        ("build", f"{_text(e.build_type)}; {_text(e.compiler)}"),
        ("flags", _text(e.compiler_flags)),
        ("CUDA architectures", _text(e.cuda_architectures)),
        ("command", " ".join(e.command) or formats.MISSING),
        ("sweep", ", ".join([_text(e.sweep_file), *_workers(e.sweep_workers)])),
        ("sweep SHA-256", _text(e.sweep_sha256)),
    ]
    rows += [(f"SHA-256 of {name}", digest) for name, digest in e.binaries.items()]
    rows += [(f"ceiling: {name}", value) for name, value in _flat(e.ceilings or {})]
    rows += [(f"${name}", value) for name, value in e.variables.items()]
    return rows


@dataclass(frozen=True)
class EnvironmentLine:
    """One line over all runs; `differs` where the runs do not agree."""

    name: str
    values: tuple[str, ...]
    differs: bool


def environment_table(runs: Sequence[Run]) -> list[EnvironmentLine]:
    """The environments side by side, in the order of the first run that has each line."""
    columns = [dict(environment_rows(run.environment)) for run in runs]
    names = list(dict.fromkeys(name for column in columns for name in column))
    names.sort(key=lambda name: 2 if name.startswith("$") else 1 if name.startswith("ceiling") else 0)
    lines = []
    for name in names:
        values = tuple(column.get(name, formats.MISSING) for column in columns)
        differs = len(set(values)) > 1 and name not in ("run", "created", "command")
        lines.append(EnvironmentLine(name, values, differs))
    return lines


def conditions(environment: Environment) -> str:
    """What a reader of numbers asks first, in one line: driver, clocks, revision."""
    e = environment
    card = e.used[0] if e.used else None
    parts = [
        f"{name} {version}" for name, version in e.software.items() if version and name in ("driver", "cuda")
    ]
    if card is not None and card.clock_policy:
        parts.append(f"clocks {card.clock_policy}")
    if card is not None and card.power_limit_w is not None:
        parts.append(f"power limit {card.power_limit_w:g} W")
    if e.git_revision:
        parts.append(f"git {e.git_revision[:12]}" + (" with uncommitted changes" if e.git_dirty else ""))
    return ", ".join([e.created, *parts])


def machine(environment: Environment) -> str:
    """The machine in a few words."""
    if not environment.used:
        return environment.cpu or "an unnamed CPU"
    names = [card.name for card in environment.used]
    return names[0] if len(names) == 1 else f"{len(names)} × {names[0]}"
