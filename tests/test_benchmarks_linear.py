"""The products' benchmark and its tuner on CPU tensors: suites, peers that are made up, cuBLASLt's calls, sentences."""

from __future__ import annotations

import json
import re
import sys
import time
import types
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

import halfops
from halfops import cli

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks import bench_linear, figures, harness, jobs, linear_peers, shapes, targets  # noqa: E402
from benchmarks.bench_linear import Setting  # noqa: E402
from benchmarks.shapes import Product  # noqa: E402

CPU = torch.device("cpu")
ODD = Product("odd", 9, 7, 13)
NAMES = sorted({name for suite in shapes.SUITES.values() for product in suite for name in product.jobs})


def job_of(name, product=ODD, dtype=torch.float16):
    return jobs.make(name, product, jobs.Tensors(product, dtype, CPU))


def setting(**peers):
    return Setting(peers or {"torch": linear_peers.PEERS["torch"]}, torch.float16, CPU, 3)


def about(job):
    return {"suite": "s", "case": "c", "job": job.name}


def recorded(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


# --- suites and jobs ------------------------------------------------------------------------------------------------


def test_every_suite_is_whole():
    assert [product.m for product in shapes.SQUARE[:2]] == [8192, 4096]
    assert {product.m for product in shapes.SQUARE} == {512, 1024, 2048, 3000, 4096, 8192, 16384}
    assert {product.m for product in shapes.SKINNY} == {1, 2, 4, 8, 16, 32, 64, 128}
    assert {product.k % 8 for product in shapes.ODD_K} == set(range(8))
    assert [product.label for product in shapes.ODD_K if product.k % 8 == 0] == [
        "odd ld (4096, 4096, 1024), rows 1 further apart"
    ]
    for name, suite in shapes.SUITES.items():
        assert len({product.label for product in suite}) == len(suite), name


def test_a_small_product_is_of_the_same_kind():
    assert Product("a", 8192, 50257, 588).small() == Product("a", 64, 65, 68)
    assert Product("a", 1, 10, 64, pad=1).small() == Product("a", 1, 10, 64, pad=1)
    assert shapes.batched(96, 128, 128, 64).small() == shapes.batched(4, 64, 64, 64)
    assert [product.label for product in shapes.suite("square", quick=True)] == ["square (64, 64, 64)"]
    assert shapes.suite("small", quick=True) == shapes.SMALL_QUICK


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", NAMES)
def test_ours_and_torchs_do_the_same_job(name, dtype):
    for product in (ODD, Product("padded", 16, 24, 8, pad=3), replace(ODD, batch=2)):
        job = job_of(name, product, dtype)
        reference = jobs.reference(job)
        assert jobs.wrong(job, job.call(job.ours)(), reference, dtype) is None
        assert jobs.wrong(job, job.call(job.torch)(), reference, dtype) is None


def test_operands_are_the_product_that_a_job_is():
    for name in ("forward", "dgrad", "wgrad", "matmul"):
        job = job_of(name)
        a, b, bias = job.operands
        answer = a.float() @ b.float() + (0 if bias is None else bias.float())
        assert torch.allclose(answer, jobs.reference(job)[0], rtol=1e-5, atol=1e-5)
    assert job_of("swiglu").flops == 2 * job_of("forward").flops == 4 * 9 * 7 * 13


def test_a_row_of_an_operand_lies_as_far_as_it_is_said():
    tensors = jobs.Tensors(Product("padded", 4, 8, 16, pad=3), torch.float16, CPU)
    assert (tensors("x").stride(), tensors("w").stride(), tensors("dy").stride()) == ((19, 1), (19, 1), (11, 1))
    assert tensors("b").stride() == (1,)
    assert tensors("sum").dtype == torch.float32


def test_a_sum_is_everybodys_own():
    job = job_of("wgrad + fp32 sum + stats")
    before = job.inputs[2].clone()
    ours, theirs = job.call(job.ours), job.call(job.torch)
    ours(), theirs(), job.wide()()
    assert torch.equal(job.inputs[2], before)
    total, stats = ours()
    assert stats[0].item() == pytest.approx(total.double().square().sum().item(), rel=1e-6)
    assert stats[1].item() == 0


def test_a_wrong_result_is_seen():
    job = job_of("forward", Product("large", 64, 64, 64))
    reference, right = jobs.reference(job), job.call(job.torch)()

    def said(answer):
        return jobs.wrong(job, answer, reference, torch.float16)

    assert said(right) is None
    for wrong in (float("nan"), float("inf"), 0.0):
        one = right.clone()
        one[37, 41] = wrong
        assert "result 0 is off by" in said(one)
    assert said(right[:-1]) == "result 0 has the shape [63, 64], wanted [64, 64]"
    assert said((right, right)) == "gave 2 tensors, wanted 1"
    # A tail of K that is left out.
    x, w, b = job.inputs
    assert "off by" in said(F.linear(x[:, :-1], w[:, :-1], b))


# --- measuring ------------------------------------------------------------------------------------------------------


def test_a_case_has_a_row_for_everybody(tmp_path):
    arguments = ["--quick", "--suite", "fused,odd_k", "--dtype", "fp16", "--record", "--out", str(tmp_path)]
    assert bench_linear.main(arguments) == 0
    rows = recorded(tmp_path / "linear.jsonl")
    assert [row for row in rows if "ms" not in row] == []
    assert {row["provider"] for row in rows} == {"halfops", "torch", "torch fp32"}
    assert {row["job"] for row in rows if row["suite"] == "fused"} == {
        "forward + gelu_tanh",
        "dgrad + gelu_tanh' + db",
        "swiglu",
        "gated dgrad",
        "wgrad + fp32 sum + stats",
    }
    assert {row["times_ours"] for row in rows if row["provider"] == "halfops"} == {1.0}
    assert all("cuda" in row and "peers" in row and "plan" not in row for row in rows)


def test_a_row_is_arithmetic():
    timing = harness.Timing(0.002, 0.001, 0.004, 7, 0.0005, 0.003)
    ours = harness.Timing(0.001, 0.001, 0.001, 7)
    row = bench_linear.row({"case": "c", "job": "j"}, "torch", timing, 40_000_000_000, ours)
    assert row == {
        "case": "c",
        "job": "j",
        "provider": "torch",
        "ms": 2.0,
        "ms_low": 1.0,
        "ms_high": 4.0,
        "host_ms": 0.5,
        "wall_ms": 3.0,
        "rounds": 7,
        "gflop_per_s": 20_000.0,
        "times_ours": 2.0,
    }
    assert "20 TFLOP/s    2.00x" in bench_linear.line(row)
    assert bench_linear.line({**row, "times_ours": None, "plan": "64x64x32, 3 stages"}).endswith("64x64x32, 3 stages")


def test_what_fails_or_is_wrong_is_a_row(capsys):
    def broken(job, device):
        raise ValueError("no kernel\nand a long story")

    peers = {
        "broken": linear_peers.Peer(broken),
        "wrong": linear_peers.Peer(lambda job, device: {"wrong one": lambda: job.torch(*job.inputs) * 1.1}),
        "torch": linear_peers.PEERS["torch"],
    }
    job = job_of("dgrad")
    failed, wrong, ours, theirs = bench_linear.measure(job, about(job), setting(**peers), 1e9)
    assert (failed["provider"], failed["error"]) == ("broken", "ValueError: no kernel")
    assert (wrong["provider"], wrong["error"][:33]) == ("wrong one", "ArithmeticError: result 0 is off ")
    assert (ours["provider"], theirs["provider"]) == ("halfops", "torch")
    assert "broken                     error: ValueError: no kernel" in capsys.readouterr().out


def test_without_ours_there_is_no_measure():
    job = replace(job_of("dgrad"), ours=lambda dy, w: dy)
    failed, theirs = bench_linear.measure(job, about(job), setting(), 1e9)
    assert failed["error"].startswith("ArithmeticError: result 0 has the shape")
    assert theirs["times_ours"] is None


def test_patience_ends_with_slow_peers_on_a_cpu(monkeypatch):
    monkeypatch.setattr(bench_linear, "PATIENCE", -1.0)
    job = job_of("wgrad")
    skipped, ours = bench_linear.measure(job, about(job), setting(), 1e9)
    assert skipped["skipped"] == "one call took 0.0 s"
    assert ours["provider"] == "halfops"


def test_what_compiles_begins_only_in_time():
    compiled = []

    def compiles(job, device):
        compiled.append(job.name)
        return {"slow": job.call(job.torch)}

    job, to = job_of("forward"), setting(slow=linear_peers.Peer(compiles, compiles=True))
    skipped, _ = bench_linear.measure(job, about(job), to, bench_linear.COMPILING - 1)
    assert (skipped["provider"], skipped["skipped"]) == ("slow", "no time was left to compile it")
    assert compiled == []
    bench_linear.measure(job, about(job), to, bench_linear.COMPILING + 60)
    assert compiled == ["forward"]


def test_a_suite_has_its_time_and_compiling_peers_have_their_suites(tmp_path, monkeypatch):
    slow = linear_peers.Peer(lambda job, device: {"slow": job.call(job.torch)}, compiles=True)
    monkeypatch.setitem(linear_peers.PEERS, "slow", slow)
    arguments = ["--quick", "--suite", "odd_k:0,long_k,skinny:60", "--dtype", "bf16", "--peers", "torch,slow"]
    assert bench_linear.main([*arguments, "--compiled", "long_k", "--record", "--out", str(tmp_path)]) == 0
    rows = recorded(tmp_path / "linear.jsonl")
    assert {row["skipped"] for row in rows if row["suite"] == "odd_k"} == {"no time was left"}
    assert {row["provider"] for row in rows if row["suite"] == "long_k"} == {"halfops", "torch", "slow"}
    assert {row["provider"] for row in rows if row["suite"] == "skinny"} == {"halfops", "torch"}
    assert {row["case"][:4] for row in rows} == {"bf16"}


def test_a_product_too_large_leaves_the_others(tmp_path, monkeypatch):
    every = jobs.all_of

    def all_of(product, dtype, device):
        if product.n == 10:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return every(product, dtype, device)

    monkeypatch.setattr(jobs, "all_of", all_of)
    assert bench_linear.main(["--quick", "--suite", "long_k", "--record", "--out", str(tmp_path)]) == 0
    rows = recorded(tmp_path / "linear.jsonl")
    assert [row["error"] for row in rows if "error" in row] == ["OutOfMemoryError: CUDA out of memory"] * 2
    assert len(rows) > 2


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--suite", "square,cube"], "--suite: got 'cube', wanted some of square, llama7b"),
        (["--suite", "square:soon"], "--suite: got 'square:soon', wanted seconds after the colon, as in square:20"),
        (["--dtype", "fp8"], "--dtype: got fp8, wanted fp16, bf16 or fp16,bf16"),
        (["--peers", "cutlass"], "--peers: got cutlass, wanted some of torch, fp32"),
    ],
)
def test_what_cannot_be_is_refused(arguments, said, capsys):
    with pytest.raises(SystemExit) as stopped:
        bench_linear.main(arguments)
    assert stopped.value.code == 2
    assert said in capsys.readouterr().err


