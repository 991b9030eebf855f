"""The CUDA kernels of the scale and optim rooms against their CPU twins, bit for bit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from emulator.cases import OPTIM, SCALE
from emulator.program import Mode
from emulator.work import CHUNK, CODES, FORMATS, LANES, Work, memory, same_bits, work
from halfops._ops import optim as optim_ops
from halfops._ops import scale as scale_ops

MODES = [Mode(), Mode("reverse"), Mode("random", 3), Mode("priority", 5, multiprocessors=1)]


# --- the scale room -------------------------------------------------------------------------------------------------


def stats_arrays(tensors: list[Tensor], offset: int, count_zeros: bool) -> dict[str, Any]:
    return {
        "tensor": [memory(t, (offset + i) % 8) for i, t in enumerate(tensors)],
        "dtype": np.array([CODES[t.dtype] for t in tensors], np.int32),
        "count_zeros": np.array([count_zeros], np.int8),
        "found_inf": np.full(1, np.nan, np.float32),
        "sum_of_squares": np.full(1, np.nan),
        "per_tensor": np.full((len(tensors), 3), np.nan),
    }


def check_stats(arrays: dict[str, Any], wanted: scale_ops.GradStats) -> None:
    assert same_bits(arrays["found_inf"], wanted.found_inf.view(1))
    assert same_bits(arrays["per_tensor"], wanted.per_tensor)
    assert same_bits(arrays["sum_of_squares"], wanted.sum_of_squares.view(1))


def some_tensors(sizes: list[int], seed: int = 0) -> list[Tensor]:
    """Of all dtypes in turn, with magnitudes over four decades and a few zeros of either sign."""
    generator = torch.Generator().manual_seed(seed)
    made = []
    for i, size in enumerate(sizes):
        values = torch.randn(size, generator=generator) * 10 ** (4 * torch.rand(size, generator=generator) - 3)
        values[torch.rand(size, generator=generator) < 0.05] = -0.0 if i % 2 else 0.0
        made.append(values.to(list(CODES)[i % 3]))
    return made


# Three of each, so that every dtype has each size: around vectors, rows of lanes, chunks; empty ones; several chunks.
SIZES = [
    size
    for size in (0, 1, 7, 8, 33, LANES - 1, LANES + 9, CHUNK - 1, CHUNK, CHUNK + 5, 3 * CHUNK + 77)
    for _ in range(3)
]


@pytest.mark.parametrize("offset", range(8))
def test_stats_are_the_cpus(offset):
    tensors = some_tensors(SIZES, offset)
    arrays = stats_arrays(tensors, offset, count_zeros=True)
    before = [array.copy() for array in arrays["tensor"]]
    assert SCALE.run("grad_stats", arrays, MODES[offset % len(MODES)]).text == ""
    check_stats(arrays, scale_ops.grad_stats(tensors, count_zeros=True))
    assert all(np.array_equal(a, b) for a, b in zip(arrays["tensor"], before, strict=True))


@pytest.mark.parametrize("offset", range(8))
def test_unscaling_is_the_cpus(offset):
    tensors = some_tensors(SIZES, offset)
    arrays = stats_arrays(tensors, offset, count_zeros=offset % 2 == 0)
    arrays["inv_scale"] = np.array([0.37 if offset % 2 else 2.0**-20], np.float32)
    assert SCALE.run("unscale", arrays, MODES[offset % len(MODES)]).text == ""
    wanted = scale_ops.unscale_(tensors, torch.from_numpy(arrays["inv_scale"])[0], count_zeros=offset % 2 == 0)
    check_stats(arrays, wanted)
    assert all(same_bits(a, t) for a, t in zip(arrays["tensor"], tensors, strict=True))


def test_groups_of_chunks_and_of_tensors_are_added_as_on_the_cpu():
    """More than 256 chunks in a tensor, more than 256 tensors in the list."""
    tensors = some_tensors([CHUNK * 257 + 3, *[5] * 300, CHUNK * 2])
    arrays = stats_arrays(tensors, 0, count_zeros=True)
    assert SCALE.run("grad_stats", arrays, Mode()).text == ""
    check_stats(arrays, scale_ops.grad_stats(tensors, count_zeros=True))


@pytest.mark.parametrize("bad", [float("inf"), -float("inf"), float("nan")])
@pytest.mark.parametrize("dtype", CODES)
def test_what_is_not_finite_shows_in_flag_sum_and_row(dtype, bad):
    tensors = [torch.ones(CHUNK + 9, dtype=dtype), torch.ones(33, dtype=dtype), torch.ones(5, dtype=dtype)]
    for place in (0, 8, CHUNK - 1, CHUNK, CHUNK + 8):
        tensors[0].fill_(1)[place] = bad
        arrays = stats_arrays(tensors, place, count_zeros=False)
        assert SCALE.run("grad_stats", arrays, Mode("random", place)).text == ""
        check_stats(arrays, scale_ops.grad_stats(tensors))
        assert arrays["per_tensor"][:, 1].tolist() == [1, 0, 0]


POLICY = {"growth_factor": 2.0, "backoff_factor": 0.5, "growth_interval": 3, "hysteresis": 2}
BOUNDS = {"min_scale": 1.0, "max_scale": 2.0**24}


def test_the_scale_moves_as_on_the_cpu():
    random = np.random.default_rng(0)
    types = {"scale": np.float32, "growth_tracker": np.int32, "hysteresis_tracker": np.int32, "skipped_steps": np.int64}
    start = {"scale": 2.0**16, "growth_tracker": 0, "hysteresis_tracker": 2, "skipped_steps": 0}
    arrays = {name: np.array([value], types[name]) for name, value in start.items()}
    state = [torch.tensor(value, dtype=torch.from_numpy(arrays[name]).dtype) for name, value in start.items()]
    kinds = {"growth_interval": np.int32, "hysteresis": np.int32, "min_scale": np.float32, "max_scale": np.float32}
    policy = {name: np.array([value], kinds.get(name, np.float64)) for name, value in {**POLICY, **BOUNDS}.items()}
    for _ in range(40):
        found = np.array([random.random() < 0.3], np.float32)
        assert SCALE.run("scale_update", {**arrays, **policy, "found_inf": found}).text == ""
        scale_ops.scale_update_(*state, torch.from_numpy(found)[0], **POLICY, **BOUNDS)
        assert [arrays[name][0] for name in start] == [value.item() for value in state]


# --- the optim room -------------------------------------------------------------------------------------------------


def check_step(case: Work, mode: Mode, offsets: dict[str, int], rounding: str = "nearest", **options: Any) -> None:
    arrays = case.arrays(offsets, rounding, **options)
    assert OPTIM.run("step", arrays, mode).text == ""
    case.step(rounding, **options)
    assert case.differences(arrays) == []


# A common alignment, a common misalignment that a head makes up for, gradients of their own, nothing in common.
OFFSETS = {
    "aligned": {},
    "head": {"weight": 4, "grad": 4, "master": 4, "state": 0, "ema": 0},
    "grads apart": {"grad": 3},
    "all apart": {"weight": 1, "grad": 2, "master": 3, "state": 1, "ema": 2},
}
STEP_SIZES = [0, 1, 9, LANES + 13, CHUNK + 21]


@pytest.mark.parametrize("place", OFFSETS)
@pytest.mark.parametrize("rule", optim_ops.rules())
def test_a_step_is_the_cpus(rule, place):
    """Every rule on every format in one list, twice, with loss scale, clipping, moving average."""
    case = work(rule, FORMATS, STEP_SIZES, ema=True)
    mode = MODES[list(OFFSETS).index(place)]
    scalars = {"grad_scale": torch.tensor(4.0), "sum_of_squares": torch.tensor(77.0, dtype=torch.float64)}
    for _ in range(2):
        check_step(case, mode, OFFSETS[place], max_grad_norm=0.7, ema_decay=0.9, **scalars)


@pytest.mark.parametrize("place", OFFSETS)
@pytest.mark.parametrize("rule", ["adamw", "sgd"])
def test_stochastic_rounding_draws_the_same_bits(rule, place):
    case = work(rule, [(torch.float16, "none"), (torch.bfloat16, "none"), (torch.float32, "none")], STEP_SIZES)
    check_step(case, Mode("random", 2), OFFSETS[place], "stochastic", seed=2**63 - 5)


@pytest.mark.parametrize("rule", optim_ops.rules())
def test_a_closed_gate_changes_nothing_and_still_zeroes_gradients(rule):
    for options in ({"found_inf": torch.tensor(1.0)}, {"grad_scale": torch.tensor(0.0)}):
        for zero_grad in (False, True):
            case = work(rule, FORMATS, [3, LANES + 3], ema=True)
            before = case.arrays({}, "nearest")
            check_step(case, Mode("random", 1), {"grad": 1}, zero_grad=zero_grad, ema_decay=0.5, **options)
            unchanged = [name for name in case.differences(before) if not name.startswith("grad")]
            assert unchanged == []
            assert all(not grad.any() for grad in case.grads) == zero_grad


@pytest.mark.parametrize("rule", optim_ops.rules())
def test_gradients_become_zero_in_the_same_pass(rule):
    case = work(rule, FORMATS, [1, CHUNK + 3])
    check_step(case, Mode("priority", 4), {"grad": 1}, zero_grad=True)
    assert not any(grad.any() for grad in case.grads)


def test_norms_of_lamb_over_many_chunks_are_the_cpus():
    case = work("lamb", [(torch.float16, "split")], [CHUNK * 257 + 3, 5, CHUNK])
    check_step(case, Mode(), {})


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_formats_are_the_cpus(dtype):
    generator = torch.Generator().manual_seed(0)
    master = torch.randn(5000, generator=generator) * 10 ** (10 * torch.rand(5000, generator=generator) - 8)
    weight, remainder = optim_ops.split_master(master, dtype)
    arrays = {
        "master": master.numpy().copy(),
        "weight": np.zeros(5000, np.int16),
        "remainder": np.zeros(5000, np.int16),
        "dtype": np.array([CODES[dtype]], np.int32),
    }
    assert OPTIM.run("split", arrays).text == ""
    assert same_bits(arrays["weight"], weight)
    assert same_bits(arrays["remainder"], remainder)
    arrays["master"].fill(0)
    assert OPTIM.run("join", arrays).text == ""
    assert same_bits(arrays["master"], optim_ops.join_master(weight, remainder))
    for rounding in ("nearest", "stochastic"):
        options = {"seed": 5, "step": 6, "key": 7}
        target = np.zeros(5000, np.int16)
        given = {"source": master.numpy(), "target": target, "from": np.array([2], np.int32), "to": arrays["dtype"]}
        given["rounding"] = np.array([rounding == "stochastic"], np.int32)
        given |= {"seed": np.array([5], np.uint64), "step": np.array([6], np.uint32), "key": np.array([7], np.uint32)}
        assert OPTIM.run("cast", given).text == ""
        assert same_bits(target, optim_ops.cast(master, dtype, rounding=rounding, **options))
