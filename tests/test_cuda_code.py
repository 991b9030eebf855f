"""What the compilers made of the CUDA kernels: no spill, 16-byte loads all in flight, nothing rounded behind our back.

Needs nvcc, no GPU; what is read in SASS also needs nvdisasm. Every check is tried on a planted defect.
"""

from __future__ import annotations

import dataclasses
import os
import re

import pytest
from cuda_code import kernels, products, ptx, report, sass, units

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(units.nvcc() is None, reason="no CUDA toolkit here: nothing compiles the kernels"),
]
needs_disassembler = pytest.mark.skipif(
    units.disassembler() is None, reason="no nvdisasm here: `pip install nvidia-cuda-nvdisasm` has it"
)
# SASS is read for the two that most cards run.
READ_ARCHS = ("80", "90a")
passes = pytest.mark.parametrize("source", kernels.PASSES)
read_archs = pytest.mark.parametrize("arch", READ_ARCHS)
PLANTED = "tests/cuda_code/planted.cu"


# Where the compiler cuts a weight's 16 bytes into four stores. Listed, so that one that gets better shows.
CUT_STORES = re.compile(r"^(AdamW|Adam|SgdMomentum|Sgd|Lion|Lamb): bf16, f32 master$")


def with_local_memory(report: str) -> list[str]:
    return [r.name for r in units.resources(report) if r.stack > 0 or r.spilled > 0]


@pytest.mark.parametrize(("source", "arch"), units.PAIRS)
def test_units_compile_without_warning_or_local_memory(source, arch):
    built = units.unit(source, arch)
    assert not built.failed, built.report
    if "__global__" in built.ptx or ".entry" in built.ptx:
        assert units.resources(built.report), "ptxas named no kernel"
    assert with_local_memory(built.report) == []


@passes
@read_archs
def test_ptx_has_only_what_rounds_once_to_nearest(source, arch):
    bodies = ptx.kernels(units.unit(source, arch).ptx)
    checked = [kernel for kernel, _ in kernels.kernels(source, arch)]
    assert checked
    wrong = {k.name: ptx.wrong_operations(bodies[k.mangled], k.double_sums, k.approximates) for k in checked}
    assert {name: operations for name, operations in wrong.items() if operations} == {}


def wrong_opcodes(function: sass.Function, kernel: kernels.Kernel) -> set[str]:
    """Local memory, conversions and approximations that the source has no use for.

    Square root and division begin with an approximation, try both directions, and end exactly rounded: the PTX says
    which they are. Activations approximate as their source says. Sums convert to double and back, 16-bit formats are
    rounded by the instruction for them.
    """
    allowed = r"HFMA2\.MMA$"  # ptxas loads constants with it
    if kernel.roots:
        allowed += r"|MUFU\.(RCP|RSQ)$|(FADD|FMUL|FFMA|FSETP\.\w+)\.FTZ(\.AND)?$|FFMA\.R[MPZ]$"
    if kernel.approximates:
        allowed += r"|MUFU\.(EX2|RCP)$"
    if kernel.double_sums:
        allowed += r"|F2F\.(F64\.F32|F32\.F64)$"
    if re.search(r"\bb?f16\b|unscale_", kernel.name):
        allowed += r"|F2FP(\.B?F16)?(\.F32)?\.PACK_AB$"
    if re.search(r"Relu: b?f16", kernel.name):
        allowed += r"|F2FP\.RELU(\.B?F16)?(\.F32)?\.PACK_AB$"  # the selection of zero is part of the conversion
    if kernel.name.startswith("column_sums"):  # a share's number is divided into row block and strip
        allowed += r"|MUFU\.RCP$|I2F\.U(32|64)\.RP$|F2I\.FTZ\.U32\.TRUNC\.NTZ$"
    suspects = {i.opcode for i in function.code if re.match(r"LDL|STL|MUFU|F2F|HFMA|.*\.(FTZ|RZ|RM|RP)\b", i.opcode)}
    return {opcode for opcode in suspects if not re.match(allowed, opcode)}


