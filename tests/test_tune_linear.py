"""The tuner of the table of policies on a table that is made up: rows that win, cannot serve, or are wrong."""

from __future__ import annotations

import json
import re
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks import harness, jobs, tune_linear  # noqa: E402
from benchmarks.shapes import Product  # noqa: E402
from benchmarks.tune_linear import SELECTED, Variant  # noqa: E402

CPU = torch.device("cpu")
TILES = {"128x256x32": 2, "64x64x32": 6, "128x128x32": 3, "128x128x32 staged": 3, "broken": 3, "wrong": 3}
ABOUT = {"suite": "s", "case": "fp16, odd (9, 7, 13)", "job": "forward"}


class Table:
    """Of policies, one of which is selected; the made-up seconds of a product are those of what it ran as."""

    def __init__(self):
        self.forced, self.ran, self.selected = ("", 0), "", ("128x256x32", 2)
        self.asked = set()
        self.seconds = {"128x256x32, 4 stages, 2 blocks": 4e-3, "64x64x32, 4 stages, 12 blocks": 2e-3}

    def policies(self):
        return list(TILES)

    def force_policy(self, name, blocks=0):
        self.forced = (name, blocks)
        self.asked.add(name if blocks == 0 else f"{name} on {blocks}")

    def last_plan(self):
        return self.ran

    def run(self, ours):
        """The product, as whatever is in force."""

        def ran(*inputs):
            name, blocks = self.forced
            if name in ("", "128x128x32 staged"):  # that one serves no such product
                name, blocks = self.selected
            if name == "broken":
                raise RuntimeError("misaligned address")
            self.ran = f"{name}, 4 stages, {blocks or TILES[name]} blocks"
            answer = ours(*inputs)
            if name == "wrong":
                (answer if isinstance(answer, torch.Tensor) else answer[0]).mul_(2)
            return answer

        return ran


@pytest.fixture
def table(monkeypatch):
    made = Table()

    def clock(device):
        def sample(call):
            made.ran = "torch"
            call()
            return harness.Sample(made.seconds.get(made.ran, 5e-3))

        return sample

    monkeypatch.setattr(harness, "clock", clock)
    monkeypatch.setattr(tune_linear, "clock", clock)
    for name in ("policies", "force_policy", "last_plan"):
        monkeypatch.setattr(tune_linear.ops, name, getattr(made, name))
    return made


def job_of(table, name="forward"):
    job = jobs.make(name, Product("odd", 9, 7, 13), jobs.Tensors(Product("odd", 9, 7, 13), torch.float16, CPU))
    return replace(job, ours=table.run(job.ours))


def test_numbers_of_blocks_worth_trying():
    assert tune_linear.block_counts(4, 132) == [8, 16, 32, 132, 264]
    assert tune_linear.block_counts(200, 132) == [400, 132, 264]
    assert tune_linear.block_counts(132, 132) == [264, 528]
    assert tune_linear.block_counts(5000, 132) == []


def test_a_plan_tells_its_row_and_its_blocks():
    assert tune_linear.row_of("128x128x32 staged, 2 stages, 8 blocks") == "128x128x32 staged"
    assert tune_linear.blocks_of("128x128x32 staged, 2 stages, 8 blocks") == 8
    assert tune_linear.blocks_of("nothing to do") is None


def test_a_scan_tries_every_row_and_keeps_what_is_right(table):
    found = tune_linear.scan(job_of(table), torch.float16, CPU)
    assert found.selected == "128x256x32, 4 stages, 2 blocks"
    assert {tune_linear.row_of(plan) for plan in found.seconds} == {"128x256x32", "64x64x32", "128x128x32"}
    # As many as the tiles, twice, four times, and the four processors of a CPU once and twice.
    counts = [tune_linear.blocks_of(plan) for plan in found.seconds if plan.startswith("64x64x32")]
    assert counts == [6, 12, 4, 8]
    # A row that serves no such product, or a wrong one, is not tried again on other numbers of blocks.
    assert {asked for asked in table.asked if re.match("128x128x32 staged|broken|wrong", asked)} == {
        "128x128x32 staged",
        "broken",
        "wrong",
    }
    assert found.behind["64x64x32, 4 stages, 12 blocks"] == Variant("64x64x32", 12)
    assert found.wrong["broken, its own blocks"] == "RuntimeError: misaligned address"
    assert found.wrong["wrong, its own blocks"].startswith("ArithmeticError: result 0 is off by")
    assert table.forced == ("", 0)


def test_the_best_row_is_measured_beside_the_selected_one(table, capsys):
    rows = tune_linear.tune(job_of(table), ABOUT, torch.float16, CPU, 3)
    selected, best, *others, theirs = rows
    assert (selected["provider"], selected["ms"], selected["faster"]) == (SELECTED, 4.0, 1.0)
    assert selected["plan"] == "128x256x32, 4 stages, 2 blocks"
    assert selected["scanned_ms"]["64x64x32, 4 stages, 12 blocks"] == 2.0
    assert (best["plan"], best["policy"], best["faster"]) == ("64x64x32, 4 stages, 12 blocks", "64x64x32", 2.0)
    assert (theirs["provider"], theirs["ms"]) == ("torch", 5.0)
    assert len(others) == tune_linear.FINALISTS - 1
    printed = capsys.readouterr().out
    assert "forward                  broken, its own blocks: RuntimeError: misaligned address" in printed
    assert "selected 128x256x32, 4 stages, 2 blocks: 4.000 ms (1.25x torch); best 64x64x32, 4 stages, 12" in printed
    assert table.forced == ("", 0)


