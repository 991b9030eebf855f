"""Kernels with inputs and the values they should give: what tests and mutations run."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from emulator import build
from emulator.memory import misaligned
from emulator.program import Arrays, Mode, Program, Report
from emulator.work import work


def program(name: str, *sources: str) -> Program:
    """The entry file entries/<name>.cpp and the sources of csrc that it needs."""
    return Program(name, (f"tests/emulator/entries/{name}.cpp", *sources))


@dataclass(frozen=True)
class Case:
    """A call of an entry. `check` gets the arrays after the call and says whether they are right."""

    program: Program
    entry: str
    arrays: Callable[[], Arrays]
    check: Callable[[Arrays], bool]
    seeds: int = 100  # of random orders that a right kernel is tried in

    def outcome(self, mode: Mode, flavour: str = "plain", tree=build.ROOT) -> tuple[str, Report]:
        """What showed: "race", a word of AddressSanitizer, "error" or "wrong"; nothing if all is well."""
        arrays = self.arrays()
        changed = Program(self.program.name, self.program.sources, tree)
        report = changed.run(self.entry, arrays, mode, flavour)
        if report.races:
            return "race", report
        if report.address:
            return report.address, report
        if report.text:
            return "error", report
        return ("" if self.check(arrays) else "wrong"), report


def to_bf16(x: np.ndarray) -> np.ndarray:
    bits = x.astype(np.float32).view(np.uint32)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16)


def from_bf16(bits: np.ndarray) -> np.ndarray:
    return (bits.astype(np.uint32) << 16).view(np.float32)


def momentum_case(size: int, offset: int) -> Case:
    """An optimizer step; all three tensors lie `offset` elements behind a multiple of 16 bytes."""
    random = np.random.default_rng(size)
    parameters, gradients = (to_bf16(random.standard_normal(size)) for _ in range(2))
    moments = random.standard_normal(size).astype(np.float32)
    rate, decay = np.float32(0.25), np.float32(0.5)
    new_moments = decay * moments + from_bf16(gradients)
    new_parameters = to_bf16(from_bf16(parameters) - rate * new_moments)
    sums = [np.sum(np.square(x, dtype=np.float64)) for x in (new_moments, from_bf16(gradients))]

    def arrays() -> Arrays:
        return {
            "parameters": misaligned(parameters, offset),
            "gradients": misaligned(gradients, offset),
            "moments": misaligned(moments, offset),
            "learning_rate": np.array([rate]),
            "decay": np.array([decay]),
            "sums": np.zeros(2, np.float32),
        }

    def check(arrays: Arrays) -> bool:
        same = np.array_equal(arrays["parameters"], new_parameters) and np.array_equal(arrays["moments"], new_moments)
        # A sum of `size` floats in another order: each addition rounds by half a unit in the last place.
        return same and np.allclose(arrays["sums"], sums, rtol=size * 2.0**-24, atol=0)

    return Case(program("momentum"), "momentum", arrays, check)


def exchange_case(entry: str, size: int, expected: Callable[[np.ndarray], np.ndarray]) -> Case:
    values = np.arange(1, size + 1, dtype=np.float32)
    result = expected(values)

    def arrays() -> Arrays:
        return {"in": values.copy(), "out": np.full(len(result), np.nan, np.float32)}

    return Case(program("exchange"), entry, arrays, lambda arrays: np.array_equal(arrays["out"], result))


def nonfinite_case(dtype: type, code: int, size: int, offset: int, place: int) -> Case:
    """A tensor of ones but for one NaN."""
    values = np.ones(size, np.float16 if dtype is np.uint16 else np.float32).view(dtype)
    values[place] = 0x7C01 if dtype is np.uint16 else 0x7F800001

    def arrays() -> Arrays:
        return {
            "tensor": misaligned(values, offset),
            "dtype": np.array([code], np.int32),
            "found_inf": np.full(1, np.nan, np.float32),
        }

    return Case(SCALE, "nonfinite", arrays, lambda arrays: arrays["found_inf"][0] == 1)


def stats_case(count: int, size: int) -> Case:
    """Many small tensors of whole numbers: their sums of squares are exact in any order."""
    values = [np.arange(i, i + size, dtype=np.float32) % 5 for i in range(count)]
    squares = np.array([np.sum(np.square(x)) for x in values])

    def arrays() -> Arrays:
        return {
            "tensor": [misaligned(x, i % 4) for i, x in enumerate(values)],
            "dtype": np.full(count, 2, np.int32),
            "count_zeros": np.ones(1, np.int8),
            "found_inf": np.full(1, np.nan, np.float32),
            "sum_of_squares": np.full(1, np.nan),
            "per_tensor": np.full((count, 3), np.nan),
        }

    def check(arrays: Arrays) -> bool:
        zeros = [np.sum(x == 0) for x in values]
        rows = np.stack([squares, np.zeros(count), zeros], axis=1)
        same = np.array_equal(arrays["per_tensor"], rows) and arrays["sum_of_squares"][0] == squares.sum()
        return same and arrays["found_inf"][0] == 0

    return Case(SCALE, "grad_stats", arrays, check, seeds=20)


def _row_sums(values: np.ndarray) -> np.ndarray:
    padded = np.zeros(-(-len(values) // 96) * 96, np.float32)
    padded[: len(values)] = values
    return padded.reshape(-1, 96).sum(0)[::-1]


SCALE = program("scale", "csrc/scale/scale_cuda.cu", "csrc/collective/upload.cu")
POINTWISE = program("pointwise", "csrc/pointwise/pointwise_cuda.cu")
OPTIM = program(
    "optim",
    "csrc/optim/optim_cuda.cu",
    "csrc/optim/optim_cuda_f16.cu",
    "csrc/optim/optim_cuda_bf16.cu",
    "csrc/optim/optim_cuda_f32.cu",
    "csrc/optim/rules.cpp",
    "csrc/collective/upload.cu",
)
# The same room with few instances, for sanitizers and planted bugs.
FEW = program(
    "adamw",
    "csrc/optim/optim_cuda.cu",
    "csrc/optim/rules.cpp",
    "csrc/collective/upload.cu",
)


def step_case(rule: str, master: str, sizes: list[int], offsets: dict[str, int], rounding: str = "nearest") -> Case:
    """A step with everything in it; what it should give is what the CPU's engine gives."""
    scaled = {"grad_scale": torch.tensor(8.0), "sum_of_squares": torch.tensor(99.0, dtype=torch.float64)}
    options = {"max_grad_norm": 0.5, "ema_decay": 0.75, "zero_grad": True, "seed": 3, **scaled}
    given = work(rule, [(torch.float16, master)], sizes, ema=True)
    wanted = copy.deepcopy(given)
    wanted.step(rounding, **options)
    return Case(
        FEW,
        "step",
        lambda: given.arrays(offsets, rounding, **options),
        lambda arrays: wanted.differences(arrays) == [],
    )


