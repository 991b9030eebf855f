"""The optimizers against an independent float64 reference, against torch.optim, and against one another."""

import functools
import inspect

import pytest
import torch
from cases.optim import (
    CASES,
    DTYPES,
    HALVES,
    MASTERS,
    SHAPES,
    Case,
    gradients,
    parameters,
    run,
    same_bits,
    snapshot,
    weights,
)

import halfops
from halfops import optim
from halfops._ops.registry import has_kernel
from halfops.reference.optim import clip_factor

STEPS = 200


@pytest.fixture
def device(device):
    if not has_kernel("optim_step_", device.type):
        pytest.skip(f"no optimizer for {device.type} in this build")
    return device


each_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
each_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)
each_half = pytest.mark.parametrize("dtype", HALVES, ids=str)
each_master = pytest.mark.parametrize("master", MASTERS)


@functools.cache
def trajectories(case: Case, dtype: torch.dtype, device: str):
    """Weights after STEPS steps in float64, and in float32 by torch (by the reference if torch has no such class)."""
    shapes = SHAPES[1:3]  # the rest would cost time and add nothing here
    start, grads = weights(dtype, device, shapes=shapes), gradients(STEPS, dtype, device, shapes=shapes)
    exact = [case.reference(start[i], [step[i] for step in grads]) for i in range(len(start))]
    if case.peer is None:
        single = [case.reference(start[i], [step[i] for step in grads], torch.float32) for i in range(len(start))]
    else:
        params = parameters([weight.float() for weight in start])
        run(case.peer(params, **case.hyper), params, grads)
        single = [param.detach() for param in params]
    return start, grads, exact, single


@each_case
@each_dtype
@pytest.mark.parametrize("master", ["split", "fp32"])
def test_hundreds_of_steps_stay_as_near_to_float64_as_float32_can(case, dtype, master, device):
    start, grads, exact, single = trajectories(case, dtype, device)
    params = parameters(start)
    optimizer = case.make(params, **case.hyper, master=master)
    run(optimizer, params, grads)
    for got, want, other in zip(optimizer.master_params(), exact, single, strict=True):
        if not want.numel():
            continue
        # Twice the error of torch's own float32 run; one float32 unit of the largest weight where that one is lucky;
        # and for float16's split master, half its smallest unit a step (weights below 2^-15 only).
        allowed = 2 * (other - want).abs().max() + 2**-23 * want.abs().max() + STEPS * 2**-39
        assert (got - want).abs().max() <= allowed
    assert all(optimizer.state[param]["step"] == STEPS for param in params)


@each_case
@each_half
@pytest.mark.parametrize("rounding", ["nearest", "stochastic"])
def test_without_master_each_step_is_one_rounding(case, dtype, rounding, device):
    """A float64 step from the very state that this one started with, then half a gap (stochastic: one)."""
    params = parameters(weights(dtype, device))
    optimizer = case.make(params, **case.hyper, master="none", rounding=rounding)
    units = 0.5 if rounding == "nearest" else 1.0
    bits = torch.finfo(dtype).eps
    tiny = torch.finfo(dtype).smallest_normal
    for t, step in enumerate(gradients(30, dtype, device), 1):
        before = [param.detach().double() for param in params]
        states = [
            [optimizer.state[param].get(name, torch.zeros_like(param)).double() for name in case.states]
            for param in params
        ]
        run(optimizer, params, [step])
        for param, weight, grad, state in zip(params, before, step, states, strict=True):
            if not param.numel():
                continue
            want = case.step(weight, grad.double(), state, t)[0]
            exponent = torch.maximum(want.abs(), param.detach().double().abs()).clamp_min(tiny).log2().floor()
            gap = 2**exponent * bits
            slack = 2**-20 * torch.maximum(want.abs(), weight.abs())  # a few float32 roundings on the way
            assert ((param.detach().double() - want).abs() <= units * gap + slack).all()


