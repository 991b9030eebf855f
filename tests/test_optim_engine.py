"""The optimizer engine as an op: same bits from every variant, thread count, chunk and list; all or nothing; opcheck.

The rules' values are tested in test_optim.py against float64; here they are held to the formula headers, bit for bit.
"""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass, replace

import native
import numpy as np
import pytest
import torch
from cases.optim import HYPER
from torch import Tensor

from halfops._ops import ops
from halfops._ops import optim as engine
from halfops.reference.scale import ordered_sum_of_squares

RULES = engine.rules()
HALVES = [torch.float16, torch.bfloat16]
FORMATS = [
    *((dtype, master, "nearest") for dtype in HALVES for master in ("split", "fp32", "none")),
    *((dtype, "none", "stochastic") for dtype in HALVES),
    (torch.float32, "none", "nearest"),
]
BLOCK, RANGE = 512, 1 << 15  # of csrc/optim; sizes around them are where a loop could be wrong
SIZES = [0, 1, 3, 15, 17, 511, 512, 513, 1037, RANGE - 1, RANGE, RANGE + 1, 2 * RANGE + 515]


def bits(tensor: Tensor) -> Tensor:
    return tensor.view({2: torch.int16, 4: torch.int32, 8: torch.int64}[tensor.element_size()])


def equal(a: list[Tensor], b: list[Tensor]) -> bool:
    return len(a) == len(b) and all(torch.equal(bits(x), bits(y)) for x, y in zip(a, b, strict=True))


@dataclass
class Work:
    """The arguments of optim_step_ for parameters of some sizes."""

    rule: str
    params: list[Tensor]
    grads: list[Tensor]
    masters: list[Tensor]
    states: list[Tensor]
    steps: Tensor
    rows: Tensor
    hyper: Tensor

    def step(self, **options) -> Work:
        engine.optim_step_(
            self.rule, self.params, self.grads, self.masters, self.states, self.steps, self.rows, self.hyper, **options
        )
        return self

    def changed(self) -> list[Tensor]:
        return [*self.params, *self.masters, *self.states, self.steps]

    def copy(self) -> Work:
        lists = {name: [t.clone() for t in getattr(self, name)] for name in ("params", "grads", "masters", "states")}
        return replace(self, steps=self.steps.clone(), hyper=self.hyper.clone(), **lists)


def sum_of_squares(values: np.ndarray) -> float:
    """Of the norms of LAMB: float32 values in float64 lanes."""
    return float(ordered_sum_of_squares(torch.from_numpy(values)))


def hyper_row(rule: str, **changes: float) -> list[float]:
    return [{**HYPER, **changes}[name] for name in engine.hyper_names(rule)]


def make(rule, formats, sizes, seed=0, **hyper) -> Work:
    """One parameter for each size and each (dtype, master) of `formats`, in the middle of a training."""
    generator = torch.Generator().manual_seed(seed)
    params, grads, masters = [], [], []
    for (dtype, master), size in itertools.product(formats, sizes):
        w = torch.randn(size, generator=generator) * 0.05
        grads.append((torch.randn(size, generator=generator) * 0.1).to(dtype))
        if master == "split":
            weight, remainder = engine.split_master(w, dtype)
        else:
            weight, remainder = w.to(dtype), w if master == "fp32" else torch.empty(0)
        params.append(weight)
        masters.append(remainder)
    count = len(params)
    states = [torch.rand(p.numel(), generator=generator) * 0.1 for _ in engine.state_names(rule) for p in params]
    rows = torch.stack([torch.zeros(count, dtype=torch.int64), torch.arange(count)], dim=1).contiguous()
    table = torch.tensor([hyper_row(rule, **hyper)], dtype=torch.float64)
    return Work(rule, params, grads, masters, states, torch.full((count,), 4.0), rows, table)


def formats_of(rounding):
    return [(dtype, master) for dtype, master, name in FORMATS if name == rounding]


