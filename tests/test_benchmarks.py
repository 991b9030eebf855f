"""The benchmarks' own arithmetic, and their GPU cases on CPU tensors: what a GPU's minutes are too dear to find out."""

from __future__ import annotations

import json
import re
import sys
import types
import zipfile
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import halfops

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks import (  # noqa: E402
    adapters,
    bench_linear,
    bench_optim,
    bench_scale,
    figures,
    harness,
    peers,
    pipelines,
    sanitized,
    targets,
)

CPU = torch.device("cpu")
EFFORT = bench_optim.Effort(1, 3, 1)


@pytest.fixture
def stubbed(monkeypatch):
    """A GPU's clock and graphs without a GPU: everything else of a case is what runs there."""

    def clock(_device):
        def sample(call):
            call()
            return harness.Sample(2e-3, 1e-4, 3e-3)

        return sample

    monkeypatch.setattr(harness, "clock", clock)
    monkeypatch.setattr(pipelines, "graphed", lambda step, device: step)


def recorder(tmp_path=None):
    return harness.Recorder("optim", CPU, tmp_path)


# --- harness --------------------------------------------------------------------------------------------------------


class Event:
    log: list[str]

    def __init__(self, enable_timing):
        assert enable_timing

    def record(self):
        Event.log.append("event")

    def elapsed_time(self, _end):
        return 4.0


def test_a_device_clock_times_the_call_behind_a_busy_device(monkeypatch):
    Event.log = log = []
    properties = types.SimpleNamespace(L2_cache_size=2**20)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: log.append("wait"))
    monkeypatch.setattr(torch.cuda, "_sleep", lambda cycles: log.append("busy") or asleep.append(cycles))
    asleep = []
    sample = harness.DeviceClock(CPU)(lambda: log.append("call"))
    assert log == ["wait", "call", "wait", "busy", "event", "call", "event", "wait"]
    assert sample.seconds == 4e-3
    assert 0 < sample.host <= sample.wall
    assert asleep[0] >= 1e-4 * harness.DeviceClock.CYCLES_PER_SECOND


def test_timings_hold_medians_and_quartiles():
    timing = harness._timing([harness.Sample(s, s / 10, s * 2) for s in (1.0, 2.0, 3.0, 4.0, 5.0)])
    assert timing == harness.Timing(3.0, 2.0, 4.0, 5, 0.3, 6.0)
    assert harness._timing([harness.Sample(1.0)] * 3).host is None


def test_a_figure_is_arithmetic():
    timing = harness.Timing(0.002, 0.001, 0.004, 7, 0.0005, 0.003)
    row = bench_optim.row("fp16", "torch", timing, 1_000_000, 28, 56e9, 0.001)
    assert row == {
        "case": "fp16",
        "provider": "torch",
        "ms": 2.0,
        "ms_low": 1.0,
        "ms_high": 4.0,
        "host_ms": 0.5,
        "wall_ms": 3.0,
        "rounds": 7,
        "params": 1_000_000,
        "bytes_per_param": 28,
        "ms_per_1e9": 2000.0,
        "gb_per_s": 14.0,
        "of_copy": 0.25,
        "copy_gb_per_s": 56.0,
        "times_ours": 2.0,
    }
    assert "25% of copy    2.00x  host 0.500 ms" in harness.line(row)
    assert "x" not in harness.line({**row, "times_ours": None})


@pytest.mark.parametrize(
    ("answer", "state"),
    [
        ("1980, 3201, 41, 120.5", {"sm_mhz": 1980, "memory_mhz": 3201, "celsius": 41, "watts": 120.5}),
        ("345, 3201, 30, [N/A]", {"sm_mhz": 345, "memory_mhz": 3201, "celsius": 30, "watts": None}),
        ("no devices were found", None),
        ("", None),
    ],
)
def test_the_state_of_a_card_is_read_and_nothing_else(tmp_path, monkeypatch, answer, state):
    smi = tmp_path / "nvidia-smi"
    smi.write_text(f'#!/bin/sh\ncase "$*" in --query-gpu=*) echo "{answer}";; *) exit 1;; esac\n')
    smi.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert harness.gpu_state() == state


