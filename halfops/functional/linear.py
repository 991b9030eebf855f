"""Linear layers with everything that surrounds the product fused into it.

Shapes are torch's: input [*, K], weight [N, K], bias [N]; any strides. Sums are taken in float32. Where a formula has
an activation, it sees the *rounded* pre-activation z = round(x w^T + b), which is also what backward sees, so that a
gradient belongs to exactly the value that was computed. A NaN stays a NaN; at an infinity an activation takes its limit
(0 at -inf, where torch's gelu and silu say NaN).

On CPUs the float32 product is torch's own: torch.set_float32_matmul_precision("medium") holds for it too, and on CPUs
with AMX that means products of bfloat16 numbers. Leave it at its default, "highest", where that is too coarse.

On GPUs the kernels are those of 16-bit numbers: float32 goes to torch's own ops there.

fuse_wgrad_accumulation=True, where a function has it, is for gradient accumulation: the kernel of a weight's gradient
adds it straight into the weight's `main_grad` or, without one, into the `.grad` that is there, with one rounding from
the float32 sum. That spares writing the gradient and reading it again. `main_grad` is an attribute that you set, a
tensor of the weight's shape, perhaps in float32; `.grad` is then left alone. It happens in a plain backward pass, for a
weight that is a leaf. Otherwise the gradient is returned as ever, into `.grad` even beside a `main_grad`: the first
time, when there is no `.grad` yet, for a weight that autocast casts, with create_graph=True, torch.autograd.grad or
torch.compile. Hooks on the parameter do not see a gradient that is added this way (a tensor hook gets None), those by
which DistributedDataParallel and sharding reduce gradients included: reduce them yourself after the last backward pass,
or keep to the default. The kernel runs on the stream of the layer's forward pass and takes none of autograd's locks:
use such a weight on one stream, and in one thread's backward pass at a time.

backend="torch", where a function has it, composes torch's own ops instead: same formula, same refusals, torch's
roundings and autograd, nothing fused, so that intermediate results are kept for backward, some in float32. It is a
choice that is made by name, never one that these functions make for you; which kernel ran, halfops.explain says.

Derivatives are taken backwards, to any order; forward-mode ones (torch.func.jvp) are refused.
"""

from __future__ import annotations

from typing import Any, Literal, overload

import torch
from torch import Tensor

from halfops._ops import accumulation, pointwise, torch_backend
from halfops._ops import linear as _ops
from halfops._ops.wiring import autocast_inputs, calm, wants_grad

_ROOMS: dict[str, Any] = {"halfops": _ops, "torch": torch_backend}


def check_backend(backend: str, fuse_wgrad_accumulation: bool = False) -> Any:
    """The module whose calls are meant."""
    if backend not in _ROOMS:
        raise ValueError(f"backend: got {backend!r}, wanted one of {', '.join(_ROOMS)}")
    if fuse_wgrad_accumulation and backend == "torch":
        raise ValueError(
            "fuse_wgrad_accumulation: got True with backend='torch', wanted False there, where torch's own autograd "
            "accumulates; or backend='halfops'"
        )
    return _ROOMS[backend]


def check_activation(activation: str, *, gated: bool = False) -> None:
    known = pointwise.GATED_ACTIVATIONS if gated else pointwise.ACTIVATIONS
    if activation not in known:
        raise ValueError(
            f"activation: got {activation!r}, wanted one of {', '.join(known)}; "
            "apply any other function to the result of linear(...)"
        )


def linear(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    activation: str = "none",
    residual: Tensor | None = None,
    fuse_wgrad_accumulation: bool = False,
    backend: str = "halfops",
) -> Tensor:
    """y = act(x w^T + b) + residual, as one kernel.

    Shapes: input [*, K], weight [N, K], bias [N], residual and result [*, N]; any of the sizes may be 0.
    Dtypes: float16, bfloat16 or float32, the same for all. Under autocast all are cast to the active dtype.
    activation: "none", "relu", "gelu", "gelu_tanh" or "silu".
    Numerics: z = round(x w^T + b) from a float32 sum, y = round(act(z) + residual); without activation
    y = round(x w^T + b + residual). relu'(0) = 0.
    Saved for backward: input (if weight needs a gradient), weight (if input does); with an activation also z, and
    weight and bias, from which a second derivative computes z again.
    fuse_wgrad_accumulation, backend: see the head of this module.
    Raises ValueError for an unknown activation, RuntimeError for shapes, dtypes or devices that do not fit.
    """
    check_activation(activation)
    room = check_backend(backend, fuse_wgrad_accumulation)
    output: Tensor = room.linear(input, weight, bias, residual, activation, fuse_wgrad_accumulation)
    return output


