"""The listening socket, made once and kept over every restart of the worker."""

from __future__ import annotations

import errno
import ipaddress
import socket

from perdure.errors import BadSettings

_BACKLOG = 2048


def listen(host: str, port: int) -> socket.socket:
    """Listen there; port 0 takes a free one. Raises BadSettings, saying what to do."""
    if not 0 <= port < 65_536:
        raise BadSettings(f"port {port} does not exist", hint="Ports go from 0 (any) to 65535.")
    try:
        found = socket.getaddrinfo(
            host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
    except (socket.gaierror, UnicodeError) as error:
        raise BadSettings(
            f"cannot listen on {host}:{port}: {error}",
            hint="--host is an address of this machine, or a name of one.",
        ) from None
    family, kind, protocol, _, address = found[0]
    sock = socket.socket(family, kind, protocol)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            # `--host ::` means every address, as people expect.
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        sock.bind(address)
        sock.listen(_BACKLOG)
        sock.setblocking(False)
    except OSError as error:
        sock.close()
        raise BadSettings(
            f"cannot listen on {host}:{port}: {error.strerror}", hint=_hint(error, port)
        ) from None
    return sock


def _hint(error: OSError, port: int) -> str | None:
    if error.errno == errno.EADDRINUSE:
        return (
            "Something listens there already, perhaps another perdure: stop it, or take another "
            f"port: --port {port + 1}"
        )
    if error.errno == errno.EACCES:
        return "Ports below 1024 need privileges; take a higher one, such as --port 7373."
    if error.errno == errno.EADDRNOTAVAIL:
        return "This machine has no such address; --host 127.0.0.1 is always there."
    return None


def is_loopback(host: str) -> bool:
    """Whether only programs of this machine can reach that address."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
