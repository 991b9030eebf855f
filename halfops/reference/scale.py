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
