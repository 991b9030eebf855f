"""cuBLASLt itself: its own first choice for a product, and the fastest of all algorithms that it proposes.

Called through ctypes in the library that torch brought along, so it needs no package, no compiler and no network.
torch's TunableOp cannot do this: in builds for CUDA it knows no solution but the default one. torch hands cuBLASLt's
first proposal on, so "cuBLASLt" beside "torch" also tells what torch's own way to it costs.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .harness import clock

Call = Callable[[], Any]

# Values from cublasLt.h, cublas_api.h and library_types.h (CUDA 12 and 13).
TRANSPOSE_A, TRANSPOSE_B, EPILOGUE, BIAS_POINTER = 3, 4, 7, 8  # cublasLtMatmulDescAttributes_t
EPILOGUE_BIAS = 4
BATCH_COUNT, BATCH_STRIDE = 5, 6  # cublasLtMatrixLayoutAttribute_t
WORKSPACE_BYTES, ALIGNMENTS = 1, (5, 6, 7, 8)  # cublasLtMatmulPreferenceAttributes_t, of A, B, C, D
COMPUTE_32F, REAL_32F = 68, 0
TYPES = {torch.float16: 2, torch.bfloat16: 14}

WORKSPACE = 32 * 2**20
PROPOSALS = 16


class Proposal(ctypes.Structure):
    """cublasLtMatmulHeuristicResult_t."""

    _fields_ = (
        ("algorithm", ctypes.c_uint64 * 8),
        ("workspace", ctypes.c_size_t),
        ("state", ctypes.c_int),
        ("waves", ctypes.c_float),
        ("reserved", ctypes.c_int * 4),
    )


def candidates() -> list[str]:
    """Where the library may be, the one that torch has loaded first."""
    maps = Path("/proc/self/maps")
    lines = maps.read_text().splitlines() if maps.exists() else []
    loaded = [line.split(maxsplit=5)[-1] for line in lines if "libcublasLt.so" in line]
    major = (torch.version.cuda or "13").split(".")[0]
    return [*dict.fromkeys(loaded), f"libcublasLt.so.{major}", "libcublasLt.so"]


@functools.cache
def library() -> Any:
    """The library and a handle of its own; OSError where there is none."""
    if torch.cuda.is_available():
        torch.cuda.current_blas_handle()  # torch loads its libraries when they are first needed
    for path in candidates():
        try:
            found = ctypes.CDLL(path)
        except OSError:
            continue
        handle = ctypes.c_void_p()
        _check(found.cublasLtCreate(ctypes.byref(handle)), "cublasLtCreate")
        found.handle = handle
        return found
    raise OSError("found no libcublasLt.so")


def _check(status: int, what: str) -> None:
    if status != 0:
        raise RuntimeError(f"{what} answered with status {status}")


def _column_major(t: Tensor) -> tuple[int, int, int, bool]:
    """(rows, columns, leading dimension, transposed): how a library of column-major matrices reads t's transpose."""
    rows, columns = t.shape[-2:]
    if t.stride(-1) == 1 or columns == 1:
        return columns, rows, max(t.stride(-2), columns), False
    if t.stride(-2) == 1 or rows == 1:
        return rows, columns, max(t.stride(-1), rows), True
    raise ValueError(f"strides: got {t.stride()}, wanted 1 in one of the last two dimensions")


def _alignment(t: Tensor) -> int:
    return min(256, t.data_ptr() & -t.data_ptr())


