"""Gradients that come scaled, overflow or are too long: skipped and clipped steps, with torch's scaler and ours."""

import pytest
import torch
from cases.optim import (
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

import halfops
from halfops import optim
from halfops.reference.optim import clip_factor

NEEDS_KERNEL = "optim_step_"


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
