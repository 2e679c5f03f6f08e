"""Objects in processes of their own run in real time, on the event loop of the front."""

from __future__ import annotations

from tests.gateway.conftest import pytest_pyfunc_call as pytest_pyfunc_call
