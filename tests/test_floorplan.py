"""The floor plan of csrc/README.md as code: who may include or import whom, and what may stand only in one place.

Each rule is a function from a file's path and text to its violations, so that every rule is tried on a planted one too.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
MAX_LINES = 600

OP_ROOMS = {"linear", "pointwise", "optim", "scale"}
MAY_INCLUDE = {
    "core": set(),
    "math": {"core", "ptx"},
    "ptx": {"core"},
    "collective": {"core", "ptx"},
    **{room: {"core", "math", "ptx", "collective"} for room in OP_ROOMS},
    "binding": {"core", "collective", *OP_ROOMS},
}
# halfops/<part>: the parts of the package that it may import; `torch` and the standard library are free to all.
MAY_IMPORT = {
    "__init__": {"_ops", "amp", "explain", "functional", "nn", "optim"},
    "explain": {"_ops"},
    "_ops": {"_C"},
    "functional": {"_ops"},
    "nn": {"functional"},
    "optim": {"_ops"},
    "amp": {"_ops", "functional"},
    "reference": set(),
    "study": {"", "amp", "functional", "nn", "optim"},
    "cli": {"", "_ops", "amp", "functional", "nn", "optim", "reference", "study"},
    "__main__": {"cli"},
}
THIRD_PARTY = {"study": {"matplotlib", "numpy", "sklearn", "tqdm"}, "cli": {"matplotlib"}}
TOP_LEVEL = {
    "LICENSE", "Makefile", "README.md", "benchmarks", "csrc", "docs", "examples", "halfops", "pyproject.toml",
    "setup.py", "tests",
}  # fmt: skip
# What an engine compiled for one CPU may use of std: functions that are no templates.
PLAIN_STD = {"memcpy", "memset", "size_t", "int64_t", "uint64_t", "int32_t", "uint32_t", "uint16_t", "uint8_t"}

# Names of torch's headers that are younger than torch 2.11, the oldest one that halfops builds against.
TOO_YOUNG = re.compile(r"STABLE_TORCH_ERROR_CODE_CHECK|getCurrentStream\b|nativeHandle\b|throw_exception\b")

INCLUDE = re.compile(r'^\s*#\s*include\s+(["<])([^">]+)[">]', re.M)


def tracked(*patterns: str) -> list[str]:
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", *patterns]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode != 0:
        pytest.skip("not a git checkout", allow_module_level=True)
    return sorted(name for name in done.stdout.splitlines() if (ROOT / name).exists())


def code_only(text: str) -> str:
    """C++ without its comments and strings."""
    return re.sub(r'//[^\n]*|/\*.*?\*/|"(?:\\.|[^"\\\n])*"', " ", text, flags=re.S)


# --- csrc -----------------------------------------------------------------------------------------------------------


def wrong_includes(path: str, text: str) -> list[str]:
    room = path.split("/")[1]
    if room not in MAY_INCLUDE:
        return [f"{room} is no room of the house"]
    wrong = []
    for bracket, name in INCLUDE.findall(text):
        other = name.split("/")[0]
        if other == "emulator":
            if room not in ("collective", "ptx") or "HALFOPS_EMULATOR" not in text:
                wrong.append(f"the emulator takes the place of collective and ptx alone: {name}")
        elif bracket == '"' and other != room and other not in MAY_INCLUDE[room]:
            wrong.append(f"{room} may not include {name}")
        elif (
            bracket == '"' and room == "binding" and other in OP_ROOMS and re.search(r"\.inl\.h$|\.cuh$|_cpu\.h$", name)
        ):
            wrong.append(f"binding may include only front doors, not {name}")
        elif bracket == "<" and re.match(r"(torch|ATen|c10)/|Python\.h", name) and room != "binding":
            wrong.append(f"torch belongs in binding: {name}")
        elif bracket == "<" and name.endswith("intrin.h") and room != "core":
            wrong.append(f"intrinsics belong in core: {name}")
        elif (
            bracket == "<" and name.startswith(("cuda", "cub/", "cooperative_groups")) and path.endswith((".h", ".cpp"))
        ):
            if room != "core" or "__CUDACC__" not in text:
                wrong.append(f"CUDA headers belong in .cu and .cuh files: {name}")
        elif bracket == "<" and path.endswith(".inl.h"):
            wrong.append(f"an engine's headers come through core/variant.h, not {name}")
    return wrong


def misplaced_words(path: str, text: str) -> list[str]:
    room, code = path.split("/")[1], code_only(text)
    wrong = []
    if re.search(r"\basm\b", code) and room != "ptx":
        wrong.append("asm outside ptx")
    if "<<<" in code and path != "csrc/collective/launch.cuh":
        wrong.append("a launch outside collective/launch.cuh")
    if "__shared__" in code and path != "csrc/collective/shared.cuh":
        wrong.append("shared memory outside collective/shared.cuh")
    if "HALFOPS_EMULATOR" in code and room not in ("collective", "ptx"):
        wrong.append("code for the emulator alone: it must run what a GPU runs")
    wrong += [f"torch 2.11 has no {name} yet" for name in TOO_YOUNG.findall(code)]
    if path.endswith(".inl.h"):
        wrong += [f"std::{name} in an engine" for name in re.findall(r"std::(\w+)", code) if name not in PLAIN_STD]
    if room == "math":
        wrong += [
            f"math takes values, not pointers: {m}"
            for m in re.findall(r"\w+\s*\*\s*(?:const\s+)?\w+\s*[,)]", _parameters(code))
        ]
    return wrong


def _parameters(code: str) -> str:
    """The parameter lists of the functions that are defined in a formula header."""
    return "\n".join(re.findall(r"HALFOPS_HD[^({;]*(\([^)]*\))", code))


@pytest.mark.parametrize("path", tracked("csrc/*.h", "csrc/*.cuh", "csrc/*.cpp", "csrc/*.cu"))
def test_csrc(path):
    text = (ROOT / path).read_text()
    assert wrong_includes(path, text) + misplaced_words(path, text) == []


@pytest.mark.parametrize(
    ("path", "text", "rule"),
    [
        ("csrc/core/a.h", '#include "math/master.h"', "core may not include"),
        ("csrc/math/a.h", '#include "scale/scale.h"', "math may not include"),
        ("csrc/optim/a.cpp", '#include "scale/scale.h"', "optim may not include"),
        ("csrc/linear/a.h", "#include <torch/csrc/stable/tensor.h>", "torch belongs in binding"),
        ("csrc/scale/a.cpp", "#include <Python.h>", "torch belongs in binding"),
        ("csrc/optim/a.h", "#include <immintrin.h>", "intrinsics belong in core"),
        ("csrc/scale/a.cpp", "#include <cuda_runtime.h>", "CUDA headers belong"),
        ("csrc/core/a.h", "#include <cuda_fp16.h>", "CUDA headers belong"),
        ("csrc/scale/a.inl.h", "#include <vector>", "come through core/variant.h"),
        ("csrc/binding/a.cpp", '#include "scale/scale_cpu.inl.h"', "only front doors"),
        ("csrc/attic/a.h", "", "no room of the house"),
        ("csrc/collective/a.cuh", 'asm volatile("bar.sync 0;");', "asm outside ptx"),
        ("csrc/scale/a.cu", "kernel<<<1, 32>>>(x);", "a launch outside"),
        ("csrc/scale/a.cuh", "extern __shared__ float s[];", "shared memory outside"),
        ("csrc/scale/a.cuh", "__shared__ float s[32];", "shared memory outside"),
        ("csrc/scale/a.cuh", "#if defined(HALFOPS_EMULATOR)", "code for the emulator alone"),
        ("csrc/scale/a.cuh", '#include "emulator/warp.h"', "the emulator takes the place of"),
        ("csrc/scale/a.inl.h", "x = std::max(a, b);", "std::max in an engine"),
        ("csrc/binding/a.cpp", "STABLE_TORCH_ERROR_CODE_CHECK(f());", "torch 2.11 has no"),
        ("csrc/math/a.h", "HALFOPS_HD float f(const float* x) {", "not pointers"),
    ],
)
def test_csrc_rules_can_fail(path, text, rule):
    assert any(rule in found for found in wrong_includes(path, text) + misplaced_words(path, text))


def test_csrc_rules_leave_the_allowed_alone():
    text = '#include <cmath>\n#include "core/dtype.h"\n#include "math/master.h"\n// no asm, no <<<, no std::max here\n'
    assert wrong_includes("csrc/optim/a.cpp", text) + misplaced_words("csrc/optim/a.cpp", text) == []


# --- halfops --------------------------------------------------------------------------------------------------------


def imports(tree: ast.AST, package: str) -> list[str]:
    """Absolute names of the modules that a file imports; `from halfops import x` counts as halfops.x."""
    names = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            parents = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*parents, *([node.module] if node.module else [])])
            names += [f"{base}.{alias.name}" for alias in node.names] if base == "halfops" else [base]
    return names


def wrong_imports(path: str, text: str) -> list[str]:
    parts = Path(path).with_suffix("").parts[1:]
    part = parts[0]
    package = ".".join(Path(path).with_suffix("").parts[:-1])
    if part not in MAY_IMPORT:
        return [f"{part} is no part of the package"]
    tree = ast.parse(text)
    wrong = []
    for name in imports(tree, package):
        top, _, rest = name.partition(".")
        if top == "halfops":
            other = rest.split(".")[0]
            known = other in MAY_IMPORT or other == "_C"
            if other != part and (other if known else "") not in MAY_IMPORT[part]:
                wrong.append(f"{part} may not import {name}")
        elif top not in sys.stdlib_module_names | {"torch"} | THIRD_PARTY.get(part, set()):
            wrong.append(f"{part} may not import {name}")
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and ast.unparse(node) == "torch.ops.halfops" and part != "_ops":
            wrong.append("torch.ops.halfops outside _ops")
    return wrong


@pytest.mark.parametrize("path", tracked("halfops/*.py"))
def test_halfops(path):
    assert wrong_imports(path, (ROOT / path).read_text()) == []


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("halfops/nn.py", "from halfops import _ops"),
        ("halfops/nn.py", "from halfops.optim import AdamW"),
        ("halfops/optim/adamw.py", "from halfops.functional import linear"),
        ("halfops/optim/adamw.py", "from ..functional import linear"),
        ("halfops/reference/optim.py", "import halfops"),
        ("halfops/reference/optim.py", "import numpy"),
        ("halfops/functional/linear.py", "import torch\ny = torch.ops.halfops.linear(x)"),
        ("halfops/functional/linear.py", "from halfops._C import x"),
        ("halfops/amp.py", "import benchmarks"),
        ("halfops/amp.py", "import halfops.cli.doctor"),
        ("halfops/utils.py", ""),
    ],
)
def test_halfops_rules_can_fail(path, text):
    assert wrong_imports(path, text) != []


def test_halfops_rules_leave_the_allowed_alone():
    assert (
        wrong_imports(
            "halfops/optim/adamw.py", "import math\nimport torch\nfrom halfops import _ops\nfrom . import base"
        )
        == []
    )
    assert wrong_imports("halfops/_ops/scale.py", "from halfops._ops import ops\nfrom halfops import _C") == []


# --- everything -----------------------------------------------------------------------------------------------------


def test_files_stay_within_what_a_head_can_hold():
    sources = tracked("csrc/*", "halfops/*", "tests/*", "benchmarks/*", "setup.py")
    long = {
        p: n
        for p in sources
        if not p.endswith((".jsonl", ".json")) and (n := (ROOT / p).read_bytes().count(b"\n")) > MAX_LINES
    }
    assert long == {}


def test_the_top_level_holds_only_what_is_meant_to():
    top = {name.split("/")[0] for name in tracked()}
    assert {name for name in top - TOP_LEVEL if not name.startswith(".")} == set()


def test_no_unfinished_business():
    word = "TO" + "DO"
    marked = [
        p
        for p in tracked("csrc/*", "halfops/*", "tests/*", "benchmarks/*", "*.md")
        if word in (ROOT / p).read_text(errors="ignore")
    ]
    assert marked == []
