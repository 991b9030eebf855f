"""The whole optimizer step after backward: unscale, check for overflow, clip, update, skip, weights in 16 bits.

halfops: its scaler and its optimizers on 16-bit parameters, with each kind of master. torch: float32 parameters,
GradScaler.unscale_, clip_grad_norm_, AdamW, and the cast of the weights to 16 bits that the next forward needs.

Bandwidth counts the bytes that a provider has to move for its own format, once: gradients for the check, then all that
the update reads and writes (halfops with split master 28 a parameter); for torch, what each of its passes needs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

import halfops

from .harness import beside_copy, options, record

HYPER: dict[str, Any] = {"lr": 1e-4, "weight_decay": 0.01}
MAX_NORM = 1.0


@dataclass
class Provider:
    step: Callable[[], Any]
    bytes_per_param: int


def transformer(numel: int) -> list[tuple[int, ...]]:
    """Shapes of a transformer with about that many parameters: blocks, and an embedding for the rest."""
    width = 1024 if numel >= 20_000_000 else 256
    block: list[tuple[int, ...]] = [(3 * width, width), (3 * width,), (width, width), (width,), (width,), (width,)]
    block += [(4 * width, width), (4 * width,), (width, 4 * width), (width,), (width,), (width,)]
    blocks = max(1, numel * 3 // 4 // (12 * width * width))
    rest = numel - blocks * 12 * width * width
    return [(max(1, rest // width), width), *block * blocks]


def ours(
    shapes: list[tuple[int, ...]], dtype: torch.dtype, device: torch.device, grads: list[Tensor], **extras: Any
) -> Callable[[], Any]:
    parameters = [torch.nn.Parameter((0.02 * torch.randn(shape)).to(device, dtype)) for shape in shapes]
    for parameter, grad in zip(parameters, grads, strict=True):
        parameter.grad = grad
    optimizer = halfops.optim.AdamW(parameters, **HYPER, max_grad_norm=MAX_NORM, **extras)
    # A scale of 1: torch's unscale_ writes the gradients, which must stay what they are from round to round.
    scaler = halfops.amp.GradScaler(device.type, init_scale=1.0, growth_interval=1_000_000_000)
    scaler.scale(torch.ones((), device=device))

    def step() -> None:
        scaler.step(optimizer)
        scaler.update()

    return step


def theirs(
    shapes: list[tuple[int, ...]], dtype: torch.dtype, device: torch.device, grads: list[Tensor], **extras: Any
) -> Callable[[], Any]:
    parameters = [torch.nn.Parameter(0.02 * torch.randn(shape, device=device)) for shape in shapes]
    for parameter, grad in zip(parameters, grads, strict=True):
        parameter.grad = grad
    halves = [parameter.detach().to(dtype) for parameter in parameters]
    optimizer = torch.optim.AdamW(parameters, **HYPER, **extras)
    scaler = torch.amp.GradScaler(device.type, init_scale=1.0, growth_interval=1_000_000_000)
    scaler.scale(torch.ones((), device=device))

    def step() -> None:
        scaler.unscale_(optimizer)
        torch.nn.utils.clip_grad_norm_(parameters, MAX_NORM)
        scaler.step(optimizer)
        scaler.update()
        torch._foreach_copy_(halves, [parameter.detach() for parameter in parameters])

    return step


def providers(shapes: list[tuple[int, ...]], dtype: torch.dtype, device: torch.device) -> dict[str, Provider]:
    """The first is ours with its default master."""
    half = [(1e-3 * torch.randn(shape)).to(device, dtype) for shape in shapes]
    full = [grad.float() for grad in half]
    # grads 2 for the check; then 2 + 2 weight, 2 gradient, 8 + 8 moments and twice the master
    made = {
        "halfops AdamW, split master": Provider(ours(shapes, dtype, device, half), 28),
        "halfops AdamW, fp32 master": Provider(ours(shapes, dtype, device, half, master="fp32"), 30),
        "halfops AdamW, no master": Provider(ours(shapes, dtype, device, half, master="none"), 24),
        "halfops AdamW, no master, stochastic": Provider(
            ours(shapes, dtype, device, half, master="none", rounding="stochastic"), 24
        ),
        # unscale 8, norm 4, clip 8, update 28, cast 6
        "torch unscale, clip, fused AdamW, cast": Provider(theirs(shapes, dtype, device, full, fused=True), 54),
        "torch unscale, clip, foreach AdamW, cast": Provider(theirs(shapes, dtype, device, full, foreach=True), 54),
    }
    return made


def cases(
    numel: int, many: int, device: torch.device
) -> Iterator[tuple[str, list[tuple[int, ...]], dict[str, Provider]]]:
    """Made one after another: each holds a few times its parameters in memory."""
    large = transformer(numel)
    for name, dtype in (("fp16", torch.float16), ("bf16", torch.bfloat16)):
        yield f"{name}, {numel / 1e6:g}M in {len(large)} tensors", large, providers(large, dtype, device)
    small: list[tuple[int, ...]] = [(64,)] * many
    yield f"fp16, {many:,} tensors of 64", small, providers(small, torch.float16, device)


def main(argv: list[str] | None = None) -> int:
    parser = options(__doc__ or "")
    parser.add_argument("--numel", type=float, help="parameters of the large case (default 50e6; quick 2e6)")
    arguments = parser.parse_args(argv)
    device = torch.device(arguments.device)
    if not halfops.has_kernel("optim_step_", device.type):
        print(f"optim: no optimizer step on {device.type} in this build yet")
        return 0
    quick = arguments.quick
    rows = []
    numel = int(arguments.numel or (2e6 if quick else 50e6))
    for case, shapes, made in cases(numel, 500 if quick else 10_000, device):
        count = sum(torch.Size(shape).numel() for shape in shapes)
        print(f"\n{case}")
        steps = {name: provider.step for name, provider in made.items()}
        timings, roof = beside_copy(
            steps, device, megabytes=40 if quick else 400, rounds=5 if quick else 15, seconds=5 if quick else 40
        )
        print(f"  copy among them: {roof / 1e9:.1f} GB/s (read + written)")
        first = next(iter(timings.values()))
        for name, timing in timings.items():
            rate = made[name].bytes_per_param * count / timing.median
            row = {
                "case": case,
                "provider": name,
                "ms": timing.median * 1e3,
                "ms_low": timing.low * 1e3,
                "ms_high": timing.high * 1e3,
                "rounds": timing.rounds,
                "params": count,
                "bytes_per_param": made[name].bytes_per_param,
                "gb_per_s": rate / 1e9,
                "of_copy": rate / roof,
                "copy_gb_per_s": roof / 1e9,
                "times_ours": timing.median / first.median,
            }
            rows.append(row)
            print(
                f"  {name:42} {row['ms']:9.3f} ms [{row['ms_low']:.3f}, {row['ms_high']:.3f}]"
                f"  {row['gb_per_s']:6.1f} GB/s  {row['of_copy']:5.0%} of copy  {row['times_ours']:6.2f}x"
            )
    if arguments.record:
        print(f"\nrecorded in {record('optim', rows, arguments.out)}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
