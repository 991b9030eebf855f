"""Number formats, roundings, masters, random bits, activations: the formulas of csrc against references in NumPy.

All 65,536 values where a format has that many; floats around every rounding boundary; exact expectations where chance
is involved. The engines' own vector code is held to the same formulas at the end.
"""

from __future__ import annotations

import math
from fractions import Fraction

import native
import numpy as np
import pytest
import torch

from halfops._ops import ops
from halfops._ops import optim as halfops_optim

FORMATS = ["f16", "bf16"]
DTYPES = {"f16": torch.float16, "bf16": torch.bfloat16}
ALL = np.arange(65536, dtype=np.uint16)
F16_MAX = 65504.0


@pytest.fixture(scope="session")
def formulas():
    return native.load()


# --- references -----------------------------------------------------------------------------------------------------


def bits(x):
    return np.asarray(x, dtype=np.float32).view(np.uint32)


def floats(u):
    return np.asarray(u, dtype=np.uint32).view(np.float32)


def to_float(fmt, codes):
    """Every code's value: NumPy's half for f16, the upper half of a float for bf16."""
    if fmt == "f16":
        return codes.view(np.float16).astype(np.float32)
    return floats(codes.astype(np.uint32) << 16)


def nearest(fmt, x):
    """Nearest, ties to even; NaNs as 0x7e00 and 0x7fc0 (their payload is not looked at)."""
    if fmt == "f16":
        with np.errstate(over="ignore"):
            codes = x.astype(np.float16).view(np.uint16)
        return canonical(fmt, codes)
    u = bits(x).astype(np.uint64)
    low, high = u & 0xFFFF, u >> 16
    up = (low > 0x8000) | ((low == 0x8000) & (high & 1 == 1))
    return np.where(np.isnan(x), 0x7FC0, high + up).astype(np.uint16)


def canonical(fmt, codes):
    infinity, nan = (0x7C00, 0x7E00) if fmt == "f16" else (0x7F80, 0x7FC0)
    return np.where(codes & 0x7FFF > infinity, nan, codes).astype(np.uint16)


def finite_codes(fmt):
    return ALL[np.isfinite(to_float(fmt, ALL))]


