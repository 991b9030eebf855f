"""python -m halfops doctor: what was built, what is here, which path each op takes, and does it compute."""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from pathlib import Path
from typing import Any

import torch

import halfops
from halfops._ops import registry
from halfops.cli.probes import PROBES, Probe

HELP = "versions, build, devices, the path of each op, and a small checked run of every op"

REBUILD = "rebuild: `pip install --no-build-isolation --force-reinstall --no-deps .`, in a checkout `make build`"
ROOM_HAS_COMPOSITION = {"linear"}  # runs as a composition of torch's ops where there is no kernel


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print everything as JSON")


def short(dtype: torch.dtype) -> str:
    return {torch.float16: "fp16", torch.bfloat16: "bf16", torch.float32: "fp32", torch.float64: "fp64"}[dtype]


# --- what is here ---------------------------------------------------------------------------------------------------


def versions() -> dict[str, Any]:
    return {
        "halfops": halfops.__version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torch_cuda": torch.version.cuda,
        "system": f"{platform.system()} {platform.machine()}",
        "package": str(Path(halfops.__file__).parent),
    }


def cpu() -> dict[str, Any]:
    cpuinfo = Path("/proc/cpuinfo")
    text = cpuinfo.read_text() if cpuinfo.exists() else ""
    fields = dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
    cleaned = {key.strip(): value.strip() for key, value in fields.items()}
    flags = cleaned.get("flags", "").split()
    return {
        "name": cleaned.get("model name", platform.processor() or "unknown"),
        "threads": torch.get_num_threads(),
        "engines": registry.cpu_variants(),
        "engine": registry.cpu_variant(),
        "bf16_instructions": "avx512_bf16" in flags or "amx_bf16" in flags,
    }


def gpus() -> list[dict[str, Any]]:
    if not torch.cuda.is_available():
        return []
    found = []
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        arch = f"{properties.major}.{properties.minor}"
        found.append({"name": properties.name, "arch": arch, "gigabytes": round(properties.total_memory / 2**30, 1)})
    return found


def covers(archs: str, arch: str) -> bool:
    """Whether a binary for `archs` ("8.0+PTX;9.0a") runs on a card of compute capability `arch` ("9.0")."""
    major, minor = (int(part) for part in arch.split("."))
    for entry in archs.replace(" ", ";").split(";"):
        number = entry.removesuffix("+PTX")
        own_major, own_minor = (int(part) for part in number.rstrip("af").split("."))
        if number.endswith("a"):
            fits = (own_major, own_minor) == (major, minor)
        else:
            fits = own_major == major and own_minor <= minor
        if fits or (entry.endswith("+PTX") and (own_major, own_minor) <= (major, minor)):
            return True
    return False


# --- which path -----------------------------------------------------------------------------------------------------


def path(probe: Probe, dtype: torch.dtype, device: str, here: dict[str, Any], build: dict[str, Any]) -> str:
    if not all(registry.has_kernel(op, device) for op in probe.ops):
        missing = "not in this CPU build" if device == "cuda" and build["cuda"] is None else "not yet"
        return f"torch's own ops (kernel: {missing})" if probe.room in ROOM_HAS_COMPOSITION else missing
    if device == "cuda":
        if probe.room == "linear" and dtype == torch.float32:
            return "torch's own ops (kernel: for 16-bit numbers)"
        return f"kernel for {build['archs']}"
    if probe.room != "linear":
        return f"{here['engine']} engine"
    if dtype == torch.float32:
        return f"torch's BLAS, {here['engine']} epilogue"
    if dtype == torch.bfloat16 and here["bf16_instructions"]:
        return f"torch's bf16 product (fp32 panels where sums must stay fp32), {here['engine']} epilogue"
    return f"panels widened to fp32, torch's BLAS, {here['engine']} epilogue"


def paths(here: dict[str, Any], build: dict[str, Any]) -> list[dict[str, str]]:
    return [
        {"op": p.name, "dtype": short(d), **{device: path(p, d, device, here, build) for device in ("cpu", "cuda")}}
        for p in PROBES
        for d in p.dtypes
    ]


# --- does it work ---------------------------------------------------------------------------------------------------


def checks(devices: list[str]) -> list[dict[str, Any]]:
    """Runs every probe wherever it should work; a failed one carries its reason."""
    found = []
    for device in devices:
        for probe in PROBES:
            native = all(registry.has_kernel(op, device) for op in probe.ops)
            if device != "cpu" and not native and probe.room not in ROOM_HAS_COMPOSITION:
                continue
            for dtype in probe.dtypes:
                begin, reason = time.perf_counter(), None
                try:
                    error = probe.run(dtype, torch.device(device))
                    if not error <= 1:
                        reason = "wrong result" if error == float("inf") else f"error {error:.2g} times what is allowed"
                except Exception as raised:  # whatever it is, it goes into the report
                    reason = f"{type(raised).__name__}: {str(raised).splitlines()[0] if str(raised) else ''}"
                seconds = round(time.perf_counter() - begin, 4)
                row = {"op": probe.name, "dtype": short(dtype), "device": device, "ok": reason is None}
                found.append({**row, "reason": reason, "seconds": seconds})
    return found


