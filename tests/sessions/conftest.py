"""Test functions that are coroutines run on uvloop, as the front does."""

from tests.gateway.conftest import pytest_pyfunc_call

__all__ = ["pytest_pyfunc_call"]
