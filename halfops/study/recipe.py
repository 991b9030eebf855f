"""How long and how fast a task is trained: the same recipe for every arm."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Recipe:
    """Optimizer, its arguments, and the course of the learning rate."""

    title: str
    optimizer: str
    learning_rate: float
    steps: int
    batch: int
    options: Mapping[str, Any] = field(default_factory=dict)
    warmup: int = 0
    final_rate: float = 1.0
    max_grad_norm: float | None = None
    effort: int = 1  # about how long a step takes, in steps of the shortest task: for the progress bar

    @property
    def text(self) -> str:
        momentum = f" momentum {self.options['momentum']:g}" if "momentum" in self.options else ""
        clip = f", clipped at {self.max_grad_norm:g}" if self.max_grad_norm is not None else ""
        name = f"{_NAMES[self.optimizer]} lr {self.learning_rate:g}{momentum}"
        return f"{name}, batch {self.batch}, {self.steps} steps{clip}"

    def rate(self, step: int) -> float:
        """The learning rate of a step: linear warm-up, then a half cosine down to `final_rate` of the peak."""
        if step < self.warmup:
            return self.learning_rate * (step + 1) / self.warmup
        done = (step - self.warmup) / max(1, self.steps - self.warmup)
        low = self.final_rate
        return self.learning_rate * (low + (1 - low) * (1 + math.cos(math.pi * done)) / 2)


# digits-sgd: rate, momentum, batch, no weight decay as in arXiv 2305.10947. digits-small-steps: most steps are less
# than half a unit in the last place of most fp16 weights, as late in a long training: what a master is for.
RECIPES: Mapping[str, Recipe] = {
    "digits-sgd": Recipe("SGD", "sgd", 0.01, steps=600, batch=256, options={"momentum": 0.9}),
    "digits-adamw": Recipe(
        "AdamW", "adamw", 2e-3, steps=400, batch=128, options={"weight_decay": 0.01}, final_rate=0.1
    ),
    "digits-small-steps": Recipe("very small steps", "sgd", 1.5e-4, steps=2000, batch=16, options={"momentum": 0.9}),
    "text": Recipe(
        "AdamW",
        "adamw",
        3e-3,
        steps=400,
        batch=32,
        options={"weight_decay": 0.1},
        warmup=20,
        final_rate=0.1,
        max_grad_norm=1.0,
        effort=20,
    ),
}
QUICK_STEPS: Mapping[str, int] = {"digits-sgd": 150, "digits-adamw": 120, "digits-small-steps": 500, "text": 40}

_NAMES = {"sgd": "SGD", "adamw": "AdamW"}
