"""Lion (arXiv 2302.06675): the sign of an interpolated momentum; one state instead of Adam's two."""

from typing import Any

import torch
from torch import Tensor

from halfops.optim import checks
from halfops.optim.base import HalfOptimizer


class Lion(HalfOptimizer):
    """Lion for float16, bfloat16 and float32 parameters.

        w = (1 - lr weight_decay) w - lr sign(beta1 m + (1 - beta1) g)
        m = beta2 m + (1 - beta2) g

    Use a learning rate 3 to 10 times below AdamW's and as much more weight decay. `foreach`, `capturable` and `fused`
    are accepted and have no effect, because the step always is all three; `differentiable` must be False. The other
    keyword-only arguments are described in `halfops.optim.HalfOptimizer`.

    State of a parameter: `step`, `exp_avg` (float32), `master_remainder` (int16) or `master_param` (float32),
    and with `ema_decay` `ema_param` (float32).
    """

    def __init__(
        self,
        params: Any,
        lr: float | Tensor = 1e-4,
        betas: tuple[float | Tensor, float | Tensor] = (0.9, 0.99),
        weight_decay: float = 0.0,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        capturable: bool = False,
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
            "betas": betas,
            "weight_decay": weight_decay,
            "maximize": maximize,
            "foreach": foreach,
            "capturable": capturable,
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
        return "lion"

    def _check_group(self, group: dict[str, Any]) -> None:
        for name in ("lr", "weight_decay"):
            checks.number(name, group[name])
        checks.betas(group["betas"])
