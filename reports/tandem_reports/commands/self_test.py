"""tandem-report self-test: how often the gate is wrong, from recorded duets of known builds."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from tandem_reports import formats
from tandem_reports.commands import console
from tandem_reports.errors import BAD_RESULT, GOOD, ReportError
from tandem_reports.gate.policy import find_policy
from tandem_reports.gate.self_test import (
    CONFIDENCE,
    LONG_US,
    PLANT_POINTS,
    SPREAD_LIMIT,
    FalseAlarms,
    KnownDuet,
    Power,
    Spread,
    false_alarms,
    load_known,
    power,
    spread,
)
from tandem_reports.views.overview import machine
from tandem_reports.views.text import markdown_table

DESCRIPTION = """\
Reads duets of builds that are known and says how often the gate is wrong:

  false alarms  live duets of a build against one that was linked apart from it
  power         live duets against a build with a planted slow-down, and whether that was as large as it says
  recomputed    gates from the same pairs, with labels drawn anew for each pair, or with pairs drawn with
                replacement
  spread        coefficient of variation of the medians of processes of one build

Which duet is which is read from the environments (build.planted). Rates come with one-sided exact 95 % bounds
(Clopper and Pearson). The same duets and seed give the same numbers. scripts/gate_self_test makes such duets.
"""
EPILOG = """\
exit codes:
  0  no false alarm, live or recomputed, and every planted slow-down was found live and as large as planted
  1  otherwise, or the output could not be written
  2  usage, or a duet that cannot be read