# --- same bits ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rounding", ["nearest", "stochastic"])
@pytest.mark.parametrize("rule", RULES)
def test_every_variant_gives_the_same_bits(rule, rounding):
    work = make(rule, formats_of(rounding), SIZES)
    results = {}
    for variant in ops.cpu_variants():
        ops.set_cpu_variant(variant)
        own = work.copy()
        for _ in range(2):
            own.step(rounding=rounding, seed=7)
        results[variant] = own.changed()
    first = results["portable"]
    assert not any(torch.equal(a, b) for a, b in zip(first, work.changed(), strict=True) if a.numel() > 1)
    for changed in results.values():
        assert equal(changed, first)


@pytest.mark.parametrize("rule", RULES)
def test_the_engine_is_the_formula(rule):
    """fp32 in, fp32 out: nothing but the rule, which the header gives one element at a time."""
    formulas = native.load()
    sizes = [1, 255, 256, 257, 1037, 4095, 4096, 4097, 2 * RANGE + 515]
    sizes += [256 * 4096 + 1] if rule == "lamb" else []  # more chunks than a group of its norms has
    for size, changes in itertools.product(sizes, [{}, {"maximize": 1.0, "nesterov": 1.0}]):
        work = make(rule, [(torch.float32, "none")], [size], **changes)
        row = work.hyper[0].tolist()
        states = [state.numpy() for state in work.states]
        # 0.25: both loss scale and clipping are powers of two here, so that the factor is the same double
        scale, sumsq = torch.tensor(2.0), torch.tensor(64.0, dtype=torch.float64)
        clip = 2.0 * (4.0 + 1e-6) / 4.0
        weight, moments = getattr(formulas, rule)(
            row, 5, 0.5 * (clip / (4.0 + 1e-6)), work.grads[0].numpy(), work.params[0].numpy(), states, sum_of_squares
        )
        work.step(grad_scale=scale, sum_of_squares=sumsq, max_grad_norm=clip)
        assert equal(work.states, [torch.from_numpy(m) for m in moments])
        assert equal(work.params, [torch.from_numpy(weight)])
        assert work.steps.tolist() == [5.0]


@pytest.mark.parametrize("rule", RULES)
def test_thread_count_changes_nothing(rule):
    work = make(rule, formats_of("nearest"), [1, 1037, 3 * RANGE + 5])
    threads = torch.get_num_threads()
    results = []
    try:
        for count in (1, 2, 5):
            torch.set_num_threads(count)
            results.append(work.copy().step().changed())
    finally:
        torch.set_num_threads(threads)
    assert equal(results[0], results[1])
    assert equal(results[0], results[2])


@pytest.mark.parametrize("rounding", ["nearest", "stochastic"])
@pytest.mark.parametrize("rule", RULES)
def test_one_list_or_many_is_the_same(rule, rounding):
    """Each parameter stepped alone, in another order, with its key: the same bits as all at once."""
    together = make(rule, formats_of(rounding), [5, 513, RANGE + 3])
    apart = together.copy()
    together.step(rounding=rounding, seed=3)
    count = len(apart.params)
    for i in reversed(range(count)):
        steps = apart.steps[i : i + 1].clone()
        own = Work(
            rule,
            [apart.params[i]],
            [apart.grads[i]],
            [apart.masters[i]],
            apart.states[i::count],
            steps,
            apart.rows[i : i + 1].clone(),
            apart.hyper,
        )
        own.step(rounding=rounding, seed=3)
        apart.steps[i] = steps[0]
    assert equal(together.changed(), apart.changed())


