"""The GEMM's rows for sm_90a: what they have beside all rows. test_linear.py has what every row does.

Sizes with tiles that are whole, for which kernels have a loop of their own for each kind of epilogue, and others beside
them, which ask at run time. Expected bits are those of the CPU's ops, as there.
"""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from emulator.gemm import (
    ACTIVATIONS,
    BULK_ROWS,
    GEMM_BULK,
    LAYOUTS,
    Problem,
    has_layout,
    normal,
    operands,
    padded,
    whole_numbers,
)
from emulator.program import Mode
from emulator.test_linear import F16, F32, MODES, aligned, assert_same, exact, scaled, sums_are_right
from halfops._ops import ops

ROWS = pytest.mark.parametrize("row", ["128x128x64 bulk", "128x192x64 bulk", "128x256x64 turns"])
M, N, K = 150, 392, 136  # tiles that are whole, and ends of others on both sides


def forward(row: str, activation: str = "none", more: dict[str, Tensor] | None = None, **options) -> Problem:
    x, weight = whole_numbers(M, K, seed=1), scaled(whole_numbers(N, K, seed=2), 2.0**-4)
    return Problem(x, weight.mT, activation=activation, more=more or {}, row=row, **options)


@ROWS
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("save", [False, True])
def test_forward(row, activation, save):
    bias = normal(N, seed=3)
    for i, more in enumerate(({}, {"bias": bias})):
        problem = forward(row, activation, more, wants=("preact",) if save else ())
        result = problem.run(MODES[i + 1])
        wanted = ops.linear(problem.a, problem.b.mT, more.get("bias"), None, activation, save)
        assert_same(result["out"], wanted[0])
        if save:
            assert_same(result["preact"], wanted[1])
        assert result.report.counted.conflicts == 0


@ROWS
def test_residual(row):
    residual = normal(M, N, seed=4)
    problem = forward(row, more={"c": residual}, beta=1.0)
    assert_same(problem.run(MODES[2])["out"], ops.linear(problem.a, problem.b.mT, None, residual, "none", False)[0])


@ROWS
@pytest.mark.parametrize("activation", ACTIVATIONS[1:])
def test_dgrad(row, activation):
    grad, weight = whole_numbers(M, K, seed=1), scaled(whole_numbers(K, N, seed=2), 2.0**-4)
    preact = normal(M, N, seed=3)
    problem = Problem(grad, weight, activation=activation, more={"grad_preact": preact}, row=row)
    problem.wants = ("column_sums",)
    result = problem.run(MODES[3])
    assert_same(result["out"], ops.linear_dgrad(grad, weight, preact, activation, True)[0])
    assert sums_are_right(result["column_sums"], result["out"])


@ROWS
@pytest.mark.parametrize("activation", ACTIVATIONS[1:])
@pytest.mark.parametrize("bias_gradients", [False, True])
def test_gated_dgrad(row, activation, bias_gradients):
    """Both gradients' boxes at once, or one pair's after the other where sums of columns take their room."""
    grad, weight = whole_numbers(M, K, seed=1), scaled(whole_numbers(K, N, seed=2), 2.0**-4)
    gate, up = normal(M, N, seed=3), normal(M, N, seed=4)
    problem = Problem(grad, weight, activation=activation, more={"grad_preact": gate, "grad_up": up}, row=row)
    problem.wants = ("out2", *(("column_sums", "column_sums2") if bias_gradients else ()))
    result = problem.run(MODES[2])
    wanted = ops.gated_dgrad(grad, weight, gate, up, activation, True)
    for name, sums, expected in zip(("out", "out2"), ("column_sums", "column_sums2"), wanted, strict=False):
        assert_same(result[name], expected)
        assert not bias_gradients or sums_are_right(result[sums], expected)


@ROWS
@pytest.mark.parametrize("k", [8, 72, 200])
def test_outputs_that_leave_beside_few_steps(row, k):
    """A tile has four or eight portions of outputs, and the next one fewer steps; with an activation and without."""
    x, weight, bias = whole_numbers(600, k, seed=1), scaled(whole_numbers(520, k, seed=2), 2.0**-4), normal(520, seed=3)
    for seed, activation in enumerate(("none", "relu")):
        problem = Problem(x, weight.mT, activation=activation, more={"bias": bias}, row=row)
        problem.wants = () if activation == "none" else ("preact",)
        result = problem.run(Mode("random", seed, multiprocessors=3))
        wanted = ops.linear(x, weight, bias, None, activation, True)
        assert_same(result["out"], wanted[0])
        if problem.wants:
            assert_same(result["preact"], wanted[1])


@ROWS
def test_nothing_is_added_where_there_is_no_bias(row):
    """-0 stays: a negative sum times nothing has a sign, which +0 would take from it."""
    x, weight = torch.ones(M, K).half(), torch.full((N, K), -1.0).half()
    out = Problem(x, weight.mT, alpha=0.0, row=row).run(MODES[1])["out"]
    assert_same(out, torch.full((M, N), -0.0).half())


@ROWS
@pytest.mark.parametrize("dtype", [F16, F32])
def test_wgrad(row, dtype):
    grad, x = whole_numbers(K, M, seed=1), whole_numbers(K, N, seed=2)
    old = normal(M, N, seed=3, dtype=dtype)
    out = old.clone()
    problem = Problem(padded(grad, 152).mT, x, out=out, out_dtype=dtype, beta=1.0, wants=("stats",), row=row)
    problem.more = {"c": out}
    stats = problem.run(MODES[1])["stats"]
    assert_same(out, ops.linear_wgrad(grad, x, old, True, False, False)[0])
    squares = out.double().square().sum()
    assert abs(stats[0] - squares) <= M * N * 2.0**-53 * squares


