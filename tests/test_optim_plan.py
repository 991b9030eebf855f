"""The work list in C++: what each look at it finds, that it takes nothing wrong, lives and dies with its owner."""

from __future__ import annotations

import gc
import re
import threading
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from halfops._ops import _C, ops, optim_plan
from halfops._ops import optim as engine
from halfops._ops.optim_plan import Plan, Readiness

FINE, GRADIENTS, MEMORY = Readiness.FINE, Readiness.GRADIENTS, Readiness.MEMORY


@pytest.fixture
def reading():
    """Only where gradients are read by C++."""
    if not optim_plan.grad_access():
        pytest.skip("gradients are not read here")


def raises(error, *words):
    return pytest.raises(error, match=".*".join(map(re.escape, words)))


@dataclass
class Work:
    """Parameters with all that belongs to a step of AdamW."""

    params: list[torch.nn.Parameter]
    masters: list[Tensor]
    states: list[Tensor]
    steps: Tensor
    hyper: Tensor
    plan: Plan

    def grads(self) -> list[Tensor]:
        return [param.grad for param in self.params]

    def ready(self, zero_grad=False) -> Plan:
        if self.plan.refresh(zero_grad) is not FINE:
            self.plan.take(self.grads(), zero_grad)
        return self.plan

    def changed(self) -> list[Tensor]:
        return [t.detach().clone() for t in [*self.params, *self.masters, *self.states, self.steps]]


SHAPES = [(6, 6), (5,), (), (0, 4), (2, 3, 4, 5)]


def make(shapes=SHAPES, dtype=torch.float16, seed=0, layout=lambda t: t) -> Work:
    generator = torch.Generator().manual_seed(seed)

    def random(shape, kind):
        tensor = torch.empty_like(layout(torch.zeros(shape)), dtype=kind)
        return tensor.copy_(torch.randn(shape, generator=generator))

    params = [torch.nn.Parameter(random(shape, dtype)) for shape in shapes]
    for param in params:
        param.grad = random(param.shape, dtype)
    masters = [torch.zeros_like(param, dtype=torch.int16, requires_grad=False) for param in params]
    states = [torch.zeros_like(p, dtype=torch.float32, requires_grad=False) for _ in range(2) for p in params]
    steps = torch.zeros(len(params))
    rows = torch.tensor([[0, i] for i in range(len(params))])
    names = engine.hyper_names("adamw")
    values = {"lr": 1e-2, "beta1": 0.9, "beta2": 0.99, "eps": 1e-8, "weight_decay": 0.1, "maximize": 0.0}
    hyper = torch.tensor([[values[name] for name in names]], dtype=torch.float64)
    plan = Plan("adamw", params, masters, states, [], steps, rows, "nearest")
    return Work(params, masters, states, steps, hyper, plan)


def set_grad(param, grad):
    """Past the checks of `param.grad =`, as a hook or a change of the parameter can do."""
    keep = param.data
    param.data = torch.empty_like(grad)
    param.grad = grad
    param.data = keep


# -- a step of a plan is a step of optim_step_


def test_a_plan_steps_as_the_op_does(access):
    planned, called = make(), make()
    rows = torch.tensor([[0, i] for i in range(len(called.params))])
    for turn in range(4):
        for work in (planned, called):
            for param in work.params:
                param.grad.mul_(-1.5)
        planned.ready().step(planned.hyper, grad_scale=torch.tensor(2.0), found_inf=torch.tensor(float(turn == 2)))
        lists = (called.params, called.grads(), called.masters, called.states, called.steps, rows, called.hyper)
        with torch.no_grad():
            found = torch.tensor(float(turn == 2))
            engine.optim_step_("adamw", *lists, grad_scale=torch.tensor(2.0), found_inf=found)
        assert all(torch.equal(a, b) for a, b in zip(planned.changed(), called.changed(), strict=True))
    assert planned.steps.tolist() == [3.0] * len(SHAPES)


