"""python -m halfops bench: the scripts of benchmarks/, from a checkout or from an installed wheel."""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import sys
import tempfile
from pathlib import Path
from types import ModuleType

HELP = "benchmarks against what is installed beside halfops: a table, and with --plot a picture"

SUBJECTS = ("linear", "optim", "scale")


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("subject", nargs="*", type=_subject, help=f"which of {', '.join(SUBJECTS)} (default: all)")
    parser.add_argument(
        "--quick", action="store_true", help="small problems, few rounds: does it run, roughly how fast"
    )
    parser.add_argument("--device", default="cpu", help="cpu (default) or cuda")
    parser.add_argument("--record", action="store_true", help="append the figures to <subject>.jsonl")
    parser.add_argument("--out", metavar="DIR", help="where to record (default: benchmarks/results/)")
    parser.add_argument("--plot", metavar="PNG", help="also draw what was measured (needs matplotlib)")


def _subject(text: str) -> str:
    if text not in SUBJECTS:
        raise argparse.ArgumentTypeError(f"got {text!r}, wanted one of {', '.join(SUBJECTS)}")
    return text


def benchmarks() -> ModuleType:
    """The package `benchmarks`: beside halfops/ in a checkout, inside it in an installed wheel.

    It is loaded under that one name from either place, so its modules can import each other alike.
    """
    if "benchmarks" not in sys.modules:
        package = Path(__file__).resolve().parents[1]
        inside, beside = package / "benchmarks", package.parent / "benchmarks"
        folder = inside if inside.is_dir() else beside
        spec = importlib.util.spec_from_file_location(
            "benchmarks", folder / "__init__.py", submodule_search_locations=[str(folder)]
        )
        if spec is None or spec.loader is None or not folder.is_dir():
            raise SystemExit(f"bench: found no benchmarks in {inside} or {beside}; reinstall halfops")
        module = importlib.util.module_from_spec(spec)
        sys.modules["benchmarks"] = module
        spec.loader.exec_module(module)
    return sys.modules["benchmarks"]


def run(arguments: argparse.Namespace) -> int:
    benchmarks()
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
            status |= int(module.main(options) or 0)
        if arguments.plot:
            _plot(subjects, Path(out) if out is not None else None, Path(arguments.plot))
    return status


def _plot(subjects: list[str], results: Path | None, picture: Path) -> None:
    figures = importlib.import_module("benchmarks.figures")
    folder = results or figures.RESULTS
    rows = {subject: figures.newest(folder / f"{subject}.jsonl") for subject in subjects}
    importlib.import_module("benchmarks.plot").draw({name: each for name, each in rows.items() if each}, picture)
    print(f"\ndrawn in {picture}")
