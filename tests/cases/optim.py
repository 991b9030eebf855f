"""Every optimizer with the hyper-parameters it is tested with; tests are parametrised over this list.

Gradients are drawn beforehand, so that a reference run and a run under test see the same numbers.
"""

from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor

from halfops import optim
from halfops.reference.optim import RULES


@dataclass(frozen=True, eq=False)
class Case:
    name: str
    make: type[optim.HalfOptimizer]
    rule: str  # of halfops.reference.optim
    hyper: dict[str, Any]  # arguments of the optimizer
    peer: type[torch.optim.Optimizer] | None = None  # the same algorithm in torch, where there is one
    defaults: dict[str, Any] = field(default_factory=dict)  # what the reference takes beyond the arguments

    def reference(self, weight: Tensor, grads: list[Tensor], dtype: torch.dtype = torch.float64) -> Tensor:
        """The weight after one step for each gradient, in that dtype throughout."""
        weight, states = weight.to(dtype), [torch.zeros_like(weight, dtype=dtype) for _ in self.states]
        for t, grad in enumerate(grads, 1):
            weight, *states = self.step(weight, grad.to(dtype), states, t)
        return weight

    def step(self, weight: Tensor, grad: Tensor, states: list[Tensor], t: int) -> tuple[Tensor, ...]:
        return RULES[self.rule][0](weight, grad, *states, t, **{**self.defaults, **self.hyper})

    @property
    def states(self) -> tuple[str, ...]:
        return RULES[self.rule][1]


ADAM = {"lr": 1e-2, "betas": (0.9, 0.98), "eps": 1e-8, "weight_decay": 0.1}
SGD = {"momentum": 0.0, "dampening": 0.0, "weight_decay": 0.0, "nesterov": False}

CASES = [
    Case("adamw", optim.AdamW, "adamw", ADAM, torch.optim.AdamW),
    Case("adamw-maximize", optim.AdamW, "adamw", {**ADAM, "maximize": True}, torch.optim.AdamW),
    Case("adam", optim.Adam, "adam", {**ADAM, "weight_decay": 0.05}, torch.optim.Adam),
    Case("sgd", optim.SGD, "sgd", {"lr": 0.02, "weight_decay": 0.05}, torch.optim.SGD, SGD),
    Case("sgd-momentum", optim.SGD, "sgd", {"lr": 0.01, "momentum": 0.9}, torch.optim.SGD, SGD),
    Case(
        "sgd-dampening",
        optim.SGD,
        "sgd",
        {"lr": 0.02, "momentum": 0.8, "dampening": 0.3, "weight_decay": 0.01, "maximize": True},
        torch.optim.SGD,
        SGD,
    ),
    Case(
        "sgd-nesterov",
        optim.SGD,
        "sgd",
        {"lr": 0.01, "momentum": 0.9, "weight_decay": 0.01, "nesterov": True},
        torch.optim.SGD,
        SGD,
    ),
    Case("lion", optim.Lion, "lion", {"lr": 3e-4, "betas": (0.9, 0.98), "weight_decay": 0.3}),
    Case("lamb", optim.LAMB, "lamb", {"lr": 1e-2, "betas": (0.9, 0.98), "eps": 1e-6, "weight_decay": 0.1}),
]

# Every column that a rule can have, for steps by the op itself.
HYPER = {
    "lr": 1e-2,
    "beta1": 0.9,
    "beta2": 0.98,
    "eps": 1e-8,
    "weight_decay": 0.1,
    "momentum": 0.9,
    "dampening": 0.1,
    "nesterov": 0.0,
    "maximize": 0.0,
}

HALVES = [torch.float16, torch.bfloat16]
DTYPES = [*HALVES, torch.float32]
MASTERS = ["split", "fp32", "none"]

each_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
each_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)
each_half = pytest.mark.parametrize("dtype", HALVES, ids=str)
each_master = pytest.mark.parametrize("master", MASTERS)

# A scalar, odd sizes, more than one engine block, nothing at all, three dimensions.
SHAPES = [(), (7,), (33, 65), (0, 4), (2, 3, 5)]


def weights(dtype: torch.dtype, device: str, seed: int = 0, shapes: list[tuple[int, ...]] = SHAPES) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator).to(device, dtype) for shape in shapes]


def gradients(
    steps: int, dtype: torch.dtype, device: str, seed: int = 1, shapes: list[tuple[int, ...]] = SHAPES
) -> list[list[Tensor]]:
    """One list a step. Every element has its own magnitude, over three decades, and its own drift."""
    generator = torch.Generator().manual_seed(seed)
    scales = [10 ** (3 * torch.rand(shape, generator=generator) - 3) for shape in shapes]
    drifts = [torch.randn(shape, generator=generator) for shape in shapes]
    return [
        [
            (scale * (drift + torch.randn(scale.shape, generator=generator))).to(device, dtype)
            for scale, drift in zip(scales, drifts, strict=True)
        ]
        for _ in range(steps)
    ]


def parameters(tensors: list[Tensor]) -> list[torch.nn.Parameter]:
    return [torch.nn.Parameter(tensor.clone()) for tensor in tensors]


def run(optimizer: torch.optim.Optimizer, params: list[torch.nn.Parameter], grads: list[list[Tensor]]) -> None:
    """One step for each list of gradients."""
    for step in grads:
        for param, grad in zip(params, step, strict=True):
            param.grad = grad.to(param.dtype)
        optimizer.step()


def snapshot(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    """Copies of all weights and all state, in a fixed order."""
    tensors = []
    for group in optimizer.param_groups:
        for param in group["params"]:
            tensors.append(param.detach().clone())
            state = optimizer.state.get(param, {})
            tensors += [state[name].clone() for name in sorted(state) if isinstance(state[name], Tensor)]
    return tensors


def same_bits(a: list[Tensor], b: list[Tensor]) -> bool:
    return len(a) == len(b) and all(x.dtype == y.dtype and torch.equal(x, y) for x, y in zip(a, b, strict=True))
