"""perdure from other programs: calls, streams and connections, async and sync.

session.py   the resume protocol as a state machine, without any I/O
line.py      one connection: a session on WebSockets that come and go
remote.py    a server over HTTP, and its objects
sync.py      the same for code without an event loop, made from the same classes
"""

from perdure.client.line import Connection, ConnectionEnded
from perdure.client.remote import Client, RemoteObject, connect
from perdure.client.sync import connect_sync

__all__ = [
    "Client",
    "Connection",
    "ConnectionEnded",
    "RemoteObject",
    "connect",
    "connect_sync",
]
