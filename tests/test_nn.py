"""Modules and convert(): same keys, same parameters, same numbers, and nothing else about a model changes."""

from __future__ import annotations

import copy
import io
import pickle

import pytest
import torch
from bounds import UNIT
from cases import DTYPES, bits
from torch import nn
from torch.nn.utils import parametrizations, parametrize

import halfops
from halfops.nn import MLP, GatedMLP, Linear, convert


def close(a, b, dtype=torch.float32):
    return (a.double() - b.double()).norm() <= 32 * UNIT[dtype] * (1 + b.double().norm())


# ---- modules --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bias", [True, False])
def test_linear_is_torchs_by_name_and_start(bias):
    torch.manual_seed(3)
    ours = Linear(7, 5, bias=bias, activation="gelu")
    torch.manual_seed(3)
    theirs = nn.Linear(7, 5, bias=bias)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), theirs.parameters(), strict=True))
    assert isinstance(ours, nn.Linear)
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(3, 7)
    assert close(ours(x), nn.functional.gelu(theirs(x)))
    assert close(ours(x, residual=torch.ones(3, 5)), nn.functional.gelu(theirs(x)) + 1)


def test_representations():
    assert repr(Linear(3, 4)) == "Linear(in_features=3, out_features=4, bias=True)"
    assert (
        repr(Linear(3, 4, activation="silu")) == "Linear(in_features=3, out_features=4, bias=True, activation='silu')"
    )
    assert "activation='gelu'" in repr(MLP(3, 4, 5))
    assert "activation='relu'" in repr(GatedMLP(3, 4, 5, activation="relu"))


MODULES = [
    lambda **to: Linear(6, 5, activation="relu", **to),
    lambda **to: MLP(6, 9, 5, **to),
    lambda **to: MLP(6, 9, 5, bias=False, activation="silu", **to),
    lambda **to: GatedMLP(6, 9, 5, **to),
    lambda **to: GatedMLP(6, 9, 5, bias=False, activation="gelu_tanh", **to),
]


@pytest.mark.parametrize("dtype", [*DTYPES, torch.float64], ids=str)
@pytest.mark.parametrize("make", MODULES)
def test_modules_train_and_travel(make, dtype, device):
    """Forward and backward in each dtype; deepcopy, pickle and state_dict give a module with the same numbers."""
    module = make(device=device, dtype=dtype)
    x = torch.randn(2, 3, 6, device=device).to(dtype)
    y = module(x)
    assert (y.shape, y.dtype) == ((2, 3, 5), dtype)
    y.float().sum().backward()
    assert all(p.grad is not None and p.grad.dtype == dtype for p in module.parameters())

    file = io.BytesIO()
    torch.save(module.state_dict(), file)
    file.seek(0)
    fresh = make(device=device, dtype=dtype)
    fresh.load_state_dict(torch.load(file, weights_only=True))
    for other in (fresh, copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        assert torch.equal(bits(other(x)), bits(y))
        assert repr(other) == repr(module)


def test_mlp_is_its_own_parts(device):
    x = torch.randn(4, 6, device=device)
    mlp = MLP(6, 9, 5, device=device)
    assert list(mlp.state_dict()) == ["fc1.weight", "fc1.bias", "fc2.weight", "fc2.bias"]
    assert close(mlp(x), mlp.fc2(nn.functional.gelu(mlp.fc1(x))))
    gated = GatedMLP(6, 9, 6, device=device)
    assert [n for n, _ in gated.named_children()] == ["gate_proj", "up_proj", "down_proj"]
    wanted = gated.down_proj(nn.functional.silu(gated.gate_proj(x)) * gated.up_proj(x)) + x
    assert close(gated(x, residual=x), wanted)


# ---- convert --------------------------------------------------------------------------------------------------------


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(
            nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 16), nn.GELU(), nn.Dropout(0.0),
            nn.Linear(16, 16, bias=False), nn.GELU(approximate="tanh"), nn.LayerNorm(16), nn.SiLU(),
        )  # fmt: skip
        self.head = nn.Linear(16, 8)
        self.tail = nn.Linear(8, 16)
        self.tail.weight = nn.Parameter(self.head.weight.detach().mT.contiguous())
        self.register_buffer("scale", torch.ones(8))

    def forward(self, x):
        return self.tail(self.head(self.body(x)) * self.scale)


