"""Statistics of weight gradients from their own kernels: used while the gradient is what they were of, and else not."""

from __future__ import annotations

import math
import threading

import pytest
import torch
from bounds import UNIT
from cases.amp import all_equal, everything, started
from cases.wgrad_stats import (
    SCALE,
    backward,
    batch,
    bound,
    checked,
    each_optimizer,
    names_of_weights,
    network,
    new_scaler,
    on_every_device,
    sgd,
    torch_fused,
    weights,
)
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.checkpoint import checkpoint

import halfops
import halfops.functional as H
from halfops._ops import fresh, optim_plan
from halfops._ops import scale as scale_ops
from halfops.amp import GradScaler, wgrad_stats
from halfops.nn import Linear
from halfops.optim import worklist

NEEDS_KERNEL = "linear"


@pytest.fixture(autouse=True)
def everywhere():
    with on_every_device():
        yield


# -- fresh


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
@each_optimizer
def test_weights_are_not_read(make, dtype, device):
    if device.type == "cuda" and dtype == torch.float32:
        pytest.skip("float32 products are torch's there")
    model = network(device, dtype)
    optimizer, scaler = make(model), new_scaler(device, named_parameters=model)
    for step in range(3):
        optimizer.zero_grad()
        backward(model, step)
        assert checked(model, scaler, optimizer) == names_of_weights(model)


def test_float64_in_a_list(device):
    model = network(device, torch.float64)
    backward(model)
    scaler, optimizer = new_scaler(device, named_parameters=model), torch_fused(model)
    norms = [p.grad.norm().item() for p in model.parameters()]
    scaler.step(optimizer)
    rows = scaler.report().tensors
    assert [r.name for r in rows if r.source == "wgrad"] == names_of_weights(model)
    for row, p, norm in zip(rows, model.parameters(), norms, strict=True):
        assert row.norm * SCALE == pytest.approx(norm, rel=bound(p), abs=0)


def test_nothing_is_read_where_all_are_fresh(device, access, monkeypatch):
    model = network(device, bias=False)
    optimizer, scaler = sgd(model, max_grad_norm=1.0), new_scaler(device)
    backward(model)
    scaler.step(optimizer)
    scaler.update()

    def read(*_, **__):
        raise AssertionError("a gradient was read")

    monkeypatch.setattr(optim_plan.Plan, "stats", read)
    monkeypatch.setattr(worklist, "grad_stats", read)
    monkeypatch.setattr(scale_ops, "grad_stats", read)
    for scaled in (True, False):
        optimizer.zero_grad()
        backward(model)
        before = everything(model, optimizer)
        if scaled:
            scaler.step(optimizer)
            scaler.update()
        else:
            optimizer.step()
        assert not all_equal(before, everything(model, optimizer))
    backward(model)  # on top of what is there
    with pytest.raises(AssertionError, match="was read"):
        optimizer.step()


@pytest.mark.parametrize("bad", [math.inf, -math.inf, math.nan])
@pytest.mark.parametrize("bias", [True, False])
@each_optimizer
def test_an_overflow_is_named(make, bias, bad, device):
    model = network(device, bias=bias)
    optimizer, scaler = make(model), new_scaler(device, named_parameters=model)
    backward(model)
    scaler.step(optimizer)  # makes the state
    scaler.update()
    optimizer.zero_grad()
    hook = model[3].register_full_backward_pre_hook(lambda _, grads: (grads[0].index_fill(0, zero, bad),))
    zero = torch.zeros(1, dtype=torch.int64, device=device)
    backward(model)
    hook.remove()
    before = everything(model, optimizer)
    assert checked(model, scaler, optimizer) == names_of_weights(model)
    assert "3.weight" in scaler.report().overflowed
    assert all_equal(before, everything(model, optimizer))


@pytest.mark.parametrize("reentrant", [True, False])
def test_checkpointing(reentrant, device):
    model = network(device)
    y = checkpoint(model, batch(model).requires_grad_(), use_reentrant=reentrant)
    (y.float().square().mean() * SCALE).backward()
    assert checked(model, new_scaler(device)) == names_of_weights(model)


