"""Raw samples: little-endian float32 microseconds beside the records."""

from __future__ import annotations

import hashlib
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from tandem_reports.errors import ReportError
from tandem_reports.reading.records import SamplesRef

SUMMARY_TOLERANCE = 1e-5
"""How far, relatively, a record's median may lie from the median of its float32 samples."""


def samples_path(run: Path, reference: SamplesRef) -> Path:
    """The file's path. Raises ReportError for a name that leads out of the run folder."""
    name = PurePosixPath(reference.file)
    if name.is_absolute() or ".." in name.parts:
        raise ReportError(f"{run}: samples file {reference.file!r} lies outside the run folder")
    return run / name


def read_samples(run: Path, reference: SamplesRef) -> NDArray[np.float64]:
    """Reads the samples of one record, in microseconds, in the order they were taken.

    Raises ReportError when the file is missing, has another hash or length than the record says, or holds
    anything but finite times over 0.
    """
    path = samples_path(run, reference)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ReportError(f"{path}: {error.strerror}") from None
    if len(data) != 4 * reference.n:
        raise ReportError(f"{path}: {len(data)} bytes, but {reference.n} samples take {4 * reference.n}")
    if hashlib.sha256(data).hexdigest() != reference.sha256:
        raise ReportError(f"{path}: its SHA-256 is not the record's")
    samples = np.frombuffer(data, dtype="<f4").astype(np.float64)
    if not np.all(np.isfinite(samples)) or not np.all(samples > 0):
        raise ReportError(f"{path}: holds a sample that is not a finite time over 0")
    return samples


def summary_agrees(samples: NDArray[np.float64], median_us: float) -> bool:
    """Whether the median in the record is the median of its samples."""
    return bool(abs(float(np.median(samples)) - median_us) <= SUMMARY_TOLERANCE * median_us)
