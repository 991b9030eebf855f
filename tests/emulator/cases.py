"""Kernels with inputs and the values they should give: what tests and mutations run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from emulator import build
from emulator.memory import misaligned
from emulator.program import Arrays, Mode, Program, Report


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


def nonfinite_case(dtype: type, code: int, size: int, offset: int) -> Case:
    """A tensor of ones but for one NaN; its place is the last but one, which a tail loop reads."""
    values = np.ones(size, np.float16 if dtype is np.uint16 else np.float32).view(dtype)
    values[-2] = 0x7C01 if dtype is np.uint16 else 0x7F800001

    def arrays() -> Arrays:
        return {
            "tensor": misaligned(values, offset),
            "dtype": np.array([code], np.int32),
            "found_inf": np.full(1, np.nan, np.float32),
        }

    return Case(SCALE, "nonfinite", arrays, lambda arrays: arrays["found_inf"][0] == 1)


def _row_sums(values: np.ndarray) -> np.ndarray:
    padded = np.zeros(-(-len(values) // 96) * 96, np.float32)
    padded[: len(values)] = values
    return padded.reshape(-1, 96).sum(0)[::-1]


SCALE = program("scale", "csrc/scale/scale_cuda.cu", "csrc/collective/upload.cu")
OPTIM = program(
    "optim",
    "csrc/optim/optim_cuda.cu",
    "csrc/optim/optim_cuda_f16.cu",
    "csrc/optim/optim_cuda_bf16.cu",
    "csrc/optim/optim_cuda_f32.cu",
    "csrc/optim/rules.cpp",
    "csrc/collective/upload.cu",
)
CASES = {
    "momentum": momentum_case(1003, 0),
    "momentum, misaligned": momentum_case(1003, 1),
    "neighbour": exchange_case("neighbour", 96, lambda x: x.reshape(-1, 2)[:, ::-1].ravel()),
    "backwards": exchange_case("backwards", 50, lambda x: x[::-1]),
    "row sums": exchange_case("row_sums", 200, _row_sums),
    "handover": exchange_case("handover", 96, lambda x: x),
    "nonfinite": nonfinite_case(np.uint16, 0, 4099, 1),
}
