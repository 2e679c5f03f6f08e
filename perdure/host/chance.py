"""The chance inside a turn: derived, so that a replay draws the same.

Seeded from (store's secret, object, turn) at its first use in a turn; nothing is recorded. Bytes
for secrets and tokens come from a stream of their own, keyed BLAKE2b in counter mode: whoever
sees the output of `random` must not be able to guess a token of the same turn.
"""

from __future__ import annotations

import os
from hashlib import blake2b
from random import Random

_urandom = os.urandom


def key_of(secret: bytes, oid: int, seq: int) -> bytes:
    """From what a turn's chance follows. It tells nothing of other turns, nor of the secret."""
    place = oid.to_bytes(8, "big") + seq.to_bytes(8, "big")
    return blake2b(place, key=secret, digest_size=32).digest()


class Chance:
    """What `random`, `secrets`, `uuid` and `os.urandom` draw from in one turn."""

    __slots__ = ("_counter", "_key", "_random")

    def __init__(self, secret: bytes, oid: int, seq: int, *, fresh: bool = False) -> None:
        # A query leaves no entry and its turn number is not its own, so its chance is real.
        self._key = (
            blake2b(_urandom(16), key=secret, digest_size=32).digest()
            if fresh
            else key_of(secret, oid, seq)
        )
        self._counter = 0
        self._random: Random | None = None

    @classmethod
    def of_key(cls, key: bytes) -> Chance:
        """The chance of a turn of which the key is written down."""
        chance = cls.__new__(cls)
        chance._key, chance._counter, chance._random = key, 0, None
        return chance

    @property
    def random(self) -> Random:
        """A generator for this turn."""
        if self._random is None:
            self._random = Random(blake2b(b"random", key=self._key, digest_size=16).digest())
        return self._random

    def bytes(self, n: int) -> bytes:
        """The next `n` bytes for `os.urandom` and what is built on it."""
        if n < 0:
            raise ValueError("negative argument not allowed")
        blocks = []
        for _ in range(-(-n // 64)):
            self._counter += 1
            blocks.append(blake2b(self._counter.to_bytes(8, "big"), key=self._key).digest())
        return b"".join(blocks)[:n]
