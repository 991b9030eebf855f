"""The emulator obeys CUDA's rules: small kernels with one rule each, against NumPy, in every order."""

from __future__ import annotations

import numpy as np
import pytest

from emulator.cases import program
from emulator.program import ORDERS, Mode

SEMANTICS = program("semantics")
MODES = [Mode(order, seed) for order in ORDERS for seed in (1, 2)]
LANES = np.arange(32)


def run(entry, arrays, mode=Mode(), flavour="plain"):  # noqa: B008
    report = SEMANTICS.run(entry, arrays, mode, flavour)
    assert report.text == ""


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


def test_the_same_mode_gives_the_same_run_and_seeds_differ():
    def tickets(seed):
        arrays = {"counters": np.zeros(1, COUNTERS), "tickets": np.zeros(120, np.uint32), "threads": count(40)}
        run("counters", arrays, Mode("random", seed))
        return tuple(arrays["tickets"])

    assert tickets(5) == tickets(5)
    assert len({tickets(seed) for seed in range(10)}) == 10


@pytest.mark.parametrize(
    ("blocks", "threads", "shared", "status"),
    [(1, 1, 0, 0), (1, 1024, 0, 0), (0, 32, 0, 9), (1, 0, 0, 9), (1, 1025, 0, 9), (1, 32, 227 * 1024 + 1, 1)],
)
def test_a_launch_that_a_device_refuses_gives_its_status(blocks, threads, shared, status):
    out = np.array([-1], np.int32)
    run("status", {"blocks": count(blocks), "threads": count(threads), "shared": count(shared), "status": out})
    assert out[0] == status
