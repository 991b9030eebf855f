"""What the linear room computes, in a few lines of eager torch. Meant for float64; gradients are torch's own.

Nothing is rounded in between: pre-activations stay as precise as the inputs. `tests/bounds.py` says how far a rounded
result may lie from these.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def activation(z: Tensor, name: str) -> Tensor:
    match name:
        case "none":
            return z
        case "relu":
            return z.clamp(min=0)
        case "gelu":
            return 0.5 * z * torch.erfc(-z / math.sqrt(2))
        case "gelu_tanh":
            return 0.5 * z * (1 + torch.tanh(math.sqrt(2 / math.pi) * (z + 0.044715 * z**3)))
        case "silu":
            return z * torch.sigmoid(z)
    raise ValueError(name)


def derivative(z: Tensor, name: str) -> Tensor:
    """act'(z); 0 at relu's corner."""
    if name == "relu":
        return (z > 0).to(z.dtype)
    with torch.enable_grad():
        z = z.detach().requires_grad_()
        return torch.autograd.grad(activation(z, name).sum(), z)[0]


def linear(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, residual: Tensor | None = None, name: str = "none"
) -> Tensor:
    z = x @ weight.mT if bias is None else x @ weight.mT + bias
    y = activation(z, name)
    return y if residual is None else y + residual


def linear_dgrad(grad_output: Tensor, weight: Tensor, preact: Tensor | None = None, name: str = "none") -> Tensor:
    grad = grad_output @ weight
    return grad if preact is None else grad * derivative(preact, name)


def linear_wgrad(grad_output: Tensor, x: Tensor, accumulate: Tensor | None = None) -> tuple[Tensor, Tensor]:
    dz, x = grad_output.flatten(0, -2), x.flatten(0, -2)
    grad = dz.mT @ x
    return grad if accumulate is None else grad + accumulate, dz.sum(0)


def gated_activation(gate: Tensor, up: Tensor, name: str) -> Tensor:
    return activation(gate, name) * up


def gated_activation_backward(grad_output: Tensor, gate: Tensor, up: Tensor, name: str) -> tuple[Tensor, Tensor]:
    return grad_output * up * derivative(gate, name), grad_output * activation(gate, name)


def gated_linear(
    x: Tensor,
    gate_weight: Tensor,
    up_weight: Tensor,
    gate_bias: Tensor | None = None,
    up_bias: Tensor | None = None,
    name: str = "silu",
) -> Tensor:
    return gated_activation(linear(x, gate_weight, gate_bias), linear(x, up_weight, up_bias), name)


def gated_linear_dgrad(grad_gate: Tensor, grad_up: Tensor, gate_weight: Tensor, up_weight: Tensor) -> Tensor:
    return grad_gate @ gate_weight + grad_up @ up_weight


def gated_dgrad(
    grad_output: Tensor, weight: Tensor, gate: Tensor, up: Tensor, name: str
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The two factors' gradients, and the column sums of each."""
    grads = gated_activation_backward(grad_output @ weight, gate, up, name)
    return *grads, grads[0].flatten(0, -2).sum(0), grads[1].flatten(0, -2).sum(0)


def mlp(
    x: Tensor,
    fc1_weight: Tensor,
    fc1_bias: Tensor | None,
    fc2_weight: Tensor,
    fc2_bias: Tensor | None,
    residual: Tensor | None = None,
    name: str = "gelu",
) -> Tensor:
    return linear(linear(x, fc1_weight, fc1_bias, None, name), fc2_weight, fc2_bias, residual)


def gated_mlp(
    x: Tensor,
    gate_weight: Tensor,
    up_weight: Tensor,
    down_weight: Tensor,
    gate_bias: Tensor | None = None,
    up_bias: Tensor | None = None,
    down_bias: Tensor | None = None,
    residual: Tensor | None = None,
    name: str = "silu",
) -> Tensor:
    return linear(gated_linear(x, gate_weight, up_weight, gate_bias, up_bias, name), down_weight, down_bias, residual)


def matmul(a: Tensor, b: Tensor, c: Tensor | None = None, alpha: float = 1.0, beta: float = 0.0) -> Tensor:
    product = alpha * torch.matmul(a, b)
    return product if c is None or beta == 0 else product + beta * c
