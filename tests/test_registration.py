"""The linear room's ops as torch sees them: schemas, fake tensors, autograd, autocast, torch.compile."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from cases import DTYPES, HALVES, as_tuple, bits, layout
from cases.linear import ACTIVATIONS, CASES
from torch._subclasses.fake_tensor import FakeTensorMode

import halfops
import halfops.functional as H
from halfops._ops import pointwise

NEEDS_KERNEL = "linear"

OPS = torch.ops.halfops


def operands(kind: str, dtype: torch.dtype, device: torch.device):
    """x, w, b, residual and friends of one kind: contiguous, transposed, empty, odd."""
    m, n, k = {"contiguous": (8, 16, 8), "transposed": (8, 16, 8), "empty": (0, 3, 4), "odd": (3, 5, 7)}[kind]
    where = {"transposed": "transposed", "odd": "offset"}.get(kind, "plain")

    def t(*shape):
        return layout(torch.randn(shape, device=device).to(dtype), where).requires_grad_()

    return {
        "x": t(m, k), "w": t(n, k), "w2": t(n, k), "dz": t(m, n), "dz2": t(m, n), "dw": t(n, k), "wt": t(k, n),
        "z": t(m, k), "z2": t(m, k), "b": torch.randn(n, device=device).to(dtype).requires_grad_(),
    }  # fmt: skip


CALLS = {
    "linear": lambda t: (OPS.linear, (t["x"], t["w"], t["b"], t["dz"], "gelu", True)),
    "linear-plain": lambda t: (OPS.linear, (t["x"], t["w"], None, None, "none", False)),
    "linear_dgrad": lambda t: (OPS.linear_dgrad, (t["dz"], t["w"], t["z"], "silu", True)),
    "linear_dgrad-plain": lambda t: (OPS.linear_dgrad, (t["dz"], t["w"], None, "none", False)),
    "linear_wgrad": lambda t: (OPS.linear_wgrad, (t["dz"], t["x"], None, True, True, True)),
    "linear_wgrad-accumulate": lambda t: (OPS.linear_wgrad, (t["dz"], t["x"], t["dw"], True, False, False)),
    "linear_wgrad-bias": lambda t: (OPS.linear_wgrad, (t["dz"], t["x"], None, False, True, False)),
    "gated_linear": lambda t: (OPS.gated_linear, (t["x"], t["w"], t["w2"], t["b"], None, "silu", True)),
    "gated_linear-plain": lambda t: (OPS.gated_linear, (t["x"], t["w"], t["w2"], None, t["b"], "gelu", False)),
    "gated_linear_dgrad": lambda t: (OPS.gated_linear_dgrad, (t["dz"], t["dz2"], t["w"], t["w2"])),
    "gated_dgrad": lambda t: (OPS.gated_dgrad, (t["dz"], t["w"], t["z"], t["z2"], "silu", True)),
    "gated_dgrad-plain": lambda t: (OPS.gated_dgrad, (t["dz"], t["w"], t["z"], t["z2"], "gelu", False)),
    "activation": lambda t: (OPS.activation, (t["x"], "gelu_tanh")),
    "activation_backward": lambda t: (OPS.activation_backward, (t["dz"], t["dz2"], "gelu")),
    "gated_activation": lambda t: (OPS.gated_activation, (t["dz"], t["dz2"], "silu")),
    "gated_activation_backward": lambda t: (OPS.gated_activation_backward, (t["dz"], t["dz2"], t["dz2"], "relu")),
    "matmul": lambda t: (OPS.matmul, (t["x"], t["wt"], None, 1.0, 0.0, None)),
    "matmul-c": lambda t: (OPS.matmul, (t["x"], t["wt"], t["dz"], 0.5, 2.0, None)),
}


@pytest.mark.parametrize("kind", ["contiguous", "transposed", "empty", "odd"])
@pytest.mark.parametrize("name", CALLS)
def test_opcheck(name, kind, device):
    op, args = CALLS[name](operands(kind, torch.float16, device))
    torch.library.opcheck(op.default, args)


@pytest.mark.parametrize("want_stats", [True, False])
@pytest.mark.parametrize("kind", ["contiguous", "empty", "odd"])
def test_opcheck_in_place(kind, want_stats, device):
    t = operands(kind, torch.bfloat16, device)
    plain = {name: layout(v.detach(), "plain") for name, v in t.items()}
    torch.library.opcheck(OPS.linear_wgrad_.default, (plain["dw"], plain["dz"], plain["x"], want_stats))


def test_saved_preactivations_carry_no_gradient(device):
    """They are what backward works from; a gradient through them would not reach the input."""
    t = operands("contiguous", torch.float16, device)
    y, z = OPS.linear(t["x"], t["w"], t["b"], None, "gelu", True)
    h, gate, up = OPS.gated_linear(t["x"], t["w"], t["w2"], None, None, "silu", True)
    assert [v.requires_grad for v in (y, z, h, gate, up)] == [True, False, True, False, False]


def test_every_op_is_covered():
    linear_ops = {name.split("::")[1] for name in torch._C._dispatch_get_all_op_names() if name.startswith("halfops::")}
    rooms = ("linear", "gated", "activation", "matmul")
    tried = {name.split("-")[0] for name in CALLS} | {"linear_wgrad_"}
    tried |= {"linear_policies", "linear_force_policy", "linear_last_plan"}  # of no tensors
    assert {name for name in linear_ops if name.startswith(rooms)} == tried


def test_schemas_are_stable():
    """What others may call with torch.ops.halfops: a change here is a change for them."""
    assert str(OPS.linear.default._schema) == (
        "halfops::linear(Tensor input, Tensor weight, Tensor? bias, Tensor? residual, str activation, "
        "bool save_preact) -> (Tensor output, Tensor preact)"
    )
    assert str(OPS.linear_dgrad.default._schema) == (
        "halfops::linear_dgrad(Tensor grad_output, Tensor weight, Tensor? preact, str activation, bool want_bias) "
        "-> (Tensor grad_input, Tensor grad_bias)"
    )
    assert str(OPS.linear_wgrad.default._schema) == (
        "halfops::linear_wgrad(Tensor grad_output, Tensor input, Tensor? accumulate, bool want_weight, "
        "bool want_bias, bool want_stats) -> (Tensor grad_weight, Tensor grad_bias, Tensor stats)"
    )
    assert str(OPS.linear_wgrad_.default._schema) == (
        "halfops::linear_wgrad_(Tensor(a!) grad_weight, Tensor grad_output, Tensor input, bool want_stats) "
        "-> Tensor stats"
    )
    assert str(OPS.gated_linear_dgrad.default._schema) == (
        "halfops::gated_linear_dgrad(Tensor grad_gate, Tensor grad_up, Tensor gate_weight, Tensor up_weight) -> Tensor"
    )
    assert str(OPS.gated_dgrad.default._schema) == (
        "halfops::gated_dgrad(Tensor grad_output, Tensor weight, Tensor gate, Tensor up, str activation, "
        "bool want_bias) -> (Tensor grad_gate, Tensor grad_up, Tensor gate_bias_grad, Tensor up_bias_grad)"
    )
    assert str(OPS.matmul.default._schema) == (
        "halfops::matmul(Tensor input, Tensor other, Tensor? c, float alpha, float beta, ScalarType? out_dtype) "
        "-> Tensor"
    )


@pytest.mark.parametrize("case", CASES, ids=str)
def test_fake_tensors_agree(case, device):
    """Shape, dtype and strides of every case, without data."""
    inputs = case.inputs(torch.float16, device)
    real = as_tuple(case.op(*inputs))
    mode = FakeTensorMode()
    with mode:
        fakes = [mode.from_tensor(i) if isinstance(i, torch.Tensor) else i for i in inputs]
        imagined = as_tuple(case.op(*fakes))
    for a, b in zip(real, imagined, strict=True):
        assert (a.shape, a.dtype, a.stride(), a.device) == (b.shape, b.dtype, b.stride(), b.device)


def test_fake_tensors_refuse_shapes():
    with FakeTensorMode():
        with pytest.raises(RuntimeError, match=r"weight: got \[5, 4\], wanted \[N, K\]"):
            H.linear(torch.empty(2, 3), torch.empty(5, 4))
        with pytest.raises(RuntimeError, match=r"other: got \[5, 4\], wanted \[\*, K, N\]"):
            H.matmul(torch.empty(2, 3), torch.empty(5, 4))


def test_meta_device():
    x, w = (torch.empty(4, 4, device="meta", dtype=torch.float16) for _ in range(2))
    assert H.linear(x, w, activation="gelu").shape == (4, 4)
    assert halfops.nn.MLP(4, 8, 4, device="meta")(torch.empty(2, 4, device="meta")).device.type == "meta"


# ---- torch.compile --------------------------------------------------------------------------------------------------


def block(x, w, w2, b, residual):
    y = H.linear(x, w, b, activation="gelu")
    y = H.mlp(y, w, b, w2, None, activation="silu", residual=y) + residual
    y = H.gated_mlp(y, w, w2, w, activation="relu") + H.gated_linear(x, w2, w)
    return H.matmul(y, w2.mT, alpha=0.5)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_compile_full_graph(dtype, device):
    """One graph, no breaks; same bits as eager, forward and backward."""
    torch._dynamo.reset()
    t = [
        (torch.randn(s, device=device) * 0.3).to(dtype).requires_grad_() for s in [(6, 8), (8, 8), (8, 8), (8,), (6, 8)]
    ]
    compiled = torch.compile(block, fullgraph=True, backend="aot_eager")
    eager, traced = block(*t), compiled(*t)
    assert torch.equal(bits(eager), bits(traced))
    grad = torch.randn_like(eager)
    for a, b in zip(torch.autograd.grad(eager, t, grad), torch.autograd.grad(traced, t, grad), strict=True):
        assert torch.equal(bits(a), bits(b))


def test_compile_dynamic_batch(device):
    """A second batch size makes the graph dynamic, not wrong."""
    torch._dynamo.reset()
    w, b = torch.randn(5, 7, device=device).half().requires_grad_(), torch.randn(5, device=device).half()
    f = torch.compile(lambda x: H.linear(x, w, b, activation="gelu"), fullgraph=True, backend="aot_eager", dynamic=True)
    for m in (3, 4, 9):
        x = torch.randn(2, m, 7, device=device).half()
        assert torch.equal(bits(f(x)), bits(H.linear(x, w, b, activation="gelu")))


def test_compile_modules_under_autocast(device):
    torch._dynamo.reset()
    model = torch.nn.Sequential(halfops.nn.Linear(8, 16, activation="gelu"), halfops.nn.MLP(16, 32, 16)).to(device)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    x = torch.randn(4, 8, device=device)
    with torch.autocast(device.type, dtype=torch.bfloat16):
        eager, traced = model(x), compiled(x)
    assert traced.dtype == torch.bfloat16
    assert torch.equal(bits(eager), bits(traced))


# ---- autocast -------------------------------------------------------------------------------------------------------


def autocast_calls():
    return {
        "linear": lambda x, w, b: H.linear(x, w, b, activation="gelu", residual=x),
        "gated_linear": lambda x, w, b: H.gated_linear(x, w, w, b),
        "mlp": lambda x, w, b: H.mlp(x, w, b, w, b, residual=x),
        "gated_mlp": lambda x, w, b: H.gated_mlp(x, w, w, w, b, residual=x),
        "matmul": lambda x, w, b: H.matmul(x, w),
    }


@pytest.mark.parametrize("active", HALVES, ids=str)
@pytest.mark.parametrize("name", autocast_calls())
def test_autocast(name, active, device):
    """float32 and mixed operands are cast to the active dtype; gradients come back in each operand's own."""
    call = autocast_calls()[name]
    x, w, b = (torch.randn(s, device=device) for s in [(8, 8), (8, 8), (8,)])
    other = HALVES[1 - HALVES.index(active)]
    wanted = call(*(t.to(active) for t in (x, w, b)))
    for mix in [(x, w, b), (x.to(active), w, b)]:
        leaves = [t.clone().requires_grad_() for t in mix]
        with torch.autocast(device.type, dtype=active):
            y = call(*leaves)
        assert y.dtype == active
        assert torch.equal(bits(y), bits(wanted))
        y.float().sum().backward()
        assert [t.grad.dtype for t in leaves if t.grad is not None] == [t.dtype for t in leaves if t.grad is not None]
        assert leaves[1].grad is not None
    with torch.autocast(device.type, dtype=active):
        assert call(x.to(other), w, b).dtype == active
        with torch.autocast(device.type, enabled=False):
            assert call(x, w, b).dtype == torch.float32


