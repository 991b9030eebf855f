"""The linear room's cases."""

from __future__ import annotations

import functools

import torch
from bounds import activated, derivative_error, dot, product, rounded
from torch import Tensor
from torch.nn import functional as F

from cases import HALVES, LAYOUTS, Case, layout
from halfops._ops import linear as ops
from halfops._ops import pointwise
from halfops.reference import linear as reference

ACTIVATIONS = pointwise.ACTIVATIONS
GATED = pointwise.GATED_ACTIVATIONS
# (M, N, K) that hurt: nothing, one, primes, one more and one less than a vector or a block, wider than a block.
SIZES = [
    (0, 3, 4), (3, 0, 4), (3, 4, 0), (0, 0, 0), (1, 1, 1), (1, 7, 5), (5, 1, 3), (17, 33, 65), (31, 16, 127),
    (64, 64, 64), (13, 521, 29), (7, 19, 1031),
]  # fmt: skip


def numbers(*shape: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    return torch.randn(shape, device=device).to(dtype)


def torch_activation(z: Tensor, name: str) -> Tensor:
    match name:
        case "relu":
            return torch.relu(z)
        case "gelu":
            return F.gelu(z)
        case "gelu_tanh":
            return F.gelu(z, approximate="tanh")
        case "silu":
            return F.silu(z)
    return z


def _magnitude(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    total = x.abs() @ weight.abs().mT
    return total if bias is None else total + bias.abs()


def _preact_error(dtype: torch.dtype, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return rounded(reference.linear(x, weight, bias), dot(x.shape[-1], _magnitude(x, weight, bias)), dtype)


def linear_bound(dtype, x, weight, bias, residual, name):
    y = reference.linear(x, weight, bias, residual, name)
    if name == "none":
        magnitude = _magnitude(x, weight, bias) + (0 if residual is None else residual.abs())
        return rounded(y, dot(x.shape[-1], magnitude), dtype)
    error = activated(reference.linear(x, weight, bias, None, name), _preact_error(dtype, x, weight, bias))
    if residual is not None:
        error = error + 2.0**-24 * (y.abs() + error)
    return rounded(y, error, dtype)


def _linear(name, size, activation="none", bias=True, residual=False, batch=(), x_layout="plain", w_layout="plain"):
    m, n, k = size

    def inputs(dtype, device):
        make = functools.partial(numbers, dtype=dtype, device=device)
        x, w = layout(make(*batch, m, k), x_layout), layout(make(n, k) / max(k, 1) ** 0.5, w_layout)
        return x, w.to(dtype), make(n) if bias else None, make(*batch, m, n) if residual else None, activation

    def peer(x, w, b, r, activation):
        y = torch_activation(F.linear(x, w, b), activation)
        return y if r is None else y + r

    return Case(f"linear/{name}", inputs, ops.linear, reference.linear, linear_bound, peer)


def linear_cases():
    for size in SIZES:
        yield _linear("x".join(map(str, size)), size, "gelu", residual=True)
    for activation in ACTIVATIONS:
        for bias in (True, False):
            for residual in (True, False):
                extras = ("+bias" if bias else "") + ("+residual" if residual else "")
                yield _linear(f"{activation}{extras}", (23, 37, 41), activation, bias, residual)
    for x_layout in LAYOUTS:
        for w_layout in LAYOUTS:
            yield _linear(f"{x_layout}-{w_layout}", (19, 22, 35), "silu", x_layout=x_layout, w_layout=w_layout)
    yield _linear("batched", (5, 9, 11), "relu", residual=True, batch=(2, 3))
    yield _linear("batched-transposed", (5, 9, 11), "none", batch=(2, 3), x_layout="transposed")
    yield _linear("long", (4, 8, 6000), "none")


def product_error(dtype, dz, weight):
    """Of dz w in float32, before the epilogue."""
    error = dot(dz.shape[-1], dz.abs() @ weight.abs())
    if dtype == torch.bfloat16:  # a CPU's bf16 product comes back rounded, as it does in torch's own two ops
        error = rounded(dz @ weight, error, dtype)
    return error


def dgrad_bound(dtype, dz, weight, preact, name):
    value = reference.linear_dgrad(dz, weight)
    if preact is None or name == "none":
        return rounded(value, dot(dz.shape[-1], dz.abs() @ weight.abs()), dtype)
    slope = reference.derivative(preact, name)
    error = product(value, product_error(dtype, dz, weight), slope, derivative_error(slope))
    return rounded(value * slope, error, dtype)


def sums_bound(dtype, value, bound):
    """The error of the column sums of what is stored for `value`, each element of which is known to `bound`."""
    value, bound = value.flatten(0, -2), bound.flatten(0, -2)
    error = bound.sum(0) + dot(len(value), (value.abs() + bound).sum(0))
    return rounded(value.sum(0), error, dtype)


def with_sums(values):
    return values, values.flatten(0, -2).sum(0)


def _dgrad(name, size, activation="none", batch=(), dz_layout="plain", w_layout="plain"):
    m, n, k = size

    def inputs(dtype, device):
        make = functools.partial(numbers, dtype=dtype, device=device)
        dz, w = layout(make(*batch, m, n), dz_layout), layout(make(n, k), w_layout)
        return dz, w, None if activation == "none" else make(*batch, m, k), activation

    return Case(
        f"linear_dgrad/{name}", inputs, ops.linear_dgrad, reference.linear_dgrad, dgrad_bound,
        (lambda dz, w, preact, activation: dz @ w) if activation == "none" else None,
    )  # fmt: skip


def dgrad_cases():
    for size in SIZES:
        yield _dgrad("x".join(map(str, size)), size, "gelu")
    for activation in ACTIVATIONS:
        yield _dgrad(activation, (23, 37, 41), activation)
    for other in LAYOUTS[1:]:
        yield _dgrad(f"plain-{other}", (19, 22, 35), w_layout=other)
        yield _dgrad(f"{other}-plain", (19, 22, 35), dz_layout=other)
    yield _dgrad("batched", (5, 9, 11), "silu", batch=(2, 3))


def dgrad_bias_bound(dtype, *inputs):
    bound = dgrad_bound(dtype, *inputs)
    return bound, sums_bound(dtype, reference.linear_dgrad(*inputs), bound)


def dgrad_bias_cases():
    """The same problems with the column sums of their results."""
    for case in dgrad_cases():
        yield Case(
            f"linear_dgrad_with_bias/{case.name.split('/')[1]}", case.inputs, ops.linear_dgrad_with_bias,
            lambda *inputs: with_sums(reference.linear_dgrad(*inputs)), dgrad_bias_bound,
        )  # fmt: skip
    make = _dgrad("tall", (3001, 3, 5), "gelu")
    yield Case(
        "linear_dgrad_with_bias/tall", make.inputs, ops.linear_dgrad_with_bias,
        lambda *inputs: with_sums(reference.linear_dgrad(*inputs)), dgrad_bias_bound,
    )  # fmt: skip


def wgrad_bound(dtype, dz, x, accumulate, want_weight, want_bias):
    weight, bias = reference.linear_wgrad(dz, x, accumulate)
    dz, x = dz.flatten(0, -2), x.flatten(0, -2)
    magnitude = dz.abs().mT @ x.abs()
    if accumulate is not None:
        magnitude = magnitude + accumulate.abs()
    return rounded(weight, dot(len(dz), magnitude), dtype), rounded(bias, dot(len(dz), dz.abs().sum(0)), dtype)


def _wgrad(name, size, batch=(), accumulate=False, dz_layout="plain", x_layout="plain"):
    m, n, k = size

    def inputs(dtype, device):
        make = functools.partial(numbers, dtype=dtype, device=device)
        dz, x = layout(make(*batch, m, n), dz_layout), layout(make(*batch, m, k), x_layout)
        return dz, x, make(n, k) if accumulate else None, True, True

    def wanted(dz, x, accumulate, *_):
        return reference.linear_wgrad(dz, x, accumulate)

    def peer(dz, x, accumulate, *_):
        dz, x = dz.flatten(0, -2), x.flatten(0, -2)
        product = dz.mT @ x if accumulate is None else torch.addmm(accumulate, dz.mT, x)
        return product, dz.sum(0)

    return Case(f"linear_wgrad/{name}", inputs, lambda *t: ops.linear_wgrad(*t)[:2], wanted, wgrad_bound, peer)


def wgrad_cases():
    for size in SIZES:
        yield _wgrad("x".join(map(str, size)), size)
    for other in LAYOUTS[1:]:
        yield _wgrad(f"plain-{other}", (19, 22, 35), x_layout=other)
        yield _wgrad(f"{other}-plain", (19, 22, 35), dz_layout=other)
    yield _wgrad("batched", (5, 9, 11), batch=(2, 3))
    yield _wgrad("batched-transposed", (5, 9, 11), batch=(4,), dz_layout="transposed")
    yield _wgrad("accumulate", (23, 37, 41), accumulate=True)
    yield _wgrad("tall", (3001, 5, 3))


def stats_of(grad):
    total = grad.square().sum()
    return torch.stack([total, (~grad.isfinite()).any().double(), torch.zeros_like(total)])


def stats_bound(dtype, *inputs):
    """The squares are those of what is stored; their sum is one in float64, of float16 first 16 in float32 each."""
    value, bound = reference.linear_wgrad(*inputs[:3])[0], wgrad_bound(dtype, *inputs)[0]
    error = (2 * value.abs() * bound + bound.square()).sum() + 2.0**-20 * (value.abs() + bound).square().sum()
    return bound, torch.stack([error, error * 0, error * 0])


def stats_cases():
    for case in wgrad_cases():
        yield Case(
            f"linear_wgrad_stats/{case.name.split('/')[1]}", case.inputs,
            lambda dz, x, accumulate, *_: ops.linear_wgrad(dz, x, accumulate, want_stats=True)[::2],
            lambda *inputs: (grad := reference.linear_wgrad(*inputs[:3])[0], stats_of(grad)), stats_bound,
        )  # fmt: skip


def gated_error(dtype, gate, gate_error, up, up_error, name):
    value = reference.activation(gate, name)
    return rounded(value * up, product(value, activated(value, gate_error), up, up_error), dtype)


def gated_bound(dtype, x, wg, wu, bg, bu, name):
    gate, up = reference.linear(x, wg, bg), reference.linear(x, wu, bu)
    return gated_error(dtype, gate, _preact_error(dtype, x, wg, bg), up, _preact_error(dtype, x, wu, bu), name)


def _gated(name, size, activation="silu", gate_bias=True, up_bias=True, batch=(), x_layout="plain"):
    m, n, k = size

    def inputs(dtype, device):
        make = functools.partial(numbers, dtype=dtype, device=device)
        wg, wu = ((make(n, k) / max(k, 1) ** 0.5).to(dtype) for _ in range(2))
        x = layout(make(*batch, m, k), x_layout)
        return x, wg, wu, make(n) if gate_bias else None, make(n) if up_bias else None, activation

    def peer(x, wg, wu, bg, bu, activation):
        return torch_activation(F.linear(x, wg, bg), activation) * F.linear(x, wu, bu)

    return Case(f"gated_linear/{name}", inputs, ops.gated_linear, reference.gated_linear, gated_bound, peer)


def gated_cases():
    for size in SIZES:
        yield _gated("x".join(map(str, size)), size)
    for activation in GATED:
        yield _gated(activation, (23, 37, 41), activation)
    yield _gated("gate-bias", (9, 8, 7), up_bias=False)
    yield _gated("up-bias", (9, 8, 7), gate_bias=False)
    yield _gated("transposed", (9, 8, 7), x_layout="transposed", gate_bias=False, up_bias=False)
    yield _gated("batched", (5, 9, 11), "gelu", batch=(2, 3))


def gated_linear_dgrad_bound(dtype, dgate, dup, wg, wu):
    magnitude = dgate.abs() @ wg.abs() + dup.abs() @ wu.abs()
    return rounded(reference.gated_linear_dgrad(dgate, dup, wg, wu), dot(2 * dgate.shape[-1], magnitude), dtype)


def _gated_linear_dgrad(name, size, batch=(), layouts=("plain",) * 4):
    m, n, k = size

    def inputs(dtype, device):
        shapes = [(*batch, m, n), (*batch, m, n), (n, k), (n, k)]
        made = [numbers(*shape, dtype=dtype, device=device) for shape in shapes]
        return tuple(layout(t, other) for t, other in zip(made, layouts, strict=True))

    return Case(
        f"gated_linear_dgrad/{name}", inputs, ops.gated_linear_dgrad, reference.gated_linear_dgrad,
        gated_linear_dgrad_bound, lambda dgate, dup, wg, wu: dgate @ wg + dup @ wu,
    )  # fmt: skip


def gated_dgrad_bound(dtype, dy, weight, gate, up, name):
    dh, dh_error = dy @ weight, product_error(dtype, dy, weight)
    slope, value = reference.derivative(gate, name), reference.activation(gate, name)
    to_gate = product(dh * up, product(dh, dh_error, up, 0.0), slope, derivative_error(slope))
    to_up = product(dh, dh_error, value, activated(value, 0.0))
    values = dh * up * slope, dh * value
    bounds = rounded(values[0], to_gate, dtype), rounded(values[1], to_up, dtype)
    return *bounds, *(sums_bound(dtype, v, b) for v, b in zip(values, bounds, strict=True))


def _gated_dgrad(name, size, activation="silu", batch=(), layouts=("plain",) * 4):
    m, n, k = size

    def inputs(dtype, device):
        shapes = [(*batch, m, n), (n, k), (*batch, m, k), (*batch, m, k)]
        made = [numbers(*shape, dtype=dtype, device=device) for shape in shapes]
        return *(layout(t, other) for t, other in zip(made, layouts, strict=True)), activation

    return Case(
        f"gated_dgrad/{name}", inputs, lambda *t: ops.gated_dgrad(*t, want_bias=True), reference.gated_dgrad,
        gated_dgrad_bound,
    )  # fmt: skip


def gated_dgrad_cases():
    for size in SIZES:
        yield _gated_linear_dgrad("x".join(map(str, size)), size)
        yield _gated_dgrad("x".join(map(str, size)), size)
    for activation in GATED:
        yield _gated_dgrad(activation, (23, 37, 41), activation)
    for other in LAYOUTS[1:]:
        for i in range(4):
            layouts = tuple(other if i == j else "plain" for j in range(4))
            yield _gated_linear_dgrad(f"{other}-{i}", (19, 22, 35), layouts=layouts)
            yield _gated_dgrad(f"{other}-{i}", (19, 22, 35), layouts=layouts)
    yield _gated_linear_dgrad("batched", (5, 9, 11), batch=(2, 3))
    yield _gated_dgrad("batched", (5, 9, 11), batch=(2, 3))
    yield _gated_dgrad("tall", (3001, 3, 5), "gelu")


def pointwise_cases():
    """Elementwise ops on numbers from far in one tail to far in the other."""

    def wide(*shape, dtype, device):
        return (torch.randn(shape, device=device) * 4).to(dtype)

    def two(shape, other, name):
        return lambda dtype, device: (
            wide(*shape, dtype=dtype, device=device),
            layout(wide(*shape, dtype=dtype, device=device), other),
            name,
        )

    def one(shape, other, name):
        return lambda dtype, device: two(shape, other, name)(dtype, device)[1:]

    def three(shape, other, name):
        return lambda dtype, device: (wide(*shape, dtype=dtype, device=device), *two(shape, other, name)(dtype, device))

    def forward_bound(dtype, z, name):
        y = reference.activation(z, name)
        return rounded(y, activated(y, 0.0), dtype)

    def backward_bound(dtype, dy, z, name):
        slope = reference.derivative(z, name)
        return rounded(dy * slope, product(dy, 0.0, slope, derivative_error(slope)), dtype)

    def gated_backward_bound(dtype, dy, gate, up, name):
        slope, value = reference.derivative(gate, name), reference.activation(gate, name)
        through = product(dy * up, 2.0**-24 * (dy * up).abs(), slope, derivative_error(slope))
        # Whichever two factors are multiplied first, the third one scales their error.
        through = through + 2.0**-23 * (dy * up * slope).abs()
        return rounded(dy * up * slope, through, dtype), rounded(
            dy * value, product(dy, 0.0, value, activated(value, 0.0)), dtype
        )

    for shape, other in (((1000,), "plain"), ((7, 31), "transposed"), ((0, 5), "plain"), ((3, 5, 17), "strided")):
        size = f"{list(shape)}-{other}"
        for name in ACTIVATIONS:
            yield Case(
                f"activation/{name}{size}", one(shape, other, name), pointwise.activation,
                reference.activation, forward_bound, torch_activation,
            )  # fmt: skip
            yield Case(
                f"activation_backward/{name}{size}", two(shape, other, name), pointwise.activation_backward,
                lambda dy, z, name: dy * reference.derivative(z, name), backward_bound,
            )  # fmt: skip
        for name in GATED:
            yield Case(
                f"gated_activation/{name}{size}", two(shape, other, name), pointwise.gated_activation,
                reference.gated_activation,
                lambda dtype, gate, up, name: gated_error(dtype, gate, 0.0, up, 0.0, name),
                lambda gate, up, name: torch_activation(gate, name) * up,
            )  # fmt: skip
            yield Case(
                f"gated_activation_backward/{name}{size}", three(shape, other, name),
                pointwise.gated_activation_backward, reference.gated_activation_backward, gated_backward_bound,
            )  # fmt: skip


def matmul_bound(dtype, a, b, c, alpha, beta, out_dtype):
    magnitude = abs(alpha) * torch.matmul(a.abs(), b.abs())
    if c is not None:
        magnitude = magnitude + abs(beta) * c.abs()
    value = reference.matmul(a, b, c, alpha, beta)
    return rounded(value, dot(a.shape[-1], magnitude), out_dtype or dtype)


def _matmul(name, a_shape, b_shape, a_layout="plain", b_layout="plain", alpha=1.0, beta=0.0, c=None, out_dtype=None):
    def inputs(dtype, device):
        make = functools.partial(numbers, dtype=dtype, device=device)
        a, b = layout(make(*a_shape), a_layout), layout(make(*b_shape), b_layout)
        shape = (*torch.broadcast_shapes(a_shape[:-2], b_shape[:-2]), a_shape[-2], b_shape[-1])
        added = None if c is None else numbers(*shape, dtype=c if isinstance(c, torch.dtype) else dtype, device=device)
        return a, b, added, alpha, beta, out_dtype

    def peer(a, b, c, alpha, beta, out_dtype):
        return torch.matmul(a, b)

    plain = alpha == 1 and beta == 0 and out_dtype is None
    return Case(
        f"matmul/{name}", inputs, ops.matmul, lambda a, b, c, alpha, beta, _: reference.matmul(a, b, c, alpha, beta),
        matmul_bound, peer if plain else None,
    )  # fmt: skip


def matmul_cases():
    for m, n, k in SIZES:
        yield _matmul(f"{m}x{n}x{k}", (m, k), (k, n))
    for a_layout in LAYOUTS:
        for b_layout in LAYOUTS:
            yield _matmul(f"{a_layout}-{b_layout}", (19, 35), (35, 22), a_layout, b_layout)
    batches = {
        "equal": ((3,), (3,)), "left": ((2, 3), ()), "right": ((), (4,)), "broadcast": ((2, 1), (3,)),
        "empty": ((0,), (0,)), "deep": ((2, 1, 2), (1, 3, 2)),
    }  # fmt: skip
    for name, (left, right) in batches.items():
        yield _matmul(f"batch-{name}", (*left, 5, 7), (*right, 7, 6))
        yield _matmul(f"batch-{name}-tt", (*left, 5, 7), (*right, 7, 6), "transposed", "transposed")
    yield _matmul("alpha", (9, 8), (8, 7), alpha=-0.75)
    yield _matmul("alpha-beta", (9, 8), (8, 7), alpha=2.5, beta=0.5, c="same")
    yield _matmul("beta-wide", (9, 8), (8, 7), beta=-1.0, c=torch.float32)
    yield _matmul("batched-beta", (2, 9, 8), (8, 7), beta=2.0, c="same")
    yield _matmul("accumulate", (3, 9, 8), (3, 8, 7), beta=1.0, c=torch.float32, out_dtype=torch.float32)
    for out in (*HALVES, torch.float32):
        yield _matmul(f"to-{str(out)[6:]}", (9, 65), (65, 7), out_dtype=out)


CASES = [
    *linear_cases(),
    *dgrad_cases(),
    *dgrad_bias_cases(),
    *wgrad_cases(),
    *stats_cases(),
    *gated_cases(),
    *gated_dgrad_cases(),
    *pointwise_cases(),
    *matmul_cases(),
]
