"""Which gradients an optimizer has, and what a check of them found: named, with norm and zeros."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.utils.weak import WeakIdKeyDictionary

from halfops._ops.fresh import Source

NamedParameters = torch.nn.Module | Iterable[tuple[str, Tensor]]


class TensorReport(NamedTuple):
    """What the last check saw of one gradient."""

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    nonfinite: bool
    norm: float  # of the unscaled gradient
    numel: int
    zeros: int | None  # exact zeros, None unless the scaler counts them
    source: Source  # "read": seen in a pass over the gradient. "wgrad": left by the kernel that made it


@dataclass(frozen=True)
class Report:
    """The gradients of the last check, in the optimizer's order; str() is a table."""

    tensors: tuple[TensorReport, ...]
    scale: float

    @property
    def overflowed(self) -> tuple[str, ...]:
        """Names of the tensors with an infinite or NaN element."""
        return tuple(t.name for t in self.tensors if t.nonfinite)

    def __str__(self) -> str:
        if not self.tensors:
            return "no gradients have been checked yet"
        total = len(self.tensors)
        lines = [f"{len(self.overflowed)} of {total} gradients overflowed; the loss scale is now {self.scale:g}"]
        width = max(len(t.name) for t in self.tensors)
        spared = any(t.source == "wgrad" for t in self.tensors)
        for t in self.tensors:
            source = f"  {t.source:5}" if spared else ""
            zeros = "" if t.zeros is None else f"  {t.zeros / max(t.numel, 1):7.2%} zeros"
            mark = "  non-finite" if t.nonfinite else ""
            line = f"  {t.name:{width}}  {str(t.dtype)[6:]:8}  norm {t.norm:10.4g}{source}{zeros}{mark}"
            lines.append(line.rstrip())
        return "\n".join(lines)


@dataclass(frozen=True)
class Segment:
    """The gradients that one op call read, or that it need not read."""

    positions: list[int]  # which of the optimizer's parameters, counted through its groups
    dtypes: list[torch.dtype]
    table: Tensor  # float64 [n, 3]: sum of squares, 1 if non-finite, zeros
    source: Source


@dataclass(frozen=True)
class Check:
    """One optimizer's last check, left on the device until a report asks for it."""

    segments: list[Segment]
    scale: Tensor | None  # what the gradients were still multiplied by; None after unscale_
    counted_zeros: bool

    def rows(self, optimizer: Optimizer, known: list[WeakIdKeyDictionary]) -> Iterator[TensorReport]:
        """In the optimizer's order; names from the first of `known` that has the parameter, else the optimizer's."""
        slots = list(named_slots(optimizer, known))
        scale = 1.0 if self.scale is None else self.scale.item()
        found: dict[int, tuple[torch.dtype, list[float], Source]] = {}
        for segment in self.segments:
            figures = segment.table.tolist()
            for position, dtype, numbers in zip(segment.positions, segment.dtypes, figures, strict=True):
                found[position] = dtype, numbers, segment.source
        for position in sorted(found):
            name, parameter = slots[position]
            dtype, (squares, nonfinite, zeros), source = found[position]
            yield TensorReport(
                name=name,
                shape=tuple(parameter.shape),
                dtype=dtype,
                nonfinite=bool(nonfinite),
                norm=math.sqrt(squares) / scale,
                numel=parameter.numel(),
                zeros=int(zeros) if self.counted_zeros else None,
                source=source,
            )


def names_of(named: NamedParameters | None) -> WeakIdKeyDictionary:
    """Parameter -> name, keeping no parameter alive; of a shared parameter's names the first."""
    names = WeakIdKeyDictionary()
    pairs = named.named_parameters() if isinstance(named, torch.nn.Module) else named or ()
    for name, parameter in pairs:
        names.setdefault(parameter, name)
    return names


def named_slots(optimizer: Optimizer, known: list[WeakIdKeyDictionary]) -> Iterator[tuple[str, Tensor]]:
    """The optimizer's parameters through all groups, named by the first of `known` that can, else by the optimizer."""
    for g, group in enumerate(optimizer.param_groups):
        own_names = group.get("param_names")
        for p, parameter in enumerate(group["params"]):
            own_name = own_names[p] if own_names else f"groups[{g}].params[{p}]"
            yield next((names[parameter] for names in known if parameter in names), own_name), parameter


def with_names(message: str, optimizer: Optimizer, positions: list[int], known: list[WeakIdKeyDictionary]) -> str:
    """An op's error about tensors[i] of its list, as one about the gradient of the parameter at positions[i]."""
    names = [name for name, _ in named_slots(optimizer, known)]
    return re.sub(r"tensors\[(\d+)\]", lambda found: f"{names[positions[int(found[1])]]}.grad", message)


def gradients_of(optimizer: Optimizer) -> Iterator[tuple[int, Tensor]]:
    """Position and memory of every gradient there is. Sparse ones are coalesced: the step will see those sums."""
    position = -1
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            position += 1
            gradient = parameter.grad
            if gradient is None:
                continue
            if gradient.is_sparse:
                parameter.grad = gradient = gradient.coalesce()
                gradient = gradient._values()
            yield position, gradient
