"""Reading records: what is accepted, and that everything else is one clear line and exit 2."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fixture_runs
import pytest
from conftest import REPOSITORY, Outcome, schema, validator

from tandem_reports.errors import ReportError
from tandem_reports.reading.fields import parse_json
from tandem_reports.reading.records import parse_record, read_records
from tandem_reports.reading.runs import load_run, load_runs

BASELINES = REPOSITORY / "reports" / "baselines"
FIXTURE_NAMES = ("gpu_a", "gpu_b", "cpu_smoke")


def put(record: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    """A copy of the record with one field replaced; ... removes it."""
    copy: dict[str, Any] = json.loads(json.dumps(record))
    *parents, last = path.split(".")
    place = copy
    for parent in parents:
        place = place[parent]
    if value is ...:
        del place[last]
    else:
        place[last] = value
    return copy


# Breaks when a folder of committed results is no run: scripts/check_packages takes the first and stops there.
def test_every_committed_run_is_read() -> None:
    folders = [p for p in BASELINES.glob("*/*") if p.is_dir()]
    assert folders
    for folder in folders:
        assert load_run(folder).records, folder


# Without it the fixtures could drift from the contract, and every other test would test the wrong shape.
@pytest.mark.parametrize("name", FIXTURE_NAMES)
def test_fixtures_satisfy_the_schemas(name: str) -> None:
    record_schema = validator("record")
    lines = (fixture_runs.FIXTURES / name / "records.jsonl").read_text().splitlines()
    assert lines
    for line in lines:
        record_schema.validate(json.loads(line))
    environment = json.loads((fixture_runs.FIXTURES / name / "environment.json").read_text())
    validator("environment").validate(environment)


# Without it the committed fixtures could be edited by hand and no longer be what their maker makes.
def test_fixtures_are_what_their_maker_makes(tmp_path: Path) -> None:
    fixture_runs.write_fixtures(tmp_path)
    made = sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*") if path.is_file())
    kept = sorted(
        path.relative_to(fixture_runs.FIXTURES) for path in fixture_runs.FIXTURES.rglob("*") if path.is_file()
    )
    assert made == kept
    for path in made:
        assert (tmp_path / path).read_bytes() == (fixture_runs.FIXTURES / path).read_bytes(), path


# Without it our own reader could refuse what the contract allows: bare records, a newer minor version.
def test_reads_every_record_the_schema_allows(good_record: dict[str, Any]) -> None:
    required = schema("record")["required"]
    bare = {key: value for key, value in good_record.items() if key in required} | {"status": "skipped"}
    validator("record").validate(bare)
    record = parse_record(bare, "line")
    assert record.summary is None
    assert record.floor.floor_us is None
    newer = good_record | {"schema": "1.7.0", "new_field": [1, 2]}
    assert parse_record(newer, "line").summary is not None
    assert parse_record(put(good_record, "case.new_axis", "x"), "line").case.axes["new_axis"] == "x"


def test_values_arrive(gpu_a: Path) -> None:
    run = load_run(gpu_a)
    record = next(r for r in run.records if r.status == "ok" and r.case.suite == "decoder")
    assert record.summary is not None
    assert record.summary.n == 24
    assert record.summary.p99_us is None
    assert record.check is not None
    assert record.check.tolerance == 0.02
    assert record.case.integer("src") == 128
    assert record.metrics.tokens_per_second is not None
    assert run.environment.cards[0].sms == 132
    assert run.environment.software["driver"] == "580.00"
    assert {r.status for r in run.records} == {"ok", "invalid", "oom", "crashed", "timeout", "skipped"}


# Without it a record from before `clocks.state` would be called settled, or a new one's state go unread.
def test_the_clocks_state_is_read_and_older_records_keep_theirs(good_record: dict[str, Any]) -> None:
    def seen(**fields: Any) -> tuple[bool, bool]:
        record = parse_record(good_record | fields, "line")
        return record.throttled, record.unsettled

    steady = {"steady": True}
    assert seen(clocks=None, warmup=None) == (False, False)
    assert seen(clocks={"throttled_samples": 2}, warmup=steady) == (True, False)
    assert seen(clocks={"throttled_samples": 0}, warmup={"steady": False}) == (False, True)
    assert seen(clocks={"state": "settled", "throttled_samples": 0}, warmup=steady) == (False, False)
    assert seen(clocks={"state": "not settled"}, warmup=steady) == (False, True)
    assert seen(clocks={"state": "throttled"}, warmup={"steady": False}) == (True, True)


BROKEN: list[tuple[str, Any, str]] = [
    ("schema", "2.0.0", "schema 2.0.0 is not supported"),
    ("schema", "1.0", "schema: must be a version"),
    ("schema", 1, "schema: must be a string"),
    ("schema", ..., "schema: is missing"),
    ("id", "xyz", "id: must be 16"),
    ("name", None, "name: must be a string"),
    ("suite", "encode", "suite: must be one of encoder, decoder"),
    ("case", None, "case: must be a JSON object"),
    ("case.suite", "encoder", "suite: is 'encoder'"),
    ("case.batch", 0, "batch: must be a whole number of at least 1, not 0"),
    ("case.batch", 1.5, "batch: must be a whole number"),
    ("case.src", True, "src: must be a whole number"),
    ("case.model", 3, "model: must be a string"),
    ("case.engine", ..., "engine: is missing"),
    ("worker", -1, "worker: must be a whole number of at least 0"),
    ("attempt", 0, "attempt: must be a whole number of at least 1"),
    ("status", "fine", "status: must be one of ok, invalid"),
    ("summary", None, "summary: is missing though the status is ok"),
    ("summary.median_us", -1.0, "median_us: must be a finite number over 0, not -1.0"),
    ("summary.median_us", 0, "median_us: must be a finite number over 0"),
    ("summary.median_us", "5", "median_us: must be a finite number over 0"),
    ("summary.median_us", None, "median_us: must be a finite number"),
    ("summary.median_us", 10**400, "median_us: must be a finite number"),
    ("summary.q1_us", 1e9, "q1_us: is 1e+09, over median_us"),
    ("summary.n", 0, "n: must be a whole number of at least 1"),
    ("summary.ci95_us", [1.0], "ci95_us: must be null or two numbers"),
    ("summary.ci95_us", [2.0, 1.0], "ci95_us: its first number is over its second"),
    ("summary.ci95_us", "wide", "ci95_us: must be a list"),
    ("samples.sha256", "12", "sha256: must be 64"),
    ("metrics.tokens_per_second", -1, "tokens_per_second: must be a finite number of at least 0"),
    ("metrics.step_us", -2, "step_us: must be a finite number over 0"),
    ("floor.floor_us", 0, "floor_us: must be a finite number over 0"),
    ("floor.bound", "luck", "bound: must be one of bytes, operations"),
    ("cost.bytes", -1, "bytes: must be a finite number of at least 0"),
    ("check.reference", ..., "reference: is missing"),
    ("check.error", -0.1, "error: must be a finite number of at least 0"),
    ("check.tokens_equal", "yes", "tokens_equal: must be true or false"),
    ("regime", "fast", "regime: must be one of burst"),
    ("clocks", {"state": "sustained"}, "state: must be one of settled, not settled, throttled"),
    ("clocks", {"state": "settled", "throttled_samples": 3}, "state: is 'settled' though throttled_samples"),
    ("metrics.sm_cycles", -1, "sm_cycles: must be a finite number of at least 1"),
    ("contended", 1, "contended: must be true or false"),
    ("wall_s", -1, "wall_s: must be a finite number of at least 0"),
]


# Without it a wrong record would be shown as a number, or end in a traceback.
@pytest.mark.parametrize(
    ("path", "value", "message"), BROKEN, ids=[f"{p}={str(v)[:12]}" for p, v, _ in BROKEN]
)
def test_broken_fields_are_named(
    path: str, value: Any, message: str, good_record: dict[str, Any],
    run_with: Callable[..., Path], cli: Callable[..., Outcome],
) -> None:  # fmt: skip
    run = run_with(good_record, put(good_record, path, value))
    outcome = cli("report", run)
    assert outcome.code == 2
    assert message in outcome.err
    assert "records.jsonl line 2" in outcome.err
    assert outcome.err.count("\n") == 1
    assert outcome.out == ""


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "not JSON"),
        ("", "not JSON"),
        ("[]", "must be a JSON object"),
        ("null", "must be a JSON object"),
        ("7", "must be a JSON object"),
        ('{"schema": NaN}', "NaN is not a number"),
        ('{"wall_s": -Infinity}', "-Infinity is not a number"),
        ("[" * 100_000, "not JSON"),
        ('{"a": ' + "9" * 5000 + "}", "not JSON"),
    ],
)
def test_malformed_lines_are_refused(
    line: str,
    message: str,
    good_record: dict[str, Any],
    run_with: Callable[..., Path],
    cli: Callable[..., Outcome],
) -> None:
    outcome = cli("compare", run_with(good_record, line, good_record), run_with(good_record, name="other"))
    assert outcome.code == 2
    assert message in outcome.err
    assert "line 2" in outcome.err
    assert outcome.err.count("\n") == 1


# 1e999 is JSON, but reads as infinity.
def test_overflowing_numbers_are_refused(good_record: dict[str, Any], run_with: Callable[..., Path]) -> None:
    line = json.dumps(good_record).replace(f'"wall_s": {good_record["wall_s"]}', '"wall_s": 1e999')
    assert "1e999" in line
    with pytest.raises(ReportError, match="wall_s: must be a finite number"):
        load_run(run_with(line))


# A kill leaves half a line behind; without this a killed run could not be read.
@pytest.mark.parametrize("whole", [True, False])
def test_unterminated_last_line_is_ignored_with_a_warning(
    whole: bool, good_record: dict[str, Any], run_with: Callable[..., Path], cli: Callable[..., Outcome]
) -> None:
    text = json.dumps(good_record | {"worker": 1})
    run = run_with(good_record, tail=text if whole else text[:200])
    records, warnings = read_records(run / "records.jsonl")
    assert len(records) == 1
    assert len(warnings) == 1
    outcome = cli("report", run)
    assert outcome.code == 0
    assert "records.jsonl line 2: ends without a newline and is ignored" in outcome.err


def test_bytes_that_are_no_text_are_refused(tmp_path: Path, run_with: Callable[..., Path]) -> None:
    run = run_with()
    (run / "records.jsonl").write_bytes(b'{"a": "\xff\xfe"}\n')
    with pytest.raises(ReportError, match="line 1: not UTF-8 at byte 8"):
        load_run(run)


def test_the_last_attempt_counts(good_record: dict[str, Any], run_with: Callable[..., Path]) -> None:
    crashed = good_record | {"status": "crashed", "reason": "signal 11", "summary": None}
    run = load_run(run_with(crashed, good_record | {"attempt": 2}))
    assert [record.status for record in run.records] == ["ok"]
    run = load_run(run_with(good_record | {"attempt": 2}, crashed, name="reversed"))
    assert [record.status for record in run.records] == ["ok"]


@pytest.mark.parametrize("missing", ["environment.json", "records.jsonl"])
def test_missing_files_are_named(
    missing: str, run_with: Callable[..., Path], cli: Callable[..., Outcome]
) -> None:
    run = run_with()
    (run / missing).unlink()
    outcome = cli("report", run)
    assert outcome.code == 2
    assert missing in outcome.err
    assert "No such file" in outcome.err


def test_what_is_no_run_folder_is_refused(tmp_path: Path, cli: Callable[..., Outcome]) -> None:
    outcome = cli("report", tmp_path / "nowhere")
    assert outcome.code == 2
    assert "not a run folder" in outcome.err


ACCURACY: dict[str, Any] = {
    "relative_error": 0.03, "kl": 0.001, "tokens_agree": 0.98, "free_tokens_agree": 0.75, "tokens": 256,
    "teacher_forced": True,
    "against": "dense fp32", "synthetic_weights": False,
}  # fmt: skip
RANK: dict[str, Any] = {
    "rank": 1, "host": "node", "device": 0, "card": "H200", "uuid": "GPU-1", "median_us": 12.5,
    "wait_us": 0.5,
    "exchange": "oneshot:1024 twoshot",
    "clocks": {"sm_mhz": 1755, "mean_sm_mhz": 1750.5, "temperature_c": 61, "power_w": 698,
               "throttled_blocks": 1, "reasons": ["sw_power_cap"], "contended": False},
}  # fmt: skip


# Without it one side of the contract would accept the new fields and the other refuse them. Records of older
# versions have none of them: the fixtures are such.
def test_accuracy_ranks_and_weights_arrive(good_record: dict[str, Any]) -> None:
    assert parse_record(good_record, "line").weights_bytes is None
    record = good_record | {"accuracy": ACCURACY, "ranks": [RANK]}
    record["memory"] = {"peak_bytes": 9, "weights_bytes": 7, "fraction_kept": 0.5}
    validator("record").validate(record)
    parsed = parse_record(record, "line")
    assert parsed.accuracy is not None
    assert (parsed.accuracy.kl, parsed.accuracy.against) == (0.001, "dense fp32")
    assert (parsed.accuracy.free_tokens_agree, parsed.accuracy.tokens) == (0.75, 256)
    older = {name: value for name, value in ACCURACY.items() if name not in ("free_tokens_agree", "tokens")}
    earlier = parse_record(record | {"schema": "1.2.0", "accuracy": older}, "line").accuracy
    assert earlier is not None
    assert (earlier.free_tokens_agree, earlier.tokens) == (None, None)
    assert (parsed.ranks[0].card, parsed.ranks[0].wait_us) == ("H200", 0.5)
    clocks = parsed.ranks[0].clocks
    assert clocks is not None
    assert (clocks.mean_sm_mhz, clocks.throttled_blocks, clocks.reasons) == (1750.5, 1, ("sw_power_cap",))
    without = {name: value for name, value in RANK.items() if name != "clocks"}
    assert parse_record(record | {"ranks": [without]}, "line").ranks[0].clocks is None
    floor = record["floor"] | {"bound": "links", "link_gbs": 450, "links_us": 0.5}
    validator("record").validate(record | {"floor": floor})
    assert parse_record(record | {"floor": floor}, "line").floor.links_us == 0.5
    assert (parsed.weights_bytes, parsed.fraction_kept) == (7, 0.5)


# Without it an old record could not be read, or would stand apart from the same case measured today.
def test_axes_that_older_records_lack_stand_at_their_default(good_record: dict[str, Any]) -> None:
    old = {k: v for k, v in good_record["case"].items() if k not in ("calibration", "head", "allreduce")}
    today = good_record | {"case": old | {"calibration": "none", "head": "same", "allreduce": "auto"}}
    validator("record").validate(today)
    case = parse_record(today, "line").case
    assert parse_record(good_record | {"case": old}, "line").case.axes == case.axes
    assert (case.text("calibration"), case.text("head"), case.text("allreduce")) == ("none", "same", "auto")
    broken = put(today, "case.head", "8bit")
    assert not validator("record").is_valid(broken)


# Without it a misspelt or missing figure of a lossy form would pass for one that was stated.
@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("accuracy.tokens_agree", 98, "tokens_agree: must be a fraction"),
        ("accuracy.free_tokens_agree", 1.5, "free_tokens_agree: must be a fraction"),
        ("accuracy.tokens", 0, "tokens: must be a whole number of at least 1"),
        ("accuracy.relative_error", ..., "relative_error: is missing"),
        ("accuracy.relative_error", None, "relative_error: must be a finite number"),
        ("accuracy.kl", -1, "kl: must be a finite number of at least 0"),
        ("accuracy.against", "bf16", "against: must be one of dense fp32"),
        ("accuracy.teacher_forced", "yes", "teacher_forced: must be true or false"),
        ("accuracy.error", 1, "error: is not a known key"),
        ("memory.fraction_kept", 1.5, "fraction_kept: must be a fraction"),
        ("ranks", [RANK | {"rank": -1}], r"ranks\[0\]: rank: must be a whole number"),
        ("ranks", [RANK | {"wait": 1}], r"ranks\[0\]: wait: is not a known key"),
    ],
)
def test_broken_accuracy_and_ranks_are_named(
    path: str, value: Any, message: str, good_record: dict[str, Any]
) -> None:
    record = put(good_record | {"accuracy": ACCURACY, "memory": {}}, path, value)
    assert not validator("record").is_valid(record)
    with pytest.raises(ReportError, match=message):
        parse_record(record, "line")


ENVIRONMENT_BROKEN: list[tuple[str, Any, str]] = [
    ("schema", "3.1.0", "schema 3.1.0 is not supported"),
    ("run_id", ..., "run_id: is missing"),
    ("cards", {}, "cards: must be a list"),
    ("cards", [{"name": "x"}], r"cards\[0\]: uuid: is missing"),
    ("device", "GPU-9", "device: 'GPU-9' is not the UUID of one of the cards"),
    ("cards", [7], r"cards\[0\]: must be a JSON object"),
    ("git", None, "git: must be a JSON object"),
    ("git.dirty", "no", "git: dirty: must be true or false"),
    ("host.cores", 0, "cores: must be a whole number of at least 1"),
    ("command", [1], "command: must be a list of strings"),
    ("build.binaries", {"x": 1}, "binaries: x: must be a string"),
]


@pytest.mark.parametrize(("path", "value", "message"), ENVIRONMENT_BROKEN)
def test_broken_environments_are_named(
    path: str, value: Any, message: str, run_with: Callable[..., Path]
) -> None:
    run = run_with()
    broken = put(fixture_runs.gpu_environment("x"), path, value)
    (run / "environment.json").write_text(json.dumps(broken))
    with pytest.raises(ReportError, match=message):
        load_run(run)


# An environment on which nothing is known must read: nulls are no zeros and no errors.
def test_environment_of_nulls_reads(run_with: Callable[..., Path], cli: Callable[..., Outcome]) -> None:
    run = run_with()
    environment = fixture_runs.gpu_environment("bare")
    environment |= {
        "sweep": None, "git": {"revision": None, "dirty": None}, "build": {}, "host": {}, "ceilings": None,
        "software": {"driver": None}, "env": {}, "cards": [{"name": "c", "uuid": "u"}],
    }  # fmt: skip
    validator("environment").validate(environment)
    (run / "environment.json").write_text(json.dumps(environment))
    assert load_run(run).environment.cores is None
    assert cli("report", run).code == 0


def test_equal_run_ids_get_distinct_labels(gpu_a: Path) -> None:
    assert [run.label for run in load_runs([gpu_a, gpu_a])] == ["fixture-gpu-a (1)", "fixture-gpu-a (2)"]


def test_json_constants_are_refused_everywhere() -> None:
    for text in ("NaN", "Infinity", "[-Infinity]"):
        with pytest.raises(ReportError):
            parse_json(text, "here")
    assert not math.isnan(float(str(parse_json("1.5", "here"))))
