"""A gate's verdicts as text: terminal, Markdown, JUnit XML, GitHub annotations, JSON."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ElementTree
from typing import Any

from tandem_reports import formats
from tandem_reports.errors import BAD_RESULT, GOOD
from tandem_reports.gate.accuracy import rule as accuracy_rule
from tandem_reports.gate.comparison import interval_text
from tandem_reports.gate.deciding import SUITE_SHARE
from tandem_reports.gate.order import OrderEffect
from tandem_reports.gate.verdicts import BAD, OPEN, VERDICTS, GateResult, SuiteVerdict, Verdict
from tandem_reports.stats.cases import is_lossy
from tandem_reports.views.text import aligned, escape, markdown_table, names, sides

SCHEMA = "1.3.0"
COLOURS = {
    "slower": 31,
    "inaccurate": 31,
    "failed": 31,
    "missing": 31,
    "unknown": 33,
    "not-comparable": 33,
    "faster": 36,
    "same": 32,
}
HEADER = (
    "case",
    "A (µs)",
    "B (µs)",
    "B/A",
    "interval",
    "pairs",
    "CV",
    "shows",
    "p slower",
    "verdict",
    "note",
)
NUMERIC = range(1, 9)


def headline(result: GateResult) -> str:
    """The gate's answer in one line."""
    words = {GOOD: "pass", BAD_RESULT: "fail"}.get(result.exit_code, "undecided")
    counts = [f"{result.count(status)} {status}" for status in VERDICTS if result.count(status)]
    counts += [
        f"{item.suite} {item.status} in the mean" for item in result.suites if item.status != "measured"
    ]
    return f"gate: {words} ({', '.join(counts) or 'no case'})"


def method(result: GateResult) -> str:
    """How the verdicts were reached, in words."""
    p = result.policy
    look = {0: ", of which nothing is spent before the first look", 1: ""}.get(
        result.looks,
        f", of which look {result.look} of {result.looks} spends {result.spent.change:.3g} on changes and "
        f"{result.spent.same:.3g} on the same",
    )
    pairing = (
        "Pairs of processes run next to each other."
        if result.interleaved
        else "Workers paired by index; the runs were made one after the other, so that drift between them "
        "counts as a difference."
    )
    confirmed = f" Slow-downs confirmed in {result.confirmed_by}." if result.confirmed_by else ""
    coverages = [v.interval.coverage for v in result.verdicts if v.interval is not None]
    covers = f" Intervals cover exactly {100 * min(coverages):.4g} % or more." if coverages else ""
    rules = f" Rules: {result.policy_source}." if result.policy_source else ""
    rules += f" Sweep: {result.sweep_source}." if result.sweep_source else ""
    suites = dict.fromkeys(v.case.suite for v in result.verdicts)
    efforts: dict[str, list[str]] = {}
    for suite in suites:
        rule = p.of(suite)
        words = f"minimum effect {100 * rule.minimum_effect:g} %, same inside ±{100 * rule.equivalence:g} %"
        efforts.setdefault(words, []).append(suite)
    each = "; ".join(
        words if len(efforts) == 1 else f"{' and '.join(names_)}: {words}"
        for words, names_ in efforts.items()
    )
    lossy = any(is_lossy(v.case) for v in result.verdicts)
    accuracy = f" {accuracy_rule(p.default.accuracy_growth)}" if lossy else ""
    return (
        f"Signed-rank test of paired log-ratios beyond the minimum effect, Holm over the cases at alpha "
        f"{p.alpha:g}{look}; same: the interval lies inside the band ({each}). "
        f"Means over the cases of a suite: the same test at {100 * SUITE_SHARE:g} % of alpha."
        f"{covers}{accuracy} {pairing}"
        f"{confirmed}{rules}"
    )


def _p(value: float | None) -> str:
    return formats.MISSING if value is None else f"{value:.2g}"


def cells(verdict: Verdict) -> list[str]:
    """One verdict's cells after its name."""
    return [
        formats.micros(verdict.median_a_us),
        formats.micros(verdict.median_b_us),
        formats.MISSING if verdict.ratio is None else f"{verdict.ratio:.4f}",
        interval_text(verdict.interval),
        str(verdict.pairs) if verdict.pairs else formats.MISSING,
        formats.MISSING if verdict.spread is None else f"{100 * verdict.spread:.2f} %",
        formats.MISSING if verdict.shows is None else f"+{100 * verdict.shows:.1f} %",
        _p(verdict.p_slower),
        verdict.status,
        verdict.note,
    ]


