"""One step of an optimizer: for the CPU as torch tensors, for the emulator as arrays with the same bits."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from cases.optim import HYPER
from torch import Tensor

from emulator.memory import misaligned
from halfops._ops import optim as optim_ops

CODES = {torch.float16: 0, torch.bfloat16: 1, torch.float32: 2}  # DType of csrc/core/dtype.h
CHUNK, LANES = 4096, 256  # csrc/core/chunks.h


def memory(tensor: Tensor, offset: int = 0) -> np.ndarray:
    """A copy of the tensor's bits whose begin is `offset` elements behind a 16-byte boundary."""
    return misaligned(tensor.contiguous().view({2: torch.int16, 4: torch.int32}[tensor.element_size()]).numpy(), offset)


def tensor_of(array: np.ndarray, dtype: torch.dtype) -> Tensor:
    return torch.from_numpy(array).view(dtype)


def same_bits(array: np.ndarray, tensor: Tensor) -> bool:
    """Bitwise, with one NaN."""
    found, wanted = tensor_of(array.copy(), tensor.dtype), tensor.contiguous()
    if not tensor.is_floating_point():
        return torch.equal(found, wanted)
    kind = {2: torch.int16, 4: torch.int32, 8: torch.int64}[tensor.element_size()]
    nan = torch.full_like(wanted, float("nan"))
    found, wanted = (torch.where(x.isnan(), nan, x).view(kind) for x in (found, wanted))
    return torch.equal(found, wanted)


FORMATS = [
    *itertools.product((torch.float16, torch.bfloat16), ("split", "fp32", "none")),
    (torch.float32, "none"),
]


@dataclass
class Work:
    """The arguments of one step: for the CPU as torch tensors, for the emulator as arrays with the same bits."""

    rule: str
    params: list[Tensor] = field(default_factory=list)
    grads: list[Tensor] = field(default_factory=list)
    masters: list[Tensor] = field(default_factory=list)
    states: list[Tensor] = field(default_factory=list)
    emas: list[Tensor] = field(default_factory=list)

    def __post_init__(self) -> None:
        count = len(self.params)
        self.steps = torch.arange(count, dtype=torch.float32)
        self.rows = torch.stack([torch.arange(count) % 2, torch.arange(count) + 7], 1).contiguous()
        names = optim_ops.hyper_names(self.rule)
        rows = [HYPER, {**HYPER, "lr": 3e-3, "weight_decay": 0.0, "maximize": 1.0}]
        self.hyper = torch.tensor([[row[name] for name in names] for row in rows], dtype=torch.float64)

    def arrays(self, offsets: dict[str, int], rounding: str, **options: Any) -> dict[str, Any]:
        lists = {"weight": self.params, "grad": self.grads, "master": self.masters, "state": self.states}
        if self.emas:
            lists["ema"] = self.emas
        arrays: dict[str, Any] = {
            name: [memory(t, offsets.get(name, 0)) for t in tensors] for name, tensors in lists.items() if tensors
        }
        arrays |= {
            "dtype": np.array([CODES[p.dtype] for p in self.params], np.int32),
            "key": self.rows[:, 1].numpy().astype(np.uint32),
            "hyper_row": self.rows[:, 0].numpy().copy(),
            "hyper": self.hyper.numpy().copy(),
            "steps": self.steps.numpy().copy(),
            "rule": np.array([optim_ops.rules().index(self.rule)], np.int32),
            "rounding": np.array([rounding == "stochastic"], np.int32),
            "seed": np.array([options.get("seed", 0)], np.uint64),
            "max_grad_norm": np.array([options.get("max_grad_norm", np.inf)]),
            "ema_weight": np.array([1.0 - options.get("ema_decay", 1.0)]).astype(np.float32),
            "zero_grad": np.array([options.get("zero_grad", False)], np.int8),
        }
        for name in ("grad_scale", "found_inf", "sum_of_squares"):
            if name in options:
                arrays[name] = options[name].view(1).numpy().copy()
        return arrays

    def step(self, rounding: str, **options: Any) -> None:
        lists = (self.params, self.grads, self.masters, self.states)
        tables = (self.steps, self.rows, self.hyper)
        optim_ops.optim_step_(self.rule, *lists, *tables, emas=self.emas, rounding=rounding, **options)

    def differences(self, arrays: dict[str, Any]) -> list[str]:
        """Where the arrays are not what this, after its own step, is."""
        lists = {"weight": self.params, "grad": self.grads, "master": self.masters, "state": self.states}
        lists |= {"ema": self.emas} if self.emas else {}
        wrong = [
            f"{name}[{i}]"
            for name, tensors in lists.items()
            for i, (array, tensor) in enumerate(zip(arrays.get(name, []), tensors, strict=True))
            if not same_bits(array, tensor)
        ]
        return wrong + ([] if same_bits(arrays["steps"], self.steps) else ["steps"])


def work(rule: str, formats: list[tuple[torch.dtype, str]], sizes: list[int], *, ema: bool = False) -> Work:
    generator = torch.Generator().manual_seed(len(sizes))
    params, grads, masters, emas = [], [], [], []
    for (dtype, master), size in itertools.product(formats, sizes):
        w = torch.randn(size, generator=generator) * 10 ** (5 * torch.rand(size, generator=generator) - 5)
        grads.append((torch.randn(size, generator=generator) * 0.1).to(dtype))
        weight, beside = w.to(dtype), w if master == "fp32" else torch.empty(0)
        if master == "split":
            weight, beside = optim_ops.split_master(w, dtype)
        params.append(weight)
        masters.append(beside)
        emas.append(torch.randn(size, generator=generator) * 0.1)
    states = [torch.rand(p.numel(), generator=generator) * 0.1 for _ in optim_ops.state_names(rule) for p in params]
    return Work(rule, params, grads, masters, states, emas if ema else [])