def test_the_command_line_hands_suites_to_products_alone(capsys, monkeypatch):
    assert cli.main(["bench", "scale", "--suite", "square"]) == 2
    assert "--suite: is for linear, which is not among scale; leave it out" in capsys.readouterr().err
    given = []
    monkeypatch.setattr(bench_linear, "main", lambda options: given.append(options))
    assert cli.main(["bench", "linear", "--suite", "odd_k", "--dtype", "bf16", "--out", "x"]) == 0
    assert given == [["--device", "cpu", "--out", "x", "--suite", "odd_k", "--dtype", "bf16"]]


def test_a_gpu_gets_all_suites_and_a_cpu_what_it_can_do(monkeypatch):
    assert [name for name, _ in bench_linear.suites(None, CPU, 9)] == ["small"]
    everything = bench_linear.suites(None, torch.device("cuda"), 9)
    assert [name for name, _ in everything] == [name for name in shapes.SUITES if name != "small"]
    assert bench_linear.suites("square:20,fused", CPU, 9) == [("square", 20), ("fused", 9)]
    assert bench_linear.supported(torch.bfloat16, CPU)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    assert not bench_linear.supported(torch.bfloat16, torch.device("cuda"))
    assert bench_linear.supported(torch.float16, torch.device("cuda"))