@needs_disassembler
@passes
@read_archs
def test_sass_has_no_local_memory_and_no_foreign_instruction(source, arch):
    functions = sass.functions(units.unit(source, arch).sass)
    for kernel, _ in kernels.kernels(source, arch):
        assert wrong_opcodes(functions[kernel.mangled], kernel) == set(), kernel.name


def wrong_loop(loop: list[sass.Instruction], wanted: kernels.Loop, scalar_loads: int, in_flight: int) -> str:
    loads, stores = (sum(getattr(i, kind) for i in loop) for kind in ("is_wide_load", "is_wide_store"))
    if not wanted.loads <= loads <= wanted.loads + scalar_loads:
        return f"{loads} loads of 16 bytes, wanted {wanted.loads} and at most {scalar_loads} of scalars"
    if stores != wanted.stores:
        return f"{stores} stores of 16 bytes, wanted {wanted.stores}"
    if (together := sass.loads_in_flight(loop)) < in_flight:
        return f"{together} of {wanted.loads} loads are in flight before the first is used, wanted {in_flight}"
    return ""


@needs_disassembler
@passes
@read_archs
def test_loops_load_and_store_16_bytes_and_all_loads_are_in_flight(source, arch):
    functions = sass.functions(units.unit(source, arch).sass)
    wrong = {}
    for kernel, _ in kernels.kernels(source, arch):
        wanted = sorted(kernel.loops, key=lambda loop: loop.loads)
        found = sorted(functions[kernel.mangled].wide_loops(), key=lambda loop: sum(i.is_wide_load for i in loop))
        assert len(found) >= len(wanted), kernel.name
        for loop, declared in zip(found, wanted, strict=False):
            if CUT_STORES.match(kernel.name):
                declared = dataclasses.replace(declared, stores=declared.stores - 1)
            if said := wrong_loop(loop, declared, kernel.scalar_loads, declared.least):
                wrong[kernel.name, declared.label] = said
    assert wrong == {}


@needs_disassembler
@pytest.mark.skipif(not units.INSTANCES, reason="no matrix products here")
@pytest.mark.parametrize(("source", "arch"), [pair for pair in units.PAIRS if pair[0] in units.INSTANCES])
def test_products_are_made_of_tensor_core_instructions_and_16_byte_copies(source, arch):
    functions = sass.functions(units.unit(source, arch).sass)
    found = products.kernels(source, arch)
    assert found
    assert products.SERIALISED.findall(units.unit(source, arch).report) == []
    for dtype, tile, used in found:
        assert products.wrong_resources(tile, used) == "", tile.name
        assert products.wrong_code(dtype, tile, arch, functions[used.name].code) == "", tile.name


@needs_disassembler
def test_the_page_has_these_figures():
    page = (units.ROOT / "docs" / "kernels.md").read_text()
    version = units.setup.find_toolkit(os.environ).version
    if f"nvcc {version} " not in page:
        pytest.skip(f"the page has the figures of another nvcc than {version}")
    assert page.split("<!-- kernels -->\n")[1].split("\n<!-- /kernels -->")[0] == report.table()
    assert page.split("<!-- products -->\n")[1].split("\n<!-- /products -->")[0] == products.table()


# --- the checks can fail --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def planted():
    built = units.compiled(PLANTED, "90a", strict=False)
    assert not built.failed, built.report
    return built


def named(found: dict, name: str):
    (key,) = (key for key in found if name in key)
    return found[key]


def test_local_memory_is_found(planted):
    (name,) = with_local_memory(planted.report)
    assert "indexed_local_array" in name


def test_products_that_wait_for_each_other_are_found(planted):
    assert set(products.SERIALISED.findall(planted.report)) & {"C7510", "C7514", "C7517", "C7519"}


def test_a_warning_is_an_error(planted, tmp_path):
    unit = tmp_path / "unused.cu"
    unit.write_text("__global__ void kernel() { int unused; }\n")
    built = units.compiled(str(unit), "90a")
    assert built.failed
    assert "never referenced" in built.report


