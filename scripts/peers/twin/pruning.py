"""Which weights stay: the twin of the masks that harness/weights chooses.

Masks are chosen on the values of a whole matrix before they are rounded. Magnitudes are compared as fp32 without the
sign; of equal ones the first stays.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.bool_]

PATTERNS = ("2:4", "unstructured", "threshold")
"""The parts of `sparsity` that remove single weights; the others remove heads, columns and layers."""


def parse_sparsity(text: str) -> dict[str, float]:
    """Each part of the axis with its number, 0 for 2:4; empty for dense."""
    parts: dict[str, float] = {}
    for part in () if text == "dense" else text.split("+"):
        name, _, number = ("2:4", "", "0") if part == "2:4" else part.partition(":")
        parts[name] = float(number)
    return parts


def largest_of_four(values: NDArray[np.float32]) -> Mask:
    """Of every four neighbours of a row [rows, cols] the two largest; four divides cols."""
    groups = np.abs(values).reshape(values.shape[0], -1, 4)
    order = np.argsort(-groups, axis=-1, kind="stable")
    keep = np.zeros(groups.shape, dtype=np.bool_)
    np.put_along_axis(keep, order[..., :2], True, axis=-1)
    return keep.reshape(values.shape)


def all_but_smallest(values: NDArray[np.float32], fraction: float) -> Mask:
    """All but the floor(fraction * size) smallest of a whole matrix."""
    sizes = np.abs(values).reshape(-1)
    order = np.argsort(-sizes, kind="stable")
    keep = np.ones(sizes.size, dtype=np.bool_)
    keep[order[sizes.size - math.floor(fraction * sizes.size) :]] = False
    return keep.reshape(values.shape)


def mask(values: NDArray[np.float32], parts: Mapping[str, float]) -> Mask:
    """What the patterns of a sparsity keep of one matrix."""
    keep = np.ones(values.shape, dtype=np.bool_)
    if "2:4" in parts:
        keep &= largest_of_four(values)
    if "unstructured" in parts:
        keep &= all_but_smallest(values, parts["unstructured"])
    if "threshold" in parts:
        keep &= np.abs(values) >= np.float32(parts["threshold"])
    return keep
