"""The linear room's gradients: formulas in float64, accuracy in half precision, what is computed and what is kept."""

from __future__ import annotations

import pytest
import torch
from bounds import UNIT, dot, rounded
from cases import DTYPES, bits
from cases.linear import ACTIVATIONS, GATED, torch_activation
from torch.autograd import gradcheck, gradgradcheck
from torch.nn import functional as F

import halfops.functional as H
from halfops._ops import fresh, pointwise
from halfops._ops import linear as ops
from halfops.reference import linear as reference

NEEDS_KERNEL = "linear"


def leaf(*shape, dtype=torch.float64, device="cpu", scale=1.0):
    return (torch.randn(shape, device=device) * scale).to(dtype).requires_grad_()


def joined(grads, sums):
    """Results and their column sums, and something that both have a part in."""
    return *grads, *sums, *(g * s for g, s in zip(grads, sums, strict=True))


def dgrad_with_bias(g, w, z, a):
    grad, sums = H.linear_dgrad(g, w, preact=z, activation=a, bias=True)
    return joined((grad,), (sums,))


def gated_dgrad_with_bias(*t):
    found = ops.gated_dgrad(*t, want_bias=True)
    return joined(found[:2], found[2:])


def functions():
    """name, function of tensors only, shapes."""
    for a in ACTIVATIONS:
        yield f"linear-{a}", lambda x, w, b, r, a=a: H.linear(x, w, b, activation=a, residual=r), "mk nk n mn"
        yield f"mlp-{a}", lambda *t, a=a: H.mlp(*t[:-1], activation=a, residual=t[-1]), "mk nk n hn h mh"
        yield f"dgrad-{a}", lambda g, w, z, a=a: H.linear_dgrad(g, w, preact=z, activation=a), "mn nk mk"
        yield f"dgrad-bias-{a}", lambda g, w, z, a=a: dgrad_with_bias(g, w, z, a), "mn nk mk"
        yield f"activation-{a}", lambda z, a=a: pointwise.activation(z, a), "mn"
        yield f"activation_backward-{a}", lambda g, z, a=a: pointwise.activation_backward(g, z, a), "mn mn"
    for a in GATED:
        yield f"gated_linear-{a}", lambda *t, a=a: H.gated_linear(*t, activation=a), "mk nk nk n n"
        yield (
            f"gated_mlp-{a}",
            lambda *t, a=a: H.gated_mlp(*t[:-1], activation=a, residual=t[-1]),
            ("mk nk nk hn n n h mh"),
        )
        yield f"gated_dgrad-{a}", lambda *t, a=a: ops.gated_dgrad(*t, a)[:2], "mn nk mk mk"
        yield f"gated_dgrad-bias-{a}", lambda *t, a=a: gated_dgrad_with_bias(*t, a), "mn nk mk mk"
        yield f"gated_activation-{a}", lambda g, u, a=a: pointwise.gated_activation(g, u, a), "mn mn"
        yield (
            f"gated_activation_backward-{a}",
            lambda d, g, u, a=a: pointwise.gated_activation_backward(d, g, u, a),
            ("mn mn mn"),
        )
    yield "linear-batched", lambda x, w, b: H.linear(x, w, b, activation="gelu"), "bmk nk n"
    yield "wgrad", lambda g, x: H.linear_wgrad(g, x, bias=True), "mn mk"
    yield "wgrad-accumulate", lambda g, x, c: ops.linear_wgrad(g, x, c)[0], "mn mk nk"
    yield "gated_linear_dgrad", ops.gated_linear_dgrad, "mn mn nk nk"
    yield "matmul", lambda a, b, c: H.matmul(a, b, c=c, alpha=0.5, beta=-2.0), "mk kn mn"
    yield "matmul-batched", H.matmul, "bmk bkn"
    yield "matmul-left", H.matmul, "bmk kn"
    yield "matmul-right", H.matmul, "mk bkn"
    yield "matmul-broadcast", H.matmul, "1bmk h1kn"


SIZES = {"m": 3, "n": 2, "k": 4, "h": 3, "b": 2, "1": 1}
FUNCTIONS = list(functions())


def arguments(shapes, **kwargs):
    return tuple(leaf(*(SIZES[s] for s in shape), **kwargs) for shape in shapes.split())


