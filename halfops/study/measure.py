"""What is counted on a training: bytes a parameter, and updates that changed no bit."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from halfops.study.arms import Setup

MASTER_STATES = ("master_param", "master_remainder")


@dataclass(frozen=True)
class Bytes:
    """Bytes a parameter, summed over the real tensors after a step."""

    weights: float
    gradients: float
    masters: float
    moments: float

    @property
    def total(self) -> float:
        return self.weights + self.gradients + self.masters + self.moments


def bytes_per_parameter(setup: Setup) -> Bytes:
    """Counts parameters, their gradients and every tensor of the optimizer's state (step counts are with the moments).

    Not counted, because they do not outlive a step: activations, and the fp16 copies of weights that autocast makes.
    """
    parameters = list(setup.network.parameters())
    count = sum(p.numel() for p in parameters)
    states = [(name, t) for state in setup.optimizer.state.values() for name, t in state.items() if torch.is_tensor(t)]
    masters = sum(t.nbytes for name, t in states if name in MASTER_STATES)
    return Bytes(
        weights=sum(p.nbytes for p in parameters) / count,
        gradients=sum(p.grad.nbytes for p in parameters if p.grad is not None) / count,
        masters=masters / count,
        moments=(sum(t.nbytes for _, t in states) - masters) / count,
    )


class UnchangedShare:
    """Over sampled steps: the share of weights with a non-zero gradient of which no bit changed.

    `seen` counts the weights that matrix products read (16 bits in every fp16 arm, autocast's copies included), `kept`
    those that updates accumulate in (the master, where there is one). A master works if `kept` stays near zero while
    `seen` does not: then small updates are not lost but saved up.
    """

    def __init__(self) -> None:
        self._updates = 0
        self._seen = 0
        self._kept = 0
        self._before: tuple[list[Tensor], list[Tensor]] = ([], [])

    def before_step(self, setup: Setup) -> None:
        self._before = (_copies(setup.seen_weights()), _copies(setup.kept_weights()))

    def after_step(self, setup: Setup) -> None:
        """Compares with `before_step`; the step's gradients must still be there. Not for a step that was skipped."""
        moved = [_nonzero(p.grad, p) for p in setup.network.parameters()]
        self._updates += sum(int(mask.sum()) for mask in moved)
        self._seen += _count_same(self._before[0], setup.seen_weights(), moved)
        self._kept += _count_same(self._before[1], setup.kept_weights(), moved)

    @property
    def seen(self) -> float:
        return self._seen / self._updates if self._updates else math.nan

    @property
    def kept(self) -> float:
        return self._kept / self._updates if self._updates else math.nan


def _copies(tensors: Sequence[Tensor]) -> list[Tensor]:
    return [t.detach().clone() for t in tensors]


def _nonzero(gradient: Tensor | None, parameter: Tensor) -> Tensor:
    return torch.zeros_like(parameter, dtype=torch.bool) if gradient is None else gradient != 0


def _count_same(before: Sequence[Tensor], after: Sequence[Tensor], where: Sequence[Tensor]) -> int:
    same = (_bits(a) == _bits(b) for a, b in zip(before, after, strict=True))
    return sum(int((s & mask).sum()) for s, mask in zip(same, where, strict=True))


def _bits(t: Tensor) -> Tensor:
    return t.contiguous().view({2: torch.int16, 4: torch.int32, 8: torch.int64}[t.element_size()])


@dataclass(frozen=True)
class Spread:
    """A figure over seeds: mean, sample standard deviation (0 for one seed), least and greatest."""

    mean: float
    deviation: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        deviation = statistics.stdev(values) if len(values) > 1 and all(map(math.isfinite, values)) else 0.0
        mean = math.fsum(values) / len(values) if all(map(math.isfinite, values)) else math.nan
        return cls(mean, deviation, min(values), max(values))