def gated_linear(
    input: Tensor,
    gate_weight: Tensor,
    up_weight: Tensor,
    gate_bias: Tensor | None = None,
    up_bias: Tensor | None = None,
    *,
    activation: str = "silu",
    fuse_wgrad_accumulation: bool = False,
    backend: str = "halfops",
) -> Tensor:
    """y = act(x wg^T + bg) * (x wu^T + bu): SwiGLU ("silu"), GeGLU ("gelu", "gelu_tanh"), ReGLU ("relu").

    Shapes: input [*, K], both weights [N, K], both biases [N], result [*, N]. Dtypes as for `linear`.
    Numerics: both factors' inputs are rounded, then y = round(act(gate) * up). The gradient of input is the sum of two
    products and is rounded once.
    Saved for backward: input (if a weight needs a gradient), the weights and biases, gate and up.
    fuse_wgrad_accumulation, backend: see the head of this module.
    Raises ValueError for an unknown activation, RuntimeError for shapes, dtypes or devices that do not fit.
    """
    check_activation(activation, gated=True)
    room = check_backend(backend, fuse_wgrad_accumulation)
    output: Tensor = room.gated_linear(
        input, gate_weight, up_weight, gate_bias, up_bias, activation, fuse_wgrad_accumulation
    )
    return output


def matmul(
    input: Tensor,
    other: Tensor,
    *,
    alpha: float = 1.0,
    beta: float = 0.0,
    c: Tensor | None = None,
    out_dtype: torch.dtype | None = None,
    backend: str = "halfops",
) -> Tensor:
    """D = alpha (A B) + beta C, rounded once.

    Shapes: input [*, M, K], other [*, K, N]; batch dimensions as in torch.matmul, at least two dimensions each; c has
    the shape of the result. A transposed operand (`a.mT`) is read through its strides, not copied.
    Dtypes: input and other of one of float16, bfloat16, float32; result in `out_dtype` (default: theirs); c in the
    result's dtype or float32. With beta == 0 the content of c is not looked at. Autocast casts input, other.
    Saved for backward: each of input and other, if the other one needs a gradient.
    Raises RuntimeError for shapes, dtypes or devices that do not fit; ValueError for beta without c.
    """
    if c is None and beta != 0:
        raise ValueError(f"c: got None with beta = {beta}, wanted a tensor of the result's shape; or leave beta at 0")
    output: Tensor = check_backend(backend).matmul(input, other, c, float(alpha), float(beta), out_dtype)
    return output


@overload
def linear_dgrad(
    grad_output: Tensor,
    weight: Tensor,
    *,
    preact: Tensor | None = None,
    activation: str = "none",
    bias: Literal[False] = False,
    backend: str = "halfops",
) -> Tensor: ...


@overload
def linear_dgrad(
    grad_output: Tensor,
    weight: Tensor,
    *,
    preact: Tensor | None = None,
    activation: str = "none",
    bias: Literal[True],
    backend: str = "halfops",
) -> tuple[Tensor, Tensor]: ...


def linear_dgrad(
    grad_output: Tensor,
    weight: Tensor,
    *,
    preact: Tensor | None = None,
    activation: str = "none",
    bias: bool = False,
    backend: str = "halfops",
) -> Tensor | tuple[Tensor, Tensor]:
    """dx = (dy w) * act'(preact): the gradient of a linear layer's input, and of the activation before it.

    Shapes: grad_output [*, N], weight [N, K], preact and result [*, K]. preact is the pre-activation of the layer
    *below*, so the result is the gradient of that layer's x w^T + b. With bias=True a pair: dx and its column sums [K],
    which are the gradient of that layer's bias. Dtypes: one of float16, bfloat16, float32.
    Numerics: one rounding from the float32 sum, after the derivative; on CPUs with bfloat16 instructions, bfloat16 is
    rounded before the derivative too. The column sums are those of dx as it is stored.
    Saved for backward: all inputs; differentiable. Not subject to autocast.
    Raises ValueError for an unknown activation or one without preact, RuntimeError for what does not fit.
    """
    check_activation(activation)
    if activation != "none" and preact is None:
        raise ValueError(
            f"preact: got None with activation {activation!r}, wanted the pre-activation whose derivative is meant"
        )
    room = check_backend(backend)
    grad_input, grad_bias = room.linear_dgrad_with_bias(grad_output, weight, preact, activation, want_bias=bias)
    return grad_input if grad_bias is None else (grad_input, grad_bias)


