"""Simulations run in virtual time."""

from __future__ import annotations

from tests.host.conftest import pytest_pyfunc_call

__all__ = ["pytest_pyfunc_call"]
