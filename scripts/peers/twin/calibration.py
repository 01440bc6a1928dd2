"""By which powers of two channels are scaled: the twin of harness/weights/calibration/scales.h."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from twin.quantise import f8_values, quantise_row

LEAST, MOST = -4, 8
SAMPLED_ROWS = 128
EVERY = 7  # rows of an input between two that are sampled
WORTHWHILE = 0.8
TYPES = {"fp8": "f8", "int8": "i8", "w8a16": "i8", "w4a16": "i4"}


@dataclass(frozen=True)
class Stats:
    """Of one input: [channels] each, and the sampled rows."""

    largest: NDArray[np.float64]
    mean: NDArray[np.float64]
    square: NDArray[np.float64]
    sample: NDArray[np.float32]


def stats(rows: NDArray[np.float32]) -> Stats:
    """Of all rows [rows, channels] that a product reads."""
    x = rows.astype(np.float64)
    return Stats(
        np.abs(x).max(axis=0),
        np.abs(x).mean(axis=0),
        (x * x).mean(axis=0),
        rows[::EVERY],
    )


def decoded(kind: str, row: NDArray[np.float32]) -> NDArray[np.float32]:
    """The values of the codes that a row gets."""
    codes, scales = quantise_row(kind, row)
    if kind == "f8":
        values = f8_values()[codes & 0x7F] * np.where(codes & 0x80, -1, 1)
    else:
        half = 128 if kind == "i8" else 8
        values = np.where(codes >= half, codes - 2 * half, codes)
    width = 128 if kind == "i4" else len(row)
    back: NDArray[np.float32] = (
        values.astype(np.float32) * np.repeat(scales, width)[: len(row)]
    )
    return back


def squared_errors(
    kind: str, rows: NDArray[np.float32], factors: NDArray[np.float32]
) -> NDArray[np.float64]:
    """[channels], summed over the rows; a channel is multiplied while its codes are made."""
    errors = [(decoded(kind, row * factors) - row * factors) / factors for row in rows]
    sums: NDArray[np.float64] = np.square(np.array(errors, dtype=np.float64)).sum(
        axis=0
    )
    return sums


def rounded(logs: NDArray[np.float64]) -> NDArray[np.int64]:
    """Exponents of the factors whose log2 is given; not finite: a channel with a zero in it."""
    known = np.isfinite(logs)
    centred = np.where(known, logs, 0) - logs[known].mean()
    return np.where(known, np.clip(np.rint(centred), LEAST, MOST), 0).astype(np.int64)


def candidates(
    calibration: str, x: Stats, weights: NDArray[np.float64]
) -> list[NDArray[np.int64]]:
    """weights [channels]: largest magnitudes of the columns of what reads the input."""
    with np.errstate(divide="ignore", invalid="ignore"):
        if calibration == "awq":
            logs = [i / 20 * np.log2(x.mean) for i in range(1, 20)]
        else:
            largest, columns = np.log2(x.largest), np.log2(weights)
            logs = [i / 10 * largest - (1 - i / 10) * columns for i in range(3, 10)]
    return [rounded(log) for log in logs]


def choose(
    precision: str, calibration: str, matrices: Sequence[NDArray[np.float32]], x: Stats
) -> NDArray[np.int64] | None:
    """Exponents of the channels of an input that `matrices` [out, channels] read; None: it stays as it is."""
    kind = TYPES[precision]
    samples = [m[:: -(-len(m) // SAMPLED_ROWS)] for m in matrices]

    def error(exponents: NDArray[np.int64]) -> float:
        factors = np.exp2(exponents).astype(np.float32)
        total = 0.0
        for sample in samples:
            columns = np.square(sample.astype(np.float64)).sum(axis=0)
            part = float(squared_errors(kind, sample, factors) @ x.square)
            if precision in ("fp8", "int8"):
                of_rows = squared_errors(kind, x.sample, np.float32(1) / factors)
                part += float(of_rows @ columns) / len(x.sample)
            total += part / float(columns @ x.square)
        return total

    weights = np.max([np.abs(m).max(axis=0) for m in matrices], axis=0).astype(
        np.float64
    )
    best, least = None, WORTHWHILE * error(np.zeros(len(weights), dtype=np.int64))
    for exponents in candidates(calibration, x, weights):
        if (found := error(exponents)) < least:
            best, least = exponents, found
    return best
