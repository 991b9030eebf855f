"""python -m halfops memory: what a parameter costs while it is trained, from one table of formats."""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass

HELP = "bytes per parameter for a model: weights, gradients, master weights, optimizer state"

# fp32-sized numbers that each rule keeps per parameter (docs/optimizers.md has the formulas)
STATES = {"adamw": 2, "adam": 2, "lamb": 2, "lion": 1, "sgd": 1, "sgd-no-momentum": 0}


# An fp32 moving average of the weights (`ema_decay=`; torch has swa_utils.AveragedModel for it)
AVERAGE = 4


@dataclass(frozen=True)
class Recipe:
    """Bytes of one parameter in each place that lasts from step to step; `state` is one fp32 number of the rule."""

    name: str
    weight: int
    gradient: int
    master: int
    state: int = 4
    note: str = ""

    def total(self, states: int, averages: int = 0) -> int:
        return self.weight + self.gradient + self.master + self.state * states + AVERAGE * averages


RECIPES = {
    "fp32": Recipe("fp32, torch.optim", 4, 4, 0),
    "amp": Recipe(
        "torch AMP, torch.optim", 4, 4, 0, note="plus 2 for each weight's 16-bit copy during forward and backward"
    ),
    "fp32-master": Recipe('halfops, 16-bit weights, master="fp32"', 2, 2, 4),
    "split": Recipe(
        'halfops, 16-bit weights, master="split" (default)', 2, 2, 2, note="the pair is the fp32 master, losslessly"
    ),
    "none": Recipe(
        'halfops, 16-bit weights, master="none"', 2, 2, 0, note='with rounding="stochastic" where updates get lost'
    ),
}


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--params", type=_number, default=7e9, metavar="N", help="number of parameters (default 7e9)")
    parser.add_argument("--optimizer", choices=sorted(STATES), default="adamw")
    parser.add_argument(
        "--master", choices=("split", "fp32", "none"), help="only this halfops variant beside fp32 and AMP"
    )
    parser.add_argument("--ema", action="store_true", help="count a moving average of the weights, too (ema_decay=)")
    parser.add_argument(
        "--device-gb", type=_number, metavar="GB", help="also: the largest model that fits in this much"
    )
    parser.add_argument(
        "--markdown", action="store_true", help="bytes per parameter as a markdown table, as in the docs"
    )
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")


def _number(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"got {text}, wanted a positive number")
    return value


def _chosen(master: str | None) -> list[Recipe]:
    halfops = {"split": "split", "fp32": "fp32-master", "none": "none"}
    names = list(RECIPES) if master is None else ["fp32", "amp", halfops[master]]
    return [RECIPES[name] for name in names]


def markdown(optimizer: str) -> str:
    """The table of docs/optimizers.md and README.md."""
    states = STATES[optimizer]
    lines = ["| training | weight | gradient | master | state | bytes per parameter |", "|---|---|---|---|---|---|"]
    for r in RECIPES.values():
        cells = (r.weight, r.gradient, r.master, r.state * states, f"**{r.total(states)}**")
        lines.append(f"| {r.name} | " + " | ".join(str(cell) for cell in cells) + " |")
    return "\n".join(lines)


def run(arguments: argparse.Namespace) -> int:
    states, recipes, averages = STATES[arguments.optimizer], _chosen(arguments.master), int(arguments.ema)
    rows = [
        {
            "training": r.name,
            "weight": r.weight,
            "gradient": r.gradient,
            "master": r.master,
            "state": r.state * states,
            **({"ema": AVERAGE} if arguments.ema else {}),
            "bytes_per_parameter": r.total(states, averages),
            "gigabytes": r.total(states, averages) * arguments.params / 1e9,
            **({"largest_model": arguments.device_gb * 1e9 / r.total(states, averages)} if arguments.device_gb else {}),
            "note": r.note,
        }
        for r in recipes
    ]
    if arguments.json:
        print(json.dumps({"params": arguments.params, "optimizer": arguments.optimizer, "rows": rows}, indent=1))
        return 0
    if arguments.markdown:
        print(markdown(arguments.optimizer))
        return 0
    print(f"{arguments.params:.3g} parameters, {arguments.optimizer}; activations and workspaces come on top\n")
    extra = f"  {'fits in ' + format(arguments.device_gb, 'g') + ' GB':>15}" if arguments.device_gb else ""
    ema = "    ema" if arguments.ema else ""
    print(f"{'bytes per parameter':<51} weight  grad  master  state{ema}  total       GB{extra}")
    for row in rows:
        ema = f"{AVERAGE:>7}" if arguments.ema else ""
        places = f"{row['weight']:>6}{row['gradient']:>6}{row['master']:>8}{row['state']:>7}{ema}"
        places += f"{row['bytes_per_parameter']:>7}"
        fits = f"  {row['largest_model'] / 1e9:>13.2f} B" if arguments.device_gb else ""
        print(f"{row['training']:<51} {places}{row['gigabytes']:>9.1f}{fits}")
    print()
    for r in recipes:
        if r.note:
            print(f"{r.name}: {r.note}")
    return 0