@pytest.mark.parametrize("passes", [2, 3])
def test_accumulated_by_the_kernel_itself(passes, device):
    model = network(device)
    for module in model:
        module.fuse_wgrad_accumulation = True
    for seed in range(passes):
        backward(model, seed)
    assert checked(model, new_scaler(device)) == names_of_weights(model)


def test_aliases_are_the_same_gradient(device):
    model = network(device)
    backward(model)
    for p in weights(model):
        p.grad = p.grad.detach()
    assert checked(model, new_scaler(device)) == names_of_weights(model)


def test_some_gradients_are_fresh(device, access):
    """The others are read in their own order; every row is its own gradient's."""
    model = network(device)
    backward(model)
    changed = weights(model)[::2]
    for p in changed:
        p.grad.mul_(3)
    wanted = [n for n, p in model.named_parameters() if p.dim() == 2 and all(p is not c for c in changed)]
    assert checked(model, new_scaler(device)) == wanted


@pytest.mark.parametrize(
    "other",
    [
        lambda p: p.new_ones(1).expand(p.shape),
        lambda p: torch.ones(10, 8).to(p)[::2, ::2],
        lambda p: p.new_ones(4, 5).t(),
        lambda p: p.new_ones(5, 4)._neg_view(),
    ],
    ids=["expanded", "sliced", "transposed", "negated"],
)
def test_gradients_beside_fresh_ones_may_lie_anyhow(other, device):
    """The step takes such gradients, so what reads them for it does, too."""
    ends = []
    for enabled in (True, False):
        with wgrad_stats(enabled):
            torch.manual_seed(0)
            layer = Linear(6, 5, bias=False).to(device, torch.float16)
            extra = torch.nn.Parameter(torch.ones(5, 4).to(device, torch.float16))
            optimizer = halfops.optim.SGD([layer.weight, extra], lr=0.1, max_grad_norm=1.0)
            backward(layer)
            extra.grad = other(extra.detach())
            assert fresh.recorded() == enabled
            optimizer.step()
            ends.append(everything(torch.nn.ParameterList([layer.weight, extra]), optimizer))
    assert all(torch.allclose(a, b, rtol=2 * UNIT[torch.float16], atol=0) for a, b in zip(*ends, strict=True))


def test_backward_passes_in_several_threads(device):
    models = [network(device) for _ in range(4)]
    threads = [threading.Thread(target=lambda m=m: [(m.zero_grad(), backward(m)) for _ in range(5)]) for m in models]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for model in models:
        assert checked(model, new_scaler(device)) == names_of_weights(model)


# -- not fresh


def infinite(p):
    p.grad.view(-1)[3] = math.inf


def in_inference_mode(p):
    with torch.inference_mode():
        p.grad.mul_(2)


def inference_tensor(p):
    with torch.inference_mode():
        p.grad = p.grad * 2


def other_memory(p):
    p.grad.data = p.grad * 2


def rewritten(p):
    grad = p.grad
    p.grad = None
    p.grad = grad.copy_(grad * 2)


