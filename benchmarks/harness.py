"""How time is taken here: providers interleaved in one process, medians and spread, every figure kept.

A provider is a callable without arguments that does the whole job once. All providers of a case run once per round, in
an order that rotates from round to round, so that a slow spell of the machine hits all of them alike.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

RESULTS = Path(__file__).parent / "results"


def options(description: str) -> argparse.ArgumentParser:
    """What every bench_*.py understands; `python -m halfops bench` passes it on."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--quick", action="store_true", help="small problems, few rounds")
    parser.add_argument("--device", default="cpu", help="cpu (default) or cuda")
    parser.add_argument("--record", action="store_true", help="append the figures to the results")
    parser.add_argument(
        "--out", type=Path, default=RESULTS, metavar="DIR", help="where to (default benchmarks/results)"
    )
    return parser


@dataclass(frozen=True)
class Timing:
    """Seconds per call: the median, and the quartiles around it."""

    median: float
    low: float
    high: float
    rounds: int


def interleave(
    providers: Mapping[str, Callable[[], Any]], *, rounds: int = 15, warmup: int = 2, seconds: float = 20.0
) -> dict[str, Timing]:
    """Times every provider `rounds` times, interleaved; stops early once `seconds` are spent (at least 3 rounds)."""
    names = list(providers)
    for _ in range(warmup):
        for name in names:
            providers[name]()
    _synchronize()
    taken: dict[str, list[float]] = {name: [] for name in names}
    start = time.perf_counter()
    for turn in range(rounds):
        for i in range(len(names)):
            name = names[(i + turn) % len(names)]
            begin = time.perf_counter()
            providers[name]()
            _synchronize()
            taken[name].append(time.perf_counter() - begin)
        if turn >= 2 and time.perf_counter() - start > seconds:
            break
    return {name: _timing(samples) for name, samples in taken.items()}


def _timing(samples: list[float]) -> Timing:
    low, median, high = statistics.quantiles(samples, n=4, method="inclusive")
    return Timing(median, low, high, len(samples))


def _synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def beside_copy(
    providers: Mapping[str, Callable[[], Any]], device: torch.device, *, megabytes: int, rounds: int, seconds: float
) -> tuple[dict[str, Timing], float]:
    """interleave() with a large copy among the providers: their timings, and the bytes a second that it read and wrote.

    Among them, because the bandwidth of a shared machine moves from one second to the next, for all alike.
    """
    source = torch.ones(megabytes * 1_000_000, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    everyone = {"copy": lambda: target.copy_(source), **providers}
    timings = interleave(everyone, rounds=rounds, seconds=seconds)
    return timings, 2 * source.numel() / timings.pop("copy").median


def machine() -> dict[str, Any]:
    """What a figure must be read with."""
    model = platform.processor()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        lines = [line for line in cpuinfo.read_text().splitlines() if line.startswith("model name")]
        model = lines[0].split(":", 1)[1].strip() if lines else model
    return {
        "cpu": model,
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "torch": torch.__version__,
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
    }


def record(bench: str, rows: list[dict[str, Any]], results: Path = RESULTS) -> Path:
    """Appends one line a row to results/<bench>.jsonl, each with commit, time and machine."""
    results.mkdir(parents=True, exist_ok=True)
    path = results / f"{bench}.jsonl"
    stamp = {"bench": bench, "commit": _commit(), "time": datetime.now(UTC).isoformat(timespec="seconds"), **machine()}
    with path.open("a") as out:
        for row in rows:
            out.write(json.dumps({**stamp, **row}) + "\n")
    return path


def _commit() -> str | None:
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
