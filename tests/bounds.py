"""How far a rounded result may lie from the exact one.

Model: each elementary operation returns x (1 + d) with |d| <= u, u the unit roundoff. A sum of k products then has an
error of at most gamma(k) * sum |a b| in *any* order (Higham, Accuracy and Stability, section 3.1), with
gamma(k) = k u / (1 - k u). Everything is accumulated in float32 and rounded once to the result's dtype, so a bound is
built from `dot` and, around it, `rounded`. Constants beside gamma's k count the few operations after the sum.
"""

from __future__ import annotations

import torch
from torch import Tensor

UNIT = {torch.float16: 2.0**-11, torch.bfloat16: 2.0**-8, torch.float32: 2.0**-24, torch.float64: 2.0**-53}
# Half the distance between subnormals: what rounding adds where relative precision ends. float32 and bfloat16 share it
# (a CPU library may flush float32 subnormals inside its sums).
TINY = {torch.float16: 2.0**-25, torch.bfloat16: 2.0**-126, torch.float32: 2.0**-126, torch.float64: 2.0**-1022}

# csrc/math/activation.h: relative error of a value, absolute error of a derivative beyond its relative one.
ACTIVATION_RELATIVE = 2.0**-18
ACTIVATION_TAIL = 2.0**-41
DERIVATIVE_ABSOLUTE = 2.0**-21
# The largest slope of any of the activations (gelu's 1.1290): what an error of z becomes behind it.
SLOPE = 1.13


def gamma(k: int, dtype: torch.dtype = torch.float32) -> float:
    u = UNIT[dtype]
    return k * u / (1 - k * u)


def rounded(value: Tensor, error: Tensor | float, dtype: torch.dtype) -> Tensor:
    """The error of a value known to `error`, after it was stored as `dtype`."""
    return error + UNIT[dtype] * (value.abs() + error) + TINY[dtype]


def dot(k: int, magnitude: Tensor) -> Tensor:
    """The error of a float32 sum of k products whose absolute values add up to `magnitude`."""
    return gamma(k + 3) * magnitude + TINY[torch.float32]


def activated(y: Tensor, z_error: Tensor | float) -> Tensor:
    """The error of y = act(z), z known to `z_error`, in float32 before rounding."""
    return SLOPE * z_error + ACTIVATION_RELATIVE * y.abs() + ACTIVATION_TAIL


def derivative_error(d: Tensor) -> Tensor:
    return ACTIVATION_RELATIVE * d.abs() + DERIVATIVE_ABSOLUTE


def product(a: Tensor, a_error: Tensor | float, b: Tensor, b_error: Tensor | float) -> Tensor:
    """The error of a * b in float32, from those of the factors."""
    error = a.abs() * b_error + b.abs() * a_error + a_error * b_error
    return error + UNIT[torch.float32] * ((a * b).abs() + error)
