"""The supervising process: it keeps one worker serving, whatever the worker's objects do.

It holds the listening socket, so that connections wait while the worker starts again instead of
being refused. It starts the worker, and looks into its turn slot four times a second: a turn that
takes longer than `turn_timeout` ends the worker, and object and event are named and counted. It
runs no code of the user, so nothing of the user's can stop it.

    start ─▶ loaded ─▶ ready ─▶ dead: told to stop ── exit code
      ▲                          │    refused ─────── exit code 2; `dev` waits for a change
      └──── at once, or later ───┘    died, stuck in a turn

A reload (SIGHUP; in `dev` a change of the code) leaves no gap. A second worker starts beside the
one that serves, and imports the app; if it cannot, nothing has happened. Then the first writes what
it can while it serves, ends what is in flight and lets go of the store, and the second takes it.
What connects in between waits in the listening socket.
"""

from __future__ import annotations

import os
import selectors
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Final

from perdure.errors import BadSettings
from perdure.supervisor.deaths import POISON_AFTER, Deaths, event_text
from perdure.supervisor.link import Loaded, Orders, Prepared, Ready, Refused, Released
from perdure.supervisor.listen import listen
from perdure.supervisor.process import Asked, End, Worker
from perdure.supervisor.slot import Look
from perdure.supervisor.watch import Watcher, syntax_error

POLL_S: Final = 0.25
BACKOFF_FIRST_S: Final = 0.1
BACKOFF_MOST_S: Final = 5.0
BACKOFF_TURN_S: Final = 1.0
"""After a death in a turn: the event is counted, so this cannot go on for ever."""
SETTLED_S: Final = 5.0
"""A worker that has served for so long was well: the next one starts at once."""
FAILED_STARTS_MAX: Final = 5
GRACE_S: Final = 10.0
"""Beyond the drain's own time: for writing snapshots and leaving the interpreter."""
RELOAD_DRAIN_S: Final = 5.0
REFUSED: Final = 2
"""The worker's exit code when it will not start as it is told to, and then ours."""


