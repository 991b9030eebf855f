"""What is around a step: groups, hyper-parameters, closures, memory layouts, caches, hooks, compilation."""

import inspect

import pytest
import torch
from cases.optim import (
    DTYPES,
    SHAPES,
    each_dtype,
    each_master,
    gradients,
    parameters,
    run,
    same_bits,
    snapshot,
    weights,
)

from halfops import optim
from halfops._ops.optim_plan import Plan

NEEDS_KERNEL = "optim_step_"


# -- groups, hyper-parameters, closures


def test_groups_have_their_own_hyper_parameters(device):
    start, grads = weights(torch.float16, device), gradients(4, torch.float16, device)
    together, apart = parameters(start), parameters(start)
    one = optim.AdamW([{"params": together[:2], "lr": 0.1}, {"params": together[2:], "weight_decay": 0.3}], lr=0.01)
    run(one, together, grads)
    first = optim.AdamW(apart[:2], lr=0.1)
    second = optim.AdamW(apart[2:], lr=0.01, weight_decay=0.3)
    run(first, apart[:2], [step[:2] for step in grads])
    run(second, apart[2:], [step[2:] for step in grads])
    assert same_bits(snapshot(one), snapshot(first) + snapshot(second))


def test_one_call_for_all_groups_and_dtypes(device, monkeypatch):
    calls = []
    real = Plan.step
    monkeypatch.setattr(Plan, "step", lambda plan, *args, **kw: (calls.append(plan), real(plan, *args, **kw)))
    params = [param for dtype in DTYPES for param in parameters(weights(dtype, device))]
    optimizer = optim.AdamW([{"params": [param], "lr": 0.01 * i} for i, param in enumerate(params)])
    grads = [grad for dtype in DTYPES for grad in gradients(1, dtype, device)[0]]
    run(optimizer, params, [grads])
    assert len(calls) == 1
    assert all(optimizer.state[param]["step"] == 1 for param in params)


@each_master
def test_mixed_dtypes_in_one_instance(master, device):
    start = [weight for dtype in DTYPES for weight in weights(dtype, device)]
    grads = [
        [grad for step in steps for grad in step]
        for steps in zip(*(gradients(5, dtype, device) for dtype in DTYPES), strict=True)
    ]
    mixed, apart = parameters(start), parameters(start)
    one = optim.Lion(mixed, lr=1e-3, master=master)
    run(one, mixed, grads)
    n, expected = len(SHAPES), []
    for k in range(len(DTYPES)):
        own = optim.Lion(apart[k * n : (k + 1) * n], lr=1e-3, master=master)
        run(own, apart[k * n : (k + 1) * n], [step[k * n : (k + 1) * n] for step in grads])
        expected += snapshot(own)
    assert same_bits(snapshot(one), expected)


def test_groups_added_later(device):
    start, grads = weights(torch.float16, device), gradients(4, torch.float16, device)
    params, other = parameters(start), parameters(start)
    optimizer = optim.SGD(params[:2], lr=0.1, momentum=0.9)
    run(optimizer, params[:2], [step[:2] for step in grads[:2]])
    optimizer.add_param_group({"params": params[2:], "lr": 0.2})
    run(optimizer, params, grads[2:])
    late = optim.SGD(other[2:], lr=0.2, momentum=0.9)
    run(late, other[2:], [step[2:] for step in grads[2:]])
    assert same_bits(snapshot(optimizer)[-len(snapshot(late)) :], snapshot(late))
    assert optimizer.state[params[0]]["step"] == 4
    assert optimizer.state[params[4]]["step"] == 2


