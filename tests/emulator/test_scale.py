"""The scale room's kernels, through their launchers."""

from __future__ import annotations

import numpy as np
import pytest

from emulator.cases import SCALE
from emulator.memory import misaligned
from emulator.program import ORDERS, Mode

# DType of csrc/core/dtype.h, the bits of one and of the two infinities and a NaN.
FORMATS = {
    "f16": (0, np.uint16, 0x3C00, (0x7C00, 0xFC00, 0x7C01)),
    "bf16": (1, np.uint16, 0x3F80, (0x7F80, 0xFF80, 0x7F81)),
    "f32": (2, np.uint32, 0x3F800000, (0x7F800000, 0xFF800000, 0x7F800001)),
}
SIZES = (0, 1, 7, 8, 9, 33, 4099)


def found_inf(tensors, codes, mode=Mode(), flavour="plain"):  # noqa: B008
    """What the kernel says of a list of tensors; the flag starts as a NaN, because the kernel has to write it."""
    flag = np.array([np.nan], np.float32)
    arrays = {"tensor": tensors, "dtype": np.array(codes, np.int32), "found_inf": flag}
    report = SCALE.run("nonfinite", arrays, mode, flavour)
    assert report.text == ""
    return flag[0]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", FORMATS)
def test_each_place_of_each_size_and_alignment(name, size):
    code, dtype, one, specials = FORMATS[name]
    for offset in range(16 // np.dtype(dtype).itemsize):
        data = misaligned(np.full(size, one, dtype), offset)
        assert found_inf([data], [code]) == 0
        for place in sorted({0, 1, size // 2, size - 2, size - 1} & set(range(size))):
            data[place] = specials[place % 3]
            assert found_inf([data], [code], Mode(ORDERS[place % 4], seed=place)) == 1
            data[place] = one


@pytest.mark.parametrize("flavour", ["plain", "address", "thread"])
@pytest.mark.parametrize("clean", [True, False])
def test_a_list_of_all_formats_in_every_build(flavour, clean):
    random = np.random.default_rng(0)
    tensors, codes = [], []
    for offset, size in enumerate(SIZES):
        for code, dtype, one, _ in FORMATS.values():
            # Any number that is finite: of the special exponent one bit is cleared.
            bits = random.integers(0, 2 ** (8 * np.dtype(dtype).itemsize), size, dtype)
            tensors.append(misaligned(bits & ~dtype(one & -one), offset % (16 // np.dtype(dtype).itemsize)))
            codes.append(code)
    if not clean:
        tensors[7][0] = FORMATS["bf16"][3][1]
    for mode in (Mode(), Mode("reverse"), Mode("random", 4), Mode("priority", 4), Mode(multiprocessors=1)):
        assert found_inf(tensors, codes, mode, flavour) == (0 if clean else 1)


@pytest.mark.parametrize("name", FORMATS)
def test_any_bits_against_numpy(name):
    code, dtype, _, (infinity, _, _) = FORMATS[name]
    random = np.random.default_rng(1)
    for size in (1, 2, 3, 5, 8, 16, 40):
        for seed in range(20):
            data = misaligned(random.integers(0, 2 ** (8 * np.dtype(dtype).itemsize), size, dtype), seed % 4)
            # Few enough special numbers that both answers occur.
            expected = ((data & infinity) == infinity).any()
            assert found_inf([data], [code], Mode("random", seed)) == expected
