"""Kernels with inputs and the values they should give: what tests and mutations run."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from emulator import build
from emulator.gemm import SOURCES, Problem, padded, whole_numbers
from emulator.memory import misaligned
from emulator.program import Arrays, Mode, Program, Report, program
from emulator.tiles import TILES, how, swizzled
from emulator.work import work

# Small kernels that show one rule each, and those of tests/golden for the instructions.
SEMANTICS = program("semantics", "tests/golden/kernels/matrices.cu", "tests/golden/kernels/copies.cu")


@dataclass(frozen=True)
class Case:
    """A call of an entry. `check` gets the arrays after the call and says whether they are right."""

    program: Program
    entry: str
    arrays: Callable[[], Arrays]
    check: Callable[[Arrays], bool]
    seeds: int = 100  # of random orders that a right kernel is tried in
    conflict_free: bool = False  # no ldmatrix and no cp.async may wait for a bank of shared memory

    def outcome(self, mode: Mode, flavour: str = "plain", tree=build.ROOT) -> tuple[str, Report]:
        """What showed: "race", a word of AddressSanitizer, "error", "wrong" or "conflicts"; nothing if all is well."""
        arrays = self.arrays()
        changed = Program(self.program.name, self.program.sources, tree)
        report = changed.run(self.entry, arrays, mode, flavour)
        if report.races:
            return "race", report
        if report.address:
            return report.address, report
        if report.text:
            return "error", report
        if not self.check(arrays):
            return "wrong", report
        return ("conflicts" if self.conflict_free and report.counted.conflicts > 0 else ""), report


def to_bf16(x: np.ndarray) -> np.ndarray:
    bits = x.astype(np.float32).view(np.uint32)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16)


def from_bf16(bits: np.ndarray) -> np.ndarray:
    return (bits.astype(np.uint32) << 16).view(np.float32)


def momentum_case(size: int, offset: int) -> Case:
    """An optimizer step; all three tensors lie `offset` elements behind a multiple of 16 bytes."""
    random = np.random.default_rng(size)
    parameters, gradients = (to_bf16(random.standard_normal(size)) for _ in range(2))
    moments = random.standard_normal(size).astype(np.float32)
    rate, decay = np.float32(0.25), np.float32(0.5)
    new_moments = decay * moments + from_bf16(gradients)
    new_parameters = to_bf16(from_bf16(parameters) - rate * new_moments)
    sums = [np.sum(np.square(x, dtype=np.float64)) for x in (new_moments, from_bf16(gradients))]

    def arrays() -> Arrays:
        return {
            "parameters": misaligned(parameters, offset),
            "gradients": misaligned(gradients, offset),
            "moments": misaligned(moments, offset),
            "learning_rate": np.array([rate]),
            "decay": np.array([decay]),
            "sums": np.zeros(2, np.float32),
        }

    def check(arrays: Arrays) -> bool:
        same = np.array_equal(arrays["parameters"], new_parameters) and np.array_equal(arrays["moments"], new_moments)
        # A sum of `size` floats in another order: each addition rounds by half a unit in the last place.
        return same and np.allclose(arrays["sums"], sums, rtol=size * 2.0**-24, atol=0)

    return Case(program("momentum"), "momentum", arrays, check)


def exchange_case(entry: str, size: int, expected: Callable[[np.ndarray], np.ndarray]) -> Case:
    values = np.arange(1, size + 1, dtype=np.float32)
    result = expected(values)

    def arrays() -> Arrays:
        return {"in": values.copy(), "out": np.full(len(result), np.nan, np.float32)}

    return Case(program("exchange"), entry, arrays, lambda arrays: np.array_equal(arrays["out"], result))


def ring_case(cluster: int, clusters: int, tiles: int) -> Case:
    """Sums over the even and the odd rows of tiles that the blocks of a cluster load for each other."""
    whole = np.random.default_rng(tiles).integers(-99, 100, (tiles, 8 * cluster, 32)).astype(np.float32)
    sums = np.array([[whole[:, first::2].sum((0, 1)) for first in (0, 1)]] * cluster * clusters)

    def arrays() -> Arrays:
        numbers = {"tiles": np.array([tiles], np.int32), "cluster": np.array([cluster], np.uint32)}
        described = {"tensor": whole, "how": how(whole, (32, 8, 1), swizzle=128)}
        return described | numbers | {"out": np.full_like(sums, np.nan)}

    return Case(TILES, "ring", arrays, lambda arrays: np.array_equal(arrays["out"], sums))


def stored_tiles_case(times: int) -> Case:
    """Tiles that are added to a tensor, of which they cover a part."""
    whole, added = np.ones((1, 12, 40), np.float32), np.arange(times * 256, dtype=np.float32).reshape(times, 8, 32)
    wanted = whole.copy()
    wanted[0, 4:, 8:] += added.sum(0)

    def arrays() -> Arrays:
        numbers = {"times": np.array([times], np.int32), "adds": np.array([1], np.int32)}
        at = np.array([8, 4, 0], np.int32)
        described = {"tensor": whole.copy(), "how": how(whole, (32, 8, 1), swizzle=128), "at": at}
        return described | numbers | {"in": np.concatenate([swizzled(tile) for tile in added])}

    return Case(TILES, "store_tile", arrays, lambda arrays: np.array_equal(arrays["tensor"], wanted))


def everywhere_case(cluster: int, clusters: int) -> Case:
    """Each block gets the sum over its cluster, times its place there from 1 on."""
    given = np.random.default_rng(cluster).integers(-99, 100, (clusters, cluster, 64)).astype(np.float32)
    sums = given.sum(1, keepdims=True) * np.arange(1, cluster + 1, dtype=np.float32)[:, None]

    def arrays() -> Arrays:
        numbers = {"cluster": np.array([cluster], np.uint32), "status": np.array([-1], np.int32)}
        return {"in": given, "out": np.full_like(given, np.nan)} | numbers

    return Case(TILES, "everywhere", arrays, lambda arrays: np.array_equal(arrays["out"], sums))


def nonfinite_case(dtype: type, code: int, size: int, offset: int, place: int) -> Case:
    """A tensor of ones but for one NaN."""
    values = np.ones(size, np.float16 if dtype is np.uint16 else np.float32).view(dtype)
    values[place] = 0x7C01 if dtype is np.uint16 else 0x7F800001

    def arrays() -> Arrays:
        return {
            "tensor": misaligned(values, offset),
            "dtype": np.array([code], np.int32),
            "found_inf": np.full(1, np.nan, np.float32),
        }

    return Case(SCALE, "nonfinite", arrays, lambda arrays: arrays["found_inf"][0] == 1)


def stats_case(count: int, size: int) -> Case:
    """Many small tensors of whole numbers: their sums of squares are exact in any order."""
    values = [np.arange(i, i + size, dtype=np.float32) % 5 for i in range(count)]
    squares = np.array([np.sum(np.square(x)) for x in values])

    def arrays() -> Arrays:
        return {
            "tensor": [misaligned(x, i % 4) for i, x in enumerate(values)],
            "dtype": np.full(count, 2, np.int32),
            "count_zeros": np.ones(1, np.int8),
            "found_inf": np.full(1, np.nan, np.float32),
            "sum_of_squares": np.full(1, np.nan),
            "per_tensor": np.full((count, 3), np.nan),
        }

    def check(arrays: Arrays) -> bool:
        zeros = [np.sum(x == 0) for x in values]
        rows = np.stack([squares, np.zeros(count), zeros], axis=1)
        same = np.array_equal(arrays["per_tensor"], rows) and arrays["sum_of_squares"][0] == squares.sum()
        return same and arrays["found_inf"][0] == 0

    return Case(SCALE, "grad_stats", arrays, check, seeds=20)


def _streamed_sums(values: np.ndarray) -> np.ndarray:
    """Each thread adds up the 16 bytes of the opposite one."""
    return values.reshape(-1, 96, 4)[:, ::-1].sum(0).ravel()


def column_sums_case(rows: int, cols: int) -> Case:
    """The ordered sum of partial sums; whole numbers are exact in any order."""
    partial = (np.arange(rows * cols, dtype=np.float32) % 7).reshape(rows, cols)

    def arrays() -> Arrays:
        sizes = {"rows": np.array([rows]), "cols": np.array([cols])}
        return {"partial": partial.copy(), "sums": np.full(cols, np.nan, np.float32), **sizes}

    return Case(COLUMNS, "add_floats", arrays, lambda arrays: np.array_equal(arrays["sums"], partial.sum(0)), seeds=3)


def gated_case(size: int, offset: int) -> Case:
    """relu(gate) * up of whole numbers."""
    gate, up = (np.arange(size, dtype=np.float32) % k - 3 for k in (5, 7))
    product = to_bf16(np.maximum(gate, 0) * up)

    def arrays() -> Arrays:
        return {
            "activation": np.array([1], np.int32),
            "dtype": np.array([1], np.int32),
            "gate": misaligned(to_bf16(gate), offset),
            "up": misaligned(to_bf16(up), offset),
            "h": misaligned(np.full(size, 0x7FC0, np.uint16), offset),
        }

    return Case(POINTWISE, "gate", arrays, lambda arrays: np.array_equal(arrays["h"], product), seeds=20)


def _row_sums(values: np.ndarray) -> np.ndarray:
    padded = np.zeros(-(-len(values) // 96) * 96, np.float32)
    padded[: len(values)] = values
    return padded.reshape(-1, 96).sum(0)[::-1]


SCALE = program("scale", "csrc/scale/scale_cuda.cu", "csrc/collective/upload.cu")
POINTWISE = program("pointwise", "csrc/pointwise/pointwise_cuda.cu")
COLUMNS = program("columns")
OPTIM = program(
    "optim",
    "csrc/optim/optim_cuda.cu",
    "csrc/optim/optim_cuda_f16.cu",
    "csrc/optim/optim_cuda_bf16.cu",
    "csrc/optim/optim_cuda_f32.cu",
    "csrc/optim/rules.cpp",
    "csrc/collective/upload.cu",
)
# The same room with few instances, for sanitizers and planted bugs.
FEW = program(
    "adamw",
    "csrc/optim/optim_cuda.cu",
    "csrc/optim/rules.cpp",
    "csrc/collective/upload.cu",
)


def step_case(rule: str, master: str, sizes: list[int], offsets: dict[str, int], rounding: str = "nearest") -> Case:
    """A step with everything in it; what it should give is what the CPU's engine gives."""
    scaled = {"grad_scale": torch.tensor(8.0), "sum_of_squares": torch.tensor(99.0, dtype=torch.float64)}
    options = {"max_grad_norm": 0.5, "ema_decay": 0.75, "zero_grad": True, "seed": 3, **scaled}
    given = work(rule, [(torch.float16, master)], sizes, ema=True)
    wanted = copy.deepcopy(given)
    wanted.step(rounding, **options)
    return Case(
        FEW,
        "step",
        lambda: given.arrays(offsets, rounding, **options),
        lambda arrays: wanted.differences(arrays) == [],
    )