@pytest.mark.parametrize(("function", "shapes"), [pytest.param(f, s, id=n) for n, f, s in FUNCTIONS])
def test_formulas_in_float64(function, shapes):
    """First and second derivatives against finite differences, through the same formulas that the kernels run under."""
    inputs = arguments(shapes)
    assert gradcheck(function, inputs)
    assert gradgradcheck(function, inputs)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("function", "shapes"), [pytest.param(f, s, id=n) for n, f, s in FUNCTIONS])
def test_second_derivatives_exist(function, shapes, dtype, device):
    """In half precision too: near those in float64, and of every input's dtype."""
    narrow = arguments(shapes, dtype=dtype, device=device, scale=0.5)
    wide = tuple(t.detach().double().requires_grad_() for t in narrow)

    def curvature(inputs):
        outputs = function(*inputs)
        total = sum(o.double().square().sum() for o in (outputs if isinstance(outputs, tuple) else (outputs,)))
        first = torch.autograd.grad(total, inputs, create_graph=True, allow_unused=True)
        total = sum(g.double().square().sum() for g in first if g is not None)
        return torch.autograd.grad(total, inputs, allow_unused=True)

    for ours, exactly, t in zip(curvature(narrow), curvature(wide), narrow, strict=True):
        assert (ours is None) == (exactly is None)
        if ours is not None:
            assert ours.dtype == t.dtype
            assert (ours.double() - exactly).norm() <= 64 * UNIT[dtype] * (1 + exactly.norm())


def torch_mlp(x, w1, b1, w2, b2, a):
    return F.linear(torch_activation(F.linear(x, w1, b1), a), w2, b2)


def torch_gated_mlp(x, wg, wu, wd, bg, bu, bd, a):
    return F.linear(torch_activation(F.linear(x, wg, bg), a) * F.linear(x, wu, bu), wd, bd)


