"""Named problems: the sizes at which products are measured, in suites, and where they come from."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

LAYER = ("forward", "dgrad", "wgrad")
WITH_GELU = ("forward", "forward + gelu", "dgrad", "wgrad")


@dataclass(frozen=True)
class Product:
    """y [m, n] = x [m, k] w^T, w [n, k]: a linear layer on m tokens; or `batch` products [m, k] [k, n].

    The rows of every operand are `pad` elements further apart than they are long. What the jobs do is in jobs.py.
    """

    name: str
    m: int
    n: int
    k: int
    jobs: tuple[str, ...] = LAYER
    batch: int = 1
    pad: int = 0

    @property
    def flops(self) -> int:
        """Of one product each; forward, dgrad and wgrad have the same number."""
        return 2 * self.batch * self.m * self.n * self.k

    @property
    def label(self) -> str:
        return f"{self.name} ({self.m}, {self.n}, {self.k})" + (f", rows {self.pad} further apart" if self.pad else "")

    def small(self) -> Product:
        """Of the same kind, and of a size for a rehearsal: what an odd size is odd by stays."""

        def less(size: int) -> int:
            return size if size <= 64 else 64 + size % 8

        batch = min(self.batch, 4)
        name = f"{batch} products" if self.batch > 1 else self.name
        return replace(self, name=name, m=less(self.m), n=less(self.n), k=less(self.k), batch=batch)


def batched(count: int, m: int, n: int, k: int) -> Product:
    return Product(f"{count} products", m, n, k, ("matmul",), batch=count)


def square(size: int, jobs: tuple[str, ...] = LAYER) -> Product:
    return Product("square", size, size, size, jobs)


# The promise's (README): two squares and the first layer of a small transformer's MLP on 128 tokens; then the edges,
# one token at a time and a tall thin head, where a fused product has least to win; attention's products and many tiny
# ones. What a CPU can be asked for.
SMALL = (
    square(1024, WITH_GELU),
    square(2048, WITH_GELU),
    Product("mlp up", 128, 3072, 768, WITH_GELU),
    Product("one token", 1, 4096, 4096, WITH_GELU),
    Product("head", 512, 10, 1024, WITH_GELU),
    batched(96, 128, 128, 64),
    batched(512, 16, 16, 16),
)
SMALL_QUICK = (square(256, WITH_GELU), Product("mlp up", 32, 768, 192, WITH_GELU), batched(8, 32, 32, 16))

# The largest that a target speaks of first: a run may be cut short. 3000 is no multiple of any tile.
SQUARE = tuple(square(size) for size in (8192, 4096, 2048, 1024, 512, 3000, 16384))


def model(name: str, tokens: int, layers: Iterable[tuple[str, int, int]]) -> tuple[Product, ...]:
    return tuple(Product(f"{name} {layer}", tokens, n, k) for layer, n, k in layers)


# Eight sequences of 1024 tokens, hidden size 768 (GPT-2 small). Its vocabulary, 50257, is odd.
GPT2 = model(
    "gpt2",
    8192,
    (("mlp up", 3072, 768), ("mlp down", 768, 3072), ("qkv", 2304, 768), ("out", 768, 768), ("head", 50257, 768)),
)
# Two sequences of 2048 tokens. 70B has 8 key and value heads of 128 beside 64 query heads: 8192 + 2 * 1024.
LLAMA_7B = model(
    "llama7b",
    4096,
    (("up", 11008, 4096), ("down", 4096, 11008), ("qkv", 12288, 4096), ("out", 4096, 4096), ("head", 32000, 4096)),
)
LLAMA_70B = model(
    "llama70b", 4096, (("up", 28672, 8192), ("down", 8192, 28672), ("qkv", 10240, 8192), ("out", 8192, 8192))
)

# Tokens of one step of generation; a square weight, and llama7b's MLP.
SKINNY = tuple(
    Product("skinny", m, n, k, ("forward",))
    for n, k in ((4096, 4096), (11008, 4096), (4096, 11008))
    for m in (1, 16, 64, 128, 2, 4, 8, 32)
)

# Weight gradients of small layers on many tokens: few tiles of output, long sums.
LONG_K = tuple(
    Product("long k", m, n, k, ("wgrad",))
    for m, n, k in ((65536, 256, 256), (32768, 1024, 1024), (65536, 10, 512), (65536, 768, 768), (131072, 64, 64))
)

# 588 = 3 * 14 * 14: an image's patches. Rows that are not whole 16-byte words, by every remainder; and rows that are,
# at a distance that is not.
ODD_K = (
    Product("odd k", 4096, 1152, 588),
    Product("odd k", 4096, 4096, 1001),
    Product("odd k", 4096, 4096, 1004),
    Product("odd ld", 4096, 4096, 1024, pad=1),
    *(Product("odd k", 4096, 4096, 1000 + extra) for extra in (2, 3, 5, 6, 7)),
)

BATCHED = (
    batched(8, 1024, 1024, 1024),
    batched(96, 128, 128, 64),
    batched(128, 1024, 1024, 64),
    batched(128, 1024, 64, 1024),
    batched(512, 16, 16, 16),
)

# What surrounds a product, in an MLP of four times the hidden size and in llama7b's gated one.
FUSED = (
    Product("mlp down", 4096, 4096, 16384, ("dgrad + gelu_tanh' + db",)),
    Product("mlp up", 4096, 16384, 4096, ("forward + gelu_tanh",)),
    Product("llama7b up", 4096, 11008, 4096, ("swiglu",)),
    Product("llama7b down", 4096, 4096, 11008, ("gated dgrad", "wgrad + fp32 sum + stats")),
    Product("gpt2 mlp down", 8192, 768, 3072, ("dgrad + gelu_tanh' + db", "wgrad + fp32 sum + stats")),
    Product("gpt2 mlp up", 8192, 3072, 768, ("forward + gelu_tanh",)),
)

# By what matters first on a GPU.
SUITES: dict[str, tuple[Product, ...]] = {
    "square": SQUARE,
    "llama7b": LLAMA_7B,
    "fused": FUSED,
    "odd_k": ODD_K,
    "long_k": LONG_K,
    "skinny": SKINNY,
    "gpt2": GPT2,
    "llama70b": LLAMA_70B,
    "batched": BATCHED,
    "small": SMALL,
}


def suite(name: str, quick: bool) -> tuple[Product, ...]:
    """Quick: small problems of the same kinds, each kind once."""
    if not quick:
        return SUITES[name]
    return SMALL_QUICK if name == "small" else tuple(dict.fromkeys(each.small() for each in SUITES[name]))
