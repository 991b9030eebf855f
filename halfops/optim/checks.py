"""Hyper-parameters as sentences: what was given, what is wanted, what to do about it."""

import math
from numbers import Real
from typing import Any

import torch

MASTERS = ("split", "fp32", "none")
ROUNDINGS = ("nearest", "stochastic")
WEIGHT_DTYPES = (torch.float16, torch.bfloat16, torch.float32)

# Options of the whole optimizer: a parameter group that names one of them would be ignored, so it is refused.
INSTANCE_OPTIONS = ("master", "rounding", "max_grad_norm", "ema_decay", "state_dtype", "seed", "fused_unscale")


def number(name: str, value: Any, *, least: float = 0.0, below: float = math.inf) -> None:
    """A finite number in [least, below), or a one-element tensor; a tensor on an accelerator is not read (no sync)."""
    if isinstance(value, torch.Tensor):
        if value.numel() != 1 or value.is_complex():
            raise ValueError(
                f"{name}: got a {value.dtype} tensor of shape {list(value.shape)}, wanted a real one-element tensor; "
                "give each parameter group its own value instead"
            )
        if value.device.type != "cpu":
            return
        value = value.item()
    if isinstance(value, bool) or not isinstance(value, Real):  # NumPy's scalars, too
        raise TypeError(f"{name}: got {value!r} ({type(value).__name__}), wanted a number or a one-element tensor")
    if not least <= float(value) < below or not math.isfinite(value):  # NaN fails every comparison
        wanted = f"a number in [{least:g}, {below:g})" if below < math.inf else "a finite number"
        wanted += " >= 0" if (least, below) == (0.0, math.inf) else ""
        raise ValueError(f"{name}: got {value}, wanted {wanted}")


def betas(value: Any) -> None:
    if not isinstance(value, (tuple, list)) or len(value) != 2:
        raise TypeError(f"betas: got {value!r}, wanted two numbers, as in betas=(0.9, 0.999)")
    for i, beta in enumerate(value):
        number(f"betas[{i}]", beta, below=1.0)


def unsupported(group: dict[str, Any]) -> None:
    """Options that torch's classes have and these do not honour. foreach, fused and capturable always hold."""
    if group.get("amsgrad"):
        raise NotImplementedError("amsgrad: got True, wanted False; halfops has no AMSGrad, use torch.optim for it")
    if group.get("differentiable"):
        raise NotImplementedError(
            "differentiable: got True, wanted False; the fused step has no derivative, use torch.optim for it"
        )
    for name in INSTANCE_OPTIONS:
        if name in group:
            raise ValueError(
                f"{name}: got it in a parameter group, wanted it as an argument of the optimizer; it holds for all "
                "groups, so use one optimizer for each value"
            )


