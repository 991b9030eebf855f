"""Calls kernels that build.py has compiled: in this process (plain), or as a program with a sanitizer."""

from __future__ import annotations

import ctypes
import dataclasses
import functools
import os
import platform
import re
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from emulator import build
from emulator.memory import Guarded

SECONDS = 120  # that a program may take; right ones take a few
ORDERS = ("forward", "reverse", "random", "priority")
COMPLETIONS = ("eager", "lazy", "random")
# Bytes of shared memory that a block may have, by compute capability times ten.
MOST_SHARED = {75: 64 << 10, 80: 163 << 10, 86: 99 << 10, 89: 99 << 10, 90: 227 << 10, 120: 99 << 10}

Arrays = Mapping[str, np.ndarray | Sequence[np.ndarray]]


@dataclass(frozen=True)
class Mode:
    """How to run; the same mode gives the same run. The device has few processors, so that few blocks fill it.

    `completion` says when asynchronous copies happen; empty: late in order, early in reverse, else at random.
    """

    order: str = "forward"
    seed: int = 1
    poison: bool = True
    completion: str = ""
    multiprocessors: int = 2
    blocks_per_multiprocessor: int = 2
    capability: int = 90
    compiled_for: int = 0  # an older architecture, whose PTX the driver has translated; 0: the device's own

    def short(self) -> str:
        return f"{self.order}-{self.seed}"

    def numbers(self) -> list[int]:
        """The fields of Config in include/emulator/config.h."""
        usual = {"forward": "lazy", "reverse": "eager"}.get(self.order, "random")
        completion = COMPLETIONS.index(self.completion or usual)
        how = [ORDERS.index(self.order), self.seed, int(self.poison), completion]
        device = [self.multiprocessors, self.blocks_per_multiprocessor, self.capability, MOST_SHARED[self.capability]]
        return [*how, *device, self.compiled_for or self.capability]


@dataclass(frozen=True)
class Counted:
    """The fields of Counters in include/emulator/counters.h: 16-byte accesses that the emulator sees."""

    matrices: int = 0
    matrix_conflicts: int = 0
    copies: int = 0
    copy_conflicts: int = 0

    @property
    def conflicts(self) -> int:
        """Wavefronts of shared memory that other places would have saved."""
        return self.matrix_conflicts + self.copy_conflicts


@dataclass(frozen=True)
class Report:
    """What the emulator and a sanitizer had to say; a run that is in order says nothing."""

    text: str = ""
    counted: Counted = Counted()

    @property
    def error(self) -> str | None:
        """The emulator's own sentence."""
        found = re.search(r"^emulator: (.*)", self.text, re.M | re.S)
        return found[1].strip() if found else None

    @property
    def address(self) -> str | None:
        """AddressSanitizer's word for it, as heap-buffer-overflow, or the undefined-behaviour sanitizer's sentence."""
        found = re.search(r"AddressSanitizer: (\S+)|runtime error: (.*)", self.text)
        return (found[1] or found[2]) if found else None

    @property
    def races(self) -> list[Race]:
        parts = re.split(r"WARNING: ThreadSanitizer: data race", self.text)[1:]
        return [Race.parse(part) for part in parts]


@dataclass(frozen=True)
class Race:
    """Two accesses that nothing puts in order: where they stand in the sources, and the CUDA threads."""

    lines: tuple[str, ...]
    threads: tuple[str, ...]

    @classmethod
    def parse(cls, text: str) -> Race:
        names = dict(re.findall(r"Thread (T\d+) '([^']*)'", text))
        lines, threads = [], []
        for access in re.split(r"\n(?=  (?:Previous )?(?:atomic )?(?:read|write) of size)", text, flags=re.I)[1:]:
            thread = re.match(r".* by (?:thread (T\d+)|main thread)", access)
            places = re.findall(r"#\d+ .* (\S+\.(?:cuh?|cpp|h):\d+)", access)
            # An atomic operation is an access in one of the emulator's own headers, a copy one in its wrapper; the
            # kernel's line is above it.
            kernel = [place for place in places if not re.search(r"include/emulator/|csrc/ptx/", place)]
            lines.append(kernel[0] if kernel else "an unknown place")
            threads.append(names.get(thread[1] if thread else None, "the host"))
        return cls(tuple(lines), tuple(threads))


class _Array(ctypes.Structure):
    _fields_ = (("name", ctypes.c_char_p), ("data", ctypes.c_void_p), ("bytes", ctypes.c_int64))


_LIBRARIES: dict[Path, ctypes.CDLL] = {}


