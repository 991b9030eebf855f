"""Planted bugs of kernels that move tiles: barriers that count bytes, rings of them, clusters."""

from __future__ import annotations

from emulator.planted import Mutation

KERNELS = "tests/emulator/kernels/tiles.cuh"

WAIT_EMPTY = "            halfops::ptx::mbarrier_wait(&empty[n % kStages], parity(n) ^ 1);\n"
WAIT_FULL = "            halfops::ptx::mbarrier_wait(&full[n % kStages], parity(n));\n"
MEET = "    halfops::ptx::cluster_arrive();\n    halfops::ptx::cluster_wait();\n"

TILES = [
    Mutation(
        "tiles: no wait until a stage is free",
        "ring of tiles",
        KERNELS,
        WAIT_EMPTY,
        "",
        "error error error ? error",
    ),
    Mutation(
        "tiles: the first wait for a free stage is for the wrong parity",
        "ring of tiles",
        KERNELS,
        "parity(n) ^ 1",
        "parity(n)",
        "error error error ? ?",
    ),
    Mutation(
        "tiles: no wait until a stage is full",
        "ring of tiles",
        KERNELS,
        WAIT_FULL,
        "",
        "error error error ? race",
    ),
    Mutation(
        "tiles: a stage is released before it is read",
        "ring of tiles",
        KERNELS,
        "for (int row = first;",
        "if (column == 0) release(n);\n            for (int row = first;",
        "- error error ? race",
        also=(("            __syncwarp();\n            if (column == 0) release(n);\n", ""),),
    ),
    Mutation(
        "tiles: a warp's lanes do not meet before one of them releases the stage",
        "ring of tiles",
        KERNELS,
        "            __syncwarp();\n            if (column == 0) release(n);",
        "            if (column == 0) release(n);",
        "- error error ? race",
    ),
    Mutation(
        "tiles: a stage is released in the own block alone",
        "ring of tiles",
        KERNELS,
        "for (int rank = 0; rank < blocks; ++rank) halfops::ptx::mbarrier_arrive_at",
        "for (int rank = 0; rank < 1; ++rank) halfops::ptx::mbarrier_arrive_at",
        "error error error ? ?",
    ),
    Mutation(
        "tiles: fewer bytes are expected than come",
        "ring of tiles",
        KERNELS,
        "mbarrier_arrive_expect_bytes(barrier, blocks * kSliceBytes)",
        "mbarrier_arrive_expect_bytes(barrier, kSliceBytes)",
        "error error error ? ?",
    ),
    Mutation(
        "tiles: one warp is enough to release a stage",
        "ring of tiles",
        KERNELS,
        "make_barrier(&empty[i], 2 * blocks)",
        "make_barrier(&empty[i], blocks)",
        "error error error ? ?",
    ),
    Mutation(
        "tiles: read without the swizzle",
        "ring of tiles",
        KERNELS,
        "(column / 4 ^ row % 8) * 4",
        "column / 4 * 4",
        "wrong wrong wrong ? ?",
    ),
    Mutation(
        "tiles: the copy engine is not told of new barriers",
        "ring of tiles",
        KERNELS,
        "    halfops::ptx::fence_mbarrier_init();\n",
        "",
        "- - - - race",
    ),
    Mutation(
        "tiles: a block exits while others still release its stages",
        "ring of tiles",
        KERNELS,
        "= ring.add_up(tiles);\n" + MEET,
        "= ring.add_up(tiles);\n",
        "error error error ? ?",
    ),
    Mutation(
        "tiles: barriers are shown to the block, not to the cluster",
        "ring of tiles",
        KERNELS,
        MEET + "    if (threadIdx.x == 0) ring.load",
        "    __syncthreads();\n    if (threadIdx.x == 0) ring.load",
        "error error error ? ?",
    ),
    Mutation(
        "tiles: what is stored was not shown to the copy engine",
        "stored tiles",
        KERNELS,
        "        halfops::ptx::fence_proxy_async();\n",
        "",
        "- - - - race",
    ),
    Mutation(
        "tiles: no barrier before the store",
        "stored tiles",
        KERNELS,
        "        halfops::ptx::fence_proxy_async();\n        __syncthreads();\n",
        "        halfops::ptx::fence_proxy_async();\n",
        "wrong wrong wrong ? race",
    ),
    Mutation(
        "tiles: a tile is written over before its store has read it",
        "stored tiles",
        KERNELS,
        "halfops::ptx::tma_wait_read<1>();",
        "halfops::ptx::tma_wait_read<2>();",
        "wrong wrong wrong ? race",
    ),
    Mutation(
        "tiles: a thread exits before its stores have read",
        "stored tiles",
        KERNELS,
        "if (threadIdx.x == 0) halfops::ptx::tma_wait_read<0>();",
        "if (threadIdx.x == 0) halfops::ptx::tma_wait_read<1>();",
        "error error error ? ?",
    ),
    Mutation(
        "tiles: blocks read each other before they have met",
        "everywhere",
        KERNELS,
        MEET + "    float sum",
        "    float sum",
        "error error error ? ?",
    ),
]
