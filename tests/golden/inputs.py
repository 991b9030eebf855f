"""Numbers that hurt. Made by integer arithmetic alone: they are the same wherever and whenever they are made."""

from __future__ import annotations

import numpy as np


def words(n: int, salt: int) -> np.ndarray:
    """n 32-bit words without a visible pattern (the finaliser of splitmix64)."""
    with np.errstate(over="ignore"):
        x = (np.arange(n, dtype=np.uint64) + np.uint64(salt << 40)) * np.uint64(0x9E3779B97F4A7C15)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return ((x ^ (x >> np.uint64(31))) >> np.uint64(16)).astype(np.uint32)


def halves() -> np.ndarray:
    """All of them, NaNs included."""
    return np.arange(1 << 16, dtype=np.uint32).astype(np.uint16)


def _exact(half: np.ndarray) -> np.ndarray:
    return half.view(np.float16).astype(np.float32)


def floats_around_halves() -> np.ndarray:
    """For both formats: every 13th number, the tie above it, and the floats beside both; and a sweep of all floats."""
    finite = np.arange(0, 0x7C00, 13, dtype=np.uint16)
    low, high = _exact(finite), _exact(np.minimum(finite + 1, 0x7BFF).astype(np.uint16))
    ties = ((low.astype(np.float64) + high) / 2).astype(np.float32)
    brain = np.arange(0, 0x7F80, 13, dtype=np.uint32) << 16
    at = np.concatenate([low.view(np.uint32), ties.view(np.uint32), brain, brain + 0x8000])
    special = np.array(
        # zero, smallest, around fp16's smallest / 2, its normal limit, its overflow, bf16's overflow, infinity, NaN
        [0, 1, 0x33000000, 0x387FE000, 0x38800000, 0x477FE000, 0x477FF000, 0x7F7F0000, 0x7F7F8000, 0x7F7FFFFF,
         0x7F800000, 0x7FC00000, 0x7F800001, 0x00800000, 0x007FFFFF], np.uint32,
    )  # fmt: skip
    near = np.concatenate([at, special])
    bits = np.concatenate([near, near + 1, np.maximum(near, 1) - 1, words(8192, 1)])
    return np.concatenate([bits, bits ^ np.uint32(0x80000000)]).view(np.float32)


_EDGES = {
    # zero, the smallest subnormals, around the smallest normal, 1 and its neighbours, the largest, infinity, NaN
    np.float32: [0, 1, 2, 3, 0x7FFFFF, 0x800000, 0x800001, 0x3F7FFFFF, 0x3F800000, 0x3F800001, 0x3EAAAAAB, 0x4B800001,
                 0x7F7FFFFF, 0x7F000000, 0x7F800000, 0x7FC00000, 0x1FFFFFFF, 0x20000000, 0x5F800000, 0x00400000],
    np.float64: [0, 1, 2, 3, 0xFFFFFFFFFFFFF, 0x10000000000000, 0x10000000000001, 0x3FEFFFFFFFFFFFFF,
                 0x3FF0000000000000, 0x3FF0000000000001, 0x3FD5555555555555, 0x4340000000000001, 0x7FEFFFFFFFFFFFFF,
                 0x7FE0000000000000, 0x7FF0000000000000, 0x7FF8000000000000, 0x1FFFFFFFFFFFFFFF, 0x2000000000000000,
                 0x5FF0000000000000, 0x0008000000000000],
}  # fmt: skip


def triples(dtype: type, pseudorandom: int = 4096) -> np.ndarray:
    """All pairs of edges with both signs, and words without pattern, each with a third number."""
    unsigned = np.uint32 if dtype is np.float32 else np.uint64
    edges = np.array(_EDGES[dtype], unsigned)
    edges = np.concatenate([edges, edges | unsigned(1 << (8 * edges.itemsize - 1))])
    pairs = np.stack(np.meshgrid(edges, edges), -1).reshape(-1, 2)
    third = edges[np.arange(len(pairs)) * 7 % len(edges)]
    if dtype is np.float32:
        rest = words(3 * pseudorandom, 2)
    else:
        rest = words(3 * pseudorandom, 3).astype(np.uint64) << np.uint64(32) | words(3 * pseudorandom, 4)
    # Half of the rest close together in size, where sums cancel and quotients are near ties.
    mantissa = unsigned((1 << (23 if dtype is np.float32 else 52)) - 1)
    one = np.array([1], dtype).view(unsigned)[0]
    near = (rest & mantissa) | one
    return np.concatenate([np.column_stack([pairs, third]).ravel(), rest, near]).view(dtype)
