"""What compute-sanitizer watches, at sizes and offsets that hurt a vector kernel or a tile.

Every scale op, every optimizer, and every job of jobs.py on every row of the table of policies.

    compute-sanitizer --tool memcheck python -m benchmarks.sanitized

Small, because a sanitized kernel is a hundred times slower. PYTORCH_NO_CUDA_MEMORY_CACHING=1 belongs to it: inside a
block that torch pools, an access beyond a tensor is no error that a sanitizer sees.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import product
from typing import Any

import torch
from torch import Tensor

import halfops
from halfops._ops import linear, scale

from . import jobs, shapes

SIZES = (1, 7, 33, 4099, 5000)
OFFSETS = range(4)
HALVES = (torch.float16, torch.bfloat16)
MASTERS = ("split", "fp32", "none")
# A tile's worth and a little, with rows that are not whole 16-byte words; and less than any tile.
PRODUCTS = (shapes.Product("odd", 130, 70, 100, batch=2, pad=1), shapes.Product("tiny", 9, 7, 13, batch=2))
JOBS = sorted({name for suite in shapes.SUITES.values() for product in suite for name in product.jobs})
OPTIMIZERS: dict[str, Callable[..., Any]] = {
    "AdamW": halfops.optim.AdamW,
    "Adam": halfops.optim.Adam,
    "LAMB": halfops.optim.LAMB,
    "Lion": halfops.optim.Lion,
    "SGD": halfops.optim.SGD,
    "SGD, momentum": lambda *args, **kwargs: halfops.optim.SGD(*args, momentum=0.9, **kwargs),
}


def odd(dtype: torch.dtype, device: str) -> list[Tensor]:
    """Every size at every offset from an aligned address, each in memory of its own."""
    return [
        torch.full((size + offset,), 0.25, dtype=dtype, device=device)[offset:]
        for size, offset in product(SIZES, OFFSETS)
    ]


def checks(device: str) -> None:
    for dtype in (*HALVES, torch.float32):
        tensors = odd(dtype, device)
        squares = sum(SIZES) * len(OFFSETS) * 0.25**2
        assert scale.nonfinite_check(tensors).item() == 0
        assert scale.grad_stats(tensors, count_zeros=True).sum_of_squares.item() == squares
        assert scale.unscale_(tensors, torch.tensor(2.0, device=device)).found_inf.item() == 0
        assert all(bool((tensor == 0.5).all()) for tensor in tensors)
        tensors[-1][-1] = float("inf")
        assert scale.nonfinite_check(tensors).item() == 1
        assert scale.grad_stats(tensors).found_inf.item() == 1


def optimizer(name: str, master: str, dtype: torch.dtype, device: str) -> None:
    """Two clipped steps and one that is skipped, through the scaler."""
    parameters = [torch.nn.Parameter(tensor) for tensor in odd(dtype, device)]
    rounding = {"rounding": "stochastic"} if master == "none" else {}
    made = OPTIMIZERS[name](parameters, lr=0.125, master=master, max_grad_norm=100.0, **rounding)
    scaler = halfops.amp.GradScaler(device, init_scale=4.0)
    scaler.scale(torch.ones((), device=device))
    for value in (1.0, 2.0, float("inf")):
        for parameter, grad in zip(parameters, odd(dtype, device), strict=True):
            parameter.grad = grad.fill_(value)
        before = [parameter.detach().clone() for parameter in parameters]
        scaler.step(made)
        scaler.update()
        moved = [not torch.equal(old, parameter) for old, parameter in zip(before, parameters, strict=True)]
        assert any(moved) == (value != float("inf")), f"{name}, {master}, {dtype}: gradients of {value}, moved {moved}"
        assert all(bool(parameter.isfinite().all()) for parameter in parameters)


@functools.cache
def problems(dtype: torch.dtype, device: str) -> list[tuple[jobs.Job, list[Tensor]]]:
    """Every job and its right results, on the CPU: whatever else runs on the device is slowed down a hundred times."""
    made = []
    for each in PRODUCTS:
        tensors = jobs.Tensors(each, dtype, torch.device(device))
        every = [jobs.make(name, each, tensors) for name in JOBS]
        made += [(job, jobs.reference(dataclasses.replace(job, inputs=_on_cpu(job.inputs)))) for job in every]
    return made


def _on_cpu(tensors: Sequence[Tensor]) -> tuple[Tensor, ...]:
    return tuple(tensor.cpu() for tensor in tensors)


def products(dtype: torch.dtype, policy: str, device: str) -> None:
    """Every job as that row of the table, a block a tile and then as many as share tiles; no name: what is selected."""
    try:
        for blocks in (0, 3) if policy else (0,):
            linear.force_policy(policy, blocks)
            for job, reference in problems(dtype, device):
                results = _on_cpu(job.results(job.call(job.ours)()))
                said = jobs.wrong(job, results, reference, dtype)
                assert said is None, f"{job.name}, {job.product.label}, {linear.last_plan()}: {said}"
    finally:
        linear.force_policy("")


def parts(device: str) -> Iterator[tuple[str, Callable[[], None]]]:
    kind = torch.device(device).type
    if all(halfops.has_kernel(op, kind) for op in ("nonfinite_check", "grad_stats", "unscale_")):
        yield "checks", lambda: checks(device)
    else:
        print(f"checks skipped: not all of them are on {kind} in this build")
    if halfops.has_kernel("linear", kind):
        halves = HALVES if kind == "cpu" or torch.cuda.get_device_capability() >= (8, 0) else HALVES[:1]
        for policy, dtype in product(["", *linear.policies()] if kind == "cuda" else [""], halves):
            label = f"products, {dtype}, {policy or 'what is selected'}".replace("torch.", "")
            yield label, lambda dtype=dtype, policy=policy: products(dtype, policy, device)
    else:
        print(f"products skipped: no linear on {kind} in this build")
    if not halfops.has_kernel("optim_step_", kind):
        print(f"optimizers skipped: no optimizer step on {kind} in this build")
        return
    for name, master, dtype in product(OPTIMIZERS, MASTERS, HALVES):
        label = f"{name}, {master} master, {dtype}".replace("torch.", "")
        yield label, lambda name=name, master=master, dtype=dtype: optimizer(name, master, dtype, device)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--device", default="cuda", help="cuda (default), or cpu to try the script itself")
    parser.add_argument("--seconds", type=float, default=1e9, help="start no part after so many seconds")
    parser.add_argument("--only", metavar="WORDS", help="only parts whose name has one of these, as in bulk,AdamW")
    arguments = parser.parse_args(argv)
    device, begin, count, left = arguments.device, time.perf_counter(), 0, 0
    words = arguments.only.split(",") if arguments.only else [""]
    for label, part in parts(device):
        if not any(word in label for word in words):
            continue
        if time.perf_counter() - begin > arguments.seconds:
            left += 1
            continue
        print(label, flush=True)
        part()
        if device != "cpu":
            torch.cuda.synchronize()
        count += 1
    print(f"{count} parts ran" + (f", no time was left for {left}" if left else ""))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
