"""Every optimizer's rule in a few lines of eager torch: the specification that the fused step is compared with.

Each function takes the weight w, the gradient g, the rule's states and the number t of this step (from 1), and
returns the new weight and states. Nothing is changed in place, and any floating dtype will do (float64 in tests).
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor


def adam_moments(g: Tensor, m: Tensor, v: Tensor, betas: tuple[float, float]) -> tuple[Tensor, Tensor]:
    return betas[0] * m + (1 - betas[0]) * g, betas[1] * v + (1 - betas[1]) * g * g


def adam_direction(m: Tensor, v: Tensor, t: int, betas: tuple[float, float], eps: float) -> Tensor:
    return (m / (1 - betas[0] ** t)) / ((v / (1 - betas[1] ** t)).sqrt() + eps)


def adamw(
    w: Tensor,
    g: Tensor,
    m: Tensor,
    v: Tensor,
    t: int,
    *,
    lr: float,
    betas: tuple[float, float],
    eps: float,
    weight_decay: float,
    maximize: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:
    """Decoupled weight decay: w shrinks by lr * weight_decay, then follows the Adam direction."""
    m, v = adam_moments(-g if maximize else g, m, v, betas)
    return w * (1 - lr * weight_decay) - lr * adam_direction(m, v, t, betas, eps), m, v


def adam(
    w: Tensor,
    g: Tensor,
    m: Tensor,
    v: Tensor,
    t: int,
    *,
    lr: float,
    betas: tuple[float, float],
    eps: float,
    weight_decay: float,
    maximize: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:
    """Weight decay as an L2 term of the gradient."""
    m, v = adam_moments((-g if maximize else g) + weight_decay * w, m, v, betas)
    return w - lr * adam_direction(m, v, t, betas, eps), m, v


def sgd(
    w: Tensor,
    g: Tensor,
    b: Tensor,
    t: int,
    *,
    lr: float,
    momentum: float,
    dampening: float,
    weight_decay: float,
    nesterov: bool,
    maximize: bool = False,
) -> tuple[Tensor, Tensor]:
    """The first step's buffer is the gradient itself, undampened, as in torch."""
    g = (-g if maximize else g) + weight_decay * w
    if momentum == 0:
        return w - lr * g, b
    b = g if t == 1 else momentum * b + (1 - dampening) * g
    return w - lr * (g + momentum * b if nesterov else b), b


def lion(
    w: Tensor,
    g: Tensor,
    m: Tensor,
    t: int,
    *,
    lr: float,
    betas: tuple[float, float],
    weight_decay: float,
    maximize: bool = False,
) -> tuple[Tensor, Tensor]:
    """The sign of an interpolation, with decoupled weight decay (arXiv 2302.06675)."""
    g = -g if maximize else g
    direction = (betas[0] * m + (1 - betas[0]) * g).sign()
    return w * (1 - lr * weight_decay) - lr * direction, betas[1] * m + (1 - betas[1]) * g


def lamb(
    w: Tensor,
    g: Tensor,
    m: Tensor,
    v: Tensor,
    t: int,
    *,
    lr: float,
    betas: tuple[float, float],
    eps: float,
    weight_decay: float,
    maximize: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:
    """Adam's direction plus decay, made as long as the tensor itself: ratio |w| / |d| (arXiv 1904.00962)."""
    m, v = adam_moments(-g if maximize else g, m, v, betas)
    d = adam_direction(m, v, t, betas, eps) + weight_decay * w
    w_norm, d_norm = torch.linalg.vector_norm(w), torch.linalg.vector_norm(d)
    ratio = torch.where((w_norm > 0) & (d_norm > 0), w_norm / d_norm, torch.ones_like(w_norm))
    return w - lr * ratio * d, m, v


# rule -> its function and the names of its states, in the order it takes them
RULES: dict[str, tuple[Callable[..., tuple[Tensor, ...]], tuple[str, ...]]] = {
    "adamw": (adamw, ("exp_avg", "exp_avg_sq")),
    "adam": (adam, ("exp_avg", "exp_avg_sq")),
    "sgd": (sgd, ("momentum_buffer",)),
    "lion": (lion, ("exp_avg",)),
    "lamb": (lamb, ("exp_avg", "exp_avg_sq")),
}


def clip_factor(grads: Sequence[Tensor], max_norm: float) -> float:
    """What torch.nn.utils.clip_grad_norm_ multiplies every gradient by."""
    norm = torch.stack([g.double().square().sum() for g in grads]).sum().sqrt()
    return min(1.0, max_norm / (float(norm) + 1e-6))
