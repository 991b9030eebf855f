"""An optimizer's work list in C++: what `optim_step_` takes but for gradients, kept from step to step.

Handing ten thousand tensors to an op takes longer than their step. A plan takes them once and then looks at them by
itself (`csrc/binding/optim_plan.h`).
"""

from __future__ import annotations

import weakref
from collections.abc import Mapping, Sequence
from enum import IntEnum
from typing import Any

from torch import Tensor

from halfops import _C
from halfops._ops import ops
from halfops._ops.scale import GradStats


class Readiness(IntEnum):
    """What `Plan.refresh` found."""

    FINE = 0  # the gradients are known
    GRADIENTS = 1  # they have to be gathered and given to `take`; perhaps one appeared, or is not there any more
    MEMORY = 2  # a parameter or a state has moved, or has another shape or dtype: the plan is of no use any more


class Plan:
    """One device, one rule. Freed with this object; until then it keeps its tensors alive.

    Args are those of `optim_step_`, but every parameter may be dense in any order of dimensions; masters, states and
    averages then have its order.
    """

    def __init__(
        self,
        rule: str,
        params: Sequence[Tensor],
        masters: Sequence[Tensor],
        states: Sequence[Tensor],
        emas: Sequence[Tensor],
        steps: Tensor,
        rows: Tensor,
        rounding: str,
    ) -> None:
        lists = (list(params), list(masters), list(states), list(emas))
        self.number = int(ops.optim_plan.default(rule, *lists, steps, rows, rounding))
        # Not at exit: the process gives everything back anyway, and the library may be half gone.
        weakref.finalize(self, ops.optim_plan_free.default, self.number).atexit = False

    def refresh(self, zero_grad: bool = False) -> Readiness:
        """Looks whether memory moved and where the parameters' gradients are; `zero_grad` as in the step to come."""
        return Readiness(ops.optim_plan_refresh.default(self.number, zero_grad))

    def take(self, grads: Sequence[Tensor], zero_grad: bool = False) -> None:
        """The gradients of one step, in their parameters' order of elements; kept until it is done."""
        ops.optim_plan_take.default(self.number, list(grads), zero_grad)

    def release(self) -> None:
        """Forgets the gradients."""
        ops.optim_plan_release.default(self.number)

    def stats(self, count_zeros: bool = False) -> GradStats:
        """`grad_stats` of the gradients."""
        return GradStats(*ops.optim_plan_stats.default(self.number, count_zeros))

    def step(
        self,
        hyper: Tensor,
        *,
        grad_scale: Tensor | None = None,
        found_inf: Tensor | None = None,
        sum_of_squares: Tensor | None = None,
        max_grad_norm: float | None = None,
        ema_decay: float | None = None,
        zero_grad: bool = False,
        seed: int = 0,
    ) -> None:
        """`optim_step_`, with the gradients that `refresh` or `take` have found since the last step."""
        scalars = (grad_scale, found_inf, sum_of_squares, max_grad_norm, ema_decay)
        ops.optim_plan_step.default(self.number, hyper, *scalars, zero_grad, seed)


def apart(plans: Sequence[Plan]) -> bool:
    """Whether no gradient of one plan shares memory with one of another."""
    return bool(ops.optim_plans_apart.default([plan.number for plan in plans]))


def live_plans() -> list[int]:
    """The numbers of all plans that have not been freed."""
    return [int(number) for number in ops.optim_plans.default()]


def grad_access() -> bool:
    """Whether gradients are read without Python; HALFOPS_GRAD_ACCESS=off forbids it."""
    return bool(ops.optim_grad_access.default())


def set_grad_access(on: bool) -> None:
    """False: gradients come through Python. True: only where that is needed."""
    ops.set_optim_grad_access.default(on)


# -- walks over Python's containers, by identity


def entries(state: Mapping[Any, Any]) -> tuple[object, ...]:
    """Every key and value of an optimizer's state, those of its inner dictionaries in their place, in order."""
    return _C.entries(state if isinstance(state, dict) else dict(state))


def same_entries(state: Mapping[Any, Any], remembered: tuple[object, ...]) -> bool:
    """Whether `entries(state)` would be these very objects."""
    return _C.same_entries(state if isinstance(state, dict) else dict(state), remembered)


items = _C.items
same_items = _C.same_items
