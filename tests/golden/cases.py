"""The table of cases: an entry of kernels/, its inputs, its results, and where it is simple an expectation in NumPy."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from golden import expected, inputs

Arrays = dict[str, np.ndarray]

# Of each case the results and what their bits are: of a float format, every NaN counts as the same one, because IEEE
# leaves sign and payload open and machines differ in them (fp16: 0x7fff on a GPU, the input's upper payload elsewhere).
FLOATS = {
    "f16": (np.uint16, 0x7FFF, 0x7C00),
    "bf16": (np.uint16, 0x7FFF, 0x7F80),
    "f32": (np.uint32, 0x7FFFFFFF, 0x7F800000),
    "f64": (np.uint64, 0x7FFFFFFFFFFFFFFF, 0x7FF0000000000000),
}


def bits(array: np.ndarray, kind: str) -> np.ndarray:
    """The bits of an array as unsigned integers, with one NaN (all ones but the sign) for all."""
    if kind not in FLOATS:
        return array.view(f"u{array.itemsize}")
    unsigned, magnitude, infinity = FLOATS[kind]
    found = array.view(unsigned).copy()
    found[(found & unsigned(magnitude)) > unsigned(infinity)] = magnitude
    return found


@dataclass(frozen=True)
class Case:
    """`results` names the arrays that are compared, with the kind of their elements."""

    file: str  # kernels/<file>.cu, and <file>.json where a GPU's answers are
    entry: str
    arrays: Callable[[], Arrays]
    results: dict[str, str]
    expected: Callable[[Arrays], Arrays] | None = None


def _shuffle_cases() -> np.ndarray:
    """Lanes that take part are whole segments of the width: to read a lane that does not is undefined."""
    rows = []
    for width in (1, 2, 4, 8, 16, 32):
        segment = (1 << width) - 1
        some = sum(segment << first for first in range(0, 32, 2 * width)) & 0xFFFFFFFF
        for mask in {0xFFFFFFFF, some, segment}:
            rows += [(mask, argument, width, 0) for argument in (*range(32), 32, 33, 63, 100)]
    return np.array(sorted(rows), np.uint32)


def _shuffle_arrays(dtype: type) -> Arrays:
    cases = _shuffle_cases()
    values = inputs.words(32, 5).astype(dtype) * dtype(1 if dtype is np.uint32 else 0x100000001)
    return {"cases": cases, "values": values, "out": np.zeros((len(cases), 4, 32), dtype)}


def _vote_arrays() -> Arrays:
    masks = [0xFFFFFFFF, 1, 0x80000000, 0x0000FFFF, 0xAAAAAAAA, 0x00010008, *inputs.words(10, 6).tolist()]
    predicates = [0, 0xFFFFFFFF, 1, 0x55555555, *inputs.words(6, 7).tolist()]
    cases = np.array([(m, p) for m in masks if m for p in predicates], np.uint32)
    return {"cases": cases, "out": np.zeros((len(cases), 8, 32), np.uint32)}


def _block_vote_arrays(threads: int) -> Arrays:
    rows = np.zeros((6, threads), np.int32)
    rows[1] = 1
    rows[2, -1] = 5
    rows[3] = -1
    rows[3, 0] = 0
    rows[4:] = inputs.words(2 * threads, 8).reshape(2, threads) % 3
    out = np.zeros((6, threads, 3), np.int32)
    return {"predicates": rows, "threads": np.zeros(threads, np.uint8), "out": out}


def _atomic_arrays() -> Arrays:
    n = 1024
    start = np.zeros(16, np.uint32)
    start[[2, 4]] = 0xFFFFFFFF
    start[10], start[11] = 0x80000000, 0x7FFFFFFF
    wide = np.array([1, 0, 2**64 - 1], np.uint64)
    return {
        "values": inputs.words(n, 9),
        "words": start,
        "wide": wide,
        "reals": np.zeros(1, np.float32),
        "tickets": np.zeros(n, np.uint32),
    }


def _convert(source: Callable[[], np.ndarray], target: type) -> Callable[[], Arrays]:
    def arrays() -> Arrays:
        given = source()
        return {"in": given, "out": np.zeros(len(given), target)}

    return arrays


def _stochastic() -> Arrays:
    given = inputs.floats_around_halves()
    random = inputs.words(len(given), 10)
    random[::5], random[1::7] = 0, 0xFFFFFFFF
    return {"in": given, "random": random, "out": np.zeros(len(given), np.uint16)}


def _split() -> Arrays:
    given = inputs.floats_around_halves()
    n = len(given)
    return {
        "in": given,
        "weight": np.zeros(n, np.uint16),
        "remainder": np.zeros(n, np.int16),
        "back": np.zeros(n, np.float32),
    }


def _triples(dtype: type, results: int) -> Callable[[], Arrays]:
    def arrays() -> Arrays:
        given = inputs.triples(dtype)
        return {"in": given, "out": np.zeros(len(given) // 3 * results, dtype)}

    return arrays


def _powers() -> Arrays:
    bases = np.array([0.9, 0.95, 0.999, 0.9999, 1.0, 0.0, 0.5, 1 - 2.0**-53, 2.0, -0.3])
    exponents = np.array([0, 1, 2, 3, 7, 100, 1001, 65535, 10**6, 2**40 + 1], np.int64)
    base, exponent = (part.ravel().copy() for part in np.meshgrid(bases, exponents))
    return {"base": base, "exponent": exponent, "out": np.zeros(len(base))}


def _philox() -> Arrays:
    # The two known answers of the Random123 library, and others.
    known = np.array([[0] * 6, [0xFFFFFFFF] * 6], np.uint32).ravel()
    return {"in": np.concatenate([known, inputs.words(6 * 1022, 11)]), "out": np.zeros(4 * 1024, np.uint32)}


def _rows(count: int) -> Callable[[], Arrays]:
    """Rows in order, backwards, all the same, eight chunks a row with and without a swizzle, in any order."""
    lanes = np.arange(32)
    anywhere = inputs.words(6 * 32, 12).reshape(6, 32) % 64
    swizzled = lanes % 8 * 8 + (lanes // 8 ^ lanes % 8)
    rows = [lanes, 63 - lanes, lanes * 0 + 5, lanes % 8 * 8 + lanes // 8, swizzled, *anywhere]

    def arrays() -> Arrays:
        return {
            "in": inputs.words(len(rows) * 64 * 8, 13).astype(np.uint16).reshape(len(rows), 64, 8),
            "row": np.array(rows, np.int32),
            "out": np.zeros((len(rows), 32, count), np.uint32),
        }

    return arrays


def _whole_numbers(n: int, salt: int, most: int) -> np.ndarray:
    return (inputs.words(n, salt) % (2 * most + 1)).astype(np.float32) - most


def _fragments(to_bits: Callable[[np.ndarray], np.ndarray], cases: int = 16) -> Callable[[], Arrays]:
    """Small whole numbers, so that every sum is exact, and one case for each element of a and b that is not 0."""

    def packed(values: np.ndarray) -> np.ndarray:
        return np.ascontiguousarray(to_bits(values)).view(np.uint32)

    def arrays() -> Arrays:
        a = _whole_numbers(cases * 32 * 8, 14, 100).reshape(cases, 32, 8)
        b = _whole_numbers(cases * 32 * 4, 15, 100).reshape(cases, 32, 4)
        d = _whole_numbers(cases * 32 * 4, 16, 1000).reshape(cases, 32, 4)
        for case in range(8):
            a[case, :, np.arange(8) != case] = 0
            b[case, :, np.arange(4) != case // 4 * 2 + case % 2] = 0
        return {"a": packed(a), "b": packed(b), "d": d}

    return arrays


def _f16_bits(values: np.ndarray) -> np.ndarray:
    return values.astype(np.float16).view(np.uint16)


def _bf16_bits(values: np.ndarray) -> np.ndarray:
    """Of numbers that need no rounding."""
    return (values.view(np.uint32) >> 16).astype(np.uint16)


def _copies() -> Arrays:
    n = 17 * 16
    given = (inputs.words(4 * n, 17) | np.uint32(0x01010101)).view(np.uint8).reshape(n, 16)
    return {"in": given, "bytes": (np.arange(n) * 7 % 17).astype(np.int32), "out": np.zeros((n, 16), np.uint8)}


def _groups() -> Arrays:
    given = inputs.words(9 * 128 * 4, 18).view(np.uint8).reshape(9, 128, 16)
    return {"in": given, "out": np.zeros_like(given)}


def _stored_rows() -> Arrays:
    lanes = np.arange(32)
    return {
        "in": inputs.words(128, 19).reshape(32, 4),
        "row": (lanes % 8 * 8 + (lanes // 8 ^ lanes % 8)).astype(np.int32),
        "out": np.zeros((64, 4), np.uint32),
    }


# A warpgroup's product: the begin of each operand, the distances to the next 64 of M (or N) and to the next eight
# lines, in pictures of shared memory; accumulated or not. The second is the next 16 of K.
def _warpgroup(columns: int, turned_a: bool, turned_b: bool, to_bits: Callable[[np.ndarray], np.ndarray]):
    def operand(turned: bool, second: bool) -> list[int]:
        return [2048 * second, 8192, 1024] if turned else [32 * second, 16, 1024]

    def arrays() -> Arrays:
        how = [[*operand(turned_a, second), *operand(turned_b, second), second] for second in (False, True)]
        return {
            "a": to_bits(_whole_numbers(16384 // 2, 20, 1)).view(np.uint32),
            "b": to_bits(_whole_numbers(65536 // 2, 21, 1)).view(np.uint32),
            "registers": to_bits(_whole_numbers(128 * 8, 22, 2)).view(np.uint32),
            "how": np.array(how, np.int32),
            "d": _whole_numbers(2 * 128 * columns // 2, 23, 3).reshape(2, 128, columns // 2),
        }

    return arrays


LAYOUTS = {"k": False, "m": True}  # what lines run along: K, or M (or N)
WARPGROUPS = [
    *[("f16", n, a + b) for n in (8, 64, 256) for a in "km" for b in "km"],
    *[("bf16", 64, a + b) for a in "km" for b in "km"],
    *[("f16", n, layout) for n in (128, 192) for layout in ("kk", "mm")],
    *[(dtype, 64, layout) for dtype in ("f16", "bf16") for layout in ("rk", "rm")],
]


def _warpgroup_case(dtype: str, columns: int, layout: str) -> Case:
    to_bits = _f16_bits if dtype == "f16" else _bf16_bits
    made = _warpgroup(columns, layout[0] == "m", layout[1] == "m", to_bits)
    return Case(
        "warpgroups", f"wgmma_{dtype}_{columns}_{layout}", made, {"d": "f32"},
        lambda given: expected.warpgroup(given, dtype, columns, layout),
    )  # fmt: skip


DTYPES = {"f16": (0, 2), "bf16": (1, 2), "f32": (2, 4)}  # the library's number, bytes


def _tensor(dtype: str, extents: tuple[int, int, int], box: tuple[int, int, int], swizzle: int) -> Arrays:
    """A tensor whose rows are padded to multiples of 16 bytes, and what describes it."""
    code, size = DTYPES[dtype]
    pitch = -(-extents[0] * size // 16) * 16
    numbers = _whole_numbers(pitch // size * extents[1] * extents[2], 24, 60)
    raw = {"f16": _f16_bits, "bf16": _bf16_bits, "f32": lambda x: x.view(np.uint32)}[dtype](numbers)
    how = [code, *extents, pitch, pitch * extents[1], *box, swizzle]
    return {"tensor": raw.reshape(extents[2], extents[1], pitch // size), "how": np.array(how, np.int64)}


EXTENTS, PLACES = (70, 13, 3), [(0, 0, 0), (3, 2, 1), (-5, -3, 0), (48, 9, 2), (64, 10, -1), (80, 0, 0), (8, 12, 2)]


def _loads(box: tuple[int, int, int], swizzle: int) -> Callable[[], Arrays]:
    def arrays() -> Arrays:
        out = np.zeros((len(PLACES), box[0] * box[1] * box[2] * 2 // 4), np.uint32)
        return {**_tensor("f16", EXTENTS, box, swizzle), "at": np.array(PLACES, np.int32), "out": out}

    return arrays


def _stores(dtype: str, swizzle: int) -> Callable[[], Arrays]:
    size = DTYPES[dtype][1]
    box = (32 // size * 2, 8, 1) if swizzle == 64 else (16, 4, 2)

    def arrays() -> Arrays:
        given = _tensor(dtype, EXTENTS, box, swizzle)
        numbers = _whole_numbers(len(PLACES) * box[0] * box[1] * box[2], 25, 60)
        raw = {"f16": _f16_bits, "bf16": _bf16_bits, "f32": lambda x: x.view(np.uint32)}[dtype](numbers)
        return {**given, "at": np.array(PLACES, np.int32), "in": raw.view(np.uint32)}

    return arrays


def _cluster() -> Arrays:
    given = _tensor("f16", (64, 16, 3), (64, 8, 1), 128)
    return {**given, "out": np.zeros((3, 2, 16 * 32), np.uint32), "others": np.zeros(2, np.float32)}


def _roles() -> Arrays:
    return {"in": inputs.words(128, 26), "out": np.zeros((2, 128), np.uint32)}


CASES = [
    Case("shuffles", "shuffles", lambda: _shuffle_arrays(np.uint32), {"out": "u32"}, expected.shuffles),
    Case("shuffles", "shuffles_64", lambda: _shuffle_arrays(np.uint64), {"out": "u64"}, expected.shuffles),
    Case("votes", "votes", _vote_arrays, {"out": "u32"}, expected.votes),
    *[
        Case("votes", "block_votes", lambda threads=threads: _block_vote_arrays(threads), {"out": "i32"},
             expected.block_votes)
        for threads in (1, 32, 70, 96, 1024)
    ],
    Case("atomics", "atomics", _atomic_arrays, {"words": "u32", "wide": "u64", "reals": "f32", "tickets": "u32"},
         expected.atomics),
    Case("conversions", "f32_to_f16", _convert(inputs.floats_around_halves, np.uint16), {"out": "f16"}, expected.f16),
    Case("conversions", "f32_to_bf16", _convert(inputs.floats_around_halves, np.uint16), {"out": "bf16"},
         expected.bf16),
    Case("conversions", "f16_to_f32", _convert(inputs.halves, np.float32), {"out": "f32"}, expected.from_f16),
    Case("conversions", "bf16_to_f32", _convert(inputs.halves, np.float32), {"out": "f32"}, expected.from_bf16),
    Case("conversions", "f32_to_f16_stochastic", _stochastic, {"out": "f16"}),
    Case("conversions", "f32_to_bf16_stochastic", _stochastic, {"out": "bf16"}),
    Case("conversions", "split_f16", _split, {"weight": "f16", "remainder": "i16", "back": "f32"}),
    Case("conversions", "split_bf16", _split, {"weight": "bf16", "remainder": "i16", "back": "f32"},
         expected.split_bf16),
    Case("conversions", "philox", _philox, {"out": "u32"}, expected.philox),
    Case("arithmetic", "arithmetic_f32", _triples(np.float32, 6), {"out": "f32"}, expected.arithmetic),
    Case("arithmetic", "arithmetic_f64", _triples(np.float64, 6), {"out": "f64"}, expected.arithmetic),
    Case("arithmetic", "fma_f64", _triples(np.float64, 2), {"out": "f64"}),
    Case("arithmetic", "powi", _powers, {"out": "f64"}, expected.powers),
    Case("matrices", "ldmatrix_x4", _rows(4), {"out": "u32"}, expected.ldmatrix),
    Case("matrices", "ldmatrix_x4_trans", _rows(4), {"out": "u32"}, expected.ldmatrix_trans),
    Case("matrices", "ldmatrix_x2", _rows(2), {"out": "u32"}, expected.ldmatrix),
    Case("matrices", "ldmatrix_x2_trans", _rows(2), {"out": "u32"}, expected.ldmatrix_trans),
    Case("matrices", "mma_f16", _fragments(_f16_bits), {"d": "f32"}, expected.mma_f16),
    Case("matrices", "mma_bf16", _fragments(_bf16_bits), {"d": "f32"}, expected.mma_bf16),
    Case("matrices", "mma_f16_pair", _fragments(_f16_bits), {"d": "f32"}, expected.mma_f16_pair),
    Case("matrices", "mma_bf16_pair", _fragments(_bf16_bits), {"d": "f32"}, expected.mma_bf16_pair),
    Case("copies", "copies", _copies, {"out": "u8"}, expected.copies),
    Case("copies", "groups", _groups, {"out": "u8"}, expected.groups),
    Case("warpgroups", "stmatrix_x4", _stored_rows, {"out": "u32"}, expected.stmatrix),
    *[_warpgroup_case(*which) for which in WARPGROUPS],
    Case("boxes", "tma_load", _loads((64, 8, 1), 128), {"out": "u32"}, expected.loads),
    Case("boxes", "tma_load", _loads((32, 4, 2), 64), {"out": "u32"}, expected.loads),
    Case("boxes", "tma_load", _loads((24, 3, 2), 0), {"out": "u32"}, expected.loads),
    *[Case("boxes", "tma_store", _stores(dtype, swizzle), {"tensor": dtype}, expected.stores)
      for dtype, swizzle in (("f16", 64), ("f16", 0), ("f32", 0))],
    *[Case("boxes", "tma_add", _stores(dtype, 0), {"tensor": dtype}, expected.adds) for dtype in DTYPES],
    Case("boxes", "cluster", _cluster, {"out": "u32", "others": "f32"}, expected.cluster),
    Case("boxes", "roles", _roles, {"out": "u32"}, expected.roles),
]  # fmt: skip
FILES = list(dict.fromkeys(case.file for case in CASES))


def name(case: Case) -> str:
    """Unique: some entries occur with several inputs."""
    same = [other for other in CASES if other.entry == case.entry]
    return case.entry if len(same) == 1 else f"{case.entry}_{same.index(case) + 1}"
