"""What a turn may not do, told with the line of the app's own code that did it."""

from __future__ import annotations

import os
import sys
import sysconfig
from types import FrameType

from perdure.errors import SideEffectError

_STDLIB = sysconfig.get_paths()["stdlib"]
_OWN = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def refusal(what: str, hint: str) -> SideEffectError:
    """The error, with the line of the app's own code nearest to what happened."""
    frame: FrameType | None = sys._getframe(2)
    while frame is not None:
        path = frame.f_code.co_filename
        own = path.startswith((_STDLIB, _OWN, "<frozen")) and "site-packages" not in path
        if not own and "site-packages" not in path:
            return SideEffectError(
                f"{path}:{frame.f_lineno} in {frame.f_code.co_qualname}: {what}", hint=hint
            )
        frame = frame.f_back
    return SideEffectError(what, hint=hint)
