"""Bad input to the scale room: one sentence with what came, what was wanted and the way out, and nothing changed."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch

from halfops import functional
from halfops._ops import scale as ops
from halfops.amp import GradScaler

FUNCTIONS: dict[str, Callable[[Any], Any]] = {
    "nonfinite_check": functional.nonfinite_check,
    "grad_norm": functional.grad_norm,
    "unscale_": lambda tensors: functional.unscale_(tensors, 0.5),
}


def _sparse() -> torch.Tensor:
    return torch.eye(2).to_sparse()


def _freed() -> torch.Tensor:
    tensor = torch.ones(3)
    tensor.untyped_storage().resize_(0)
    return tensor


BAD_LISTS: dict[str, tuple[Callable[[torch.Tensor], list[torch.Tensor]], str]] = {
    "empty list": (lambda _: [], r"tensors: got an empty list, wanted at least one tensor; skip"),
    "float64": (
        lambda good: [good, torch.ones(2).double()],
        r"tensors\[1\]: got torch.float64, wanted torch.float16, torch.bfloat16 or torch.float32; convert",
    ),
    "complex": (lambda good: [good, torch.ones(2) * 1j], r"tensors\[1\]: got torch.complex64, wanted torch.float16"),
    "integers": (lambda good: [torch.arange(3), good], r"tensors\[0\]: got torch.int64, wanted torch.float16"),
    "sliced": (
        lambda good: [good, torch.ones(4, 4)[:, :2]],
        r"tensors\[1\]: got a tensor of shape \[4, 2\] whose elements do not fill their memory .*call .contiguous",
    ),
    "expanded": (lambda good: [good, torch.ones(1).expand(3)], r"tensors\[1\]: got a tensor of shape \[3\] whose elem"),
    "freed": (
        lambda good: [good, _freed()],
        r"tensors\[1\]: got a tensor of shape \[3\] whose storage was freed, wanted .*gather it",
    ),
    "devices mixed": (
        lambda good: [good, torch.ones(3, device="meta")],
        r"tensors\[1\]: is on another device than tensors\[0\]; move both to one device",
    ),
    "sparse": (
        lambda good: [good, _sparse()],
        r"tensors\[1\]: got the layout torch.sparse_coo, wanted torch.strided; .*to_dense",
    ),
}


@pytest.mark.parametrize("name", BAD_LISTS)
@pytest.mark.parametrize("function", FUNCTIONS)
def test_bad_lists(function: str, name: str) -> None:
    make, message = BAD_LISTS[name]
    good = torch.full((5,), 2.0)
    with pytest.raises(RuntimeError, match=message):
        FUNCTIONS[function](make(good))
    assert good.eq(2).all()


def _shared() -> dict[str, list[torch.Tensor]]:
    base = torch.full((8,), 2.0)
    return {
        "twice": [base, base],
        "overlap": [torch.zeros(3), base[2:6], base[5:]],
        "a view of another dtype": [base[:2].view(torch.float16), base],
    }


@pytest.mark.parametrize("name", _shared())
def test_unscale_refuses_shared_memory(name: str) -> None:
    tensors = _shared()[name]
    before = [t.clone() for t in tensors]
    with pytest.raises(
        RuntimeError, match=r"tensors\[\d\]: shares memory with tensors\[\d\], wanted separate tensors; p"
    ):
        functional.unscale_(tensors, 0.5)
    assert all(torch.equal(a, b) for a, b in zip(tensors, before, strict=True))
    assert functional.grad_norm(tensors)[1].item() == 0, "what only reads may look at the same memory twice"


def test_neighbours_in_memory_are_not_shared() -> None:
    base = torch.full((8,), 2.0)
    functional.unscale_([base[4:], base[:4]], 0.5)
    assert base.eq(1).all()


def test_unscale_refuses_its_own_factor() -> None:
    base = torch.full((3,), 0.5)
    with pytest.raises(RuntimeError, match=r"shares memory with (tensors\[0\]|inv_scale)"):
        functional.unscale_(base, base[1])
    assert base.eq(0.5).all()


@pytest.mark.parametrize(
    ("inv_scale", "message"),
    [
        (torch.ones(2), r"inv_scale: got torch.float32 of shape \[2\], wanted one torch.float32 number"),
        (torch.ones(()).double(), r"inv_scale: got torch.float64 of shape \[\], wanted one torch.float32 number"),
        (torch.ones(()).half(), r"inv_scale: got torch.float16"),
    ],
)
def test_unscale_refuses_other_factors(inv_scale: torch.Tensor, message: str) -> None:
    good = torch.full((5,), 2.0)
    with pytest.raises(RuntimeError, match=message):
        functional.unscale_(good, inv_scale)
    assert good.eq(2).all()


def _state() -> dict[str, Any]:
    return {
        "scale": torch.tensor(8.0),
        "growth_tracker": torch.zeros((), dtype=torch.int32),
        "hysteresis_tracker": torch.ones((), dtype=torch.int32),
        "skipped_steps": torch.zeros((), dtype=torch.int64),
        "found_inf": torch.tensor(1.0),
        "growth_factor": 2.0,
        "backoff_factor": 0.5,
        "growth_interval": 10,
        "hysteresis": 1,
        "min_scale": 1.0,
        "max_scale": 64.0,
    }


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("scale", torch.ones(2), r"scale: got torch.float32 of shape \[2\], wanted one torch.float32 number"),
        ("scale", torch.ones(()).half(), r"scale: got torch.float16 of shape \[\], wanted one torch.float32"),
        ("growth_tracker", torch.tensor(0), r"growth_tracker: got torch.int64 of shape \[\], wanted one torch.int32 n"),
        ("hysteresis_tracker", torch.tensor(1.0), r"hysteresis_tracker: got torch.float32 .* wanted one torch.int32"),
        ("skipped_steps", torch.tensor(0).int(), r"skipped_steps: got torch.int32 .* wanted one torch.int64 number"),
        ("found_inf", torch.tensor(True), r"found_inf: got torch.bool of shape \[\], wanted one torch.float32 number"),
        ("growth_factor", 1.0, r"scale_update_: growth_factor: got 1, wanted a number above 1"),
        ("growth_factor", math.nan, r"growth_factor: got nan, wanted a number above 1"),
        ("backoff_factor", 0.0, r"backoff_factor: got 0, wanted a number in \(0, 1\)"),
        ("backoff_factor", 1.0, r"backoff_factor: got 1, wanted a number in \(0, 1\)"),
        ("growth_interval", 0, r"growth_interval: got 0, wanted a 32-bit count of at least 1"),
        ("hysteresis", 0, r"hysteresis: got 0, wanted a 32-bit count of at least 1"),
        ("min_scale", 0.0, r"min_scale: got 0, wanted a number above 0"),
        ("max_scale", 0.5, r"max_scale: got 0.5, wanted a number not below min_scale"),
        ("max_scale", math.nan, r"max_scale: got nan, wanted a number not below min_scale"),
    ],
)
def test_scale_update_checks_before_it_changes(name: str, value: Any, message: str) -> None:
    state = _state()
    kept = {key: x.clone() for key, x in state.items() if isinstance(x, torch.Tensor) and key != name}
    state[name] = value
    with pytest.raises(RuntimeError, match=message):
        ops.scale_update_(**state)
    assert all(torch.equal(state[key], x) for key, x in kept.items())


def test_scale_update_refuses_shared_memory() -> None:
    state = _state()
    state["found_inf"] = state["scale"]
    with pytest.raises(RuntimeError, match=r"shares memory with (scale|found_inf), wanted separate tensors"):
        ops.scale_update_(**state)
    assert state["scale"].item() == 8


# -- GradScaler ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"growth_factor": 1.0}, AssertionError, "The growth factor must be > 1.0"),
        ({"growth_factor": math.nan}, ValueError, "growth_factor: got nan, wanted a finite number above 1"),
        ({"growth_factor": math.inf}, ValueError, "growth_factor: got inf, wanted a finite number above 1"),
        ({"backoff_factor": 1.0}, AssertionError, "The backoff factor must be < 1.0"),
        ({"backoff_factor": 0.0}, ValueError, r"backoff_factor: got 0.0, wanted a number in \(0, 1\)"),
        ({"backoff_factor": math.nan}, ValueError, r"backoff_factor: got nan, wanted a number in \(0, 1\)"),
        ({"growth_interval": 0}, ValueError, "growth_interval: got 0, wanted a 32-bit count of at least 1"),
        ({"growth_interval": 2000.5}, ValueError, "growth_interval: got 2000.5, wanted a 32-bit count of at least 1"),
        ({"growth_interval": 2**31}, ValueError, "growth_interval: got 2147483648, wanted a 32-bit count"),
        ({"hysteresis": 1.5}, ValueError, "hysteresis: got 1.5, wanted a 32-bit count of at least 1"),
        ({"init_scale": 0.0}, ValueError, "GradScaler: init_scale: got 0.0, wanted a finite number above 0"),
        ({"init_scale": math.nan}, ValueError, "init_scale: got nan, wanted a finite number above 0"),
        ({"min_scale": 0.0}, ValueError, "min_scale: got 0.0, wanted a finite number above 0"),
        ({"min_scale": -1.0}, ValueError, "min_scale: got -1.0, wanted a finite number above 0"),
        ({"max_scale": math.inf}, ValueError, "max_scale: got inf, wanted a finite number above 0"),
        ({"min_scale": 8.0, "max_scale": 4.0}, ValueError, "max_scale: got 4.0, wanted at least min_scale = 8.0"),
        ({"hysteresis": 0}, ValueError, "hysteresis: got 0, wanted a 32-bit count of at least 1; 1 is torch's rule"),
    ],
)
def test_scaler_refuses_bad_numbers(arguments: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        GradScaler("cpu", **arguments)


def _trained() -> tuple[torch.nn.Linear, torch.optim.SGD, GradScaler]:
    model = torch.nn.Linear(3, 2)
    return model, torch.optim.SGD(model.parameters(), lr=0.1), GradScaler("cpu")


def _backward(model: torch.nn.Linear, scaler: GradScaler) -> None:
    scaler.scale(model(torch.ones(1, 3)).sum()).backward()


def test_calls_out_of_order() -> None:
    """Torch's errors, types and words included, wherever torch has them."""
    model, optimizer, scaler = _trained()
    for call in (lambda: scaler.step(optimizer), lambda: scaler.unscale_(optimizer), scaler.update):
        with pytest.raises(AssertionError, match=r"but _scale is None.*scaler.scale"):
            call()
    _backward(model, scaler)
    with pytest.raises(AssertionError, match=r"No inf checks were recorded prior to update: .*call scaler.step"):
        scaler.update()
    scaler.unscale_(optimizer)
    with pytest.raises(RuntimeError, match=r"unscale_\(\) has already been called on this optimizer since the last"):
        scaler.unscale_(optimizer)
    with pytest.raises(RuntimeError, match="Closure use is not currently supported if GradScaler is enabled"):
        scaler.step(optimizer, closure=lambda: 0.0)
    with pytest.raises(RuntimeError, match="Closure use is not currently supported if GradScaler is enabled"):
        scaler.step(optimizer, lambda: 0.0)
    scaler.step(optimizer)
    with pytest.raises(RuntimeError, match=r"step\(\) has already been called since the last update\(\)"):
        scaler.step(optimizer)
    with pytest.raises(RuntimeError, match=r"unscale_\(\) is being called after step\(\)"):
        scaler.unscale_(optimizer)
    scaler.update()
    optimizer.zero_grad()
    with pytest.raises(
        AssertionError, match=r"No inf checks were recorded for this optimizer: none of its 2 param.*call"
    ):
        scaler.step(optimizer)