def linear_wgrad(
    grad_output: Tensor,
    input: Tensor,
    *,
    accumulate_into: Tensor | None = None,
    bias: bool = False,
    backend: str = "halfops",
) -> tuple[Tensor, Tensor | None]:
    """dw = dz^T x and, with bias=True, db = column sums of dz: a linear layer's parameter gradients.

    Shapes: grad_output [*, N], input [*, K]; dw [N, K], db [N]. Dtypes: one of float16, bfloat16, float32.
    accumulate_into: a [N, K] tensor (float16, bfloat16, float32) that dw is added to in place, with one rounding from
    the float32 sum; it is then the dw that is returned, and autograd does not record the addition.
    Saved for backward: both inputs (without accumulate_into); differentiable. Not subject to autocast.
    Raises RuntimeError for shapes, dtypes or devices that do not fit.
    """
    room = check_backend(backend)
    if accumulate_into is None:
        grad_weight, grad_bias, _ = room.linear_wgrad(grad_output, input, want_bias=bias)
        return grad_weight, grad_bias
    room.linear_wgrad_(accumulate_into, grad_output, input)
    grad_bias = room.linear_wgrad(grad_output, input, want_weight=False, want_bias=True)[1] if bias else None
    return accumulate_into, grad_bias


def _apply(function: Any, *args: Any) -> Tensor:
    # torch.compile traces a Function only if no tensor comes twice, and residual=input is the usual thing to write.
    apart = [a.view_as(a) if any(a is b for b in args[:i] if b is not None) else a for i, a in enumerate(args)]
    output: Tensor = function.apply(*apart)
    return output


class _MLP(torch.autograd.Function):
    """Keeps x and z only: the hidden activation is computed again when the second layer's weight gradient needs it."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        w1: Tensor,
        b1: Tensor | None,
        w2: Tensor,
        b2: Tensor | None,
        residual: Tensor | None,
        activation: str,
        fuse: bool,
    ) -> Tensor:
        hidden, z = _ops.linear_with_preact(x, w1, b1, activation)
        ctx.activation = activation
        ctx.parameters = [accumulation.parameter_of(weight, fuse) for weight in (w1, w2)]
        ctx.save_for_backward(x, z, w1, b1, w2)
        return _ops.linear(hidden, w2, b2, residual)

    @staticmethod
    @calm
    def backward(ctx: Any, grad: Tensor) -> Any:
        x, z, w1, b1, w2 = ctx.saved_tensors
        need_x, need_w1, need_b1, need_w2, need_b2, need_residual, *_ = ctx.needs_input_grad
        if torch.is_grad_enabled():  # create_graph: the saved z has no history
            z = _ops.linear(x, w1, b1)
        dx = dw1 = db1 = None
        hidden = pointwise.activation(z, ctx.activation) if need_w2 else None
        dw2, db2 = _ops.parameter_grads(grad, hidden, need_w2, need_b2, ctx.parameters[1])
        if need_x or need_w1 or need_b1:
            dz, db1 = _ops.linear_dgrad_with_bias(grad, w2, z, ctx.activation, want_bias=need_b1)
            dw1, _ = _ops.parameter_grads(dz, x, need_w1, False, ctx.parameters[0])
            if need_x:
                dx = _ops.linear_dgrad(dz, w1)
        return dx, dw1, db1, dw2, db2, grad if need_residual else None, None, None


def mlp(
    input: Tensor,
    fc1_weight: Tensor,
    fc1_bias: Tensor | None,
    fc2_weight: Tensor,
    fc2_bias: Tensor | None,
    *,
    activation: str = "gelu",
    residual: Tensor | None = None,
    fuse_wgrad_accumulation: bool = False,
    backend: str = "halfops",
) -> Tensor:
    """y = act(x w1^T + b1) w2^T + b2 + residual: two linear layers as one differentiable function.

    Shapes: input [*, K], fc1_weight [H, K], fc1_bias [H], fc2_weight [N, H], fc2_bias [N], residual and result [*, N].
    Dtypes, activations, numerics and autocast as for `linear`; the result is, bit for bit, that of two calls of it. The
    hidden gradient meets the activation's derivative as `linear_dgrad` says.
    Saved for backward: input, z = x w1^T + b1 [*, H], both weights and fc1_bias. The hidden activation is not kept but
    computed again; the second layer's dgrad applies the activation's derivative and adds up fc1_bias's gradient.
    fuse_wgrad_accumulation, backend: see the head of this module.
    Raises ValueError for an unknown activation, RuntimeError for shapes, dtypes or devices that do not fit.
    """
    check_activation(activation)
    room = check_backend(backend, fuse_wgrad_accumulation)
    tensors = autocast_inputs(input, fc1_weight, fc1_bias, fc2_weight, fc2_bias, residual)
    if room is _ops and wants_grad(*tensors):
        return _apply(_MLP, *tensors, activation, fuse_wgrad_accumulation)
    x, w1, b1, w2, b2, residual = tensors
    output: Tensor = room.linear(room.linear(x, w1, b1, None, activation), w2, b2, residual)
    return output


class _GatedMLP(torch.autograd.Function):
    """Keeps x and the two factors' inputs; the hidden activation is computed again for the last weight gradient."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        gate_weight: Tensor,
        up_weight: Tensor,
        down_weight: Tensor,
        gate_bias: Tensor | None,
        up_bias: Tensor | None,
        down_bias: Tensor | None,
        residual: Tensor | None,
        activation: str,
        fuse: bool,
    ) -> Tensor:
        hidden, gate, up = _ops.gated_linear_with_preact(x, gate_weight, up_weight, gate_bias, up_bias, activation)
        ctx.activation = activation
        ctx.parameters = [accumulation.parameter_of(weight, fuse) for weight in (gate_weight, up_weight, down_weight)]
        ctx.save_for_backward(x, gate, up, gate_weight, up_weight, down_weight, gate_bias, up_bias)
        return _ops.linear(hidden, down_weight, down_bias, residual)

    @staticmethod
    @calm
    def backward(ctx: Any, grad: Tensor) -> Any:
        x, gate, up, gate_weight, up_weight, down_weight, gate_bias, up_bias = ctx.saved_tensors
        need_x, need_gate, need_up, need_down, need_gb, need_ub, need_db, need_residual, *_ = ctx.needs_input_grad
        if torch.is_grad_enabled():  # create_graph: what was saved has no history
            gate, up = _ops.linear(x, gate_weight, gate_bias), _ops.linear(x, up_weight, up_bias)
        dx = dgate_weight = dup_weight = dgb = dub = None
        hidden = pointwise.gated_activation(gate, up, ctx.activation) if need_down else None
        ddown_weight, ddb = _ops.parameter_grads(grad, hidden, need_down, need_db, ctx.parameters[2])
        if need_x or need_gate or need_up or need_gb or need_ub:
            dgate, dup, dgb, dub = _ops.gated_dgrad(
                grad, down_weight, gate, up, ctx.activation, want_bias=need_gb or need_ub
            )
            dx, dgate_weight, dup_weight, _, _ = _ops.gated_linear_grads(
                (need_x, need_gate, need_up, False, False), dgate, dup, x, gate_weight, up_weight, ctx.parameters
            )
        dgb, dub = dgb if need_gb else None, dub if need_ub else None
        return dx, dgate_weight, dup_weight, ddown_weight, dgb, dub, ddb, grad if need_residual else None, None, None


