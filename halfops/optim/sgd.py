"""SGD: torch.optim.SGD in one pass, with masters for 16-bit weights."""

import math
from typing import Any

import torch
from torch import Tensor

from halfops.optim import checks
from halfops.optim.base import HalfOptimizer


class SGD(HalfOptimizer):
    """torch.optim.SGD's arguments, defaults and state_dict, for float16, bfloat16 and float32 parameters.

        g = g + weight_decay w
        b = momentum b + (1 - dampening) g            (first step: b = g; momentum = 0: b = g, and no buffer is kept)
        w = w - lr (nesterov ? g + momentum b : b)

    `foreach` and `fused` are accepted and have no effect, because the step always is both; `differentiable` must be
    False. The keyword-only extras are described in `halfops.optim.HalfOptimizer`.

    State of a parameter: `step`, `momentum_buffer` (float32), `master_remainder` (int16) or `master_param` (float32),
    and with `ema_decay` `ema_param` (float32).
    """

    def __init__(
        self,
        params: Any,
        lr: float | Tensor = 1e-3,
        momentum: float = 0,
        dampening: float = 0,
        weight_decay: float | Tensor = 0,
        nesterov: bool = False,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        differentiable: bool = False,
        fused: bool | None = None,
        master: str = "split",
        rounding: str = "nearest",
        max_grad_norm: float | None = None,
        ema_decay: float | None = None,
        state_dtype: torch.dtype = torch.float32,
        seed: int = 0,
        fused_unscale: bool = True,
    ) -> None:
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "dampening": dampening,
            "weight_decay": weight_decay,
            "nesterov": nesterov,
            "maximize": maximize,
            "foreach": foreach,
            "differentiable": differentiable,
            "fused": fused,
        }
        super().__init__(
            params,
            defaults,
            master=master,
            rounding=rounding,
            max_grad_norm=max_grad_norm,
            ema_decay=ema_decay,
            state_dtype=state_dtype,
            seed=seed,
            fused_unscale=fused_unscale,
        )

    def _rule(self, group: dict[str, Any]) -> str:
        return "sgd" if isinstance(group["momentum"], (int, float)) and group["momentum"] == 0 else "sgd_momentum"

    def _check_group(self, group: dict[str, Any]) -> None:
        for name in ("lr", "momentum", "weight_decay"):
            checks.number(name, group[name])
        checks.number("dampening", group["dampening"], least=-math.inf)
        if group["nesterov"] and (self._rule(group) == "sgd" or group["dampening"] != 0):
            raise ValueError(
                f"nesterov: got True with momentum={group['momentum']} and dampening={group['dampening']}, "
                "wanted a momentum above 0 and no dampening"
            )
