"""A pydantic-ai agent inside an object: requests and tools once each, wherever it crashes."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from pydantic_ai import ModelMessage, ModelResponse
from pydantic_ai.messages import TextPart, ToolCallPart
from pydantic_ai.models.function import AgentInfo, FunctionModel

from examples import pydantic_agent as example
from examples.pydantic_agent import Guide, look_up, request, reserve
from perdure import Promise
from perdure.testing import World
from tests.examples.ledger import Ledger


async def speak(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
    """A model that uses the tool that the question is about, and tells what it heard."""
    last = messages[-1].parts[-1]
    if last.part_kind != "user-prompt":
        return ModelResponse(parts=[TextPart(f"I heard: {last.content}")])  # type: ignore[union-attr]
    question = str(last.content)
    if "Book" in question:
        return ModelResponse(parts=[ToolCallPart("book_room", {"city": "Lisbon"})])
    return ModelResponse(parts=[ToolCallPart("weather", {"city": "Lisbon"})])


@pytest.fixture(autouse=True)
def _model(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with monkeypatch.context() as patch:
        patch.setattr(example, "MODEL", FunctionModel(speak))
        yield


async def prepared(world: World) -> Ledger:
    ledger = Ledger()

    async def counted(*arguments: Any) -> ModelResponse:
        ledger.note("request", len(arguments[0]))
        return await example.MODEL.request(*arguments)

    await world.replace(request, counted)
    await world.replace(look_up, ledger.noting("weather"))
    await world.replace(reserve, ledger.noting("room"))
    return ledger


async def test_it_remembers_what_was_said(world: World) -> None:
    ledger = await prepared(world)
    guide = world.at(Guide, "ada")
    assert await guide.ask("What shall I wear?") == "I heard: weather-2"
    await world.hibernate()
    assert await guide.ask("And tomorrow?") == "I heard: weather-5"
    assert await guide.length() == 8
    assert [effect[0] for effect in ledger.done()] == ["request", "weather", "request"] * 2


@pytest.mark.parametrize(
    ("answer", "heard"),
    [(True, "room-2"), (False, "ada may not book"), (None, "nobody was there to allow it")],
)
async def test_a_human_allows(answer: bool | None, heard: str, world: World) -> None:
    ledger = await prepared(world)
    booking = asyncio.create_task(world.at(Guide, "ada").book("Lisbon"))
    await world.advance(timedelta(hours=20))
    await world.crash()
    if answer is not None:
        (promise,) = await world.promises(Guide.at("ada"))
        await Promise.resolve(promise["token"], answer)
    assert await booking == f"I heard: {heard}"
    assert ledger.count("request") == 2


@pytest.mark.perdure(replay=True)
async def test_its_loop_is_deterministic(world: World) -> None:
    await prepared(world)
    for number in range(5):
        await world.at(Guide, "ada").ask(f"question {number}")
    assert world.rebuilt > 10


async def scenario(world: World) -> Any:
    ledger = await prepared(world)
    guide = world.at(Guide, "ada")
    heard = [await guide.ask("What shall I wear?"), await guide.ask("And tomorrow?")]
    await world.hibernate()
    return heard, ledger.done(), await guide.length()


async def test_a_crash_anywhere_changes_nothing(world: World) -> None:
    sweep = await world.crash_everywhere(scenario)
    assert len(sweep.result[1]) == 6


async def test_by_default_it_needs_no_network(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(example, "MODEL", example.infer_model("test"))
    asking = asyncio.create_task(world.at(Guide, "ada").ask("Hello"))
    await world.advance(timedelta(days=2))
    assert "weather" in await asking