def suite_sentence(item: SuiteVerdict) -> str:
    """The mean over a suite's cases in words."""
    change = formats.MISSING if item.ratio is None else formats.change(item.ratio)
    parts = [f"mean of {item.cases} cases {change} over {formats.plural(item.pairs, 'pair')}"]
    if item.interval is not None:
        parts.append(f"interval {interval_text(item.interval)}")
    parts.append(f"p slower {_p(item.p_slower)}")
    parts += filter(None, (item.note,))
    text = f"{item.suite}: {', '.join(parts)}"
    return text if item.status == "measured" else f"{text}: {item.status}"


def order_sentence(effect: OrderEffect) -> str:
    """What it does to be second in a pair, in words."""
    seen = " (the order matters)" if effect.seen else ""
    group = " ".join(part for part in effect.name.split("|") if part)
    parts = [f"order in {group}: the second process of a pair {formats.change(effect.ratio)}{seen}"]
    if effect.interval is not None:
        parts.append(f"{100 * effect.interval.coverage:.1f} % interval {interval_text(effect.interval)}")
    parts.append(f"A first in {effect.a_first} of {effect.a_first + effect.b_first} pairs")
    return ", ".join(parts)


def beside(result: GateResult) -> list[str]:
    """What stands below the cases: the means of suites, and what the order in a pair did."""
    return [*map(suite_sentence, result.suites), *map(order_sentence, result.orders)]


def terminal(result: GateResult, colour: bool) -> str:
    """An aligned table and the answer below it."""
    short, shared = names([verdict.case for verdict in result.verdicts])
    rows = [[name, *cells(verdict)] for name, verdict in zip(short, result.verdicts, strict=True)]
    lines = [*sides(result.a, result.b), *([f"   all cases: {shared}"] if shared else []), ""]
    lines += aligned([list(HEADER), *rows], NUMERIC, COLOURS if colour else None)
    if below := beside(result):
        lines += ["", *below]
    return "\n".join([*lines, "", method(result), headline(result)]) + "\n"


def markdown(result: GateResult) -> str:
    """A comment for a pull request: the answer, what is bad or open, and the rest folded away."""
    short, shared = names([verdict.case for verdict in result.verdicts])
    title = headline(result)
    lines = [
        f"### {title[0].upper()}{title[1:]}",
        "",
        *(f"- {escape(side)}" for side in sides(result.a, result.b)),
    ]
    lines += [f"- all cases: {escape(shared)}"] if shared else []
    lines += [f"- {escape(text)}" for text in beside(result)]
    urgent: list[list[str]] = []
    rest: list[list[str]] = []
    for name, verdict in zip(short, result.verdicts, strict=True):
        (urgent if verdict.status in (*BAD, *OPEN) else rest).append([name, *cells(verdict)])
    if urgent:
        lines += ["", *markdown_table(HEADER, urgent, NUMERIC)]
    if rest:
        lines += ["", f"<details><summary>{formats.plural(len(rest), 'other case')}</summary>", ""]
        lines += [*markdown_table(HEADER, rest, NUMERIC), "", "</details>"]
    lines += ["", f"<sub>{escape(method(result))}</sub>"]
    return "\n".join(lines) + "\n"


