"""How time is taken here: providers interleaved in one process, medians and spread, every figure kept.

A provider is a callable without arguments that does the whole job once. All providers of a case run once per round, in
an order that rotates from round to round, so that a slow spell of the machine hits all of them alike.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
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
    parser.add_argument("--seconds", type=float, default=1e9, help="start no case after so many seconds")
    return parser


# --- clocks ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Sample:
    """Seconds of one call; on a GPU also how long it kept the host, and until all was done from a standstill."""

    seconds: float
    host: float | None = None
    wall: float | None = None


Clock = Callable[[Callable[[], Any]], Sample]


def wall_clock(call: Callable[[], Any]) -> Sample:
    begin = time.perf_counter()
    call()
    _synchronize()
    return Sample(time.perf_counter() - begin)


class DeviceClock:
    """CUDA events around a call, with the second-level cache emptied and the device busy before it.

    Each sample calls twice. From a standstill: the host's time until the call returns, and until its work is done. Then
    behind a device that is kept busy for as long as the host needs to hand over the work, as it is after a backward
    pass: the events then tell the device's own time, gaps only where the provider waits for the device itself.
    """

    CYCLES_PER_SECOND = 2e9  # about; decides only how long the device is kept busy
    LONGEST = 0.06

    def __init__(self, device: torch.device) -> None:
        cache = getattr(torch.cuda.get_device_properties(device), "L2_cache_size", 64 * 2**20)
        self.flush = torch.zeros(max(2 * cache, 128 * 2**20) // 4, device=device)
        self.start, self.end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)

    def __call__(self, call: Callable[[], Any]) -> Sample:
        torch.cuda.synchronize()
        begin = time.perf_counter()
        call()
        host = time.perf_counter() - begin
        torch.cuda.synchronize()
        wall = time.perf_counter() - begin

        torch.cuda._sleep(int(min(1.5 * host + 1e-4, self.LONGEST) * self.CYCLES_PER_SECOND))
        self.flush.zero_()
        self.flush.sum()  # reads what was written: otherwise the call pays for writing it back
        self.start.record()
        call()
        self.end.record()
        torch.cuda.synchronize()
        return Sample(self.start.elapsed_time(self.end) * 1e-3, host, wall)


def clock(device: torch.device | None) -> Clock:
    return DeviceClock(device) if device is not None and device.type == "cuda" else wall_clock


def _synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


@dataclass(frozen=True)
class Timing:
    """Seconds per call: the median, and the quartiles around it; medians of what else the clock tells."""

    median: float
    low: float
    high: float
    rounds: int
    host: float | None = None
    wall: float | None = None


def interleave(
    providers: Mapping[str, Callable[[], Any]],
    *,
    rounds: int = 15,
    warmup: int = 2,
    seconds: float = 20.0,
    device: torch.device | None = None,
) -> dict[str, Timing]:
    """Times every provider `rounds` times, interleaved; stops early once `seconds` are spent (at least 3 rounds)."""
    names, sample = list(providers), clock(device)
    for _ in range(warmup):
        for name in names:
            providers[name]()
    _synchronize()
    taken: dict[str, list[Sample]] = {name: [] for name in names}
    start = time.perf_counter()
    for turn in range(rounds):
        for i in range(len(names)):
            name = names[(i + turn) % len(names)]
            taken[name].append(sample(providers[name]))
        if turn >= 2 and time.perf_counter() - start > seconds:
            break
    return {name: _timing(samples) for name, samples in taken.items()}


def _timing(samples: Sequence[Sample]) -> Timing:
    low, median, high = statistics.quantiles([sample.seconds for sample in samples], n=4, method="inclusive")
    hosts = [sample.host for sample in samples if sample.host is not None]
    walls = [sample.wall for sample in samples if sample.wall is not None]
    return Timing(
        median,
        low,
        high,
        len(samples),
        statistics.median(hosts) if hosts else None,
        statistics.median(walls) if walls else None,
    )


def beside_copy(
    providers: Mapping[str, Callable[[], Any]], device: torch.device, *, megabytes: int, rounds: int, seconds: float
) -> tuple[dict[str, Timing], float]:
    """interleave() with a large copy among the providers: their timings, and the bytes a second that it read and wrote.

    Among them, because the bandwidth of a shared machine moves from one second to the next, for all alike.
    """
    source = torch.ones(megabytes * 1_000_000, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    everyone = {"copy": lambda: target.copy_(source), **providers}
    timings = interleave(everyone, rounds=rounds, seconds=seconds, device=device)
    return timings, 2 * source.numel() / timings.pop("copy").median


# --- figures --------------------------------------------------------------------------------------------------------


def timed(provider: str, timing: Timing) -> dict[str, Any]:
    """What every row has of a timing."""
    return {
        "provider": provider,
        "ms": timing.median * 1e3,
        "ms_low": timing.low * 1e3,
        "ms_high": timing.high * 1e3,
        "host_ms": None if timing.host is None else timing.host * 1e3,
        "wall_ms": None if timing.wall is None else timing.wall * 1e3,
        "rounds": timing.rounds,
    }


def figure(
    provider: str, timing: Timing, moved: float, roof: float, first: float | None, **about: Any
) -> dict[str, Any]:
    """One row: a timing, and the bytes to be moved in it beside what a copy reaches; `first` is the median of ours."""
    return {
        **timed(provider, timing),
        **about,
        "gb_per_s": moved / timing.median / 1e9,
        "of_copy": moved / timing.median / roof,
        "copy_gb_per_s": roof / 1e9,
        "times_ours": None if first is None else timing.median / first,
    }


def line(row: Mapping[str, Any]) -> str:
    """A row as the benchmarks print it."""
    host = "" if row["host_ms"] is None else f"  host {row['host_ms']:.3f} ms"
    times = "" if row["times_ours"] is None else f"  {row['times_ours']:6.2f}x"
    return (
        f"{row['ms']:9.3f} ms [{row['ms_low']:.3f}, {row['ms_high']:.3f}]"
        f"  {row['gb_per_s']:6.1f} GB/s  {row['of_copy']:5.0%} of copy{times}{host}"
    )


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


GPU_STATE = {"sm_mhz": "clocks.sm", "memory_mhz": "clocks.mem", "celsius": "temperature.gpu", "watts": "power.draw"}


def gpu_state() -> dict[str, float | None] | None:
    """Clocks, temperature and power of the first card as nvidia-smi reads them (it only reads); None without one."""
    command = ["nvidia-smi", f"--query-gpu={','.join(GPU_STATE.values())}", "--format=csv,noheader,nounits"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    return _state(answer.splitlines()[0]) if answer.strip() else None


def _state(line: str) -> dict[str, float | None] | None:
    words = line.split(",")
    return dict(zip(GPU_STATE, map(_number, words), strict=True)) if len(words) == len(GPU_STATE) else None


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:  # "[N/A]": not every card tells its power
        return None


class Watch:
    """The same, all the while, from one nvidia-smi that repeats itself: what the clock was while something ran."""

    EVERY_MS = 50

    def __init__(self) -> None:
        command = ["nvidia-smi", f"--query-gpu={','.join(GPU_STATE.values())}", "--format=csv,noheader,nounits"]
        self.process = subprocess.Popen(
            [*command, "--id=0", f"--loop-ms={self.EVERY_MS}"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        self.readings: list[tuple[float, dict[str, float | None]]] = []
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        for line in self.process.stdout or ():
            if state := _state(line):
                self.readings.append((time.perf_counter(), state))

    @staticmethod
    def begun() -> Watch | None:
        """None where there is no nvidia-smi."""
        return Watch() if shutil.which("nvidia-smi") else None

    def since(self, begin: float) -> dict[str, float] | None:
        """Medians over what was read from a time.perf_counter() on; None where nothing was."""
        states = [state for when, state in list(self.readings) if when >= begin]
        read = {name: [value for s in states if (value := s[name]) is not None] for name in GPU_STATE}
        return {name: statistics.median(values) for name, values in read.items() if values} or None

    def close(self) -> None:
        self.process.terminate()
        self.process.wait()


class Recorder:
    """Keeps a run's rows, and with a folder appends each to <bench>.jsonl at once, so that a run cut short has them.

    Each line has the run's commit, time and machine; on a GPU also its state before and after the rows of that add().
    """

    def __init__(self, bench: str, device: torch.device, results: Path | None) -> None:
        self.rows: list[dict[str, Any]] = []
        self.path = None if results is None else results / f"{bench}.jsonl"
        self.on_gpu = device.type == "cuda"
        self.watch: Watch | None = None  # whose last reading spares an nvidia-smi for each add()
        self.state = gpu_state() if self.on_gpu else None
        now = datetime.now(UTC).isoformat(timespec="seconds")
        self.stamp = {"bench": bench, "commit": commit(), "time": now, **machine(), "device": device.type}
        if self.path is not None:
            self.path.parent.mkdir(parents=True, exist_ok=True)

    def add(self, rows: Sequence[Mapping[str, Any]]) -> None:
        about = dict(self.stamp)
        if self.on_gpu:
            last = self.watch.readings[-1:] if self.watch is not None else []
            before, self.state = self.state, last[0][1] if last else gpu_state()
            about |= {"gpu_before": before, "gpu_after": self.state}
        new = [{**about, **row} for row in rows]
        self.rows += new
        if self.path is not None:
            with self.path.open("a") as out:
                out.writelines(json.dumps(row) + "\n" for row in new)

    def close(self) -> None:
        if self.path is not None:
            print(f"\nrecorded in {self.path}")


def commit() -> str | None:
    """HALFOPS_COMMIT where a copy without a history is measured, or what git says of this checkout."""
    if named := os.environ.get("HALFOPS_COMMIT"):
        return named
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
