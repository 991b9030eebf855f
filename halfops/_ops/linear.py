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

from halfops._ops import accumulation, composed, fresh, ops
from halfops._ops.pointwise import (
    activation_backward,
    activation_vjp,
    gated_activation_backward,
    gated_activation_vjp,
)
from halfops._ops.wiring import autocast, autocast_inputs, calm, differentiable, dispatched, wants_grad

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
        dw, db = parameter_grads(dz, x, need_weight, need_bias, getattr(ctx, "parameter", None))
    return dx, dw, db, grad if need_residual else None, None, None


_linear = differentiable("linear", _linear_fake, _linear_setup, _linear_backward)


class _AccumulatingLinear(torch.autograd.Function):
    """The same op, which knows its weight as a parameter."""

    @staticmethod
    def forward(*args: Any) -> Any:
        return _linear(*args)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        _linear_setup(ctx, inputs, output)
        ctx.parameter = inputs[1]

    backward = staticmethod(calm(_linear_backward))


def linear(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    residual: Tensor | None = None,
    activation: str = "none",
    fuse_wgrad_accumulation: bool = False,
) -> Tensor:
    save = activation != "none" and wants_grad(x, weight, bias)
    tensors, call = (x, weight, bias, residual), _linear
    if fuse_wgrad_accumulation:
        tensors = autocast_inputs(*tensors)
        if accumulation.parameter_of(tensors[1], True) is not None:
            call = _AccumulatingLinear.apply
    output: Tensor = call(*tensors, activation, save)[0]
    return output


def linear_with_preact(x: Tensor, weight: Tensor, bias: Tensor | None, activation: str) -> tuple[Tensor, Tensor]:
    result: tuple[Tensor, Tensor] = _linear(x, weight, bias, None, activation, True)
    return result


# ---- linear's two gradients -----------------------------------------------------------------------------------------


def _dgrad_fake(
    grad_output: Tensor, weight: Tensor, preact: Tensor | None, activation: str, want_bias: bool
) -> tuple[Tensor, Tensor]:
    columns = weight.shape[1]
    grad = grad_output.new_empty((*grad_output.shape[:-1], columns))
    return grad, grad_output.new_empty((columns,) if want_bias else (0,))


def _dgrad_setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    grad_output, weight, preact, ctx.activation, ctx.want_bias = inputs
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(grad_output, weight, preact)


def _with_sums(grad: Tensor | None, grad_sums: Tensor | None, shape: tuple[int, ...]) -> Tensor | None:
    """The gradient of a result whose column sums were a result as well."""
    if grad is None or grad_sums is None:
        return grad if grad_sums is None else grad_sums.expand(shape)
    return grad + grad_sums


def _dgrad_backward(ctx: Any, grad: Tensor | None, grad_bias: Tensor | None) -> tuple[Any, ...]:
    dz, weight, preact = ctx.saved_tensors
    shape = (*dz.shape[:-1], weight.shape[1])
    grad = _with_sums(grad, grad_bias if ctx.want_bias else None, shape)
    if grad is None:
        return (None,) * 5
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
        None,
    )


_dgrad = differentiable("linear_dgrad", _dgrad_fake, _dgrad_setup, _dgrad_backward)


def linear_dgrad(grad_output: Tensor, weight: Tensor, preact: Tensor | None = None, activation: str = "none") -> Tensor:
    grad: Tensor = _dgrad(grad_output, weight, preact, activation, False)[0]
    return grad


def linear_dgrad_with_bias(
    grad_output: Tensor, weight: Tensor, preact: Tensor | None, activation: str, want_bias: bool = True
) -> tuple[Tensor, Tensor | None]:
    """dx and the column sums of dx as it is stored: the gradient of the bias of the layer below."""
    grad, sums = _dgrad(grad_output, weight, preact, activation, want_bias)
    return grad, sums if want_bias else None


def _wgrad_fake(
    grad_output: Tensor, x: Tensor, accumulate: Tensor | None, want_weight: bool, want_bias: bool, want_stats: bool
) -> tuple[Tensor, Tensor, Tensor]:
    rows, columns = grad_output.shape[-1], x.shape[-1]
    weight_like = grad_output if accumulate is None else accumulate
    return (
        weight_like.new_empty((rows, columns) if want_weight else (0,)),
        grad_output.new_empty((rows,) if want_bias else (0,)),
        _stats_fake(grad_output, want_stats),
    )


def _stats_fake(like: Tensor, want_stats: bool) -> Tensor:
    return like.new_empty((3 if want_stats else 0,), dtype=torch.float64)


def _wgrad_setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    grad_output, x, _, ctx.want_weight, ctx.want_bias, _ = inputs
    ctx.set_materialize_grads(False)
    ctx.mark_non_differentiable(output[2])
    ctx.save_for_backward(grad_output, x)


