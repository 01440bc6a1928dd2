"""The Python twin of the seeded weights gives the bits of the C++ one."""

import json
from pathlib import Path

import numpy as np
import pytest
from twin import seeded

COMMITTED = Path(__file__).parents[2] / "harness" / "weights" / "testdata" / "seeded.json"


# Breaks when Python and C++ generate different weights from one seed.
def test_committed_values() -> None:
    committed = json.loads(COMMITTED.read_text())
    assert len(committed) == 64
    for value in committed:
        rows = value["index"] // value["cols"] + 1
        tensor = seeded.seeded_tensor(
            value["seed"],
            value["name"],
            (rows, value["cols"]),
            base=value["base"],
            exponent=value["exponent"],
            outliers=value["outliers"],
        )
        assert tensor.dtype == np.float32
        assert f"{tensor.reshape(-1)[value['index']].view(np.uint32):08X}" == value["bits"], value


# Breaks when the scale that exponents are chosen by is not the sums' deviation.
def test_deviation_of_the_sums() -> None:
    sums = seeded.centred_sum(seeded.stream_key(1, "deviation"), np.arange(200_000, dtype=np.uint64))
    assert abs(sums.mean()) < 500
    assert sums.std() == pytest.approx(seeded.CENTRED_SUM_STD, rel=0.01)


# Breaks when scaled integers leave their range or miss a part of it.
def test_uniform_below_covers_its_range() -> None:
    draws = seeded.uniform_below(seeded.stream_key(1, "uniform"), np.arange(10_000, dtype=np.uint64), 7)
    assert np.bincount(draws, minlength=7).min() > 1200
    assert draws.max() == 6
