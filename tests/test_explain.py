"""halfops.explain names every product that ran; backend="torch" is torch's own ops, and only by name."""

from __future__ import annotations

import pytest
import torch

import halfops
from halfops import functional as H
from halfops import nn

NEEDS_KERNEL = "linear"
F16 = torch.float16


def operands(device, *shapes):
    generator = torch.Generator().manual_seed(0)
    return [(torch.randn(shape, generator=generator) / 4).to(device, F16) for shape in shapes]


def test_forward_and_backward_are_told(device):
    model, (x,) = nn.MLP(24, 40, 16).to(device, F16), operands(device, (7, 24))
    forward = halfops.explain(model, x)
    assert [(k.op, k.m, k.n, k.k, k.layout) for k in forward.kernels] == [
        ("halfops::linear", 7, 40, 24, "NT"),
        ("halfops::linear", 7, 16, 40, "NT"),
    ]
    assert all(k.dtype == F16 and k.kernel and k.batch == 1 for k in forward.kernels)
    backward = halfops.explain(lambda: forward.result.sum().backward())
    assert sorted((k.op, k.m, k.n, k.k) for k in backward.kernels) == [
        ("halfops::linear_dgrad", 7, 40, 16),
        ("halfops::linear_wgrad", 16, 40, 7),
        ("halfops::linear_wgrad", 40, 24, 7),
    ]
    assert str(forward).splitlines()[0].startswith("halfops::linear  7 x 40 x 24  float16  NT  ")


def test_batches_and_nothing(device):
    a, b = operands(device, (3, 1, 5, 8), (2, 8, 4))
    (kernel,) = halfops.explain(H.matmul, a, b).kernels
    assert (kernel.batch, kernel.m, kernel.n, kernel.k) == (6, 5, 4, 8)
    nothing = halfops.explain(torch.relu, a)
    assert nothing.kernels == []
    assert str(nothing) == "no matrix product ran"


def test_products_of_torch_are_not_hidden(device):
    x, weight = (t.double() for t in operands(device, (6, 8), (10, 8)))
    assert all(k.op.startswith("torch::") for k in halfops.explain(H.linear, x, weight).kernels)
    x, weight = operands(device, (6, 8), (10, 8))
    (kernel,) = halfops.explain(H.linear, x, weight, backend="torch").kernels
    assert kernel.op.startswith("torch::")


def test_nested_and_after_errors(device):
    a, b = operands(device, (5, 8), (8, 4))
    inner = []
    outer = halfops.explain(lambda: inner.append(halfops.explain(H.matmul, a, b)))
    assert len(inner[0].kernels) == len(outer.kernels) == 1
    with pytest.raises(RuntimeError):
        halfops.explain(H.matmul, a, a)
    assert len(halfops.explain(H.matmul, a, b).kernels) == 1
    with pytest.raises(TypeError, match="function: got int, wanted something to call"):
        halfops.explain(3)


@pytest.mark.cuda
def test_what_an_address_has_to_do_with_it():
    a, b = operands("cuda", (512, 588), (588, 512))
    told = str(halfops.explain(H.matmul, a, b))
    assert "A has lines 588 elements apart, no multiple of 8" in told


def close(found, wanted, most=2e-3):
    return (found.double() - wanted.double()).abs().max() <= most * max(1.0, wanted.double().abs().max())


CALLS = {
    "linear": lambda x, w, v, d, **k: H.linear(x, w, activation="gelu", **k),
    "gated_linear": lambda x, w, v, d, **k: H.gated_linear(x, w, v, **k),
    "matmul": lambda x, w, v, d, **k: H.matmul(x, w.mT, alpha=0.5, beta=2.0, c=x @ v.mT, **k),
    "linear_dgrad": lambda x, w, v, d, **k: H.linear_dgrad(x @ w.mT, w, preact=x, activation="silu", **k),
    "linear_wgrad": lambda x, w, v, d, **k: H.linear_wgrad(x @ w.mT, x, **k)[0],
    "mlp": lambda x, w, v, d, **k: H.mlp(x, w, None, d, None, **k),
    "gated_mlp": lambda x, w, v, d, **k: H.gated_mlp(x, w, v, d, **k),
}


@pytest.mark.parametrize("name", CALLS)
def test_the_torch_backend_means_the_same(device, name):
    given = operands(device, (9, 16), (24, 16), (24, 16), (16, 24))
    results = []
    for backend in ("halfops", "torch"):
        leaves = [t.clone().requires_grad_() for t in given]
        out = CALLS[name](*leaves, backend=backend)
        grads = torch.autograd.grad(out.float().square().sum(), leaves, allow_unused=True)
        results.append([out, *(g for g in grads if g is not None)])
    assert all(close(a, b, 1e-2) for a, b in zip(*results, strict=True))


