"""Every complaint of the optimizers: its type, its words, and that nothing changed before it."""

import re

import pytest
import torch
from cases.optim import CASES, gradients, parameters, run, same_bits, snapshot, weights

from halfops import optim

NAN, INF = float("nan"), float("inf")
each_class = pytest.mark.parametrize("make", [optim.AdamW, optim.Adam, optim.SGD, optim.Lion, optim.LAMB])


def raises(error, *words):
    """In this order, whatever lies between."""
    return pytest.raises(error, match="(?s)" + ".*".join(map(re.escape, words)))


# -- hyper-parameters


@each_class
@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"lr": -1e-3}, ValueError, ["lr: got -0.001, wanted a finite number >= 0"]),
        ({"lr": NAN}, ValueError, ["lr: got nan, wanted a finite number >= 0"]),
        ({"lr": INF}, ValueError, ["lr: got inf, wanted a finite number >= 0"]),
        ({"lr": "fast"}, TypeError, ["lr: got 'fast' (str), wanted a number or a one-element tensor"]),
        ({"lr": None}, TypeError, ["lr: got None (NoneType), wanted a number"]),
        ({"lr": True}, TypeError, ["lr: got True (bool), wanted a number"]),
        (
            {"lr": torch.tensor([0.1, 0.2])},
            ValueError,
            ["lr: got a torch.float32 tensor of shape [2], wanted a real"],
        ),
        ({"lr": torch.tensor(NAN)}, ValueError, ["lr: got nan, wanted a finite number >= 0"]),
        ({"lr": torch.tensor(1j)}, ValueError, ["lr: got a torch.complex64 tensor of shape [], wanted a real one"]),
        ({"weight_decay": -0.1}, ValueError, ["weight_decay: got -0.1, wanted a finite number >= 0"]),
        ({"weight_decay": NAN}, ValueError, ["weight_decay: got nan, wanted a finite number >= 0"]),
        ({"master": "fp16"}, ValueError, ["master: got 'fp16', wanted one of 'split', 'fp32', 'none'"]),
        ({"master": None}, ValueError, ["master: got None, wanted one of 'split', 'fp32', 'none'"]),
        ({"rounding": "up"}, ValueError, ["rounding: got 'up', wanted one of 'nearest', 'stochastic'"]),
        ({"max_grad_norm": -1.0}, ValueError, ["max_grad_norm: got -1.0, wanted a finite number >= 0"]),
        ({"max_grad_norm": NAN}, ValueError, ["max_grad_norm: got nan, wanted a finite number >= 0"]),
        ({"max_grad_norm": "1"}, TypeError, ["max_grad_norm: got '1' (str), wanted a number"]),
        ({"state_dtype": torch.float16}, NotImplementedError, ["state_dtype: got torch.float16, wanted torch.float32"]),
        (
            {"state_dtype": "8bit"},
            NotImplementedError,
            ["state_dtype: got '8bit', wanted", "later release"],
        ),
        ({"seed": 1.5}, TypeError, ["seed: got 1.5 (float), wanted an int"]),
        ({"seed": -1}, ValueError, ["seed: got -1, wanted an int in [0, 2**63)"]),
        ({"differentiable": True}, NotImplementedError, ["differentiable: got True, wanted False", "torch.optim"]),
        (
            {"rounding": "stochastic"},
            ValueError,
            ["rounding: got 'stochastic' with master='split' for parameter 0 (torch.float16)", "pass master='none'"],
        ),
        (
            {"rounding": "stochastic", "master": "fp32"},
            ValueError,
            ["rounding: got 'stochastic' with master='fp32' for parameter 0", "pass master='none'"],
        ),
    ],
)
def test_hyper_parameters(make, arguments, error, words):
    with raises(error, *words):
        make(parameters(weights(torch.float16, "cpu")), **arguments)