def boundaries(fmt):
    """Every value of the format, every midpoint to the next one, and the floats beside both; infinities and NaNs."""
    magnitudes = np.sort(to_float(fmt, finite_codes(fmt)[: len(finite_codes(fmt)) // 2]))
    last = magnitudes[-1] + (magnitudes[-1].astype(np.float64) - magnitudes[-2].astype(np.float64))
    steps = np.append(magnitudes.astype(np.float64), last)
    middles = ((steps[1:] + steps[:-1]) / 2).astype(np.float32)
    points = np.concatenate([magnitudes, middles])
    around = [points, *(np.nextafter(points, np.float32(to)) for to in (0.0, np.inf))]
    special = floats([0x7F800000, 0x7FC00000, 0x7F800001, 0x7FFFFFFF, 0x7F7FFFFF, 1, 0x00800000, 0x007FFFFF])
    positive = np.concatenate([*around, special])
    return np.concatenate([positive, -positive])


def sample(seed=0, n=400_000):
    """Floats whose bits are uniform: every exponent alike."""
    return floats(np.random.default_rng(seed).integers(0, 2**32, n, dtype=np.uint32))


# --- conversions ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fmt", FORMATS)
def test_every_code_has_its_value(formulas, fmt):
    got, wanted = getattr(formulas, f"{fmt}_to_f32")(ALL), to_float(fmt, ALL)
    assert np.array_equal(got, wanted, equal_nan=True)
    assert np.array_equal(np.signbit(got), np.signbit(wanted))


@pytest.mark.parametrize("fmt", FORMATS)
def test_every_code_survives(formulas, fmt):
    back = getattr(formulas, f"{fmt}_from_f32")(getattr(formulas, f"{fmt}_to_f32")(ALL))
    number = ~np.isnan(to_float(fmt, ALL))
    assert np.array_equal(back[number], ALL[number])
    assert np.isnan(to_float(fmt, back[~number])).all()


@pytest.mark.parametrize("fmt", FORMATS)
def test_nearest_at_every_boundary(formulas, fmt):
    for x in (boundaries(fmt), sample()):
        got = canonical(fmt, getattr(formulas, f"{fmt}_from_f32")(x))
        wanted = nearest(fmt, x)
        if fmt == "f16":
            got, wanted = (np.where(np.isnan(x), codes & 0x7FFF, codes) for codes in (got, wanted))
        assert np.array_equal(got, wanted)


def test_bf16_nan_is_the_canonical_one(formulas):
    nans = floats([0x7F800001, 0x7FFFFFFF, 0xFF800001, 0xFFFFFFFF])
    assert formulas.bf16_from_f32(nans).tolist() == [0x7FC0] * 4


# --- stochastic rounding --------------------------------------------------------------------------------------------


def neighbours(fmt, x):
    """The format's values below and above |x| (the same one if x is one), for |x| <= its maximum."""
    values = np.sort(to_float(fmt, finite_codes(fmt)[: len(finite_codes(fmt)) // 2])).astype(np.float64)
    x = np.abs(x.astype(np.float64))
    return values[np.searchsorted(values, x, "right") - 1], values[np.searchsorted(values, x, "left")]


@pytest.mark.parametrize("fmt", FORMATS)
def test_stochastic_never_moves_what_fits(formulas, fmt):
    codes = finite_codes(fmt)
    x = to_float(fmt, codes)
    for random in (0, 1, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF):
        got = getattr(formulas, f"{fmt}_stochastic")(x, np.full(len(x), random, np.uint32))
        assert np.array_equal(got, codes)


@pytest.mark.parametrize("fmt", FORMATS)
def test_stochastic_goes_to_a_neighbour(formulas, fmt):
    x = np.concatenate([boundaries(fmt), sample(1, 100_000)])
    x = x[np.abs(x) <= to_float(fmt, finite_codes(fmt)).max()]
    below, above = neighbours(fmt, x)
    random = np.random.default_rng(2).integers(0, 2**32, len(x), dtype=np.uint32)
    got = to_float(fmt, getattr(formulas, f"{fmt}_stochastic")(x, random)).astype(np.float64)
    assert ((np.abs(got) == below) | (np.abs(got) == above)).all()
    assert np.array_equal(np.signbit(got), np.signbit(x))
    lowest, highest = (
        np.abs(to_float(fmt, getattr(formulas, f"{fmt}_stochastic")(x, np.full(len(x), word, np.uint32))))
        for word in (0xFFFFFFFF, 0)
    )
    extremes = np.stack([lowest, highest])
    assert np.array_equal(extremes.min(0), below)
    far = (above - np.abs(x)) < (above - below) * (1 - 2.0**-12)  # a share of 2^-31 would need its one word
    assert np.array_equal(extremes.max(0)[far], above[far])


@pytest.mark.parametrize("fmt", FORMATS)
def test_beyond_the_maximum_stochastic_is_nearest(formulas, fmt):
    x = np.concatenate([boundaries(fmt), sample(3)])
    x = x[~(np.abs(x) <= to_float(fmt, finite_codes(fmt)).max())]  # NaNs stay in
    assert len(x) > 100
    for random in (0, 0xFFFFFFFF, 0x5555AAAA):
        got = getattr(formulas, f"{fmt}_stochastic")(x, np.full(len(x), random, np.uint32))
        assert np.array_equal(got, getattr(formulas, f"{fmt}_from_f32")(x))


def share_of_up(formulas, fmt, x):
    """How many of the 2^32 random words round x away from zero: the decision is monotonic in the word's leading bits,
    so the edge is found by bisection; both sides of it are then checked at many words."""
    stochastic = getattr(formulas, f"{fmt}_stochastic")
    down = stochastic(np.float32([x]), np.uint32([np.uint32(2**32 - 1 if fmt == "f16" and abs(x) < 2**-14 else 0)]))[0]
    subnormal = fmt == "f16" and abs(x) < 2**-14

    def is_up(word):
        return stochastic(np.float32([x]), np.uint32([word]))[0] != down

    low, high = 0, 2**32  # subnormals: up for words below the edge; others: up from the edge on
    while low < high:
        middle = (low + high) // 2
        if is_up(middle) == subnormal:
            low = middle + 1
        else:
            high = middle
    words = np.random.default_rng(4).integers(0, 2**32, 4000, dtype=np.uint32)
    ups = stochastic(np.full(len(words), x, np.float32), words) != down
    assert np.array_equal(ups, words < low if subnormal else words >= low)
    return Fraction(low if subnormal else 2**32 - low, 2**32)


# Normals, both sides of powers of two, the border to subnormals, up to 31 dropped bits.
AWKWARD = [1.0009, 0.99999994, 1.9999999, 3.1415927, 65503.99, 1234.567, 6.1e-5, 6.1035153e-05, 6.097555e-5, 5.96e-8]
AWKWARD += [3.3e-8, 2.9802322e-08, 1.7e-8, 1e-9, 2.3283064e-10 * 1.9999, 6.123e-5, 1.5e-6, 4.0000004e-6]


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("x", AWKWARD)
@pytest.mark.parametrize("fmt", FORMATS)
def test_stochastic_is_exact_on_average(formulas, fmt, x, sign):
    x = np.float32(sign * x)
    below, above = (Fraction(v[0]) for v in neighbours(fmt, np.array([x])))
    expected = (abs(Fraction(float(x))) - below) / ((above - below) or 1)
    assert share_of_up(formulas, fmt, x) == expected


@pytest.mark.parametrize("x", [2.0**-33 * 1.2345678, 1e-12, 1e-40, 2.0**-149])
def test_less_than_31_bits_can_say_is_cut_off(formulas, x):
    share = share_of_up(formulas, "f16", np.float32(x))
    exact = Fraction(float(np.float32(x))) * 2**24
    assert exact - Fraction(1, 2**31) < share <= exact


@pytest.mark.parametrize("fmt", FORMATS)
def test_stochastic_is_unbiased_on_a_sample(formulas, fmt):
    """The mean of n independent roundings is within 5 standard deviations (gap / 2 / sqrt(n) at most) of the value."""
    n = 200_000
    words = formulas.random_bits(1, 2, np.arange(n, dtype=np.uint64), 3)
    for x in (0.1, -3.7, 1e-6, 2e-8):
        got = to_float(fmt, getattr(formulas, f"{fmt}_stochastic")(np.full(n, x, np.float32), words)).astype(np.float64)
        below, above = neighbours(fmt, np.float32([x]))
        assert abs(got.mean() - np.float32(x)) < 5 * (above - below)[0] / 2 / math.sqrt(n)


# --- random bits ----------------------------------------------------------------------------------------------------


def philox_in_python(counter, key):
    x, k = list(counter), list(key)
    for _ in range(10):
        high0, low0 = divmod(0xD2511F53 * x[0], 2**32)
        high1, low1 = divmod(0xCD9E8D57 * x[2], 2**32)
        x = [high1 ^ x[1] ^ k[0], low1, high0 ^ x[3] ^ k[1], low0]
        k = [(k[0] + 0x9E3779B9) % 2**32, (k[1] + 0xBB67AE85) % 2**32]
    return tuple(x)


# The published vectors of Philox4x32-10: zeros, ones, digits of pi.
KNOWN = [
    ([0] * 4, [0] * 2, (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ([2**32 - 1] * 4, [2**32 - 1] * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344],
        [0xA4093822, 0x299F31D0],
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]


@pytest.mark.parametrize(("counter", "key", "answer"), KNOWN)
def test_philox_known_answers(formulas, counter, key, answer):
    assert formulas.philox(counter, key) == answer
    assert philox_in_python(counter, key) == answer


def test_random_bits_are_keyed_by_seed_step_element_and_key(formulas):
    seed, step, key = 0x1234567890ABCDEF, 77, 0xFFFFFFFF
    elements = np.array([0, 1, 2, 3, 4, 7, 511, 512, 2**34 - 1, 2**34, 2**34 + 5, 2**63], dtype=np.uint64)
    got = formulas.random_bits(seed, step, elements, key)
    for element, word in zip(elements.tolist(), got.tolist(), strict=True):
        quad = element // 4
        counter = [quad % 2**32, quad >> 32, step, key]
        assert philox_in_python(counter, [seed % 2**32, seed >> 32])[element % 4] == word
    assert len(set(got.tolist())) == len(got)


# --- masters --------------------------------------------------------------------------------------------------------


def same_bits(a, b):
    return np.array_equal(bits(a), bits(b))


def every_exponent(per_exponent=20_000):
    """|w| from 2^-15 to the overflow of fp16, each exponent alike."""
    rng = np.random.default_rng(5)
    w = np.concatenate(
        [
            floats(np.uint32(exponent << 23) | rng.integers(0, 2**23, per_exponent, dtype=np.uint32))
            for exponent in range(127 - 15, 127 + 16)
        ]
    )
    w = w[w < 65520.0]
    return np.concatenate([w, -w])


def test_split_fp16_is_lossless_from_2_to_the_minus_15_up(formulas):
    at_boundaries = boundaries("f16")
    magnitude = np.abs(at_boundaries)
    at_boundaries = at_boundaries[(magnitude >= 2.0**-15) & (magnitude < 65520.0)]
    assert len(at_boundaries) > 180_000
    for w in (every_exponent(), at_boundaries):
        weight, remainder = formulas.f16_split(w)
        assert same_bits(formulas.f16_join(weight, remainder), w)
        assert np.array_equal(weight, nearest("f16", w))
        assert np.abs(remainder.astype(np.int32)).max() <= 8192


def test_split_fp16_below_is_within_half_a_unit(formulas):
    tiny = np.concatenate([boundaries("f16"), sample(6)])
    tiny = tiny[np.abs(tiny) < 2.0**-15]
    assert len(tiny) > 100_000
    back = formulas.f16_join(*formulas.f16_split(tiny))
    error = np.abs(back.astype(np.float64) - tiny.astype(np.float64))
    assert error.max() <= 2.0**-39
    assert np.array_equal(np.signbit(back)[back == 0], np.signbit(tiny)[back == 0])


@pytest.mark.parametrize("fmt", FORMATS)
def test_a_weight_without_remainder_is_itself(formulas, fmt):
    """So a remainder of zeros is right for a freshly loaded model, infinities and -0 included."""
    value = to_float(fmt, ALL)
    number = ~np.isnan(value)
    joined = getattr(formulas, f"{fmt}_join")(ALL, np.zeros(len(ALL), np.int16))
    assert same_bits(joined[number], value[number])
    assert np.isnan(joined[~number]).all()
    weight, remainder = getattr(formulas, f"{fmt}_split")(value)
    assert np.array_equal(weight[number], ALL[number])
    assert not remainder.any()


def test_split_fp16_of_what_overflows(formulas):
    w = np.float32([65519.996, 65520.0, 1e30, -1e30, np.inf, -np.inf, np.nan])
    weight, remainder = formulas.f16_split(w)
    assert weight[:6].tolist() == [0x7BFF, 0x7C00, 0x7C00, 0xFC00, 0x7C00, 0xFC00]
    assert weight[6] & 0x7FFF > 0x7C00
    assert remainder[1:].tolist() == [0] * 6
    assert formulas.f16_join(weight, remainder)[0] == w[0]


def test_split_bf16_is_always_lossless(formulas):
    for w in (sample(7, 2_000_000), boundaries("bf16"), every_exponent()):
        weight, remainder = formulas.bf16_split(w)
        number = ~np.isnan(w)
        assert same_bits(formulas.bf16_join(weight, remainder)[number], w[number])
        assert (weight[~number] == 0x7FC0).all()
        assert not remainder[~number].any()
        # The weight is the nearest value; of two, the one away from zero.
        tie = bits(w) & 0xFFFF == 0x8000
        assert np.array_equal(weight[number & ~tie], nearest("bf16", w)[number & ~tie])
        away = ((bits(w) >> 16) + 1).astype(np.uint16)
        assert np.array_equal(weight[number & tie], away[number & tie])


# --- states, powers, the gate ---------------------------------------------------------------------------------------


def test_states_store_with_one_rounding(formulas):
    x = sample(8)
    x = x[~np.isnan(x)]
    assert same_bits(formulas.state_f32_round_trip(x), x)
    for fmt in FORMATS:
        assert same_bits(getattr(formulas, f"state_{fmt}_round_trip")(x), to_float(fmt, nearest(fmt, x)))


@pytest.mark.parametrize("fmt", FORMATS)
def test_the_root_of_a_second_moment_keeps_its_range(formulas, fmt):
    """v in fp16 is 0 where g = 1e-5; its root is stored with half an ulp of error, so v with about a whole one."""
    unit = 2.0**-11 if fmt == "f16" else 2.0**-8
    v = (10.0 ** np.linspace(-8.4, 4, 20_000)).astype(np.float32)
    back = getattr(formulas, f"state_sqrt_{fmt}_round_trip")(v).astype(np.float64)
    assert (np.abs(back - v) <= 2.1 * unit * v).all()
    assert getattr(formulas, f"state_sqrt_{fmt}_round_trip")(np.float32([0.0, 1e-12]))[0] == 0
    assert formulas.state_sqrt_f16_round_trip(np.float32([1e-12]))[0] > 0
    assert formulas.state_f16_round_trip(np.float32([1e-12]))[0] == 0


@pytest.mark.parametrize("base", [0.9, 0.98, 0.999, 0.9999, 0.0, 1.0, 0.5])
def test_powi(formulas, base):
    """Each product of the repeated squaring errs by half an ulp, and squaring doubles what there is: n ulps in all."""
    assert formulas.powi(base, 0) == 1.0
    for n in (1, 2, 3, 10, 31, 32, 1000, 123_457, 2**24):
        exact = Fraction(base) ** n if n < 1000 else None
        wanted = float(exact) if exact is not None else math.exp(n * math.log(base)) if base > 0 else 0.0
        assert formulas.powi(base, n) == pytest.approx(wanted, rel=(n + 1) * 2.0**-53 * 4, abs=1e-300)


def test_the_gate(formulas):
    inf, nan = math.inf, math.nan
    assert formulas.gate(1.0, 0.0, 0.0, inf) == (True, 1.0)
    assert formulas.gate(65536.0, 0.0, 0.0, inf) == (True, 2.0**-16)
    # norm = sqrt(16) / 2 = 2, clipped to 1
    is_open, factor = formulas.gate(2.0, 0.0, 16.0, 1.0)
    assert is_open
    assert factor == 0.5 * (1.0 / (2.0 + 1e-6))
    assert formulas.gate(2.0, 0.0, 16.0, 2.1) == (True, 0.5)
    for closed in [
        (1.0, 1.0, 0.0, inf),
        (1.0, nan, 0.0, inf),
        (1.0, 0.0, inf, 1.0),
        (1.0, 0.0, nan, 1.0),
        (1.0, 0.0, inf, inf),
        (0.0, 0.0, 1.0, 1.0),
        (nan, 0.0, 1.0, 1.0),
        (1.0, 0.0, 1.0, nan),
    ]:
        assert not formulas.gate(*closed)[0], closed


# --- activations ----------------------------------------------------------------------------------------------------

PEERS = {
    "relu": torch.relu,
    "gelu": torch.nn.functional.gelu,
    "gelu_tanh": lambda z: torch.nn.functional.gelu(z, approximate="tanh"),
    "silu": torch.nn.functional.silu,
}


@pytest.fixture(params=["cpu", *((e, r) for e in (-1, 0, 1) for r in (-1, 0, 1))], ids=str)
def activations(formulas, request):
    """A CPU's; and a GPU's, with the errors of its instructions as PTX states them, whichever way they go."""
    if request.param == "cpu":
        return formulas
    module = native.load("gpu_activations")
    module.set_errors(request.param[0] * 2.0**-22, request.param[1] * 2.0**-23)
    return module


@pytest.mark.parametrize("name", PEERS)
def test_activations_over_every_half(activations, name):
    """Value within 2^-16 of the exact one in relative terms where fp16 can show the result, derivative likewise but
    absolute near its zero: thirty times finer than the rounding to fp16 that follows (2^-11)."""
    z = to_float("f16", finite_codes("f16"))
    exact = torch.from_numpy(z).double().requires_grad_()
    value = PEERS[name](exact)
    (derivative,) = torch.autograd.grad(value.sum(), exact)
    got = torch.from_numpy(getattr(activations, f"{name}_value")(z)).double()
    assert ((got - value).abs() <= value.abs() * 2.0**-16 + 2.0**-40).all()
    got = torch.from_numpy(getattr(activations, f"{name}_derivative")(z)).double()
    assert ((got - derivative).abs() <= derivative.abs() * 2.0**-16 + 2.0**-20).all()


@pytest.mark.parametrize("name", PEERS)
def test_activations_at_the_ends(activations, name):
    z = np.float32([np.inf, -np.inf, np.nan, 0.0])
    value = getattr(activations, f"{name}_value")(z)
    assert value[0] == np.inf
    assert value[1] == 0
    assert np.isnan(value[2])
    assert value[3] == 0
    derivative = getattr(activations, f"{name}_derivative")(z)
    assert derivative[0] == pytest.approx(1, abs=1e-6)
    assert derivative[1] == pytest.approx(0, abs=1e-6)


# --- the engines' own conversions -----------------------------------------------------------------------------------


@pytest.fixture(params=ops.cpu_variants())
def variant(request):
    ops.set_cpu_variant(request.param)


def tensor_codes(tensor):
    return tensor.view(torch.int16).numpy().view(np.uint16)


@pytest.mark.parametrize("fmt", FORMATS)
@pytest.mark.usefixtures("variant")
def test_engines_convert_as_the_formulas_do(formulas, fmt):
    x = np.concatenate([boundaries(fmt), sample(9, 100_003)])
    got = halfops_optim.cast(torch.from_numpy(x), DTYPES[fmt])
    assert np.array_equal(tensor_codes(got), getattr(formulas, f"{fmt}_from_f32")(x))
    codes = torch.from_numpy(ALL.view(np.int16).copy()).view(DTYPES[fmt])
    wide = halfops_optim.cast(codes, torch.float32).numpy()
    assert same_bits(wide, getattr(formulas, f"{fmt}_to_f32")(ALL))


@pytest.mark.parametrize("fmt", FORMATS)
@pytest.mark.usefixtures("variant")
def test_engines_round_stochastically_as_the_formulas_do(formulas, fmt):
    x = np.concatenate([boundaries(fmt), sample(10, 100_003)])
    seed, step, key = 2**40 + 3, 12, 5
    got = halfops_optim.cast(torch.from_numpy(x), DTYPES[fmt], rounding="stochastic", seed=seed, step=step, key=key)
    random = formulas.random_bits(seed, step, np.arange(len(x), dtype=np.uint64), key)
    assert np.array_equal(tensor_codes(got), getattr(formulas, f"{fmt}_stochastic")(x, random))


@pytest.mark.parametrize("fmt", FORMATS)
@pytest.mark.usefixtures("variant")
def test_engines_split_as_the_formulas_do(formulas, fmt):
    w = np.concatenate([boundaries(fmt), sample(11, 100_003)])
    weight, remainder = halfops_optim.split_master(torch.from_numpy(w), DTYPES[fmt])
    wanted_weight, wanted_remainder = getattr(formulas, f"{fmt}_split")(w)
    assert np.array_equal(tensor_codes(weight), wanted_weight)
    assert np.array_equal(remainder.numpy(), wanted_remainder)
    joined = halfops_optim.join_master(weight, remainder).numpy()
    assert np.array_equal(bits(joined), bits(getattr(formulas, f"{fmt}_join")(wanted_weight, wanted_remainder)))
