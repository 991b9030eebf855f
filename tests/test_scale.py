"""The scale room: an exact flag, sums within a derived bound, the same bits from every thread count and CPU variant."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch

from halfops import functional
from halfops._ops import scale as ops
from halfops.reference import scale as reference

HALVES = [torch.float16, torch.bfloat16]
DTYPES = [*HALVES, torch.float32]
VARIANTS: list[str] = torch.ops.halfops.cpu_variants()
# As in csrc/core and csrc/scale: what a sum is cut into, what is read at once, what a thread takes.
LANES, CHUNK, BLOCK, PIECE = 256, 4096, 1024, 1 << 16
GROUP = 256 * CHUNK
# Around all of these, and the vectors of every variant.
SIZES = [0, 1, 7, 31, 33, 129, LANES - 1, LANES, LANES + 1, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK + 17]
SIZES += [CHUNK - 1, CHUNK, CHUNK + 1, PIECE - 1, PIECE, PIECE + 1, 2 * PIECE + 999]


@contextmanager
def cpu(variant: str | None = None, threads: int | None = None) -> Iterator[None]:
    before = torch.ops.halfops.cpu_variant(), torch.get_num_threads()
    try:
        torch.ops.halfops.set_cpu_variant(variant or before[0])
        torch.set_num_threads(threads or before[1])
        yield
    finally:
        torch.ops.halfops.set_cpu_variant(before[0])
        torch.set_num_threads(before[1])


@pytest.fixture(params=VARIANTS)
def variant(request: pytest.FixtureRequest) -> Iterator[str]:
    with cpu(request.param):
        yield request.param


def every_half(dtype: torch.dtype) -> torch.Tensor:
    return torch.arange(1 << 16, dtype=torch.int32).to(torch.int16).view(dtype)


def same_bits(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Bitwise, with one canonical NaN."""
    view = {2: torch.int16, 4: torch.int32, 8: torch.int64}[a.element_size()]
    a, b = (torch.where(x.isnan(), torch.full_like(x, math.nan), x).view(view) for x in (a, b))
    return torch.equal(a, b)


def same_stats(a: ops.GradStats, b: ops.GradStats) -> bool:
    return all(same_bits(x, y) for x, y in zip(a, b, strict=True))


