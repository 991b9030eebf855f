"""The matrix products' kernels, and what the table of tiles says that their code must consist of."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass

from cuda_code import sass
from cuda_code.kernels import demangled
from cuda_code.units import INSTANCES, PAIRS, ROOT, Resources, resources, unit

WARP, VECTOR, REGISTERS, REGISTERS_A_THREAD = 32, 16, 65536, 255
ROW = re.compile(
    r'^    {"(?P<name>[^"]+)", (?P<numbers>\d+, \d+, \d+, \d+, \d+, \d+), Copy::(?P<copy>\w+), (?P<blocks>\d+)'
    r"(?:, (?P<cluster>\d+))?(?:, (?P<alternate>true|false))?}",
    re.M,
)
KERNEL = re.compile(r"linear::(?:bulk_)?gemm_kernel<(halfops::\w+), (\d+), \(halfops::linear::Major\)(\d), ")
# What ptxas says when it waits between wgmma instructions, or ignores setmaxnreg.
SERIALISED = re.compile(r"\((C75\d\d)\)")


@dataclass(frozen=True)
class Tile:
    """A row of kPolicies."""

    name: str
    m: int
    n: int
    k: int
    stages: int
    warps_m: int
    warps_n: int
    copy: str
    blocks: int  # that a multiprocessor shall hold
    cluster: int = 1
    alternate: bool = False

    @property
    def asynchronous(self) -> bool:
        return self.copy == "async"

    @property
    def bulk(self) -> bool:
        """For sm_90a: copies of boxes, products of warpgroups."""
        return self.copy == "bulk"

    @property
    def division(self) -> str:
        """Of a tile among warps; of a bulk one among the warpgroups of its blocks."""
        if not self.bulk:
            return f"{self.warps_m} x {self.warps_n}"
        blocks = f"{self.cluster} blocks of " if self.cluster > 1 else ""
        return f"{blocks}{'1 of 2 groups' if self.alternate else '2 groups'}"

    @property
    def block_m(self) -> int:
        return self.m // self.cluster

    @property
    def threads(self) -> int:
        return 3 * 4 * WARP if self.bulk else WARP * self.warps_m * self.warps_n

    @property
    def registers_at_launch(self) -> int:
        """Of a thread, when blocks take all there are; they go out in portions of 8."""
        return REGISTERS // (self.blocks * self.threads) // 8 * 8

    def products(self, arch: str) -> int:
        """mma instructions of a warp for one stage: 16 x 8 outputs each, 16 deep, on Turing 8."""
        if self.bulk:  # wgmma instructions of a warpgroup: 64 x n outputs each, 16 deep
            return self.block_m // (64 if self.alternate else 128) * (self.k // 16)
        deep = 8 if arch == "75" else 16
        return (self.m // self.warps_m // 16) * (self.n // self.warps_n // 8) * (self.k // deep)

    @property
    def matrices(self) -> int:
        """ldmatrix instructions of a warp for one stage: 16 x 16 elements each."""
        return (self.m // self.warps_m + self.n // self.warps_n) // 16 * (self.k // 16)

    @property
    def shared_kib(self) -> float:
        return self.stages * (self.block_m + self.n) * self.k * 2 / 1024

    @property
    def tensor_clocks(self) -> float:
        """Of a multiprocessor that multiplies 1024 pairs of numbers a clock, 2048 by wgmma, for a stage of a block."""
        return self.block_m * self.n * self.k / (2048 if self.bulk else 1024)

    @property
    def shared_clocks(self) -> float:
        """Of its shared memory, 128 bytes a clock: what ldmatrix reads (512 bytes each) and what copies write.

        wgmma reads 64 lines of A and all of B for each 64 rows.
        """
        if self.bulk:
            read = self.block_m / 64 * (64 + self.n)
            return (read + self.block_m + self.n) * self.k * 2 / 128
        return self.threads // WARP * self.matrices * 512 / 128 + (self.m + self.n) * self.k * 2 / 128

    @property
    def bytes_a_clock(self) -> float:
        """From L2, while the tensor pipes are busy."""
        return (self.block_m + self.n / self.cluster) * self.k * 2 / self.tensor_clocks

    @property
    def copies(self) -> int:
        """16-byte copies of a thread for one stage; boxes of one block, where lines run along K."""
        if self.bulk:
            return 1 + 2 // self.cluster
        return (self.m + self.n) * self.k * 2 // VECTOR // self.threads


def tiles() -> list[Tile]:
    policies = ROOT / "csrc/linear/policy.h"
    found = ROW.finditer(policies.read_text()) if policies.exists() else ()
    return [
        Tile(
            row["name"],
            *map(int, row["numbers"].split(", ")),
            row["copy"],
            int(row["blocks"]),
            int(row["cluster"] or 1),
            row["alternate"] == "true",
        )
        for row in found
    ]


def kernels(source: str, arch: str) -> list[tuple[str, Tile, Resources]]:
    """Of a unit: dtype, tile and what ptxas says of each product's kernel."""
    reported = resources(unit(source, arch).report)
    found = [
        (KERNEL.search(name), used) for name, used in zip(demangled(r.name for r in reported), reported, strict=True)
    ]
    return [(name[1], tiles()[int(name[2])], used) for name, used in found if name is not None]