def test_a_sum_is_judged_by_its_first_call(table):
    found = tune_linear.scan(job_of(table, "wgrad + fp32 sum + stats"), torch.float16, CPU)
    assert set(found.wrong) == {"broken, its own blocks", "wrong, its own blocks"}
    assert len(found.seconds) > 3


def test_a_selection_that_is_wrong_is_said(table):
    table.selected = ("wrong", 3)
    (row,) = tune_linear.tune(replace(job_of(table)), ABOUT, torch.float16, CPU, 3)
    assert row["error"] == "what is selected gives no right result"
    assert "selected, its own blocks" in row["wrong"]
    assert table.forced == ("", 0)


def test_what_was_forced_ends_with_an_error(table, monkeypatch):
    def broken(*_, **__):
        raise RuntimeError("out of memory")

    monkeypatch.setattr(tune_linear, "interleave", broken)
    with pytest.raises(RuntimeError):
        tune_linear.tune(job_of(table), ABOUT, torch.float16, CPU, 3)
    assert table.forced == ("", 0)


def test_sentences_for_the_table():
    def of(case, *rows):
        named = ("provider", "policy", "ms", "faster")
        return [{"case": case, "job": "forward", **dict(zip(named, row, strict=True))} for row in rows]

    selected, theirs = (SELECTED, None, 4.0, 1.0), ("torch", None, 1.0, 4.0)
    rows = [
        *of("a", selected, ("a, 2 blocks", "64x64x32", 2.0, 2.0), theirs),
        *of("b", selected, ("a, 4 blocks", "64x64x32", 3.0, 4 / 3), theirs),
        *of("c", selected, ("b, 4 blocks", "128x128x32", 3.95, 4 / 3.95), theirs),
        *of("d", selected, ("b, 4 blocks", "128x128x32", 5.0, 0.8), theirs),
        {"case": "e", "job": "forward", "provider": SELECTED, "error": "out of memory"},
    ]
    assert tune_linear.proposals(rows) == [
        "selection: within 2% of the best row for 2 of 4 products",
        "row 64x64x32: better than what is selected for 2 of 4 products, median 1.67x: "
        "a forward (2.00x), b forward (1.33x)",
    ]
    assert tune_linear.proposals([]) == ["selection: within 2% of the best row for 0 of 0 products"]


def test_the_whole_is_recorded_and_closes_with_sentences(table, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(jobs, "all_of", lambda product, dtype, device: [job_of(table)])
    arguments = ["--quick", "--suite", "odd_k:60,long_k:0", "--dtype", "fp16", "--record", "--out", str(tmp_path)]
    assert tune_linear.main(arguments) == 0
    rows = [json.loads(line) for line in (tmp_path / "tune.jsonl").read_text().splitlines()]
    assert {row["skipped"] for row in rows if row["suite"] == "long_k"} == {"no time was left"}
    measured = [row for row in rows if row["suite"] == "odd_k"]
    assert {row["bench"] for row in measured} == {"tune"}
    assert len(measured) == 8 * (2 + tune_linear.FINALISTS)
    assert "row 64x64x32: better than what is selected for 8 of 8 products, median 2.00x" in capsys.readouterr().out


def test_a_case_that_breaks_leaves_the_others(table, monkeypatch, tmp_path):
    def broken(product, dtype, device):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(jobs, "all_of", broken)
    assert tune_linear.main(["--quick", "--suite", "long_k", "--record", "--out", str(tmp_path)]) == 0
    rows = [json.loads(line) for line in (tmp_path / "tune.jsonl").read_text().splitlines()]
    assert {row["error"] for row in rows} == {"OutOfMemoryError: CUDA out of memory"}


def test_a_cpu_rehearses_without_a_table(tmp_path, capsys):
    arguments = ["--quick", "--suite", "fused", "--dtype", "fp16", "--record", "--out", str(tmp_path)]
    assert tune_linear.main(arguments) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("no table of policies on cpu: a rehearsal, of what runs beside torch\n")
    assert "selection: within 2% of the best row for 8 of 8 products" in printed
    rows = [json.loads(line) for line in (tmp_path / "tune.jsonl").read_text().splitlines()]
    assert [row["provider"] for row in rows] == [SELECTED, "torch"] * 8
    assert {row["plan"] for row in rows if row["provider"] == SELECTED} == {tune_linear.NO_TABLE}


def test_a_device_without_the_op_is_said(monkeypatch, capsys):
    monkeypatch.setattr(tune_linear.halfops, "has_kernel", lambda op, device: False)
    assert tune_linear.main(["--device", "cuda"]) == 0
    assert capsys.readouterr().out == "tune: no linear on cuda yet\n"
