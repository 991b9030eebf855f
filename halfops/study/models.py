"""The networks of the study, in plain torch.nn: what an arm changes is their dtype and, for halfops, nn.convert.

What stays in fp32 inside, whatever the dtype of the weights: the loss (its callers take logits.float()), the sum over
positions in the embedding's gradient, the statistics of LayerNorm (inside torch's kernel) and, on a CPU, the attention
core, because torch's fp16 attention there takes five times as long as the same thing on fp32 copies.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class ImageClassifier(nn.Module):
    """[n, pixels] -> logits [n, classes]: three linear layers with ReLU between them."""

    def __init__(self, pixels: int = 64, hidden: int = 128, classes: int = 10) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(pixels, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, classes)
        )

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.layers(images.to(next(self.parameters()).dtype))
        return logits


class Attention(nn.Module):
    """Causal self-attention: [n, length, width] -> the same."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query_key_value = nn.Linear(width, 3 * width)
        self.output = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        n, length, width = x.shape
        joined = self.query_key_value(x)
        dtype = joined.dtype
        if x.device.type == "cpu" and not torch.is_autocast_enabled("cpu"):
            joined = joined.float()
        query, key, value = (
            part.view(n, length, self.heads, width // self.heads).transpose(1, 2) for part in joined.split(width, -1)
        )
        mixed = F.scaled_dot_product_attention(query, key, value, is_causal=True).to(dtype)
        result: Tensor = self.output(mixed.transpose(1, 2).reshape(n, length, width))
        return result


class Block(nn.Module):
    """Pre-norm transformer block: attention, then a GELU MLP four times as wide."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(width)
        self.attention = Attention(width, heads)
        self.mlp_norm = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.attention_norm(x))
        result: Tensor = x + self.mlp(self.mlp_norm(x))
        return result


class ByteTransformer(nn.Module):
    """Bytes [n, length] as int64 -> logits of the next byte [n, length, 256]."""

    def __init__(self, length: int = 32, width: int = 64, heads: int = 2, blocks: int = 2) -> None:
        super().__init__()
        self.bytes = nn.Embedding(256, width)
        self.positions = nn.Embedding(length, width)
        self.blocks = nn.Sequential(*(Block(width, heads) for _ in range(blocks)))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, 256)
        for embedding in (self.bytes, self.positions):
            nn.init.normal_(embedding.weight, std=0.1)

    def forward(self, text: Tensor) -> Tensor:
        weight = self.bytes.weight
        # A frequent byte sums hundreds of gradients into one row: looked up in fp32, they are summed in fp32.
        x = F.embedding(text, weight.float()) + self.positions.weight.float()[: text.shape[1]]
        logits: Tensor = self.head(self.norm(self.blocks(x.to(weight.dtype))))
        return logits