def test_stats_are_those_of_the_list(access):
    work = make()
    work.params[0].grad[2, 3] = 0
    for poison in (1.0, float("inf"), float("nan")):
        work.params[1].grad[1] = poison
        for count_zeros in (False, True):
            got, want = work.ready().stats(count_zeros), ops.grad_stats(work.grads(), count_zeros)
            assert all(torch.equal(a.nan_to_num(9), b.nan_to_num(9)) for a, b in zip(got, want, strict=True))


def test_zeroed_gradients(access):
    work = make()
    work.ready(zero_grad=True).step(work.hyper, zero_grad=True)
    assert not any(grad.any() for grad in work.grads())
    assert work.steps.tolist() == [1.0] * len(SHAPES)


def test_hyper_at_another_address(access):
    """Rows point into it: the old one is gone, the numbers of the new one count."""
    a, b = make(), make()
    for turn in range(3):
        own = a.hyper.clone()
        own[0, 0] *= 2**turn
        a.ready().step(own)
        own.fill_(float("nan"))
        b.ready().step(b.hyper)
        b.hyper[0, 0] *= 2
    assert all(torch.equal(x, y) for x, y in zip(a.changed(), b.changed(), strict=True))


# -- what a look finds


def test_the_first_gradients_come_from_python(access):
    work = make()
    assert work.plan.refresh() is GRADIENTS
    work.plan.take(work.grads())
    assert work.plan.refresh() is (FINE if access else GRADIENTS)


def looked_at(**options) -> Work:
    """After a first step, so that gradients are read."""
    work = make(**options)
    work.plan.take(work.grads())
    assert work.plan.refresh() is FINE
    return work


def fresh(param):
    param.grad = param.grad.clone()


def filled(param):
    param.grad.fill_(3.0)


@pytest.mark.parametrize("change", [fresh, filled])
@pytest.mark.parametrize("index", range(len(SHAPES)))
def test_other_gradients_of_the_same_kind(change, index, reading):
    work, other = looked_at(), make()
    for each in (work, other):
        change(each.params[index])
    assert work.plan.refresh() is FINE
    work.plan.step(work.hyper)
    other.plan.take(other.grads())
    other.plan.step(other.hyper)
    assert all(torch.equal(a, b) for a, b in zip(work.changed(), other.changed(), strict=True))


def absent(work):
    work.params[1].grad = None


def other_strides(work):
    work.params[0].grad = work.params[0].grad.clone().t()


def other_strides_here(work):
    work.params[0].grad = work.params[0].grad.t()  # same address, same sizes


def turned_in_place(work):
    work.params[0].grad.t_()  # the very same tensor


def other_dtype(work):
    set_grad(work.params[1], work.params[1].grad.float())


def other_dtype_here(work):
    set_grad(work.params[1], work.params[1].grad.view(torch.bfloat16))


def other_shape(work):
    set_grad(work.params[1], torch.zeros(4).half())


def other_shape_here(work):
    set_grad(work.params[0], work.params[0].grad.view(4, 9))


def sparse(work):
    work.params[0].grad = work.params[0].grad.to_sparse()


def gaps(work):
    work.params[1].grad = torch.zeros(10).half()[::2]


def negated(work):
    work.params[2].grad = torch._neg_view(torch.ones(2).half()[1])  # as the imaginary part of a conjugate is
    assert work.params[2].grad.is_neg()


def over_its_weight(work):
    work.params[0].grad = work.params[0].detach()


def over_a_state(work):
    work.params[1].grad = work.states[0].view(torch.float16).flatten()[3:8]


@pytest.mark.parametrize(
    "change",
    [absent, other_strides, other_strides_here, turned_in_place, other_dtype, other_dtype_here, other_shape,
     other_shape_here, sparse, gaps, negated, over_its_weight, over_a_state],
)  # fmt: skip
def test_gradients_that_python_has_to_see(change, reading):
    work = looked_at()
    change(work)
    assert work.plan.refresh() is GRADIENTS
    with raises(RuntimeError, "whose gradients have not been looked at"):
        work.plan.step(work.hyper)
    fresh_ones = [torch.zeros_like(param, requires_grad=False) for param in work.params]
    for param, grad in zip(work.params, fresh_ones, strict=True):
        param.grad = None
        set_grad(param, grad)
    assert work.plan.refresh() is FINE