def _library(path: Path) -> ctypes.CDLL:
    if path not in _LIBRARIES:
        library = ctypes.CDLL(str(path))
        library.halfops_emulator_call.restype = ctypes.c_char_p
        _LIBRARIES[path] = library
    return _LIBRARIES[path]


def give_back_stacks() -> None:
    """Of every library that was called: each keeps a block's, and a process has room for those of a few dozen."""
    for library in _LIBRARIES.values():
        library.halfops_emulator_give_back_stacks()


def _flat(arrays: Arrays) -> list[tuple[str, np.ndarray]]:
    """One entry an array; a list of arrays has its name several times."""
    flat = []
    for name, value in arrays.items():
        flat += [(name, array) for array in ([value] if isinstance(value, np.ndarray) else value)]
    assert all(array.flags.c_contiguous for _, array in flat)
    return flat


@functools.cache
def _before_thread_sanitizer() -> list[str]:
    """It wants its memory at fixed places: where the kernel scatters mappings more widely than that, do not let it."""
    setting = Path("/proc/sys/vm/mmap_rnd_bits")
    scattered = setting.exists() and int(setting.read_text()) > 28
    return ["setarch", platform.machine(), "-R"] if scattered else []


@dataclass(frozen=True)
class Program:
    """Kernel sources with an entry file, from a source tree that may be a changed copy."""

    name: str
    sources: tuple[str, ...]
    tree: Path = build.ROOT

    def run(self, entry: str, arrays: Arrays, mode: Mode = Mode(), flavour: str = "plain") -> Report:
        """Calls the entry, which may write to the arrays."""
        if not build.available(flavour):
            pytest.skip(f"{build.compiler()} cannot make the {flavour} build of the emulator here")
        path = build.build(self.name, self.sources, flavour, self.tree)
        if flavour == "plain":
            return self._call(path, entry, _flat(arrays), mode)
        return self._execute(path, entry, _flat(arrays), mode, flavour)

    def _call(self, path: Path, entry: str, flat: list[tuple[str, np.ndarray]], mode: Mode) -> Report:
        rooms = [Guarded(array) for _, array in flat]
        fields = [
            _Array(name.encode(), room.address, array.nbytes) for (name, array), room in zip(flat, rooms, strict=True)
        ]
        numbers = (ctypes.c_int32 * len(mode.numbers()))(*mode.numbers())
        counters = (ctypes.c_int64 * len(dataclasses.fields(Counted)))()
        said = _library(path).halfops_emulator_call(
            entry.encode(), (_Array * len(fields))(*fields), ctypes.c_int64(len(fields)), numbers, counters
        )
        sides = [room.write_back() for room in rooms]
        if said is not None:
            return Report("emulator: " + said.decode())
        beside = [f"{side} the array {name}" for (name, _), side in zip(flat, sides, strict=True) if side]
        return Report(f"emulator: {entry} wrote {' and '.join(beside)}" if beside else "", Counted(*counters))

    def _execute(self, path: Path, entry: str, flat: list[tuple[str, np.ndarray]], mode: Mode, flavour: str) -> Report:
        before = _before_thread_sanitizer() if flavour == "thread" else []
        with tempfile.NamedTemporaryFile(prefix="halfops-emulator-") as file:
            for name, array in flat:
                file.write(f"{name} {array.nbytes} {array.ctypes.data % 16}\n".encode() + array.tobytes())
            file.flush()
            command = [*before, str(path), entry, file.name, *map(str, mode.numbers())]
            # ThreadSanitizer would wait a second at the end for threads that there are none of.
            environ = {**os.environ, "UBSAN_OPTIONS": "print_stacktrace=1", "TSAN_OPTIONS": "atexit_sleep_ms=0"}
            try:
                done = subprocess.run(
                    command, capture_output=True, text=True, errors="replace", env=environ, timeout=SECONDS
                )
            except subprocess.TimeoutExpired:  # a wrong kernel may have overwritten what would have ended it
                return Report(f"emulator: {entry} did not end within {SECONDS} s")
            counted = Counted()
            if done.returncode == 0:
                content, position = Path(file.name).read_bytes(), 0
                for _, array in flat:
                    part = content[position : position + array.nbytes]
                    array[...] = np.frombuffer(part, dtype=array.dtype).reshape(array.shape)
                    position += array.nbytes
                counted = Counted(*np.frombuffer(content[position:], np.int64).tolist())
        unexplained = f"exit status {done.returncode}" if done.returncode != 0 else ""
        return Report(done.stderr or unexplained, counted)


def program(name: str, *sources: str) -> Program:
    """The entry file entries/<name>.cpp and the sources of csrc that it needs."""
    return Program(name, (f"tests/emulator/entries/{name}.cpp", *sources))
