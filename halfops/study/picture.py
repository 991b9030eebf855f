"""The study as one picture: on the left how each task went, on the right what each precision costs."""

from __future__ import annotations

import importlib
import math
import statistics
from pathlib import Path
from typing import Any

from halfops.study.arms import BASELINE
from halfops.study.study import StudyResult, TaskResult

PICTURE = "precision_study.png"
_INK = "#222222"
_GREY = "#5a5a5a"
_FAINT = "#e2e2e2"
# Parts of an arm's bytes, from dark to light.
_PARTS = (("weights", 1.0), ("gradients", 0.68), ("masters", 0.42), ("moments", 0.2))
_PART_TITLES = {"weights": "weights", "gradients": "gradients", "masters": "master", "moments": "optimizer state"}


class MissingMatplotlibError(RuntimeError):
    """There is nothing to draw with; the message says how to get it."""


def draw(study: StudyResult, path: Path) -> Path:
    """Writes the picture as PNG, without a display, and returns where it is.

    Raises MissingMatplotlibError when matplotlib is not installed.
    """
    try:
        figures = importlib.import_module("matplotlib.figure")
        importlib.import_module("matplotlib.backends.backend_agg")
    except ImportError:
        raise MissingMatplotlibError(
            "it needs matplotlib, which is not installed; pip install matplotlib brings it"
        ) from None
    tasks = study.tasks
    rows, columns = math.ceil(len(tasks) / 2), min(2, len(tasks))
    figure = figures.Figure(figsize=(8.4 * columns / 2 + 7.2, 9.2), dpi=120, facecolor="white")
    halves = figure.add_gridspec(
        1, 2, width_ratios=(1.9 * columns, 2), wspace=0.13, left=0.045, right=0.985, top=0.8, bottom=0.06
    )
    grid = halves[0].subgridspec(rows, columns, wspace=0.2, hspace=0.42)
    for i, task in enumerate(tasks):
        curve, end = grid[i // 2, i % 2].subgridspec(1, 2, width_ratios=(2.5, 1), wspace=0.4)
        _curves(_axes(figure, curve), task)
        _ends(_axes(figure, end), task)
    costs = halves[1].subgridspec(3, 1, hspace=0.56)
    last = tasks[-1]
    _bytes(_axes(figure, costs[0]), last)
    _unchanged(_axes(figure, costs[1]), max(tasks, key=_most_unchanged))
    _times(_axes(figure, costs[2]), last, study.device)
    _heading(figure, study)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
    return path


def _heading(figure: Any, study: StudyResult) -> None:
    lines = importlib.import_module("matplotlib.lines")
    numbers = {2: "two", 3: "three", 4: "four", 5: "five"}
    arms = study.tasks[0].arms
    title = f"The same training in {numbers[len(arms)]} precisions" if len(arms) > 1 else "A training"
    below = (
        f"Same networks, initial weights and batches. Lines: means of {study.seeds} seeds, bands span them. "
        "Beside each curve: the result of every seed, the mean, and the span of fp32's seeds in grey."
    )
    figure.text(0.045, 0.95, title, fontsize=21, fontweight="bold", color=_INK)
    figure.text(0.045, 0.921, below, fontsize=11.5, color=_GREY)
    handles = [lines.Line2D([], [], color=arm.color, linewidth=5, label=arm.title) for arm in arms]
    figure.legend(
        handles=handles,
        loc="upper left",
        bbox_to_anchor=(0.038, 0.913),
        ncols=len(handles),
        frameon=False,
        fontsize=12,
        handlelength=1.2,
        columnspacing=2,
    )


def _axes(figure: Any, cell: Any) -> Any:
    axes = figure.add_subplot(cell)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color("#999999")
    axes.tick_params(colors="#444444", labelsize=9.5, length=3)
    axes.grid(color=_FAINT, linewidth=0.7)
    axes.set_axisbelow(True)
    return axes


def _title(axes: Any, title: str, below: str) -> None:
    axes.set_title(title, loc="left", fontsize=13, fontweight="bold", color=_INK, pad=21)
    axes.text(0, 1.028, below, transform=axes.transAxes, fontsize=10, color=_GREY)


def _curves(axes: Any, task: TaskResult) -> None:
    # Lines that coincide are drawn one within the other, so that none hides another.
    widths = [1.7 + 1.5 * i for i in range(len(task.arms))][::-1]
    for arm, width in zip(task.arms, widths, strict=True):
        curves = [run.curve for run in task.runs[arm.key]]
        steps = [step for step, _ in curves[0]]
        columns = [[value for _, value in column] for column in zip(*curves, strict=True)]
        axes.fill_between(steps, list(map(min, columns)), list(map(max, columns)), color=arm.color, alpha=0.12, lw=0)
        axes.plot(steps, list(map(statistics.fmean, columns)), color=arm.color, linewidth=width, solid_capstyle="round")
    _title(axes, task.title, f"{task.metric}, by step")
    axes.margins(x=0.02)


def _ends(axes: Any, task: TaskResult) -> None:
    if BASELINE.key in task.runs:
        fp32 = task.final(BASELINE)
        axes.axhspan(fp32.low, fp32.high, color=BASELINE.color, alpha=0.16, linewidth=0)
    for place, arm in enumerate(task.arms):
        finals = [run.final for run in task.runs[arm.key]]
        axes.plot([place] * len(finals), finals, "o", color=arm.color, markersize=6, alpha=0.55, markeredgewidth=0)
        mean = task.final(arm).mean
        axes.hlines(mean, place - 0.36, place + 0.36, color=arm.color, linewidth=2.6)
    axes.set_xlim(-0.7, len(task.arms) - 0.3)
    axes.set_xticks([])
    axes.margins(y=0.12)
    axes.text(0, 1.028, "at the end", transform=axes.transAxes, fontsize=10, color=_GREY)


def _bytes(axes: Any, task: TaskResult) -> None:
    for row, arm in enumerate(task.arms[::-1]):
        held = task.runs[arm.key][0].bytes
        left = 0.0
        for part, alpha in _PARTS:
            width = getattr(held, part)
            if not width:
                continue
            axes.barh(row, width, left=left, height=0.7, color=arm.color, alpha=alpha, edgecolor="white", linewidth=1.5)
            color = "white" if alpha > 0.6 else _INK
            axes.text(left + width / 2, row, f"{width:.0f}", ha="center", va="center", fontsize=10, color=color)
            left += width
        axes.text(left, row, f"  {held.total:.1f}", va="center", fontsize=11, fontweight="bold", color=_INK)
    shades = ", ".join(_PART_TITLES[part] for part, _ in _PARTS)
    _title(axes, f"Bytes per parameter, {task.title.split(', ')[-1]}", f"from dark to light: {shades}")
    _bars(axes, margin=0.12)


def _most_unchanged(task: TaskResult) -> float:
    shares = [task.mean(arm, "unchanged_kept") for arm in task.arms]
    return max((share for share in shares if math.isfinite(share)), default=0.0)


def _unchanged(axes: Any, task: TaskResult) -> None:
    for row, arm in enumerate(task.arms[::-1]):
        seen, kept = 100 * task.mean(arm, "unchanged_seen"), 100 * task.mean(arm, "unchanged_kept")
        if not math.isfinite(kept):
            continue
        axes.barh(row, seen, height=0.7, color=arm.color, alpha=0.3, linewidth=0)
        axes.barh(row, kept, height=0.7, color=arm.color, linewidth=0)
        label = f"{kept:.2g} %" if f"{kept:.2g}" == f"{seen:.2g}" else f"{kept:.2g} %  ({seen:.2g} %)"
        axes.text(max(seen, kept), row, f"  {label}", va="center", fontsize=10, color=_INK)
    _title(axes, "Updates that changed no bit", f"{task.title}: of the weight as kept (pale: as multiplied)")
    _bars(axes, margin=0.3)
    axes.set_xticks([tick for tick in axes.get_xticks() if tick <= 100])


def _times(axes: Any, task: TaskResult, device: str) -> None:
    for row, arm in enumerate(task.arms[::-1]):
        value = 1e3 * task.seconds_per_step(arm)
        axes.barh(row, value, height=0.7, color=arm.color, linewidth=0)
        axes.text(value, row, f"  {value:.3g} ms", va="center", fontsize=10, color=_INK)
    _title(axes, f"Time per step on {device}", task.title)
    _bars(axes, margin=0.22)


def _bars(axes: Any, margin: float) -> None:
    axes.set_yticks([])
    axes.margins(x=margin)
    axes.set_xlim(left=0)
    axes.grid(axis="y", visible=False)
