"""What all optimizers share: the fused step, masters, clipping, loss scaling, checkpoints."""

from collections.abc import Callable, Iterable
from itertools import chain
from typing import Any

import torch
from torch import Tensor
from torch._compile import _disable_dynamo
from torch.optim import Optimizer

from halfops._ops.optim import state_names
from halfops._ops.optim_plan import apart
from halfops._ops.registry import has_kernel
from halfops._ops.wiring import moved
from halfops.optim import checks
from halfops.optim.storage import (
    convert_state,
    follow_layout,
    in_layout_of,
    master_name,
    new_master,
    read_master,
    zeros,
)
from halfops.optim.worklist import Call, Measured, WorkList


class HalfOptimizer(Optimizer):
    """Base of halfops' optimizers: one pass over memory per step, for every tensor of every parameter group.

    Parameters may be float16, bfloat16 and float32, mixed, dense in any order of dimensions; frozen ones (no
    requires_grad, no gradient) may be anything. All arithmetic and all states are float32. A 16-bit parameter has a
    float32 master, kept as `master` says:

    - `"split"`: the weight plus a 16-bit remainder (state `master_remainder`). Lossless for bfloat16 always, for
      float16 from |w| = 2^-15 to its maximum; below, within 2^-39.
    - `"fp32"`: a float32 copy (state `master_param`).
    - `"none"`: the weight is all there is; `rounding` says how an update is rounded to it, `"nearest"` or
      `"stochastic"`. Stochastic bits depend on (seed, step, position of the parameter, element) and on nothing else.

    Masters are authoritative: whoever changes weights from outside calls `sync_master_from_model()`.

    `max_grad_norm` clips the norm of all gradients of this optimizer, as `torch.nn.utils.clip_grad_norm_` would; the
    gradients themselves are not changed. With it, a non-finite gradient skips the step even without a scaler.

    `ema_decay` keeps a moving average of the weights, in float32, in the same pass: `ema = decay ema + (1 - decay) w`
    after each update, w being the master, or without one the weight as it was rounded. It starts at the master before
    the first step; `ema_params()` gives it. The attribute may be changed between steps (a warm-up of the decay).

    `step()` understands the protocol of `torch.amp.GradScaler` for fused optimizers: the gradients are unscaled inside
    the update, and an overflow skips the whole step: weights, states and step counts stay as they are. Nothing is read
    back to the host. `fused_unscale=False` turns this off for tools that insist on unscaling themselves.

    Load a model's state_dict before its optimizer's: masters of another kind are converted with the weights at hand.
    """

    def __init__(
        self,
        params: Any,
        defaults: dict[str, Any],
        *,
        master: str,
        rounding: str,
        max_grad_norm: float | None,
        ema_decay: float | None,
        state_dtype: torch.dtype,
        seed: int,
        fused_unscale: bool,
    ) -> None:
        checks.one_of("master", master, checks.MASTERS)
        checks.one_of("rounding", rounding, checks.ROUNDINGS)
        checks.state_dtype(state_dtype)
        checks.seed(seed)
        if max_grad_norm is not None:
            checks.number("max_grad_norm", max_grad_norm)
            max_grad_norm = float(max_grad_norm)
        if ema_decay is not None:
            checks.number("ema_decay", ema_decay, below=1.0)
            ema_decay = float(ema_decay)
        self.master, self.rounding, self.max_grad_norm, self.ema_decay = master, rounding, max_grad_norm, ema_decay
        self.state_dtype, self.seed = state_dtype, seed
        self._step_supports_amp_scaling = bool(fused_unscale)
        self._work: WorkList | None = None
        if not isinstance(params, Tensor):
            params = list(params)
            if not params:
                raise ValueError("params: got an empty list, wanted at least one parameter; is the model empty?")
        super().__init__(params, defaults)

    def _rule(self, group: dict[str, Any]) -> str:
        """The name of the update rule in the library."""
        raise NotImplementedError

    def _check_group(self, group: dict[str, Any]) -> None:
        """Raises for hyper-parameters that make no sense."""
        raise NotImplementedError

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        if isinstance(param_group, dict):
            checks.unsupported(param_group)
        super().add_param_group(param_group)
        group = self.param_groups[-1]
        try:
            checks.unsupported(group)
            self._check_group(group)
            checks.no_duplicates(group["params"])
            before = sum(len(other["params"]) for other in self.param_groups[:-1])
            for i, param in enumerate(group["params"], before):
                if param.requires_grad:  # frozen ones may be anything (quantized, say) until they get a gradient
                    checks.parameter(f"parameter {i}", param, self.master, self.rounding)
        except Exception:
            self.param_groups.pop()
            raise

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None, *, zero_grad: bool = False) -> Any:
        """One step of every parameter that has a gradient. Returns what the closure returns.

        With zero_grad, gradients are set to zero in place in the same pass, for loops that keep their gradient buffers,
        such as CUDA graphs; in a skipped step, too.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        self._advance(bool(zero_grad))
        return loss

    # Pointer comparisons mean nothing to a tracer: one clean graph break, as torch.optim makes around its own step.
    @_disable_dynamo
    def _advance(self, zero_grad: bool) -> None:
        calls = self._prepare(zero_grad)
        try:
            self._run(calls, zero_grad)
        finally:
            self._release_gradients()

    def _run(self, calls: list[Call], zero_grad: bool) -> None:
        numbers = [call.hyper.read() for call in calls]
        if zero_grad and len(calls) > 1 and not apart([call.plan for call in calls]):
            raise RuntimeError(
                "zero_grad: got two parameters whose gradients share memory, wanted separate ones; "
                "leave zero_grad out of step() and call optimizer.zero_grad(set_to_none=False) after it"
            )
        grad_scale, found_inf = getattr(self, "grad_scale", None), getattr(self, "found_inf", None)
        sum_of_squares = None
        if self.max_grad_norm is not None and calls:
            sum_of_squares = getattr(self, "grad_sumsq", None)
            if sum_of_squares is None:
                first, *others = (stats.sum_of_squares for call in calls for _, _, stats, _ in call.stats())
                sum_of_squares = sum((other.to(first.device) for other in others), first)

        for call, values in zip(calls, numbers, strict=True):
            call.hyper.write(values)
        # What a plan refuses at its step are the numbers, which are the same for all: the first one refuses them.
        for call in calls:
            call.plan.step(
                call.hyper.table,
                grad_scale=scalar_on(call.device, grad_scale, torch.float32),
                found_inf=scalar_on(call.device, found_inf, torch.float32),
                sum_of_squares=scalar_on(call.device, sum_of_squares, torch.float64),
                max_grad_norm=self.max_grad_norm,
                ema_decay=self.ema_decay,
                zero_grad=zero_grad,
                seed=self.seed,
            )
            # The op writes behind autograd's back; a graph that saved one of these weights must notice.
            torch.autograd.graph.increment_version(call.params)
            if zero_grad:
                torch.autograd.graph.increment_version([grad for grad in call.gradients() if grad is not None])
        copied = [grad for call in calls for grad in call.copied]
        if zero_grad and copied:
            torch._foreach_zero_(copied)

    @_disable_dynamo
    @torch.no_grad()
    def _grad_stats(self, count_zeros: bool) -> list[Measured]:
        """For `halfops.amp.GradScaler`: what one read of all gradients tells, without handing it a list of them.

        One item for each list that was read, or need not be: positions among all parameters, dtypes, statistics, and
        where they come from.
        """
        calls = self._prepare(zero_grad=False)
        try:
            return [measured for call in calls for measured in call.stats(count_zeros)]
        finally:
            self._release_gradients()

    def _prepare(self, zero_grad: bool) -> list[Call]:
        """The step's calls with their gradients, checked; from the cache where nothing changed."""
        rules, work = [self._rule(group) for group in self.param_groups], self._work
        origin = (self.param_groups, rules, self.state, self.ema_decay is not None, self.rounding)
        try:
            if work is None or not work.holds(*origin) or not work.refresh(zero_grad):
                work = self._build(WorkList(*origin), zero_grad)
        except BaseException:
            self._release_gradients()
            raise
        return work.calls

    def _build(self, work: WorkList, zero_grad: bool) -> WorkList:
        """Everything is checked before any state is made or changed."""
        grads = [param.grad for param in work.params]
        for i, (param, grad) in enumerate(zip(work.params, grads, strict=True)):
            if grad is not None:
                checks.parameter(f"parameter {i}", param, self.master, self.rounding)
                if param.device.type not in ("cpu", "cuda") or not has_kernel("optim_step_", param.device.type):
                    raise NotImplementedError(
                        f"parameter {i}: is on {param.device}, for which this build of halfops has no optimizer; "
                        "move the model, as in model.cpu(), and run `python -m halfops doctor` to see what there is"
                    )
                checks.gradient(f"parameter {i}", param, grad)
        if any(grad is not None and grad.is_cuda for grad in grads):
            checks.not_capturing()
        if self._work is not None:
            self._forget_remainders(self._work)
        self._work = None
        rule_of = [rule for group, rule in zip(work.groups, work.rules, strict=True) for _ in group["params"]]
        for param, grad, rule in zip(work.params, grads, rule_of, strict=True):
            if grad is not None:
                self._ensure_state(param, rule)
        work.build(grads)
        for call in work.calls:
            call.take([grads[i] for i in call.members], zero_grad)  # type: ignore[misc]
        self._work = work
        return work

    def _release_gradients(self) -> None:
        if self._work is not None:
            self._work.release_gradients()

    def _forget_remainders(self, work: WorkList) -> None:
        """Of parameters that were cast since: a remainder is in units of the old dtype, and says nothing in the new."""
        for param, dtype in zip(work.params, work.dtypes, strict=True):
            if param.dtype != dtype and "master_remainder" in self.state.get(param, {}):
                self.state[param]["master_remainder"].zero_()

    def _ensure_state(self, param: Tensor, rule: str) -> None:
        state = self.state[param]
        if "step" not in state:
            state["step"] = torch.zeros((), dtype=torch.float32, device=param.device)
        for name in state_names(rule):
            if name not in state:
                state[name] = zeros(param, self.state_dtype)
            state[name] = follow_layout(param, state[name])
        wanted = master_name(param, self.master)
        for name in ("master_param", "master_remainder"):
            if name != wanted:
                state.pop(name, None)
        if wanted is not None and wanted not in state:
            state[wanted] = new_master(param, wanted)
        if wanted is not None:
            state[wanted] = follow_layout(param, state[wanted])
        if self.ema_decay is not None:
            average = state.get("ema_param")
            state["ema_param"] = read_master(param, state) if average is None else follow_layout(param, average)

    def _parameters(self) -> Iterable[Tensor]:
        return chain.from_iterable(group["params"] for group in self.param_groups)

    @torch.no_grad()
    def master_params(self) -> list[Tensor]:
        """Float32 copies of all masters, in the order of the parameters: what the model would be without 16 bits."""
        return [read_master(param, self.state.get(param, {})) for param in self._parameters()]

    @torch.no_grad()
    def ema_params(self) -> list[Tensor]:
        """Float32 copies of the averages, in the order of the parameters; where no step was taken yet, the masters."""
        if self.ema_decay is None:
            raise RuntimeError(
                f"ema_params: got {type(self).__name__} with ema_decay=None, which keeps no averages; wanted a decay, "
                "as in ema_decay=0.999"
            )
        return [
            in_layout_of(param, state["ema_param"], torch.float32)
            if "ema_param" in state
            else read_master(param, state)
            for param in self._parameters()
            for state in [self.state.get(param, {})]
        ]

    @torch.no_grad()
    def sync_master_from_model(self) -> None:
        """Makes the weights, changed from outside (`model.load_state_dict`, an edit), the masters. Averages stay."""
        for param in self._parameters():
            state = self.state.get(param, {})
            if "master_param" in state:
                state["master_param"].copy_(param)
            if "master_remainder" in state:
                state["master_remainder"].zero_()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Loads a checkpoint of this class or of torch.optim's class of the same name; everything is copied.

        Moments and masters keep every bit, unlike in torch, which would cast them to the parameter's dtype. A master
        saved by another `master=` is converted exactly; one that is missing is built from the weights. Where float32
        masters become `"split"` or float32 parameters, the weights follow them. Averages are dropped without
        `ema_decay`; with it, missing ones start at the loaded masters.

        Errors leave weights, states and groups as they were.
        """
        loaded: list[tuple[Tensor, dict[str, Any], Tensor | None]] = []

        def prepare(_: Optimizer, saved: dict[str, Any]) -> dict[str, Any]:
            groups, rest = self._convert(saved, loaded)
            return {**saved, "state": rest, "param_groups": groups}

        def install(_: Optimizer) -> None:
            with torch.no_grad():
                for param, state, weight in loaded:
                    self.state[param] = state
                    if weight is not None:
                        param.copy_(weight)

        # Innermost of all hooks: the user's see the checkpoint before, and the loaded optimizer after.
        checks.state_dict(state_dict)
        before = self.register_load_state_dict_pre_hook(prepare)
        after = self.register_load_state_dict_post_hook(install, prepend=True)
        try:
            super().load_state_dict(state_dict)
        finally:
            before.remove()
            after.remove()

    @torch.no_grad()
    def _convert(
        self, saved: dict[str, Any], loaded: list[tuple[Tensor, dict[str, Any], Tensor | None]]
    ) -> tuple[list[dict[str, Any]], dict[Any, Any]]:
        """The checkpoint's groups, and its state of no parameter; each parameter's state goes to loaded."""
        checks.state_dict(saved)
        groups = [{**self.defaults, **group} for group in saved["param_groups"]]
        sizes = [len(group["params"]) for group in groups]
        wanted = [len(group["params"]) for group in self.param_groups]
        if sizes != wanted:
            raise ValueError(
                f"state_dict: got parameter groups of {sizes} tensors, wanted {wanted}; "
                "does the checkpoint belong to this model, grouped in the same way?"
            )
        for group in groups:
            checks.unsupported(group)
            self._check_group(group)
        ids = list(chain.from_iterable(group["params"] for group in groups))
        rules = [self._rule(group) for group in groups for _ in group["params"]]
        for i, (key, param, rule) in enumerate(zip(ids, self._parameters(), rules, strict=True)):
            entry = saved["state"].get(key)
            if entry:
                names = state_names(rule)
                averaged = self.ema_decay is not None
                state, weight = convert_state(
                    f"parameter {i}", param, entry, names, self.master, self.state_dtype, averaged
                )
                loaded.append((param, state, weight))
        known = set(ids)
        return groups, {key: value for key, value in saved["state"].items() if key not in known}

    def __getstate__(self) -> dict[str, Any]:
        names = (
            "master",
            "rounding",
            "max_grad_norm",
            "ema_decay",
            "state_dtype",
            "seed",
            "_step_supports_amp_scaling",
        )
        return {**super().__getstate__(), **{name: getattr(self, name) for name in names}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._work = None
        for group in self.param_groups:
            for name, default in self.defaults.items():
                group.setdefault(name, default)


def scalar_on(device: torch.device, value: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    return None if value is None else moved(value, device, dtype)
