"""Gradient checks: the flag alone, flag and norm in one read, unscaling in place, each against torch's way.

Bandwidth counts the bytes that the job has to move at least once, whoever does it: one read of the gradients, and for
unscaling one write. What a provider moves beyond that is its loss.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

import halfops
from halfops._ops import scale as ops

from .harness import Recorder, beside_copy, figure, line, options

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


DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}


@dataclass(frozen=True)
class Case:
    """A list of gradients, made when its turn comes."""

    dtype: str
    count: int
    each: int

    @property
    def label(self) -> str:
        return f"{self.dtype}, {self.count:,} x {self.each:,}"

    def gradients(self, device: torch.device) -> list[Tensor]:
        generator = torch.Generator(device).manual_seed(0)
        # Drawn where they are: a billion normal numbers take a CPU longer than everything else here.
        drawn = (torch.randn(self.each, generator=generator, device=device) for _ in range(self.count))
        return [gradient.to(DTYPES[self.dtype], copy=True) for gradient in drawn]


def cases(quick: bool, device: torch.device) -> list[Case]:
    if device.type != "cuda":
        count, each = (10, 200_000) if quick else (50, 1_000_000)
        return [*(Case(name, count, each) for name in DTYPES), Case("fp16", 1_000 if quick else 10_000, 64)]
    sizes = [(10, 1_000_000)] if quick else [(100, 10_000_000), (100, 1_000_000)]
    made = [Case("fp16", 10_000, 64), *(Case("fp16", *size) for size in sizes)]
    return [*made, *(Case(name, *size) for name in ("bf16", "fp32") for size in sizes)]


def measure(case: Case, device: torch.device, quick: bool) -> Iterator[list[dict[str, Any]]]:
    """The rows of one job after the other."""
    gradients = case.gradients(device)
    size = sum(g.numel() * g.element_size() for g in gradients)
    print(f"\n{case.label}: {size / 1e6:.1f} MB")
    for job, (passes, providers) in jobs(gradients).items():
        if not available(job, device):
            print(f"  {job}: not on {device.type} yet")
            continue
        if device.type == "cuda":
            effort = {"megabytes": 100 if quick else 1000, "rounds": 5 if quick else 20, "seconds": 1.5}
        else:
            effort = {"megabytes": 40 if quick else 400, "rounds": 5 if quick else 15, "seconds": 8}
        about = {"case": case.label, "job": job}
        try:
            timings, bandwidth = beside_copy(providers, device, **effort)
        except Exception as error:  # the other jobs can still be measured
            print(f"  {job:22} error: {error}")
            yield [{**about, "provider": "all", "error": f"{type(error).__name__}: {error}"[:300]}]
            continue
        ours = next(iter(timings.values()))
        rows = [{**about, **figure(*each, passes * size, bandwidth, ours.median)} for each in timings.items()]
        for row in rows:
            print(f"  {job:22} {row['provider']:32} {line(row)}")
        yield rows


def main(argv: list[str] | None = None) -> int:
    arguments = options(__doc__ or "").parse_args(argv)
    device = torch.device(arguments.device)
    recorder = Recorder("scale", device, arguments.out if arguments.record else None)
    begin = time.perf_counter()
    for case in cases(arguments.quick, device):
        if time.perf_counter() - begin > arguments.seconds:
            print(f"\n{case.label} skipped: {arguments.seconds:g} s were spent before it")
            recorder.add([{"case": case.label, "provider": "all", "skipped": "no time was left"}])
            continue
        for rows in measure(case, device, arguments.quick):
            recorder.add(rows)
    recorder.close()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
