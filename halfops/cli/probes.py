"""Small checked runs of every op, for the doctor: random input, the op, and what it should have given in float64.

A probe returns its worst error as a multiple of what is allowed: 0 is exact, above 1 is wrong.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from halfops import amp, functional, optim
from halfops._ops import optim as optim_ops
from halfops.reference import optim as reference_optim
from halfops.reference import scale as reference_scale

HALVES = (torch.float16, torch.bfloat16)
DTYPES = (*HALVES, torch.float32)


@dataclass(frozen=True)
class Probe:
    """A public name, the room whose engine runs it, the ops it must have, and its checked run."""

    name: str
    room: str
    ops: tuple[str, ...]
    run: Callable[[torch.dtype, torch.device], float]
    dtypes: tuple[torch.dtype, ...] = DTYPES


def _random(dtype: torch.dtype, device: torch.device, *shapes: tuple[int, ...]) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=generator).to(dtype).to(device) for shape in shapes]


def _error(got: Tensor, wanted: Tensor, units: float) -> float:
    """|got - wanted| in `units` of the last place of the largest number wanted."""
    if got.shape != wanted.shape:
        return math.inf
    allowed = units * torch.finfo(got.dtype).eps * max(float(wanted.abs().max()), 1e-3)
    error = float((got.double() - wanted).abs().max()) / allowed
    return math.inf if math.isnan(error) else error


def _differentiable(function: Callable[..., Tensor], *shapes: tuple[int, ...]) -> Callable[..., float]:
    """Result and gradients, against the same function in float64, which runs as a composition of torch's own ops."""

    def run(dtype: torch.dtype, device: torch.device) -> float:
        inputs = [x / 4 for x in _random(dtype, device, *shapes)]
        found = []
        for kind in (dtype, torch.float64):
            leaves = [x.to(kind).requires_grad_() for x in inputs]
            output = function(*leaves)
            grad = _random(dtype, device, tuple(output.shape))[0].to(kind)
            found.append([output, *torch.autograd.grad(output, leaves, grad)])
        return max(_error(got.detach(), wanted.detach(), 8) for got, wanted in zip(*found, strict=True))

    return run


def _nonfinite(dtype: torch.dtype, device: torch.device) -> float:
    tensors = _random(dtype, device, (33, 5), (1,), (0,), (4099,))
    clean = functional.nonfinite_check(tensors).item()
    tensors[-1][-1] = math.nan
    return 0.0 if (clean, functional.nonfinite_check(tensors).item()) == (0.0, 1.0) else math.inf


def _grad_norm(dtype: torch.dtype, device: torch.device) -> float:
    tensors = _random(dtype, device, (33, 5), (4099,))
    norm, found_inf = functional.grad_norm(tensors)
    wanted = math.sqrt(reference_scale.sum_of_squares([t.cpu() for t in tensors]))
    return abs(norm.item() - wanted) / (1e-6 * wanted) if found_inf.item() == 0 else math.inf


def _unscale(dtype: torch.dtype, device: torch.device) -> float:
    tensors = _random(dtype, device, (33, 5), (4099,))
    wanted = [reference_scale.unscale(t, 1 / 1024) for t in tensors]
    found_inf = functional.unscale_(tensors, 1 / 1024)
    same = all(torch.equal(t, w) for t, w in zip(tensors, wanted, strict=True))
    return 0.0 if same and found_inf.item() == 0 else math.inf


def _grad_scaler(dtype: torch.dtype, device: torch.device) -> float:
    """Three iterations, the second with an infinite gradient: it must change no weight and halve the scale."""
    (weight,) = _random(dtype, device, (65,))
    weight.requires_grad_()
    optimizer = optim.SGD([weight], lr=0.5)
    scaler = amp.GradScaler(device.type, init_scale=1024.0, growth_interval=1)
    policy, state = reference_scale.Policy(growth_interval=1), reference_scale.State(1024.0, 0, 1, 0)
    for turn in range(3):
        before = weight.detach().clone()
        weight.grad = torch.full_like(weight, math.inf if turn == 1 else state.scale)
        scaler.scale(torch.zeros((), device=device))
        scaler.step(optimizer)
        scaler.update()
        state = reference_scale.advance(state, turn == 1, policy)
        moved = not torch.equal(before, weight.detach())
        if moved == (turn == 1) or scaler.get_scale() != state.scale:
            return math.inf
    return 0.0


