"""Iterators that are under way, over the very list, dict or set they walk.

Pickle would set a list iterator's place before a list that is in a cycle with it has its items,
and would put a copy of the rest in the place of a dict. Here the place is set when all is there.
A set comes back in another order, so its iterator goes on with what it had left. Iterators that
notice changes and do not let their state be seen are refused.
"""

from __future__ import annotations

import collections
import gc
import itertools
import pickle
import warnings
from typing import Any

from perdure.suspend import layout, loading, probe

# --- lists


def set_place(iterator: Any, index: int) -> None:
    loading.session().later.append(lambda: iterator.__setstate__(index))


def reduce_list_iterator(iterator: Any) -> Any:
    reduced = iterator.__reduce__()
    if len(reduced) < 3:
        return reduced
    return *reduced, None, None, set_place


# --- dicts


def make_dict_iterator(table: Any, view: str, down: bool) -> Any:
    items = getattr(dict, view)(table)
    return reversed(items) if down else iter(items)


def set_dict_place(iterator: Any, state: tuple[Any, bool, int, int, int]) -> None:
    table, down, *position = state

    def finish() -> None:
        place = layout.DictPosition(*position)
        layout.set_dict_position(iterator, len(table), place, down=down)

    loading.session().later.append(finish)


_dict_iterators: dict[type, tuple[str, bool]] = {
    type(make_dict_iterator({}, view, down)): (view, down)
    for view in ("keys", "values", "items")
    for down in (False, True)
}


def reduce_dict_iterator(iterator: Any) -> Any:
    table = next((part for part in gc.get_referents(iterator) if isinstance(part, dict)), None)
    if table is None:
        return iter, ((),)
    reason = probe.unfit()
    if reason:
        raise pickle.PicklingError(f"iterators over dicts cannot be kept here: {reason}")
    view, down = _dict_iterators[type(iterator)]
    fresh = make_dict_iterator(table, view, down)
    position = layout.dict_position(iterator, fresh, down=down)
    loading.session().suspended = True
    state = (table, down, *position)
    return make_dict_iterator, (table, view, down), state, None, None, set_dict_place


def make_view(table: Any, name: str) -> Any:
    return getattr(dict, name)(table)


_views = {type(make_view({}, name)): name for name in ("keys", "values", "items")}


def reduce_view(view: Any) -> Any:
    return make_view, (gc.get_referents(view)[0], _views[type(view)])


# --- sets


class SetIterator:
    """Goes on where the iterator over a set was, and notices as it does that the set changed."""

    __slots__ = ("left", "size", "walked")

    walked: set[Any] | frozenset[Any]
    size: int
    left: list[Any]

    def __iter__(self) -> SetIterator:
        return self

    def __next__(self) -> Any:
        if len(self.walked) != self.size:
            self.size = -1
            raise RuntimeError("Set changed size during iteration")
        if not self.left:
            raise StopIteration
        return self.left.pop()

    def __length_hint__(self) -> int:
        return len(self.left)


def make_set_iterator() -> SetIterator:
    return SetIterator()


def fill_set_iterator(iterator: SetIterator, state: tuple[Any, int, list[Any]]) -> None:
    iterator.walked, iterator.size, iterator.left = state


def reduce_set_iterator(iterator: Any) -> Any:
    walked = next(iter(gc.get_referents(iterator)), None)
    if walked is None:
        return iter, ((),)
    state = (walked, len(walked), iterator.__reduce__()[1][0][::-1])
    return make_set_iterator, (), state, None, None, fill_set_iterator


def reduce_own_set_iterator(iterator: SetIterator) -> Any:
    state = (iterator.walked, iterator.size, iterator.left)
    return make_set_iterator, (), state, None, None, fill_set_iterator


# --- itertools


def set_quietly(iterator: Any, state: Any) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        iterator.__setstate__(state)


def reduce_itertool(iterator: Any) -> Any:
    """As itertools has it, without the warning that 3.14 will not have it any more."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        reduced = iterator.__reduce__()
    if len(reduced) == 2 or reduced[2] is None:
        return reduced
    return *reduced[:3], None, None, set_quietly


class Pairwise:
    """Goes on where an itertools.pairwise was, which can only be made at its beginning."""

    __slots__ = ("iterator", "last")

    def __init__(self, iterator: Any, *last: Any) -> None:
        self.iterator = iterator
        self.last = last

    def __iter__(self) -> Pairwise:
        return self

    def __next__(self) -> tuple[Any, Any]:
        if self.iterator is None:
            raise StopIteration
        try:
            first = self.last[-1] if self.last else next(self.iterator)
            self.last = pair = (first, next(self.iterator))
        except BaseException:
            # Whatever ends it ends it for good.
            self.iterator, self.last = None, ()
            raise
        return pair


def reduce_pairwise(pairwise: Any) -> Any:
    """What it walks, and the item it has seen last. One that has ended has neither."""
    if type(pairwise) is Pairwise:
        held = [pairwise.iterator, *pairwise.last[-1:]] if pairwise.iterator is not None else []
    else:
        held = _held_by_pairwise(pairwise)
    return (Pairwise, tuple(held)) if held else (iter, ((),))


def _held_by_pairwise(pairwise: Any) -> list[Any]:
    held = [part for part in gc.get_referents(pairwise) if part is not itertools.pairwise]
    # The tuple that it may give once more, where it has one (3.13).
    return held[: len(held) - _SPARE]


_SPARE = 0
_SPARE = len(_held_by_pairwise(itertools.pairwise(()))) - 1


def refuse(iterator: Any) -> Any:
    raise pickle.PicklingError("how far it has come cannot be seen; iterate over a list() of it")


_refused: tuple[type, ...] = (
    type(iter(collections.deque())),
    type(reversed(collections.deque())),
    type(iter(collections.OrderedDict())),
)

REDUCERS: dict[type, Any] = {
    type(iter([])): reduce_list_iterator,
    type(reversed([])): reduce_list_iterator,
    **dict.fromkeys(_dict_iterators, reduce_dict_iterator),
    **dict.fromkeys(_views, reduce_view),
    type(iter(set())): reduce_set_iterator,
    SetIterator: reduce_own_set_iterator,
    **{
        cls: reduce_itertool
        for cls in vars(itertools).values()
        if isinstance(cls, type) and cls.__module__ == "itertools"
    },
    itertools.pairwise: reduce_pairwise,
    Pairwise: reduce_pairwise,
    **dict.fromkeys(_refused, refuse),
}
