"""fuse_wgrad_accumulation: a weight's gradient is added by its own kernel into the tensor that accumulates it.

Autograd would write the gradient and then read it again to add it. Here backward adds into `main_grad`, or else into
the `.grad` that is there, and returns None for the weight. Only where that is the same: in a plain backward pass that
ends in the `.grad` of a leaf.
"""

from __future__ import annotations

import torch
from torch import Tensor

_TARGETS = (torch.float16, torch.bfloat16, torch.float32)


def parameter_of(weight: Tensor, fuse: bool) -> Tensor | None:
    """The weight, if backward may place its gradient; asked in forward. A cast weight is no leaf."""
    possible = fuse and not torch.compiler.is_compiling() and weight.is_leaf and weight.requires_grad
    return weight if possible else None


def target_of(parameter: Tensor | None) -> Tensor | None:
    """Where the gradient is to be added, asked in backward; None if it is to be returned."""
    if parameter is None or torch.compiler.is_compiling() or torch.is_grad_enabled():  # compiling: backward alone
        return None
    if not _ends_in_grad(parameter):
        return None
    into = getattr(parameter, "main_grad", None)
    if into is None:
        into = parameter.grad
    return into if type(into) is Tensor and _fits(into, parameter) else None


def _ends_in_grad(parameter: Tensor) -> bool:
    """Whether this backward pass accumulates into `.grad`, which backward(inputs=...) may leave out."""
    if not parameter.requires_grad:
        return False
    node = torch.autograd.graph.get_gradient_edge(parameter).node
    try:
        return bool(torch._C._will_engine_execute_node(node))
    except RuntimeError:  # torch's refusal when torch.autograd.grad is what asks for this gradient
        return False


def _fits(into: Tensor, parameter: Tensor) -> bool:
    return (
        into.shape == parameter.shape
        and into.device == parameter.device
        and into.dtype in (*_TARGETS, parameter.dtype)
        and into.layout is torch.strided
        and into.is_contiguous()
        and not into.requires_grad
    )
