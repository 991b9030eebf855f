"""The figures of a study as text."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence

from halfops.study.arms import Arm
from halfops.study.study import StudyResult, TaskResult

LEGEND = """\
bytes/param  weights + gradients + masters + optimizer state, counted from the tensors after the last step
ms/step      median, from zero_grad to the scale update
same bits    updates (weights with a non-zero gradient) that changed no bit of the weight as matrix products read it
...kept      and of the weight as it is kept: the master, where there is one
skipped      steps that overflowed, a run
All fp16 arms, AMP included, scale their losses. In fp32 everywhere: the loss, LayerNorm's statistics, the sums of the
embedding's gradient, optimizer state, and in halfops' arms on a CPU the attention core. AMP's fp16 copies of weights,
which live from forward to backward, are not among its bytes."""


def table(study: StudyResult) -> str:
    """One table a task, and what its columns mean."""
    return "\n\n".join([*(_task_table(task, study.seeds) for task in study.tasks), LEGEND])


def _task_table(task: TaskResult, seeds: int) -> str:
    head = ["", "held out", "bytes/param", "ms/step", "same bits", "...kept", "skipped"]
    rows = [_row(task, arm) for arm in task.arms]
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]
    lines = [_line(row, widths) for row in [head, *rows]]
    rule = "-" * max(map(len, lines))
    title = f"{task.title}: {task.metric}, mean ± deviation of {seeds} seed{'s' if seeds > 1 else ''}"
    about = textwrap.wrap(task.description, max(80, len(rule)))
    return "\n".join([title, *about, rule, lines[0], rule, *lines[1:], rule])


def _row(task: TaskResult, arm: Arm) -> list[str]:
    runs = task.runs[arm.key]
    final, held = task.final(arm), runs[0].bytes
    digits = 2 if task.higher_is_better else 4
    skipped = sum(run.skipped for run in runs) / len(runs)
    return [
        arm.title,
        f"{final.mean:.{digits}f} ± {final.deviation:.{digits}f}" if math.isfinite(final.mean) else "diverged",
        f"{held.weights:.0f}+{held.gradients:.0f}+{held.masters:.0f}+{held.moments:.0f} = {held.total:4.1f}",
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
