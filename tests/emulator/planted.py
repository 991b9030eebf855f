"""Planted bugs: what each way of running must find of a kernel that is wrong in one place.

A bug is a replacement of text in a copy of the source tree, so that the kernels carry no switches for it.
"""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from emulator import build
from emulator.cases import CASES
from emulator.program import Mode, give_back_stacks

# Plain in the order of the threads, plain in random order (any of ten seeds), plain with random priorities (likewise),
# AddressSanitizer with the undefined-behaviour sanitizer, ThreadSanitizer.
WAYS = ("fixed", "random", "priority", "address", "thread")
SEEDS = range(10)


@dataclass(frozen=True)
class Mutation:
    """`before` stands exactly once in the file, and so does each first text of `also`, which is replaced too; the words
    of `finds` are those of Case.outcome, in WAYS' order.

    Not every way finds every bug, and `-` says so: the table must not look better than the emulator is. `?` is not
    tried: it depends on chance what happens, or another way says the same, and each build takes seconds.
    """

    name: str
    case: str
    file: str
    before: str
    after: str
    finds: str
    also: tuple[tuple[str, str], ...] = ()

    @contextlib.contextmanager
    def tree(self) -> Iterator[Path]:
        """A copy of the sources with the bug in it."""
        with tempfile.TemporaryDirectory(prefix="halfops-mutation-") as folder:
            root = Path(folder)
            for part in ("csrc", "tests/emulator/kernels", "tests/emulator/entries"):
                shutil.copytree(build.ROOT / part, root / part)
            text = (root / self.file).read_text()
            for before, after in ((self.before, self.after), *self.also):
                if text.count(before) != 1:
                    raise ValueError(f"{self.name}: {self.file} has {text.count(before)} places like {before!r}")
                text = text.replace(before, after)
            (root / self.file).write_text(text)
            try:
                yield root
            finally:
                give_back_stacks()

    def measured(self) -> tuple[str, ...]:
        """What each of WAYS finds, "" for nothing. Where anything may happen, nothing is run."""
        case = CASES[self.case]
        left_out = {way for way, word in zip(WAYS, self.finds.split(), strict=True) if word == "?"}
        with self.tree() as tree:

            def plain(way: str, mode: Mode) -> str:
                return "" if way in left_out else case.outcome(mode, tree=tree)[0]

            def any_seed(order: str) -> str:
                return next(filter(None, (plain(order, Mode(order, seed)) for seed in SEEDS)), "")

            def program(flavour: str) -> str:
                return "" if flavour in left_out else case.outcome(Mode(), flavour, tree)[0]

            # The three builds at once: most of the time goes into compilers.
            with ThreadPoolExecutor() as pool:
                address, thread = pool.submit(program, "address"), pool.submit(program, "thread")
                found = plain("fixed", Mode()), any_seed("random"), any_seed("priority")
                return *found, address.result(), thread.result()
