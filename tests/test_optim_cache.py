"""What an optimizer remembers from step to step: every change between steps counts as if it remembered nothing."""

from __future__ import annotations

import copy
import gc
import pickle
import weakref

import pytest
import torch
from cases.amp import started
from cases.optim import gradients, same_bits, snapshot

from halfops import optim
from halfops._ops import optim_plan
from halfops.amp import GradScaler
from halfops.amp import grad_scaler as scaler_module

NEEDS_KERNEL = "optim_step_"

SHAPES = [(6, 6), (5,), (), (0, 4), (2, 3, 4, 5)]


def parameters(device, dtype=torch.float16):
    generator = torch.Generator().manual_seed(3)
    return [torch.nn.Parameter(torch.randn(shape, generator=generator).to(device, dtype)) for shape in SHAPES]


def set_gradients(params, step):
    for param, grad in zip(params, step, strict=True):
        if param.grad is None or param.grad.dtype != param.dtype or param.grad.shape != param.shape:
            param.grad = None
            param.grad = grad.to(param.dtype).reshape(param.shape)
        else:
            param.grad.copy_(grad.reshape(param.shape))  # the same memory, as a training loop has it


# -- changes between steps: (optimizer, parameters, the device's gradients) -> None, after gradients are set


def nothing(optimizer, params):
    pass


def new_gradient(optimizer, params):
    params[1].grad = params[1].grad.clone()


def gradient_turned_over(optimizer, params):
    params[0].grad = params[0].grad.t()  # address and sizes stay


def gradient_turned_in_place(optimizer, params):
    params[0].grad.t_()


def gradient_with_gaps(optimizer, params):
    params[1].grad = torch.stack([params[1].grad, params[1].grad * 2], 1)[:, 1]


def no_gradient(optimizer, params):
    params[1].grad = None


def no_gradients(optimizer, params):
    optimizer.zero_grad(set_to_none=True)


def zeroed_gradients(optimizer, params):
    optimizer.zero_grad(set_to_none=False)


def other_memory(optimizer, params):
    params[1].data = params[1].data.clone()


def other_memory_everywhere(optimizer, params):
    for param in params:
        param.data = param.data * 1.5


def parameter_turned_over(optimizer, params):
    params[0].data = params[0].data.t()


def other_dtype(optimizer, params):
    for param in params:
        param.data, param.grad = param.data.bfloat16(), None


def state_replaced(optimizer, params):
    optimizer.state[params[1]]["exp_avg"] = optimizer.state[params[1]]["exp_avg"] * 3


def state_moved(optimizer, params):
    state = optimizer.state[params[1]]
    state["exp_avg_sq"].data = state["exp_avg_sq"].data * 3


def master_moved(optimizer, params):
    state = optimizer.state[params[0]]
    state["master_remainder"].data = torch.zeros_like(state["master_remainder"])


def steps_moved(optimizer, params):
    optimizer.state[params[2]]["step"] = torch.tensor(7.0, device=params[2].device)


def state_deleted(optimizer, params):
    del optimizer.state[params[1]]["exp_avg"]


def entry_deleted(optimizer, params):
    del optimizer.state[params[1]]


def all_state_replaced(optimizer, params):
    optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))


def group_added(optimizer, params):
    extra = torch.nn.Parameter(torch.ones(3, device=params[0].device, dtype=params[0].dtype))
    extra.grad = torch.full_like(extra, 0.5)
    optimizer.add_param_group({"params": [extra], "lr": 0.3})


def group_replaced(optimizer, params):
    optimizer.param_groups[0] = {**optimizer.param_groups[0], "lr": 0.5}


def parameter_to_another_group(optimizer, params):
    first, second = optimizer.param_groups[:2]
    second["params"].insert(0, first["params"].pop())


def parameter_replaced(optimizer, params):
    new = torch.nn.Parameter(params[1].detach() * 2)
    new.grad = params[1].grad
    optimizer.param_groups[0]["params"][1] = params[1] = new


def parameter_removed(optimizer, params):
    optimizer.param_groups[0]["params"].pop(0)


def rounding_changed(optimizer, params):
    optimizer.rounding = "stochastic"


def averages_wanted(optimizer, params):
    optimizer.ema_decay = 0.5


CHANGES = [
    nothing, new_gradient, gradient_turned_over, gradient_turned_in_place, gradient_with_gaps, no_gradient,
    no_gradients, zeroed_gradients, other_memory, other_memory_everywhere, parameter_turned_over, other_dtype,
    state_replaced, state_moved, master_moved, steps_moved, state_deleted, entry_deleted, all_state_replaced,
    group_added, group_replaced, parameter_to_another_group, parameter_replaced, parameter_removed, rounding_changed,
    averages_wanted,
]  # fmt: skip


