"""Quantised weights: the twin of harness/weights/values/quantise.h.

Codes are integers in the width of their type (e4m3 bits, two's complement); scales are fp32 values, those of 4 bits on
the grid of bf16.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

LARGEST = {"f8": 448, "i8": 127, "i4": 7}
GROUP = {"f8": 0, "i8": 0, "i4": 128}  # 0: the whole row


def f8_values() -> NDArray[np.float32]:
    """The 127 values from 0 to 448 by their code."""
    code = np.arange(127)
    exponent, mantissa = code >> 3, code & 7
    normal = (1 + mantissa / 8) * 2.0 ** (exponent - 7)
    return np.where(exponent == 0, mantissa * 2.0**-9, normal).astype(np.float32)


def to_f8(values: NDArray[np.float32]) -> NDArray[np.int64]:
    """Nearest e4m3 code, ties to even, held to 448."""
    table = f8_values().astype(np.float64)
    size = np.minimum(np.abs(values.astype(np.float64)), 448)
    above = np.clip(np.searchsorted(table, size), 1, 126)
    down, up = size - table[above - 1], table[above] - size
    nearer_up = (up < down) | ((up == down) & (above % 2 == 0))
    code = np.where(nearer_up, above, above - 1)
    return np.where(np.signbit(values), code | 0x80, code)


def decode(kind: str, codes: NDArray[np.int64]) -> NDArray[np.float32]:
    """What codes stand for, before their scale."""
    if kind == "f8":
        values = f8_values()[codes & 0x7F]
        return np.asarray(np.where(codes & 0x80, -values, values), dtype=np.float32)
    sign = 0x80 if kind == "i8" else 0x8
    values = ((codes & (2 * sign - 1)) ^ sign) - sign
    return np.asarray(values, dtype=np.float32)


def to_bf16(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Each value rounded to bf16, as fp32."""
    bits = values.view(np.uint32).astype(np.uint64)
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) & 0xFFFF0000
    return rounded.astype(np.uint32).view(np.float32)


def quantise_row(
    kind: str, values: NDArray[np.float32]
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Codes and scales of a row of finite values, or of the rows of a matrix; kind is f8, i8 or i4."""
    width = GROUP[kind] or values.shape[-1]
    codes, scales = [], []
    for first in range(0, values.shape[-1], width):
        group = values[..., first : first + width].astype(np.float32)
        scale = np.abs(group).max(axis=-1, keepdims=True) / np.float32(LARGEST[kind])
        if kind == "i4":
            scale = to_bf16(scale)
        scales.append(scale)
        scaled = np.divide(group, scale, out=np.zeros_like(group), where=scale > 0)
        if kind == "f8":
            codes.append(to_f8(scaled))
            continue
        low = -127 if kind == "i8" else -8
        code = np.clip(np.rint(scaled), low, LARGEST[kind]).astype(np.int64)
        codes.append(code & (0xFF if kind == "i8" else 0xF))
    return np.concatenate(codes, axis=-1), np.concatenate(scales, axis=-1)
