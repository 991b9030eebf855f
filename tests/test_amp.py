"""GradScaler: torch's behaviour where torch has one, and what it adds; with torch's optimizers and ours."""

from __future__ import annotations

import math
import pickle
import random
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from cases.amp import OPTIMIZERS, all_equal, everything, fill_gradients, network, started

import halfops
from halfops.amp import GradScaler, grad_scaler
from halfops.reference import scale as reference

WIDE = {"min_scale": 1e-38, "max_scale": 3e38}  # as good as torch's none

HALF_OPTIMIZERS = [name for name in OPTIMIZERS if name.startswith("halfops")]


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Tensors of a few elements: waking threads for them would be all that this file does."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


# -- torch's behaviour ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("explicit", [False, True], ids=["", "unscale_ and clip"])
@pytest.mark.parametrize("name", ["torch", "torch fused"])
def test_same_as_torchs_scaler_over_a_long_run(name: str, explicit: bool) -> None:
    """200 iterations, one in six overflowing: weights, states, scale and growth tracker, all to the bit."""
    arguments = {"init_scale": 2.0**10, "growth_factor": 1.7, "backoff_factor": 0.4, "growth_interval": 3}
    runs = []
    for scaler in (started(GradScaler("cpu", **arguments, **WIDE)), started(torch.amp.GradScaler("cpu", **arguments))):
        model = network()
        optimizer = OPTIMIZERS[name](model.parameters())
        generator = random.Random(1)
        trace = []
        for step in range(200):
            bad = generator.choice([math.inf, -math.inf, math.nan]) if generator.random() < 1 / 6 else None
            fill_gradients(model, scaler.get_scale(), step, bad)
            if explicit:
                scaler.unscale_(optimizer)
                torch.nn.utils.clip_grad_norm_(model.parameters(), 0.02)
            scaler.step(optimizer)
            scaler.update()
            trace.append((scaler.get_scale(), scaler._get_growth_tracker()))
        runs.append((trace, everything(model, optimizer), [p.grad for p in model.parameters()]))
    assert runs[0][0] == runs[1][0]
    assert len(set(runs[0][0])) > 20
    assert all_equal(runs[0][1], runs[1][1])
    if name == "torch":
        torch.testing.assert_close(runs[0][2], runs[1][2], rtol=0, atol=0, equal_nan=True)


def test_scale_takes_what_torchs_takes() -> None:
    scaler = GradScaler("cpu", init_scale=4.0)
    one = torch.ones(2, requires_grad=True)
    assert torch.equal(scaler.scale(one), torch.full((2,), 4.0))
    assert scaler.scale(one).requires_grad
    nested = scaler.scale([one, (one, [one])])
    assert isinstance(nested, list)
    assert isinstance(nested[1], tuple)
    assert torch.equal(nested[1][1][0], torch.full((2,), 4.0))
    assert [x.tolist() for x in scaler.scale(x for x in [one])] == [[4.0, 4.0]]
    with pytest.raises(ValueError, match="outputs must be a Tensor or an iterable of Tensors"):
        scaler.scale(3)


def test_two_losses_and_two_optimizers_share_a_scaler() -> None:
    """One overflows: it alone is skipped, and the one scale backs off once for both."""
    first, second = network(seed=1), network(torch.float16, seed=2)
    optimizers = [OPTIMIZERS["torch"](first.parameters()), OPTIMIZERS["halfops"](second.parameters())]
    scaler = GradScaler("cpu", init_scale=8.0)
    losses = first(torch.ones(2, 6)).sum(), second(torch.ones(2, 6).half()).sum().float() * 3
    for loss in scaler.scale(losses):
        loss.backward()
    next(second.parameters()).grad.view(-1)[3] = math.nan
    before = [[p.detach().clone() for p in m.parameters()] for m in (first, second)]
    for optimizer in optimizers:
        scaler.step(optimizer)
    scaler.update()
    assert not all_equal(before[0], list(first.parameters()))
    assert all_equal(before[1], list(second.parameters()))
    assert (scaler.get_scale(), scaler.skipped_steps.item()) == (4.0, 1)
    assert len(scaler.report().tensors) == 8
    assert len(scaler.report(optimizers[1]).tensors) == 4
    assert len(scaler.report(optimizers[0]).overflowed) == 0


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_disabled_passes_everything_through(name: str) -> None:
    models = network(), network()
    plain, scaled = (OPTIMIZERS[name](m.parameters()) for m in models)
    scaler = GradScaler("cpu", enabled=False)
    loss = torch.ones(())
    assert scaler.scale(loss) is loss
    for m in models:
        fill_gradients(m, 1.0, 0)
    plain.step()
    scaler.unscale_(scaled)
    scaler.step(scaled)
    scaler.update()
    assert all_equal(everything(models[0], plain), everything(models[1], scaled))
    assert scaler.state_dict() == {}
    scaler.load_state_dict({})
    assert (scaler.get_scale(), scaler.skipped_steps.item(), scaler.last_step_skipped.item()) == (1.0, 0, False)
    assert scaler.report().tensors == ()
    assert not pickle.loads(pickle.dumps(scaler)).is_enabled()


