"""WebSocket framing (RFC 6455) and permessage-deflate (RFC 7692): bytes to messages and back.

Nothing here waits or writes. What a client may not send ends the reading with the close code that
says so; whatever came whole before it has still been given. Compression is always without context
takeover: it costs no memory between messages, and one compressed message serves many sockets.
"""

from __future__ import annotations

import zlib

try:
    from websockets.speedups import apply_mask
except ImportError:  # a platform without its C part
    from websockets.utils import apply_mask

TEXT = 0x1
BINARY = 0x2
CLOSE = 0x8
PING = 0x9
PONG = 0xA

_CONTINUATION = 0x0
_FIN = 0x80
_COMPRESSED = 0x40
_RESERVED = 0x30
_PLAIN = (_FIN | TEXT, _FIN | BINARY)
_CONTROL_BYTES_MAX = 125

PROTOCOL = 1002
INVALID = 1007
TOO_LARGE = 1009
NO_CODE = 1005

# Below it a frame hardly gets smaller.
COMPRESS_FROM = 512
_LEVEL = 3
_WINDOWS = [str(bits) for bits in range(8, zlib.MAX_WBITS + 1)]
_TAIL = b"\x00\x00\xff\xff"

_SHORT = [bytes((_FIN | opcode, size)) for opcode in range(16) for size in range(126)]


def encode(opcode: int, body: bytes) -> bytes:
    """A frame as a server sends it."""
    size = len(body)
    if size < 126:
        return _SHORT[opcode * 126 + size] + body
    return _head(opcode, size) + body


def encode_compressed(opcode: int, body: bytes, window_bits: int) -> bytes:
    """A message as a compressed frame; as it is where that is not worth it."""
    if len(body) < COMPRESS_FROM:
        return encode(opcode, body)
    compress = zlib.compressobj(_LEVEL, zlib.DEFLATED, -window_bits)
    packed = compress.compress(body) + compress.flush(zlib.Z_SYNC_FLUSH)
    packed = packed.removesuffix(_TAIL)
    if len(packed) >= len(body):
        return encode(opcode, body)
    return _head(opcode | _COMPRESSED, len(packed)) + packed


def encode_close(code: int, reason: str) -> bytes:
    """A close frame; the reason is cut to what fits."""
    if code == NO_CODE:
        return encode(CLOSE, b"")
    text = reason.encode(errors="replace")[: _CONTROL_BYTES_MAX - 2]
    return encode(CLOSE, code.to_bytes(2) + text.decode(errors="ignore").encode())


def _head(opcode: int, size: int) -> bytes:
    if size < 126:
        return bytes((_FIN | opcode, size))
    if size < 1 << 16:
        return bytes((_FIN | opcode, 126)) + size.to_bytes(2)
    return bytes((_FIN | opcode, 127)) + size.to_bytes(8)


def read_close(body: bytes) -> tuple[int, str]:
    """Code and reason of a close frame; a code of our own where the client's is none."""
    if not body:
        return NO_CODE, ""
    code = int.from_bytes(body[:2]) if len(body) > 1 else 0
    if not (1000 <= code <= 1003 or 1007 <= code <= 1014 or 3000 <= code <= 4999):
        return PROTOCOL, "that is no close code"
    try:
        return code, body[2:].decode()
    except UnicodeDecodeError:
        return INVALID, "the reason is not UTF-8"


