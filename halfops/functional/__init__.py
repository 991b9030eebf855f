"""Differentiable functions on half-precision tensors: fused linear layers, products, and checks of gradients.

Every function takes float16, bfloat16 and float32 tensors of one dtype on one device, accumulates in float32 and
rounds once, to nearest even. float64, and on GPUs the float32 of linear layers and products, is served by torch's own
ops under the same gradient formulas.
"""

from halfops.functional.linear import (
    gated_linear,
    gated_mlp,
    linear,
    linear_dgrad,
    linear_wgrad,
    matmul,
    mlp,
)
from halfops.functional.scale import grad_norm, nonfinite_check, unscale_

__all__ = [
    "gated_linear",
    "gated_mlp",
    "grad_norm",
    "linear",
    "linear_dgrad",
    "linear_wgrad",
    "matmul",
    "mlp",
    "nonfinite_check",
    "unscale_",
]
