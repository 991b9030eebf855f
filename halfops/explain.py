"""Which kernels a call ran: halfops.explain(function, *args).

>>> print(halfops.explain(layer, x))
halfops::linear  4096 x 11008 x 4096  float16  NT  256x256x64 bulk, 4 stages, 688 blocks
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from halfops._ops import linear as _linear
from halfops._ops import registry

# torch's own products: what backend="torch" runs, float64, and float32 on a GPU.
_OF_TORCH = ("mm", "addmm", "bmm", "baddbmm", "mv", "addmv", "dot", "linear", "_scaled_mm")
# Of each op of ours two matrices that are multiplied, by their places among its arguments, and what is transposed.
_OPERANDS = {
    "linear": (0, 1, "NT"),
    "linear_dgrad": (0, 1, "NN"),
    "linear_wgrad": (0, 1, "TN"),
    "linear_wgrad_": (1, 2, "TN"),
    "gated_linear": (0, 1, "NT"),
    "gated_linear_dgrad": (0, 2, "NN"),
    "gated_dgrad": (0, 1, "NN"),
    "matmul": (0, 1, "NN"),
}


@dataclass(frozen=True)
class Kernel:
    """A product that ran. `kernel` is the row of the table of policies and its blocks, or the CPU's engine."""

    op: str
    m: int
    n: int
    k: int
    batch: int
    dtype: torch.dtype | None
    layout: str  # of A and B: N as given in rows, T transposed
    kernel: str
    why: str = ""  # what had to be done first, or kept a faster row away

    def __str__(self) -> str:
        sizes = f"{self.m} x {self.n} x {self.k}" + (f", batch {self.batch}" if self.batch != 1 else "")
        dtype = str(self.dtype).removeprefix("torch.") if self.dtype is not None else ""
        line = "  ".join(
            part for part in (self.op, sizes if self.k >= 0 else "", dtype, self.layout, self.kernel) if part
        )
        return f"{line}\n    {self.why}" if self.why else line


@dataclass
class Explanation:
    """What the call returned, and its products in the order in which they ran."""

    result: Any = None
    kernels: list[Kernel] = field(default_factory=list)

    def __str__(self) -> str:
        return "\n".join(map(str, self.kernels)) or "no matrix product ran"


def explain(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Explanation:
    """Calls function(*args, **kwargs) and says which matrix products ran in it, and as which kernels.

    A function, a module, or `lambda: loss.backward()`: backward passes that it starts count too. Products of torch's
    own are named torch::mm and so on, so that none is hidden. What torch.compile has fused into kernels of its own is
    seen as far as it calls ops; threads that `function` starts itself, and replays of CUDA graphs, are not. Raises
    TypeError where `function` cannot be called; what it raises passes through.
    """
    if not callable(function):
        raise TypeError(f"function: got {type(function).__name__}, wanted something to call, as in explain(model, x)")
    explanation = Explanation()
    with _Recorder(explanation.kernels):
        explanation.result = function(*args, **kwargs)
    return explanation


class _Recorder(TorchDispatchMode):
    """Sees every op below autograd; torch hands dispatch modes on to the threads of a backward pass."""

    def __init__(self, kernels: list[Kernel]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.kernels = kernels

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        name = func._schema.name
        space, _, op = name.partition("::")
        if space == "halfops" and op in _OPERANDS:
            self.kernels.append(_of_ours(name, op, args))
        elif space == "aten" and op in _OF_TORCH:
            self.kernels.append(_of_torch(op, args))
        return result


def _of_ours(name: str, op: str, args: tuple[Any, ...]) -> Kernel:
    first, second, layout = _OPERANDS[op]
    a, b = args[first], args[second]
    batch = 1
    if op == "matmul":
        m, n, k = a.shape[-2], b.shape[-1], a.shape[-1]
        batch = torch.broadcast_shapes(a.shape[:-2], b.shape[:-2]).numel()
    elif layout == "TN":
        m, n, k = a.shape[-1], b.shape[-1], a.shape[:-1].numel()
    else:
        m, k = a.shape[:-1].numel(), a.shape[-1]
        n = b.shape[0] if layout == "NT" else b.shape[1]
    kernel = _linear.last_plan() if a.is_cuda else f"cpu, {registry.cpu_variant()}"
    return Kernel(name, m, n, k, batch, a.dtype, layout, kernel or "nothing to do", _why(kernel, {"A": a, "B": b}))


def _of_torch(op: str, args: tuple[Any, ...]) -> Kernel:
    tensors = [arg for arg in args if isinstance(arg, Tensor)][-2:]
    a, b = tensors if len(tensors) == 2 and all(t.dim() >= 2 for t in tensors) else (None, None)
    if a is None or b is None:
        return Kernel(f"torch::{op}", 0, 0, -1, 1, None, "", "torch's own")
    return Kernel(
        f"torch::{op}", a.shape[-2], b.shape[-1], a.shape[-1], a.shape[:-2].numel(), a.dtype, "", "torch's own"
    )


def _why(kernel: str, operands: dict[str, Tensor]) -> str:
    """What an address or a pitch has to do with the choice: copies of 16 bytes, and boxes, want multiples of them."""
    if "," not in kernel or kernel.startswith("cpu"):
        return ""
    told = [f"{side} {said}" for side, t in operands.items() if (said := _misaligned(t))]
    if not told:
        return ""
    done = "is copied to aligned lines first" if "bulk" in kernel or "turns" in kernel else "is read through registers"
    return f"{'; '.join(told)}: it {done}"


def _misaligned(t: Tensor) -> str:
    per = 16 // t.element_size()
    rows = t.flatten(0, -2) if t.dim() > 2 and t.is_contiguous() else t
    if t.data_ptr() % 16 != 0:
        return "begins at no multiple of 16 bytes"
    strides = [s for s, size in zip(rows.stride(), rows.shape, strict=True) if size > 1]
    if strides and min(strides) != 1:
        return "has no neighbouring elements"
    pitches = [s for s in strides if s != 1]
    odd = next((s for s in pitches if s % per != 0), None)
    return "" if odd is None else f"has lines {odd} elements apart, no multiple of {per}"