def test_autocast_leaves_float64_alone(device):
    x, w = torch.randn(3, 4, device=device).double(), torch.randn(5, 4, device=device).double()
    with torch.autocast(device.type, dtype=torch.bfloat16):
        assert H.linear(x, w, activation="gelu").dtype == torch.float64


def test_autocast_does_not_reach_backward(device):
    """A float32 layer keeps float32 gradients even where backward() is called inside of autocast."""
    x, w = torch.randn(6, 5, device=device), torch.randn(4, 5, device=device)
    grads = []
    for inside in (False, True):
        for f in (
            lambda x, w: H.linear(x, w, activation="gelu"),
            lambda x, w: H.mlp(x, w, None, w.mT, None),
            lambda x, w: H.gated_linear(x, w, w),
            lambda x, w: H.matmul(x, w.mT),
        ):
            a, v = x.clone().requires_grad_(), w.clone().requires_grad_()
            y = f(a, v).square().sum()
            with torch.autocast(device.type, dtype=torch.bfloat16, enabled=inside):
                y.backward()
            grads += [a.grad, v.grad]
    half = len(grads) // 2
    assert all(torch.equal(bits(a), bits(b)) for a, b in zip(grads[:half], grads[half:], strict=True))


def test_autocast_skips_backward_and_in_place_ops(device):
    dz, x = torch.randn(6, 5, device=device), torch.randn(6, 4, device=device)
    with torch.autocast(device.type, dtype=torch.bfloat16):
        assert H.linear_wgrad(dz, x)[0].dtype == torch.float32
        assert H.linear_dgrad(dz, torch.randn(5, 4, device=device)).dtype == torch.float32
        target = torch.zeros(5, 4, device=device)
        H.linear_wgrad(dz, x, accumulate_into=target)
    assert torch.equal(bits(target), bits(H.linear_wgrad(dz, x)[0]))