@each_case
@each_half
def test_a_float32_master_is_float32_training(case, dtype, device):
    start, grads = weights(dtype, device), gradients(20, dtype, device)
    half, single = parameters(start), parameters([weight.float() for weight in start])
    mixed, pure = case.make(half, **case.hyper, master="fp32"), case.make(single, **case.hyper)
    run(mixed, half, grads)
    run(pure, single, grads)
    assert same_bits(mixed.master_params(), [param.detach() for param in single])
    assert same_bits([param.detach() for param in half], [param.detach().to(dtype) for param in single])


@each_case
@each_half
def test_a_split_master_is_a_float32_master(case, dtype, device):
    """Bit for bit: bfloat16 anywhere, float16 from 2^-15 on, so these weights keep away from zero."""
    start = [
        weight.sign() * weight.abs().clamp_min(0.5) if dtype == torch.float16 else weight
        for weight in weights(dtype, device)
    ]
    grads, hyper = gradients(50, dtype, device), {**case.hyper, "lr": case.hyper["lr"] / 8}
    split, whole = parameters(start), parameters(start)
    a, b = case.make(split, **hyper, master="split"), case.make(whole, **hyper, master="fp32")
    run(a, split, grads)
    run(b, whole, grads)
    assert same_bits(a.master_params(), b.master_params())
    assert any((master != param).any() for master, param in zip(a.master_params(), split, strict=True))


def test_split_master_of_tiny_float16_weights(device):
    start, grads = [1e-6 * weight for weight in weights(torch.float16, device)], gradients(50, torch.float16, device)
    split, whole = parameters(start), parameters(start)
    a, b = optim.SGD(split, lr=1e-7), optim.SGD(whole, lr=1e-7, master="fp32")
    run(a, split, grads)
    run(b, whole, grads)
    for x, y in zip(a.master_params(), b.master_params(), strict=True):
        assert ((x - y).abs() <= 50 * 2**-40).all()  # half of the smallest unit, 2^-39, a step


def test_float16_states_do_not_underflow(device):
    """The reason for float32 states: with float16 ones, v and eps would be 0 and the first step infinite."""
    params = parameters([torch.ones(8, dtype=torch.float16)])
    optimizer = optim.AdamW(params, weight_decay=0)
    run(optimizer, params, [[torch.full((8,), 1e-5)]])
    torch.testing.assert_close(optimizer.master_params()[0], torch.full((8,), 0.999), rtol=0, atol=2e-6)


# -- loss scaling


def scalers(device: str):
    stock = torch.amp.GradScaler(device, init_scale=2.0**10, growth_interval=3)
    own = halfops.amp.GradScaler(device, init_scale=2.0**10, growth_interval=3)
    return {"torch": stock, "halfops": own}


def scaled_run(optimizer, params, grads, scaler, overflow_at=(), unscale=False):
    """As run(), with gradients multiplied by the present scale; at some steps one element overflows."""
    for t, step in enumerate(grads):
        scaler.scale(torch.zeros((), device=params[0].device))
        for param, grad in zip(params, step, strict=True):
            param.grad = (grad.float() * scaler.get_scale()).to(param.dtype)
        if t in overflow_at:
            params[2].grad[5, 6] = float("inf") if t % 2 else float("nan")
        if unscale:
            scaler.unscale_(optimizer)
        scaler.step(optimizer)
        scaler.update()


@each_case
@each_dtype
@each_master
@pytest.mark.parametrize("kind", ["torch", "halfops"])
def test_overflow_changes_nothing(case, dtype, master, kind, device):
    params, scaler = parameters(weights(dtype, device)), scalers(device)[kind]
    optimizer = case.make(params, **case.hyper, master=master)
    grads = gradients(3, dtype, device)
    scaled_run(optimizer, params, grads, scaler)
    before, scale = snapshot(optimizer), scaler.get_scale()
    scaled_run(optimizer, params, grads[:1], scaler, overflow_at=[0])
    assert same_bits(snapshot(optimizer), before)
    assert scaler.get_scale() == scale / 2
    scaled_run(optimizer, params, grads[:1], scaler)
    assert not same_bits(snapshot(optimizer), before)


