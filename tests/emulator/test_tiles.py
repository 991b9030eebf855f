"""The copy engine, its barriers and clusters obey their rules: small kernels against NumPy, in every order."""

from __future__ import annotations

import numpy as np
import pytest

from emulator.cases import everywhere_case, ring_case
from emulator.memory import misaligned
from emulator.program import COMPLETIONS, ORDERS, Mode
from emulator.tiles import BF16, F16, F32, TILES, box_of, how, swizzled

MODES = [Mode(order, seed, completion=completion) for order in ORDERS for seed, completion in enumerate(COMPLETIONS)]
FLAVOURS = ("plain", "address", "thread")


def named(mode):
    return f"{mode.short()}-{mode.completion}"


def run(entry, arrays, mode=Mode(), flavour="plain"):  # noqa: B008
    report = TILES.run(entry, arrays, mode, flavour)
    assert report.text == ""


def tensor(width, height, depth, dtype=np.float32, pitch=16):
    """Whole numbers, exact and added exactly in every format, in rows of a multiple of `pitch` bytes."""
    row = -(-width * np.dtype(dtype).itemsize // pitch) * pitch // np.dtype(dtype).itemsize
    return (np.arange(depth * height * row) % 1021 + 1).reshape(depth, height, row).astype(dtype)


# --- tiles ----------------------------------------------------------------------------------------------------------

# Width, height and depth of the tensor; the box, and where.
PLACES = {
    "inside": ((64, 24, 3), (32, 8, 1), (32, 16, 2)),
    "all": ((32, 8, 2), (32, 8, 2), (0, 0, 0)),
    "over the right": ((37, 9, 2), (32, 4, 1), (16, 3, 1)),
    "over the end": ((37, 9, 2), (32, 4, 3), (0, 7, 1)),
    "before the beginning": ((37, 9, 2), (32, 8, 2), (-5, -3, -1)),
    "around": ((9, 3, 1), (32, 8, 3), (-7, -2, -1)),
    "outside": ((37, 9, 2), (32, 8, 1), (37, 0, 0)),
    "far outside": ((37, 9, 2), (32, 8, 1), (-(2**31), 2**31 - 1, 5)),
}
# The type, how many of its elements stand for one of the above, the swizzle.
LAYOUTS = {
    "f32": (np.float32, F32, 1, 0),
    "f16": (np.float16, F16, 2, 0),
    "swizzled": (np.float32, F32, 1, 128),
    "swizzled f16": (np.float16, F16, 2, 128),
    "half swizzled f16": (np.float16, F16, 1, 64),
}


def described(place, layout):
    """The whole array, the tensor in it, the box as it is wanted, and the arrays that say so."""
    (width, height, depth), (columns, *rows), (first, *others) = PLACES[place]
    dtype, code, more, swizzle = LAYOUTS[layout]
    box, at = (columns * more, *rows), (max(first * more, -(2**31)), *others)
    whole = tensor(width * more, height, depth, dtype)
    view = whole[:, :, : width * more]
    return whole, view, box, at, {"how": how(view, box, code, swizzle), "at": np.array(at, np.int32)}


def load(place, layout, late, mode, flavour="plain"):
    whole, view, box, at, arrays = described(place, layout)
    wanted = box_of(view, at, box)
    out = np.full(wanted.nbytes, 0xEE, np.uint8)
    run("load_tile", {"tensor": whole, "out": out, "late": np.array([late], np.int32), **arrays}, mode, flavour)
    swizzle = LAYOUTS[layout][3]
    expected = swizzled(wanted, swizzle) if swizzle else wanted
    assert out.tobytes() == expected.tobytes()


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("place", PLACES)
def test_a_tile_that_is_loaded(place, layout):
    """Zeros for what lies outside, which count: `late` is a count that goes below zero and comes back."""
    for mode in MODES:
        for late in (0, 1):
            load(place, layout, late, mode)


@pytest.mark.parametrize("flavour", FLAVOURS[1:])
@pytest.mark.parametrize("place", PLACES)
def test_sanitizers_leave_loads_alone(place, flavour):
    load(place, "swizzled", place == "all", Mode("random", 2), flavour)


def test_wide_boxes_are_rows_one_after_the_other():
    whole = tensor(300, 3, 1)
    box, at = (256, 2, 1), (60, 1, 0)
    out = np.zeros((2, 256), np.float32)
    arrays = {"how": how(whole, box), "at": np.array(at, np.int32), "late": np.zeros(1, np.int32)}
    run("load_tile", {"tensor": whole, "out": out, **arrays})
    assert np.array_equal(out, box_of(whole, at, box)[0])


def store(place, layout, times, adds, mode, flavour="plain"):
    whole, view, box, at, arrays = described(place, layout)
    dtype, _, _, swizzle = LAYOUTS[layout]
    given = np.random.default_rng(times).integers(-99, 100, (times, *box[::-1])).astype(dtype)
    expected = whole.copy()
    inside = box_of(np.arange(1, view.size + 1).reshape(view.shape), at, box)
    places = np.unravel_index(inside[inside > 0] - 1, view.shape)
    for tile in given:
        expected[places] = (expected[places] if adds else 0) + tile[inside > 0]
    data = np.concatenate([swizzled(tile, swizzle) if swizzle else tile for tile in given])
    numbers = {"times": np.array([times], np.int32), "adds": np.array([adds], np.int32)}
    run("store_tile", {"tensor": whole, "in": np.ascontiguousarray(data), **numbers, **arrays}, mode, flavour)
    assert np.array_equal(whole, expected)


@pytest.mark.parametrize("adds", [False, True], ids=["stored", "added"])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("place", PLACES)
def test_a_tile_that_is_written(place, layout, adds):
    """What lies outside is dropped, and what lies between the rows is left alone."""
    for mode in MODES:
        store(place, layout, 3, adds, mode)


@pytest.mark.parametrize("flavour", FLAVOURS[1:])
@pytest.mark.parametrize("adds", [False, True], ids=["stored", "added"])
def test_sanitizers_leave_stores_alone(adds, flavour):
    for place in ("inside", "around"):
        store(place, "swizzled", 3, adds, Mode("random", 2), flavour)


def rounded(values, digits, smallest):
    """To nearest with so many binary digits, ties to even, in multiples of `smallest`."""
    unit = np.maximum(np.ldexp(1.0, np.frexp(values)[1] - digits), smallest)
    return np.rint(values / unit) * unit


@pytest.mark.parametrize("kind", ["f16", "bf16"])
def test_additions_of_halves_round_once(kind):
    """Sums of 16-bit numbers are exact in double, however different in size; subnormals are kept."""
    digits, smallest = (11, 2.0**-24) if kind == "f16" else (8, 2.0**-133)
    random = np.random.default_rng(5)
    values = random.standard_normal((2, 1, 64, 64)) * np.exp2(random.integers(-12, 3, (2, 1, 64, 64)))
    values[:, :, :8] *= smallest * 2**10
    old, new = rounded(values, digits, smallest)
    sums = rounded(old + new, digits, smallest)

    def bits(numbers):
        if kind == "f16":
            return numbers.astype(np.float16).view(np.uint16)
        return numbers.astype(np.float32).view(np.uint16)[..., 1::2].copy()

    tensor = bits(old)
    arrays = {"how": how(tensor, (64, 64, 1), F16 if kind == "f16" else BF16), "at": np.zeros(3, np.int32)}
    numbers = {"times": np.array([1], np.int32), "adds": np.array([1], np.int32)}
    run("store_tile", {"tensor": tensor, "in": bits(new), **numbers, **arrays})
    assert np.array_equal(tensor, bits(sums))
    assert (sums != old + new).any()


DESCRIPTIONS = {
    "right": ({}, 0),
    "most": ({"extent": (2**32, 2**32, 2**32), "pitch": (2**40 - 16, 0), "box": (256, 256, 256)}, 0),
    "no width": ({"extent": (0, 8, 1)}, 1),
    "too deep": ({"extent": (32, 8, 2**32 + 1)}, 1),
    "pitch of 8": ({"pitch": (136, 1024)}, 1),
    "pitch of planes of 8": ({"pitch": (128, 1032)}, 1),
    "negative pitch": ({"pitch": (-128, 1024)}, 1),
    "pitch too large": ({"pitch": (128, 2**40)}, 1),
    "no box": ({"box": (32, 0, 1)}, 1),
    "box too wide": ({"box": (260, 1, 1)}, 1),
    "box too deep": ({"box": (32, 1, 257)}, 1),
    "box of 8 bytes": ({"box": (2, 1, 1)}, 1),
    "box wider than the swizzle": ({"box": (36, 1, 1), "swizzle": 128}, 1),
    "box wider than the smaller swizzle": ({"box": (20, 1, 1), "swizzle": 64}, 1),
    "box as wide as the swizzle": ({"box": (32, 1, 1), "swizzle": 128}, 0),
    "misaligned": ({"offset": 2}, 1),
}


@pytest.mark.parametrize("name", DESCRIPTIONS)
def test_descriptions_that_the_driver_refuses(name):
    """With status 1, cudaErrorInvalidValue."""
    other, status = DESCRIPTIONS[name]
    wanted = {"extent": (32, 8, 1), "pitch": (128, 1024), "box": (32, 8, 1), "swizzle": 0, "offset": 0} | other
    numbers = [*wanted["extent"], *wanted["pitch"], *wanted["box"], F32, wanted["swizzle"]]
    said = np.array([-1], np.int32)
    whole = misaligned(np.zeros(256, np.float32), wanted["offset"])
    run("tensor_map", {"tensor": whole, "how": np.array(numbers, np.int64), "status": said})
    assert said[0] == status


# --- barriers and clusters ------------------------------------------------------------------------------------------


def check_phases(phases, mode, flavour="plain"):
    out = np.zeros(96, np.int32)
    run("phases", {"phases": np.array([phases], np.int32), "out": out}, mode, flavour)
    assert (out == phases * (phases + 1)).all()


@pytest.mark.parametrize("mode", MODES, ids=named)
def test_phases_of_a_barrier(mode):
    for phases in (1, 2, 7):
        check_phases(phases, mode)


@pytest.mark.parametrize("mode", MODES, ids=named)
@pytest.mark.parametrize(("cluster", "clusters"), [(1, 1), (1, 3), (2, 1), (2, 3), (8, 1)])
def test_blocks_of_a_cluster_read_each_other(cluster, clusters, mode):
    check_case(everywhere_case(cluster, clusters), mode)


@pytest.mark.parametrize(
    ("blocks", "cluster", "capability", "status"),
    [(3, 2, 90, 912), (2, 0, 90, 912), (9, 9, 90, 912), (2, 4, 90, 912), (0, 2, 90, 9), (2, 2, 86, 801)],
)
def test_clusters_that_a_device_refuses(blocks, cluster, capability, status):
    """912 is cudaErrorInvalidClusterSize, 801 cudaErrorNotSupported."""
    said = np.array([-1], np.int32)
    arrays = {"in": np.zeros((blocks, 64), np.float32), "out": np.zeros((blocks, 64), np.float32)}
    run("everywhere", arrays | {"cluster": np.array([cluster], np.uint32), "status": said}, Mode(capability=capability))
    assert said[0] == status


def check_case(case, mode, flavour="plain"):
    word, report = case.outcome(mode, flavour)
    assert word == "", report.text


@pytest.mark.parametrize("mode", MODES, ids=named)
@pytest.mark.parametrize("cluster", [1, 2, 4])
def test_a_ring_of_tiles(cluster, mode):
    """Loads of one block or multicast to all, while others wait for them and release them across the cluster."""
    for tiles in (1, 2, 5):
        check_case(ring_case(cluster, 2, tiles), mode)


@pytest.mark.parametrize("flavour", FLAVOURS[1:])
def test_sanitizers_leave_phases_and_one_block_alone(flavour):
    for mode in (Mode(), Mode("random", 2), Mode("priority", 3)):
        check_phases(3, mode, flavour)
        check_case(ring_case(1, 2, 5), mode, flavour)


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_warpgroups_with_roles(flavour):
    out = np.zeros(256, np.int32)
    run("roles", {"out": out}, Mode("random", 1), flavour)
    assert np.array_equal(out, np.arange(256)[::-1])
