"""What csrc/linear decides on the host, and where it puts things in shared memory: properties, at every size."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
import pytest

from emulator.build import ROOT
from emulator.gemm import ROWS, TABLE
from emulator.program import Arrays, program

PLAN = program("linear_plan")


def call(entry: str, arrays: Arrays, *shape: int) -> np.ndarray:
    results = np.full(shape, -1, np.int64)
    report = PLAN.run(entry, {**arrays, "results": results})
    assert report.text == ""
    return results


# --- shares and pieces ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Schedule:
    """The fields of linear::Schedule."""

    tiles_m: int
    tiles_n: int
    batch: int
    steps: int
    blocks: int
    group: int = 1

    @property
    def tiles(self) -> int:
        return self.tiles_m * self.tiles_n * self.batch

    @property
    def total(self) -> int:
        return self.tiles * self.steps

    def arrays(self, indices) -> dict[str, np.ndarray]:
        fields = [self.tiles_m, self.tiles_n, self.batch, self.steps, self.blocks, self.group]
        return {"schedule": np.array(fields, np.int64), "indices": np.array(indices, np.int64)}

    def share_begin(self, blocks) -> np.ndarray:
        return call("shares", self.arrays(blocks), len(blocks))

    def block_of(self, steps) -> np.ndarray:
        return call("owners", self.arrays(steps), len(steps))

    def pieces(self) -> np.ndarray:
        """Block, tile, first and last step, slot, whole or not."""
        count = np.zeros(1, np.int64)
        most = self.blocks + self.tiles
        rows = call("pieces", {**self.arrays(range(self.blocks)), "count": count}, most, 6)
        return rows[: count[0]]


SMALL = [(1, 1), (1, 7), (2, 1), (3, 5), (5, 3), (7, 11), (12, 4), (13, 1), (1, 64), (8, 8)]  # tiles, steps


@pytest.mark.parametrize(("tiles", "steps"), SMALL)
def test_shares_cut_all_steps_into_parts_that_differ_by_one_at_most(tiles, steps):
    """For every number of blocks, more than there are steps too."""
    for blocks in range(1, tiles * steps + 4):
        schedule = Schedule(tiles, 1, 1, steps, blocks)
        begins = schedule.share_begin(range(blocks + 1))
        assert begins[0] == 0
        assert begins[-1] == schedule.total
        lengths = np.diff(begins)
        assert lengths.min() >= schedule.total // blocks
        assert lengths.max() <= -(-schedule.total // blocks)
        owners = schedule.block_of(range(schedule.total))
        assert np.array_equal(owners, np.repeat(np.arange(blocks), lengths))


@pytest.mark.parametrize(("tiles", "steps"), SMALL)
def test_pieces_of_a_tile_follow_one_another(tiles, steps):
    for blocks in range(1, tiles * steps + 1):
        schedule = Schedule(tiles, 1, 1, steps, blocks)
        pieces = schedule.pieces()
        begins = schedule.share_begin(range(blocks + 1))
        place = 0
        for block, tile, first, last, slot, whole in pieces.tolist():
            # One after the other through all steps of all tiles, none of them empty.
            assert tile * steps + first == place
            assert first < last <= steps
            assert begins[block] <= place < begins[block + 1]
            place += last - first
            assert whole == (first == 0 and last == steps)
            # Where the second kernel looks for it.
            assert slot == (0 if begins[block] >= tile * steps else 1) or whole
        assert place == schedule.total
        parts = [(block, slot) for block, _, _, _, slot, whole in pieces.tolist() if not whole]
        assert len(parts) == len(set(parts))
        assert {slot for _, slot in parts} <= {0, 1}


# Tiles, steps, blocks: beyond 2^31, 2^40 and 2^61 steps in all.
LARGE = [
    (65537, 65539, 396),
    (2**20 + 7, 2**21 + 3, 132),
    (2**20 + 7, 2**21 + 3, 2**20 + 7),
    (2**20 + 7, 2**21 + 3, 2**20 + 5),
    (2**31 - 1, 2**10, 2**31 - 1),
    (2**31 - 1, 2**10, 2**31 - 3),
    (2**31 - 1, 2**30 - 1, 396),
    (3, 2**31 - 1, 2**31 - 1),
]


@pytest.mark.parametrize(("tiles", "steps", "blocks"), LARGE)
def test_shares_of_many_steps(tiles, steps, blocks):
    """The same where products of these numbers do not fit 32 bits, or 64, at samples of the blocks."""
    schedule = Schedule(tiles, 1, 1, steps, blocks)
    random = np.random.default_rng(blocks)
    sample = {0, 1, blocks // 2, blocks - 2, blocks - 1, *random.integers(0, blocks, 20).tolist()}
    sample = sorted(block for block in sample if 0 <= block < blocks)
    begins, ends = schedule.share_begin(sample), schedule.share_begin([block + 1 for block in sample])
    for begin, end in zip(begins.tolist(), ends.tolist(), strict=True):
        assert 0 <= begin < end <= schedule.total
        assert schedule.total // blocks <= end - begin <= -(-schedule.total // blocks)
    assert schedule.share_begin([0, blocks]).tolist() == [0, schedule.total]
    assert schedule.block_of(begins).tolist() == sample
    assert schedule.block_of(ends - 1).tolist() == sample


# --- places of tiles --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("tiles_m", "tiles_n", "batch"), [(1, 1, 1), (5, 3, 1), (7, 4, 3), (16, 9, 2), (33, 2, 1)])
def test_every_tile_has_one_place(tiles_m, tiles_n, batch):
    every = {(m, n, i) for m in range(tiles_m) for n in range(tiles_n) for i in range(batch)}
    for group in (1, 2, 3, 4, 8, 16, 32, 64):
        schedule = Schedule(tiles_m, tiles_n, batch, 1, 1, group)
        places = call("places", schedule.arrays(range(schedule.tiles)), schedule.tiles, 3).tolist()
        assert {tuple(place) for place in places} == every
        # A group's rows are walked through column by column: no tile of another group in between.
        groups = [(i, m // group) for m, _, i in places]
        assert groups == sorted(groups)


def bytes_read(tiles_m, tiles_n, at_work, m, n, group):
    """Rows and columns of operands that the first `at_work` tiles need."""
    schedule = Schedule(tiles_m, tiles_n, 1, 1, 1, group)
    tiles = range(min(at_work, schedule.tiles))
    places = call("places", schedule.arrays(tiles), len(tiles), 3)
    return len(np.unique(places[:, 0])) * m + len(np.unique(places[:, 1])) * n


def test_groups():
    """Within the tiles' rows; and with no power of two the tiles at work would read less."""
    problems = [
        (tiles_m, tiles_n, at_work, m, n)
        for tiles_m, tiles_n in itertools.product((1, 3, 17, 100), repeat=2)
        for at_work, m, n in ((1, 128, 256), (80, 64, 64), (132, 128, 256), (264, 128, 128), (264, 16, 128))
    ]
    groups = call("groups", {"problems": np.array(problems, np.int64)}, len(problems)).tolist()
    for problem, group in zip(problems, groups, strict=True):
        assert 1 <= group <= min(32, problem[0])
        powers = [2**i for i in range(6) if 2**i <= problem[0]]
        assert group in powers
        assert bytes_read(*problem, group) == min(bytes_read(*problem, other) for other in powers)