@pytest.mark.parametrize("kind", ["torch", "halfops"])
@pytest.mark.parametrize("max_grad_norm", [None, 1.0])
@each_half
def test_a_scaled_run_is_the_unscaled_one_without_its_overflows(kind, max_grad_norm, dtype, device):
    """Scales are powers of two and these gradients, scaled, fit both formats: the bits must agree."""
    start = weights(dtype, device)
    grads = [[(grad + grad.sign() * 2**-6).to(dtype) for grad in step] for step in gradients(12, dtype, device)]
    scaled, plain = parameters(start), parameters(start)
    a = optim.AdamW(scaled, lr=1e-2, max_grad_norm=max_grad_norm)
    b = optim.AdamW(plain, lr=1e-2, max_grad_norm=max_grad_norm)
    scaled_run(a, scaled, grads, scalers(device)[kind], overflow_at=[4, 9])
    run(b, plain, [step for t, step in enumerate(grads) if t not in (4, 9)])
    assert same_bits(snapshot(a), snapshot(b))


@each_half
def test_explicit_unscale_with_our_scaler(dtype, device):
    start, grads = weights(dtype, device), gradients(4, dtype, device)
    grads = [[(grad + grad.sign() * 2**-6).to(dtype) for grad in step] for step in grads]
    scaled, plain = parameters(start), parameters(start)
    a, b = optim.AdamW(scaled, max_grad_norm=0.5), optim.AdamW(plain, max_grad_norm=0.5)
    scaled_run(a, scaled, grads, scalers(device)["halfops"], overflow_at=[1], unscale=True)
    run(b, plain, [grads[0], *grads[2:]])
    assert same_bits(snapshot(a), snapshot(b))


def test_explicit_unscale_with_the_stock_scaler(device):
    start, grads = weights(torch.float32, device), gradients(4, torch.float32, device)
    scaled, plain = parameters(start), parameters(start)
    a, b = optim.AdamW(scaled, max_grad_norm=0.5), optim.AdamW(plain, max_grad_norm=0.5)
    scaled_run(a, scaled, grads, scalers(device)["torch"], overflow_at=[1], unscale=True)
    run(b, plain, [grads[0], *grads[2:]])
    assert same_bits(snapshot(a), snapshot(b))


def test_fused_unscale_false_lets_the_scaler_unscale(device):
    params = parameters(weights(torch.float32, device))
    optimizer = optim.AdamW(params, fused_unscale=False)
    assert not optimizer._step_supports_amp_scaling
    other = parameters(weights(torch.float32, device))
    fused = optim.AdamW(other)
    grads = gradients(4, torch.float32, device)
    scaled_run(optimizer, params, grads, scalers(device)["torch"], overflow_at=[1])
    scaled_run(fused, other, grads, scalers(device)["torch"], overflow_at=[1])
    assert same_bits(snapshot(optimizer), snapshot(fused))


# -- clipping


@each_case
def test_clipping_is_clip_grad_norm(case, device):
    """Against torch's clip and the same optimizer, both measured in float64."""
    start, grads = weights(torch.float32, device), gradients(20, torch.float32, device)
    exact = []
    factors = [clip_factor(step, 0.5) for step in grads]
    assert all(factor < 1 for factor in factors)
    for i, weight in enumerate(start):
        clipped = [step[i].double() * factor for step, factor in zip(grads, factors, strict=True)]
        exact.append(case.reference(weight, clipped))
    ours, theirs = parameters(start), parameters(start)
    run(case.make(ours, **case.hyper, max_grad_norm=0.5), ours, grads)
    plain = case.make(theirs, **case.hyper)
    for step in grads:
        for param, grad in zip(theirs, step, strict=True):
            param.grad = grad.clone()
        torch.nn.utils.clip_grad_norm_(theirs, 0.5)
        plain.step()
    for got, other, want in zip(ours, theirs, exact, strict=True):
        if want.numel():
            allowed = 2 * (other - want).abs().max() + 2**-22 * want.abs().max()
            assert (got - want).abs().max() <= allowed


@each_dtype
def test_a_norm_within_the_bound_changes_no_bit(dtype, device):
    start, grads = weights(dtype, device), gradients(3, dtype, device)
    free, bound = parameters(start), parameters(start)
    a, b = optim.AdamW(free), optim.AdamW(bound, max_grad_norm=1e4)
    run(a, free, grads)
    run(b, bound, grads)
    assert same_bits(snapshot(a), snapshot(b))
    assert all(torch.equal(param.grad, grad) for param, grad in zip(bound, grads[-1], strict=True))


