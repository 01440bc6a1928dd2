"""The Python twin of calibrated scales against the hash that the C++ test holds too."""

from __future__ import annotations

import hashlib

import numpy as np
from twin import calibration, seeded

FORMS = {"int8": "smoothquant", "fp8": "smoothquant", "w8a16": "awq", "w4a16": "awq"}


# Breaks when scales are chosen otherwise here than in harness/weights/calibration/scales.cc (scales_test.cc).
def test_scales_equal_the_engines() -> None:
    rows = seeded.seeded_tensor(5, "input", (40, 150), exponent=-16)
    rows[:, [3, 77]] *= 20
    matrices = [seeded.seeded_tensor(5, n, (200, 150), exponent=-19) for n in ("first", "second")]
    text = ""
    for precision, name in FORMS.items():
        chosen = calibration.choose(precision, name, matrices, calibration.stats(rows))
        words = [] if chosen is None else [str(e) for e in chosen]
        text += f"{precision} {name} {' '.join(words)}\n"
    digest = hashlib.sha256(text.encode()).hexdigest()
    assert digest == "af08104bf39237e1761643cc90614432ff2cb1eb0b7a09801681935ed9cb01fa"


# Breaks when a channel that is never used gets a factor, or the mean is not taken off.
def test_candidates_by_hand() -> None:
    x = calibration.stats(np.array([[1, 16, 0, 1], [1, -16, 0, 1]], dtype=np.float32))
    found = calibration.candidates("smoothquant", x, np.array([1.0, 1.0, 1.0, 0.0]))
    assert [list(e) for e in found[:2]] == [[-1, 1, 0, 0], [-1, 1, 0, 0]]
    assert list(found[-1]) == [-2, 2, 0, 0]
