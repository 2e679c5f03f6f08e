"""The whole of asyncio through bytes at each turn comes to the same as left alone."""

from __future__ import annotations

import pytest

from tests.host.programs import NAMES, Programs
from tests.suspend.machines import differences


@pytest.mark.parametrize("name", NAMES)
def test_a_program_goes_on_from_bytes(name: str) -> None:
    assert differences(Programs, name) == ""
