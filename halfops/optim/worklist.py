"""The tensors of one step as plans in C++ keep them, until something about them changes.

Gathering ten thousand tensors and their states costs more than their step, so it is done once. What is looked at on
every step is what users change between steps. Here: groups and their lists of parameters, hyper-parameters, state
entries, gradients where there were none. In C++ (`Plan.refresh`): memory, dtype and shape of parameters, memory of
states, gradients. Python's part is a few operations a group, and walks by identity that C++ does for it.
"""

import math
from collections.abc import Sequence
from operator import attrgetter, is_
from typing import Any

import torch
from torch import Tensor

from halfops._ops import fresh
from halfops._ops.fresh import Source
from halfops._ops.optim import hyper_names, state_names, write_
from halfops._ops.optim_plan import Plan, Readiness, entries, items, same_entries, same_items
from halfops._ops.scale import GradStats, grad_stats
from halfops.optim import checks
from halfops.optim.storage import in_layout_of

Group = dict[str, Any]
Measured = tuple[list[int], list[torch.dtype], GradStats, Source]  # members, their dtypes, what is known, whence

_dtype = attrgetter("dtype")
_device = attrgetter("device")


def same_objects(a: Sequence[Any], b: Sequence[Any]) -> bool:
    return len(a) == len(b) and all(map(is_, a, b))


class HyperTable:
    """float64 [groups, columns] on the parameters' device; rewritten only when a number changes."""

    def __init__(self, groups: list[Group], columns: tuple[str, ...], device: torch.device) -> None:
        self.groups, self.columns = groups, columns
        self.numbers: list[float] = []
        self.table = torch.zeros(len(groups), len(columns), dtype=torch.float64, device=device)
        self.on_device: list[tuple[Tensor, Tensor]] = []

    def read(self) -> list[float]:
        """The groups' present numbers; tensors on an accelerator are left for write(), which needs no sync."""
        numbers = []
        self.on_device = []
        for row, group in enumerate(self.groups):
            for column, name in enumerate(self.columns):
                value = group["betas"][int(name[-1]) - 1] if name in ("beta1", "beta2") else group[name]
                if isinstance(value, Tensor) and value.device.type != "cpu":
                    self.on_device.append((self.table[row, column], value.detach()))
                    numbers.append(0.0)
                    continue
                numbers.append(float(value))
                if not math.isfinite(numbers[-1]):
                    raise ValueError(
                        f"{name}: got {numbers[-1]} in a parameter group at step(), wanted a finite number"
                    )
        return numbers

    def write(self, numbers: list[float]) -> None:
        if numbers != self.numbers:
            write_(self.table, torch.tensor(numbers, dtype=torch.float64).view(self.table.shape))
            # What a graph captures it writes at every replay: whoever comes next has to write its own again.
            self.numbers = [] if checks.capturing() else numbers
        for cell, value in self.on_device:
            cell.copy_(value.reshape(()), non_blocking=True)


class Call:
    """One device, one rule: a plan, and what of it Python has to know."""

    def __init__(
        self,
        rule: str,
        device: torch.device,
        members: list[tuple[int, Tensor, Group]],
        state: dict[Tensor, dict[str, Any]],
        averaged: bool,
        rounding: str,
    ) -> None:
        self.device = device
        self.members = [index for index, _, _ in members]  # positions in the optimizer's flat list of parameters
        self.params = [param for _, param, _ in members]
        self.dtypes = [param.dtype for param in self.params]
        self.copied: list[Tensor] = []  # the gradients of which the plan was given copies

        names, states = state_names(rule), [state[param] for param in self.params]
        groups: list[Group] = []
        row_of: dict[int, int] = {}
        for _, _, group in members:
            if id(group) not in row_of:
                row_of[id(group)] = len(groups)
                groups.append(group)
        self.hyper = HyperTable(groups, hyper_names(rule), device)
        none = torch.empty(0, dtype=torch.int16, device=device)
        self.plan = Plan(
            rule,
            self.params,
            masters=[entry.get("master_remainder", entry.get("master_param", none)) for entry in states],
            states=[entry[name] for name in names for entry in states],
            emas=[entry["ema_param"] for entry in states if averaged],
            steps=pack_steps(states, device),
            rows=torch.tensor([[row_of[id(group)], index] for index, _, group in members], dtype=torch.int64),
            rounding=rounding,
        )

    def gradients(self) -> list[Tensor | None]:
        return [param.grad for param in self.params]

    def stats(self, count_zeros: bool = False) -> list[Measured]:
        """Statistics of the gradients; those that their own kernels left, and one read of the others."""
        known: dict[int, Tensor] = {}
        if not count_zeros and fresh.recorded():
            grads: list[Tensor] = self.gradients()  # type: ignore[assignment]  # the plan has found them all
            known = fresh.take(grads)
        if not known:
            return [(self.members, self.dtypes, self.plan.stats(count_zeros), "read")]
        measured = [self._part(list(known), fresh.combined(list(known.values())), "wgrad")]
        others = [i for i in range(len(grads)) if i not in known]
        if others:
            dense = [_dense(self.params[i], grads[i]) for i in others]
            measured.append(self._part(others, grad_stats(dense), "read"))
        return measured

    def _part(self, chosen: list[int], stats: GradStats, source: Source) -> Measured:
        return [self.members[i] for i in chosen], [self.dtypes[i] for i in chosen], stats, source

    def take(self, grads: list[Tensor], zero_grad: bool) -> None:
        """Gradients that Python has gathered, or an error that names the parameter."""
        if not gradients_fit(self.params, grads):
            for i, param, grad in zip(self.members, self.params, grads, strict=True):
                checks.gradient(f"parameter {i}", param, grad)
        self.copied = []
        self.plan.take(list(map(self._in_line, self.params, grads)), zero_grad)

    def _in_line(self, param: Tensor, grad: Tensor) -> Tensor:
        """The gradient with its elements in memory as the parameter has them, and as their values."""
        dense = _dense(param, grad)
        if dense is not grad:
            self.copied.append(grad)
        return dense