def moved(work):
    work.params[1].data = work.params[1].data.clone()


def turned(work):
    work.params[0].data = work.params[0].data.t()  # same address, same sizes


def reshaped(work):
    work.params[0].data = work.params[0].data.view(4, 9)


def another_dtype_here(work):
    work.params[1].data = work.params[1].data.view(torch.bfloat16)


def moved_master(work):
    work.masters[0].data = work.masters[0].data.clone()


def moved_state(work):
    work.states[-1].data = work.states[-1].data.clone()


def emptied_state(work):
    work.states[0].untyped_storage().resize_(0)


def moved_steps(work):
    work.steps.data = work.steps.data.clone()


@pytest.mark.parametrize(
    "change",
    [moved, turned, reshaped, another_dtype_here, moved_master, moved_state, emptied_state, moved_steps],
)
def test_memory_that_changed(change, access):
    work = make()
    work.plan.take(work.grads())
    change(work)
    assert work.plan.refresh() is MEMORY


def test_every_parameter_is_looked_at_whatever_the_threads(reading):
    """More parameters than one thread walks over; the first, the last and some around where ranges meet."""
    work = looked_at(shapes=[(2,)] * 4099)
    for index in (0, 1023, 1024, 1025, 2049, 3074, 3075, 4098):
        keep = work.params[index].grad
        work.params[index].grad = None
        assert work.plan.refresh() is GRADIENTS
        work.params[index].grad = keep
        assert work.plan.refresh() is FINE
    for index in (4098, 1025, 0):
        moved_one = work.states[index]
        keep = moved_one.data
        moved_one.data = keep.clone()
        assert work.plan.refresh() is MEMORY
        moved_one.data = keep
        assert work.plan.refresh() is FINE


@pytest.mark.parametrize("index", range(len(SHAPES)))
def test_every_moment_is_looked_at(index, access):
    for k in range(2):
        work = make()
        work.plan.take(work.grads())
        state = work.states[k * len(SHAPES) + index]
        if state.numel():
            state.data = state.data.clone()
            assert work.plan.refresh() is MEMORY


def test_any_dense_order_of_dimensions(reading):
    def layout(tensor):
        return tensor.to(memory_format=torch.channels_last) if tensor.dim() == 4 else tensor

    work, plain = looked_at(layout=layout), looked_at()
    assert not work.params[4].is_contiguous()
    for a, b in zip(work.params, plain.params, strict=True):
        b.data.copy_(a.data)
        b.grad.copy_(a.grad)
    for each in (work, plain):
        assert each.plan.refresh() is FINE
        each.plan.step(each.hyper)
    assert all(torch.equal(a, b) for a, b in zip(work.changed(), plain.changed(), strict=True))
    work.params[4].grad = work.params[4].grad.contiguous()
    assert work.plan.refresh() is GRADIENTS


def test_gradients_that_share_memory(access):
    """Harmless until one of them becomes zero before the other is read."""
    work = make([(4,), (4,)])
    work.params[1].grad = work.params[0].grad
    assert work.ready() is work.plan
    with raises(RuntimeError, "zero_grad: got True for plan", "looked at to be read only"):
        work.plan.step(work.hyper, zero_grad=True)
    work.plan.step(work.hyper)
    assert work.plan.refresh(zero_grad=True) is GRADIENTS
    with raises(RuntimeError, "grads[", "shares memory with grads["):
        work.plan.take(work.grads(), zero_grad=True)
    work.params[1].grad = work.params[1].grad.clone()
    work.ready(zero_grad=True).step(work.hyper, zero_grad=True)
    assert not any(grad.any() for grad in work.grads())


def test_gradients_of_two_plans(access):
    one, two = make([(4,)]), make([(4,)])
    for work in (one, two):
        work.ready()
    assert optim_plan.apart([one.plan, two.plan])
    two.params[0].grad = one.params[0].grad
    two.ready()
    assert not optim_plan.apart([one.plan, two.plan])


