"""The GEMM on a GPU: every row of the table of policies, every layout, the CPU's bits, no wait, graphs.

Operands are small whole numbers, whose sums are exact in any order, so results have the bits of the exact ones. What
can run on the CPU does, compared with itself or with float64: so that it is known to run.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest
import torch
from cases import bits
from torch import Tensor

import halfops
from halfops import functional as H
from halfops._ops import linear as ops

NEEDS_KERNEL = "linear"
DTYPES = [torch.float16, torch.bfloat16]
LAYOUTS = ["nn", "nt", "tn", "tt"]
ROWS = ops.policies() if torch.cuda.is_available() else [""]  # a CPU has one way


def whole(*shape: int, seed: int, device: torch.device, dtype: torch.dtype = torch.float16) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(-2, 3, shape, generator=generator).to(dtype).to(device)


def laid(matrix: Tensor, transposed: bool, pitch: int = 1) -> Tensor:
    """With rows (or columns) at multiples of `pitch` elements."""
    source = matrix.mT if transposed else matrix
    room = torch.full((source.shape[0], -(-source.shape[1] // pitch) * pitch), float("nan"), dtype=source.dtype)
    room = room.to(matrix.device)
    room[:, : source.shape[1]] = source
    view = room[:, : source.shape[1]]
    return view.mT if transposed else view


@contextlib.contextmanager
def forced(row: str, device: torch.device, blocks: int = 0) -> Iterator[None]:
    if device.type == "cuda":
        ops.force_policy(row, blocks)
    yield
    if device.type == "cuda":
        ops.force_policy("")


def same(a: Tensor, b: Tensor) -> bool:
    return torch.equal(bits(a.detach().cpu()), bits(b.detach().cpu()))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("row", ROWS)
@pytest.mark.parametrize("dtype", DTYPES, ids=["fp16", "bf16"])
def test_every_row_and_layout(device, dtype, row, layout):
    """Sizes around tiles and stages; a row that has no kernel for the layout leaves the choice to the table."""
    for i, (m, n, k) in enumerate([(1, 1, 1), (257, 258, 97), (300, 520, 1032), (16, 4096, 264), (511, 129, 4097)]):
        a, b = (whole(*s, seed=i, device=device, dtype=dtype) for s in ((m, k), (k, n)))
        a, b = laid(a, layout[0] == "t", 8), laid(b, layout[1] == "t", 8)
        wanted = (a.double() @ b.double()).float()
        for blocks in (0, 7):
            with forced(row, device, blocks):
                assert same(H.matmul(a, b, out_dtype=torch.float32), wanted)


@pytest.mark.parametrize("offset", range(8))
def test_any_alignment(device, offset):
    memory = whole(400 * 301, seed=offset, device=device)
    a = memory[offset : offset + 150 * 301].view(150, 301)[:, :233]
    b = memory[7 - offset :].as_strided((233, 91), (1, 301), 7 - offset)
    assert same(H.matmul(a, b, out_dtype=torch.float32), (a.double() @ b.double()).float())


@pytest.mark.parametrize("activation", ["relu", "gelu", "gelu_tanh", "silu"])
def test_epilogues_are_the_cpus(device, activation):
    """Exact sums, then the same formulas. A GPU's exponential and reciprocal are approximations, so that what relu
    stores is the same number on every device, and of the others a neighbour now and then."""
    cpu = torch.device("cpu")
    x, w, dy = (whole(*s, seed=i, device=cpu) for i, s in enumerate([(130, 96), (200, 96), (130, 96)]))
    w2, up = (whole(*s, seed=i, device=cpu) for i, s in enumerate([(96, 200), (200, 96)], 5))
    bias, residual, preact, other = (torch.randn(s).half() for s in ((200,), (130, 200), (130, 200), (130, 200)))
    scale = 2.0**-4

    def results(place: torch.device) -> list[Tensor]:
        x_, w_, dy_, w2_, up_ = (t.to(place) * f for t, f in ((x, 1), (w, scale), (dy, 1), (w2, scale), (up, scale)))
        b_, r_, z_, o_ = (t.to(place) for t in (bias, residual, preact, other))
        out = [
            H.linear(x_, w_, b_, activation=activation, residual=r_),
            H.gated_linear(x_, w_, up_, b_, b_, activation=activation),
        ]
        out.append(H.linear_dgrad(dy_, w2_, preact=z_, activation=activation))
        return out + list(ops.gated_dgrad(dy_, w2_, z_, o_, activation)[:2])

    for found, wanted in zip(results(device), results(cpu), strict=True):
        if device.type == "cpu" or activation == "relu":
            assert same(found, wanted)
        error = (found.cpu().double() - wanted.double()).abs()
        assert (error <= 2.0**-10 * wanted.double().abs() + 4e-6 * wanted.double().abs().max()).all()


def test_statistics_and_column_sums_are_those_of_what_was_stored(device):
    dy, x = (torch.randn(1000, n, device=device).half() for n in (320, 264))
    total = torch.randn(320, 264, device=device)
    stats = ops.linear_wgrad_(total, dy, x, want_stats=True)
    squares = total.double().square().sum()
    assert abs(stats[0] - squares) <= total.numel() * 2.0**-53 * squares
    assert stats[1:].tolist() == [0.0, 0.0]
    dx, db = H.linear_dgrad(dy, torch.randn(320, 264, device=device).half(), bias=True)
    exact, most = dx.double().sum(0), dx.double().abs().sum(0)
    assert ((db.double() - exact).abs() <= 2.0**-11 * exact.abs() + 64 * 2.0**-24 * most).all()
    dy[7, 9] = float("inf")
    assert ops.linear_wgrad_(total, dy, x, want_stats=True)[1] == 1.0


def test_the_same_bits_every_time(device):
    """Whatever the schedule of blocks was, split sums included."""
    x, dy = (torch.randn(s, device=device).half() for s in ((4096, 300), (4096, 200)))
    first = ops.linear_wgrad(dy, x, want_bias=True, want_stats=True)
    for _ in range(3):
        assert all(map(same, ops.linear_wgrad(dy, x, want_bias=True, want_stats=True), first))


@pytest.mark.cuda
def test_nothing_waits_and_a_graph_replays_it():
    """A block of a transformer, forward and backward, irregular batches too."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(halfops.nn.MLP(256, 512, 256), halfops.nn.GatedMLP(256, 384, 256)).cuda().half()
    x, grad = (torch.randn(333, 256, device="cuda").half() for _ in range(2))
    a = torch.randn(3, 1, 64, 40, device="cuda").half()
    b = torch.randn(1, 5, 40, 24, device="cuda").half()

    def run() -> list[Tensor]:
        model.zero_grad()
        out = model(x)
        out.backward(grad)
        return [out, H.matmul(a, b), *(p.grad for p in model.parameters())]

    run()
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        eager = [t.detach().clone() for t in run()]  # no graph that keeps its streams
    finally:
        torch.cuda.set_sync_debug_mode("default")
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        run()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = run()
    for t in captured:
        t.zero_()
    graph.replay()
    assert all(map(same, captured, eager))


@pytest.mark.cuda
def test_what_ran_is_visible():
    a = torch.randn(512, 512, device="cuda").half()
    H.matmul(a, a)
    assert "blocks" in ops.last_plan()
