"""Tests with sockets run in real time, each in a loop of its own."""

from __future__ import annotations

from tests.loops import pytest_pyfunc_call as pytest_pyfunc_call
