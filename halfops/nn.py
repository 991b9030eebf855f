"""Modules over halfops.functional: parameters, names and initial values as in torch.nn, forward passes fused.

`convert(model)` turns a model's torch.nn.Linear layers into these without touching a parameter or a key.
"""

from __future__ import annotations

import logging
from collections import Counter
from itertools import pairwise
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from halfops import functional
from halfops.functional.linear import check_activation, check_backend

__all__ = ["MLP", "GatedMLP", "Linear", "convert"]

_log = logging.getLogger(__name__)
_DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_Model = TypeVar("_Model", bound=nn.Module)


class Linear(nn.Linear):
    """y = act(x W^T + b) + residual: torch.nn.Linear with activation and residual inside the kernel.

    Parameters, state_dict keys (`weight` [out, in], `bias` [out]) and initial values are torch.nn.Linear's.
    activation: "none", "relu", "gelu", "gelu_tanh" or "silu". Formula, dtypes and what is kept for backward:
    `halfops.functional.linear`. fuse_wgrad_accumulation: backward adds the weight's gradient straight into its
    `main_grad` or `.grad`, past all hooks on the parameter; conditions in `halfops.functional.linear`'s module.
    backend: "halfops", or "torch" for torch's own ops.
    """

    activation: str = "none"
    fuse_wgrad_accumulation: bool = False
    backend: str = "halfops"

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        activation: str = "none",
        device: Any = None,
        dtype: torch.dtype | None = None,
        *,
        fuse_wgrad_accumulation: bool = False,
        backend: str = "halfops",
    ) -> None:
        check_backend(backend, fuse_wgrad_accumulation)
        check_activation(activation)
        super().__init__(in_features, out_features, bias, device=device, dtype=dtype)
        self.activation = activation
        self.fuse_wgrad_accumulation = fuse_wgrad_accumulation
        self.backend = backend

    def forward(self, input: Tensor, residual: Tensor | None = None) -> Tensor:
        return functional.linear(
            input,
            self.weight,
            self.bias,
            activation=self.activation,
            residual=residual,
            fuse_wgrad_accumulation=self.fuse_wgrad_accumulation,
            backend=self.backend,
        )

    def extra_repr(self) -> str:
        text = super().extra_repr()
        text = text if self.activation == "none" else f"{text}, activation={self.activation!r}"
        return text + _fusing(self)


class MLP(nn.Module):
    """y = fc2(act(fc1(x))) + residual as one function that keeps x and fc1's pre-activation only.

    Shapes: x [*, in_features], result and residual [*, out_features]. Parameters: fc1.weight, fc1.bias, fc2.weight,
    fc2.bias, initialized as torch.nn.Linear's. Formula, dtypes and errors: `halfops.functional.mlp`. fc1 and fc2 hold
    parameters; their own forward, and hooks on it, are not called. fuse_wgrad_accumulation: as in `Linear`.
    """

    def __init__(
        self,
        in_features: int,
        hidden_features: int,
        out_features: int,
        bias: bool = True,
        activation: str = "gelu",
        device: Any = None,
        dtype: torch.dtype | None = None,
        *,
        fuse_wgrad_accumulation: bool = False,
        backend: str = "halfops",
    ) -> None:
        check_backend(backend, fuse_wgrad_accumulation)
        check_activation(activation)
        super().__init__()
        self.activation = activation
        self.fuse_wgrad_accumulation = fuse_wgrad_accumulation
        self.backend = backend
        self.fc1 = Linear(in_features, hidden_features, bias, device=device, dtype=dtype)
        self.fc2 = Linear(hidden_features, out_features, bias, device=device, dtype=dtype)

    def forward(self, input: Tensor, residual: Tensor | None = None) -> Tensor:
        fc1, fc2 = self.fc1, self.fc2
        return functional.mlp(
            input,
            fc1.weight,
            fc1.bias,
            fc2.weight,
            fc2.bias,
            activation=self.activation,
            residual=residual,
            fuse_wgrad_accumulation=self.fuse_wgrad_accumulation,
            backend=self.backend,
        )

    def extra_repr(self) -> str:
        return f"activation={self.activation!r}" + _fusing(self)


