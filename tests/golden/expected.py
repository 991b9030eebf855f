"""What the cases must give, from NumPy and the sentences of the CUDA documents: nothing of csrc is asked."""

from __future__ import annotations

import numpy as np

LANES = np.arange(32)


def shuffles(given):
    """Sources of the four shuffles as the Programming Guide has them."""
    out = np.full_like(given["out"], np.iinfo(given["out"].dtype).max)
    for row, (mask, argument, width, _) in zip(out, given["cases"].astype(np.int64), strict=True):
        first, inside, distance = LANES - LANES % width, LANES % width, argument & 31
        crossing = distance if mask == 0xFFFFFFFF else distance % width
        sources = [
            first + argument % width,
            np.where(inside >= distance, LANES - distance, LANES),
            np.where(inside + distance < width, LANES + distance, LANES),
            np.where((LANES ^ crossing) < first + width, LANES ^ crossing, LANES),
        ]
        taking = (mask >> LANES & 1).astype(bool)
        for kind, source in enumerate(sources):
            row[kind, taking] = given["values"][source][taking]
    return {"out": out}


def votes(given):
    out = np.full_like(given["out"], 0xFFFFFFFF)
    for row, (mask, predicates) in zip(out, given["cases"].astype(np.int64), strict=True):
        taking = LANES[(mask >> LANES & 1).astype(bool)]
        true = predicates >> LANES & 1
        keys, numbers, signed = true * 4 + LANES // 16, true * 1000 + LANES, true * 7 - LANES
        row[0, taking] = mask & predicates
        row[1, taking] = (mask & predicates) != 0
        row[2, taking] = (mask & ~predicates) == 0
        row[3, taking] = [sum(1 << int(other) for other in taking if keys[other] == keys[lane]) for lane in taking]
        row[4, taking] = numbers[taking].sum()
        row[5, taking] = numbers[taking].max()
        row[6, taking] = signed[taking].min() & 0xFFFFFFFF
        row[7, taking] = mask & predicates
    return {"out": out}


def block_votes(given):
    rows = given["predicates"]
    out = np.zeros_like(given["out"])
    out[..., 0] = (rows != 0).any(1, keepdims=True)
    out[..., 1] = (rows != 0).all(1, keepdims=True)
    out[..., 2] = (rows != 0).sum(1, keepdims=True)
    return {"out": out}


def atomics(given):
    values = [int(value) for value in given["values"]]
    signed = [value - 2**32 if value >= 2**31 else value for value in values]
    words = np.zeros(16, np.uint32)
    bits, cleared = 0, 0xFFFFFFFF
    for value in values:
        bits, cleared = bits | 1 << value % 32, cleared & ~(1 << value % 31)
    total = sum(values)
    found = [total, max(values), min(values), bits, cleared, len(values) % 10, total, 0, sum(v % 8 for v in values)]
    found += [-sum(v % 1000 for v in values), max(signed), min(signed), len(values)]
    words[: len(found)] = [number & 0xFFFFFFFF for number in found]
    wide = np.array([(1 + (total << 20)) % 2**64, max(values) << 20, min(values) << 20], np.uint64)
    reals = np.array([sum(v % 64 for v in values)], np.float32)
    return {"words": words, "wide": wide, "reals": reals, "tickets": np.ones(len(values), np.uint32)}


def f16(given):
    with np.errstate(all="ignore"):
        return {"out": given["in"].astype(np.float16).view(np.uint16)}


def bf16(given):
    bits = given["in"].view(np.uint32).astype(np.uint64)
    rounded = (bits + 0x7FFF + (bits >> 16 & 1)) >> 16
    return {"out": np.where(np.isnan(given["in"]), 0x7FC0, rounded).astype(np.uint16)}


def from_f16(given):
    return {"out": given["in"].view(np.float16).astype(np.float32)}


def from_bf16(given):
    return {"out": (given["in"].astype(np.uint32) << 16).view(np.float32)}


def split_bf16(given):
    """A weight rounded with ties away from zero and the low bits give every number back; NaN as one."""
    bits = given["in"].view(np.uint32)
    nan = np.isnan(given["in"])
    weight = np.where(nan, 0x7FC0, (bits + np.uint32(0x8000)) >> np.uint32(16)).astype(np.uint16)
    remainder = np.where(nan, 0, bits & np.uint32(0xFFFF)).astype(np.uint16).view(np.int16)
    return {"weight": weight, "remainder": remainder, "back": given["in"]}


def philox(given):
    """Philox4x32-10 in whole numbers of any size; the first two are also the known answers of Random123."""
    out = []
    for x0, x1, x2, x3, k0, k1 in given["in"].reshape(-1, 6).tolist():
        c = [x0, x1, x2, x3]
        for _ in range(10):
            a, b = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
            c = [(b >> 32) ^ c[1] ^ k0, b & 0xFFFFFFFF, (a >> 32) ^ c[3] ^ k1, a & 0xFFFFFFFF]
            k0, k1 = (k0 + 0x9E3779B9) & 0xFFFFFFFF, (k1 + 0xBB67AE85) & 0xFFFFFFFF
        out += c
    assert out[:8] == [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8, 0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]
    return {"out": np.array(out, np.uint32)}