def test_the_torch_backend_of_modules(device):
    for make in (lambda **k: nn.Linear(8, 4, activation="relu", **k), lambda **k: nn.MLP(8, 16, 4, **k),
                 lambda **k: nn.GatedMLP(8, 16, 4, **k)):  # fmt: skip
        ours, torchs = make().to(device, F16), make(backend="torch").to(device, F16)
        torchs.load_state_dict(ours.state_dict())
        (x,) = operands(device, (5, 8))
        assert close(torchs(x), ours(x))
        assert all(k.op.startswith("torch::") for k in halfops.explain(torchs, x).kernels)
        assert "backend='torch'" in repr(torchs)
        assert "backend" not in repr(ours)


def test_the_torch_backend_rounds_late():
    """Scales and adds before it rounds, into what the result is wanted in."""
    many = torch.full((64, 2048), 256.0, dtype=F16)
    product = H.matmul(many, many.mT, alpha=2.0**-20, backend="torch")
    assert product.unique().tolist() == [128.0]
    batched = H.matmul(many[None], many.mT[None].expand(3, -1, -1), alpha=2.0**-20, backend="torch")
    assert batched.shape == (3, 64, 64)
    assert batched.unique().tolist() == [128.0]
    ones = torch.ones(2049, 4, dtype=F16)
    assert H.matmul(ones.mT, ones, out_dtype=torch.float32, backend="torch").unique().tolist() == [2049.0]
    total = torch.zeros(4, 4)
    H.linear_wgrad(ones, ones, accumulate_into=total, backend="torch")
    assert total.unique().tolist() == [2049.0]
    assert H.matmul(ones[:0].mT, ones[:0], alpha=3.0, backend="torch").tolist() == [[0.0] * 4] * 4
    nan = torch.full((4, 4), torch.nan, dtype=F16)
    assert H.matmul(ones[:2].mT, ones[:2], alpha=3.0, c=nan, backend="torch").unique().tolist() == [6.0]


@pytest.mark.parametrize("backend", ["halfops", "torch"])
def test_autocast_casts_by_the_rule_of_the_function(backend):
    x, weight, residual = torch.randn(5, 8), torch.randn(4, 8, requires_grad=True), torch.randn(5, 4)
    with torch.autocast("cpu", torch.bfloat16):
        y = H.linear(x, weight, residual=residual, activation="gelu", backend=backend)
        wide = H.matmul(x, weight.mT, out_dtype=torch.float32, backend=backend)
    assert (y.dtype, wide.dtype) == (torch.bfloat16, torch.float32)
    y.float().sum().backward()
    assert weight.grad.dtype == torch.float32


def test_the_torch_backend_has_nothing_to_fuse_into():
    x, w = operands("cpu", (5, 8), (4, 8))
    message = "fuse_wgrad_accumulation: got True with backend='torch', wanted False"
    for call in (
        lambda **k: H.linear(x, w, **k),
        lambda **k: H.gated_linear(x, w, w, **k),
        lambda **k: H.mlp(x, w, None, w.mT, None, **k),
        lambda **k: H.gated_mlp(x, w, w, w.mT, **k),
        lambda **k: nn.Linear(8, 4, **k),
        lambda **k: nn.GatedMLP(8, 4, 4, **k),
    ):
        with pytest.raises(ValueError, match=message):
            call(backend="torch", fuse_wgrad_accumulation=True)
    model = nn.convert(torch.nn.Sequential(nn.Linear(8, 4, backend="torch"), torch.nn.Linear(4, 4)),
                       fuse_wgrad_accumulation=True)  # fmt: skip
    assert [layer.fuse_wgrad_accumulation for layer in model] == [False, True]


def test_the_torch_backend_compiles():
    x, w = operands("cpu", (5, 8), (4, 8))
    call = torch.compile(lambda x, w: H.linear(x, w, activation="silu", backend="torch"), backend="aot_eager",
                         fullgraph=True)  # fmt: skip
    assert torch.equal(call(x, w), H.linear(x, w, activation="silu", backend="torch"))


def test_a_backend_must_be_one(device):
    x, w = operands(device, (5, 8), (4, 8))
    with pytest.raises(ValueError, match="backend: got 'cublas', wanted one of halfops, torch"):
        H.linear(x, w, backend="cublas")
    with pytest.raises(ValueError, match="backend: got 'cublas'"):
        nn.MLP(8, 8, 8, backend="cublas")
    out = torch.ones(4, 8, device=device)
    dw, db = H.linear_wgrad(torch.ones_like(x @ w.mT), x, accumulate_into=out, bias=True, backend="torch")
    assert dw.data_ptr() == out.data_ptr()
    assert db.tolist() == [5.0] * 4
