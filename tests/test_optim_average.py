"""Moving averages of the weights, in the engine and in the optimizers: values, bits, skipped steps, checkpoints."""

from __future__ import annotations

import copy
import io
import itertools
import pickle
import re

import pytest
import torch
from cases.optim import (
    DTYPES,
    each_case,
    each_dtype,
    each_half,
    each_master,
    gradients,
    parameters,
    run,
    same_bits,
    snapshot,
    weights,
)
from test_optim_engine import CLOSED, FORMATS, RANGE, RULES, SIZES, equal, formats_of, make
from torch import Tensor

import halfops
from halfops import optim
from halfops._ops import ops
from halfops._ops import optim as engine

NEEDS_KERNEL = "optim_step_"

DECAYS = [0.0, 0.3, 0.999]  # shares of the new weight of 1, above and below a half: each end of lerp


def averages(params, seed=0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(param.shape, generator=generator) for param in params]


def lerp(a: Tensor, b: Tensor, decay: float) -> Tensor:
    """csrc/math/lerp.h in float32, one rounding at a time."""
    weight = torch.tensor(1.0 - decay, dtype=torch.float64).float()
    return a + weight * (b - a) if weight < 0.5 else b + (weight - 1.0) * (b - a)


# -- the engine


@pytest.mark.parametrize("decay", DECAYS)
@pytest.mark.parametrize(("dtype", "master", "rounding"), FORMATS)
def test_the_average_is_of_what_weight_and_master_stand_for(dtype, master, rounding, decay):
    work = make("adamw", [(dtype, master)], [1, 513, RANGE + 17])
    plain = work.copy().step(rounding=rounding, seed=7)
    emas = averages(work.params)
    before = [ema.clone() for ema in emas]
    work.step(emas=emas, ema_decay=decay, rounding=rounding, seed=7)
    assert equal(work.changed(), plain.changed()), "averages change nothing else"
    for ema, old, param, extra in zip(emas, before, work.params, work.masters, strict=True):
        value = engine.join_master(param, extra) if master == "split" else extra if master == "fp32" else param.float()
        wanted = lerp(old, value, decay)
        # Small float16 masters: the pair keeps them within 2^-39, the average is of the number itself.
        small = (value.abs() < 2**-15) if (dtype, master) == (torch.float16, "split") else torch.zeros_like(value) > 0
        assert torch.equal(ema[~small], wanted[~small])
        assert (ema - wanted)[small].abs().sum() <= 2**-38 * small.sum()


@pytest.mark.parametrize("rounding", ["nearest", "stochastic"])
@pytest.mark.parametrize("rule", RULES)
def test_every_variant_and_thread_count_gives_the_same_averages(rule, rounding):
    work = make(rule, formats_of(rounding), SIZES)
    results, threads = [], torch.get_num_threads()
    try:
        for variant, count in itertools.product(ops.cpu_variants(), (1, 3)):
            ops.set_cpu_variant(variant)
            torch.set_num_threads(count)
            own, emas = work.copy(), averages(work.params)
            for decay in DECAYS:
                own.step(emas=emas, ema_decay=decay, rounding=rounding, seed=7, zero_grad=True)
            results.append([*emas, *own.changed()])
    finally:
        torch.set_num_threads(threads)
    assert all(equal(result, results[0]) for result in results)


@pytest.mark.parametrize("reason", CLOSED)
def test_a_skipped_step_leaves_averages_alone(reason):
    work = make("lamb", formats_of("nearest"), [3, 1037])
    emas = averages(work.params)
    work.step(emas=emas, ema_decay=0.5, **CLOSED[reason])
    assert equal(emas, averages(work.params))


def test_some_parameters_may_have_no_average():
    work = make("adamw", [(torch.float16, "split")], [7, 0, 9])
    emas = averages(work.params)
    emas[0] = torch.empty(0)
    before = emas[2].clone()
    work.step(emas=emas, ema_decay=0.9)
    assert not torch.equal(emas[2], before)