def ldmatrix(given):
    """PTX ISA, ldmatrix: lanes 8i to 8i + 7 give the rows of matrix i; thread t gets two elements of row t / 4."""
    count = given["out"].shape[-1]
    out = np.empty_like(given["out"])
    for case, rows in enumerate(given["row"]):
        for i in range(count):
            matrix = given["in"][case, rows[8 * i : 8 * i + 8]]
            out[case, :, i] = np.ascontiguousarray(matrix).view(np.uint32).reshape(32)
    return {"out": out}


def ldmatrix_trans(given):
    """With .trans every 8x8 matrix is loaded in column-major format."""
    count = given["out"].shape[-1]
    out = np.empty_like(given["out"])
    for case, rows in enumerate(given["row"]):
        for i in range(count):
            matrix = given["in"][case, rows[8 * i : 8 * i + 8]].T
            out[case, :, i] = np.ascontiguousarray(matrix).view(np.uint32).reshape(32)
    return {"out": out}


def _whole(fragments, rows, columns, place):
    """The matrix whose element at place(group, thread in group, i) is element i of that lane, as the PTX ISA has it."""
    matrix = np.zeros((rows, columns), fragments.dtype)
    for lane in range(32):
        for i in range(fragments.shape[1]):
            matrix[place(lane >> 2, lane % 4, i)] = fragments[lane, i]
    return matrix


def place_in_a(group, thread, i):
    """Multiplicand A of mma.m16n8k16: groupID for ai where 0 <= i < 2 || 4 <= i < 6, and so on."""
    row = group if i < 2 or 4 <= i < 6 else group + 8
    return row, thread * 2 + (i & 1) + (8 if i >= 4 else 0)


def place_in_b(group, thread, i):
    return thread * 2 + (i & 1) + (8 if i >= 2 else 0), group


def place_in_d(group, thread, i):
    return group if i < 2 else group + 8, thread * 2 + (i & 1)


def products(given, widen, steps):
    """d + a b, in doubles; rounded to a float after each of the steps."""
    out = given["d"].copy()
    for case, lanes in enumerate(out):
        a = _whole(widen(given["a"][case].view(np.uint16)), 16, 16, place_in_a)
        b = _whole(widen(given["b"][case].view(np.uint16)), 16, 8, place_in_b)
        d = _whole(lanes, 16, 8, place_in_d).astype(np.float64)
        for columns in np.split(np.arange(16), steps):
            d = (d + a[:, columns] @ b[columns]).astype(np.float32).astype(np.float64)
        for lane in range(32):
            lanes[lane] = [d[place_in_d(lane >> 2, lane % 4, i)] for i in range(4)]
    return {"d": out}


def widened_f16(bits):
    return bits.view(np.float16).astype(np.float64)


def widened_bf16(bits):
    return (bits.astype(np.uint32) << 16).view(np.float32).astype(np.float64)


def mma_f16(given):
    return products(given, widened_f16, 1)


def mma_bf16(given):
    return products(given, widened_bf16, 1)


def mma_f16_pair(given):
    return products(given, widened_f16, 2)


def mma_bf16_pair(given):
    return products(given, widened_bf16, 2)


def copies(given):
    """PTX ISA, cp.async: src-size bytes are copied, the remaining bytes of the destination are filled with zeros."""
    return {"out": np.where(np.arange(16) < given["bytes"][:, None], given["in"], 0)}


def groups(given):
    return {"out": given["in"][:, np.arange(given["in"].shape[1]) ^ 63]}


def arithmetic(given):
    a, b, c = given["in"].reshape(-1, 3).T
    with np.errstate(all="ignore"):
        return {"out": np.column_stack([a + b, a - b, a * b, a / b, np.sqrt(a), a * b + c]).ravel()}


def powers(given):
    """The same squarings in Python, whose floats are doubles."""
    out = []
    for base, exponent in zip(given["base"].tolist(), given["exponent"].tolist(), strict=True):
        power = 1.0
        while exponent:
            if exponent & 1:
                power *= base
            base *= base
            exponent >>= 1
        out.append(power)
    return {"out": np.array(out)}


def stmatrix(given):
    """PTX ISA, stmatrix: the counterpart of ldmatrix."""
    out = np.zeros_like(given["out"])
    for i in range(4):
        out[given["row"][8 * i : 8 * i + 8]] = given["in"][:, i].reshape(8, 4)
    return {"out": out}


