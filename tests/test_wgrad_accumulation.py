"""Weight gradients that their own kernel adds into main_grad or .grad, and the statistics that it leaves behind."""

from __future__ import annotations

import copy
import functools

import pytest
import torch
import torch._dynamo.compiled_autograd
from bounds import UNIT
from cases import DTYPES, bits
from cases.linear import stats_of

import halfops
import halfops.functional as H
from halfops._ops import fresh
from halfops._ops import linear as ops
from halfops.nn import MLP, GatedMLP, Linear, convert

NEEDS_KERNEL = "linear"

MODULES = {
    "linear": lambda **to: Linear(6, 5, activation="gelu", **to),
    "linear-plain": lambda **to: Linear(6, 5, bias=False, **to),
    "mlp": lambda **to: MLP(6, 9, 5, **to),
    "gated_mlp": lambda **to: GatedMLP(6, 9, 5, **to),
}


class Gate(torch.nn.Module):
    def __init__(self, fuse_wgrad_accumulation=False, **to):
        super().__init__()
        self.gate, self.up = (torch.nn.Parameter(torch.randn(5, 6, **to) / 3) for _ in range(2))
        self.bias = torch.nn.Parameter(torch.randn(5, **to))
        self.fuse_wgrad_accumulation = fuse_wgrad_accumulation

    def forward(self, x):
        fuse = self.fuse_wgrad_accumulation
        return H.gated_linear(x, self.gate, self.up, self.bias, fuse_wgrad_accumulation=fuse)


MODULES["gated_linear"] = Gate
each_module = pytest.mark.parametrize("make", MODULES.values(), ids=MODULES)


def weights(module):
    return [p for p in module.parameters() if p.dim() == 2]


def backward(module, x, grad, **how):
    module(x).backward(grad, **how)


@pytest.fixture
def weight_gradients(monkeypatch):
    """What was asked of the two ops: "out" where a weight's gradient is made, "in place" where it is added."""
    asked, make, add = [], ops._wgrad, ops._wgrad_inplace
    monkeypatch.setattr(ops, "_wgrad", lambda *t: asked.extend(["out"] if t[3] else []) or make(*t))
    monkeypatch.setattr(ops, "_wgrad_inplace", lambda *t: asked.append("in place") or add(*t))
    return asked


@pytest.mark.parametrize("dtype", [*DTYPES, torch.float64], ids=str)
@each_module
def test_it_is_the_same_gradient(make, dtype, device, weight_gradients):
    """The first pass gives the same bits as without; the next ones add in place, with one rounding less."""
    plain = make(device=device, dtype=dtype)
    fused = copy.deepcopy(plain)
    fused.fuse_wgrad_accumulation = True
    batches = [torch.randn(2, 7, n, device=device).to(dtype) for n in (6, 5) * 3]
    backward(plain, *batches[:2])
    backward(fused, *batches[:2])
    assert set(weight_gradients) == {"out"}
    for a, b in zip(fused.parameters(), plain.parameters(), strict=True):
        assert torch.equal(bits(a.grad), bits(b.grad))
    places = [(p.grad.data_ptr(), p.grad._version) for p in weights(fused)]
    wanted = [p.grad.double() for p in plain.parameters()]
    for x, grad in zip(batches[2::2], batches[3::2], strict=True):
        backward(plain, x, grad)
        weight_gradients.clear()
        backward(fused, x, grad)
        assert weight_gradients == ["in place"] * len(places), "no gradient is written to be added later"
        exact = copy.deepcopy(plain).double()
        exact.zero_grad()
        backward(exact, x.double(), grad.double())
        wanted = [w + p.grad for w, p in zip(wanted, exact.parameters(), strict=True)]
    for place, p in zip(places, weights(fused), strict=True):
        assert p.grad.data_ptr() == place[0]
        assert p.grad._version > place[1], "autograd sees that it was written"
    for a, b, value in zip(fused.parameters(), plain.parameters(), wanted, strict=True):
        assert (a.grad.double() - value).norm() <= (b.grad.double() - value).norm() + UNIT[dtype] * value.norm()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("into", DTYPES, ids=str)