def test_sgd_groups_with_and_without_momentum(device):
    start, grads = weights(torch.float16, device), gradients(3, torch.float16, device)
    params, other = parameters(start), parameters([weight.float() for weight in start])
    groups = [{"params": slice(0, 2), "momentum": 0.9}, {"params": slice(2, None)}]
    ours = optim.SGD([{**group, "params": params[group["params"]]} for group in groups], lr=0.1, master="fp32")
    theirs = torch.optim.SGD([{**group, "params": other[group["params"]]} for group in groups], lr=0.1)
    run(ours, params, grads)
    run(theirs, other, grads)
    assert "momentum_buffer" in ours.state[params[0]]
    assert "momentum_buffer" not in ours.state[params[2]]
    for master, param in zip(ours.master_params(), other, strict=True):
        torch.testing.assert_close(master, param.detach(), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("name", ["lr", "weight_decay"])
def test_hyper_parameters_as_tensors(name, device):
    start, grads = weights(torch.float16, device), gradients(4, torch.float16, device)
    numbers, tensors = parameters(start), parameters(start)
    value = torch.tensor(0.03, device=device)
    a, b = optim.AdamW(numbers, **{name: value.item()}), optim.AdamW(tensors, **{name: value})
    run(a, numbers, grads[:2])
    run(b, tensors, grads[:2])
    value.mul_(2)  # in place, as schedulers do
    a.param_groups[0][name] = value.item()
    run(a, numbers, grads[2:])
    run(b, tensors, grads[2:])
    assert same_bits(snapshot(a), snapshot(b))


def test_hyper_parameters_of_numpy(device):
    numpy = pytest.importorskip("numpy")
    param = torch.nn.Parameter(torch.zeros(3, device=device))
    optimizer = optim.SGD([param], lr=numpy.float32(0.5), momentum=numpy.float64(0.9))
    run(optimizer, [param], [[torch.ones(3)]])
    assert param.tolist() == [-0.5] * 3


@pytest.mark.parametrize("tensor", [False, True])
def test_learning_rate_schedulers(tensor, device):
    start, grads = weights(torch.float32, device), gradients(8, torch.float32, device)
    ours, theirs = parameters(start), parameters(start)
    lr = 0.1
    optimizers = [
        (ours, optim.SGD(ours, lr=torch.tensor(lr) if tensor else lr, momentum=0.9)),
        (theirs, torch.optim.SGD(theirs, lr=lr, momentum=0.9)),
    ]
    for params, optimizer in optimizers:
        scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 2, gamma=0.5)
        for step in grads:
            run(optimizer, params, [step])
            scheduler.step()
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=2e-6, atol=1e-6)


def test_closure(device):
    param = torch.nn.Parameter(torch.tensor([2.0], device=device))
    optimizer = optim.SGD([param], lr=0.25)

    def closure():
        assert torch.is_grad_enabled()
        optimizer.zero_grad()
        loss = (param**2).sum()
        loss.backward()
        return loss

    assert optimizer.step(closure).item() == 4.0
    assert param.item() == 1.0
    assert optimizer.step(None) is None


def test_parameters_without_gradient_are_skipped(device):
    start, grads = weights(torch.float16, device), gradients(3, torch.float16, device)
    params = parameters(start)
    optimizer = optim.AdamW(params)
    run(optimizer, params, grads[:1])
    untouched = snapshot(optim.AdamW([params[2]])) + [v.clone() for v in optimizer.state[params[2]].values()]
    params[2].grad = None
    for i in (0, 1, 3, 4):
        params[i].grad = grads[1][i]
    optimizer.step()
    optimizer.step()
    assert same_bits(snapshot(optim.AdamW([params[2]])) + list(optimizer.state[params[2]].values()), untouched)
    assert [optimizer.state[param]["step"].item() for param in params] == [3, 3, 1, 3, 3]
    optimizer.zero_grad()
    before = snapshot(optimizer)
    optimizer.step()
    assert same_bits(snapshot(optimizer), before)


# -- memory layouts


def laid_out(tensor: torch.Tensor, layout: str) -> torch.Tensor:
    """The same values in another order in memory."""
    order = {"contiguous": (0, 1, 2, 3), "channels_last": (0, 2, 3, 1), "transposed": (3, 2, 1, 0)}[layout]
    back = [order.index(d) for d in range(4)]
    return tensor.permute(order).contiguous().permute(back)