def refusals():
    yield lambda w, e: {"emas": e}, "emas: got 2 tensors without ema_decay, wanted both"
    yield lambda w, e: {"ema_decay": 0.9}, "emas: got 0 tensors, wanted 2, one a parameter"
    yield lambda w, e: {"emas": e[:1], "ema_decay": 0.9}, "emas: got 1 tensors, wanted 2"
    for decay in (1.0, -0.1, float("nan"), float("inf")):
        yield lambda w, e, d=decay: {"emas": e, "ema_decay": d}, f"ema_decay: got {decay:g}, wanted a number in [0, 1)"
    for change, words in [
        (lambda t: t.half(), "emas[1]: got torch.float16, wanted torch.float32"),
        (lambda t: t[:3].contiguous(), "emas[1]: got shape [3, 7], wanted that of params[1], [5, 7]"),
        (lambda t: t.t().contiguous().t(), "emas[1]: got a non-contiguous tensor"),
    ]:
        yield lambda w, e, c=change: {"emas": [e[0], c(e[1])], "ema_decay": 0.9}, words
    yield lambda w, e: {"emas": [e[0], e[0]], "ema_decay": 0.9}, "emas[1]: shares memory with emas[0]"
    yield lambda w, e: {"emas": [e[0], w.states[3]], "ema_decay": 0.9}, "shares memory with"


@pytest.mark.parametrize(("options", "message"), list(refusals()))
def test_what_does_not_fit_is_refused_before_anything_changes(options, message):
    work = make("adamw", [(torch.float16, "split")], [35, 35])
    for member in ("params", "grads", "masters", "states"):
        setattr(work, member, [t.view(5, 7) for t in getattr(work, member)])
    emas = averages(work.params)
    before = work.copy()
    with pytest.raises(RuntimeError, match=re.escape(message)):
        work.step(**options(work, emas))
    assert equal([*work.changed(), *emas], [*before.changed(), *averages(work.params)])


# -- the optimizers


def values(optimizer) -> list[Tensor]:
    """What is averaged: masters, or without one the weights."""
    return [value.double() for value in optimizer.master_params()]


@each_case
@each_dtype
@each_master
def test_averages_follow_the_weights(case, dtype, master, device):
    """Against the recurrence in float64: three roundings of float32 a step, each shrunk by later decays."""
    params, plain = parameters(weights(dtype, device)), parameters(weights(dtype, device))
    optimizer = case.make(params, **case.hyper, master=master, ema_decay=0.9)
    other = case.make(plain, **case.hyper, master=master)
    grads, wanted = gradients(8, dtype, device), values(optimizer)
    largest = [value.abs() for value in wanted]
    for step in grads:
        run(optimizer, params, [step])
        run(other, plain, [step])
        for i, value in enumerate(values(optimizer)):
            wanted[i] = 0.9 * wanted[i] + (1.0 - 0.9) * value
            largest[i] = torch.maximum(largest[i], value.abs())
    for ema, want, most in zip(optimizer.ema_params(), wanted, largest, strict=True):
        assert ema.dtype == torch.float32
        assert ((ema - want).abs() <= 10 * 4 * 2**-24 * most + 2**-38).all()
    assert same_bits([p.detach() for p in params], [p.detach() for p in plain]), "averaging moves no weight"


@each_dtype
@each_master
def test_averages_start_at_the_masters(dtype, master, device):
    params = parameters(weights(dtype, device))
    optimizer = optim.AdamW(params, lr=0.1, master=master, ema_decay=0.0)
    assert same_bits(optimizer.ema_params(), optimizer.master_params())
    start = optimizer.master_params()
    optimizer.ema_decay = 0.75
    run(optimizer, params, gradients(1, dtype, device))
    now = optimizer.master_params()
    for ema, old, new in zip(optimizer.ema_params(), start, now, strict=True):
        assert ((ema - lerp(old, new, 0.75)).abs() <= 2**-38).all()  # 0 but for small float16 masters
    copies = optimizer.ema_params()
    for each in copies:
        each.zero_()
    assert not same_bits(copies, optimizer.ema_params()), "copies"


@pytest.mark.parametrize("kind", [torch.amp.GradScaler, halfops.amp.GradScaler])
@each_dtype
def test_overflows_leave_averages_alone(kind, dtype, device):
    params, scaler = parameters(weights(dtype, device)), kind(device.type, init_scale=4.0)
    optimizer = optim.AdamW(params, ema_decay=0.5)
    start = optimizer.master_params()
    grads = gradients(3, dtype, device)
    for t, bad in enumerate((True, False, True)):
        scaler.scale(torch.zeros((), device=device))
        for param, grad in zip(params, grads[t], strict=True):
            param.grad = grad.clone()
        if bad:
            params[2].grad[3, 4] = float("inf")
        before = optimizer.ema_params()
        scaler.step(optimizer)
        scaler.update()
        assert same_bits(optimizer.ema_params(), before) == bad
        assert t > 0 or same_bits(optimizer.ema_params(), start)


