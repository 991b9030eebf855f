"""Builds halfops._C: the CPU engines always, the CUDA kernels when torch and the toolkit say so (`decide`).

A visible GPU never decides: it only turns a missing nvcc into an error. Environment: HALFOPS_BUILD={auto,cpu,cuda},
FORCE_CUDA=1, TORCH_CUDA_ARCH_LIST, MAX_JOBS, NVCC_THREADS, DEBUG=1.
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

from setuptools import setup

ROOT = Path(__file__).resolve().parent
# 8.0 runs on every later card through its PTX; 9.0a is Hopper with wgmma and TMA.
DEFAULT_ARCHS = "8.0+PTX;9.0a"
STABLE_ABI = "0x020b000000000000"  # torch 2.11


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
    nvcc = f"{home}/bin/nvcc" if home else shutil.which("nvcc", path=environ.get("PATH"))
    if not nvcc or not Path(nvcc).exists():
        return None
    # --dryrun prints the toolkit's own root (TOP=...), which a wrapper's location does not tell.
    dry = subprocess.run([nvcc, "--dryrun", "-E", "-x", "cu", "/dev/null"], capture_output=True, text=True)
    top = re.search(r"^#\$ TOP=(.+)$", dry.stderr, re.M)
    release = re.search(r"release (\d+\.\d+)", subprocess.run([nvcc, "--version"], capture_output=True, text=True).stdout)
    if top is None or release is None:
        return None
    return Toolkit(Path(top[1]).resolve(), release[1])


def decide(torch_cuda: str | None, toolkit: Toolkit | None, driver: bool, environ: Mapping[str, str]) -> Decision:
    """CPU or CUDA, from the torch build and the toolkit; the table of docs/install.md."""
    asked = environ.get("HALFOPS_BUILD", "auto")
    if asked not in ("auto", "cpu", "cuda"):
        raise BuildError(f"HALFOPS_BUILD: got {asked!r}, wanted auto, cpu or cuda")
    forced = environ.get("FORCE_CUDA", "0") == "1" or asked == "cuda"
    if asked == "cpu":
        return Decision(False, "HALFOPS_BUILD=cpu")
    if forced and toolkit is None:
        raise BuildError("FORCE_CUDA=1 was given, but no nvcc was found; set CUDA_HOME, or install the CUDA toolkit")
    if torch_cuda is None:
        if forced:
            return Decision(True, f"cross-build with CUDA {toolkit.version} against a CPU torch (FORCE_CUDA=1)")
        return Decision(False, "this torch is a CPU build (FORCE_CUDA=1 cross-builds the CUDA kernels)")
    if toolkit is None:
        if driver:
            raise BuildError(
                f"torch has CUDA {torch_cuda} and a driver is present, but no nvcc was found. Ways out:\n"
                f"  1. install the CUDA {torch_cuda} toolkit, or point CUDA_HOME at it\n"
                "  2. HALFOPS_BUILD=cpu for the CPU engines alone"
            )
        return Decision(False, f"torch has CUDA {torch_cuda}, but there is neither nvcc nor a driver here")
    if toolkit.version.split(".")[0] != torch_cuda.split(".")[0]:
        raise BuildError(
            f"nvcc is CUDA {toolkit.version} ({toolkit.root}), torch was built for CUDA {torch_cuda}. Ways out:\n"
            f"  1. point CUDA_HOME at a CUDA {torch_cuda.split('.')[0]} toolkit\n"
            f"  2. install the torch build for CUDA {toolkit.version.split('.')[0]}\n"
            "  3. HALFOPS_BUILD=cpu for the CPU engines alone"
        )
    return Decision(True, f"CUDA {toolkit.version}, torch has {torch_cuda}")


def jobs(environ: Mapping[str, str]) -> int:
    """Compilers at once: one per core, but no more than three quarters of the free memory at 2 GB each."""
    if environ.get("MAX_JOBS"):
        return int(environ["MAX_JOBS"])
    free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    limit = Path("/sys/fs/cgroup/memory.max")
    if limit.exists() and (text := limit.read_text().strip()).isdigit():
        free = min(free, int(text))
    return max(1, min(len(os.sched_getaffinity(0)), int(free * 0.75 / 2e9)))


def sources(cuda: bool) -> list[str]:
    """Every source under csrc/, chosen by its name: *.cu and *_cuda.cpp only in CUDA builds."""
    found = [p for p in (ROOT / "csrc").rglob("*") if p.suffix in (".cpp", ".cu")]
    kept = [p for p in found if cuda or not (p.suffix == ".cu" or p.stem.endswith("_cuda"))]
    return sorted(str(p.relative_to(ROOT)) for p in kept)


def git_revision() -> str | None:
    done = subprocess.run(["git", "-C", str(ROOT), "rev-parse", "--short", "HEAD"], capture_output=True, text=True)
    return done.stdout.strip() or None


def build() -> None:
    try:
        import torch
        from torch.utils import cpp_extension
    except ImportError:
        sys.exit("halfops: building needs torch; `pip install torch ninja`, or build with pip's isolation")

    toolkit = find_toolkit(os.environ)
    driver = Path("/proc/driver/nvidia/version").exists()
    try:
        decision = decide(torch.version.cuda, toolkit, driver, os.environ)
    except BuildError as error:
        sys.exit(f"halfops: {error}")

    debug = os.environ.get("DEBUG") == "1"
    # Contraction off: a*b+c is two roundings on every machine. The other two change no value; they let loops vectorise.
    cxx = ["-O0" if debug else "-O3", "-g" if debug else "-g0", "-fvisibility=hidden", "-Wall", "-Wno-unknown-pragmas"]
    cxx += ["-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math"]
    defines = [("TORCH_TARGET_VERSION", STABLE_ABI)]  # py_limited_api=True defines Py_LIMITED_API
    nvcc = ["-O3", "-lineinfo", "-fmad=false", "--threads", os.environ.get("NVCC_THREADS", "1"), "-Xptxas", "-v", "-Xcompiler", "-fvisibility=hidden"]
    libraries, library_dirs = ["dl"], []
    if decision.cuda and toolkit is not None:
        os.environ.setdefault("TORCH_CUDA_ARCH_LIST", DEFAULT_ARCHS)
        cpp_extension.CUDA_HOME = str(toolkit.root)  # torch's own guess is None on a CPU build
        os.environ["CUDA_HOME"] = str(toolkit.root)
        libraries += ["cudart_static", "rt", "pthread"]
        library_dirs = [str(d) for d in (toolkit.root / "lib64", toolkit.root / "lib") if d.exists()]
    os.environ["MAX_JOBS"] = str(jobs(os.environ))

    facts = {
        "cuda": toolkit.version if decision.cuda and toolkit else None,
        "archs": os.environ.get("TORCH_CUDA_ARCH_LIST") if decision.cuda else None,
        "reason": decision.reason,
        "torch": torch.__version__,
        "torch_cuda": torch.version.cuda,
        "stable_abi": "2.11",
        "compiler": subprocess.run(["c++", "--version"], capture_output=True, text=True).stdout.split("\n")[0],
        "cxx_flags": " ".join(cxx),
        "nvcc_flags": " ".join(nvcc) if decision.cuda else None,
        "git": git_revision(),
    }
    (ROOT / "halfops" / "_build_info.json").write_text(json.dumps(facts, indent=1) + "\n")
    print(f"halfops: {'CPU + CUDA' if decision.cuda else 'CPU only'}: {decision.reason}", file=sys.stderr)

    setup(
        ext_modules=[
            cpp_extension.CppExtension(
                "halfops._C",
                sources(decision.cuda),
                include_dirs=[str(ROOT / "csrc")],
                define_macros=defines,
                extra_compile_args={"cxx": cxx, "nvcc": nvcc},
                libraries=libraries,
                library_dirs=library_dirs,
                py_limited_api=True,
            )
        ],
        cmdclass={"build_ext": cpp_extension.BuildExtension.with_options(use_ninja=True)},
        options={"bdist_wheel": {"py_limited_api": "cp311"}},
    )


if __name__ == "__main__":
    build()