CHANGES = {
    "mul_": lambda p: p.grad.mul_(2),
    "a view": infinite,
    "out=": lambda p: torch.mul(p.grad.clone(), 2, out=p.grad),
    "foreach": lambda p: torch._foreach_mul_([p.grad], 2.0),
    "zero_": lambda p: p.grad.zero_(),
    "copy_": rewritten,
    "inference_mode": in_inference_mode,
    "an inference tensor": inference_tensor,
    "unscaled by torch": lambda p: torch._amp_foreach_non_finite_check_and_unscale_(
        [p.grad], torch.zeros(1, device=p.device), torch.full((1,), 0.5, device=p.device)
    ),
    "unscaled by us": lambda p: H.unscale_(p.grad, 0.5),
    "wgrad into it": lambda p: H.linear_wgrad(
        torch.ones(3, p.shape[0]).to(p), torch.ones(3, p.shape[1]).to(p), accumulate_into=p.grad
    ),
    "another tensor": lambda p: setattr(p, "grad", p.grad * 2),
    "a clone": lambda p: setattr(p, "grad", p.grad.clone()),
    "another tensor by .data": other_memory,
    "a counter of its own": lambda p: setattr(p, "grad", p.grad.data),
    "clip_grad_norm_": lambda p: torch.nn.utils.clip_grad_norm_([p], 1e-3),
    "clip_grad_norm_ one by one": lambda p: torch.nn.utils.clip_grad_norm_([p], 1e-3, foreach=False),
    "clip_grad_value_": lambda p: torch.nn.utils.clip_grad_value_([p], 1e-3),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
@each_optimizer
def test_a_changed_gradient_is_read(make, change, device):
    model = network(device)
    backward(model)
    for p in weights(model):
        change(p)
    assert checked(model, new_scaler(device), make(model)) == []


def doubled(p):
    p.grad.mul_(2)


HOOKS = {
    "returns another": lambda p: p.register_hook(lambda g: g * 2),
    "changes it": lambda p: p.register_hook(lambda g: g.mul_(2)),
    "changes .grad": lambda p: p.register_post_accumulate_grad_hook(doubled),
    "keeps it and writes later": lambda p: p.register_hook(lambda g: setattr(p, "kept", g)),
}


@pytest.mark.parametrize("hook", HOOKS.values(), ids=HOOKS)
def test_hooks(hook, device):
    model = network(device)
    for p in weights(model):
        hook(p)
    backward(model)
    for p in weights(model):
        getattr(p, "kept", p.new_zeros(1)).zero_()
    assert checked(model, new_scaler(device)) == []


def test_two_backward_passes(device):
    model = network(device)
    backward(model, 1)
    backward(model, 2)
    assert checked(model, new_scaler(device)) == []


def test_a_weight_in_two_places(device, monkeypatch):
    """Its two gradients are added, in the memory of the first one, as without statistics."""
    made, record = [], fresh.record
    monkeypatch.setattr(fresh, "record", lambda grad, stats: made.append(grad.data_ptr()) or record(grad, stats))
    layer = Linear(6, 6, bias=False).to(device, torch.float16)
    (layer(layer(batch(layer))).float().square().mean() * SCALE).backward()
    assert len(made) == 2
    assert layer.weight.grad.data_ptr() == made[0]
    assert checked(layer, new_scaler(device)) == []


def test_fused_and_other_accumulation(device):
    """The same weight in a product of torch's: autograd adds to what the kernel has added to."""
    layer = Linear(6, 6, bias=False, fuse_wgrad_accumulation=True).to(device, torch.float16)
    for _ in range(2):
        x = batch(layer)
        (layer(x) + x @ layer.weight).float().sum().backward()
    assert checked(layer, new_scaler(device)) == []


def test_memory_used_again(device):
    """A gradient that is gone, and another one at its address, as an allocator gives it."""
    memory = torch.zeros(30, dtype=torch.float16, device=device)
    stats = torch.tensor([9.0, 1.0, 0.0], dtype=torch.float64, device=device)
    with torch.no_grad():
        first = torch.empty(0, dtype=torch.float16, device=device).set_(memory.untyped_storage(), 0, (5, 6), (6, 1))
        fresh.record(first, stats)
        place = fresh._place(first)
        del first
        second = torch.empty(0, dtype=torch.float16, device=device).set_(memory.untyped_storage(), 0, (5, 6), (6, 1))
        assert fresh._place(second) == place
        assert fresh.take([second]) == {}


@pytest.mark.parametrize("part", [lambda g: g[:3], lambda g: g.view(-1), lambda g: g.view(torch.bfloat16)])
def test_parts_and_other_readings_of_it(part, device):
    grad, stats = torch.ones(5, 6, device=device).half(), torch.ones(3, device=device).double()
    with torch.no_grad():
        fresh.record(grad, stats)
        assert part(grad)._version == grad._version
        assert fresh.take([part(grad)]) == {}
        assert list(fresh.take([part(grad), grad])) == [1]


def test_statistics_are_used_once(device):
    """A step may write gradients, as torch's fused ones do."""
    model = network(device)
    backward(model)
    scaler = new_scaler(device)
    assert checked(model, scaler) == names_of_weights(model)
    assert not fresh.recorded()
    assert checked(model, scaler) == []


@pytest.mark.filterwarnings("ignore:Using backward")
def test_a_graph_of_the_gradient(device):
    model = network(device)
    model(batch(model)).float().sum().backward(create_graph=True)
    assert not fresh.recorded()
    for p in model.parameters():
        p.grad = p.grad.detach()
    assert checked(model, new_scaler(device)) == []


def test_gradients_of_casts(device):
    """Under autocast, float32 weights get another tensor: the gradient in float32."""
    model = network(device, torch.float32)
    with torch.autocast(device.type, dtype=torch.bfloat16):
        y = model(batch(model))
    (y.float().square().mean() * SCALE).backward()
    assert checked(model, new_scaler(device)) == []


def test_transforms_have_no_gradients_in_memory(device):
    model = Linear(6, 5).to(device, torch.float64)
    params = {n: p.detach() for n, p in model.named_parameters()}

    def loss(params):
        return torch.func.functional_call(model, params, (batch(model),)).square().mean()

    assert torch.func.grad(loss)(params)["weight"].any()
    assert not fresh.recorded()


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64], ids=str)
def test_batched_passes_have_none_either(dtype, device):
    layer = Linear(6, 5).to(device, dtype)
    grads = torch.ones(3, 7, 5, dtype=dtype, device=device)
    (batched,) = torch.autograd.grad(layer(batch(layer)), layer.weight, grads, is_grads_batched=True)
    assert batched.shape == (3, 5, 6)
    assert not fresh.recorded()


