"""Every error of the emulator, provoked once: what it says, and that it names kernel, line, block, thread and lane."""

from __future__ import annotations

import re

import numpy as np
import pytest

from emulator import build
from emulator.cases import SEMANTICS
from emulator.program import ORDERS, Mode

SOURCE = "tests/emulator/kernels/mistakes.cuh"
PLACE = re.compile(
    rf"kernels::mistake_kernel: .*, at {SOURCE}:(\d+) in "
    r"block \(0, 0, 0\) thread \((\d+), 0, 0\) \[warp (\d+) lane (\d+)\]$"
)

# What the message says, and the line's text that it names.
MISTAKES = {
    "barrier_after_exit": (r"exited|exits while", "__syncthreads();"),
    "divergent_barrier": (r"divergent barrier: block .* is at " + SOURCE, "__syncthreads();"),
    "lane_not_in_mask": (r"__syncwarp: lane 0 is not in the mask 0xfffffffe", "__syncwarp"),
    "overlapping_masks": (r"mask 0x\w+ overlaps the mask 0x\w+ of lanes that wait in __syncwarp", "__syncwarp"),
    "divergent_vote": (r"in divergent code: other lanes of the mask are in __a?n?y?\w+_sync at " + SOURCE, "_sync"),
    "shuffle_from_outside": (r"__shfl_sync reads lane 20, which is not in the mask 0x0000ffff", "__shfl_sync"),
    "shuffle_with_exited_lane": (r"names lane 0, which has exited|exits while other lanes", "__shfl_sync"),
    "exit_before_shuffle": (r"names lane 31, which has exited|exits while other lanes of its warp wait", "__shfl_sync"),
    "bad_width": (r"__shfl_sync: the width must be a power of two up to 32, not 12", "__shfl_sync"),
    "misaligned_atomic": (r"atomicAdd on 0x\w+, which is not a multiple of 4", "atomicAdd"),
    "no_dynamic_memory": (r"the launch gave the kernel no dynamic shared memory", "shared_bytes_as"),
    "too_much_shared_memory": (r"shared array \(.*Small; T = double.*\) brings .* to 49600 bytes", "Small"),
    "named_barrier_of_few": (r"a barrier is for a multiple of 32 threads, not for 40", "named_barrier_sync"),
    "named_barrier_counts_differ": (
        r"barrier 1 is used with \d+ threads here and with \d+ elsewhere",
        "threadIdx.x < 32",
    ),
    "named_barrier_twice": (r"the thread arrives twice at barrier 2", "named_barrier_arrive"),
    "no_such_barrier": (r"there is no barrier 16, only 0 to 15", "named_barrier_sync"),
    "stops_itself": (r"__trap", "__trap"),
    "polls_for_nothing": (r"the threads of the block poll without end", "__nanosleep"),
    "copy_to_global_memory": (r"cp.async to 0x\w+, which is not in the block's shared memory", "memory.words"),
    "copy_from_shared_memory": (r"cp.async from 0x\w+, which is in shared memory, not in global", "pieces() + 1"),
    "copy_over_the_end": (r"cp.async to 0x\w+, which is not in the block's shared memory", "threadIdx.x + 1"),
    "copy_to_a_misaligned_place": (r"cp.async to 0x\w+, which is not a multiple of 16", "pieces()) + 1"),
    "copy_from_a_misaligned_place": (r"cp.async from 0x\w+, which is not a multiple of 16", "floats + 2"),
    "copy_of_too_many_bytes": (r"cp.async reads 0 to 16 bytes, not 17", "17"),
    "copy_of_fewer_than_no_bytes": (r"cp.async reads 0 to 16 bytes, not -4", "-4"),
    "copy_without_a_wait": (r"exits and has not waited for its copy", "cp_async_16"),
    "copy_in_no_group": (r"exits and has put its copy into no group", "cp_async_16"),
    "matrix_row_misaligned": (r"ldmatrix of a row at 0x\w+, which is not a multiple of 16", "ldmatrix_x2"),
    "matrix_row_in_global_memory": (
        r"ldmatrix of a row at 0x\w+, which is not in the block's shared memory, .*lane 9\]",
        "ldmatrix_x4_trans",
    ),
    "divergent_matrices": (r"ldmatrix in divergent code: other lanes of the mask are in ldmatrix at " + SOURCE, "ldm"),
    "product_after_exit": (r"mma: the mask \w+ names lane 7, which has exited|exits while other lanes", "mma_m16n8k16"),
}


def error(name, mode=Mode(), flavour="plain", threads=64):  # noqa: B008
    arrays = {
        "name": np.frombuffer(name.encode(), np.uint8).copy(),
        "floats": np.zeros(64, np.float32),
        "words": np.zeros(64, np.uint32),
        "threads": np.array([threads], np.uint32),
    }
    return SEMANTICS.run("mistake", arrays, mode, flavour)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("name", MISTAKES)
