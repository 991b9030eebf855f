"""The whole optimizer step after backward: unscale, check for overflow, clip, update, skip, weights in 16 bits.

halfops: its scaler and its optimizers on 16-bit parameters, with each kind of master. torch: float32 parameters,
GradScaler.unscale_, clip_grad_norm_, AdamW, and the cast of the weights to 16 bits that the next forward needs. On a
GPU also the passes of apex in torch's ops, and with --beside the optimizers of other packages (adapters.py).

Bandwidth counts the bytes that a provider has to move for its own format, once: gradients for the check, then all that
the update reads and writes (halfops with split master 28 a parameter); for torch, what each of its passes needs.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

import halfops

from . import pipelines as steps
from .adapters import ADAPTERS
from .harness import Recorder, Timing, beside_copy, figure, line, options
from .pipelines import Pipeline, Problem, Shapes

DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16}
# By what matters first: a run may be cut short.
CUDA_SIZES = (("fp16", 1e9), ("fp16", 1e8), ("fp16", 4e9), ("bf16", 1e9), ("bf16", 1e8), ("bf16", 4e9))
MANY = 10_000
Free = Callable[[], float | None]


@dataclass(frozen=True)
class Effort:
    """Of one case: the copy beside it, rounds at most, seconds of measuring at most."""

    megabytes: int
    rounds: int
    seconds: float


@dataclass(frozen=True)
class Case:
    """Problem and pipelines are made when the case's turn comes: each holds a few times its parameters in memory."""

    label: str
    shapes: Shapes
    dtype: torch.dtype
    pipelines: Sequence[Pipeline]
    effort: Effort
    graph: bool = False


def large(name: str, numel: float, pipelines: Sequence[Pipeline], effort: Effort, beside: str = "") -> Case:
    shapes, dtype = steps.transformer(int(numel)), DTYPES[name]
    chosen = [pipeline for pipeline in pipelines if dtype in pipeline.dtypes]
    return Case(f"{name}, {numel / 1e6:g}M in {len(shapes)} tensors{beside}", shapes, dtype, chosen, effort)


def equal(name: str, numel: float, pipelines: Sequence[Pipeline], effort: Effort) -> Case:
    """Square tensors, as large as a transformer's: for packages that compile anew for each shape."""
    dtype, width = DTYPES[name], 1024 if numel >= 2e7 else 256
    shapes = [(width, width)] * max(1, round(numel / width**2))
    chosen = [pipeline for pipeline in pipelines if dtype in pipeline.dtypes]
    return Case(
        f"{name}, {numel / 1e6:g}M in {len(shapes)} equal tensors, other packages", shapes, dtype, chosen, effort
    )


def small(count: int, pipelines: Sequence[Pipeline], effort: Effort, graph: bool = False) -> Case:
    label = f"fp16, {count:,} tensors of 64" + (", CUDA graph" if graph else "")
    return Case(label, [(64,)] * count, torch.float16, pipelines, effort, graph)


def cpu_cases(quick: bool, numel: float | None) -> list[Case]:
    effort = Effort(40, 5, 5) if quick else Effort(400, 15, 40)
    numel = numel or (2e6 if quick else 50e6)
    cases = [large(name, numel, steps.CPU, effort) for name in DTYPES]
    return [*cases, small(500 if quick else MANY, steps.CPU, effort)]


def cuda_cases(quick: bool, numel: float | None, many: int = MANY) -> list[Case]:
    effort = Effort(100, 5, 2) if quick else Effort(1000, 20, 4)
    sizes = [(name, numel or (2e7 if quick else each)) for name, each in CUDA_SIZES]
    named = [large(name, each, steps.CUDA, effort) for name, each in dict.fromkeys(sizes)]
    # A capture that fails can leave torch's allocator unusable: after what matters most.
    graph = small(many, steps.CAPTURABLE, effort, graph=True)
    half = len(named) // 2
    return [small(many, steps.CUDA, effort), *named[:half], graph, *named[half:]]


def beside_cases(quick: bool, numel: float | None) -> list[Case]:
    """Ours again with the default master, and other packages; those that compile at the smaller size, and last."""
    effort = Effort(100, 5, 2) if quick else Effort(1000, 15, 4)
    big, less = numel or (2e7 if quick else 1e9), numel or (2e7 if quick else 1e8)
    there = [adapter for adapter in ADAPTERS if adapter.installed]
    at_once = [steps.OURS[0], *(adapter.pipeline() for adapter in there if not adapter.compiles)]
    slowly = [steps.OURS[0], *(adapter.pipeline() for adapter in there if adapter.compiles)]
    cases = [large("fp16", each, at_once, effort, ", other packages") for each in dict.fromkeys((big, less))]
    cases += [large("bf16", big, at_once, effort, ", other packages")]
    cases += [equal(name, less, slowly, effort) for name in DTYPES]
    return [case for case in cases if len(case.pipelines) > 1]


# --- measuring ------------------------------------------------------------------------------------------------------


