"""Names of modules of an older version of the code, which is loaded beside the code of now.

The module `shop.models` of version `3f2a…` is `shop@3f2a….models` to Python, so that both are
there at once, each with its own classes and global variables. Whatever is written (journal,
snapshots, names of steps) has the plain name. Code that goes on in a later version than its own
is `shop@OLD+LATER.models`: old functions, among the classes of the later one.
"""

from __future__ import annotations


def plain(module: str) -> str:
    """The name as its author knows it."""
    if "@" not in module:
        return module
    top, dot, rest = module.partition(".")
    return top.partition("@")[0] + dot + rest


def mark_of(module: str) -> str:
    """Which version a module is of, with what it is laid over: `OLD` or `OLD+LATER`; or empty."""
    return module.partition(".")[0].partition("@")[2]


def marked(module: str, mark: str) -> str:
    """The name under which Python knows a module of that version."""
    if not mark:
        return module
    top, dot, rest = module.partition(".")
    return f"{top}@{mark}{dot}{rest}"
