"""Linear layers: forward, both gradients and batched products, each against torch in the same dtype and in fp32.

GFLOP/s count the product alone, 2 m n k, whoever does it; activation and bias ride along. torch fp32 is the measure
for fp16 on a CPU, where torch's own fp16 product is slow.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

import halfops
from halfops import functional as H

from .harness import Recorder, interleave, options
from .shapes import BATCHED, BATCHED_QUICK, EDGES, LINEAR, QUICK, Product

Providers = dict[str, Callable[[], Any]]
DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16}
PATIENCE = 1.0  # seconds: torch's fp16 gradients on a CPU can take hundreds of times longer than ours


def layer(problem: Product, dtype: torch.dtype, device: torch.device) -> dict[str, Providers]:
    """Job -> providers, ours first."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator).to(device)

    m, n, k = problem.m, problem.n, problem.k
    full = [normal(m, k), normal(n, k) / k**0.5, normal(n), normal(m, n)]
    x32, w32, b32, dy32 = full
    x, w, b, dy = (t.to(dtype) for t in full)
    return {
        "forward": {
            "halfops": lambda: H.linear(x, w, b),
            "torch": lambda: F.linear(x, w, b),
            "torch fp32": lambda: F.linear(x32, w32, b32),
        },
        "forward + gelu": {
            "halfops": lambda: H.linear(x, w, b, activation="gelu"),
            "torch": lambda: F.gelu(F.linear(x, w, b)),
            "torch fp32": lambda: F.gelu(F.linear(x32, w32, b32)),
        },
        "dgrad": {
            "halfops": lambda: H.linear_dgrad(dy, w),
            "torch": lambda: dy @ w,
            "torch fp32": lambda: dy32 @ w32,
        },
        "wgrad": {
            "halfops": lambda: H.linear_wgrad(dy, x),
            "torch": lambda: dy.t() @ x,
            "torch fp32": lambda: dy32.t() @ x32,
        },
    }


def batched(shape: tuple[int, int, int, int], dtype: torch.dtype, device: torch.device) -> Providers:
    batch, m, n, k = shape
    generator = torch.Generator().manual_seed(0)
    a32 = torch.randn(batch, m, k, generator=generator).to(device)
    b32 = torch.randn(batch, k, n, generator=generator).to(device)
    a, b = a32.to(dtype), b32.to(dtype)
    return {"halfops": lambda: H.matmul(a, b), "torch": lambda: a @ b, "torch fp32": lambda: a32 @ b32}


def patient(providers: Providers) -> Providers:
    """Without those that need more than PATIENCE seconds for one call; says so."""
    kept = {}
    for name, provider in providers.items():
        begin = time.perf_counter()
        provider()
        seconds = time.perf_counter() - begin
        if name == "halfops" or seconds <= PATIENCE:
            kept[name] = provider
        else:
            print(f"  {name} left out: one call took {seconds:.1f} s")
    return kept


def measure(
    case: str, job: str, flops: int, providers: Providers, rounds: int, device: torch.device
) -> list[dict[str, Any]]:
    timings = interleave(patient(providers), rounds=rounds, seconds=8, device=device)
    ours = timings["halfops"]
    rows = []
    for provider, timing in timings.items():
        row = {
            "case": case,
            "job": job,
            "provider": provider,
            "ms": timing.median * 1e3,
            "ms_low": timing.low * 1e3,
            "ms_high": timing.high * 1e3,
            "rounds": timing.rounds,
            "gflop_per_s": flops / timing.median / 1e9,
            "times_ours": timing.median / ours.median,
        }
        rows.append(row)
        print(
            f"  {job:16} {provider:12} {row['ms']:9.3f} ms [{row['ms_low']:.3f}, {row['ms_high']:.3f}]"
            f"  {row['gflop_per_s']:7.1f} GFLOP/s  {row['times_ours']:6.2f}x"
        )
    return rows


def main(argv: list[str] | None = None) -> int:
    arguments = options(__doc__ or "").parse_args(argv)
    device = torch.device(arguments.device)
    if not halfops.has_kernel("linear", device.type):
        print(f"linear: not on {device.type} yet")
        return 0
    rounds = 5 if arguments.quick else 15
    recorder = Recorder("linear", device, arguments.out if arguments.record else None)
    begin = time.perf_counter()

    def late(case: str) -> bool:
        if time.perf_counter() - begin <= arguments.seconds:
            return False
        print(f"\n{case} skipped: {arguments.seconds:g} s were spent before it")
        recorder.add([{"case": case, "provider": "all", "skipped": "no time was left"}])
        return True

    with torch.no_grad():
        for name, dtype in DTYPES.items():
            for problem in QUICK if arguments.quick else (*LINEAR, *EDGES):
                case = f"{name}, {problem.label}"
                if late(case):
                    continue
                print(f"\n{case}")
                for job, providers in layer(problem, dtype, device).items():
                    recorder.add(measure(case, job, problem.flops, providers, rounds, device))
            for shape in BATCHED_QUICK if arguments.quick else BATCHED:
                batch, m, n, k = shape
                case = f"{name}, {batch} products ({m}, {n}, {k})"
                if late(case):
                    continue
                print(f"\n{case}")
                flops, providers = 2 * batch * m * n * k, batched(shape, dtype, device)
                recorder.add(measure(case, "matmul", flops, providers, rounds, device))
    recorder.close()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