def test_main_grad(into, dtype, device):
    """It comes before .grad, in any dtype, and gets the bits that linear_wgrad adds."""
    layer = Linear(6, 5, device=device, dtype=dtype, fuse_wgrad_accumulation=True)
    x, grad = torch.randn(7, 6, device=device).to(dtype), torch.randn(7, 5, device=device).to(dtype)
    start = torch.randn(5, 6, device=device).to(into)
    layer.weight.main_grad, kept = start.clone(), torch.ones_like(layer.weight)
    layer.weight.grad = kept.clone()
    backward(layer, x, grad)
    H.linear_wgrad(grad, x, accumulate_into=start)
    assert torch.equal(bits(layer.weight.main_grad), bits(start))
    assert torch.equal(layer.weight.grad, kept)
    assert torch.equal(bits(layer.bias.grad), bits(H.linear_wgrad(grad, x, bias=True)[1]))


def prepared(make, device, dtype=torch.float16):
    module = make(device=device, dtype=dtype, fuse_wgrad_accumulation=True)
    for p in weights(module):
        p.grad = torch.zeros_like(p)
    return module, torch.randn(7, 6, device=device).to(dtype).requires_grad_()


@each_module
def test_other_passes_leave_grad_alone(make, device, weight_gradients):
    """Whoever asks for a gradient gets it; whoever does not ask changes none."""
    module, x = prepared(make, device)
    grads = torch.autograd.grad(module(x).sum(), list(module.parameters()))
    assert all(g is not None and g.abs().sum() > 0 for g in grads)
    module(x).sum().backward(inputs=[x])
    assert all(not p.grad.any() for p in weights(module))
    assert "in place" not in weight_gradients

    module(x).sum().backward(inputs=weights(module))
    assert "in place" in weight_gradients
    for p, grad in zip(weights(module), (g for g in grads if g.dim() == 2), strict=True):
        assert torch.equal(bits(p.grad), bits(grad))


@pytest.mark.filterwarnings("ignore:Using backward")
@each_module
def test_a_graph_of_the_gradient_is_kept(make, device, weight_gradients):
    module, x = prepared(make, device)
    module(x).sum().backward(create_graph=True)
    assert "in place" not in weight_gradients
    assert all(p.grad.requires_grad for p in weights(module))


@pytest.mark.parametrize(
    "unfit",
    [
        lambda w: torch.zeros(6, 5, dtype=w.dtype).mT.to(w.device),
        lambda w: torch.zeros_like(w).to_sparse(),
        lambda w: torch.zeros_like(w).requires_grad_(),
    ],
    ids=["strides", "sparse", "requires_grad"],
)
@pytest.mark.filterwarnings("ignore:grad and param do not obey")
def test_a_grad_that_does_not_fit(unfit, device, weight_gradients):
    module, x = prepared(MODULES["linear"], device)
    module.weight.grad = unfit(module.weight)
    module(x).sum().backward()
    assert weight_gradients == ["out"]
    assert module.weight.grad.to_dense().any()


@pytest.mark.parametrize("unfit", [lambda t: t.view(30), lambda t: t.to_sparse_csr()], ids=["shape", "sparse"])
@pytest.mark.filterwarnings("ignore:Sparse")
def test_a_main_grad_that_does_not_fit(unfit, device, weight_gradients):
    module, x = prepared(MODULES["linear"], device)
    module.weight.main_grad = unfit(torch.zeros(5, 6, device=device))
    module(x).sum().backward()
    assert weight_gradients == ["out"]
    assert not module.weight.main_grad.to_dense().any()
    assert module.weight.grad.any()


@each_module
def test_weights_that_are_no_leaves(make, device, weight_gradients):
    """Autocast's casts, and weights that were computed: autograd carries the gradient on to where it belongs."""
    module, x = prepared(make, device, torch.float32)
    with torch.autocast(device.type, dtype=torch.bfloat16):
        y = module(x)
    assert y.dtype == torch.bfloat16
    y.sum().backward()
    computed = {n: p * 2 for n, p in module.named_parameters()}
    torch.func.functional_call(module, computed, (x,)).sum().backward()
    assert "in place" not in weight_gradients
    assert all(p.grad.any() for p in weights(module))


