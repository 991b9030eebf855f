"""What the library offers here: which CPU engine runs, and which op has a kernel for which device."""

from __future__ import annotations

import torch

from halfops._ops import ops


def cpu_variant() -> str:
    """The engines in use: "portable", "avx2" or "avx512"."""
    return str(ops.cpu_variant())


def cpu_variants() -> list[str]:
    """All that this CPU can run, the best one last; HALFOPS_CPU_VARIANT chooses."""
    return [str(name) for name in ops.cpu_variants()]


def op_names() -> list[str]:
    """Every op of torch.ops.halfops."""
    prefix = "halfops::"
    return sorted(n.removeprefix(prefix) for n in torch._C._dispatch_get_all_op_names() if n.startswith(prefix))


def has_kernel(op: str, device: str) -> bool:
    """Whether a kernel of ours is registered for `device` ("cpu" or "cuda"); not whether there is such a device."""
    return bool(torch._C._dispatch_has_kernel_for_dispatch_key(f"halfops::{op}", device.upper()))