@pytest.mark.parametrize("rule", [rule for rule in RULES if rule != "lamb"])
def test_where_a_tensor_is_cut_changes_nothing(rule):
    """One long tensor against its pieces, each of which begins at another place of a block."""
    whole = make(rule, [(torch.float16, "split")], [2 * RANGE + 515])
    pieces = whole.copy()
    whole.step()
    cuts = [0, 1, 17, 530, BLOCK * 3, RANGE, RANGE + 1, 2 * RANGE + 515]
    for begin, end in itertools.pairwise(cuts):
        part = slice(begin, end)
        lists = [[t[part] for t in group] for group in (pieces.params, pieces.grads, pieces.masters, pieces.states)]
        Work(rule, *lists, pieces.steps.clone(), pieces.rows, pieces.hyper).step()
    assert equal(whole.params + whole.masters + whole.states, pieces.params + pieces.masters + pieces.states)


@pytest.mark.parametrize("rule", RULES)
def test_a_power_of_two_loss_scale_changes_nothing(rule):
    work = make(rule, [(torch.float16, "split"), (torch.bfloat16, "none"), (torch.float32, "none")], [1037])
    scaled = work.copy()
    for grad in scaled.grads:
        grad.mul_(1024)
    assert equal(work.step().changed(), scaled.step(grad_scale=torch.tensor(1024.0)).changed())


def test_stochastic_bits_depend_on_seed_step_element_and_key():
    work = make("sgd", [(torch.bfloat16, "none")], [4096], lr=1e-3)
    base = work.copy().step(rounding="stochastic", seed=1).params
    assert equal(base, work.copy().step(rounding="stochastic", seed=1).params)
    assert not equal(base, work.copy().step(rounding="stochastic", seed=2).params)
    later, other = work.copy(), work.copy()
    later.steps += 1
    assert not equal(base, later.step(rounding="stochastic", seed=1).params)
    other.rows = work.rows + torch.tensor([0, 1])
    assert not equal(base, other.step(rounding="stochastic", seed=1).params)


def test_stochastic_steps_are_the_words_of_the_key():
    """The whole path once by hand: SGD in fp32, then the formula's rounding with the formula's words."""
    formulas = native.load()
    size, seed, key = 2 * BLOCK + 3, 2**63 + 11, 9
    work = make("sgd", [(torch.float16, "none")], [size], weight_decay=0.0)
    work.rows[0, 1] = key
    exact = work.params[0].float() - torch.tensor(1e-2) * work.grads[0].float()
    words = formulas.random_bits(seed, 5, np.arange(size, dtype=np.uint64), key)
    wanted = formulas.f16_stochastic(exact.numpy(), words)
    work.step(rounding="stochastic", seed=seed - 2**64)  # the op takes the seed as a signed number
    assert np.array_equal(work.params[0].view(torch.int16).numpy().view(np.uint16), wanted)


def test_stochastic_touches_neither_masters_nor_fp32():
    formats = [(torch.float16, "split"), (torch.bfloat16, "split"), (torch.float16, "fp32"), (torch.float32, "none")]
    work = make("adamw", formats, [1037])
    assert equal(work.copy().step(rounding="stochastic", seed=1).changed(), work.copy().step().changed())


@pytest.mark.parametrize("rule", RULES)
def test_masters_of_either_kind_are_the_fp32_run(rule):
    """Split and fp32 masters follow the same fp32 weights: bit for bit, as all of them are in the lossless range."""
    runs = {}
    for dtype, master in itertools.product(HALVES, ("split", "fp32")):
        work = make(rule, [(dtype, master)], [1037], lr=1e-3)
        start = torch.randn(1037, generator=torch.Generator().manual_seed(1)).clamp(-4, 4)
        start = torch.where(start.abs() < 0.1, torch.full_like(start, 0.1), start)
        if master == "split":
            work.params, work.masters = map(list, zip(engine.split_master(start, dtype), strict=True))
        else:
            work.params, work.masters = [start.to(dtype)], [start.clone()]
        for _ in range(5):
            work.step()
        joined = engine.join_master(work.params[0], work.masters[0]) if master == "split" else work.masters[0]
        runs.setdefault(dtype, []).append([joined, *work.states])
        if master == "fp32":
            assert torch.equal(work.params[0], work.masters[0].to(dtype))
    for split, fp32 in runs.values():
        assert equal(split, fp32)


