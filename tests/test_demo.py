"""`python -m halfops demo` in miniature: it says, draws and stores what it measured, and gets along without extras."""

from __future__ import annotations

import json
import math
import sys

import pytest
import torch
from torch import nn

from halfops.cli import main
from halfops.study import data
from halfops.study.arms import ARMS, set_up
from halfops.study.device import choose
from halfops.study.measure import Spread, UnchangedShare, bytes_per_parameter
from halfops.study.models import ByteTransformer, ImageClassifier
from halfops.study.recipe import QUICK_STEPS, RECIPES, Recipe
from halfops.study.study import TaskResult
from halfops.study.tasks import SourceText
from halfops.study.train import Run
from halfops.study.verdict import compare

ARM = {arm.key: arm for arm in ARMS}
CPU = torch.device("cpu")
PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture(autouse=True)
def _little_held_out_text(monkeypatch):
    """Judging is most of the time of a training of a few steps."""
    monkeypatch.setattr(SourceText, "curve_windows", 4)
    monkeypatch.setattr(SourceText, "final_windows", 8)


def demo(*arguments):
    return main(["demo", *map(str, arguments)])


def hide(monkeypatch, *packages):
    """Makes `import package` fail, as where it is not installed."""
    for name in [name for name in sys.modules if name.split(".")[0] in packages]:
        monkeypatch.delitem(sys.modules, name)
    for package in packages:
        monkeypatch.setitem(sys.modules, package, None)


# --- the command ------------------------------------------------------------------------------------------------------


def test_demo_tells_draws_and_stores(tmp_path, capsys):
    """Every arm on every task that has its data here, one seed, four steps."""
    pytest.importorskip("matplotlib")
    pytest.importorskip("sklearn")
    file = tmp_path / "deep" / "figures.json"
    status = demo("--seeds", 1, "--steps", 4, "--device", "cpu", "--out", tmp_path / "out", "--json", file)
    told = capsys.readouterr().out
    assert status == 0
    for arm in ARMS:
        assert told.count(arm.title) >= len(RECIPES)
    picture = (tmp_path / "out" / "precision_study.png").read_bytes()
    assert picture.startswith(PNG)
    assert len(picture) > 30_000

    figures = json.loads(file.read_text())
    assert set(figures) == {"settings", "versions", "machine", "tasks", "verdict", "notes"}
    assert figures["versions"]["torch"].split("+")[0] == torch.__version__.split("+")[0]
    assert figures["versions"]["build"]
    assert set(figures["tasks"]) == set(RECIPES)
    for task in figures["tasks"].values():
        assert set(task["arms"]) == set(ARM)
        for arm in task["arms"].values():
            (run,) = arm["runs"]
            assert len(run["losses"]) == 4
            assert all(map(math.isfinite, run["losses"]))
            assert run["curve"][-1][0] == 4
            assert arm["final"]["mean"] == run["final"]
            assert arm["seconds_per_step"] > 0
            assert arm["skipped_steps"] == 0
            assert arm["against_fp32"] is None  # one seed has no spread
            assert 0 <= arm["unchanged_kept"] <= arm["unchanged_seen"] <= 1
            parts = arm["bytes_per_parameter"]
            assert parts["total"] == pytest.approx(
                sum(parts[p] for p in ("weights", "gradients", "masters", "moments"))
            )


def test_bytes_a_parameter_are_those_of_the_formats(tmp_path):
    """AdamW: 4+4+8, and 2+2+2+8 with a split master, 2+2+8 without; SGD with momentum keeps 4 where AdamW keeps 8."""
    pytest.importorskip("sklearn")
    file = tmp_path / "figures.json"
    assert (
        demo("--seeds", 1, "--steps", 2, "--tasks", "digits", "--device", "cpu", "--out", tmp_path, "--json", file) == 0
    )
    tasks = json.loads(file.read_text())["tasks"]
    names = ("weights", "gradients", "masters", "moments")
    wanted = {"fp32": (4, 4, 0), "amp": (4, 4, 0), "split": (2, 2, 2), "stochastic": (2, 2, 0), "nearest": (2, 2, 0)}
    for task, moments in (("digits-adamw", 8), ("digits-sgd", 4), ("digits-small-steps", 4)):
        for arm, rest in wanted.items():
            parts = tasks[task]["arms"][arm]["bytes_per_parameter"]
            # One step count a tensor is the rest: a few bytes over tens of thousands of parameters.
            assert [parts[name] for name in names] == pytest.approx([*rest, moments], abs=0.01)


def test_two_seeds_give_a_verdict(tmp_path, capsys):
    arguments = ("--seeds", 2, "--steps", 2, "--tasks", "text", "--arms", "fp32", "split", "--device", "cpu")
    assert demo(*arguments, "--out", tmp_path, "--json", tmp_path / "f.json") == 0
    against = json.loads((tmp_path / "f.json").read_text())["tasks"]["text"]["arms"]["split"]["against_fp32"]
    assert against["verdict"] in {"within", "better", "worse"}
    assert (abs(against["gain"]) <= against["spread"]) == (against["verdict"] == "within")
    assert "(its seeds span" in capsys.readouterr().out


