"""What a world says when a test fails: who waits for what, and what came out differently."""

from __future__ import annotations

from perdure.errors import PerdureError
from perdure.host.activation import Activation
from perdure.host.host import Host
from perdure.sight.waits import tell_waits


def stuck(why: str, host: Host | None) -> AssertionError:
    """Nothing moves any more, and the test still waits."""
    return AssertionError(f"the test waits for something that never comes: {why}.\n{_waits(host)}")


def _waits(host: Host | None) -> str:
    lines = []
    for activation in host.live() if host is not None else ():
        for wait in tell_waits(activation.machine):
            frame = wait["stack"][0] if wait["stack"] else None
            where = f" ({frame['file']}:{frame['line']})" if frame is not None else ""
            lines.append(
                f"  {activation.address}: {wait['handler'] or wait['task']} waits for "
                f"{wait['waiting_on']}{where}"
            )
    return "\n".join(lines) or "  No object waits for anything."


def diverged(activation: Activation, error: PerdureError) -> AssertionError:
    """An object was rebuilt before a turn, and is another one."""
    return AssertionError(
        f"{error}\n\n{activation.address} was rebuilt from its journal before a turn, and "
        "did not come out the same: what it does depends on something outside of it, such "
        "as a global variable, the order of a set of objects, or real I/O."
    )