# One tile each, in one layout: what planted bugs compile again and again.
GEMM_ASYNC = program("linear_async", *SOURCES)
GEMM_STAGED = program("linear_staged", *SOURCES)
GEMM_CLUSTER = program("linear_bulk_one", *SOURCES)


def gemm_case(using: Program, problem: Problem, **wanted: Tensor) -> Case:
    """Outputs of numbers so chosen that no sum depends on an order that is not laid down."""

    def check(arrays: Arrays) -> bool:
        values = {name: tensor.numpy() for name, tensor in wanted.items()}
        return all(np.array_equal(arrays[name].view(x.dtype), x.ravel()) for name, x in values.items())

    # Memory of its own for the outputs of each run.
    def arrays() -> Arrays:
        return copy.deepcopy(problem).arrays()[0]

    return Case(using, "gemm", arrays, check, seeds=2, conflict_free=True)


def whole_tiles_case() -> Case:
    """Two tiles with an end on each side; the outputs' rounding shows in what is summed of them."""
    a, b = whole_numbers(63, 200, seed=1, most=15), padded(whole_numbers(200, 71, seed=2, most=15), 72)
    out = (a.double() @ b.double() / 16).half()
    problem = Problem(a, b, alpha=1 / 16, wants=("column_sums", "stats"), row="64x64x64")
    sums = {"column_sums": out.double().sum(0).half(), "stats": torch.tensor([out.double().square().sum(), 0, 0])}
    return gemm_case(GEMM_ASYNC, problem, out=out, **sums)