def one_of(name: str, value: Any, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(f"{name}: got {value!r}, wanted one of {', '.join(map(repr, choices))}")


def state_dtype(value: Any) -> None:
    if value != torch.float32:
        raise NotImplementedError(
            f"state_dtype: got {value!r}, wanted torch.float32; 16-bit and 8-bit states come in a later release"
        )


def parameter(name: str, param: torch.Tensor, master: str, rounding: str) -> None:
    """A dense tensor of a known dtype, and a rounding that fits the way its master is kept."""
    if param.layout != torch.strided:
        raise TypeError(f"{name}: got a {param.layout} tensor, wanted a dense one; call .to_dense() on it")
    if param.is_complex():
        raise TypeError(
            f"{name}: got {param.dtype}, wanted torch.float16, torch.bfloat16 or torch.float32; "
            "optimize torch.view_as_real of it"
        )
    if param.dtype not in WEIGHT_DTYPES:
        raise TypeError(
            f"{name}: got {param.dtype}, wanted torch.float16, torch.bfloat16 or torch.float32; "
            "convert the model, as in model.half()"
        )
    if not is_dense(param):
        raise ValueError(
            f"{name}: got shape {list(param.shape)} with strides {list(param.stride())}, wanted every element once in "
            "memory (any order of dimensions); call .contiguous() on it before it becomes a parameter"
        )
    if rounding == "stochastic" and master != "none" and param.dtype != torch.float32:
        raise ValueError(
            f"rounding: got 'stochastic' with master={master!r} for {name} ({param.dtype}), wanted 'nearest': a master "
            "loses nothing that rounding could win back; pass master='none' to round stochastically"
        )


def gradient(name: str, param: torch.Tensor, grad: torch.Tensor) -> None:
    if grad.layout != torch.strided:
        raise RuntimeError(
            f"gradient of {name}: got a {grad.layout} tensor, wanted a dense one; "
            "use nn.Embedding(sparse=False) or call .to_dense() on it"
        )
    if grad.dtype != param.dtype:
        raise RuntimeError(
            f"gradient of {name}: got {grad.dtype}, wanted {param.dtype} as its parameter; "
            "did the parameter's dtype change after backward()?"
        )
    if grad.device != param.device:
        raise RuntimeError(
            f"gradient of {name}: is on {grad.device}, wanted {param.device} as its parameter; "
            "did the parameter move after backward()?"
        )
    if grad.shape != param.shape:
        raise RuntimeError(
            f"gradient of {name}: got shape {list(grad.shape)}, wanted {list(param.shape)} as its parameter; "
            "did the parameter's shape change after backward()?"
        )


def apart(grads: list[torch.Tensor]) -> None:
    """Gradients that one call zeroes must not be those that the next one reads. Contiguous ones; the op sees to those
    of one call."""
    ends: dict[torch.device, int] = {}
    for grad in sorted(grads, key=torch.Tensor.data_ptr):
        if grad.numel() and grad.data_ptr() < ends.get(grad.device, 0):
            raise RuntimeError(
                "zero_grad: got two parameters whose gradients share memory, wanted separate ones; "
                "leave zero_grad out of step() and call optimizer.zero_grad(set_to_none=False) after it"
            )
        ends[grad.device] = max(ends.get(grad.device, 0), grad.data_ptr() + grad.nbytes)


def capturing() -> bool:
    """Whether a CUDA graph is being captured: what is launched now runs when it is replayed."""
    return torch.cuda.is_available() and torch.cuda.is_current_stream_capturing()


def not_capturing() -> None:
    """States and tables that are made in a capture would be made again by every replay, and by nothing else."""
    if capturing():
        raise RuntimeError(
            "optimizer step in a CUDA graph: got parameters, gradients or groups that have changed since the last step "
            "(or there was none), wanted what the last step had; take a step with these parameters, gradients and "
            "groups before the capture"
        )


def is_dense(tensor: torch.Tensor) -> bool:
    """Whether the tensor's elements fill one block of memory, each once, in whatever order of dimensions."""
    if tensor.is_contiguous():
        return True
    expected = 1
    dimensions = zip(tensor.stride(), tensor.shape, strict=True)
    for stride, size in sorted(each for each in dimensions if each[1] != 1):
        if stride != expected:
            return False
        expected *= size
    return True


def seed(value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"seed: got {value!r} ({type(value).__name__}), wanted an int")
    if not 0 <= value < 2**63:
        raise ValueError(f"seed: got {value}, wanted an int in [0, 2**63)")


def no_duplicates(params: list[torch.Tensor]) -> None:
    seen: dict[int, int] = {}
    for i, param in enumerate(params):
        if id(param) in seen:
            raise ValueError(
                f"params: got the same tensor at positions {seen[id(param)]} and {i} of a group, wanted each once; "
                "tied weights are one parameter, as model.parameters() gives them"
            )
        seen[id(param)] = i


def state_dict(value: Any) -> None:
    if not isinstance(value, dict) or not {"state", "param_groups"} <= value.keys():
        got = f"a dict with the keys {sorted(map(str, value))}" if isinstance(value, dict) else type(value).__name__
        raise ValueError(f"state_dict: got {got}, wanted what state_dict() gives, with 'state' and 'param_groups'")
