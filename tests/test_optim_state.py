"""What is saved and loaded: resumed runs bit for bit, torch's checkpoints both ways, masters of every kind."""

import copy
import io
import pickle

import pytest
import torch
from cases.optim import (
    CASES,
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

from halfops import optim

NEEDS_KERNEL = "optim_step_"


PEERS = {case.name: case for case in CASES if case.peer is not None}
each_peer = pytest.mark.parametrize("case", PEERS.values(), ids=PEERS)


def through_a_file(value):
    file = io.BytesIO()
    torch.save(value, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def copies(params):
    return parameters([param.detach() for param in params])


# -- ours to ours


@each_case
@each_dtype
@each_master
def test_an_interrupted_run_continues_bit_for_bit(case, dtype, master, device):
    options = {**case.hyper, "master": master, "rounding": "stochastic" if master == "none" else "nearest"}
    grads = gradients(6, dtype, device)
    whole = parameters(weights(dtype, device))
    uninterrupted = case.make(whole, **options)
    run(uninterrupted, whole, grads)

    first = parameters(weights(dtype, device))
    before = case.make(first, **options)
    run(before, first, grads[:3])
    saved = through_a_file({"weights": [param.detach() for param in first], "optimizer": before.state_dict()})
    second = parameters(saved["weights"])
    after = case.make(second, **{**options, "lr": 123.0})  # the checkpoint's learning rate counts
    after.load_state_dict(saved["optimizer"])
    assert same_bits(snapshot(after), snapshot(before))
    run(after, second, grads[3:])
    assert same_bits(snapshot(after), snapshot(uninterrupted))


@each_half
def test_the_optimizer_may_be_loaded_before_the_model(dtype, device):
    grads = gradients(4, dtype, device)
    params = parameters(weights(dtype, device))
    optimizer = optim.AdamW(params)
    run(optimizer, params, grads[:2])
    other = parameters(weights(dtype, device, seed=5))
    late = optim.AdamW(other)
    late.load_state_dict(optimizer.state_dict())
    with torch.no_grad():
        for param, weight in zip(other, params, strict=True):
            param.copy_(weight)
    run(optimizer, params, grads[2:])
    run(late, other, grads[2:])
    assert same_bits(snapshot(late), snapshot(optimizer))


@each_half
@each_master
def test_moments_and_masters_keep_dtype_and_bits(dtype, master, device):
    params = parameters(weights(dtype, device))
    optimizer = optim.AdamW(params, master=master)
    run(optimizer, params, gradients(3, dtype, device))
    other = optim.AdamW(copies(params), master=master)
    other.load_state_dict(state_dict=optimizer.state_dict())
    kinds = {"split": ("master_remainder", torch.int16), "fp32": ("master_param", torch.float32)}
    for a, b in zip(optimizer.state.values(), other.state.values(), strict=True):
        assert a.keys() == b.keys()
        assert all(torch.equal(a[name], b[name]) and a[name].dtype == b[name].dtype for name in a)
        assert b["exp_avg"].dtype == b["exp_avg_sq"].dtype == b["step"].dtype == torch.float32
        if master != "none":
            name, kind = kinds[master]
            assert b[name].dtype == kind
        assert {"master_remainder", "master_param"} & set(b) == ({kinds[master][0]} if master != "none" else set())


def test_a_loaded_optimizer_shares_nothing_with_its_checkpoint(device):
    params = parameters(weights(torch.float16, device))
    optimizer, other = optim.AdamW(params), optim.AdamW(copies(params))
    run(optimizer, params, gradients(2, torch.float16, device))
    other.load_state_dict(optimizer.state_dict())
    before = snapshot(other)
    run(optimizer, params, gradients(2, torch.float16, device, seed=9))
    assert same_bits(snapshot(other), before)


@each_dtype
@each_master
@pytest.mark.parametrize("how", ["deepcopy", "pickle"])
def test_copies_continue_on_their_own(dtype, master, how, device):
    params = parameters(weights(dtype, device))
    rounding = "stochastic" if master == "none" else "nearest"
    optimizer = optim.AdamW(params, master=master, rounding=rounding, seed=3, max_grad_norm=0.7, fused_unscale=False)
    grads = gradients(4, dtype, device)
    run(optimizer, params, grads[:2])
    twin = copy.deepcopy(optimizer) if how == "deepcopy" else pickle.loads(pickle.dumps(optimizer))
    assert not twin._step_supports_amp_scaling
    before = snapshot(optimizer)
    run(twin, twin.param_groups[0]["params"], grads[2:])
    assert same_bits(snapshot(optimizer), before)
    run(optimizer, params, grads[2:])
    assert same_bits(snapshot(optimizer), snapshot(twin))


def test_state_dict_hooks_see_what_they_see_in_torch(device):
    params = parameters(weights(torch.float16, device))
    optimizer, other = optim.AdamW(params), optim.AdamW(copies(params))
    run(optimizer, params, gradients(2, torch.float16, device))
    seen = []

    def halve(_, state_dict):
        state_dict = copy.deepcopy(state_dict)
        state_dict["param_groups"][0]["lr"] /= 2
        return state_dict

    other.register_load_state_dict_pre_hook(halve)
    other.register_load_state_dict_post_hook(
        lambda opt: seen.append(opt.state[opt.param_groups[0]["params"][1]]["step"])
    )
    other.load_state_dict(optimizer.state_dict())
    assert other.param_groups[0]["lr"] == optimizer.param_groups[0]["lr"] / 2
    assert seen[0] == 2
    assert len(other._optimizer_load_state_dict_pre_hooks) == len(other._optimizer_load_state_dict_post_hooks) == 1


def test_state_of_no_parameter_is_carried_along(device):
    params = parameters(weights(torch.float16, device))
    optimizer = optim.AdamW(params)
    run(optimizer, params, gradients(1, torch.float16, device))
    saved = optimizer.state_dict()
    saved["state"]["note"] = "resumed twice"
    other = optim.AdamW(copies(params))
    other.load_state_dict(saved)
    run(other, other.param_groups[0]["params"], gradients(1, torch.float16, device))
    assert other.state["note"] == "resumed twice"


# -- between kinds of masters


@each_half
@pytest.mark.parametrize(("source", "target"), [("split", "fp32"), ("fp32", "split")])
def test_masters_convert_exactly(source, target, dtype, device):
    grads = gradients(6, dtype, device)
    start = [weight.sign() * weight.abs().clamp_min(0.5) for weight in weights(dtype, device)]
    params = parameters(start)
    optimizer = optim.AdamW(params, master=source)
    run(optimizer, params, grads[:3])
    other = copies(params)
    converted = optim.AdamW(other, master=target)
    converted.load_state_dict(optimizer.state_dict())
    assert same_bits(converted.master_params(), optimizer.master_params())
    run(optimizer, params, grads[3:])
    run(converted, other, grads[3:])
    assert same_bits(converted.master_params(), optimizer.master_params())


def test_a_tie_of_bfloat16_moves_the_weight_with_its_split(device):
    """1 + 2^-8 lies between two bfloat16: to even it is 1, but only the split's own 1 + 2^-7 has a remainder for it."""
    params = parameters([torch.tensor([1 + 2**-8, 1.0], device=device).bfloat16()])
    optimizer = optim.AdamW(params, master="fp32")
    run(optimizer, params, [[torch.zeros(2)]])
    optimizer.state[params[0]]["master_param"].copy_(torch.tensor([1 + 2**-8, 1.0]))
    assert params[0][0] == 1
    split = optim.AdamW(params, master="split")
    split.load_state_dict(optimizer.state_dict())
    assert split.master_params()[0].tolist() == [1 + 2**-8, 1.0]
    assert params[0].tolist() == [1 + 2**-7, 1.0]


@each_half
@pytest.mark.parametrize("target", ["split", "fp32"])
def test_a_missing_master_is_built_from_the_weights(target, dtype, device):
    params = parameters(weights(dtype, device))
    optimizer = optim.AdamW(params, master="none")
    run(optimizer, params, gradients(2, dtype, device))
    other = optim.AdamW(params, master=target)
    other.load_state_dict(optimizer.state_dict())
    assert same_bits(other.master_params(), [param.detach().float() for param in params])
    dropped = optim.AdamW(params, master="none")
    dropped.load_state_dict(other.state_dict())
    assert {"master_param", "master_remainder"}.isdisjoint(dropped.state[params[1]])


def test_float32_weights_take_a_float32_master(device):
    params = parameters(weights(torch.float16, device))
    optimizer = optim.AdamW(params, master="fp32")
    run(optimizer, params, gradients(2, torch.float16, device))
    wide = parameters([param.detach().float() for param in params])
    other = optim.AdamW(wide)
    other.load_state_dict(optimizer.state_dict())
    assert same_bits([param.detach() for param in wide], optimizer.master_params())


@each_half
@each_master
def test_edited_weights_become_masters(dtype, master, device):
    params = parameters(weights(dtype, device))
    optimizer = optim.AdamW(params, master=master)
    optimizer.sync_master_from_model()  # no state yet: nothing to do
    run(optimizer, params, gradients(2, dtype, device))
    with torch.no_grad():
        for param in params:
            param.mul_(2)
    optimizer.sync_master_from_model()
    assert same_bits(optimizer.master_params(), [param.detach().float() for param in params])
    edited = [param.detach().clone() for param in params]
    optimizer.param_groups[0]["lr"] = 0.0
    run(optimizer, params, gradients(1, dtype, device))
    assert same_bits([param.detach() for param in params], edited)


@each_half
def test_without_sync_masters_are_authoritative(dtype, device):
    params = parameters(weights(dtype, device))
    optimizer = optim.AdamW(params, lr=0.0, master="fp32")
    run(optimizer, params, gradients(1, dtype, device))
    kept = [param.detach().clone() for param in params]
    with torch.no_grad():
        for param in params:
            param.zero_()
    run(optimizer, params, gradients(1, dtype, device))
    assert same_bits([param.detach() for param in params], kept)


# -- torch's checkpoints


def near(a, b, steps):
    """Equal up to a few float32 roundings a step; the weights are about 1, the learning rates at most 0.02."""
    for x, y in zip(a, b, strict=True):
        torch.testing.assert_close(x.detach(), y.detach(), rtol=2**-23 * steps * 2, atol=2**-24 * steps)


@each_peer
def test_from_torch(case, device):
    start, grads = weights(torch.float32, device), gradients(8, torch.float32, device)
    params = parameters(start)
    peer = case.peer(params, **case.hyper)
    run(peer, params, grads[:4])
    ours = copies(params)
    optimizer = case.make(ours)
    optimizer.load_state_dict(through_a_file(peer.state_dict()))
    for param, other in zip(params, ours, strict=True):
        for name in set(case.states) & set(peer.state[param]):
            assert torch.equal(peer.state[param][name], optimizer.state[other][name])
    run(peer, params, grads[4:])
    run(optimizer, ours, grads[4:])
    near(ours, params, 4)
    assert all(optimizer.param_groups[0][name] == value for name, value in case.hyper.items())


@each_peer
def test_to_torch(case, device):
    start, grads = weights(torch.float32, device), gradients(8, torch.float32, device)
    params = parameters(start)
    optimizer = case.make(params, **case.hyper)
    run(optimizer, params, grads[:4])
    theirs = copies(params)
    peer = case.peer(theirs)
    peer.load_state_dict(through_a_file(optimizer.state_dict()))
    run(peer, theirs, grads[4:])
    run(optimizer, params, grads[4:])
    near(params, theirs, 4)


@each_peer
def test_there_and_back_loses_no_bit(case, device):
    params = parameters(weights(torch.float32, device))
    optimizer = case.make(params, **case.hyper)
    run(optimizer, params, gradients(3, torch.float32, device))
    peer = case.peer(copies(params))
    peer.load_state_dict(optimizer.state_dict())
    back = case.make(copies(params))
    back.load_state_dict(peer.state_dict())
    assert same_bits(snapshot(back), snapshot(optimizer))


@each_half
@each_master
def test_half_precision_model_from_a_float32_checkpoint_of_torch(dtype, master, device):
    params = parameters(weights(torch.float32, device))
    peer = torch.optim.AdamW(params)
    run(peer, params, gradients(3, torch.float32, device))
    halves = parameters([param.detach().to(dtype) for param in params])
    optimizer = optim.AdamW(halves, master=master)
    optimizer.load_state_dict(peer.state_dict())
    for param, other in zip(params, halves, strict=True):
        assert torch.equal(optimizer.state[other]["exp_avg"], peer.state[param]["exp_avg"])
        assert optimizer.state[other]["exp_avg_sq"].dtype == torch.float32
    assert same_bits(optimizer.master_params(), [param.detach().float() for param in halves])
    run(optimizer, halves, gradients(1, dtype, device))


def test_half_precision_moments_of_torch_become_float32(device):
    params = parameters(weights(torch.bfloat16, device))
    peer = torch.optim.AdamW(params)
    run(peer, params, gradients(3, torch.bfloat16, device))
    optimizer = optim.AdamW(copies(params))
    optimizer.load_state_dict(peer.state_dict())
    for a, b in zip(peer.state.values(), optimizer.state.values(), strict=True):
        assert torch.equal(a["exp_avg"].float(), b["exp_avg"])
        assert b["exp_avg"].dtype == torch.float32


@pytest.mark.parametrize("count", [3, 3.0, torch.tensor(3), torch.tensor([3.0])], ids=str)
def test_step_counters_of_every_age(count, device):
    params = parameters(weights(torch.float32, device))
    optimizer = optim.AdamW(params)
    run(optimizer, params, gradients(3, torch.float32, device))
    old = copy.deepcopy(optimizer.state_dict())
    for entry in old["state"].values():
        entry["step"] = count
    del old["param_groups"][0]["maximize"]  # younger than some checkpoints
    other = optim.AdamW(copies(params))
    other.load_state_dict(old)
    run(optimizer, params, gradients(1, torch.float32, device))
    run(other, other.param_groups[0]["params"], gradients(1, torch.float32, device))
    assert same_bits(snapshot(other), snapshot(optimizer))


def test_masters_that_went_through_torch_are_out_of_date(device):
    """torch casts a remainder or a master to the weight's dtype and steps the weight alone: the weight counts."""
    params = parameters(weights(torch.float16, device))
    for master in ("split", "fp32"):
        optimizer = optim.AdamW(params, master=master)
        run(optimizer, params, gradients(2, torch.float16, device))
        peer = torch.optim.AdamW(params)
        peer.load_state_dict(optimizer.state_dict())
        run(peer, params, gradients(1, torch.float16, device))
        back = optim.AdamW(params, master=master)
        back.load_state_dict(peer.state_dict())
        assert same_bits(back.master_params(), [param.detach().float() for param in params])


# -- distributed checkpoints: the initialisation that torch.distributed.checkpoint does


@each_case
@each_dtype
@each_master
def test_a_step_of_zeros_with_no_learning_rate_changes_no_weight(case, dtype, master, device):
    start = weights(dtype, device)
    params = parameters(start)
    optimizer = case.make(params, **{**case.hyper, "lr": 0.0}, master=master, max_grad_norm=1.0)
    run(optimizer, params, [[torch.zeros_like(param) for param in params]])
    assert same_bits([param.detach() for param in params], start)


@each_master
def test_torch_distributed_checkpoint(master, device):
    from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict, set_optimizer_state_dict

    def build():
        torch.manual_seed(0)
        model = torch.nn.Linear(5, 3, device=device, dtype=torch.float16)
        return model, optim.AdamW(model.parameters(), master=master)

    model, optimizer = build()
    grads = gradients(4, torch.float16, device, shapes=[(3, 5), (3,)])
    run(optimizer, list(model.parameters()), grads[:2])
    saved = copy.deepcopy(get_optimizer_state_dict(model, optimizer))
    weights_saved = copy.deepcopy(model.state_dict())
    other_model, other = build()
    other_model.load_state_dict(weights_saved)
    set_optimizer_state_dict(other_model, other, saved)
    run(optimizer, list(model.parameters()), grads[2:])
    run(other, list(other_model.parameters()), grads[2:])
    assert same_bits(snapshot(other), snapshot(optimizer))


@each_half
@pytest.mark.parametrize(("source", "target"), [("split", "split"), ("split", "fp32"), ("fp32", "split")])
@pytest.mark.parametrize("layouts", [(True, False), (False, True), (True, True)], ids=str)
def test_checkpoints_do_not_care_about_memory_layouts(source, target, layouts, dtype, device):
    shapes = [(2, 3, 4, 5), (3, 3, 1, 7)]
    start = [weight.sign() * weight.abs().clamp_min(0.5) for weight in weights(dtype, device, shapes=shapes)]
    grads = gradients(4, dtype, device, shapes=shapes)
    formats = [torch.channels_last if last else torch.contiguous_format for last in layouts]
    params = [torch.nn.Parameter(weight.to(memory_format=formats[0])) for weight in start]
    optimizer = optim.AdamW(params, master=source)
    run(optimizer, params, grads[:2])
    other = [torch.nn.Parameter(param.detach().clone(memory_format=formats[1])) for param in params]
    loaded = optim.AdamW(other, master=target)
    loaded.load_state_dict(through_a_file(optimizer.state_dict()))
    assert loaded.state[other[0]]["exp_avg"].stride() == other[0].stride()
    run(optimizer, params, grads[2:])
    run(loaded, other, grads[2:])
    assert same_bits(loaded.master_params(), optimizer.master_params())
