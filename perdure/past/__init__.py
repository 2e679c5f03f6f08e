"""The past of every object: its state at each turn, what changed, its errors, run again or forked.

All of it happens on copies. A look never disturbs the live object: nothing is journaled, nothing
leaves, and what the copied code would do to the outside is left undone.
"""