def test_fused_and_approximate_operations_are_found(planted):
    body = named(ptx.kernels(planted.ptx), "fused_and_approximate")
    assert ptx.wrong_operations(body, fused_doubles=True, approximates=True) == {"div.approx.f32"}
    assert ptx.wrong_operations(body, fused_doubles=True) == {"fma.rn.f32", "div.approx.f32"}


@pytest.mark.parametrize(
    "operation",
    ["add.f32", "add.ftz.f32", "mul.rz.f32", "mad.f32", "fma.rn.f64", "sqrt.approx.f32", "rsqrt.approx.ftz.f32",
     "rcp.approx.ftz.f32", "cvt.rz.f16.f32", "ex2.approx.f32", "fma.rn.f16x2", "add.rn.ftz.f32"],
)  # fmt: skip
def test_every_wrong_operation_is_one(operation):
    assert ptx.wrong_operations(f"\t{operation} \t%f1, %f2, %f3;\n", fused_doubles=False) == {operation}


@needs_disassembler
def test_foreign_instructions_are_found(planted):
    functions = sass.functions(planted.sass)
    kernel = kernels._scale_kernel(PLANTED, "", "nonfinite_check", writes=False, sums=False)
    assert {"LDL", "STL"} & {o.split(".")[0] for o in wrong_opcodes(named(functions, "indexed_local_array"), kernel)}
    assert "MUFU.RCP" in wrong_opcodes(named(functions, "fused_and_approximate"), kernel)


@needs_disassembler
def test_small_loads_are_no_16_byte_loads(planted):
    assert named(sass.functions(planted.sass), "one_by_one").wide_loops() == []


SASS = """
    .section  .text.kernel,"ax",@progbits
.L_x_0:
        /*0000*/   LOAD R4, desc[UR4][R2.64] ;
        /*0010*/   FADD R8, R4, 1 ;
        /*0020*/   BSSY B0, `(.L_x_1) ;
        /*0030*/  @P1 BRA `(.L_x_2) ;
        /*0040*/   CALL.REL.NOINC `(slow) ;
.L_x_2:
        /*0050*/   BSYNC B0 ;
.L_x_1:
        /*0060*/  @!P0 BRA `(.L_x_0) ;
        /*0070*/   EXIT ;
"""


def test_a_round_leads_past_calls_and_a_generic_load_is_none():
    (loop,) = sass.functions(SASS.replace("LOAD", "LDG.E.128"))["kernel"].wide_loops()
    assert [i.opcode for i in loop] == ["LDG.E.128", "FADD", "BSSY", "BRA", "BSYNC", "BRA"]
    assert sass.functions(SASS.replace("LOAD", "LD.E.128"))["kernel"].wide_loops() == []
    assert sass.functions(SASS.replace("LOAD", "LDG.E.64"))["kernel"].wide_loops() == []


@needs_disassembler
def test_a_load_that_waits_for_another_is_found(planted):
    (loop,) = named(sass.functions(planted.sass), "one_after_the_other").wide_loops()
    assert wrong_loop(loop, kernels.Loop("", 4, 2, 8), 0, in_flight=2) == ""
    assert wrong_loop(loop, kernels.Loop("", 4, 2, 8), 0, in_flight=4).startswith("2 of 4 loads are in flight")
    assert wrong_loop(loop, kernels.Loop("", 3, 2, 8), 0, in_flight=2).startswith("4 loads of 16 bytes, wanted 3")
    assert wrong_loop(loop, kernels.Loop("", 4, 3, 8), 0, in_flight=2).startswith("2 stores of 16 bytes, wanted 3")


TILE = products.Tile("128x128x32", 128, 128, 32, 4, 2, 2, copy="async", blocks=2)
GOOD = {"HMMA.16816.F32": 64, "LDSM.16.M88.4": 24, "LDGSTS.E.BYPASS.LTC128B.128.ZFILL": 16}


def wrong_mix(changed: dict[str, int], tile: products.Tile = TILE) -> str:
    counts = {**GOOD, **changed}
    code = [sass.Instruction("", opcode, "") for opcode, count in counts.items() for _ in range(count)]
    return products.wrong_code("halfops::f16", tile, "80", code)


