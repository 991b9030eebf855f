"""Figures of the compiled kernels, as the tables of docs/kernels.md: `python -m cuda_code.report [--all]` in tests/."""

from __future__ import annotations

import argparse
import math
from dataclasses import dataclass

from cuda_code import kernels, products, sass
from cuda_code.units import Resources, unit

ARCH = "90a"
WARP, WARPS_MOST, BLOCKS_MOST, REGISTERS = 32, 64, 32, 65536
# An H200: multiprocessors, instructions that each may issue in a clock, clock, memory.
PROCESSORS, ISSUE, CLOCK, BANDWIDTH = 132, 4, 1.755e9, 4.3e12
MAIN = [
    "AdamW: f16, split master", "AdamW: bf16, split master", "AdamW: bf16, f32 master", "AdamW: bf16, stochastic",
    "AdamW: f32", "SgdMomentum: f16, split master", "Sgd: f16, split master", "Lion: f16, split master",
    "Lamb, norms: f16, split master", "Lamb: f16, split master", "nonfinite_check", "grad_stats", "unscale_",
    "activation Relu: f16", "activation Gelu: f16", "activation Gelu: bf16", "activation Silu: f16",
    "activation_backward Gelu: f16", "activation_backward GeluTanh: f16", "gated_activation Silu: f16",
    "gated_activation_backward Silu: f16", "gated_activation_backward Silu: f32",
    "column_sums: f16", "column_sums: bf16", "column_sums: f32",
]  # fmt: skip


def warps(kernel: kernels.Kernel, registers: int) -> int:
    """That one multiprocessor holds: registers go out in portions of 256 a warp, blocks as wholes."""
    of_warp = math.ceil(registers * WARP / 256) * 256
    in_block = kernel.threads // WARP
    # Each of four quarters has its own registers.
    blocks = min(4 * (REGISTERS // 4 // of_warp) // in_block, WARPS_MOST // in_block, BLOCKS_MOST)
    return blocks * in_block


@dataclass(frozen=True)
class Row:
    name: str
    bytes: float  # an element
    instructions: float  # of a thread, an element
    registers: int
    warps: int
    wide_loads: int
    wide_stores: int
    in_flight: int  # bytes that one multiprocessor has asked for

    @property
    def picoseconds(self) -> float:
        """An element's share of the time, if nothing but memory counts."""
        return self.bytes / BANDWIDTH * 1e12

    @property
    def issue(self) -> float:
        """The share of issue slots that are used in that time."""
        return self.instructions / WARP / (self.picoseconds * 1e-12) / (PROCESSORS * ISSUE * CLOCK)

    def __str__(self) -> str:
        return (
            f"| {self.name} | {self.bytes:g} | {self.instructions:.1f} | {self.registers} | {self.warps} | "
            f"{self.wide_loads} / {self.wide_stores} | {self.in_flight / 1024:.0f} | {self.picoseconds:.2f} | "
            f"{self.issue:.0%} |"
        )


HEAD = """\
| kernel | bytes an element | instructions | registers | warps | loads / stores | KiB in flight | ps each | issue |
|---|---|---|---|---|---|---|---|---|"""


def rows(kernel: kernels.Kernel, used: Resources, function: sass.Function) -> list[Row]:
    found = sorted(function.wide_loops(), key=lambda loop: sum(i.is_wide_load for i in loop))
    wanted = sorted(kernel.loops, key=lambda loop: loop.loads)
    # Of two loops for 16-bit formats the one with the conversion instruction is fp16's.
    if len(wanted) > 1:
        found[:2] = sorted(found[:2], key=lambda loop: not any("HADD2" in i.opcode for i in loop))
    made = []
    for loop, declared in zip(found, wanted, strict=False):
        resident = warps(kernel, used.registers)
        together = min(sass.loads_in_flight(loop), declared.loads)
        made.append(
            Row(
                f"{kernel.name}{': ' + declared.label if declared.label else ''}",
                declared.bytes_per_element,
                len(loop) / declared.elements,
                used.registers,
                resident,
                declared.loads,
                sum(i.is_wide_store for i in loop),
                resident * WARP * together * kernels.VECTOR,
            )
        )
    return made


def table(chosen: list[str] | None = MAIN, arch: str = ARCH) -> str:
    """chosen: names of kernels, in this order; None: all."""
    found: dict[str, list[Row]] = {}
    for source in kernels.PASSES:
        functions = sass.functions(unit(source, arch).sass)
        for kernel, used in kernels.kernels(source, arch):
            found[kernel.name] = rows(kernel, used, functions[kernel.mangled])
    names = list(found) if chosen is None else chosen
    return "\n".join([HEAD, *[str(row) for name in names for row in found[name]]])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--all", action="store_true", help="every instance, not only the main ones")
    parser.add_argument("--arch", default=ARCH, help=f"default: {ARCH}")
    arguments = parser.parse_args()
    print(table(None if arguments.all else MAIN, arguments.arch))
    print(products.table(arguments.arch))
