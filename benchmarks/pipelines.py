"""Whole optimizer steps after backward: what each one is, and the bytes that it moves and keeps.

`moved` counts what a pipeline has to move for its own format, once a pass that it makes, in bytes a parameter. `kept`
is what it holds between steps without the gradients, `temporary` what its step takes for a moment: they decide which
pipelines can be in memory at the same time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

import halfops

HYPER: dict[str, Any] = {"lr": 1e-4, "weight_decay": 0.01}
MAX_NORM = 1.0
Shapes = Sequence[tuple[int, ...]]
Step = Callable[[], Any]


@dataclass(frozen=True)
class Problem:
    """Parameters' shapes and 16-bit dtype, and the gradients that all pipelines of a group share."""

    shapes: Shapes
    dtype: torch.dtype
    device: torch.device

    @property
    def params(self) -> int:
        return sum(torch.Size(shape).numel() for shape in self.shapes)

    @cached_property
    def half(self) -> list[Tensor]:
        return self._normal(1e-3, self.dtype)

    @cached_property
    def full(self) -> list[Tensor]:
        return [grad.float() for grad in self.half]

    def _normal(self, deviation: float, dtype: torch.dtype) -> list[Tensor]:
        return [torch.randn(shape, device=self.device).mul_(deviation).to(dtype) for shape in self.shapes]

    def trained(self, dtype: torch.dtype, grads: Sequence[Tensor]) -> list[torch.nn.Parameter]:
        parameters = [torch.nn.Parameter(weight) for weight in self._normal(0.02, dtype)]
        for parameter, grad in zip(parameters, grads, strict=True):
            parameter.grad = grad
        return parameters


@dataclass(frozen=True)
class Pipeline:
    name: str
    make: Callable[[Problem], Step]
    moved: float
    kept: float
    temporary: float = 0.0
    full: bool = False  # takes the float32 gradients, not the 16-bit ones
    dtypes: tuple[torch.dtype, ...] = (torch.float16, torch.bfloat16)


def _running(scaler: torch.amp.GradScaler, device: torch.device) -> Any:
    scaler.scale(torch.ones((), device=device))
    return scaler


# A scale of 1: torch's unscale_ writes the gradients, which must stay what they are from round to round.
SCALING: dict[str, Any] = {"init_scale": 1.0, "growth_interval": 1_000_000_000}


def ours(**extras: Any) -> Callable[[Problem], Step]:
    def make(problem: Problem) -> Step:
        parameters = problem.trained(problem.dtype, problem.half)
        optimizer = halfops.optim.AdamW(parameters, **HYPER, max_grad_norm=MAX_NORM, **extras)
        scaler = _running(halfops.amp.GradScaler(problem.device.type, **SCALING), problem.device)

        def step() -> None:
            scaler.step(optimizer)
            scaler.update()

        return step

    return make


def torch_amp(capturable: bool = False, **extras: Any) -> Callable[[Problem], Step]:
    """float32 parameters, unscale, clip, update, and the cast of the weights that the next forward needs."""

    def make(problem: Problem) -> Step:
        parameters = problem.trained(torch.float32, problem.full)
        sources = [parameter.detach() for parameter in parameters]
        halves = [source.to(problem.dtype) for source in sources]
        graph = capturable and problem.device.type == "cuda"  # torch refuses it elsewhere
        optimizer = torch.optim.AdamW(parameters, **HYPER, capturable=graph, **extras)
        scaler = _running(torch.amp.GradScaler(problem.device.type, **SCALING), problem.device)

        def step() -> None:
            scaler.unscale_(optimizer)
            torch.nn.utils.clip_grad_norm_(parameters, MAX_NORM)
            scaler.step(optimizer)
            scaler.update()
            torch._foreach_copy_(halves, sources)

        return step

    return make


class Outside:
    """Overflow check and clipping of 16-bit gradients in torch's own passes, for optimizers that do neither.

    The check is the one that torch's scaler makes, with a scale of 1: it reads and writes 2 bytes a parameter each. The
    norm reads 2, the clip reads and writes 2 each: 10 in all.
    """

    MOVED = 10.0

    def __init__(self, grads: list[Tensor]) -> None:
        self.grads = grads
        self.one, self.found = (torch.tensor(value, device=grads[0].device) for value in (1.0, 0.0))

    def __call__(self) -> Tensor:
        self.found.zero_()
        torch._amp_foreach_non_finite_check_and_unscale_(self.grads, self.found, self.one)
        norms = torch._foreach_norm(self.grads, 2, torch.float32)
        factor = (MAX_NORM / (torch.linalg.vector_norm(torch.stack(norms)) + 1e-6)).clamp(max=1.0)
        torch._foreach_mul_(self.grads, factor.to(self.grads[0].dtype))
        return self.found


