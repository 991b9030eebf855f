"""Short trainings on the whole chain: model, loss scaler, optimizer. What a step alone cannot show."""

from __future__ import annotations

import copy
import io

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import halfops
from halfops.amp import GradScaler
from halfops.optim import SGD, AdamW, Lion

PIXELS, CLASSES, BATCH = 32, 8, 64


def network(seed=0):
    """The same float32 network for the same seed; its weights are halves, so that every precision starts alike."""
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(PIXELS, 48), nn.GELU(), nn.Linear(48, 48), nn.ReLU(), nn.Linear(48, CLASSES))
    return model.half().float()


def problem(steps, seed=1):
    """Batches that another network labelled: something that can be learned."""
    teacher = network(seed=100)
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(steps, BATCH, PIXELS, generator=generator)
    with torch.no_grad():
        return [(x, (4 * teacher(x)).argmax(-1)) for x in images]


def bits(t):
    return t.detach().contiguous().view({2: torch.int16, 4: torch.int32, 8: torch.int64}[t.element_size()])


def same_bits(a, b):
    return len(a) == len(b) and all(torch.equal(bits(x), bits(y)) for x, y in zip(a, b, strict=True))


def tensors_of(optimizer):
    """Every tensor of the optimizer's state, in a fixed order."""
    params = [param for group in optimizer.param_groups for param in group["params"]]
    return [optimizer.state[param][name] for param in params for name in sorted(optimizer.state[param])]


class Half:
    """A halfops training: fp16 weights, converted layers, loss scaler."""

    def __init__(self, optimizer, device="cpu", *, dropout=0.0, scaler=None, **options):
        self.device = torch.device(device)
        model = network().to(self.device).half()
        if dropout:
            model.insert(2, nn.Dropout(dropout))
        self.model = halfops.nn.convert(model)
        self.optimizer = optimizer(self.model.parameters(), **options)
        self.scaler = GradScaler(self.device.type, **(scaler or {}))

    def step(self, batch, factor=1.0):
        images, classes = (t.to(self.device) for t in batch)
        self.optimizer.zero_grad()
        loss = F.cross_entropy(self.model(images.half()).float(), classes)
        self.scaler.scale(loss * factor).backward()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        return loss.item()

    def everything(self):
        return [*self.model.parameters(), *tensors_of(self.optimizer)]


# --- the course of a training ----------------------------------------------------------------------------------------

RECIPES = [
    pytest.param(AdamW, torch.optim.AdamW, {"lr": 1e-3, "weight_decay": 0.05}, None, id="adamw"),
    pytest.param(AdamW, torch.optim.AdamW, {"lr": 1e-3, "weight_decay": 0.05}, 0.5, id="adamw-clipped"),
    pytest.param(SGD, torch.optim.SGD, {"lr": 0.05, "momentum": 0.9}, None, id="sgd"),
    pytest.param(SGD, torch.optim.SGD, {"lr": 0.05, "momentum": 0.9, "nesterov": True}, 0.5, id="sgd-clipped"),
    pytest.param(SGD, torch.optim.SGD, {"lr": 2e-3}, None, id="sgd-below-half-a-unit"),
]


def torch_training(kind, options, clip, batches, *, amp):
    """torch's own: fp32 weights, with amp autocast and torch's GradScaler around the same loss."""
    model = network()
    optimizer = kind(model.parameters(), **options)
    scaler = torch.amp.GradScaler("cpu", enabled=amp)
    losses = []
    for images, classes in batches:
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype=torch.float16, enabled=amp):
            loss = F.cross_entropy(model(images).float(), classes)
        scaler.scale(loss).backward()
        if clip is not None:
            scaler.unscale_(optimizer)
            nn.utils.clip_grad_norm_(model.parameters(), clip)
        scaler.step(optimizer)
        scaler.update()
        losses.append(loss.item())
    return [p.detach() for p in model.parameters()], losses


def distance(a, b):
    return torch.cat([(x.double() - y.double()).flatten() for x, y in zip(a, b, strict=True)]).norm().item()


@pytest.mark.parametrize(("ours", "theirs", "options", "clip"), RECIPES)
def test_split_masters_stay_as_close_to_fp32_as_torch_amp(ours, theirs, options, clip, device):
    """60 steps: our masters are at most twice as far from the fp32 weights as torch AMP's fp32 weights are.

    torch AMP forms the same fp16 products of the same fp16 weights; what we round beyond that is of the same kind. A
    lost update (the last recipe), a wrong clip factor or a scale that stays in a gradient is far outside.
    """
    batches = problem(60)
    fp32, fp32_losses = torch_training(theirs, options, clip, batches, amp=False)
    amp, _ = torch_training(theirs, options, clip, batches, amp=True)
    half = Half(ours, device, max_grad_norm=clip, **options)
    losses = [half.step(batch) for batch in batches]
    masters = [t.cpu() for t in half.optimizer.master_params()]
    assert fp32_losses[-1] < 0.99 * fp32_losses[0]  # it did learn, so there was something to agree on
    assert abs(losses[-1] - fp32_losses[-1]) < 0.01 * fp32_losses[-1]
    moved = distance(fp32, [p.detach() for p in network().parameters()])
    assert distance(amp, fp32) < 0.02 * moved
    assert distance(masters, fp32) <= 2 * distance(amp, fp32)


