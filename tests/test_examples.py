"""The examples run, and print what they promise."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
PROMISES = {
    "train.py": r"step   0  loss (?P<first>[\d.]+)[\s\S]*step 100  loss (?P<last>[\d.]+)[\s\S]*weights: torch.float16",
    "fused_mlp.py": r"torch .* keeps (?P<first>[\d.]+) MB for backward\nhalfops .* keeps (?P<last>[\d.]+) MB",
    "direct_kernels.py": r"symmetric: True[\s\S]*4 gradients: True[\s\S]*function: True[\s\S]*overflow: False",
}


@pytest.mark.parametrize("name", sorted(path.name for path in EXAMPLES.glob("*.py")))
def test_example(name, capsys):
    runpy.run_path(str(EXAMPLES / name), run_name="__main__")
    printed = re.search(PROMISES[name], capsys.readouterr().out)
    assert printed, "prints something else now"
    figures = printed.groupdict()
    if figures:
        assert float(figures["last"]) < float(figures["first"]), "a lower loss, less memory"