def apex_style(problem: Problem) -> Step:
    """16-bit weights with float32 masters beside them, each pass a torch op; skips on the device as apex does.

    Moves Outside's 10, 6 for the gradients' cast, 28 for the update and 6 for the weights: 50. apex's own kernels read
    16-bit gradients in the update and write the weights in it, which makes 40.
    """
    grads = [grad.clone() for grad in problem.half]  # its own: the clip writes them
    masters = problem.trained(torch.float32, [torch.empty_like(grad, dtype=torch.float32) for grad in grads])
    sources, full = [master.detach() for master in masters], [master.grad for master in masters]
    weights = [source.to(problem.dtype) for source in sources]
    optimizer = torch.optim.AdamW(masters, **HYPER, fused=True)
    outside = Outside(grads)

    def step() -> None:
        optimizer.found_inf = outside()
        torch._foreach_copy_(full, grads)
        optimizer.step()
        torch._foreach_copy_(weights, sources)

    return step


# Gradients 2 for the check; then 2 + 2 weight, 2 gradient, 8 + 8 moments and twice the master.
OURS = (
    Pipeline("halfops AdamW, split master", ours(), 28, 12),
    Pipeline("halfops AdamW, fp32 master", ours(master="fp32"), 30, 14),
    Pipeline("halfops AdamW, no master", ours(master="none"), 24, 10),
    Pipeline("halfops AdamW, no master, stochastic", ours(master="none", rounding="stochastic"), 24, 10),
)
# unscale 8, norm 4, clip 8, update 28, cast 6. The foreach update makes more passes than the job needs; not counted.
FUSED = Pipeline("torch unscale, clip, fused AdamW, cast", torch_amp(fused=True), 54, 14, full=True)
FOREACH = Pipeline("torch unscale, clip, foreach AdamW, cast", torch_amp(foreach=True), 54, 14, 12, full=True)
APEX = Pipeline("torch passes over fp32 masters, apex-style", apex_style, 50, 20)

CPU = (*OURS, FUSED, FOREACH)
CUDA = (*OURS, FUSED, FOREACH, APEX)
# For capture in a CUDA graph. torch's foreach step is not among them: it reads the overflow flag on the host.
CAPTURABLE = (*OURS[:3], Pipeline(FUSED.name, torch_amp(capturable=True, fused=True), 54, 14, full=True))


@dataclass(frozen=True)
class Replay:
    """A captured step. The graph knows addresses only, so the step, and through it every tensor, stays with it."""

    graph: Any
    step: Step

    def __call__(self) -> None:
        self.graph.replay()


def graphed(step: Step, device: torch.device) -> Step:
    """The same step as a CUDA graph: captured once, replayed by each call."""
    side = torch.cuda.Stream(device)
    side.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(side):
        for _ in range(3):
            step()
    torch.cuda.current_stream(device).wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    return Replay(graph, step)


def transformer(numel: int) -> Shapes:
    """Shapes of a transformer with about that many parameters: blocks, and an embedding for the rest."""
    widths = {3_000_000_000: 4096, 500_000_000: 2048, 20_000_000: 1024, 0: 256}
    width = next(width for least, width in widths.items() if numel >= least)
    block: list[tuple[int, ...]] = [(3 * width, width), (3 * width,), (width, width), (width,), (width,), (width,)]
    block += [(4 * width, width), (4 * width,), (width, 4 * width), (width,), (width,), (width,)]
    blocks = max(1, numel * 3 // 4 // (12 * width * width))
    rest = numel - blocks * 12 * width * width
    return [(max(1, rest // width), width), *block * blocks]


# --- memory ---------------------------------------------------------------------------------------------------------


def need(pipelines: Sequence[Pipeline], params: int) -> float:
    """Bytes that these pipelines take together, one of them running; each keeps its own state, gradients are shared."""
    grads = 2 + (4 if any(pipeline.full for pipeline in pipelines) else 0)
    kept = sum(pipeline.kept for pipeline in pipelines)
    return params * (grads + kept + max(pipeline.temporary for pipeline in pipelines))


def packed(
    pipelines: Sequence[Pipeline], params: int, free: float | None
) -> tuple[list[list[Pipeline]], list[Pipeline]]:
    """Groups that fit into memory at once, in order, as few as a greedy hand finds; and those that do not fit alone."""
    groups: list[list[Pipeline]] = []
    left_out = []
    for pipeline in pipelines:
        if free is not None and need([pipeline], params) > free:
            left_out.append(pipeline)
        elif groups and (free is None or need([*groups[-1], pipeline], params) <= free):
            groups[-1].append(pipeline)
        else:
            groups.append([pipeline])
    return groups, left_out
