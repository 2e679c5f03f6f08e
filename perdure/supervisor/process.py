"""One worker process as the supervisor sees it: its slot, its link, and how it ended."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from enum import Enum, auto
from typing import Final, NamedTuple

from perdure.supervisor.link import Loaded, Orders, Refused, SupervisorEnd
from perdure.supervisor.slot import Look, TurnSlot

SILENCE_LEAST_S: Final = 10.0
_STACK_S: Final = 0.2


class Asked(Enum):
    """What the supervisor has asked of a worker; it only moves on."""

    NOTHING = auto()
    RELOAD = auto()
    STOP = auto()


class End(NamedTuple):
    """How a worker ended."""

    code: int
    """Exit code; negative: the signal."""
    look: Look
    asked: Asked
    served_s: float
    """How long it has served; 0 if it never did."""
    stuck: bool
    """It was killed because its turn did not end, or its event loop stood still."""
    overdue: bool
    """It was killed because it did not drain in time, or because nobody wanted to wait for it."""

    @property
    def in_turn(self) -> bool:
        """The event in the slot has ended it: it was running, and we did not kill a bystander."""
        return self.look.in_turn and (self.stuck or not self.overdue)

    @property
    def how(self) -> str:
        """In words."""
        if self.stuck:
            return "its turn did not end" if self.look.in_turn else "it hung"
        if self.code >= 0:
            return f"exit code {self.code}"
        try:
            return f"signal {signal.Signals(-self.code).name}"
        except ValueError:
            return f"signal {-self.code}"


class Worker:
    """A running worker."""

    def __init__(
        self,
        orders: Orders,
        hash_seed: str | None,
        # -P: the working directory is put on the path by us, behind what is installed.
        command: Sequence[str] = (sys.executable, "-P", "-m", "perdure.cli.worker"),
    ) -> None:
        ours, theirs = socket.socketpair()
        self.slot = TurnSlot.create()
        self.link = SupervisorEnd(ours)
        self.asked = Asked.NOTHING
        self.successor = orders.successor
        """Another worker still serves: it gets no socket yet."""
        self.has_socket = self.prepared = self.released = False
        self.loaded: Loaded | None = None
        self.refused: Refused | None = None
        self.started_ns = time.time_ns()
        self.ready_at: float | None = None
        self._kill_at: float | None = None
        self._stuck = self._overdue = False
        self._watchdog = _Watchdog()
        orders.link_fd, orders.slot_fd = theirs.fileno(), self.slot.fd
        environ = orders.to_environ(dict(os.environ))
        environ["PYTHONUNBUFFERED"] = "1"
        if hash_seed is not None:
            environ["PYTHONHASHSEED"] = hash_seed
        # Ctrl-C on a terminal goes to the worker as well, but it is the supervisor who decides
        # what it means. What is ignored at the start stays ignored in the new process.
        before = signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            self._process = subprocess.Popen(
                command, env=environ, pass_fds=(theirs.fileno(), self.slot.fd)
            )
        finally:
            signal.signal(signal.SIGINT, before)
            theirs.close()

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def ask(self, what: Asked, within_s: float) -> None:
        """Have it drain and end; it is killed when that takes longer than `within_s`."""
        self.asked = what
        self._kill_at = time.monotonic() + within_s
        self._signal(signal.SIGTERM)

    def ask_to_prepare(self) -> None:
        """Have it write what a hand-over would have to, while it serves."""
        self._signal(signal.SIGUSR1)

    def check(self) -> Look | None:
        """End it if its drain takes too long; give what it hangs in if it hangs."""
        now = time.monotonic()
        if self._kill_at is not None and now > self._kill_at:
            self.kill()
        if self.loaded is None or self._stuck or self._overdue:
            return None
        look = self.slot.look()
        self._watchdog.look(look, now)
        if self._watchdog.in_turn_s > self.loaded.turn_timeout:
            return look
        # Outside a turn there is work that may take its time: a large snapshot, a long start.
        if self.ready_at is not None and self._watchdog.silent_s > self.silence_max_s:
            return look
        return None

    @property
    def silence_max_s(self) -> float:
        """How long the event loop may stand still outside of turns."""
        if self.loaded is None:
            return float("inf")
        return max(3 * self.loaded.turn_timeout, SILENCE_LEAST_S)

    def end_stuck(self, look: Look) -> bool:
        """Print where it is and kill it; False if it has gone on after all."""
        # faulthandler (cli/worker.py) prints from within the signal handler, so it works in a
        # loop that never ends.
        self._signal(signal.SIGUSR2)
        time.sleep(_STACK_S)
        now = self.slot.look()
        if (now.number, now.beats) != (look.number, look.beats):
            return False
        self._stuck = True
        self._signal(signal.SIGKILL)
        return True

    def kill(self) -> None:
        """End it now."""
        if self.alive and not self._stuck:
            self._overdue = True
            self._signal(signal.SIGKILL)

    def end(self) -> End:
        """How it ended; it is dead already, and what was shared with it is let go."""
        code = self._process.wait()
        served_s = time.monotonic() - self.ready_at if self.ready_at is not None else 0.0
        look = self.slot.look()
        self.slot.close()
        self.link.close()
        return End(code, look, self.asked, served_s, self._stuck, self._overdue)

    def _signal(self, number: int) -> None:
        if self.alive:
            self._process.send_signal(number)


class _Watchdog:
    """How long one turn has been running, and how long the event loop has not gone round.

    Time counts that the supervisor itself was awake: a stopped process (Ctrl-Z, a suspended
    machine) wakes up to a clock that went on, so no more than this counts between two looks.
    """

    _PASSED_MAX_S = 0.5

    def __init__(self) -> None:
        self._number = self._beats = -1
        self._last = time.monotonic()
        self.in_turn_s = 0.0
        self.silent_s = 0.0

    def look(self, look: Look, now: float) -> None:
        """Take in what the slot says now."""
        passed_s = min(now - self._last, self._PASSED_MAX_S)
        self._last = now
        same_turn = look.in_turn and look.number == self._number
        self.in_turn_s = self.in_turn_s + passed_s if same_turn else 0.0
        self.silent_s = self.silent_s + passed_s if look.beats == self._beats else 0.0
        self._number, self._beats = look.number, look.beats
