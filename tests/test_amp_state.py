"""What GradScaler remembers: its state through checkpoints, and the report that names what overflowed."""

from __future__ import annotations

import copy
import gc
import math
import pickle
import random
import weakref
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from cases.amp import OPTIMIZERS, all_equal, everything, fill_gradients, network, started
from torch import Tensor

from halfops.amp import GradScaler
from halfops.reference import scale as reference


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Tensors of a few elements: waking threads for them would be all that this file does."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


# -- state ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["state_dict, fresh", "state_dict, in use", "pickle", "deepcopy"])
def test_resumed_is_bit_identical(how: str) -> None:
    def run(resume_at: int | None) -> tuple[list[Tensor], dict[str, Any]]:
        arguments = {"growth_interval": 3, "hysteresis": 2, "max_scale": 2.0**20}
        model = network(torch.float16)
        optimizer, scaler = OPTIMIZERS["halfops clipped"](model.parameters()), started(GradScaler("cpu", **arguments))
        generator = random.Random(3)
        for step in range(40):
            if step == resume_at:
                state = copy.deepcopy((model.state_dict(), optimizer.state_dict(), scaler.state_dict()))
                model, old = network(torch.float16, seed=9), scaler
                optimizer = OPTIMIZERS["halfops clipped"](model.parameters())
                model.load_state_dict(state[0])
                optimizer.load_state_dict(state[1])
                if how.startswith("state_dict"):
                    scaler = GradScaler("cpu", init_scale=8.0, hysteresis=5)
                    if how == "state_dict, in use":
                        started(scaler)
                    scaler.load_state_dict(state[2])
                else:
                    scaler = pickle.loads(pickle.dumps(old)) if how == "pickle" else copy.deepcopy(old)
                assert scaler.state_dict() == state[2]
                started(scaler)
            bad = math.inf if generator.random() < 0.3 else None
            fill_gradients(model, 1.0, step, bad)
            scaler.step(optimizer)
            scaler.update()
        return everything(model, optimizer), scaler.state_dict()

    straight = run(None)
    for at in (7, 8, 20):
        resumed = run(at)
        assert all_equal(straight[0], resumed[0])
        assert straight[1] == resumed[1]
    assert straight[1]["skipped_steps"] > 5


def test_state_goes_to_torch_and_back() -> None:
    model = network()
    optimizer, ours = (
        OPTIMIZERS["torch"](model.parameters()),
        started(GradScaler("cpu", 4.0, 3.0, 0.25, 5, hysteresis=2)),
    )
    for bad in (None, math.inf, None, None):
        fill_gradients(model, 1.0, 0, bad)
        ours.step(optimizer)
        ours.update()
    torchs = torch.amp.GradScaler("cpu")
    torchs.load_state_dict(ours.state_dict())
    keys = set(torchs.state_dict())
    assert torchs.state_dict() == {k: v for k, v in ours.state_dict().items() if k in keys}
    fresh = GradScaler("cpu", min_scale=0.5, hysteresis=3)
    fresh.load_state_dict(torchs.state_dict())
    state = fresh.state_dict()
    assert {k: state[k] for k in keys} == torchs.state_dict()
    assert (state["min_scale"], state["hysteresis"], state["_hysteresis_tracker"]) == (0.5, 3, 3)
    assert (state["skipped_steps"], state["_last_step_skipped"]) == (0, False)


def test_everything_reads_before_the_first_iteration() -> None:
    scaler = GradScaler("cpu", hysteresis=2)
    assert scaler.get_scale() == 2.0**16
    assert (scaler.skipped_steps.item(), scaler.last_step_skipped.item()) == (0, False)
    assert scaler.state_dict()["_hysteresis_tracker"] == 2
    assert str(scaler.report()) == "no gradients have been checked yet"
    again = GradScaler("cpu")
    again.load_state_dict(scaler.state_dict())
    assert again.state_dict() == scaler.state_dict()


# -- the report ------------------------------------------------------------------------------------------------------

NAMES = ["0.weight", "0.bias", "2.weight", "2.bias"]
SLOTS = ["groups[0].params[0]", "groups[0].params[1]", "groups[1].params[0]", "groups[1].params[1]"]


def _groups(model: torch.nn.Sequential, named: bool) -> list[dict[str, Any]]:
    pairs = list(model.named_parameters())
    return [{"params": part if named else [p for _, p in part]} for part in (pairs[:2], pairs[2:])]


@pytest.mark.parametrize("source", ["optimizer", "constructor", "argument", "nobody"])
@pytest.mark.parametrize("name", ["torch", "halfops"])
@pytest.mark.parametrize("explicit", [False, True], ids=["", "unscale_"])
def test_report_names_what_overflowed(name: str, source: str, explicit: bool) -> None:
    model = network(torch.float16)
    optimizer = OPTIMIZERS[name](_groups(model, source == "optimizer"))
    named = model.named_parameters() if source == "constructor" else None
    scaler = started(GradScaler("cpu", init_scale=32.0, count_zeros=True, named_parameters=named))
    fill_gradients(model, 32.0, 0)
    model[0].weight.grad[:, :2] = 0
    model[2].weight.grad[0, 3] = math.nan
    wanted = [reference.sum_of_squares([p.grad]) for p in model.parameters()]
    if explicit:
        scaler.unscale_(optimizer)
    scaler.step(optimizer)
    scaler.update()
    report = scaler.report(model=model) if source == "argument" else scaler.report()
    names = SLOTS if source == "nobody" else NAMES
    assert [t.name for t in report.tensors] == names
    assert report.overflowed == (names[2],)
    for got, squares, parameter in zip(report.tensors, wanted, model.parameters(), strict=True):
        assert got.shape == parameter.shape
        assert got.dtype == torch.float16
        assert got.norm == pytest.approx(math.sqrt(squares) / 32, rel=1e-3, nan_ok=True)
    assert [t.zeros for t in report.tensors] == [18, 0, 0, 0]
    text = str(report)
    assert text.splitlines()[0] == "1 of 4 gradients overflowed; the loss scale is now 16"
    assert [line.endswith("non-finite") for line in text.splitlines()] == [False, False, False, True, False]
    assert "33.33% zeros" in text


def test_report_without_zeros_and_of_absent_gradients() -> None:
    model = network()
    optimizer, scaler = OPTIMIZERS["halfops"](model.named_parameters()), started(GradScaler("cpu"))
    fill_gradients(model, 1.0, 0)
    model[0].bias.grad = None
    scaler.step(optimizer)
    assert [t.name for t in scaler.report().tensors] == [NAMES[0], *NAMES[2:]], "also before update()"
    assert {t.zeros for t in scaler.report().tensors} == {None}


def test_a_shared_parameter_goes_by_its_first_name() -> None:
    model = network()
    names = [("first", model[0].weight), ("again", model[0].weight)]
    optimizer, scaler = OPTIMIZERS["halfops"]([model[0].weight]), started(GradScaler("cpu", named_parameters=names))
    fill_gradients(model, 1.0, 0)
    scaler.step(optimizer)
    assert [t.name for t in scaler.report().tensors] == ["first"]
    assert [t.name for t in scaler.report(model=reversed(names)).tensors] == ["again"]


def test_a_scaler_keeps_no_model_alive() -> None:
    scaler = started(GradScaler("cpu", named_parameters=(model := network()).named_parameters()))
    optimizer = OPTIMIZERS["torch"](model.parameters())
    fill_gradients(model, 1.0, 0)
    scaler.step(optimizer)
    scaler.update()
    alive = weakref.ref(model[0].weight)
    del model, optimizer
    gc.collect()
    assert alive() is None
    assert scaler.report().tensors == ()