def gradients(seed: int = 0) -> list[torch.Tensor]:
    """A list that mixes dtypes, sizes that hurt, no elements, no dimensions, and every dense layout."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator)

    made = [normal(n).to(DTYPES[i % 3]) for i, n in enumerate(SIZES)]
    made += [
        normal().half(),
        normal(17, 33).half().t(),
        normal(2, 3, 5, 7).bfloat16().to(memory_format=torch.channels_last),
    ]
    made += [normal(4, 1, 9).permute(2, 1, 0), normal(100).half()[3:50], torch.zeros(77), normal(0, 5).half()]
    return made


# -- the flag --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", HALVES)
def test_flag_of_every_half_pattern(variant: str, dtype: torch.dtype) -> None:
    """All 65,536, each alone in a tensor of a block and a tail, at places that move through lanes and tail."""
    patterns = every_half(dtype)
    wanted = ~patterns.isfinite()
    for length, chunk in ((1, patterns), (BLOCK + 37, patterns[~patterns.isfinite()]), (70, patterns[::7])):
        rows = torch.zeros(len(chunk), length, dtype=dtype)
        places = torch.arange(len(chunk)) * 5 % length
        rows[torch.arange(len(chunk)), places] = chunk
        tensors = list(rows.unbind())
        assert torch.equal(ops.grad_stats(tensors).per_tensor[:, 1] != 0, ~chunk.isfinite())
        inverse = torch.tensor(1.0)
        assert torch.equal(ops.unscale_(tensors, inverse).per_tensor[:, 1] != 0, ~chunk.isfinite())
    finite = patterns[~wanted]
    assert ops.nonfinite_check([finite]).item() == 0
    assert ops.grad_stats([finite]).found_inf.item() == 0


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("bad", [math.inf, -math.inf, math.nan])
def test_flag_at_every_position(variant: str, dtype: torch.dtype, bad: float) -> None:
    """Every place of a block, rows of lanes and a tail, at every alignment; neighbours in memory are not looked at."""
    length = BLOCK + LANES + 19
    rows = torch.full((length, length), 2.0, dtype=dtype)
    rows.fill_diagonal_(bad)
    tensors = list(rows.unbind())  # odd length: each row starts at another alignment
    assert ops.grad_stats(tensors).per_tensor[:, 1].min() == 1
    assert all(ops.nonfinite_check([row]).item() == 1 for row in tensors[:: 1 if dtype == torch.float16 else 7])
    for start in range(9):
        for stop in (start, start + 1, start + 40, length):
            guarded = torch.full((length + 16,), bad, dtype=dtype)
            guarded[start:stop] = 1
            assert ops.nonfinite_check([guarded[start:stop]]).item() == 0
            assert ops.grad_stats([guarded[start:stop]]).found_inf.item() == 0


# Below a vector, around one, and enough that every thread of a persistent grid takes several turns.
@pytest.mark.parametrize("numel", [1, 7, 8, 9, 33, 4099, 3_000_017])
@pytest.mark.parametrize("dtype", DTYPES)
def test_flag_on_each_device(device: torch.device, dtype: torch.dtype, numel: int) -> None:
    """Heads, vectors and tails at every offset; non-finite neighbours before and behind; last of several tensors."""
    for offset in range(9):
        guarded = torch.full((numel + 18,), math.nan, dtype=dtype, device=device)
        inside = guarded[offset : offset + numel]
        inside.fill_(torch.finfo(dtype).max)
        tensors = [torch.ones(5, device=device), torch.empty(0, device=device), inside]
        assert functional.nonfinite_check(tensors).item() == 0
        for place in {0, numel // 2, numel - 1}:
            for bad in (math.inf, -math.inf, math.nan):
                kept = inside[place].clone()
                inside[place] = bad
                assert functional.nonfinite_check(tensors).item() == 1, (offset, place, bad)
                inside[place] = kept


@pytest.mark.cuda
def test_flag_on_another_stream() -> None:
    """The check runs where torch's current stream is: after the fill that it follows there, not before."""
    tensor = torch.zeros(1 << 26, dtype=torch.float16, device="cuda")
    torch.cuda.synchronize()
    with torch.cuda.stream(torch.cuda.Stream()):
        for value, wanted in ((math.inf, 1), (1.0, 0)):
            tensor.fill_(value)
            found = functional.nonfinite_check([tensor])
            assert found.item() == wanted


@pytest.mark.parametrize("dtype", DTYPES)
def test_large_finite_numbers_raise_no_flag(variant: str, dtype: torch.dtype) -> None:
    """Squares of bfloat16 and float32 do not fit float32, nor do sums of the largest halves' squares fit float16."""
    largest = torch.full((PIECE + 5,), torch.finfo(dtype).max, dtype=dtype)
    stats = ops.grad_stats([largest, -largest])
    assert stats.found_inf.item() == 0
    assert stats.sum_of_squares.item() == pytest.approx(reference.sum_of_squares([largest, largest]), rel=1e-6)
    tiny = torch.full((PIECE + 5,), torch.finfo(dtype).smallest_normal / 4, dtype=dtype)
    assert ops.grad_stats([tiny]).sum_of_squares.item() == pytest.approx(reference.sum_of_squares([tiny]), rel=1e-6)


def test_infinity_and_nan_show_in_the_sum() -> None:
    stats = ops.grad_stats([torch.tensor([1.0, -math.inf]), torch.tensor([2.0]), torch.tensor([math.nan, math.inf])])
    assert stats.per_tensor[:, 0].tolist()[:2] == [math.inf, 4.0]
    assert math.isnan(stats.per_tensor[2, 0])
    assert math.isnan(stats.sum_of_squares)
    assert stats.found_inf.item() == 1


# -- sums ------------------------------------------------------------------------------------------------------------


def bound(tensor: torch.Tensor) -> float:
    """Relative, all terms being positive. Squares of 16-bit numbers and float32 are exact in what they are summed in.

    A lane adds CHUNK / LANES = 16 squares (15 roundings): in float32 for fp16, else in float64. Then additions in
    float64: trees of 8 levels over lanes, chunks and groups, and one for each further 256 groups.
    """
    additions = 15 + 3 * 8 + math.ceil(tensor.numel() / (256 * GROUP))
    narrow = 15 * 2.0**-24 if tensor.dtype == torch.float16 else 0.0
    return 1.01 * (narrow + additions * 2.0**-53)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("spread", [0.0, 3.0])
