"""What several tests need of this checkout: a folder for what was compiled, and setup.py as a module."""

from __future__ import annotations

import functools
import importlib.util
import os
import sys
import tempfile
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).resolve().parents[1]


@functools.cache
def folder(name: str) -> Path:
    """build/tests-NAME, where results stay for the next run; another one where that cannot be written."""
    kept = ROOT / "build" / f"tests-{name}"
    try:
        kept.mkdir(parents=True, exist_ok=True)
        if os.access(kept, os.W_OK):
            return kept
    except OSError:
        pass
    return Path(tempfile.mkdtemp(prefix=f"halfops-{name}-"))


@functools.cache
def setup() -> ModuleType:
    spec = importlib.util.spec_from_file_location("halfops_setup", ROOT / "setup.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module