"""
SCHEMA = "1.1.0"
FORMATS = ("markdown", "json")


def _count(text: str) -> int:
    if not text.isdigit() or not 1 <= int(text) <= 10**6:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1 to 1000000")
    return int(text)


def add(commands: Any) -> None:
    """Declares the subcommand."""
    parser = console.add_command(
        commands, "self-test", "how often is the gate wrong? from duets of known builds", DESCRIPTION, EPILOG
    )
    parser.add_argument(
        "duets", metavar="DUET", nargs="+", type=Path, help="a duet of one build, or against a planted one"
    )
    parser.add_argument(
        "--policy",
        metavar="FILE",
        type=Path,
        help="rules (default: those each duet keeps, else suites/gates.json)",
    )
    parser.add_argument(
        "--decisions", metavar="N", type=_count, default=300, help="gates of unchanged builds (default: 300)"
    )
    parser.add_argument(
        "--trials", metavar="N", type=_count, default=1000, help="gates of each planted duet (default: 1000)"
    )
    parser.add_argument(
        "--seed", metavar="N", type=int, default=1, help="of the labels and draws (default: 1)"
    )
    parser.add_argument("--format", choices=FORMATS, default="markdown", help="default: markdown")
    parser.add_argument("--out", metavar="FILE", type=Path, help="write there instead of to stdout")
    parser.set_defaults(run=run)


def _share(value: float) -> str:
    return f"{100 * value:.4g} %"


def _live_rows(duets: Sequence[KnownDuet]) -> list[list[str]]:
    rows = []
    for duet in duets:
        counts = {verdict.status for verdict in duet.live.verdicts}
        said = ", ".join(f"{duet.live.count(status)} {status}" for status in sorted(counts))
        took = formats.MISSING if duet.spent_s is None else f"{duet.spent_s:.0f} s"
        planted = f"+{duet.percent:g} %" if duet.percent else "nothing"
        rows.append([duet.path.name, planted, str(len(duet.cases)), str(duet.pairs), took, said])
    return rows


def _markdown(
    duets: Sequence[KnownDuet], alarms: FalseAlarms | None, powers: Sequence[Power], wide: Spread | None
) -> str:
    environment = duets[0].live.a.environment
    lines = [f"### Gate self-test: {machine(environment)}", ""]
    rows = []
    if alarms is not None:
        rows.append([
            "false alarms, live", f"{alarms.live_alarms} of {alarms.duets} duets",
            f"at most {_share(alarms.live_bound)}",
        ])  # fmt: skip
    for item in powers:
        rows.append([
            f"+{item.percent:g} % planted, live", f"{item.found_live} of {item.cases} cases found",
            f"at least {_share(item.live_bound)}",
        ])  # fmt: skip
        rows.append([
            f"+{item.percent:g} % planted, growth", f"{_share(item.ratio - 1)}; {item.held} of {item.cases} "
            f"cases within {PLANT_POINTS:g} points or two standard errors", "",
        ])  # fmt: skip
    if alarms is not None:
        rows.append([
            "false alarms, recomputed", f"{alarms.alarms} of {alarms.decisions} gates",
            f"at most {_share(alarms.bound)}",
        ])  # fmt: skip
        rows.append(["unknown, of recomputed verdicts", _share(alarms.unknown / max(alarms.verdicts, 1)), ""])
    for item in powers:
        rows.append([
            f"+{item.percent:g} % planted, recomputed", f"{_share(item.found / max(item.trials, 1))} found, "
            f"weakest case {_share(item.weakest)}", f"at least {_share(item.bound)}",
        ])  # fmt: skip
    if wide is not None:
        rows.append([
            f"cases with process medians within {_share(SPREAD_LIMIT)} (CV)",
            f"{wide.within} of {wide.cases}" + (f", widest {_share(wide.largest)}" if wide.cases else ""), "",
        ])  # fmt: skip
    lines += markdown_table(("what", "result", f"{100 * CONFIDENCE:g} % bound"), rows, range(0))
    lines += [
        "",
        *markdown_table(
            ("duet", "planted", "cases", "pairs", "took", "verdicts"), _live_rows(duets), range(2, 5)
        ),
    ]
    lines += [
        "",
        f"Power, growth and spread are of cases over {LONG_US:g} µs. What is recomputed comes from the pairs "
        "of these duets: false alarms with labels drawn anew for each pair, which takes out "
        "what two builds differ by; power with pairs drawn with replacement, as many as ran.",
    ]
    return "\n".join(lines) + "\n"


def _json(
    duets: Sequence[KnownDuet],
    alarms: FalseAlarms | None,
    powers: Sequence[Power],
    wide: Spread | None,
    arguments: argparse.Namespace,
) -> str:
    content: dict[str, Any] = {
        "schema": SCHEMA,
        "machine": machine(duets[0].live.a.environment),
        "seed": arguments.seed,
        "confidence": CONFIDENCE,
        "false_alarms": None,
        "power": [],
        "spread": None,
        "duets": [],
    }
    if alarms is not None:
        content["false_alarms"] = {
            "duets": alarms.duets, "decisions": alarms.decisions, "alarms": alarms.alarms,
            "upper_bound": alarms.bound, "live_alarms": alarms.live_alarms,
            "live_upper_bound": alarms.live_bound, "verdicts": alarms.verdicts, "unknown": alarms.unknown,
        }  # fmt: skip
    for item in powers:
        content["power"].append({
            "planted_percent": item.percent, "duets": item.duets, "cases": item.cases,
            "measured_ratio": item.ratio if item.cases else None, "found_live": item.found_live,
            "live_lower_bound": item.live_bound, "as_planted": item.held, "trials": item.trials,
            "found": item.found, "lower_bound": item.bound, "weakest_case": item.weakest,
        })  # fmt: skip
    if wide is not None:
        content["spread"] = {
            "limit": SPREAD_LIMIT, "cases": wide.cases, "within": wide.within, "processes": wide.processes,
            "largest": wide.largest if wide.cases else None,
        }  # fmt: skip
    for duet in duets:
        verdicts = {
            v.case.name: {"verdict": v.status, "ratio": v.ratio, "pairs": v.pairs} for v in duet.live.verdicts
        }
        content["duets"].append({
            "name": duet.path.name, "planted_percent": duet.percent, "pairs": duet.pairs,
            "spent_s": duet.spent_s, "looks": list(duet.looks), "end": duet.end, "verdicts": verdicts,
            "spread": {case.name: value for case, value in zip(duet.cases, duet.spreads, strict=True)},
        })  # fmt: skip
    return json.dumps(content, indent=1, allow_nan=False, ensure_ascii=False) + "\n"


def run(arguments: argparse.Namespace) -> int:
    """Does the work; prints the table, or the path of the file it was written to."""
    duets = [load_known(path, find_policy(arguments.policy, path)[0]) for path in arguments.duets]
    duets.sort(key=lambda duet: (duet.percent, duet.path.name))
    if any(duet.pairs < 2 for duet in duets):
        few = next(duet for duet in duets if duet.pairs < 2)
        raise ReportError(f"{few.path}: {formats.plural(few.pairs, 'whole pair')}: nothing to resample")
    plain = [duet for duet in duets if not duet.percent]
    rng = np.random.default_rng(arguments.seed)
    alarms = false_alarms(plain, arguments.decisions, rng) if plain else None
    powers = [
        power(list(same), arguments.trials, rng)
        for _, same in groupby((duet for duet in duets if duet.percent), key=lambda duet: duet.percent)
    ]
    wide = spread(plain) if plain else None
    if arguments.format == "json":
        text = _json(duets, alarms, powers, wide, arguments)
    else:
        text = _markdown(duets, alarms, powers, wide)
    console.deliver(text, arguments.out)
    clean = alarms is None or (alarms.alarms == 0 and alarms.live_alarms == 0)
    planted = all(item.found_live == item.held == item.cases for item in powers)
    return GOOD if clean and planted else BAD_RESULT
