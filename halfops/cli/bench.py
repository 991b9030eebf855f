"""python -m halfops bench: the scripts of benchmarks/, from a checkout or from an installed wheel."""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import torch

from halfops.cli import check_writable

HELP = "benchmarks against what is installed beside halfops: a table, and with --plot a picture"

SUBJECTS = ("linear", "optim", "scale")


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("subject", nargs="*", type=_subject, help=f"which of {', '.join(SUBJECTS)} (default: all)")
    parser.add_argument(
        "--quick", action="store_true", help="small problems, few rounds: does it run, roughly how fast"
    )
    parser.add_argument("--device", default="cpu", help="cpu (default) or cuda")
    parser.add_argument("--suite", metavar="NAMES", help="of linear: square, llama7b, fused and more, see benchmarks/")
    parser.add_argument("--dtype", metavar="NAMES", help="of linear: fp16, bf16 or both (default)")
    parser.add_argument("--record", action="store_true", help="append the figures to <subject>.jsonl")
    parser.add_argument("--out", metavar="DIR", help="where to record (default in a checkout: benchmarks/results/)")
    parser.add_argument("--plot", metavar="PNG", help="also draw what was measured (needs matplotlib)")


def _subject(text: str) -> str:
    if text not in SUBJECTS:
        raise argparse.ArgumentTypeError(f"got {text!r}, wanted one of {', '.join(SUBJECTS)}")
    return text


PACKAGE = Path(__file__).resolve().parents[1]


def _folder() -> Path:
    """Where the scripts are: inside the package in an installed wheel, beside it in a checkout."""
    inside = PACKAGE / "benchmarks"
    return inside if inside.is_dir() else PACKAGE.parent / "benchmarks"


def benchmarks() -> ModuleType:
    """The package `benchmarks`, under that one name wherever it lies, so that its modules import each other alike."""
    if "benchmarks" not in sys.modules:
        folder = _folder()
        spec = importlib.util.spec_from_file_location(
            "benchmarks", folder / "__init__.py", submodule_search_locations=[str(folder)]
        )
        if spec is None or spec.loader is None or not folder.is_dir():
            raise SystemExit(f"halfops bench: found no benchmarks in {PACKAGE} or beside it; reinstall halfops")
        module = importlib.util.module_from_spec(spec)
        sys.modules["benchmarks"] = module
        spec.loader.exec_module(module)
    return sys.modules["benchmarks"]


def _check(arguments: argparse.Namespace, subjects: Sequence[str]) -> None:
    """ValueError for what would fail only after minutes of measuring, or would be passed over."""
    for name in ("suite", "dtype"):
        if vars(arguments)[name] and "linear" not in subjects:
            raise ValueError(f"--{name}: is for linear, which is not among {', '.join(subjects)}; leave it out")
    device = arguments.device.split(":")[0]
    if device not in ("cpu", "cuda"):
        raise ValueError(f"--device: got {arguments.device}, wanted cpu or cuda")
    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"--device: got {arguments.device}, but torch finds no CUDA device here")
    if arguments.record:
        if arguments.out is None and _folder().parent == PACKAGE:
            raise ValueError("--record: an installed copy has no results/ to append to; say where with --out DIR")
        folder = Path(arguments.out) if arguments.out is not None else _folder() / "results"
        for subject in subjects:
            check_writable("--out", folder / f"{subject}.jsonl")
    if arguments.plot:
        if importlib.util.find_spec("matplotlib") is None:
            raise ValueError("--plot: needs matplotlib, which is not installed; pip install matplotlib brings it")
        check_writable("--plot", Path(arguments.plot))


def _chosen(arguments: argparse.Namespace) -> list[str]:
    """What linear alone understands."""
    given = (("--suite", arguments.suite), ("--dtype", arguments.dtype))
    return [word for option, value in given if value for word in (option, value)]


def run(arguments: argparse.Namespace) -> int:
    benchmarks()
    try:
        _check(arguments, arguments.subject or SUBJECTS)
    except ValueError as wrong:
        print(f"halfops bench: {wrong}", file=sys.stderr)
        return 2
    options = ["--device", arguments.device]
    options += ["--quick"] if arguments.quick else []
    subjects, status = arguments.subject or list(SUBJECTS), 0
    with tempfile.TemporaryDirectory() as scratch:
        # The picture is drawn from what is recorded.
        out = arguments.out or (None if arguments.record else scratch)
        options += ["--record"] if arguments.record or arguments.plot else []
        options += ["--out", out] if out is not None else []
        for subject in subjects:
            module = importlib.import_module(f"benchmarks.bench_{subject}")
            status |= int(module.main([*options, *(_chosen(arguments) if subject == "linear" else [])]) or 0)
        if arguments.plot:
            _plot(subjects, Path(out) if out is not None else None, Path(arguments.plot))
    return status


def _plot(subjects: list[str], results: Path | None, picture: Path) -> None:
    figures = importlib.import_module("benchmarks.figures")
    folder = results or figures.RESULTS
    rows = {subject: figures.newest(folder / f"{subject}.jsonl") for subject in subjects}
    importlib.import_module("benchmarks.plot").draw({name: each for name, each in rows.items() if each}, picture)
    print(f"\ndrawn in {picture}")
