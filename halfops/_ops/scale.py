"""The scale room's ops: gradient statistics in one read, unscaling in place, the loss-scale transition."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from halfops._ops import ops


class GradStats(NamedTuple):
    """What one read of a list of tensors tells; three tensors on the list's device."""

    found_inf: Tensor  # float32, 0-dim: 1 if any element is infinite or NaN, else 0
    sum_of_squares: Tensor  # float64, 0-dim, over all elements
    per_tensor: Tensor  # float64 [n, 3]: sum of squares, 1 if non-finite, exact zeros (0 if not counted)


def nonfinite_check(tensors: Sequence[Tensor]) -> Tensor:
    found: Tensor = _call(ops.nonfinite_check.default, tensors)
    return found


def grad_stats(tensors: Sequence[Tensor], count_zeros: bool = False) -> GradStats:
    return GradStats(*_call(ops.grad_stats.default, tensors, count_zeros))


def unscale_(tensors: Sequence[Tensor], inv_scale: Tensor, count_zeros: bool = False) -> GradStats:
    stats = GradStats(*_call(ops.unscale_.default, tensors, inv_scale, count_zeros))
    torch.autograd.graph.increment_version(tensors)
    return stats


def scale_update_(
    scale: Tensor,
    growth_tracker: Tensor,
    hysteresis_tracker: Tensor,
    skipped_steps: Tensor,
    found_inf: Tensor,
    *,
    growth_factor: float,
    backoff_factor: float,
    growth_interval: int,
    hysteresis: int,
    min_scale: float,
    max_scale: float,
) -> None:
    counters = (growth_tracker, hysteresis_tracker, skipped_steps)
    rule = (growth_factor, backoff_factor, growth_interval, hysteresis, min_scale, max_scale)
    ops.scale_update_.default(scale, *counters, found_inf, *rule)


def _call(op: Callable[..., Any], tensors: Sequence[Tensor], *others: Any) -> Any:
    """Says in words what the dispatcher refuses without naming the tensor: no tensors, layouts without flat memory."""
    if not tensors:
        raise RuntimeError("tensors: got an empty list, wanted at least one tensor; skip the call when there are none")
    try:
        return op(tensors, *others)
    except NotImplementedError:
        for i, tensor in enumerate(tensors):
            if tensor.layout != torch.strided:
                raise RuntimeError(
                    f"tensors[{i}]: got the layout {tensor.layout}, wanted torch.strided; "
                    "pass a sparse tensor's coalesce().values(), or make it dense with .to_dense()"
                ) from None
        device = tensors[0].device.type
        if device != "cpu":
            raise NotImplementedError(
                f"{op}: got tensors on {device}, for which this build has no kernel; move them to the CPU, or see with "
                "`python -m halfops doctor` what was built and how to build more"
            ) from None
        raise


def _one_device(tensors: Sequence[Tensor]) -> Tensor:
    """The check of the real kernels, for fake tensors; any of the list, to take the device from."""
    for i, tensor in enumerate(tensors):
        if tensor.device != tensors[0].device:
            raise RuntimeError(
                f"tensors[{i}]: is on another device than tensors[0]; move both to one device with .to(device)"
            )
    return tensors[0]


def _empty_stats(tensors: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    like = _one_device(tensors)
    return (
        like.new_empty((), dtype=torch.float32),
        like.new_empty((), dtype=torch.float64),
        like.new_empty((len(tensors), 3), dtype=torch.float64),
    )


@torch.library.register_fake("halfops::nonfinite_check")
def _(tensors: list[Tensor]) -> Tensor:
    return _one_device(tensors).new_empty((), dtype=torch.float32)


@torch.library.register_fake("halfops::grad_stats")
def _(tensors: list[Tensor], count_zeros: bool) -> tuple[Tensor, Tensor, Tensor]:
    return _empty_stats(tensors)


@torch.library.register_fake("halfops::unscale_")
def _(tensors: list[Tensor], inv_scale: Tensor, count_zeros: bool) -> tuple[Tensor, Tensor, Tensor]:
    return _empty_stats(tensors)


@torch.library.register_fake("halfops::scale_update_")
def _(
    scale: Tensor,
    growth_tracker: Tensor,
    hysteresis_tracker: Tensor,
    skipped_steps: Tensor,
    found_inf: Tensor,
    growth_factor: float,
    backoff_factor: float,
    growth_interval: int,
    hysteresis: int,
    min_scale: float,
    max_scale: float,
) -> None:
    return None