def test_the_weights_are_the_rounded_masters(device):
    half = Half(AdamW, device, lr=1e-3)
    for batch in problem(10):
        half.step(batch)
    for param, master in zip(half.model.parameters(), half.optimizer.master_params(), strict=True):
        assert torch.equal(param, master.half())


# --- overflow, skip, recovery -----------------------------------------------------------------------------------------


MASTERS = [
    {"master": "split", "max_grad_norm": 1.0},  # here the norm skips the step even without the scaler
    {"master": "fp32"},
    {"master": "none", "rounding": "stochastic"},
]


@pytest.mark.parametrize("options", MASTERS, ids=lambda options: options["master"])
def test_overflow_in_the_middle_changes_nothing_and_the_scale_recovers(options, device):
    """An overflow at step 20: every bit stays, the scale halves and is back after `growth_interval` good steps."""
    options = {"lr": 2e-3, **options}
    half = Half(AdamW, device, scaler={"init_scale": 1024.0, "growth_interval": 25}, **options)
    undisturbed = Half(AdamW, device, scaler={"init_scale": 512.0, "growth_interval": 10**6}, **options)
    batches = problem(70)
    for batch in batches[:20]:
        half.step(batch)
    before = [t.clone() for t in half.everything()]
    half.step(batches[20], factor=1e30)  # times the scale, beyond fp16 in some layer
    assert any(not torch.isfinite(p.grad).all() for p in half.model.parameters())
    assert same_bits(before, half.everything())
    assert half.scaler.get_scale() == 512.0
    assert int(half.scaler.skipped_steps) == 1
    losses = [half.step(batch) for batch in batches[20:]]
    # 24 good steps would leave 512, 25 double it, 50 double it twice.
    assert half.scaler.get_scale() == 2048.0
    assert int(half.scaler.skipped_steps) == 1
    expected = [undisturbed.step(batch) for batch in batches]
    assert losses[-1] < 0.7 * expected[0]
    # A power of two more or less in the scale moves nothing but what underflows.
    assert losses[-1] == pytest.approx(expected[-1], rel=0.02)


def test_a_scale_far_too_high_comes_down_by_itself(device):
    half = Half(AdamW, device, lr=2e-3, scaler={"init_scale": 2.0**24})
    losses = [half.step(batch) for batch in problem(60)]
    skipped = int(half.scaler.skipped_steps)
    assert skipped > 0
    assert half.scaler.get_scale() == 2.0 ** (24 - skipped)
    assert losses[-1] < 0.8 * losses[skipped]


# --- interruption -----------------------------------------------------------------------------------------------------

INTERRUPTED = [
    pytest.param(AdamW, {"lr": 2e-3, "max_grad_norm": 1.0}, id="adamw-split"),
    pytest.param(AdamW, {"lr": 2e-3, "master": "fp32"}, id="adamw-fp32"),
    pytest.param(AdamW, {"lr": 2e-3, "master": "none", "rounding": "stochastic", "seed": 7}, id="adamw-stochastic"),
    pytest.param(SGD, {"lr": 0.05, "momentum": 0.9, "nesterov": True}, id="sgd-split"),
    pytest.param(Lion, {"lr": 3e-4, "master": "none", "rounding": "stochastic"}, id="lion-stochastic"),
]


