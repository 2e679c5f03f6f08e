"""What clients ask for, and their book of what came of it."""

from __future__ import annotations

import itertools
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from perdure.ref import format_address
from tests.sim.options import Options


@dataclass
class Deed:
    """A call, the tokens that are to come of it, and what its caller was told."""

    address: str
    handler: str
    args: tuple[Any, ...]
    tokens: list[tuple[str, int]] = field(default_factory=list)
    never: list[tuple[str, int]] = field(default_factory=list)
    told: str = "open"
    """`done`, `refused` (nothing ran), `unknown`, or `failed` (the handler raised)."""


@dataclass
class LeafModel:
    """What a Leaf may hold, as its only client knows it."""

    pasts: list[list[int]] = field(default_factory=lambda: [[]])
    """What was acknowledged, or nothing at all where it may have been deleted."""
    strays: set[int] = field(default_factory=set)
    """Tokens whose fate is unknown: they may come at any time, or never."""

    def put(self, token: int, shown: list[int]) -> bool:
        """A token was acknowledged and this is what the leaf holds since; whether that can be."""
        if not self.may_hold(shown, token):
            return False
        self.pasts = [[one for one in shown if one not in self.strays]]
        return True

    def may_hold(self, shown: list[int], token: int | None = None) -> bool:
        certain = [one for one in shown if one not in self.strays]
        behind = [] if token is None else [token]
        return len(set(shown)) == len(shown) and certain in [p + behind for p in self.pasts]

    def deleted(self) -> None:
        self.pasts = [[]]
        self.strays = set()