def test_a_grad_that_is_retained_is_not_accumulated_into(device, weight_gradients):
    w = torch.randn(5, 6, device=device).requires_grad_()
    double, x = w * 2, torch.randn(7, 6, device=device)
    double.retain_grad()
    y = H.linear(x, double, fuse_wgrad_accumulation=True).sum()
    y.backward(retain_graph=True)
    once = w.grad.clone()
    y.backward()
    assert torch.equal(w.grad, 2 * once)
    assert weight_gradients == ["out"] * 2


@each_module
def test_weights_that_autocast_leaves_alone(make, device, weight_gradients):
    module, x = prepared(make, device, torch.bfloat16)
    with torch.autocast(device.type, dtype=torch.bfloat16):
        module(x.float()).sum().backward()
    assert set(weight_gradients) == {"in place"}


@each_module
def test_compiled_modules_return_gradients(make, device):
    torch._dynamo.reset()
    module, x = prepared(make, device)
    twin = copy.deepcopy(module)
    twin(x).sum().backward()
    y = torch.compile(module, fullgraph=True, backend="aot_eager")(x).sum()
    with torch.profiler.profile() as profile:
        y.backward()
    ran = {e.name for e in profile.events() if e.name.startswith("halfops::linear_wgrad")}
    assert ran == {"halfops::linear_wgrad"}
    for a, b in zip(module.parameters(), twin.parameters(), strict=True):
        assert torch.equal(bits(a.grad), bits(b.grad))


@pytest.mark.parametrize("make", [MODULES["linear-plain"], MODULES["mlp"], Gate], ids=["linear", "mlp", "gated_linear"])
def test_a_backward_pass_that_is_compiled_alone_returns_them(make, device):
    """Compiled autograd traces the backward pass of an eager forward one."""
    torch._dynamo.reset()
    module, x = prepared(make, device)
    twin = copy.deepcopy(module).float()
    with torch._dynamo.compiled_autograd._enable(functools.partial(torch.compile, fullgraph=True, backend="aot_eager")):
        module.float()(x.float()).sum().backward()
    twin(x.float()).sum().backward()
    for a, b in zip(module.parameters(), twin.parameters(), strict=True):
        assert torch.allclose(a.grad, b.grad, rtol=1e-5, atol=1e-6)


def test_hooks_do_not_see_it(device):
    """As documented: a tensor hook is shown None."""
    module, x = prepared(MODULES["linear"], device)
    seen = []
    module.weight.register_hook(seen.append)
    module(x).sum().backward()
    assert not any(isinstance(grad, torch.Tensor) for grad in seen)
    module.weight.grad = None
    module(x).sum().backward()
    assert isinstance(seen[-1], torch.Tensor)


@pytest.mark.parametrize("passes", [1, 3])
def test_a_weight_in_several_places(passes, device):
    """Tied within one function and between two; beside a use of torch's own."""
    w = torch.randn(6, 6, device=device).requires_grad_()
    twin = w.detach().clone().requires_grad_()
    x = torch.randn(7, 6, device=device)

    def loss(w, fuse):
        y = H.mlp(x, w, None, w, None, fuse_wgrad_accumulation=fuse)
        y = H.gated_mlp(y, w, w, w, fuse_wgrad_accumulation=fuse) + x @ w
        return H.linear(y, w, fuse_wgrad_accumulation=fuse).square().mean()

    for _ in range(passes):
        loss(w, True).backward()
        loss(twin, False).backward()
    assert (w.grad - twin.grad).norm() <= 32 * UNIT[torch.float32] * twin.grad.norm()