# --- the choice of a row and of a number of blocks --------------------------------------------------------------------

# Multiprocessors, bytes of shared memory that a block may have, compute capability.
DEVICES = {
    "T4": (40, 64 << 10, 7),
    "A100": (108, 163 << 10, 8),
    "RTX 3090": (82, 99 << 10, 8),
    "H200": (132, 227 << 10, 9),  # with code for sm_80 alone
    "Hopper": (132, 227 << 10, 9),  # with code for sm_90a
}
BULK = TABLE[len(ROWS) :]
ALONG_K, ALONG_MN = 0, 1  # what lines of an operand run along


@dataclass(frozen=True)
class Choice:
    row: str
    blocks: int
    tiles: int
    steps: int  # of a tile
    divisions: int  # that the choice took
    clocks: int  # that the model gives it
    serve: tuple[str, ...]  # the rows that could have done it


def choices(problems) -> list[Choice]:
    """Of (device, m, n, k) and more of linear::Shape."""
    numbers = np.array([shape_of(*problem) for problem in problems], np.int64)
    found = call("selections", {"problems": numbers}, len(problems), 6 + len(TABLE)).tolist()
    assert all(row[0] >= 0 for row in found)
    return [Choice(TABLE[r[0]], *r[1:6], tuple(itertools.compress(TABLE, r[6:]))) for r in found]