# --- all or nothing -------------------------------------------------------------------------------------------------

CLOSED = {
    "overflow": {"found_inf": torch.tensor(1.0)},
    "nan flag": {"found_inf": torch.tensor(float("nan"))},
    "infinite sum": {"sum_of_squares": torch.tensor(float("inf"), dtype=torch.float64)},
    "nan sum": {"sum_of_squares": torch.tensor(float("nan"), dtype=torch.float64), "max_grad_norm": 1.0},
    "scale of zero": {"grad_scale": torch.tensor(0.0)},
}


@pytest.mark.parametrize("reason", CLOSED)
@pytest.mark.parametrize("rule", RULES)
def test_a_skipped_step_changes_no_bit(rule, reason):
    work = make(rule, formats_of("nearest"), [3, 1037])
    before = work.copy()
    work.step(**CLOSED[reason])
    assert equal(work.changed(), before.changed())


def test_an_open_gate_is_open():
    work = make("sgd", [(torch.float32, "none")], [3])
    before = work.copy()
    work.step(found_inf=torch.tensor(0.0), sum_of_squares=torch.tensor(1.0, dtype=torch.float64))
    assert work.steps.tolist() == [5.0]
    assert not equal(work.params, before.params)


def test_no_parameters_no_step():
    nothing = torch.empty(0)
    table = torch.zeros(1, len(engine.hyper_names("sgd")), dtype=torch.float64)
    engine.optim_step_("sgd", [], [], [], [], nothing, torch.empty(0, 2, dtype=torch.int64), table)


def test_empty_tensors_are_legal():
    work = make("adamw", [(torch.float16, "split"), (torch.float32, "none")], [0])
    work.step()
    assert work.steps.tolist() == [5.0, 5.0]


def test_every_parameter_has_its_own_row():
    together = make("adamw", [(torch.float16, "split")], [513, 513])
    rows = [hyper_row("adamw", lr=1e-3), hyper_row("adamw", lr=5e-2, maximize=1.0)]
    together.hyper = torch.tensor(rows, dtype=torch.float64)
    together.rows = torch.tensor([[1, 0], [0, 1]])
    together.steps = torch.tensor([0.0, 10.0])
    apart = together.copy()
    together.step()
    for i in range(2):
        Work(
            "adamw",
            [apart.params[i]],
            [apart.grads[i]],
            [apart.masters[i]],
            apart.states[i::2],
            apart.steps[i : i + 1].clone(),
            torch.tensor([[0, i]]),
            torch.tensor([rows[1 - i]], dtype=torch.float64),
        ).step()
    assert equal(together.params + together.states, apart.params + apart.states)
    assert together.steps.tolist() == [1.0, 11.0]


# --- what the op refuses --------------------------------------------------------------------------------------------


