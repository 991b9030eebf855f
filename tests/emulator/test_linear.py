"""The GEMM kernels under the emulator: every tile, layout and epilogue, at shapes that hurt.

Operands are small integers, so that sums are exact in fp32 in any order, and what is stored must have the bits that the
CPU's ops store. What rounding adds on ordinary numbers is held to a bound against fp64 further down.
"""

from __future__ import annotations

import itertools

import pytest
import torch
from bounds import UNIT
from torch import Tensor

from emulator.gemm import (
    ACTIVATIONS,
    BF16_ROWS,
    BULK_ROWS,
    FEW_ROWS,
    GEMM_FEW,
    LAYOUTS,
    ROWS,
    Problem,
    Result,
    has_layout,
    laid,
    normal,
    operands,
    padded,
    whole_numbers,
)
from emulator.program import Mode
from halfops._ops import ops

F16, BF16, F32 = torch.float16, torch.bfloat16, torch.float32
MODES = [Mode(), Mode("reverse"), Mode("random", 3), Mode("priority", 5, multiprocessors=1)]
KERNELS = [(row, layout) for row in (*ROWS, *BULK_ROWS) for layout in LAYOUTS if has_layout(row, layout)]


def bits(tensor: Tensor) -> Tensor:
    return tensor.contiguous().view({2: torch.int16, 4: torch.int32, 8: torch.int64}[tensor.element_size()])


def assert_same(found: Tensor, wanted: Tensor) -> None:
    nan = found.isnan() & wanted.isnan()
    differ = (bits(found) != bits(wanted)) & ~nan
    assert not differ.any(), f"{int(differ.sum())} elements differ, the first at {differ.nonzero()[0].tolist()}"


def exact(a: Tensor, b: Tensor, dtype: torch.dtype = F16) -> Tensor:
    return (a.double() @ b.double()).to(dtype)


