"""Gradient checks: the flag alone, flag and norm in one read, unscaling in place, each against torch's way.

Bandwidth counts the bytes that the job has to move at least once, whoever does it: one read of the gradients, and for
unscaling one write. What a provider moves beyond that is its loss.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

import halfops
from halfops._ops import scale as ops

from .harness import beside_copy, options, record

Providers = dict[str, Callable[[], Any]]


def _torch_unscale(gradients: list[Tensor], found: Tensor, inverse: Tensor) -> None:
    torch._amp_foreach_non_finite_check_and_unscale_(gradients, found.zero_(), inverse)


def _torch_check_and_norm(gradients: list[Tensor], found: Tensor, one: Tensor) -> Tensor:
    _torch_unscale(gradients, found, one)
    return torch.nn.utils.get_total_norm(gradients)


def _torch_unscale_and_clip(parameters: list[Tensor], found: Tensor, inverse: Tensor) -> None:
    _torch_unscale([p.grad for p in parameters if p.grad is not None], found, inverse)
    torch.nn.utils.clip_grad_norm_(parameters, 1.0)


def jobs(gradients: list[Tensor]) -> dict[str, tuple[int, Providers]]:
    """Name -> passes over the gradients that the job needs, and who does it. The first provider is ours."""
    device = gradients[0].device
    # Gradients that are multiplied again and again must neither vanish nor overflow.
    one, found = torch.ones((), device=device), torch.zeros((), device=device)
    parameters = [torch.nn.Parameter(g) for g in gradients]
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = gradient
    return {
        "flag": (
            1,
            {
                "halfops nonfinite_check": lambda: ops.nonfinite_check(gradients),
                "torch isfinite().all()": lambda: [torch.isfinite(g).all() for g in gradients],
                "torch scaler's check": lambda: _torch_unscale(gradients, found, one),
            },
        ),
        "flag + norm": (
            1,
            {
                "halfops grad_stats": lambda: ops.grad_stats(gradients),
                "halfops grad_stats, zeros": lambda: ops.grad_stats(gradients, count_zeros=True),
                "torch check + foreach norm": lambda: _torch_check_and_norm(gradients, found, one),
            },
        ),
        "unscale + flag": (
            2,
            {
                "halfops unscale_ (and norm)": lambda: ops.unscale_(gradients, one),
                "torch scaler's unscale": lambda: _torch_unscale(gradients, found, one),
            },
        ),
        "before a clipped step": (
            1,
            {
                "halfops grad_stats": lambda: ops.grad_stats(gradients),
                "torch unscale + clip_grad_norm_": lambda: _torch_unscale_and_clip(parameters, found, one),
            },
        ),
    }


OPS = {"flag": "nonfinite_check", "unscale + flag": "unscale_"}


def available(job: str, device: torch.device) -> bool:
    return halfops.has_kernel(OPS.get(job, "grad_stats"), device.type)


def cases(quick: bool, device: torch.device) -> list[tuple[str, list[Tensor]]]:
    count, each = (10, 200_000) if quick else (50, 1_000_000)
    generator = torch.Generator().manual_seed(0)
    normal = [torch.randn(each, generator=generator) for _ in range(count)]
    named = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}
    made = [
        (f"{name}, {count} x {each:,}", [g.to(device, dtype, copy=True) for g in normal])
        for name, dtype in named.items()
    ]
    tiny = 1_000 if quick else 10_000
    many = [torch.randn(64, generator=generator).to(device, torch.float16) for _ in range(tiny)]
    return [*made, (f"fp16, {tiny:,} x 64", many)]


def main(argv: list[str] | None = None) -> int:
    arguments = options(__doc__ or "").parse_args(argv)
    device = torch.device(arguments.device)
    quick = arguments.quick
    rows = []
    for case, gradients in cases(quick, device):
        size = sum(g.numel() * g.element_size() for g in gradients)
        print(f"\n{case}: {size / 1e6:.1f} MB")
        for job, (passes, providers) in jobs(gradients).items():
            if not available(job, device):
                print(f"  {job}: not on {device.type} yet")
                continue
            timings, bandwidth = beside_copy(
                providers, device, megabytes=40 if quick else 400, rounds=5 if quick else 15, seconds=8
            )
            ours = next(iter(timings.values()))
            for provider, timing in timings.items():
                rate = passes * size / timing.median
                row = {
                    "case": case,
                    "job": job,
                    "provider": provider,
                    "ms": timing.median * 1e3,
                    "ms_low": timing.low * 1e3,
                    "ms_high": timing.high * 1e3,
                    "rounds": timing.rounds,
                    "gb_per_s": rate / 1e9,
                    "of_copy": rate / bandwidth,
                    "copy_gb_per_s": bandwidth / 1e9,
                    "times_ours": timing.median / ours.median,
                }
                rows.append(row)
                print(
                    f"  {job:22} {provider:32} {row['ms']:9.3f} ms [{row['ms_low']:.3f}, {row['ms_high']:.3f}]"
                    f"  {row['gb_per_s']:6.1f} GB/s  {row['of_copy']:5.0%} of copy  {row['times_ours']:6.2f}x"
                )
    if arguments.record:
        print(f"\nrecorded in {record('scale', rows, arguments.out)}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
