"""What the scaler's tests train: a small network, every kind of optimizer, gradients that overflow on demand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

import halfops

OPTIMIZERS: dict[str, Callable[..., Any]] = {
    "torch": lambda params: torch.optim.AdamW(params, lr=1e-2, eps=1e-3),  # 1e-8 is 0 in float16
    "torch fused": lambda params: torch.optim.AdamW(params, lr=1e-2, fused=True),
    "halfops": lambda params: halfops.optim.AdamW(params, lr=1e-2),
    "halfops clipped": lambda params: halfops.optim.AdamW(params, lr=1e-2, max_grad_norm=0.5),
    "halfops unfused": lambda params: halfops.optim.AdamW(params, lr=1e-2, fused_unscale=False),
    "halfops sgd": lambda params: halfops.optim.SGD(params, lr=1e-2, momentum=0.9),
}


def network(dtype: torch.dtype = torch.float32, seed: int = 0) -> torch.nn.Sequential:
    torch.manual_seed(seed)
    return torch.nn.Sequential(torch.nn.Linear(6, 9), torch.nn.Tanh(), torch.nn.Linear(9, 1)).to(dtype)


def fill_gradients(model: torch.nn.Module, scale: float, seed: int, bad: float | None = None) -> None:
    """Gradients as the backward pass of a scaled loss leaves them: scale * normal, and perhaps one bad element."""
    generator = torch.Generator().manual_seed(seed)
    for p in model.parameters():
        p.grad = (torch.randn(p.shape, generator=generator) * 1e-2 * scale).to(p.dtype)
    if bad is not None:
        *_, last = model.parameters()
        last.grad.view(-1)[0] = bad


def started(scaler: Any) -> Any:
    scaler.scale(torch.ones(()))
    return scaler


def everything(model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> list[Tensor]:
    """Weights and all optimizer state, copied."""
    states = [x for state in optimizer.state.values() for x in state.values() if isinstance(x, Tensor)]
    return [x.detach().clone() for x in [*model.parameters(), *states]]


def all_equal(a: list[Tensor], b: list[Tensor]) -> bool:
    return len(a) == len(b) and all(torch.equal(x, y) for x, y in zip(a, b, strict=True))
