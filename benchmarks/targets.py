"""What an optimizer step and a product on an H200 have to reach, judged from recorded rows.

Other cards are shown, not judged.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .figures import rate

Row = dict[str, Any]
JUDGED = "H200"
OURS, SPLIT, FP32 = "halfops", "halfops AdamW, split master", "halfops AdamW, fp32 master"
TORCH = "torch unscale, clip, fused AdamW, cast"


def _least(rows: Sequence[Row], key: str, case: str, provider: str) -> float | None:
    return min(_found(rows, key, case, provider), default=None)


def _most(rows: Sequence[Row], key: str, case: str, provider: str) -> float | None:
    return max(_found(rows, key, case, provider), default=None)


def _found(rows: Sequence[Row], key: str, case: str, provider: str) -> list[float]:
    return [
        row[key]
        for row in rows
        if re.search(case, row["case"]) and row["provider"].startswith(provider) and row.get(key) is not None
    ]


def _linear(
    key: str, suite: str, job: str, provider: str, case: str = "", unit: float = 1.0
) -> Callable[[Sequence[Row]], float | None]:
    """The least of a key, in a unit, over the rows of one provider, exactly that one, for a suite's jobs that match."""

    def least(rows: Sequence[Row]) -> float | None:
        found = [
            row[key] / unit
            for row in rows
            if row.get("suite") == suite
            and row["provider"] == provider
            and re.match(job, row.get("job", ""))
            and re.search(case, row["case"])
            and row.get(key) is not None
        ]
        return min(found, default=None)

    return least


LARGE, MANY, GRAPH = r"M in \d+ tensors$", r"10,000 tensors of 64$", r"10,000 tensors of 64, CUDA graph$"
EIGHT, COMPILED = r"^fp16, square \(8192, 8192, 8192\)$", "torch.compile"


@dataclass(frozen=True)
class Target:
    """The worst of the rows that it speaks of, against a bound."""

    says: str
    worst: Callable[[Sequence[Row]], float | None]
    bound: float
    at_least: bool = False

    def judge(self, rows: Sequence[Row]) -> Row:
        value = self.worst(rows)
        met = None if value is None else value >= self.bound if self.at_least else value <= self.bound
        return {"target": self.says, "value": value, "bound": self.bound, "met": met}


TARGETS = (
    Target("every master, share of the copy's bandwidth", lambda r: _least(r, "of_copy", LARGE, OURS), 0.93, True),
    Target("fp16, fp32 master, ms per 1e9", lambda r: _most(r, "ms_per_1e9", "fp16.*" + LARGE, FP32), 7.5),
    Target("fp16, split master, ms per 1e9", lambda r: _most(r, "ms_per_1e9", "fp16.*" + LARGE, SPLIT), 7.0),
    Target("torch's whole pipeline, times ours", lambda r: _least(r, "times_ours", LARGE, TORCH), 1.7, True),
    Target("10,000 tensors of 64, eager, ms", lambda r: _most(r, "ms", MANY, SPLIT), 0.5),
    Target("10,000 tensors of 64, host ms", lambda r: _most(r, "host_ms", MANY, SPLIT), 1.0),
    Target("10,000 tensors of 64, CUDA graph, ms", lambda r: _most(r, "ms", GRAPH, SPLIT), 0.1),
    Target("8192^3 fp16, forward, TFLOP/s", _linear("gflop_per_s", "square", "forward", OURS, EIGHT, 1e3), 380, True),
    Target("odd K, torch's time, times ours", _linear("times_ours", "odd_k", "", "torch"), 2.0, True),
    Target(
        "dgrad + act' + db, torch.compile, times ours", _linear("times_ours", "fused", "dgrad", COMPILED), 1.2, True
    ),
    Target("skinny M, torch's time, times ours", _linear("times_ours", "skinny", "", "torch"), 1.0, True),
)


def judged(rows: Sequence[Row]) -> list[Row]:
    return [target.judge(rows) for target in TARGETS]


def told(row: Row) -> str:
    word = {None: "not measured", True: "met", False: "missed"}[row["met"]]
    value = "" if row["value"] is None else f"{row['value']:.3g}"
    return f"{row['target']:<46}{value:>9}  bound {row['bound']:<5g} {word}"


# --- the short table ------------------------------------------------------------------------------------------------


def recorded(results: Path, since: str) -> list[Row]:
    """What the benchmarks have written from a time on."""
    paths = [results / f"{subject}.jsonl" for subject in ("optim", "peers", "scale", "linear")]
    lines = [line for path in paths if path.exists() for line in path.read_text().splitlines()]
    return [row for row in map(json.loads, lines) if row["time"] >= since]


def short(rows: Sequence[Row]) -> list[str]:
    """One line a case: ours first with its share of the copy or its rate, then the others as multiples of that time."""
    cases: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        if "ms" in row:
            cases.setdefault((row["case"], row.get("job", "")), []).append(row)
    lines = []
    for (case, job), group in cases.items():
        ours = [row for row in group if row["provider"].startswith(OURS)]
        others = [row for row in group if row not in ours]
        figures = ", ".join(f"{row['ms']:.3g} ({_roof(row)})" for row in ours)
        beside = ", ".join(_beside(row) for row in others if row["times_ours"] is not None)
        title = f"{case}: {job}" if job else case
        lines.append(f"{title:<52} {figures} ms | others {beside or 'none'}")
    return lines


def _roof(row: Row) -> str:
    return f"{row['of_copy']:.0%}" if "of_copy" in row else rate(row["gflop_per_s"])


def _beside(row: Row) -> str:
    """Products have many others: there a figure needs its name."""
    times = f"{row['times_ours']:.2f}x"
    return times if "of_copy" in row else f"{row['provider']} {times}"
