"""Planted bugs: what each way of running must find of a kernel that is wrong in one place.

A bug is a replacement of text in a copy of the source tree, so that the kernels carry no switches for it. A new one is
one entry of MUTATIONS; `python -m emulator.mutations` in tests/ prints what is measured, for the last columns.
"""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from emulator import build
from emulator.cases import CASES
from emulator.program import Mode

SEEDS = range(10)


@dataclass(frozen=True)
class Mutation:
    """`before` stands exactly once in the file. The findings are Case.outcome's words, "" for nothing."""

    name: str
    case: str
    file: str
    before: str
    after: str
    fixed: str = ""  # plain, forward
    random: str = ""  # plain, random order, any of ten seeds
    priority: str = ""  # plain, random priorities, any of ten seeds
    address: str = ""  # AddressSanitizer and the undefined-behaviour sanitizer, forward
    thread: str = ""  # ThreadSanitizer, forward

    @contextlib.contextmanager
    def tree(self) -> Iterator[Path]:
        """A copy of the sources with the bug in it."""
        with tempfile.TemporaryDirectory(prefix="halfops-mutation-") as folder:
            root = Path(folder)
            for part in ("csrc", "tests/emulator/kernels", "tests/emulator/entries"):
                shutil.copytree(build.ROOT / part, root / part)
            text = (root / self.file).read_text()
            if text.count(self.before) != 1:
                raise ValueError(f"{self.name}: {self.file} has {text.count(self.before)} places like {self.before!r}")
            (root / self.file).write_text(text.replace(self.before, self.after))
            yield root

    def expected(self) -> dict[str, str]:
        return {column: getattr(self, column) for column in COLUMNS}

    def measured(self) -> dict[str, str]:
        case = CASES[self.case]
        with self.tree() as tree:

            def plain(mode: Mode) -> str:
                return case.outcome(mode, tree=tree)[0]

            def any_seed(order: str) -> str:
                return next(filter(None, (plain(Mode(order, seed)) for seed in SEEDS)), "")

            # The three builds at once: most of the time goes into compilers.
            with ThreadPoolExecutor() as pool:
                address = pool.submit(case.outcome, Mode(), "address", tree)
                thread = pool.submit(case.outcome, Mode(), "thread", tree)
                found = {"fixed": plain(Mode()), "random": any_seed("random"), "priority": any_seed("priority")}
                return found | {"address": address.result()[0], "thread": thread.result()[0]}


COLUMNS = ("fixed", "random", "priority", "address", "thread")
BLOCK_SUM = "tests/emulator/kernels/block_sum.cuh"
MOMENTUM = "tests/emulator/kernels/momentum.cuh"
EXCHANGE = "tests/emulator/kernels/exchange.cuh"
NONFINITE = "csrc/scale/nonfinite.cuh"

MUTATIONS = [
    Mutation(
        "one element too many",
        "momentum",
        MOMENTUM,
        "i < numel; i += threads",
        "i <= numel; i += threads",
    ),
    Mutation(
        "16 bytes at a time whatever the alignment",
        "momentum, misaligned",
        MOMENTUM,
        "aligned(parameters, gradients, moments) ? numel / 8 : 0",
        "numel / 8",
    ),
    Mutation(
        "no barrier before the partial sums are read",
        "momentum",
        BLOCK_SUM,
        "partial[warp] = value;\n    __syncthreads();",
        "partial[warp] = value;",
    ),
    Mutation(
        "no barrier before the array is used again",
        "momentum",
        BLOCK_SUM,
        "const float sum = partial[0];\n    __syncthreads();",
        "const float sum = partial[0];",
    ),
    Mutation(
        "a shuffle of all lanes that one lane leaves out",
        "momentum",
        BLOCK_SUM,
        "value += __shfl_xor_sync",
        "if (threadIdx.x != 5) value += __shfl_xor_sync",
    ),
    Mutation(
        "shared array overrun by one",
        "momentum",
        BLOCK_SUM,
        "partial[warp] = value;",
        "partial[warp + 1] = value;",
    ),
    Mutation(
        "no __syncwarp between lanes",
        "neighbour",
        EXCHANGE,
        "    __syncwarp();\n",
        "",
    ),
    Mutation(
        "a block's barrier replaced by the warp's",
        "backwards",
        EXCHANGE,
        "    __syncthreads();\n    out[threadIdx.x] = value[blockDim.x - 1 - threadIdx.x];",
        "    __syncwarp();\n    out[threadIdx.x] = value[blockDim.x - 1 - threadIdx.x];",
    ),
    Mutation(
        "a barrier in a loop that threads leave at different times",
        "row sums",
        EXCHANGE,
        "for (int first = 0; first < numel; first += kThreads) {\n        const int i = first + static_cast<int>(threadIdx.x);",
        "for (int i = static_cast<int>(threadIdx.x); i < numel; i += kThreads) {",
    ),
    Mutation(
        "no barrier before the next row is written",
        "row sums",
        EXCHANGE,
        "        sum += value[kThreads - 1 - threadIdx.x];\n        __syncthreads();",
        "        sum += value[kThreads - 1 - threadIdx.x];",
    ),
    Mutation(
        "threads without work return before a barrier",
        "row sums",
        EXCHANGE,
        "const int i = first + static_cast<int>(threadIdx.x);",
        "const int i = first + static_cast<int>(threadIdx.x);\n        if (i >= numel) return;",
    ),
    Mutation(
        "a tail that is never read",
        "nonfinite",
        NONFINITE,
        "int64_t i = tail + thread; i < numel;",
        "int64_t i = tail + thread; i < tail;",
    ),
    Mutation(
        "vectors behind the end are loaded and ignored",
        "nonfinite",
        NONFINITE,
        "loaded[u] = i < vectors ? body[i] : Vector16{};",
        "const Vector16 read = body[i];\n            loaded[u] = i < vectors ? read : Vector16{};",
    ),
    Mutation(
        "no head before the first multiple of 16 bytes",
        "nonfinite",
        NONFINITE,
        "const int64_t head = head_elements(elements, numel);",
        "const int64_t head = 0;",
    ),
]


def main() -> None:
    for mutation in MUTATIONS:
        print(mutation.name, mutation.measured(), flush=True)


if __name__ == "__main__":
    main()