# ---- infinities, NaNs and the tails ---------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("poison", [math.inf, -math.inf, math.nan])
@pytest.mark.parametrize("where", ["x", "w", "b", "r"])
def test_nonfinite_propagates(where, poison, dtype, device):
    """Never a finite number in place of an infinite or undefined one, and the untouched outputs keep their bits."""
    clean = {"x": torch.randn(5, 40), "w": torch.randn(7, 40), "b": torch.randn(7), "r": torch.randn(5, 7)}
    clean = {name: t.to(device, dtype) for name, t in clean.items()}
    dirty = copy.deepcopy(clean)
    dirty[where].view(-1)[3] = poison
    for activation in ("none", "relu"):
        y, before = (H.linear(t["x"], t["w"], t["b"], activation=activation, residual=t["r"]) for t in (dirty, clean))
        exact = {name: t.double() for name, t in dirty.items()}
        z = exact["x"] @ exact["w"].mT + exact["b"]
        wanted = (z if activation == "none" else torch.relu(z)) + exact["r"]
        assert torch.equal(y.isnan(), wanted.isnan())
        assert torch.equal(y.isinf() * y.sign(), wanted.isinf() * wanted.sign())
        touched = (
            exact["x"].abs().sum(-1, keepdim=True) + exact["w"].abs().sum(-1) + exact["b"] + exact["r"]
        ).isfinite()
        assert torch.equal(bits(y)[touched], bits(before)[touched])


