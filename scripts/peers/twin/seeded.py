"""Seeded weights in Python: the twin of harness/base/random.h and harness/weights/values/seeded.h, bit for bit.

A value is a pure function of seed, tensor name and index. Integers wrap modulo 2^64 as uint64_t does; the
only floating point operations are one conversion, one multiplication by a power of two and one addition.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

U64 = NDArray[np.uint64]

MASK = (1 << 64) - 1
GOLDEN = 0x9E3779B97F4A7C15
CENTRED_SUM_STD = 37837.23

# Quantiles of a log-normal distribution (sigma 0.5, unit root mean square), times 256.
_SCALES = (
    "60 75 83 90 96 102 107 111 115 119 123 127 131 135 138 142 145 149 152 156 159 163 166 170 "
    "173 177 181 184 188 192 195 199 203 207 211 216 220 224 229 234 239 244 249 254 260 266 272 "
    "279 286 293 301 309 318 328 339 351 365 380 399 421 448 486 544 674"
)
OUTLIER_SCALE = np.array([int(scale) for scale in _SCALES.split()], dtype=np.int32)
OUTLIER_SHIFT = 8


def mix64(z: int) -> int:
    """Finaliser of splitmix64 on one integer."""
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
    return z ^ (z >> 31)


def stream_key(seed: int, name: str) -> int:
    """Stream of a named tensor: FNV-1a over the name's bytes, mixed with the seed."""
    h = 0xCBF29CE484222325
    for byte in name.encode():
        h = ((h ^ byte) * 0x100000001B3) & MASK
    return mix64(h ^ mix64(seed))


def random_bits(key: int, index: U64) -> U64:
    """Random 64 bits at each of `index` of the stream `key`."""
    # Arrays of uint64 wrap silently; only scalars would warn.
    z = np.asarray(index, dtype=np.uint64).reshape(-1) + np.uint64(1)
    z = z * np.uint64(GOLDEN) + np.full_like(z, key)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def centred_sum(key: int, index: U64) -> NDArray[np.int32]:
    """Sum of four centred 16-bit uniforms, in [-131070, 131070]."""
    r = random_bits(key, index)
    low = np.uint64(0xFFFF)
    total = (
        (r & low)
        + ((r >> np.uint64(16)) & low)
        + ((r >> np.uint64(32)) & low)
        + (r >> np.uint64(48))
    )
    centred: NDArray[np.int32] = (total.astype(np.int64) - 131070).astype(np.int32)
    return centred


def uniform_below(key: int, index: U64, n: int) -> NDArray[np.int64]:
    """Uniform integers in [0, n)."""
    high = random_bits(key, index) >> np.uint64(32)
    return ((high * np.uint64(n)) >> np.uint64(32)).astype(np.int64)


def seeded_tensor(
    seed: int,
    name: str,
    shape: tuple[int, ...],
    *,
    base: float = 0.0,
    exponent: int,
    outliers: bool = False,
) -> NDArray[np.float32]:
    """All values of a tensor, fp32.

    With `outliers` the last dimension is a row, and each row has a scale of its own.
    """
    key = stream_key(seed, name)
    size = int(np.prod(shape))
    cols = shape[-1]
    total = centred_sum(key, np.arange(size, dtype=np.uint64)).reshape(-1, cols)
    if outliers:
        rows = np.arange(total.shape[0], dtype=np.uint64)
        slot = (random_bits(~key & MASK, rows) >> np.uint64(58)).astype(np.int64)
        total = total * OUTLIER_SCALE[slot][:, None]
        exponent -= OUTLIER_SHIFT
    values = np.float32(base) + total.astype(np.float32) * np.float32(2.0**exponent)
    return values.astype(np.float32).reshape(shape)
