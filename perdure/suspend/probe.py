"""Whether suspended code can be kept with this interpreter: asked once for each build of it.

A process of its own runs `suspend/trial.py`, since on a wrong layout it would crash. The answer
is remembered in the user's cache, by everything that tells one build from another. Any surprise
means no, and objects that wait are then rebuilt by replay.
"""

from __future__ import annotations

import hashlib
import os
import platform
import subprocess
import sys
import sysconfig
from pathlib import Path

from perdure.suspend import layout, trial

_TIMEOUT_S = 60

_CHILD = """
import importlib.util, sys
def load(name, path):
    spec = importlib.util.spec_from_file_location(name, path)
    sys.modules[name] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
load("trial", sys.argv[2]).run(load("layout", sys.argv[1]))
print("passed")
"""

_reason: str | None = None


def unfit() -> str:
    """Why suspended code cannot be kept here; empty if it can. Slow only the first time."""
    global _reason
    if _reason is None:
        _reason = layout.unfit() or _tried()
    return _reason


def switch_off(reason: str) -> None:
    """Keep no suspended code from here on, in this process."""
    global _reason
    _reason = reason


def build() -> str:
    """A name for this very build of the interpreter, and of the trial."""
    parts = [sys.version, sys.implementation.cache_tag or "", platform.machine(), sys.platform]
    parts += [str(sysconfig.get_config_var(name)) for name in ("CONFIG_ARGS", "PY_CFLAGS")]
    parts += [str(sysconfig.get_config_var("BUILD_GNU_TYPE")), _stamp(sys.executable)]
    parts += [Path(module.__file__ or "").read_text(encoding="utf-8") for module in (layout, trial)]
    return hashlib.blake2b("\0".join(parts).encode(), digest_size=12).hexdigest()


def _stamp(path: str) -> str:
    try:
        found = os.stat(path)
    except OSError:
        return path
    return f"{path} {found.st_size} {found.st_mtime_ns}"


def _tried() -> str:
    try:
        answer = _cache() / f"frames-{build()}"
        if answer.exists():
            return ""
    except (OSError, RuntimeError):
        return _try()
    reason = _try()
    if not reason:
        # Only that it passed is remembered: a trial may also fail for want of memory.
        try:
            answer.parent.mkdir(parents=True, exist_ok=True)
            answer.touch()
        except OSError:
            pass
    return reason


def _try() -> str:
    files = [str(module.__file__) for module in (layout, trial)]
    try:
        done = subprocess.run(
            [sys.executable, "-I", "-S", "-W", "ignore", "-c", _CHILD, *files],
            capture_output=True,
            text=True,
            timeout=_TIMEOUT_S,
            stdin=subprocess.DEVNULL,
            check=False,
        )
    except (OSError, subprocess.SubprocessError) as error:
        return f"the trial of its frames could not be run: {error}"
    if done.returncode == 0 and done.stdout.strip() == "passed":
        return ""
    if done.returncode < 0:
        return f"the trial of its frames crashed with signal {-done.returncode}"
    last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
    return f"the trial of its frames failed: {last}"


def _cache() -> Path:
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(root) / "perdure"