def test_rows_are_kept_as_soon_as_they_exist(tmp_path, monkeypatch):
    states = iter(({"sm_mhz": 1}, {"sm_mhz": 2}, {"sm_mhz": 3}))
    monkeypatch.setattr(harness, "gpu_state", lambda: next(states))
    monkeypatch.setenv("HALFOPS_COMMIT", "abc")
    kept = harness.Recorder("optim", torch.device("cuda"), tmp_path)
    kept.add([{"ms": 1.0}, {"ms": 2.0}])
    assert len((tmp_path / "optim.jsonl").read_text().splitlines()) == 2
    kept.add([{"ms": 3.0}])
    rows = [json.loads(line) for line in (tmp_path / "optim.jsonl").read_text().splitlines()]
    assert [(row["gpu_before"]["sm_mhz"], row["gpu_after"]["sm_mhz"]) for row in rows] == [(1, 2), (1, 2), (2, 3)]
    assert {(row["commit"], row["device"], row["bench"]) for row in rows} == {("abc", "cuda", "optim")}
    assert len({row["time"] for row in rows}) == 1


# --- the optimizer's cases ------------------------------------------------------------------------------------------


def test_the_cases_of_a_gpu_run_through(tmp_path, stubbed):
    cases = [replace(case, effort=EFFORT) for case in bench_optim.cuda_cases(quick=True, numel=3e5, many=20)]
    assert [case.label for case in cases] == [
        "fp16, 20 tensors of 64",
        "fp16, 0.3M in 13 tensors",
        "fp16, 20 tensors of 64, CUDA graph",
        "bf16, 0.3M in 13 tensors",
    ]
    kept = recorder(tmp_path)
    bench_optim.run(cases, CPU, kept, 1e9, lambda: None)
    assert [row for row in kept.rows if "error" in row or "skipped" in row] == []
    assert len(kept.rows) == 7 + 7 + 4 + 7
    for row in kept.rows:
        assert row["ms"] == 2.0
        assert row["host_ms"] == 0.1
        assert row["times_ours"] == 1.0
        assert row["ms_per_1e9"] == pytest.approx(2e9 / row["params"])
        assert row["gb_per_s"] == pytest.approx(row["bytes_per_param"] * row["params"] / 2e6)
    assert len((tmp_path / "optim.jsonl").read_text().splitlines()) == len(kept.rows)


def test_the_full_list_of_a_gpu():
    cases = bench_optim.cuda_cases(quick=False, numel=None)
    sizes = [sum(torch.Size(shape).numel() for shape in case.shapes) for case in cases]
    assert sizes == pytest.approx([640_000, 1e9, 1e8, 4e9, 640_000, 1e9, 1e8, 4e9], rel=2e-3)
    labels = [case.label for case in cases]
    assert "fp16, 1000M in 169 tensors" in labels
    for pattern in (targets.LARGE, targets.MANY, targets.GRAPH):
        assert any(re.search(pattern, label) for label in labels)


def test_pipelines_share_memory_as_far_as_it_goes():
    a, b = pipelines.Pipeline("a", None, 1, 10), pipelines.Pipeline("b", None, 1, 12, 12, full=True)
    assert pipelines.need([a], 1000) == 12_000
    assert pipelines.need([a, b], 1000) == 1000 * (2 + 4 + 10 + 12 + 12)
    assert pipelines.packed([a, b, a], 1000, None) == ([[a, b, a]], [])
    assert pipelines.packed([a, b, a], 1000, 40_000) == ([[a, b], [a]], [])
    assert pipelines.packed([a, b, a], 1000, 25_000) == ([[a, a]], [b])
    assert pipelines.packed([a, b], 1000, 11_000) == ([], [a, b])


def test_what_does_not_fit_is_said_and_kept(stubbed, capsys):
    case = bench_optim.large("fp16", 3e5, pipelines.CUDA, EFFORT)
    kept, params = recorder(), pipelines.Problem(case.shapes, case.dtype, CPU).params
    bench_optim.run([case], CPU, kept, 1e9, lambda: 17 * params + 2e6)
    skipped = [row for row in kept.rows if "skipped" in row]
    assert [row["provider"] for row in skipped] == [pipeline.name for pipeline in pipelines.CUDA[4:]]
    assert "needs 0 GB of memory, 0 GB are at hand" in skipped[0]["skipped"]
    measured = [row for row in kept.rows if "ms" in row]
    assert [row["times_ours"] for row in measured] == [1.0] * 4
    assert "skipped: needs" in capsys.readouterr().out


def test_a_case_begins_only_in_time(stubbed):
    kept = recorder()
    bench_optim.run([bench_optim.small(2, pipelines.CUDA, EFFORT)], CPU, kept, -1, lambda: None)
    assert [row["skipped"] for row in kept.rows] == ["-1 s were spent before it"]


