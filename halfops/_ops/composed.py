"""The linear room in torch's own ops: for float64, where there is no kernel of ours, and for backend="torch".

Same signatures and meaning as the ops in csrc/binding/library.cpp. `_ops/linear.py` runs them under the same autograd
formulas as the kernels, so that gradcheck in float64 examines those formulas. Derivatives are written out here (and
differentiable in turn); `halfops.reference` leaves them to torch, so one checks the other.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F


def _wide(t: Tensor) -> Tensor:
    """16-bit numbers in float32, the rest as they are."""
    return t.float() if t.dtype in (torch.float16, torch.bfloat16) else t


def _act(z: Tensor, activation: str) -> Tensor:
    match activation:
        case "none":
            return z
        case "relu":
            return torch.relu(z)
        case "gelu":
            return F.gelu(z)
        case "gelu_tanh":
            return F.gelu(z, approximate="tanh")
        case "silu":
            return F.silu(z)
    raise ValueError(f"activation: got {activation!r}, wanted none, relu, gelu, gelu_tanh or silu")


def _derivative(z: Tensor, activation: str) -> Tensor:
    match activation:
        case "none":
            return torch.ones_like(z)
        case "relu":
            return (z > 0).to(z.dtype)
        case "gelu":
            density = torch.exp(-0.5 * z * z) / math.sqrt(2 * math.pi)
            return 0.5 * (1 + torch.erf(z / math.sqrt(2))) + z * density
        case "gelu_tanh":
            t = torch.tanh(math.sqrt(2 / math.pi) * (z + 0.044715 * z**3))
            return 0.5 * (1 + t) + 0.5 * z * (1 - t * t) * math.sqrt(2 / math.pi) * (1 + 3 * 0.044715 * z * z)
        case "silu":
            s = torch.sigmoid(z)
            return s * (1 + z * (1 - s))
    raise ValueError(f"activation: got {activation!r}, wanted none, relu, gelu, gelu_tanh or silu")


def _rows(t: Tensor) -> Tensor:
    """All leading dimensions as one; spelled out because a dimension of size 0 leaves -1 undecided."""
    return t.reshape(math.prod(t.shape[:-1]), t.shape[-1])


def linear(
    x: Tensor, weight: Tensor, bias: Tensor | None, residual: Tensor | None, activation: str, save_preact: bool
) -> tuple[Tensor, Tensor]:
    z = F.linear(x, weight, bias)
    # torch's activations compute in float32 and round once; what is added to one must come before that.
    y = _act(z, activation) if residual is None else _act(_wide(z), activation) + residual
    # An op returns fresh tensors: without activation and residual y would be z itself.
    return y.to(x.dtype), z.clone() if save_preact else z.new_empty(0)


def _column_sums(t: Tensor, wanted: bool) -> Tensor:
    rows = _rows(t)
    return _wide(rows).sum(0).to(t.dtype) if wanted else t.new_empty(0)


def linear_dgrad(
    grad_output: Tensor, weight: Tensor, preact: Tensor | None, activation: str, want_bias: bool
) -> tuple[Tensor, Tensor]:
    grad = grad_output @ weight
    if preact is not None:
        grad = activation_backward(grad, preact, activation)
    return grad, _column_sums(grad, want_bias)


def _stats(grad: Tensor, wanted: bool) -> Tensor:
    if not wanted:
        return grad.new_empty(0, dtype=torch.float64)
    wide = grad.double()
    total = wide.square().sum()
    return torch.stack([total, (~wide.isfinite()).any().double(), torch.zeros_like(total)])


def linear_wgrad(
    grad_output: Tensor, x: Tensor, accumulate: Tensor | None, want_weight: bool, want_bias: bool, want_stats: bool
) -> tuple[Tensor, Tensor, Tensor]:
    dz, dtype = _rows(grad_output), x.dtype if accumulate is None else accumulate.dtype
    if want_weight:
        grad_weight = matmul(dz.mT, _rows(x), accumulate, 1.0, 0.0 if accumulate is None else 1.0, dtype)
    else:
        grad_weight = dz.new_empty(0, dtype=dtype)
    return grad_weight, _column_sums(dz, want_bias), _stats(grad_weight, want_stats)


def linear_wgrad_(grad_weight: Tensor, grad_output: Tensor, x: Tensor, want_stats: bool) -> Tensor:
    summed, _, stats = linear_wgrad(grad_output, x, grad_weight, True, False, want_stats)
    grad_weight.copy_(summed)
    return stats


def gated_linear(
    x: Tensor,
    gate_weight: Tensor,
    up_weight: Tensor,
    gate_bias: Tensor | None,
    up_bias: Tensor | None,
    activation: str,
    save_preact: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    gate, up = F.linear(x, gate_weight, gate_bias), F.linear(x, up_weight, up_bias)
    y = gated_activation(gate, up, activation)
    return (y, gate, up) if save_preact else (y, gate.new_empty(0), up.new_empty(0))


def gated_linear_dgrad(grad_gate: Tensor, grad_up: Tensor, gate_weight: Tensor, up_weight: Tensor) -> Tensor:
    return (_wide(grad_gate @ gate_weight) + _wide(grad_up @ up_weight)).to(grad_gate.dtype)


def gated_dgrad(
    grad_output: Tensor, weight: Tensor, gate: Tensor, up: Tensor, activation: str, want_bias: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    grad_gate, grad_up = gated_activation_backward(grad_output @ weight, gate, up, activation)
    return grad_gate, grad_up, _column_sums(grad_gate, want_bias), _column_sums(grad_up, want_bias)


def activation(preact: Tensor, activation: str) -> Tensor:
    return _act(_wide(preact), activation).to(preact.dtype, copy=activation == "none")


def activation_backward(grad_output: Tensor, preact: Tensor, activation: str) -> Tensor:
    return (_wide(grad_output) * _derivative(_wide(preact), activation)).to(preact.dtype)


def gated_activation(gate: Tensor, up: Tensor, activation: str) -> Tensor:
    return (_act(_wide(gate), activation) * _wide(up)).to(gate.dtype)


def gated_activation_backward(grad_output: Tensor, gate: Tensor, up: Tensor, activation: str) -> tuple[Tensor, Tensor]:
    grad, g, u = _wide(grad_output), _wide(gate), _wide(up)
    return (grad * u * _derivative(g, activation)).to(gate.dtype), (grad * _act(g, activation)).to(up.dtype)


def matmul(a: Tensor, b: Tensor, c: Tensor | None, alpha: float, beta: float, out_dtype: torch.dtype | None) -> Tensor:
    dtype = out_dtype or a.dtype
    if beta == 0:
        c = None
    if c is None and alpha == 1 and dtype == a.dtype:
        return torch.matmul(a, b)
    # addmm and baddbmm scale and add before they round, but take one dtype only.
    if dtype != a.dtype or (c is not None and c.dtype != dtype):
        wide = torch.promote_types(a.dtype, torch.float32)
        a, b, c = a.to(wide), b.to(wide), None if c is None else c.to(wide)
    batch = torch.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    shape = (*batch, a.shape[-2], b.shape[-1])
    beta, added = (0.0, a.new_empty(())) if c is None else (beta, c)
    if b.dim() == 2:
        rows = _rows(a)
        start = added if c is None else added.reshape(rows.shape[0], b.shape[1])
        product = torch.addmm(start, rows, b, beta=beta, alpha=alpha)
    else:
        count = math.prod(batch)
        left, right, start = (
            t if t.dim() == 0 else t.expand(*batch, *t.shape[-2:]).reshape(count, *t.shape[-2:]) for t in (a, b, added)
        )
        product = torch.baddbmm(start, left, right, beta=beta, alpha=alpha)
    return product.reshape(shape).to(dtype)
