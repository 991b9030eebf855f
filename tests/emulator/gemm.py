"""GEMM problems: for the emulator as arrays, for the CPU as torch tensors with the same bits."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from cuda_code.products import tiles
from torch import Tensor

from emulator.program import Mode, Program, Report, program
from emulator.work import CODES

# The table of csrc/linear/policy.h, and its rows for any architecture.
TABLE = tuple(tile.name for tile in tiles())
ROWS = tuple(tile.name for tile in tiles() if not tile.bulk)
# For bf16, and for sanitizers, few rows are compiled (entries/linear.cpp, entries/linear_few.cpp).
BF16_ROWS = ("64x64x64", "64x64x32 staged")
FEW_ROWS = ("64x64x64", "16x128x64", "64x64x32 staged")
LAYOUTS = ("nn", "nt", "tn", "tt")  # of A and B: n as in [M, K] and [K, N], t transposed in memory
ACTIVATIONS = ("none", "relu", "gelu", "gelu_tanh", "silu")
SOURCES = ("csrc/linear/linear_cuda.cu", "csrc/collective/upload.cu", "csrc/collective/tensor_map.cu")

# Of its rows for sm_90a those that are compiled (entries/linear_bulk.cpp).
BULK_ROWS = tuple(row for row in TABLE if row not in (*ROWS, "128x256x64 bulk", "256x128x64 bulk"))

GEMM = program("linear", *SOURCES)
GEMM_BULK = program("linear_bulk", *SOURCES)
GEMM_FEW = program("linear_few", *SOURCES)
FORWARD = Mode()


def has_layout(row: str, layout: str) -> bool:
    """Which kernels exist (has_layout of csrc/linear/policy.h)."""
    m, n = (int(x) for x in row.split("x")[:2])
    return not (m < 64 and layout[0] == "t") and not (layout == "tt" and m * n > 128 * 128)


def _flat(tensor: Tensor) -> np.ndarray:
    """All of the memory below a tensor, as integers."""
    whole = torch.empty(0, dtype=tensor.dtype).set_(tensor.untyped_storage())
    return whole.view({2: torch.int16, 4: torch.int32, 8: torch.int64}[tensor.element_size()]).numpy()


def _layout(tensor: Tensor) -> np.ndarray:
    return np.array([tensor.storage_offset(), *tensor.stride()[-2:]], np.int64)


def transposed_in_memory(tensor: Tensor, pitch: int = 0, offset: int = 0) -> Tensor:
    return padded(tensor.mT, pitch, offset).mT


def padded(tensor: Tensor, pitch: int = 0, offset: int = 0) -> Tensor:
    """The same matrix with `pitch` elements from row to row, `offset` elements into its memory, NaN in between."""
    rows, cols = tensor.shape
    pitch = pitch or cols
    memory = torch.full((offset + max(1, rows) * pitch + 1,), float("nan"), dtype=tensor.dtype)
    placed = memory.as_strided((rows, cols), (pitch, 1), offset)
    placed.copy_(tensor)
    return placed


@dataclass
class Problem:
    """The fields of linear::Problem. Matrices are 2-D tensors of any strides; outputs are made here."""

    a: Tensor
    b: Tensor
    out_dtype: torch.dtype | None = None
    out: Tensor | None = None
    alpha: float = 1.0
    beta: float = 0.0
    activation: str = "none"
    more: dict[str, Tensor] = field(default_factory=dict)  # a2, b2, bias, bias2, grad_preact, grad_up, c
    wants: tuple[str, ...] = ()  # preact, preact2, out2, column_sums, column_sums2, stats
    batch: int = 1
    offsets: dict[str, list[int]] = field(default_factory=dict)  # a_offsets, b_offsets
    row: str = ""
    blocks: int = 0

    def arrays(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """What the entry takes, and the outputs among it as tensors."""
        (m, k), n = self.a.shape, self.b.shape[1]
        dtype = self.a.dtype
        out_dtype = self.out_dtype or dtype
        nan = float("nan")
        out = self.out if self.out is not None else torch.full((self.batch * m, n), nan, dtype=out_dtype)
        made = {"out": out}
        for name in self.wants:
            if name == "stats":
                made[name] = torch.full((3,), nan, dtype=torch.float64)
            else:
                shape = (n,) if name.startswith("column_sums") else (self.batch * m, n)
                made[name] = torch.full(shape, nan, dtype=dtype if name.startswith("column") else out_dtype)
        arrays: dict[str, Any] = {
            "sizes": np.array([m, n, k, self.batch], np.int64),
            "factors": np.array([self.alpha, self.beta], np.float32),
            "activation": np.array([ACTIVATIONS.index(self.activation)], np.int32),
            "forced": np.array([TABLE.index(self.row) if self.row else -1, self.blocks], np.int64),
            "plan": np.zeros(2, np.int64),
        }
        held = {"a": self.a, "b": self.b, **self.more, **made}
        for name, tensor in held.items():
            arrays[name] = _flat(tensor)
            if tensor.dim() == 2:
                arrays[name + "_layout"] = _layout(tensor)
                arrays[name + "_dtype"] = np.array([CODES[tensor.dtype]], np.int32)
        for name, offsets in self.offsets.items():
            arrays[name] = np.array(offsets, np.int64)
        for name in self._aliases(out):  # in place: one and the same memory
            arrays[name] = arrays["out"]
        return arrays, made

    def _aliases(self, out: Tensor) -> set[str]:
        """The inputs that are the output."""
        memory = out.untyped_storage().data_ptr()
        return {name for name, tensor in self.more.items() if tensor.untyped_storage().data_ptr() == memory}

    def run(self, mode: Mode = FORWARD, flavour: str = "plain", using: Program | None = None) -> Result:
        arrays, made = self.arrays()
        inputs = {"a", "b", *self.more} - self._aliases(made["out"])
        given = {name: arrays[name].copy() for name in inputs}
        using = using or (GEMM_BULK if self.row in BULK_ROWS else GEMM)
        report = using.run("gemm", arrays, mode, flavour)
        changed = [name for name in inputs if not np.array_equal(arrays[name], given[name])]
        assert not changed, f"inputs were written to: {changed}"
        policy, blocks = arrays["plan"].tolist()
        return Result(report, made, TABLE[policy] if policy >= 0 and report.text == "" else "", blocks)


@dataclass(frozen=True)
class Result:
    report: Report
    made: dict[str, Tensor]
    row: str
    blocks: int

    def __getitem__(self, name: str) -> Tensor:
        assert self.report.text == "", self.report.text
        return self.made[name]


def whole_numbers(*shape: int, seed: int, dtype: torch.dtype = torch.float16, most: int = 3) -> Tensor:
    """Small integers, so that fp32 sums of their products are exact in any order."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(-most, most + 1, shape, generator=generator).to(dtype)


def normal(*shape: int, seed: int, dtype: torch.dtype = torch.float16) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def operands(
    m: int, n: int, k: int, layout: str, dtype: torch.dtype = torch.float16, seed: int = 0
) -> tuple[Tensor, Tensor]:
    a, b = whole_numbers(m, k, seed=seed, dtype=dtype), whole_numbers(k, n, seed=seed + 1, dtype=dtype)
    return laid(a, layout[0]), laid(b, layout[1])


def laid(matrix: Tensor, how: str) -> Tensor:
    return transposed_in_memory(matrix) if how == "t" else padded(matrix)
