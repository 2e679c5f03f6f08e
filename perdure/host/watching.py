"""Waiting for a change of the object's own state: `await wait_until(lambda: self.paid)`.

The predicates of whoever waits are looked at when a turn has come to rest, in the order in which
the waits began, and whoever is woken runs before the next one is looked at: so what a predicate
said is still so when the code behind it goes on. All of this is part of the turn, and a replay
does the same.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from perdure.host.task import Future
from perdure.interrupt import is_interrupt

if TYPE_CHECKING:
    from perdure.host.asking import Asking
    from perdure.host.machine import Machine


class Watch:
    """Somebody who waits for a predicate to become true."""

    __slots__ = ("future", "predicate")

    def __init__(self, future: Future, predicate: Callable[[], Any]) -> None:
        self.future = future
        self.predicate = predicate


def watch(machine: Asking, predicate: Callable[[], Any]) -> Future:
    """A future with what the predicate gives, once that is true at the end of a turn."""
    machine.refuse_in_query("wait")
    future = Future(loop=machine)
    if machine.watches is None:
        machine.watches = []
    machine.watches.append(Watch(future, predicate))
    return future


def look(machine: Machine) -> None:
    """At the end of a turn: wake those whose predicate is true, until none is."""
    woken = True
    while woken and machine.watches is not None:
        woken = False
        for one in list(machine.watches):
            if not one.future.done():
                _ask(machine, one)
            if one.future.done() and machine.watches is not None:
                machine.watches.remove(one)
                if machine.ready:
                    woken = True
                    machine.drain()
        machine.watches = machine.watches or None


def _ask(machine: Machine, one: Watch) -> None:
    instance = machine.instance
    if instance is None:
        return
    own_class = type(instance)
    # A predicate looks and changes nothing: how often it is asked is nobody's business.
    machine.read_only = True
    machine.call = None
    instance.__class__ = machine.kind.read_only
    try:
        answer = one.predicate()
        if inspect.isawaitable(answer):
            if inspect.iscoroutine(answer):
                answer.close()
            raise TypeError("wait_until takes a plain function; this one has to be awaited")
        # Within the try: an answer of the app's own class may raise here as well.
        is_true = bool(answer)
    except StopIteration as stop:
        # No future can hold one. A coroutine that raises it says the same.
        one.future.set_exception(_stopped(stop))
    except BaseException as error:
        if is_interrupt(error):
            raise
        one.future.set_exception(error)
    else:
        if is_true:
            one.future.set_result(answer)
    finally:
        object.__setattr__(instance, "__class__", own_class)
        machine.read_only = False


def _stopped(stop: StopIteration) -> RuntimeError:
    error = RuntimeError("the predicate of wait_until raised StopIteration")
    error.__cause__ = stop
    return error
