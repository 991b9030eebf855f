"""setup.py decides as docs/install.md says; the binary keeps its promises: stable ABI, no CUDA library."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tarfile
from pathlib import Path

import kept
import pytest
import torch

import halfops
from halfops.cli import doctor

ROOT = Path(__file__).resolve().parents[1]


setup = kept.setup()
TOOLKIT = setup.Toolkit(Path("/opt/cuda"), "13.0")


def run(*command: str, **options) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True, **options).stdout


# --- decide: every row of the table ---------------------------------------------------------------------------------


@pytest.mark.parametrize("driver", [False, True])
@pytest.mark.parametrize(
    ("torch_cuda", "toolkit", "environ", "cuda"),
    [
        ("13.0", TOOLKIT, {}, True),
        ("13.2", TOOLKIT, {}, True),  # a minor difference is none
        ("13.0", TOOLKIT, {"HALFOPS_BUILD": "auto"}, True),
        ("13.0", TOOLKIT, {"HALFOPS_BUILD": "cuda"}, True),
        ("13.0", TOOLKIT, {"HALFOPS_BUILD": "cpu"}, False),
        ("12.8", TOOLKIT, {"HALFOPS_BUILD": "cpu"}, False),
        ("13.0", None, {"HALFOPS_BUILD": "cpu"}, False),
        (None, None, {}, False),
        (None, TOOLKIT, {}, False),
        (None, TOOLKIT, {"FORCE_CUDA": "0"}, False),
        (None, TOOLKIT, {"FORCE_CUDA": "1"}, True),
        (None, TOOLKIT, {"HALFOPS_BUILD": "cuda"}, True),
        (None, TOOLKIT, {"HALFOPS_BUILD": "cpu", "FORCE_CUDA": "1"}, False),
    ],
)
def test_decide(torch_cuda, toolkit, environ, cuda, driver):
    decision = setup.decide(torch_cuda, toolkit, driver, environ)
    assert decision.cuda is cuda
    assert decision.reason


def test_decide_without_a_toolkit_depends_on_the_driver():
    assert not setup.decide("13.0", None, False, {}).cuda
    with pytest.raises(setup.BuildError, match=r"CUDA 13.0 and a driver is present, but no nvcc was found"):
        setup.decide("13.0", None, True, {})
    with pytest.raises(setup.BuildError, match=r"but no nvcc was found in CUDA_PATH=/no. Ways out"):
        setup.decide("13.0", None, True, {"CUDA_PATH": "/no"})
    assert "neither nvcc in CUDA_HOME=/no nor" in setup.decide("13.0", None, False, {"CUDA_HOME": "/no"}).reason


@pytest.mark.parametrize(
    ("torch_cuda", "toolkit", "environ", "text"),
    [
        ("12.8", TOOLKIT, {}, r"nvcc is CUDA 13.0 \(/opt/cuda\), torch was built for CUDA 12.8"),
        ("12.8", TOOLKIT, {"FORCE_CUDA": "1"}, r"nvcc is CUDA 13.0"),
        (None, None, {"FORCE_CUDA": "1"}, r"no nvcc was found. Ways out:"),
        (None, None, {"FORCE_CUDA": "1", "CUDA_HOME": "/no"}, r"no nvcc was found in CUDA_HOME=/no. Ways out:"),
        ("13.0", None, {"HALFOPS_BUILD": "cuda"}, r"no nvcc was found"),
        (None, None, {"HALFOPS_BUILD": "gpu"}, r"HALFOPS_BUILD: got 'gpu', wanted auto, cpu or cuda"),
    ],
)
def test_decide_refuses_with_a_sentence(torch_cuda, toolkit, environ, text):
    with pytest.raises(setup.BuildError, match=text):
        setup.decide(torch_cuda, toolkit, False, environ)


# --- finding the toolkit, counting jobs -----------------------------------------------------------------------------


def _script(path: Path, body: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("#!/bin/sh\n" + body)
    path.chmod(0o755)
    return path


FAKE_NVCC = """case "$1" in
--dryrun) echo '#$ _SPACE_= ' >&2; echo "#$ TOP={root}" >&2 ;;
--version) echo 'Cuda compilation tools, release 13.1, V13.1.80' ;;
esac
"""


def test_find_toolkit_looks_behind_a_wrapper(tmp_path):
    real = tmp_path / "toolkit"
    nvcc = _script(real / "bin" / "nvcc", FAKE_NVCC.format(root=real))
    _script(tmp_path / "usr" / "nvcc", f'exec {nvcc} "$@"\n')
    expected = setup.Toolkit(real, "13.1")
    assert setup.find_toolkit({"PATH": str(tmp_path / "usr")}) == expected
    assert setup.find_toolkit({"PATH": "", "CUDA_HOME": str(real)}) == expected
    assert setup.find_toolkit({"PATH": "", "CUDA_PATH": str(real)}) == expected


def test_find_toolkit_finds_nothing_where_there_is_none(tmp_path):
    assert setup.find_toolkit({"PATH": str(tmp_path)}) is None
    assert setup.find_toolkit({"PATH": os.environ["PATH"], "CUDA_HOME": str(tmp_path)}) is None


def test_find_toolkit_refuses_a_program_that_is_not_nvcc(tmp_path):
    _script(tmp_path / "nvcc", "echo hello\n")
    with pytest.raises(setup.BuildError, match="does not answer like nvcc; point CUDA_HOME"):
        setup.find_toolkit({"PATH": str(tmp_path)})


def test_jobs_follow_cores_memory_and_the_user():
    gigabyte = 10**9
    assert setup.jobs({}, cores=8, memory=64 * gigabyte) == 8
    assert setup.jobs({}, cores=8, memory=8 * gigabyte) == 3
    assert setup.jobs({}, cores=8, memory=1 * gigabyte) == 1
    assert setup.jobs({"MAX_JOBS": "5"}, cores=2, memory=1 * gigabyte) == 5
    for wrong in ("0", "-1", "many"):
        with pytest.raises(setup.BuildError, match=f"MAX_JOBS: got '{wrong}', wanted a positive whole number"):
            setup.jobs({"MAX_JOBS": wrong}, cores=2, memory=1)


def test_available_memory_respects_the_cgroup(tmp_path):
    proc, cgroup = tmp_path / "proc", tmp_path / "cgroup"
    (proc / "self").mkdir(parents=True)
    (proc / "meminfo").write_text("MemTotal: 9000 kB\nMemAvailable:    8000 kB\n")
    (proc / "self" / "cgroup").write_text("0::/box\n")
    assert setup.available_memory(proc, cgroup) == 8000 * 1024
    (cgroup / "box").mkdir(parents=True)
    (cgroup / "box" / "memory.max").write_text("max\n")
    assert setup.available_memory(proc, cgroup) == 8000 * 1024
    (cgroup / "box" / "memory.max").write_text("5000\n")
    assert setup.available_memory(proc, cgroup) == 5000
    (cgroup / "memory").mkdir()
    (cgroup / "memory" / "memory.limit_in_bytes").write_text("4000\n")
    assert setup.available_memory(proc, cgroup) == 4000


def test_device_code_is_compressed_where_every_driver_can_unpack_it():
    assert setup.compression(setup.Toolkit(Path("/opt/cuda"), "13.0")) == ["--compress-mode=size"]
    assert setup.compression(setup.Toolkit(Path("/opt/cuda"), "12.9")) == []  # before 12.8 nvcc has no such option


@pytest.mark.parametrize("card", ["7.5", "8.0", "8.6", "8.9", "9.0", "10.0", "12.0"])
def test_the_default_serves_every_card_from_turing_on(card):
    assert doctor.covers(setup.DEFAULT_ARCHS, card)


# --- what is built and shipped --------------------------------------------------------------------------------------


def test_sources_are_chosen_by_name():
    cpu, cuda = setup.sources(cuda=False), setup.sources(cuda=True)
    assert set(cpu) < set(cuda)
    assert all(name.endswith((".cu", "_cuda.cpp")) for name in set(cuda) - set(cpu))
    assert "csrc/scale/scale_cuda.cu" in cuda
    on_disk = {str(p.relative_to(ROOT)) for s in ("*.cpp", "*.cu") for p in (ROOT / "csrc").rglob(s)}
    assert set(cuda) == on_disk


@pytest.fixture
def without_torch(tmp_path):
    """An environment in which `import torch` fails."""
    (tmp_path / "hidden").mkdir()
    (tmp_path / "hidden" / "torch.py").write_text("raise ImportError('No module named torch')\n")
    return {**os.environ, "PYTHONPATH": str(tmp_path / "hidden")}


def test_an_sdist_needs_no_torch_and_carries_csrc_and_benchmarks(tmp_path, without_torch):
    out = tmp_path / "dist"
    options = ["egg_info", "--egg-base", str(tmp_path), "sdist", "-d", str(out)]
    run(sys.executable, "setup.py", "--quiet", *options, cwd=ROOT, env=without_torch)
    (archive,) = out.glob("*.tar.gz")
    with tarfile.open(archive) as tar:
        inside = {name.split("/", 1)[1] for name in tar.getnames() if "/" in name}
    wanted = {str(p.relative_to(ROOT)) for p in (ROOT / "csrc").rglob("*") if p.suffix in (".h", ".cuh", ".cpp", ".cu")}
    wanted |= {"LICENSE", "README.md", "pyproject.toml", "setup.py", "halfops/py.typed", "benchmarks/harness.py"}
    assert wanted - inside == set()


def test_building_without_torch_ends_in_a_sentence(without_torch):
    done = subprocess.run(
        [sys.executable, "setup.py", "build_ext"], cwd=ROOT, env=without_torch, capture_output=True, text=True
    )
    assert done.returncode == 1
    assert "halfops: building needs torch 2.11 or newer" in done.stderr
    assert "--no-build-isolation" in done.stderr
    assert "Traceback" not in done.stderr


def test_version_is_the_same_in_metadata_and_package():
    version = run(sys.executable, "setup.py", "--version", cwd=ROOT).split()[-1]
    assert version == halfops.__version__


def test_build_info_describes_this_binary():
    info = halfops.build_info()
    assert set(info["sources"]) == set(setup.sources(cuda=info["cuda"] is not None))
    assert info["stable_abi"] == "2.11"
    assert "-ffp-contract=off" in info["cxx_flags"]
    assert info["cuda"] is None or "-fmad=false" in info["nvcc_flags"]


# --- the binary -----------------------------------------------------------------------------------------------------

BINARY = Path(halfops._ops._C.__file__)


def test_the_binary_is_abi3():
    assert BINARY.name == "_C.abi3.so"


def test_the_binary_uses_only_c_symbols_of_torch():
    undefined = [line.split()[-1] for line in run("nm", "-D", "--undefined-only", str(BINARY)).splitlines()]
    torch_cpp = [name for name in undefined if re.match(r"_ZNK?(St\d+\w*)?(2at|3c10|5torch|6caffe2)", name)]
    assert torch_cpp == []
    assert any(name.startswith("aoti_torch_") for name in undefined)


def test_the_host_calls_no_function_of_the_device():
    """Inside templates nvcc lets it pass, and puts `exit(1)` where such a function's body would be."""
    imported = run("nm", "-D", "--undefined-only", str(BINARY)).split()
    assert [name for name in imported if re.match(r"(_exit|exit|quick_exit|abort)\b", name)] == []


