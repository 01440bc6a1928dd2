"""benchmark.json must be read by Google Benchmark's own tools/compare.py."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, NoReturn

import pytest
from conftest import REPOSITORY

TOOL = "compare.py"


def tool() -> Path:
    """The installed compare.py; skips the test where there is none."""
    candidates = [Path("/usr/share/benchmark") / TOOL]
    if shutil.which("dpkg"):
        listed = subprocess.run(
            ["dpkg", "-L", "libbenchmark-tools"], capture_output=True, text=True, check=False
        )
        candidates += [Path(line) for line in listed.stdout.splitlines() if line.endswith(f"/{TOOL}")]
    for path in candidates:
        if path.is_file():
            pytest.importorskip("scipy", reason="compare.py itself needs scipy")
            return path
    pytest.skip("Google Benchmark's compare.py is not installed (Debian: libbenchmark-tools)")


def document(run: Path) -> dict[str, Any]:
    """What the driver derives from a run's records."""
    environment = json.loads((run / "environment.json").read_text())
    records = [json.loads(line) for line in (run / "records.jsonl").read_text().splitlines()]
    measured = [record for record in records if record["status"] == "ok"]
    names = list(dict.fromkeys(record["name"] for record in measured))
    benchmarks = [
        {
            "name": record["name"],
            "run_name": record["name"],
            "run_type": "iteration",
            "family_index": names.index(record["name"]),
            "per_family_instance_index": 0,
            "repetitions": sum(1 for other in measured if other["name"] == record["name"]),
            "repetition_index": record["worker"],
            "threads": 1,
            "iterations": record["summary"]["n"],
            "real_time": record["summary"]["median_us"],
            "cpu_time": record["summary"]["median_us"],
            "time_unit": "us",
            "floor_us": record["floor"]["floor_us"],
            "tandem": record,
        }
        for record in measured
    ]
    failures = [
        {
            "name": r["name"],
            "id": r["id"],
            "worker": r["worker"],
            "status": r["status"],
            "reason": r["reason"],
        }
        for r in records
        if r["status"] != "ok"
    ]
    context = {
        "date": environment["created"],
        "host_name": environment["host"]["name"],
        "executable": "suite_decoder",
        "num_cpus": environment["host"]["cores"],
        "caches": [],
        "load_avg": [],
        "library_build_type": "release",
        "json_schema_version": 1,
        "tandem": environment,
    }
    return {"context": context, "benchmarks": benchmarks, "failures": failures}


def check(text: str) -> None:
    """The rules that compare.py does not state but needs, and that no number is missing in disguise."""

    def refuse(constant: str) -> NoReturn:
        raise AssertionError(f"{constant} in benchmark.json")

    content = json.loads(text, parse_constant=refuse)
    assert content["context"]["json_schema_version"] == 1
    assert isinstance(content["failures"], list)
    for entry in content["benchmarks"]:
        assert entry["run_type"] == "iteration"
        assert entry["real_time"] > 0
        assert entry["cpu_time"] > 0
        assert entry["time_unit"] in ("ns", "us", "ms", "s")
        assert "error_occurred" not in entry


def compare_py(a: Path, b: Path) -> str:
    command = [sys.executable, str(tool()), "--no-color", "benchmarks", str(a), str(b)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_real_tool_reads_a_pair(gpu_a: Path, gpu_b: Path, tmp_path: Path) -> None:
    paths = []
    for run in (gpu_a, gpu_b):
        text = json.dumps(document(run), allow_nan=False)
        check(text)
        paths.append(tmp_path / f"{run.name}.json")
        paths[-1].write_text(text)
    output = compare_py(*paths)
    slower = [line for line in output.splitlines() if "batch:64" in line and "pvalue" not in line]
    assert len(slower) == 6
    changes = [float(re.findall(r"[+-]\d+\.\d+", line)[0]) for line in slower]
    assert all(0.02 < change < 0.06 for change in changes)
    assert "OVERALL_GEOMEAN" in output
    assert "_pvalue" in output
    assert "batch:128" not in output


def test_the_real_tool_reads_every_baseline() -> None:
    baselines = sorted((REPOSITORY / "reports" / "baselines").rglob("benchmark.json"))
    if not baselines:
        pytest.skip("no baseline with a benchmark.json is committed")
    for path in baselines:
        check(path.read_text())
        assert "OVERALL_GEOMEAN" in compare_py(path, path), path
