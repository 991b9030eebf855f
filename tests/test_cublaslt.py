"""cuBLASLt as the products' benchmark calls it: a library that is made up multiplies column-major matrices here."""

from __future__ import annotations

import ctypes
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks import bench_linear, cublaslt, harness, jobs, linear_peers  # noqa: E402
from benchmarks.shapes import Product  # noqa: E402

CPU = torch.device("cpu")
ODD = Product("odd", 9, 7, 13)
CALLS = {
    "cublasLtMatmulDescCreate": "operation",
    "cublasLtMatmulDescSetAttribute": "set",
    "cublasLtMatrixLayoutCreate": "layout",
    "cublasLtMatrixLayoutSetAttribute": "set",
    "cublasLtMatmulPreferenceCreate": "preference",
    "cublasLtMatmulPreferenceSetAttribute": "set",
    "cublasLtMatmulPreferenceDestroy": "forget",
    "cublasLtMatmulAlgoGetHeuristic": "propose",
    "cublasLtMatmul": "multiply",
}


def job_of(name, product=ODD):
    return jobs.make(name, product, jobs.Tensors(product, torch.float16, CPU))


class ColumnMajor:
    """The calls of cublasLt.h on this CPU's memory: matrices are column-major, descriptors are numbers."""

    proposals = ((7, 0), (8, 3), (9, 0))  # algorithm, state

    def __init__(self):
        self.handle, self.things, self.ran = ctypes.c_void_p(99), {}, []

    def __getattr__(self, name):
        return getattr(self, CALLS[name])

    def _made(self, out, **facts):
        number = len(self.things) + 1
        self.things[number] = facts
        out._obj.value = number
        return 0

    def operation(self, out, compute, scale):
        assert (compute, scale) == (68, 0)
        return self._made(out)

    def layout(self, out, dtype, rows, columns, leading):
        assert dtype == 2
        assert leading.value >= rows.value
        return self._made(out, rows=rows.value, columns=columns.value, leading=leading.value)

    def preference(self, out):
        return self._made(out)

    def forget(self, thing):
        del self.things[thing.value]

    def set(self, thing, attribute, value, size):
        assert size.value == ctypes.sizeof(value._obj)
        self.things[thing.value][attribute] = value._obj.value
        return 0

    def propose(self, handle, op, a, b, c, d, preference, wanted, found, count):
        assert handle is self.handle
        alignments = [self.things[preference.value][attribute] for attribute in (5, 6, 7, 8)]
        assert all(alignment in (2, 4, 8, 16, 32, 64, 128, 256) for alignment in alignments)
        for i, (algorithm, state) in enumerate(self.proposals):
            found[i].algorithm[0], found[i].state = algorithm, state
        count._obj.value = len(self.proposals)
        return 0

    def _matrix(self, pointer, layout, item):
        facts = self.things[layout.value]
        rows, columns, leading = facts["rows"], facts["columns"], facts["leading"]
        length = rows + (columns - 1) * leading
        memory = (ctypes.c_uint16 * length).from_address(pointer.value + 2 * item * facts.get(6, 0))
        flat = np.frombuffer(memory, dtype=np.float16)
        return np.lib.stride_tricks.as_strided(flat, (rows, columns), (2, 2 * leading), writeable=True)

    def multiply(self, handle, op, alpha, a, a_, b, b_, beta, c, c_, d, d_, algorithm, space, size, queue):
        assert (alpha._obj.value, beta._obj.value, queue.value) == (1.0, 0.0, 5)
        facts = self.things[op.value]
        self.ran.append(algorithm._obj[0])
        for item in range(self.things[d_.value].get(5, 1)):
            left, right = self._matrix(a, a_, item).astype("f4"), self._matrix(b, b_, item).astype("f4")
            out = (left.T if facts[3] else left) @ (right.T if facts[4] else right)
            if facts.get(7) == 4:
                vector = (ctypes.c_uint16 * len(out)).from_address(facts[8])
                out = out + np.frombuffer(vector, dtype=np.float16)[:, None]
            self._matrix(d, d_, item)[:] = out
        return 0


@pytest.fixture
def fake_library(monkeypatch):
    library = ColumnMajor()
    monkeypatch.setattr(cublaslt, "library", lambda: library)
    monkeypatch.setattr(cublaslt, "stream", lambda device: 5)
    return library


@pytest.mark.parametrize("product", [ODD, Product("padded", 16, 24, 8, pad=3), Product("row", 1, 7, 13)], ids=str)
@pytest.mark.parametrize("name", ["forward", "dgrad", "wgrad", "matmul"])
def test_cublaslt_is_told_the_product_as_it_lies(fake_library, name, product):
    job = job_of(name, replace(product, batch=3))
    to = bench_linear.Setting({"cublaslt": linear_peers.PEERS["cublaslt"]}, torch.float16, CPU, 3)
    rows = bench_linear.measure(job, {"case": "c", "job": name}, to, 1e9)
    assert [row["provider"] for row in rows] == ["halfops", "cuBLASLt", "cuBLASLt, best of 2"]
    assert [row for row in rows if "error" in row] == []
    assert set(fake_library.ran) == {7, 9}


def test_the_fastest_of_cublaslts_proposals_is_measured_too(fake_library, monkeypatch):
    took = {7: 3e-3, 9: 1e-3, 11: 0.0}
    fake_library.proposals = ((7, 0), (9, 0), (11, 0))
    run = cublaslt.Matmul.run

    def failing(self, proposal):
        if proposal.algorithm[0] == 11:
            raise RuntimeError("cublasLtMatmul answered with status 15")
        return run(self, proposal)

    def clock(device):
        def sample(call):
            call()
            return harness.Sample(took[fake_library.ran[-1]])

        return sample

    monkeypatch.setattr(cublaslt.Matmul, "run", failing)
    monkeypatch.setattr(cublaslt, "clock", clock)
    first, best = cublaslt.providers(*job_of("forward").operands, CPU).values()
    first()
    assert fake_library.ran[-1] == 7
    best()
    assert fake_library.ran[-1] == 9


def test_a_product_without_an_algorithm_is_said(fake_library):
    fake_library.proposals = ()
    with pytest.raises(RuntimeError, match="proposes no algorithm"):
        cublaslt.providers(*job_of("forward").operands, CPU)
    a, b = torch.zeros(8, 8, dtype=torch.float16)[::2, ::2], torch.zeros(4, 4, dtype=torch.float16)
    with pytest.raises(ValueError, match="wanted 1 in one of the last two dimensions"):
        cublaslt.Matmul(a, b)
    assert linear_peers.PEERS["cublaslt"].make(job_of("swiglu"), CPU) == {}


def test_no_library_is_an_error_of_its_own(monkeypatch):
    monkeypatch.setattr(cublaslt, "candidates", lambda: ["/nowhere/libcublasLt.so"])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(OSError, match=r"found no libcublasLt\.so"):
        cublaslt.library.__wrapped__()