APART = {"weight": 1, "grad": 2, "master": 3, "state": 1, "ema": 2}
HEAD = {"weight": 4, "grad": 4, "master": 4}
CASES = {
    "adamw": step_case("adamw", "split", [9, 520, 4101], {}),
    "adamw, a head": step_case("adamw", "split", [600], HEAD),
    "adamw, nothing aligned": step_case("adamw", "split", [9, 520], APART),
    "adamw, stochastic": step_case("adamw", "none", [9, 520], {"grad": 1}, "stochastic"),
    "lamb": step_case("lamb", "split", [9, 520], HEAD),
    "momentum": momentum_case(1003, 0),
    "momentum, misaligned": momentum_case(1003, 1),
    "neighbour": exchange_case("neighbour", 96, lambda x: x.reshape(-1, 2)[:, ::-1].ravel()),
    "backwards": exchange_case("backwards", 50, lambda x: x[::-1]),
    "row sums": exchange_case("row_sums", 200, _row_sums),
    "handover": exchange_case("handover", 96, lambda x: x),
    "nonfinite": nonfinite_case(np.uint16, 0, 4099, 1, place=-2),
    "nonfinite, another lane": nonfinite_case(np.uint16, 0, 4099, 1, place=77),
    "stats": stats_case(count=300, size=131),
}