def test_overflow_becomes_infinite(device):
    x = torch.full((2, 64), 200.0, device=device, dtype=torch.float16)
    assert H.linear(x, x).isinf().all(), "64 * 200^2 is beyond float16"
    assert H.matmul(x, x.mT, out_dtype=torch.float32).eq(64 * 200.0**2).all(), "accumulated in float32"
    assert H.matmul(x, x.mT, alpha=1 / 64).eq(200.0**2).all(), "alpha is applied before the rounding"


def test_beta_zero_ignores_c(device):
    a = torch.randn(4, 4, device=device).half()
    c = torch.full((4, 4), math.nan, device=device).half()
    assert torch.equal(H.matmul(a, a, c=c), H.matmul(a, a))


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_all_halves_through_each_activation(activation, dtype, device):
    """All 65,536 inputs: correctly rounded or its neighbour, everywhere; NaN stays NaN; limits at the infinities."""
    from bounds import activated, derivative_error, rounded

    from halfops.reference import linear as reference

    z = torch.arange(65536, dtype=torch.int32).to(torch.int16).view(dtype).to(device)
    y = pointwise.activation(z, activation)
    slope = pointwise.activation_backward(torch.ones_like(z), z, activation)
    assert y[z.isnan()].isnan().all()
    finite = z.isfinite()
    exactly = z[finite].double()
    value = reference.activation(exactly, activation)
    error = (y[finite].double() - value).abs()
    over = value.abs() > torch.finfo(dtype).max
    assert ((error <= rounded(value, activated(value, 0.0), dtype)) | over).all()
    d = reference.derivative(exactly, activation)
    assert ((slope[finite].double() - d).abs() <= rounded(d, derivative_error(d), dtype)).all()
    if activation != "none":
        ends, limits = torch.tensor([[math.inf, -math.inf], [math.inf, 0.0]], device=device, dtype=dtype)
        assert torch.equal(pointwise.activation(ends, activation), limits)
        assert pointwise.activation_backward(torch.ones_like(ends), ends, activation).tolist() == [1.0, 0.0]


