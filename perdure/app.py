"""App: classes and settings as one ASGI application.

`perdure serve` takes the classes, the settings and the hook from it and serves them by its own
front. Under any other server the App is the application itself:

    app = App([Room, Counter])                    # uvicorn module:app

    web = FastAPI(lifespan=app.lifespan)          # or mounted in another application
    web.mount("/objects", app)

Its lifespan starts the node and drains it. Without one there is nobody to answer a request, and
the App says so instead of starting in the middle of one.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import structlog

from perdure.errors import BadApp, PerdureError
from perdure.kind import kind_of
from perdure.logs import logger
from perdure.object import Object
from perdure.ref import Ref
from perdure.settings import Settings, load_settings

# The layers are loaded when a node starts: a program that imports perdure to call, or to look at
# a class, needs none of them.
if TYPE_CHECKING:
    from perdure.gateway.asgi import Receive, Scope, Send
    from perdure.gateway.http import Authorize, Gateway


_NOT_STARTED = (
    "this perdure App has not been started, so no object can be reached.\n"
    "  Mounted in another application, add lifespan=app.lifespan there: "
    "FastAPI(lifespan=app.lifespan). Under a server of its own, leave its lifespan on."
)


class App:
    """What is served: classes, who may call them, and the settings.

    `authorize(request) -> principal` is asked before each call. It gets a Starlette Request, may
    be async, and raises Unauthorized or Forbidden to refuse; what it returns is the principal
    that `perdure.current()` and an object's own `authorize` see.

    `objects` are refs to the objects that `@every` and `@cron` run for: `[Janitor.at("main")]`.
    They come into being when the node starts.

    Raises BadSettings for an unknown setting or a bad value, InvalidClass or BadApp for a class
    that cannot be served.
    """

    def __init__(
        self,
        classes: Sequence[type[Object]],
        authorize: Authorize | None = None,
        *,
        objects: Sequence[object] = (),
        **settings: Any,
    ) -> None:
        self.classes: tuple[type[Object], ...] = tuple(classes)
        self.authorize = authorize
        self.settings: Settings = load_settings(settings)
        self._gateway: Gateway | None = None
        _check(self.classes)
        self.objects: tuple[Any, ...] = tuple(objects)
        _check_objects(self.objects, self.classes)

    @asynccontextmanager
    async def lifespan(self, app: object = None) -> AsyncIterator[None]:
        """Start the node, and drain it at the end: `FastAPI(lifespan=app.lifespan)`."""
        if self._gateway is not None:
            raise BadApp(
                "this App is running already",
                hint="Leave it to one lifespan: of the application it is mounted in, or its own.",
            )
        from perdure.gateway.http import Gateway
        from perdure.node import Node

        _log_as_the_process_does()
        node = Node(self.classes, self.settings, objects=self.objects)
        await node.start()
        try:
            if self.settings.store != "memory:":
                _warn_of_hash_seed(node.layout.hash_seed)
            self._gateway = Gateway(
                node.host, self.settings, self.authorize, ready=lambda: node.ready
            )
            yield
        finally:
            self._gateway = None
            await node.drain()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The ASGI application."""
        from perdure.gateway.asgi import serve_http, target_of
        from perdure.gateway.asgi_websocket import serve_websocket

        if scope["type"] == "lifespan":
            await self._run_lifespan(receive, send)
        elif self._gateway is None:
            await _refuse(scope, send)
            raise BadApp(_NOT_STARTED)
        elif scope["type"] == "http":
            await serve_http(self._gateway, scope, receive, send)
        else:
            await serve_websocket(self._gateway, scope, target_of(scope), receive, send)

    async def _run_lifespan(self, receive: Receive, send: Send) -> None:
        await receive()
        started = False
        try:
            async with self.lifespan():
                started = True
                await send({"type": "lifespan.startup.complete"})
                await receive()
        except Exception as error:
            # The server prints this and exits; of what perdure raises on purpose the text says all.
            expected = isinstance(error, PerdureError)
            message = str(error) if expected else traceback.format_exc()
            moment = "shutdown" if started else "startup"
            await send({"type": f"lifespan.{moment}.failed", "message": message})
        else:
            await send({"type": "lifespan.shutdown.complete"})


def _log_as_the_process_does() -> None:
    """In somebody else's process, what perdure has to say goes to the standard library's logging,
    unless structlog has been told otherwise there."""
    if not structlog.is_configured():
        structlog.configure(
            processors=[structlog.stdlib.render_to_log_kwargs],
            wrapper_class=structlog.stdlib.BoundLogger,
            logger_factory=structlog.stdlib.LoggerFactory(),
        )


def _check(classes: Sequence[Any]) -> None:
    """Whatever can be seen to be wrong with a class is said where the App is made."""
    for cls in classes:
        if not (isinstance(cls, type) and issubclass(cls, Object)):
            raise BadApp(
                f"{cls!r} is no subclass of perdure.Object",
                hint="Such as: class Room(Object), and then App([Room]).",
            )
        kind_of(cls)


def _check_objects(objects: Sequence[Any], classes: Sequence[Any]) -> None:
    served = {cls.__perdure_name__ for cls in classes}
    for ref in objects:
        if not isinstance(ref, Ref):
            raise BadApp(
                f"objects= takes refs, not {ref!r}", hint="Such as: objects=[Janitor.at('main')]."
            )
        if ref._kind not in served:
            raise BadApp(
                f"{ref.address} is named in objects=, but its class is not served",
                hint=f"Add {ref._kind} to the classes of the App.",
            )


def _warn_of_hash_seed(seed: int) -> None:
    """A set of strings has the same order in each process only if the hash seed is the same.

    `perdure serve` sets it; in somebody else's process it can only be asked for.
    """
    if sys.flags.hash_randomization and os.environ.get("PYTHONHASHSEED") == str(seed):
        return
    logger.warning(
        "sets of strings may change their order between restarts, and replay would notice; "
        f"start this process with PYTHONHASHSEED={seed}",
    )


async def _refuse(scope: Scope, send: Send) -> None:
    from perdure.gateway.problem import problem

    if scope["type"] != "http":
        await send({"type": "websocket.close", "code": 1011})
        return
    status, headers, body = problem("unavailable", _NOT_STARTED)
    await send({"type": "http.response.start", "status": status, "headers": list(headers)})
    await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else body})
