"""Where the study runs."""

from __future__ import annotations

import torch

import halfops


def choose(name: str) -> torch.device:
    """The device called `name`; for "auto", CUDA if this halfops has kernels for one that is there, else the CPU.

    Raises RuntimeError, with what to ask for instead, when the device is not there.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() and _has_cuda_ops() else "cpu")
    if name.split(":")[0] not in ("cpu", "cuda"):
        raise RuntimeError(f"--device: got {name}, wanted cpu or cuda")
    device = torch.device(name)
    if device.type == "cuda":
        if not torch.cuda.is_available():
            raise RuntimeError(
                f"--device: got {name}, but torch finds no CUDA device here; --device cpu runs everywhere"
            )
        if not _has_cuda_ops():
            raise RuntimeError(
                f"--device: got {name}, but this halfops has no CUDA kernels; --device cpu runs everywhere"
            )
    return device


def _has_cuda_ops() -> bool:
    return all(halfops.has_kernel(op, "cuda") for op in ("linear", "optim_step_"))
