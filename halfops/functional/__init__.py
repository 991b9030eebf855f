"""Functions: fused linear layers, matrix products, gradient checks."""

from halfops.functional.scale import grad_norm, nonfinite_check, unscale_

__all__ = ["grad_norm", "nonfinite_check", "unscale_"]
