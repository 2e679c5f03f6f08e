"""A worker that serves nothing, for tests of the supervisor: it does what its APP says.

serve             is ready, and ends at SIGTERM
spin              is ready, begins a turn and never ends it
hang              is ready, and its event loop stands still
exit-in-turn      is ready, begins a turn and ends the process in it
exit-early        ends before it is ready
refuse / mend     will not start; for `mend` a change of the code may help
deaf              is ready, and does not end at SIGTERM
until FILE        exit-in-turn, until there is that file; then serve
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from pathlib import Path

from perdure.supervisor.link import Loaded, Orders, Prepared, Ready, Refused, Released, WorkerEnd
from perdure.supervisor.slot import TurnSlot


def main() -> None:
    signal.signal(signal.SIGUSR2, lambda *_: print("here it is", file=sys.stderr, flush=True))
    orders = Orders.from_environ()
    what, _, rest = orders.app.partition(" ")
    link, slot = WorkerEnd(orders.link_fd), TurnSlot(orders.slot_fd)
    files = [str(orders.flags["file"])] if "file" in orders.flags else []
    seed = os.environ.get("PYTHONHASHSEED")
    print(f"worker {os.getpid()} seed {seed}", file=sys.stderr, flush=True)
    if what in ("refuse", "mend"):
        link.say(Refused("bad-app", what == "mend", files))
        sys.exit(2)
    deaths = str(Path(orders.flags["data"]) / "deaths.json")
    link.say(Loaded("127.0.0.1", int(orders.flags["port"]), 0.6, 0.3, deaths, files))
    if what == "exit-early":
        sys.exit(3)
    listening = link.receive_socket()
    if listening is None:
        sys.exit(1)
    stopped = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: None if what == "deaf" else stopped.set())
    link.watch(stopped.set)
    signal.signal(signal.SIGUSR1, lambda *_: link.say(Prepared()))
    link.say(Ready("4711", orders.flags["data"]))
    dies = what == "exit-in-turn" or (what == "until" and not Path(rest).exists())
    if dies or what == "spin":
        slot.begin("Bomb/1", b"call explode {}")
        if dies:
            os._exit(7)
        while not stopped.is_set():
            time.sleep(0.01)
    while not stopped.wait(0.1):
        if what != "hang":
            slot.beat()
    print("worker drained", file=sys.stderr, flush=True)
    link.say(Released())


if __name__ == "__main__":
    main()
