"""Adam: torch.optim.Adam in one pass, with masters for 16-bit weights."""

from typing import Any

import torch
from torch import Tensor

from halfops.optim import checks
from halfops.optim.base import HalfOptimizer


class Adam(HalfOptimizer):
    """torch.optim.Adam's arguments, defaults and state_dict, for float16, bfloat16 and float32 parameters.

        g = g + weight_decay w                        (decoupled_weight_decay: w = (1 - lr weight_decay) w instead)
        m = beta1 m + (1 - beta1) g                   v = beta2 v + (1 - beta2) g^2
        w = w - lr (m / (1 - beta1^t)) / (sqrt(v / (1 - beta2^t)) + eps)

    `foreach`, `capturable` and `fused` are accepted and have no effect, because the step always is all three.
    `amsgrad` and `differentiable` must be False. The keyword-only extras (`master`, `rounding`, `max_grad_norm`,
    `ema_decay`, `state_dtype`, `seed`, `fused_unscale`) are described in `halfops.optim.HalfOptimizer`.

    State of a parameter: `step`, `exp_avg`, `exp_avg_sq` (float32), `master_remainder` (int16) or `master_param`
    (float32), and with `ema_decay` `ema_param` (float32).
    """

    def __init__(
        self,
        params: Any,
        lr: float | Tensor = 1e-3,
        betas: tuple[float | Tensor, float | Tensor] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0,
        amsgrad: bool = False,
        *,
        foreach: bool | None = None,
        maximize: bool = False,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        decoupled_weight_decay: bool = False,
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
            "betas": betas,
            "eps": eps,
            "weight_decay": weight_decay,
            "amsgrad": amsgrad,
            "maximize": maximize,
            "foreach": foreach,
            "capturable": capturable,
            "differentiable": differentiable,
            "fused": fused,
            "decoupled_weight_decay": decoupled_weight_decay,
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
        return "adamw" if group["decoupled_weight_decay"] else "adam"

    def _check_group(self, group: dict[str, Any]) -> None:
        for name in ("lr", "eps", "weight_decay"):
            checks.number(name, group[name])
        checks.betas(group["betas"])
