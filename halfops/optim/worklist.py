"""The tensors of one step in the order the op takes them, kept until something about them changes.

Gathering a thousand tensors and their states costs more than a small step, so it is done once. What is looked at on
every step is what users change between steps: gradients, parameters' storage and dtype, state entries, groups and
their hyper-parameters.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from operator import attrgetter, is_
from typing import Any

import torch
from torch import Tensor

from halfops._ops.optim import hyper_names, state_names
from halfops.optim import checks
from halfops.optim.storage import flat, in_layout_of

Group = dict[str, Any]

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
            self.table.copy_(torch.tensor(numbers, dtype=torch.float64).view(self.table.shape), non_blocking=True)
            self.numbers = numbers
        for cell, value in self.on_device:
            cell.copy_(value.reshape(()), non_blocking=True)


@dataclass
class Call:
    """The arguments of one optim_step_: one device, one rule."""

    rule: str
    device: torch.device
    members: list[int]  # positions in the optimizer's flat list of parameters
    params: list[Tensor]
    masters: list[Tensor]
    states: list[Tensor]  # state-major
    emas: list[Tensor]  # one a parameter, or none at all
    steps: Tensor
    rows: Tensor
    hyper: HyperTable
    strided: list[
        tuple[int, Tensor]
    ]  # position within the call, parameter: not contiguous, its gradient is brought in line
    grads: list[Tensor]
    copied: list[Tensor]  # the gradients whose copies are in grads


def member_views(tensors: Iterable[Tensor]) -> list[Tensor]:
    return [tensor if tensor.is_contiguous() else flat(tensor) for tensor in tensors]


class WorkList:
    """Every call of one step, and what it was built from."""

    def __init__(
        self,
        params: list[Tensor],
        rules: list[str],
        groups: list[Group],
        state: dict[Tensor, dict[str, Any]],
        averaged: bool,
    ) -> None:
        self.params, self.rules, self.groups, self.state = params, rules, list(groups), state
        self.averaged = averaged
        self.present: list[bool] = []
        self.pointers: list[int] = []
        self.dtypes: list[torch.dtype] = []
        self.entries: list[Any] = []
        self.calls: list[Call] = []

    def remember(self, present: list[bool]) -> None:
        self.present = present
        self.pointers = list(map(Tensor.data_ptr, self.params))
        self.dtypes = list(map(_dtype, self.params))
        self.entries = self._entries()

    def _entries(self) -> list[Any]:
        # torch lets state have keys that are no parameters; whatever they hold is not ours.
        return [value for entry in self.state.values() if isinstance(entry, dict) for value in entry.values()]

    def holds(
        self,
        params: list[Tensor],
        rules: list[str],
        groups: list[Group],
        state: Any,
        present: list[bool],
        averaged: bool,
    ) -> bool:
        """Whether nothing changed that the lists depend on."""
        return (
            state is self.state
            and averaged == self.averaged
            and rules == self.rules
            and present == self.present
            and same_objects(groups, self.groups)
            and same_objects(params, self.params)
            and list(map(Tensor.data_ptr, params)) == self.pointers
            and list(map(_dtype, params)) == self.dtypes
            and same_objects(self._entries(), self.entries)
        )

    def take_gradients(self, grads: list[Tensor | None]) -> None:
        """Each call's gradients as the op takes them, or an error that names the parameter."""
        for call in self.calls:
            params = [self.params[i] for i in call.members]
            taken: list[Tensor] = [grads[i] for i in call.members]  # type: ignore[misc]
            if not gradients_fit(params, taken):
                for i, param, grad in zip(call.members, params, taken, strict=True):
                    checks.gradient(f"parameter {i}", param, grad)
            call.copied = []
            if call.strided:
                for position, param in call.strided:
                    grad = taken[position]
                    if grad.stride() != param.stride():
                        call.copied.append(grad)
                        grad = in_layout_of(param, grad, grad.dtype)
                    taken[position] = flat(grad)
            if not all(map(Tensor.is_contiguous, taken)):
                call.copied += [grad for grad in taken if not grad.is_contiguous()]
                taken = [grad.contiguous() for grad in taken]
            call.grads = taken

    def release_gradients(self) -> None:
        for call in self.calls:
            call.grads = []
            call.copied = []


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


def build_call(
    rule: str,
    device: torch.device,
    members: list[tuple[int, Tensor, Group]],
    state: dict[Tensor, dict[str, Any]],
    averaged: bool,
) -> Call:
    names = state_names(rule)
    params = [param for _, param, _ in members]
    entries = [state[param] for param in params]
    groups: list[Group] = []
    row_of: dict[int, int] = {}
    for _, _, group in members:
        if id(group) not in row_of:
            row_of[id(group)] = len(groups)
            groups.append(group)
    none = torch.empty(0, dtype=torch.int16, device=device)
    masters = [entry.get("master_remainder", entry.get("master_param", none)) for entry in entries]
    return Call(
        rule=rule,
        device=device,
        members=[index for index, _, _ in members],
        params=member_views(params),
        masters=member_views(masters),
        states=member_views(entry[name] for name in names for entry in entries),
        emas=member_views(entry["ema_param"] for entry in entries if averaged),
        steps=pack_steps(entries, device),
        rows=torch.tensor([[row_of[id(group)], index] for index, _, group in members], dtype=torch.int64),
        hyper=HyperTable(groups, hyper_names(rule), device),
        strided=[(at, param) for at, param in enumerate(params) if not param.is_contiguous()],
        grads=[],
        copied=[],
    )