def free_memory(device: torch.device) -> float | None:
    """Bytes that a case may take on a GPU: nine tenths of what is free, as allocators and kernels need some too."""
    if device.type != "cuda":
        return None
    torch.cuda.empty_cache()
    return 0.9 * torch.cuda.mem_get_info(device)[0]


def ready(
    case: Case, group: Sequence[Pipeline], problem: Problem
) -> tuple[dict[str, steps.Step], list[dict[str, Any]]]:
    """Steps that have run once, and a row for each that could not: one provider's failure is no reason to stop."""
    made: dict[str, steps.Step] = {}
    failures = []
    for pipeline in group:
        try:
            step = pipeline.make(problem)
            step()
            if case.graph:
                step = steps.graphed(step, problem.device)
            if problem.device.type == "cuda":
                torch.cuda.synchronize()
        except Exception as error:
            said = (str(error).strip().splitlines() or [""])[0]
            failures.append(without(case.label, pipeline.name, "error", f"{type(error).__name__}: {said}"[:300]))
        else:
            made[pipeline.name] = step
    if failures:
        tidy(problem.device)
    return made, failures


def tidy(device: torch.device) -> None:
    gc.collect()  # optimizers hold themselves in cycles
    if device.type == "cuda":
        torch.cuda.empty_cache()


def without(case: str, provider: str, why: str, text: str) -> dict[str, Any]:
    """A row in place of a figure, "skipped" or "error", said and kept."""
    print(f"  {provider:42} {why}: {text}")
    return {"case": case, "provider": provider, why: text}


def measure(case: Case, device: torch.device, recorder: Recorder, free: Free) -> None:
    """All pipelines of a case, in as few groups as memory allows, a copy in each; ours, the first, is the measure."""
    params = Problem(case.shapes, case.dtype, device).params
    print(f"\n{case.label}")
    memory = free()
    copies = 2e6 * case.effort.megabytes
    groups, left_out = steps.packed(case.pipelines, params, None if memory is None else memory - copies)
    for pipeline in left_out:
        needed = (steps.need([pipeline], params) + copies) / 1e9
        text = f"needs {needed:.0f} GB of memory, {(memory or 0) / 1e9:.0f} GB are at hand"
        recorder.add([without(case.label, pipeline.name, "skipped", text)])
    first: float | None = None
    for group in groups:
        first = _group(case, group, Problem(case.shapes, case.dtype, device), recorder, first)
        tidy(device)


def _group(
    case: Case, group: Sequence[Pipeline], problem: Problem, recorder: Recorder, first: float | None
) -> float | None:
    made, failures = ready(case, group, problem)
    recorder.add(failures)
    if not made:
        return first
    effort = case.effort
    timings, roof = beside_copy(
        made, problem.device, megabytes=effort.megabytes, rounds=effort.rounds, seconds=effort.seconds
    )
    print(f"  copy among them: {roof / 1e9:.1f} GB/s (read + written)")
    if case.pipelines[0].name in timings:
        first = timings[case.pipelines[0].name].median
    moved = {pipeline.name: pipeline.moved for pipeline in group}
    rows = [row(case.label, name, timing, problem.params, moved[name], roof, first) for name, timing in timings.items()]
    for each in rows:
        print(f"  {each['provider']:42} {line(each)}")
    recorder.add(rows)
    return first


def row(
    case: str, provider: str, timing: Timing, params: int, moved: float, roof: float, first: float | None
) -> dict[str, Any]:
    about = {"params": params, "bytes_per_param": moved, "ms_per_1e9": timing.median * 1e3 / params * 1e9}
    return {"case": case, **figure(provider, timing, moved * params, roof, first, **about)}


def run(cases: Sequence[Case], device: torch.device, recorder: Recorder, seconds: float, free: Free) -> None:
    begin = time.perf_counter()
    for case in cases:
        if time.perf_counter() - begin > seconds:
            recorder.add([without(case.label, "all", "skipped", f"{seconds:g} s were spent before it")])
            continue
        measure(case, device, recorder, free)


def main(argv: list[str] | None = None) -> int:
    parser = options(__doc__ or "")
    parser.add_argument("--numel", type=float, help="parameters of the large cases (default 50e6 on a CPU; quick 2e6)")
    parser.add_argument("--beside", action="store_true", help="other packages instead, into peers.jsonl (CUDA)")
    arguments = parser.parse_args(argv)
    device = torch.device(arguments.device)
    if not halfops.has_kernel("optim_step_", device.type):
        print(f"optim: no optimizer step on {device.type} in this build yet")
        return 0
    quick, numel = arguments.quick, arguments.numel
    subject = "peers" if arguments.beside else "optim"
    recorder = Recorder(subject, device, arguments.out if arguments.record else None)
    if arguments.beside:
        cases = beside_cases(quick, numel)
        missing = [adapter.name for adapter in ADAPTERS if not adapter.installed]
        recorder.add([without("other packages", name, "skipped", "not installed") for name in missing])
    else:
        cases = cuda_cases(quick, numel) if device.type == "cuda" else cpu_cases(quick, numel)
    run(cases, device, recorder, arguments.seconds, lambda: free_memory(device))
    recorder.close()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