def test_the_binary_needs_no_cuda_library_and_no_libpython():
    dynamic = run("readelf", "-d", str(BINARY))
    needed = set(re.findall(r"\(NEEDED\).*\[(.+?)\]", dynamic))
    foreign = {name for name in needed if re.search(r"cuda|cublas|nv|python", name)}
    assert foreign == set()
    assert "libtorch_cpu.so" in needed or "libtorch.so" in needed


def test_engines_of_one_cpu_define_nothing_that_another_could_be_given():
    """A weak symbol is an inline function: the linker keeps one copy, and it may be the one for AVX-512."""
    built = sorted((ROOT / "build").glob("temp.*/csrc/**/*_cpu_*.o"))
    engines = [p for p in built if re.search(r"_cpu_(portable|avx2|avx512)\.o$", p.name)]
    if not engines:
        pytest.skip("no object files here: this copy was not built with `python setup.py build_ext --inplace`")
    for engine in engines:
        symbols = run("nm", "-C", "--defined-only", str(engine)).splitlines()
        assert [s for s in symbols if re.match(r"\S+ [WVu] (?!DW\.ref)", s)] == [], engine.name


needs_cuda_build = pytest.mark.skipif(
    halfops.build_info()["cuda"] is None, reason="a CPU build; FORCE_CUDA=1 compiles the CUDA kernels"
)


@needs_cuda_build
def test_cuda_kernels_are_registered_whatever_torch_this_is():
    assert torch._C._dispatch_has_kernel_for_dispatch_key("halfops::nonfinite_check", "CUDA")


@needs_cuda_build
@pytest.mark.skipif(torch.version.cuda is not None, reason="this torch has CUDA")
def test_a_cross_built_binary_works_on_a_cpu_torch():
    found = halfops._ops.ops.nonfinite_check([torch.tensor([1.0, float("inf")], dtype=torch.float16)])
    assert found.item() == 1.0
