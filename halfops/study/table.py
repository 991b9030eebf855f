"""The figures of a study as text."""

from __future__ import annotations

import math
from collections.abc import Sequence

from halfops.study.arms import Arm
from halfops.study.study import StudyResult, TaskResult

LEGEND = (
    "B/param: weights + gradients + master + optimizer state, counted from the tensors after the last step.\n"
    "same bits: share of updates (weights with a non-zero gradient) that changed no bit of the weight as matrix\n"
    "products read it; kept: of the weight as it is kept, the master where there is one. skipped: overflows a run."
)


def table(study: StudyResult) -> str:
    """One table a task, and what its columns mean."""
    return "\n\n".join([*(_task_table(task, study.seeds) for task in study.tasks), LEGEND])


def _task_table(task: TaskResult, seeds: int) -> str:
    head = [
        "",
        task.metric,
        "weights",
        "grads",
        "master",
        "state",
        "B/param",
        "ms/step",
        "same bits",
        "kept",
        "skipped",
    ]
    rows = [_row(task, arm) for arm in task.arms]
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]
    lines = [_line(row, widths) for row in [head, *rows]]
    rule = "-" * max(map(len, lines))
    title = f"{task.title}: mean ± deviation of {seeds} seed{'s' if seeds > 1 else ''}"
    return "\n".join([title, task.description, rule, lines[0], rule, *lines[1:], rule])


def _row(task: TaskResult, arm: Arm) -> list[str]:
    runs = task.runs[arm.key]
    final, held = task.final(arm), runs[0].bytes
    digits = 2 if task.higher_is_better else 4
    skipped = sum(run.skipped for run in runs) / len(runs)
    return [
        arm.title,
        f"{final.mean:.{digits}f} ± {final.deviation:.{digits}f}" if math.isfinite(final.mean) else "diverged",
        *(f"{part:.1f}" if part else "-" for part in (held.weights, held.gradients, held.masters, held.moments)),
        f"{held.total:.1f}",
        f"{1e3 * task.seconds_per_step(arm):.2f}",
        _percent(task.mean(arm, "unchanged_seen")),
        _percent(task.mean(arm, "unchanged_kept")),
        f"{skipped:.1f}",
    ]


def _percent(share: float) -> str:
    return f"{100 * share:.2f} %" if math.isfinite(share) else "-"


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    first, *rest = cells
    return "  ".join(
        [first.ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(rest, widths[1:], strict=True))]
    )