def shape_of(device, m, n, k, products, batch, major_a, major_b, aligned, gated=False) -> tuple[int, ...]:
    bulk = device == "Hopper" and k > 0 and max(m, n, k) < 2**31
    packed = 0 if aligned else 2 * batch * k * (m + n)
    return (m, n, k, products, batch, major_a, major_b, aligned, bulk, gated, packed, *DEVICES[device])


def choice(device, m, n, k, *, products=1, batch=1, majors=(ALONG_K, ALONG_K), aligned=True, gated=False) -> Choice:
    return choices([(device, m, n, k, products, batch, *majors, aligned, gated)])[0]


def policies() -> dict[str, dict[str, int]]:
    names = ("m", "n", "k", "stages", "warps_m", "warps_n", "copy", "blocks_per_multiprocessor", "shared_bytes")
    table = call("policies", {}, len(TABLE), len(names)).tolist()
    return {row: dict(zip(names, numbers, strict=True)) for row, numbers in zip(TABLE, table, strict=True)}


@pytest.mark.parametrize("device", DEVICES)
def test_every_problem_gets_a_row_that_serves_it(device):
    """Sizes, layouts, alignments, batches: a row of those that can; no block without a step; and as many as the device
    holds a few times over, unless there are more tiles. The choice itself takes a few hundred divisions at most."""
    sizes, depths = (1, 16, 17, 200, 1000, 8192, 100_000), (0, 1, 33, 4096, 2**40)
    more = itertools.product((1, 2), (1, 7), (ALONG_K, ALONG_MN), (ALONG_K, ALONG_MN), (False, True))
    problems = [(device, *p, *q) for p, q in itertools.product(itertools.product(sizes, sizes, depths), more)]
    table, multiprocessors = policies(), DEVICES[device][0]
    most_slots = multiprocessors * max(policy["blocks_per_multiprocessor"] for policy in table.values())
    # 2, 3, 4, 6, 8 ... to twice the slots, and three other numbers of blocks; five divisions each.
    most_divisions = len(table) * (3 + 5 * (3 + 2 * int(2 * most_slots).bit_length()))
    for (_, m, n, k, products, batch, *majors, aligned), chosen in zip(problems, choices(problems), strict=True):
        policy = table[chosen.row]
        assert chosen.row in chosen.serve
        assert "staged" in chosen.row or chosen.row in BULK or (aligned and device != "T4")
        assert chosen.row not in BULK or device == "Hopper"
        assert policy["shared_bytes"] <= DEVICES[device][1]
        assert policy["m"] >= 64 or majors[0] == ALONG_K
        assert chosen.tiles == -(-m // policy["m"]) * -(-n // policy["n"]) * batch
        assert chosen.steps == products * max(1, -(-k // policy["k"]))
        assert 1 <= chosen.blocks <= chosen.tiles * chosen.steps
        assert chosen.blocks <= max(chosen.tiles, 2 * multiprocessors * policy["blocks_per_multiprocessor"])
        assert chosen.divisions <= most_divisions


@pytest.mark.parametrize("device", ["A100", "RTX 3090", "H200"])
def test_large_products_get_large_tiles(device):
    chosen = choice(device, 8192, 8192, 8192)
    assert chosen.row in ("128x256x32", "256x128x32")
    assert chosen.blocks in (chosen.tiles, DEVICES[device][0])


def test_hopper_gets_its_own_rows():
    """Clusters for the largest; outputs that fill a device with one round of tiles get those that fill it."""
    assert choice("Hopper", 8192, 8192, 8192).row == "256x256x64 bulk"
    assert choice("Hopper", 2048, 2048, 2048).row == "128x256x64 bulk"
    assert choice("Hopper", 1024, 1024, 1024).row == "64x128x64 turns"
    # A copy to aligned lines is worth it, even for few rows: 62 us instead of 238 for a wgrad of 10 x 512 x 65536.
    assert choice("Hopper", 4096, 4096, 1024, aligned=False).row in BULK
    assert choice("Hopper", 10, 512, 65536, majors=(ALONG_MN, ALONG_MN), aligned=False).row in BULK


def test_halves_of_a_gated_tile_are_whole_slabs():
    """96 columns are none where lines run along N: there each factor's half comes in slabs of 64."""
    row = "128x192x64 bulk"
    for gated, major in itertools.product((False, True), (ALONG_K, ALONG_MN)):
        chosen = choice("Hopper", 4096, 4096, 4096, majors=(ALONG_K, major), gated=gated)
        assert (row in chosen.serve) == (not gated or major == ALONG_K)


# What lines run along in a layer's three products, and the products that docs/kernels.md makes predictions for.
LAYER = {"forward": (ALONG_K, ALONG_K), "dgrad": (ALONG_K, ALONG_MN), "wgrad": (ALONG_MN, ALONG_MN)}
PREDICTED = (
    ("forward", 8192, 8192, 8192), ("forward", 4096, 4096, 4096), ("forward", 3000, 3000, 3000),
    ("forward", 2048, 2048, 2048), ("forward", 1024, 1024, 1024), ("forward", 4096, 16384, 4096),
    ("dgrad", 4096, 4096, 32000), ("forward", 8192, 3072, 768), ("forward", 8192, 768, 3072),
    ("forward", 8192, 2304, 768), ("wgrad", 3072, 768, 8192), ("wgrad", 1024, 1024, 32768), ("wgrad", 64, 64, 131072),
)  # fmt: skip


def predicted() -> str:
    """Of the rows for Hopper, at the lowest and the highest clock that an H200 had (gpu_busy in the results)."""
    lines = ["| product (m, n, k) | plan | clocks | us at 1.41 GHz | us at 1.98 GHz |", "|---|---|---|---|---|"]
    for job, m, n, k in PREDICTED:
        chosen = choice("Hopper", m, n, k, majors=LAYER[job])
        slow, fast = (chosen.clocks / mhz for mhz in (1410, 1980))
        plan = f"{chosen.row}, {chosen.blocks} on {chosen.tiles} tiles"
        lines.append(f"| {job} ({m}, {n}, {k}) | {plan} | {chosen.clocks} | {slow:.1f} | {fast:.1f} |")
    return "\n".join(lines)


def test_the_page_has_what_the_model_predicts():
    page = (ROOT / "docs" / "kernels.md").read_text()
    assert page.split("<!-- predicted -->\n")[1].split("\n<!-- /predicted -->")[0] == predicted()


# What an H200 took stream-K for, until its bytes were counted (docs/kernels.md).
@pytest.mark.parametrize("m_n_k", [(1024, 1024, 32768), (768, 768, 65536), (3072, 768, 8192), (4096, 4096, 32000)])
def test_tiles_are_split_evenly_where_operands_do_not_stay_in_l2(m_n_k):
    chosen = choice("Hopper", *m_n_k, majors=(ALONG_MN, ALONG_MN))
    assert chosen.blocks % chosen.tiles == 0


@pytest.mark.parametrize("device", ["A100", "H200"])
def test_few_rows_get_the_tile_for_few_rows(device):
    for m, n in itertools.product((1, 2, 8, 15, 16), (4096, 11008)):
        assert choice(device, m, n, 4096).row == "16x128x64"
    assert choice(device, 17, 4096, 4096).row == "32x128x64"


def test_few_rows_on_hopper_get_the_most_bytes_in_flight():
    """64 rows took an H200 31 us there, 16 rows as 16x128x64 33 us: both wait for the weight (11008 x 4096)."""
    for m, n in itertools.product((1, 16, 17, 64), (4096, 11008)):
        assert choice("Hopper", m, n, 4096).row == "64x128x64 turns"


@pytest.mark.parametrize("device", DEVICES)
def test_long_sums_are_shared_by_blocks(device):
    """Four tiles or fewer on a whole device: by most of its multiprocessors, several steps each."""
    for majors in itertools.product((ALONG_K, ALONG_MN), repeat=2):
        chosen = choice(device, 256, 256, 65536, majors=majors)
        assert chosen.blocks >= 2 / 3 * DEVICES[device][0]
        assert chosen.tiles * chosen.steps >= 8 * chosen.blocks


@pytest.mark.parametrize("device", DEVICES)
def test_short_sums_are_not_shared(device):
    """A second launch is worth more than the few steps that it would save."""
    chosen = choice(device, 100, 100, 100)
    assert chosen.blocks == chosen.tiles


@pytest.mark.parametrize("device", DEVICES)
def test_only_aligned_operands_go_without_registers(device):
    unaligned = choice(device, 4096, 4096, 4096, aligned=False).row
    assert unaligned in BULK if device == "Hopper" else "staged" in unaligned
    assert ("staged" in choice(device, 4096, 4096, 4096).row) == (device == "T4")


# --- banks of shared memory -------------------------------------------------------------------------------------------

BANKS = 32  # of four bytes each


def wavefronts(words: np.ndarray, width: int) -> int:
    """How often shared memory is asked for the `width` words of each of 32 lanes, which begin at these words.

    As many lanes as fill all banks at a time: 32, 16 with 8 bytes, 8 with 16 bytes. Each time it takes as long as the
    bank takes of which the most different words are wanted.
    """
    assert (words % width == 0).all()
    total = 0
    for lanes in words.reshape(width, BANKS // width):
        wanted = np.unique(lanes[:, None] + np.arange(width))
        total += np.bincount(wanted % BANKS).max()
    return total


def test_wavefronts():
    lanes = np.arange(32)
    assert [wavefronts(lanes * width, width) for width in (1, 2, 4)] == [1, 2, 4]
    assert [wavefronts(lanes * 32, 1), wavefronts(0 * lanes, 1), wavefronts(lanes * 2, 1)] == [32, 1, 2]
    assert wavefronts(lanes % 8 * 32, 4) == 32


TILES = list(itertools.product(ROWS, "ab", (ALONG_K, ALONG_MN)))


@pytest.mark.parametrize(("row", "side", "major"), TILES)
def test_operand_tiles_have_no_conflicts(row, side, major):
    """Each 16-byte chunk has a place of its own; any eight lines' chunks of one index, which ldmatrix reads, lie in
    different banks, and so do the eight that neighbouring threads copy."""
    policy = policies()[row]
    extent = policy["m" if side == "a" else "n"]
    lines, chunks = (extent, policy["k"] // 8) if major == ALONG_K else (policy["k"], extent // 8)
    which = np.array([ROWS.index(row), side == "b", major], np.int64)
    found = call("tile", {"which": which}, 2 + lines * chunks)
    assert found[:2].tolist() == [lines, chunks]
    offsets = found[2:].reshape(lines, chunks)
    assert sorted(offsets.ravel().tolist()) == list(range(0, lines * chunks * 16, 16))
    for first in range(lines - 7):
        banks = np.sort(offsets[first : first + 8] // 16 % 8, axis=0)
        assert (banks == np.arange(8)[:, None]).all()
    assert (np.sort(offsets.reshape(-1, 8) // 16 % 8) == np.arange(8)).all()


@pytest.mark.parametrize("columns", [32, 64])
def test_patches_have_no_conflicts(columns):
    """An epilogue's patch: mma's pairs are written, eights of a row read and written back, columns read."""
    found = call("patch", {"columns": np.array([columns], np.int64)}, 1 + 16 * columns)
    floats, offsets = found[0], found[1:].reshape(16, columns)
    assert len(set(offsets.ravel().tolist())) == offsets.size
    assert 0 <= offsets.min() <= offsets.max() < floats
    lanes = np.arange(32)
    for column, half in itertools.product(range(0, columns, 8), range(2)):
        assert wavefronts(offsets[lanes // 4 + 8 * half, column + lanes % 4 * 2], 2) == 2
    assert (offsets[:, 1::2] == offsets[:, 0::2] + 1).all()
    across = columns // 8
    for row, half in itertools.product(range(0, 16, 32 // across), range(2)):
        assert wavefronts(offsets[row + lanes // across, lanes % across * 8 + half * 4], 4) == 4
    for row, first in itertools.product(range(16), range(0, columns, 32)):
        assert wavefronts(offsets[row, first + lanes], 1) == 1
    # Two weights' columns alternate by eights, of which a lane reads one and then the other. In rows of four eights two
    # lanes then meet in a bank.
    for row, half, weight in itertools.product(range(0, 16, 64 // across), range(2), range(2)):
        eight = lanes % (across // 2) * 2 + weight
        assert wavefronts(offsets[row + lanes // (across // 2), eight * 8 + half * 4], 4) == (4 if columns == 64 else 8)
