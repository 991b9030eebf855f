"""The functions of halfops.functional as compositions of torch's own ops: what backend="torch" runs.

The same formulas, shapes and dtypes; autograd is torch's, and so are roundings: every intermediate tensor is stored in
the inputs' dtype, and nothing is fused that torch does not fuse itself.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

BACKENDS = ("halfops", "torch")


def is_torch(backend: str) -> bool:
    """Whether that is what was asked for; ValueError for neither."""
    if backend not in BACKENDS:
        raise ValueError(f"backend: got {backend!r}, wanted one of {', '.join(BACKENDS)}")
    return backend == "torch"


def activate(z: Tensor, activation: str) -> Tensor:
    match activation:
        case "relu":
            return F.relu(z)
        case "gelu":
            return F.gelu(z)
        case "gelu_tanh":
            return F.gelu(z, approximate="tanh")
        case "silu":
            return F.silu(z)
    return z


def linear(input: Tensor, weight: Tensor, bias: Tensor | None, residual: Tensor | None, activation: str) -> Tensor:
    y = activate(F.linear(input, weight, bias), activation)
    return y if residual is None else y + residual


def gated_linear(
    input: Tensor,
    gate_weight: Tensor,
    up_weight: Tensor,
    gate_bias: Tensor | None,
    up_bias: Tensor | None,
    activation: str,
) -> Tensor:
    return activate(F.linear(input, gate_weight, gate_bias), activation) * F.linear(input, up_weight, up_bias)


def matmul(
    input: Tensor, other: Tensor, c: Tensor | None, alpha: float, beta: float, out_dtype: torch.dtype | None
) -> Tensor:
    if out_dtype is not None and out_dtype != input.dtype:
        input, other = input.to(out_dtype), other.to(out_dtype)
    product = torch.matmul(input, other)
    product = product if alpha == 1 else alpha * product
    return product if c is None or beta == 0 else (product + beta * c).to(product.dtype)


def linear_dgrad(grad_output: Tensor, weight: Tensor, preact: Tensor | None, activation: str) -> Tensor:
    grad = torch.matmul(grad_output, weight)
    if preact is None or activation == "none":
        return grad
    with torch.enable_grad():
        z = preact if preact.requires_grad else preact.detach().requires_grad_()
        (grad_input,) = torch.autograd.grad(activate(z, activation), z, grad, create_graph=grad.requires_grad)
    return grad_input


def linear_wgrad(grad_output: Tensor, input: Tensor) -> Tensor:
    return grad_output.flatten(0, -2).mT @ input.flatten(0, -2)