@pytest.mark.parametrize("new_scale", [0.0, -1.0, math.nan, math.inf, 0])
def test_update_refuses_what_is_no_scale(new_scale: float) -> None:
    model, _, scaler = _trained()
    _backward(model, scaler)
    with pytest.raises(ValueError, match=r"new_scale: got .* wanted a finite number above 0"):
        scaler.update(new_scale)
    assert scaler.get_scale() == 2.0**16


def test_update_refuses_tensors_as_torch_does() -> None:
    model, _, scaler = _trained()
    _backward(model, scaler)
    for tensor in (torch.ones(2), torch.ones((), requires_grad=True)):
        with pytest.raises(AssertionError, match="new_scale should be a float or a 1-element"):
            scaler.update(tensor)


def test_load_state_dict_names_what_is_missing() -> None:
    scaler = GradScaler("cpu")
    with pytest.raises(RuntimeError, match="The source state dict is empty"):
        scaler.load_state_dict({})
    state = scaler.state_dict()
    del state["scale"], state["_growth_tracker"]
    with pytest.raises(RuntimeError, match=r"got a state without scale, _growth_tracker, wanted one from .*state_dict"):
        scaler.load_state_dict(state)


@pytest.mark.parametrize("scale", [0.0, math.inf, math.nan])
def test_load_state_dict_refuses_what_is_no_scale(scale: float) -> None:
    """Where torch's scaler ends when overflows do not: loaded, it would turn every weight into NaN."""
    scaler = GradScaler("cpu")
    before = scaler.state_dict()
    with pytest.raises(ValueError, match=r"GradScaler: scale: got .*, wanted a finite number above 0"):
        scaler.load_state_dict({**before, "scale": scale, "skipped_steps": 3})
    assert scaler.state_dict() == before


