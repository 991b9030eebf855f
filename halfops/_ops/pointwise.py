"""The pointwise room in Python: activations, gated activations, and the gradients of both."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from halfops._ops import composed
from halfops._ops.wiring import differentiable, vjp

ACTIVATIONS = ("none", "relu", "gelu", "gelu_tanh", "silu")
GATED_ACTIVATIONS = ("silu", "gelu", "gelu_tanh", "relu")


def _like_fake(preact: Tensor, activation: str) -> Tensor:
    return preact.new_empty(preact.shape)


def _activation_setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    preact, ctx.activation = inputs
    ctx.save_for_backward(preact)


def _activation_backward_of(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    return activation_backward(grad, ctx.saved_tensors[0], ctx.activation), None


_activation = differentiable("activation", _like_fake, _activation_setup, _activation_backward_of)


def activation(preact: Tensor, activation: str) -> Tensor:
    output: Tensor = _activation(preact, activation)
    return output


def _grad_like_fake(grad_output: Tensor, preact: Tensor, activation: str) -> Tensor:
    return preact.new_empty(preact.shape)


def activation_vjp(grad: Tensor, grad_output: Tensor, preact: Tensor, activation: str) -> list[Any]:
    return vjp(lambda g, z: composed.activation_backward(g, z, activation), (grad_output, preact), (grad,))


def _activation_grad_setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    grad_output, preact, ctx.activation = inputs
    ctx.save_for_backward(grad_output, preact)


def _activation_grad_backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    grad_output, preact = ctx.saved_tensors
    return (*activation_vjp(grad, grad_output, preact, ctx.activation), None)


_activation_grad = differentiable(
    "activation_backward", _grad_like_fake, _activation_grad_setup, _activation_grad_backward
)


def activation_backward(grad_output: Tensor, preact: Tensor, activation: str) -> Tensor:
    grad: Tensor = _activation_grad(grad_output, preact, activation)
    return grad


def _gated_like_fake(gate: Tensor, up: Tensor, activation: str) -> Tensor:
    return gate.new_empty(gate.shape)


def _gated_activation_setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    gate, up, ctx.activation = inputs
    ctx.save_for_backward(gate, up)


def _gated_activation_backward_of(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    gate, up = ctx.saved_tensors
    return (*gated_activation_backward(grad, gate, up, ctx.activation), None)


_gated_activation = differentiable(
    "gated_activation", _gated_like_fake, _gated_activation_setup, _gated_activation_backward_of
)


def gated_activation(gate: Tensor, up: Tensor, activation: str) -> Tensor:
    output: Tensor = _gated_activation(gate, up, activation)
    return output


def _gated_grad_fake(grad_output: Tensor, gate: Tensor, up: Tensor, activation: str) -> tuple[Tensor, Tensor]:
    return gate.new_empty(gate.shape), up.new_empty(up.shape)


def _gated_grad_setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    grad_output, gate, up, ctx.activation = inputs
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(grad_output, gate, up)


def gated_activation_vjp(
    grads: tuple[Tensor | None, Tensor | None], grad_output: Tensor, gate: Tensor, up: Tensor, activation: str
) -> list[Any]:
    tensors = (grad_output, gate, up)
    return vjp(lambda g, a, b: composed.gated_activation_backward(g, a, b, activation), tensors, grads)


def _gated_grad_backward(ctx: Any, grad_gate: Tensor | None, grad_up: Tensor | None) -> tuple[Any, ...]:
    grad_output, gate, up = ctx.saved_tensors
    return (*gated_activation_vjp((grad_gate, grad_up), grad_output, gate, up, ctx.activation), None)


_gated_grad = differentiable("gated_activation_backward", _gated_grad_fake, _gated_grad_setup, _gated_grad_backward)


def gated_activation_backward(grad_output: Tensor, gate: Tensor, up: Tensor, activation: str) -> tuple[Tensor, Tensor]:
    grads: tuple[Tensor, Tensor] = _gated_grad(grad_output, gate, up, activation)
    return grads