def gated_mlp(
    input: Tensor,
    gate_weight: Tensor,
    up_weight: Tensor,
    down_weight: Tensor,
    gate_bias: Tensor | None = None,
    up_bias: Tensor | None = None,
    down_bias: Tensor | None = None,
    *,
    activation: str = "silu",
    residual: Tensor | None = None,
    fuse_wgrad_accumulation: bool = False,
    backend: str = "halfops",
) -> Tensor:
    """y = (act(x wg^T + bg) * (x wu^T + bu)) wd^T + bd + residual: a transformer's gated block as one function.

    Shapes: input [*, K], gate_weight and up_weight [H, K], down_weight [N, H], their biases [H], [H], [N], residual and
    result [*, N]. Dtypes, activations, numerics and autocast as for `gated_linear` and `linear`. The hidden gradient
    meets the derivatives of both factors before it is rounded; on CPUs with bfloat16 instructions, bfloat16 does after.
    Saved for backward: input, the rounded inputs of both factors, gate and up [*, H], the weights, gate_bias and
    up_bias. The product of the two factors is not kept but computed again; the last layer's dgrad applies both
    derivatives and adds up the gradients of gate_bias and up_bias.
    fuse_wgrad_accumulation, backend: see the head of this module.
    Raises ValueError for an unknown activation, RuntimeError for shapes, dtypes or devices that do not fit.
    """
    check_activation(activation, gated=True)
    room = check_backend(backend, fuse_wgrad_accumulation)
    tensors = autocast_inputs(input, gate_weight, up_weight, down_weight, gate_bias, up_bias, down_bias, residual)
    if room is _ops and wants_grad(*tensors):
        return _apply(_GatedMLP, *tensors, activation, fuse_wgrad_accumulation)
    x, wg, wu, wd, bg, bu, bd, residual = tensors
    output: Tensor = room.linear(room.gated_linear(x, wg, wu, bg, bu, activation), wd, bd, residual)
    return output
