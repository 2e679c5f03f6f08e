"""Which event of which object ended its process, and how often.

An event that kills its worker is delivered again after the restart, and would kill it again, for
ever, and with it every other object of the process. So each death is written to `deaths.json` in
the data directory before the next worker starts, and an event with `POISON_AFTER` deaths in a row
is poisoned: the host does not run it and quarantines its object.

In a row: a turn that goes well forgets its deaths (`survived`), since a worker can be killed from
outside, and then the event in its slot is only a bystander.

Supervisor and worker both write the file, never at the same time: the supervisor when the worker
is dead. Each reads it anew before it changes it, and replaces it whole.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from perdure.clock import RealClock
from perdure.supervisor.slot import EVENT_BYTES_MAX, TurnSlot

POISON_AFTER: Final = 3
FILE_NAME: Final = "deaths.json"
_TEXT_MAX = 200


@dataclass(slots=True)
class Death:
    """An event that was being handled when its process ended."""

    address: str
    digest: str
    event: str
    """The event for people; cut where it is long."""
    count: int
    last: str
    """When it happened last, RFC 3339."""
    why: str
    """How the process ended: a signal, an exit code, or the turn's time."""


def event_text(event: bytes) -> str:
    """An event in one line for people."""
    text = event[:EVENT_BYTES_MAX].decode(errors="backslashreplace")
    text = "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)
    return text if len(text) <= _TEXT_MAX else text[: _TEXT_MAX - 1] + "…"


class Deaths:
    """The deaths in one data directory. Without a path (a memory store) they last as it does."""

    def __init__(self, path: Path | None = None) -> None:
        self.path = path
        self._all: dict[tuple[str, str], Death] = {}
        self._unwritten = False

    @classmethod
    def load(cls, path: str | os.PathLike[str] | None) -> Deaths:
        """What the file says; a missing or damaged file is an empty one.

        Damage is not worth a refused start: all that is lost is how often something has died.
        """
        deaths = cls(Path(path) if path is not None else None)
        deaths._read()
        return deaths

    @staticmethod
    def digest(event: bytes) -> str:
        """The name of an event; of long ones the beginning decides, all that a slot keeps."""
        return hashlib.blake2b(event[:EVENT_BYTES_MAX], digest_size=16).hexdigest()

    def all(self) -> list[Death]:
        """Each of them."""
        return list(self._all.values())

    def record(self, address: str, event: bytes, why: str = "") -> int:
        """One more death; gives how many there are of this event. On disk when it returns."""
        self._read()
        key = (address, self.digest(event))
        death = self._all.get(key) or Death(address, key[1], event_text(event), 0, "", "")
        death.count += 1
        death.why = why
        now_s = RealClock.now_ns() / 1e9
        death.last = datetime.fromtimestamp(now_s, UTC).isoformat(timespec="seconds")
        self._all[key] = death
        self._write()
        return death.count

    def poisoned(self) -> set[tuple[str, str]]:
        """(address, digest) of each event that must not run any more."""
        return {key for key, death in self._all.items() if death.count >= POISON_AFTER}

    def suspects(self) -> set[str]:
        """The addresses with an event that has ended a process."""
        return {address for address, _ in self._all}

    def survived(self, address: str, event: bytes) -> bool:
        """That event went well: its deaths are forgotten. True if there were any."""
        key = (address, self.digest(event))
        return self._drop(lambda death: (death.address, death.digest) == key)

    def forget(self, address: str) -> bool:
        """Forget all deaths of an object: it was taken out of quarantine, or deleted."""
        return self._drop(lambda death: death.address == address)

    def _drop(self, which: Callable[[Death], bool]) -> bool:
        self._read()
        left = {key: death for key, death in self._all.items() if not which(death)}
        if len(left) == len(self._all):
            return False
        self._all = left
        self._write()
        return True

    def _read(self) -> None:
        # What a full disk kept from the file is known here alone.
        if self.path is None or self._unwritten:
            return
        try:
            rows: Any = json.loads(self.path.read_bytes())
            self._all = {(row["address"], row["digest"]): Death(**row) for row in rows}
        except FileNotFoundError:
            self._all = {}
        except (OSError, ValueError, TypeError, KeyError):
            # A directory that is none, say: the worker refuses it, and says why.
            pass

    def _write(self) -> None:
        if self.path is None:
            return
        body = json.dumps([asdict(death) for death in self._all.values()], indent=1).encode()
        scratch = self.path.with_suffix(".json.new")
        # Flushed before the rename: a death that a power cut takes back is harmless, an empty
        # file where a poisoned event stood is not.
        try:
            with open(scratch, "wb") as file:
                file.write(body)
                file.flush()
                os.fsync(file.fileno())
            os.replace(scratch, self.path)
            self._unwritten = False
        except OSError:
            self._unwritten = True


class ForgivingSlot(TurnSlot):
    """A slot for a worker that follows one which died: it notes when a suspected event goes well.

    `later` puts the writing of the file behind the turn, where files may be written.
    """

    __slots__ = ("_deaths", "_later", "_running", "_suspects")

    def __init__(
        self, fd: int, deaths: Deaths, later: Callable[[Callable[[], object]], object]
    ) -> None:
        super().__init__(fd)
        self._deaths = deaths
        self._later = later
        self._suspects = deaths.suspects()
        self._running: tuple[str, bytes] | None = None

    def begin(self, address: str, event: bytes) -> None:
        """As in TurnSlot."""
        super().begin(address, event)
        self._running = (address, event) if address in self._suspects else None

    def end(self) -> None:
        """As in TurnSlot; and the deaths of this event, if it had any, are forgotten."""
        super().end()
        running, self._running = self._running, None
        if running is not None:
            self._later(lambda: self._forgive(*running))

    def _forgive(self, address: str, event: bytes) -> None:
        if self._deaths.survived(address, event):
            self._suspects = self._deaths.suspects()
