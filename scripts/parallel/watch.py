"""Processes and GPUs as they are seen from outside: who descends from whom, memory in use, a rank to kill."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path


def gpu_names() -> list[str]:
    """The GPUs that this process may use, by name; empty without a driver."""
    try:
        command = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
        listed = subprocess.run(
            command, capture_output=True, text=True, check=True, timeout=60
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return []
    names = [line.strip() for line in listed.splitlines() if line.strip()]
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    return (
        names
        if visible is None
        else names[: len([one for one in visible.split(",") if one.strip()])]
    )


def _parent(pid: int) -> int | None:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except (OSError, IndexError, ValueError):
        return None


def words(pid: int) -> list[str]:
    """A process's command line; empty of one that is gone."""
    try:
        return (
            Path(f"/proc/{pid}/cmdline")
            .read_bytes()
            .decode(errors="replace")
            .split("\0")[:-1]
        )
    except OSError:
        return []


def descendants(root: int) -> set[int]:
    """All processes below this one."""
    parents = {
        int(p.name): _parent(int(p.name))
        for p in Path("/proc").iterdir()
        if p.name.isdigit()
    }
    found: set[int] = set()
    below = {root}
    while below:
        below = {pid for pid, parent in parents.items() if parent in below} - found
        found |= below
    return found


def is_timing(pid: int) -> bool:
    """A worker that takes samples: those that check have no attempt."""
    return "--attempt" in words(pid)


def timing_ranks(root: int) -> list[int]:
    """Ranks, other than the first, of workers below `root` that take samples."""
    return [
        pid
        for pid in descendants(root)
        if "--rendezvous" in words(pid)
        and (parent := _parent(pid)) is not None
        and is_timing(parent)
    ]


def stop(run: subprocess.Popen[bytes]) -> None:
    """Asks `tandem run` to end. One that does not is killed: a record is whole or not there, and workers end with it."""
    if run.poll() is None:
        run.send_signal(signal.SIGINT)
    try:
        run.wait(20)
    except subprocess.TimeoutExpired:
        run.kill()
        run.wait()


@dataclass
class Killed:
    """What came of killing a rank: None of `rank`, where there was none to kill."""

    rank: int | None = None
    seconds: float | None = None
    """From the kill to the end of the command."""
    left: list[list[str]] = field(default_factory=list)
    """Commands of its processes that outlived it."""


def kill_a_rank(
    run: subprocess.Popen[bytes], patience_s: float, timed_for_s: float
) -> Killed:
    """Waits for a rank that has been timed for so long, kills it, and waits for the command to end."""
    until = time.monotonic() + patience_s
    found = Killed()
    seen: dict[int, list[str]] = {}
    while run.poll() is None and time.monotonic() < until and found.rank is None:
        ranks = timing_ranks(run.pid)
        if ranks:
            time.sleep(timed_for_s)
            found.rank = next(iter(set(ranks) & set(timing_ranks(run.pid))), None)
        time.sleep(0.02)
    if found.rank is None:
        stop(run)
        return found
    seen = {pid: words(pid) for pid in descendants(run.pid)}
    os.kill(found.rank, signal.SIGKILL)
    killed = time.monotonic()
    try:
        run.wait(120)
    except subprocess.TimeoutExpired:
        run.kill()
    found.seconds = time.monotonic() - killed
    found.left = [
        command for pid, command in seen.items() if command and words(pid) == command
    ]
    return found


class GpuMemory:
    """Most bytes in use on each GPU while a worker below `root` takes samples, less what was in use before."""

    def __init__(self) -> None:
        self._before = self._read_once()
        self._most = dict.fromkeys(self._before, 0.0)
        self._root: int | None = None
        self._smi: subprocess.Popen[str] | None = None
        self._thread: threading.Thread | None = None

    QUERY = (
        "nvidia-smi",
        "--query-gpu=index,memory.used",
        "--format=csv,noheader,nounits",
    )

    @staticmethod
    def _parsed(line: str) -> tuple[int, float] | None:
        try:
            index, mib = line.split(",")
            return int(index), float(mib) * (1 << 20)
        except ValueError:
            return None

    def _read_once(self) -> dict[int, float]:
        try:
            text = subprocess.run(
                self.QUERY, capture_output=True, text=True, timeout=60, check=True
            ).stdout
        except (OSError, subprocess.SubprocessError):
            return {}
        return dict(
            pair
            for line in text.splitlines()
            if (pair := self._parsed(line)) is not None
        )

    def watch(self, root: int) -> None:
        """Reads five times a second from now on."""
        if not self._before:
            return
        self._root = root
        self._smi = subprocess.Popen(
            [*self.QUERY, "-lms", "200"], stdout=subprocess.PIPE, text=True
        )
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        assert (
            self._smi is not None
            and self._smi.stdout is not None
            and self._root is not None
        )
        for line in self._smi.stdout:
            pair = self._parsed(line)
            if pair is not None and any(
                is_timing(pid) for pid in descendants(self._root)
            ):
                index, used = pair
                self._most[index] = max(
                    self._most.get(index, 0.0), used - self._before.get(index, 0.0)
                )

    def stop(self) -> list[float]:
        """Bytes by GPU; empty where nothing could be read."""
        if self._smi is None or self._thread is None:
            return []
        self._smi.terminate()
        self._smi.wait()
        self._thread.join()
        return [self._most[index] for index in sorted(self._most)]