@pytest.mark.parametrize("make", [optim.AdamW, optim.Adam, optim.Lion, optim.LAMB])
@pytest.mark.parametrize(
    ("betas", "error", "words"),
    [
        ((1.0, 0.9), ValueError, "betas[0]: got 1.0, wanted a number in [0, 1)"),
        ((0.9, -0.1), ValueError, "betas[1]: got -0.1, wanted a number in [0, 1)"),
        ((0.9, NAN), ValueError, "betas[1]: got nan, wanted a number in [0, 1)"),
        ((0.9,), TypeError, "betas: got (0.9,), wanted two numbers, as in betas=(0.9, 0.999)"),
        (0.9, TypeError, "betas: got 0.9, wanted two numbers"),
        (("a", 0.9), TypeError, "betas[0]: got 'a' (str), wanted a number"),
    ],
)
def test_betas(make, betas, error, words):
    with raises(error, words):
        make(parameters(weights(torch.float16, "cpu")), betas=betas)


@pytest.mark.parametrize(
    ("make", "arguments", "error", "words"),
    [
        (optim.AdamW, {"eps": -1e-8}, ValueError, "eps: got -1e-08, wanted a finite number >= 0"),
        (optim.LAMB, {"eps": NAN}, ValueError, "eps: got nan, wanted a finite number >= 0"),
        (optim.AdamW, {"amsgrad": True}, NotImplementedError, "amsgrad: got True, wanted False"),
        (optim.Adam, {"amsgrad": True}, NotImplementedError, "amsgrad: got True, wanted False"),
        (optim.SGD, {"momentum": -0.9}, ValueError, "momentum: got -0.9, wanted a finite number >= 0"),
        (optim.SGD, {"momentum": NAN}, ValueError, "momentum: got nan, wanted a finite number >= 0"),
        (optim.SGD, {"dampening": NAN}, ValueError, "dampening: got nan, wanted a finite number"),
        (optim.SGD, {"nesterov": True}, ValueError, "nesterov: got True with momentum=0 and dampening=0, wanted"),
        (
            optim.SGD,
            {"nesterov": True, "momentum": 0.9, "dampening": 0.1},
            ValueError,
            "nesterov: got True with momentum=0.9 and dampening=0.1, wanted a momentum above 0 and no dampening",
        ),
    ],
)
def test_hyper_parameters_of_one_class(make, arguments, error, words):
    with raises(error, words):
        make(parameters(weights(torch.float16, "cpu")), **arguments)


@each_class
def test_stochastic_rounding_with_a_master_is_fine_for_float32(make):
    make(parameters(weights(torch.float32, "cpu")), rounding="stochastic")


# -- parameters and groups


def leaf(tensor):
    return tensor.requires_grad_()


@each_class
@pytest.mark.parametrize(
    ("params", "error", "words"),
    [
        (lambda: [], ValueError, ["params: got an empty list, wanted at least one parameter"]),
        (lambda: iter(()), ValueError, ["params: got an empty list"]),
        (lambda: torch.zeros(3), TypeError, ["params argument", "should be an iterable of Tensors"]),
        (lambda: [3.0], TypeError, ["can only optimize Tensors"]),
        (lambda: [leaf(torch.zeros(3)) * 2], ValueError, ["can't optimize a non-leaf Tensor"]),
        (
            lambda: [torch.zeros(3), leaf(torch.zeros(3).double())],
            TypeError,
            ["parameter 1: got torch.float64"],
        ),
        (lambda: [leaf(torch.zeros(3, dtype=torch.cfloat))], TypeError, ["got torch.complex64", "torch.view_as_real"]),
        (lambda: [leaf(torch.zeros(3).to_sparse())], TypeError, ["got a torch.sparse_coo tensor, wanted a dense one"]),
        (lambda: [leaf(torch.zeros(4, 4)[:, ::2])], ValueError, ["got shape [4, 2] with strides", ".contiguous()"]),
        (lambda: [leaf(torch.zeros(1).expand(3))], ValueError, ["shape [3] with strides [0]", "every element once"]),
    ],
)
def test_parameters(make, params, error, words):
    with raises(error, *words):
        make(params())


@each_class
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float64, torch.cfloat], ids=str)
def test_frozen_parameters_may_be_anything_until_they_have_a_gradient(make, dtype):
    frozen = torch.nn.Parameter(torch.ones(3, dtype=dtype), requires_grad=False)
    trained = torch.nn.Parameter(torch.ones(3))
    optimizer = make([frozen, trained], lr=0.1)
    trained.grad = torch.ones(3)
    optimizer.step()
    optimizer.load_state_dict(optimizer.state_dict())
    assert frozen.tolist() == [1, 1, 1]
    assert trained[0] != 1
    frozen.grad = torch.ones_like(frozen)
    with raises(TypeError, f"parameter 0: got {dtype}, wanted"):
        optimizer.step()


