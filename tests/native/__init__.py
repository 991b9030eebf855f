"""The formula headers of csrc on NumPy arrays: compiled on first use, kept under build/ by the hash of their text."""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import os
import subprocess
import sys
import sysconfig
from pathlib import Path
from types import ModuleType

import kept
import pybind11

HERE = Path(__file__).resolve().parent
CSRC = HERE.parents[1] / "csrc"
# Rounding as in setup.py. Optimisation does not matter: what is tested here is the text of the formulas.
FLAGS = ["-std=c++20", "-O1", "-g0", "-fPIC", "-shared", "-fvisibility=hidden", "-ffp-contract=off"]


def _digest(command: list[str], source: Path) -> str:
    text = hashlib.sha256(" ".join([*command, sys.version]).encode())
    for header in [source, *sorted(CSRC.glob("*/*.h")), *sorted(CSRC.glob("math/update/*.h"))]:
        text.update(header.read_bytes())
    return text.hexdigest()[:16]


@functools.cache
def load(name: str = "formulas") -> ModuleType:
    """The module of one of the sources here."""
    source = HERE / f"{name}.cpp"
    compiler = os.environ.get("CXX", "c++")
    includes = [pybind11.get_include(), sysconfig.get_path("include"), str(CSRC)]
    command = [compiler, *FLAGS, *(f"-I{folder}" for folder in includes), str(source)]
    target = kept.folder("native") / f"{name}-{_digest(command, source)}.so"
    if not target.exists():
        # Under another name until it is complete: two test runs may build at once.
        unfinished = target.with_name(f"{target.name}.{os.getpid()}")
        subprocess.run([*command, "-o", str(unfinished)], check=True)
        unfinished.replace(target)
    spec = importlib.util.spec_from_file_location(name, target)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
