"""Tensors for the copy engine, and what lies in shared memory once it has moved a box of them."""

from __future__ import annotations

import numpy as np

from emulator.program import program

TILES = program("tiles", "csrc/collective/tensor_map.cu")
F16, BF16, F32 = range(3)  # DType of csrc/core/dtype.h


def how(tensor: np.ndarray, box: tuple[int, int, int], dtype: int = F32, swizzle: int = 0) -> np.ndarray:
    """The numbers of a TensorBox; `tensor` may be a view of an array with longer rows. Boxes begin with the width."""
    depth, height, width = tensor.shape
    return np.array([width, height, depth, *tensor.strides[1::-1], *box, dtype, swizzle], np.int64)


def box_of(array: np.ndarray, at: tuple[int, int, int], box: tuple[int, int, int]) -> np.ndarray:
    """What the box holds, zeros where it leaves the tensor."""
    inside = np.zeros(box[::-1], array.dtype)
    places = [np.arange(first, first + size) for first, size in zip(at[::-1], box[::-1], strict=True)]
    there = [(place >= 0) & (place < size) for place, size in zip(places, array.shape, strict=True)]
    inside[np.ix_(*there)] = array[np.ix_(*(place[ok] for place, ok in zip(places, there, strict=True)))]
    return inside


def swizzled(rows: np.ndarray, swizzle: int = 128) -> np.ndarray:
    """As the copy engine puts rows of so many bytes: of 128, 16-byte chunk c of row r at chunk c ^ (r % 8); of 64, at
    chunk c ^ (r / 2 % 4).
    """
    across = swizzle // 16
    chunks = np.ascontiguousarray(rows).view(np.uint8).reshape(-1, across, 16)
    order = np.arange(across) ^ (np.arange(len(chunks)) * across // 8 % across)[:, None]
    return np.take_along_axis(chunks, order[:, :, None], 1)
