"""Programs at random through bytes at each suspension; `make fuzz` runs many more."""

from __future__ import annotations

import pytest

from perdure.suspend import probe
from tests.suspend import fuzz

pytestmark = pytest.mark.skipif(
    bool(probe.unfit()), reason=f"suspended code cannot be kept here: {probe.unfit()}"
)


@pytest.mark.parametrize("first", range(0, 200, 20))
def test_programs_come_to_the_same_through_bytes_and_by_replay(first: int) -> None:
    for seed in range(first, first + 20):
        found = fuzz.check(seed)
        assert found.verdict in ("same", "syntax"), seed


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1_000_000, 1_000_004))
def test_programs_come_to_the_same_with_a_process_for_each_turn(seed: int) -> None:
    assert fuzz.check_in_processes(seed).verdict in ("same", "syntax")