def pieces_case() -> Case:
    """Three tiles of four steps, shared by seven blocks, of which one has a part of two tiles.

    The first step of two tiles gives 2^24, where fp32 has even numbers alone: the order of the pieces shows.
    """
    a, b = whole_numbers(63, 200, seed=3), padded(whole_numbers(200, 135, seed=4), 136)
    a[:, :64], b[0] = 0, 4096
    a[:, 0], b[0, 128:] = 4096, 0
    out = torch.empty(63, 135)
    for tile, ends in enumerate(((0, 64, 192, 200), (0, 64, 128, 200), (0, 128, 200))):
        columns = slice(tile * 64, tile * 64 + 64)
        pieces = [a[:, k:end].double() @ b[k:end, columns].double() for k, end in itertools.pairwise(ends)]
        out[:, columns] = sum(piece.float() for piece in pieces)
    return gemm_case(GEMM_ASYNC, Problem(a, b, out_dtype=torch.float32, row="64x64x64", blocks=7), out=out)


def many_pieces_case() -> Case:
    """A tile of eighteen steps in as many pieces, which four warps add up."""
    a, b = whole_numbers(30, 18 * 64, seed=9), padded(whole_numbers(18 * 64, 41, seed=10), 48)
    out = (a.double() @ b.double()).half()
    return gemm_case(GEMM_ASYNC, Problem(a, b, row="64x64x64", blocks=18), out=out)


