"""Gradients that a step sets to zero: in the same pass, in place, in skipped steps, too."""

from __future__ import annotations

import re

import pytest
import torch
from cases.optim import each_case, each_dtype, each_master, gradients, parameters, same_bits, snapshot, weights
from test_optim_engine import CLOSED, FORMATS, RULES, SIZES, equal, formats_of, make

import halfops
from halfops import optim
from halfops._ops import ops

NEEDS_KERNEL = "optim_step_"

KINDS = {"torch": torch.amp.GradScaler, "halfops": halfops.amp.GradScaler}


def is_zero(tensors) -> bool:
    """Of both signs: only +0 is all bits zero."""
    return all(not tensor.reshape(-1).view(torch.uint8).any() for tensor in tensors if tensor.numel())


# -- the engine


def in_a_row(tensors):
    """The same numbers, each tensor between two neighbours that are not its own."""
    rows = [torch.full((tensor.numel() + 2,), 7.0).to(tensor.dtype) for tensor in tensors]
    for row, tensor in zip(rows, tensors, strict=True):
        row[1:-1] = tensor
    return [row[1:-1] for row in rows], rows


@pytest.mark.parametrize("variant", ops.cpu_variants())
@pytest.mark.parametrize("rule", RULES)
def test_zeroed_gradients_were_read_before(rule, variant):
    for rounding in sorted({rounding for *_, rounding in FORMATS}):
        ops.set_cpu_variant(variant)
        work = make(rule, formats_of(rounding), SIZES)
        plain, kept = work.copy(), [grad.clone() for grad in work.grads]
        work.grads, rows = in_a_row(work.grads)
        work.step(rounding=rounding, seed=7, zero_grad=True)
        plain.step(rounding=rounding, seed=7)
        assert equal(work.changed(), plain.changed())
        assert is_zero(work.grads)
        assert all(row[0] == row[-1] == 7 for row in rows), "not a byte beyond"
        assert equal(plain.grads, kept), "not asked, not touched"


@pytest.mark.parametrize("reason", CLOSED)
@pytest.mark.parametrize("rule", RULES)
def test_a_skipped_step_zeroes_gradients_and_nothing_else(rule, reason):
    work = make(rule, formats_of("nearest"), [3, 1037, 70_001])
    before = work.copy()
    work.grads, rows = in_a_row(work.grads)
    work.step(**CLOSED[reason], zero_grad=True)
    assert equal(work.changed(), before.changed())
    assert is_zero(work.grads)
    assert all(row[0] == row[-1] == 7 for row in rows)


def test_gradients_that_share_memory_are_refused():
    work = make("adamw", [(torch.float16, "split")], [35, 35])
    memory = torch.ones(60, dtype=torch.float16)
    for shared in ([work.grads[0], work.grads[0]], [memory[:35], memory[20:55]]):
        work.grads = shared
        before = work.copy()
        with pytest.raises(RuntimeError, match=re.escape("grads[1]: shares memory with grads[0], wanted separate")):
            work.step(zero_grad=True)
        assert equal([*work.changed(), *work.grads], [*before.changed(), *before.grads])


# -- the optimizers


def accumulate(params, grads, factor=1.0):
    """As backward() does into gradients that are there."""
    for param, grad in zip(params, grads, strict=True):
        grad = (grad.float() * factor).to(param.dtype)
        param.grad = grad.clone() if param.grad is None else param.grad.add_(grad)


@each_case
@each_dtype
@each_master
def test_a_loop_that_keeps_its_gradients(case, dtype, master, device):
    ours, theirs = parameters(weights(dtype, device)), parameters(weights(dtype, device))
    options = {**case.hyper, "master": master, "max_grad_norm": 1.0}
    a, b = case.make(ours, **options), case.make(theirs, **options)
    pointers = []
    for step in gradients(4, dtype, device):
        accumulate(ours, step)
        accumulate(theirs, step)
        a.step(zero_grad=True)
        b.step()
        b.zero_grad(set_to_none=False)
        assert is_zero(param.grad for param in ours)
        pointers.append([param.grad.data_ptr() for param in ours])
    assert same_bits(snapshot(a), snapshot(b))
    assert pointers[0] == pointers[-1]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("unscale", [False, True])
