"""Every refusal of the linear room: what it says, and that nothing was changed before it was said."""

from __future__ import annotations

import sys

import pytest
import torch

import halfops
import halfops.functional as H
from halfops._ops import linear as ops
from halfops._ops import pointwise, torch_backend

OPS = torch.ops.halfops


def half(*shape):
    return torch.randn(shape).half()


def freed(*shape):
    tensor = half(*shape)
    tensor.untyped_storage().resize_(0)
    return tensor


X, W, B, DZ = half(4, 3), half(5, 3), half(5), half(4, 5)

MESSAGES = [
    # linear
    (lambda: H.linear(X.int(), W), r"input: got torch.int32, wanted torch.float16, torch.bfloat16 or torch.float32"),
    (lambda: H.linear(X.to(torch.complex64), W), r"input: got torch.complex64, wanted torch.float16"),
    (lambda: H.linear(half(), W), r"input: got a 0-d tensor, wanted \[\*, in_features\]"),
    (lambda: H.linear(X, half(5)), r"weight: got shape \[5\], wanted \[out_features, in_features\]"),
    (lambda: H.linear(X, half(5, 4)),
     r"weight: got shape \[5, 4\], wanted \[out_features, 3\] for input of shape \[4, 3\]"),
    (lambda: H.linear(X, half(3, 5)), r"weight: got shape \[3, 5\].*did you pass w.T\?"),
    (lambda: H.linear(X, W.float()),
     r"weight: got torch.float32, wanted torch.float16 as input has; convert .* \.to\(dtype\)"),
    (lambda: H.linear(X, W.double()), r"weight: got torch.float64, wanted torch.float16 as input has"),
    (lambda: H.linear(X, W, half(4)), r"bias: got shape \[4\], wanted \[5\] \(one number for each row of weight\)"),
    (lambda: H.linear(X, W, B.bfloat16()), r"bias: got torch.bfloat16, wanted torch.float16 as input has"),
    (lambda: H.linear(X, W, residual=half(4, 4)),
     r"residual: got shape \[4, 4\], wanted \[4, 5\] \(the shape of the output\)"),
    (lambda: H.linear(X, W, residual=DZ.float()), r"residual: got torch.float32, wanted torch.float16 as input has"),
    (lambda: OPS.linear(X, W, None, None, "tanh", False),
     r"activation: got 'tanh', wanted one of 'none', 'relu', 'gelu'"),
    (lambda: H.linear(freed(4, 3), W), r"input: got a tensor of shape \[4, 3\] whose storage was freed"),
    (lambda: H.linear(X, freed(5, 3)), r"weight: got a tensor of shape \[5, 3\] whose storage was freed.*gather it"),
    (lambda: H.linear(X, W, freed(5)), r"bias: got a tensor of shape \[5\] whose storage was freed"),
    # its gradients
    (lambda: H.linear_dgrad(half(), W), r"grad_output: got a 0-d tensor, wanted \[\*, out_features\]"),
    (lambda: H.linear_dgrad(DZ.short(), W), r"grad_output: got torch.int16, wanted torch.float16"),
    (lambda: H.linear_dgrad(DZ, half(5)), r"weight: got shape \[5\], wanted \[out_features, in_features\]"),
    (lambda: H.linear_dgrad(DZ, half(3, 5)),
     r"weight: got shape \[3, 5\], wanted \[5, in_features\].*did you pass w.T\?"),
    (lambda: H.linear_dgrad(DZ, W.float()), r"weight: got torch.float32, wanted torch.float16 as grad_output has"),
    (lambda: H.linear_dgrad(DZ, W, preact=DZ, activation="gelu"),
     r"preact: got shape \[4, 5\], wanted \[4, 3\] \(the shape of the input's gradient\)"),
    (lambda: H.linear_dgrad(DZ, W, preact=X.float(), activation="gelu"),
     r"preact: got torch.float32, wanted torch.float16"),
    (lambda: OPS.linear_dgrad(DZ, W, None, "gelu", False),
     r"preact: got None with activation 'gelu', wanted the pre-activation"),
    (lambda: H.linear_wgrad(half(), X), r"grad_output: got a 0-d tensor"),
    (lambda: H.linear_wgrad(DZ, half()), r"input: got a 0-d tensor, wanted \[\*, in_features\]"),
    (lambda: H.linear_wgrad(DZ, half(3, 3)),
     r"input: got shape \[3, 3\], wanted \[4, 3\] \(the leading dimensions of grad_output"),
    (lambda: H.linear_wgrad(DZ, X.float()), r"input: got torch.float32, wanted torch.float16 as grad_output has"),
    (lambda: ops.linear_wgrad(DZ, X, half(5, 4)), r"accumulate: got shape \[5, 4\], wanted \[5, 3\]"),
    (lambda: ops.linear_wgrad(DZ, X, W.double()), r"accumulate: got torch.float64, wanted torch.float16"),
    (lambda: ops.linear_wgrad(DZ, X, want_weight=False, want_stats=True),
     r"want_stats: got True without want_weight, wanted a gradient"),
    (lambda: OPS.linear_force_policy("128x128", 0),
     r"linear_force_policy: got '128x128', wanted '' or one of this build's policies"),
    (lambda: OPS.linear_force_policy("", -1), r"linear_force_policy: blocks: got -1, wanted a count"),
    # gated
    (lambda: H.gated_linear(X, W, half(6, 3)),
     r"up_weight: got shape \[6, 3\], wanted \[5, 3\] \(the shape of gate_weight\)"),
    (lambda: H.gated_linear(X, half(5, 4), W), r"gate_weight: got shape \[5, 4\], wanted \[out_features, 3\]"),
    (lambda: H.gated_linear(X, W, W, half(4)), r"gate_bias: got shape \[4\], wanted \[5\]"),
    (lambda: H.gated_linear(X, W, W, None, B.float()), r"up_bias: got torch.float32, wanted torch.float16"),
    (lambda: ops.gated_linear_dgrad(half(), DZ, W, W), r"grad_gate: got a 0-d tensor, wanted \[\*, out_features\]"),
    (lambda: ops.gated_linear_dgrad(DZ, half(4, 4), W, W),
     r"grad_up: got shape \[4, 4\], wanted \[4, 5\] \(the shape of grad_gate\)"),
    (lambda: ops.gated_linear_dgrad(DZ, DZ.float(), W, W), r"grad_up: got torch.float32, wanted torch.float16"),
    (lambda: ops.gated_linear_dgrad(DZ, DZ, half(3, 5), W),
     r"gate_weight: got shape \[3, 5\], wanted \[5, in_features\] for grad_gate of .*did you pass w.T\?"),
    (lambda: ops.gated_linear_dgrad(DZ, DZ, W, half(5, 4)),
     r"up_weight: got shape \[5, 4\], wanted \[5, 3\] \(the shape of gate_weight\)"),
    (lambda: ops.gated_dgrad(DZ, half(3, 5), X, X, "silu"), r"weight: got shape \[3, 5\], wanted \[5, in_features\]"),
    (lambda: ops.gated_dgrad(DZ, W, DZ, X, "silu"),
     r"gate: got shape \[4, 5\], wanted \[4, 3\] \(the shape of the input's gradient\)"),
    (lambda: ops.gated_dgrad(DZ, W, X, X.float(), "silu"),
     r"up: got torch.float32, wanted torch.float16 as grad_output"),
    (lambda: ops.gated_dgrad(DZ, W, X, X, "swish"), r"activation: got 'swish', wanted one of"),
    # elementwise
    (lambda: pointwise.activation(X.long(), "gelu"), r"preact: got torch.int64, wanted torch.float16"),
    (lambda: pointwise.activation(X, "swish"), r"activation: got 'swish', wanted one of"),
    (lambda: pointwise.activation(freed(4, 3), "gelu"), r"preact: got a tensor.*storage was freed"),
    (lambda: pointwise.activation_backward(freed(4, 3), X, "gelu"), r"grad_output: got a tensor.*storage was freed"),
    (lambda: pointwise.activation_backward(X, freed(4, 3), "gelu"), r"preact: got a tensor.*storage was freed"),
    (lambda: pointwise.gated_activation(freed(4, 3), X, "silu"), r"gate: got a tensor.*storage was freed"),
    (lambda: pointwise.gated_activation(X, freed(4, 3), "silu"), r"up: got a tensor.*storage was freed"),
    (lambda: pointwise.gated_activation_backward(freed(4, 3), X, X, "silu"), r"grad_output: got .*storage was freed"),
    (lambda: pointwise.gated_activation_backward(X, freed(4, 3), X, "silu"), r"gate: got a tensor.*storage was freed"),
    (lambda: pointwise.gated_activation_backward(X, X, freed(4, 3), "silu"), r"up: got a tensor.*storage was freed"),
    (lambda: pointwise.activation_backward(X, DZ, "gelu"), r"preact: got shape \[4, 5\], wanted \[4, 3\]"),
    (lambda: pointwise.activation_backward(X, X.float(), "gelu"),
     r"preact: got torch.float32, wanted torch.float16 as grad_output"),
    (lambda: pointwise.gated_activation(X, DZ, "silu"),
     r"up: got shape \[4, 5\], wanted \[4, 3\] \(the shape of gate\)"),
    (lambda: pointwise.gated_activation_backward(X, X, DZ, "silu"), r"up: got shape \[4, 5\], wanted \[4, 3\]"),
    (lambda: pointwise.gated_activation_backward(X, DZ, X, "silu"), r"gate: got shape \[4, 5\], wanted \[4, 3\]"),
    # matmul
    (lambda: H.matmul(B, W), r"input: got shape \[5\], wanted at least 2-D; a vector is x\[None, :\]"),
    (lambda: H.matmul(X, half(3)), r"other: got shape \[3\], wanted at least 2-D; a vector is x\[:, None\]"),
    (lambda: H.matmul(X, W), r"other: got shape \[5, 3\], wanted \[.., 3, N\].*did you forget other.mT\?"),
    (lambda: H.matmul(X, half(4, 5)), r"other: got shape \[4, 5\], wanted \[.., 3, N\] for input of shape \[4, 3\]"),
    (lambda: H.matmul(X, W.mT.float()), r"other: got torch.float32, wanted torch.float16 as input has"),
    (lambda: H.matmul(half(2, 4, 3), half(3, 3, 5)),
     r"other: got shape \[3, 3, 5\], whose batch dimensions do not broadcast"),
    (lambda: H.matmul(X, W.mT, out_dtype=torch.int8),
     r"out_dtype: got .*, wanted torch.float16, torch.bfloat16 or torch.float32"),
    (lambda: H.matmul(X, W.mT, c=half(4, 4), beta=1),
     r"c: got shape \[4, 4\], wanted \[4, 5\] \(the shape of the result\)"),
    (lambda: H.matmul(X, W.mT, c=DZ.bfloat16(), beta=1),
     r"c: got torch.bfloat16, wanted torch.float16 as the result has, or torch"),
    (lambda: OPS.matmul(X, W.mT, None, 1.0, 1.0, None), r"c: got None with beta 1, wanted a tensor; or pass beta=0"),
    (lambda: H.linear(None, W), r"input: got None, wanted a tensor"),
    (lambda: H.linear(X, W.to("meta")), r"linear: got tensors on cpu and meta, wanted one device"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("call", "message"), [pytest.param(c, m, id=f"{i}-{m[:30]}") for i, (c, m) in enumerate(MESSAGES)]
)
def test_message(call, message):
    with pytest.raises(RuntimeError, match=message) as caught:
        call()
    first = str(caught.value).splitlines()[0]
    assert len(first) < 300, "one sentence"


@pytest.fixture
def on_torch(monkeypatch):
    monkeypatch.setitem(sys.modules["halfops.functional.linear"]._ROOMS, "halfops", torch_backend)


# What only an engine finds out is torch's to say there.
SAID_BY_CHECKS = [(c, m) for c, m in MESSAGES if "storage was freed" not in m and "wanted one device" not in m]


@pytest.mark.parametrize(
    ("call", "message"), [pytest.param(c, m, id=f"{i}-{m[:30]}") for i, (c, m) in enumerate(SAID_BY_CHECKS)]
)
def test_the_torch_backend_refuses_in_the_same_words(call, message, on_torch):
    with pytest.raises(RuntimeError, match=message):
        call()


@pytest.mark.parametrize(
    "call",
    [
        lambda a: H.linear(X, W, activation=a),
        lambda a: H.mlp(X, W, None, half(2, 5), None, activation=a),
        lambda a: H.gated_linear(X, W, W, activation=a),
        lambda a: H.gated_mlp(X, W, W, half(2, 5), activation=a),
        lambda a: H.linear_dgrad(DZ, W, preact=X, activation=a),
        lambda a: halfops.nn.Linear(3, 5, activation=a),
        lambda a: halfops.nn.MLP(3, 5, 2, activation=a),
        lambda a: halfops.nn.GatedMLP(3, 5, 2, activation=a),
    ],
)
def test_unknown_activation(call):
    with pytest.raises(ValueError, match=r"activation: got 'tanh', wanted one of .*; apply any other function"):
        call("tanh")


@pytest.mark.parametrize("function", [H.gated_linear, lambda *t, **k: H.gated_mlp(*t, half(2, 5), **k)])
def test_a_gate_needs_an_activation(function):
    with pytest.raises(ValueError, match="activation: got 'none', wanted one of silu, gelu, gelu_tanh, relu"):
        function(X, W, W, activation="none")


def test_argument_that_is_missing():
    with pytest.raises(ValueError, match="preact: got None with activation 'gelu'"):
        H.linear_dgrad(DZ, W, activation="gelu")
    with pytest.raises(ValueError, match=r"c: got None with beta = 2.0, wanted a tensor of the result's shape"):
        H.matmul(X, W.mT, beta=2.0)


IN_PLACE = [
    (lambda t: t[:, :2], r"grad_weight: got shape \[5, 2\], wanted \[5, 3\]"),
    (
        lambda t: t.mT.contiguous().mT,
        r"grad_weight: got a non-contiguous tensor of shape \[5, 3\], wanted a contiguous one",
    ),
    (lambda t: t.double(), r"grad_weight: got torch.float64, wanted torch.float16, torch.bfloat16 or torch.float32"),
    (lambda t: t.to("meta"), r"linear_wgrad_: got tensors on meta and cpu, wanted one device"),
]


@pytest.mark.parametrize(("change", "message"), IN_PLACE)
def test_accumulation_refuses_before_it_writes(change, message):
    target = change(torch.ones(5, 3))
    before = target.clone()
    with pytest.raises(RuntimeError, match=message):
        H.linear_wgrad(DZ, X, accumulate_into=target)
    if not target.is_meta:
        assert torch.equal(target, before)


@pytest.mark.parametrize(("change", "message"), IN_PLACE[:3])
def test_accumulation_on_torch_refuses_before_it_writes(change, message, on_torch):
    test_accumulation_refuses_before_it_writes(change, message)


@pytest.mark.parametrize("name", ["grad_output", "input"])
def test_accumulation_refuses_shared_memory(name):
    memory = half(100)
    target, before = memory[:15].view(5, 3), memory.clone()
    shared = memory[10:30].view(4, 5) if name == "grad_output" else memory[10:22].view(4, 3)
    dz, x = (shared, X) if name == "grad_output" else (DZ, shared)
    with pytest.raises(RuntimeError, match=rf"grad_weight: shares memory with {name}.*\.clone\(\)"):
        H.linear_wgrad(dz, x, accumulate_into=target)
    assert torch.equal(memory, before)


def test_sparse_tensors_are_refused():
    with pytest.raises(RuntimeError):
        H.linear(X.to_sparse(), W)