def test_a_product_without_its_instructions_is_found():
    assert wrong_mix({}) == ""
    assert "wanted HMMA.16816.F32 and 64 a stage" in wrong_mix({"HMMA.16816.F32": 0})
    assert "wanted HMMA.16816.F32 and 64 a stage" in wrong_mix({"HMMA.16816.F32": 63})
    assert "wanted HMMA.16816.F32" in wrong_mix({"HMMA.16816.F16": 1})
    assert "of four matrices each" in wrong_mix({"LDSM.16.M88.4": 15})
    assert "of four matrices each" in wrong_mix({"LDSM.16.M88.2": 1})
    assert "past the first-level cache" in wrong_mix({"LDGSTS.E.BYPASS.LTC128B.128.ZFILL": 0})
    assert "past the first-level cache" in wrong_mix({"LDGSTS.E.64": 1})
    assert "LDL" in wrong_mix({"LDL": 1})
    assert "wanted none" in wrong_mix({}, dataclasses.replace(TILE, copy="staged"))


BULK = products.Tile("256x256x64 bulk", 256, 256, 64, 4, 2, 2, copy="bulk", blocks=1, cluster=2)
GOOD_BULK = {
    "HGMMA.64x256x16.F32": 8,
    "UTMALDG.3D": 1,
    "UTMALDG.3D.MULTICAST": 1,
    "UTMASTG.3D": 4,
    "USETMAXREG.DEALLOC.CTAPOOL": 1,
    "USETMAXREG.TRY_ALLOC.CTAPOOL": 1,
}


def wrong_bulk_mix(changed: dict[str, int], arch: str = "90a", tile: products.Tile = BULK) -> str:
    counts = {**GOOD_BULK, **changed}
    code = [sass.Instruction("", opcode, "") for opcode, count in counts.items() for _ in range(count)]
    return products.wrong_code("halfops::f16", tile, arch, code)


def test_a_product_of_warpgroups_without_its_instructions_is_found():
    assert wrong_bulk_mix({}) == ""
    assert "wanted HGMMA.64x256x16.F32 and 4 a stage" in wrong_bulk_mix({"HGMMA.64x256x16.F32": 0})
    assert "wanted HGMMA.64x256x16.F32 and 4 a stage" in wrong_bulk_mix({"HGMMA.64x256x16.F32": 7})
    assert "wanted HGMMA.64x256x16.F32" in wrong_bulk_mix({"HGMMA.64x128x16.F32": 4})
    assert "for the whole cluster" in wrong_bulk_mix({"UTMALDG.3D.MULTICAST": 0, "UTMALDG.3D": 2})
    assert "for the whole cluster" in wrong_bulk_mix({}, tile=dataclasses.replace(BULK, m=128, cluster=1))
    assert "by the copy engine" in wrong_bulk_mix({"UTMASTG.3D": 3})
    assert "do not change hands" in wrong_bulk_mix({"USETMAXREG.TRY_ALLOC.CTAPOOL": 0})
    assert "STL" in wrong_bulk_mix({"STL": 1})
    assert "an empty kernel" in wrong_bulk_mix({}, arch="80")
    nothing = dict.fromkeys(GOOD_BULK, 0)
    assert wrong_bulk_mix({**nothing, "NOP": 64}, arch="80") == ""
    assert "an empty kernel" in wrong_bulk_mix({**nothing, "NOP": 65}, arch="80")


def test_a_product_with_too_many_registers_is_found():
    used = units.Resources("", stack=0, spilled=0, registers=255, shared=0)
    assert products.wrong_resources(TILE, used) == ""
    assert "for 3 blocks" in products.wrong_resources(dataclasses.replace(TILE, blocks=3), used)
    assert "spilled" in products.wrong_resources(TILE, dataclasses.replace(used, spilled=4))


def test_the_table_of_tiles_is_read_whole():
    """Every instance names a row of the table, and every row has instances."""
    if not units.INSTANCES:
        pytest.skip("no matrix products here")
    rows = {int(row) for s in units.INSTANCES for row in re.findall(r"ROW\(\w+, (\d+)\)", (units.ROOT / s).read_text())}
    assert rows == set(range(len(products.tiles())))