@pytest.mark.parametrize(("kind", "options"), INTERRUPTED)
def test_resumed_training_is_bit_identical(kind, options, device):
    """20 steps at once, and 9 + 11 through a file: weights, states, scale and counters end with the same bits.

    Dropout draws from torch's generator, one step overflows before the interruption and the scale grows after it, so
    all of model, optimizer, scaler and generator have to be carried over.
    """
    scaler = {"init_scale": 256.0, "growth_interval": 8}
    batches = problem(20)

    def advance(half, steps):
        for i in steps:
            half.step(batches[i], factor=1e30 if i == 5 else 1.0)

    straight = Half(kind, device, dropout=0.2, scaler=scaler, **options)
    torch.manual_seed(3)
    advance(straight, range(20))

    first = Half(kind, device, dropout=0.2, scaler=scaler, **options)
    torch.manual_seed(3)
    advance(first, range(9))
    generator = torch.cuda.get_rng_state() if device.type == "cuda" else torch.get_rng_state()
    parts = {"model": first.model, "optimizer": first.optimizer, "scaler": first.scaler}
    file = io.BytesIO()
    torch.save({"generator": generator, **{name: part.state_dict() for name, part in parts.items()}}, file)
    file.seek(0)

    saved = torch.load(file, weights_only=True)
    second = Half(kind, device, dropout=0.2, scaler={"init_scale": 1.0}, **options)
    torch.manual_seed(12345)
    second.model.load_state_dict(saved["model"])
    second.optimizer.load_state_dict(saved["optimizer"])
    second.scaler.load_state_dict(saved["scaler"])
    (torch.cuda.set_rng_state if device.type == "cuda" else torch.set_rng_state)(saved["generator"].cpu())
    advance(second, range(9, 20))

    assert int(straight.scaler.skipped_steps) == 1
    assert straight.scaler.get_scale() == 256.0  # halved once, doubled once: the growth counter mattered
    assert second.scaler.state_dict() == straight.scaler.state_dict()
    assert same_bits(straight.everything(), second.everything())


# --- no master: what rounding decides ---------------------------------------------------------------------------------


def drift(rounding, device, steps, seed=0):
    """4096 fp16 weights of 0.75 under a gradient of 1: each step wants to move 1/16 of the space between two halves."""
    weight = nn.Parameter(torch.full((4096,), 0.75, dtype=torch.float16, device=device))
    optimizer = SGD([weight], lr=2.0**-11 / 16, master="none", rounding=rounding, seed=seed)
    for _ in range(steps):
        weight.grad = torch.ones_like(weight)
        optimizer.step()
    return weight.detach().double() - 0.75


def test_nearest_rounding_stalls_on_tiny_updates_where_stochastic_moves(device):
    """160 steps of 1/16 unit should move 10 units. Nearest moves none of 4096 weights; stochastic 10 on average.

    Each weight's move is binomial: 160 draws of probability 1/16, deviation sqrt(160 / 16 * 15 / 16) = 3.06 units; the
    mean of 4096 deviates by 0.048, and 6 of those are allowed. Weights stay in one binade, where the unit is constant.
    """
    assert not drift("nearest", device, 160).any()
    units = drift("stochastic", device, 160) / 2.0**-11
    assert torch.equal(units, units.round())
    assert abs(units.mean().item() + 10) < 6 * 0.048
    assert 2.8 < units.std().item() < 3.4


def test_stochastic_rounding_trains_where_nearest_stands_still(device):
    """A training whose every update is below half a unit: nearest's loss stays, stochastic's falls as fp32's does."""
    images, classes = problem(1)[0]

    def train(dtype, **options):
        model = network().to(device).to(dtype)
        model = halfops.nn.convert(model) if dtype == torch.float16 else model
        # Halves of 3/32 and more are at least 2^-14 apart: a step of 2^-16, whatever its sign, is a quarter of that.
        for p in model.parameters():
            p.data = torch.where(p < 0, -1.0, 1.0).to(p) * p.detach().abs().clamp_min(3 / 32)
        before = [p.detach().clone() for p in model.parameters()]
        optimizer = Lion(model.parameters(), lr=2.0**-16, **options)
        losses = []
        for _ in range(400):
            optimizer.zero_grad()
            loss = F.cross_entropy(model(images.to(device, dtype)).float(), classes.to(device))
            (loss * 256).backward()  # Lion takes the sign: a constant factor changes nothing but underflow
            optimizer.step()
            losses.append(loss.item())
        return losses[0] - losses[-1], same_bits(before, list(model.parameters()))

    fp32, _ = train(torch.float32)
    nearest, nearest_stood = train(torch.float16, master="none")
    stochastic, _ = train(torch.float16, master="none", rounding="stochastic", seed=1)
    split, _ = train(torch.float16)
    assert fp32 > 0.1
    assert nearest_stood
    assert nearest == 0
    assert stochastic > 0.7 * fp32
    assert split > 0.9 * fp32


def test_a_copied_training_goes_on_alike(device):
    """copy.deepcopy of model and optimizer state, as sweeps do it: both copies go the same way."""
    half = Half(AdamW, device, lr=2e-3, master="none", rounding="stochastic")
    batches = problem(12)
    for batch in batches[:6]:
        half.step(batch)
    twin = Half(AdamW, device, lr=2e-3, master="none", rounding="stochastic")
    twin.model.load_state_dict(half.model.state_dict())
    twin.optimizer.load_state_dict(copy.deepcopy(half.optimizer.state_dict()))
    twin.scaler.load_state_dict(half.scaler.state_dict())
    for batch in batches[6:]:
        half.step(batch)
        twin.step(batch)
    assert same_bits(half.everything(), twin.everything())