def test_convert_changes_no_number_and_no_name(device):
    model = Net().to(device)
    model.head.weight.requires_grad_(False)
    original = copy.deepcopy(model)
    keys, parameters = list(model.state_dict()), list(model.parameters())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    modules = dict(model.named_modules())
    assert convert(model) is model
    assert list(model.state_dict()) == keys
    assert all(a is b for a, b in zip(model.parameters(), parameters, strict=True))
    assert optimizer.param_groups[0]["params"][0] is model.body[0].weight
    assert not model.head.weight.requires_grad
    assert [type(m) for m in model.body] == [
        Linear, nn.Identity, Linear, nn.Identity, nn.Dropout, Linear, nn.Identity, nn.LayerNorm, nn.SiLU
    ]  # fmt: skip
    assert [model.body[i].activation for i in (0, 2, 5)] == ["relu", "gelu", "gelu_tanh"]
    assert model.head.activation == "none"
    assert all(m is modules[name] for name, m in model.named_modules() if not isinstance(m, nn.Identity))
    x = torch.randn(5, 8, device=device)
    assert close(model(x), original(x))
    model(x).sum().backward()
    original(x).sum().backward()
    for a, b in zip(model.parameters(), original.parameters(), strict=True):
        assert (a.grad is None) == (b.grad is None)
        assert a.grad is None or close(a.grad, b.grad)
    original.load_state_dict(model.state_dict())
    assert repr(convert(model)) == repr(model), "a second time changes nothing"
    twin = pickle.loads(pickle.dumps(model))
    assert torch.equal(bits(twin(x)), bits(model(x)))
    assert torch.equal(bits(copy.deepcopy(model).half()(x.half())), bits(model.half()(x.half())))


def test_convert_keeps_tied_weights():
    model = nn.ModuleDict({"embed": nn.Embedding(10, 4), "head": nn.Linear(4, 10, bias=False)})
    model["head"].weight = model["embed"].weight
    convert(model)
    assert type(model["head"]) is Linear
    assert model["head"].weight is model["embed"].weight
    model["head"](torch.randn(2, 4)).sum().backward()
    assert model["embed"].weight.grad is not None


def test_convert_keeps_shared_modules():
    """One module in several places stays one; and where another place would see a fused activation, there is none."""
    shared = nn.Linear(4, 4)
    model = nn.Sequential(shared, nn.ReLU(), shared, nn.ModuleList([shared]))
    convert(model)
    assert model[0] is model[2] is model[3][0] is shared
    assert type(shared) is Linear
    assert shared.activation == "none"
    assert type(model[1]) is nn.ReLU

    act = nn.ReLU()
    model = convert(nn.Sequential(nn.Linear(4, 4), act, nn.Linear(4, 4), act))
    assert model[1] is model[3] is act
    assert model[0].activation == "none"

    inner = nn.Sequential(nn.Linear(4, 4), nn.ReLU())
    model = convert(nn.Sequential(inner, inner))
    assert model[0] is model[1]
    assert inner[0].activation == "relu"
    assert type(inner[1]) is nn.Identity


@pytest.mark.parametrize("where", [0, 1])
@pytest.mark.parametrize("kind", ["forward", "forward_pre", "full_backward", "full_backward_pre"])
def test_convert_keeps_hooks(where, kind):
    """Hooks fire as before, on what they saw before, and their handles still remove them."""

    def run(model, prepare):
        seen = []
        handle = getattr(model[where], f"register_{kind}_hook")(lambda module, *args: seen.append(args))
        prepare(model)
        model(torch.ones(2, 4, requires_grad=True)).sum().backward()
        handle.remove()
        count = len(seen)
        model(torch.ones(2, 4, requires_grad=True)).sum().backward()
        assert count == len(seen) == 1
        return seen[0]

    original = nn.Sequential(nn.Linear(4, 4), nn.ReLU())
    twin = copy.deepcopy(original)
    before, after = run(original, lambda model: model), run(twin, convert)
    flat = [
        [t for a in args for t in (a if isinstance(a, tuple) else (a,)) if t is not None] for args in (after, before)
    ]
    assert all(close(a, b) for a, b in zip(*flat, strict=True))
    assert type(twin[0]) is Linear
    assert type(twin[1]) is nn.ReLU