def _wgrad_backward(
    ctx: Any, grad_weight: Tensor | None, grad_bias: Tensor | None, _: Tensor | None
) -> tuple[Any, ...]:
    dz, x = ctx.saved_tensors
    need_dz, need_x, need_accumulate = ctx.needs_input_grad[:3]
    ddz = dx = None
    if ctx.want_weight and grad_weight is not None:
        grad = grad_weight.to(x.dtype)
        ddz = linear(x, grad) if need_dz else None
        dx = linear_dgrad(dz, grad) if need_x else None
    if ctx.want_bias and grad_bias is not None and need_dz:
        ddz = _with_sums(ddz, grad_bias, dz.shape)
    return ddz, dx, grad_weight if need_accumulate else None, None, None, None


_wgrad = differentiable("linear_wgrad", _wgrad_fake, _wgrad_setup, _wgrad_backward)


def linear_wgrad(
    grad_output: Tensor,
    x: Tensor,
    accumulate: Tensor | None = None,
    want_weight: bool = True,
    want_bias: bool = False,
    want_stats: bool = False,
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """(dw, db, stats of dw); what is not asked for is None. Without want_weight, x matters by its shape only."""
    dw, db, stats = _wgrad(grad_output, x, accumulate, want_weight, want_bias, want_stats)
    return dw if want_weight else None, db if want_bias else None, stats if want_stats else None


def _wgrad_inplace_fake(grad_weight: Tensor, grad_output: Tensor, x: Tensor, want_stats: bool) -> Tensor:
    return _stats_fake(grad_output, want_stats)


_wgrad_inplace = dispatched("linear_wgrad_", _wgrad_inplace_fake, composed.linear_wgrad_, operands=(1, 2))


def linear_wgrad_(grad_weight: Tensor, grad_output: Tensor, x: Tensor, want_stats: bool = False) -> Tensor | None:
    with torch.no_grad():
        stats = _wgrad_inplace(grad_weight, grad_output, x, want_stats)
    torch.autograd.graph.increment_version(grad_weight)
    return stats if want_stats else None


def parameter_grads(
    dz: Tensor, x: Tensor | None, want_weight: bool, want_bias: bool, parameter: Tensor | None = None
) -> tuple[Tensor | None, Tensor | None]:
    """(dw, db) as a backward pass returns them; without want_weight there need not be an x.

    The dw of a `parameter` is added into what accumulates its gradient, if that is possible now; then it is None here.
    """
    want_stats = want_weight and not torch.compiler.is_compiling() and fresh.wanted(dz.device, dz.dtype)
    target = accumulation.target_of(parameter) if want_weight else None
    if target is not None:
        assert x is not None
        stats = linear_wgrad_(target, dz, x, want_stats=want_stats)
        if stats is not None:
            fresh.record(target, stats)
        want_weight = want_stats = False
    if not want_weight and not want_bias:
        return None, None
    dw, db, stats = linear_wgrad(
        dz, dz if x is None else x, want_weight=want_weight, want_bias=want_bias, want_stats=want_stats
    )
    if dw is not None and stats is not None:
        fresh.record(dw, stats)
    return dw, db


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


def _gated_linear_backward(ctx: Any, grad: Tensor | None, *_: Tensor | None) -> tuple[Any, ...]:
    if grad is None:
        return (None,) * 7
    x, gate_weight, up_weight, gate_bias, up_bias, gate, up = ctx.saved_tensors
    gate = _preact_of("gated_linear", x, gate_weight, gate_bias, gate, ctx.activation)
    up = _preact_of("gated_linear", x, up_weight, up_bias, up, ctx.activation)
    dgate, dup = gated_activation_backward(grad, gate, up, ctx.activation)
    parameters = getattr(ctx, "parameters", (None, None))
    grads = gated_linear_grads(ctx.needs_input_grad[:5], dgate, dup, x, gate_weight, up_weight, parameters)
    return *grads, None, None


def gated_linear_grads(
    needs: Sequence[bool],
    dgate: Tensor,
    dup: Tensor,
    x: Tensor | None,
    gate_weight: Tensor,
    up_weight: Tensor,
    parameters: Sequence[Tensor | None],
) -> tuple[Tensor | None, ...]:
    """Gradients of (x, gate_weight, up_weight, gate_bias, up_bias), those that are needed."""
    need_x, need_gate, need_up, need_gate_bias, need_up_bias = needs
    dx = gated_linear_dgrad(dgate, dup, gate_weight, up_weight) if need_x else None
    dgate_weight, dgate_bias = parameter_grads(dgate, x, need_gate, need_gate_bias, parameters[0])
    dup_weight, dup_bias = parameter_grads(dup, x, need_up, need_up_bias, parameters[1])
    return dx, dgate_weight, dup_weight, dgate_bias, dup_bias


_gated_linear = differentiable("gated_linear", _gated_linear_fake, _gated_linear_setup, _gated_linear_backward)


class _AccumulatingGatedLinear(torch.autograd.Function):
    """The same op, which knows its weights as parameters."""

    @staticmethod
    def forward(*args: Any) -> Any:
        return _gated_linear(*args)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
        _gated_linear_setup(ctx, inputs, output)
        ctx.parameters = [accumulation.parameter_of(weight, True) for weight in inputs[1:3]]

    backward = staticmethod(calm(_gated_linear_backward))


def gated_linear(
    x: Tensor,
    gate_weight: Tensor,
    up_weight: Tensor,
    gate_bias: Tensor | None = None,
    up_bias: Tensor | None = None,
    activation: str = "silu",
    fuse_wgrad_accumulation: bool = False,
) -> Tensor:
    save = wants_grad(x, gate_weight, up_weight, gate_bias, up_bias)
    tensors, call = (x, gate_weight, up_weight, gate_bias, up_bias), _gated_linear
    if fuse_wgrad_accumulation:
        tensors = autocast_inputs(*tensors)
        if any(accumulation.parameter_of(weight, True) is not None for weight in tensors[1:3]):
            call = _AccumulatingGatedLinear.apply
    output: Tensor = call(*tensors, activation, save)[0]
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


# ---- gated linear's gradients ---------------------------------------------------------------------------------------


def _gated_linear_dgrad_fake(grad_gate: Tensor, grad_up: Tensor, gate_weight: Tensor, up_weight: Tensor) -> Tensor:
    return grad_gate.new_empty((*grad_gate.shape[:-1], gate_weight.shape[1]))


def _gated_linear_dgrad_setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _gated_linear_dgrad_backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    grad_gate, grad_up, gate_weight, up_weight = ctx.saved_tensors
    need_gate, need_up, need_gate_weight, need_up_weight = ctx.needs_input_grad
    return (
        linear(grad, gate_weight) if need_gate else None,
        linear(grad, up_weight) if need_up else None,
        linear_wgrad(grad_gate, grad)[0] if need_gate_weight else None,
        linear_wgrad(grad_up, grad)[0] if need_up_weight else None,
    )


_gated_linear_dgrad = differentiable(
    "gated_linear_dgrad", _gated_linear_dgrad_fake, _gated_linear_dgrad_setup, _gated_linear_dgrad_backward
)


def gated_linear_dgrad(grad_gate: Tensor, grad_up: Tensor, gate_weight: Tensor, up_weight: Tensor) -> Tensor:
    """grad_gate wg + grad_up wu, rounded once."""
    grad: Tensor = _gated_linear_dgrad(grad_gate, grad_up, gate_weight, up_weight)
    return grad


def _gated_dgrad_fake(
    grad_output: Tensor, weight: Tensor, gate: Tensor, up: Tensor, activation: str, want_bias: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    shape, sums = (*grad_output.shape[:-1], weight.shape[1]), (weight.shape[1],) if want_bias else (0,)
    grad_gate, grad_up = (grad_output.new_empty(shape) for _ in range(2))
    return grad_gate, grad_up, grad_output.new_empty(sums), grad_output.new_empty(sums)


def _gated_dgrad_setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    *tensors, ctx.activation, ctx.want_bias = inputs
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*tensors)


def _gated_dgrad_backward(ctx: Any, *grads: Tensor | None) -> tuple[Any, ...]:
    dy, weight, gate, up = ctx.saved_tensors
    to_gate, to_up = (
        _with_sums(grad, sums if ctx.want_bias else None, gate.shape)
        for grad, sums in zip(grads[:2], grads[2:], strict=True)
    )
    if to_gate is None and to_up is None:
        return (None,) * 6
    need_dy, need_weight = ctx.needs_input_grad[:2]
    dh, dgate, dup = gated_activation_vjp((to_gate, to_up), linear_dgrad(dy, weight), gate, up, ctx.activation)
    return (
        linear(dh, weight) if need_dy else None,
        linear_wgrad(dy, dh)[0] if need_weight else None,
        dgate,
        dup,
        None,
        None,
    )


_gated_dgrad = differentiable("gated_dgrad", _gated_dgrad_fake, _gated_dgrad_setup, _gated_dgrad_backward)


def gated_dgrad(
    grad_output: Tensor, weight: Tensor, gate: Tensor, up: Tensor, activation: str, want_bias: bool = False
) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
    """(dgate, dup, column sums of both): dy w with a gated activation's gradient applied before it is rounded."""
    dgate, dup, gate_sums, up_sums = _gated_dgrad(grad_output, weight, gate, up, activation, want_bias)
    return dgate, dup, gate_sums if want_bias else None, up_sums if want_bias else None


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
