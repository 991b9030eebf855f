"""Gradient checks: is everything finite, what is the norm, and the way back from a scaled loss."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from halfops._ops import scale as _scale

__all__ = ["grad_norm", "nonfinite_check", "unscale_"]


def _listed(tensors: Tensor | Iterable[Tensor]) -> list[Tensor]:
    return [tensors] if isinstance(tensors, Tensor) else list(tensors)


@torch.no_grad()
def nonfinite_check(tensors: Tensor | Iterable[Tensor]) -> Tensor:
    """found_inf = 1 if any element of any tensor is infinite or NaN, else 0; one read of each, no host synchronization.

    Args:
        tensors: one tensor or any number of them, float16, bfloat16 or float32 (mixed if need be), each dense
            (its elements fill their memory, in any order of its dimensions), all on one device.

    Returns:
        float32 tensor without dimensions on that device, as `found_inf` in torch.amp.

    Not differentiable; nothing is saved.

    Raises:
        RuntimeError: an empty list, another dtype or layout, a sliced or expanded tensor, mixed devices.
    """
    return _scale.nonfinite_check(_listed(tensors))


@torch.no_grad()
def unscale_(tensors: Tensor | Iterable[Tensor], inv_scale: Tensor | float) -> Tensor:
    """x = round(float32(x) * inv_scale) for every element, in place, and found_inf of the result, in one pass.

    Args:
        tensors: as for :func:`nonfinite_check`, and no two of them may share memory. float16 is welcome.
        inv_scale: one number, 1 / (loss scale): a Python float or a float32 tensor on the tensors' device.

    Returns:
        found_inf, float32 without dimensions: 1 if an element was non-finite before the multiplication or is after it.

    Not differentiable; nothing is saved. No host synchronization when inv_scale is a tensor on the device.

    Raises:
        RuntimeError: as :func:`nonfinite_check`; an inv_scale of another dtype, size or device; shared memory. Nothing
            has been changed then.
    """
    listed = _listed(tensors)
    if not isinstance(inv_scale, Tensor):
        device = listed[0].device if listed else None
        inv_scale = torch.tensor(inv_scale, dtype=torch.float32, device=device)
    return _scale.unscale_(listed, inv_scale).found_inf


@torch.no_grad()
def grad_norm(tensors: Tensor | Iterable[Tensor]) -> tuple[Tensor, Tensor]:
    """norm = sqrt(sum over all elements of x^2), and found_inf, from one read of each tensor.

    Squares of float16 are summed in float32 over at most 16 numbers, then in float64; all others in float64
    throughout. So finite elements never overflow, and the norm is infinite or NaN exactly when found_inf is 1. The
    order of the sum is fixed: the same bits for any number of threads and any CPU.

    Args:
        tensors: as for :func:`nonfinite_check`.

    Returns:
        (norm, found_inf): float64 and float32, both without dimensions, on the tensors' device.

    Not differentiable; nothing is saved.

    Raises:
        RuntimeError: as :func:`nonfinite_check`.
    """
    stats = _scale.grad_stats(_listed(tensors))
    return stats.sum_of_squares.sqrt(), stats.found_inf