def test_convert_keeps_training_mode():
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU()).eval()
    convert(model)
    assert not any(m.training for m in model.modules())


class LoraLike(nn.Linear):
    def forward(self, x):
        return super().forward(x) + 1


class Patient(nn.Sequential):
    def forward(self, x):
        for layer in self:
            x = layer(x)
            self.last = x
        return x


def test_convert_leaves_others_alone():
    normed = parametrizations.spectral_norm(nn.Linear(4, 4))
    model = nn.ModuleDict({
        "lora": LoraLike(4, 4),
        "normed": normed,
        "weighted": parametrizations.weight_norm(nn.Linear(4, 4)),
        "complex": nn.Linear(4, 4, dtype=torch.complex64),
        "lazy": nn.LazyLinear(4),
        "bilinear": nn.Bilinear(4, 4, 4),
        "patient": Patient(nn.Linear(4, 4), nn.ReLU()),
    })  # fmt: skip
    patched = nn.Linear(4, 4)
    patched.forward = lambda x: x
    model["patched"] = patched
    kinds = {name: type(m) for name, m in model.items()}
    convert(model)
    assert {name: type(m) for name, m in model.items()} == kinds
    assert parametrize.is_parametrized(normed)
    assert type(model["patient"][0]) is Linear
    assert type(model["patient"][1]) is nn.ReLU, "its forward looks at each layer"
    assert torch.equal(patched(torch.ones(1, 4)), torch.ones(1, 4))


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_convert_with_old_style_norms():
    """torch.nn.utils.weight_norm sets a plain tensor as weight before each forward: that tensor is used."""
    layer = nn.utils.weight_norm(nn.Linear(4, 4))
    twin = nn.utils.weight_norm(nn.Linear(4, 4))
    twin.load_state_dict(layer.state_dict())
    model = convert(nn.Sequential(layer, nn.ReLU()))
    assert type(model[1]) is nn.ReLU
    x = torch.randn(3, 4)
    with torch.no_grad():
        layer.weight_g.mul_(2)
        twin.weight_g.mul_(2)
    assert close(model(x), torch.relu(twin(x)))


def test_convert_a_lone_layer():
    layer = nn.Linear(3, 4)
    assert convert(layer) is layer
    assert type(layer) is Linear


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_convert_a_transformer(training):
    """Attention's own projections are left to attention; the feed-forward layers are ours; torch's fast path works."""
    layer = nn.TransformerEncoderLayer(16, 4, 32, dropout=0.0, batch_first=True)
    model = nn.TransformerEncoder(layer, 2).train(training)
    original = copy.deepcopy(model)
    convert(model)
    assert type(model.layers[0].linear1) is Linear
    assert type(model.layers[0].self_attn.out_proj) is type(original.layers[0].self_attn.out_proj)
    x = torch.randn(2, 5, 16)
    with torch.set_grad_enabled(training):
        assert close(model(x), original(x))


def test_convert_then_half(device):
    """The first lines of the README."""
    model = nn.Sequential(nn.Linear(8, 32), nn.GELU(), nn.Linear(32, 4)).to(device)
    half = halfops.nn.convert(copy.deepcopy(model)).half()
    x = torch.randn(16, 8, device=device)
    assert half[0].weight.dtype == torch.float16
    assert close(half(x.half()), model(x), torch.float16)


def test_convert_says_what_it_did(caplog):
    with caplog.at_level("INFO", logger="halfops.nn"):
        convert(nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2)))
    assert caplog.messages == ["converted 2 linear layers, fused 1 activations into them"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_activation_checkpointing(dtype, device):
    from torch.utils.checkpoint import checkpoint

    mlp = MLP(6, 12, 6, device=device, dtype=dtype)
    x = torch.randn(4, 6, device=device).to(dtype).requires_grad_()
    plain = torch.autograd.grad(mlp(x).float().sum(), (x, *mlp.parameters()))
    again = torch.autograd.grad(checkpoint(mlp, x, use_reentrant=False).float().sum(), (x, *mlp.parameters()))
    assert all(torch.equal(bits(a), bits(b)) for a, b in zip(plain, again, strict=True))
