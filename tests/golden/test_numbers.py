"""Numbers that stand in snapshots for names of perdure's own, as this release writes them."""

from __future__ import annotations

import copyreg
import json
import pickle
from importlib import import_module
from pathlib import Path

from perdure.suspend import numbered

WRITTEN = json.loads((Path(__file__).parent / "v0_1_schema2" / "numbers.json").read_text())


def test_each_number_that_was_ever_written_has_its_name() -> None:
    by_number = copyreg._inverted_registry  # type: ignore[attr-defined]
    assert {number: ":".join(by_number[int(number)]) for number in WRITTEN} == WRITTEN


def test_each_number_is_in_the_golden_file() -> None:
    assert list(WRITTEN.values()) == list(numbered.NAMES)


def test_each_name_leads_to_something() -> None:
    for name in numbered.NAMES:
        module, attribute = name.split(":")
        found = getattr(import_module(module), attribute)
        assert (found.__module__, found.__qualname__) == (module, attribute)
        assert pickle.loads(pickle.dumps(found, 5)) is found
        assert name.rpartition(":")[2].encode() not in pickle.dumps(found, 5)