BLOCKS = [
    *(
        pytest.param(
            lambda *t, a=a: H.linear(*t, activation=a),
            lambda *t, a=a: torch_activation(F.linear(*t), a),
            lambda *t, a=a: reference.linear(*t, None, a),
            [(64, 48), (56, 48), (56,)],
            id=f"linear-{a}",
        )
        for a in ACTIVATIONS
    ),
    *(
        pytest.param(
            lambda *t, a=a: H.mlp(*t, activation=a),
            lambda *t, a=a: torch_mlp(*t, a),
            lambda *t, a=a: reference.mlp(*t, None, a),
            [(64, 48), (56, 48), (56,), (40, 56), (40,)],
            id=f"mlp-{a}",
        )
        for a in ACTIVATIONS
    ),
    *(
        pytest.param(
            lambda *t, a=a: H.gated_mlp(*t, activation=a),
            lambda *t, a=a: torch_gated_mlp(*t, a),
            lambda *t, a=a: reference.gated_mlp(*t, None, a),
            [(64, 48), (56, 48), (56, 48), (40, 56), (56,), (56,), (40,)],
            id=f"gated_mlp-{a}",
        )
        for a in GATED
    ),
]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("function", "peer", "exactly", "shapes"), BLOCKS)
def test_accuracy_end_to_end(function, peer, exactly, shapes, dtype, device):
    """Values and gradients of whole layers: at most twice torch's error in the same dtype, plus one rounding."""
    inputs = [leaf(*s, dtype=dtype, device=device, scale=s[-1] ** -0.5 if len(s) == 2 and i else 1)
              for i, s in enumerate(shapes)]  # fmt: skip
    wide = [t.detach().double().requires_grad_() for t in inputs]
    grad = torch.randn(64, shapes[-1][-1] if len(shapes) > 3 else 56, device=device).to(dtype)

    def values_and_grads(f, tensors, g):
        y = f(*tensors)
        return y.detach(), *torch.autograd.grad(y, tensors, g)

    truth = values_and_grads(exactly, wide, grad.double())
    results, peers = values_and_grads(function, inputs, grad), values_and_grads(peer, inputs, grad)
    for ours, theirs, value in zip(results, peers, truth, strict=True):
        assert ours.dtype == dtype
        error, torchs = (ours.double() - value).norm(), (theirs.double() - value).norm()
        assert error <= 2 * torchs + UNIT[dtype] * value.norm()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_backward_uses_the_rounded_preactivation(dtype, device):
    """Gradients are, bit for bit, those of the ops applied to the z that forward rounded."""
    x, w, b = leaf(9, 7, dtype=dtype, device=device), leaf(5, 7, dtype=dtype, device=device), leaf(5, dtype=dtype)
    b = b.detach().to(device).requires_grad_()
    grad = torch.randn(9, 5, device=device).to(dtype)
    dx, dw, db = torch.autograd.grad(H.linear(x, w, b, activation="gelu"), (x, w, b), grad)
    with torch.no_grad():
        z = H.linear(x, w, b)
        dz = pointwise.activation_backward(grad, z, "gelu")
        assert torch.equal(bits(dx), bits(H.linear_dgrad(dz, w)))
        wanted_w, wanted_b = H.linear_wgrad(dz, x, bias=True)
    assert torch.equal(bits(dw), bits(wanted_w))
    assert torch.equal(bits(db), bits(wanted_b))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_mlp_is_two_linears(activation, dtype, device):
    """Same forward bits as two calls; same gradients up to the one rounding that fusing saves."""
    t = [leaf(*s, dtype=dtype, device=device, scale=0.3) for s in [(9, 7), (12, 7), (12,), (5, 12), (5,), (9, 5)]]
    x, w1, b1, w2, b2, r = t
    fused = H.mlp(x, w1, b1, w2, b2, activation=activation, residual=r)
    hidden = H.linear(x, w1, b1, activation=activation)
    plain = H.linear(hidden, w2, b2, residual=r)
    assert torch.equal(bits(fused), bits(plain))
    grad = torch.randn(9, 5, device=device).to(dtype)
    for ours, theirs in zip(torch.autograd.grad(fused, t, grad), torch.autograd.grad(plain, t, grad), strict=True):
        assert (ours - theirs).double().norm() <= 4 * UNIT[dtype] * theirs.double().norm()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_gated_input_gradient_is_rounded_once(dtype, device):
    """dx is a sum of two products: the first must not pass through 16 bits on its way into the second."""
    x, wg, wu = (leaf(*s, dtype=dtype, device=device, scale=0.2) for s in [(9, 65), (33, 65), (33, 65)])
    grad = torch.randn(9, 33, device=device).to(dtype)
    dx = torch.autograd.grad(H.gated_linear(x, wg, wu), x, grad)[0]
    with torch.no_grad():
        dgate, dup = pointwise.gated_activation_backward(grad, H.linear(x, wg), H.linear(x, wu), "silu")
        left, right, wg, wu = (t.double() for t in (dgate, dup, wg, wu))
        wanted, magnitude = left @ wg + right @ wu, left.abs() @ wg.abs() + right.abs() @ wu.abs()
    assert ((dx.double() - wanted).abs() <= rounded(wanted, dot(2 * 33, magnitude), dtype)).all()


def count_calls(monkeypatch, *names):
    calls = []
    for name in names:
        original = getattr(ops, name)

        def counted(*args, _name=name, _original=original, **kwargs):
            calls.append((_name, {k: v for k, v in kwargs.items() if isinstance(v, bool)}))
            return _original(*args, **kwargs)

        monkeypatch.setattr(ops, name, counted)
    return calls


@pytest.mark.parametrize("needed", ["x", "w", "b", "xw", "wb", "xb", "r", "xwbr"])
@pytest.mark.parametrize("function", ["linear", "mlp"])
def test_only_needed_gradients_are_computed(function, needed, device, monkeypatch):
    x, w, b, r, w2 = (torch.randn(s, device=device).half() for s in [(4, 3), (5, 3), (5,), (4, 5), (5, 5)])
    for name, t in zip("xwbr", (x, w, b, r), strict=True):
        t.requires_grad_(name in needed)
    if function == "linear":
        y = H.linear(x, w, b, activation="silu", residual=r)
    else:
        y = H.mlp(x, w, b, w2, None, activation="silu", residual=r)
    calls = count_calls(monkeypatch, "linear_dgrad", "linear_dgrad_with_bias", "linear_wgrad", "linear")
    y.sum().backward()
    assert [n for n, _ in calls].count("linear_dgrad") == ("x" in needed)
    hidden = [{"want_bias": "b" in needed}] if function == "mlp" and needed != "r" else []
    assert [flags for n, flags in calls if n == "linear_dgrad_with_bias"] == hidden
    # The first bias gradient of an mlp is the column sums of what the second layer's dgrad stores.
    wanted = {
        "want_weight": "w" in needed,
        "want_bias": "b" in needed and function == "linear",
        "want_stats": "w" in needed and fresh.wanted(device, torch.float16),
    }
    assert [flags for n, flags in calls if n == "linear_wgrad"] == ([wanted] if any(wanted.values()) else [])
    assert "linear" not in [n for n, _ in calls], "nothing is computed twice"
    for name, t in zip("xwbr", (x, w, b, r), strict=True):
        assert (t.grad is not None) == (name in needed)