def problems(report: dict[str, Any]) -> list[dict[str, str]]:
    """What should work and does not, each with the way out."""
    found = []
    build, cards = report["build"], report["gpus"]
    if cards and build["cuda"] is None:
        fix = f"install CUDA {torch.version.cuda}'s nvcc, then {REBUILD}"
        found.append({"problem": f"a GPU is here, but halfops was built without CUDA ({build['reason']})", "fix": fix})
    for index, card in enumerate(cards):
        if build["archs"] and not covers(build["archs"], card["arch"]):
            fix = f"TORCH_CUDA_ARCH_LIST={card['arch']} in the environment, then {REBUILD}"
            text = (
                f"GPU {index} ({card['name']}) has compute capability {card['arch']}, the build is for {build['archs']}"
            )
            found.append({"problem": text, "fix": fix})
    missing = [op for p in PROBES for op in p.ops if not registry.has_kernel(op, "cpu")]
    if missing:
        text = f"no CPU engine for {', '.join(sorted(set(missing)))}: the binary is older than the Python files"
        found.append({"problem": text, "fix": REBUILD})
    for row in report["checks"]:
        if not row["ok"]:
            fix = f"{REBUILD}; if it stays, report it with the output of `python -m halfops doctor --json`"
            found.append({"problem": f"{row['op']} {row['dtype']} on {row['device']}: {row['reason']}", "fix": fix})
    return found


def examine() -> dict[str, Any]:
    here, build, cards = cpu(), halfops.build_info(), gpus()
    devices = ["cpu"] + (["cuda"] if cards else [])
    report = {"versions": versions(), "build": build, "cpu": here, "gpus": cards, "paths": paths(here, build)}
    report["checks"] = checks(devices)
    report["problems"] = problems(report)
    return report


# --- telling --------------------------------------------------------------------------------------------------------


def print_report(report: dict[str, Any]) -> None:
    v, build, here = report["versions"], report["build"], report["cpu"]
    print(f"halfops {v['halfops']}   Python {v['python']}   torch {v['torch']}   {v['system']}   {v['package']}")
    cuda = f"CUDA {build['cuda']} for {build['archs']}" if build["cuda"] else "CPU only"
    print(f"build    {cuda}: {build['reason']}")
    print(f"         {build['compiler']}, torch {build['torch']}, stable ABI {build['stable_abi']}, git {build['git']}")
    bf16 = "with" if here["bf16_instructions"] else "without"
    print(f"cpu      {here['name']}, {here['threads']} threads, {bf16} bf16 instructions")
    print(f"         engine {here['engine']}, of {', '.join(here['engines'])} (HALFOPS_CPU_VARIANT chooses)")
    for card in report["gpus"]:
        print(f"gpu      {card['name']}, compute capability {card['arch']}, {card['gigabytes']} GiB")
    if not report["gpus"]:
        print(f"gpu      none: {'torch sees no device' if torch.version.cuda else 'this torch is a CPU build'}")

    print()
    alike: dict[tuple[tuple[str, str, str], ...], list[str]] = {}
    for op in dict.fromkeys(row["op"] for row in report["paths"]):
        ways = tuple((row["dtype"], row["cpu"], row["cuda"]) for row in report["paths"] if row["op"] == op)
        alike.setdefault(ways, []).append(op)
    for ways, ops in alike.items():
        print(", ".join(ops))
        for on_cpu, on_cuda in dict.fromkeys(way[1:] for way in ways):
            dtypes = " ".join(dtype for dtype, *way in ways if tuple(way) == (on_cpu, on_cuda))
            print(f"    {dtypes:<16}CPU   {on_cpu}\n{'':<20}CUDA  {on_cuda}")

    good = sum(row["ok"] for row in report["checks"])
    seconds = sum(row["seconds"] for row in report["checks"])
    print(f"\n{good} of {len(report['checks'])} checked runs are right ({seconds:.1f} s)")
    for each in report["problems"]:
        print(f"\nproblem: {each['problem']}\n    fix: {each['fix']}")
    print("\nall is well" if not report["problems"] else f"\nproblems: {len(report['problems'])}")


def run(arguments: argparse.Namespace) -> int:
    report = examine()
    if arguments.json:
        json.dump(report, sys.stdout, indent=1)
        print()
    else:
        print_report(report)
    return 1 if report["problems"] else 0