def test_a_wrong_result_of_ours_is_a_failure(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(jobs.H, "linear", lambda x, w, b: F.linear(x, w, b) + 1)
    assert bench_linear.main(["--quick", "--suite", "square", "--dtype", "fp16"]) == 1
    assert capsys.readouterr().out.endswith("halfops gave no right result for 1 of the jobs\n")


def test_the_plan_of_ours_and_the_busy_clock_are_kept(monkeypatch):
    monkeypatch.setattr(bench_linear, "plan", lambda device: "128x256x32, 4 stages, 512 blocks")
    watch = types.SimpleNamespace(since=lambda begin: {"sm_mhz": 1755.0})
    job = job_of("forward")
    rows = bench_linear.measure(job, about(job), replace(setting(), watch=watch), 1e9)
    assert [row.get("plan") for row in rows] == ["128x256x32, 4 stages, 512 blocks", None]
    assert [row["gpu_busy"] for row in rows] == [{"sm_mhz": 1755.0}] * 2


def test_a_plan_is_asked_for_only_where_there_are_plans(monkeypatch):
    monkeypatch.setattr(bench_linear.ops, "last_plan", lambda: "a plan")
    assert bench_linear.plan(CPU) is None
    monkeypatch.setattr(halfops, "has_kernel", lambda op, device: False)
    assert bench_linear.plan(torch.device("cuda")) is None
    monkeypatch.setattr(halfops, "has_kernel", lambda op, device: True)
    assert bench_linear.plan(torch.device("cuda")) == "a plan"


def test_a_build_without_gpu_kernels_has_no_policies():
    if halfops.has_kernel("linear", "cuda"):
        pytest.skip("this build has them")
    assert bench_linear.ops.policies() == []
    bench_linear.ops.force_policy("")
    assert bench_linear.ops.last_plan() == ""
    with pytest.raises(RuntimeError, match="got '128x256x32', wanted '' or one of this build's policies"):
        bench_linear.ops.force_policy("128x256x32", 4)


def test_a_card_is_watched_while_it_works(tmp_path, monkeypatch):
    smi = tmp_path / "nvidia-smi"
    lines = "echo '1980, 3201, 41, 120.5'; echo 'Unable to read'; echo '1755, 3201, 61, 690.0'; exec sleep 60"
    smi.write_text(f'#!/bin/sh\ncase "$*" in *--loop-ms=*) {lines};; *) exit 1;; esac\n')
    smi.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    begin = time.perf_counter()
    watch = harness.Watch.begun()
    while len(watch.readings) < 2 and time.perf_counter() < begin + 20:
        time.sleep(0.01)
    assert watch.since(begin) == {"sm_mhz": 1867.5, "memory_mhz": 3201.0, "celsius": 51.0, "watts": 405.25}
    assert watch.since(time.perf_counter()) is None
    kept = harness.Recorder("linear", CPU, None)
    kept.on_gpu, kept.state, kept.watch = True, None, watch
    kept.add([{"ms": 1.0}])
    assert kept.rows[0]["gpu_after"]["watts"] == 690.0
    watch.close()
    assert watch.process.poll() is not None
    smi.unlink()
    monkeypatch.setenv("PATH", str(tmp_path))
    assert harness.Watch.begun() is None


# --- torch.compile and packages -------------------------------------------------------------------------------------


def test_torch_compile_gets_the_job_whole_and_anew(monkeypatch):
    asked = []

    def compile(function, **how):
        asked.append((function, how))
        return function

    monkeypatch.setattr(torch, "compile", compile)
    job = job_of("dgrad + gelu_tanh' + db")
    ours, theirs = bench_linear.measure(job, about(job), setting(compile=linear_peers.PEERS["compile"]), 1e9)
    assert theirs["provider"] == "torch.compile"
    assert "error" not in ours | theirs
    assert asked == [(job.torch, {"mode": "max-autotune", "fullgraph": True, "dynamic": False})]


def gelu(x):
    return F.gelu(x, approximate="tanh")


@pytest.fixture
def fake_quack(monkeypatch):
    """quack's functions in torch's ops, as its own documentation has them: gate and up take turns along N."""
    made = types.ModuleType("quack.gemm_interface")

    def product(a, b, bias=None):
        return a.float() @ b.float() + (0 if bias is None else bias.float())

    def gemm_act(a, b, bias=None, activation=None, store_preact=True):
        z = product(a, b, bias)
        y = gelu(z) if activation == "gelu_tanh_approx" else F.silu(z[:, ::2]) * z[:, 1::2]
        return z.to(a.dtype) if store_preact else None, y.to(a.dtype)

    def gemm_dact(a, b, preact, activation=None):
        z = preact.float().requires_grad_()
        with torch.enable_grad():
            y = gelu(z) if activation == "gelu_tanh_approx" else F.silu(z[:, ::2]) * z[:, 1::2]
        return torch.autograd.grad(y, z, product(a, b))[0].to(a.dtype), y.detach().to(a.dtype)

    def gemm_add_inplace(a, b, out):
        out += product(a, b)

    made.gemm = lambda a, b, bias=None: product(a, b, bias).to(a.dtype)
    made.gemm_act, made.gemm_dact, made.gemm_add_inplace = gemm_act, gemm_dact, gemm_add_inplace
    for name, module in {"quack": types.ModuleType("quack"), "quack.gemm_interface": made}.items():
        module.__spec__ = types.SimpleNamespace(name=name)
        monkeypatch.setitem(sys.modules, name, module)


@pytest.fixture
def fake_liger(monkeypatch):
    swiglu, mlp = types.ModuleType("liger_kernel.ops.swiglu"), types.ModuleType("liger_kernel.ops.mlp")
    swiglu.LigerSiLUMulFunction = types.SimpleNamespace(apply=lambda gate, up: F.silu(gate) * up)

    def gemm_swiglu(x, gate, up, multiplier, store_preact=True):
        assert (x.dim(), multiplier, store_preact) == (3, 1.0, False)
        return (F.silu(x.float() @ gate.float().t()) * (x.float() @ up.float().t())).to(x.dtype), None

    mlp.gemm_swiglu = gemm_swiglu
    for module in (types.ModuleType("liger_kernel"), types.ModuleType("liger_kernel.ops"), swiglu, mlp):
        module.__spec__ = types.SimpleNamespace(name=module.__name__)
        monkeypatch.setitem(sys.modules, module.__name__, module)


@pytest.mark.parametrize("name", [name for name in NAMES if name != "forward + gelu"])
def test_quack_does_every_job_that_it_can(name, fake_quack):
    job = job_of(name, Product("even", 16, 24, 8))
    rows = bench_linear.measure(job, about(job), setting(quack=linear_peers.PEERS["quack"]), 1e9)
    assert [row["provider"].split(",")[0] for row in rows] == ["halfops", "quack"]
    assert [row for row in rows if "error" in row] == []


def test_other_packages_have_a_run_of_their_own(fake_quack, fake_liger, tmp_path):
    arguments = ["--beside", "--quick", "--dtype", "fp16", "--record", "--out", str(tmp_path)]
    assert bench_linear.main(arguments) == 0
    rows = recorded(tmp_path / "linear_peers.jsonl")
    assert [row for row in rows if "error" in row or "skipped" in row] == []
    assert {row["suite"] for row in rows} == {"fused", "square"}
    assert {row["provider"] for row in rows if row["job"] == "swiglu"} == {
        "halfops",
        "torch",
        "quack",
        "liger, torch for products",
        "liger",
    }


def test_a_package_that_is_not_installed_is_said_and_kept(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(linear_peers.importlib.util, "find_spec", lambda name: None)
    arguments = ["--beside", "--quick", "--suite", "skinny", "--record", "--out", str(tmp_path)]
    assert bench_linear.main(arguments) == 0
    rows = recorded(tmp_path / "linear_peers.jsonl")
    assert [(row["provider"], row["skipped"]) for row in rows[:2]] == [
        (name, "not installed") for name in ("quack", "liger")
    ]
    assert {row["provider"] for row in rows[2:]} == {"halfops", "torch"}
    assert "quack is not installed" in capsys.readouterr().out


# --- what becomes of the rows ---------------------------------------------------------------------------------------


def linear_row(**facts):
    row = {"time": "2", "suite": "square", "case": "fp16, square (8192, 8192, 8192)", "job": "forward"}
    return {**row, "provider": "halfops", "ms": 2.0, "gflop_per_s": 400e3, "times_ours": 1.0, **facts}


def test_targets_of_products_are_judged():
    rows = [
        linear_row(),
        linear_row(job="dgrad", gflop_per_s=1.0),
        linear_row(provider="torch", times_ours=0.7),
        linear_row(suite="odd_k", case="a", provider="torch", times_ours=2.5),
        linear_row(suite="odd_k", case="b", provider="torch", times_ours=1.9),
        linear_row(suite="odd_k", case="b", provider="torch.compile", times_ours=1.0),
        linear_row(suite="fused", job="dgrad + gelu_tanh' + db", provider="torch.compile", times_ours=1.3),
        linear_row(suite="fused", job="dgrad + gelu_tanh' + db", provider="torch", times_ours=1.1),
        linear_row(suite="fused", job="swiglu", provider="torch.compile", times_ours=1.0),
        {"suite": "skinny", "case": "c", "job": "forward", "provider": "torch", "skipped": "no time was left"},
    ]
    large, odd, fused, skinny = targets.judged(rows)[-4:]
    assert (large["value"], large["bound"], large["met"]) == (400, 380, True)
    assert (odd["value"], odd["met"]) == (1.9, False)
    assert (fused["value"], fused["met"]) == (1.3, True)
    assert (skinny["value"], skinny["met"]) == (None, None)
    assert targets.told(large).endswith(" 400  bound 380   met")


def test_the_short_table_names_the_peers_of_a_product(tmp_path):
    rows = [linear_row(), linear_row(provider="torch", times_ours=0.7), linear_row(provider="x", times_ours=None)]
    (tmp_path / "linear.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (line,) = targets.short(targets.recorded(tmp_path, since="2"))
    assert line.endswith("2 (400 TFLOP/s) ms | others torch 0.70x")


def test_old_lines_and_new_ones_are_read_alike(tmp_path):
    old = figures.newest(ROOT / "benchmarks" / "results" / "linear.jsonl")
    assert re.search(r"[GT]FLOP/s\)", figures.table(old)[2])
    stamp = {"cpu": "a CPU", "gpu": "a GPU", "device": "cuda", "threads": 2, "torch": "2.13", "commit": "abc"}
    spread = {"ms_low": 1.0, "ms_high": 3.0, **stamp}
    rows = [linear_row(plan="128x256x32, 4 stages", **spread), linear_row(provider="torch", ms=4.0, **spread)]
    (tmp_path / "linear.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    text = figures.render(tmp_path, figures.HEADLINES)
    assert "| 2 ms [1, 3] (400 TFLOP/s), 128x256x32, 4 stages | torch **2.00x** |" in text
