"""Hand-written kernels for training in half precision: fused GEMM, master-weight optimizers, loss scaling."""

import json
from importlib import resources
from typing import Any

from halfops import _ops, amp, functional, nn, optim
from halfops._ops.registry import has_kernel
from halfops.explain import explain

__version__ = "0.1.0"
__all__ = ["__version__", "_ops", "amp", "build_info", "explain", "functional", "has_kernel", "nn", "optim"]


def build_info() -> dict[str, Any]:
    """What this copy was built from and for: torch, CUDA, architectures, compiler, flags, git revision."""
    return dict(json.loads(resources.files(__name__).joinpath("_build_info.json").read_text()))