def test_sum_of_squares_within_its_bound(dtype: torch.dtype, size: int, spread: float) -> None:
    generator = torch.Generator().manual_seed(size)
    wide = torch.exp(spread * torch.randn(size, generator=generator))
    tensor = (torch.randn(size, generator=generator) * wide).clamp(-6e4, 6e4).to(dtype)
    exact = reference.sum_of_squares([tensor])
    stats = ops.grad_stats([tensor])
    assert abs(stats.sum_of_squares.item() - exact) <= bound(tensor) * exact
    assert stats.per_tensor[0, 0] == stats.sum_of_squares
    norm, found = functional.grad_norm(tensor)
    assert abs(norm.item() - math.sqrt(exact)) <= bound(tensor) * math.sqrt(exact)
    assert found.item() == 0


def spread(size: int, dtype: torch.dtype) -> torch.Tensor:
    """Numbers of many magnitudes: another order of adding them is another sum."""
    generator = torch.Generator().manual_seed(size)
    wide = torch.exp(3 * torch.randn(size, generator=generator))
    return (torch.randn(size, generator=generator) * wide).clamp(-6e4, 6e4).to(dtype)


@pytest.mark.parametrize("size", [*SIZES, GROUP - 1, GROUP, GROUP + 1, 3 * GROUP + 5 * CHUNK + 77])
@pytest.mark.parametrize("dtype", DTYPES)
def test_sums_are_added_in_one_order(variant: str, dtype: torch.dtype, size: int) -> None:
    """To the bit, against the definition in torch."""
    tensor = spread(size, dtype)
    wanted = reference.ordered_sum_of_squares(tensor)
    assert same_bits(ops.grad_stats([tensor]).sum_of_squares, wanted)
    assert same_bits(ops.unscale_([tensor], torch.tensor(1.0)).per_tensor[0, 0], wanted)


@pytest.mark.parametrize("count", [2, 255, 256, 257, 700])
def test_tensors_of_a_list_are_added_in_one_order(variant: str, count: int) -> None:
    tensors = [spread(1 + 37 * i % 5000, DTYPES[i % 3]) for i in range(count)]
    rows = torch.stack([reference.ordered_sum_of_squares(tensor) for tensor in tensors])
    stats = ops.grad_stats(tensors)
    assert same_bits(stats.per_tensor[:, 0], rows)
    assert same_bits(stats.sum_of_squares, reference.members(rows))


def test_more_groups_than_a_tree_has_leaves() -> None:
    """Over 256 groups of 256 chunks, of which a few hold something: the last rule of the order."""
    tensor = torch.zeros(257 * GROUP + 5, dtype=torch.float16)
    places = torch.randint(tensor.numel(), (4000,), generator=torch.Generator().manual_seed(0))
    tensor[places] = spread(4000, torch.float16)
    tensor[-5:] = 3.0
    chunks = [reference.ordered_sum_of_squares(group) for group in tensor.split(GROUP)]
    assert same_bits(ops.grad_stats([tensor]).sum_of_squares, reference.members(torch.stack(chunks)))


def test_statistics_of_a_mixed_list() -> None:
    tensors = gradients()
    before = [t.clone() for t in tensors]
    stats = ops.grad_stats(tensors, count_zeros=True)
    for tensor, (squares, nonfinite, zeros) in zip(tensors, stats.per_tensor.tolist(), strict=True):
        exact = reference.sum_of_squares([tensor])
        assert abs(squares - exact) <= bound(tensor) * exact
        assert nonfinite == 0
        assert zeros == reference.zeros(tensor)
    assert stats.sum_of_squares.item() == pytest.approx(stats.per_tensor[:, 0].sum().item(), rel=1e-14)
    assert ops.grad_stats(tensors).per_tensor[:, 2].max() == 0, "zeros are counted only when asked for"
    assert all(torch.equal(a, b) for a, b in zip(tensors, before, strict=True))


