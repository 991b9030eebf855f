"""How far the study is, on stderr: a bar on a terminal, else a few lines."""

from __future__ import annotations

import importlib
import sys
import time
from typing import Any

_BAR = "{percentage:3.0f} % |{bar}| {elapsed} + {remaining}  {desc}"


class Progress:
    """Adds up effort. tqdm's bar if there is tqdm and a terminal; else plain lines, ten of them without a terminal."""

    def __init__(self, *, quiet: bool = False) -> None:
        self._quiet = quiet
        self._bar: Any = None
        self._total = 0
        self._done = 0
        self._lines = 10
        self._text = ""
        self._begin = time.perf_counter()

    def start(self, total: int) -> None:
        self._total = total
        self._begin = time.perf_counter()
        if self._quiet or not sys.stderr.isatty():
            return
        self._lines = 50
        try:
            tqdm = importlib.import_module("tqdm")
        except ImportError:
            return
        self._bar = tqdm.tqdm(total=total, dynamic_ncols=True, leave=False, smoothing=0.05, bar_format=_BAR)

    def describe(self, text: str) -> None:
        self._text = text
        if self._bar is not None:
            self._bar.set_description_str(text)

    def advance(self, effort: int) -> None:
        before, self._done = self._done, self._done + effort
        if self._bar is not None:
            self._bar.update(effort)
        elif not self._quiet and before * self._lines // self._total < self._done * self._lines // self._total:
            seconds = time.perf_counter() - self._begin
            share = 100 * self._done // self._total
            print(f"{share:4d} %  {seconds:5.0f} s  {self._text}", file=sys.stderr, flush=True)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None
