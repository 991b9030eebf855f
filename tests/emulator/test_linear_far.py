"""GEMMs whose elements lie too far apart for 32 bits, in address space of which next to nothing is touched."""

from __future__ import annotations

import resource

import numpy as np
import pytest
import torch

from emulator.gemm import GEMM, ROWS, whole_numbers
from emulator.program import Mode

FAR = 2**31 + 8  # elements, more than 4 GiB; a multiple of 8, so that lines begin at multiples of 16 bytes
M, N, K = 3, 5, 70  # K has two stages at least; it and N end within a chunk

# Strides of a row and of a column, of A, B, C and the output.
NEAR = {"a": (160, 1), "b": (8, 1), "c": (8, 1), "out": (8, 1)}
LAYOUTS = {
    "a": NEAR | {"a": (FAR, 1)},
    "a, along M": NEAR | {"a": (1, FAR)},
    "b": NEAR | {"b": (FAR, 1)},
    "b, along K": NEAR | {"b": (1, FAR)},
    "c and out": NEAR | {"c": (FAR + 8, 1), "out": (FAR, 1)},
}
# The rows that 16-byte copies serve, and one that gets an odd distance instead.
ASYNC = ("64x64x64", "16x128x64")
STAGED = "64x64x32 staged"


def far_gemm(row, strides, batch=1, steps=(0, 0), backwards=False, blocks=0, k=K):
    """Whether a b + c is right, how many megabytes of memory the process has grown by, and the row that it was."""
    a, b = whole_numbers(batch, M, k, seed=1), whole_numbers(batch, k, N, seed=2)
    c, out = whole_numbers(batch, M, N, seed=3), torch.full((batch, M, N), float("nan"), dtype=torch.float16)
    tensors = {"a": a, "b": b, "c": c, "out": out}
    arrays = {name: tensor.view(torch.int16).numpy() for name, tensor in tensors.items()}
    for name, step in zip(tensors, (*steps, 0, 0), strict=True):
        arrays[name + "_layout"] = np.array([*strides[name], step, backwards and step > 0], np.int64)
    arrays["sizes"] = np.array([M, N, k, batch], np.int64)
    arrays["forced"] = np.array([ROWS.index(row), blocks], np.int64)
    arrays["plan"] = np.zeros(2, np.int64)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    report = GEMM.run("far_gemm", arrays, Mode("random", 3))
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    if "no address space" in report.text:
        pytest.skip("the operating system gives no address space beyond its memory")
    assert report.text == ""
    right = torch.equal(out.double(), a.double() @ b.double() + c.double())
    return right, grown / 1024, ROWS[arrays["plan"][0]]


@pytest.mark.parametrize("far", LAYOUTS)
@pytest.mark.parametrize("row", ["64x64x64", STAGED])
def test_strides(row, far):
    strides = dict(LAYOUTS[far])
    if row == STAGED:  # odd, so that it is no row that another could serve
        strides = {name: tuple(s + 1 if s > 1 else s for s in pair) for name, pair in strides.items()}
    right, megabytes, ran = far_gemm(row, strides)
    assert right
    assert ran == row
    assert megabytes < 100


@pytest.mark.parametrize("side", ["a", "b", "both"])
@pytest.mark.parametrize("row", [*ASYNC, STAGED])
def test_batches(row, side):
    """At equal distances, and from a table of offsets."""
    steps = (FAR if side != "b" else 512, FAR if side != "a" else 1024)
    for backwards in (False, True):
        right, megabytes, ran = far_gemm(row, NEAR, batch=3, steps=steps, backwards=backwards)
        assert right
        assert ran == row
        assert megabytes < 100


def test_pieces():
    """Three blocks share two tiles of five steps; partial sums, too, are finished at the far ends of an output."""
    strides = LAYOUTS["c and out"] | {"a": (FAR, 1)}
    right, _, ran = far_gemm(STAGED, strides, batch=2, steps=(1024, FAR), blocks=3, k=150)
    assert right
    assert ran == STAGED