# -- what is refused


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda w: w.grads()[:-1], ["grads: got 4 tensors, wanted 5, one a parameter"]),
        (lambda w: [g.float() for g in w.grads()], ["grads[0]: got torch.float32, wanted the dtype of params[0]"]),
        (
            lambda w: [g.t() if g.dim() == 2 else g for g in w.grads()],
            ["grads[0]: got strides [1, 6], wanted those of"],
        ),
        (lambda w: [g.flatten() for g in w.grads()], ["grads[0]: got shape [36], wanted that of params[0], [6, 6]"]),
        (lambda w: [p.detach() for p in w.params], ["shares memory with"]),
    ],
)
def test_taken_gradients_are_checked(change, words, access):
    work = make()
    before = work.changed()
    with raises(RuntimeError, *words):
        work.plan.take(change(work))
    with raises(RuntimeError, "whose gradients have not been looked at"):
        work.plan.step(work.hyper)
    assert all(torch.equal(a, b) for a, b in zip(before, work.changed(), strict=True))


def test_a_look_is_for_one_step(access):
    work = make()
    work.ready().step(work.hyper)
    with raises(RuntimeError, "whose gradients have not been looked at since its last step", "optim_plan_refresh"):
        work.plan.step(work.hyper)
    work.ready().release()
    with raises(RuntimeError, "whose gradients have not been looked at"):
        work.plan.stats()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"grad_scale": torch.ones(2)}, "grad_scale: got torch.float32 of shape [2], wanted one"),
        ({"found_inf": torch.ones(1).int()}, "found_inf: got torch.int32 of shape [1], wanted one"),
        ({"max_grad_norm": 1.0}, "max_grad_norm: got a bound without sum_of_squares"),
        ({"ema_decay": 0.9}, "emas: got 0 tensors, wanted 5, one a parameter"),
        ({"ema_decay": 1.5}, "ema_decay: got 1.5, wanted a number in [0, 1)"),
    ],
)
def test_numbers_are_checked(options, words, access):
    work = make()
    before = work.changed()
    with raises(RuntimeError, words):
        work.ready().step(work.hyper, **options)
    for wrong, text in ((work.hyper.float(), "hyper: got torch.float32"), (work.hyper[:0], "rows[0]: got row 0")):
        with raises(RuntimeError, text):
            work.ready().step(wrong)
    assert all(torch.equal(a, b) for a, b in zip(before, work.changed(), strict=True))


def test_a_plan_refuses_what_the_op_refuses():
    work = make([(3, 4)])
    plain = (work.masters, work.states, [], work.steps, torch.tensor([[0, 0]]))
    with raises(RuntimeError, "params: got an empty list"):
        Plan("adamw", [], [], [], [], work.steps, plain[-1], "nearest")
    with raises(RuntimeError, "rule: got 'adam2', wanted one of"):
        Plan("adam2", work.params, *plain, "nearest")
    with raises(RuntimeError, "rounding: got 'up', wanted"):
        Plan("adamw", work.params, *plain, "up")
    with raises(RuntimeError, "params[0]: got a tensor of shape [3, 2]", "do not fill their memory"):
        Plan("adamw", [work.params[0][:, ::2]], *plain, "nearest")
    with raises(RuntimeError, "states[0]: got strides [1, 3], wanted those of params[0], [4, 1]"):
        Plan("adamw", work.params, work.masters, [s.t().contiguous().t() for s in work.states], *plain[2:], "nearest")
    with raises(RuntimeError, "shares memory with"):
        Plan("adamw", work.params, work.masters, [work.states[0]] * 2, *plain[2:], "nearest")
    with raises(RuntimeError, "parameter 0: is on another device, for which this build of halfops has no optimizer"):
        Plan("adamw", [p.to("meta") for p in work.params], *plain, "nearest")


