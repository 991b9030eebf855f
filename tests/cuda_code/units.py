"""Compiles CUDA sources, each once for an architecture: kept under build/ by the hash of everything that went in."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import re
import shutil
import subprocess
import sysconfig
import tempfile
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import kept

ROOT = Path(__file__).resolve().parents[2]
setup = kept.setup()
UNITS = tuple(name for name in setup.sources(cuda=True) if name.endswith(".cu"))
ARCHS = ("80", "90a", "120", "75", "86")
# The products are many units of the same templates, in which bf16 is fp16 with another instruction: sm_90a gets half of
# them, sm_75 those that it has code for, sm_120 one. sm_86, which runs what was made for sm_80, gets a unit a room.
INSTANCES = tuple(name for name in UNITS if name.startswith("csrc/linear/instances/"))
# Rows for sm_90a have nearly all of its registers, so that every one is looked at. On other architectures their kernels
# are empty.
HOPPER = re.compile(r"/b?f16_(bulk|turns)_")
SAMPLES = re.compile(r"/(f16_128x128x32|optim_cuda_f32|pointwise_cuda|scale_cuda|upload)\.cu$")


def is_compiled(source: str, arch: str) -> bool:
    if HOPPER.search(source):
        return arch == "90a" or (arch == "80" and "/f16_bulk_256x256x64" in source)
    match arch:
        case "75":
            return source not in INSTANCES or "/f16_staged_" in source
        case "86":
            return SAMPLES.search(source) is not None
        case "90a":
            return source not in INSTANCES or "/f16_" in source
        case "120":
            return source not in INSTANCES or SAMPLES.search(source) is not None
        case _:
            return True


PAIRS = tuple((source, arch) for source in UNITS for arch in ARCHS if is_compiled(source, arch))


@functools.cache
def nvcc() -> Path | None:
    toolkit = setup.find_toolkit(os.environ)
    return toolkit.root / "bin" / "nvcc" if toolkit else None


@functools.cache
def disassembler() -> Path | None:
    """The toolkit's nvdisasm, or that of the wheel nvidia-cuda-nvdisasm, which only leaves it beside its libraries."""
    wheels = Path(sysconfig.get_path("purelib")) / "nvidia"
    beside = [str(nvcc().parent)] if nvcc() else []
    found = shutil.which("nvdisasm", path=os.pathsep.join([*beside, os.environ.get("PATH", "")]))
    places = [Path(found)] if found else sorted(wheels.glob("cu*/bin/nvdisasm"))
    return places[-1] if places else None


@dataclass(frozen=True)
class Compiled:
    """One source for one architecture."""

    source: str
    arch: str
    folder: Path

    @property
    def failed(self) -> bool:
        return not (self.folder / "code.cubin").exists()

    @property
    def report(self) -> str:
        """What nvcc and ptxas said."""
        return (self.folder / "report").read_text()

    @property
    def ptx(self) -> str:
        return (self.folder / "code.ptx").read_text()

    @functools.cached_property
    def sass(self) -> str:
        kept = self.folder / "code.sass"
        if not kept.exists():
            command = [str(disassembler()), "-c", str(self.folder / "code.cubin")]
            text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
            unfinished = kept.with_name(f"code.sass.{os.getpid()}")
            unfinished.write_text(text)
            unfinished.replace(kept)
        return kept.read_text()


@functools.cache
def _headers() -> bytes:
    text = hashlib.sha256(subprocess.run([str(nvcc()), "--version"], capture_output=True, check=True).stdout)
    for header in sorted(p for p in (ROOT / "csrc").rglob("*") if p.suffix in (".h", ".cuh")):
        text.update(header.name.encode() + b"\0" + header.read_bytes() + b"\0")
    return text.digest()


@functools.cache
def compiled(source: str, arch: str, strict: bool = True) -> Compiled:
    """strict: a warning, of ptxas for instance about spilled registers, is an error.

    The host's half of a source is the same for all architectures, so only the first one compiles it.
    """
    flags = ["-Icsrc", "-std=c++20", *setup.NVCC_FLAGS, "-Xptxas", "-v"]
    flags += [f"-gencode=arch=compute_{arch},code=sm_{arch}", *(["-Werror", "all-warnings"] if strict else [])]
    flags += ["-c" if arch == ARCHS[0] else "-cubin"]
    key = hashlib.sha256(" ".join(flags).encode() + (ROOT / source).read_bytes() + _headers()).hexdigest()[:16]
    stem = f"{Path(source).stem}-{arch}"
    target = kept.folder("cuda") / f"{stem}-{key}"
    if not target.exists():
        with tempfile.TemporaryDirectory(dir=kept.folder("cuda")) as scratch:
            command = [str(nvcc()), source, "-o", f"{scratch}/out", "--keep", "--keep-dir", scratch, *flags]
            done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
            made = Path(scratch) / "made"
            made.mkdir()
            (made / "report").write_text(done.stdout + done.stderr)
            if done.returncode == 0:
                cubins = [Path(scratch) / "out"] if "-cubin" in flags else list(Path(scratch).glob("*.cubin"))
                (ptx,) = Path(scratch).glob("*.ptx")
                shutil.move(cubins[0], made / "code.cubin")
                shutil.move(ptx, made / "code.ptx")
            for stale in kept.folder("cuda").glob(f"{stem}-*"):
                shutil.rmtree(stale, ignore_errors=True)
            with contextlib.suppress(OSError):  # another run may have been faster
                made.replace(target)
    return Compiled(source, arch, target)


@functools.cache
def in_parallel(pairs: Iterable[tuple[str, str]]) -> dict[tuple[str, str], Future[Compiled]]:
    """All of them, two at a time, those first that take longest; whoever needs one waits for it alone."""
    pool = ThreadPoolExecutor(2)
    longest_first = sorted(pairs, key=lambda pair: (not re.search("optim_cuda_|linear/", pair[0]), pair[1], pair[0]))
    return {pair: pool.submit(compiled, *pair) for pair in longest_first}


def unit(source: str, arch: str) -> Compiled:
    """A unit of csrc; the first call starts the compilers for all."""
    return in_parallel(PAIRS)[source, arch].result()


@dataclass(frozen=True)
class Resources:
    """ptxas on one kernel. Mangled name, bytes of stack, bytes spilled (stores and loads), registers, shared bytes."""

    name: str
    stack: int
    spilled: int
    registers: int
    shared: int


REPORTED = re.compile(
    r"Compiling entry function '(?P<name>\w+)'.*?(?P<stack>\d+) bytes stack frame, (?P<stores>\d+) bytes spill stores, "
    r"(?P<loads>\d+) bytes spill loads.*?Used (?P<registers>\d+) registers(?:.*?(?P<shared>\d+) bytes smem)?[^\n]*",
    re.S,
)


def resources(report: str) -> list[Resources]:
    found = []
    for part in re.split(r"(?=ptxas info\s*: Compiling entry function)", report)[1:]:
        kernel = REPORTED.search(part)
        if kernel is None:
            raise ValueError(f"not as ptxas reports a kernel: {part!r}")
        shared = re.search(r"Used \d+ registers[^\n]*?(\d+) bytes smem", part)
        found.append(
            Resources(
                kernel["name"],
                int(kernel["stack"]),
                int(kernel["stores"]) + int(kernel["loads"]),
                int(kernel["registers"]),
                int(shared[1]) if shared else 0,
            )
        )
    return found
