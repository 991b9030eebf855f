"""All arms on all tasks with all seeds, and what they amount to."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch

from halfops.study.arms import Arm
from halfops.study.data import MissingDataError
from halfops.study.measure import Spread
from halfops.study.progress import Progress
from halfops.study.recipe import QUICK_STEPS, RECIPES
from halfops.study.tasks import Task, make
from halfops.study.train import Run, train


@dataclass
class TaskResult:
    """A task's runs, in the order of the arms and then of the seeds."""

    key: str
    title: str
    metric: str
    higher_is_better: bool
    description: str
    steps: int
    arms: list[Arm]
    runs: dict[str, list[Run]] = field(default_factory=dict)

    def final(self, arm: Arm) -> Spread:
        return Spread.of([run.final for run in self.runs[arm.key]])

    def mean(self, arm: Arm, figure: str) -> float:
        return Spread.of([getattr(run, figure) for run in self.runs[arm.key]]).mean

    def seconds_per_step(self, arm: Arm) -> float:
        """The median over seeds of each run's median."""
        return statistics.median(run.seconds_per_step for run in self.runs[arm.key])


@dataclass
class StudyResult:
    """Everything that was measured, and the sentences on what could not be."""

    tasks: list[TaskResult]
    notes: list[str]
    seeds: int
    quick: bool
    device: str
    seconds: float


def run_study(
    keys: Sequence[str],
    arms: Sequence[Arm],
    *,
    seeds: int,
    device: torch.device,
    quick: bool = False,
    steps: int | None = None,
    progress: Progress,
) -> StudyResult:
    """Trains every arm on every task whose data is here; a task without data becomes a note.

    `steps` overrides the length of the recipes. Seeds are the outer loop and arms the inner one, so that a slow spell
    of the machine falls on all arms alike.
    """
    begin = time.perf_counter()
    tasks: list[Task] = []
    notes: list[str] = []
    for key in keys:
        length = steps or (QUICK_STEPS[key] if quick else RECIPES[key].steps)
        try:
            recipe = RECIPES[key]
            tasks.append(make(key, replace(recipe, steps=length, warmup=min(recipe.warmup, length // 5)), device))
        except MissingDataError as missing:
            if str(missing) not in notes:
                notes.append(str(missing))
    results = []
    progress.start(sum(task.recipe.steps * task.recipe.effort for task in tasks) * len(arms) * seeds)
    for task in tasks:
        result = TaskResult(
            task.key, task.title, task.metric, task.higher_is_better, task.description, task.recipe.steps, list(arms)
        )
        result.runs = {arm.key: [] for arm in arms}
        for seed in range(seeds):
            for arm in arms:
                progress.describe(f"{task.key}, seed {seed + 1} of {seeds}, {arm.title}")
                result.runs[arm.key].append(train(task, arm, seed, device, progress.advance))
        results.append(result)
    progress.close()
    return StudyResult(results, notes, seeds, quick, str(device), time.perf_counter() - begin)
