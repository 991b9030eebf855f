"""What the tests of weight gradients' statistics train, and the step that must say what a read of gradients says."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from bounds import UNIT

import halfops
from cases.amp import started
from halfops._ops import fresh
from halfops._ops import scale as scale_ops
from halfops.amp import GradScaler, wgrad_stats
from halfops.nn import MLP, GatedMLP, Linear

SCALE = 64.0


@contextmanager
def on_every_device() -> Iterator[None]:
    """On the CPU, too; with no records from before, and none left."""
    fresh._records.clear()
    with wgrad_stats(True):
        yield
    fresh._records.clear()


def network(device, dtype=torch.float16, bias=True):
    layers = [Linear(6, 8, activation="gelu", bias=bias), MLP(8, 9, 8, bias=bias), GatedMLP(8, 7, 8, bias=bias)]
    return torch.nn.Sequential(*layers, Linear(8, 5, bias=bias)).to(device, dtype)


def batch(model, seed=0):
    weight = next(model.parameters())
    x = torch.randn(7, 6, generator=torch.Generator().manual_seed(seed))
    return x.to(weight.device, weight.dtype)


def backward(model, seed=0, scale=SCALE):
    (model(batch(model, seed)).float().square().mean() * scale).backward()


def weights(model):
    return [p for p in model.parameters() if p.dim() == 2]


def new_scaler(device, **options):
    return started(GradScaler(device.type, init_scale=SCALE, **options))


def sgd(model, **options):
    return halfops.optim.SGD(model.parameters(), lr=1e-2, **options)


def torch_fused(model):
    return torch.optim.SGD(model.parameters(), lr=1e-2, fused=True)


OPTIMIZERS = {"plan": sgd, "list": torch_fused}
each_optimizer = pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)


def checked(model, scaler, optimizer=None):
    """The report of one step, which must say what a read of the gradients says. Names of what was not read."""
    optimizer = sgd(model) if optimizer is None else optimizer
    names, params = zip(*((n, p) for n, p in model.named_parameters() if p.grad is not None), strict=True)
    want = scale_ops.grad_stats([p.grad for p in params]).per_tensor.tolist()
    scaler.step(optimizer)
    scaler.update()
    rows = scaler.report(optimizer, model=model).tensors
    assert tuple(r.name for r in rows) == names
    for row, p, (squares, nonfinite, _) in zip(rows, params, want, strict=True):
        assert row.nonfinite == bool(nonfinite)
        if not row.nonfinite:
            assert row.norm * SCALE == pytest.approx(math.sqrt(squares), rel=bound(p), abs=0)
    assert scaler.last_step_skipped.item() == any(nonfinite for _, nonfinite, _ in want)
    return [row.name for row in rows if row.source == "wgrad"]


def bound(p):
    """Between two sums of squares: each in float64 in any order, or (one read of float16) first 16 each in float32."""
    sums = (p.numel() + 64) * UNIT[torch.float64]
    return 2 * (sums + (15 * UNIT[torch.float32] if p.dtype == torch.float16 else 0))


def names_of_weights(model):
    return [name for name, p in model.named_parameters() if p.dim() == 2]
