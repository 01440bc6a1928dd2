"""Any trace that is known, by what its file holds."""

from __future__ import annotations

from pathlib import Path

from tandem_reports.errors import ReportError
from tandem_reports.reading.nsys import read_nsys
from tandem_reports.reading.traces import Trace, read_trace

SQLITE = b"SQLite format 3\x00"


def read_any(path: Path, process: int | None = None, device: int | None = None) -> Trace:
    """Reads a trace of `tandem profile` or an export of nsys. Raises ReportError in one line.

    `process` and `device` choose among those of an export.
    """
    if path.suffix == ".nsys-rep":
        return read_nsys(path, process, device)
    try:
        with path.open("rb") as file:
            head = file.read(len(SQLITE))
    except OSError as error:
        raise ReportError(f"{path}: cannot read: {error.strerror}") from None
    if head == SQLITE:
        return read_nsys(path, process, device)
    if head[:1] != b"{":
        raise ReportError(f"{path}: neither a trace of tandem profile nor an sqlite export of nsys")
    for flag, value in (("--process", process), ("--device", device)):
        if value is not None:
            raise ReportError(f"{path}: {flag}: a trace of tandem profile is of one process and one device")
    return read_trace(path)