def test_without_scikit_learn_the_text_task_runs(tmp_path, capsys, monkeypatch):
    hide(monkeypatch, "sklearn")
    file = tmp_path / "figures.json"
    arguments = ("--seeds", 1, "--steps", 2, "--arms", "fp32", "--device", "cpu", "--out", tmp_path, "--json", file)
    assert demo(*arguments) == 0
    assert "pip install scikit-learn" in capsys.readouterr().out
    figures = json.loads(file.read_text())
    assert list(figures["tasks"]) == ["text"]
    assert len(figures["notes"]) == 1
    assert demo("--tasks", "digits", "--steps", 2, "--device", "cpu", "--out", tmp_path) == 1


def test_a_place_that_cannot_be_written_is_told_before_the_training(tmp_path, capsys):
    file = tmp_path / "file"
    file.write_text("")
    assert demo("--out", file / "folder") == 2
    assert f"--out: cannot write {file}/folder/precision_study.png" in capsys.readouterr().err
    assert demo("--out", tmp_path, "--json", file / "figures.json") == 2
    assert f"--json: cannot write {file}/figures.json" in capsys.readouterr().err


def test_without_matplotlib_there_is_a_table(tmp_path, capsys, monkeypatch):
    hide(monkeypatch, "matplotlib")
    arguments = ("--seeds", 1, "--steps", 2, "--tasks", "text", "--arms", "fp32", "--device", "cpu", "--out", tmp_path)
    assert demo(*arguments) == 0
    told = capsys.readouterr().out
    assert "held-out loss" in told
    assert "pip install matplotlib" in told
    assert not list(tmp_path.iterdir())


def test_without_a_terminal_progress_is_a_few_lines(tmp_path, capsys):
    demo("--seeds", 1, "--steps", 20, "--tasks", "text", "--arms", "fp32", "--device", "cpu", "--out", tmp_path)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 10
    assert lines[-1].strip().startswith("100 %")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--tasks", "cifar"), "--tasks: got 'cifar', wanted one of digits-sgd"),
        (("--arms", "fp8"), "--arms: got 'fp8', wanted one of fp32"),
        (("--seeds", "0"), "--seeds: got 0, wanted at least 1"),
        (("--steps", "-3"), "--steps: got -3, wanted at least 1"),
        (("--device", "mps"), "--device: got mps, wanted cpu or cuda"),
        (("--device", "abacus"), "--device: got abacus, wanted cpu or cuda"),
    ],
)
def test_arguments_that_make_no_sense_end_with_a_sentence(arguments, sentence, capsys):
    assert demo(*arguments) == 2
    assert sentence in capsys.readouterr().err


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device here")
def test_a_device_that_is_not_there_is_named():
    with pytest.raises(RuntimeError, match="finds no CUDA device here; --device cpu"):
        choose("cuda")
    assert choose("auto") == CPU


# --- what it measures -------------------------------------------------------------------------------------------------


def test_unchanged_updates_are_counted_where_there_was_a_gradient():
    """Of four weights one has no gradient, one keeps its bits, two move: a third unchanged."""
    network = nn.Linear(4, 1, bias=False)
    setup = set_up(ARM["fp32"], network, Recipe("", "sgd", 1.0, 1, 1), CPU, 0)
    with torch.no_grad():
        network.weight.copy_(torch.tensor([[1.0, 1.0, 1.0, 1.0]]))
    network.weight.grad = torch.tensor([[0.0, 2.0**-30, 2.0**-20, 1.0]])
    share = UnchangedShare()
    share.before_step(setup)
    setup.optimizer.step()
    share.after_step(setup)
    assert share.kept == pytest.approx(1 / 3)
    assert share.seen == share.kept
    assert math.isnan(UnchangedShare().kept)


def test_a_master_keeps_what_the_16_bit_weight_does_not_show():
    """A step of a quarter of a unit: no 16-bit weight moves, every master does; without a master nothing does."""
    shares = {}
    for key in ("amp", "split", "nearest"):
        network = nn.Linear(8, 1, bias=False)
        setup = set_up(ARM[key], network, Recipe("", "sgd", 2.0**-12, 1, 1), CPU, 0)
        with torch.no_grad():
            network.weight.fill_(1.0)
        network.weight.grad = torch.ones_like(network.weight)
        share = shares[key] = UnchangedShare()
        share.before_step(setup)
        setup.optimizer.step()
        share.after_step(setup)
    assert (shares["amp"].seen, shares["amp"].kept) == (1, 0)
    assert (shares["split"].seen, shares["split"].kept) == (1, 0)
    assert (shares["nearest"].seen, shares["nearest"].kept) == (1, 1)


def test_bytes_are_counted_from_the_tensors():
    network = nn.Linear(100, 100, bias=False)
    setup = set_up(ARM["split"], network, Recipe("", "adamw", 1e-3, 1, 1), CPU, 0)
    network.weight.grad = torch.ones_like(network.weight)
    setup.optimizer.step()
    held = bytes_per_parameter(setup)
    assert (held.weights, held.gradients, held.masters) == (2, 2, 2)
    assert held.moments == pytest.approx(8, abs=0.001)