def trained(change, device, *, remember, zero_grad=False, with_scaler=False):
    """Three steps, a change, three steps; the change comes when the gradients of its step are there."""
    params = parameters(device)
    options = {"master": "none"} if change is rounding_changed else {}
    groups = [{"params": params[:3]}, {"params": params[3:], "lr": 0.02}]
    optimizer = optim.AdamW(groups, lr=0.05, max_grad_norm=1.0, **options)
    scaler = started(GradScaler(device.type, init_scale=1.0, growth_interval=10**6))
    for turn, step in enumerate(gradients(6, torch.float32, device, shapes=SHAPES)):
        set_gradients(params, step)
        if turn == 3:
            change(optimizer, params)
        if not remember:
            optimizer._work = None
        if not with_scaler:
            optimizer.step(zero_grad=zero_grad)
        elif any(param.grad is not None for group in optimizer.param_groups for param in group["params"]):
            scaler.step(optimizer, zero_grad=zero_grad)
            scaler.update()
    gradients_left = [param.grad.clone() for param in params if param.grad is not None]
    return [*snapshot(optimizer), *gradients_left], [param.dtype for param in params]


@pytest.mark.parametrize("how", ["step", "zeroing step", "scaler"])
@pytest.mark.parametrize("change", CHANGES)
def test_every_change_counts(change, how, device, access):
    options = {"zero_grad": how == "zeroing step", "with_scaler": how == "scaler"}
    got, dtypes = trained(change, device, remember=True, **options)
    optim_plan.set_grad_access(False)
    # The oracle forgets everything before each step. A cast is told from what is remembered, so it zeroes for itself.
    change_of_oracle = cast_without_memory if change is other_dtype else change
    wanted, _ = trained(change_of_oracle, device, remember=False, **options)
    assert same_bits(got, wanted)
    assert dtypes[0] == (torch.bfloat16 if change is other_dtype else torch.float16)
    if change is not nothing:
        same, _ = trained(nothing, device, remember=False, **options)
        harmless = {new_gradient, other_memory, all_state_replaced}
        assert same_bits(wanted, same) == (change in harmless), "the change changes what it should"


def cast_without_memory(optimizer, params):
    other_dtype(optimizer, params)
    for param in params:
        optimizer.state[param]["master_remainder"].zero_()


def test_a_gradient_that_was_copied_is_zeroed_itself(device, access):
    param = torch.nn.Parameter(torch.zeros(3, 2, device=device))
    optimizer = optim.SGD([param], lr=1.0)
    for _ in range(3):
        param.grad = torch.ones(2, 3, device=device).t()
        optimizer.step(zero_grad=True)
        assert not param.grad.any()
    assert (param == -3).all()


# -- when nothing changed, nothing is built


def test_plans_are_kept(device, access):
    params = parameters(device)
    optimizer = optim.AdamW(params)
    plans = set()
    for step in gradients(4, torch.float16, device, shapes=SHAPES):
        for param, grad in zip(params, step, strict=True):
            param.grad = grad
        optimizer.step()
        plans.add(tuple(call.plan.number for call in optimizer._work.calls))
    assert len(plans) == 1


def test_python_sees_no_gradient_of_an_ordinary_step(device, monkeypatch):
    if not optim_plan.grad_access():
        pytest.skip("gradients are not read here")
    params = parameters(device)
    optimizer = optim.AdamW(params, max_grad_norm=1.0)
    scaler = started(GradScaler(device.type))
    given = []
    real = optim_plan.Plan.take
    monkeypatch.setattr(optim_plan.Plan, "take", lambda plan, *args: (given.append(plan), real(plan, *args)))
    for turn, step in enumerate(gradients(6, torch.float16, device, shapes=SHAPES)):
        for param, grad in zip(params, step, strict=True):
            param.grad = grad
        if turn % 2:
            optimizer.step()
        else:
            scaler.step(optimizer)
            scaler.update()
    assert len(given) == 1, "at the first step, when C++ compares what it reads"


class ElsewhereParameter(torch.nn.Parameter):
    """Keeps its gradient where C++ does not look, as some frameworks' parameters do."""

    @property
    def grad(self):
        return self.__dict__.get("main")

    @grad.setter
    def grad(self, value):
        self.__dict__["main"] = value


@pytest.mark.parametrize("decoy", [False, True])
def test_gradients_that_python_has_and_torch_has_not(decoy, device, access):
    param = ElsewhereParameter(torch.zeros(3, device=device))
    if decoy:
        torch.nn.Parameter.grad.__set__(param, torch.full((3,), 100.0, device=device))
    optimizer = optim.SGD([param], lr=1.0)
    for _ in range(4):
        param.grad = torch.ones(3, device=device)
        optimizer.step()
    assert param.tolist() == [-4.0] * 3


# -- plans and their owners


def test_plans_die_with_their_optimizer(device, access):
    gc.collect()
    before = optim_plan.live_plans()
    params = parameters(device)
    optimizer = optim.SGD([{"params": params[:2]}, {"params": params[2:], "momentum": 0.9}], lr=0.1)
    set_gradients(params, gradients(1, torch.float16, device, shapes=SHAPES)[0])
    optimizer.step()
    assert len(optim_plan.live_plans()) == len(before) + 2
    other_memory(optimizer, params)
    optimizer.step()
    assert len(optim_plan.live_plans()) == len(before) + 2, "old ones go when new ones come"
    alive = weakref.ref(params[0])
    del optimizer, params
    gc.collect()
    assert optim_plan.live_plans() == before
    assert alive() is None


