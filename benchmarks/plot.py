"""A picture of what was measured: one panel a subject, one bar a provider, quartiles as whiskers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

OURS, OTHERS = "#0072b2", "#b0b0b0"


def draw(subjects: Mapping[str, Sequence[Mapping[str, Any]]], path: Path) -> None:
    """Rows as figures.py reads them: case, job (optional), provider, ms, ms_low, ms_high."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    longest = max(len(rows) for rows in subjects.values())
    figure, panels = pyplot.subplots(
        1, len(subjects), figsize=(7 * len(subjects), 1.5 + 0.2 * longest), squeeze=False, layout="constrained"
    )
    for panel, (subject, rows) in zip(panels[0], subjects.items(), strict=True):
        labels = [f"{row['case']} {row.get('job', '')} | {row['provider']}" for row in rows]
        times = [row["ms"] for row in rows]
        spread = [[row["ms"] - row["ms_low"] for row in rows], [row["ms_high"] - row["ms"] for row in rows]]
        colors = [OURS if row["provider"].startswith("halfops") else OTHERS for row in rows]
        panel.barh(range(len(rows)), times, xerr=spread, color=colors, ecolor="#404040")
        panel.set_yticks(range(len(rows)), labels, fontsize=6)
        panel.invert_yaxis()
        panel.set_xscale("log")
        panel.set_xlabel("milliseconds, median and quartiles (less is better)")
        panel.set_title(subject)
        panel.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=150)
    pyplot.close(figure)