def _optimizer(make: type[optim.HalfOptimizer], rule: str, hyper: dict[str, Any]) -> Callable[..., float]:
    """Three steps with every kind of master, against the rule's definition in float64."""

    def run(dtype: torch.dtype, device: torch.device) -> float:
        return max(steps(dtype, device, master) for master in ("split", "fp32", "none"))

    def steps(dtype: torch.dtype, device: torch.device, master: str) -> float:
        shapes = [(33, 5), (7,)]
        params = [p.requires_grad_() for p in _random(dtype, device, *shapes)]
        optimizer = make(params, master=master, **hyper)
        function, names = reference_optim.RULES[rule]
        expected = [p.detach().double() for p in params]
        states = [[torch.zeros_like(w) for _ in names] for w in expected]
        for step in (1, 2, 3):
            for i, (param, grad) in enumerate(zip(params, _random(dtype, device, *shapes), strict=True)):
                param.grad = grad
                expected[i], *states[i] = function(expected[i], grad.double(), *states[i], step, **hyper)
            optimizer.step()
        exact = master != "none" or dtype == torch.float32
        found = optimizer.master_params() if exact else [p.detach() for p in params]
        return max(_error(got, wanted, 64 if exact else 4) for got, wanted in zip(found, expected, strict=True))

    return run


def _split(dtype: torch.dtype, device: torch.device) -> float:
    (master,) = _random(torch.float32, device, (4099,))
    master = master.sign() * (master.abs() + 2.0**-14)
    weight, remainder = optim_ops.split_master(master, dtype)
    same = torch.equal(optim_ops.join_master(weight, remainder), master)
    return 0.0 if same and weight.dtype == dtype else math.inf


def _cast(dtype: torch.dtype, device: torch.device) -> float:
    (numbers,) = _random(torch.float32, device, (4099,))
    nearest = optim_ops.cast(numbers, dtype)
    stochastic = optim_ops.cast(numbers, dtype, rounding="stochastic", seed=1)
    gap = (stochastic.double() - numbers.double()).abs() / numbers.abs().double().clamp_min(1e-3)
    ok = torch.equal(nearest, numbers.to(dtype)) and float(gap.max()) <= torch.finfo(dtype).eps
    return 0.0 if ok else math.inf


def _tangled(x: Tensor, w: Tensor, b: Tensor, r: Tensor) -> Tensor:
    return functional.linear(x, w, b, activation="gelu", residual=r)


_BETAS = {"betas": (0.9, 0.99), "weight_decay": 0.01}
_ADAM = {"lr": 1e-2, "eps": 1e-8, **_BETAS}
_SGD = {"lr": 0.1, "momentum": 0.9, "dampening": 0.0, "weight_decay": 0.01, "nesterov": True}
_GRADS = ("linear", "linear_dgrad", "linear_wgrad")
_BENT = (*_GRADS, "activation", "activation_backward")
_GATED = ("gated_linear", "gated_linear_dgrad", "linear_wgrad", "gated_activation_backward")

PROBES: Sequence[Probe] = (
    Probe("linear", "linear", _BENT, _differentiable(_tangled, (5, 33), (17, 33), (17,), (5, 17))),
    Probe("gated_linear", "linear", _GATED, _differentiable(functional.gated_linear, (5, 33), (17, 33), (17, 33))),
    Probe("mlp", "linear", _BENT, _differentiable(functional.mlp, (5, 33), (17, 33), (17,), (9, 17), (9,))),
    Probe(
        "gated_mlp",
        "linear",
        ("gated_linear", "gated_linear_dgrad", "gated_dgrad", "gated_activation", "linear", "linear_wgrad"),
        _differentiable(functional.gated_mlp, (5, 33), (17, 33), (17, 33), (9, 17)),
    ),
    Probe(
        "matmul",
        "linear",
        ("matmul",),
        _differentiable(lambda a, b: functional.matmul(a.mT, b), (2, 33, 5), (2, 33, 9)),
    ),
    Probe("nonfinite_check", "scale", ("nonfinite_check",), _nonfinite),
    Probe("grad_norm", "scale", ("grad_stats",), _grad_norm),
    Probe("unscale_", "scale", ("unscale_",), _unscale),
    Probe("amp.GradScaler", "scale", ("grad_stats", "scale_update_", "optim_step_"), _grad_scaler),
    Probe("optim.AdamW", "optim", ("optim_step_",), _optimizer(optim.AdamW, "adamw", _ADAM)),
    Probe("optim.Adam", "optim", ("optim_step_",), _optimizer(optim.Adam, "adam", _ADAM)),
    Probe("optim.SGD", "optim", ("optim_step_",), _optimizer(optim.SGD, "sgd", _SGD)),
    Probe("optim.Lion", "optim", ("optim_step_",), _optimizer(optim.Lion, "lion", {"lr": 1e-3, **_BETAS})),
    Probe("optim.LAMB", "optim", ("optim_step_",), _optimizer(optim.LAMB, "lamb", {"lr": 1e-2, "eps": 1e-6, **_BETAS})),
    Probe("split master", "optim", ("split_master", "join_master"), _split, HALVES),
    Probe("rounding", "optim", ("cast",), _cast, HALVES),
)
