"""Read by mypy and pyright alone: an App is an ASGI application, and its hooks are typed."""

from __future__ import annotations

from dataclasses import dataclass

from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.routing import Mount

from perdure import Action, App, Forbidden, Object, Unauthorized, current, query


@dataclass(frozen=True)
class User:
    name: str


class Diary(Object):
    pages: list[str] = []

    async def authorize(self, principal: User, action: Action) -> None:
        if action.kind != "query" and principal.name != self.key:
            raise Forbidden(f"{principal.name} may not {action.handler}")

    async def write(self, page: str) -> str:
        self.pages.append(page)
        return str(current().principal)

    @query
    def read(self) -> list[str]:
        return self.pages


async def authorize(request: Request) -> User:
    name = request.headers.get("x-user")
    if name is None:
        raise Unauthorized("who are you?")
    return User(name)


def authorize_at_once(request: Request) -> User:
    return User(request.headers["x-user"])


app = App([Diary], authorize=authorize, data=".perdure", turn_timeout=5.0)
at_once = App([Diary], authorize=authorize_at_once, store="memory:")
api = FastAPI(lifespan=app.lifespan)
api.mount("/objects", app)
site = Starlette(routes=[Mount("/objects", app)], lifespan=app.lifespan)

App(Diary)  # type: ignore[arg-type]
App([str])  # type: ignore[list-item]
