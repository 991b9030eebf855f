"""The study as one picture: curves with their seed spread above, what each precision costs below."""

from __future__ import annotations

import importlib
import math
import statistics
from pathlib import Path
from typing import Any

from halfops.study.arms import BASELINE, Arm
from halfops.study.study import StudyResult, TaskResult
from halfops.study.verdict import compare

PICTURE = "precision_study.png"
_INK = "#222222"
_FAINT = "#d9d9d9"
_PARTS = (("weights", 1.0), ("gradients", 0.7), ("masters", 0.45), ("moments", 0.22))
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
            "it needs matplotlib, which is not installed; pip install 'halfops[demo]' brings it"
        ) from None
    tasks = study.tasks
    figure = figures.Figure(figsize=(15, 9), dpi=120, facecolor="white")
    rows = figure.add_gridspec(
        2, 1, height_ratios=(1.25, 1), hspace=0.42, left=0.055, right=0.985, top=0.83, bottom=0.08
    )
    above = rows[0].subgridspec(1, len(tasks), wspace=0.22)
    below = rows[1].subgridspec(1, 4, wspace=0.28, width_ratios=(1.15, 1.25, 1, 1))
    for i, task in enumerate(tasks):
        _curves(_axes(figure, above[i]), task)
    last = tasks[-1]
    _verdicts(_axes(figure, below[0]), tasks)
    _bytes(_axes(figure, below[1]), last)
    _lost_updates(_axes(figure, below[2]), last)
    _times(_axes(figure, below[3]), last, study.device)
    _heading(figure, study)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
    return path


def _heading(figure: Any, study: StudyResult) -> None:
    lines = importlib.import_module("matplotlib.lines")
    figure.text(
        0.055,
        0.945,
        "The same training in five precisions" if len(study.tasks[0].arms) == 5 else "The same training",
        fontsize=19,
        fontweight="bold",
        color=_INK,
    )
    figure.text(
        0.055,
        0.912,
        f"Same networks, seeds and batches in every arm; lines are means of {study.seeds} seeds, bands span them.",
        fontsize=11.5,
        color="#555555",
    )
    handles = [lines.Line2D([], [], color=arm.color, linewidth=4, label=arm.title) for arm in study.tasks[0].arms]
    figure.legend(
        handles=handles,
        loc="upper left",
        bbox_to_anchor=(0.048, 0.907),
        ncols=len(handles),
        frameon=False,
        fontsize=11.5,
        handlelength=1.3,
        columnspacing=1.8,
    )


def _axes(figure: Any, cell: Any) -> Any:
    axes = figure.add_subplot(cell)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color("#888888")
    axes.tick_params(colors="#444444", labelsize=9.5)
    axes.grid(color=_FAINT, linewidth=0.7)
    axes.set_axisbelow(True)
    return axes


def _title(axes: Any, title: str, below: str) -> None:
    axes.set_title(title, loc="left", fontsize=12.5, fontweight="bold", color=_INK, pad=20)
    axes.text(0, 1.025, below, transform=axes.transAxes, fontsize=9.5, color="#555555")


