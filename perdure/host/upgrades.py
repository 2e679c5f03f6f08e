"""Objects and versions of the code: which one runs a turn, and how an object goes over to another.

Each entry names the version that ran it, and a replay runs it in that one again: the newest as it
is imported, an older one from its bundle in the store. An object goes over to the newest code when
it is next loaded; then its first turn is `Upgraded`, in which `on_upgrade` brings its state to what
the new code expects, once. What it raises leaves the object as it was, on its version, set aside.

A snapshot is loaded only when it is known which version goes on from it: sets have an order that
each trip through bytes changes, so there must be one trip here as there was one then. And the
version that made it need not be imported where nothing but data is in it.

An object whose suspended code cannot be brought over at all stays whole on its version, and goes
over when that code has come to its end.
"""

from __future__ import annotations

import contextvars
import gc
import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import msgspec

from perdure.clock import perf_ns
from perdure.errors import NotSerializable, UpgradeFailed, VersionUnusable
from perdure.failure import described
from perdure.host.machine import EVENTS, Machine
from perdure.host.stepping import untaken_blobs
from perdure.host.task import Task
from perdure.interrupt import is_interrupt
from perdure.journal.entry import Command, Entry, Upgraded
from perdure.kind import Kind
from perdure.logs import logger
from perdure.steps import find_step
from perdure.store.base import Store
from perdure.suspend import bundles, editions, heap
from perdure.suspend.codes import CodeChanged
from perdure.suspend.editions import Live, Past, VersionNotLoaded
from perdure.suspend.moving import Stayed

if TYPE_CHECKING:
    from perdure.host.activation import Activation


T = TypeVar("T")


class Versions:
    """The versions of the code that a host's objects have been run by."""

    def __init__(self, store: Store, live: Live) -> None:
        self._store = store
        self.live = live

    async def fetch(self, version: str) -> None:
        """Read a version's bundle, so that its code can be imported when a turn needs it."""
        bundle = await self._store.get_version(version)
        found = Past(bundles.read(version, bundle)) if bundle is not None else None
        editions.learn(version, found)

    async def having(self, work: Callable[[], T]) -> T:
        """Do something that may need code which is not in memory; with that, it goes on."""
        while True:
            try:
                return work()
            except VersionNotLoaded as missing:
                await self.fetch(missing.version)

    def kind(self, now: Kind, version: str) -> Kind:
        """A class as it was in a version; by one of its former names, if it had another then.

        Raises VersionNotLoaded, or VersionUnusable where it cannot be imported any more. For a
        version that no store has it is the class of now: that it asks for what the journal says
        is compared, turn by turn.
        """
        if version == self.live.version or not version:
            return self.live.kinds[now.name]
        try:
            edition = editions.edition(version)
        except VersionUnusable:
            return self.live.kinds[now.name]
        if isinstance(edition, Live) and edition is self.live:
            return self.live.kinds[now.name]
        live = self.live.kinds[now.name]
        for name in (live.name, *live.aliases, now.name):
            if name in edition.served():
                return edition.kind(name)
        # The code of now may be older, from before a renaming.
        for name in edition.served():
            if live.name in edition.kind(name).aliases:
                return edition.kind(name)
        raise VersionUnusable(
            f"version {version} of the code has no class {now.name}",
            hint="If the class had another name then, give it as an alias: "
            f"class {now.cls.__name__}(Object, aliases=['…']).",
        )


def begin_from(machine: Machine, snapshot: bytes, seq: int, version: str = "") -> None:
    """Take a snapshot of turn `seq` as what comes before the entries that follow.

    `version` is the code's at that turn, for a snapshot that does not say it itself.
    """
    made = heap.version_of(snapshot) or version
    if machine.surroundings.versions is None or made in ("", machine.kind.version):
        _load(machine, snapshot, made)
        if machine.reloaded and machine.surroundings.versions is not None:
            machine.source = snapshot, made
        return
    machine.seq = seq
    machine.source = snapshot, made
    machine.pending = True


def _load(machine: Machine, snapshot: bytes, version: str) -> list[Stayed]:
    stayed = heap.load_heap(machine, snapshot, version)
    if version and version != machine.kind.version:
        _keep_steps(machine, version)
    for name in untaken_blobs(machine):
        machine.blob(name)
    return stayed


def enter(machine: Machine, entry: Entry) -> None:
    """Be what the entry's turn found, in the version that ran it. For a replay."""
    versions = machine.surroundings.versions
    if versions is not None:
        kind = versions.kind(machine.kind, entry.version)
        if machine.pending or kind is not machine.kind:
            _go_over(machine, kind)
        editions.active = kind.past
    machine.source = None


def _go_over(machine: Machine, kind: Kind) -> None:
    """Become what the same memory is in another version of the code."""
    if machine.source is None:
        machine.source = heap.dump_heap(machine), machine.kind.version
    source, seq = machine.source, machine.seq
    if not machine.pending:
        machine.discard()
    home = machine.home
    Machine.__init__(machine, kind, machine.key, machine.oid, machine.surroundings)
    machine.home = home
    # Where the load needs a bundle that is not in memory yet, the same is done again with it.
    machine.source, machine.seq, machine.pending = source, seq, True
    _load(machine, *source)
    machine.pending = False


