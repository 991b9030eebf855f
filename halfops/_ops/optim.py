"""The optimizer step, the split master and the explicit rounding, as typed functions.

A rule of ``csrc/math/update`` is called by name; ``hyper_names(rule)`` and ``state_names(rule)`` say what it takes.
"""

from collections.abc import Sequence
from functools import cache

import torch
from torch import Tensor

from halfops._ops import ops


@cache
def rules() -> tuple[str, ...]:
    """Every rule: "adamw", "adam", "sgd" (no momentum, no state), "sgd_momentum", "lion", "lamb"."""
    return tuple(ops.optim_rules())


@cache
def hyper_names(rule: str) -> tuple[str, ...]:
    """The columns of ``hyper`` in ``optim_step_``; flags (``maximize``, ``nesterov``) travel as 0 or 1."""
    return tuple(ops.optim_hyper_names(rule))


@cache
def state_names(rule: str) -> tuple[str, ...]:
    """The moments of a rule, in the order of ``states`` in ``optim_step_``."""
    return tuple(ops.optim_state_names(rule))


def optim_step_(
    rule: str,
    params: Sequence[Tensor],
    grads: Sequence[Tensor],
    masters: Sequence[Tensor],
    states: Sequence[Tensor],
    steps: Tensor,
    rows: Tensor,
    hyper: Tensor,
    *,
    emas: Sequence[Tensor] = (),
    grad_scale: Tensor | None = None,
    found_inf: Tensor | None = None,
    sum_of_squares: Tensor | None = None,
    max_grad_norm: float | None = None,
    ema_decay: float | None = None,
    rounding: str = "nearest",
    seed: int = 0,
    zero_grad: bool = False,
) -> None:
    """One step of ``rule`` for all parameters at once, in place; nothing at all changes if it must be skipped.

    (With ``zero_grad``, the gradients do.)

    Args:
        params: n parameters, float16, bfloat16 or float32 mixed, contiguous.
        grads: their gradients, of the same shapes and dtypes, multiplied by ``grad_scale``.
        masters: one a parameter: int16 remainders (split master), a float32 master, or an empty tensor for none.
        states: float32, state-major: ``states[k * n + i]`` is moment k (``state_names``) of parameter i. They start as
            zeros.
        steps: float32 [n], the steps that each parameter has taken; advanced by one.
        rows: int64 [n, 2] on the CPU: each parameter's row of ``hyper``, and its key for stochastic rounding.
        hyper: float64 [groups, columns], the columns being ``hyper_names(rule)``.
        emas: float32 moving averages of the parameters, one each (an empty tensor for a parameter without), or none at
            all; moved after the update: ``ema = lerp(ema, w, 1 - ema_decay)``, where w is the float32 value that weight
            and master stand for, without master the weight as it was rounded.
        grad_scale: float32, what the gradients were multiplied by; 1 if absent.
        found_inf: float32; anything but 0 skips the step.
        sum_of_squares: float64, of the gradients as they are (scaled); infinite or NaN skips the step.
        max_grad_norm: bound of the norm of the unscaled gradients, as in ``clip_grad_norm_``; needs ``sum_of_squares``.
        ema_decay: share of the old average in the new one, in [0, 1); goes with ``emas``.
        rounding: "nearest" or "stochastic", the latter for 16-bit parameters without master. The bits that element e of
            parameter i gets depend on (seed, step, e, key) alone.
        seed: of stochastic rounding, 64 bits.
        zero_grad: the gradients become zeros in the same pass, in a skipped step, too. None may share memory then.

    Raises:
        RuntimeError: a tensor does not fit (dtype, shape, layout, device, shared memory), before anything is changed.
    """
    if not params:
        return
    ops.optim_step_.default(
        rule,
        list(params),
        list(grads),
        list(masters),
        list(states),
        list(emas),
        steps,
        rows,
        hyper,
        grad_scale,
        found_inf,
        sum_of_squares,
        max_grad_norm,
        ema_decay,
        rounding,
        seed,
        zero_grad,
    )


def write_(target: Tensor, values: Tensor) -> None:
    """Copies a CPU tensor of 8-byte numbers into a tensor of the same shape and dtype on any device.

    The numbers travel as arguments of a kernel: the host does not wait, and a CUDA graph keeps them.
    """
    ops.write_.default(target, values)


def split_master(master: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """A float32 tensor as (weight of a 16-bit dtype, int16 remainder); see ``join_master``."""
    weight, remainder = ops.split_master(master, dtype)
    return weight, remainder


def join_master(weight: Tensor, remainder: Tensor) -> Tensor:
    """The float32 tensor that ``split_master`` was given.

    To the bit for bfloat16, and for float16 where 2^-15 <= |w| < 65520; smaller values within 2^-39.
    """
    master: Tensor = ops.join_master(weight, remainder)
    return master


def cast(
    input: Tensor, dtype: torch.dtype, *, rounding: str = "nearest", seed: int = 0, step: int = 0, key: int = 0
) -> Tensor:
    """``input`` as ``dtype`` (float16, bfloat16, float32) with the rounding named.

    "stochastic" rounds a value between two neighbours to the upper one with probability distance / gap, from bits that
    depend on (seed, step, element, key) alone. Contiguous input, any shape; a new tensor.
    """
    output: Tensor = ops.cast(input, dtype, rounding, seed, step, key)
    return output


@torch.library.register_fake("halfops::optim_step_")
def _(*args: object) -> None:
    return None


@torch.library.register_fake("halfops::write_")
def _(target: Tensor, values: Tensor) -> None:
    return None


@torch.library.register_fake("halfops::split_master")
def _(master: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    return master.new_empty(master.shape, dtype=dtype), master.new_empty(master.shape, dtype=torch.int16)


@torch.library.register_fake("halfops::join_master")
def _(weight: Tensor, remainder: Tensor) -> Tensor:
    return weight.new_empty(weight.shape, dtype=torch.float32)


@torch.library.register_fake("halfops::cast")
def _(input: Tensor, dtype: torch.dtype, rounding: str, seed: int, step: int, key: int) -> Tensor:
    return input.new_empty(input.shape, dtype=dtype)
