"""All figures of a study for machines: plain dictionaries, ready for json."""

from __future__ import annotations

import importlib.metadata
import math
import platform
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

import halfops
from halfops.study.arms import Arm
from halfops.study.study import StudyResult, TaskResult
from halfops.study.verdict import compare, verdict


def report(study: StudyResult) -> dict[str, Any]:
    """Every figure, curve and verdict, with the versions and the machine that they must be read with.

    Figures that do not exist (a diverged loss, a share of nothing) are None: JSON has no NaN.
    """
    full = {
        "settings": {
            "seeds": study.seeds,
            "quick": study.quick,
            "device": study.device,
            "seconds": study.seconds,
        },
        "versions": versions(),
        "machine": machine(),
        "tasks": {task.key: _task(task) for task in study.tasks},
        "verdict": verdict(study),
        "notes": study.notes,
    }
    return dict(_finite(full))


def versions() -> dict[str, Any]:
    """Python, the packages that take part, and how this halfops was built."""
    found: dict[str, Any] = {"python": platform.python_version(), "halfops": halfops.__version__}
    for package in ("torch", "numpy", "scikit-learn", "matplotlib"):
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = None
    return {**found, "build": halfops.build_info()}


def machine() -> dict[str, Any]:
    """Processor, threads and accelerator."""
    model = platform.processor()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        lines = [line for line in cpuinfo.read_text().splitlines() if line.startswith("model name")]
        model = lines[0].split(":", 1)[1].strip() if lines else model
    return {
        "system": platform.platform(),
        "cpu": model,
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


def _task(task: TaskResult) -> dict[str, Any]:
    return {
        "title": task.title,
        "metric": task.metric,
        "higher_is_better": task.higher_is_better,
        "description": task.description,
        "steps": task.steps,
        "arms": {arm.key: _arm(task, arm) for arm in task.arms},
    }


def _arm(task: TaskResult, arm: Arm) -> dict[str, Any]:
    runs = task.runs[arm.key]
    comparison = compare(task, arm)
    return {
        "title": arm.title,
        "final": asdict(task.final(arm)),
        "against_fp32": {**asdict(comparison), "verdict": comparison.word} if comparison is not None else None,
        "parameters": runs[0].parameters,
        "bytes_per_parameter": {**asdict(runs[0].bytes), "total": runs[0].bytes.total},
        "seconds_per_step": task.seconds_per_step(arm),
        "unchanged_seen": task.mean(arm, "unchanged_seen"),
        "unchanged_kept": task.mean(arm, "unchanged_kept"),
        "skipped_steps": sum(run.skipped for run in runs),
        "runs": [asdict(run) for run in runs],
    }


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