def rounded_up(n: int) -> int:
    return -(-n // 8) * 8


def aligned(m: int, n: int, k: int, layout: str, dtype: torch.dtype = F16, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Operands whose lines begin at multiples of 16 bytes, NaN between them."""
    a, b = operands(m, n, k, "nn", dtype, seed)
    a = padded(a, rounded_up(k)) if layout[0] == "n" else padded(a.mT, rounded_up(m)).mT
    b = padded(b, rounded_up(n)) if layout[1] == "n" else padded(b.mT, rounded_up(k)).mT
    return a, b


# --- tiles and layouts ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("row", "layout"), KERNELS)
def test_products(row, layout):
    """One tile, several, with ends of tiles on each side, fewer elements of K than a stage, and more than are in
    flight; no two lanes ever meet in a bank of shared memory."""
    tile_m, tile_n = (int(x) for x in row.split("x")[:2])
    shapes = [(1, 1, 1), (7, 13, 5), (tile_m, tile_n, 64), (tile_m + 1, 2 * tile_n + 3, 161), (2 * tile_m - 1, 17, 330)]
    for i, (m, n, k) in enumerate(shapes):
        a, b = aligned(m, n, k, layout, seed=i)
        tiles = -(-m // tile_m) * -(-n // tile_n)
        result = Problem(a, b, row=row, blocks=tiles).run(MODES[i % len(MODES)])
        assert_same(result["out"], exact(a, b))
        assert result.row == row
        assert result.blocks == tiles
        assert result.report.counted.conflicts == 0
        assert result.report.counted.matrices > 0 or row in BULK_ROWS  # which have wgmma instead of ldmatrix


@pytest.mark.parametrize("row", [*BF16_ROWS, "64x128x64 turns"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_bfloat16(row, layout):
    a, b = aligned(70, 67, 90, layout, BF16)
    assert_same(Problem(a, b, row=row).run(MODES[2])["out"], exact(a, b, BF16))


@pytest.mark.parametrize("row", [*ROWS, *BULK_ROWS])
def test_more_pieces_than_tiles(row):
    """Split-K, every number of blocks down to a step each; stream-K, where shares end in the middle of tiles; blocks
    without any work. In every order of the blocks."""
    tile_m, tile_n = (int(x) for x in row.split("x")[:2])
    m, n, k = tile_m + 3, tile_n + 5, 200
    a, b = aligned(m, n, k, "nt")
    steps = 4 * -(-k // int(row.split("x")[2].split()[0]))
    for i, blocks in enumerate((1, 2, 3, 4, 5, 7, 8, 12, steps - 1, steps)):
        result = Problem(a, b, row=row, blocks=blocks).run(MODES[i % len(MODES)])
        assert_same(result["out"], exact(a, b))
        assert result.blocks == min(blocks, steps)


@pytest.mark.parametrize("row", ["64x64x64", "128x128x32", "64x128x64 turns"])
def test_many_pieces_of_a_tile(row):
    """So many that two or four warps share them, not always evenly, and blocks with pieces of two tiles among them."""
    a, b = aligned(70, 67, 29 * 64, "nt")
    for i, pieces in enumerate((8, 11, 16, 23)):
        blocks = pieces * (4 if row == "64x64x64" else 2 if "turns" in row else 1) + i % 2
        result = Problem(a, b, row=row, blocks=blocks, wants=("column_sums",)).run(MODES[i])
        assert_same(result["out"], exact(a, b))
        assert_same(result["column_sums"], exact(a, b).double().sum(0).half())


def test_pieces_do_not_depend_on_the_order_of_blocks():
    a, b = normal(100, 300, seed=1), laid(normal(300, 70, seed=2), "t")
    results = [Problem(a, b, row="64x64x64", blocks=7, wants=("stats", "column_sums")).run(mode) for mode in MODES]
    for name in ("out", "stats", "column_sums"):
        for other in results[1:]:
            assert_same(other[name], results[0][name])


# --- addresses --------------------------------------------------------------------------------------------------------

STAGED = [row for row in ROWS if "staged" in row]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("row", STAGED)
def test_any_alignment(row, layout):
    """Odd leading dimensions and every offset within 16 bytes, for both operands."""
    for offset in range(8):
        a, b = operands(66, 35, 50, "nn", seed=offset)
        a = padded(a, 51 + offset, offset) if layout[0] == "n" else padded(a.mT, 67 + offset, offset).mT
        b = padded(b, 36 + offset, 7 - offset) if layout[1] == "n" else padded(b.mT, 53, 7 - offset).mT
        result = Problem(a, b).run(MODES[offset % len(MODES)])
        assert_same(result["out"], exact(a, b))
        assert result.row in STAGED


def test_lines_along_m_and_n_where_k_has_no_stride():
    """One element of K, which a single token's gradients have, or rows that repeat: registers have no part in it."""
    single = aligned(70, 67, 1, "tn")
    repeated = aligned(1, 70, 1, "nn")[1].expand(30, 70).mT, aligned(1, 67, 1, "nn")[1].expand(30, 67)
    for a, b in (single, repeated):
        result = Problem(a, b).run()
        assert_same(result["out"], exact(a, b) + 0.0)  # a sum that begins with 0 is never -0
        assert result.row not in STAGED


@pytest.mark.parametrize("side", "ab")
def test_any_strides(side):
    """Every second element of a row, every third row; rows that repeat, elements that repeat along a row, and one
    element everywhere, which is what the gradient of a sum is."""
    wide = whole_numbers(90, 200, seed=3)
    repeated = wide[:1, :40].expand(30, 40), wide[:30, :1].expand(30, 40), wide[:1, 8:9].expand(30, 40)
    for view in (wide[::3, ::2][:30, :40], wide[::2, ::5].mT[:30, :40], *repeated):
        other = whole_numbers(40, 30, seed=4)
        a, b = (view, other) if side == "a" else (other.mT.contiguous(), view.mT)
        assert_same(Problem(a, b).run()["out"], exact(a, b))


def test_alignment_decides_the_copy():
    """Lines at multiples of 16 bytes go by cp.async, whatever the sizes; anything else goes through registers."""
    a, b = aligned(33, 17, 45, "nt")
    assert Problem(a, b).run().row not in STAGED
    for broken in ("pitch", "base"):
        a2 = padded(a, 49) if broken == "pitch" else padded(a, 48, 1)
        result = Problem(a2, b).run()
        assert result.row in STAGED
        assert result.report.counted.copies == 0
        assert_same(result["out"], exact(a, b))


def test_outputs_of_any_pitch():
    a, b = operands(20, 19, 24, "nt")
    for pitch, offset, dtype in itertools.product((19, 24, 33), (0, 1, 8), (F16, BF16, F32)):
        memory = torch.full((offset + 20 * pitch,), 7.0, dtype=dtype)
        out = memory.as_strided((20, 19), (pitch, 1), offset)
        result = Problem(a, b, out=out, out_dtype=dtype).run()
        assert result.report.text == ""
        assert_same(out, exact(a, b, dtype))
        out.fill_(7.0)
        assert (memory == 7.0).all(), "written between rows"


@pytest.mark.parametrize(("m", "n", "k"), [(0, 5, 8), (5, 0, 8), (5, 6, 0), (0, 0, 0)])
def test_empty(m, n, k):
    a, b = operands(m, n, k, "nn")
    result = Problem(a, b, wants=("stats", "column_sums")).run()
    assert_same(result["out"], torch.zeros(m, n, dtype=F16))
    assert_same(result["column_sums"], torch.zeros(n, dtype=F16))
    assert result["stats"].tolist() == [0.0, 0.0, 0.0]


def test_batches():
    """At equal distances, broadcast, and at distances from a table; with a beta that adds the output to itself."""
    batch, m, n, k = 5, 20, 24, 40
    a, b = whole_numbers(batch * m, k, seed=1), whole_numbers(batch * k, n, seed=2)
    for a_order, b_order in (
        ([0, 1, 2, 3, 4], [0, 1, 2, 3, 4]),
        ([0] * 5, [0, 1, 2, 3, 4]),
        ([3, 0, 4, 1, 1], [2] * 5),
    ):
        offsets = {"a_offsets": [i * m * k for i in a_order], "b_offsets": [i * k * n for i in b_order]}
        c = whole_numbers(batch * m, n, seed=3)
        products = [
            a[i * m : (i + 1) * m].double() @ b[j * k : (j + 1) * k].double()
            for i, j in zip(a_order, b_order, strict=True)
        ]
        for row, blocks in (("64x64x64", 0), ("16x128x64", 0), ("64x64x64", 3), ("256x256x64 bulk", 0)):
            out = c.clone()
            more = {"c": out}
            problem = Problem(a[:m], b[:k], out=out, beta=2.0, alpha=0.5, more=more, batch=batch, offsets=offsets)
            problem.row, problem.blocks = row, blocks
            assert problem.run(MODES[2]).report.text == ""
            assert_same(out, (0.5 * torch.cat(products) + 2.0 * c.double()).half())


# --- epilogues --------------------------------------------------------------------------------------------------------

# Tiles with warps of 64 and of 32 columns, and one with more blocks than tiles.
FINISHED = [("128x128x32", 0), ("64x64x64", 0), ("16x128x64", 0), ("64x64x32 staged", 0), ("64x64x64", 5)]
FINISHED += [("256x256x64 bulk", 0), ("64x128x64 turns", 0), ("128x128x64 bulk", 3)]
BLOCKS = pytest.mark.parametrize(("row", "blocks"), FINISHED)


def scaled(t: Tensor, factor: float) -> Tensor:
    return (t * factor).to(t.dtype)


@BLOCKS
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_forward(row, blocks, activation):
    """linear(): bias, activation, saved pre-activation, residual."""
    m, n, k = 67, 72, 96
    x, weight = whole_numbers(m, k, seed=1), scaled(whole_numbers(n, k, seed=2), 2.0**-4)
    bias, residual = normal(n, seed=3), normal(m, n, seed=4)
    for with_bias, with_residual, save in itertools.product((False, True), repeat=3):
        more = {"bias": bias} if with_bias else {}
        more |= {"c": residual} if with_residual else {}
        problem = Problem(x, weight.mT, activation=activation, more=more, row=row, blocks=blocks)
        problem.beta = 1.0 if with_residual else 0.0
        problem.wants = ("preact",) if save else ()
        result = problem.run(MODES[int(with_bias)])
        wanted = ops.linear(
            x, weight, bias if with_bias else None, residual if with_residual else None, activation, save
        )
        assert_same(result["out"], wanted[0])
        if save:
            assert_same(result["preact"], wanted[1])


def sums_are_right(sums: Tensor, of: Tensor) -> bool:
    """Column sums in fp32 by 64 rows at most, then in double, rounded once: an addition rounds by half a unit."""
    total, most = of.double().sum(0), of.double().abs().sum(0)
    unit = UNIT[sums.dtype]
    return bool(((sums.double() - total).abs() <= unit * total.abs() + 64 * UNIT[F32] * most * (1 + unit)).all())


@BLOCKS
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_dgrad(row, blocks, activation):
    """linear_dgrad(): activation gradient, and the bias gradient of the layer below."""
    m, n, k = 130, 72, 96
    grad, weight = whole_numbers(m, k, seed=1), scaled(whole_numbers(k, n, seed=2), 2.0**-4)
    preact = padded(normal(m, n, seed=3), 75, 1)
    more = {"grad_preact": preact} if activation != "none" else {}
    problem = Problem(grad, weight, activation=activation, more=more, row=row, blocks=blocks, wants=("column_sums",))
    result = problem.run(MODES[2])
    wanted = ops.linear_dgrad(grad, weight, preact if more else None, activation, True)
    assert_same(result["out"], wanted[0])
    assert sums_are_right(result["column_sums"], result["out"])


@BLOCKS
def test_wgrad(row, blocks):
    """linear_wgrad(): accumulated into every dtype, with the statistics of what was stored."""
    m, n, k = 72, 66, 150
    grad, x = whole_numbers(k, m, seed=1), whole_numbers(k, n, seed=2)
    a = padded(grad, 80).mT if row != "16x128x64" else padded(grad.mT.contiguous(), 152)
    for dtype, in_place in itertools.product((F16, BF16, F32), (False, True)):
        old = normal(m, n, seed=3, dtype=dtype)
        out = old.clone() if in_place else torch.full((m, n), float("nan"), dtype=dtype)
        problem = Problem(
            a, padded(x, 72), out=out, out_dtype=dtype, beta=1.0, wants=("stats",), row=row, blocks=blocks
        )
        problem.more = {"c": out if in_place else old}
        stats = problem.run(MODES[1])["stats"]
        assert_same(out, ops.linear_wgrad(grad, x, old, True, False, False)[0])
        squares = out.double().square().sum()  # m n squares, each rounded once at most, added in double
        assert abs(stats[0] - squares) <= m * n * 2.0**-53 * squares
        assert stats[1:].tolist() == [0.0, 0.0]


@BLOCKS
@pytest.mark.parametrize("activation", ACTIVATIONS[1:])
def test_gated_forward(row, blocks, activation):
    """gated_linear(): two products, one store; each with its bias, its layout and its saved input."""
    m, n, k = 35, 76, 96
    x = whole_numbers(m, k, seed=1)
    gate, up = (scaled(whole_numbers(n, k, seed=s), 2.0**-4) for s in (2, 3))
    biases = normal(n, seed=4), normal(n, seed=5)
    for with_bias, save in ((False, False), (True, True)):
        more = {"b2": padded(up, 104).mT, **(dict(zip(("bias", "bias2"), biases, strict=True)) if with_bias else {})}
        problem = Problem(x, gate.mT, activation=activation, more=more, row=row, blocks=blocks)
        problem.wants = ("preact", "preact2") if save else ()
        result = problem.run(MODES[2])
        both = biases if with_bias else (None, None)
        wanted = ops.gated_linear(x, gate, up, *both, activation, True)
        assert_same(result["out"], wanted[0])
        if save:
            assert_same(result["preact"], wanted[1])
            assert_same(result["preact2"], wanted[2])


def test_gated_operands_that_lie_differently():
    """One weight [N, K], the other [K, N] in memory; both still in one kernel."""
    x, gate, up = whole_numbers(20, 40, seed=1), whole_numbers(24, 40, seed=2), whole_numbers(40, 24, seed=3)
    for first, second in ((gate.mT, up), (up, gate.mT)):
        result = Problem(x, first, activation="relu", more={"b2": second}).run()
        assert_same(result["out"], ops.gated_linear(x, first.mT, second.mT, None, None, "relu", False)[0])


@BLOCKS
@pytest.mark.parametrize("activation", ACTIVATIONS[1:])
def test_gated_dgrad(row, blocks, activation):
    """gated_dgrad(): both factors' gradients, and their column sums."""
    m, n, k = 70, 72, 96
    grad, weight = whole_numbers(m, k, seed=1), scaled(whole_numbers(k, n, seed=2), 2.0**-4)
    gate, up = normal(m, n, seed=3), normal(m, n, seed=4)
    problem = Problem(
        grad, weight, activation=activation, more={"grad_preact": gate, "grad_up": up}, row=row, blocks=blocks
    )
    problem.wants = ("out2", "column_sums", "column_sums2")
    result = problem.run(MODES[3])
    wanted = ops.gated_dgrad(grad, weight, gate, up, activation, True)
    assert_same(result["out"], wanted[0])
    assert_same(result["out2"], wanted[1])
    assert sums_are_right(result["column_sums"], result["out"])
    assert sums_are_right(result["column_sums2"], result["out2"])


@BLOCKS
def test_sum_of_two_products(row, blocks):
    """gated_linear_dgrad(): K runs through both products, whose ends are within a stage."""
    for k in (8, 64, 72, 130):
        a, b = aligned(40, 72, k, "nn", seed=1)
        a2, b2 = aligned(40, 72, k, "nn", seed=3)
        a2 = padded(a2, rounded_up(k) + 8)
        result = Problem(a, b, more={"a2": a2, "b2": b2}, row=row, blocks=min(blocks, 2 * -(-k // 64))).run(MODES[2])
        assert_same(result["out"], (a.double() @ b.double() + a2.double() @ b2.double()).half())


# --- what numbers can do ----------------------------------------------------------------------------------------------


def test_overflow_stays_infinite_and_nan_stays_nan():
    """Nothing finite comes of an overflow: in a sum, in the rounding of a result, in a statistic."""
    a, b = torch.full((16, 64), 60000.0, dtype=F16), torch.full((64, 24), 2.0, dtype=F16)
    a[3, 5] = float("nan")
    a[4, 7] = float("inf")
    a[5, 7], a[5, 8] = float("inf"), -float("inf")
    a[6] = -a[6]
    a[7] = 0
    for row, blocks in FINISHED:
        result = Problem(a, b, wants=("stats",), row=row, blocks=min(blocks, 1)).run()
        out = result["out"]
        assert out[3].isnan().all()
        assert (out[4] == float("inf")).all()
        assert out[5].isnan().all()
        assert (out[6] == -float("inf")).all()
        assert (out[7] == 0).all()
        assert result["stats"][1] == 1.0
        assert not result["stats"][0].isfinite()
    finite = Problem(a[7:8], b, wants=("stats",)).run()
    assert finite["stats"].tolist() == [0.0, 0.0, 0.0]


@pytest.mark.parametrize("place", [0, 17, 4095, 4615])
def test_one_number_is_enough_for_the_flag(place):
    a, b = whole_numbers(71, 32, seed=1), torch.eye(32, 65, dtype=F16)
    a.view(-1)[place % a.numel()] = float("inf")
    assert Problem(a, b, wants=("stats",), out_dtype=F32).run()["stats"][1] == 1.0


@pytest.mark.parametrize(("row", "layout"), [("128x128x32", "nt"), ("64x64x64", "tn"), ("64x64x32 staged", "nn")])
def test_ordinary_numbers(row, layout):
    """An fp32 sum of k products of fp16 numbers, each exact, in any order: k half units of fp32 times the sum of their
    magnitudes, then one rounding to fp16. A tensor core may cut off instead of rounding: a whole unit."""
    m, n, k = 65, 70, 500
    a, b = laid(normal(m, k, seed=1), layout[0]), laid(normal(k, n, seed=2), layout[1])
    for blocks in (0, 6):
        out = Problem(a, b, row=row, blocks=blocks).run(MODES[2])["out"].double()
        wanted, most = a.double() @ b.double(), a.double().abs() @ b.double().abs()
        assert ((out - wanted).abs() <= UNIT[F16] * wanted.abs() + 2 * k * UNIT[F32] * most).all()


def test_more_steps_than_a_piece_can_number():
    one = torch.ones(1, 1, dtype=F16)
    refused = Problem(one.expand(1, 2**37), one.expand(2**37, 1)).run()
    assert "more than 2^31 tiles, or steps of one" in refused.report.text


# --- devices ----------------------------------------------------------------------------------------------------------


def test_every_device_has_a_tile():
    """From 99 KiB of shared memory a block to 227, and sm_75, which has neither cp.async nor bf16."""
    a, b = aligned(300, 280, 96, "nt")
    for capability in (75, 80, 86, 90, 120):
        result = Problem(a, b).run(Mode(capability=capability, multiprocessors=4))
        assert_same(result["out"], exact(a, b))
        assert (result.row in STAGED) == (capability == 75)
    for older in (Mode(capability=75), Mode(capability=86, compiled_for=75)):
        result = Problem(a, b).run(older)
        assert_same(result["out"], exact(a, b))
        assert result.row in STAGED
        refused = Problem(*aligned(8, 8, 8, "nt", BF16)).run(older)
        assert refused.report.text.endswith("sm_75")


# --- sanitizers -------------------------------------------------------------------------------------------------------

SMALL = {
    "64x64x64": ("nt", 66, 71, 200, 3),
    "16x128x64": ("nn", 17, 100, 400, 2),
    "64x64x32 staged": ("tn", 65, 33, 97, 5),
}


@pytest.mark.parametrize("flavour", ["address", "thread"])
@pytest.mark.parametrize("row", FEW_ROWS)
def test_sanitizers(row, flavour):
    """Everything that an epilogue can do at once, in pieces too, with nothing beside an array and no race."""
    layout, m, n, k, blocks = SMALL[row]
    a, b = (operands if "staged" in row else aligned)(m, n, k, layout)
    preact, up = normal(m, n, seed=5), normal(m, n, seed=6)
    wants = ("out2", "column_sums", "column_sums2", "stats")
    for pieces in (0, blocks):
        problem = Problem(a, b, activation="silu", more={"grad_preact": preact, "grad_up": up}, wants=wants)
        problem.row, problem.blocks = row, pieces
        result: Result = problem.run(Mode("random", 7), flavour, GEMM_FEW)
        wanted = ops.gated_dgrad(a, b, preact, up, "silu", False)
        assert_same(result["out"], wanted[0])
        assert_same(result["out2"], wanted[1])
    assert_same(Problem(a, b, row=row).run(Mode("reverse"), flavour, GEMM_FEW)["out"], exact(a, b))
