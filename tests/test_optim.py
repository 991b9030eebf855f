"""The optimizers against an independent float64 reference, against torch.optim, and master against master."""

import functools

import pytest
import torch
from cases.optim import (
    SHAPES,
    Case,
    each_case,
    each_dtype,
    each_half,
    gradients,
    parameters,
    run,
    same_bits,
    snapshot,
    weights,
)

from halfops import optim

STEPS = 200


NEEDS_KERNEL = "optim_step_"


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


@pytest.mark.parametrize("make", [optim.AdamW, optim.Adam, optim.LAMB])
@pytest.mark.parametrize("beta1", [0.0, 2**-10])
def test_a_short_memory_forgets_an_outlier(make, beta1, device):
    """Moving the old average towards the gradient would leave the old one's rounding error, however little is kept."""
    param = torch.nn.Parameter(torch.ones(8, device=device))
    optimizer = make([param], betas=(beta1, 0.9))
    expected = 0.0
    for size in (1e6, 1e-3, -1e-3, 1.0, 1e-3):
        param.grad = torch.full_like(param, size)
        expected = beta1 * expected + (1 - beta1) * param.grad[0].item()
        optimizer.step()
        average = optimizer.state[param]["exp_avg"]
        torch.testing.assert_close(average, torch.full_like(average, expected), rtol=1e-4, atol=0)


def test_float16_states_do_not_underflow(device):
    """The reason for float32 states: with float16 ones, v and eps would be 0 and the first step infinite."""
    params = parameters([torch.ones(8, dtype=torch.float16)])
    optimizer = optim.AdamW(params, weight_decay=0)
    run(optimizer, params, [[torch.full((8,), 1e-5)]])
    torch.testing.assert_close(optimizer.master_params()[0], torch.full((8,), 0.999), rtol=0, atol=2e-6)


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
