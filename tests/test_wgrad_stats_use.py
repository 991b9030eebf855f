"""Statistics of weight gradients from their own kernels: who decides whether they are used, and what for."""

from __future__ import annotations

import math

import pytest
import torch
from bounds import UNIT
from cases.amp import all_equal, everything
from cases.wgrad_stats import (
    SCALE,
    backward,
    batch,
    checked,
    each_optimizer,
    names_of_weights,
    network,
    new_scaler,
    on_every_device,
    sgd,
    weights,
)

from halfops._ops import fresh
from halfops.amp import GradScaler, wgrad_stats

NEEDS_KERNEL = "linear"


@pytest.fixture(autouse=True)
def everywhere():
    with on_every_device():
        yield


# -- who decides


@each_optimizer
def test_zeros_are_counted_by_reading(make, device):
    model = network(device)
    backward(model)
    scaler = new_scaler(device, count_zeros=True)
    assert checked(model, scaler, make(model)) == []
    assert all(row.zeros is not None for row in scaler.report().tensors)


def test_the_default_is_by_device():
    with wgrad_stats(None):
        assert fresh.wanted(torch.device("cuda"), torch.float16)
        assert fresh.wanted(torch.device("cuda"), torch.bfloat16)
        for dtype in (torch.float32, torch.float64):  # torch's ops, which would have to read what they made
            assert not fresh.wanted(torch.device("cuda"), dtype)
        assert not fresh.wanted(torch.device("cpu"), torch.float16)
        backward(network(torch.device("cpu")))
        assert not fresh.recorded()


def test_the_switch(device):
    assert fresh.wanted(device, torch.float16)
    with wgrad_stats(False):
        assert not fresh.wanted(device, torch.float16)
        with wgrad_stats(True):
            assert fresh.wanted(device, torch.float16)
        assert not fresh.wanted(device, torch.float16)
    assert fresh.wanted(device, torch.float16)
    wgrad_stats(False)
    assert not fresh.wanted(device, torch.float16)
    wgrad_stats(True)
    assert fresh.wanted(device, torch.float16)
    for wrong in (1, "cuda"):
        with pytest.raises(TypeError, match=r"enabled: got .* wanted True, False, or None"):
            wgrad_stats(wrong)
    assert fresh.wanted(device, torch.float16)


def test_switched_off_after_backward(device):
    model = network(device)
    backward(model)
    with wgrad_stats(False):
        for p in weights(model):
            p.grad.data.mul_(2)  # what no counter sees
        assert checked(model, new_scaler(device)) == []


@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize("when", ["before backward", "before step"])
def test_with_several_processes_gradients_are_read(processes, when, device, monkeypatch):
    model = network(device)

    def start():
        monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
        monkeypatch.setattr(torch.distributed, "get_world_size", lambda: processes)

    if when == "before backward":
        start()
    backward(model)
    assert fresh.recorded() == (processes == 1 or when == "before step")
    start()
    assert checked(model, new_scaler(device)) == (names_of_weights(model) if processes == 1 else [])
    with wgrad_stats(True, distributed=True):
        model.zero_grad()
        backward(model)
        assert checked(model, new_scaler(device)) == names_of_weights(model)


@pytest.mark.parametrize("name", fresh._LAUNCHERS)
def test_other_processes_that_only_the_launcher_knows_of(name, device, monkeypatch):
    """As in a job of Horovod's, which reduces without torch.distributed."""
    model = network(device)
    backward(model)
    for size, known in (("4", False), ("1", True)):
        monkeypatch.setenv(name, size)
        fresh._launched_with_others.cache_clear()
        assert fresh.wanted(device, torch.float16) == known
        assert (fresh.take([p.grad for p in weights(model)]) != {}) == known
    fresh._launched_with_others.cache_clear()


class Graph:
    pass


@pytest.mark.parametrize(
    ("backward_in", "step_in", "used"),
    [(None, None, True), ("a", "a", True), ("a", None, False), (None, "a", False), ("a", "b", False)],
)
def test_captures_use_their_own_statistics(backward_in, step_in, used, device, monkeypatch):
    """Replays write statistics of their own graph only, and Python sees none of it."""
    graphs = {"a": Graph(), "b": Graph(), None: None}
    model = network(device)
    monkeypatch.setattr(fresh, "_capture", lambda device: graphs[backward_in])
    backward(model)
    monkeypatch.setattr(fresh, "_capture", lambda device: graphs[step_in])
    assert checked(model, new_scaler(device)) == (names_of_weights(model) if used else [])


def test_a_graph_that_is_gone(device, monkeypatch):
    model = network(device)
    graphs = [Graph()]
    monkeypatch.setattr(fresh, "_capture", lambda device: graphs[0])
    backward(model)
    graphs[0] = None
    assert checked(model, new_scaler(device)) == []


