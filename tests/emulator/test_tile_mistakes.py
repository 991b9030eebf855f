"""What can be done wrong with barriers, tiles, clusters and roles, once each: what the emulator says, and where."""

from __future__ import annotations

import re

import numpy as np
import pytest

from emulator import build
from emulator.program import COMPLETIONS, ORDERS, Mode
from emulator.tiles import TILES, how

SOURCE = "tests/emulator/kernels/tile_mistakes.cuh"
PLACE = re.compile(
    rf"kernels::tile_mistake_kernel: .*, at {SOURCE}:(\d+) in "
    r"block \([01], 0, 0\) thread \((\d+), 0, 0\) \[warp (\d+) lane (\d+)\]$"
)
MODES = [Mode(order, completion=completion) for order in ORDERS for completion in COMPLETIONS]
LOAD, ADD = r"cp\.async\.bulk\.tensor", r"cp\.reduce\.async\.bulk\.tensor"

# What the message says, and the line's text that it names.
MISTAKES = {
    "misaligned_barrier": (r"mbarrier\.init at 0x\w+, which is not a multiple of 8", "mbarrier_init"),
    "barrier_in_global_memory": (r"mbarrier\.init at 0x\w+, which is not in the block's shared memory", "floats"),
    "barrier_for_nobody": (r"mbarrier\.init for 0 arrivals, not 1 to 2\^20 - 1", "0)"),
    "barrier_twice": (r"mbarrier\.init at 0x\w+, where there is one", "2)"),
    "barrier_never_made": (r"mbarrier\.arrive at 0x\w+, where no mbarrier has been initialised", "mbarrier_arrive"),
    "barrier_overwritten": (r"mbarrier\.arrive at 0x\w+, where something has been written over", "mbarrier_arrive"),
    "too_many_arrivals": (r"mbarrier\.arrive, but all 1 have arrived in this phase", "threadIdx.x == 7"),
    "too_many_bytes": (r"the mbarrier counts 1048576 bytes, more than 2\^20 - 1", "1 << 20"),
    "no_such_parity": (r"mbarrier\.try_wait for parity 2, not 0 or 1", "2)"),
    "arrival_beyond_the_cluster": (r"mbarrier\.arrive to block 2 of a cluster of 2", "mbarrier_arrive_at"),
    "arrival_before_the_cluster_has_met": (
        r"mbarrier\.arrive to block [01] of the cluster, which may not have begun: its threads have not met yet",
        "mbarrier_arrive_at",
    ),
    "exit_before_an_arrival": (r"mbarrier\.arrive to block 1 of the cluster, which has exited", "mbarrier_arrive_at"),
    "exit_before_a_read": (r"ld\.shared::cluster to block 1 of the cluster, which has exited", "load_from_block"),
    "exit_before_a_tile": (rf"{LOAD} to block 1 of the cluster, which has exited", "tma_load_multicast"),
    "read_of_global_memory": (r"ld\.shared::cluster from 0x\w+, which is not in the block's shared memory", "floats"),
    "misaligned_read": (r"ld\.shared::cluster from 0x\w+, which is not a multiple of 4", "load_from_block"),
    "cluster_arrival_twice": (r"the thread arrives twice at the cluster's barrier", "cluster_arrive"),
    "cluster_wait_alone": (r"the thread waits at the cluster's barrier and has not arrived", "cluster_wait"),
    "divergent_cluster_arrival": (r"divergent barrier\.cluster: block .* is at " + SOURCE, "cluster_arrive"),
    "map_never_made": (rf"{LOAD} with a tensor map that was never made", "tma_load"),
    "misaligned_map": (rf"{LOAD} with a tensor map at 0x\w+, which is not a multiple of 64", "tma_load"),
    "misaligned_tile": (rf"{LOAD} at 0x\w+, which is not a multiple of 1024", "tile(0) + 32"),
    "tile_over_the_end": (rf"{LOAD} of 1024 bytes at 0x\w+, which are not in the block's shared memory", "tile(2)"),
    "tile_to_global_memory": (rf"{LOAD} of 1024 bytes at 0x\w+, which are not in the block's", "tma_load"),
    "tile_without_a_barrier": (rf"{LOAD} at 0x\w+, where no mbarrier has been initialised", "tma_load"),
    "tile_beyond_the_cluster": (rf"{LOAD} to block 2 of a cluster of 2", "tma_load_multicast"),
    "tile_to_nobody": (rf"{LOAD} to no block of the cluster", "tma_load_multicast"),
    "two_tiles_to_one_place": (
        rf"{LOAD} to the place of one that nobody has waited for, begun at {SOURCE}",
        "tma_load",
    ),
    "exit_before_the_tile": (r"the block exits, and nobody in it has waited for this copy", "tma_load"),
    "exit_before_the_store_has_read": (
        r"the thread exits and has not waited until its store has read shared memory",
        "tma_store",
    ),
    "store_in_no_group": (r"the thread exits and has put its store into no group", "tma_store"),
    "misaligned_store": (rf"{LOAD} from shared memory at 0x\w+, which is not a multiple of 1024", "tma_store"),
    "addition_from_global_memory": (rf"{ADD} of 1024 bytes at 0x\w+, which are not in the block's", "tma_add"),
    "registers_of_half_a_warpgroup": (
        r"setmaxnreg needs a whole warpgroup, of this one the block has 64 threads",
        "give_registers",
    ),
    "registers_of_three_warps": (
        r"setmaxnreg, but threads of warp 3 of the warpgroup have exited"
        r"|the thread exits, and warp \d of its warpgroup has said setmaxnreg, which its own has not",
        "give_registers",
    ),
    "registers_of_two_kinds": (r"setmaxnreg 4[08], but 4[08] by warp \d of the warpgroup", "give_registers"),
    "registers_in_divergent_code": (r"setmaxnreg: the mask \w+ names lane|exits while other lanes", "give_registers"),
    "more_registers_than_there_are": (
        r"setmaxnreg brings the block to \d+ registers, more than 65536",
        "take_registers",
    ),
}