@pytest.mark.parametrize("how", ["deepcopy", "pickle"])
def test_copies_have_their_own_plans(how, device, access):
    params = parameters(device)
    optimizer = optim.AdamW(params)
    steps = gradients(3, torch.float16, device, shapes=SHAPES)
    set_gradients(params, steps[0])
    optimizer.step()
    twin = copy.deepcopy(optimizer) if how == "deepcopy" else pickle.loads(pickle.dumps(optimizer))
    own = twin.param_groups[0]["params"]
    before = snapshot(optimizer)
    set_gradients(own, steps[1])
    twin.step()
    assert same_bits(snapshot(optimizer), before)
    assert twin._work.calls[0].plan.number != optimizer._work.calls[0].plan.number
    set_gradients(params, steps[1])
    optimizer.step()
    assert same_bits(snapshot(optimizer), snapshot(twin))


def test_two_optimizers_over_the_same_parameters(device, access):
    ends = []
    for remember in (True, False):
        params = parameters(device)
        optimizers = [optim.AdamW(params, lr=0.05), optim.SGD(params[:3], lr=0.1, momentum=0.9)]
        for step in gradients(4, torch.float16, device, shapes=SHAPES):
            set_gradients(params, step)
            for optimizer in optimizers:
                if not remember:
                    optimizer._work = None
                optimizer.step()
        ends.append(snapshot(optimizers[0]) + snapshot(optimizers[1]))
        del optimizers[0]
        gc.collect()
        optimizers[0].step()
    assert same_bits(*ends)


def test_gradients_are_not_kept_alive(device, access):
    param = torch.nn.Parameter(torch.ones(64, device=device))
    optimizer = optim.SGD([param], lr=0.1, max_grad_norm=1.0)
    for _ in range(3):
        param.grad = torch.ones(64, device=device)
        alive = weakref.ref(param.grad)
        optimizer.step()
        param.grad = None
        assert alive() is None


def test_a_failed_step_leaves_nothing_behind(device, access):
    param = torch.nn.Parameter(torch.ones(4, device=device))
    optimizer = optim.SGD([param], lr=0.1)
    for bad in (False, True, False):
        param.grad = torch.ones(4, device=device)
        alive = weakref.ref(param.grad)
        optimizer.param_groups[0]["lr"] = float("nan") if bad else 0.25
        if bad:
            with pytest.raises(ValueError, match="lr: got nan"):
                optimizer.step()
        else:
            optimizer.step()
        param.grad = None
        assert alive() is None
    assert param.tolist() == [0.5] * 4


# -- the scaler


def test_the_scaler_reads_through_the_plans(device, access, monkeypatch):
    """No list of gradients; figures, positions and dtypes as from one."""
    params = [*parameters(device), torch.nn.Parameter(torch.ones(3, device=device))]
    optimizer = optim.SGD([{"params": params[:2]}, {"params": params[2:], "momentum": 0.9}], lr=0.1)
    stock = torch.optim.SGD([{"params": params[:2]}, {"params": params[2:]}], lr=0.1)
    set_gradients(params[:5], gradients(1, torch.float16, device, shapes=SHAPES)[0])
    params[1].grad = None
    params[5].grad = torch.tensor([0.0, float("inf"), 0.0], device=device)
    wanted = started(GradScaler(device.type, init_scale=4.0, count_zeros=True))
    wanted._measure(stock, None)
    scaler = started(GradScaler(device.type, init_scale=4.0, count_zeros=True))
    monkeypatch.setattr(scaler_module._ops, "grad_stats", None)
    before = snapshot(optimizer)[:1]
    scaler.step(optimizer)
    assert same_bits(snapshot(optimizer)[:1], before)
    assert scaler.report().tensors == wanted.report().tensors
    assert scaler.report().overflowed == ("groups[1].params[3]",)


def test_a_hook_between_check_and_step_counts(device, access):
    param = torch.nn.Parameter(torch.zeros(3, device=device))
    optimizer = optim.SGD([param], lr=1.0)
    scaler = started(GradScaler(device.type, init_scale=1.0))

    def replace(*_):
        param.grad = param.grad * 2

    optimizer.register_step_pre_hook(replace)
    for _ in range(3):
        param.grad = torch.ones(3, device=device)
        scaler.step(optimizer)
        scaler.update()
    assert param.tolist() == [-6.0] * 3


def test_gradients_of_two_calls_that_share_memory(device, access):
    params = [torch.nn.Parameter(torch.zeros(3, device=device)) for _ in range(2)]
    optimizer = optim.SGD([{"params": params[:1]}, {"params": params[1:], "momentum": 0.9}], lr=1.0)
    params[0].grad = params[1].grad = torch.ones(3, device=device)
    with pytest.raises(RuntimeError, match="zero_grad: got two parameters whose gradients share memory"):
        optimizer.step(zero_grad=True)
    assert [param.tolist() for param in params] == [[0.0] * 3] * 2
    optimizer.step()
    assert [param.tolist() for param in params] == [[-1.0] * 3] * 2