@pytest.mark.parametrize("needed", ["x", "g", "u", "b", "v", "d", "gu", "xv", "gb", "xgubvd"])
@pytest.mark.parametrize("function", ["gated_linear", "gated_mlp"])
def test_only_needed_gradients_of_a_gate_are_computed(function, needed, device, monkeypatch):
    shapes = {"x": (4, 3), "g": (5, 3), "u": (5, 3), "d": (2, 5), "b": (5,), "v": (5,)}
    t = {n: torch.randn(s, device=device).half().requires_grad_(n in needed) for n, s in shapes.items()}
    if function == "gated_linear":
        if needed == "d":
            return
        y = H.gated_linear(*(t[n] for n in "xgubv"))
    else:
        y = H.gated_mlp(*(t[n] for n in "xgudbv"))
    calls = count_calls(
        monkeypatch, "gated_dgrad", "gated_linear_dgrad", "linear_dgrad", "linear_wgrad", "linear", "matmul"
    )
    y.sum().backward()
    names = [n for n, _ in calls]
    assert names.count("gated_linear_dgrad") == ("x" in needed)
    outer = function == "gated_mlp"
    biases = bool(set("bv") & set(needed))
    wanted = [{"want_bias": biases}] if outer and needed != "d" else []
    assert [flags for n, flags in calls if n == "gated_dgrad"] == wanted
    pairs = [("d" in needed and outer, False), *(("gu"[i] in needed, "bv"[i] in needed and not outer) for i in (0, 1))]
    flags = [
        {"want_weight": w, "want_bias": b, "want_stats": w and fresh.wanted(device, torch.float16)}
        for w, b in pairs
        if w or b
    ]
    assert [flags for n, flags in calls if n == "linear_wgrad"] == flags
    assert not {"linear", "linear_dgrad", "matmul"} & set(names), "nothing is computed twice"
    for name in shapes:
        assert (t[name].grad is not None) == (name in needed and (outer or name != "d"))


def kept(function):
    """The tensors that a graph keeps, besides the leaves."""
    shapes = []

    def pack(t):
        shapes.append(tuple(t.shape))
        return t

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        function()
    return sorted(shapes)


def test_what_is_kept(device):
    def t(*shape, grad=True):
        return torch.randn(shape, device=device).half().requires_grad_(grad)

    x, w, b, w2, b2 = t(7, 3), t(5, 3), t(5), t(2, 5), t(2)
    frozen = w.detach()
    assert kept(lambda: H.linear(x, w, b)) == [(5, 3), (7, 3)]
    assert kept(lambda: H.linear(x.detach(), w, b)) == [(7, 3)]
    assert kept(lambda: H.linear(x, frozen)) == [(5, 3)]
    assert kept(lambda: H.linear(x, w, b, activation="gelu")) == [(5,), (5, 3), (7, 3), (7, 5)]
    assert kept(lambda: H.linear(x, frozen, activation="gelu")) == [(5, 3), (7, 5)]
    assert kept(lambda: H.linear(x.detach(), frozen, residual=t(7, 5))) == []
    assert kept(lambda: H.mlp(x, w, b, w2, b2)) == [(2, 5), (5,), (5, 3), (7, 3), (7, 5)]
    assert kept(lambda: H.gated_mlp(x, w, t(5, 3), w2)) == [(2, 5), (5, 3), (5, 3), (7, 3), (7, 5), (7, 5)]
    with torch.no_grad():
        assert kept(lambda: H.mlp(x, w, b, w2, b2)) == []


