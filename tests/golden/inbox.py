"""The app of the golden files of long bodies (make_uploads.py). Not to be changed: they hold its
source."""

import asyncio

from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, Response

from perdure import Object, query


class Inbox(Object):
    log: list[str] = []

    async def on_request(self, request: Request) -> Response:
        try:
            async for piece in request.stream():
                self.log.append(piece.decode())
                if piece.startswith(b"nap"):
                    await asyncio.sleep(3600)
        except ClientDisconnect:
            self.log.append("gone")
            raise
        return PlainTextResponse(f"{len(self.log)}")

    @query
    def read(self) -> list[str]:
        return self.log


class Queue(Inbox, reentrant=False):
    """One request at a time."""
