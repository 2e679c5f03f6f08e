"""A snapshot of a live object, as a row for the store."""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog

from perdure.errors import NotSerializable
from perdure.host.machine import Machine
from perdure.store.base import ObjectRow, Stored
from perdure.suspend import heap

if TYPE_CHECKING:
    from perdure.host.activation import Activation
    from perdure.host.host import Host

logger = structlog.get_logger("perdure")


def take_snapshot(host: Host, activation: Activation) -> Stored | None:
    """The object as it is after its last turn; None if it cannot be kept as bytes.

    A set is walked in another order after a round trip through bytes than before it, and a later
    replay would begin from the bytes. So where the state holds sets, the live object goes on from
    the bytes too.
    """
    machine = activation.machine
    try:
        snapshot = heap.dump_heap(machine)
    except NotSerializable as error:
        if machine.quiescent():
            logger.warning(
                "an object cannot be snapshotted", object=machine.address, why=str(error)
            )
        return None
    if heap.has_sets(snapshot):
        activation.adopt(snapshot)
    return Stored(row_of(host, activation.machine, snapshot, activation.wake_at), [])


def row_of(host: Host, machine: Machine, snapshot: bytes | None, wake_at: int) -> ObjectRow:
    """The row of an object that is in memory."""
    return ObjectRow(
        oid=machine.oid,
        kind=machine.kind.name,
        key=machine.key,
        seq=machine.seq if snapshot is not None else 0,
        last=0,
        wake_at=wake_at,
        status="" if machine.instance is not None else "deleted",
        detail="",
        created=0,
        updated=machine.now_ns,
        version=host.version,
        snapshot=snapshot,
    )