def test_default_device_is_one_that_is_there() -> None:
    assert GradScaler().is_enabled()


def test_update_with_a_new_scale() -> None:
    scaler = started(GradScaler("cpu"))
    scaler.update(32.0)
    assert scaler.get_scale() == 32
    scaler.update(16)
    assert scaler.get_scale() == 16
    scaler.update(torch.tensor(8.0))
    assert scaler.get_scale() == 8
    model = network()
    optimizer = OPTIMIZERS["halfops"](model.parameters())
    fill_gradients(model, 8.0, 0, math.inf)
    scaler.step(optimizer)
    scaler.update(4.0)
    assert (scaler.get_scale(), scaler.skipped_steps.item(), scaler.last_step_skipped.item()) == (4.0, 1, True)


def test_the_older_protocol_still_gets_the_scaler() -> None:
    class Older(torch.optim.SGD):
        _step_supports_amp_scaling = True
        seen: Any = None

        def step(self, closure: Any = None, grad_scaler: Any = None) -> None:
            self.seen = grad_scaler
            self.found = sum(grad_scaler._check_inf_per_device(self).values())

    model = network()
    optimizer, scaler = Older(model.parameters()), started(GradScaler("cpu"))
    fill_gradients(model, 1.0, 0, math.inf)
    with pytest.warns(FutureWarning):
        scaler.step(optimizer)
    assert optimizer.seen is scaler
    assert optimizer.found.item() == 1
    scaler.update()
    assert scaler.skipped_steps.item() == 1


# -- what is handed to an optimizer that takes the scale ------------------------------------------------------------


class Recorder(torch.optim.SGD):
    """Keeps what the protocol brought."""

    _step_supports_amp_scaling = True

    def step(self, closure: Any = None) -> float:
        self.got = {name: getattr(self, name) for name in ("grad_scale", "found_inf", "grad_sumsq")}
        return 7.0


def test_protocol_one_read_and_nothing_rewritten() -> None:
    model = network(torch.float16)
    optimizer, scaler = Recorder(model.parameters()), started(GradScaler("cpu", init_scale=64.0))
    fill_gradients(model, 64.0, 0)
    before = [p.grad.clone() for p in model.parameters()]
    assert scaler.step(optimizer) == 7.0
    assert all_equal(before, [p.grad for p in model.parameters()])
    assert optimizer.got["grad_scale"].item() == 64
    assert optimizer.got["found_inf"].item() == 0
    exact = reference.sum_of_squares(before)
    assert optimizer.got["grad_sumsq"].item() == pytest.approx(exact, rel=1e-6)
    assert optimizer.got["grad_sumsq"].dtype == torch.float64
    assert not any(hasattr(optimizer, name) for name in optimizer.got), "deleted by who set them"
    scaler.update()

    fill_gradients(model, 64.0, 0)
    scaler.unscale_(optimizer)
    scaler.step(optimizer)
    assert optimizer.got["grad_scale"] is None
    assert optimizer.got["grad_sumsq"] is None, "the user may have clipped meanwhile"
    scaler.update()

    fill_gradients(model, 64.0, 0, math.inf)
    optimizer.grad_scale = torch.tensor(2.0)  # torch's hook for a factor of the user's own
    scaler.step(optimizer)
    assert optimizer.got["grad_scale"].item() == 128
    assert optimizer.got["found_inf"].item() == 1


def test_attributes_are_removed_when_the_step_fails() -> None:
    class Failing(Recorder):
        def step(self, closure: Any = None) -> float:
            raise RuntimeError("no")

    model = network()
    optimizer, scaler = Failing(model.parameters()), started(GradScaler("cpu"))
    fill_gradients(model, 1.0, 0)
    with pytest.raises(RuntimeError, match="no"):
        scaler.step(optimizer)
    assert not any(hasattr(optimizer, name) for name in ("grad_scale", "found_inf", "grad_sumsq"))