@each_dtype
def test_with_a_scaler(kind, unscale, dtype, device):
    """Overflows among the steps: a gradient that stayed would spoil the next one."""
    if unscale and kind == "torch" and dtype == torch.float16:
        pytest.skip("torch's scaler unscales no float16 gradients")
    ours, theirs = parameters(weights(dtype, device)), parameters(weights(dtype, device))
    runs = []
    for params, options in ((ours, {"zero_grad": True}), (theirs, {})):
        optimizer = optim.AdamW(params, max_grad_norm=1.0, ema_decay=0.9)
        scaler = KINDS[kind](device.type, init_scale=8.0)
        for t, step in enumerate(gradients(5, dtype, device)):
            scaler.scale(torch.zeros((), device=device))
            accumulate(params, step, scaler.get_scale())
            if t in (0, 3):
                params[2].grad[5, 6] = float("nan")
            if unscale:
                scaler.unscale_(optimizer)
            scaler.step(optimizer, **options)
            scaler.update()
            if options:
                assert is_zero(param.grad for param in params)
            optimizer.zero_grad(set_to_none=False)
        runs.append([*snapshot(optimizer), torch.tensor(scaler.get_scale())])
    assert same_bits(*runs)


def test_with_a_closure(device):
    param = torch.nn.Parameter(torch.tensor([2.0], device=device))
    optimizer = optim.SGD([param], lr=0.25)

    def closure():
        loss = (param**2).sum()
        loss.backward()
        return loss

    assert optimizer.step(closure, zero_grad=True).item() == 4.0
    assert optimizer.step(closure, zero_grad=True).item() == 1.0
    assert param.item() == 0.5
    assert param.grad.item() == 0.0


def test_gradients_in_another_layout_are_zeroed_where_they_are(device):
    """The step reads a copy of these; the copy is not what the next backward() adds to."""
    param = torch.nn.Parameter(torch.ones(2, 3, 4, 5, device=device).to(memory_format=torch.channels_last))
    row = torch.nn.Parameter(torch.ones(6, 5, device=device))
    param.grad = torch.ones(2, 3, 4, 5, device=device)
    row.grad = torch.ones(5, 6, device=device).t()
    spread = torch.nn.Parameter(torch.ones(4, device=device))
    spread.grad = torch.ones(1, device=device).expand(4)
    optimizer = optim.SGD([param, row, spread], lr=0.5)
    optimizer.step(zero_grad=True)
    for each in (param, row, spread):
        assert (each == 0.5).all()
        assert (each.grad == 0).all()


def test_groups_that_are_steps_of_their_own(device):
    """Two rules are two calls: what the first zeroes must not be what the second reads."""
    params = parameters(weights(torch.float16, device))
    groups = [{"params": params[:2], "momentum": 0.9}, {"params": params[2:]}]
    optimizer = optim.SGD(groups, lr=0.5)
    accumulate(params, gradients(1, torch.float16, device)[0])
    start = [param.detach().clone() for param in params]
    optimizer.step(zero_grad=True)
    assert is_zero(param.grad for param in params)
    assert all(not torch.equal(a, b) for a, b in zip(start, params, strict=True) if b.numel())

    first, second = (torch.nn.Parameter(torch.zeros(8, device=device)) for _ in range(2))
    memory = torch.ones(12, device=device)
    first.grad, second.grad = memory[:8], memory[4:]
    apart = optim.SGD([{"params": [first], "momentum": 0.9}, {"params": [second]}], lr=0.5)
    with pytest.raises(RuntimeError, match="zero_grad: got two parameters whose gradients share memory"):
        apart.step(zero_grad=True)
    assert is_zero([first.detach(), second.detach()])
    assert memory.sum() == 12
    apart.step()
    assert (second == -0.5).all()


def test_autograd_notices(device):
    param = torch.nn.Parameter(torch.ones(3, device=device))
    param.grad = torch.ones(3, device=device)
    version = param.grad._version
    optim.SGD([param], lr=0.5).step()
    assert param.grad._version == version
    optim.SGD([param], lr=0.5).step(zero_grad=True)
    assert param.grad._version > version


def test_a_refused_step_zeroes_nothing(device):
    params = parameters(weights(torch.float32, device))
    optimizer = optim.AdamW(params)
    accumulate(params, gradients(1, torch.float32, device)[0])
    params[0].data = params[0].data.half()
    kept = params[1].grad.clone()
    with pytest.raises(RuntimeError, match="gradient of parameter 0"):
        optimizer.step(zero_grad=True)
    assert torch.equal(params[1].grad, kept)
