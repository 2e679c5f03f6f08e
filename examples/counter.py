"""A counter that never forgets.

    perdure dev examples/counter.py

    curl -d '{"by": 2}' http://127.0.0.1:7373/Counter/lobby/increment     # 2
    curl http://127.0.0.1:7373/Counter/lobby/read                         # 2

Kill the process with -9, start it again, and read once more.
"""

from perdure import Object, query


class Counter(Object):
    """A counter that never forgets."""

    value: int = 0

    async def increment(self, by: int = 1) -> int:
        self.value += by
        return self.value

    @query
    async def read(self) -> int:
        return self.value