def test_the_decay_may_change_between_steps(device):
    """A warm-up; and averages that begin or rest in the middle of a run."""
    params = parameters(weights(torch.float16, device))
    optimizer, grads = optim.AdamW(params, lr=0.1), gradients(6, torch.float16, device)
    run(optimizer, params, grads[:2])
    masters = optimizer.master_params()
    optimizer.ema_decay = 0.25
    assert same_bits(optimizer.ema_params(), masters)
    run(optimizer, params, grads[2:3])
    for ema, old, new in zip(optimizer.ema_params(), masters, optimizer.master_params(), strict=True):
        assert torch.equal(ema, lerp(old, new, 0.25))
    optimizer.ema_decay = 0.0
    run(optimizer, params, grads[3:4])
    assert same_bits(optimizer.ema_params(), optimizer.master_params())
    rested = optimizer.ema_params()
    optimizer.ema_decay = None
    run(optimizer, params, grads[4:5])
    optimizer.ema_decay = 0.5
    assert same_bits(optimizer.ema_params(), rested)
    optimizer.ema_decay = 1.5
    with pytest.raises(RuntimeError, match=re.escape("ema_decay: got 1.5, wanted a number in [0, 1)")):
        run(optimizer, params, grads[5:])


def test_averages_lie_as_their_parameters(device):
    params = [torch.nn.Parameter(torch.randn(2, 3, 4, 5, device=device).to(memory_format=torch.channels_last))]
    optimizer = optim.AdamW(params, lr=0.1, ema_decay=0.9)
    run(optimizer, params, [[torch.randn(2, 3, 4, 5)]] * 2)
    assert optimizer.state[params[0]]["ema_param"].stride() == params[0].stride()
    flat = [torch.nn.Parameter(torch.zeros_like(params[0], memory_format=torch.contiguous_format))]
    other = optim.AdamW(flat, lr=0.1, ema_decay=0.9)
    other.load_state_dict(optimizer.state_dict())
    assert torch.equal(other.state[flat[0]]["ema_param"], optimizer.ema_params()[0])
    assert other.state[flat[0]]["ema_param"].is_contiguous()


def test_parameters_without_gradient_have_their_masters_as_averages(device):
    params = parameters(weights(torch.bfloat16, device))
    optimizer = optim.Lion(params, ema_decay=0.9)
    for i in (0, 2):
        params[i].grad = torch.ones_like(params[i])
    optimizer.step()
    assert ["ema_param" in optimizer.state.get(param, {}) for param in params] == [True, False, True, False, False]
    assert torch.equal(optimizer.ema_params()[1], params[1].float())


# -- checkpoints