def _picture(words, widen, begin, leading, stride, turned, extent):
    """[extent, 16] of an operand in a picture of shared memory with the 128-byte swizzle (PTX ISA, "Strides")."""
    values = widen(np.ascontiguousarray(words).view(np.uint16))
    mn, k = np.meshgrid(np.arange(extent), np.arange(16), indexing="ij")
    if turned:
        at = begin + mn // 64 * leading + k // 8 * stride + k % 8 * 128 + mn % 64 * 2
    else:
        at = begin + mn // 8 * stride + mn % 8 * 128 + k * 2
    return values[(at ^ (at >> 7 & 7) << 4) // 2]


def warpgroup(given, dtype, columns, layout):
    """PTX ISA, wgmma: warp w has rows 16 w to 16 w + 15, in each as mma.m16n8k16 has them, eight columns by eight."""
    widen = widened_f16 if dtype == "f16" else widened_bf16
    out = given["d"].copy()
    for case, (a, la, sa, b, lb, sb, adds) in enumerate(given["how"].tolist()):
        right = _picture(given["b"], widen, b, lb, sb, layout[1] == "m", columns)
        if layout[0] == "r":
            fragments = widen(np.ascontiguousarray(given["registers"]).view(np.uint16)).reshape(4, 32, 8)
            # Registers 0 and 2 are of the upper eight rows, the numbers of place_in_a in another order.
            left = np.concatenate([_whole(warp, 16, 16, place_in_a) for warp in fragments])
        else:
            left = _picture(given["a"], widen, a, la, sa, layout[0] == "m", 64)
        product = left @ right.T
        for thread in range(128):
            warp, lane = divmod(thread, 32)
            for i in range(columns // 2):
                row = 16 * warp + lane // 4 + i // 2 % 2 * 8
                value = product[row, i // 4 * 8 + lane % 4 * 2 + i % 2]
                out[case, thread, i] = value + (out[case, thread, i] if adds else 0)
    return {"d": out}


def _box(given, place):
    """The indices of a box's elements in the tensor, and which of them are there."""
    _, *extents, _, _, b0, b1, b2, _ = given["how"].tolist()
    grid = np.meshgrid(np.arange(b2), np.arange(b1), np.arange(b0), indexing="ij")
    z, y, x = (axis + start for axis, start in zip(grid, reversed(place), strict=True))
    there = (x >= 0) & (x < extents[0]) & (y >= 0) & (y < extents[1]) & (z >= 0) & (z < extents[2])
    return (z, y, x), there


def _swizzled(count, size, width):
    """Where the bytes of elements, one after the other, lie: 16-byte chunks, exclusive or with the 128-byte line."""
    at = np.arange(count) * size
    return at if width == 0 else at ^ ((at >> 7) & (width // 16 - 1)) << 4


def loads(given):
    tensor, width = given["tensor"], int(given["how"][9])
    out = np.zeros_like(given["out"])
    for i, place in enumerate(given["at"].tolist()):
        (z, y, x), there = _box(given, place)
        values = np.zeros(there.shape, tensor.dtype)
        values[there] = tensor[z[there], y[there], x[there]]
        picture = np.zeros(values.size, tensor.dtype)
        picture[_swizzled(values.size, tensor.itemsize, width) // tensor.itemsize] = values.ravel()
        out[i] = picture.view(np.uint32)
    return {"out": out}


def _put(given, combine):
    tensor, width = given["tensor"].copy(), int(given["how"][9])
    boxes = np.ascontiguousarray(given["in"]).view(tensor.dtype).reshape(len(given["at"]), -1)
    for box, place in zip(boxes, given["at"].tolist(), strict=True):
        (z, y, x), there = _box(given, place)
        values = box[_swizzled(box.size, tensor.itemsize, width) // tensor.itemsize].reshape(there.shape)
        at = z[there], y[there], x[there]
        tensor[at] = combine(tensor[at], values[there])
    return {"tensor": tensor}


def stores(given):
    return _put(given, lambda _, new: new)


def adds(given):
    """Sums of small whole numbers: exact in every dtype."""
    code = int(given["how"][0])

    def combine(old, new):
        if code == 1:
            return ((widened_bf16(old) + widened_bf16(new)).astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)
        real = np.float16 if code == 0 else np.float32
        return (old.view(real) + new.view(real)).view(old.dtype)

    return _put(given, combine)


def cluster(given):
    """Both blocks have both halves; each reads the other's number."""
    rows = given["tensor"]
    out = np.zeros_like(given["out"])
    for turn in range(3):
        for half in range(2):
            values = rows[turn, 8 * half : 8 * half + 8].ravel()
            picture = np.zeros_like(values)
            picture[_swizzled(values.size, 2, 128) // 2] = values
            out[turn, :, 256 * half : 256 * half + 256] = picture.view(np.uint32)
    return {"out": out, "others": np.array([101, 100], np.float32)}


def roles(given):
    return {"out": np.stack([given["in"], given["in"] * np.uint32(2)])}