def test_preactivation_is_made_only_for_backward(device, monkeypatch):
    asked = []
    op = ops._linear

    def spy(*args):
        asked.append(args[-1])
        return op(*args)

    monkeypatch.setattr(ops, "_linear", spy)
    x, w = (torch.randn(4, 4, device=device).half() for _ in range(2))
    H.linear(x, w, activation="gelu")
    H.linear(x, w.requires_grad_(), activation="none")
    with torch.no_grad():
        H.linear(x, w, activation="gelu")
    H.linear(x, w, activation="gelu")
    assert asked == [False, False, False, True]


def test_direct_call_without_preactivation(device):
    """torch.ops.halfops.linear(..., save_preact=False) has gradients as well: backward computes z again."""
    x, w, b = (torch.randn(s, device=device).half().requires_grad_() for s in [(6, 4), (3, 4), (3,)])
    direct = torch.ops.halfops.linear(x, w, b, None, "silu", False)[0]
    saved = H.linear(x, w, b, activation="silu")
    grad = torch.randn_like(saved)
    for a, c in zip(torch.autograd.grad(direct, (x, w, b), grad), torch.autograd.grad(saved, (x, w, b), grad),
                    strict=True):  # fmt: skip
        assert torch.equal(bits(a), bits(c))


def test_second_derivative_without_the_input_says_so(device):
    x = torch.randn(4, 4, device=device).half().requires_grad_()
    y = H.linear(x, torch.randn(4, 4, device=device).half(), activation="gelu")
    with pytest.raises(RuntimeError, match=r"linear: got create_graph=True with activation 'gelu' and a frozen weight"):
        torch.autograd.grad(y.sum(), x, create_graph=True)


@pytest.mark.parametrize("into", DTYPES, ids=str)
def test_accumulate_into(into, device):
    """One rounding from the float32 sum, in place, whatever the dtype of the target."""
    dz, x = torch.randn(33, 6, device=device).half(), torch.randn(33, 5, device=device).half()
    start = torch.randn(6, 5, device=device).to(into)
    target = start.clone()
    grad, bias = H.linear_wgrad(dz, x, accumulate_into=target, bias=True)
    assert grad is target
    wanted, wanted_bias = reference.linear_wgrad(dz.double(), x.double(), start.double())
    assert (target.double() - wanted).abs().max() <= UNIT[into] * wanted.abs().max() + 1e-5
    assert (bias.double() - wanted_bias).abs().max() <= UNIT[torch.float16] * wanted_bias.abs().max() + 1e-5


def test_accumulation_is_seen_by_autograd(device):
    """What was saved for a backward pass and then accumulated into is an error there, as after any in-place op."""
    w = torch.zeros(6, 5, device=device).half()
    x = torch.randn(3, 5, device=device).half().requires_grad_()
    y = H.linear(x, w)
    H.linear_wgrad(torch.randn(3, 6, device=device).half(), x.detach(), accumulate_into=w)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


def test_gradient_of_a_wider_c_is_not_rounded_to_the_result(device):
    a, b = torch.ones(2, 3, device=device).half(), torch.ones(3, 2, device=device).half()
    c = torch.ones(2, 2, device=device, requires_grad=True)
    H.matmul(a, b, c=c, beta=3.0).backward(torch.full((2, 2), 30000.0, device=device).half())
    assert torch.equal(c.grad, torch.full_like(c, 90000.0))


def test_expanded_and_transposed_gradients(device):
    """What sum() and a transposing consumer send back: strides 0, and columns first."""
    x, w = (torch.randn(8, 8, device=device).half().requires_grad_() for _ in range(2))
    H.linear(x, w, activation="relu").sum().backward()
    first = x.grad.clone()
    x.grad = None
    H.linear(x, w, activation="relu").backward(torch.ones(8, 8, device=device).half())
    assert torch.equal(bits(first), bits(x.grad))
    g = torch.randn(8, 8, device=device).half()
    one = torch.autograd.grad(H.linear(x, w), (x, w), g)
    other = torch.autograd.grad(H.linear(x, w).mT, (x, w), g.mT)
    assert all(torch.equal(bits(a), bits(b)) for a, b in zip(one, other, strict=True))