def gated_gradient_case() -> Case:
    """The gradients of relu(gate) * up, which need both of a warp's patches."""
    grad, weight = whole_numbers(63, 72, seed=5), padded(whole_numbers(72, 71, seed=6), 72)
    gate, up = whole_numbers(63, 71, seed=7), whole_numbers(63, 71, seed=8)
    v = grad.double() @ weight.double()
    out, out2 = (v * up * (gate > 0)).half(), (v * gate.relu()).half()
    problem = Problem(grad, weight, activation="relu", more={"grad_preact": gate, "grad_up": up}, row="64x64x64")
    problem.wants = ("out2", "column_sums", "column_sums2")
    sums = {"column_sums": out.double().sum(0).half(), "column_sums2": out2.double().sum(0).half()}
    return gemm_case(GEMM_ASYNC, problem, out=out, out2=out2, **sums)


def two_weights_case(using: Program, row: str, k: int, blocks: int = 0) -> Case:
    """relu(x gate) * (x up). Staged: nothing aligned, and memory that ends with the last element."""
    x, gate, up = (whole_numbers(rows, k, seed=rows + i, most=1) for i, rows in enumerate((66, 35, 35)))
    weights = [w.mT if using is GEMM_STAGED else padded(w.mT, 40) for w in (gate, up)]
    out = ((x.double() @ gate.mT.double()).relu() * (x.double() @ up.mT.double())).half()
    problem = Problem(x, weights[0], activation="relu", more={"b2": weights[1]}, row=row, blocks=blocks)
    return gemm_case(using, problem, out=out)


def cluster_case() -> Case:
    """Nine tiles of six steps, five for a cluster: more steps than stages, more tiles than can be told ahead, a last
    row of tiles of which one block has nothing."""
    a, b = padded(whole_numbers(520, 330, seed=1), 336), padded(whole_numbers(330, 528, seed=2), 536)
    out = (a.double() @ b.double() / 16).half()
    return gemm_case(GEMM_CLUSTER, Problem(a, b, alpha=1 / 16, row="256x256x64 bulk"), out=out)


APART = {"weight": 1, "grad": 2, "master": 3, "state": 1, "ema": 2}
HEAD = {"weight": 4, "grad": 4, "master": 4}
CASES = {
    "adamw": step_case("adamw", "split", [9, 520, 4101], {}),
    "adamw, a head": step_case("adamw", "split", [600], HEAD),
    "adamw, nothing aligned": step_case("adamw", "split", [9, 520], APART),
    "adamw, stochastic": step_case("adamw", "none", [9, 520], {"grad": 1}, "stochastic"),
    "lamb": step_case("lamb", "split", [9, 520], HEAD),
    "momentum": momentum_case(1003, 0),
    "momentum, misaligned": momentum_case(1003, 1),
    "neighbour": exchange_case("neighbour", 96, lambda x: x.reshape(-1, 2)[:, ::-1].ravel()),
    "backwards": exchange_case("backwards", 50, lambda x: x[::-1]),
    "row sums": exchange_case("row_sums", 200, _row_sums),
    "handover": exchange_case("handover", 96, lambda x: x),
    "streamed sums": exchange_case("streamed_sums", 5 * 96 * 4, _streamed_sums),
    "matrices": exchange_case("matrices", 128, lambda x: x),
    "ring of tiles": ring_case(cluster=2, clusters=2, tiles=5),
    "stored tiles": stored_tiles_case(times=5),
    "everywhere": everywhere_case(cluster=4, clusters=2),
    "nonfinite": nonfinite_case(np.uint16, 0, 4099, 1, place=-2),
    "nonfinite, another lane": nonfinite_case(np.uint16, 0, 4099, 1, place=77),
    "stats": stats_case(count=300, size=131),
    "column sums": column_sums_case(rows=1100, cols=20),
    "gated": gated_case(size=1003, offset=1),
    "gemm": whole_tiles_case(),
    "gemm in pieces": pieces_case(),
    "gemm in many pieces": many_pieces_case(),
    "gemm, gradients": gated_gradient_case(),
    "gemm, two weights": two_weights_case(GEMM_ASYNC, "64x64x64", k=72, blocks=6),
    "gemm, staged": two_weights_case(GEMM_STAGED, "64x64x32 staged", k=51),
    "gemm, clusters": cluster_case(),
}