def test_the_same_parameter_twice():
    param = torch.nn.Parameter(torch.zeros(3))
    with (
        raises(ValueError, "params: got the same tensor at positions 0 and 1 of a group"),
        pytest.warns(match="duplicate"),
    ):
        optim.AdamW([param, param])
    with raises(ValueError, "more than one parameter group"):
        optim.AdamW([{"params": [param]}, {"params": [param]}])


@each_class
@pytest.mark.parametrize(
    ("group", "error", "words"),
    [
        ({"lr": -1.0}, ValueError, "lr: got -1.0"),
        ({"weight_decay": NAN}, ValueError, "weight_decay: got nan"),
        ({"differentiable": True}, NotImplementedError, "differentiable: got True"),
        ({"max_grad_norm": 1.0}, ValueError, "max_grad_norm: got it in a parameter group, wanted it as an argument"),
        ({"master": "none"}, ValueError, "master: got it in a parameter group, wanted it as an argument"),
        ({"params": [leaf(torch.zeros(3).double())]}, TypeError, "parameter 5: got torch.float64"),
    ],
)
def test_a_refused_group_is_not_added(make, group, error, words):
    params = parameters(weights(torch.float16, "cpu"))
    optimizer = make(params)
    with raises(error, words):
        optimizer.add_param_group({"params": [torch.zeros(3, requires_grad=True)], **group})
    assert len(optimizer.param_groups) == 1
    run(optimizer, params, gradients(1, torch.float16, "cpu"))


# -- at a step: nothing changes


def ready(make=optim.AdamW, dtype=torch.float16, **options):
    params = parameters(weights(dtype, "cpu"))
    optimizer = make(params, **options)
    run(optimizer, params, gradients(2, dtype, "cpu"))
    return optimizer, params


def refused_step(optimizer, error, *words):
    before = snapshot(optimizer)
    with raises(error, *words):
        optimizer.step()
    assert same_bits(snapshot(optimizer), before)


def set_grad(param, grad):
    """Past the checks of `param.grad =`, as a hook, a wrapper or a change of the parameter can do."""
    keep = param.data
    param.data = torch.empty_like(grad)
    param.grad = grad
    param.data = keep


@pytest.mark.parametrize("max_grad_norm", [None, 1.0])
@pytest.mark.parametrize(
    ("grad", "words"),
    [
        (lambda: torch.zeros(33, 65), ["gradient of parameter 2: got torch.float32, wanted torch.float16"]),
        (lambda: torch.zeros(65, 34).half(), ["gradient of parameter 2: got shape [65, 34], wanted [33, 65]"]),
    ],
    ids=["dtype", "shape"],
)
@each_class
def test_gradients(make, grad, words, max_grad_norm):
    optimizer, params = ready(make, max_grad_norm=max_grad_norm)
    set_grad(params[2], grad())
    refused_step(optimizer, RuntimeError, *words)


@pytest.mark.parametrize(
    ("grad", "words"),
    [
        (torch.zeros(3, dtype=torch.cfloat), "gradient of parameter 2: got torch.complex64, wanted torch.float32"),
        (torch.zeros(3, device="meta"), "gradient of parameter 2: is on meta, wanted cpu"),
    ],
    ids=["complex", "device"],
)
def test_gradients_that_torch_refuses_today(grad, words):
    with raises(RuntimeError, words):
        optim.checks.gradient("parameter 2", torch.zeros(3), grad)


@each_class
def test_sparse_gradient_of_an_embedding(make):
    embedding = torch.nn.Embedding(5, 3, sparse=True)
    optimizer = make(embedding.parameters())
    embedding(torch.tensor([1])).sum().backward()
    before = embedding.weight.detach().clone()
    with raises(RuntimeError, "gradient of parameter 0: got a torch.sparse_coo tensor", "nn.Embedding(sparse=False)"):
        optimizer.step()
    assert torch.equal(embedding.weight, before)