class Supervisor:
    """Keeps a worker serving until it is told to stop; `run` gives the exit code.

    `say` is told what people have to know, `on_ready` each time that requests are answered (with
    the URL). A `hash_seed` that is not the store's costs a second start of the first worker.
    """

    def __init__(
        self,
        orders: Orders,
        *,
        say: Callable[[str], None],
        on_ready: Callable[[Ready, str], None],
        hash_seed: str | None = None,
        start: Callable[[Orders, str | None], Worker] = Worker,
    ) -> None:
        self._orders = orders
        self._start = start
        self._say = say
        self._on_ready = on_ready
        self._selector = selectors.DefaultSelector()
        self._watcher = Watcher() if orders.dev else None
        self._changed: list[Path] = []
        self._listening: socket.socket | None = None
        self._hash_seed = hash_seed
        self._deaths = Deaths()
        self._failed_starts = 0
        self._backoff_s = BACKOFF_FIRST_S
        self._stopping = False
        self._worker: Worker | None = None
        self._successor: Worker | None = None
        """One that is coming up beside the one that serves."""
        self._preparing = False
        self._on_terminal = os.isatty(0)
        self._exit_code: int | None = None

    def run(self) -> int:
        """Serve. 0: told to stop, and drained. 1: given up, or it had to be killed. 2: refused."""
        with self._signals():
            while self._exit_code is None:
                worker = self._worker = self._next_worker()
                try:
                    self._attend(worker)
                finally:
                    worker.kill()
                    self._worker = None
                self._after(worker.end(), worker.refused)
            return self._exit_code

    # --- while it lives

    def _attend(self, worker: Worker) -> None:
        """Hear it and watch it until it is dead."""
        self._selector.register(worker.link, selectors.EVENT_READ)
        try:
            while worker.alive:
                self._look_around(POLL_S)
                self._hear(worker)
                self._attend_successor(worker)
                look = worker.check()
                if look is not None:
                    self._end_stuck(worker, look)
            self._hear(worker)
        finally:
            self._selector.unregister(worker.link)

    # --- another in its place, without a gap

    def _next_worker(self) -> Worker:
        successor, self._successor = self._successor, None
        if successor is None:
            return self._start(replace(self._orders, successor=False), self._hash_seed)
        self._selector.unregister(successor.link)
        self._promote(successor)
        return successor

    def _begin_succession(self) -> None:
        """Start a worker beside the one that serves; it takes over when it has imported the app."""
        if self._successor is not None:
            self._give_up_successor()
        orders = replace(self._orders, successor=True)
        successor = self._successor = self._start(orders, self._hash_seed)
        self._selector.register(successor.link, selectors.EVENT_READ)

    def _attend_successor(self, worker: Worker) -> None:
        """Take the steps of a hand-over as each becomes possible."""
        successor = self._successor
        if successor is None:
            return
        self._hear(successor)
        if not successor.alive:
            self._hear(successor)
            self._give_up_successor()
            self._say("the new worker did not come up; the code before this change goes on")
        elif worker.released:
            self._promote(successor)
        elif successor.loaded is None or worker.asked is not Asked.NOTHING:
            return
        elif worker.ready_at is None or worker.loaded is None:
            # It is still on its way up itself, and has nothing to hand over.
            worker.ask(Asked.RELOAD, RELOAD_DRAIN_S + GRACE_S)
        elif worker.prepared:
            drain_s = RELOAD_DRAIN_S if self._orders.dev else worker.loaded.drain_timeout
            worker.ask(Asked.RELOAD, drain_s + GRACE_S)
        elif not self._preparing:
            self._preparing = True
            worker.ask_to_prepare()

    def _promote(self, successor: Worker) -> None:
        """It is its turn: give it the socket as soon as it can take it."""
        self._preparing = False
        successor.successor = False
        if successor.loaded is not None and not successor.has_socket:
            self._listen(successor.loaded, successor)
            self._pass_on(successor)

    def _pass_on(self, successor: Worker) -> None:
        """Clients that keep their connections notice nothing."""
        before = self._worker
        if before is not None and before is not successor and successor.has_socket:
            connections, before.link.connections = before.link.connections, []
            successor.link.pass_on(connections)

    def _give_up_successor(self) -> None:
        successor, self._successor = self._successor, None
        self._preparing = False
        if successor is not None:
            self._selector.unregister(successor.link)
            successor.kill()
            successor.end()

    def _look_around(self, timeout_s: float) -> None:
        """Wait until something happens, and take what signals and changed files have to say."""
        for key, _ in self._selector.select(timeout_s):
            if key.data is not None:
                key.data()

    def _hear(self, worker: Worker) -> None:
        for message in worker.link.receive():
            match message:
                case Loaded():
                    worker.loaded = message
                    self._watch(message.files, worker)
                    self._deaths = Deaths.load(message.deaths) if message.deaths else self._deaths
                    if not worker.successor:
                        self._listen(message, worker)
                case Ready():
                    worker.ready_at = time.monotonic()
                    self._hash_seed = message.hash_seed
                    if self._listening is not None:
                        self._on_ready(message, _url(self._listening))
                case Refused():
                    worker.refused = message
                    self._watch(message.files, worker)
                case Prepared():
                    worker.prepared = True
                case Released():
                    worker.released = True

    def _watch(self, files: list[str], worker: Worker) -> None:
        if self._watcher is not None:
            self._watcher.watch(files, worker.started_ns)

    def _listen(self, loaded: Loaded, worker: Worker) -> None:
        if self._stopping:
            return
        try:
            if self._listening is None:
                self._listening = listen(loaded.host, loaded.port)
        except BadSettings as error:
            self._say(f"cannot start: {error}")
            self._exit_code = REFUSED
            worker.kill()
        else:
            worker.has_socket = True
            worker.link.hand_over(self._listening)

    def _end_stuck(self, worker: Worker, look: Look) -> None:
        assert worker.loaded is not None
        if look.in_turn:
            text = (
                f"{look.address}: a turn has not ended within {worker.loaded.turn_timeout:g} s "
                f"(turn_timeout)\n  event: {event_text(look.event)}"
            )
        else:
            text = f"the worker has not moved for {worker.silence_max_s:g} s, outside of any turn"
        self._say(f"{text}\n  The process is ended; this is where it was:")
        if not worker.end_stuck(look):
            self._say("it has gone on after all, and the process with it")

    # --- when it is dead

    def _after(self, end: End, refused: Refused | None) -> None:
        """Settle what comes next: an exit code, or (without one) another worker."""
        turn_deaths = self._count_death(end) if end.in_turn else 0
        if self._exit_code is not None:
            return
        if self._stopping:
            if end.overdue:
                self._say("killed before it had drained; everything acknowledged is in the journal")
            self._exit_code = 1 if end.overdue or end.stuck else 0
        elif end.asked is Asked.RELOAD or self._successor is not None:
            self._backoff_s = BACKOFF_FIRST_S
        elif end.code == REFUSED and not end.in_turn:
            self._after_refusal(refused)
        else:
            self._after_death(end, turn_deaths)

    def _count_death(self, end: End) -> int:
        address, event = end.look.address, end.look.event
        count = self._deaths.record(address, event, end.how)
        if count >= POISON_AFTER:
            fate = "It is set aside, and the object quarantined: perdure quarantine list"
        else:
            fate = f"After {POISON_AFTER} times it is set aside, and the object quarantined."
        self._say(
            f"{address}: its turn has ended the process ({end.how})\n"
            f"  event: {event_text(event)}\n"
            f"  That is {count} time{'' if count == 1 else 's'} for this event. {fate}"
        )
        return count

    def _after_refusal(self, refused: Refused | None) -> None:
        if self._watcher is None or refused is None or not refused.fixable:
            self._exit_code = REFUSED
        else:
            self._wait_for_change()

    def _after_death(self, end: End, turn_deaths: int) -> None:
        # An event that goes on killing although it should be set aside counts like a bad start,
        # so that even then there is an end.
        in_turn = 0 < turn_deaths <= POISON_AFTER
        if not end.in_turn:
            self._say(f"the worker has ended ({end.how})")
        if end.served_s > SETTLED_S:
            self._failed_starts = 0
            self._backoff_s = BACKOFF_FIRST_S
            return
        if not in_turn:
            self._failed_starts += 1
        if self._failed_starts >= FAILED_STARTS_MAX:
            self._say(
                f"given up: the worker has ended {self._failed_starts} times in a row, "
                "each time right after its start. What it printed says why."
            )
            if self._watcher is None:
                self._exit_code = 1
            else:
                self._failed_starts = 0
                self._wait_for_change()
            return
        delay_s = min(self._backoff_s, BACKOFF_TURN_S if in_turn else BACKOFF_MOST_S)
        self._backoff_s = min(self._backoff_s * 2, BACKOFF_MOST_S)
        self._say(f"starting it again in {delay_s:g} s")
        self._pause(delay_s)

    def _wait_for_change(self) -> None:
        assert self._watcher is not None
        self._say("waiting for a change of the code …")
        # What mends a program that does not load may be a file that was not there before.
        self._watcher.watch_any_source(True)
        self._pause(float("inf"))
        self._watcher.watch_any_source(False)
        if self._exit_code is None:
            self._say(f"{_names(self._changed)} changed: starting")

    def _pause(self, most_s: float) -> None:
        """Wait; a change of the code or an order to stop ends it early."""
        self._changed = []
        until = time.monotonic() + most_s
        while self._exit_code is None and not self._changed:
            left_s = until - time.monotonic()
            if left_s <= 0:
                return
            self._look_around(min(left_s, 60.0))

    # --- signals and changes

    @contextmanager
    def _signals(self) -> Iterator[None]:
        """Take the signals while inside; and let everything go at the end."""
        reads, writes = os.pipe()
        os.set_blocking(reads, False)
        os.set_blocking(writes, False)
        caught = [signal.SIGTERM, signal.SIGINT, signal.SIGCHLD]
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # nohup
            caught.append(signal.SIGHUP)
        before = {number: signal.signal(number, lambda *_: None) for number in caught}
        before_fd = signal.set_wakeup_fd(writes, warn_on_full_buffer=False)
        self._selector.register(reads, selectors.EVENT_READ, lambda: self._take_signals(reads))
        if self._watcher is not None:
            self._selector.register(self._watcher, selectors.EVENT_READ, self._take_changes)
        try:
            yield
        finally:
            signal.set_wakeup_fd(before_fd)
            for number, handler in before.items():
                signal.signal(number, handler)
            self._selector.close()
            os.close(reads)
            os.close(writes)
            if self._watcher is not None:
                self._watcher.close()
            if self._listening is not None:
                self._listening.close()

    def _take_signals(self, reads: int) -> None:
        for number in os.read(reads, 512):
            if number == signal.SIGHUP and not self._hung_up():
                self._reload()
            elif number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
                self._stop(impatient=number == signal.SIGINT)

    def _hung_up(self) -> bool:
        """Whether SIGHUP says that the terminal is gone, and not that somebody wants a reload."""
        if self._orders.dev:
            return True
        if not self._on_terminal:
            return False
        try:
            os.close(os.open("/dev/tty", os.O_RDWR))
        except OSError:
            return True
        return False

    def _reload(self) -> None:
        worker = self._worker
        if worker is None or self._stopping or worker.asked is not Asked.NOTHING:
            return
        self._say("reloading: a new worker comes up beside this one")
        self._begin_succession()

    def _stop(self, *, impatient: bool) -> None:
        """The first time: drain. A second Ctrl-C: at once."""
        worker = self._worker
        self._give_up_successor()
        if worker is None:
            self._exit_code = 0
        elif not self._stopping:
            self._stopping = True
            if self._listening is not None:
                # Whoever connects from now on is refused, not left waiting for nobody.
                self._listening.close()
                self._listening = None
            self._say("stopping: what is in flight ends first (Ctrl-C again: at once)")
            drain_s = worker.loaded.drain_timeout if worker.loaded is not None else 0.0
            worker.ask(Asked.STOP, drain_s + GRACE_S)
        elif impatient:
            worker.kill()

    def _take_changes(self) -> None:
        assert self._watcher is not None
        changed = self._watcher.take()
        worker = self._worker
        if worker is None:
            self._changed = changed
        elif changed and worker.asked is Asked.NOTHING:
            problem = syntax_error(changed)
            if problem:
                self._say(f"{_names(changed)} changed, and cannot be compiled:\n{problem}")
                self._say("the code before this change goes on")
            else:
                self._say(f"{_names(changed)} changed: starting again with it")
                if worker.loaded is None:
                    worker.ask(Asked.RELOAD, RELOAD_DRAIN_S + GRACE_S)
                else:
                    self._begin_succession()


def _url(listening: socket.socket) -> str:
    host, port = listening.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _names(paths: list[Path]) -> str:
    shown = [os.path.relpath(path) for path in paths[:3]]
    return ", ".join(shown) + (f" and {len(paths) - 3} more" if len(paths) > 3 else "")
