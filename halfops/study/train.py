"""One arm, one seed, from a fresh network to its figures."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import torch

from halfops.study.arms import Arm, Setup, set_up
from halfops.study.measure import Bytes, UnchangedShare, bytes_per_parameter
from halfops.study.tasks import Task

POINTS_ON_A_CURVE = 12
SAMPLED_STEPS = 12


@dataclass
class Run:
    """What one training gave. `curve` holds (step, metric on the curve's part of the held-out data)."""

    arm: str
    seed: int
    parameters: int
    curve: list[tuple[int, float]] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    final: float = math.nan
    seconds_per_step: float = math.nan
    unchanged_seen: float = math.nan
    unchanged_kept: float = math.nan
    skipped: int = 0
    scale: float = 1.0
    bytes: Bytes = field(default_factory=lambda: Bytes(math.nan, math.nan, math.nan, math.nan))


def train(task: Task, arm: Arm, seed: int, device: torch.device, advance: Callable[[int], None]) -> Run:
    """Trains by the task's recipe; `advance` is told of every step, by its effort.

    The seed decides the initial fp32 weights, the order of the data and stochastic rounding; the first two are the same
    in every arm. A step's time covers zero_grad to the scale update, not the choice of a batch nor what is measured.
    """
    recipe = task.recipe
    torch.manual_seed(seed)
    setup = set_up(arm, task.network(), recipe, device, seed)
    run = Run(arm.key, seed, sum(p.numel() for p in setup.network.parameters()))
    generator = torch.Generator().manual_seed(seed)
    unchanged = UnchangedShare()
    watched = _evenly(recipe.steps, POINTS_ON_A_CURVE)
    sampled = _evenly(recipe.steps, SAMPLED_STEPS)
    seconds: list[float] = []
    losses = []
    for step in range(1, recipe.steps + 1):
        for group in setup.optimizer.param_groups:
            group["lr"] = recipe.rate(step - 1)
        batch = task.batch(generator)
        if step in sampled:
            unchanged.before_step(setup)
        scale = _scale(setup)
        _synchronize(device)
        begin = time.perf_counter()
        setup.optimizer.zero_grad(set_to_none=True)
        with setup.autocast():
            loss = task.loss(setup.network, batch)
        setup.update(loss)
        _synchronize(device)
        seconds.append(time.perf_counter() - begin)
        losses.append(loss.detach())
        skipped = _scale(setup) < scale
        run.skipped += skipped
        if step in sampled and not skipped:
            unchanged.after_step(setup)
        if step in watched and step < recipe.steps:
            run.curve.append((step, judge(task, setup, final=False)))
        if step == recipe.steps:
            run.bytes = bytes_per_parameter(setup)
        advance(recipe.effort)
    run.losses = torch.stack(losses).tolist()
    run.final = judge(task, setup, final=True)
    run.curve.append((recipe.steps, judge(task, setup, final=False)))
    run.seconds_per_step = statistics.median(seconds)
    run.unchanged_seen, run.unchanged_kept = unchanged.seen, unchanged.kept
    run.scale = _scale(setup)
    return run


@torch.no_grad()
def judge(task: Task, setup: Setup, *, final: bool) -> float:
    """The task's metric, in the precision that the arm would be served in."""
    setup.network.eval()
    with setup.autocast():
        value = task.judge(setup.network, final=final)
    setup.network.train()
    return value


def _evenly(steps: int, count: int) -> set[int]:
    """About `count` steps of 1..steps, the last one among them."""
    return {max(1, round(steps * (i + 1) / count)) for i in range(count)}


def _scale(setup: Setup) -> float:
    """The loss scale, read outside the timed part: a step that was skipped is one that lowered it."""
    return float(setup.scaler.get_scale()) if setup.scaler is not None else 1.0


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
