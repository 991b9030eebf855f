"""The emulator against the GPU's recorded answers, and until there are any against NumPy: bit for bit."""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
import sys

import kept
import numpy as np
import pytest
from cuda_code import units
from emulator.program import ORDERS, Mode, Program

from golden import record, store
from golden.cases import CASES, FILES, bits, name

EMULATED = Program("golden", tuple(record.SOURCES))
IDS = [name(case) for case in CASES]
ORDERED = {"shuffles", "votes", "atomics", "matrices", "copies", "boxes"}  # where threads have to do with each other


class Emulator:
    def run(self, entry, arrays, mode=Mode()):  # noqa: B008
        report = EMULATED.run(entry, arrays, mode)
        assert report.text == ""


@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_emulator_gives_what_numpy_expects(case):
    if case.expected is None:
        pytest.skip("no short expectation: the formula has tests of its own, the emulator the GPU's answers")
    for order in ORDERS if case.file in ORDERED else ORDERS[:1]:
        arrays = case.arrays()
        wanted = case.expected({key: array.copy() for key, array in arrays.items()})
        Emulator().run(case.entry, arrays, Mode(order))
        for key, kind in case.results.items():
            expected = np.ascontiguousarray(np.asarray(wanted[key]).reshape(arrays[key].shape))
            assert np.array_equal(bits(arrays[key], kind), bits(expected, kind)), (order, key)


@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_emulator_gives_what_the_gpu_gave(case):
    kept = store.read(case.file)
    if kept is None:
        pytest.skip("not recorded yet: no GPU has run tests/golden/record.py")
    arrays = case.arrays()
    asked = store.inputs_hash(arrays)
    Emulator().run(case.entry, arrays)
    assert store.differences(case, asked, arrays, kept) == []


@pytest.mark.cuda
def test_this_gpu_gives_what_the_files_say():
    done = subprocess.run([sys.executable, record.__file__, "--check"], capture_output=True, text=True)
    if done.stdout.startswith("skipped: "):
        pytest.skip(done.stdout.strip())
    if "not recorded yet" in done.stdout:
        pytest.skip("not recorded yet: no GPU has run tests/golden/record.py")
    assert done.returncode == 0, done.stdout + done.stderr


# --- the files and their comparison ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """Files as a GPU would have written them, of the emulator's answers."""
    folder = tmp_path_factory.mktemp("golden")
    found = record.answers(Emulator())
    written = store.write(found, {"gpu": "none: the emulator"}, folder)
    return folder, found, written


def test_files_are_small_and_the_same_answers_differ_nowhere(recorded):
    folder, found, written = recorded
    assert [path.stem for path in written] == FILES
    assert sum(path.stat().st_size for path in written) < 500_000
    assert record.compared(found, folder) == []


@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_one_wrong_bit_is_found(recorded, case):
    folder, found, _ = recorded
    asked, arrays = found[name(case)]
    for key in case.results:
        changed = {k: array.copy() for k, array in arrays.items()}
        changed[key].reshape(-1).view(f"u{changed[key].itemsize}")[changed[key].size // 2] ^= 1
        (said,) = store.differences(case, asked, changed, store.read(case.file, folder))
        assert said.startswith(f"{name(case)}: {key}: 1 ")
    assert store.differences(case, "other", arrays, store.read(case.file, folder)) == [
        f"{name(case)}: recorded for other inputs; record again"
    ]


def test_missing_files_are_said_to_be_missing(recorded, tmp_path):
    assert record.compared(recorded[1], tmp_path) == [f"{file}.json: not recorded yet" for file in FILES]


def test_nan_counts_as_one_and_nothing_else_does():
    halves = np.array([0x7C01, 0xFE00, 0x7FFF, 0x7C00, 0x8000], np.uint16)
    assert bits(halves, "f16").tolist() == [0x7FFF, 0x7FFF, 0x7FFF, 0x7C00, 0x8000]
    assert bits(halves, "u16").tolist() == halves.tolist()
    doubles = np.array([np.nan, -np.nan, np.inf, -0.0])
    assert len(set(bits(doubles, "f64").tolist())) == 3


def test_without_a_gpu_it_says_what_it_would_do():
    done = subprocess.run([sys.executable, record.__file__, "--check-only"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert re.match(r"skipped: .*; would compile 9 files of micro-kernels, run \d+ cases, write", done.stdout)


def test_an_old_gpu_is_not_asked(monkeypatch, capsys):
    monkeypatch.setattr(record.Card, "found", staticmethod(lambda: record.Card("Tesla T4", "7.5")))
    monkeypatch.setattr(sys, "argv", ["record.py", "--check"])
    assert record.main() == 0
    assert capsys.readouterr().out.startswith("skipped: Tesla T4 has compute capability 7.5, which is not 9.0")


def test_every_file_of_kernels_is_in_the_table():
    assert sorted(path.stem for path in store.HERE.glob("kernels/*.cu")) == sorted(FILES)


@pytest.mark.slow
@pytest.mark.skipif(units.nvcc() is None, reason="no CUDA toolkit here")
def test_the_recorder_compiles_and_links(tmp_path):
    """Once for each text of its sources."""
    text = hashlib.sha256()
    headers = [p for folder in ("csrc", "tests/emulator/driver") for p in (record.ROOT / folder).rglob("*.*h")]
    for path in sorted([*headers, *store.HERE.rglob("*.cu*"), *(record.ROOT / h for h in record.HOST)]):
        text.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    library = kept.folder("cuda") / f"golden-{text.hexdigest()[:16]}.so"
    if not library.exists():
        fresh = tmp_path / "golden.so"
        record.compile_for(units.nvcc(), "90a", fresh, "-Werror", "all-warnings")
        for stale in kept.folder("cuda").glob("golden-*.so"):
            stale.unlink(missing_ok=True)
        shutil.copy(fresh, library)
    symbols = subprocess.run(["nm", "-D", "--defined-only", str(library)], capture_output=True, text=True, check=True)
    assert "halfops_golden_call" in symbols.stdout
