"""Cases: an op, its inputs, what it should give, how far from that it may be. Tests and benchmarks follow from them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

HALVES = (torch.float16, torch.bfloat16)
DTYPES = (*HALVES, torch.float32)


@dataclass(frozen=True)
class Case:
    """`op`, `reference`, `bound` and `peer` take what `inputs(dtype, device)` makes; reference and bound in float64.

    Results are a tensor or a tuple of them; `bound(dtype, *inputs)` gives, for each, the largest error of each element.
    `peer` is the same computation with torch's ops in the same dtype, whose error ours is held against.
    """

    name: str
    inputs: Callable[[torch.dtype, torch.device], tuple[Any, ...]]
    op: Callable[..., Any]
    reference: Callable[..., Any]
    bound: Callable[..., Any]
    peer: Callable[..., Any] | None = None
    dtypes: tuple[torch.dtype, ...] = DTYPES

    def __repr__(self) -> str:
        return self.name


def as_tuple(results: Any) -> tuple[Tensor, ...]:
    return results if isinstance(results, tuple) else (results,)


def exact(value: Any) -> Any:
    """A tensor in float64 (which changes no number), anything else as it is."""
    return value.detach().double() if isinstance(value, Tensor) and value.is_floating_point() else value


def bits(tensor: Tensor) -> Tensor:
    """The stored bits as integers with one NaN, for comparisons that mean bitwise."""
    kind = {2: torch.int16, 4: torch.int32, 8: torch.int64}[tensor.element_size()]
    nan = torch.full_like(tensor, float("nan"))
    return torch.where(tensor.isnan(), nan, tensor).contiguous().view(kind)


LAYOUTS = ("plain", "transposed", "offset", "padded", "strided")


def layout(tensor: Tensor, name: str) -> Tensor:
    """The same numbers elsewhere in memory."""
    match name:
        case "plain":
            return tensor.contiguous()
        case "transposed":
            return tensor.mT.contiguous().mT
        case "offset":  # 2 bytes beside any alignment
            flat = torch.cat([tensor.new_zeros(1), tensor.flatten()])
            return flat[1:].view(tensor.shape)
        case "padded":
            return torch.cat([tensor, tensor.new_zeros(*tensor.shape[:-1], 3)], -1)[..., : tensor.shape[-1]]
        case "strided":
            return tensor.repeat_interleave(2, -1).repeat_interleave(2, -2)[..., ::2, ::2]
    raise ValueError(name)
