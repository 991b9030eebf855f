"""The linear room in Python: typed calls of its ops, their fake kernels, autograd formulas and autocast rules.

Backward formulas are made of ops that are differentiable themselves, so second derivatives exist: when a graph is
asked for (create_graph=True), the pre-activation is computed again instead of taken from the saved copy, because the
copy has no history.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from halfops._ops import composed, ops
from halfops._ops.pointwise import activation_backward, activation_vjp, gated_activation_backward
from halfops._ops.wiring import autocast, differentiable, dispatched, wants_grad

# ---- linear ---------------------------------------------------------------------------------------------------------


def _linear_shape(x: Tensor, weight: Tensor) -> tuple[int, ...]:
    torch._check(
        weight.dim() == 2 and x.dim() >= 1 and x.shape[-1] == weight.shape[1],
        lambda: f"weight: got {list(weight.shape)}, wanted [N, K] for an input of shape {list(x.shape)} = [*, K]",
    )
    return (*x.shape[:-1], weight.shape[0])


def _linear_fake(
    x: Tensor, weight: Tensor, bias: Tensor | None, residual: Tensor | None, activation: str, save_preact: bool
) -> tuple[Tensor, Tensor]:
    shape = _linear_shape(x, weight)
    return x.new_empty(shape), x.new_empty(shape if save_preact else (0,))


def _linear_setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    x, weight, bias, _, activation, save_preact = inputs
    preact = output[1]
    ctx.set_materialize_grads(False)
    ctx.mark_non_differentiable(preact)
    ctx.activation = activation
    need_x, need_weight, need_bias = ctx.needs_input_grad[:3]
    bent = activation != "none" and (need_x or need_weight or need_bias)
    again = bent and not save_preact
    ctx.save_for_backward(
        x if need_weight or again else None,
        weight if need_x or bent else None,
        bias if bent else None,
        preact if bent and save_preact else None,
    )


def _preact_of(
    name: str, x: Tensor | None, weight: Tensor, bias: Tensor | None, saved: Tensor | None, activation: str
) -> Tensor:
    """The saved pre-activation; or the same numbers again, where it was not saved or where its history matters."""
    if saved is not None and not torch.is_grad_enabled():
        return saved
    if x is None:
        raise RuntimeError(
            f"{name}: got create_graph=True with activation {activation!r} and a frozen weight, for which the input is "
            "not kept; apply the activation outside, or let the weight require a gradient"
        )
    return linear(x, weight, bias, None, "none")


def _linear_backward(ctx: Any, grad: Tensor | None, _: Tensor | None) -> tuple[Any, ...]:
    need_x, need_weight, need_bias, need_residual = ctx.needs_input_grad[:4]
    dx = dw = db = None
    if grad is not None and (need_x or need_weight or need_bias):
        x, weight, bias, preact = ctx.saved_tensors
        dz = grad
        if ctx.activation != "none":
            z = _preact_of("linear", x, weight, bias, preact, ctx.activation)
            dz = activation_backward(grad, z, ctx.activation)
        if need_x:
            dx = linear_dgrad(dz, weight)
        if need_weight or need_bias:
            dw, db = linear_wgrad(dz, dz if x is None else x, want_weight=need_weight, want_bias=need_bias)
    return dx, dw, db, grad if need_residual else None, None, None


_linear = differentiable("linear", _linear_fake, _linear_setup, _linear_backward)


def linear(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, residual: Tensor | None = None, activation: str = "none"
) -> Tensor:
    save = activation != "none" and wants_grad(x, weight, bias)
    output: Tensor = _linear(x, weight, bias, residual, activation, save)[0]
    return output


def linear_with_preact(x: Tensor, weight: Tensor, bias: Tensor | None, activation: str) -> tuple[Tensor, Tensor]:
    result: tuple[Tensor, Tensor] = _linear(x, weight, bias, None, activation, True)
    return result


# ---- linear's two gradients -----------------------------------------------------------------------------------------


def _dgrad_fake(grad_output: Tensor, weight: Tensor, preact: Tensor | None, activation: str) -> Tensor:
    return grad_output.new_empty((*grad_output.shape[:-1], weight.shape[1]))


def _dgrad_setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    grad_output, weight, preact, activation = inputs
    ctx.activation = activation
    ctx.save_for_backward(grad_output, weight, preact)


def _dgrad_backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    dz, weight, preact = ctx.saved_tensors
    need_dz, need_weight, need_preact = ctx.needs_input_grad[:3]
    inner, dpreact = grad, None
    if preact is not None and ctx.activation != "none":
        if need_preact:
            # The gradient of activation_backward(dz w, preact) with respect to preact.
            through = linear_dgrad(dz, weight)
            dpreact = activation_vjp(grad, through, preact, ctx.activation)[1]
        inner = activation_backward(grad, preact, ctx.activation)
    return (
        linear(inner, weight) if need_dz else None,
        linear_wgrad(dz, inner)[0] if need_weight else None,
        dpreact,
        None,
    )


_dgrad = differentiable("linear_dgrad", _dgrad_fake, _dgrad_setup, _dgrad_backward)


def linear_dgrad(grad_output: Tensor, weight: Tensor, preact: Tensor | None = None, activation: str = "none") -> Tensor:
    grad: Tensor = _dgrad(grad_output, weight, preact, activation)
    return grad


def _wgrad_fake(
    grad_output: Tensor, x: Tensor, accumulate: Tensor | None, want_weight: bool, want_bias: bool
) -> tuple[Tensor, Tensor]:
    rows, columns = grad_output.shape[-1], x.shape[-1]
    weight_like = grad_output if accumulate is None else accumulate
    return (
        weight_like.new_empty((rows, columns) if want_weight else (0,)),
        grad_output.new_empty((rows,) if want_bias else (0,)),
    )


def _wgrad_setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    grad_output, x, _, ctx.want_weight, ctx.want_bias = inputs
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(grad_output, x)


def _wgrad_backward(ctx: Any, grad_weight: Tensor | None, grad_bias: Tensor | None) -> tuple[Any, ...]:
    dz, x = ctx.saved_tensors
    need_dz, need_x, need_accumulate = ctx.needs_input_grad[:3]
    ddz = dx = None
    if ctx.want_weight and grad_weight is not None:
        grad = grad_weight.to(x.dtype)
        ddz = linear(x, grad) if need_dz else None
        dx = linear_dgrad(dz, grad) if need_x else None
    if ctx.want_bias and grad_bias is not None and need_dz:
        ddz = grad_bias.expand_as(dz) if ddz is None else ddz + grad_bias
    return ddz, dx, grad_weight if need_accumulate else None, None, None


_wgrad = differentiable("linear_wgrad", _wgrad_fake, _wgrad_setup, _wgrad_backward)


def linear_wgrad(
    grad_output: Tensor,
    x: Tensor,
    accumulate: Tensor | None = None,
    want_weight: bool = True,
    want_bias: bool = False,
) -> tuple[Tensor | None, Tensor | None]:
    """(dw, db); what is not asked for is None. With want_weight False, x is not looked at beyond its shape."""
    dw, db = _wgrad(grad_output, x, accumulate, want_weight, want_bias)
    return dw if want_weight else None, db if want_bias else None


def _wgrad_inplace_fake(grad_weight: Tensor, grad_output: Tensor, x: Tensor) -> None:
    return None


_wgrad_inplace = dispatched("linear_wgrad_", _wgrad_inplace_fake, composed.linear_wgrad_)


def linear_wgrad_(grad_weight: Tensor, grad_output: Tensor, x: Tensor) -> None:
    with torch.no_grad():
        _wgrad_inplace(grad_weight, grad_output, x)
    torch.autograd.graph.increment_version(grad_weight)


# ---- gated linear ---------------------------------------------------------------------------------------------------


def _gated_linear_fake(
    x: Tensor,
    gate_weight: Tensor,
    up_weight: Tensor,
    gate_bias: Tensor | None,
    up_bias: Tensor | None,
    activation: str,
    save_preact: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    shape = _linear_shape(x, gate_weight)
    saved = shape if save_preact else (0,)
    return x.new_empty(shape), x.new_empty(saved), x.new_empty(saved)


def _gated_linear_setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    x, gate_weight, up_weight, gate_bias, up_bias, activation, save_preact = inputs
    _, gate, up = output
    ctx.set_materialize_grads(False)
    ctx.mark_non_differentiable(gate, up)
    ctx.activation = activation
    need_gate, need_up = ctx.needs_input_grad[1:3]
    ctx.save_for_backward(
        x if need_gate or need_up or not save_preact else None,
        gate_weight,
        up_weight,
        gate_bias,
        up_bias,
        gate if save_preact else None,
        up if save_preact else None,
    )


def gated_dgrad(dgate: Tensor, dup: Tensor, gate_weight: Tensor, up_weight: Tensor) -> Tensor:
    """dgate wg + dup wu, rounded once: the first product stays in float32."""
    rows = math.prod(dgate.shape[:-1])
    dgate2, dup2 = dgate.reshape(rows, dgate.shape[-1]), dup.reshape(rows, dup.shape[-1])
    wide = torch.float64 if dgate.dtype is torch.float64 else torch.float32
    first = matmul(dgate2, gate_weight, out_dtype=wide)
    both = matmul(dup2, up_weight, c=first, beta=1.0)
    return both.reshape(*dgate.shape[:-1], gate_weight.shape[1])


def _gated_linear_backward(ctx: Any, grad: Tensor | None, *_: Tensor | None) -> tuple[Any, ...]:
    if grad is None:
        return (None,) * 7
    x, gate_weight, up_weight, gate_bias, up_bias, gate, up = ctx.saved_tensors
    gate = _preact_of("gated_linear", x, gate_weight, gate_bias, gate, ctx.activation)
    up = _preact_of("gated_linear", x, up_weight, up_bias, up, ctx.activation)
    dgate, dup = gated_activation_backward(grad, gate, up, ctx.activation)
    return *gated_linear_grads(ctx.needs_input_grad[:5], dgate, dup, x, gate_weight, up_weight), None, None


def gated_linear_grads(
    needs: Sequence[bool], dgate: Tensor, dup: Tensor, x: Tensor | None, gate_weight: Tensor, up_weight: Tensor
) -> tuple[Tensor | None, ...]:
    """Gradients of (x, gate_weight, up_weight, gate_bias, up_bias), those that are needed."""
    need_x, need_gate, need_up, need_gate_bias, need_up_bias = needs
    dx = gated_dgrad(dgate, dup, gate_weight, up_weight) if need_x else None
    dgate_weight = dup_weight = dgate_bias = dup_bias = None
    if need_gate or need_gate_bias:
        dgate_weight, dgate_bias = linear_wgrad(
            dgate, dgate if x is None else x, want_weight=need_gate, want_bias=need_gate_bias
        )
    if need_up or need_up_bias:
        dup_weight, dup_bias = linear_wgrad(dup, dup if x is None else x, want_weight=need_up, want_bias=need_up_bias)
    return dx, dgate_weight, dup_weight, dgate_bias, dup_bias


_gated_linear = differentiable("gated_linear", _gated_linear_fake, _gated_linear_setup, _gated_linear_backward)


def gated_linear(
    x: Tensor,
    gate_weight: Tensor,
    up_weight: Tensor,
    gate_bias: Tensor | None = None,
    up_bias: Tensor | None = None,
    activation: str = "silu",
) -> Tensor:
    save = wants_grad(x, gate_weight, up_weight, gate_bias, up_bias)
    output: Tensor = _gated_linear(x, gate_weight, up_weight, gate_bias, up_bias, activation, save)[0]
    return output


def gated_linear_with_preact(
    x: Tensor,
    gate_weight: Tensor,
    up_weight: Tensor,
    gate_bias: Tensor | None,
    up_bias: Tensor | None,
    activation: str,
) -> tuple[Tensor, Tensor, Tensor]:
    result: tuple[Tensor, Tensor, Tensor] = _gated_linear(
        x, gate_weight, up_weight, gate_bias, up_bias, activation, True
    )
    return result


# ---- matmul ---------------------------------------------------------------------------------------------------------


def _matmul_fake(
    a: Tensor, b: Tensor, c: Tensor | None, alpha: float, beta: float, out_dtype: torch.dtype | None
) -> Tensor:
    torch._check(
        a.dim() >= 2 and b.dim() >= 2 and a.shape[-1] == b.shape[-2],
        lambda: f"other: got {list(b.shape)}, wanted [*, K, N] for an input of shape {list(a.shape)} = [*, M, K]",
    )
    batch = torch.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    return a.new_empty((*batch, a.shape[-2], b.shape[-1]), dtype=out_dtype or a.dtype)


def _matmul_setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    a, b, c, ctx.alpha, ctx.beta, _ = inputs
    need_a, need_b = ctx.needs_input_grad[:2]
    ctx.c_dtype = None if c is None else c.dtype
    ctx.shapes = a.shape, b.shape
    ctx.save_for_backward(a if need_b else None, b if need_a else None)


def _reduced(left: Tensor, right: Tensor, alpha: float, shape: torch.Size) -> Tensor:
    """alpha left @ right summed over the batch dimensions that `shape` lacks, in float32 until the last rounding."""
    batch = torch.broadcast_shapes(left.shape[:-2], right.shape[:-2])
    if shape[:-2] == batch:
        return matmul(left, right, alpha=alpha)
    wide = torch.float64 if left.dtype is torch.float64 else torch.float32
    return matmul(left, right, alpha=alpha, out_dtype=wide).sum_to_size(shape).to(left.dtype)


def _matmul_backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    a, b = ctx.saved_tensors
    a_shape, b_shape = ctx.shapes
    da = db = dc = None
    if b is not None:
        da = _reduced(grad.to(b.dtype), b.mT, ctx.alpha, a_shape)
    if a is not None and len(b_shape) == 2:
        rows = math.prod(a_shape[:-1])
        flat = grad.to(a.dtype).reshape(rows, grad.shape[-1])
        db = matmul(a.reshape(rows, a_shape[-1]).mT, flat, alpha=ctx.alpha)
    elif a is not None:
        db = _reduced(a.mT, grad.to(a.dtype), ctx.alpha, b_shape)
    if ctx.needs_input_grad[2]:
        dc = grad.to(ctx.c_dtype) * ctx.beta
    return da, db, dc, None, None, None


_matmul = differentiable("matmul", _matmul_fake, _matmul_setup, _matmul_backward)


def matmul(
    a: Tensor,
    b: Tensor,
    c: Tensor | None = None,
    alpha: float = 1.0,
    beta: float = 0.0,
    out_dtype: torch.dtype | None = None,
) -> Tensor:
    output: Tensor = _matmul(a, b, c, alpha, beta, out_dtype)
    return output


autocast("linear", tensors=4)
autocast("gated_linear", tensors=5)
autocast("matmul", tensors=2)  # c may be wider than the output


# ---- the CUDA kernels' table of policies ----------------------------------------------------------------------------


def policies() -> list[str]:
    """The rows' names; none in a build without CUDA kernels."""
    return [str(name) for name in ops.linear_policies()]


def force_policy(name: str, blocks: int = 0) -> None:
    """From now on this thread's products run as this row, on so many blocks (0: as it says); an empty name ends it."""
    ops.linear_force_policy(name, blocks)


def last_plan() -> str:
    """What this thread's last product ran as, such as "128x256x32, 4 stages, 512 blocks"; empty before the first."""
    return str(ops.linear_last_plan())
