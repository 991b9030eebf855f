"""Statistics that a weight gradient's own kernel left behind, for checks and norms that then need not read it again."""

from __future__ import annotations

import torch
from torch import Tensor


def wanted(device: torch.device) -> bool:
    """Whether weight gradients on this device should leave their statistics."""
    return False


def record(grad: Tensor, stats: Tensor) -> None:
    """Keeps the statistics [sum of squares, 1 if any element is not finite else 0, 0] of what is in `grad` now."""
