"""What holds on a GPU: the CPU's bits, no wait for the host, graphs that replay the eager step, any stream, any device.

Comparisons with the CPU run on the CPU, too, where they compare it with itself: so that they are known to run.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import pytest
import torch
from cases import bits
from cases import optim as cases
from torch import Tensor

import halfops
from halfops._ops import optim as optim_ops
from halfops._ops import scale as scale_ops

NEEDS_KERNEL = "optim_step_"

# Around vectors, chunks of 4096 and groups of 256 chunks; empty and without dimensions.
SHAPES = [(), (0, 3), (7,), (33, 65), (4096,), (3, 4099), (1_050_000,)]
FORMATS = [
    (torch.float16, "split", "nearest"),
    (torch.float16, "fp32", "nearest"),
    (torch.float16, "none", "stochastic"),
    (torch.bfloat16, "split", "nearest"),
    (torch.bfloat16, "none", "nearest"),
    (torch.float32, "none", "nearest"),
]


def same(a: Tensor, b: Tensor) -> bool:
    a, b = (bits(x.detach().cpu()) if x.is_floating_point() else x.cpu() for x in (a, b))
    return a.dtype == b.dtype and torch.equal(a, b)


def shapes_for(device: torch.device) -> list[tuple[int, ...]]:
    return SHAPES if device.type == "cuda" else SHAPES[:-1]  # a CPU beside itself need not take long


def all_same(a: list[Tensor], b: list[Tensor]) -> bool:
    return len(a) == len(b) and all(map(same, a, b))


def optimizer_state(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    return [value for value in cases.snapshot(optimizer) if value.is_floating_point() or value.dtype == torch.int16]


# --- the same bits --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", cases.CASES, ids=lambda case: case.name)
@pytest.mark.parametrize(("dtype", "master", "rounding"), FORMATS)
def test_a_training_has_the_cpus_bits(device, case, dtype, master, rounding):
    """Five scaled, clipped steps with a moving average, the third of which overflows."""
    histories, shapes = [], shapes_for(device)
    for place in ("cpu", device.type):
        params = cases.parameters(cases.weights(dtype, place, shapes=shapes))
        extras = {"master": master, "rounding": rounding, "max_grad_norm": 1.0, "ema_decay": 0.9}
        optimizer = case.make(params, **case.hyper, **extras)
        scaler = halfops.amp.GradScaler(place, init_scale=256.0, growth_interval=3)
        scaler.scale(torch.ones((), device=place))
        for turn, grads in enumerate(cases.gradients(5, dtype, "cpu", shapes=shapes)):
            for param, grad in zip(params, grads, strict=True):
                param.grad = (grad * 256).to(dtype).to(place)
            if turn == 2:
                params[3].grad[5, 7] = float("inf")
            scaler.step(optimizer, zero_grad=turn == 3)
            scaler.update()
        numbers = [scaler._scale, scaler.skipped_steps.double()]
        histories.append([*optimizer_state(optimizer), *(param.grad for param in params), *numbers])
    assert all_same(*histories)


@pytest.mark.parametrize("offset", range(9))
def test_checks_have_the_cpus_bits(device, offset):
    generator = torch.Generator().manual_seed(offset)
    base = [torch.randn(torch.Size(shape).numel() + offset, generator=generator) for shape in shapes_for(device)]
    tensors = [t.to(dtype)[offset:] for t in base for dtype in (torch.float16, torch.bfloat16, torch.float32)]
    copies = [torch.cat([t.new_zeros(offset), t]).to(device)[offset:] for t in tensors]
    inverse = torch.tensor(0.3)
    for count_zeros in (False, True):
        wanted, found = scale_ops.grad_stats(tensors, count_zeros), scale_ops.grad_stats(copies, count_zeros)
        assert all(map(same, wanted, found))
    wanted, found = scale_ops.unscale_(tensors, inverse), scale_ops.unscale_(copies, inverse.to(device))
    assert all(map(same, wanted, found))
    assert all(map(same, tensors, copies))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_formats_have_the_cpus_bits(device, dtype):
    every = torch.arange(1 << 16, dtype=torch.int32).to(torch.int16).view(dtype)
    generator = torch.Generator().manual_seed(0)
    fine = torch.randn(1 << 20, generator=generator) * 10 ** (12 * torch.rand(1 << 20, generator=generator) - 9)
    for master in (fine, every[every.isfinite()].float()):
        weight, remainder = optim_ops.split_master(master, dtype)
        found = optim_ops.split_master(master.to(device), dtype)
        assert all_same([weight, remainder], list(found))
        assert same(optim_ops.join_master(weight, remainder), optim_ops.join_master(*found))
        for rounding in ("nearest", "stochastic"):
            options = {"rounding": rounding, "seed": 3, "step": 4, "key": 5}
            wanted = optim_ops.cast(master, dtype, **options)
            assert same(wanted, optim_ops.cast(master.to(device), dtype, **options))
    assert same(optim_ops.cast(every, torch.float32), optim_ops.cast(every.to(device), torch.float32))


# --- a small training, eager and in a graph -------------------------------------------------------------------------


class Training:
    """A network, an optimizer, a scaler, and one iteration of them as a graph can capture it."""

    def __init__(self, device: torch.device, make: Callable[..., halfops.optim.HalfOptimizer], **extras) -> None:
        torch.manual_seed(0)
        layers = torch.nn.Linear(24, 40), torch.nn.ReLU(), torch.nn.Linear(40, 8)
        self.model = torch.nn.Sequential(*layers).half().to(device)
        self.optimizer = make(self.model.parameters(), max_grad_norm=1.0, **extras)
        self.scaler = halfops.amp.GradScaler(device.type, init_scale=2.0**12, growth_interval=4)
        self.input = torch.zeros(16, 24, dtype=torch.float16, device=device)
        self.target = torch.zeros(16, 8, dtype=torch.float16, device=device)

    def batch(self, number: int, *, overflow: bool = False) -> None:
        generator = torch.Generator().manual_seed(number)
        self.input.copy_(torch.randn(16, 24, generator=generator))
        self.target.copy_(torch.randn(16, 8, generator=generator))
        if overflow:
            self.target.fill_(6e4)

    def iterate(self) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        loss = (self.model(self.input).float() - self.target.float()).square().mean()
        self.scaler.scale(loss).backward()
        self.scaler.step(self.optimizer)
        self.scaler.update()

    def everything(self) -> list[Tensor]:
        numbers = [self.scaler._scale, self.scaler.skipped_steps.double()]
        return [t.clone() for t in [*optimizer_state(self.optimizer), *numbers]]


@contextlib.contextmanager
def no_waiting() -> Iterator[None]:
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


MAKES = {
    "adamw": lambda params, **extras: halfops.optim.AdamW(params, lr=1e-2, ema_decay=0.9, **extras),
    "sgd": lambda params, **extras: halfops.optim.SGD(params, lr=1e-2, momentum=0.9, **extras),
    "lamb": lambda params, **extras: halfops.optim.LAMB(params, lr=1e-2, **extras),
}


@pytest.mark.parametrize("name", MAKES)
def test_an_iteration_is_repeatable(device, name):
    runs = []
    for _ in range(2):
        training = Training(device, MAKES[name])
        for number in range(6):
            training.batch(number, overflow=number == 2)
            training.iterate()
        runs.append(training.everything())
    assert all_same(*runs)


@pytest.mark.cuda
@pytest.mark.parametrize("name", MAKES)
def test_nothing_waits_for_the_host(name):
    """From the first step on, through overflow, a new learning rate and new gradients."""
    device = torch.device("cuda")
    training = Training(device, MAKES[name])
    with no_waiting():
        for number in range(4):
            training.iterate()
            training.optimizer.param_groups[0]["lr"] = 1e-2 / (number + 1)
        grads = [p.grad for p in training.model.parameters()]
        halfops.functional.unscale_(grads, torch.ones((), device=device))
        halfops.functional.grad_norm(grads)
        halfops.functional.nonfinite_check(grads)


@pytest.mark.cuda
@pytest.mark.parametrize("name", MAKES)
def test_a_graph_replays_the_eager_step(name):
    device = torch.device("cuda")
    eager, captured = Training(device, MAKES[name]), Training(device, MAKES[name])
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for training in (eager, captured):
            for number in range(3):
                training.batch(number)
                training.iterate()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured.iterate()
    for number in range(3, 12):
        for training in (eager, captured):
            training.batch(number, overflow=number == 6)
        eager.iterate()
        graph.replay()
        assert all_same(eager.everything(), captured.everything()), number
    assert captured.scaler.skipped_steps.item() == 1


@pytest.mark.cuda
def test_a_graph_and_eager_steps_take_turns():
    """Each finds the gradients that are its own, although they lie at different addresses."""
    device = torch.device("cuda")
    eager, mixed = Training(device, MAKES["adamw"]), Training(device, MAKES["adamw"])
    for training in (eager, mixed):
        for number in range(2):
            training.batch(number)
            training.iterate()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        mixed.iterate()
    kept = []
    for number in range(2, 10):
        for training in (eager, mixed):
            training.batch(number)
        eager.iterate()
        if number % 3 == 0:
            mixed.iterate()
            kept.append([p.grad for p in mixed.model.parameters()])  # the next ones lie elsewhere
        else:
            graph.replay()
        assert all_same(eager.everything(), mixed.everything()), number


@pytest.mark.cuda
def test_a_learning_rate_on_the_device_is_followed_by_the_graph():
    device = torch.device("cuda")
    rate = torch.tensor(1e-2, device=device)
    training = Training(device, lambda params, **extras: halfops.optim.SGD(params, lr=rate, **extras))
    training.batch(0)
    training.iterate()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        training.iterate()
    rate.zero_()
    before = training.everything()[:1]
    graph.replay()
    assert all_same(before, training.everything()[:1])
    rate.fill_(1.0)
    graph.replay()
    assert not all_same(before, training.everything()[:1])


@pytest.mark.cuda
def test_a_first_step_in_a_capture_is_refused():
    parameter = torch.nn.Parameter(torch.ones(8, dtype=torch.float16, device="cuda"))
    parameter.grad = torch.ones_like(parameter)
    optimizer = halfops.optim.SGD([parameter], lr=0.1)
    with (
        pytest.raises(RuntimeError, match="take a step with these parameters"),
        torch.cuda.graph(torch.cuda.CUDAGraph()),
    ):
        optimizer.step()
    torch.cuda.synchronize()
    optimizer.step()
    assert parameter.float().mean().item() < 1


@pytest.mark.cuda
def test_deterministic_algorithms_are_enough():
    torch.use_deterministic_algorithms(True)
    try:
        grads = [torch.randn(5000, device="cuda").half()]
        halfops.functional.grad_norm(grads)
        parameter = torch.nn.Parameter(torch.ones(5000, dtype=torch.float16, device="cuda"))
        parameter.grad = grads[0]
        for make in MAKES.values():
            make([parameter]).step()
    finally:
        torch.use_deterministic_algorithms(False)


@pytest.mark.cuda
def test_steps_are_on_the_current_stream():
    """A long fill of the gradients comes before the step on the same stream, and on no other."""
    parameter = torch.nn.Parameter(torch.zeros(1 << 26, dtype=torch.float16, device="cuda"))
    parameter.grad = torch.zeros_like(parameter)
    optimizer = halfops.optim.SGD([parameter], lr=1.0, master="none")
    optimizer.step()
    torch.cuda.synchronize()
    with torch.cuda.stream(torch.cuda.Stream()):
        for _ in range(20):
            parameter.grad.fill_(0)
        parameter.grad.fill_(-1)
        optimizer.step()
        assert parameter.detach().float().min().item() == 1


@pytest.mark.cuda
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
def test_two_devices_in_one_optimizer():
    torch.cuda.set_device(0)
    grads = cases.gradients(1, torch.float16, "cpu")[0]
    histories = []
    for places in (("cpu", "cpu"), ("cuda:0", "cuda:1"), ("cuda:1", "cuda:0")):
        params = [p for place in places for p in cases.parameters(cases.weights(torch.float16, place))]
        optimizer = halfops.optim.AdamW(params, lr=1e-2, max_grad_norm=0.5)
        for param, grad in zip(params, [*grads, *grads], strict=True):
            param.grad = grad.to(param.device)
        optimizer.step()
        histories.append(params)
    assert all_same(histories[0], histories[1])
    assert all_same(histories[0], histories[2])


@pytest.mark.cuda
@pytest.mark.parametrize(("formats", "launches"), [([torch.float16], 1), ([torch.float16, torch.float32], 2)])
def test_one_launch_updates_every_tensor_of_a_format(formats, launches):
    """A thousand tensors in three groups; the profiler counts kernels by name."""
    tensors = [torch.ones(64, dtype=formats[i % len(formats)], device="cuda") for i in range(1000)]
    params = cases.parameters(tensors)
    for param in params:
        param.grad = torch.ones_like(param)
    groups = [{"params": params[i::3], "lr": 0.1 * (i + 1)} for i in range(3)]
    optimizer = halfops.optim.AdamW(groups, max_grad_norm=1.0)
    optimizer.step()
    torch.cuda.synchronize()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        optimizer.step()
        torch.cuda.synchronize()
    names = [event.name for event in profile.events()]
    assert sum("step_kernel" in name for name in names) == launches, names
    assert not any("store_words" in name or "Memcpy HtoD" in name for name in names), names  # nothing has changed
    ours = [name for name in names if "halfops" in name]
    assert len(ours) <= 5 + launches, names  # check, two sums, total, scalars
