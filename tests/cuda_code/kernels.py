"""The kernels that make the passes over tensors, and what their declarations say that their loops must load and store.

Nothing here comes from compiled code: numbers of arrays and of their vectors follow from dtype, master and moments.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass

from cuda_code.units import ROOT, UNITS, Resources, resources, unit

CSRC = ROOT / "csrc"
EIGHT, VECTOR = 8, 16  # elements of a thread at a time, bytes of an access (collective/vector.cuh)
WIDTHS = {"float": 4, "halfops::f16": 2, "halfops::bf16": 2}


def _constant(file: str, name: str) -> int:
    found = re.search(rf"\b{name} = (\d+)", (CSRC / file).read_text())
    assert found is not None
    return int(found[1])


def _enumerators(file: str, name: str) -> list[str]:
    found = re.search(rf"enum class {name} : \w+ {{ ([\w, ]+) }}", (CSRC / file).read_text())
    assert found is not None
    return found[1].split(", ")


MASTERS = _enumerators("optim/optim.h", "MasterFormat")
ROUNDINGS = _enumerators("optim/optim.h", "Rounding")
STEP_THREADS = _constant("optim/step.cuh", "kStepThreads")
SCALE_THREADS = _constant("scale/nonfinite.cuh", "kThreads")
UNROLL = _constant("scale/nonfinite.cuh", "kUnroll")
POINTWISE_THREADS = _constant("pointwise/elementwise.cuh", "kThreads")
SUM_THREADS = _constant("pointwise/row_sums.cuh", "kSumThreads")
ROW_VECTORS = _constant("pointwise/row_sums.cuh", "kTogether")


@dataclass(frozen=True)
class Rule:
    states: int
    needs_norms: bool
    scalars: int  # bytes of what is the same for all elements
    roots: bool  # has square roots and divisions by element


def _rules() -> dict[str, Rule]:
    rules = {}
    for header in sorted((CSRC / "math/update").glob("*.h")):
        for part in re.split(r"^struct ", header.read_text(), flags=re.M)[1:]:
            scalars = re.search(r"struct Scalars {(.*?)};", part, re.S)
            if scalars is None:
                continue
            fields = re.findall(r"(float|double) ([\w, ]+);", scalars[1])
            size = sum({"float": 4, "double": 8}[kind] * len(names.split(",")) for kind, names in fields)
            states = re.search(r"kStates = (\d+)", part)
            assert states is not None
            by_element = part[part.index("static HALFOPS_HD float") :]
            rules[part.split(" ")[0]] = Rule(int(states[1]), "kNeedsNorms = true" in part, size, "sqrtf" in by_element)
    return rules


RULES = _rules()


def vectors(width: int) -> int:
    """16-byte accesses for a thread's eight elements."""
    return EIGHT * width // VECTOR


