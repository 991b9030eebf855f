"""The pointwise room's kernels against their CPU twins, bit for bit."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from emulator.cases import COLUMNS, POINTWISE
from emulator.program import Mode
from emulator.work import CODES, memory, same_bits
from halfops._ops import ops

ACTIVATIONS = ("none", "relu", "gelu", "gelu_tanh", "silu")  # Activation of csrc/math/activation.h
# Operands, results, and the CPU's op on the operands.
OPS = {
    "activate": (("z",), ("y",), ops.activation),
    "activate_backward": (("dy", "z"), ("dz",), ops.activation_backward),
    "gate": (("gate", "up"), ("h",), ops.gated_activation),
    "gate_backward": (("dh", "gate", "up"), ("d_gate", "d_up"), ops.gated_activation_backward),
}
MODES = [Mode(), Mode("reverse"), Mode("random", 3), Mode("priority", 5, multiprocessors=1)]
# Around a thread's eight neighbours, a warp's tile of 256 or 512, and tiles for more than one block.
SIZES = (0, 1, 7, 8, 9, 255, 256, 513, 2500)
SPECIAL = [0.0, -0.0, float("inf"), -float("inf"), float("nan"), 1e-40, -1e-7, 60000.0, -60000.0, 3e38, -12.0, -90.0]


def numbers(size: int, dtype: torch.dtype, seed: int) -> Tensor:
    """Of many magnitudes and both signs, with special ones at random places."""
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(size, generator=generator) * 10 ** (4 * torch.rand(size, generator=generator) - 2)
    special = torch.tensor(SPECIAL)[torch.randint(len(SPECIAL), (size,), generator=generator)]
    return torch.where(torch.rand(size, generator=generator) < 0.1, special, values).to(dtype)


def check_op(
    name: str, activation: str, dtype: torch.dtype, size: int, offsets: list[int], mode: Mode, flavour: str = "plain"
) -> None:
    """offsets: of operands and results, in elements behind a multiple of 16 bytes."""
    ins, outs, op = OPS[name]
    operands = [numbers(size, dtype, seed) for seed in range(len(ins))]
    wanted = op(*operands, activation)
    arrays: dict[str, Any] = {
        "activation": np.array([ACTIVATIONS.index(activation)], np.int32),
        "dtype": np.array([CODES[dtype]], np.int32),
    }
    offset = itertools.cycle(offsets)
    arrays |= {key: memory(value, next(offset)) for key, value in zip(ins, operands, strict=True)}
    arrays |= {key: memory(torch.full((size,), 7.0, dtype=dtype), next(offset)) for key in outs}
    assert POINTWISE.run(name, arrays, mode, flavour).text == ""
    for key, value in zip(outs, (wanted,) if isinstance(wanted, Tensor) else wanted, strict=True):
        assert same_bits(arrays[key], value), key
    for key, value in zip(ins, operands, strict=True):
        assert same_bits(arrays[key], value), f"{key} was written to"


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("dtype", CODES)
@pytest.mark.parametrize("name", OPS)
def test_results_are_the_cpus_at_each_size_and_offset(name, dtype, activation):
    for i, size in enumerate(SIZES):
        for offset in range(8) if size == 513 else (0, i % 8):
            check_op(name, activation, dtype, size, [offset], MODES[(i + offset) % len(MODES)])


@pytest.mark.parametrize("dtype", CODES)
@pytest.mark.parametrize("name", OPS)
def test_operands_without_a_common_alignment(name, dtype):
    count = len(OPS[name][0]) + len(OPS[name][1])
    for odd in range(count):  # each one alone, and then all
        check_op(name, "silu", dtype, 523, [int(i == odd) for i in range(count)], MODES[odd % len(MODES)])
    check_op(name, "silu", dtype, 523, [0, 1, 2, 3, 5][:count], Mode("random", 1))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_every_16_bit_number(activation, dtype):
    every = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(dtype)
    arrays = {
        "activation": np.array([ACTIVATIONS.index(activation)], np.int32),
        "dtype": np.array([CODES[dtype]], np.int32),
        "z": memory(every),
        "y": memory(torch.zeros_like(every)),
    }
    assert POINTWISE.run("activate", arrays).text == ""
    assert same_bits(arrays["y"], ops.activation(every, activation))


@pytest.mark.parametrize("flavour", ["address", "thread"])
def test_sanitizers_have_nothing_to_say(flavour):
    for name, (ins, outs, _) in OPS.items():
        check_op(name, "gelu", torch.float16, 777, [3], Mode("random", 1), flavour)
        check_op(name, "silu", torch.float32, 777, [1, 0, 3, 2, 1][: len(ins) + len(outs)], Mode(), flavour)
    check_column_sums(torch.float16, 69, 261, 264, 0, Mode("random", 2), flavour)
    check_column_sums(torch.float32, 69, 261, 263, 1, Mode(), flavour)


# --- column sums ----------------------------------------------------------------------------------------------------


def check_column_sums(
    dtype: torch.dtype, rows: int, cols: int, row_stride: int, offset: int, mode: Mode, flavour: str = "plain"
) -> None:
    room = numbers(max(0, (rows - 1) * row_stride + cols), dtype, rows + cols).nan_to_num(1.0, 2.0, -2.0)
    x = room.as_strided((rows, cols), (row_stride, 1)) if rows else torch.zeros(0, cols, dtype=dtype)
    # The weight's side is empty, so that this is the bias gradient alone.
    wanted = ops.linear_wgrad(x, torch.zeros(rows, 1, dtype=dtype), None, False, True, False)[1]
    arrays = {
        "dtype": np.array([CODES[dtype]], np.int32),
        "x": memory(room, offset),
        "rows": np.array([rows]),
        "cols": np.array([cols]),
        "row_stride": np.array([row_stride]),
        "sums": memory(torch.full((cols,), 7.0, dtype=dtype), offset),
    }
    assert POINTWISE.run("column_sums", arrays, mode, flavour).text == ""
    assert same_bits(arrays["sums"], wanted)


# Rows around a block of 64 and a group of 32 blocks; columns around a strip of 256; strides that keep rows aligned and
# that do not.
@pytest.mark.parametrize("dtype", CODES)
@pytest.mark.parametrize(
    ("rows", "cols", "row_stride"),
    [(0, 5, 5), (1, 1, 1), (3, 0, 8), (63, 256, 256), (64, 257, 264), (65, 40, 41), (200, 520, 520), (2047, 33, 33),
     (2049, 9, 9), (4200, 16, 17), (67000, 2, 2)],
)  # fmt: skip
def test_column_sums_are_the_cpus(dtype, rows, cols, row_stride):
    for offset in (0, 1, 4) if rows < 1000 else (0,):
        check_column_sums(dtype, rows, cols, row_stride, offset, MODES[(rows + offset) % len(MODES)])


@pytest.mark.parametrize("bad", [float("inf"), -float("inf"), float("nan")])
def test_what_is_not_finite_stays_in_its_column(bad):
    x = torch.ones(130, 300, dtype=torch.float16)
    x[77, 270] = bad
    arrays = {
        "dtype": np.array([0], np.int32),
        "x": memory(x.flatten()),
        "sums": memory(torch.zeros(300, dtype=torch.float16)),
    }
    arrays |= {"rows": np.array([130]), "cols": np.array([300]), "row_stride": np.array([300])}
    assert POINTWISE.run("column_sums", arrays).text == ""
    wanted = torch.full((300,), 130.0, dtype=torch.float16)
    wanted[270] = bad
    assert same_bits(arrays["sums"], wanted)


@pytest.mark.parametrize("kind", ["float", "double"])
def test_partial_sums_of_either_kind_are_added_in_order(kind):
    """More than two rounds of 32 groups of 32: every warp, both halves of the shared array, columns beside the end."""
    random = np.random.default_rng(0)
    for rows, cols in ((0, 3), (1, 1), (31, 33), (32, 2), (33, 64), (1024, 5), (1025, 3), (2500, 35)):
        partial = random.standard_normal((rows, cols)).astype({"float": np.float32, "double": np.float64}[kind])
        total = np.zeros(cols)
        for begin in range(0, rows, 32):
            group = np.zeros(cols)
            for row in partial[begin : begin + 32]:
                group += row
            total += group
        arrays = {"partial": partial, "rows": np.array([rows]), "cols": np.array([cols])}
        arrays["sums"] = np.full(cols, np.nan, np.float32)
        assert COLUMNS.run(f"add_{kind}s", arrays, MODES[rows % len(MODES)]).text == ""
        assert np.array_equal(arrays["sums"], total.astype(np.float32))