def test_a_capture_that_torch_cannot_name(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    monkeypatch.setattr(torch.cuda, "CUDAGraph", type("CUDAGraph", (), {}))  # newer ones inherit the name from C++
    device = torch.device("cuda")
    assert fresh._capture(device) is not None
    assert fresh._capture(device) is not fresh._capture(device)


@pytest.mark.cuda
def test_a_captured_iteration(monkeypatch):
    device, taken, take = torch.device("cuda"), [], fresh.take
    monkeypatch.setattr(fresh, "take", lambda grads: taken.append(take(grads)) or taken[-1])
    model = network(device)
    optimizer, scaler, x = sgd(model), new_scaler(device, named_parameters=model), batch(model)

    def iterate():
        optimizer.zero_grad()
        (model(x).float().square().mean() * SCALE).backward()
        scaler.step(optimizer)
        scaler.update()

    iterate()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        iterate()
    named = hasattr(torch.cuda.CUDAGraph, "get_currently_capturing_graph")
    assert [len(found) for found in taken] == [len(weights(model)), len(weights(model)) if named else 0]
    with torch.no_grad():
        weights(model)[-1].fill_(math.inf)
    graph.replay()
    assert scaler.last_step_skipped.item()
    assert set(scaler.report().overflowed) & set(names_of_weights(model))


def test_statistics_that_nobody_takes_do_not_pile_up(device, monkeypatch):
    monkeypatch.setattr(fresh, "_MOST", 8)
    model = network(device)
    for _ in range(3):
        model.zero_grad()
        backward(model)
    assert len(fresh._records) == 8
    # The oldest go: here the last layers', whose backward runs first. The next look finds the rest.
    monkeypatch.setattr(fresh, "_MOST", 3)
    model.zero_grad()
    fresh._records.clear()
    backward(model)
    assert len(checked(model, new_scaler(device))) == 3


def test_numbers_are_none_that_counting_reaches(device):
    model = network(device)
    backward(model)
    numbers = [p.grad._version for p in weights(model)]
    assert len(set(numbers)) == len(numbers)
    assert all(2**31 <= n < 2**31 + 2**30 for n in numbers)
    assert max(p.grad._version for p in model.parameters() if p.dim() == 1) < 2


# -- what it means for training


def train(make, device, enabled, **options):
    """With overflows: a scale that grows after every second step. Weights, scales, where numbers came from."""
    with wgrad_stats(enabled):
        torch.manual_seed(0)
        model = network(device)
        optimizer = make(model, **options)
        scaler = GradScaler(device.type, init_scale=2.0**10, growth_interval=2, named_parameters=model)
        trace, sources = [], set()
        for step in range(40):
            optimizer.zero_grad()
            loss = (model(batch(model, step)).float() - 1).square().mean()
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            rows = scaler.report().tensors
            scaler.update()
            sources |= {row.source for row in rows if len(row.shape) == 2}
            trace.append((scaler.get_scale(), scaler.last_step_skipped.item(), [row.nonfinite for row in rows]))
        return everything(model, optimizer), trace, sources


@each_optimizer
def test_training_is_the_same_to_the_bit(make, device, access):
    on, off = (train(make, device, enabled) for enabled in (True, False))
    assert (on[2], off[2]) == ({"wgrad"}, {"read"})
    skipped = [skipped for _, skipped, _ in on[1]]
    assert 3 < sum(skipped) < 30, "the scale met its limit"
    assert on[1] == off[1]
    assert all_equal(on[0], off[0])


def test_clipped_training_differs_by_the_norms_rounding(device, access):
    """The sum of squares is added in another order: the clip factor may differ in its last bit."""
    on, off = (train(sgd, device, enabled, max_grad_norm=1e-2) for enabled in (True, False))
    assert (on[2], off[2]) == ({"wgrad"}, {"read"})
    assert on[1] == off[1]
    for a, b in zip(on[0], off[0], strict=True):
        assert torch.allclose(a.float(), b.float(), rtol=2 * UNIT[torch.float16], atol=2.0**-24)


def test_the_reports_table_says_it(device):
    model = network(device)
    scaler, optimizer = new_scaler(device, named_parameters=model), sgd(model)
    backward(model)
    scaler.step(optimizer)
    lines = str(scaler.report()).splitlines()[1:]
    assert ["  wgrad" in line for line in lines] == [p.dim() == 2 for p in model.parameters()]
    assert ["  read" in line for line in lines] == [p.dim() != 2 for p in model.parameters()]
    scaler.update()
    scaler.step(optimizer)
    assert "read" not in str(scaler.report())
