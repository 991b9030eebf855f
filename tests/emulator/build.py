"""Compiles kernel sources for the CPU: on first use, kept under build/ by the hash of everything that went in."""

from __future__ import annotations

import functools
import hashlib
import os
import platform
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import kept

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
COMMON = ["-std=c++20", "-DHALFOPS_EMULATOR", "-O1", "-g1", "-fPIC", "-fvisibility=hidden", "-ffp-contract=off"]
# The last one: g++ notes that arguments aligned to 64 bytes, which tensor maps are, were passed otherwise until 4.6.
WARNINGS = ["-Wall", "-Wno-unknown-pragmas", "-Wno-psabi"]


@dataclass(frozen=True)
class Flavour:
    """One of the builds. The runtime gets flags of its own: it must not be looked at for races."""

    name: str
    kernels: tuple[str, ...]
    runtime: tuple[str, ...]
    link: tuple[str, ...]
    driver: str
    suffix: str


ADDRESS = ("-fsanitize=address,undefined", "-fno-sanitize-recover=undefined", "-fno-omit-frame-pointer")
FLAVOURS = {
    "plain": Flavour("plain", (), (), ("-shared",), "library.cpp", ".so"),
    "address": Flavour("address", ADDRESS, ("-fsanitize=address",), ADDRESS, "main.cpp", ""),
    "thread": Flavour(
        "thread",
        ("-fsanitize=thread",),
        # The second flag: no loop of the runtime may become a call of memset, which the detector would see.
        ("-DHALFOPS_EMULATOR_RACES", "-fno-tree-loop-distribute-patterns"),
        ("-fsanitize=thread",),
        "main.cpp",
        "",
    ),
}


def compiler() -> str:
    return os.environ.get("CXX", "g++")


@functools.cache
def available(flavour: str) -> bool:
    """Fibers are a few lines of assembly for x86-64, and not every compiler comes with the sanitizers' libraries."""
    if platform.machine() != "x86_64":
        return False
    command = [compiler(), *FLAVOURS[flavour].kernels, "-x", "c++", "-", "-o", os.devnull]
    return subprocess.run(command, input="int main() {}", text=True, capture_output=True).returncode == 0


def _hash(command: list[str], files: list[Path]) -> str:
    text = hashlib.sha256(" ".join([*command, sys.version]).encode())
    for file in files:
        text.update(file.name.encode() + b"\0" + file.read_bytes() + b"\0")
    return text.hexdigest()[:16]


def _make(target: Path, command: list[str], text: str | None = None) -> Path:
    """Runs a compiler unless the target is there; under another name until it is complete, for two runs at once."""
    if not target.exists():
        unfinished = target.with_name(f"{target.stem}.{os.getpid()}{target.suffix}")
        subprocess.run([*command, "-o", str(unfinished)], input=text, text=True, check=True)
        unfinished.replace(target)
    return target


def _as_one(sources: Iterable[Path]) -> str:
    """All sources as one: it compiles three times as fast as one after the other.

    Nor would the sanitizers find the lines of functions that two object files have, and of those behind them.
    """
    return "".join(f'#include "{source}"\n' for source in sources)


def _prefix(root: Path) -> str:
    """Sources are named from the top of the repository, wherever it or a copy of it lies."""
    return f"-ffile-prefix-map={root}/="


def _emulator_headers() -> list[Path]:
    return sorted([*HERE.glob("include/**/*.h"), *HERE.glob("runtime/*.h"), *HERE.glob("driver/*.h")])


@functools.cache
def runtime(flavour: Flavour) -> Path:
    """The emulator itself."""
    sources = [*sorted(HERE.glob("runtime/*.cpp")), HERE / "driver/entry.cpp", HERE / "driver" / flavour.driver]
    flags = [*COMMON, *WARNINGS, *flavour.runtime, _prefix(ROOT)]
    command = [compiler(), *flags, f"-I{HERE / 'include'}", f"-I{HERE}", "-c", "-x", "c++", "-"]
    target = kept.folder("emulator") / f"runtime-{flavour.name}-{_hash(command, [*sources, *_emulator_headers()])}.o"
    return _make(target, command, _as_one(sources))


def build(name: str, sources: tuple[str, ...], flavour: str, tree: Path = ROOT) -> Path:
    """A library (plain) or a program of `sources`, which lie in `tree`, together with the emulator."""
    how = FLAVOURS[flavour]
    includes = [f"-I{HERE / 'include'}", f"-I{tree / 'csrc'}", f"-I{tree / 'tests/emulator'}", f"-I{HERE}"]
    # nvcc includes it in every source too.
    includes += ["-include", "cuda_runtime.h"]
    flags = [*COMMON, *WARNINGS, *how.kernels, _prefix(tree), _prefix(ROOT), *includes]
    command = [compiler(), *flags, "-x", "c++", "-"]
    headers = [p for p in sorted(tree.glob("csrc/**/*")) if p.suffix in (".h", ".cuh", ".cu")]
    headers += [*sorted(tree.glob("tests/emulator/kernels/*")), *sorted(tree.glob("tests/emulator/entries/*.h"))]
    headers += sorted(tree.glob("tests/golden/kernels/*.cuh"))
    headers += _emulator_headers()
    emulator = runtime(how)
    # Where the tree lies does not matter.
    named = [word.replace(str(tree), "").replace(str(ROOT), "") for word in command]
    key = _hash([*named, emulator.name], [*(tree / source for source in sources), *headers])
    target = kept.folder("emulator") / f"{name}-{flavour}-{key}{how.suffix}"
    return _make(target, [*command, "-x", "none", str(emulator), *how.link], _as_one(tree / s for s in sources))