def settle(machine: Machine) -> None:
    """With no more entries to come: be what the snapshot says, in the version that made it."""
    if machine.pending:
        assert machine.source is not None
        versions = machine.surroundings.versions
        assert versions is not None
        _go_over(machine, versions.kind(machine.kind, machine.source[1]))
    machine.source = None


async def having(machine: Machine, work: Callable[[], T]) -> T:
    """Do something with a machine that may need code which is not in memory yet."""
    versions = machine.surroundings.versions
    return work() if versions is None else await versions.having(work)


class Turn(NamedTuple):
    """An upgrade that has run and is not written yet."""

    event: Upgraded
    commands: list[Command]
    duration_us: int


class Over(NamedTuple):
    """What has become of an object that was to go over to the newest code."""

    machine: Machine
    """As it goes on: the same as before, where nothing was to be done or it is held."""
    turn: Turn | None
    """The upgrade to write, if one has run."""
    held: str = ""
    """Why it stays whole on its version."""
    stayed: tuple[Stayed, ...] = ()

    @property
    def stays(self) -> list[dict[str, str]]:
        """Code that goes on in an older version, for people."""
        return told_stayed(self.stayed)


def bring_over(activation: Activation) -> Turn | None:
    """Bring a loaded object to the newest code; the turn to write, if one was needed.

    Raises UpgradeFailed, with nothing changed.
    """
    machine = activation.machine
    over = bring_copy_over(machine, activation.kind, activation.host.now_ns)
    if over.held:
        logger.warning(
            "an object stays on its version of the code",
            object=machine.address, version=machine.kind.version, why=over.held,
        )  # fmt: skip
    activation.held = over.held
    activation.stayed = over.stayed
    activation.machine = over.machine
    if over.turn is not None:
        activation.host.turns += 1
    return over.turn


def bring_copy_over(machine: Machine, now: Kind, now_ns: Callable[[], int] = lambda: 0) -> Over:
    """Bring a machine to the newest code, if it is not on it. Raises UpgradeFailed.

    The machine itself is let go where another takes its place; else it is as it was.
    """
    if machine.kind is now and not machine.pending:
        machine.source = None
        return Over(machine, None)
    before = machine.source[1] if machine.pending and machine.source else machine.kind.version
    fresh = Machine(now, machine.key, machine.oid, machine.surroundings)
    try:
        source = machine.source or (heap.dump_heap(machine), before)
        stayed = _load(fresh, *source)
    except (NotSerializable, CodeChanged) as error:
        settle(machine)
        return Over(machine, None, held=error.message)
    turn = None
    if fresh.instance is not None:
        try:
            turn = _run(fresh, Upgraded(before), max(now_ns(), fresh.now_ns))
        except BaseException:
            fresh.discard()
            raise
    if not machine.pending:
        machine.discard()
    return Over(fresh, turn, stayed=tuple(dict.fromkeys(stayed)))


def _run(machine: Machine, event: Upgraded, now_ns: int) -> Turn:
    began = perf_ns()
    collects = gc.isenabled()
    gc.disable()
    try:
        commands = machine.turn(event, now_ns)
    finally:
        if collects:
            gc.enable()
    # As in any turn: what it found was one trip through bytes, and a replay makes that trip too.
    machine.reloaded = False
    return Turn(event, commands, (perf_ns() - began) // 1000)


def _keep_steps(machine: Machine, before: str) -> None:
    """A step that is under way and is not there any more runs on as it was."""
    for waited in (machine.steps or {}).values():
        name = waited.asked.name
        if "@" in name or find_step(name) is not None:
            continue
        try:
            machine.kind.edition.under(before).module(name.partition(":")[0])
        except (ImportError, VersionUnusable):
            continue
        waited.asked = msgspec.structs.replace(waited.asked, name=f"{name}@{before}")


def upgraded(machine: Machine, event: Upgraded) -> None:
    """The event: the object's own `on_upgrade` runs."""
    upgrade = machine.kind.upgrade
    # While on_create is under way the object is still being made, as that version makes it.
    if upgrade is None or machine.instance is None or machine.creating:
        return
    context = contextvars.Context()
    try:
        result = context.run(upgrade, machine.instance, event.before)
        if inspect.iscoroutine(result):
            task = Task(result, machine, context, "on_upgrade")
            if not task.begin():
                heap.drop(result)
                raise RuntimeError(
                    "on_upgrade waited for something. It has to come to its end in its turn: "
                    "what takes longer is sent to self, or put into a task"
                )
            task.result()
    except BaseException as error:
        if is_interrupt(error):
            raise
        raise UpgradeFailed(
            f"on_upgrade of {machine.address} raised {described(error)}",
            hint=f"It is as it was, on version {event.before}. Mend on_upgrade, deploy, and: "
            f"perdure quarantine retry {machine.address}",
        ) from error


EVENTS[Upgraded] = upgraded


def told_stayed(stayed: tuple[Stayed, ...]) -> list[dict[str, str]]:
    """Code that goes on in an older version, for people."""
    return [
        {"version": one.version, "function": one.qualname, "module": one.module} for one in stayed
    ]
