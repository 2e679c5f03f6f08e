"""Coroutine tests of the past run in virtual time."""

from tests.host.conftest import pytest_pyfunc_call

__all__ = ["pytest_pyfunc_call"]
