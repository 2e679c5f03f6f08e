"""Test functions that are coroutines run in a loop of their own."""

from tests.loops import pytest_pyfunc_call as pytest_pyfunc_call