class Matmul:
    """D [M, N] = A [M, K] B [K, N] + bias [N] as cuBLASLt sees it: D^T = B^T A^T, of column-major matrices."""

    def __init__(self, a: Tensor, b: Tensor, bias: Tensor | None = None) -> None:
        self.lib = library()
        self.a, self.b, self.bias = a, b, bias
        self.shape = (*a.shape[:-1], b.shape[-1])
        self.workspace = torch.empty(WORKSPACE, dtype=torch.uint8, device=a.device)
        self.one, self.zero = ctypes.c_float(1), ctypes.c_float(0)
        out = torch.empty(self.shape, dtype=a.dtype, device=a.device)
        left, right, target = _column_major(b), _column_major(a), _column_major(out)
        self.operation = self._new("cublasLtMatmulDescCreate", COMPUTE_32F, REAL_32F)
        self._set("cublasLtMatmulDescSetAttribute", self.operation, TRANSPOSE_A, ctypes.c_int(left[3]))
        self._set("cublasLtMatmulDescSetAttribute", self.operation, TRANSPOSE_B, ctypes.c_int(right[3]))
        if bias is not None:
            self._set("cublasLtMatmulDescSetAttribute", self.operation, EPILOGUE, ctypes.c_int(EPILOGUE_BIAS))
            pointer = ctypes.c_void_p(bias.data_ptr())
            self._set("cublasLtMatmulDescSetAttribute", self.operation, BIAS_POINTER, pointer)
        self.layouts = [self._layout(t, view) for t, view in ((b, left), (a, right), (out, target))]
        self.proposals = self._proposals([b, a, out, out])

    def _new(self, function: str, *values: int) -> ctypes.c_void_p:
        made = ctypes.c_void_p()
        _check(getattr(self.lib, function)(ctypes.byref(made), *values), function)
        return made

    def _set(self, function: str, thing: ctypes.c_void_p, attribute: int, value: Any) -> None:
        status = getattr(self.lib, function)(
            thing, attribute, ctypes.byref(value), ctypes.c_size_t(ctypes.sizeof(value))
        )
        _check(status, f"{function}, attribute {attribute}")

    def _layout(self, t: Tensor, view: tuple[int, int, int, bool]) -> ctypes.c_void_p:
        rows, columns, leading, _ = view
        made = self._new(
            "cublasLtMatrixLayoutCreate",
            TYPES[t.dtype],
            ctypes.c_uint64(rows),
            ctypes.c_uint64(columns),
            ctypes.c_int64(leading),
        )
        if t.dim() == 3:
            self._set("cublasLtMatrixLayoutSetAttribute", made, BATCH_COUNT, ctypes.c_int32(t.shape[0]))
            self._set("cublasLtMatrixLayoutSetAttribute", made, BATCH_STRIDE, ctypes.c_int64(t.stride(0)))
        return made

    def _proposals(self, tensors: list[Tensor]) -> list[Proposal]:
        preference = self._new("cublasLtMatmulPreferenceCreate")
        set_ = functools.partial(self._set, "cublasLtMatmulPreferenceSetAttribute", preference)
        set_(WORKSPACE_BYTES, ctypes.c_uint64(WORKSPACE))
        for attribute, t in zip(ALIGNMENTS, tensors, strict=True):
            set_(attribute, ctypes.c_uint32(_alignment(t)))
        found, count = (Proposal * PROPOSALS)(), ctypes.c_int()
        b, a, d = self.layouts
        status = self.lib.cublasLtMatmulAlgoGetHeuristic(
            self.lib.handle, self.operation, b, a, d, d, preference, PROPOSALS, found, ctypes.byref(count)
        )
        _check(status, "cublasLtMatmulAlgoGetHeuristic")
        self.lib.cublasLtMatmulPreferenceDestroy(preference)
        return [each for each in found[: count.value] if each.state == 0]

    def run(self, proposal: Proposal) -> Tensor:
        out = torch.empty(self.shape, dtype=self.a.dtype, device=self.a.device)
        b, a, d = self.layouts
        status = self.lib.cublasLtMatmul(
            self.lib.handle,
            self.operation,
            ctypes.byref(self.one),
            ctypes.c_void_p(self.b.data_ptr()),
            b,
            ctypes.c_void_p(self.a.data_ptr()),
            a,
            ctypes.byref(self.zero),
            ctypes.c_void_p(out.data_ptr()),
            d,
            ctypes.c_void_p(out.data_ptr()),
            d,
            ctypes.byref(proposal.algorithm),
            ctypes.c_void_p(self.workspace.data_ptr()),
            ctypes.c_size_t(WORKSPACE),
            ctypes.c_void_p(stream(self.a.device)),
        )
        _check(status, "cublasLtMatmul")
        return out


def stream(device: torch.device) -> int:
    return torch.cuda.current_stream(device).cuda_stream


def fastest(matmul: Matmul, device: torch.device, samples: int = 3) -> int:
    """Which proposal is the fastest, by the harness's clock; those that fail are passed over."""
    sample, best, least = clock(device), 0, float("inf")
    for number, proposal in enumerate(matmul.proposals):
        try:
            matmul.run(proposal)
            seconds = sorted(sample(lambda p=proposal: matmul.run(p)).seconds for _ in range(samples))[samples // 2]
        except RuntimeError:
            continue
        if seconds < least:
            best, least = number, seconds
    return best


def providers(a: Tensor, b: Tensor, bias: Tensor | None, device: torch.device) -> dict[str, Call]:
    """cuBLASLt's first choice, and the best of its proposals by measurement."""
    matmul = Matmul(a, b, bias)
    if not matmul.proposals:
        raise RuntimeError("cuBLASLt proposes no algorithm for this product")
    best = fastest(matmul, device)
    count = len(matmul.proposals)
    return {
        "cuBLASLt": lambda: matmul.run(matmul.proposals[0]),
        f"cuBLASLt, best of {count}": lambda: matmul.run(matmul.proposals[best]),
    }