# -- half-precision training ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_scaled_steps_equal_unscaled_steps(name: str, dtype: torch.dtype) -> None:
    """A power of two as the scale changes no bit, in any dtype, unscaled here or in the optimizer."""
    models = network(dtype), network(dtype)
    plain, scaled = (OPTIMIZERS[name](m.parameters()) for m in models)
    scaler = started(GradScaler("cpu", init_scale=2.0**9, growth_interval=2))
    for step in range(12):
        fill_gradients(models[0], 1.0, step)
        for p, q in zip(models[0].parameters(), models[1].parameters(), strict=True):
            q.grad = p.grad * scaler.get_scale()
        plain.step()
        if step % 3 == 2 and name != "halfops clipped":
            scaler.unscale_(scaled)
        scaler.step(scaled)
        scaler.update()
    assert scaler.get_scale() == 2.0**15
    assert scaler.skipped_steps.item() == 0
    if name == "halfops clipped":  # the norm is a sum: equal within its rounding, and so are the weights
        for a, b in zip(models[0].parameters(), models[1].parameters(), strict=True):
            assert torch.allclose(a, b, rtol=4 * torch.finfo(dtype).eps)
    else:
        assert all_equal(everything(models[0], plain), everything(models[1], scaled))


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
@pytest.mark.parametrize("explicit", [False, True], ids=["", "unscale_ and clip"])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_an_overflow_leaves_everything_untouched(name: str, explicit: bool, dtype: torch.dtype) -> None:
    model = network(dtype)
    optimizer, scaler = OPTIMIZERS[name](model.parameters()), started(GradScaler("cpu", init_scale=64.0))
    for step, bad in enumerate([None, None, math.inf, math.nan, None, -math.inf]):
        fill_gradients(model, scaler.get_scale(), step, bad)
        before = everything(model, optimizer)
        if explicit:
            scaler.unscale_(optimizer)
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        scaler.step(optimizer)
        scaler.update()
        assert all_equal(before, everything(model, optimizer)) == (bad is not None)
        assert scaler.last_step_skipped.item() == (bad is not None)
    assert scaler.get_scale() == 8
    assert scaler.skipped_steps.item() == 3


@pytest.mark.parametrize("name", HALF_OPTIMIZERS)
def test_our_optimizers_with_torchs_scaler(name: str) -> None:
    """The stock scaler, and ours, end at the same bits: float16 weights with it, float32 through unscale_ as well."""
    for dtype, explicit in ((torch.float16, False), (torch.float32, False), (torch.float32, True)):
        if dtype == torch.float16 and name == "halfops unfused":
            continue  # torch's scaler refuses to unscale float16 gradients
        ends = []
        for kind in (GradScaler, torch.amp.GradScaler):
            model, scaler = network(dtype), started(kind("cpu", init_scale=64.0))
            optimizer = OPTIMIZERS[name](model.parameters())
            for step, bad in enumerate([None, math.inf, None, None]):
                fill_gradients(model, scaler.get_scale(), step, bad)
                if explicit:
                    scaler.unscale_(optimizer)
                    torch.nn.utils.clip_grad_norm_(model.parameters(), 0.05)
                scaler.step(optimizer)
                scaler.update()
            assert scaler.get_scale() == 32
            ends.append(everything(model, optimizer))
        assert all_equal(*ends)


def test_a_real_float16_loop_overflows_recovers_and_learns() -> None:
    """Scale 2^24 at first: the loss in float16 itself overflows, the scale comes down, the loss goes down."""
    model = network(torch.float16)
    optimizer = halfops.optim.AdamW(model.parameters(), lr=1e-2, max_grad_norm=1.0)
    scaler = GradScaler("cpu", init_scale=2.0**24)
    x = torch.randn(64, 6).half()
    y = x.sum(1, keepdim=True).sin()
    losses = []
    for _ in range(60):
        optimizer.zero_grad()
        loss = (model(x) - y).square().mean()
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]
    assert 5 < scaler.skipped_steps.item() < 20
    assert scaler.get_scale() == 2.0 ** (24 - scaler.skipped_steps.item())


def test_two_lists_overflow_at_once() -> None:
    """torch's fused optimizers skip when found_inf is 1; how many lists of gradients overflowed is none of it."""
    parameters = [torch.nn.Parameter(torch.ones(3, dtype=d)) for d in (torch.float32, torch.float64)]
    optimizer, scaler = torch.optim.SGD(parameters, lr=1.0, fused=True), started(GradScaler("cpu"))
    for p in parameters:
        p.grad = torch.full_like(p, math.nan)
    scaler.step(optimizer)
    assert all(torch.equal(p, torch.ones_like(p)) for p in parameters)
    assert grad_scaler._any_on(torch.device("cpu"), [torch.ones(()), torch.zeros(()), torch.ones(())]).item() == 1


