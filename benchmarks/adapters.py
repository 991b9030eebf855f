"""Optimizers of other packages, as whole steps on 16-bit weights; each used only where its package is installed.

None of them checks for overflow, clips or skips: torch's passes do that outside, and the host reads the flag before the
step, as torch's scaler does for such optimizers.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from .pipelines import HYPER, Outside, Pipeline, Problem, Step


@dataclass(frozen=True)
class Adapter:
    """`moved` is the update alone, weights and states read and written, gradients read."""

    name: str
    module: str
    make: Callable[[Any, list[torch.nn.Parameter]], Any]
    moved: float
    kept: float
    dtypes: tuple[torch.dtype, ...] = (torch.float16, torch.bfloat16)
    # Once for each shape: a minute or more for all shapes of one model.
    compiles: bool = False

    @property
    def package(self) -> str:
        return self.module.split(".")[0]

    @property
    def installed(self) -> bool:
        return importlib.util.find_spec(self.package) is not None

    def pipeline(self) -> Pipeline:
        # Its own gradients, 2 bytes, because the clip writes them.
        return Pipeline(self.name, self._step, Outside.MOVED + self.moved, self.kept + 2, dtypes=self.dtypes)

    def _step(self, problem: Problem) -> Step:
        grads = [grad.clone() for grad in problem.half]
        parameters = problem.trained(problem.dtype, grads)
        optimizer = self.make(importlib.import_module(self.module), parameters)
        outside = Outside(grads)

        def step() -> None:
            if not outside().item():
                optimizer.step()

        return step


ADAPTERS = (
    # Two 8-bit moments with a 16-bit scale for 32 elements, and one byte of the master beside a 16-bit weight (or two).
    Adapter(
        "flashoptim FlashAdamW, 24-bit master",
        "flashoptim",
        lambda module, parameters: module.FlashAdamW(parameters, **HYPER, master_weight_bits=24),
        12.25,
        5.125,
    ),
    Adapter(
        "flashoptim FlashAdamW, 32-bit master",
        "flashoptim",
        lambda module, parameters: module.FlashAdamW(parameters, **HYPER, master_weight_bits=32),
        14.25,
        6.125,
    ),
    # Two 8-bit moments with a float32 scale for 256 elements, no master.
    Adapter(
        "bitsandbytes AdamW8bit",
        "bitsandbytes",
        lambda module, parameters: module.optim.AdamW8bit(parameters, **HYPER),
        10.06,
        4.03,
    ),
    Adapter(
        "torchao AdamW8bit",
        "torchao.optim",
        lambda module, parameters: module.AdamW8bit(parameters, **HYPER),
        10.06,
        4.03,
        compiles=True,
    ),
    # Moments in the weights' dtype.
    Adapter(
        "torchao _AdamW, bf16 stochastic rounding",
        "torchao.optim",
        lambda module, parameters: module._AdamW(parameters, **HYPER, bf16_stochastic_round=True),
        14,
        6,
        dtypes=(torch.bfloat16,),
        compiles=True,
    ),
)