def refusals():
    yield "rule", lambda w: replace(w, rule="adamax"), {}, "rule: got 'adamax', wanted one of adamw, adam, sgd"
    yield "rounding", lambda w: w, {"rounding": "up"}, "rounding: got 'up', wanted 'nearest' or 'stochastic'"
    yield "few grads", lambda w: replace(w, grads=w.grads[:1]), {}, "grads: got 1 tensors, wanted 2"
    yield "few masters", lambda w: replace(w, masters=w.masters[:1]), {}, "masters: got 1 tensors, wanted 2"
    yield "few states", lambda w: replace(w, states=w.states[:3]), {}, "states: got 3 tensors, wanted 4, the 2 moments"
    for name, message in [
        ("params", "params[1]: got torch.float64, wanted torch.float16"),
        ("grads", "grads[1]: got torch.float64, wanted the dtype of params[1], torch.float16"),
        ("masters", "masters[1]: got torch.float64, wanted torch.int16"),
        ("states", "states[1]: got torch.float64, wanted torch.float32"),
    ]:
        yield f"{name} dtype", changing(name, lambda t: t.double()), {}, message
    for name in ("params", "grads", "masters", "states"):
        yield f"{name} layout", changing(name, lambda t: t.t().contiguous().t()), {}, f"{name}[1]: got a non-contiguous"
    for name in ("grads", "masters", "states"):
        yield (
            f"{name} shape",
            changing(name, lambda t: t[:3].contiguous()),
            {},
            f"{name}[1]: got shape [3, 7], wanted that of params[1], [5, 7]",
        )
        yield f"{name} rank", changing(name, lambda t: t.reshape(-1)), {}, f"{name}[1]: got shape [35], wanted"
    yield "steps", lambda w: replace(w, steps=w.steps.double()), {}, "steps: got torch.float64 of shape [2], wanted"
    yield "steps length", lambda w: replace(w, steps=torch.zeros(3)), {}, "steps: got torch.float32 of shape [3]"
    yield "rows", lambda w: replace(w, rows=w.rows.int()), {}, "rows: got torch.int32 of shape [2, 2], wanted"
    yield (
        "row",
        lambda w: replace(w, rows=torch.tensor([[0, 0], [1, 1]])),
        {},
        "rows[1]: got row 1, wanted one of the 1",
    )
    yield "key", lambda w: replace(w, rows=torch.tensor([[0, 0], [0, 2**32]])), {}, "rows[1]: got random key 4294967296"
    yield (
        "hyper",
        lambda w: replace(w, hyper=w.hyper[:, :5].contiguous()),
        {},
        "hyper: got torch.float64 of shape [1, 5], wanted torch.float64 of shape [groups, 6] with the columns of adamw",
    )
    yield "hyper dtype", lambda w: replace(w, hyper=w.hyper.float()), {}, "hyper: got torch.float32"
    yield "norm", lambda w: w, {"max_grad_norm": 1.0}, "max_grad_norm: got a bound without sum_of_squares"
    for name, wanted in [("grad_scale", "float32"), ("found_inf", "float32"), ("sum_of_squares", "float64")]:
        yield (
            name,
            lambda w: w,
            {name: torch.tensor(1)},
            f"{name}: got torch.int64 of shape [], wanted one torch.{wanted}",
        )
        yield f"{name} size", lambda w: w, {name: torch.ones(2)}, f"{name}: got torch.float32 of shape [2]"
    yield "twice", sharing("params", "params"), {}, "params[1]: shares memory with params[0]"
    yield "grad is param", sharing("grads", "params"), {}, "shares memory with"
    yield "states", sharing("states", "states"), {}, "states[1]: shares memory with states[0]"
    yield "masters", sharing("masters", "masters"), {}, "masters[1]: shares memory with masters[0]"
    yield "overlap", overlapping, {}, "shares memory with"
    yield "steps view", lambda w: replace(w, steps=w.states[0].view(-1)[:2]), {}, "shares memory with"


def changing(name, f):
    """Member 1 of a list replaced by f of it."""

    def change(work):
        members = list(getattr(work, name))
        members[1] = f(members[1])
        return replace(work, **{name: members})

    return change


def sharing(name, with_name):
    """Member 1 of a list is member 0 of another."""

    def change(work):
        members = list(getattr(work, name))
        members[1] = getattr(work, with_name)[0]
        return replace(work, **{name: members})

    return change


def overlapping(work):
    storage = torch.zeros(60, dtype=torch.float16)
    return replace(work, params=[storage[:35].view(5, 7), storage[20:55].view(5, 7)])


REFUSALS = {name: case for name, *case in refusals()}


@pytest.mark.parametrize("name", REFUSALS)
def test_what_does_not_fit_is_refused_before_anything_changes(name):
    change, options, message = REFUSALS[name]
    work = make("adamw", [(torch.float16, "split")], [35, 35])
    for member in ("params", "grads", "masters", "states"):
        setattr(work, member, [t.view(5, 7) for t in getattr(work, member)])
    wrong = change(work)
    before = [t.clone() for t in work.changed()]
    with pytest.raises(RuntimeError, match=re.escape(message)):
        wrong.step(**options)
    assert equal(work.changed(), before)


