"""Products of a warpgroup under the emulator: when they are right, and what each mistake is told as.

Their values in every layout are those of tests/golden; the GEMM's rows for sm_90a use them in test_linear_bulk.py.
"""

from __future__ import annotations

import numpy as np
import pytest

from emulator.program import ORDERS, Mode, program

WARPGROUPS = program("warpgroups")
RIGHT, NO_FENCE, NO_PROXY_FENCE, EARLY_WRITE, EARLY_READ, OTHER_DESCRIPTOR, NO_WAIT = range(7)


def run(slip: int, mode: Mode = Mode(), flavour: str = "plain"):  # noqa: B008
    lines = np.arange(72 * 64, dtype=np.float32).reshape(72, 64) % 5 - 2
    picture = np.zeros((72, 8, 8), np.float16)  # 16-byte chunks, exclusive or with the line
    for line in range(72):
        for chunk in range(8):
            picture[line, chunk ^ line % 8] = lines[line, 8 * chunk : 8 * chunk + 8]
    arrays = {
        "in": picture.view(np.uint32).ravel(),
        "slip": np.array([slip], np.int32),
        "out": np.full(128, np.nan, np.float32),
    }
    report = WARPGROUPS.run("slip", arrays, mode, flavour)
    threads = np.arange(128)
    row, column = threads // 32 * 16 + threads % 32 // 4, threads % 4 * 2
    wanted = (lines[:64, :16] @ lines[64:, :16].T)[row, column]
    return report, bool((arrays["out"] == wanted).all())


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("flavour", ["plain", "address", "thread"])
def test_a_right_one(order, flavour):
    assert [run(RIGHT, Mode(order, seed), flavour)[0].text for seed in range(3)] == ["", "", ""]
    assert run(RIGHT, Mode(order, 1), flavour)[1]


@pytest.mark.parametrize(
    ("slip", "text"),
    [
        (NO_FENCE, "wgmma without wgmma.fence since accumulators, or registers of a, could last be touched"),
        (EARLY_WRITE, "accumulator 0 of lane 0 was written while products were under way"),
        (OTHER_DESCRIPTOR, "of the warpgroup has another descriptor or another flag"),
        (NO_WAIT, "the thread exits while products of its warp are under way"),
    ],
)
def test_each_mistake_is_told(slip, text):
    told = run(slip)[0].text
    assert text in told
    assert "tests/emulator/kernels/warpgroups.cuh:" in told


def test_accumulators_hold_nothing_before_the_wait():
    report, right = run(EARLY_READ, Mode(completion="eager"))
    assert report.text == ""
    assert not right


@pytest.mark.parametrize("order", ORDERS)
def test_what_threads_wrote_must_be_shown_to_the_proxy(order):
    assert run(NO_PROXY_FENCE, Mode(order, 1))[1]  # the numbers are right, by luck
    assert run(NO_PROXY_FENCE, Mode(order, 1), "thread")[0].races


def test_older_devices_lack_them():
    assert "9.0" in run(RIGHT, Mode(capability=80))[0].text or "wgmma" in run(RIGHT, Mode(capability=80))[0].text