class WorkList:
    """Every call of one step, and what it was built from."""

    def __init__(
        self, groups: list[Group], rules: list[str], state: dict[Tensor, dict[str, Any]], averaged: bool, rounding: str
    ) -> None:
        self.groups, self.rules, self.state = list(groups), rules, state
        self.averaged, self.rounding = averaged, rounding
        self.sizes = [len(group["params"]) for group in groups]
        self.params: tuple[Tensor, ...] = items([group["params"] for group in groups])
        self.dtypes = list(map(_dtype, self.params))
        self.absent: list[Tensor] = []  # parameters without gradient
        self.entries: tuple[object, ...] = ()
        self.calls: list[Call] = []

    def build(self, grads: list[Tensor | None]) -> None:
        """The plans, once the state of every parameter that has a gradient is there."""
        members: dict[tuple[torch.device, str], list[tuple[int, Tensor, Group]]] = {}
        groups = [(group, rule) for group, rule in zip(self.groups, self.rules, strict=True) for _ in group["params"]]
        for i, (param, grad, (group, rule)) in enumerate(zip(self.params, grads, groups, strict=True)):
            if grad is None:
                self.absent.append(param)
            else:
                members.setdefault((param.device, rule), []).append((i, param, group))
        self.calls = [
            Call(rule, device, each, self.state, self.averaged, self.rounding)
            for (device, rule), each in members.items()
        ]
        self.entries = entries(self.state)

    def holds(self, groups: list[Group], rules: list[str], state: Any, averaged: bool, rounding: str) -> bool:
        """Whether nothing changed that the plans depend on and Python can see."""
        lists = [group["params"] for group in groups]
        return (
            state is self.state
            and (averaged, rounding) == (self.averaged, self.rounding)
            and rules == self.rules
            and same_objects(groups, self.groups)
            and list(map(len, lists)) == self.sizes
            and same_items(lists, self.params)
            and same_entries(state, self.entries)
            and all(param.grad is None for param in self.absent)
        )

    def refresh(self, zero_grad: bool) -> bool:
        """Whether nothing changed that the plans see; then their gradients are known."""
        for call in self.calls:
            readiness = call.plan.refresh(zero_grad)
            if readiness is Readiness.MEMORY:
                return False
            if readiness is Readiness.GRADIENTS:
                present = [grad for grad in call.gradients() if grad is not None]
                if len(present) != len(call.params):
                    return False
                call.take(present, zero_grad)
            else:
                call.copied = []
        return True

    def release_gradients(self) -> None:
        for call in self.calls:
            call.plan.release()
            call.copied = []


def same_order(param: Tensor, grad: Tensor) -> bool:
    """Whether two tensors of one shape have their elements in the same order in memory."""
    if param.is_contiguous():
        return grad.is_contiguous()
    return all(a == b or size == 1 for size, a, b in zip(param.shape, param.stride(), grad.stride(), strict=True))


def _dense(param: Tensor, grad: Tensor) -> Tensor:
    """The gradient, or a copy with its elements where the parameter has them and as their values."""
    return grad if same_order(param, grad) and not grad.is_neg() else in_layout_of(param, grad, grad.dtype)


def gradients_fit(params: list[Tensor], grads: list[Tensor]) -> bool:
    return (
        not any(grad.layout != torch.strided for grad in grads)
        and list(map(_dtype, params)) == list(map(_dtype, grads))
        and list(map(_device, params)) == list(map(_device, grads))
        and list(map(Tensor.numel, params)) == list(map(Tensor.numel, grads))
    )


def pack_steps(entries: list[dict[str, Any]], device: torch.device) -> Tensor:
    """One tensor of all step counts; each state's `step` becomes a view of it."""
    steps = torch.stack([entry["step"].to(device) for entry in entries])
    for entry, step in zip(entries, steps.unbind(), strict=True):
        entry["step"] = step
    return steps
