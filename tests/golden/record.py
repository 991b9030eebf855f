#!/usr/bin/env python3
"""Asks a GPU what the micro-kernels of tests/golden/kernels give, for the emulator to be held to.

    tests/golden/record.py               writes tests/golden/*.json
    tests/golden/record.py --out DIR     writes them there
    tests/golden/record.py --check       compares this GPU with the files, and fails if it differs

Needs NumPy, nvcc and a card; torch is not asked for. Without a card it says what it would do and ends in order.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests"))

from cuda_code.units import setup  # noqa: E402

from golden import store  # noqa: E402
from golden.cases import CASES, FILES, Arrays, name  # noqa: E402

SOURCES = [*(f"tests/golden/kernels/{file}.cu" for file in FILES), "csrc/collective/tensor_map.cu"]
HOST = ["tests/golden/device.cu", "tests/emulator/driver/entry.cpp"]


@dataclass(frozen=True)
class Card:
    name: str
    capability: str  # as 9.0

    @property
    def has_all(self) -> bool:
        """Every instruction that a case asks for."""
        return float(self.capability) == 9.0

    @property
    def arch(self) -> str:
        """As nvcc has it, with the instructions of this generation alone."""
        number = self.capability.replace(".", "")
        return number + ("a" if int(number) >= 90 else "")

    @staticmethod
    def found() -> Card | None:
        """The first card, from the driver itself."""
        try:
            driver = ctypes.CDLL("libcuda.so.1")
        except OSError:
            return None
        device, major, minor = ctypes.c_int(), ctypes.c_int(), ctypes.c_int()
        text = ctypes.create_string_buffer(128)
        calls = [
            lambda: driver.cuInit(0),
            lambda: driver.cuDeviceGet(ctypes.byref(device), 0),
            lambda: driver.cuDeviceGetName(text, len(text), device),
            lambda: driver.cuDeviceGetAttribute(ctypes.byref(major), 75, device),
            lambda: driver.cuDeviceGetAttribute(ctypes.byref(minor), 76, device),
        ]
        if any(call() != 0 for call in calls):
            return None
        return Card(text.value.decode(), f"{major.value}.{minor.value}")


class Device:
    """The kernels on the card."""

    def __init__(self, library: Path) -> None:
        self.call = ctypes.CDLL(str(library)).halfops_golden_call
        self.call.restype = ctypes.c_char_p

    def run(self, entry: str, arrays: Arrays) -> None:
        fields = (_Array * len(arrays))(
            *[_Array(key.encode(), array.ctypes.data, array.nbytes) for key, array in arrays.items()]
        )
        said = self.call(entry.encode(), fields, ctypes.c_int64(len(arrays)))
        if said is not None:
            raise RuntimeError(f"{entry}: {said.decode()}")


class _Array(ctypes.Structure):
    _fields_ = (("name", ctypes.c_char_p), ("data", ctypes.c_void_p), ("bytes", ctypes.c_int64))


def compile_for(nvcc: Path, arch: str, library: Path, *more: str) -> None:
    """One compiler a source, at once: a card may be waiting."""
    flags = [*setup.NVCC_FLAGS, "-std=c++20", f"-gencode=arch=compute_{arch},code=sm_{arch}", "-Xcompiler", "-fPIC"]
    flags += ["-Icsrc", "-Itests/emulator", *more]
    sources = (*SOURCES, *HOST)
    objects = [library.with_name(f"{Path(source).stem}.o") for source in sources]

    def made(source: str, target: Path) -> None:
        command = [str(nvcc), "-x", "cu", "-c", source, "-o", str(target), *flags]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        if done.returncode != 0:
            raise RuntimeError(f"nvcc refused {source}:\n{done.stderr}")

    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        list(pool.map(made, sources, objects))
    link = [str(nvcc), "-shared", "-cudart", "static", f"-arch=sm_{arch}", *map(str, objects), "-o", str(library)]
    subprocess.run(link, cwd=ROOT, check=True)


def answers(device) -> dict[str, tuple[str, Arrays]]:
    found = {}
    for case in CASES:
        arrays = case.arrays()
        asked = store.inputs_hash(arrays)
        device.run(case.entry, arrays)
        found[name(case)] = asked, arrays
    return found


def compared(found: dict[str, tuple[str, Arrays]], folder: Path = store.HERE) -> list[str]:
    """What is otherwise than in the files."""
    said = []
    for file in FILES:
        kept = store.read(file, folder)
        if kept is None:
            said.append(f"{file}.json: not recorded yet")
            continue
        for case in (c for c in CASES if c.file == file):
            said += store.differences(case, *found[name(case)], kept)
    return said


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--out", type=Path, metavar="DIR", default=store.HERE, help="where the files go")
    parser.add_argument("--check", action="store_true", help="write nothing; fail if this GPU differs from the files")
    parser.add_argument("--check-only", action="store_true", help="say what would be done, and do nothing")
    arguments = parser.parse_args()
    card, toolkit = Card.found(), setup.find_toolkit(os.environ)
    plan = f"compile {len(FILES)} files of micro-kernels, run {len(CASES)} cases, "
    plan += "compare with the files" if arguments.check else f"write {', '.join(f'{f}.json' for f in FILES)}"
    if arguments.check_only or card is None or not card.has_all or toolkit is None:
        missing = "only asked"
        if card is None:
            missing = "no GPU here"
        elif not card.has_all:
            missing = f"{card.name} has compute capability {card.capability}, which is not 9.0"
        elif toolkit is None:
            missing = "no nvcc here"
        print(f"skipped: {missing}; would {plan}")
        return 0
    machine = {"gpu": card.name, "compute_capability": card.capability, "toolkit": toolkit.version}
    with tempfile.TemporaryDirectory(prefix="halfops-golden-") as scratch:
        library = Path(scratch) / "golden.so"
        compile_for(toolkit.root / "bin" / "nvcc", card.arch, library)
        found = answers(Device(library))
    if arguments.check:
        said = compared(found)
        print("\n".join([*said, f"{card.name}: {len(said)} differences in {len(CASES)} cases"]))
        return 1 if said else 0
    written = store.write(found, machine, arguments.out.resolve())
    print(f"{card.name}: {len(CASES)} cases in {len(written)} files, {sum(p.stat().st_size for p in written)} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
