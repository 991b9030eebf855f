"""What the scale room computes, in a few lines of eager torch and plain Python."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


def found_inf(tensors: Sequence[Tensor]) -> bool:
    return any(not bool(torch.isfinite(t).all()) for t in tensors)


def sum_of_squares(tensors: Sequence[Tensor]) -> float:
    """In float64, where the square of a float32 is exact, and added up exactly; NaN before infinity."""
    total = 0.0
    for t in tensors:
        squares = t.detach().double().square().flatten()
        if not bool(torch.isfinite(squares).all()):
            total += float(squares.sum())
        else:
            total += math.fsum(squares.tolist())
    return total


def tree(values: Tensor) -> Tensor:
    """((v0 + v1) + (v2 + v3)) + ... over the last dimension, which is filled up with zeros to 256."""
    values = torch.nn.functional.pad(values, (0, 256 - values.shape[-1]))
    while values.shape[-1] > 1:
        values = values[..., 0::2] + values[..., 1::2]
    return values[..., 0]


def members(values: Tensor) -> Tensor:
    """Any number of float64: 256 at a time in a tree, the trees' results in order."""
    total = torch.zeros((), dtype=torch.float64)
    for part in values.split(256):
        total = total + tree(part)
    return total


def ordered_sum_of_squares(tensor: Tensor) -> Tensor:
    """The same sum in the order that every engine keeps (csrc/core/chunks.h), so with the same bits; float64.

    Element i of a chunk of 4096 goes to lane i % 256. A lane adds in order: float16 in float32, all else in float64.
    Then trees: over the lanes, over the chunks of a group of 256, and over groups.
    """
    values = tensor.detach().as_strided((tensor.numel(),), (1,))
    values = values.to(torch.float32 if tensor.dtype == torch.float16 else torch.float64)
    values = torch.nn.functional.pad(values, (0, -values.numel() % 4096)).view(-1, 16, 256)
    lanes = torch.zeros_like(values[:, 0])
    for row in values.unbind(1):
        lanes = lanes + row * row
    chunks = tree(lanes.double())
    groups = [tree(group) for group in chunks.split(256)]
    return members(torch.stack(groups)) if chunks.numel() else members(chunks)


def zeros(tensor: Tensor) -> int:
    return int((tensor == 0).sum())


def unscale(tensor: Tensor, inv_scale: float) -> Tensor:
    """One float32 multiplication, one rounding to the tensor's dtype."""
    return (tensor.float() * torch.tensor(inv_scale, dtype=torch.float32)).to(tensor.dtype)


@dataclass(frozen=True)
class Policy:
    growth_factor: float = 2.0
    backoff_factor: float = 0.5
    growth_interval: int = 2000
    hysteresis: int = 1
    min_scale: float = 1.0
    max_scale: float = 2.0**24


@dataclass(frozen=True)
class State:
    scale: float
    clean: int  # clean steps in a row since the last overflow or growth
    credit: int  # overflows left until a back-off
    skipped: int


def advance(state: State, overflowed: bool, policy: Policy) -> State:
    """The loss scale after one iteration; for powers of two, so that Python's floats and float32 agree."""
    if overflowed:
        credit = max(state.credit - 1, 0)
        scale = state.scale
        if credit == 0:
            scale = max(scale * policy.backoff_factor, min(scale, policy.min_scale))
        return State(scale, 0, credit, state.skipped + 1)
    if state.clean + 1 < policy.growth_interval:
        return State(state.scale, state.clean + 1, state.credit, state.skipped)
    scale = min(state.scale * policy.growth_factor, max(state.scale, policy.max_scale))
    return State(scale, 0, policy.hysteresis, state.skipped)
