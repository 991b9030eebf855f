"""The pages' tables of measured figures, from the newest lines of results/*.jsonl: `python -m benchmarks.figures`.

README shows the cases that HEADLINES names, docs/measured.md all of them.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
ROOT = Path(__file__).parents[1]
MARKED = re.compile(r"(<!-- figures: [^\n]*-->\n)(.*?)(<!-- end of figures -->)", re.S)
SUBJECTS = {
    "linear": "Linear layers",
    "linear_peers": "Linear layers beside other packages",
    "optim": "Optimizer step",
    "peers": "Optimizer step beside other packages",
    "scale": "Gradient checks",
}
# Matched with "case: job". One token is where torch wins: a front page without its loss would not be honest.
HEADLINES = {
    "linear": r"(square|mlp up|one token).*: forward",
    "linear_peers": r": (forward|swiglu|dgrad \+)",
    "optim": r"M in",
    "peers": r"1000M in",
    "scale": r"50 x.*: flag \+ norm",
}
PAGES = {ROOT / "README.md": HEADLINES, ROOT / "docs" / "measured.md": dict.fromkeys(SUBJECTS, "")}


Row = dict[str, Any]


def figures(path: Path) -> list[Row]:
    """A file's rows in the order they were written, without those that say why there is no figure."""
    lines = path.read_text().splitlines() if path.exists() else []
    return [row for row in map(json.loads, filter(str.strip, lines)) if "ms" in row]


def newest(path: Path) -> list[Row]:
    """The rows of the last run in a file: those that share the last line's time."""
    rows = figures(path)
    return [row for row in rows if row["time"] == rows[-1]["time"]]


def device(row: Row) -> str:
    """What the figure was taken on: "cpu", or the GPU's name. The oldest lines lack `device`: no GPU then, or it."""
    on_gpu = row["device"] == "cuda" if "device" in row else row["gpu"] is not None
    return str(row["gpu"]) if on_gpu else "cpu"


def newest_by_device(path: Path) -> list[list[Row]]:
    """The last run on each device, the CPU's first: no device's figures push another's off the page."""
    last: dict[str, list[Row]] = {}
    for row in figures(path):
        run = last.setdefault(device(row), [])
        if run and run[-1]["time"] != row["time"]:
            run.clear()
        run.append(row)
    return [last[name] for name in sorted(last, key=lambda name: (name != "cpu", name))]


def table(rows: list[Row]) -> list[str]:
    """One line for each provider of ours in each case, with every other one as a multiple of its time."""
    cases: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        cases.setdefault((row["case"], row.get("job", "")), []).append(row)
    lines = ["| case | halfops | median [quartiles] | the others, as multiples of that time |", "|---|---|---|---|"]
    for (case, job), group in cases.items():
        others = [row for row in group if not row["provider"].startswith("halfops")]
        for row in group:
            if row in others:
                continue
            roof = f" ({row['of_copy']:.0%} of copy bandwidth)" if "of_copy" in row else ""
            roof = f" ({rate(row['gflop_per_s'])})" if "gflop_per_s" in row else roof
            beside = "; ".join(f"{other['provider']} **{other['ms'] / row['ms']:.2f}x**" for other in others)
            name = row["provider"].removeprefix("halfops").strip() or job
            title = f"{case}: {job}" if job not in ("", name) else case
            spread = f"[{row['ms_low']:.3g}, {row['ms_high']:.3g}]"
            ran = f", {row['plan']}" if row.get("plan") else ""
            lines.append(f"| {title} | {name} | {row['ms']:.3g} ms {spread}{roof}{ran} | {beside} |")
    return lines


def rate(gflop_per_s: float) -> str:
    return f"{gflop_per_s / 1e3:.0f} TFLOP/s" if gflop_per_s >= 1e4 else f"{gflop_per_s:.0f} GFLOP/s"


def where(row: Row) -> str:
    cpu = " ".join(filter(None, [row["cpu"], row.get("cpu_capability")]))
    on = f"{cpu}, {row['threads']} threads" if device(row) == "cpu" else device(row)
    return f"{on}, torch {row['torch']}, commit {row['commit']}"


def render(results: Path, chosen: Mapping[str, str]) -> str:
    """All subjects, of each the cases that match; a sentence where nothing has been recorded."""
    parts = []
    for subject, title in SUBJECTS.items():
        for every in newest_by_device(results / f"{subject}.jsonl"):
            rows = [row for row in every if re.search(chosen[subject], f"{row['case']}: {row.get('job', '')}")]
            if rows:
                parts += [f"**{title}** ({where(rows[0])})", "", *table(rows), ""]
    return "\n".join(parts) or "Nothing has been recorded yet.\n"


def within(text: str) -> str:
    """What a page has between the marks."""
    found = MARKED.search(text)
    if found is None:
        raise ValueError("found no <!-- figures: ... --> and <!-- end of figures --> in the page")
    return found[2].strip()


def main() -> int:
    for page, chosen in PAGES.items():
        text = page.read_text()
        within(text)
        table = render(RESULTS, chosen).strip()
        page.write_text(MARKED.sub(lambda found, table=table: f"{found[1]}\n{table}\n\n{found[3]}", text))
    return 0


if __name__ == "__main__":
    sys.exit(main())
