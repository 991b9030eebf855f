"""Planted bugs of the GEMM's kernels for sm_90a: barriers that count bytes, clusters, proxies, descriptors."""

from __future__ import annotations

from emulator.planted import Mutation

KERNEL = "csrc/linear/bulk_kernel.cuh"
LEAVING = "csrc/linear/bulk_leaving.cuh"
MAINLOOP = "csrc/linear/bulk_mainloop.cuh"
PRODUCER = "csrc/linear/bulk_producer.cuh"
CASE = "gemm, clusters"

FENCED = "        ptx::fence_proxy_async();\n"
MET = "        __syncwarp();  // everybody's rows are there for the copy engine\n"
SENT = "        if (lane == 0) {\n            ptx::tma_store(bulk_.out"
WAITED = "                ptx::wgmma_wait<1>();\n"
RELEASED = "                if (step > 0) release_last();\n"

BULK = [
    Mutation(
        "bulk: no wait until a stage is free",
        CASE,
        PRODUCER,
        "            ptx::mbarrier_wait(&control_.empty[stage_.index()], stage_.parity() ^ 1);\n",
        "",
        "error error error ? ?",
    ),
    Mutation(
        "bulk: a block expects only the bytes that it asks for itself",
        CASE,
        PRODUCER,
        "expect_bytes(full, C::kStageBytes)",
        "expect_bytes(full, C::kBytesA + C::kBytesB / 2)",
        "error error error ? ?",
    ),
    Mutation(
        "bulk: no wait until a stage is full",
        CASE,
        MAINLOOP,
        "                ptx::mbarrier_wait(&control_.full[stage_.index()], stage_.parity());\n",
        "",
        "error error error ? ?",
    ),
    Mutation(
        "bulk: a stage is released before its products are done",
        CASE,
        MAINLOOP,
        WAITED + RELEASED,
        RELEASED + WAITED,
        "- - wrong ? race",
    ),
    Mutation(
        "bulk: no wgmma.fence",
        CASE,
        MAINLOOP,
        "        ptx::wgmma_fence();\n",
        "",
        "error error error ? ?",
    ),
    Mutation(
        "bulk: a stage is released in one block of the cluster alone",
        CASE,
        MAINLOOP,
        "if (lane < C::kCluster)",
        "if (lane < 1)",
        "error error error ? ?",
    ),
    Mutation(
        "bulk: the next 16 of K are too near",
        CASE,
        MAINLOOP,
        "kMajor == Major::k ? 32 :",
        "kMajor == Major::k ? 16 :",
        "wrong wrong wrong ? ?",
    ),
    Mutation(
        "bulk: the next slab of N is too far",
        CASE,
        MAINLOOP,
        "kMajor == Major::k ? 16 : C::kSlabBytes",
        "kMajor == Major::k ? 16 : 2 * C::kSlabBytes",
        "wrong wrong wrong ? ?",
    ),
    Mutation(
        "bulk: a block may end before the other's last arrivals",
        CASE,
        KERNEL,
        "            // No block ends before the other's last arrivals at its barriers.\n"
        "            ptx::cluster_arrive();\n            ptx::cluster_wait();\n",
        "",
        "error ? error ? ?",
    ),
    Mutation(
        "bulk: no fence behind the barriers' first counts",
        CASE,
        KERNEL,
        "        ptx::fence_mbarrier_init();\n",
        "",
        "- - - ? race",
    ),
    Mutation(
        "bulk: the cluster does not meet before the first copy",
        CASE,
        KERNEL,
        "        ptx::cluster_arrive();\n        ptx::cluster_wait();\n    } else {",
        "        __syncthreads();\n    } else {",
        "error error error ? ?",
    ),
    Mutation(
        "bulk: the block ends while outputs are still to be read",
        CASE,
        KERNEL,
        "    if (lane_index() == 0) ptx::tma_wait_read<0>();",
        "    if (false) ptx::tma_wait_read<0>();",
        "error error error ? ?",
    ),
    Mutation(
        "bulk: no fence.proxy.async before outputs leave",
        CASE,
        LEAVING,
        FENCED + MET + SENT,
        MET + SENT,
        "- - - ? race",
    ),
    Mutation(
        "bulk: outputs leave before all lanes have put theirs",
        CASE,
        LEAVING,
        MET + SENT,
        SENT,
        "- - - ? race",
    ),
    Mutation(
        "bulk: outputs are overwritten before they have left",
        CASE,
        LEAVING,
        "        wait_until_read(lane, true);\n",
        "",
        "wrong wrong wrong ? ?",
    ),
    Mutation(
        "bulk: outputs lie with another swizzle than the copy engine's",
        CASE,
        LEAVING,
        "(chunk ^ line % 8) * 16, pairs",
        "(chunk ^ line % 4) * 16, pairs",
        "wrong wrong wrong ? ?",
    ),
    Mutation(
        "bulk: the last tile's outputs stay behind",
        CASE,
        KERNEL,
        "        if (over && !finish.has_left()) break;\n",
        "        if (over) break;\n",
        "wrong wrong wrong ? ?",
    ),
    Mutation(
        "bulk: outputs leave to the tile on the right",
        CASE,
        LEAVING,
        "ptx::tma_store(bulk_.out, col_ + kPart * 64,",
        "ptx::tma_store(bulk_.out, col_ + C::kN + kPart * 64,",
        "wrong wrong wrong ? ?",
    ),
]
