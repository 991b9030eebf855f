"""`python -m halfops demo`: the precision study on real data, as a table, a picture and a JSON file."""

from __future__ import annotations

import argparse
import json
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path

import torch

HELP = "train the same networks in fp32, torch AMP and fp16 with halfops, and compare what comes out"


def configure(parser: argparse.ArgumentParser) -> None:
    """Adds this command's options."""
    parser.add_argument("--quick", action="store_true", help="shorter trainings: under a minute on two cores")
    parser.add_argument("--seeds", type=int, default=3, metavar="N", help="how many seeds (default 3)")
    parser.add_argument(
        "--tasks",
        nargs="+",
        metavar="TASK",
        help="digits (all of digits-sgd, digits-adamw, digits-small-steps), text (default: all)",
    )
    parser.add_argument(
        "--arms", nargs="+", metavar="ARM", help="fp32, amp, split, stochastic, nearest (default: all of them)"
    )
    parser.add_argument("--steps", type=int, metavar="N", help="steps of every training, instead of its recipe's")
    parser.add_argument(
        "--device", default="auto", help="cpu, cuda, cuda:1, ... (default: CUDA where halfops runs on it)"
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("halfops-demo"),
        metavar="DIR",
        help="where the picture goes (default halfops-demo)",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every figure there")


def run(args: argparse.Namespace) -> int:
    """Trains, then prints tables and verdict; 0, 1 when no task could run, 2 for arguments that make no sense."""
    from halfops.cli import check_writable
    from halfops.study.arms import ARMS
    from halfops.study.device import choose
    from halfops.study.picture import PICTURE, MissingMatplotlibError, draw
    from halfops.study.progress import Progress
    from halfops.study.recipe import RECIPES
    from halfops.study.report import report
    from halfops.study.study import run_study
    from halfops.study.table import table
    from halfops.study.verdict import verdict

    try:
        keys = _chosen("--tasks", args.tasks, list(RECIPES))
        arm_keys = _chosen("--arms", args.arms, [arm.key for arm in ARMS])
        device = choose(args.device)
        for name in ("seeds", "steps"):
            value = getattr(args, name)
            if value is not None and value < 1:
                raise ValueError(f"--{name}: got {value}, wanted at least 1")
        check_writable("--out", args.out / PICTURE)
        if args.json is not None:
            check_writable("--json", args.json)
    except (ValueError, RuntimeError) as wrong:
        print(f"halfops demo: {wrong}", file=sys.stderr)
        return 2

    study = run_study(
        keys,
        [arm for arm in ARMS if arm.key in arm_keys],
        seeds=args.seeds,
        device=device,
        quick=args.quick,
        steps=args.steps,
        progress=Progress(),
    )
    for note in study.notes:
        print(f"Left out: {note}.\n")
    if not study.tasks:
        return 1
    print(table(study), end="\n\n")
    print("Verdict (signs: + is better)")
    for title, sentences in verdict(study).items():
        print(f"  {title}")
        print(
            *(textwrap.fill(line, 108, initial_indent=4 * " ", subsequent_indent=6 * " ") for line in sentences),
            sep="\n",
        )
    print()
    try:
        print(f"Picture: {draw(study, args.out / PICTURE)}")
    except MissingMatplotlibError as missing:
        print(f"No picture: {missing}.")
    if args.json is not None:
        args.json.write_text(json.dumps(report(study), indent=1, allow_nan=False) + "\n")
        print(f"Figures: {args.json}")
    threads = f", {torch.get_num_threads()} threads" if device.type == "cpu" else ""
    print(f"{study.seconds:.0f} s of training on {device}{threads}.")
    return 0


def _chosen(option: str, given: Sequence[str] | None, known: Sequence[str]) -> list[str]:
    """The known names that a name given means, itself or as a prefix up to a dash, in the order of `known`."""
    if given is None:
        return list(known)
    for name in given:
        if not any(key == name or key.startswith(f"{name}-") for key in known):
            raise ValueError(f"{option}: got {name!r}, wanted one of {', '.join(known)}")
    return [key for key in known if any(key == name or key.startswith(f"{name}-") for name in given)]
