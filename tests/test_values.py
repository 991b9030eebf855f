"""Every case's values: within the bound of the exact result, no worse than torch's, the same bits each time."""

from __future__ import annotations

import pytest
import torch
from bounds import UNIT
from cases import Case, as_tuple, bits, exact
from cases.linear import CASES

from halfops._ops import ops

NEEDS_KERNEL = "linear"


def each_case(cases: list[Case] = CASES):
    pairs = [pytest.param(c, d, id=f"{c.name}-{str(d)[6:]}") for c in cases for d in c.dtypes]
    return pytest.mark.parametrize(("case", "dtype"), pairs)


@each_case()
def test_value(case, dtype, device):
    inputs = case.inputs(dtype, device)
    results = as_tuple(case.op(*inputs))
    exactly = [exact(i) for i in inputs]
    wanted, allowed = as_tuple(case.reference(*exactly)), as_tuple(case.bound(dtype, *exactly))
    assert len(results) == len(wanted) == len(allowed)
    for result, value, bound in zip(results, wanted, allowed, strict=True):
        assert result.shape == value.shape
        error = (result.double() - value).abs()
        assert (error <= bound).all(), f"{(error / bound).max():.2f} times the bound, at {(error / bound).argmax()}"

    again = as_tuple(case.op(*inputs))
    assert all(torch.equal(bits(a), bits(b)) for a, b in zip(results, again, strict=True)), "two runs differ"
    if device.type == "cpu":
        for variant in ops.cpu_variants():
            ops.set_cpu_variant(variant)
            other = as_tuple(case.op(*inputs))
            assert all(torch.equal(bits(a), bits(b)) for a, b in zip(results, other, strict=True)), variant


@each_case([c for c in CASES if c.peer is not None])
def test_no_worse_than_torch(case, dtype, device):
    """The error's length is at most that of torch's own op plus one rounding of the result."""
    inputs = case.inputs(dtype, device)
    wanted = as_tuple(case.reference(*[exact(i) for i in inputs]))
    for ours, theirs, value in zip(as_tuple(case.op(*inputs)), as_tuple(case.peer(*inputs)), wanted, strict=True):
        rounding = UNIT[ours.dtype] * value.norm()
        assert (ours.double() - value).norm() <= (theirs.double() - value).norm() + rounding


@pytest.mark.parametrize("case", CASES, ids=str)
def test_float64(case, device):
    """float64 goes to torch's ops, and gives what the reference gives."""
    inputs = case.inputs(torch.float64, device)
    for result, value in zip(as_tuple(case.op(*inputs)), as_tuple(case.reference(*inputs)), strict=True):
        wanted = value if result.dtype == torch.float64 else value.to(result.dtype)
        torch.testing.assert_close(result, wanted, rtol=4 * UNIT[result.dtype], atol=1e-12)
