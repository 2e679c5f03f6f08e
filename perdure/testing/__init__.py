"""The testing kit: the whole runtime inside a test, in virtual time. See docs/testing.md.

pytest finds the `world` fixture by itself. Elsewhere: `perdure.testing.run(main())`, and inside of
it `async with World(Order) as world`.
"""

from perdure.testing.attempts import StepCall
from perdure.testing.everywhere import Sweep
from perdure.testing.faults import FaultyStore
from perdure.testing.sockets import FakeClient
from perdure.testing.virtual import run_virtual as run
from perdure.testing.world import World

__all__ = ["FakeClient", "FaultyStore", "StepCall", "Sweep", "World", "run"]