class Reader:
    """What a client sends, frame by frame. Once it is `broken` there is nothing more to read."""

    __slots__ = (
        "_at_least",
        "_have",
        "_packed",
        "_parts",
        "_pieces",
        "_size",
        "_start",
        "broken",
        "deflate",
        "most",
    )

    def __init__(self, most: int, deflate: bool) -> None:
        self.most = most
        """Bytes of a message."""
        self.deflate = deflate
        """Compression was agreed on."""
        self.broken: tuple[int, str] | None = None
        """Close code and reason, once the client has done what it may not."""
        self._pieces: list[bytes] | None = None
        """Bytes of a frame that is not complete, as they came."""
        self._have = 0
        self._at_least = 0
        """It is not complete before there are so many of them."""
        # A message in fragments: its opcode, whether it is compressed, what is there of it.
        self._start = 0
        self._packed = False
        self._parts: list[bytes] | None = None
        self._size = 0

    def feed(self, data: bytes) -> list[tuple[int, bytes]]:
        """Take bytes in; gives (opcode, body) of what is complete: messages and control frames."""
        if self._pieces is not None:
            self._pieces.append(data)
            self._have += len(data)
            if self._have < self._at_least:
                return []
            data = b"".join(self._pieces)
            self._pieces = None
        self._at_least = 2
        found: list[tuple[int, bytes]] = []
        at, end = 0, len(data)
        while end - at >= 2 and self.broken is None:
            first, second = data[at], data[at + 1]
            size = second & 0x7F
            begin = at + 6
            if size > _CONTROL_BYTES_MAX:
                begin += 2 if size == 126 else 8
                if end < begin:
                    self._at_least = begin - at
                    self._allowed(first, second, size)
                    break
                size = int.from_bytes(data[at + 2 : begin - 4])
            plain = second >= 128 and self._parts is None and first in _PLAIN
            if not (plain or self._allowed(first, second, size)):
                break
            if size + self._size > self.most and not first & CLOSE:
                self._break(TOO_LARGE, f"a message has at most {self.most} bytes")
                break
            if end - begin < size:
                self._at_least = begin + size - at
                break
            at = begin + size
            body = apply_mask(data[begin:at], data[begin - 4 : begin]) if size else b""
            if plain:
                if first == _FIN | BINARY or self._is_text(body):
                    found.append((first & 0x0F, body))
            else:
                self._take(first, body, found)
        if at < end and self.broken is None:
            self._pieces = [data[at:]]
            self._have = end - at
        return found

    @property
    def rest(self) -> bytes:
        """What has come in of a frame that is not complete."""
        return b"".join(self._pieces or ())

    def between_messages(self) -> bool:
        """Whether no message is there in part, but for `rest`."""
        return self._parts is None

    def _allowed(self, first: int, second: int, size: int) -> bool:
        opcode = first & 0x0F
        if opcode not in (_CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG):
            return self._break(PROTOCOL, f"opcode {opcode} is not in use")
        packed = bool(first & _COMPRESSED)
        if first & _RESERVED or (packed and (not self.deflate or opcode not in (TEXT, BINARY))):
            return self._break(PROTOCOL, "a reserved bit is set")
        if second < 128:
            return self._break(PROTOCOL, "a client's frame must be masked")
        if opcode >= CLOSE and (not first & _FIN or size > _CONTROL_BYTES_MAX):
            return self._break(PROTOCOL, "a control frame is whole, and has at most 125 bytes")
        if opcode == _CONTINUATION and self._parts is None:
            return self._break(PROTOCOL, "there is no message to go on with")
        if opcode in (TEXT, BINARY) and self._parts is not None:
            return self._break(PROTOCOL, "the message before is not complete")
        return True

    def _take(self, first: int, body: bytes, found: list[tuple[int, bytes]]) -> None:
        """A frame that is no whole plain message."""
        opcode = first & 0x0F
        if opcode >= CLOSE:
            found.append((opcode, body))
            return
        if opcode != _CONTINUATION:
            self._start = opcode
            self._packed = bool(first & _COMPRESSED)
            self._parts = []
        assert self._parts is not None
        self._parts.append(body)
        self._size += len(body)
        if not first & _FIN:
            return
        body = b"".join(self._parts)
        self._parts, self._size = None, 0
        if self._packed:
            unpacked = self._unpack(body)
            if unpacked is None:
                return
            body = unpacked
        if self._start == BINARY or self._is_text(body):
            found.append((self._start, body))

    def _unpack(self, body: bytes) -> bytes | None:
        try:
            unpack = zlib.decompressobj(-zlib.MAX_WBITS)
            data = unpack.decompress(body + _TAIL, self.most + 1)
        except zlib.error:
            self._break(INVALID, "a compressed message cannot be read")
            return None
        if len(data) > self.most:
            self._break(TOO_LARGE, f"a message has at most {self.most} bytes")
            return None
        return data

    def _is_text(self, body: bytes) -> bool:
        try:
            str(body, "utf-8")
        except UnicodeDecodeError:
            return self._break(INVALID, "a text message is not UTF-8")
        return True

    def _break(self, code: int, reason: str) -> bool:
        self.broken = code, reason
        return False


def agree_on_deflate(offered: str) -> tuple[int, str] | None:
    """What of a client's Sec-WebSocket-Extensions is agreed to: the bits of our window, and the
    answer. None: nothing of it."""
    for offer in offered.split(","):
        name, *parameters = (part.strip() for part in offer.split(";"))
        if name.lower() != "permessage-deflate":
            continue
        bits = _window_bits(parameters)
        if bits is None:
            continue
        answer = "permessage-deflate; server_no_context_takeover; client_no_context_takeover"
        if bits < zlib.MAX_WBITS:
            answer += f"; server_max_window_bits={bits}"
        return bits, answer
    return None


def _window_bits(parameters: list[str]) -> int | None:
    """How large our window may be; None for an offer that is not understood."""
    bits = zlib.MAX_WBITS
    seen = set()
    for parameter in parameters:
        name, _, value = (part.strip() for part in parameter.partition("="))
        value = value.strip('"')
        if name in seen:
            return None
        seen.add(name)
        if name in ("server_no_context_takeover", "client_no_context_takeover"):
            if value:
                return None
        elif name == "server_max_window_bits":
            # zlib has no raw stream with a window of 8 bits.
            if value not in _WINDOWS[1:]:
                return None
            bits = int(value)
        elif name != "client_max_window_bits" or (value and value not in _WINDOWS):
            return None
    return bits