NOT_XML = re.compile("[^\t\n\r -\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""What XML 1.0 cannot hold, not even escaped."""


def sentence(verdict: Verdict) -> str:
    """One verdict in words."""
    parts = []
    if verdict.ratio is not None:
        parts.append(f"{formats.change(verdict.ratio)} over {formats.plural(verdict.pairs, 'pair')}")
    if verdict.interval is not None:
        parts.append(f"interval {interval_text(verdict.interval)}")
    if verdict.note:
        parts.append(verdict.note)
    return f"{verdict.status}: {', '.join(parts)}" if parts else verdict.status


def junit(result: GateResult) -> str:
    """JUnit XML: bad verdicts are failures, open ones errors, so that no reader counts them as passed."""
    root = ElementTree.Element("testsuites", name="tandem gate")
    suites = dict.fromkeys(verdict.case.suite for verdict in result.verdicts)
    for suite in suites:
        found = [verdict for verdict in result.verdicts if verdict.case.suite == suite]
        means = [item for item in result.suites if item.suite == suite and item.status != "measured"]
        counts: dict[str, list[Verdict | SuiteVerdict]] = {"tests": [*found, *means]}
        counts["failures"] = [item for item in counts["tests"] if item.status in BAD]
        counts["errors"] = [item for item in counts["tests"] if item.status in OPEN]
        counts["skipped"] = [verdict for verdict in found if verdict.status == "unmeasured"]
        attributes = {name: str(len(counted)) for name, counted in counts.items()}
        element = ElementTree.SubElement(root, "testsuite", {"name": f"tandem.{suite}", **attributes})
        for verdict in found:
            case = ElementTree.SubElement(
                element, "testcase", classname=f"tandem.{suite}", name=verdict.case.name, time="0"
            )
            kind = "failure" if verdict.status in BAD else "error" if verdict.status in OPEN else ""
            if kind:
                ElementTree.SubElement(case, kind, type=verdict.status, message=sentence(verdict))
            elif verdict.status == "unmeasured":
                ElementTree.SubElement(case, "skipped", message=verdict.note)
            else:
                ElementTree.SubElement(case, "system-out").text = sentence(verdict)
        for item in means:
            case = ElementTree.SubElement(
                element, "testcase", classname=f"tandem.{suite}", name=f"{suite}: mean", time="0"
            )
            kind = "failure" if item.status in BAD else "error"
            ElementTree.SubElement(case, kind, type=item.status, message=suite_sentence(item))
    ElementTree.indent(root)
    text = NOT_XML.sub("\ufffd", ElementTree.tostring(root, encoding="unicode"))
    return f'<?xml version="1.0" encoding="utf-8"?>\n{text}\n'


def _message(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def github(result: GateResult) -> str:
    """Workflow commands that GitHub shows as annotations."""
    lines = []
    for verdict in result.verdicts:
        level = "error" if verdict.status in BAD else "warning" if verdict.status in OPEN else ""
        if level:
            title = _message(f"tandem gate: {verdict.status}").replace(":", "%3A").replace(",", "%2C")
            lines.append(f"::{level} title={title}::{_message(f'{verdict.case.name}: {sentence(verdict)}')}")
    for item in result.suites:
        level = "error" if item.status in BAD else "warning" if item.status in OPEN else ""
        if level:
            title = _message(f"tandem gate: {item.status} in the mean").replace(":", "%3A")
            lines.append(f"::{level} title={title}::{_message(suite_sentence(item))}")
    lines.append(f"::notice title=tandem gate::{_message(headline(result))}")
    return "\n".join(lines) + "\n"


def _entry(verdict: Verdict) -> dict[str, Any]:
    interval = verdict.interval
    return {
        "id": verdict.case.id,
        "name": verdict.case.name,
        "suite": verdict.case.suite,
        "verdict": verdict.status,
        "note": verdict.note,
        "pairs": verdict.pairs,
        "decided_at_look": verdict.look or None,
        "more_pairs": verdict.more_pairs,
        "cv": verdict.spread,
        "smallest_effect_at_13_pairs": verdict.shows,
        "median_a_us": verdict.median_a_us,
        "median_b_us": verdict.median_b_us,
        "ratio": verdict.ratio,
        "interval": None if interval is None else [interval.low, interval.high],
        "coverage": None if interval is None else interval.coverage,
        "p_slower": verdict.p_slower,
        "p_faster": verdict.p_faster,
    }


def _order_entry(effect: OrderEffect) -> dict[str, Any]:
    interval = effect.interval
    return {
        "group": effect.name,
        "cases": effect.cases,
        "a_first": effect.a_first,
        "b_first": effect.b_first,
        "second_over_first": effect.ratio,
        "interval": None if interval is None else [interval.low, interval.high],
        "coverage": None if interval is None else interval.coverage,
    }


def _mean_entry(item: SuiteVerdict) -> dict[str, Any]:
    return {
        "suite": item.suite,
        "verdict": item.status,
        "note": item.note,
        "cases": item.cases,
        "pairs": item.pairs,
        "ratio": item.ratio,
        "interval": None if item.interval is None else [item.interval.low, item.interval.high],
        "p_slower": item.p_slower,
    }


def as_json(result: GateResult) -> str:
    """Everything, for programs; `stop` is what a duet's driver asks for."""
    content = {
        "schema": SCHEMA,
        "a": result.a.label,
        "b": result.b.label,
        "interleaved": result.interleaved,
        "look": result.look,
        "looks": result.looks,
        "policy": result.policy_source or None,
        "sweep": result.sweep_source or None,
        "alpha": result.policy.alpha,
        "alpha_of_look": result.spent.change,
        "alpha_of_look_for_same": result.spent.same,
        "alpha_of_look_for_means": result.spent.suites,
        "confirmed_by": result.confirmed_by or None,
        "exit_code": result.exit_code,
        "stop": result.stop,
        "counts": {status: result.count(status) for status in VERDICTS},
        "cases": [_entry(verdict) for verdict in result.verdicts],
        "orders": [_order_entry(effect) for effect in result.orders],
        "means": [_mean_entry(item) for item in result.suites],
    }
    return json.dumps(content, indent=1, allow_nan=False, ensure_ascii=False) + "\n"
