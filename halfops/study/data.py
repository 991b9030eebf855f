"""Real data that is already on the machine: scikit-learn's digits, and the source text of Python's standard library."""

from __future__ import annotations

import importlib
import sysconfig
import zlib
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

# Files are taken in the order of a checksum of their names until these many bytes are there: a fixed, mixed choice.
TRAIN_BYTES = 2_000_000
HELD_OUT_BYTES = 250_000
HELD_OUT_EVERY = 8


class MissingDataError(RuntimeError):
    """A task's data is not on this machine; the message says how to get it."""


@dataclass(frozen=True)
class Images:
    """Standardised images [n, pixels] in float32 and their classes [n] in int64, for training and held out."""

    train: Tensor
    train_classes: Tensor
    held_out: Tensor
    held_out_classes: Tensor


@dataclass(frozen=True)
class Text:
    """Bytes as int64 [n], for training and held out; no file is in both."""

    train: Tensor
    held_out: Tensor
    train_files: int
    held_out_files: int


def digits() -> Images:
    """scikit-learn's 1797 handwritten digits of 8 x 8 pixels: three quarters to train on, one quarter held out.

    Standardised by one mean and one deviation over all training pixels, as arXiv 2305.10947 does.
    Raises MissingDataError when scikit-learn is not installed.
    """
    try:
        datasets = importlib.import_module("sklearn.datasets")
    except ImportError:
        raise MissingDataError(
            "the digits task needs scikit-learn, which is not installed; pip install scikit-learn brings it"
        ) from None
    pixels, classes = datasets.load_digits(return_X_y=True)
    images = torch.as_tensor(pixels, dtype=torch.float32)
    targets = torch.as_tensor(classes, dtype=torch.int64)
    # One fixed split for all seeds: a seed varies the network and the order of its data, not the question asked.
    order = torch.randperm(len(targets), generator=torch.Generator().manual_seed(2305))
    images, targets = images[order], targets[order]
    held_out = len(targets) // 4
    train = images[held_out:]
    images = (images - train.mean()) / train.std()
    return Images(images[held_out:], targets[held_out:], images[:held_out], targets[:held_out])


def stdlib_text(train_bytes: int = TRAIN_BYTES, held_out_bytes: int = HELD_OUT_BYTES) -> Text:
    """The text of the standard library's own modules, split by file; which files depends on nothing but their names.

    Raises MissingDataError where Python came without its sources.
    """
    folder = Path(sysconfig.get_path("stdlib"))
    names = sorted(
        path.relative_to(folder).as_posix()
        for pattern in ("*.py", "asyncio/*.py", "email/*.py", "json/*.py", "logging/*.py", "unittest/*.py")
        for path in folder.glob(pattern)
    )
    order = sorted(names, key=lambda name: (zlib.crc32(name.encode()), name))
    chosen: dict[bool, list[bytes]] = {False: [], True: []}
    for i, name in enumerate(order):
        is_held_out = i % HELD_OUT_EVERY == 0
        limit = held_out_bytes if is_held_out else train_bytes
        if sum(map(len, chosen[is_held_out])) < limit:
            chosen[is_held_out].append((folder / name).read_bytes())
    train, held_out = (b"".join(chosen[side])[:limit] for side, limit in ((False, train_bytes), (True, held_out_bytes)))
    if min(len(train), len(held_out)) < 10_000:
        raise MissingDataError(
            f"the text task reads the standard library's .py files, and {folder} holds {len(names)} of them; "
            "use a Python that was installed with its sources"
        )
    return Text(_as_tensor(train), _as_tensor(held_out), len(chosen[False]), len(chosen[True]))


def _as_tensor(text: bytes) -> Tensor:
    return torch.frombuffer(bytearray(text), dtype=torch.uint8).to(torch.int64)
