"""Ages as people write them: `500ms`, `30s`, `10m`, `2h`, `7d`, `4w`.

One grammar for settings, class options, commands and queries, so that what one takes all take.
"""

from __future__ import annotations

import re

_AGE = re.compile(r"(\d+(?:\.\d+)?)(ms|[smhdw])", re.ASCII)
_UNIT_S = {"ms": 0.001, "s": 1, "m": 60, "h": 3_600, "d": 86_400, "w": 604_800}


def age_s(text: str) -> float | None:
    """Seconds of an age; None for what is none."""
    age = _AGE.fullmatch(text)
    return float(age[1]) * _UNIT_S[age[2]] if age is not None else None