@pytest.mark.parametrize("dtype", DTYPES)
def test_zeros_are_exact_zeros_of_both_signs(variant: str, dtype: torch.dtype) -> None:
    least = torch.finfo(dtype).smallest_normal * torch.finfo(dtype).eps
    tensor = torch.tensor([0.0, -0.0, least, -least, 1.0], dtype=dtype).repeat(PIECE // 4)
    assert ops.grad_stats([tensor, tensor[:3]], count_zeros=True).per_tensor[:, 2].tolist() == [2 * (PIECE // 4), 2]


def test_same_bits_from_every_variant_and_thread_count() -> None:
    tensors = gradients()
    inverse = torch.tensor(1 / 3)
    results, unscaled = [], []
    for name in VARIANTS:
        for threads in (1, 2, 5):
            with cpu(name, threads):
                targets = [t.clone() for t in tensors]
                results.append((ops.grad_stats(tensors, True), ops.unscale_(targets, inverse, True)))
                unscaled.append(targets)
    for read, written in results[1:]:
        assert same_stats(read, results[0][0])
        assert same_stats(written, results[0][1])
    assert all(same_bits(a, b) for other in unscaled[1:] for a, b in zip(other, unscaled[0], strict=True))


def test_a_tensor_alone_and_in_a_list_have_the_same_sum() -> None:
    tensors = gradients()
    together = ops.grad_stats(tensors).per_tensor[:, 0]
    alone = torch.stack([ops.grad_stats([t]).sum_of_squares for t in tensors])
    assert torch.equal(together, alone)


# -- unscale ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("inv_scale", [1.0, 2.0**-16, 1 / 3, 3.0, 2.0**-40, 0.0, 1e38, math.inf])
def test_unscale_of_every_half(variant: str, dtype: torch.dtype, inv_scale: float) -> None:
    values = every_half(dtype)
    target = values.clone()
    stats = ops.unscale_([target], torch.tensor(inv_scale), count_zeros=True)
    wanted = reference.unscale(values, inv_scale)
    assert same_bits(target, wanted)
    assert same_stats(stats, ops.grad_stats([wanted], count_zeros=True)), "the statistics are those of what was stored"


def test_unscale_of_a_mixed_list_is_one_rounding() -> None:
    tensors = gradients(1)
    wanted = [reference.unscale(t, 1 / 3) for t in tensors]
    assert functional.unscale_(tensors, 1 / 3).item() == 0
    assert all(same_bits(a, b) for a, b in zip(tensors, wanted, strict=True))


def test_unscale_finds_what_overflows_before_or_after() -> None:
    assert functional.unscale_([torch.ones(3)], 0.5).item() == 0
    assert functional.unscale_([torch.ones(3), torch.tensor([math.inf])], 0.5).item() == 1
    assert functional.unscale_([torch.tensor([math.inf])], 0.0).item() == 1
    assert functional.unscale_([torch.full((3,), 60000.0).half()], 2.0).item() == 1


def test_unscale_tells_autograd_that_it_wrote() -> None:
    gradient = torch.ones(3)
    version = gradient._version
    functional.unscale_(gradient, 0.5)
    assert gradient._version > version


# -- the loss scale --------------------------------------------------------------------------------------------------


class Scale:
    """The four device numbers."""

    def __init__(self, scale: float, hysteresis: int = 1) -> None:
        self.scale = torch.tensor(scale)
        self.growth = torch.zeros((), dtype=torch.int32)
        self.credit = torch.full((), hysteresis, dtype=torch.int32)
        self.skipped = torch.zeros((), dtype=torch.int64)

    def update(self, found: float, policy: reference.Policy) -> None:
        state = (self.scale, self.growth, self.credit, self.skipped, torch.tensor(found))
        ops.scale_update_(*state, **vars(policy))

    def as_reference(self) -> reference.State:
        return reference.State(*(x.item() for x in (self.scale, self.growth, self.credit, self.skipped)))


@pytest.mark.parametrize("hysteresis", [1, 2, 3])
@pytest.mark.parametrize("interval", [1, 3, 7])
@pytest.mark.parametrize("rate", [0.02, 0.3, 0.9])
def test_loss_scale_follows_the_reference(hysteresis: int, interval: int, rate: float) -> None:
    policy = reference.Policy(4.0, 0.5, interval, hysteresis, 2.0**-3, 2.0**9)
    state = Scale(16.0, hysteresis)
    expected = state.as_reference()
    generator = random.Random(f"{hysteresis} {interval} {rate}")
    for _ in range(400):
        overflowed = generator.random() < rate
        state.update(generator.choice([1.0, 2.0, math.nan]) if overflowed else 0.0, policy)
        expected = reference.advance(expected, overflowed, policy)
        assert state.as_reference() == expected
        assert policy.min_scale <= expected.scale <= policy.max_scale


@pytest.mark.parametrize(("growth", "backoff"), [(2.0, 0.5), (1.7, 0.3)])
def test_loss_scale_is_torchs_without_bounds(growth: float, backoff: float) -> None:
    policy = reference.Policy(growth, backoff, 4, 1, 1e-38, 3e38)
    state, scale, tracker = Scale(2.0**16), torch.tensor(2.0**16), torch.zeros((), dtype=torch.int32)
    generator = random.Random(0)
    for step in range(360):
        found = float(generator.random() < (0.05 if step < 300 else 0.5))
        state.update(found, policy)
        torch._amp_update_scale_(scale, tracker, torch.tensor(found), growth, backoff, 4)
        assert torch.equal(state.scale, scale)
        assert torch.equal(state.growth, tracker)


def test_hysteresis_forgives_until_the_credit_is_used() -> None:
    policy = reference.Policy(growth_interval=3, hysteresis=2)
    state = Scale(64.0, 2)
    seen = []
    for found in (1, 0, 0, 1, 1, 0, 0, 0, 1, 1):
        state.update(float(found), policy)
        seen.append((state.scale.item(), state.credit.item()))
    # Forgiven; clean steps give no credit back; back off; again; a full clean interval renews it; forgiven; back off.
    wanted = [(64, 1), (64, 1), (64, 1), (32, 0), (16, 0), (16, 0), (16, 0), (32, 2), (32, 1), (16, 0)]
    assert seen == wanted


def test_a_scale_beyond_its_bounds_never_moves_further_or_the_wrong_way() -> None:
    policy = reference.Policy(growth_interval=1, min_scale=1.0, max_scale=1024.0)
    low, high = Scale(0.25), Scale(4096.0)
    low.update(1.0, policy)
    high.update(0.0, policy)
    assert (low.scale.item(), high.scale.item()) == (0.25, 4096.0)
    low.update(0.0, policy)
    high.update(1.0, policy)
    assert (low.scale.item(), high.scale.item()) == (0.5, 2048.0)


def test_scale_is_never_zero_or_infinite() -> None:
    policy = reference.Policy(2.0**100, 2.0**-100, 1, 1, 1e-300, math.inf)  # bounds that float32 does not have
    state = Scale(1.0)
    for found in [1.0] * 5 + [0.0] * 5:
        state.update(found, policy)
        assert 0 < state.scale.item() < math.inf


# -- registration ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count_zeros", [False, True])
def test_opcheck(count_zeros: bool) -> None:
    registered = torch.ops.halfops
    tensors = [torch.randn(7).half(), torch.randn(0), torch.randn(3, 4).t().bfloat16(), torch.randn(())]
    torch.library.opcheck(registered.nonfinite_check.default, (tensors,))
    torch.library.opcheck(registered.grad_stats.default, (tensors, count_zeros))
    torch.library.opcheck(registered.unscale_.default, (tensors, torch.tensor(0.5), count_zeros))
    state = Scale(4.0)
    arguments = (state.scale, state.growth, state.credit, state.skipped, torch.tensor(1.0), 2.0, 0.5, 20, 1, 1.0, 64.0)
    torch.library.opcheck(registered.scale_update_.default, arguments)


def test_functions_trace_in_one_graph() -> None:
    def body(a: torch.Tensor, b: torch.Tensor, inverse: torch.Tensor) -> tuple[torch.Tensor, ...]:
        found = functional.unscale_([a, b], inverse)
        norm, _ = functional.grad_norm([a, b])
        return found, norm, functional.nonfinite_check([a])

    inputs = torch.randn(40).half(), torch.randn(3, 5), torch.tensor(0.25)
    copies = [x.clone() for x in inputs]
    compiled = torch.compile(body, backend="aot_eager", fullgraph=True)(*copies)
    for got, wanted in zip(compiled, body(*inputs), strict=True):
        assert torch.equal(got, wanted)
    assert all(torch.equal(a, b) for a, b in zip(copies, inputs, strict=True))


def test_results_do_not_require_gradients() -> None:
    gradient = torch.ones(3, requires_grad=True)
    norm, found = functional.grad_norm([gradient])
    assert not norm.requires_grad
    assert not found.requires_grad
    assert not functional.nonfinite_check(iter([gradient])).requires_grad