@pytest.mark.parametrize(
    "call",
    [
        lambda n: ops.optim_plan_refresh(n, False),
        lambda n: ops.optim_plan_take(n, [], False),
        lambda n: ops.optim_plan_release(n),
        lambda n: ops.optim_plan_stats(n, False),
        lambda n: ops.optim_plan_step(n, torch.zeros(1, 1), None, None, None, None, None, False, 0),
        lambda n: ops.optim_plans_apart([n]),
    ],
)
@pytest.mark.parametrize("number", [-1, 0, 2**40])
def test_a_plan_that_does_not_exist(call, number):
    with raises(RuntimeError, f"plan: got {number}, wanted the number of a plan that optim_plan has made"):
        call(number)
    ops.optim_plan_free(number)  # as a finalizer may


# -- life and death


def test_a_plan_dies_with_its_owner():
    gc.collect()
    before = optim_plan.live_plans()
    work = make()
    number = work.plan.number
    assert optim_plan.live_plans() == [*before, number]
    del work
    gc.collect()
    assert optim_plan.live_plans() == before
    with raises(RuntimeError, f"plan: got {number}, wanted"):
        ops.optim_plan_refresh(number, False)


@pytest.mark.parametrize("end", [lambda w: w.plan.step(w.hyper), lambda w: w.plan.release()], ids=["step", "release"])
def test_given_gradients_live_as_long_as_their_step(end, access):
    work, gradient = make([(4,)]), torch.zeros(4).half()
    before = gradient._use_count()
    work.plan.take([gradient])
    assert gradient._use_count() > before
    end(work)
    assert gradient._use_count() == before


def test_plans_come_and_go_in_threads():
    """Each thread makes, steps and frees its own plans; all of them look at one that they share."""
    gc.collect()
    before = optim_plan.live_plans()
    shared = make([(64,)])
    shared.plan.take(shared.grads())
    single = make([(64,)])
    for _ in range(5):
        single.ready().step(single.hyper)
    failures = []

    def work(shared, single):
        try:
            for _ in range(20):
                own = make([(64,)])
                for _ in range(5):
                    own.ready().step(own.hyper)
                    shared.plan.refresh()
                    optim_plan.live_plans()
                assert all(torch.equal(a, b) for a, b in zip(own.changed(), single.changed(), strict=True))
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(shared, single)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    del shared, single, threads
    gc.collect()
    assert optim_plan.live_plans() == before


# -- walks over Python's containers


def test_entries_are_compared_by_identity():
    a, b = torch.zeros(1), torch.zeros(1)
    state = {a: {"x": b, "y": 1.5}, "note": 7, b: {}}
    seen = optim_plan.entries(state)
    assert [each for each in seen if isinstance(each, str)] == ["x", "y", "note"]
    assert optim_plan.same_entries(state, seen)
    for changed in (
        {a: {"x": b, "y": 1.5}, "note": 7},
        {a: {"x": b, "y": 1.5}, "note": 7, b: {}, "more": 0},
        {a: {"x": b.clone(), "y": 1.5}, "note": 7, b: {}},
        {a: {"y": 1.5, "x": b}, "note": 7, b: {}},
        {a: {"x": b, "z": 1.5}, "note": 7, b: {}},
        {b: {"x": b, "y": 1.5}, "note": 7, a: {}},
        {},
    ):
        assert not optim_plan.same_entries(changed, seen)
    assert optim_plan.same_entries({}, ())


def test_items_are_compared_by_identity():
    x, y, z = object(), object(), object()
    seen = optim_plan.items([[x, y], (z,)])
    assert seen == (x, y, z)
    assert optim_plan.same_items([[x, y], (z,)], seen)
    for lists in ([[x, y]], [[x, y], [z], [z]], [[y, x], [z]], []):
        assert not optim_plan.same_items(lists, seen)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: _C.entries([]), "state: got <class 'list'>, wanted a dict"),
        (lambda: _C.same_entries({}, []), "remembered: got <class 'list'>, wanted a tuple"),
        (lambda: _C.items({}), "lists: got <class 'dict'>, wanted a list"),
        (lambda: _C.items([{}]), "lists: got <class 'dict'>, wanted lists or tuples in it"),
        (lambda: _C.same_items([[], 3], ()), "lists: got <class 'int'>, wanted lists or tuples in it"),
    ],
)
def test_walks_refuse_other_containers(call, words):
    with raises(TypeError, words):
        call()
