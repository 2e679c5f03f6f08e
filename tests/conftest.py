"""What all tests share: how hard hypothesis tries, and which signals are heard."""

from __future__ import annotations

import os
import signal

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

# A suite that is started in the background, or by nohup, has these ignored, and so would all
# processes of its tests have that wait for them.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
