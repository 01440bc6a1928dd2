"""The Python twin of quantised weights against the hashes that the C++ test holds too."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
from twin import quantise, seeded

HASHES = {
    "f8": "0e91336ef2d7bdccf422f1f70cf0e108b3c03cb8b05ff1994556f595fe356245",
    "i8": "c109a9c0065e81550ff650125da869235bd5d99355e308e194da86294f45e118",
    "i4": "e6a7144ad02a8275dc3fb1ae3637fd11398bd748109e5ff328a9fb24bfe93f13",
}


# Breaks when codes or scales change here and not in harness/weights/values/quantise.cc (quantise_test.cc).
@pytest.mark.parametrize("kind", HASHES)
def test_seeded_rows_are_the_engines_too(kind: str) -> None:
    sha = hashlib.sha256()
    for values in seeded.seeded_tensor(17, "quantised", (9, 300), exponent=-20, outliers=True):
        codes, scales = quantise.quantise_row(kind, values)
        sha.update(codes.astype(np.uint8).tobytes())
        sha.update(scales.astype("<f4").tobytes())
    assert sha.hexdigest() == HASHES[kind]


# Breaks when a tie of e4m3 goes the wrong way: every code, every middle.
def test_e4m3_rounds_to_nearest_even() -> None:
    table = quantise.f8_values()
    assert list(quantise.to_f8(table)) == list(range(127))
    middles = ((table[:-1].astype(np.float64) + table[1:]) / 2).astype(np.float32)
    assert all(int(c) % 2 == 0 for c in quantise.to_f8(middles))
    assert int(quantise.to_f8(np.array([-1e9], dtype=np.float32))[0]) == 0xFE
