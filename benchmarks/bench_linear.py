"""Linear layers, their gradients, what is fused into them, and batched products, in named suites (shapes.py).

GFLOP/s count the products alone, 2 m n k each, whoever does them; activation and bias ride along. Every provider's
result is compared with torch's in float32 before it is timed. --suite square:20,fused:60 gives suites seconds: no case
of one begins after its own. Peers that compile anew for each shape take part where --compiled says.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

import halfops
from halfops._ops import linear as ops

from . import jobs, linear_peers, shapes
from .figures import rate
from .harness import Recorder, Timing, Watch, interleave, options, timed
from .jobs import Call, Job
from .linear_peers import Peer
from .shapes import Product

DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16}
OURS = "halfops"
PATIENCE = 1.0  # seconds: torch's fp16 gradients on a CPU can take hundreds of times longer than ours
COMPILING = 20.0  # seconds, about: what compiles is not begun with less left of its suite's time
ROUNDS = {False: 15, True: 5}


@dataclass(frozen=True)
class Setting:
    """What is the same for all jobs of a case."""

    peers: Mapping[str, Peer]
    dtype: torch.dtype
    device: torch.device
    rounds: int
    watch: Watch | None = None


@dataclass(frozen=True)
class Clocked:
    """A suite and the time.perf_counter() after which no case of it begins."""

    name: str
    end: float

    @property
    def left(self) -> float:
        return self.end - time.perf_counter()


Row = dict[str, Any]


def plan(device: torch.device) -> str | None:
    """What the last product of ours ran as: a row of the table of policies and its blocks. None where none is told."""
    if device.type != "cuda" or not halfops.has_kernel("linear", "cuda"):
        return None
    return ops.last_plan() or None


def first_call(job: Job, call: Call, reference: list[Tensor], dtype: torch.dtype) -> float:
    """Runs a provider once and judges what it gives; the seconds that took."""
    begin = time.perf_counter()
    answer = call()
    if reference[0].is_cuda:
        torch.cuda.synchronize()
    seconds = time.perf_counter() - begin
    if said := jobs.wrong(job, answer, reference, dtype):
        raise ArithmeticError(said)
    return seconds


def without(about: Row, provider: str, why: str, text: str) -> Row:
    print(f"  {about['job']:24} {provider:26} {why}: {text}")
    return {**about, "provider": provider, why: text}


def failure(error: Exception) -> str:
    said = (str(error).strip().splitlines() or [""])[0]
    return f"{type(error).__name__}: {said}"[:300]


def ready(job: Job, about: Row, to: Setting, left: float) -> tuple[dict[str, Call], list[Row], str | None]:
    """Providers that have run once with a right result, ours first, a row for each other one, and our plan."""
    kept: dict[str, Call] = {}
    rows: list[Row] = []
    begin, reference, planned = time.perf_counter(), jobs.reference(job), None
    for name, peer in {OURS: Peer(lambda job, _: {OURS: job.call(job.ours)}), **to.peers}.items():
        spent = time.perf_counter() - begin
        if peer.compiles and left - spent < COMPILING:
            rows.append(without(about, name, "skipped", "no time was left to compile it"))
            continue
        provider = name
        try:
            for provider, call in peer.make(job, to.device).items():
                seconds = first_call(job, call, reference, to.dtype)
                if name == OURS:
                    planned = plan(to.device)
                elif to.device.type == "cpu" and not peer.compiles and seconds > PATIENCE:
                    rows.append(without(about, provider, "skipped", f"one call took {seconds:.1f} s"))
                    continue
                kept[provider] = call
        except Exception as error:  # the others can still be measured
            rows.append(without(about, provider, "error", failure(error)))
    return kept, rows, planned


def row(about: Row, provider: str, timing: Timing, flops: int, ours: Timing | None) -> Row:
    return {
        **about,
        **timed(provider, timing),
        "gflop_per_s": flops / timing.median / 1e9,
        "times_ours": None if ours is None else timing.median / ours.median,
    }


def line(row: Mapping[str, Any]) -> str:
    times = "" if row["times_ours"] is None else f"  {row['times_ours']:6.2f}x"
    planned = f"  {row['plan']}" if row.get("plan") else ""
    return (
        f"  {row['job']:24} {row['provider']:26} {row['ms']:9.3f} ms [{row['ms_low']:.3f}, {row['ms_high']:.3f}]"
        f"  {rate(row['gflop_per_s']):>12}{times}{planned}"
    )


def measure(job: Job, about: Row, to: Setting, left: float) -> list[Row]:
    calls, rows, planned = ready(job, about, to, left)
    if not calls:
        return rows
    # On a GPU every sample is of the device's own time behind a busy device: three seconds are many rounds.
    seconds, begin = 3 if to.device.type == "cuda" else 8, time.perf_counter()
    timings = interleave(calls, rounds=to.rounds, seconds=seconds, device=to.device)
    busy = None if to.watch is None else to.watch.since(begin)
    for provider, timing in timings.items():
        made = row(about, provider, timing, job.flops, timings.get(OURS))
        if provider == OURS and planned is not None:
            made["plan"] = planned
        if busy is not None:
            made["gpu_busy"] = busy
        rows.append(made)
        print(line(made))
    return rows


def suites(text: str | None, device: torch.device, seconds: float) -> list[tuple[str, float]]:
    """(name, seconds) of --suite; ValueError for what it cannot mean."""
    if text is None:
        everything = [name for name in shapes.SUITES if name != "small"]
        text = "small" if device.type == "cpu" else ",".join(everything)
    wanted = []
    for each in text.split(","):
        name, _, own = each.partition(":")
        if name not in shapes.SUITES:
            raise ValueError(f"--suite: got {name!r}, wanted some of {', '.join(shapes.SUITES)}")
        try:
            wanted.append((name, float(own) if own else seconds))
        except ValueError:
            raise ValueError(f"--suite: got {each!r}, wanted seconds after the colon, as in {name}:20") from None
    return wanted


def parser(description: str) -> argparse.ArgumentParser:
    """What the benchmark and the tuner understand."""
    made = options(description)
    made.add_argument(
        "--suite",
        metavar="NAMES",
        help=f"of {', '.join(shapes.SUITES)}; with NAME:SECONDS no case of it begins later (default: small on a CPU, "
        "on a GPU all others)",
    )
    made.add_argument("--dtype", default="fp16,bf16", help="fp16, bf16 or both (default)")
    return made


def understood(made: argparse.ArgumentParser, given: argparse.Namespace) -> argparse.Namespace:
    """Arguments with `device`, `dtypes` and `suites` read; a sentence and status 2 for what cannot be."""
    given.device = torch.device(given.device)
    given.dtypes = given.dtype.split(",")
    if unknown := [name for name in given.dtypes if name not in DTYPES]:
        made.error(f"--dtype: got {', '.join(unknown)}, wanted fp16, bf16 or fp16,bf16")
    try:
        given.suites = suites(given.suite, given.device, given.seconds)
    except ValueError as wrong:
        made.error(str(wrong))
    return given


def supported(dtype: torch.dtype, device: torch.device) -> bool:
    """bf16 needs a card of compute capability 8.0; CPUs have it by software at worst."""
    return device.type != "cuda" or dtype != torch.bfloat16 or torch.cuda.get_device_capability(device) >= (8, 0)


def cases(given: argparse.Namespace, recorder: Recorder) -> Iterator[tuple[Row, torch.dtype, Product, Clocked]]:
    """(dtype name, product, clocked suite) of all that is wanted, one after the other, while there is time.

    Suite by suite, in each dtype by dtype: what matters first comes first. What has no time left is said and kept.
    """
    begin = time.perf_counter()
    for name, own in given.suites:
        suite = Clocked(name, min(begin + given.seconds, time.perf_counter() + own))
        for dtype in given.dtypes:
            for product in shapes.suite(name, given.quick):
                about = {"suite": name, "case": f"{dtype}, {product.label}"}
                if not supported(DTYPES[dtype], given.device):
                    recorder.add([{**about, "provider": "all", "skipped": f"no {dtype} on this card"}])
                elif suite.left <= 0:
                    print(f"\n{about['case']} skipped: the time of {name} was spent before it")
                    recorder.add([{**about, "provider": "all", "skipped": "no time was left"}])
                else:
                    yield about, DTYPES[dtype], product, suite


def main(argv: list[str] | None = None) -> int:
    made = parser(__doc__ or "")
    made.add_argument("--peers", metavar="NAMES", help=f"of {', '.join(linear_peers.PEERS)} (default: all that fit)")
    made.add_argument("--beside", action="store_true", help="other packages instead, into linear_peers.jsonl (CUDA)")
    made.add_argument(
        "--compiled", metavar="NAMES", help="suites in which peers that compile for each shape take part (default all)"
    )
    given = made.parse_args(argv)
    if given.beside and given.suite is None:
        given.suite = "fused,square"
    device = understood(made, given).device
    try:
        peers = linear_peers.chosen(given.peers, given.beside, device)
    except ValueError as wrong:
        made.error(str(wrong))
    if not halfops.has_kernel("linear", device.type):
        print(f"linear: not on {device.type} yet")
        return 0
    subject = "linear_peers" if given.beside else "linear"
    recorder = Recorder(subject, device, given.out if given.record else None)
    recorder.stamp |= linear_peers.about(device)
    missing = [name for name, peer in peers.items() if not peer.installed]
    recorder.add([{"case": "other packages", "provider": name, "skipped": "not installed"} for name in missing])
    for name in missing:
        print(f"{name} is not installed")
    recorder.watch = watch = Watch.begun() if device.type == "cuda" else None
    with torch.no_grad():
        for about, dtype, product, suite in cases(given, recorder):
            slow = given.compiled is None or suite.name in given.compiled.split(",")
            beside = {name: peer for name, peer in peers.items() if name not in missing and (slow or not peer.compiles)}
            to = Setting(beside, dtype, device, ROUNDS[given.quick], watch)
            print(f"\n{about['case']}")
            rows: list[Row] = []
            try:
                for job in jobs.all_of(product, dtype, device):
                    rows += measure(job, {**about, "job": job.name}, to, suite.left)
            except Exception as error:  # too large for this card: the other cases may not be
                rows.append(without({**about, "job": "all"}, "all", "error", failure(error)))
            recorder.add(rows)
    if watch is not None:
        watch.close()
    recorder.close()
    failed = sum(row["provider"] == OURS and "error" in row for row in recorder.rows)
    if failed:
        print(f"halfops gave no right result for {failed} of the jobs")
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