def opcodes(code: list[sass.Instruction], *kinds: str) -> Counter[str]:
    """How often each opcode of these kinds (HMMA, LDSM, LDGSTS) stands in the code."""
    return Counter(i.opcode for i in code if i.opcode.split(".")[0] in kinds)


def wrong_resources(tile: Tile, used: Resources) -> str:
    of_warp = -(-used.registers * WARP // 256) * 256  # registers go out in portions of 256 a warp
    if used.registers > REGISTERS_A_THREAD:
        return f"{used.registers} registers"
    if of_warp * (tile.threads // WARP) * tile.blocks > REGISTERS:
        return f"{used.registers} registers for {tile.blocks} blocks of {tile.threads} threads"
    return "" if used.stack == used.spilled == 0 else f"{used.stack} bytes of stack, {used.spilled} spilled"


def wrong_bulk_code(dtype: str, tile: Tile, arch: str, code: list[sass.Instruction]) -> str:
    """Warpgroup products of one shape, boxes in and out, registers that change hands; elsewhere nothing at all."""
    products = opcodes(code, "HGMMA")
    if arch != "90a":
        return f"{len(code)} instructions, wanted an empty kernel" if products or len(code) > 64 else ""
    wanted = f"HGMMA.64x{tile.n}x16.F32" + (".BF16" if dtype.endswith("bf16") else "")
    if set(products) != {wanted} or products[wanted] % tile.products(arch) != 0:
        return f"{dict(products)}, wanted {wanted} and {tile.products(arch)} a stage"
    boxes, out = opcodes(code, "UTMALDG"), opcodes(code, "UTMASTG")
    if boxes.total() < 2 or ("UTMALDG.3D.MULTICAST" in boxes) != (tile.cluster > 1):
        return f"{dict(boxes)}, wanted boxes of A and B, B's for the whole cluster"
    if out.total() < tile.n // 64:
        return f"{dict(out)}, wanted outputs to leave by the copy engine"
    if len(opcodes(code, "USETMAXREG")) < 2:
        return "registers do not change hands"
    return f"{dict(local)}" if (local := opcodes(code, "LDL", "STL", "HMMA")) else ""


def wrong_code(dtype: str, tile: Tile, arch: str, code: list[sass.Instruction]) -> str:
    if tile.bulk:
        return wrong_bulk_code(dtype, tile, arch, code)
    products, matrices, copies = (opcodes(code, kind) for kind in ("HMMA", "LDSM", "LDGSTS"))
    wanted = f"HMMA.{'1688' if arch == '75' else '16816'}.F32" + (".BF16" if dtype.endswith("bf16") else "")
    if set(products) != {wanted} or products[wanted] % tile.products(arch) != 0:
        return f"{dict(products)}, wanted {wanted} and {tile.products(arch)} a stage"
    if matrices.total() < tile.matrices or any(not opcode.endswith(".4") for opcode in matrices):
        return f"{dict(matrices)}, wanted at least {tile.matrices} of four matrices each"
    if not tile.asynchronous:
        return f"{dict(copies)}, wanted none" if copies else ""
    # BYPASS: past the first-level cache, which cp.async.cg alone does.
    if copies.total() < tile.copies or any("BYPASS" not in name or ".128" not in name for name in copies):
        return f"{dict(copies)}, wanted at least {tile.copies} of 16 bytes past the first-level cache"
    return f"{dict(local)}" if (local := opcodes(code, "LDL", "STL")) else ""


HEAD = """\
| tile, stages | warps | blocks | registers | KiB | mma / ldmatrix / copies | tensor | shared | L2 |
|---|---|---|---|---|---|---|---|---|"""


def table(arch: str = "90a", dtype: str = "f16") -> str:
    """A row a tile: its numbers, and the most registers that one of its kernels takes; of bulk ones, begins with."""
    used: dict[str, int] = {}
    for source in (s for s in INSTANCES if f"/{dtype}_" in s and (s, arch) in PAIRS):
        for _, tile, resources_of in kernels(source, arch):
            used[tile.name] = max(used.get(tile.name, 0), resources_of.registers)
    rows = [
        f"| {t.name}, {t.stages} | {t.division} | {t.blocks} | {used.get(t.name, t.registers_at_launch)} | "
        f"{t.shared_kib:g} | {t.products(arch)} / {0 if t.bulk else t.matrices} / {t.copies} | {t.tensor_clocks:g} | "
        f"{t.shared_clocks:g} | {t.bytes_a_clock:.3g} |"
        for t in tiles()
    ]
    return "\n".join([HEAD, *rows])