def _curves(axes: Any, task: TaskResult) -> None:
    ends = []
    for arm in task.arms:
        runs = task.runs[arm.key]
        steps = [step for step, _ in runs[0].curve]
        values = [[value for _, value in run.curve] for run in runs]
        columns = list(zip(*values, strict=True))
        axes.fill_between(
            steps, list(map(min, columns)), list(map(max, columns)), color=arm.color, alpha=0.13, linewidth=0
        )
        axes.plot(
            steps,
            list(map(statistics.fmean, columns)),
            color=arm.color,
            linewidth=2.6 if arm is BASELINE else 1.9,
            marker="o",
            markersize=3.2,
            zorder=2 if arm is BASELINE else 3,
        )
        ends += [value for value in columns[len(columns) // 3] if math.isfinite(value)]
    _title(axes, task.title, f"{task.metric}, by step")
    axes.margins(x=0.02)


def _verdicts(axes: Any, tasks: list[TaskResult]) -> None:
    axes.axhspan(-1, 1, color="#4d4d4d", alpha=0.13, linewidth=0)
    axes.axhline(0, color=BASELINE.color, linewidth=1.6)
    reach = 1.6
    for i, task in enumerate(tasks):
        arms = [arm for arm in task.arms if arm is not BASELINE]
        for j, arm in enumerate(arms):
            found = compare(task, arm)
            if found is None or not found.spread or not math.isfinite(found.gain):
                continue
            height = found.gain / found.spread
            reach = max(reach, min(abs(height) * 1.15, 8))
            place = i + (j - (len(arms) - 1) / 2) * 0.16
            axes.vlines(place, 0, height, color=arm.color, linewidth=2)
            axes.plot(place, height, "o", color=arm.color, markersize=8)
    axes.set_ylim(-reach, reach)
    axes.set_xlim(-0.5, len(tasks) - 0.5)
    axes.set_xticks(
        range(len(tasks)), [task.title.replace(", ", "\n").replace("Byte language", "Language") for task in tasks]
    )
    axes.grid(axis="x", visible=False)
    _title(axes, "Result against fp32", "in units of fp32's seed spread (grey); up is better")


def _bytes(axes: Any, task: TaskResult) -> None:
    arms = task.arms[::-1]
    for row, arm in enumerate(arms):
        held = task.runs[arm.key][0].bytes
        left = 0.0
        for part, alpha in _PARTS:
            width = getattr(held, part)
            if width:
                axes.barh(
                    row, width, left=left, height=0.66, color=arm.color, alpha=alpha, edgecolor="white", linewidth=1.2
                )
                if width > 1:
                    strong = alpha > 0.6
                    axes.text(
                        left + width / 2,
                        row,
                        f"{width:.0f}",
                        ha="center",
                        va="center",
                        fontsize=9.5,
                        color="white" if strong else _INK,
                    )
            left += width
        axes.text(left + 0.25, row, f"{held.total:.1f}", va="center", fontsize=10.5, fontweight="bold", color=_INK)
    shades = " · ".join(_PART_TITLES[part] for part, _ in _PARTS)
    _title(axes, f"Bytes per parameter, {task.title.split(', ')[-1]}", f"dark to light: {shades}")
    axes.set_yticks([])
    axes.margins(x=0.1)
    axes.grid(axis="y", visible=False)


def _lost_updates(axes: Any, task: TaskResult) -> None:
    arms = task.arms[::-1]
    for row, arm in enumerate(arms):
        seen, kept = 100 * task.mean(arm, "unchanged_seen"), 100 * task.mean(arm, "unchanged_kept")
        if not math.isfinite(kept):
            continue
        axes.barh(row, seen, height=0.66, color=arm.color, alpha=0.25, linewidth=0)
        axes.barh(row, kept, height=0.66, color=arm.color, linewidth=0)
        label = f"{kept:.2g} %" if abs(seen - kept) < 0.005 else f"{kept:.2g} %  ({seen:.2g} %)"
        axes.text(max(seen, kept), row, f"  {label}", va="center", fontsize=10, color=_INK)
    _title(axes, "Updates that changed no bit", "of the weight as kept (pale: as multiplied)")
    _bars(axes)


def _times(axes: Any, task: TaskResult, device: str) -> None:
    arms = task.arms[::-1]
    for row, arm in enumerate(arms):
        value = 1e3 * task.mean(arm, "seconds_per_step")
        axes.barh(row, value, height=0.66, color=arm.color, linewidth=0)
        axes.text(value, row, f"  {value:.3g}", va="center", fontsize=10, color=_INK)
    _title(axes, f"Milliseconds per step, {device}", task.title)
    _bars(axes)


def _bars(axes: Any) -> None:
    axes.set_yticks([])
    axes.margins(x=0.28)
    axes.set_xlim(left=0)
    axes.grid(axis="y", visible=False)
