"""Builds halfops._C: the CPU engines always, the CUDA kernels when torch and the toolkit say so (`decide`).

A visible GPU never decides: it only turns a missing nvcc into an error. Environment: HALFOPS_BUILD={auto,cpu,cuda},
FORCE_CUDA=1, TORCH_CUDA_ARCH_LIST, MAX_JOBS, NVCC_THREADS, DEBUG=1. Metadata and sdist need neither torch nor nvcc.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from setuptools import Extension, find_packages, setup

ROOT = Path(__file__).resolve().parent
# Turing; Ampere and Ada, and through PTX every later card; Hopper with wgmma and TMA. docs/install.md has the figures.
DEFAULT_ARCHS = "7.5;8.0+PTX;9.0a"
STABLE_ABI = "0x020b000000000000"  # torch 2.11
# Contraction off: a*b+c is two roundings on every machine. The other two change no value; they let loops vectorise.
CXX_FLAGS = [
    "-ffp-contract=off",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-fvisibility=hidden",
    "-Wall",
    "-Wno-unknown-pragmas",
]
NVCC_FLAGS = ["-O3", "-lineinfo", "-fmad=false", "-Xcompiler", "-fvisibility=hidden"]


class BuildError(Exception):
    """A sentence for the user: what was found, what was wanted, how to go on."""


@dataclass(frozen=True)
class Toolkit:
    root: Path
    version: str


@dataclass(frozen=True)
class Decision:
    cuda: bool
    reason: str


def find_toolkit(environ: Mapping[str, str]) -> Toolkit | None:
    """The CUDA toolkit: CUDA_HOME, or what the nvcc on PATH says of itself (it may be a wrapper script)."""
    home = environ.get("CUDA_HOME") or environ.get("CUDA_PATH")
    nvcc = f"{home}/bin/nvcc" if home else shutil.which("nvcc", path=environ.get("PATH", ""))
    if not nvcc or not Path(nvcc).exists():
        return None
    # --dryrun prints the toolkit's own root (TOP=...), which a wrapper's location does not tell.
    dry = subprocess.run([nvcc, "--dryrun", "-E", "-x", "cu", "/dev/null"], capture_output=True, text=True)
    top = re.search(r"^#\$ TOP=(.+)$", dry.stderr, re.M)
    release = re.search(
        r"release (\d+\.\d+)", subprocess.run([nvcc, "--version"], capture_output=True, text=True).stdout
    )
    if top is None or release is None:
        raise BuildError(
            f"{nvcc} does not answer like nvcc; point CUDA_HOME at a CUDA toolkit, or set HALFOPS_BUILD=cpu"
        )
    return Toolkit(Path(top[1].strip()).resolve(), release[1])


def decide(torch_cuda: str | None, toolkit: Toolkit | None, driver: bool, environ: Mapping[str, str]) -> Decision:
    """CPU or CUDA, from the torch build and the toolkit; the table of docs/install.md."""
    asked = environ.get("HALFOPS_BUILD", "auto")
    if asked not in ("auto", "cpu", "cuda"):
        raise BuildError(f"HALFOPS_BUILD: got {asked!r}, wanted auto, cpu or cuda")
    forced = environ.get("FORCE_CUDA", "0") == "1" or asked == "cuda"
    # A toolkit that was pointed at and is not there is the likeliest reason for finding none.
    home = next((f" in {name}={environ[name]}" for name in ("CUDA_HOME", "CUDA_PATH") if environ.get(name)), "")
    if asked == "cpu":
        return Decision(False, "HALFOPS_BUILD=cpu")
    if forced and toolkit is None:
        raise BuildError(
            "CUDA was asked for (FORCE_CUDA=1 or HALFOPS_BUILD=cuda), but no nvcc was found"
            f"{home}. Ways out:\n"
            "  1. install the CUDA toolkit, or point CUDA_HOME at it\n"
            "  2. HALFOPS_BUILD=cpu for the CPU engines alone"
        )
    if torch_cuda is None:
        if forced:
            return Decision(True, f"cross-build with CUDA {toolkit.version} against a CPU torch")
        return Decision(False, "this torch is a CPU build (FORCE_CUDA=1 compiles the CUDA kernels all the same)")
    if toolkit is None:
        if driver:
            raise BuildError(
                f"torch has CUDA {torch_cuda} and a driver is present, but no nvcc was found{home}. Ways out:\n"
                f"  1. install the CUDA {torch_cuda} toolkit, or point CUDA_HOME at it\n"
                "  2. HALFOPS_BUILD=cpu for the CPU engines alone"
            )
        return Decision(False, f"torch has CUDA {torch_cuda}, but there is neither nvcc{home} nor a driver here")
    if toolkit.version.split(".")[0] != torch_cuda.split(".")[0]:
        raise BuildError(
            f"nvcc is CUDA {toolkit.version} ({toolkit.root}), torch was built for CUDA {torch_cuda}. Ways out:\n"
            f"  1. point CUDA_HOME at a CUDA {torch_cuda.split('.')[0]} toolkit\n"
            f"  2. install the torch build for CUDA {toolkit.version.split('.')[0]}\n"
            "  3. HALFOPS_BUILD=cpu for the CPU engines alone"
        )
    return Decision(True, f"CUDA {toolkit.version}, torch has {torch_cuda}")


def available_memory(proc: Path = Path("/proc"), cgroup: Path = Path("/sys/fs/cgroup")) -> int:
    """Bytes that the compilers may take: what the machine has free, within the limit of this container."""
    found = re.search(r"^MemAvailable:\s+(\d+) kB", (proc / "meminfo").read_text(), re.M)
    free = int(found[1]) * 1024 if found else 2 * 10**9
    own = (
        re.search(r"^0::/(.*)$", (proc / "self/cgroup").read_text(), re.M) if (proc / "self/cgroup").exists() else None
    )
    for limit in (cgroup / (own[1] if own else ".") / "memory.max", cgroup / "memory/memory.limit_in_bytes"):
        if limit.exists() and (text := limit.read_text().strip()).isdigit():
            free = min(free, int(text))
    return free


def jobs(environ: Mapping[str, str], cores: int, memory: int) -> int:
    """Compilers at once: one per core, but no more than three quarters of the memory at 2 GB each."""
    asked = environ.get("MAX_JOBS", "")
    if asked and not (asked.isdigit() and int(asked) > 0):
        raise BuildError(f"MAX_JOBS: got {asked!r}, wanted a positive whole number")
    return int(asked) if asked else max(1, min(cores, int(memory * 0.75 / 2e9)))


def compression(toolkit: Toolkit) -> list[str]:
    """Makes device code with its line numbers a tenth of the size. Drivers of CUDA 13 and later can all unpack it."""
    return ["--compress-mode=size"] if int(toolkit.version.split(".")[0]) >= 13 else []


def csrc(*suffixes: str) -> list[str]:
    return sorted(str(p.relative_to(ROOT)) for p in (ROOT / "csrc").rglob("*") if p.suffix in suffixes)


def sources(cuda: bool) -> list[str]:
    """Every source under csrc/, chosen by its name: *.cu and *_cuda.cpp only in CUDA builds."""
    return [p for p in csrc(".cpp", ".cu") if cuda or not p.endswith((".cu", "_cuda.cpp"))]


# An sdist carries all of csrc/, whatever it was made from.
DEPENDS = csrc(".h", ".cuh", ".cpp", ".cu")


def first_line(*command: str) -> str | None:
    try:
        return subprocess.run(command, capture_output=True, text=True, cwd=ROOT).stdout.split("\n")[0].strip() or None
    except OSError:
        return None


def compiled() -> dict[str, Any]:
    """The arguments of setup() that build the extension; needs torch."""
    try:
        import torch
        from torch.utils import cpp_extension
    except ImportError as error:
        raise BuildError(
            f"building needs torch 2.11 or newer ({error}). Ways out:\n"
            "  1. pip install torch ninja 'setuptools>=64', then repeat\n"
            "  2. leave out --no-build-isolation: pip then fetches what the build needs"
        ) from error

    toolkit = None if os.environ.get("HALFOPS_BUILD") == "cpu" else find_toolkit(os.environ)
    decision = decide(torch.version.cuda, toolkit, Path("/proc/driver/nvidia/version").exists(), os.environ)
    workers = jobs(os.environ, len(os.sched_getaffinity(0)), available_memory())
    os.environ["MAX_JOBS"] = str(workers)
    debug = os.environ.get("DEBUG") == "1"
    cxx = ["-O0", "-g", *CXX_FLAGS] if debug else ["-O3", "-g0", *CXX_FLAGS]
    nvcc = [*NVCC_FLAGS, "--threads", os.environ.get("NVCC_THREADS", "1")]
    libraries, library_dirs = ["dl"], []
    if decision.cuda and toolkit is not None:
        os.environ.setdefault("TORCH_CUDA_ARCH_LIST", DEFAULT_ARCHS)
        nvcc += compression(toolkit)
        cpp_extension.CUDA_HOME = str(toolkit.root)  # torch's own guess is None on a CPU build
        os.environ["CUDA_HOME"] = str(toolkit.root)
        libraries += ["cudart_static", "rt", "pthread"]
        library_dirs = [str(d) for d in (toolkit.root / "lib64", toolkit.root / "lib") if d.exists()]
    chosen = sources(decision.cuda)
    facts = {
        "cuda": toolkit.version if decision.cuda and toolkit else None,
        "archs": os.environ["TORCH_CUDA_ARCH_LIST"] if decision.cuda else None,
        "reason": decision.reason,
        "torch": torch.__version__,
        "torch_cuda": torch.version.cuda,
        "stable_abi": "2.11",
        "compiler": first_line(os.environ.get("CXX", "c++"), "--version"),
        "cxx_flags": " ".join(cxx),
        "nvcc_flags": " ".join(nvcc) if decision.cuda else None,
        "sources": chosen,
        "git": first_line("git", "describe", "--always", "--dirty"),
    }
    what = f"CPU + CUDA for {facts['archs']}" if decision.cuda else "CPU only"
    print(f"halfops: {what}: {decision.reason}; {len(chosen)} sources, {workers} at once", file=sys.stderr, flush=True)

    class Build(cpp_extension.BuildExtension):
        def run(self) -> None:
            super().run()
            package = ROOT / "halfops" if self.inplace else Path(self.build_lib) / "halfops"
            (package / "_build_info.json").write_text(json.dumps(facts, indent=1) + "\n")

    extension = cpp_extension.CppExtension(
        "halfops._C",
        chosen,
        depends=DEPENDS,
        include_dirs=[str(ROOT / "csrc")],
        define_macros=[("TORCH_TARGET_VERSION", STABLE_ABI)],  # py_limited_api=True defines Py_LIMITED_API
        extra_compile_args={"cxx": cxx, "nvcc": nvcc},
        libraries=libraries,
        library_dirs=library_dirs,
        py_limited_api=True,
    )
    return {"ext_modules": [extension], "cmdclass": {"build_ext": Build.with_options(use_ninja=True)}}


def main() -> None:
    builds = {"build", "build_ext", "bdist_wheel", "editable_wheel", "develop", "install"} & set(sys.argv)
    try:
        extension = compiled() if builds else {"ext_modules": [Extension("halfops._C", sources(True), depends=DEPENDS)]}
    except BuildError as error:
        sys.exit(f"halfops: {error}")
    setup(
        # benchmarks/ travels with the wheel, for `python -m halfops bench`
        packages=[*find_packages(include=["halfops*"]), "halfops.benchmarks"],
        package_dir={"halfops.benchmarks": "benchmarks"},
        options={"bdist_wheel": {"py_limited_api": "cp311"}},
        **extension,
    )


if __name__ == "__main__":
    main()
