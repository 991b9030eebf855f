"""What is trained: data, network, loss and how it is judged."""

from __future__ import annotations

from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from halfops.study import data
from halfops.study.models import ByteTransformer, ImageClassifier
from halfops.study.recipe import Recipe

Batch = tuple[Tensor, Tensor]


class Task(Protocol):
    """A training problem on a device."""

    key: str
    title: str
    metric: str
    higher_is_better: bool
    recipe: Recipe
    description: str

    def network(self) -> nn.Module:
        """A fresh fp32 network; the caller has seeded torch."""
        ...

    def batch(self, generator: torch.Generator) -> Batch:
        """The next inputs and targets; `generator` alone decides which."""
        ...

    def loss(self, network: nn.Module, batch: Batch) -> Tensor:
        """The training loss, computed in fp32 from the network's outputs."""
        ...

    def judge(self, network: nn.Module, *, final: bool) -> float:
        """The metric on held-out data: on all of it when `final`, on a fixed part of it for a curve."""
        ...


class Digits:
    """Handwritten digits, judged by held-out accuracy in percent."""

    metric = "held-out accuracy, %"
    higher_is_better = True

    def __init__(self, key: str, recipe: Recipe, device: torch.device) -> None:
        images = data.digits()
        self.key = key
        self.title = f"Digits, {recipe.title}"
        self.recipe = recipe
        self.images, self.classes = images.train.to(device), images.train_classes.to(device)
        self.held_out, self.held_out_classes = images.held_out.to(device), images.held_out_classes.to(device)
        self.description = (
            f"scikit-learn digits, {len(self.images)} images to train on, {len(self.held_out)} held out; "
            f"MLP 64-128-128-10, {recipe.text}"
        )

    def network(self) -> nn.Module:
        return ImageClassifier()

    def batch(self, generator: torch.Generator) -> Batch:
        chosen = torch.randint(len(self.images), (self.recipe.batch,), generator=generator).to(self.images.device)
        return self.images[chosen], self.classes[chosen]

    def loss(self, network: nn.Module, batch: Batch) -> Tensor:
        images, classes = batch
        return F.cross_entropy(network(images).float(), classes)

    def judge(self, network: nn.Module, *, final: bool) -> float:
        right = network(self.held_out).argmax(-1) == self.held_out_classes
        return 100 * float(right.double().mean())


class SourceText:
    """The standard library's text byte by byte, judged by held-out cross-entropy in nats a byte."""

    metric = "held-out loss, nats/byte"
    higher_is_better = False
    length = 32
    curve_windows = 48
    final_windows = 384

    def __init__(self, key: str, recipe: Recipe, device: torch.device) -> None:
        text = data.stdlib_text()
        self.key = key
        self.title = f"Byte language model, {recipe.title}"
        self.recipe = recipe
        self.train = text.train.to(device)
        starts = torch.linspace(0, len(text.held_out) - self.length - 1, self.final_windows).long()
        self.held_out = _windows(text.held_out, starts, self.length).to(device)
        self.description = (
            f"Python standard library, {len(text.train)} bytes of {text.train_files} files to train on, "
            f"{self.final_windows} windows of {text.held_out_files} other files held out; "
            f"transformer of 2 blocks, width 64, context {self.length}, {recipe.text}"
        )

    def network(self) -> nn.Module:
        return ByteTransformer(self.length)

    def batch(self, generator: torch.Generator) -> Batch:
        starts = torch.randint(len(self.train) - self.length, (self.recipe.batch,), generator=generator)
        windows = _windows(self.train, starts.to(self.train.device), self.length)
        return windows[:, :-1], windows[:, 1:]

    def loss(self, network: nn.Module, batch: Batch) -> Tensor:
        inputs, targets = batch
        return F.cross_entropy(network(inputs).float().flatten(0, 1), targets.flatten())

    def judge(self, network: nn.Module, *, final: bool) -> float:
        every = 1 if final else self.final_windows // self.curve_windows
        windows = self.held_out[::every]
        losses = [self.loss(network, (part[:, :-1], part[:, 1:])) for part in windows.split(self.curve_windows)]
        return float(torch.stack(losses).double().mean())


def _windows(text: Tensor, starts: Tensor, length: int) -> Tensor:
    """[n, length + 1] bytes from each start: a window and, one further, its targets."""
    return text[starts[:, None] + torch.arange(length + 1, device=text.device)]


def make(key: str, recipe: Recipe, device: torch.device) -> Task:
    """The task that a key of RECIPES names, with its data on the device. Raises data.MissingDataError."""
    return Digits(key, recipe, device) if key.startswith("digits") else SourceText(key, recipe, device)