def test_two_parameters_may_have_one_gradient():
    work = make("adamw", [(torch.float16, "split")], [35, 35])
    work.grads[1] = work.grads[0]
    work.step()


def test_a_master_for_fp32_is_refused():
    work = make("adamw", [(torch.float32, "none")], [4])
    work.masters = [torch.zeros(4)]
    with pytest.raises(RuntimeError, match=re.escape("masters[0]: got a master for params[0], which is torch.float32")):
        work.step()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: engine.split_master(torch.zeros(2), torch.int16), "dtype: got torch.int16, wanted torch.float16"),
        (lambda: engine.split_master(torch.zeros(2).half(), torch.float16), "master: got torch.float16, wanted"),
        (lambda: engine.split_master(torch.zeros(2, 3).t(), torch.float16), "master: got a non-contiguous tensor"),
        (lambda: engine.join_master(torch.zeros(2), torch.zeros(2).short()), "weight: got torch.float32, wanted"),
        (lambda: engine.join_master(torch.zeros(2).half(), torch.zeros(2)), "remainder: got torch.float32, wanted"),
        (
            lambda: engine.join_master(torch.zeros(2).half(), torch.zeros(3).short()),
            "remainder: got shape [3], wanted that of weight, [2]",
        ),
        (lambda: engine.cast(torch.zeros(2), torch.float64), "dtype: got torch.float64, wanted torch.float16"),
        (lambda: engine.cast(torch.zeros(2).long(), torch.float16), "input: got torch.int64, wanted torch.float16"),
        (lambda: engine.cast(torch.zeros(2, 3).t(), torch.float16), "input: got a non-contiguous tensor"),
        (lambda: engine.cast(torch.zeros(2), torch.float16, rounding="odd"), "rounding: got 'odd', wanted"),
        (lambda: engine.cast(torch.zeros(2), torch.float16, step=-1), "step: got -1, wanted one of 32 bits"),
        (lambda: engine.cast(torch.zeros(2), torch.float16, key=2**32), "key: got 4294967296, wanted one of 32 bits"),
    ],
)
def test_formats_refuse_in_sentences(call, message):
    with pytest.raises(RuntimeError, match=re.escape(message)):
        call()


# --- registration ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", RULES)
def test_opcheck_step(rule):
    work = make(rule, [(torch.float16, "split"), (torch.bfloat16, "none"), (torch.float32, "none")], [5])
    scalars = (torch.tensor(2.0), torch.tensor(0.0), torch.tensor(3.0, dtype=torch.float64), 1.0)
    tables = (work.steps, work.rows, work.hyper)
    emas = [torch.zeros_like(param, dtype=torch.float32) for param in work.params]
    for averages, decay, zero_grad in (([], None, False), (emas, 0.9, True)):
        lists = (work.params, work.grads, work.masters, work.states, averages)
        options = (decay, "stochastic", 3, zero_grad)
        torch.library.opcheck(ops.optim_step_.default, (rule, *lists, *tables, *scalars, *options))


def test_opcheck_formats():
    w = torch.randn(3, 5)
    for dtype in HALVES:
        torch.library.opcheck(ops.split_master.default, (w, dtype))
        torch.library.opcheck(ops.join_master.default, engine.split_master(w, dtype))
        torch.library.opcheck(ops.cast.default, (w, dtype, "stochastic", 1, 2, 3))


def test_casts_keep_shape_and_widen_exactly():
    for dtype in HALVES:
        x = torch.randn(3, 0, 5), torch.randn(()), torch.randn(2, 3)
        for each in x:
            assert torch.equal(engine.cast(each, dtype), each.to(dtype))
            assert torch.equal(engine.cast(each.to(dtype), torch.float32), each.to(dtype).float())
