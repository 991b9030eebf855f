"""What the figures amount to, in words that are computed from them."""

from __future__ import annotations

import math
from dataclasses import dataclass

from halfops.study.arms import BASELINE, Arm
from halfops.study.study import StudyResult, TaskResult


@dataclass(frozen=True)
class Comparison:
    """An arm against fp32 on one task: `gain` > 0 when the arm is better, `spread` is fp32's best minus worst seed.

    `every_seed` is "better" or "worse" where the arm is so with each seed, "" otherwise: seeds share weights and data,
    and a small difference that is always the same way shows there first.

    An arm is within the spread when |gain| <= spread. With three seeds of deviation s the difference of two means has
    the standard error 0.8 s and the spread is about 1.7 s: `within` says that the difference is less than two errors.
    """

    gain: float
    spread: float
    every_seed: str

    @property
    def within(self) -> bool:
        return abs(self.gain) <= self.spread  # false for NaN: an arm that diverged is never within

    @property
    def word(self) -> str:
        if self.within:
            return "within"
        return "better" if self.gain > 0 else "worse"


def compare(task: TaskResult, arm: Arm) -> Comparison | None:
    """None where there is nothing to compare with: no fp32 arm, or one seed and hence no spread."""
    if BASELINE.key not in task.runs or len(task.runs[BASELINE.key]) < 2:
        return None
    baseline, other = task.final(BASELINE), task.final(arm)
    sign = 1 if task.higher_is_better else -1
    pairs = zip(task.runs[BASELINE.key], task.runs[arm.key], strict=True)
    gains = [sign * (run.final - fp32.final) for fp32, run in pairs]
    every_seed = "better" if min(gains) > 0 else "worse" if max(gains) < 0 else ""
    return Comparison(sign * (other.mean - baseline.mean), baseline.high - baseline.low, every_seed)


def verdict(study: StudyResult) -> dict[str, list[str]]:
    """For each task's title sentences on precision, on updates and on cost; none where there is nothing to say."""
    told = {task.title: [*_precision(task), *_updates(task), *_cost(task)] for task in study.tasks}
    return {title: lines for title, lines in told.items() if lines}


def _precision(task: TaskResult) -> list[str]:
    compared = [(arm, compare(task, arm)) for arm in task.arms if arm is not BASELINE]
    found = [(arm, c) for arm, c in compared if c is not None]
    if not found:
        return ["There is no spread of fp32 to compare with: it takes the fp32 arm and at least two seeds."]
    unit = " points" if task.higher_is_better else ""
    span = f"(its seeds span {found[0][1].spread:.3g}{unit})"
    lines = []
    for word, phrase in (
        ("within", f"Within the seed spread of fp32 {span}"),
        ("better", f"Better than fp32 by more than its spread {span}"),
        ("worse", f"Worse than fp32 by more than its spread {span}"),
    ):
        arms = [f"{arm.title} ({_signed(c)})" for arm, c in found if c.word == word]
        if arms:
            lines.append(f"{phrase}: {'; '.join(arms)}.")
    return lines


def _signed(found: Comparison) -> str:
    if not math.isfinite(found.gain):
        return "diverged"
    # A twentieth of the spread: less than that interests nobody, whichever way it points.
    tell = found.every_seed and abs(found.gain) > found.spread / 20
    return f"{found.gain:+.2g}" + (f", {found.every_seed} with every seed" if tell else "")


def _updates(task: TaskResult) -> list[str]:
    parts = []
    for arm in task.arms:
        seen, kept = task.mean(arm, "unchanged_seen"), task.mean(arm, "unchanged_kept")
        if not arm.is_half or not math.isfinite(kept):
            continue
        if arm.master == "split":
            parts.append(f"{arm.title}: {100 * seen:.2g} % of the 16-bit weights, {100 * kept:.2g} % of the masters")
        else:
            parts.append(f"{arm.title}: {100 * kept:.2g} %")
    return [f"Updates that changed no bit: {'; '.join(parts)}."] if parts else []


def _cost(task: TaskResult) -> list[str]:
    if BASELINE.key not in task.runs:
        return []
    baseline = task.runs[BASELINE.key][0].bytes.total
    seconds = task.seconds_per_step(BASELINE)
    parts = []
    for arm in task.arms:
        if arm is not BASELINE:
            total, ratio = task.runs[arm.key][0].bytes.total, task.seconds_per_step(arm) / seconds
            parts.append(f"{arm.title} {100 * (total / baseline - 1):+.0f} %, {ratio:.2g}x")
    return [f"Bytes per parameter and time per step against fp32: {'; '.join(parts)}."] if parts else []