@pytest.mark.parametrize("explicit", [False, True], ids=["step", "unscale_"])
@pytest.mark.parametrize("named", [False, True])
def test_a_gradient_that_cannot_be_checked_is_named_before_any_other_is_changed(named: bool, explicit: bool) -> None:
    first, second = torch.nn.Parameter(torch.ones(3)), torch.nn.Parameter(torch.ones(3))
    parameters = [("one", first), ("two", second)] if named else [first, second]
    optimizer, scaler = torch.optim.SGD(parameters, lr=0.1), GradScaler("cpu")
    scaler.scale(torch.ones(()))
    first.grad, second.grad = torch.ones(3), torch.ones(1).expand(3)
    name = "two" if named else r"groups\[0\].params\[1\]"
    with pytest.raises(RuntimeError, match=rf"^{name}.grad: got a tensor of shape \[3\] whose elements do not fill"):
        (scaler.unscale_ if explicit else scaler.step)(optimizer)
    assert first.grad.eq(1).all()
    assert first.eq(1).all()


def test_pickling_in_the_middle_of_an_iteration_is_refused() -> None:
    model, optimizer, scaler = _trained()
    _backward(model, scaler)
    scaler.unscale_(optimizer)
    with pytest.raises(AssertionError, match="may only be pickled at the beginning"):
        scaler.__getstate__()
