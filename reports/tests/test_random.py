"""The Python twin of the seeded weights gives the bits of the C++ one.

The 64 values were printed by harness/model/seeded.cc. They are never regenerated: a change of any of them
changes every seeded weight, and with it every committed number.
"""

import numpy as np
import pytest

from tandem_reports import seeded

# Seed, name, shape, base, exponent, outliers, bits.
COMMITTED = [
    (
        0, "encoder.layers.0.self.q.weight", (4, 8), 0.0, -18, False,
        "BD9BA600 BD4B8800 BC240000 BE4CF300 BD867C00 3E007200 BE5BBD00 BE0EDA00"
        "BD488400 3DFFDE00 3E0DE500 BDCA6800 3E73A000 BDB04800 BE1E8400 3D7FA000"
        "BD866A00 BDB05600 BD42D000 BE7CFB00 BD3A2800 BDA37600 3CCB4800 BD4E7400"
        "3CDEE800 3BE4E000 BD9CA600 BD3E8800 3D851E00 BDA6C600 BD0D1C00 BD244800",
    ),
    (
        7, "decoder.final_norm.gamma", (8,), 1.0, -19, False,
        "3F5D8960 3F78EFC0 3F8F2590 3F7F5E20 3F67FB60 3F861ED0 3F7AC5C0 3F88AF40",
    ),
    (
        2**64 - 1, "head.bias", (8,), 0.0, -17, False,
        "3E786E00 BDAB0800 3E9D2E00 3E963300 BDFAC000 3E36BA00 3EA24300 3EF20800",
    ),
    (
        0, "decoder.layers.3.ffn.down.weight", (4, 4), 0.0, -20, True,
        "BBB4E560 BC2AA5F0 BD6CE875 BD3C6B9B BDFB7E8A 3D18E9F0 BC133B40 BCA590D8"
        "BD5D34F0 BC88FABE 3B8AB6A0 BD1CBE74 3D5F8C72 BACF29C0 BBB63170 B7E8C000",
    ),
]  # fmt: skip


# Breaks when Python and C++ generate different weights from one seed.
@pytest.mark.parametrize(("seed", "name", "shape", "base", "exponent", "outliers", "bits"), COMMITTED)
def test_committed_values(
    seed: int, name: str, shape: tuple[int, ...], base: float, exponent: int, outliers: bool, bits: str
) -> None:
    values = seeded.seeded_tensor(seed, name, shape, base=base, exponent=exponent, outliers=outliers)
    expected = np.frombuffer(bytes.fromhex(bits), dtype=">u4")
    assert values.dtype == np.float32
    assert values.shape == shape
    assert values.view(np.uint32).ravel().tolist() == expected.tolist()


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