@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "transposed"])
@pytest.mark.parametrize("grad_layout", ["contiguous", "channels_last", "transposed"])
@each_dtype
@each_master
def test_any_dense_layout(layout, grad_layout, dtype, master, device):
    shapes = [(2, 3, 4, 5), (3, 2, 1, 7)]
    start = weights(dtype, device, shapes=shapes)
    grads = gradients(3, dtype, device, shapes=shapes)
    plain = parameters(start)
    other = [torch.nn.Parameter(laid_out(weight, layout)) for weight in start]
    a, b = optim.AdamW(plain, master=master, lr=0.01), optim.AdamW(other, master=master, lr=0.01)
    for step in grads:
        for p, q, grad in zip(plain, other, step, strict=True):
            p.grad = grad
            q.grad = laid_out(grad, grad_layout)
        a.step()
        b.step()
    assert same_bits(snapshot(a), snapshot(b))
    assert same_bits(a.master_params(), b.master_params())
    assert other[0].is_contiguous() == (layout == "contiguous")
    assert b.state[other[0]]["exp_avg"].stride() == other[0].stride()


# -- what happens around a step


def test_storage_swapped_between_steps(device):
    start, grads = weights(torch.float32, device), gradients(4, torch.float32, device)
    params, other = parameters(start), parameters(start)
    a, b = optim.AdamW(params), optim.AdamW(other)
    run(a, params, grads[:2])
    for param in params:
        param.data = param.data.clone()
    run(a, params, grads[2:])
    run(b, other, grads)
    assert same_bits(snapshot(a), snapshot(b))


@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "transposed"])
def test_layout_changed_between_steps(layout, device):
    shapes = [(2, 3, 4, 5)]
    start, grads = weights(torch.float16, device, shapes=shapes), gradients(4, torch.float16, device, shapes=shapes)
    params, other = [torch.nn.Parameter(laid_out(start[0], "channels_last"))], parameters(start)
    a, b = optim.AdamW(params), optim.AdamW(other)
    run(a, params, grads[:2])
    masters = a.master_params()
    params[0].data = laid_out(params[0].data.clone(), layout)
    assert same_bits(a.master_params(), masters)
    params[0].grad = None
    run(a, params, grads[2:])
    run(b, other, grads)
    assert same_bits(snapshot(a), snapshot(b))


def test_another_dtype_at_the_same_address(device):
    """As an allocator can give it: the cache must not go by the address alone."""
    param = torch.nn.Parameter(torch.zeros(6, device=device))
    optimizer = optim.AdamW([param])
    run(optimizer, [param], [[torch.ones(6)]])
    address = param.data_ptr()
    param.data = param.data.view(torch.bfloat16)[:6]
    assert param.data_ptr() == address
    param.grad = None
    run(optimizer, [param], [[torch.ones(6)]])
    assert "master_remainder" in optimizer.state[param]


def test_model_cast_after_the_optimizer_was_made(device):
    params = parameters(weights(torch.float32, device))
    optimizer = optim.AdamW(params)
    run(optimizer, params, gradients(1, torch.float32, device))
    for param in params:
        param.data = param.data.half()
    run(optimizer, params, gradients(2, torch.float16, device))
    assert optimizer.state[params[1]]["master_remainder"].dtype == torch.int16
    assert optimizer.state[params[1]]["exp_avg"].dtype == torch.float32
    for param in params:
        param.data = param.data.float()
    run(optimizer, params, gradients(1, torch.float32, device))
    assert "master_remainder" not in optimizer.state[params[1]]


