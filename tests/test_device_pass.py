"""The device pass without a device: on made-up cards, wheels, trees and tools, and as a whole where it can run."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
import time
import types
import zipfile
from importlib.machinery import SourceFileLoader
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks import scratch as places  # noqa: E402


def _load():
    loader = SourceFileLoader("device_pass", str(ROOT / "benchmarks" / "device_pass"))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader("device_pass", loader))
    sys.modules["device_pass"] = module  # dataclasses look their module up
    loader.exec_module(module)
    return module


device_pass = _load()
NO_CARD, H200 = device_pass.Card(None, None), device_pass.Card("NVIDIA H200", "9.0a")


@pytest.fixture
def make(tmp_path):
    """A context whose commands are only noted down; what they answer is given by name, or "ok"."""

    def context(card, answers=None, root=ROOT, **options):
        scratch = places.Scratch(root, tmp_path / "scratch")
        scratch.prepare()
        (tmp_path / "out").mkdir(exist_ok=True)
        made = device_pass.Context(card, tmp_path / "out", time.monotonic() + 400, scratch, **options)
        made.ran = {}

        def command(name, *words, **how):
            made.ran[name] = (list(map(str, words)), how)
            return (answers or {}).get(name, ("ok", f"{name} went well"))

        if answers is not None:
            made.command = command
        return made

    return context


def wheel_of(folder, content="", name="halfops-0.1.0-py3-none-any.whl"):
    """A wheel that pip takes: halfops with nothing in it."""
    folder.mkdir(exist_ok=True)
    with zipfile.ZipFile(folder / name, "w") as out:
        out.writestr("halfops/__init__.py", content)
        out.writestr("halfops/_build_info.json", '{"git": "abc1234"}')
        out.writestr("halfops-0.1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: halfops\nVersion: 0.1.0\n")
        out.writestr("halfops-0.1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        out.writestr("halfops-0.1.0.dist-info/RECORD", "")
    return folder / name


# --- places ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def tree(tmp_path):
    root = tmp_path / "tree"
    for name in ("setup.py", "csrc/a.cu", "halfops/__init__.py", "benchmarks/results/optim.jsonl", "new.py"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(name)
    (root / ".gitignore").write_text("build/\n*.so\n")
    for made in ("build/a.o", "halfops/_C.abi3.so", ".venv/bin/python", "halfops/__pycache__/a.pyc", "x.egg-info/a"):
        (root / made).parent.mkdir(parents=True, exist_ok=True)
        (root / made).write_text(made)
    return root


WRITTEN = ["benchmarks/results/optim.jsonl", "csrc/a.cu", "halfops/__init__.py", "new.py", "setup.py"]


def test_a_tree_without_a_history_is_what_somebody_wrote(tree):
    assert places.sources(tree) == WRITTEN


def test_a_tree_with_a_history_is_what_git_says(tree):
    (tree / ".gitignore").write_text("build/\n*.so\n.venv/\n__pycache__/\n*.egg-info/\nnew.py\n")
    git = ["git", "-C", str(tree), "-c", "user.name=a", "-c", "user.email=a@b"]
    subprocess.run([*git, "init", "-q"], check=True)
    subprocess.run([*git, "add", "setup.py"], check=True)
    subprocess.run([*git, "commit", "-qm", "a"], check=True)
    assert places.sources(tree) == sorted({".gitignore", *WRITTEN} - {"new.py"})
    assert re.fullmatch(r"[0-9a-f]{7,}", places.commit(tree, None))


def test_a_copy_follows_its_tree(tree, tmp_path):
    scratch = places.Scratch(tree, tmp_path / "scratch")
    scratch.prepare()
    copy = scratch.copy_tree()
    assert sorted(str(p.relative_to(copy)) for p in copy.rglob("*") if p.is_file()) == WRITTEN
    (copy / "halfops" / "_C.abi3.so").write_text("built here")
    untouched = (copy / "setup.py").stat().st_mtime_ns
    (tree / "new.py").unlink()
    (tree / "csrc" / "a.cu").write_text("b")
    scratch.copy_tree()
    assert not (copy / "new.py").exists()
    assert (copy / "csrc" / "a.cu").read_text() == "b"
    assert (copy / "halfops" / "_C.abi3.so").read_text() == "built here"
    assert (copy / "setup.py").stat().st_mtime_ns == untouched


def test_a_build_is_known_until_its_origin_changes(tree, tmp_path):
    scratch = places.Scratch(tree, tmp_path / "scratch")
    scratch.prepare()
    assert scratch.built(None) == tree  # its own binary
    (tree / "halfops" / "_C.abi3.so").unlink()
    assert scratch.built(None) is None
    scratch.remember(scratch.copy_tree(), None)
    assert scratch.built(None) == scratch.tree
    (tree / "benchmarks" / "results" / "optim.jsonl").write_text("more")
    assert scratch.built(None) == scratch.tree
    wheel = wheel_of(tmp_path / "wheels")
    assert scratch.built(wheel) is None
    scratch.remember(scratch.install(wheel)[0], wheel)
    assert scratch.built(wheel) == scratch.path / "site"
    wheel_of(tmp_path / "wheels", "another")
    assert scratch.built(wheel) is None


def test_a_package_that_keeps_its_modules_elsewhere_is_found(tree, tmp_path):
    scratch = places.Scratch(tree, tmp_path / "scratch")
    scratch.prepare()
    (tmp_path / "wheels").mkdir()
    with zipfile.ZipFile(tmp_path / "wheels" / "dsl-4.8-py3-none-any.whl", "w") as out:
        out.writestr("dsl.pth", "dsl_packages\n")
        out.writestr("dsl_packages/elsewhere.py", "")
    assert scratch.unpack_peers(tmp_path / "wheels") == ["dsl 4.8"]
    environ = {**os.environ, "PYTHONPATH": str(scratch.peers)}
    command = [sys.executable, "-c", "import elsewhere; print(elsewhere.__file__)"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=scratch.empty, env=environ)
    assert done.stdout.strip() == str(scratch.peers / "dsl_packages" / "elsewhere.py")


def test_a_place_of_somebody_else_is_refused(tree, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "getuid", lambda: -1)
    with pytest.raises(PermissionError, match="--scratch"):
        places.Scratch(tree, tmp_path / "scratch").prepare()


def test_a_commit_comes_from_the_wheel_where_there_is_no_history(tree, tmp_path, monkeypatch):
    monkeypatch.delenv("HALFOPS_COMMIT", raising=False)
    scratch = places.Scratch(tree, tmp_path / "scratch")
    scratch.prepare()
    site, _ = scratch.install(wheel_of(tmp_path / "wheels"))
    assert places.commit(tree, None) is None
    assert places.commit(tree, site) == "abc1234"
    monkeypatch.setenv("HALFOPS_COMMIT", "named")
    assert places.commit(tree, site) == "named"


def _pip_says(monkeypatch, *, code, error):
    """What the interpreter answers to -m pip; pip itself leaves what it would write."""
    commands = []

    def run(command, **_):
        commands.append(command)
        return subprocess.CompletedProcess(command, code, "", error)

    monkeypatch.setattr(places.subprocess, "run", run)
    return commands


def test_a_wheel_is_installed_by_pip_alone(tree, tmp_path, monkeypatch):
    scratch = places.Scratch(tree, tmp_path / "scratch")
    scratch.prepare()
    commands = _pip_says(monkeypatch, code=0, error="")
    site, how = scratch.install(wheel_of(tmp_path / "wheels"))
    assert how == "installed by pip"
    assert {"--no-deps", "--no-index", str(site)} <= set(commands[0])


def test_a_wheel_is_unzipped_where_pip_is_missing(tree, tmp_path, monkeypatch):
    scratch = places.Scratch(tree, tmp_path / "scratch")
    scratch.prepare()
    _pip_says(monkeypatch, code=1, error="/usr/bin/python3: No module named pip")
    site, how = scratch.install(wheel_of(tmp_path / "wheels", "kept"))
    assert how == "unzipped, as there is no pip"
    assert (site / "halfops" / "__init__.py").read_text() == "kept"


def test_a_wheel_that_pip_refuses_is_refused_in_its_words(tree, tmp_path, monkeypatch):
    scratch = places.Scratch(tree, tmp_path / "scratch")
    scratch.prepare()
    _pip_says(monkeypatch, code=1, error="ERROR: not a supported wheel on this platform.")
    with pytest.raises(RuntimeError, match=r"pip does not take halfops-.*: ERROR: not a supported wheel"):
        scratch.install(wheel_of(tmp_path / "wheels"))


# --- steps ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("version", "arch"), [((9, 0), "9.0a"), ((8, 0), "8.0"), ((10, 0), "10.0a")])
def test_a_card_is_built_for_as_torch_sees_it(monkeypatch, version, arch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: version)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "a card")
    assert device_pass.Card.found() == device_pass.Card("a card", arch)


def test_a_command_is_stopped_in_time_with_all_that_it_started(make):
    context = make(NO_CARD)
    context.deadline = time.monotonic() + 6
    script = "import subprocess, sys; print('begun', flush=True); subprocess.run(['sleep', '60'])"
    begin = time.monotonic()
    status, text = context.command("long", sys.executable, "-c", script, seconds=5.5)
    assert time.monotonic() - begin < 30
    assert status == "failed"
    assert re.search(r"begun\s+stopped after [56] s", text)
    assert "==== long: failed" in (context.out / "device_pass.log").read_text()
    assert context.command("late", "true", seconds=60) == ("skipped", "no time is left; continue with --only")


def test_a_command_imports_the_build_and_not_the_checkout(make):
    context = make(NO_CARD)
    context.site = context.scratch.path / "site"
    plain, beside = (context.environ(beside)["PYTHONPATH"].split(":") for beside in (False, True))
    assert plain[:2] == [str(context.site), str(ROOT)]
    assert beside[:3] == [str(context.site), str(context.scratch.peers), str(ROOT)]
    status, text = context.command("where", sys.executable, "-c", "import os; print(os.listdir())", seconds=30)
    assert (status, text.strip()) == ("ok", "[]")


def test_a_build_from_the_tree_is_for_the_card(make):
    context = make(H200, {"import": ("ok", str(ROOT))})
    assert device_pass.build(context)[0] == "failed"  # halfops came from the checkout
    assert context.site is None
    context = make(H200, {"import": ("ok", str(context.scratch.tree / "halfops" / "__init__.py"))})
    status, note = device_pass.build(context)
    assert (status, context.site) == ("ok", context.scratch.tree)
    assert note == "built for 9.0a; doctor: doctor went well"
    words, how = context.ran["build"]
    assert words[1:] == ["setup.py", "build_ext", "--inplace"]
    assert (how["TORCH_CUDA_ARCH_LIST"], how["cwd"]) == ("9.0a", context.scratch.tree)
    failed = make(H200, {"build": ("failed", "nvcc: error")})
    assert device_pass.build(failed) == ("failed", "nvcc: error")


def test_a_build_from_a_wheel_compiles_nothing(make, tmp_path):
    wheel = wheel_of(tmp_path / "wheels")
    site = tmp_path / "scratch" / "site"
    context = make(H200, {"import": ("ok", str(site / "halfops" / "__init__.py"))}, wheel=wheel)
    status, note = device_pass.build(context)
    assert status == "ok"
    assert note.startswith("halfops-0.1.0-py3-none-any.whl ")
    assert set(context.ran) == {"import", "doctor"}
    assert context.scratch.built(wheel) == site


def test_the_tests_run_from_the_checkout_on_a_card(make):
    context = make(H200, {})
    assert device_pass.tests(context) == ("ok", "tests went well")
    words, how = context.ran["tests"]
    assert words[-1] == "--maxfail=20"
    assert str(ROOT / "tests") in words
    assert how["seconds"] == 240
    context = make(NO_CARD, {"tests": ("failed", "3/99 tests collected (96 deselected), 1 error in 2s")})
    assert device_pass.tests(context)[0] == "failed"
    context = make(NO_CARD, {"tests": ("failed", "no tests collected (99 deselected) in 2s")})
    assert device_pass.tests(context)[0] == "skipped"


@pytest.mark.parametrize("there", [True, False])
def test_tests_run_side_by_side_where_pytest_can(there, make, monkeypatch):
    found = {"pytest", "xdist"} if there else {"pytest"}
    monkeypatch.setattr(device_pass.importlib.util, "find_spec", lambda name: name if name in found else None)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(16)))
    context = make(H200, {}, whole=True)
    device_pass.tests(context)
    words, how = context.ran["tests"]
    assert how["seconds"] == 100
    assert ("-n" in words) == there
    assert not there or words[words.index("-n") + 1] == "8"


def test_a_toolkit_that_is_not_on_the_path(monkeypatch):
    for name in ("CUDA_HOME", "CUDA_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(device_pass.shutil, "which", lambda name: None)
    monkeypatch.setattr(Path, "exists", lambda self: str(self) == "/usr/local/cuda/bin/nvcc")
    assert device_pass.toolkit() == {"CUDA_HOME": "/usr/local/cuda"}
    monkeypatch.setattr(device_pass.shutil, "which", lambda name: "/usr/bin/nvcc")
    assert device_pass.toolkit() == {}


def test_the_sanitizers_findings_and_refusals_are_told_apart(make, monkeypatch):
    monkeypatch.setattr(device_pass.shutil, "which", lambda name: f"/bin/{name}")
    refused = ("failed", "Device not supported")
    said = ("ok", "37 parts ran\n========= ERROR SUMMARY: 0 errors")
    context = make(H200, dict.fromkeys(device_pass.TOOLS, said))
    status, note = device_pass.sanitize(context)
    assert (status, note.count("(37 parts ran)")) == ("ok", 4)
    words, how = context.ran["racecheck"]
    assert words[:5] == ["/bin/compute-sanitizer", "--tool", "racecheck", "--error-exitcode", "9"]
    assert (words[-1], how["seconds"]) == ("150", 180)
    assert how["PYTORCH_NO_CUDA_MEMORY_CACHING"] == "1"
    context = make(H200, dict.fromkeys(device_pass.TOOLS, refused))
    assert device_pass.sanitize(context)[0] == "skipped"
    answers = {"memcheck": ("failed", "ERROR SUMMARY: 3 errors"), "initcheck": refused, "racecheck": said}
    context = make(H200, answers)
    status, note = device_pass.sanitize(context)
    assert status == "failed"
    assert "memcheck: ERROR SUMMARY: 3 errors" in note
    assert "clean: racecheck (37 parts ran), synccheck (nothing said)" in note
    assert "does not let compute-sanitizer in: initcheck" in note
    monkeypatch.setattr(device_pass.shutil, "which", lambda name: None)
    monkeypatch.setattr(Path, "glob", lambda self, pattern: [])
    assert device_pass.sanitize(make(H200, {})) == ("skipped", "compute-sanitizer is not here")


def test_golden_files_come_back_as_one(make, tmp_path, monkeypatch):
    monkeypatch.setattr(device_pass, "ROOT", tmp_path)
    assert device_pass.golden(make(H200, {})) == ("skipped", "there is no tests/golden/record.py")
    (tmp_path / "tests" / "golden").mkdir(parents=True)
    script = tmp_path / "tests" / "golden" / "record.py"
    script.write_text(
        "import sys, pathlib\nif '--check-only' in sys.argv: raise SystemExit(print('checked'))\n"
        "out = pathlib.Path(sys.argv[2]); out.mkdir()\n[(out / f'{i}.json').write_text('1') for i in range(9)]\n"
    )
    context = make(H200)
    assert device_pass.golden(context)[0] == "ok"
    assert len(zipfile.ZipFile(context.out / "golden.zip").namelist()) >= 9
    assert device_pass.golden(make(NO_CARD)) == ("skipped", "no GPU; --check-only: checked")


def test_benches_stop_before_they_are_stopped(make):
    context = make(H200, {})
    context.deadline = time.monotonic() + 60
    device_pass.STEPS["optim"](context)
    words, how = context.ran["optim"]
    assert words[1:4] == ["-m", "benchmarks.bench_optim", "--record"]
    assert 25 <= float(words[words.index("--seconds") + 1]) <= 30
    assert words[words.index("--device") + 1] == "cuda"
    assert not how["beside"]
    context = make(NO_CARD, {})
    device_pass.STEPS["optim"](context)
    assert context.ran["optim"][0][-1] == "--quick"


def _suites(words):
    return dict(each.split(":") for each in words[words.index("--suite") + 1].split(","))


def test_products_have_three_minutes_alone_and_less_among_others(make):
    context = make(H200, {})
    device_pass.STEPS["gemm"](context)
    words, how = context.ran["linear"]
    assert words[1:3] == ["-m", "benchmarks.bench_linear"]
    assert how["seconds"] == 180
    assert float(words[words.index("--seconds") + 1]) == 150
    assert words[words.index("--dtype") + 1] == "fp16"
    assert words[words.index("--compiled") + 1] == "fused"
    # By what matters first, each with its time; the last takes what is left.
    suites = _suites(words)
    assert list(suites) == ["square", "llama7b", "fused", "odd_k", "long_k", "skinny"]
    assert suites == {"square": "18", "llama7b": "27", "fused": "63", "odd_k": "18", "long_k": "9", "skinny": "150"}
    context.whole = True
    device_pass.STEPS["gemm"](context)
    words, how = context.ran["linear"]
    assert (how["seconds"], _suites(words)["fused"]) == (60, "13")
    context = make(NO_CARD, {})
    assert device_pass.STEPS["gemm"](context)[1].endswith("small products, without cuBLASLt and torch.compile")
    words, _ = context.ran["linear"]
    assert words[words.index("--suite") + 1] == "square,llama7b,fused,odd_k,long_k,skinny"
    assert words[-1] == "--quick"


def test_the_table_is_tuned_where_there_is_one(make):
    context = make(H200, {"tune": ("ok", "row 64x64x32: better than what is selected for 3 of 9 products")})
    status, note = device_pass.STEPS["tune"](context)
    assert (status, note) == ("ok", "row 64x64x32: better than what is selected for 3 of 9 products")
    words, how = context.ran["tune"]
    assert words[1:3] == ["-m", "benchmarks.tune_linear"]
    assert (how["seconds"], float(words[words.index("--seconds") + 1])) == (150, 130)
    context = make(NO_CARD, {})
    status, note = device_pass.STEPS["tune"](context)
    assert (status, note[:6], note[-20:]) == ("skipped", "no GPU", "so nothing was tuned")
    assert device_pass.STEPS["tune"](make(NO_CARD, {"tune": ("failed", "no memory")}))[0] == "failed"


def test_other_packages_are_for_their_own_step(make, tmp_path):
    wheel_of(tmp_path / "wheels", name="torchao-0.18.0-cp310-abi3-any.whl")
    context = make(H200, {}, peers=tmp_path / "wheels")
    status, note = device_pass.beside(context)
    assert status == "ok"
    assert "torchao 0.18.0" in note
    assert (context.scratch.peers / "halfops").is_dir()  # whatever a wheel holds
    for subject in ("optim", "linear"):
        words, how = context.ran[subject]
        assert "--beside" in words
        assert how["beside"]
    whole = make(H200, {}, peers=tmp_path / "wheels", whole=True)
    assert device_pass.beside(whole)[0] == "ok"
    assert list(whole.ran) == ["optim"]  # packages that compile for minutes are for a pass of their own
    failing = make(H200, {"linear": ("failed", "Segmentation fault")}, peers=tmp_path / "wheels")
    status, note = device_pass.beside(failing)
    assert (status, note[-28:]) == ("failed", "products: Segmentation fault")
    (tmp_path / "none").mkdir()
    assert "no wheels" in device_pass.beside(make(NO_CARD, {}, peers=tmp_path / "none"))[1]
    assert device_pass.beside(make(NO_CARD, {})) == ("skipped", "no GPU; no wheels were given (--peers DIR)")


# --- the whole ------------------------------------------------------------------------------------------------------


def _pass(monkeypatch, tmp_path, card, steps, *arguments):
    monkeypatch.setattr(device_pass, "STEPS", steps)
    monkeypatch.setattr(device_pass.Card, "found", staticmethod(lambda: card))
    places = ["--out", str(tmp_path / "out"), "--scratch", str(tmp_path / "scratch")]
    monkeypatch.setattr(sys, "argv", ["device_pass", *places, *arguments])
    status = device_pass.main()
    return status, [json.loads(line) for line in (tmp_path / "out" / "device_pass.jsonl").read_text().splitlines()]


def _site(context):
    context.site = context.scratch.path
    return "ok", "made up"


def test_a_step_that_breaks_leaves_the_others_their_turn(monkeypatch, tmp_path, capsys):
    def broken(context):
        raise OSError("disk full")

    steps = {"build": _site, "tests": broken, "optim": lambda context: ("ok", "fine")}
    status, rows = _pass(monkeypatch, tmp_path, H200, steps)
    assert status == 1
    assert [(row.get("step"), row.get("status")) for row in rows] == [
        ("build", "ok"),
        ("tests", "failed"),
        ("optim", "ok"),
        (None, None),
    ]
    assert rows[1]["note"] == "OSError: disk full"
    assert {row["commit"] for row in rows} == {places.commit(ROOT, None)}
    assert {verdict["met"] for verdict in rows[3]["targets"]} == {None}
    printed = capsys.readouterr().out
    assert "judged on an H200; this is NVIDIA H200" in printed
    assert printed.splitlines()[-3].startswith("build     ok ")


def test_without_a_build_nothing_is_measured(monkeypatch, tmp_path):
    steps = {"build": lambda context: ("failed", "nvcc"), "optim": lambda context: pytest.fail("ran")}
    status, rows = _pass(monkeypatch, tmp_path, NO_CARD, steps, "--rehearse")
    assert status == 1
    assert (rows[1]["status"], rows[1]["note"]) == ("skipped", "nothing is built")


def test_a_part_alone_builds_first_where_nothing_is_built(monkeypatch, tmp_path):
    steps = {"build": _site, "optim": lambda context: ("ok", "")}
    monkeypatch.setattr(places.Scratch, "built", lambda self, wheel: None)
    _, rows = _pass(monkeypatch, tmp_path, NO_CARD, steps, "--rehearse", "--only", "optim")
    assert [row["step"] for row in rows] == ["build", "optim"]
    monkeypatch.setattr(places.Scratch, "built", lambda self, wheel: ROOT)
    _, rows = _pass(monkeypatch, tmp_path, NO_CARD, steps, "--rehearse", "--only", "optim")
    assert [row["step"] for row in rows[2:]] == ["optim"]


def test_steps_know_whether_all_of_them_run(monkeypatch, tmp_path):
    seen = []
    steps = {"build": _site, "gemm": lambda context: seen.append(context.whole) or ("ok", "")}
    monkeypatch.setattr(places.Scratch, "built", lambda self, wheel: None)
    _pass(monkeypatch, tmp_path, NO_CARD, steps, "--rehearse")
    _pass(monkeypatch, tmp_path, NO_CARD, steps, "--rehearse", "--only", "gemm")
    assert seen == [True, False]


def _device_pass(*arguments):
    command = [sys.executable, str(ROOT / "benchmarks" / "device_pass"), *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ["--only", "tests,train"],
            "--only: got train, wanted some of build, tests, optim, scale, sanitize, golden, peers, gemm, tune",
        ),
        (["--wheel", "nowhere.whl"], "--wheel: there is no file nowhere.whl"),
        (["--peers", "nowhere"], "--peers: there is no folder nowhere"),
    ],
)
def test_what_cannot_be_is_refused(arguments, said):
    done = _device_pass("--rehearse", *arguments)
    assert done.returncode == 2
    assert said in done.stderr


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_rehearsal_says_what_it_skipped(tmp_path):
    done = _device_pass("--only", "golden")
    assert done.returncode == 2
    assert "--rehearse runs what needs none" in done.stderr
    done = _device_pass("--rehearse", "--only", "sanitize", "--out", str(tmp_path), "--scratch", str(tmp_path / "s"))
    assert done.returncode == 0
    (row,) = [json.loads(line) for line in (tmp_path / "device_pass.jsonl").read_text().splitlines()]
    assert (row["step"], row["status"], row["rehearsal"]) == ("sanitize", "skipped", True)
    assert "no GPU" in row["note"]
    assert "39 parts ran" in row["note"]
    assert "sanitize  skipped" in done.stdout


def test_the_limits_fit_into_eight_minutes():
    """Each step's own limit as it is asked for, with a wheel; and what a pass may bring back."""
    asked = {}
    for name, step in device_pass.STEPS.items():
        context = types.SimpleNamespace(
            card=H200, out=Path("out"), deadline=time.monotonic() + 480, peers=None, whole=True
        )

        def command(*words, seconds, name=name, **_):
            asked[name] = seconds
            return "ok", ""

        context.command = command
        if name not in ("build", "sanitize", "golden"):
            step(context)
    assert sum(asked.values()) + 30 + 55 + 30 <= 480
    assert device_pass.SECONDS < 480
    assert device_pass.REHEARSAL < 240