@each_class
@pytest.mark.parametrize("value", [NAN, INF, torch.tensor(NAN)], ids=str)
def test_a_number_that_became_nan_between_steps(make, value):
    optimizer, _ = ready(make)
    optimizer.param_groups[0]["lr"] = value
    refused_step(optimizer, ValueError, "lr: got", "at step(), wanted a finite number")


def test_a_parameter_cast_to_float64_between_steps():
    optimizer, params = ready()
    params[1].data = params[1].data.double()
    params[1].grad = params[1].detach().clone()
    refused_step(optimizer, TypeError, "parameter 1: got torch.float64")


def test_a_parameter_cast_to_16_bits_under_stochastic_rounding():
    params = parameters(weights(torch.float32, "cpu"))
    optimizer = optim.AdamW(params, rounding="stochastic")
    for param in params:
        param.data = param.data.half()
        param.grad = torch.zeros_like(param)
    with raises(ValueError, "rounding: got 'stochastic' with master='split' for parameter 0 (torch.float16)"):
        optimizer.step()


def test_two_parameters_over_one_storage():
    storage = torch.zeros(8)
    params = [torch.nn.Parameter(storage[:6]), torch.nn.Parameter(storage[4:])]
    optimizer = optim.AdamW(params, lr=1.0)
    for param in params:
        param.grad = torch.ones_like(param)
    with raises(RuntimeError, "shares memory with", "params["):
        optimizer.step()
    assert (storage == 0).all()


def test_nothing_changes_when_a_later_call_would_be_refused():
    storage = torch.zeros(4)
    fine = torch.nn.Parameter(torch.zeros(2))
    overlapping = [torch.nn.Parameter(storage[:3]), torch.nn.Parameter(storage[1:])]
    optimizer = optim.SGD([{"params": [fine]}, {"params": overlapping, "momentum": 0.9}], lr=1.0)
    for param in [fine, *overlapping]:
        param.grad = torch.ones_like(param)
    with raises(RuntimeError, "params[1]: shares memory with params[0]"):
        optimizer.step()
    assert fine.tolist() == [0.0, 0.0]
    assert optimizer.state[fine]["step"] == 0


def test_states_of_another_shape():
    optimizer, params = ready()
    optimizer.state[params[1]]["exp_avg"] = torch.zeros(9)
    refused_step(optimizer, RuntimeError, "got shape [9], wanted that of params[1], [7]")


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("grad_scale", torch.ones(2), "grad_scale: got torch.float32 of shape [2], wanted one"),
        ("found_inf", torch.ones(3), "found_inf: got torch.float32 of shape [3], wanted one"),
        ("grad_sumsq", torch.ones(3), "sum_of_squares: got torch.float64 of shape [3], wanted one"),
    ],
)
def test_what_a_scaler_hands_over(name, value, words):
    optimizer, _ = ready(max_grad_norm=1.0)
    setattr(optimizer, name, value)
    refused_step(optimizer, RuntimeError, words)


def test_a_device_without_optimizer_kernels():
    param = torch.nn.Parameter(torch.zeros(3, device="meta"))
    optimizer = optim.AdamW([param])
    param.grad = torch.zeros(3, device="meta")
    with raises(NotImplementedError, "parameter 0: is on meta", "python -m halfops doctor"):
        optimizer.step()
    assert not optimizer.state


# -- checkpoints: nothing changes


def refused_load(optimizer, saved, error, *words):
    before, groups = snapshot(optimizer), [dict(group) for group in optimizer.param_groups]
    with raises(error, *words):
        optimizer.load_state_dict(saved)
    assert same_bits(snapshot(optimizer), before)
    for old, new in zip(groups, optimizer.param_groups, strict=True):
        assert {**old, "params": 0} == {**new, "params": 0}
        assert all(a is b for a, b in zip(old["params"], new["params"], strict=True))
    assert not optimizer._optimizer_load_state_dict_pre_hooks
    assert not optimizer._optimizer_load_state_dict_post_hooks