def test_each_mistake_is_named_with_its_place(name, order):
    pattern, line = MISTAKES[name]
    message = error(name, Mode(order)).error
    assert message is not None
    assert re.search(pattern, message), message
    place = PLACE.match(message)
    assert place, message
    text = (build.ROOT / SOURCE).read_text().splitlines()[int(place[1]) - 1]
    assert line in text
    assert (int(place[2]) // 32, int(place[2]) % 32) == (int(place[3]), int(place[4]))


def test_a_deadlock_says_where_everybody_is():
    message = error("waits_for_nobody").error
    lines = message.splitlines()
    assert lines[0] == "kernels::mistake_kernel: deadlock, no thread can run"
    assert re.match(
        rf"\s+32 threads: barrier.sync at {SOURCE}:\d+, first block \(0, 0, 0\) thread \(0, 0, 0\)", lines[1]
    )
    assert re.match(r"\s+32 threads: exited, first block \(0, 0, 0\) thread \(32, 0, 0\)", lines[2])
    message = error("barrier_and_shuffle").error
    assert re.search(rf"\s31 threads: __shfl_xor_sync at {SOURCE}:\d+", message)
    assert re.search(
        rf"\s33 threads: __syncthreads at {SOURCE}:\d+, first block \(0, 0, 0\) thread \(5, 0, 0\)", message
    )


def test_a_write_behind_a_shared_array():
    message = error("write_behind_an_array").error
    assert re.search(
        r"somebody wrote byte 0 behind the end of shared array \(Tag = .*Values; T = float; int kCount = 8\)", message
    )
    assert message.endswith("in block (0, 0, 0)")
    assert error("write_behind_an_array", flavour="address").address == "use-after-poison"


def test_a_fault_ends_the_launch_and_not_the_process():
    message = error("stack_overflow").error
    assert "the stack has overflowed" in message
    assert message.endswith("in block (0, 0, 0) thread (0, 0, 0) [warp 0 lane 0]")
    assert error("stack_overflow", flavour="address").address == "stack-overflow"


def line_of(place):
    assert place.startswith(SOURCE + ":"), place
    return (build.ROOT / SOURCE).read_text().splitlines()[int(place.removeprefix(SOURCE + ":")) - 1].strip()


def test_a_copy_that_reads_beside_its_source():
    """Where it is started, not where it happens; what is not read may lie anywhere."""
    for order in ("forward", "reverse"):
        report = error("copy_beside_the_source", Mode(order), "address")
        assert report.address == "heap-buffer-overflow"
        assert "0 bytes to the right of 256-byte region" in report.text
        places = re.findall(rf"({SOURCE}:\d+)", report.text)
        assert line_of(places[0]).startswith("halfops::ptx::cp_async_16(pieces() + threadIdx.x, memory.floats + ")


@pytest.mark.parametrize(
    ("name", "lines"),
    [
        ("no_barrier_after_the_copy", ("cp_async_16(pieces()", "pieces()[threadIdx.x ^ 32].x")),
        ("wait_for_too_few_groups", ("cp_async_16(second", "= second[threadIdx.x ^ 32].x")),
        ("no_barrier_before_the_matrices", ("pieces()[threadIdx.x] = ", "ldmatrix_x4(r, pieces()")),
        ("source_written_before_the_wait", ("cp_async_16(pieces()", "memory.floats[threadIdx.x] = 1.0f")),
    ],
)
def test_races_with_instructions_name_both_lines(name, lines):
    for order in ORDERS:
        report = error(name, Mode(order), "thread")
        assert report.races, report.text
        for race in report.races:
            found = sorted(line_of(place) for place in race.lines)
            assert all(any(line in text for text in found) for line in lines), found
            assert len(set(race.threads)) == 2


def test_an_instruction_of_a_warp_needs_a_whole_one():
    assert "mma needs a whole warp, this one has 8 lanes" in error("product_of_f16", threads=40).error
    assert error("product_of_f16").text == ""


def test_older_devices_lack_instructions():
    turing = Mode(capability=75)
    lacking = "needs compute capability 8.0, the kernel was compiled for 7.5"
    for older in (turing, Mode(capability=86, compiled_for=75)):
        assert f"mma of bf16 {lacking}" in error("product_of_bf16", older).error
        assert f"cp.async {lacking}" in error("copy_in_no_group", older).error
        assert error("product_of_f16", older).text == ""
    assert "which is not in the block's shared" in error("address_that_only_some_devices_ignore", turing).error
    assert error("address_that_only_some_devices_ignore").text == ""


def test_sanitized_builds_give_the_same_messages():
    for name in ("divergent_barrier", "shuffle_from_outside"):
        for flavour in ("address", "thread"):
            report = error(name, flavour=flavour)
            assert report.error == error(name).error
            assert (report.races, report.address) == ([], None)


def test_the_next_launch_is_not_disturbed_by_a_failed_one():
    before = error("stops_itself").error
    for name in MISTAKES:
        error(name)
    assert error("stops_itself").error == before
