"""What binds Python to an op, whatever its room: fake kernel, autograd formula, autocast rule, composition.

Every differentiable op is declared by one `differentiable(...)` call, which binds the same (setup, backward) pair to
the dispatcher's op and to an autograd.Function around its composition in torch (`composed.py`). A call takes the
composition when its operands are float64 (on a GPU also float32), or when their device has no kernel of ours.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from halfops._ops import composed, ops
from halfops._ops.registry import has_kernel

_LIBRARY = torch.library.Library("halfops", "IMPL")
_DEVICES = {"cpu": "CPU", "cuda": "CUDA"}
# Dtypes that torch's ops serve: float64 everywhere; float32 on a GPU, where our products are those of 16-bit numbers.
_COMPOSED = {"cuda": (torch.float64, torch.float32)}
_CAST: dict[str, int] = {}  # how many arguments of an op autocast casts


def _native(first: Any, second: Any, devices: frozenset[str]) -> bool:
    """Whether the dispatcher's op takes operands like these two; it also words the errors for those nobody takes.

    What else there is does not count: a float64 product may be added to a float32 tensor.
    """
    if not isinstance(first, Tensor):
        return True
    if first.device.type not in devices:
        return False
    composed_dtypes = _COMPOSED.get(first.device.type, (torch.float64,))
    return first.dtype not in composed_dtypes or (isinstance(second, Tensor) and second.dtype is not first.dtype)


def _refuse_tangents(name: str, args: Sequence[Any]) -> None:
    """Below a kernel without a forward-mode formula torch drops the tangent, which says that the derivative is 0."""
    if any(isinstance(t, Tensor) and forward_ad.unpack_dual(t).tangent is not None for t in args):
        raise RuntimeError(
            f"{name}: got a tensor with a tangent (forward-mode differentiation), wanted plain tensors; "
            "take the derivative backwards, with torch.autograd.grad"
        )


def wants_grad(*tensors: Tensor | None) -> bool:
    return torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors)


def under_autocast(tensor: Tensor) -> bool:
    return tensor.device.type in _DEVICES and torch.is_autocast_enabled(tensor.device.type)


def calm(backward: Callable[..., Any]) -> Callable[..., Any]:
    """Autocast is for forward passes: a backward that runs inside of it keeps the dtypes of its own forward."""

    def run(ctx: Any, *grads: Tensor | None) -> Any:
        grad = next((g for g in grads if g is not None), None)
        if grad is not None and under_autocast(grad):
            with torch.autocast(grad.device.type, enabled=False):
                return backward(ctx, *grads)
        return backward(ctx, *grads)

    return run


def dispatched(
    name: str, fake: Callable[..., Any], composition: Callable[..., Any], operands: tuple[int, int] = (0, 1)
) -> Callable[..., Any]:
    """The call that picks the kernel or the composition for one op, by the arguments at `operands`."""
    first, second = operands

    def imagined(*args: Any) -> Any:
        devices = {str(t.device): None for t in args if isinstance(t, Tensor)}
        torch._check(
            len(devices) == 1,
            lambda: f"{name}: got tensors on {' and '.join(devices)}, wanted one device; move them with .to(device)",
        )
        return fake(*args)

    torch.library.register_fake(f"halfops::{name}", imagined)
    op = getattr(ops, name).default
    devices = frozenset({"meta"} | {device for device in _DEVICES if has_kernel(name, device)})

    def call(*args: Any) -> Any:
        if forward_ad._current_level >= 0:
            _refuse_tangents(name, args)
        if not _native(args[first], args[second], devices):
            if under_autocast(args[first]):
                return cast_by_own_rule(name, call, args, args[first])  # then there may be a kernel
            return composition(*args)
        if torch.is_grad_enabled() or torch.compiler.is_compiling():
            return op(*args)
        with torch._C._AutoDispatchBelowAutograd():  # spares backward passes and inference 5 us of Python a call
            return op(*args)

    return call


def differentiable(
    name: str,
    fake: Callable[..., Any],
    setup: Callable[..., None],
    backward: Callable[..., Any],
) -> Callable[..., Any]:
    calmed = calm(backward)
    torch.library.register_autograd(f"halfops::{name}", calmed, setup_context=setup)
    members = {
        "forward": staticmethod(getattr(composed, name)),
        "setup_context": staticmethod(setup),
        "backward": staticmethod(calmed),
    }
    function: Any = type(f"Composed_{name}", (torch.autograd.Function,), members)
    return dispatched(name, fake, lambda *args: function.apply(*args))


def vjp(function: Callable[..., Any], tensors: Sequence[Tensor], grads: Sequence[Tensor | None]) -> list[Any]:
    """Gradients of a composition by torch, for derivatives of the second order and above."""
    again = torch.is_grad_enabled()
    with torch.enable_grad():
        inputs = [t if again and t.requires_grad else t.detach().requires_grad_() for t in tensors]
        outputs = function(*inputs)
        outputs = outputs if isinstance(outputs, tuple) else (outputs,)
        known = [(o, g) for o, g in zip(outputs, grads, strict=True) if g is not None]
        found = torch.autograd.grad(
            [o for o, _ in known], inputs, [g for _, g in known], create_graph=again, allow_unused=True
        )
    return list(found)


def autocast_inputs(*tensors: Tensor | None) -> tuple[Any, ...]:
    """The tensors as a forward op sees them: in the active dtype where autocast is on, else unchanged."""
    first = next((t for t in tensors if t is not None), None)
    if first is None or not under_autocast(first):
        return tensors
    device = first.device.type
    dtype = torch.get_autocast_dtype(device)
    return tuple(t if t is None else _cast(t, device, dtype) for t in tensors)


def cast_by_own_rule(name: str, call: Callable[..., Any], args: Sequence[Any], like: Tensor) -> Any:
    """call(*args) with what autocast casts of the op `name` cast, and nothing of what the call is composed of."""
    count = _CAST.get(name, 0)
    cast = autocast_inputs(*args[:count])
    with torch.autocast(like.device.type, enabled=False):
        return call(*cast, *args[count:])


def _cast(value: Tensor, device: str, dtype: torch.dtype) -> Tensor:
    eligible = value.is_floating_point() and value.device.type == device and value.dtype is not torch.float64
    return value.to(dtype) if eligible else value


def _autocast(name: str, device: str, tensors: int) -> None:
    op = getattr(ops, name).default
    key = torch._C.DispatchKeySet(torch._C.DispatchKey.__members__[f"Autocast{_DEVICES[device]}"])

    def kernel(*args: Any) -> Any:
        dtype = torch.get_autocast_dtype(device)
        cast = [_cast(a, device, dtype) if isinstance(a, Tensor) else a for a in args[:tensors]]
        with torch._C._ExcludeDispatchKeyGuard(key):
            return op(*cast, *args[tensors:])

    _LIBRARY.impl(name, kernel, f"Autocast{_DEVICES[device]}")


def autocast(name: str, tensors: int) -> None:
    """Casts the first `tensors` arguments. Backward and in-place ops have no rule: they keep their operands' dtype."""
    _CAST[name] = tensors
    for device in _DEVICES:
        _autocast(name, device, tensors)


def moved(tensor: Tensor, device: torch.device, dtype: torch.dtype | None = None) -> Tensor:
    """A tensor on a device, without a wait where that is a GPU; the host would read what has not come yet."""
    return tensor.to(device=device, dtype=dtype, non_blocking=device.type != "cpu")