@pytest.mark.parametrize("bad", [float("inf"), float("nan")])
@each_case
def test_with_clipping_a_non_finite_gradient_skips_even_without_scaler(case, bad, device):
    params, grads = parameters(weights(torch.float16, device)), gradients(2, torch.float16, device)
    optimizer = case.make(params, **case.hyper, max_grad_norm=1.0)
    run(optimizer, params, grads[:1])
    before = snapshot(optimizer)
    grads[1][1][3] = bad
    run(optimizer, params, grads[1:])
    assert same_bits(snapshot(optimizer), before)


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
    real = optim.base.optim_step_
    monkeypatch.setattr(optim.base, "optim_step_", lambda *args, **kw: (calls.append(len(args[1])), real(*args, **kw)))
    params = [param for dtype in DTYPES for param in parameters(weights(dtype, device))]
    optimizer = optim.AdamW([{"params": [param], "lr": 0.01 * i} for i, param in enumerate(params)])
    grads = [grad for dtype in DTYPES for grad in gradients(1, dtype, device)[0]]
    run(optimizer, params, [grads])
    assert calls == [len(params)]


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


# -- stochastic rounding


def stochastic(start, grads, *, threads=1, seed=7, groups=None, cut=None):
    params = parameters(start)
    grouped = params if groups is None else [{"params": params[a:b]} for a, b in groups]
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        optimizer = optim.AdamW(grouped, lr=1e-3, master="none", rounding="stochastic", seed=seed)
        run(optimizer, params, grads)
    finally:
        torch.set_num_threads(before)
    return snapshot(optimizer)


@each_half
def test_stochastic_rounding_depends_on_seed_step_and_element_only(dtype, device):
    shapes = [(300, 700), (65,), (5, 3)]
    start, grads = weights(dtype, device, shapes=shapes), gradients(4, dtype, device, shapes=shapes)
    once = stochastic(start, grads)
    assert same_bits(stochastic(start, grads), once)
    assert same_bits(stochastic(start, grads, threads=2), once)
    assert same_bits(stochastic(start, grads, groups=[(0, 1), (1, 3)]), once)
    assert not same_bits(stochastic(start, grads, seed=8), once)


@each_half
def test_equal_tensors_are_rounded_independently(dtype, device):
    params = parameters([torch.ones(1000, dtype=dtype, device=device)] * 2)
    optimizer = optim.SGD(params, lr=1.0, maximize=True, master="none", rounding="stochastic")
    run(optimizer, params, [[torch.full((1000,), torch.finfo(dtype).eps / 2, device=device)] * 2])
    up = [param.detach() > 1 for param in params]
    assert 400 < (up[0] != up[1]).sum() < 600  # 500 expected, a standard deviation of 16
    # Successive steps too.
    first = [param.detach().clone() for param in params]
    for param in params:
        param.data.fill_(1)
    run(optimizer, params, [[torch.full((1000,), torch.finfo(dtype).eps / 2, device=device)] * 2])
    assert 400 < (params[0].detach() != first[0]).sum() < 600


@each_half
def test_stochastic_rounding_is_right_on_average_where_nearest_stands_still(dtype, device):
    n, steps = 20_000, 20
    eps = torch.finfo(dtype).eps
    move = eps / 64  # of a gap of eps, from 1 upwards
    ends = {}
    for rounding in ("nearest", "stochastic"):
        params = parameters([torch.ones(n, dtype=dtype, device=device)])
        optimizer = optim.SGD(params, lr=1.0, maximize=True, master="none", rounding=rounding)
        run(optimizer, params, [[torch.full((n,), move, device=device)]] * steps)
        ends[rounding] = params[0].detach().double()
    assert (ends["nearest"] == 1).all()
    # One step moves by eps with probability 1/64: variance below eps^2 / 64; five standard deviations of the mean.
    deviation = (steps / 64 / n) ** 0.5 * eps
    assert abs(ends["stochastic"].mean() - (1 + steps * move)) <= 5 * deviation


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
