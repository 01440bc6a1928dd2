"""scripts/parallel_baseline: its parts, one after the other, as far as its minutes go."""

from __future__ import annotations

import argparse
import datetime
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import bars
import watch
from tandem_reports.errors import ReportError
from tandem_reports.reading.runs import load_run
from tandem_reports.stats.cases import CaseResult, collect

ROOT = Path(__file__).resolve().parents[2]
GOOD, MISSED, USAGE, NO_DEVICE, UNFINISHED = 0, 1, 2, 3, 4
LEAST_S = 15.0
"""A part is begun with no less than this left."""
SWEEPS = ("tensor_parallel", "collectives", "crossover")
UNTIMED = "0:0.05"
"""Seconds of samples a case, MIN:MAX, of parts that ask for no time."""
KEPT = ("environment.json", "records.jsonl", "benchmark.json")

Groups = list[dict[str, Any]]


def say(text: str) -> None:
    """On stderr, as all scripts do."""
    print(f"tandem: {text}", file=sys.stderr, flush=True)


class Baseline:
    """One folder of parts: what is there is not done again."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.engine: str = args.engine
        self.on_cpu = self.engine == "reference"
        if self.on_cpu:
            # Threads of all ranks at once would wait for each other's cores.
            os.environ.setdefault("OMP_NUM_THREADS", "1")
        self.cards: int = args.gpus
        self.degrees = [tp for tp in (2, 4) if tp <= self.cards]
        self.out: Path = args.out or Path(
            f"runs/parallel-{self.cards}" + ("-reference" if self.on_cpu else "")
        )
        self.tandem = None if args.bin is None else str(Path(args.bin) / "tandem")
        self.workers: int = args.workers
        self.keep: str | None = args.keep
        self.until = time.monotonic() + 60 * args.minutes
        self.done_file = self.out / "parts.json"
        self.done: dict[str, Any] = {}
        if self.done_file.exists():
            self.done = json.loads(self.done_file.read_text())

    def left(self) -> float:
        """Seconds."""
        return self.until - time.monotonic()

    def finish(self, part: str, found: Any) -> None:
        """A part that is done stays so."""
        self.done[part] = found
        temporary = self.done_file.with_suffix(".new")
        temporary.write_text(json.dumps(self.done, indent=1) + "\n")
        temporary.replace(self.done_file)

    # What the parts run.

    def checked(self) -> Groups:
        """The same cases on one rank and on several, in fp32 and bf16. Few: each is three processes a rank."""
        common: dict[str, Any] = {
            "precision": ["fp32", "bf16"],
            "tp": [1, *self.degrees],
            "lengths": "ragged:0.6",
        }
        if self.on_cpu:
            common |= {"model": "tiny", "batch": 3, "src": 9}
        else:
            common |= {
                "model": ["transformer-base", "t5-small"],
                "batch": 4,
                "src": 64,
            }
        generate = {"suite": "generate", "tgt": 6 if self.on_cpu else 32} | common
        encoder = {"suite": "encoder"} | common
        if not self.on_cpu:
            encoder["model"] = "bart-base"
        return [generate, encoder]

    def killed(self) -> Groups:
        """One case over all ranks, whose samples take seconds, so that there is one to kill."""
        shape: dict[str, Any] = {
            "suite": "generate",
            "tp": self.degrees[-1],
            "tgt": 128,
        }
        if self.on_cpu:
            tiny = {"model": "tiny", "precision": "fp32", "batch": 4, "src": 8}
            return [shape | tiny]
        return [shape | {"model": "transformer-base", "batch": 4, "src": 128}]

    def of_memory(self, tp: int) -> Groups:
        """The case whose memory is measured, alone in its process."""
        if self.on_cpu:
            return [
                {
                    "suite": "generate",
                    "model": "tiny",
                    "precision": "fp32",
                    "batch": 2,
                    "src": 8,
                    "tp": tp,
                }
            ]
        return [
            {
                "suite": "generate",
                "model": "t5-3b",
                "batch": 64,
                "src": 512,
                "tgt": 128,
                "tp": tp,
            }
        ]

    def sweep(self, name: str) -> Path | Groups:
        """A committed sweep; on a CPU its like with `tiny`. Nothing sums there that suite_collectives could measure."""
        file = ROOT / "suites" / f"{name}.json"
        if not self.on_cpu:
            return file
        tiny = {
            "model": "tiny",
            "precision": "fp32",
            "batch": [1, 2],
            "src": 8,
            "tgt": 4,
        }
        if name == "tensor_parallel":
            return [
                {"suite": "generate", "tp": [1, *self.degrees]} | tiny,
                {"suite": "generate", "dp": self.degrees} | tiny,
            ]
        return [{"suite": "decoder", "tp": [1, *self.degrees]} | tiny]

    # How a part runs.

    def command(self, part: str, sweep: Path | Groups, workers: int) -> list[str]:
        """`tandem run` into the part's folder, which goes on where it stopped."""
        assert self.tandem is not None
        file = sweep
        if not isinstance(file, Path):
            file = self.out / f"{part}.json"
            text = json.dumps({"groups": sweep}, indent=1) + "\n"
            if not file.exists() or file.read_text() != text:
                file.write_text(text)
        folder = self.out / part
        words = [
            self.tandem,
            "run",
            os.path.relpath(file),  # records say it, and are kept
            "--out",
            str(folder),
            "--workers",
            str(workers),
        ]
        words += ["--engine", self.engine]
        return [*words, "--resume"] if (folder / "environment.json").exists() else words

    def run(
        self,
        part: str,
        sweep: Path | Groups,
        workers: int,
        watched: Callable[[int], None] | None = None,
        sample_s: str | None = None,
    ) -> bool:
        """Whether it came to its end: what the clock cuts off goes on in the next call.

        `sample_s`: seconds of samples a case, MIN:MAX, where no time is asked for.
        """
        environment = dict(os.environ)
        if sample_s is not None and not self.on_cpu:
            environment["TANDEM_SAMPLE_SECONDS"] = sample_s
        process = subprocess.Popen(
            self.command(part, sweep, workers),
            stdout=subprocess.DEVNULL,
            env=environment,
        )
        if watched is not None:
            watched(process.pid)
        try:
            code = process.wait(timeout=max(self.left(), 1))
        except subprocess.TimeoutExpired:
            watch.stop(process)
            return False
        if code not in (0, 1):
            raise SystemExit(code)
        return True

    def part_sweep(
        self, part: str, sweep: Path | Groups, workers: int, sample_s: str | None = None
    ) -> None:
        """A sweep, and nothing else."""
        if self.run(part, sweep, workers, sample_s=sample_s):
            self.finish(part, {})

    def part_killed(self) -> None:
        """A case that loses a rank while it is timed."""
        shutil.rmtree(self.out / "killed", ignore_errors=True)
        environment = os.environ | {"TANDEM_SAMPLE_SECONDS": "30:30"}
        process = subprocess.Popen(
            self.command("killed", self.killed(), 1),
            stdout=subprocess.DEVNULL,
            env=environment,
        )
        found = watch.kill_a_rank(
            process,
            patience_s=min(self.left(), 120),
            timed_for_s=1 if self.on_cpu else 6,
        )
        if found.rank is None:
            say("killed: no rank took samples; the next call tries again")
            return
        lines = (self.out / "killed" / "records.jsonl").read_text().splitlines()
        record = json.loads(lines[-1]) if lines else {}
        self.finish(
            "killed",
            {
                "seconds": found.seconds,
                "status": record.get("status"),
                "reason": record.get("reason"),
                "left": found.left,
            },
        )

    def part_memory(self, tp: int) -> None:
        """Bytes in use on each GPU."""
        memory = watch.GpuMemory()
        try:
            ended = self.run(
                f"memory-tp{tp}", self.of_memory(tp), 1, memory.watch, UNTIMED
            )
        finally:
            found = memory.stop()
        if not ended:
            shutil.rmtree(self.out / f"memory-tp{tp}", ignore_errors=True)
            return
        self.finish(f"memory-tp{tp}", {"bytes": found})

    def parts(self) -> list[tuple[str, Callable[[], None]]]:
        """In the order of what is wanted first."""

        def of_sweep(name: str) -> Callable[[], None]:
            return lambda: self.part_sweep(name, self.sweep(name), self.workers)

        def of_memory(tp: int) -> Callable[[], None]:
            return lambda: self.part_memory(tp)

        wanted: list[tuple[str, Callable[[], None]]] = [
            ("checks", lambda: self.part_sweep("checks", self.checked(), 2, UNTIMED)),
            ("killed", self.part_killed),
            ("tensor_parallel", of_sweep("tensor_parallel")),
        ]
        if not self.on_cpu:
            wanted.append(("collectives", of_sweep("collectives")))
        wanted += [(f"memory-tp{tp}", of_memory(tp)) for tp in (1, *self.degrees)]
        return [*wanted, ("crossover", of_sweep("crossover"))]

    def missing(self) -> list[str]:
        """Parts that are not done."""
        return [name for name, _ in self.parts() if name not in self.done]

    def measure(self) -> None:
        """All that is missing, as far as the minutes go."""
        self.out.mkdir(parents=True, exist_ok=True)
        for name, work in self.parts():
            if name in self.done:
                continue
            if self.left() < LEAST_S:
                break
            say(f"{name}, {self.left():.0f} s left")
            work()

    # What came of it.

    def results(self, part: str) -> list[CaseResult]:
        """Of a part that has begun."""
        try:
            return collect([load_run(self.out / part)])
        except (ReportError, OSError):
            return []

    def whole(self, part: str) -> list[CaseResult]:
        """Of a part that is done: the worst of some of its cases says nothing of the rest."""
        return self.results(part) if part in self.done else []

    def bars(self) -> list[bars.Bar]:
        """All that this engine can answer."""
        found = bars.check_bars(self.whole("checks"), self.degrees)
        killed = self.done.get("killed", {})
        found.append(
            bars.killed_bar(
                killed.get("seconds"),
                killed.get("status"),
                killed.get("reason"),
                len(killed.get("left", [])),
            )
        )
        if self.on_cpu:
            return found
        memory = {
            tp: self.done.get(f"memory-tp{tp}", {}).get("bytes", [])
            for tp in (1, *self.degrees)
        }
        found += bars.sweep_bars(
            self.results("tensor_parallel"), self.whole("collectives"), self.cards
        )
        return found + bars.memory_bars(memory, self.cards)

    def keep_figures(self, name: str, to: Path) -> None:
        """The pictures of several cards that its report has; none without the packages that draw them."""
        with tempfile.TemporaryDirectory() as page:
            command = [sys.executable, "-m", "tandem_reports", "report"]
            command += [str(self.out / name), "--out", page]
            if subprocess.run(command, capture_output=True, check=False).returncode:
                say(
                    f"{name}: no figures; tandem-report report {self.out / name} draws them"
                )
                return
            for pattern in ("*-scaling.png", "*-ways.png"):
                for figure in Path(page, "figures").glob(pattern):
                    shutil.copy(figure, to / figure.name)

    def keep_records(self, lines: str) -> None:
        """What is compared later: records without samples, as scripts/baseline keeps them, and the bars."""
        if self.keep == "" or (self.on_cpu and self.keep is None):
            return
        names = watch.gpu_names()
        card = (
            "cpu"
            if self.on_cpu or not names
            else f"{names[0].split()[-1].lower()}-x{self.cards}"
        )
        folder = Path(self.keep) if self.keep else ROOT / "reports" / "baselines" / card
        day = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d")
        for name in ("checks", *SWEEPS):
            there = all((self.out / name / file).exists() for file in KEPT)
            if not there or not self.results(name):
                continue
            to = folder / f"{self.done.setdefault('day', day)}-{name.replace('_', '-')}"
            to.mkdir(parents=True, exist_ok=True)
            for file in KEPT:
                shutil.copy(self.out / name / file, to / file)
            self.keep_figures(name, to)
            say(f"kept {to}")
        # Beside the runs: every folder of baselines is a run.
        folder.mkdir(parents=True, exist_ok=True)
        self.finish("day", self.done.setdefault("day", day))
        (folder / f"{self.done['day']}-bars.txt").write_text(lines)
        shutil.copy(self.done_file, folder / f"{self.done['day']}-parts.json")