@pytest.mark.parametrize("reentrant", [True, False])
def test_checkpointing(reentrant, device, weight_gradients):
    from torch.utils.checkpoint import checkpoint

    module, x = prepared(MODULES["mlp"], device)
    checkpoint(module, x, use_reentrant=reentrant).sum().backward()
    assert weight_gradients == ["in place"] * 2
    twin = copy.deepcopy(module)
    twin.zero_grad()
    twin(x).sum().backward()
    assert all(torch.equal(bits(a.grad), bits(b.grad)) for a, b in zip(weights(module), weights(twin), strict=True))


def test_frozen_between_forward_and_backward(device, weight_gradients):
    module, x = prepared(MODULES["linear"], device)
    y = module(x)
    module.weight.requires_grad_(False)
    y.sum().backward()
    assert "in place" not in weight_gradients


def test_modules_carry_it(device):
    layers = torch.nn.Sequential(torch.nn.Linear(6, 6), torch.nn.ReLU(), MLP(6, 9, 6), GatedMLP(6, 9, 6)).to(device)
    for model in (convert(copy.deepcopy(layers)), convert(convert(layers), fuse_wgrad_accumulation=True)):
        fuse = model is layers
        assert [model[i].fuse_wgrad_accumulation for i in (0, 2, 3)] == [fuse] * 3
        assert repr(model[0]).count("fuse_wgrad_accumulation=True") == fuse
        assert copy.deepcopy(model)[2].fuse_wgrad_accumulation == fuse
    assert "activation='gelu', fuse_wgrad_accumulation=True" in repr(layers[2])
    assert "activation='silu', fuse_wgrad_accumulation=True" in repr(layers[3])
    assert not Linear(2, 2).fuse_wgrad_accumulation
    assert halfops.nn.Linear(2, 2, fuse_wgrad_accumulation=True).fuse_wgrad_accumulation


# ---- statistics -----------------------------------------------------------------------------------------------------


@pytest.fixture
def recorded(monkeypatch):
    found = []
    monkeypatch.setattr(fresh, "wanted", lambda device, dtype: True)
    monkeypatch.setattr(fresh, "record", lambda grad, stats: found.append((grad.data_ptr(), stats.clone())))
    return found


@pytest.mark.parametrize("fuse", [False, True])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@each_module
def test_statistics_belong_to_the_gradient(make, dtype, fuse, device, recorded):
    """Each weight's are recorded for the tensor that becomes its .grad, or is it already, with what it then holds."""
    module = make(device=device, dtype=dtype)
    module.fuse_wgrad_accumulation = fuse
    x, grad = torch.randn(7, 6, device=device).to(dtype), torch.randn(7, 5, device=device).to(dtype)
    backward(module, x, grad)
    if fuse:
        recorded.clear()
        backward(module, x, grad)
    found = dict(recorded)
    assert len(recorded) == len(found) == len(weights(module))
    for p in weights(module):
        stats, wanted = found[p.grad.data_ptr()], stats_of(p.grad.double())
        assert stats.dtype == torch.float64
        assert (stats - wanted).abs()[0] <= 2.0**-20 * wanted[0]
        assert stats[1:].tolist() == [0.0, 0.0]


@pytest.mark.parametrize("fuse", [False, True])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float64], ids=str)
def test_statistics_of_an_overflow(dtype, fuse, device, recorded):
    """They are of what is stored: a float32 sum that float16 cannot hold is infinite there."""
    layer = Linear(2, 3, bias=False, device=device, dtype=dtype, fuse_wgrad_accumulation=True)
    if fuse:
        layer.weight.grad = torch.zeros_like(layer.weight)
    x = torch.full((4, 2), 250.0, device=device, dtype=dtype)
    backward(layer, x, torch.full((4, 3), 250.0, device=device, dtype=dtype))
    ((_, stats),) = recorded
    over = dtype == torch.float16
    assert stats.tolist() == [torch.inf if over else 6 * 250000.0**2, float(over), 0.0]


def test_statistics_are_not_asked_for_while_compiling(device, recorded):
    torch._dynamo.reset()
    layer, x = prepared(MODULES["linear"], device)
    torch.compile(layer, fullgraph=True, backend="aot_eager")(x).sum().backward()
    assert recorded == []
