"""Every planted bug is found, by exactly the ways that mutations.py says."""

from __future__ import annotations

import dataclasses
import re

import pytest

from emulator.cases import CASES
from emulator.mutations import MUTATIONS
from emulator.planted import WAYS
from emulator.program import Mode

THREAD = r"block \(0, 0, 0\) thread \((\d+), 0, 0\) \[warp (\d+) lane (\d+)\]"


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.name)
def test_each_planted_bug_is_found(mutation):
    expected = dict(zip(WAYS, mutation.finds.split(), strict=True))
    assert set(expected.values()) - {"-", "?"}
    for (way, word), found in zip(expected.items(), mutation.measured(), strict=True):
        # A sanitizer's sentence also holds addresses; the table has a word that stays.
        as_expected = word == "?" or (word in found if word != "-" else not found)
        assert as_expected, f"{way}: found {found!r}, wanted {word!r}"


def test_a_race_names_both_lines_and_both_threads():
    mutation = next(m for m in MUTATIONS if m.name == "no __syncwarp between lanes")
    with mutation.tree() as tree:
        _, report = CASES[mutation.case].outcome(Mode(), "thread", tree)
        text = (tree / mutation.file).read_text().splitlines()
    race = report.races[0]
    lines = [text[int(place.removeprefix(f"{mutation.file}:")) - 1] for place in race.lines]
    assert {line.strip() for line in lines} == {
        "value[threadIdx.x] = in[threadIdx.x];",
        "out[threadIdx.x] = value[threadIdx.x ^ 1];",
    }
    numbers = [re.fullmatch(THREAD, thread).groups() for thread in race.threads]
    (thread, warp, lane), (other_thread, other_warp, other_lane) = (map(int, n) for n in numbers)
    assert (warp, lane, other_thread) == (thread // 32, thread % 32, thread ^ 1)
    assert (other_warp, other_lane) == (warp, lane ^ 1)


def test_a_mutation_must_fit_its_file():
    mutation = dataclasses.replace(MUTATIONS[0], before="no such text")
    with pytest.raises(ValueError, match="has 0 places like 'no such text'"), mutation.tree():
        pass
