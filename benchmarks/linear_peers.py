"""Who else can do a job of jobs.py: torch, torch.compile, cuBLASLt, and packages where they are installed.

Where a package's kernel lacks a part of a job, torch's ops do that part, and its name says so. A peer that fails, or
whose numbers are wrong, is a row with a sentence in place of a figure.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from . import cublaslt
from .jobs import Call, Job


@dataclass(frozen=True)
class Peer:
    """`make` gives its providers for a job, none where it has nothing for it.

    `compiles`: anew for each shape, which takes seconds or minutes.
    """

    make: Callable[[Job, torch.device], Mapping[str, Call]]
    package: str | None = None
    compiles: bool = False

    @property
    def installed(self) -> bool:
        return self.package is None or importlib.util.find_spec(self.package) is not None


def _torch(job: Job, _: torch.device) -> dict[str, Call]:
    return {"torch": job.call(job.torch)}


def _fp32(job: Job, _: torch.device) -> dict[str, Call]:
    return {"torch fp32": job.wide()}


def _compile(job: Job, device: torch.device) -> dict[str, Call]:
    # Anew, or else the ninth shape of one function would quietly run uncompiled; whole, or else parts of it would.
    torch.compiler.reset()
    compiled = torch.compile(job.torch, mode="max-autotune", fullgraph=True, dynamic=False)
    inputs = job.own()
    for t in inputs:
        # Its CUDA graph then reads the tensors where they are, as everybody else, instead of copying them first.
        torch._dynamo.mark_static_address(t)
    return {"torch.compile": lambda: compiled(*inputs)}


def _cublaslt(job: Job, device: torch.device) -> dict[str, Call]:
    return {} if job.operands is None else cublaslt.providers(*job.operands, device)


# --- quack ----------------------------------------------------------------------------------------------------------


def _interleaved(first: Tensor, second: Tensor, dim: int) -> Tensor:
    return torch.stack((first, second), dim + 1).flatten(dim, dim + 1).contiguous()


def _quack(job: Job, _: torch.device) -> dict[str, Call]:
    q = importlib.import_module("quack.gemm_interface")
    if job.operands is not None:
        a, b, bias = job.operands
        return {"quack": lambda: q.gemm(a, b, bias=bias)}
    match job.name:
        case "forward + gelu_tanh":
            x, w, bias = job.inputs
            return {
                "quack": lambda: q.gemm_act(x, w.t(), bias=bias, activation="gelu_tanh_approx", store_preact=False)[1]
            }
        case "dgrad + gelu_tanh' + db":
            dy, w, z = job.inputs

            def dgrad() -> tuple[Tensor, Tensor]:
                dz = q.gemm_dact(dy, w, z, activation="gelu_tanh_approx")[0]
                return dz, dz.sum(0)

            return {"quack, torch for db": dgrad}
        case "swiglu":
            x, gate, up = job.inputs
            both = _interleaved(gate, up, 0)
            return {"quack": lambda: q.gemm_act(x, both.t(), activation="swiglu", store_preact=False)[1]}
        case "gated dgrad":
            dy, w, gate, up = job.inputs
            both = _interleaved(gate, up, 1)

            def gated() -> tuple[Tensor, Tensor]:
                grads = q.gemm_dact(dy, w, both, activation="swiglu")[0]
                return grads[:, ::2], grads[:, 1::2]

            return {"quack": gated}
        case "wgrad + fp32 sum + stats":
            dy, x, total = job.own()

            def summed() -> tuple[Tensor, Tensor, Tensor]:
                q.gemm_add_inplace(dy.t(), x, total)
                norm = torch.linalg.vector_norm(total)
                return total, norm, norm.isfinite()

            return {"quack, torch for stats": summed}
    return {}


# --- liger ----------------------------------------------------------------------------------------------------------


def _liger(job: Job, _: torch.device) -> dict[str, Call]:
    if job.name != "swiglu":
        return {}
    x, gate, up = job.inputs
    multiply = importlib.import_module("liger_kernel.ops.swiglu").LigerSiLUMulFunction
    fused = importlib.import_module("liger_kernel.ops.mlp").gemm_swiglu
    return {
        "liger, torch for products": lambda: multiply.apply(F.linear(x, gate), F.linear(x, up)),
        "liger": lambda: fused(x[None], gate, up, 1.0, store_preact=False)[0][0],
    }


PEERS: dict[str, Peer] = {
    "torch": Peer(_torch),
    "fp32": Peer(_fp32),
    "cublaslt": Peer(_cublaslt),
    "compile": Peer(_compile, compiles=True),
    "quack": Peer(_quack, package="quack", compiles=True),
    "liger": Peer(_liger, package="liger_kernel", compiles=True),
}
# torch fp32 is the measure on a CPU, where torch's own fp16 product is slow; on a GPU it says nothing.
DEFAULT = {"cpu": ("torch", "fp32"), "cuda": ("torch", "cublaslt", "compile")}
BESIDE = ("torch", *(name for name, peer in PEERS.items() if peer.package is not None))


def chosen(text: str | None, beside: bool, device: torch.device) -> dict[str, Peer]:
    """Of --peers, or else of --beside; ValueError for a name that is none."""
    names = BESIDE if beside else DEFAULT[device.type]
    names = names if text is None else tuple(filter(None, text.split(",")))
    if unknown := [name for name in names if name not in PEERS]:
        raise ValueError(f"--peers: got {', '.join(unknown)}, wanted some of {', '.join(PEERS)}")
    return {name: PEERS[name] for name in names}


def about(device: torch.device) -> dict[str, Any]:
    """The versions of what a figure may depend on."""
    found: dict[str, Any] = {}
    for package in ("triton", "quack-kernels", "liger-kernel"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    if device.type == "cuda":
        try:
            found["cuBLASLt"] = cublaslt.library().cublasLtGetVersion()
        except (OSError, RuntimeError):
            found["cuBLASLt"] = None
    return {"peers": found, "cuda": torch.version.cuda}
