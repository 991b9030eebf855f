"""The precisions that are compared: what an arm does to a network, its optimizer and its backward pass."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

import halfops
from halfops.study.recipe import Recipe


@dataclass(frozen=True)
class Arm:
    """One precision. `master` None: torch's own optimizer on fp32 weights; else halfops' on fp16 weights."""

    key: str
    title: str
    color: str
    autocast: bool = False
    master: str | None = None
    rounding: str = "nearest"

    @property
    def is_half(self) -> bool:
        return self.master is not None


ARMS = (
    Arm("fp32", "torch fp32", "#4d4d4d"),
    Arm("amp", "torch AMP fp16", "#e69f00", autocast=True),
    Arm("split", "halfops fp16 + split master", "#0072b2", master="split"),
    Arm("stochastic", "halfops pure fp16 stochastic", "#009e73", master="none", rounding="stochastic"),
    Arm("nearest", "halfops pure fp16 nearest", "#cc79a7", master="none"),
)
BASELINE = ARMS[0]


@dataclass
class Setup:
    """A network prepared for an arm, with what updates it."""

    arm: Arm
    network: nn.Module
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler | None
    max_grad_norm: float | None
    device: torch.device

    def autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, dtype=torch.float16, enabled=self.arm.autocast)

    def update(self, loss: Tensor) -> None:
        """Backward, unscale, clip, step, scale update: each arm as its users write it."""
        if self.scaler is None:
            loss.backward()
            self._clip()
            self.optimizer.step()
            return
        self.scaler.scale(loss).backward()
        if not self.arm.is_half and self.max_grad_norm is not None:
            self.scaler.unscale_(self.optimizer)
            self._clip()
        self.scaler.step(self.optimizer)  # a halfops optimizer unscales and clips within its one pass
        self.scaler.update()

    def kept_weights(self) -> list[Tensor]:
        """The weights that updates accumulate in, one tensor a parameter: the masters where there are some."""
        if self.arm.master == "split":
            return list(self.optimizer.master_params())  # type: ignore[attr-defined]
        return [p.detach() for p in self.network.parameters()]

    def seen_weights(self) -> list[Tensor]:
        """The weights as matrix products see them: under autocast the fp16 copies of the fp32 ones."""
        dtype = torch.float16 if self.arm.autocast or self.arm.is_half else torch.float32
        return [p.detach().to(dtype) for p in self.network.parameters()]

    def _clip(self) -> None:
        if self.max_grad_norm is not None:
            nn.utils.clip_grad_norm_(self.network.parameters(), self.max_grad_norm)


def set_up(arm: Arm, network: nn.Module, recipe: Recipe, device: torch.device, seed: int) -> Setup:
    """Moves a fresh fp32 network into the arm's precision and gives it the arm's optimizer."""
    network = network.to(device)
    if arm.is_half:
        network = halfops.nn.convert(network.half())
        optimizer = _halfops_optimizer(arm, network.parameters(), recipe, seed)
        scaler: torch.amp.GradScaler | None = halfops.amp.GradScaler(device.type)
    else:
        optimizer = _torch_optimizer(network.parameters(), recipe)
        scaler = torch.amp.GradScaler(device.type) if arm.autocast else None
    return Setup(arm, network, optimizer, scaler, recipe.max_grad_norm, device)


def _torch_optimizer(parameters: Iterable[nn.Parameter], recipe: Recipe) -> torch.optim.Optimizer:
    kinds: dict[str, Any] = {"sgd": torch.optim.SGD, "adamw": torch.optim.AdamW}
    optimizer: torch.optim.Optimizer = kinds[recipe.optimizer](
        parameters, lr=recipe.learning_rate, fused=True, **recipe.options
    )
    return optimizer


def _halfops_optimizer(
    arm: Arm, parameters: Iterable[nn.Parameter], recipe: Recipe, seed: int
) -> torch.optim.Optimizer:
    kinds: dict[str, Any] = {"sgd": halfops.optim.SGD, "adamw": halfops.optim.AdamW}
    optimizer: torch.optim.Optimizer = kinds[recipe.optimizer](
        parameters,
        lr=recipe.learning_rate,
        master=arm.master,
        rounding=arm.rounding,
        max_grad_norm=recipe.max_grad_norm,
        seed=seed,
        **recipe.options,
    )
    return optimizer