def test_gradients_of_every_kind() -> None:
    """float64, sparse, transposed, absent and empty ones, together in one stock optimizer."""
    embedding = torch.nn.Embedding.from_pretrained(torch.ones(5, 3).half(), freeze=False, sparse=True)
    parameters = [torch.nn.Parameter(torch.ones(2, 3, dtype=d)) for d in (torch.float16, torch.float64)]
    parameters += [torch.nn.Parameter(torch.ones(4)), torch.nn.Parameter(torch.ones(0, 2)), embedding.weight]
    optimizer, scaler = (
        torch.optim.SGD(parameters, lr=1.0),
        started(GradScaler("cpu", init_scale=4.0, count_zeros=True)),
    )
    start = [p.detach().clone() for p in parameters]
    for bad in (None, math.nan):
        optimizer.zero_grad()
        parameters[0].grad = torch.full((3, 2), 8.0).half().t()
        parameters[1].grad = torch.full((2, 3), 4.0, dtype=torch.float64)
        parameters[3].grad = torch.ones(0, 2)
        embedding(torch.tensor([1, 1, 4])).float().sum().mul(4).backward()
        if bad is not None:
            parameters[1].grad[1, 1] = bad
        scaler.step(optimizer)
        scaler.update()
    moved = [(a - p.detach()).flatten().tolist() for a, p in zip(start, parameters, strict=True)]
    assert moved == [[2.0] * 6, [1.0] * 6, [0.0] * 4, [], [0.0] * 3 + [2.0] * 3 + [0.0] * 6 + [1.0] * 3]
    rows = scaler.report().tensors
    assert [(r.numel, r.nonfinite, r.zeros) for r in rows] == [
        (6, False, 0),
        (6, True, 0),
        (0, False, 0),
        (15, False, 0),
    ]
    assert rows[0].norm == pytest.approx(math.sqrt(24))


# -- the rule of the scale -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["torch", "halfops"])
@pytest.mark.parametrize("hysteresis", [1, 2, 3])
def test_floor_cap_and_hysteresis_follow_the_reference(name: str, hysteresis: int) -> None:
    policy = reference.Policy(2.0, 0.5, 4, hysteresis, 4.0, 256.0)
    scaler = GradScaler("cpu", 64.0, 2.0, 0.5, 4, min_scale=4.0, max_scale=256.0, hysteresis=hysteresis)
    expected = reference.State(64.0, 0, hysteresis, 0)
    model = network()
    optimizer = OPTIMIZERS[name](model.parameters())
    generator = random.Random(hysteresis)
    started(scaler)
    seen = set()
    for step in range(240):
        overflowed = generator.random() < (0.05, 0.6)[step // 30 % 2]
        fill_gradients(model, 1.0, step, math.inf if overflowed else None)
        scaler.step(optimizer)
        scaler.update()
        expected = reference.advance(expected, overflowed, policy)
        assert scaler.get_scale() == expected.scale
        assert scaler._get_growth_tracker() == expected.clean
        assert scaler.skipped_steps.item() == expected.skipped
        seen.add(expected.scale)
    assert {4.0, 256.0} <= seen, "both bounds were reached"


def test_nan_for_ever_stops_at_the_floor_and_recovers() -> None:
    """Torch's scale would be 0 after 170 such steps, and never usable again."""
    model = network()
    optimizer, scaler = OPTIMIZERS["halfops"](model.parameters()), started(GradScaler("cpu"))
    for step in range(200):
        fill_gradients(model, 1.0, step, math.nan)
        scaler.step(optimizer)
        scaler.update()
    assert (scaler.get_scale(), scaler.skipped_steps.item()) == (1.0, 200)
    before = everything(model, optimizer)
    fill_gradients(model, 1.0, 0)
    scaler.step(optimizer)
    assert not all_equal(before, everything(model, optimizer))


def test_counters_stay_the_same_tensors() -> None:
    """A scheduler on the device may keep them."""
    model = network()
    optimizer, scaler = OPTIMIZERS["halfops"](model.parameters()), started(GradScaler("cpu"))
    skipped, last = scaler.skipped_steps, scaler.last_step_skipped
    for bad, wanted in ((math.inf, (1, True)), (None, (1, False)), (math.nan, (2, True))):
        fill_gradients(model, 1.0, 0, bad)
        scaler.step(optimizer)
        scaler.update()
        assert (skipped.item(), last.item()) == wanted
    assert scaler.skipped_steps is skipped
    assert skipped.dtype == torch.int64
    assert last.dtype == torch.bool
