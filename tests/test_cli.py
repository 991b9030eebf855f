"""python -m halfops: the doctor tells health from sickness, memory adds up, bench finds its scripts."""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import halfops
from halfops import cli
from halfops.cli import bench, doctor, memory, probes

ROOT = Path(__file__).resolve().parents[1]


# --- doctor ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def healthy():
    return doctor.examine()


def test_doctor_finds_everything_well(healthy):
    assert healthy["problems"] == []
    assert all(row["ok"] for row in healthy["checks"])
    on_cpu = {(row["op"], row["dtype"]) for row in healthy["checks"] if row["device"] == "cpu"}
    assert on_cpu == {(p.name, doctor.short(d)) for p in probes.PROBES for d in p.dtypes}
    assert {row["cpu"] for row in healthy["paths"]}.isdisjoint({"not yet"})


def test_doctor_probes_reach_every_op():
    """Each op that computes something belongs to a probe."""
    facts = {"cpu_variant", "cpu_variants", "set_cpu_variant", "optim_rules", "optim_hyper_names", "optim_state_names"}
    facts |= {"optim_grad_access", "set_optim_grad_access"}
    facts |= {"linear_policies", "linear_force_policy", "linear_last_plan"}
    probed = {op for probe in probes.PROBES for op in probe.ops} | {"linear_wgrad_"}
    names = set(halfops._ops.registry.op_names())
    # How every optimizer's step reaches its engine, and its hyper-parameters their table.
    kept = {"write_"} | {name for name in names if name.startswith(("optim_plan", "check_"))}
    assert names - facts - probed - kept == set()


def test_doctor_names_the_path_of_float32_on_a_gpu(healthy, monkeypatch):
    monkeypatch.setattr(doctor.registry, "has_kernel", lambda op, device: True)
    build = {**healthy["build"], "cuda": "13.0", "archs": "8.0+PTX;9.0a"}
    said = {(p.name, d): doctor.path(p, d, "cuda", healthy["cpu"], build) for p in probes.PROBES for d in p.dtypes}
    assert said["mlp", torch.float32] == "torch's own ops (kernel: for 16-bit numbers)"
    assert said["mlp", torch.float16] == said["grad_norm", torch.float32] == "kernel for 8.0+PTX;9.0a"


def test_doctor_prints_and_exits_0(healthy, monkeypatch, capsys):
    monkeypatch.setattr(doctor, "examine", lambda: healthy)
    assert cli.main(["doctor"]) == 0
    printed = capsys.readouterr().out
    assert "all is well" in printed
    assert torch.__version__ in printed
    assert "avx" in printed or "portable" in printed


