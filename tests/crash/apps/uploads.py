"""An object that is sent long bodies, by clients that are cut off by kills."""

from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, Response

from perdure import Object


class Depot(Object):
    """Counts what it takes of each body, and how each ended."""

    taken: int = 0
    ends: list[str] = []

    async def on_request(self, request: Request) -> Response:
        try:
            async for piece in request.stream():
                self.taken += len(piece)
        except ClientDisconnect:
            self.ends.append("cut off")
            raise
        self.ends.append("whole")
        return PlainTextResponse(str(self.taken))

    async def read(self) -> tuple[int, list[str]]:
        return self.taken, self.ends