@ROWS
@pytest.mark.parametrize("blocks", [0, 5])  # a tile each; some in pieces beside some that are whole
def test_wgrad_that_is_not_added_to_anything(row, blocks):
    grad, x = whole_numbers(K, M, seed=1), whole_numbers(K, N, seed=2)
    problem = Problem(padded(grad, 152).mT, x, wants=("stats",), row=row, blocks=blocks)
    result = problem.run(MODES[2])
    assert_same(result["out"], exact(problem.a, problem.b))
    squares = result["out"].double().square().sum()
    assert abs(result["stats"][0] - squares) <= M * N * 2.0**-53 * squares
    assert result["stats"][1] == 0


@ROWS
def test_squares_of_infinite_operands_are_infinite(row):
    """Not NaN, as zeros beside the output times infinity would make them."""
    grad, x = torch.ones(K, M).half(), torch.ones(K, N).half()
    x[3, N - 1] = grad[5, M - 1] = float("inf")
    problem = Problem(padded(grad, 152).mT, x, wants=("stats",), row=row)
    assert problem.run(MODES[2])["stats"].tolist()[:2] == [float("inf"), 1.0]


@ROWS
@pytest.mark.parametrize("activation", ACTIVATIONS[1:])
def test_gated_forward(row, activation):
    x = whole_numbers(M, K, seed=1)
    gate, up = (scaled(whole_numbers(N, K, seed=s), 2.0**-4) for s in (2, 3))
    for save in (False, True):
        problem = Problem(x, gate.mT, activation=activation, more={"b2": up.mT}, row=row)
        problem.wants = ("preact", "preact2") if save else ()
        result = problem.run(MODES[2])
        wanted = ops.gated_linear(x, gate, up, None, None, activation, True)
        for name, expected in zip(("out", "preact", "preact2"), wanted, strict=True):
            if name == "out" or save:
                assert_same(result[name], expected)


@pytest.mark.parametrize("row", BULK_ROWS)
def test_more_tiles_than_blocks(row):
    """Persistent blocks: many tiles each, and with pieces of tiles; every order of events."""
    a, b = aligned(600, 700, 200, "nt", seed=5)
    for seed, blocks in ((1, 0), (2, 5), (3, 11)):
        mode = Mode("random", seed, multiprocessors=4)
        assert_same(Problem(a, b, row=row, blocks=blocks).run(mode)["out"], exact(a, b))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("side", "ab")
def test_operands_that_are_copied_to_aligned_lines(layout, side):
    """Odd pitches and offsets, on one side at a time: the other one stays where it is."""
    row = "64x128x64 turns"
    for offset in (1, 5):
        a, b = aligned(70, 133, 90, layout, seed=offset)
        plain = operands(70, 133, 90, "nn", seed=offset)[0 if side == "a" else 1]
        turned = layout["ab".index(side)] == "t"
        lines = plain.mT if turned else plain
        odd = padded(lines, lines.shape[1] + offset, offset)
        odd = odd.mT if turned else odd
        a, b = (odd, b) if side == "a" else (a, odd)
        assert_same(Problem(a, b, row=row).run(MODES[offset % 4])["out"], exact(a, b))


def test_strides_and_batches_of_any_kind():
    row = "64x128x64 turns"
    wide = whole_numbers(90, 200, seed=3)
    for view in (wide[::3, ::2][:30, :40], wide[:1, :40].expand(30, 40), wide[:30, :1].expand(30, 40)):
        b = whole_numbers(40, 136, seed=4)
        assert_same(Problem(view, b, row=row).run(MODES[2])["out"], exact(view, b))
    m, n, k = 24, 40, 48
    a, b = whole_numbers(5 * m, k, seed=1), whole_numbers(5 * k, n, seed=2)
    for order in ([0, 1, 2, 3, 4], [3, 0, 4, 1, 1], [2] * 5):
        offsets = {"a_offsets": [i * m * k for i in order], "b_offsets": [i * k * n for i in range(5)]}
        products = [a[i * m : (i + 1) * m].double() @ b[j * k : (j + 1) * k].double() for j, i in enumerate(order)]
        result = Problem(a[:m], b[:k], batch=5, offsets=offsets, row=row).run(MODES[3])
        assert_same(result["out"], torch.cat(products).half())


@pytest.mark.parametrize(("row", "layout"), [(r, x) for r in BULK_ROWS for x in LAYOUTS if has_layout(r, x)])
@pytest.mark.parametrize("flavour", ["address", "thread"])
def test_nothing_races_and_nothing_is_read_beside_an_array(row, layout, flavour):
    a, b = aligned(140, 270, 330, layout)
    for seed, blocks in ((1, 0), (2, 3)):
        mode = Mode("random", seed, multiprocessors=3)
        result = Problem(a, b, row=row, blocks=blocks, wants=("column_sums",)).run(mode, flavour, GEMM_BULK)
        assert_same(result["out"], exact(a, b))


def test_every_moment():
    """A hundred orders of threads and of copies, products and stores beside them, of tiles that follow each other."""
    a, b = aligned(200, 150, 400, "nn")
    for seed, row in zip(range(100), itertools.cycle(BULK_ROWS), strict=False):
        mode = Mode("random" if seed % 3 else "priority", seed, multiprocessors=2)
        assert_same(Problem(a, b, row=row).run(mode)["out"], exact(a, b))