class Inventor:
    """Thinks of calls."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self._numbers = itertools.count(1)

    def token(self) -> int:
        """One that was not there before."""
        return next(self._numbers)

    def _some(self, rng: random.Random) -> str:
        number = rng.randrange(self.options.objects)
        return format_address(rng.choice(["Shelf", "Shelf", "Vault", "Brief"]), str(number))

    def _path(self, rng: random.Random, length: int) -> list[str]:
        """Objects that may call each other in this order without a circle of vaults."""
        if self.options.circles:
            return [self._some(rng) for _ in range(length)]
        vaults = sorted(rng.sample(range(self.options.objects), min(length, self.options.objects)))
        path = [self._some(rng) for _ in range(length)]
        for i, address in enumerate(path):
            if address.startswith("Vault"):
                path[i] = f"Vault/{vaults.pop(0)}" if vaults else f"Shelf/{i}"
        return path

    def invent(self, rng: random.Random) -> Deed:
        """A call as nobody would think of."""
        at = self._some(rng)
        token = self.token()
        seconds = rng.choice([0.0, 0.05, 0.5, 3.0, 20.0])
        kinds: list[Callable[[], Deed]] = [
            lambda: Deed(at, "put", (token,), [(at, token)]),
            lambda: Deed(at, "put_plainly", (token,), [(at, token)]),
            lambda: Deed(at, "put_and_fail", (token,), [(at, token)]),
            lambda: Deed(at, "much", (token, 3000), [(at, token)]),
            lambda: Deed(at, "nap", (token, seconds), [(at, token)]),
            lambda: Deed(at, "nap_twice", (token, seconds), [(at, token)]),
            lambda: Deed(at, "later", (token, seconds), [(at, token)]),
            lambda: Deed(at, "background", (token, seconds), [(at, token)]),
            lambda: Deed(at, "work", (token, seconds / 10, rng.randrange(4)), [(at, token)]),
            lambda: Deed(at, "give_up_work", (token, 1.0, rng.random() * 4), [(at, token)]),
            lambda: Deed(f"Slow/{rng.randrange(9)}", "put", (token,), []),
            lambda: self._undo(rng, at, token),
            lambda: self._burst(rng, at),
            lambda: self._passing(rng, "pass_on"),
            lambda: self._passing(rng, "pass_on"),
            lambda: self._passing(rng, "send_on"),
            lambda: self._fan_out(rng, seconds),
            lambda: self._give_up(rng),
            lambda: self._call_off(rng),
            lambda: self._work_much(rng, at),
            lambda: self._gates(rng, token),
            lambda: self._stream(rng, at, "stream"),
            lambda: self._stream(rng, at, "leave_stream"),
            lambda: Deed(at, "once", (token, seconds / 10), [(at, token)]),
        ]
        if self.options.sets:
            kinds += [lambda: Deed(at, "mark", (token, rng.randrange(1000)), [(at, token)])] * 4
        return rng.choice(kinds)()

    def _tokens(self, count: int) -> list[int]:
        return [self.token() for _ in range(count)]

    def _undo(self, rng: random.Random, at: str, token: int) -> Deed:
        to = self._some(rng)
        return Deed(at, "undo", (token, to), never=[(at, token), (to, token)])

    def _burst(self, rng: random.Random, at: str) -> Deed:
        to = self._some(rng)
        tokens = self._tokens(4)
        return Deed(at, "burst", (tokens, to), [(to, token) for token in tokens])

    def _passing(self, rng: random.Random, handler: str) -> Deed:
        path = self._path(rng, rng.randrange(1, 5))
        tokens = self._tokens(len(path))
        return Deed(path[0], handler, (tokens, path[1:]), list(zip(path, tokens, strict=True)))

    def _fan_out(self, rng: random.Random, seconds: float) -> Deed:
        path = self._path(rng, 4)
        path[0] = f"Shelf/{rng.randrange(self.options.objects)}"
        tokens = self._tokens(4)
        both = list(zip(path, tokens, strict=True))
        return Deed(path[0], "fan_out", (tokens, path[1:], min(seconds, 3.0)), both)

    def _give_up(self, rng: random.Random) -> Deed:
        at, to = self._path(rng, 2)
        tokens = self._tokens(2)
        both = [(at, tokens[0]), (to, tokens[1])]
        return Deed(at, "give_up", (tokens, to, rng.random() * 4), both)

    def _call_off(self, rng: random.Random) -> Deed:
        # Not to one that takes one call at a time: out of its queue, nothing of a call runs.
        at, _ = self._path(rng, 2)
        to = f"{rng.choice(['Shelf', 'Brief'])}/{rng.randrange(self.options.objects)}"
        tokens = self._tokens(2)
        both = [(at, tokens[0]), (to, tokens[1])]
        return Deed(at, "call_off", (tokens, to, rng.random() * 4), both)

    def _stream(self, rng: random.Random, at: str, handler: str) -> Deed:
        tokens = self._tokens(5)
        kept = tokens if handler == "stream" else tokens[:2]
        seconds = rng.choice([0.0, 0.05, 0.5])
        never = [(at, token) for token in tokens if token not in kept]
        return Deed(at, handler, (tokens, seconds), [(at, token) for token in kept], never)

    def _work_much(self, rng: random.Random, at: str) -> Deed:
        tokens = self._tokens(5)
        return Deed(at, "work_much", (tokens, 0.2), [(at, token) for token in tokens])

    def _gates(self, rng: random.Random, token: int) -> Deed:
        at = f"{rng.choice(['Shelf', 'Brief'])}/{rng.randrange(self.options.objects)}"
        return Deed(at, rng.choice(["wait_for_gate", "open_gate"]), (token,), [(at, token)])


def check_tokens(
    deeds: list[Deed], held: dict[str, Counter[int]], seen: dict[str, Counter[int]], circles: bool
) -> None:
    """Acknowledged is there once, refused or undone not at all, and nothing is there by half."""
    for deed in deeds:
        counts = [held.get(at, Counter())[token] for at, token in deed.tokens]
        told = deed.told
        assert all(count <= 1 for count in counts), f"twice: {counts} {deed}"
        if told == "done":
            assert all(counts), f"lost: {counts} {deed}"
        elif told == "refused":
            assert not any(counts), f"refused, but done: {counts} {deed}"
        elif told == "failed" and deed.handler == "put_and_fail":
            assert all(counts), f"lost: {counts} {deed}"
        elif told == "unknown" and not circles:
            assert len(set(counts)) <= 1, f"by half: {counts} {deed}"
        for at, token in deed.never:
            assert not held.get(at, Counter())[token], f"undone, but there: {deed}"
    for address, tokens in seen.items():
        lost = tokens - held.get(address, Counter())
        assert not lost, f"{address} has lost {lost}"
    births = held.get("Shelf/births", Counter())
    assert all(count == 1 for count in births.values()), births
