"""What the pages say is so: their code runs, their links lead somewhere, their figures stand in benchmarks/results/."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks import figures  # noqa: E402

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), *sorted(ROOT.glob("*/README.md"))]
NAMES = [str(page.relative_to(ROOT)) for page in PAGES]


def blocks(text: str) -> list[str]:
    """The page's Python, without blocks that say `no-test` (they need packages that are not among the requirements)."""
    return re.findall(r"^```python\n(.*?)^```", text, re.M | re.S)


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_code_runs(page):
    """All blocks of a page in one namespace, top to bottom, as a reader would paste them."""
    found = blocks(page.read_text())
    if not found:
        pytest.skip("no Python on this page")
    exec(compile("\n".join(found), str(page), "exec"), {"__name__": "page"})


def test_readme_shows_the_import_that_it_promises():
    assert "from halfops.optim import AdamW" in "".join(blocks((ROOT / "README.md").read_text()))


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_links_lead_somewhere(page):
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.M | re.S)
    targets = re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", text)
    assert [t for t in targets if "://" not in t and not (page.parent / t).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_named_files_exist(page):
    """Paths in backquotes, as far as they look like files of this repository."""
    named = re.findall(r"`((?:csrc|halfops|tests|benchmarks|docs)/[\w/.]+\.\w+)`", page.read_text())
    assert [name for name in named if not (ROOT / name).exists()] == []


@pytest.mark.parametrize(("page", "chosen"), figures.PAGES.items(), ids=[page.name for page in figures.PAGES])
def test_figures_on_the_pages_come_from_the_results(page, chosen):
    assert figures.within(page.read_text()) == figures.render(figures.RESULTS, chosen).strip()


def test_figures_are_a_view_of_the_newest_run(tmp_path):
    machine = {"cpu": "a CPU", "gpu": None, "threads": 2, "torch": "2.13.0", "commit": "abc"}
    old = {"time": "1", **machine, "case": "old", "provider": "halfops x", "ms": 9.0}
    ours = {"time": "2", **machine, "case": "fp16", "job": "norm", "provider": "halfops x", "ms": 2.0, "of_copy": 0.8}
    ours |= {"ms_low": 1.9, "ms_high": 2.25}
    other = {**ours, "case": "bf16"}
    slow = {"time": "2", **machine, "case": "fp16", "job": "norm", "provider": "torch a", "ms": 7.0}
    fast = {"time": "2", **machine, "case": "fp16", "job": "norm", "provider": "torch b", "ms": 1.0}
    (tmp_path / "scale.jsonl").write_text("".join(json.dumps(row) + "\n" for row in (old, ours, slow, fast, other)))
    text = figures.render(tmp_path, {**figures.HEADLINES, "scale": "fp16: norm"})
    assert (
        "| fp16: norm | x | 2 ms [1.9, 2.25] (80% of copy bandwidth) | torch a **3.50x**; torch b **0.50x** |" in text
    )
    assert "old" not in text
    assert "bf16" not in text
    assert "a CPU, 2 threads, torch 2.13.0, commit abc" in text
    assert figures.render(tmp_path / "nowhere", figures.HEADLINES) == "Nothing has been recorded yet.\n"


def test_figures_need_their_marks():
    with pytest.raises(ValueError, match="found no <!-- figures"):
        figures.within("a page")


def test_every_test_file_is_in_the_list():
    """The table of tests/README.md names each file, or a pattern that covers it."""
    patterns = re.findall(r"`(test_[\w*]+\.py)`", (ROOT / "tests" / "README.md").read_text())
    files = sorted((ROOT / "tests").glob("test_*.py"))
    assert [f.name for f in files if not any(f.match(pattern) for pattern in patterns)] == []