def parsed(words: list[str]) -> argparse.Namespace:
    """The options; --gpus filled in."""
    parser = argparse.ArgumentParser(
        prog="scripts/parallel_baseline", add_help=False, allow_abbrev=False
    )
    parser.add_argument("--gpus", type=int, choices=(2, 4))
    parser.add_argument("--minutes", type=float, default=9.0)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--keep")
    parser.add_argument("--bin")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--engine", choices=("cuda", "reference"), default="cuda")
    parser.add_argument("--look", action="store_true")
    parser.add_argument("--bars", action="store_true")
    args = parser.parse_args(words)
    if args.workers < 1:
        parser.error(f"argument --workers: {args.workers} is not allowed; at least 1")
    if args.engine == "reference":
        args.gpus = args.gpus or 2
        return args
    here = len(watch.gpu_names())
    wanted = args.gpus or 2
    if here < wanted and not args.bars:
        say(
            f"{wanted} GPUs are needed, {here} {'is' if here == 1 else 'are'} here: missing are the speed of tp "
            "and dp, the own sum beside NCCL, memory a GPU and the checks of several ranks; `--engine reference` "
            "shows the same steps on a CPU"
        )
        raise SystemExit(NO_DEVICE)
    args.gpus = args.gpus or (4 if here >= 4 else 2)
    return args


def main(words: list[str]) -> int:
    """The exit code."""
    args = parsed(words)
    if args.look:
        return GOOD
    baseline = Baseline(args)
    if not args.bars:
        baseline.measure()
    found = baseline.bars()
    lines = "".join(f"{bar.text}\n" for bar in found)
    print(lines, end="")
    if not args.bars:
        baseline.keep_records(lines)
    missing = baseline.missing()
    if missing:
        say(f"not done yet: {' '.join(missing)}; another call goes on")
    if any(bar.state == bars.MISSED for bar in found):
        return MISSED
    return (
        UNFINISHED
        if missing or any(bar.state == bars.UNKNOWN for bar in found)
        else GOOD
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
