"""A product of 16-bit operands widens panels, never a whole operand: peak memory stays near that of the operands."""

import subprocess
import sys

import pytest
import torch

# The weight alone would take 256 MB as float32. Peak resident memory only grows, so each case is a process.
CASE = """
import resource, sys
import torch
import halfops.functional as F

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

rows, columns, inner = 64, 8192, 8192
x = torch.ones(rows, inner, dtype=torch.float16)
w = torch.ones(columns, inner, dtype=torch.float16)
dy = torch.ones(rows, columns, dtype=torch.float16)
dw = torch.zeros(columns, inner, dtype=torch.float16)
F.linear(x[:8], w[:8])  # code, threads and the BLAS's own buffers are there before the measurement
before = peak()
{call}
print(peak() - before)
"""
CALLS = {
    "forward": "F.linear(x, w, activation='gelu')",
    "dgrad": "F.linear_dgrad(dy, w)",
    "wgrad": "F.linear_wgrad(dy, x, accumulate_into=dw)",
}


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="ru_maxrss is in kilobytes on Linux")
@pytest.mark.parametrize("call", CALLS)
def test_no_operand_is_widened_as_a_whole(call):
    code = CASE.format(call=CALLS[call])
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 64e6, f"{call} grew by {int(done.stdout) / 1e6:.0f} MB (torch {torch.__version__})"