@pytest.mark.parametrize("variant", OPS.cpu_variants())
def test_subnormal_halves_survive_flush_denormal(variant):
    """torch.set_flush_denormal is about floats: as a float a subnormal half is a normal number, in every engine."""
    OPS.set_cpu_variant(variant)
    halves = torch.arange(1, 1024, dtype=torch.int16).view(torch.float16)
    if not torch.set_flush_denormal(True):
        pytest.skip("this CPU cannot flush subnormals")
    try:
        seen = pointwise.activation(halves, "none")
    finally:
        torch.set_flush_denormal(False)
    assert torch.equal(bits(seen), bits(halves))


@pytest.mark.parametrize("grad_mode", [True, False])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float64], ids=str)
def test_forward_mode_derivatives_are_refused(dtype, grad_mode, device):
    """A tangent that is dropped would be a wrong derivative (zero)."""
    from torch.autograd import forward_ad

    x, w = torch.ones(2, 3, device=device).to(dtype), torch.ones(4, 3, device=device).to(dtype)
    with torch.set_grad_enabled(grad_mode), forward_ad.dual_level():
        plain = H.linear(x, w)
        assert torch.equal(plain, torch.full_like(plain, 3.0))
        with pytest.raises(RuntimeError, match=r"^linear: got .*tangent.*, wanted .*; take"):
            H.linear(forward_ad.make_dual(x, x), w)
    with pytest.raises(RuntimeError, match="tangent"):
        torch.func.jvp(lambda t: H.gated_linear(t, w, w), (x,), (x,))