# Threads, and blocks of the cluster; usually 64 and 2.
SHAPES = dict.fromkeys(
    ["registers_of_three_warps", "registers_of_two_kinds", "registers_in_divergent_code"], (128, 1)
) | {"more_registers_than_there_are": (384, 1)}


def error(name, mode=Mode(), flavour="plain", shape=None):  # noqa: B008
    whole = np.ones((2, 8, 32), np.float32)
    arrays = {
        "name": np.frombuffer(name.encode(), np.uint8).copy(),
        "shape": np.array(shape or SHAPES.get(name, (64, 2)), np.uint32),
        "tensor": whole,
        "how": how(whole, (32, 8, 1), swizzle=128),
    }
    return TILES.run("tile_mistake", arrays, mode, flavour)


def line(place):
    file, number = place.split(":")
    return (build.ROOT / file).read_text().splitlines()[int(number) - 1].strip()


@pytest.mark.parametrize("name", MISTAKES)
def test_each_mistake_is_named_with_its_place(name):
    """In every order, and whenever copies happen."""
    pattern, text = MISTAKES[name]
    for mode in MODES:
        message = error(name, mode).error
        assert message is not None
        assert re.search(pattern, message), message
        place = PLACE.match(message)
        assert place, message
        assert text in line(f"{SOURCE}:{place[1]}")
        assert (int(place[2]) // 32, int(place[2]) % 32) == (int(place[3]), int(place[4]))


DEADLOCKS = {
    "waits_for_the_next_phase": [
        (64, "exited"),
        (64, "mbarrier.try_wait for parity 1 of an mbarrier in phase 1, which lacks 1 of 1 arrivals and 0 bytes"),
    ],
    "no_arrival_from_the_other_block": [
        (64, "barrier.cluster.wait"),
        (64, "mbarrier.try_wait for parity 1 of an mbarrier in phase 1, which lacks 1 of 2 arrivals and 0 bytes"),
    ],
    "cluster_waits_for_a_warp": [(64, "__syncthreads"), (64, "barrier.cluster.wait")],
    "tile_of_more_than_was_expected": [
        (
            128,
            "mbarrier.try_wait for parity 0 of an mbarrier in phase 0, which lacks 0 of 1 arrivals and -512 bytes "
            "(more have come than were expected)",
        )
    ],
    "tile_of_less_than_was_expected": [
        (128, "mbarrier.try_wait for parity 0 of an mbarrier in phase 0, which lacks 0 of 1 arrivals and 512 bytes")
    ],
}


@pytest.mark.parametrize("name", DEADLOCKS)
def test_a_deadlock_says_what_barriers_lack(name):
    for mode in MODES:
        first, *lines = error(name, mode).error.splitlines()
        assert first == "kernels::tile_mistake_kernel: deadlock, no thread can run"
        found = [re.match(rf"\s+(\d+) threads: (.*?)(?: at {SOURCE}:\d+)?, first block", text) for text in lines]
        assert sorted((int(match[1]), match[2]) for match in found) == sorted(DEADLOCKS[name])


def test_a_multicast_that_brings_more_than_a_block_expects():
    """What comes too early is counted in advance; what comes too late, after the block is gone."""
    messages = [error("multicast_of_more_than_was_expected", mode).error for mode in MODES]
    early, late = "-1024 bytes (more have come than were expected)", "nobody in it has waited for this copy"
    assert all(early in message or late in message for message in messages)
    assert {late in message for message in messages} == {False, True}


RACES = {
    "no_fence_after_the_init": ("mbarrier_init", "tma_load"),
    "no_barrier_after_the_init": ("mbarrier_arrive", "mbarrier_init"),
    "no_fence_before_the_store": ("tile(0)[threadIdx.x + 64 * i] = 1.0f", "tma_store"),
    "no_wait_before_the_next_tile": ("tile(0)[threadIdx.x] = 2.0f", "tma_store"),
    "result_read_too_early": ("= tiles.floats[threadIdx.x]", "tma_store"),
    "no_wait_for_the_tile": ("= tile(0)[threadIdx.x]", "tma_load"),
    "released_before_it_was_read": ("= tile(0)[threadIdx.x]", "tma_load"),
    "no_barrier_before_a_read": ("load_from_block", "tile(0)[threadIdx.x] = 1.0f"),
}


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("name", RACES)
def test_races_name_both_lines(name, order):
    """Whatever the values were in this run."""
    report = error(name, Mode(order), "thread", (64, 2 if name == "no_barrier_before_a_read" else 1))
    assert report.races, report.text
    for race in report.races:
        texts = [line(place) for place in race.lines]
        assert any(RACES[name][0] in text for text in texts), texts
        assert any(RACES[name][1] in text for text in texts), texts
        assert len(set(race.threads)) == 2


def test_rows_narrower_than_their_swizzle():
    """What a driver describes, but nobody has said where it lies."""
    whole = np.ones((2, 8, 32), np.float32)
    arrays = {"tensor": whole, "how": how(whole, (16, 8, 1), swizzle=128), "at": np.zeros(3, np.int32)}
    arrays |= {"out": np.zeros((8, 16), np.float32), "late": np.zeros(1, np.int32)}
    message = TILES.run("load_tile", arrays).error
    assert "cp.async.bulk.tensor with rows of 64 bytes and a swizzle of 128: the emulator does not know" in message


def test_older_devices_lack_all_of_it():
    ampere = Mode(capability=86)
    lacking = "needs compute capability 9.0, the kernel was compiled for 8.6"
    for name, what in {
        "barrier_never_made": "mbarrier",
        "cluster_wait_alone": "barrier.cluster",
        "tile_without_a_barrier": "cp.async.bulk.tensor",
        "misaligned_store": "cp.async.bulk.tensor from shared memory",
        "addition_from_global_memory": "cp.reduce.async.bulk.tensor",
        "no_fence_before_the_store": "cp.async.bulk.tensor from shared memory",
        "store_in_no_group": "fence.proxy.async",
        "registers_of_half_a_warpgroup": "setmaxnreg",
    }.items():
        assert f"{what} {lacking}" in error(name, ampere, shape=(64, 1)).error


def test_sanitized_builds_give_the_same_messages():
    for name in ("too_many_arrivals", "exit_before_an_arrival", "exit_before_the_tile", "two_tiles_to_one_place"):
        for flavour in ("address", "thread"):
            report = error(name, flavour=flavour)
            assert re.search(MISTAKES[name][0], report.error)
            assert (report.races, report.address) == ([], None)