def _result(fp32, other, *, higher_is_better):
    runs = {
        "fp32": [Run("fp32", i, 1, final=value) for i, value in enumerate(fp32)],
        "split": [Run("split", i, 1, final=value) for i, value in enumerate(other)],
    }
    return TaskResult("t", "T", "m", higher_is_better, "", 1, [ARM["fp32"], ARM["split"]], runs)


@pytest.mark.parametrize(
    ("fp32", "other", "higher_is_better", "word"),
    [
        ((97.0, 98.0, 99.0), (96.0, 96.5, 97.0), True, "within"),  # 1.5 below, fp32 spans 2
        ((97.0, 98.0, 99.0), (94.0, 95.0, 96.0), True, "worse"),
        ((97.0, 97.1, 97.2), (98.0, 98.0, 98.0), True, "better"),
        ((2.0, 2.1, 2.2), (2.5, 2.5, 2.5), False, "worse"),
        ((2.0, 2.1, 2.2), (1.5, 1.5, 1.5), False, "better"),
        ((2.0, 2.1, 2.2), (2.0, math.nan, 2.0), False, "worse"),  # diverged
    ],
)
def test_the_verdict_follows_from_the_figures(fp32, other, higher_is_better, word):
    found = compare(_result(fp32, other, higher_is_better=higher_is_better), ARM["split"])
    assert found.word == word


def test_a_difference_with_every_seed_is_told():
    """Far within the spread of fp32's seeds, but below fp32 with each of them."""
    split = ARM["split"]
    assert compare(_result((90.0, 95.0), (89.9, 94.9), higher_is_better=True), split).every_seed == "worse"
    assert compare(_result((2.0, 2.5), (1.9, 2.4), higher_is_better=False), split).every_seed == "better"
    assert compare(_result((90.0, 95.0), (90.0, 94.0), higher_is_better=True), split).every_seed == ""


def test_one_seed_has_no_spread_and_hence_no_verdict():
    assert compare(_result((1.0,), (1.0,), higher_is_better=True), ARM["split"]) is None
    assert Spread.of([3.0]) == Spread(3.0, 0.0, 3.0, 3.0)
    assert Spread.of([1.0, 3.0]).deviation == pytest.approx(math.sqrt(2))


# --- what it trains ---------------------------------------------------------------------------------------------------


def test_arms_start_from_the_same_weights():
    """fp16 arms hold the fp32 arm's initial weights, rounded; a seed gives them again."""
    weights = {}
    for arm in ARMS:
        torch.manual_seed(5)
        weights[arm.key] = list(set_up(arm, ByteTransformer(), RECIPES["text"], CPU, 5).network.parameters())
    for arm in ARMS:
        for ours, reference in zip(weights[arm.key], weights["fp32"], strict=True):
            assert torch.equal(ours, reference.to(ours.dtype))


@pytest.mark.parametrize("network", [ByteTransformer, ImageClassifier])
def test_converted_networks_keep_their_keys(network):
    plain = network()
    assert list(set_up(ARM["split"], network(), RECIPES["text"], CPU, 0).network.state_dict()) == list(
        plain.state_dict()
    )


def test_the_transformer_does_not_look_ahead():
    network = ByteTransformer(length=16)
    text = torch.randint(256, (2, 16))
    changed = text.clone()
    changed[:, 10:] = (changed[:, 10:] + 1) % 256
    with torch.no_grad():
        before, after = network(text), network(changed)
    torch.testing.assert_close(before[:, :10], after[:, :10])
    assert not torch.allclose(before[:, 10:], after[:, 10:])


def test_text_is_split_by_file_and_the_same_every_time():
    first, second = data.stdlib_text(60_000, 20_000), data.stdlib_text(60_000, 20_000)
    assert torch.equal(first.train, second.train)
    assert torch.equal(first.held_out, second.held_out)
    assert (len(first.train), len(first.held_out)) == (60_000, 20_000)
    assert int(first.train.max()) < 256
    window = bytes(first.held_out[1000:1200].tolist())
    assert window not in bytes(first.train.tolist())


def test_a_python_without_sources_is_told_so(tmp_path, monkeypatch):
    monkeypatch.setattr(data.sysconfig, "get_path", lambda _: str(tmp_path))
    with pytest.raises(data.MissingDataError, match="a Python that was installed with its sources"):
        data.stdlib_text()


def test_learning_rates_warm_up_and_fall():
    recipe = Recipe("", "adamw", 2.0, steps=110, batch=1, warmup=10, final_rate=0.1)
    assert recipe.rate(0) == pytest.approx(0.2)
    assert recipe.rate(9) == recipe.rate(10) == 2.0
    assert recipe.rate(60) == pytest.approx(2 * 0.55)
    assert recipe.rate(110) == pytest.approx(0.2)
    assert Recipe("", "sgd", 0.5, steps=10, batch=1).rate(7) == 0.5


def test_quick_is_shorter_for_every_task():
    assert set(QUICK_STEPS) == set(RECIPES)
    assert all(QUICK_STEPS[key] < RECIPES[key].steps for key in RECIPES)