@pytest.mark.parametrize("away", [False, True], ids=["with gradient", "without"])
def test_a_remainder_does_not_outlive_the_dtype_it_was_for(away, device):
    """Read in the units of another format, it would be a change of the weight of about its last place."""
    params = parameters(weights(torch.float16, device))
    optimizer = optim.SGD(params, lr=1e-4)
    run(optimizer, params, gradients(2, torch.float16, device))
    assert optimizer.state[params[2]]["master_remainder"].any()
    for param in params:
        param.data, param.grad = param.data.bfloat16(), None
    before = [param.detach().float() for param in params]
    if away:
        optimizer.step()
    run(optimizer, params, [[torch.zeros_like(param) for param in params]])
    assert same_bits(optimizer.master_params(), before)


def test_state_replaced_between_steps(device):
    """As offloading tools do: the tensors in `state` are the truth, not a cache of them."""
    start, grads = weights(torch.float16, device), gradients(4, torch.float16, device)
    params, other = parameters(start), parameters(start)
    a, b = optim.AdamW(params), optim.AdamW(other)
    run(a, params, grads[:2])
    for param in params:
        a.state[param] = {name: value.clone() for name, value in a.state[param].items()}
    run(a, params, grads[2:])
    run(b, other, grads)
    assert same_bits(snapshot(a), snapshot(b))


def test_group_replaced_between_steps(device):
    param = torch.nn.Parameter(torch.zeros(3, device=device))
    optimizer = optim.SGD([param], lr=1.0)
    run(optimizer, [param], [[torch.ones(3)]])
    optimizer.param_groups[0] = {**optimizer.param_groups[0], "lr": 0.5}
    run(optimizer, [param], [[torch.ones(3)]])
    assert param.tolist() == [-1.5] * 3


def test_autograd_notices_the_step(device):
    param = torch.nn.Parameter(torch.ones(3, device=device))
    optimizer = optim.SGD([param], lr=0.1)
    loss = (param * param).sum()
    loss.backward(retain_graph=True)
    optimizer.step()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_step_hooks(device):
    param = torch.nn.Parameter(torch.ones(3, device=device))
    optimizer, seen = optim.SGD([param], lr=0.1), []
    optimizer.register_step_pre_hook(lambda *_: seen.append(("before", param.detach().clone())))
    optimizer.register_step_post_hook(lambda *_: seen.append(("after", param.detach().clone())))
    param.grad = torch.ones(3, device=device)
    optimizer.step()
    assert [name for name, _ in seen] == ["before", "after"]
    assert (seen[0][1] == 1).all()
    assert (seen[1][1] == torch.tensor(0.9)).all()


def test_arguments_and_defaults_are_torchs():
    for name in ("AdamW", "Adam", "SGD"):
        ours, theirs = getattr(optim, name), getattr(torch.optim, name)
        got, want = inspect.signature(ours).parameters, inspect.signature(theirs).parameters
        shared = [each for each in got if each in want]
        assert shared == list(want)
        assert all(got[each].default == want[each].default and got[each].kind == want[each].kind for each in shared)
        params = parameters(weights(torch.float32, "cpu"))
        assert repr(ours(params)) == repr(theirs(params))


def test_foreach_fused_and_capturable_change_nothing(device):
    start, grads = weights(torch.float16, device), gradients(2, torch.float16, device)
    snapshots = []
    for options in ({}, {"fused": True}, {"foreach": True}, {"capturable": True}):
        params = parameters(start)
        optimizer = optim.AdamW(params, **options)
        run(optimizer, params, grads)
        snapshots.append(snapshot(optimizer))
    assert all(same_bits(each, snapshots[0]) for each in snapshots)


def test_inside_torch_compile(device):
    """The step is one graph break and otherwise itself."""
    start, grads = weights(torch.float16, device), gradients(3, torch.float16, device)
    params, other = parameters(start), parameters(start)
    eager, compiled = optim.AdamW(params), optim.AdamW(other)
    step = torch.compile(compiled.step, backend="eager")
    for each in grads:
        run(eager, params, [each])
        for param, grad in zip(other, each, strict=True):
            param.grad = grad
        step()
    assert same_bits(snapshot(eager), snapshot(compiled))