def checkpoint(optimizer):
    """A copy that may be edited."""
    saved = optimizer.state_dict()
    return {
        "state": {key: dict(entry) for key, entry in saved["state"].items()},
        "param_groups": [dict(group) for group in saved["param_groups"]],
    }


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_checkpoints_that_do_not_fit(case):
    optimizer, _ = ready(case.make, **case.hyper)
    saved = checkpoint(optimizer)
    saved["param_groups"][0]["params"] = [0, 1]
    refused_load(optimizer, saved, ValueError, "state_dict: got parameter groups of [2] tensors, wanted [5]")
    saved = checkpoint(optimizer)
    saved["param_groups"].append({"params": []})
    refused_load(optimizer, saved, ValueError, "state_dict: got parameter groups of [5, 0] tensors, wanted [5]")
    saved = checkpoint(optimizer)
    saved["param_groups"][0]["lr"] = NAN
    refused_load(optimizer, saved, ValueError, "lr: got nan")
    saved = checkpoint(optimizer)
    saved["state"][4]["master_remainder"] = torch.zeros(3, dtype=torch.int16)
    words = "state_dict: got master_remainder of shape [3] for parameter 4, wanted [2, 3, 5]"
    refused_load(optimizer, saved, ValueError, words)
    if case.states[0] in saved["state"][4]:
        saved = checkpoint(optimizer)
        saved["state"][4][case.states[0]] = torch.zeros(3)
        words = f"state_dict: got {case.states[0]} of shape [3] for parameter 4, wanted [2, 3, 5]"
        refused_load(optimizer, saved, ValueError, words)


def test_amsgrad_checkpoints():
    optimizer, params = ready()
    peer = torch.optim.AdamW(params, amsgrad=True)
    run(peer, params, gradients(1, torch.float16, "cpu"))
    refused_load(optimizer, peer.state_dict(), NotImplementedError, "amsgrad: got True, wanted False")


def test_a_remainder_of_bfloat16_for_a_float16_weight():
    """Units of the one, read as units of the other, would move weights by up to two last places."""
    params = parameters(weights(torch.bfloat16, "cpu"))
    optimizer = optim.AdamW(params)
    run(optimizer, params, gradients(1, torch.bfloat16, "cpu"))
    saved = optimizer.state_dict()
    half = optim.AdamW(parameters([param.detach().half() for param in params]))
    with raises(ValueError, "got a 16-bit master remainder of bfloat16 for parameter", "master_params()"):
        half.load_state_dict(saved)
    assert not half.state


def test_a_remainder_for_a_float32_weight():
    optimizer, _ = ready()
    other, _ = ready(dtype=torch.float32)
    words = "state_dict: got a 16-bit master remainder for parameter 0, which is torch.float32"
    refused_load(other, optimizer.state_dict(), ValueError, words, "master_params()")


@pytest.mark.parametrize("step", [torch.zeros(2), "three"], ids=["shape", "type"])
def test_step_counts_that_are_none(step):
    optimizer, _ = ready()
    saved = checkpoint(optimizer)
    saved["state"][1]["step"] = step
    refused_load(optimizer, saved, ValueError, "state_dict: got step", "for parameter 1, wanted one number")


@pytest.mark.parametrize("saved", [{}, {"state": {}}, [], None], ids=str)
def test_something_else_than_a_state_dict(saved):
    optimizer, _ = ready()
    refused_load(optimizer, saved, ValueError, "state_dict: got", "wanted", "'state' and 'param_groups'")


@pytest.mark.parametrize("what", ["parameter", "gradient", "state"])
def test_freed_storage(what):
    """As sharded training leaves it between two uses: with a shape, and without memory."""
    optimizer, params = ready()
    run(optimizer, params, gradients(1, torch.float16, "cpu"))
    for param, grad in zip(params, gradients(1, torch.float16, "cpu")[0], strict=True):
        param.grad = grad
    freed = {"parameter": params[2], "gradient": params[2].grad, "state": optimizer.state[params[2]]["exp_avg"]}[what]
    before = [param.detach().clone() for param in (params[0], params[1], params[4])]
    freed.untyped_storage().resize_(0)
    with raises(RuntimeError, "[2]: got a tensor of shape [33, 65] whose storage was freed", "gather it"):
        optimizer.step()
    assert same_bits(before, [param.detach() for param in (params[0], params[1], params[4])])
