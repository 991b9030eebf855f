"""Products over long K: no less exact than torch's, within the stated bound, and never finite where they overflow."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest
import torch
from bounds import UNIT
from torch import Tensor

from halfops import functional as H

NEEDS_KERNEL = "linear"
DTYPES = [torch.float16, torch.bfloat16]
LENGTHS = [512, 8192, 65536]
# Some smaller outputs over K = 65536 end torch 2.13's own bf16 product on CPUs with AMX: an integer division by 0.
M, N = 96, 128


@contextlib.contextmanager
def full_precision_reductions() -> Iterator[None]:
    flags = torch.backends.cuda.matmul
    names = ("allow_fp16_reduced_precision_reduction", "allow_bf16_reduced_precision_reduction")
    before = [getattr(flags, name) for name in names]
    for name in names:
        setattr(flags, name, False)
    yield
    for name, value in zip(names, before, strict=True):
        setattr(flags, name, value)


def passes(k: int, dtype: torch.dtype, device: torch.device) -> dict[str, tuple[Tensor, Tensor, Tensor, Tensor]]:
    """Pass -> ours, torch's, the exact result, and the sum of the magnitudes; K is what the sum runs over."""
    generator = torch.Generator().manual_seed(k)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator).to(dtype).to(device)

    def of(ours: Tensor, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        return ours, a @ b, a.double() @ b.double(), a.double().abs() @ b.double().abs()

    x, w = normal(M, k), normal(N, k)  # forward
    dy, v = normal(M, k), normal(k, N)  # dgrad
    dz, z = normal(k, M), normal(k, N)  # wgrad
    return {
        "forward": of(H.linear(x, w), x, w.mT),
        "dgrad": of(H.linear_dgrad(dy, v), dy, v),
        "wgrad": of(H.linear_wgrad(dz, z)[0], dz.mT, z),
    }


@pytest.mark.parametrize("k", LENGTHS)
@pytest.mark.parametrize("dtype", DTYPES, ids=["fp16", "bf16"])
def test_no_less_exact_than_torch(device, dtype, k):
    """The length of the error is at most torch's, but for a thousandth: a sum near the middle of two numbers rounds
    either way, by the order in which fp32 added it."""
    with full_precision_reductions():
        for name, (ours, theirs, exact, _) in passes(k, dtype, device).items():
            assert (ours.double() - exact).norm() <= (theirs.double() - exact).norm() * 1.001, name


@pytest.mark.parametrize("k", LENGTHS)
@pytest.mark.parametrize("dtype", DTYPES, ids=["fp16", "bf16"])
def test_within_the_stated_bound(device, dtype, k):
    """docs/numerics.md: K u(fp32), twice that for tensor cores, of the magnitudes' sum, and one rounding."""
    for name, (ours, _, exact, most) in passes(k, dtype, device).items():
        bound = UNIT[dtype] * exact.abs() + 2 * k * UNIT[torch.float32] * most
        assert ((ours.double() - exact).abs() <= bound).all(), name


@pytest.mark.parametrize("k", [64, 4096])
def test_an_overflow_is_never_finite(device, k):
    """fp16: a sum beyond 65504 is infinite in forward, both gradients, and behind an activation; an infinity that meets
    another one of the other sign, or a NaN, is a NaN."""
    x, w = torch.full((8, k), 40.0, device=device).half(), torch.full((16, k), 60.0, device=device).half()
    x[1], x[2, 3] = -x[1], float("nan")
    x[3, 5], x[4, 5], x[4, 6] = float("inf"), float("inf"), -float("inf")
    x[5] = 0
    results = {
        "forward": H.linear(x, w),
        "dgrad": H.linear_dgrad(x, w.mT.contiguous()),
        "wgrad": H.linear_wgrad(x.mT.contiguous(), w.mT.contiguous())[0],
    }
    inf = float("inf")
    for name, y in results.items():
        assert (y[0] == inf).all(), name
        assert (y[1] == -inf).all(), name
        assert y[2].isnan().all(), name
        assert (y[3] == inf).all(), name
        assert y[4].isnan().all(), name
        assert (y[5] == 0).all(), name
    for activation in ("relu", "gelu", "gelu_tanh", "silu"):
        y = H.linear(x, w, activation=activation)
        assert (y[0] == inf).all()
        assert (y[1] == 0).all()
        assert y[2].isnan().all()
