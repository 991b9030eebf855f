"""The calls of `_ops/linear.py` as compositions of torch's own ops, under torch's own autograd: backend="torch".

Formulas are those of `composed.py`; what does not fit is refused by the ops' own checks, in their words.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from halfops._ops import composed, ops
from halfops._ops.wiring import cast_by_own_rule, under_autocast


def _compose(name: str, *args: Any, operand: int = 0) -> Any:
    """The composition of the op `name`, by its own autocast rule; args[operand] is one of the product's two."""
    first = args[operand]
    if isinstance(first, Tensor) and under_autocast(first):
        return cast_by_own_rule(name, lambda *cast: _compose(name, *cast, operand=operand), args, first)
    # Compositions take float64 too, which the ops do not. While a graph is traced, torch's ops check for themselves.
    is_double = isinstance(first, Tensor) and first.dtype is torch.float64
    if not is_double and not torch.compiler.is_compiling():
        with torch._C._AutoDispatchBelowAutograd():
            getattr(ops, f"check_{name}")(*args)
    return getattr(composed, name)(*args)


def linear(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    residual: Tensor | None = None,
    activation: str = "none",
    fuse_wgrad_accumulation: Literal[False] = False,
) -> Tensor:
    output: Tensor = _compose("linear", x, weight, bias, residual, activation, False)[0]
    return output


def linear_dgrad_with_bias(
    grad_output: Tensor, weight: Tensor, preact: Tensor | None, activation: str, *, want_bias: bool
) -> tuple[Tensor, Tensor | None]:
    grad, sums = _compose("linear_dgrad", grad_output, weight, preact, activation, want_bias)
    return grad, sums if want_bias else None


def linear_wgrad(
    grad_output: Tensor, x: Tensor, *, want_weight: bool = True, want_bias: bool = False
) -> tuple[Tensor | None, Tensor | None, None]:
    dw, db, _ = _compose("linear_wgrad", grad_output, x, None, want_weight, want_bias, False)
    return dw if want_weight else None, db if want_bias else None, None


def linear_wgrad_(grad_weight: Tensor, grad_output: Tensor, x: Tensor) -> None:
    with torch.no_grad():
        _compose("linear_wgrad_", grad_weight, grad_output, x, False, operand=1)


def gated_linear(
    x: Tensor,
    gate_weight: Tensor,
    up_weight: Tensor,
    gate_bias: Tensor | None = None,
    up_bias: Tensor | None = None,
    activation: str = "silu",
    fuse_wgrad_accumulation: Literal[False] = False,
) -> Tensor:
    output: Tensor = _compose("gated_linear", x, gate_weight, up_weight, gate_bias, up_bias, activation, False)[0]
    return output


def matmul(a: Tensor, b: Tensor, c: Tensor | None, alpha: float, beta: float, out_dtype: torch.dtype | None) -> Tensor:
    output: Tensor = _compose("matmul", a, b, c, alpha, beta, out_dtype)
    return output