def test_fake_passes_record_nothing(device):
    with FakeTensorMode():
        layer = Linear(6, 5, device=device, dtype=torch.float16)
        layer(torch.ones(7, 6, device=device).half()).sum().backward()
    assert layer.weight.grad.shape == (5, 6)
    assert not fresh.recorded()


@pytest.mark.filterwarnings("ignore:Initializing zero-element")
def test_weights_without_elements(device):
    layers = torch.nn.Sequential(Linear(6, 0), Linear(0, 4), Linear(4, 0, bias=False)).to(device, torch.float16)
    layers(batch(layers)).float().sum().backward()
    assert checked(layers, new_scaler(device)) == names_of_weights(layers)


def test_compiled_passes_record_nothing(device):
    torch._dynamo.reset()
    layer = Linear(6, 5).to(device, torch.float16)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    (compiled(batch(layer)).float().square().mean() * SCALE).backward()
    assert not fresh.recorded()
    assert checked(layer, new_scaler(device)) == []


@pytest.mark.parametrize("kind", ["torch", "halfops"])
@pytest.mark.parametrize("fused_unscale", [True, False])
@pytest.mark.parametrize("explicit", [True, False])
def test_clipping_after_a_scaler_unscaled(kind, fused_unscale, explicit, device):
    """Also when the step is not the scaler's: the norm is that of what is in the gradients now."""
    ends = []
    for enabled in (True, False):
        with wgrad_stats(enabled):
            torch.manual_seed(0)
            model = network(device, torch.bfloat16)
            optimizer = sgd(model, max_grad_norm=1e-2, fused_unscale=fused_unscale)
            scalers = {"torch": torch.amp.GradScaler, "halfops": GradScaler}
            scaler = started(scalers[kind](device.type, init_scale=SCALE))
            backward(model)
            if explicit:
                scaler.unscale_(optimizer)
                optimizer.step()
            else:
                scaler.step(optimizer)
            ends.append(everything(model, optimizer))
    for a, b in zip(*ends, strict=True):
        assert torch.allclose(a, b, rtol=2 * UNIT[torch.bfloat16], atol=0)