class GatedMLP(nn.Module):
    """y = down(act(gate(x)) * up(x)) + residual as one function that keeps x, gate(x) and up(x) only.

    Shapes: x [*, in_features], result and residual [*, out_features]. Parameters: gate_proj, up_proj, down_proj, each
    with weight and bias, initialized as torch.nn.Linear's. Formula, dtypes and errors: `halfops.functional.gated_mlp`.
    The three hold parameters; their own forward, and hooks on it, are not called. fuse_wgrad_accumulation: as in
    `Linear`.
    """

    def __init__(
        self,
        in_features: int,
        hidden_features: int,
        out_features: int,
        bias: bool = True,
        activation: str = "silu",
        device: Any = None,
        dtype: torch.dtype | None = None,
        *,
        fuse_wgrad_accumulation: bool = False,
        backend: str = "halfops",
    ) -> None:
        check_backend(backend, fuse_wgrad_accumulation)
        check_activation(activation, gated=True)
        super().__init__()
        self.activation = activation
        self.fuse_wgrad_accumulation = fuse_wgrad_accumulation
        self.backend = backend
        self.gate_proj = Linear(in_features, hidden_features, bias, device=device, dtype=dtype)
        self.up_proj = Linear(in_features, hidden_features, bias, device=device, dtype=dtype)
        self.down_proj = Linear(hidden_features, out_features, bias, device=device, dtype=dtype)

    def forward(self, input: Tensor, residual: Tensor | None = None) -> Tensor:
        gate, up, down = self.gate_proj, self.up_proj, self.down_proj
        return functional.gated_mlp(
            input,
            gate.weight,
            up.weight,
            down.weight,
            gate.bias,
            up.bias,
            down.bias,
            activation=self.activation,
            residual=residual,
            fuse_wgrad_accumulation=self.fuse_wgrad_accumulation,
            backend=self.backend,
        )

    def extra_repr(self) -> str:
        return f"activation={self.activation!r}" + _fusing(self)


def _fusing(module: Linear | MLP | GatedMLP) -> str:
    text = ", fuse_wgrad_accumulation=True" if module.fuse_wgrad_accumulation else ""
    return text if module.backend == "halfops" else f"{text}, backend={module.backend!r}"


def convert(model: _Model, *, fuse_wgrad_accumulation: bool = False) -> _Model:
    """Turns every torch.nn.Linear of a model into a halfops.nn.Linear, in place; returns the model.

    Each layer stays the same object with another class. So parameters, weight tying, state_dict keys, modules that
    occur several times, hooks and their handles, buffers, training mode, requires_grad and optimizers are as before.
    Left alone: subclasses of torch.nn.Linear (parametrizations, adapters, quantized layers, attention's out_proj),
    layers whose `forward` was replaced on the instance, weights that are tensor subclasses or of other dtypes.

    In a torch.nn.Sequential an activation (ReLU, GELU, SiLU) right after a Linear is fused into it, and an Identity
    takes its place so that later keys keep their numbers; not where a hook on one of the two, or another module that
    holds one of them, could see the difference. Code that calls children of a Sequential one by one and keeps what is
    between them (a tap before the activation) does see it: there, give the layer its own subclass of torch.nn.Linear.

    fuse_wgrad_accumulation=True sets that of every halfops layer that the model then has, those it had before included,
    but for those with backend="torch", which cannot.

    To keep the original as well, convert a copy.deepcopy of it. What was done is logged at level INFO.
    """
    layers = [m for m in model.modules() if _convertible(m)]
    for layer in layers:
        layer.__class__ = Linear
    fused = sum(_fuse(m) for m in _sequentials_with_lone_children(model))
    if fuse_wgrad_accumulation:
        for module in model.modules():
            if isinstance(module, Linear | MLP | GatedMLP) and module.backend != "torch":
                module.fuse_wgrad_accumulation = True
    _log.info("converted %d linear layers, fused %d activations into them", len(layers), fused)
    return model


def _convertible(module: nn.Module) -> bool:
    if type(module) is not nn.Linear or "forward" in module.__dict__:
        return False
    return type(module.weight) in (nn.Parameter, Tensor) and module.weight.dtype in _DTYPES


def _sequentials_with_lone_children(model: nn.Module) -> list[tuple[nn.Sequential, set[nn.Module]]]:
    """Each plain Sequential, with those of its children that the model mentions in no other place."""
    modules = list(model.modules())
    mentions = Counter(child for module in modules for child in module._modules.values() if child is not None)
    return [
        (module, {child for child in module if mentions[child] == 1})
        for module in modules
        if isinstance(module, nn.Sequential)
        and type(module).forward is nn.Sequential.forward
        and "forward" not in module.__dict__
    ]


def _fuse(place: tuple[nn.Sequential, set[nn.Module]]) -> int:
    sequential, lone = place
    children = list(sequential._modules.items())
    fused = 0
    for (_, layer), (name, follower) in pairwise(children):
        activation = _activation_name(follower)
        if activation is None or type(layer) is not Linear or layer.activation != "none":
            continue
        if not {layer, follower} <= lone or _watched(layer) or _watched(follower):
            continue
        assert follower is not None
        layer.activation = activation
        sequential._modules[name] = nn.Identity().train(follower.training)
        fused += 1
    return fused


def _activation_name(module: nn.Module | None) -> str | None:
    if module is None or "forward" in module.__dict__:
        return None
    if type(module) is nn.GELU:
        return {"none": "gelu", "tanh": "gelu_tanh"}.get(module.approximate)
    return {nn.ReLU: "relu", nn.SiLU: "silu"}.get(type(module))


def _watched(module: nn.Module) -> bool:
    hooks = (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks)
    return any(hooks) or "forward" in module.__dict__