@dataclass(frozen=True)
class Loop:
    """One round of a loop: how many 16-byte loads and stores of tensors, for how many elements of a thread.

    Where much is computed between load and store, the compiler keeps loads back: `least` are in flight together.
    """

    label: str
    loads: int
    stores: int
    elements: int
    held_back: bool = False

    @property
    def least(self) -> int:
        return min(self.loads, max(2, self.loads * 2 // 3)) if self.held_back else self.loads

    @property
    def bytes_per_element(self) -> float:
        return (self.loads + self.stores) * VECTOR / self.elements


@dataclass(frozen=True)
class Kernel:
    """An instance of one of the passes."""

    unit: str
    mangled: str
    name: str
    threads: int
    loops: tuple[Loop, ...]
    scalar_loads: int  # 16-byte loads at most of what is the same for all elements
    double_sums: bool
    roots: bool
    approximates: bool = False  # an exponential and a reciprocal, as csrc/ptx/approximate.cuh has them


STEP = re.compile(
    r"(step|measure)_kernel<halfops::update::(\w+)(<\w+>)?, halfops::optim::Storage<([\w:]+), "
    r"\(halfops::optim::MasterFormat\)(\d), \(halfops::optim::Rounding\)(\d)>"
)


def _optim_kernel(source: str, mangled: str, found: re.Match[str]) -> Kernel:
    measures = found[1] == "measure"
    rule, master, rounding = RULES[found[2]], MASTERS[int(found[5])], ROUNDINGS[int(found[6])]
    width = WIDTHS[found[4]]
    weight, states = vectors(width), rule.states * vectors(4)
    extra = {"none": 0, "split": vectors(2), "f32": vectors(4)}[master]
    read = extra + (0 if master == "f32" else weight)  # a master in fp32 is the weight, which is only written
    # A rule that needs norms moves its moments in the measuring pass, and its step has no use for gradients.
    if measures:
        loop = Loop("", read + weight + states, states, EIGHT)
    elif rule.needs_norms:
        loop = Loop("", read + states, weight + extra, EIGHT)
    else:
        loop = Loop("", read + weight + states, weight + extra + states, EIGHT)
    stored = _stored(found[4])
    beside = {"none": rounding if width == 2 else ""}.get(master, f"{master} master")
    plain = {"AdamRule<true>": "AdamW", "AdamRule<false>": "Adam"}.get(found[2] + (found[3] or ""), found[2])
    name = f"{plain}{', norms' if measures else ''}: {stored}{', ' + beside if beside else ''}"
    return Kernel(source, mangled, name, STEP_THREADS, (loop,), -(-rule.scalars // VECTOR), measures, rule.roots)


# The pointwise room's operations: how many arrays they read and write.
OPERATIONS = {
    name: (int(ins), int(outs))
    for name, ins, outs in re.findall(
        r"struct (\w+) {\s+static constexpr int kIns = (\d), kOuts = (\d);",
        (CSRC / "pointwise/elementwise.cuh").read_text(),
    )
}
PUBLIC = {
    "Activate": "activation", "ActivateBackward": "activation_backward", "Gate": "gated_activation",
    "GateBackward": "gated_activation_backward",
}  # fmt: skip
ELEMENTWISE = re.compile(r"elementwise_kernel<halfops::pointwise::(\w+)<halfops::(\w+)>, ([\w:]+)>")
COLUMNS = re.compile(r"add_(rows|columns)_kernel<(?:\w+, )?([\w:]+)>")


def _stored(name: str) -> str:
    return name.removeprefix("halfops::").replace("float", "f32")


def _elementwise_kernel(source: str, mangled: str, found: re.Match[str]) -> Kernel:
    (ins, outs), dtype = OPERATIONS[found[1]], found[3]
    if found[1] == "ActivateBackward" and found[2] == "Identity":
        ins = 1  # the gradient passes, wherever it is taken
    each = vectors(WIDTHS[dtype])
    eights = 2 if OPERATIONS[found[1]][0] * each == 1 else 1
    loop = Loop("", eights * ins * each, eights * outs * each, eights * EIGHT, held_back=True)
    approximates = found[2] not in ("Identity", "Relu")
    name = f"{PUBLIC[found[1]]} {found[2]}: {_stored(dtype)}"
    return Kernel(source, mangled, name, POINTWISE_THREADS, (loop,), 0, False, False, approximates)


def _column_kernel(source: str, mangled: str, found: re.Match[str]) -> Kernel:
    name = f"column_sums: {_stored(found[2])}"
    if found[1] == "columns":  # the second pass, over what the first has left
        return Kernel(source, mangled, f"{name}, ordered", 1024, (), 0, True, False)
    loop = Loop("", ROW_VECTORS, 0, ROW_VECTORS * EIGHT // vectors(WIDTHS[found[2]]), held_back=True)
    return Kernel(source, mangled, name, SUM_THREADS, (loop,), 0, False, False)


def _scale_kernel(source: str, mangled: str, name: str, writes: bool, sums: bool) -> Kernel:
    loops = tuple(
        Loop(label, UNROLL * vectors(width), UNROLL * vectors(width) * writes, UNROLL * EIGHT, writes)
        for label, width in (("f16", 2), ("bf16", 2), ("f32", 4))
    )
    return Kernel(source, mangled, name, SCALE_THREADS, loops, 0, sums, False)


def kernel_of(source: str, mangled: str, name: str) -> Kernel | None:
    """By the demangled name; None for a kernel that makes no pass over tensors."""
    if found := STEP.search(name):
        return _optim_kernel(source, mangled, found)
    if found := ELEMENTWISE.search(name):
        return _elementwise_kernel(source, mangled, found)
    if found := COLUMNS.search(name):
        return _column_kernel(source, mangled, found)
    if "nonfinite_kernel" in name:
        return _scale_kernel(source, mangled, "nonfinite_check", writes=False, sums=False)
    if "stats_kernel<false>" in name:
        return _scale_kernel(source, mangled, "grad_stats", writes=False, sums=True)
    if "stats_kernel<true>" in name:
        return _scale_kernel(source, mangled, "unscale_", writes=True, sums=True)
    return None


def demangled(names: Iterable[str]) -> list[str]:
    done = subprocess.run(["c++filt"], input="\n".join(names), capture_output=True, text=True, check=True)
    return done.stdout.splitlines()


def kernels(source: str, arch: str) -> list[tuple[Kernel, Resources]]:
    reported = resources(unit(source, arch).report)
    names = demangled(kernel.name for kernel in reported)
    found = [(kernel_of(source, r.name, name), r) for r, name in zip(reported, names, strict=True)]
    return [(kernel, r) for kernel, r in found if kernel is not None]


# Units with such kernels, by their text: the list is wanted before anything is compiled.
PASSES = tuple(s for s in UNITS if re.search(r"launch_set<|stats_kernel|elementwise_kernel", (ROOT / s).read_text()))
