"""The commands of `python -m halfops`. Each is a module here with HELP, configure(parser) and run(args) -> exit status.

A command's module is imported only when it is asked for, so that what one of them needs cannot break another.
"""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

COMMANDS = ("doctor", "demo", "bench", "memory")


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m halfops", description="Training in half precision.")
    commands = parser.add_subparsers(dest="command", metavar="{" + ",".join(COMMANDS) + "}", required=True)
    asked = next((word for word in argv if not word.startswith("-")), None)
    for name in COMMANDS:
        if asked in COMMANDS and name != asked:
            continue
        module = _load(name)
        description = getattr(module, "HELP", f"not usable here: {module}")
        subparser = commands.add_parser(name, help=description, description=description)
        if isinstance(module, ImportError):
            subparser.set_defaults(run=_refuse(parser, name, module))
        else:
            module.configure(subparser)
            subparser.set_defaults(run=module.run)
    arguments = parser.parse_args(argv)
    return int(arguments.run(arguments))


def check_writable(option: str, path: Path) -> None:
    """Makes the folder of a file that is to be written later; ValueError if that file could not be written.

    For commands that work for minutes before they write.
    """
    there = path.exists()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.open("ab").close()
    except OSError as error:
        raise ValueError(f"{option}: cannot write {path} ({error.strerror}); choose another place") from error
    if not there:
        path.unlink()


def _load(name: str) -> Any:
    try:
        return importlib.import_module(f"halfops.cli.{name}")
    except ImportError as error:
        return error


def _refuse(parser: argparse.ArgumentParser, name: str, error: ImportError) -> Any:
    return lambda _: parser.error(
        f"{name} cannot run here: {error}; `pip install scikit-learn matplotlib tqdm` brings what it needs"
    )
