"""The emulator obeys CUDA's rules: small kernels with one rule each, against NumPy, in every order."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from golden import expected
from golden.cases import CASES as GOLDEN
from golden.cases import bits

from emulator.cases import SEMANTICS
from emulator.program import COMPLETIONS, MOST_SHARED, ORDERS, Counted, Mode, give_back_stacks

MODES = [Mode(order, seed) for order in ORDERS for seed in (1, 2)]
LANES = np.arange(32)


def run(entry, arrays, mode=Mode(), flavour="plain"):  # noqa: B008
    report = SEMANTICS.run(entry, arrays, mode, flavour)
    assert report.text == ""
    return report.counted


def count(value):
    return np.array([value], np.uint32)


def sources(lane, width):
    """For each shuffle the lane that each lane reads, from the sentences of the CUDA C++ Programming Guide."""
    first, inside = LANES - LANES % width, LANES % width
    return [
        first + lane % width,
        np.where(inside >= lane, LANES - lane, LANES),
        np.where(inside + lane < width, LANES + lane, LANES),
        np.where((LANES ^ lane) < first + width, LANES ^ lane, LANES),
    ]


@pytest.mark.parametrize("width", [1, 2, 4, 8, 16, 32])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_shuffles(width, dtype):
    values = np.random.default_rng(width).standard_normal(32).astype(dtype)
    for lane in range(32):
        out = np.zeros((4, 32), dtype)
        arrays = {"in": values, "out": out, "lane": np.array([lane], np.int32), "width": np.array([width], np.int32)}
        run(f"shuffles_{np.dtype(dtype).name}", arrays, MODES[lane % len(MODES)])
        assert np.array_equal(out, [values[source] for source in sources(lane, width)])


@pytest.mark.parametrize("mode", MODES, ids=Mode.short)
@pytest.mark.parametrize("threads", [1, 31, 32, 64, 70])
def test_votes(threads, mode):
    values = np.random.default_rng(threads).integers(-3, 4, threads).astype(np.int32)
    out = np.zeros((8, threads), np.uint32)
    run("votes", {"in": values, "out": out, "threads": count(threads)}, mode)
    for begin in range(0, threads, 32):
        warp = values[begin : begin + 32]
        # In a block's last warp "all lanes" are those that there are.
        bits = 1 << np.arange(len(warp), dtype=np.uint64)
        expected = [
            np.full(len(warp), bits[warp > 0].sum()),
            np.full(len(warp), (warp > 0).any()),
            np.full(len(warp), (warp > 0).all()),
            [bits[warp == value].sum() for value in warp],
            np.full(len(warp), warp.sum()),
            np.full(len(warp), warp.min()),
            np.full(len(warp), warp.max()),
            np.full(len(warp), np.bitwise_xor.reduce(warp)),
        ]
        assert np.array_equal(out[:, begin : begin + 32], np.array(expected).astype(np.int64).astype(np.uint32))


@pytest.mark.parametrize("flavour", ["plain", "address", "thread"])
@pytest.mark.parametrize("mode", MODES, ids=Mode.short)
def test_halves_of_a_warp_may_part(mode, flavour):
    values = np.random.default_rng(0).integers(-3, 4, 64).astype(np.int32)
    out = np.zeros(64, np.uint32)
    run("half_votes", {"in": values, "out": out, "threads": count(64)}, mode, flavour)
    bits = 1 << np.arange(32, dtype=np.uint64)
    for begin in (0, 32):
        low, high = values[begin : begin + 16] > 0, values[begin + 16 : begin + 32] < 0
        assert (out[begin : begin + 16] == bits[:16][low].sum()).all()
        assert (out[begin + 16 : begin + 32] == bits[16:][high].sum()).all()


@pytest.mark.parametrize("mode", MODES, ids=Mode.short)
@pytest.mark.parametrize(
    "values", [[1] * 70, [1] * 69 + [0], [0] * 70, [0] * 69 + [5]], ids=["all", "all but one", "none", "one"]
)
def test_votes_of_a_block(values, mode):
    values = np.array(values, np.int32)
    out = np.full((3, 70), -1, np.int32)
    run("block_votes", {"in": values, "out": out, "threads": count(70)}, mode)
    positive = values > 0
    assert np.array_equal(out, [[vote] * 70 for vote in (positive.any(), positive.all(), positive.sum())])


COUNTERS = np.dtype(
    [(name, np.uint32) for name in ("added", "wrapped", "bits", "owner")]
    + [("smallest", np.int32), ("largest", np.int32), ("total", np.float32), ("", np.uint32), ("wide", np.uint64)]
)


@pytest.mark.parametrize("flavour", ["plain", "address", "thread"])
def test_atomics(flavour):
    for mode in MODES if flavour == "plain" else [Mode("random", 3)]:
        counters = np.zeros(1, COUNTERS)
        tickets = np.full(3 * 40, -1, np.int32)
        arrays = {"counters": counters, "tickets": tickets, "threads": count(40)}
        run("counters", arrays, mode, flavour)
        assert sorted(tickets) == list(range(120))
        found = counters[0]
        assert (found["added"], found["wrapped"], found["bits"]) == (120, 0, 0xFFFFFFFF)
        assert (found["smallest"], found["largest"], found["total"]) == (100 - 119, 119, 60)
        assert found["wide"] == 120 << 32
        # Whoever came first keeps it.
        assert 1 <= found["owner"] <= 120
        assert mode.order != "forward" or (found["owner"] == 1 and list(tickets) == list(range(120)))


@pytest.mark.parametrize("mode", MODES, ids=Mode.short)
def test_the_last_block_sees_what_the_others_wrote(mode):
    values = np.arange(1, 8, dtype=np.float32)
    arrays = {"in": values, "partial": np.zeros(7, np.float32), "arrived": count(0), "out": np.zeros(1, np.float32)}
    run("last_block", arrays, mode)
    assert arrays["out"][0] == values.sum()


@pytest.mark.parametrize("mode", MODES, ids=Mode.short)
def test_threads_that_poll_let_the_others_go_on(mode):
    out = np.zeros(40, np.uint32)
    run("turns", {"turn": count(0), "out": out, "threads": count(40)}, mode)
    assert list(out) == list(range(39, -1, -1))


@pytest.mark.skipif(sys.platform != "linux", reason="Linux lists a process's mappings")
def test_stacks_are_given_back_and_taken_anew():
    def mappings():
        return len(Path("/proc/self/maps").read_text().splitlines())

    def votes():
        out = np.zeros((3, 1000), np.int32)
        run("block_votes", {"in": np.arange(1000, dtype=np.int32), "out": out, "threads": count(1000)})
        return out.tolist()

    first, before = votes(), mappings()
    give_back_stacks()
    assert mappings() < before - 1000
    assert votes() == first


def test_the_same_mode_gives_the_same_run_and_seeds_differ():
    def tickets(seed):
        arrays = {"counters": np.zeros(1, COUNTERS), "tickets": np.zeros(120, np.uint32), "threads": count(40)}
        run("counters", arrays, Mode("random", seed))
        return tuple(arrays["tickets"])

    assert tickets(5) == tickets(5)
    assert len({tickets(seed) for seed in range(10)}) == 10


# --- instructions ---------------------------------------------------------------------------------------------------
# Their values are those of tests/golden, which has a case for each: here are sanitizers, moments and older devices.

INSTRUCTIONS = {case.entry: case for case in GOLDEN if case.file in ("matrices", "copies")}


def check_golden(entry, mode, flavour="plain"):
    case = INSTRUCTIONS[entry]
    arrays = case.arrays()
    wanted = case.expected({key: array.copy() for key, array in arrays.items()})
    counted = run(entry, arrays, mode, flavour)
    for key, kind in case.results.items():
        assert np.array_equal(bits(arrays[key], kind), bits(wanted[key], kind))
    return arrays, counted


@pytest.mark.parametrize("entry", ["ldmatrix_x2", "ldmatrix_x4_trans", "mma_bf16", "copies", "groups"])
def test_right_instructions_are_left_alone_by_sanitizers(entry):
    check_golden(entry, Mode(), "address")
    check_golden(entry, Mode("random", 2), "thread")


@pytest.mark.parametrize("completion", COMPLETIONS)
@pytest.mark.parametrize("entry", ["copies", "groups"])
def test_copies_may_happen_at_any_moment_before_the_wait(entry, completion):
    for order in ORDERS:
        for poison in (True, False):
            check_golden(entry, Mode(order, poison=poison, completion=completion))


def early(barriers, mode):
    """Of 64 threads those whose copy was there before they waited for it."""
    given = np.arange(64 * 4, dtype=np.uint32).reshape(64, 4)
    out = np.zeros_like(given)
    run("early", {"in": given, "out": out, "barriers": np.array([barriers], np.int32)}, mode)
    there = (out == given).all(1)
    assert (out[~there] == 0xFFFFFFFF).all()
    return there


def test_copies_happen_when_the_mode_says():
    assert early(0, Mode(completion="eager")).all()
    assert not early(3, Mode(completion="lazy")).any()
    assert not early(3, Mode()).any()
    assert early(0, Mode("reverse")).all()
    soon, late = (sum(early(barriers, Mode("random", seed)).sum() for seed in range(10)) for barriers in (1, 64))
    assert 0 < soon < late < 640


@pytest.mark.parametrize("kind", ["f16", "bf16"])
@pytest.mark.parametrize("steps", [1, 2])
def test_products_round_once_a_step(kind, steps):
    entry = f"mma_{kind}{'_pair' if steps == 2 else ''}"
    random = np.random.default_rng(steps)
    shape, ldexp = INSTRUCTIONS[entry].arrays()["d"].shape[:2], np.ldexp(np.float32(1), random.integers(-6, 7, 4))
    halves = {"a": random.standard_normal((*shape, 8)), "b": random.standard_normal((*shape, 4))}
    given = {
        key: (values.astype(np.float16) if kind == "f16" else values.astype(np.float32).view(np.uint16)[..., 1::2])
        for key, values in halves.items()
    }
    arrays = {key: np.ascontiguousarray(values).view(np.uint32) for key, values in given.items()}
    arrays["d"] = (random.standard_normal((*shape, 4)) * ldexp).astype(np.float32)
    wanted = getattr(expected, entry)({key: array.copy() for key, array in arrays.items()})["d"]
    run(entry, arrays, Mode("random", 1))
    assert np.array_equal(arrays["d"], wanted)
    assert len(np.unique(arrays["d"])) > 1000


def test_on_sm_75_a_product_is_a_pair():
    whole, pair = (INSTRUCTIONS[entry].arrays() for entry in ("mma_f16", "mma_f16_pair"))
    for arrays in (whole, pair):
        arrays["d"] += np.float32(2**24 + 1)  # where the next float is 2 away, so that each rounding shows
    run("mma_f16", whole, Mode(capability=75))
    run("mma_f16_pair", pair)
    assert np.array_equal(whole["d"], pair["d"])
    once = INSTRUCTIONS["mma_f16"].arrays()
    once["d"] += np.float32(2**24 + 1)
    run("mma_f16", once)
    assert not np.array_equal(once["d"], pair["d"])


def further_wavefronts(chunks):
    """Of lanes that access these 16-byte chunks, eight lanes at a time: rows of the fullest bank but one."""
    return sum(np.bincount(np.unique(phase) % 8).max() - 1 for phase in np.asarray(chunks).reshape(-1, 8))


@pytest.mark.parametrize(("entry", "matrices"), [("ldmatrix_x4", 4), ("ldmatrix_x2_trans", 2)])
def test_conflicts_of_ldmatrix_are_counted(entry, matrices):
    arrays, counted = check_golden(entry, Mode("random", 1))
    rows = arrays["row"][:, : 8 * matrices]
    assert counted == Counted(matrices=matrices * len(rows), matrix_conflicts=further_wavefronts(rows))
    assert counted.conflicts > 0


def stride(stride, limit=227 << 10, mode=Mode()):  # noqa: B008
    """What the runtime says to the limit, the blocks that fit and the launch, and what has been counted."""
    given = np.arange(32 * 4, dtype=np.uint32).reshape(32, 4)
    said, out = np.full(3, -1, np.int32), np.zeros_like(given)
    numbers = {"stride": np.array([stride], np.int32), "limit": np.array([limit], np.int32)}
    counted = run("stride", {"in": given, "out": out, "said": said, **numbers}, mode)
    assert np.array_equal(out, given if said[2] == 0 else 0 * given)
    return said.tolist(), counted


@pytest.mark.parametrize("step", [1, 2, 3, 8])
def test_conflicts_of_copies_are_counted(step):
    _, counted = stride(step, mode=Mode("random", 1))
    wanted = further_wavefronts(np.arange(32) * step)
    assert (counted.copies, counted.copy_conflicts, counted.conflicts) == (32, wanted, wanted)
    assert (wanted > 0) == (step % 2 == 0)


def test_more_than_48_kib_of_shared_memory_have_to_be_asked_for():
    """Status 1 is cudaErrorInvalidValue. A stride is 512 bytes of shared memory."""
    assert stride(96, 48 << 10)[0] == [0, 2, 0]
    assert stride(97, 48 << 10)[0] == [0, 0, 1]
    assert stride(97, 97 * 512)[0] == [0, 2, 0]
    assert stride(454)[0] == [0, 1, 0]  # all of it
    assert stride(455)[0] == [0, 0, 1]
    assert stride(1, (227 << 10) + 1)[0] == [1, 2, 0]
    ampere = Mode(capability=86)
    assert stride(198, 99 << 10, ampere)[0] == [0, 1, 0]
    assert stride(1, (99 << 10) + 1, ampere)[0] == [1, 2, 0]


@pytest.mark.parametrize("capability", MOST_SHARED)
def test_a_launcher_sees_the_device_of_the_mode(capability):
    found = np.zeros(6, np.int32)
    run("device", {"found": found}, Mode(capability=capability, multiprocessors=5))
    most = MOST_SHARED[capability]
    assert found.tolist() == [capability // 10, capability % 10, 48 << 10, most, most + 1024, 5]


@pytest.mark.parametrize(
    ("blocks", "threads", "shared", "status"),
    [
        (1, 1, 48 * 1024, 0),
        (1, 1024, 0, 0),
        (0, 32, 0, 9),
        (1, 0, 0, 9),
        (1, 1025, 0, 9),
        (1, 32, 48 * 1024 + 1, 1),
    ],
)
def test_a_launch_that_a_device_refuses_gives_its_status(blocks, threads, shared, status):
    out = np.array([-1], np.int32)
    run("status", {"blocks": count(blocks), "threads": count(threads), "shared": count(shared), "status": out})
    assert out[0] == status