def through_a_file(value):
    file = io.BytesIO()
    torch.save(value, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


@each_case
@each_dtype
@each_master
def test_an_interrupted_run_continues_bit_for_bit(case, dtype, master, device):
    options = {**case.hyper, "master": master, "ema_decay": 0.9}
    grads = gradients(6, dtype, device)
    whole, first = parameters(weights(dtype, device)), parameters(weights(dtype, device))
    uninterrupted, before = case.make(whole, **options), case.make(first, **options)
    run(uninterrupted, whole, grads)
    run(before, first, grads[:3])
    saved = through_a_file({"weights": [param.detach() for param in first], "optimizer": before.state_dict()})
    second = parameters(saved["weights"])
    after = case.make(second, **options)
    after.load_state_dict(saved["optimizer"])
    assert all(state["ema_param"].dtype == torch.float32 for state in after.state.values())
    run(after, second, grads[3:])
    assert same_bits(snapshot(after), snapshot(uninterrupted))
    assert same_bits(after.ema_params(), uninterrupted.ema_params())


@each_half
@each_master
def test_checkpoints_without_averages_start_them_and_others_drop_them(dtype, master, device):
    params = parameters(weights(dtype, device))
    without, grads = optim.AdamW(params, lr=0.1, master=master), gradients(3, dtype, device)
    run(without, params, grads[:2])
    twins = parameters([param.detach() for param in params])
    averaging = optim.AdamW(twins, lr=0.1, master=master, ema_decay=0.0)
    averaging.load_state_dict(without.state_dict())
    assert same_bits(averaging.ema_params(), without.master_params())
    averaging.ema_decay = 0.5
    run(averaging, twins, grads[2:])
    for ema, old, new in zip(averaging.ema_params(), without.master_params(), averaging.master_params(), strict=True):
        assert ((ema - lerp(old, new, 0.5)).abs() <= 2**-38).all()  # 0 but for small float16 masters
    without.load_state_dict(averaging.state_dict())
    assert all("ema_param" not in state for state in without.state.values())
    assert "exp_avg" in without.state[params[0]]


@each_half
def test_an_average_that_torch_has_cast_is_out_of_date(dtype, device):
    params = parameters(weights(dtype, device))
    optimizer = optim.AdamW(params, ema_decay=0.9)
    run(optimizer, params, gradients(2, dtype, device))
    stock = torch.optim.AdamW(parameters([param.detach() for param in params]))
    stock.load_state_dict(optimizer.state_dict())
    assert stock.state_dict()["state"][1]["ema_param"].dtype == dtype
    optimizer.load_state_dict(stock.state_dict())
    assert same_bits(optimizer.ema_params(), optimizer.master_params())


def test_an_average_of_another_shape_is_refused(device):
    params = parameters(weights(torch.float16, device))
    optimizer = optim.AdamW(params, ema_decay=0.9)
    run(optimizer, params, gradients(1, torch.float16, device))
    saved = copy.deepcopy(optimizer.state_dict())
    saved["state"][1]["ema_param"] = torch.zeros(8)
    with pytest.raises(ValueError, match=re.escape("got ema_param of shape [8] for parameter 1, wanted [7]")):
        optimizer.load_state_dict(saved)


@pytest.mark.parametrize("how", ["deepcopy", "pickle"])
def test_copies_keep_the_option_and_the_averages(how, device):
    params = parameters(weights(torch.float16, device))
    optimizer, grads = optim.AdamW(params, ema_decay=0.7), gradients(4, torch.float16, device)
    run(optimizer, params, grads[:2])
    twin = copy.deepcopy(optimizer) if how == "deepcopy" else pickle.loads(pickle.dumps(optimizer))
    assert twin.ema_decay == 0.7
    run(optimizer, params, grads[2:])
    run(twin, twin.param_groups[0]["params"], grads[2:])
    assert same_bits(twin.ema_params(), optimizer.ema_params())


@each_master
def test_syncing_masters_leaves_averages_alone(master, device):
    params = parameters(weights(torch.float16, device))
    optimizer = optim.AdamW(params, master=master, ema_decay=0.9)
    run(optimizer, params, gradients(2, torch.float16, device))
    before = optimizer.ema_params()
    with torch.no_grad():
        for param in params:
            param.fill_(1.0)
    optimizer.sync_master_from_model()
    assert same_bits(optimizer.ema_params(), before)


# -- errors


@pytest.mark.parametrize("make_one", [optim.AdamW, optim.Adam, optim.SGD, optim.Lion, optim.LAMB])
def test_decays_that_are_none(make_one):
    for decay, error in [(1.0, ValueError), (-0.5, ValueError), (float("nan"), ValueError), ("slow", TypeError)]:
        with pytest.raises(error, match=re.escape(f"ema_decay: got {decay!r}") if error is TypeError else "ema_decay"):
            make_one(parameters(weights(torch.float16, "cpu")), lr=0.1, ema_decay=decay)
    optimizer = make_one(parameters(weights(torch.float16, "cpu")), lr=0.1)
    with pytest.raises(ValueError, match="ema_decay: got it in a parameter group, wanted it as an argument"):
        optimizer.add_param_group({"params": [torch.zeros(3, requires_grad=True)], "ema_decay": 0.9})
    with pytest.raises(RuntimeError, match=f"ema_params: got {make_one.__name__} with ema_decay=None"):
        optimizer.ema_params()


def test_dtypes_mix(device):
    params = [param for dtype in DTYPES for param in parameters(weights(dtype, device))]
    optimizer = optim.AdamW(params, lr=0.1, ema_decay=0.0)
    run(optimizer, params, [[torch.ones_like(param) for param in params]])
    assert same_bits(optimizer.ema_params(), optimizer.master_params())
