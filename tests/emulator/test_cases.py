"""Kernels that are right: right values in every order, and not a word from any sanitizer."""

from __future__ import annotations

import pytest

from emulator.cases import CASES
from emulator.program import ORDERS, Mode


def outcome(name, mode, flavour="plain"):
    """The word with the whole report, for the message of a failed test."""
    word, report = CASES[name].outcome(mode, flavour)
    return word and f"{word}: {report.text}"


@pytest.mark.parametrize("name", CASES)
def test_right_kernels_are_left_alone(name):
    for order in ORDERS:
        for poison in (True, False):
            assert outcome(name, Mode(order, poison=poison)) == ""
    for seed in range(CASES[name].seeds):
        assert outcome(name, Mode("random", seed)) == ""
        assert outcome(name, Mode("priority", seed)) == ""


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("flavour", ["address", "thread"])
def test_right_kernels_are_left_alone_by_sanitizers(name, flavour):
    for mode in (Mode(), Mode("reverse"), Mode("random", 1), Mode("random", 2), Mode("priority", 3)):
        assert outcome(name, mode, flavour) == ""
