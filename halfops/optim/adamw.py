"""AdamW: torch.optim.AdamW in one pass, with masters for 16-bit weights."""

from typing import Any

import torch
from torch import Tensor

from halfops.optim.adam import Adam


class AdamW(Adam):
    """torch.optim.AdamW's arguments, defaults and state_dict, for float16, bfloat16 and float32 parameters.

        w = (1 - lr weight_decay) w
        m = beta1 m + (1 - beta1) g                   v = beta2 v + (1 - beta2) g^2
        w = w - lr (m / (1 - beta1^t)) / (sqrt(v / (1 - beta2^t)) + eps)

    All float32, on a master that is kept beside a 16-bit weight. Options and states are those of `halfops.optim.Adam`;
    the keyword-only extras are described in `halfops.optim.HalfOptimizer`.
    """

    def __init__(
        self,
        params: Any,
        lr: float | Tensor = 1e-3,
        betas: tuple[float | Tensor, float | Tensor] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        amsgrad: bool = False,
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
        super().__init__(
            params,
            lr,
            betas,
            eps,
            weight_decay,
            amsgrad,
            foreach=foreach,
            maximize=maximize,
            capturable=capturable,
            differentiable=differentiable,
            fused=fused,
            decoupled_weight_decay=True,
            master=master,
            rounding=rounding,
            max_grad_norm=max_grad_norm,
            ema_decay=ema_decay,
            state_dtype=state_dtype,
            seed=seed,
            fused_unscale=fused_unscale,
        )

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        for group in self.param_groups:
            group["decoupled_weight_decay"] = True  # whatever an older or a foreign checkpoint says