def test_doctor_json_is_json(healthy, monkeypatch, capsys):
    monkeypatch.setattr(doctor, "examine", lambda: healthy)
    assert cli.main(["doctor", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert set(report) == {"versions", "build", "cpu", "gpus", "paths", "checks", "problems"}


def _slightly_off(tensors, inv_scale):
    for tensor in tensors:
        tensor.mul_(inv_scale * 1.01)
    return torch.zeros(())


def _raise(*_args, **_kwargs):
    raise RuntimeError("illegal instruction\nand more")


@pytest.mark.parametrize(
    ("function", "broken", "reason"),
    [("unscale_", _slightly_off, "wrong result"), ("grad_norm", _raise, "RuntimeError: illegal instruction")],
)
def test_doctor_sees_a_broken_op_and_exits_1(monkeypatch, capsys, function, broken, reason):
    monkeypatch.setattr(halfops.functional, function, broken)
    monkeypatch.setattr(doctor, "PROBES", [p for p in probes.PROBES if p.name == function])
    assert cli.main(["doctor"]) == 1
    printed = capsys.readouterr().out
    assert f"problem: {function} fp16 on cpu: {reason}" in printed
    assert "fix: rebuild" in printed
    assert "problems: 3" in printed


@pytest.mark.parametrize("dtype", probes.DTYPES)
def test_doctor_sees_a_linear_layer_that_is_off_by_a_little(monkeypatch, dtype):
    probe = next(p for p in probes.PROBES if p.name == "gated_linear")
    run = probes._differentiable(lambda x, w: x @ w.T * (1 + (x.dtype == dtype) / 16), (5, 33), (17, 33))
    assert run(dtype, torch.device("cpu")) > 1
    assert probe.run(dtype, torch.device("cpu")) <= 1


def test_doctor_sees_an_optimizer_that_forgets_weight_decay(monkeypatch):
    hyper = {"lr": 1e-2, "eps": 1e-8, "betas": (0.9, 0.99), "weight_decay": 0.01}
    run = probes._optimizer(lambda *a, **k: halfops.optim.AdamW(*a, **{**k, "weight_decay": 0.0}), "adamw", hyper)
    assert run(torch.float16, torch.device("cpu")) > 1


def test_doctor_knows_which_cards_a_build_runs_on():
    assert doctor.covers("8.0+PTX;9.0a", "9.0")
    assert doctor.covers("8.0+PTX;9.0a", "8.6")
    assert doctor.covers("8.0+PTX;9.0a", "12.0")
    assert not doctor.covers("8.0+PTX;9.0a", "7.5")
    assert not doctor.covers("9.0a", "10.0")
    assert not doctor.covers("8.6", "8.0")
    assert doctor.covers("8.6 9.0", "9.0")


def test_doctor_says_how_to_serve_a_gpu_that_is_not_served(healthy):
    card = {"name": "T4", "arch": "7.5", "gigabytes": 15.0}
    cpu_build = {**healthy, "gpus": [card], "build": {**healthy["build"], "cuda": None, "archs": None}}
    (found,) = doctor.problems(cpu_build)
    assert "built without CUDA" in found["problem"]
    assert "nvcc" in found["fix"]
    other = {**healthy, "gpus": [card], "build": {**healthy["build"], "cuda": "13.0", "archs": "8.0+PTX;9.0a"}}
    (found,) = doctor.problems(other)
    assert "compute capability 7.5" in found["problem"]
    assert "TORCH_CUDA_ARCH_LIST=7.5" in found["fix"]


# --- memory ---------------------------------------------------------------------------------------------------------


def _bytes_per_parameter(optimizer, params):
    tensors = [*params, *(p.grad for p in params)]
    tensors += [t for state in optimizer.state.values() for name, t in state.items() if name != "step"]
    return sum(t.numel() * t.element_size() for t in tensors) / sum(p.numel() for p in params)


@pytest.mark.parametrize(
    ("make", "rule", "options"),
    [
        (halfops.optim.AdamW, "adamw", {}),
        (halfops.optim.Adam, "adam", {}),
        (halfops.optim.LAMB, "lamb", {}),
        (halfops.optim.Lion, "lion", {}),
        (halfops.optim.SGD, "sgd", {"momentum": 0.9}),
        (halfops.optim.SGD, "sgd-no-momentum", {}),
    ],
)
@pytest.mark.parametrize(("master", "recipe"), [("split", "split"), ("fp32", "fp32-master"), ("none", "none")])
@pytest.mark.parametrize("decay", [None, 0.9])
def test_memory_agrees_with_the_tensors_of_a_real_optimizer(make, rule, options, master, recipe, decay):
    params = [torch.zeros(n, dtype=torch.float16, requires_grad=True) for n in (33, 100)]
    for param in params:
        param.grad = torch.ones_like(param)
    optimizer = make(params, lr=0.1, master=master, ema_decay=decay, **options)
    optimizer.step()
    total = memory.RECIPES[recipe].total(memory.STATES[rule], averages=decay is not None)
    assert total == _bytes_per_parameter(optimizer, params)


def test_memory_agrees_with_torch():
    params = [torch.zeros(10, requires_grad=True)]
    params[0].grad = torch.ones_like(params[0])
    optimizer = torch.optim.AdamW(params)
    optimizer.step()
    assert memory.RECIPES["fp32"].total(memory.STATES["adamw"]) == _bytes_per_parameter(optimizer, params)


def test_memory_prints_totals(capsys):
    assert cli.main(["memory", "--params", "1e9", "--device-gb", "80", "--master", "split"]) == 0
    printed = capsys.readouterr().out
    assert "14     14.0" in printed
    assert "5.71 B" in printed
    assert 'master="none"' not in printed
    assert cli.main(["memory", "--params", "1e9", "--optimizer", "lion", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert [row["bytes_per_parameter"] for row in rows] == [12, 12, 12, 10, 8]
    assert cli.main(["memory", "--params", "1e9", "--optimizer", "lion", "--ema", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert [(row["bytes_per_parameter"], row["ema"]) for row in rows] == [(16, 4), (16, 4), (16, 4), (14, 4), (12, 4)]
    assert cli.main(["memory", "--params", "1e9", "--device-gb", "90", "--master", "split", "--ema"]) == 0
    printed = capsys.readouterr().out
    assert "8      4     18     18.0" in printed
    assert "5.00 B" in printed


@pytest.mark.parametrize(
    "arguments", [["--params", "-1"], ["--params", "nan"], ["--params", "many"], ["--optimizer", "adagrad"]]
)
def test_memory_refuses_nonsense(arguments, capsys):
    with pytest.raises(SystemExit) as stopped:
        cli.main(["memory", *arguments])
    assert stopped.value.code == 2
    assert re.search("wanted a positive number|invalid choice", capsys.readouterr().err)


@pytest.mark.parametrize("page", ["README.md", "docs/optimizers.md"])
def test_memory_is_what_the_pages_say(page):
    assert memory.markdown("adamw") in (ROOT / page).read_text()


# --- bench, and the commands together -------------------------------------------------------------------------------


def test_bench_finds_its_scripts():
    assert Path(bench.benchmarks().__file__).parent.name == "benchmarks"
    for subject in bench.SUBJECTS:
        assert (Path(bench.benchmarks().__file__).parent / f"bench_{subject}.py").exists()


def test_bench_refuses_an_unknown_subject(capsys):
    with pytest.raises(SystemExit):
        cli.main(["bench", "conv"])
    assert "got 'conv', wanted one of linear, optim, scale" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--device", "gpu"], "--device: got gpu, wanted cpu or cuda"),
        (["--record", "--out", "{file}/folder"], "--out: cannot write {file}/folder/linear.jsonl"),
        (["--plot", "{file}/picture.png"], "--plot: cannot write {file}/picture.png"),
    ],
)
def test_bench_refuses_before_it_measures(tmp_path, monkeypatch, capsys, arguments, said):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)
    monkeypatch.setattr(bench, "benchmarks", lambda: None)
    file = tmp_path / "file"
    file.write_text("")
    assert cli.main(["bench", *(argument.format(file=file) for argument in arguments)]) == 2
    assert said.format(file=file) in capsys.readouterr().err


def test_bench_says_what_is_missing(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(bench, "benchmarks", lambda: None)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(bench, "_folder", lambda: bench.PACKAGE / "benchmarks")
    assert cli.main(["bench", "--plot", str(tmp_path / "picture.png")]) == 2
    assert "pip install matplotlib" in capsys.readouterr().err
    assert cli.main(["bench", "--record"]) == 2
    assert "say where with --out DIR" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_place_to_write_is_tried_and_left_as_it_was(tmp_path):
    cli.check_writable("--out", tmp_path / "new" / "file")
    assert list((tmp_path / "new").iterdir()) == []
    old = tmp_path / "old"
    old.write_text("kept")
    cli.check_writable("--out", old)
    assert old.read_text() == "kept"
    with pytest.raises(ValueError, match=r"--json: cannot write .*/old/file \(.+\); choose another place"):
        cli.check_writable("--json", old / "file")


def test_a_command_that_cannot_be_imported_leaves_the_others_alone(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "halfops.cli.demo", None)
    assert cli.main(["memory"]) == 0
    with pytest.raises(SystemExit) as stopped:
        cli.main(["--help"])
    assert stopped.value.code == 0
    assert "not usable here" in capsys.readouterr().out
    with pytest.raises(SystemExit) as stopped:
        cli.main(["demo"])
    assert stopped.value.code == 2
    assert "demo cannot run here" in capsys.readouterr().err


def test_a_missing_binary_is_answered_with_the_way_out(tmp_path):
    """The package without its compiled part, as in a checkout that was not built."""
    (tmp_path / "halfops").symlink_to(ROOT / "halfops")
    script = "import sys; sys.modules['halfops._C'] = None; import halfops"
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1
    assert "python setup.py build_ext --inplace" in done.stderr
    assert torch.__version__ in done.stderr