def test_a_provider_that_fails_does_not_stop_the_others(stubbed):
    def broken(problem):
        raise RuntimeError("no kernel\nand a long story")

    case = bench_optim.small(2, [*pipelines.OURS[:1], pipelines.Pipeline("broken", broken, 1, 1)], EFFORT)
    kept = recorder()
    bench_optim.run([case], CPU, kept, 1e9, lambda: None)
    failed, ours = kept.rows
    assert (failed["provider"], failed["error"]) == ("broken", "RuntimeError: no kernel")
    assert ours["provider"] == "halfops AdamW, split master"


def test_without_ours_there_is_no_measure(stubbed):
    def broken(problem):
        raise RuntimeError

    case = bench_optim.small(2, [pipelines.Pipeline("halfops", broken, 1, 1), pipelines.FUSED], EFFORT)
    kept = recorder()
    bench_optim.run([case], CPU, kept, 1e9, lambda: None)
    assert kept.rows[0]["error"] == "RuntimeError: "
    assert kept.rows[1]["times_ours"] is None


@pytest.mark.parametrize("pipeline", [*pipelines.CUDA, *pipelines.CAPTURABLE], ids=lambda pipeline: pipeline.name)
def test_a_pipeline_steps_and_leaves_16_bit_gradients_usable(pipeline):
    problem = pipelines.Problem([(300,), (7, 5)], torch.float16, CPU)
    step = pipeline.make(problem)
    for _ in range(3):
        step()
    assert all(bool(grad.isfinite().all()) and bool(grad.any()) for grad in problem.half)


def test_a_graph_keeps_its_tensors(monkeypatch):
    """Capture with torch.cuda made up: what is captured, after how many steps, and what the result holds on to."""
    log = []
    stream = types.SimpleNamespace(wait_stream=lambda other: log.append("wait"))
    graph = types.SimpleNamespace(replay=lambda: log.append("replay"))
    monkeypatch.setattr(torch.cuda, "Stream", lambda device: stream)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: stream)
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: nullcontext())
    monkeypatch.setattr(torch.cuda, "CUDAGraph", lambda: graph)
    monkeypatch.setattr(torch.cuda, "graph", lambda graph: nullcontext())

    def step():
        log.append("step")

    replay = pipelines.graphed(step, CPU)
    replay()
    assert log == ["wait", "step", "step", "step", "wait", "step", "replay"]
    assert replay.step is step


def test_apex_style_skips_an_overflow():
    problem = pipelines.Problem([(300,)], torch.float16, CPU)
    problem.half[0][3] = float("inf")
    step = pipelines.apex_style(problem)
    cells = dict(zip(step.__code__.co_freevars, (cell.cell_contents for cell in step.__closure__), strict=True))
    before = [source.clone() for source in cells["sources"]]
    step()
    assert all(map(torch.equal, before, cells["sources"]))


# --- other packages -------------------------------------------------------------------------------------------------


def _optimizer(wanted):
    def make(parameters, **options):
        assert options == {**pipelines.HYPER, **wanted}
        return torch.optim.SGD(parameters, lr=0.1)

    return make


@pytest.fixture
def fake_packages(monkeypatch):
    made = {name: types.ModuleType(name) for name in ("flashoptim", "bitsandbytes", "torchao", "torchao.optim")}
    made["flashoptim"].FlashAdamW = lambda parameters, master_weight_bits, **options: _optimizer({})(
        parameters, **options
    )
    made["bitsandbytes"].optim = types.SimpleNamespace(AdamW8bit=_optimizer({}))
    made["torchao.optim"].AdamW8bit = _optimizer({})
    made["torchao.optim"]._AdamW = _optimizer({"bf16_stochastic_round": True})
    for name, module in made.items():
        module.__spec__ = types.SimpleNamespace(name=name)
        monkeypatch.setitem(sys.modules, name, module)
    return made


def test_other_packages_are_measured_where_they_are_installed(stubbed, fake_packages):
    cases = [replace(case, effort=EFFORT) for case in bench_optim.beside_cases(quick=True, numel=3e5)]
    assert [len(case.pipelines) for case in cases] == [4, 4, 2, 3]
    kept = recorder()
    bench_optim.run(cases, CPU, kept, 1e9, lambda: None)
    assert [row for row in kept.rows if "error" in row] == []
    assert {row["provider"] for row in kept.rows} == {
        "halfops AdamW, split master",
        *(adapter.name for adapter in adapters.ADAPTERS),
    }


