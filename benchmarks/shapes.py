"""Named problems: the sizes at which products are measured, and where they come from."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Product:
    """y [m, n] = x [m, k] w^T, w [n, k]: a linear layer on m tokens."""

    name: str
    m: int
    n: int
    k: int

    @property
    def flops(self) -> int:
        """Of one product; forward, dgrad and wgrad have the same number."""
        return 2 * self.m * self.n * self.k

    @property
    def label(self) -> str:
        return f"{self.name} ({self.m}, {self.n}, {self.k})"


# The three of the promise (README): two squares, and the first layer of a small transformer's MLP on 128 tokens.
SQUARE_1K = Product("square", 1024, 1024, 1024)
SQUARE_2K = Product("square", 2048, 2048, 2048)
SMALL_MLP = Product("mlp up", 128, 3072, 768)

LINEAR = (SQUARE_1K, SQUARE_2K, SMALL_MLP)
# One token at a time, and a tall thin head: where a fused product has least to win.
EDGES = (Product("one token", 1, 4096, 4096), Product("head", 512, 10, 1024))
QUICK = (Product("square", 256, 256, 256), Product("mlp up", 32, 768, 192))

# (batch, m, n, k): attention's products and many tiny ones.
BATCHED = ((96, 128, 128, 64), (512, 16, 16, 16))
BATCHED_QUICK = ((8, 32, 32, 16),)
