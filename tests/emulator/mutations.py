"""The planted bugs. A new one is one entry of a list; `python -m emulator.mutations NAME` in tests/ prints what is
measured, for its last line.
"""

from __future__ import annotations

import sys

from emulator.bulk_mutations import BULK
from emulator.linear_mutations import LINEAR
from emulator.planted import Mutation
from emulator.tile_mutations import TILES

BLOCK_SUM = "tests/emulator/kernels/block_sum.cuh"
MOMENTUM = "tests/emulator/kernels/momentum.cuh"
EXCHANGE = "tests/emulator/kernels/exchange.cuh"
NONFINITE = "csrc/scale/nonfinite.cuh"
STATS = "csrc/scale/stats.cuh"
STEP = "csrc/optim/step.cuh"
COLUMN_SUMS = "csrc/collective/column_sums.cuh"
ELEMENTWISE = "csrc/pointwise/elementwise.cuh"
WARP = "csrc/collective/warp.cuh"

MUTATIONS = [
    Mutation(
        "one element too many",
        "momentum",
        MOMENTUM,
        "i < numel; i += threads",
        "i <= numel; i += threads",
        "error error error heap-buffer-overflow -",
    ),
    Mutation(
        "16 bytes at a time whatever the alignment",
        "momentum, misaligned",
        MOMENTUM,
        "aligned(parameters, gradients, moments) ? numel / 8 : 0",
        "numel / 8",
        "error error error misaligned error",
    ),
    Mutation(
        "no barrier before the partial sums are read",
        "momentum",
        BLOCK_SUM,
        "partial[warp] = value;\n    __syncthreads();",
        "partial[warp] = value;",
        "wrong wrong wrong wrong race",
    ),
    Mutation(
        "no barrier before the array is used again",
        "momentum",
        BLOCK_SUM,
        "const float sum = partial[0];\n    __syncthreads();",
        "const float sum = partial[0];",
        "- - - - race",
    ),
    Mutation(
        "a shuffle of all lanes that one lane leaves out",
        "momentum",
        BLOCK_SUM,
        "value += __shfl_xor_sync",
        "if (threadIdx.x != 5) value += __shfl_xor_sync",
        "error error error error error",
    ),
    Mutation(
        "shared array overrun by one",
        "momentum",
        BLOCK_SUM,
        "partial[warp] = value;",
        "partial[warp + 1] = value;",
        "error error error use-after-poison error",
    ),
    Mutation(
        "no __syncwarp between lanes",
        "neighbour",
        EXCHANGE,
        "    __syncwarp();\n    out[threadIdx.x]",
        "    out[threadIdx.x]",
        "wrong wrong wrong wrong race",
    ),
    Mutation(
        "a block's barrier replaced by the warp's",
        "backwards",
        EXCHANGE,
        "    __syncthreads();\n    out[threadIdx.x] = value[blockDim.x - 1 - threadIdx.x];",
        "    __syncwarp();\n    out[threadIdx.x] = value[blockDim.x - 1 - threadIdx.x];",
        "- wrong wrong - race",
    ),
    Mutation(
        "a barrier in a loop that threads leave at different times",
        "row sums",
        EXCHANGE,
        "for (int first = 0; first < numel; first += kThreads) {\n"
        "        const int i = first + static_cast<int>(threadIdx.x);",
        "for (int i = static_cast<int>(threadIdx.x); i < numel; i += kThreads) {",
        "error error error error error",
    ),
    Mutation(
        "no barrier before the next row is written",
        "row sums",
        EXCHANGE,
        "        sum += value[kThreads - 1 - threadIdx.x];\n        __syncthreads();",
        "        sum += value[kThreads - 1 - threadIdx.x];",
        "wrong wrong wrong wrong race",
    ),
    Mutation(
        "threads without work return before a barrier",
        "row sums",
        EXCHANGE,
        "const int i = first + static_cast<int>(threadIdx.x);",
        "const int i = first + static_cast<int>(threadIdx.x);\n        if (i >= numel) return;",
        "error error error error error",
    ),
    Mutation(
        "a writer that does not wait until its buffer is empty",
        "handover",
        EXCHANGE,
        "            if (i > 0) emulator::named_barrier_sync(kEmpty, kBoth);\n",
        "",
        "error error error error error",
    ),
    Mutation(
        "a reader that does not wait until the buffer is full",
        "handover",
        EXCHANGE,
        "            emulator::named_barrier_sync(kFull, kBoth);\n",
        "            emulator::named_barrier_arrive(kFull, kBoth);\n",
        "error error error error race",
    ),
    Mutation(
        "no barrier between the wait and the use of others' copies",
        "streamed sums",
        EXCHANGE,
        "cp_async_wait<1>();\n        __syncthreads();",
        "cp_async_wait<1>();",
        "wrong wrong wrong wrong race",
    ),
    Mutation(
        "the ring's place is filled again while others read it",
        "streamed sums",
        EXCHANGE,
        "sum.w + value.w};\n        __syncthreads();",
        "sum.w + value.w};",
        "wrong wrong wrong wrong race",
    ),
    Mutation(
        "copies are waited for with the last row alone",
        "streamed sums",
        EXCHANGE,
        "        halfops::ptx::cp_async_wait<1>();\n",
        "        if (row + 1 == rows) halfops::ptx::cp_async_wait<1>();\n",
        "wrong wrong wrong wrong race",
    ),
    Mutation(
        "no __syncwarp before rows of other lanes are loaded",
        "matrices",
        EXCHANGE,
        "    __syncwarp();\n    uint32_t r[4];",
        "    uint32_t r[4];",
        "- - - - race",
    ),
    Mutation(
        "a chunk's end that is never read",
        "nonfinite",
        NONFINITE,
        "eights.at(base) < eights.length;",
        "eights.at(base) + kEight < eights.length;",
        "wrong wrong wrong ? ?",
    ),
    Mutation(
        "elements behind the end are read",
        "nonfinite",
        NONFINITE,
        "if (eights.has(place)) found",
        "if (place >= 0) found",
        "- - - heap-buffer-overflow ?",
    ),
    Mutation(
        "no head before the first multiple of 16 bytes",
        "nonfinite",
        NONFINITE,
        "eights(chunk, numel, head_elements(data));",
        "eights(chunk, numel, 0);",
        "- - - misaligned -",
    ),
    Mutation(
        "only what the first lane finds counts",
        "nonfinite, another lane",
        NONFINITE,
        "__any_sync(kFullWarp, found) && lane_index() == 0",
        "found && lane_index() == 0",
        "wrong wrong wrong ? ?",
    ),
    Mutation(
        "sums of tensors are added before they are there",
        "stats",
        STATS,
        "__syncthreads();  // every tree of the batch is there before thread 0 adds them in order",
        "",
        "wrong wrong wrong wrong race",
    ),
    Mutation(
        "a sum over a warp leaves out its last step",
        "stats",
        WARP,
        "for (int distance = 1; distance < kWarpSize; distance *= 2) value",
        "for (int distance = 1; distance < kWarpSize / 2; distance *= 2) value",
        "wrong wrong wrong ? ?",
    ),
    Mutation(
        "adamw: the end of a tensor is not looked at",
        "adamw",
        STEP,
        "if (eights.has(at)) update_one",
        "update_one",
        "error error error heap-buffer-overflow ?",
    ),
    Mutation(
        "adamw: 16 bytes at a time whatever the alignment",
        "adamw, nothing aligned",
        STEP,
        "if (aligned && eights.are_whole(eight, eight)) {\n                update_eight",
        "if (eights.are_whole(eight, eight)) {\n                update_eight",
        "error error error misaligned ?",
    ),
    Mutation(
        "adamw: two warps take the same chunk",
        "adamw",
        WARP,
        "for (int64_t c = warp_in_grid(); c < table.chunks;",
        "for (int64_t c = warp_in_grid() / 2; c < table.chunks;",
        "wrong wrong wrong ? race",
    ),
    Mutation(
        "lamb: every lane stores the sums of the chunk",
        "lamb",
        STEP,
        "if (lane_index() == 0) set.norms[c] = sums;",
        "set.norms[c] = sums;",
        "- - - ? race",
    ),
    Mutation(
        "column sums: one half of the array for all rounds",
        "column sums",
        COLUMN_SUMS,
        "first += kGroupsAtOnce, half ^= kAddThreads)",
        "first += kGroupsAtOnce)",
        "- wrong wrong ? race",
    ),
    Mutation(
        "activations: a tile's end is not looked at",
        "gated",
        ELEMENTWISE,
        "first >= 0 && first + kLength <= n)",
        "first >= 0)",
        "error error error ? ?",
    ),
    *LINEAR,
    *BULK,
    *TILES,
]


def main() -> None:
    for mutation in MUTATIONS:
        if not sys.argv[1:] or mutation.name in sys.argv[1:]:
            found = (word.replace(" ", "_") or "-" for word in mutation.measured())
            print(f"{mutation.name}: {' '.join(found)}", flush=True)


if __name__ == "__main__":
    main()
