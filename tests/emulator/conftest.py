"""Programs are compiled two at a time before the first test, where most of the tests are to run."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from emulator import build
from emulator.cases import CASES, OPTIM, SCALE
from emulator.gemm import GEMM, GEMM_FEW

MANY = 100  # tests; a few compile what they need when they need it


@pytest.fixture(scope="session", autouse=True)
def _compiled(request: pytest.FixtureRequest) -> None:
    here = sum("emulator/" in item.nodeid for item in request.session.items)
    if here < MANY:
        return
    programs = {case.program for case in CASES.values()} | {SCALE}
    units = [(program.name, program.sources, "plain") for program in (GEMM, OPTIM)]
    units += [(GEMM_FEW.name, GEMM_FEW.sources, flavour) for flavour in ("address", "thread")]
    units += [(program.name, program.sources, flavour) for program in programs for flavour in build.FLAVOURS]
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(build.runtime, build.FLAVOURS.values()))
        list(pool.map(lambda unit: build.build(*unit), units))
