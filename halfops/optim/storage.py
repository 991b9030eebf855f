"""How one parameter's state is kept: as flat views for the op, as a master, as an entry of a checkpoint.

A master is what the weight would be in float32: `master_param` holds it whole, `master_remainder` holds what the 16-bit
weight lacks to it, and a float32 weight is its own master.
"""

from typing import Any

import torch
from torch import Tensor

from halfops._ops.optim import join_master, split_master

# What a parameter's state has beside the rule's step and moments.
BESIDE_RULE = ("master_param", "master_remainder", "ema_param")


def flat(tensor: Tensor) -> Tensor:
    """A dense tensor's elements in the order they lie in memory; shares its storage."""
    return tensor.detach().as_strided((tensor.numel(),), (1,))


def in_layout_of(param: Tensor, value: Tensor, dtype: torch.dtype) -> Tensor:
    """A copy of value with the parameter's device and strides."""
    return torch.empty_like(param, dtype=dtype, requires_grad=False).copy_(value)


def follow_layout(param: Tensor, value: Tensor) -> Tensor:
    """The state of a parameter whose layout changed (`model.to(memory_format=...)`), laid out like it."""
    if value.shape != param.shape or value.stride() == param.stride():
        return value
    return in_layout_of(param, value, value.dtype)


def zeros(param: Tensor, dtype: torch.dtype) -> Tensor:
    return torch.zeros_like(param, dtype=dtype, memory_format=torch.preserve_format, requires_grad=False)


def master_name(param: Tensor, master: str) -> str | None:
    """The state that holds this parameter's master."""
    if param.dtype == torch.float32 or master == "none":
        return None
    return "master_remainder" if master == "split" else "master_param"


def new_master(param: Tensor, name: str) -> Tensor:
    """The master of a weight that nothing more is known about: the weight itself."""
    if name == "master_remainder":
        return zeros(param, torch.int16)
    return in_layout_of(param, param.detach(), torch.float32)


def read_master(param: Tensor, state: dict[str, Any]) -> Tensor:
    """A float32 copy of the parameter's master."""
    if param.dtype != torch.float32 and "master_param" in state:
        return in_layout_of(param, state["master_param"], torch.float32)
    master = in_layout_of(param, param.detach(), torch.float32)
    if param.dtype != torch.float32 and "master_remainder" in state:
        flat(master).copy_(join_master(flat(param), flat(follow_layout(param, state["master_remainder"]))))
    return master


def convert_master(
    label: str, param: Tensor, saved: dict[str, Any], master: str
) -> tuple[dict[str, Tensor], Tensor | None]:
    """The master that this optimizer keeps, from the one in a checkpoint; and the weight, where it has to follow.

    A master that is not of its own dtype any more went through torch.optim, which casts state and does not update
    masters: it is out of date, and the weight alone counts.
    """
    whole, remainder = saved.get("master_param"), saved.get("master_remainder")
    whole = whole if whole is not None and whole.dtype == torch.float32 else None
    remainder = remainder if remainder is not None and remainder.dtype == torch.int16 else None
    name = master_name(param, master)
    if param.dtype == torch.float32:
        if remainder is not None:
            raise ValueError(
                f"state_dict: got a 16-bit master remainder for {label}, which is torch.float32; wanted the dtype "
                "it was saved with; load it into 16-bit weights first and take master_params() from there"
            )
        return {}, None if whole is None else in_layout_of(param, whole, torch.float32)
    if remainder is not None and param.dtype == torch.float16 and beyond_float16(remainder):
        raise ValueError(
            f"state_dict: got a 16-bit master remainder of bfloat16 for {label}, which is torch.float16; wanted the "
            "dtype it was saved with; load it into bfloat16 weights first and take master_params() from there"
        )
    if name is None:
        return {}, None
    if name == "master_param":
        if whole is not None:
            return {name: in_layout_of(param, whole, torch.float32)}, None
        return {name: read_master(param, {} if remainder is None else convert_remainder(param, remainder))}, None
    if remainder is not None:
        return convert_remainder(param, remainder), None
    if whole is None:
        return {name: new_master(param, name)}, None
    # The weight follows: bfloat16's split rounds ties away from zero, an ordinary cast rounds them to even.
    weight, low = split_master(flat(in_layout_of(param, whole, torch.float32)), param.dtype)
    state = {name: zeros(param, torch.int16)}
    flat(state[name]).copy_(low)
    new_weight = torch.empty_like(param, requires_grad=False)
    flat(new_weight).copy_(weight)
    return state, new_weight


def beyond_float16(remainder: Tensor) -> bool:
    """Whether a remainder is larger than half a gap of float16; bfloat16's go four times as far."""
    return bool((remainder.long().abs() > 2**13).any())


def convert_remainder(param: Tensor, remainder: Tensor) -> dict[str, Tensor]:
    return {"master_remainder": in_layout_of(param, remainder, torch.int16)}


def convert_state(
    label: str,
    param: Tensor,
    saved: dict[str, Any],
    names: tuple[str, ...],
    master: str,
    dtype: torch.dtype,
    averaged: bool,
) -> tuple[dict[str, Any], Tensor | None]:
    """One parameter's entry of a checkpoint (ours or torch.optim's) as this optimizer keeps it."""
    for key in (*names, *BESIDE_RULE):
        value = saved.get(key)
        if isinstance(value, Tensor) and value.shape != param.shape:
            raise ValueError(
                f"state_dict: got {key} of shape {list(value.shape)} for {label}, wanted {list(param.shape)}; "
                "does the checkpoint belong to this model?"
            )
    # Kept from other optimizers: whatever else they saved, untouched.
    ours = ("step", *BESIDE_RULE, *names)
    state: dict[str, Any] = {key: value for key, value in saved.items() if key not in ours}
    moments = {key: saved[key] for key in names if isinstance(saved.get(key), Tensor)}
    # torch.optim.SGD counts no steps, but a momentum buffer says that there was one.
    step = saved.get("step", 1.0 if moments else 0.0)
    if step.numel() != 1 if isinstance(step, Tensor) else not isinstance(step, (int, float)):
        raise ValueError(f"state_dict: got step {step!r} for {label}, wanted one number; is the checkpoint intact?")
    state["step"] = torch.as_tensor(step, dtype=torch.float32).reshape(()).to(param.device, copy=True)
    for key, value in moments.items():
        state[key] = in_layout_of(param, value, dtype)
    average = saved.get("ema_param")
    # One that was cast went through torch.optim, as such a master did; the next step starts a new one.
    if averaged and isinstance(average, Tensor) and average.dtype == torch.float32:
        state["ema_param"] = in_layout_of(param, average, torch.float32)
    masters, weight = convert_master(label, param, saved, master)
    return {**state, **masters}, weight
