"""What is done with a product: by ours, by torch's ops, and what another package has to know to do it too.

A job's torch form is a plain function of tensors: what torch runs eagerly, what torch.compile is given, and with the
same tensors in float32 the reference for everybody's numbers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from halfops import functional as H
from halfops._ops import linear as ops

from .shapes import Product

Call = Callable[[], Any]
HALF_UNIT = {torch.float16: 2.0**-11, torch.bfloat16: 2.0**-8}


@dataclass(frozen=True)
class Job:
    """`ours` and `torch` take the tensors of `inputs`; they return one tensor or several, of which `checked` count.

    `operands`: (A, B, bias), where it is A B + bias and nothing else. `sums_into`: which input is written, of which
    everybody needs one of their own.
    """

    name: str
    product: Product
    inputs: tuple[Tensor, ...]
    ours: Callable[..., Any]
    torch: Callable[..., Any]
    products: int = 1
    operands: tuple[Tensor, Tensor, Tensor | None] | None = None
    sums_into: int | None = None
    checked: int = 8

    @property
    def flops(self) -> int:
        return self.products * self.product.flops

    def own(self) -> tuple[Tensor, ...]:
        """The inputs for one provider."""
        return tuple(t.clone() if i == self.sums_into else t for i, t in enumerate(self.inputs))

    def call(self, function: Callable[..., Any]) -> Call:
        inputs = self.own()
        return lambda: function(*inputs)

    def results(self, answer: Any) -> list[Tensor]:
        several = answer if isinstance(answer, (tuple, list)) else (answer,)
        return [t for t in several if t is not None][: self.checked]

    def wide(self) -> Call:
        """In float32."""
        inputs = tuple(t.float().clone() if i == self.sums_into else t.float() for i, t in enumerate(self.inputs))
        return lambda: self.torch(*inputs)


# Of 16-bit results, in units of the largest number among them: each of up to four roundings of numbers no larger makes
# an error of at most one half unit in the last place, and a peer's split sums may be rounded as often again. Sums in
# float32 add little: sqrt(K) 2^-24, 2^-16 at K = 65536. A missing or doubled term of a random sum is a hundred units.
UNITS = 8


def wrong(job: Job, answer: Any, reference: list[Tensor], dtype: torch.dtype) -> str | None:
    """What is wrong with a result, or None."""
    results = job.results(answer)
    if len(results) != len(reference):
        return f"gave {len(results)} tensors, wanted {len(reference)}"
    for number, (got, wanted) in enumerate(zip(results, reference, strict=True)):
        if got.shape != wanted.shape:
            return f"result {number} has the shape {list(got.shape)}, wanted {list(wanted.shape)}"
        if wanted.numel() == 0:
            continue
        bound = UNITS * HALF_UNIT[dtype] * float(wanted.abs().max())
        error = float((got.float() - wanted).abs().max())
        if not error <= bound:  # NaN is wrong too
            return f"result {number} is off by {error:.3g}, bound {bound:.3g}"
    return None


def reference(job: Job) -> list[Tensor]:
    return job.results(job.wide()())


class Tensors:
    """Normal random operands of a product, each drawn once: weights so scaled that results are of order one."""

    def __init__(self, product: Product, dtype: torch.dtype, device: torch.device) -> None:
        self.product, self.dtype, self.device = product, dtype, device
        self.generator = torch.Generator(device).manual_seed(0)
        self.made: dict[str, Tensor] = {}

    def __call__(self, name: str) -> Tensor:
        if name not in self.made:
            self.made[name] = self._draw(name)
        return self.made[name]

    def _draw(self, name: str) -> Tensor:
        p = self.product
        shape = {
            "x": (p.m, p.k),
            "w": (p.n, p.k),
            "up": (p.n, p.k),
            "b": (p.n,),
            "dy": (p.m, p.n),
            "z": (p.m, p.k),
            "z2": (p.m, p.k),
            "sum": (p.n, p.k),
            "a3": (p.batch, p.m, p.k),
            "b3": (p.batch, p.k, p.n),
        }[name]
        wider = (*shape[:-1], shape[-1] + (p.pad if len(shape) > 1 else 0))
        drawn = torch.randn(wider, generator=self.generator, device=self.device)
        if name in ("w", "up"):
            drawn /= p.k**0.5
        return drawn.to(torch.float32 if name == "sum" else self.dtype)[..., : shape[-1]]


def _forward(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
    return F.linear(x, w, b)


def _forward_gelu(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
    return F.gelu(F.linear(x, w, b))


def _forward_gelu_tanh(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
    return F.gelu(F.linear(x, w, b), approximate="tanh")


def _dgrad(dy: Tensor, w: Tensor) -> Tensor:
    return dy @ w


def _wgrad(dy: Tensor, x: Tensor) -> Tensor:
    return dy.t() @ x


def _dgrad_gelu_tanh(dy: Tensor, w: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
    dz = torch.ops.aten.gelu_backward(dy @ w, z, approximate="tanh")
    return dz, dz.sum(0)


def _our_dgrad_gelu_tanh(dy: Tensor, w: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
    return H.linear_dgrad(dy, w, preact=z, activation="gelu_tanh", bias=True)


def _swiglu(x: Tensor, w: Tensor, up: Tensor) -> Tensor:
    return F.silu(F.linear(x, w)) * F.linear(x, up)


def _gated_dgrad(dy: Tensor, w: Tensor, gate: Tensor, up: Tensor) -> tuple[Tensor, Tensor]:
    dh = dy @ w
    return torch.ops.aten.silu_backward(dh * up, gate), dh * F.silu(gate)


def _our_gated_dgrad(dy: Tensor, w: Tensor, gate: Tensor, up: Tensor) -> tuple[Tensor, Tensor]:
    return ops.gated_dgrad(dy, w, gate, up, "silu")[:2]


def _wgrad_sum(dy: Tensor, x: Tensor, total: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    total.add_(dy.t() @ x)
    norm = torch.linalg.vector_norm(total)
    return total, norm, norm.isfinite()


def _our_wgrad_sum(dy: Tensor, x: Tensor, total: Tensor) -> tuple[Tensor, Tensor | None]:
    return total, ops.linear_wgrad_(total, dy, x, want_stats=True)


def make(name: str, product: Product, t: Tensors) -> Job:
    """The job of that name on a product."""

    def job(names: str, ours: Callable[..., Any], torch: Callable[..., Any], **more: Any) -> Job:
        return Job(name, product, tuple(map(t, names.split())), ours, torch, **more)

    match name:
        case "forward":
            plain = (t("x"), t("w").t(), t("b"))
            return job("x w b", H.linear, _forward, operands=plain)
        case "forward + gelu":
            return job("x w b", lambda x, w, b: H.linear(x, w, b, activation="gelu"), _forward_gelu)
        case "forward + gelu_tanh":
            return job("x w b", lambda x, w, b: H.linear(x, w, b, activation="gelu_tanh"), _forward_gelu_tanh)
        case "dgrad":
            return job("dy w", H.linear_dgrad, _dgrad, operands=(t("dy"), t("w"), None))
        case "wgrad":
            plain = (t("dy").t(), t("x"), None)
            return job("dy x", lambda dy, x: H.linear_wgrad(dy, x)[0], _wgrad, operands=plain)
        case "matmul":
            return job("a3 b3", H.matmul, torch.matmul, operands=(t("a3"), t("b3"), None))
        case "dgrad + gelu_tanh' + db":
            return job("dy w z", _our_dgrad_gelu_tanh, _dgrad_gelu_tanh)
        case "swiglu":
            return job("x w up", H.gated_linear, _swiglu, products=2)
        case "gated dgrad":
            return job("dy w z z2", _our_gated_dgrad, _gated_dgrad)
        case "wgrad + fp32 sum + stats":
            # The sum alone is compared: everybody says in a form of their own whether it is finite and how large.
            return job("dy x sum", _our_wgrad_sum, _wgrad_sum, sums_into=2, checked=1)
    raise ValueError(f"job: got {name!r}, wanted one of those that shapes.py names")


def all_of(product: Product, dtype: torch.dtype, device: torch.device) -> list[Job]:
    """The product's jobs, on the same tensors."""
    tensors = Tensors(product, dtype, device)
    return [make(name, product, tensors) for name in product.jobs]
