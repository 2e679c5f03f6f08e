"""What all tests share: how hard hypothesis tries."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

# No deadline: the machine may be busy, and a slow example is no wrong one.
settings.register_profile("default", deadline=None)
settings.register_profile(
    "fuzz",
    deadline=None,
    max_examples=5_000,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))