def test_a_package_that_breaks_is_a_row(stubbed, fake_packages):
    del fake_packages["flashoptim"].FlashAdamW
    kept = recorder()
    bench_optim.run(bench_optim.beside_cases(True, 3e5)[:1], CPU, kept, 1e9, lambda: None)
    assert [row["error"][:14] for row in kept.rows if "error" in row] == ["AttributeError"] * 2
    assert "bitsandbytes AdamW8bit" in [row["provider"] for row in kept.rows if "ms" in row]


def test_a_package_that_is_not_installed_is_said_and_kept(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(adapters.importlib.util, "find_spec", lambda name: None)
    assert bench_optim.main(["--beside", "--quick", "--record", "--out", str(tmp_path)]) == 0
    rows = [json.loads(line) for line in (tmp_path / "peers.jsonl").read_text().splitlines()]
    assert [row["skipped"] for row in rows] == ["not installed"] * len(adapters.ADAPTERS)
    assert capsys.readouterr().out.count("skipped: not installed") == len(adapters.ADAPTERS)


def test_an_adapter_steps_only_on_finite_gradients(fake_packages):
    problem = pipelines.Problem([(300,)], torch.bfloat16, CPU)
    problem.half[0][0] = float("nan")
    fake_packages["bitsandbytes"].optim.AdamW8bit = lambda parameters, **options: types.SimpleNamespace(
        step=pytest.fail
    )
    adapters.ADAPTERS[2].pipeline().make(problem)()


def test_wheels_lose_what_another_device_needs(tmp_path):
    wheel = tmp_path / "bitsandbytes-1-py3-none-any.whl"
    binaries = [
        f"bitsandbytes/libbitsandbytes_{kind}.so" for kind in ("cpu", "cuda118", "cuda130", "rocm72", "xpu2025")
    ]
    with zipfile.ZipFile(wheel, "w") as out:
        for name in ("bitsandbytes/__init__.py", *binaries):
            out.writestr(name, name)
    peers.slim(wheel, "13")
    with zipfile.ZipFile(wheel) as lean:
        assert lean.namelist() == ["bitsandbytes/__init__.py", binaries[0], binaries[2]]
        assert lean.read(binaries[2]).decode() == binaries[2]
    assert list(tmp_path.iterdir()) == [wheel]


def test_quack_is_fetched_only_where_it_is_wanted(tmp_path, monkeypatch, capsys):
    asked = []
    monkeypatch.setattr(peers, "download", lambda into, packages, python: asked.extend(packages) or 0)
    assert peers.main(["--into", str(tmp_path)]) == 0
    assert asked == ["flashoptim", "bitsandbytes", "torchao", "liger-kernel"]
    assert peers.main(["--into", str(tmp_path), "--quack", "--cuda", "12"]) == 0
    assert {"quack-kernels", "nvidia-cutlass-dsl", "nvidia-cutlass-dsl-libs-cu12"} <= set(asked)
    assert "0.0 MiB in" in capsys.readouterr().out


# --- gradient checks, products, the sanitized script ----------------------------------------------------------------


def test_the_gradient_checks_of_a_gpu_run_through(stubbed):
    labels = [case.label for case in bench_scale.cases(False, torch.device("cuda"))]
    assert labels[:3] == ["fp16, 10,000 x 64", "fp16, 100 x 10,000,000", "fp16, 100 x 1,000,000"]
    assert len(labels) == 7
    rows = [row for rows in bench_scale.measure(bench_scale.Case("fp16", 5, 64), CPU, True) for row in rows]
    assert [row for row in rows if "error" in row] == []
    assert {row["job"] for row in rows} == {"flag", "flag + norm", "unscale + flag", "before a clipped step"}


def test_a_check_that_fails_leaves_the_others(stubbed, monkeypatch):
    def broken(*_):
        raise RuntimeError("no")

    monkeypatch.setattr(bench_scale.ops, "nonfinite_check", broken)
    rows = [row for rows in bench_scale.measure(bench_scale.Case("fp16", 5, 64), CPU, True) for row in rows]
    assert rows[0]["error"] == "RuntimeError: no"
    assert all("ms" in row for row in rows[1:])


@pytest.mark.parametrize("bench", [bench_linear, bench_scale])
def test_no_case_begins_after_its_time(bench, tmp_path):
    assert bench.main(["--quick", "--seconds", "-1", "--record", "--out", str(tmp_path)]) == 0
    (path,) = tmp_path.iterdir()
    assert {json.loads(line)["skipped"] for line in path.read_text().splitlines()} == {"no time was left"}
    assert figures.newest(path) == []


def test_a_device_without_the_step_is_said(monkeypatch, capsys):
    monkeypatch.setattr(halfops, "has_kernel", lambda op, device: False)
    assert bench_optim.main(["--device", "cuda"]) == 0
    assert "no optimizer step on cuda in this build yet" in capsys.readouterr().out
    assert sanitized.main(["--device", "cuda"]) == 0
    assert "0 parts ran" in capsys.readouterr().out


def test_the_sanitized_script_does_what_it_says(capsys):
    parts = dict(sanitized.parts("cpu"))
    assert len(parts) == 1 + 2 + 6 * 3 * 2
    assert sanitized.main(["--device", "cpu", "--seconds", "-1"]) == 0
    assert capsys.readouterr().out == "0 parts ran, no time was left for 39\n"
    for name in (
        "checks",
        "products, float16, what is selected",
        "AdamW, split master, float16",
        "LAMB, none master, bfloat16",
    ):
        parts[name]()


def test_a_wrong_product_is_found_on_whatever_row(monkeypatch):
    asked = []
    monkeypatch.setattr(sanitized.linear, "force_policy", lambda name, blocks=0: asked.append((name, blocks)))
    sanitized.products(torch.bfloat16, "64x64x32", "cpu")
    assert asked == [("64x64x32", 0), ("64x64x32", 3), ("", 0)]
    job, reference = sanitized.problems(torch.float16, "cpu")[0]
    wrong = [(job, [tensor + 1 for tensor in reference])]
    monkeypatch.setattr(sanitized, "problems", lambda dtype, device: wrong)
    with pytest.raises(AssertionError, match=r"dgrad, odd \(130, 70, 100\), rows 1 further apart, .*: result 0 is off"):
        sanitized.products(torch.float16, "", "cpu")


# --- targets and figures --------------------------------------------------------------------------------------------


def test_targets_are_judged_by_the_worst_row():
    row = {"case": "fp16, 1000M in 169 tensors", "of_copy": 0.95, "ms_per_1e9": 6.9, "times_ours": 1.0, "ms": 6.9}
    rows = [
        {**row, "provider": targets.SPLIT},
        {**row, "provider": targets.FP32, "of_copy": 0.92, "ms_per_1e9": 7.4},
        {**row, "provider": targets.TORCH, "times_ours": 1.8},
        {"case": "fp16, 10,000 tensors of 64", "provider": targets.SPLIT, "ms": 0.6, "host_ms": 0.9},
        {"case": row["case"], "provider": "halfops AdamW, no master", "skipped": "memory"},
    ]
    judged = targets.judged(rows)
    assert [verdict["met"] for verdict in judged[:7]] == [False, True, True, True, False, True, None]
    assert judged[0]["value"] == 0.92
    assert "not measured" in targets.told(judged[6])
    assert "missed" in targets.told(judged[0])


def test_the_short_table_has_a_line_for_each_case(tmp_path):
    row = {"time": "2", "case": "fp16", "ms": 2.0, "of_copy": 0.5, "times_ours": 1.0, "provider": "halfops x"}
    rows = [row, {**row, "provider": "torch", "times_ours": 1.5}, {**row, "time": "1", "case": "old"}]
    (tmp_path / "optim.jsonl").write_text("".join(json.dumps(each) + "\n" for each in rows))
    (line,) = targets.short(targets.recorded(tmp_path, since="2"))
    assert line.startswith("fp16 ")
    assert line.endswith("2 (50%) ms | others 1.50x")


def test_a_gpu_and_a_cpu_share_a_page(tmp_path):
    cpu = {"time": "1", "cpu": "a CPU", "gpu": None, "threads": 2, "torch": "2.13", "commit": "abc"}
    cpu |= {"case": "fp16, 50M in 48 tensors", "provider": "halfops x", "ms": 2.0, "ms_low": 1.0, "ms_high": 3.0}
    gpu = {**cpu, "time": "2", "gpu": "a GPU", "device": "cuda", "commit": "def", "ms": 0.25}
    beside = {**cpu, "time": "3", "gpu": "a GPU", "device": "cpu", "commit": "ghi", "ms": 4.0}
    error = {**gpu, "time": "4", "error": "broke"}
    del error["ms"]

    def page(*rows):
        (tmp_path / "optim.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        return figures.render(tmp_path, figures.HEADLINES)

    text = page(cpu, gpu, error)
    assert text.index("(a CPU, 2 threads, torch 2.13, commit abc)") < text.index("(a GPU, torch 2.13, commit def)")
    text = page(cpu, gpu, beside)
    assert "commit def" in text
    assert "commit ghi" in text
    assert "commit abc" not in text
