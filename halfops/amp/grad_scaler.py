"""GradScaler: torch's interface and rule, our checks and the loss scale's whole state on the device."""

from __future__ import annotations

import functools
import inspect
import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from numbers import Integral
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from torch.amp.grad_scaler import OptState, _refresh_per_optimizer_state
from torch.optim import Optimizer

from halfops._ops import fresh
from halfops._ops import scale as _ops
from halfops._ops.wiring import moved
from halfops.amp.report import Check, NamedParameters, Report, Segment, gradients_of, names_of, with_names


class GradScaler(torch.amp.GradScaler):
    """torch.amp.GradScaler with float16 gradients, one read per step, a floor and a cap, hysteresis, and a report.

    Everything that torch's scaler has works the same way: scale, unscale_, step, update, several losses and several
    optimizers, `enabled`, pickling, and a state_dict that either class loads from the other.

    * Optimizers that take the scale themselves (all of halfops.optim, torch's fused ones): `step` reads every
      gradient once, but for those that `wgrad_stats` spares, and hands `grad_scale`, `found_inf` and (for halfops) the
      sum of squares for `max_grad_norm` to the optimizer; it neither rewrites a gradient nor waits for the device.
    * Other optimizers: gradients are unscaled in place, in the same pass that checks them, and `optimizer.step()` is
      called only when all are finite. float16, bfloat16, float32 and float64 gradients are all allowed.
    * `scaler.unscale_(optimizer)`, then clipping or inspection, then `step`, works for both.

    The rule of `update`, once an iteration: if no step was skipped for `growth_interval` iterations in a row, scale =
    min(scale * growth_factor, max_scale). If one was, the clean count restarts, and scale = max(scale *
    backoff_factor, min_scale), unless this was one of the `hysteresis` - 1 overflows that are forgiven from one growth
    interval without overflows to the next.

    Args:
        device: "cuda" or "cpu", where losses and gradients are. Default: "cuda" when torch sees a GPU, else "cpu".
        init_scale, growth_factor, backoff_factor, growth_interval, enabled: as torch's.
        min_scale: floor of a back-off. Torch has none: when gradients stay NaN for reasons other than the scale (bad
            data, a diverged model), its scale halves at every step until float32 ends at 0; 1 / scale is infinite, and
            no later step can be right. At 1.0, the default, such a run skips steps (see `skipped_steps`, `report()`)
            and works again as soon as gradients are finite. Lower it for losses whose unscaled float16 gradients
            really exceed 65504, such as sums over large batches.
        max_scale: cap of a growth. Torch grows up to the largest float32, because float32 gradients, or gradients of
            0, never object, and then overflows in the loss itself. At 2**24, the default, gradients down to 2**-48
            still reach float16's smallest number, 2**-24, and a float32 loss of up to 1e31 can be scaled.
            A scale set beyond either bound, by init_scale, update(new_scale) or a state_dict, is used as it is; it
            just never moves further out.
        hysteresis: overflows until a back-off, as in Megatron; 1, the default, is torch's rule. With 2, one odd batch
            does not halve the scale for the next thousands of steps.
        count_zeros: also count exact zeros (mostly gradients that underflowed) for `report()`.
        named_parameters: a module, or its named_parameters(), for the names in `report()`. Without it they come from
            the optimizer, if that was given named parameters.

    Raises:
        AssertionError, RuntimeError: where torch's does. ValueError: numbers out of range.
    """

    def __init__(
        self,
        device: str | None = None,
        init_scale: float = 2.0**16,
        growth_factor: float = 2.0,
        backoff_factor: float = 0.5,
        growth_interval: int = 2000,
        enabled: bool = True,
        *,
        min_scale: float = 1.0,
        max_scale: float = 2.0**24,
        hysteresis: int = 1,
        count_zeros: bool = False,
        named_parameters: NamedParameters | None = None,
    ) -> None:
        if device is None:
            device = "cuda" if torch.cuda.is_available() else "cpu"
        super().__init__(device, init_scale, growth_factor, backoff_factor, growth_interval, enabled)
        _check_scale_value("init_scale", init_scale)
        _check_scale_value("min_scale", min_scale)
        _check_scale_value("max_scale", max_scale)
        _check_number("max_scale", max_scale, max_scale >= min_scale, f"at least min_scale = {min_scale}")
        _check_number("growth_factor", growth_factor, math.isfinite(growth_factor), "a finite number above 1")
        _check_number("backoff_factor", backoff_factor, 0 < backoff_factor < 1, "a number in (0, 1)")
        _check_count("growth_interval", growth_interval, "a 32-bit count of at least 1")
        _check_count("hysteresis", hysteresis, "a 32-bit count of at least 1; 1 is torch's rule")
        self._min_scale = min_scale
        self._max_scale = max_scale
        self._hysteresis = hysteresis
        self._init_hysteresis_tracker = hysteresis
        self._init_skipped_steps = 0
        self._init_last_step_skipped = False
        self._hysteresis_tracker: Tensor | None = None
        self._skipped_steps: Tensor | None = None
        self._last_step_skipped: Tensor | None = None
        self.count_zeros = count_zeros
        self._names = names_of(named_parameters)
        self._checks: WeakKeyDictionary[Optimizer, Check] = WeakKeyDictionary()

    # -- what the last steps did -----------------------------------------------------------------------------------

    @property
    def skipped_steps(self) -> Tensor:
        """int64 without dimensions: iterations in which a step was skipped. From the first scale() on it is one tensor
        on the device that update() changes in place; reading it does not wait for the device, .item() does."""
        if self._skipped_steps is None:
            return torch.tensor(self._init_skipped_steps if self._enabled else 0)
        return self._skipped_steps

    @property
    def last_step_skipped(self) -> Tensor:
        """bool without dimensions: did the iteration that the last update() closed skip a step? A tensor as
        `skipped_steps` is, so that a scheduler on the device can stand still with the optimizer."""
        if self._last_step_skipped is None:
            return torch.tensor(self._init_last_step_skipped if self._enabled else False)
        return self._last_step_skipped

    def report(self, optimizer: Optimizer | None = None, *, model: NamedParameters | None = None) -> Report:
        """Names the tensors that overflowed at the last check, with every checked gradient's norm and zeros.

        Args:
            optimizer: report only its gradients; default: those of every optimizer checked, first checked first.
            model: a module, or its named_parameters(), for names; they go before those from the constructor, those
                before the optimizer's own `param_names`, and those before "groups[0].params[1]".

        Returns:
            Report. Empty before the first check, and when the scaler is disabled. Waits for the device.
        """
        if not self._enabled:
            return Report((), 1.0)
        known = [names_of(model), self._names]
        wanted = [each for each in self._checks if optimizer is None or each is optimizer]
        rows = [row for each in wanted for row in self._checks[each].rows(each, known)]
        return Report(tuple(rows), self.get_scale())

    # -- checks ----------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def _measure(self, optimizer: Optimizer, inv_scale: Tensor | None) -> tuple[dict[torch.device, Tensor], Tensor]:
        """One pass over the optimizer's gradients: found_inf per device, and the sum of squares on the scale's device.

        With inv_scale it also multiplies them by it; without, it leaves out those whose own kernels left statistics
        that are fresh. The dictionary is empty when there are no gradients.
        """
        scale, _ = self._check_scale_growth_tracker("step")
        # halfops' own optimizers keep a list of their gradients in C++, which spares handing over a new one each step.
        read = getattr(optimizer, "_grad_stats", None) if inv_scale is None else None
        lists = self._read(optimizer, inv_scale) if read is None else read(self.count_zeros)
        found: dict[torch.device, Tensor] = {}
        total = torch.zeros((), dtype=torch.float64, device=scale.device)
        segments = []
        for positions, dtypes, stats, source in lists:
            device = stats.found_inf.device
            overflow = stats.found_inf
            found[device] = torch.maximum(found[device], overflow) if device in found else overflow
            total = total + moved(stats.sum_of_squares, scale.device)
            segments.append(Segment(positions, dtypes, stats.per_tensor, source))
        if segments:
            self._checks[optimizer] = Check(segments, scale.clone() if inv_scale is None else None, self.count_zeros)
        return found, total

    def _read(
        self, optimizer: Optimizer, inv_scale: Tensor | None
    ) -> Iterator[tuple[list[int], list[torch.dtype], _ops.GradStats, fresh.Source]]:
        """Positions, dtypes and statistics of the gradients that one op call read, and multiplied by inv_scale; or that
        it need not read."""
        parts: dict[tuple[torch.device, bool], tuple[list[int], list[Tensor]]] = defaultdict(lambda: ([], []))
        for position, gradient in gradients_of(optimizer):
            positions, gradients = parts[gradient.device, gradient.dtype == torch.float64]
            positions.append(position)
            gradients.append(gradient)
        for (device, double), (positions, gradients) in parts.items():
            known = {} if self.count_zeros or inv_scale is not None else fresh.take(gradients)
            if known:
                dtypes = [gradients[i].dtype for i in known]
                yield [positions[i] for i in known], dtypes, fresh.combined(list(known.values())), "wgrad"
                positions = [position for i, position in enumerate(positions) if i not in known]
                gradients = [gradient for i, gradient in enumerate(gradients) if i not in known]
            if not gradients:
                continue
            factor = None if inv_scale is None else moved(inv_scale, device)
            try:
                stats = _stats(gradients, double, factor, self.count_zeros)
            except RuntimeError as error:
                raise type(error)(with_names(str(error), optimizer, positions, [self._names])) from error
            yield positions, [each.dtype for each in gradients], stats, "read"

    def _unscale_grads_(
        self, optimizer: Optimizer, inv_scale: Tensor, found_inf: Tensor, allow_fp16: bool
    ) -> dict[torch.device, Tensor]:
        """Torch's inner step of unscale_, without its ban on float16."""
        return self._measure(optimizer, inv_scale)[0]

    def _check_inf_per_device(self, optimizer: Optimizer) -> dict[str, Any]:  # torch's type; its keys are devices
        state = self._per_optimizer_states[id(optimizer)]
        state["found_inf_per_device"], state["sum_of_squares"] = self._measure(optimizer, None)
        found: dict[str, Any] = state["found_inf_per_device"]
        return found

    # -- the iteration ---------------------------------------------------------------------------------------------

    def step(self, optimizer: Optimizer, *args: Any, **kwargs: Any) -> float | None:
        """Updates the optimizer's parameters from the unscaled gradients, or leaves everything as it is on overflow.

        Args and kwargs go to `optimizer.step`, whose return value comes back. Optimizers that take the scale themselves
        skip on the device; others cost one host synchronization, as in torch.

        Raises:
            RuntimeError: a closure; a second step of this optimizer before update().
            AssertionError: no scale() before it, or no gradient in the whole optimizer.
        """
        if not self._enabled or _wants_scaler(type(optimizer).step):
            return super().step(optimizer, *args, **kwargs)
        if "closure" in kwargs or (args and callable(args[0])):
            raise RuntimeError("Closure use is not currently supported if GradScaler is enabled.")
        scale, _ = self._check_scale_growth_tracker("step")
        state = self._per_optimizer_states[id(optimizer)]
        if state["stage"] is OptState.STEPPED:
            raise RuntimeError("step() has already been called since the last update().")

        takes_scale = getattr(optimizer, "_step_supports_amp_scaling", False)
        if state["stage"] is OptState.READY:
            if takes_scale:
                self._check_inf_per_device(optimizer)
            else:
                self.unscale_(optimizer)
        if not state["found_inf_per_device"]:
            count = sum(len(group["params"]) for group in optimizer.param_groups)
            raise AssertionError(
                f"No inf checks were recorded for this optimizer: none of its {count} parameters has a gradient; call "
                "scaler.scale(loss).backward() before step(), or leave out step() in iterations that do not use it."
            )
        if takes_scale:
            result = self._step_on_device(optimizer, state, scale, *args, **kwargs)
        else:
            result = self._maybe_opt_step(optimizer, state, *args, **kwargs)
        state["stage"] = OptState.STEPPED
        return result

    def _step_on_device(
        self, optimizer: Any, state: dict[str, Any], scale: Tensor, *args: Any, **kwargs: Any
    ) -> float | None:
        """Hands over what the check found as attributes, torch's protocol plus grad_sumsq (of the scaled gradients)."""
        preset = getattr(optimizer, "grad_scale", None)
        unscaled = state["stage"] is OptState.UNSCALED  # and perhaps clipped: the sum of squares may be out of date
        optimizer.found_inf = _any_on(scale.device, state["found_inf_per_device"].values())
        optimizer.grad_scale = preset if unscaled else scale if preset is None else scale * preset
        optimizer.grad_sumsq = None if unscaled else state["sum_of_squares"]
        try:
            result: float | None = optimizer.step(*args, **kwargs)
        finally:
            del optimizer.grad_scale, optimizer.found_inf, optimizer.grad_sumsq
        return result

    def update(self, new_scale: float | Tensor | None = None) -> None:
        """Ends the iteration: moves the scale by the class's rule, or sets it, and counts a skipped step.

        Raises:
            AssertionError: no scale(), or no step() or unscale_() in this iteration. ValueError: a new_scale that is no
                finite number above 0 (a tensor is taken as it is, to avoid a synchronization).
        """
        if not self._enabled:
            return
        scale, growth_tracker = self._check_scale_growth_tracker("update")
        assert self._hysteresis_tracker is not None
        assert self._skipped_steps is not None
        assert self._last_step_skipped is not None
        states = self._per_optimizer_states.values()
        checks = [found for state in states for found in state["found_inf_per_device"].values()]

        if new_scale is not None:
            if not isinstance(new_scale, Tensor):
                new_scale = float(new_scale)
                _check_scale_value("new_scale", new_scale)
            super().update(new_scale)
            if checks:
                torch.ne(_any_on(scale.device, checks), 0, out=self._last_step_skipped)
                self._skipped_steps.add_(self._last_step_skipped)
            return

        if not checks:
            raise AssertionError(
                "No inf checks were recorded prior to update: no step() or unscale_() has found a gradient since the "
                "last update(); call scaler.step(optimizer) first, or leave out update() in iterations without a step."
            )
        found_inf = _any_on(scale.device, checks)
        torch.ne(found_inf, 0, out=self._last_step_skipped)
        _ops.scale_update_(
            scale,
            growth_tracker,
            self._hysteresis_tracker,
            self._skipped_steps,
            found_inf,
            growth_factor=self._growth_factor,
            backoff_factor=self._backoff_factor,
            growth_interval=self._growth_interval,
            hysteresis=self._hysteresis,
            min_scale=self._min_scale,
            max_scale=self._max_scale,
        )
        self._per_optimizer_states = defaultdict(_refresh_per_optimizer_state)

    # -- state -----------------------------------------------------------------------------------------------------

    def _lazy_init_scale_growth_tracker(self, dev: torch.device) -> None:
        super()._lazy_init_scale_growth_tracker(dev)
        self._hysteresis_tracker = torch.full((), self._init_hysteresis_tracker, dtype=torch.int32, device=dev)
        self._skipped_steps = torch.full((), self._init_skipped_steps, dtype=torch.int64, device=dev)
        self._last_step_skipped = torch.full((), self._init_last_step_skipped, dtype=torch.bool, device=dev)

    def state_dict(self) -> dict[str, Any]:
        """Torch's five entries, and min_scale, max_scale, hysteresis, _hysteresis_tracker, skipped_steps,
        _last_step_skipped. Call it after update(). Empty if disabled. Waits for the device."""
        if not self._enabled:
            return {}
        tracker = self._hysteresis_tracker
        return super().state_dict() | {
            "min_scale": self._min_scale,
            "max_scale": self._max_scale,
            "hysteresis": self._hysteresis,
            "_hysteresis_tracker": self._init_hysteresis_tracker if tracker is None else int(tracker.item()),
            "skipped_steps": int(self.skipped_steps.item()),
            "_last_step_skipped": bool(self.last_step_skipped.item()),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continues where state_dict() was taken, to the bit. From the state of torch's scaler, the bounds and
        hysteresis stay as constructed, and the counters that it does not have start anew.

        Raises:
            RuntimeError: an empty state (from a disabled scaler), or one that lacks some of torch's entries.
            ValueError: a scale that is no finite number above 0; torch's scaler can end at 0.
        """
        if not self._enabled:
            return
        torch_keys = ("scale", "growth_factor", "backoff_factor", "growth_interval", "_growth_tracker")
        missing = [key for key in torch_keys if key not in state_dict]
        if state_dict and missing:
            raise RuntimeError(
                f"GradScaler.load_state_dict: got a state without {', '.join(missing)}, wanted one from the "
                "state_dict() of halfops.amp.GradScaler or torch.amp.GradScaler; load that entry of the checkpoint."
            )
        if state_dict:
            _check_scale_value("scale", state_dict["scale"])
        super().load_state_dict(state_dict)
        self._min_scale = state_dict.get("min_scale", self._min_scale)
        self._max_scale = state_dict.get("max_scale", self._max_scale)
        self._hysteresis = state_dict.get("hysteresis", self._hysteresis)
        self._init_hysteresis_tracker = state_dict.get("_hysteresis_tracker", self._hysteresis)
        self._init_skipped_steps = state_dict.get("skipped_steps", 0)
        self._init_last_step_skipped = state_dict.get("_last_step_skipped", False)
        if self._scale is not None:
            assert self._hysteresis_tracker is not None
            assert self._skipped_steps is not None
            assert self._last_step_skipped is not None
            self._hysteresis_tracker.fill_(self._init_hysteresis_tracker)
            self._skipped_steps.fill_(self._init_skipped_steps)
            self._last_step_skipped.fill_(self._init_last_step_skipped)

    def __getstate__(self) -> dict[str, Any]:
        state = super().__getstate__()
        if self._enabled:
            counters = self.state_dict()
            state["_init_hysteresis_tracker"] = counters["_hysteresis_tracker"]
            state["_init_skipped_steps"] = counters["skipped_steps"]
            state["_init_last_step_skipped"] = counters["_last_step_skipped"]
        for name in ("_hysteresis_tracker", "_skipped_steps", "_last_step_skipped"):
            state[name] = None
        # Names and checks belong to the parameters and optimizers of this process.
        del state["_names"], state["_checks"]
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._names = names_of(None)
        self._checks = WeakKeyDictionary()


def _stats(gradients: list[Tensor], double: bool, inv_scale: Tensor | None, count_zeros: bool) -> _ops.GradStats:
    if double:
        return _float64_stats(gradients, inv_scale, count_zeros)
    if inv_scale is None:
        return _ops.grad_stats(gradients, count_zeros)
    return _ops.unscale_(gradients, inv_scale, count_zeros)


def _float64_stats(gradients: list[Tensor], inv_scale: Tensor | None, count_zeros: bool) -> _ops.GradStats:
    """float64 has no kernel of ours: the same figures from torch's own operations, for stock optimizers."""
    if inv_scale is not None:
        found = torch.zeros((), dtype=torch.float32, device=gradients[0].device)
        torch._amp_foreach_non_finite_check_and_unscale_(gradients, found, inv_scale)
    rows = []
    for gradient in gradients:
        nonfinite = gradient.isfinite().logical_not().any().double()
        zeros = (gradient == 0).sum().double() if count_zeros else torch.zeros_like(nonfinite)
        rows.append(torch.stack([gradient.square().sum(), nonfinite, zeros]))
    table = torch.stack(rows)
    return _ops.GradStats((table[:, 1].sum() != 0).float(), table[:, 0].sum(), table)


def _any_on(device: torch.device, found: Iterable[Tensor]) -> Tensor:
    """1 where one of them is, not their number: torch's fused optimizers skip at exactly 1."""
    return functools.reduce(torch.maximum, [moved(each, device) for each in found])


@functools.cache
def _wants_scaler(step: Callable[..., Any]) -> bool:
    """Is this a step(grad_scaler=...), torch's older protocol? Torch's own code serves it."""
    return "grad_scaler" in inspect.signature(step).parameters


def _check_number(name: str, got: float, ok: bool, wanted: str) -> None:
    if not ok:
        raise ValueError(f"GradScaler: {name}: got {got}, wanted {wanted}")


def _check_count(name: str, got: int, wanted: str) -> None:
    _check_number(name, got, isinstance(got, Integral) and 1 <= got < 2**31, wanted)


def _check_scale_value(name: str, got: float) -> None:
    _check_number(name, got, got > 0 and math.isfinite(got), "a finite number above 0")
