"""The agent: each answer asked for once, each tool used once, no word lost, wherever it crashes."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from typing import Any

import httpx
import pytest

from examples import agent as example
from examples.agent import Agent, pay, weather
from perdure import Promise
from perdure.testing import World
from tests.examples.ledger import Ledger
from tests.examples.model import Model, serving, words


async def listen(question: str, key: str = "ada") -> list[str]:
    """The words of an answer, as they come."""
    return [word async for word in Agent.at(key).ask(question)]


async def fake(request: httpx.Request) -> httpx.Response:
    """The stand-in without its wire, a word a second."""
    lines = [f"data: {json.dumps({'choices': [{'delta': delta}]})}\n\n".encode()
             for delta in words(json.loads(request.content)["messages"])]  # fmt: skip

    async def body() -> AsyncIterator[bytes]:
        for line in (*lines, b"data: [DONE]\n\n"):
            await asyncio.sleep(1)
            yield line

    return httpx.Response(200, headers={"Content-Type": "text/event-stream"}, content=body())


async def with_tools(world: World) -> Ledger:
    ledger = Ledger()

    def look(city: str) -> str:
        ledger.note("weather", city)
        return f"rain in {city}"

    def paid(cents: int) -> str:
        ledger.note("pay", cents)
        return f"paid {cents}"

    await world.replace(weather, look)
    await world.replace(pay, paid)
    return ledger


async def test_it_uses_a_tool_and_tells(world: World) -> None:
    await world.http(fake)
    ledger = await with_tools(world)
    assert " ".join(await listen("umbrella?")) == "Let me see. I heard : rain in Lisbon ."
    assert ledger.done() == [("weather", "Lisbon")]
    roles = [message["role"] for message in await Agent.at("ada").messages()]
    assert roles == ["user", "assistant", "tool", "assistant"]


async def test_a_human_allows_after_two_days(world: World) -> None:
    await world.http(fake)
    ledger = await with_tools(world)
    answer = asyncio.create_task(listen("a refund, please"))
    await world.advance(timedelta(days=1))
    await world.crash()
    await world.hibernate()
    await world.advance(timedelta(days=1))
    assert ledger.done() == []
    ((token, what),) = (await Agent.at("ada").waiting()).items()
    assert what == "pay 500 cents"
    await Promise.resolve(token, True)
    assert " ".join(await answer) == "Let me ask. I heard : paid 500 ."
    assert ledger.done() == [("pay", 500)]
    assert await Agent.at("ada").waiting() == {}


@pytest.mark.parametrize("answer", [False, None], ids=["no", "silence"])
async def test_what_a_human_does_not_allow_is_not_done(answer: bool | None, world: World) -> None:
    await world.http(fake)
    ledger = await with_tools(world)
    listening = asyncio.create_task(listen("a refund, please"))
    await world.advance(timedelta(days=1))
    if answer is not None:
        (token,) = await Agent.at("ada").waiting()
        await Promise.resolve(token, answer)
    assert " ".join(await listening) == "Let me ask. I heard : not allowed ."
    assert ledger.done() == []


async def scenario(world: World) -> Any:
    await world.http(fake)
    ledger = await with_tools(world)
    heard = await listen("umbrella?")
    answer = asyncio.create_task(listen("a refund, please"))
    await world.advance(timedelta(hours=1))
    await world.hibernate()
    (token,) = await Agent.at("ada").waiting()
    await Promise.resolve(token, True)
    return heard, await answer, ledger.done(), await Agent.at("ada").messages()


async def test_a_crash_anywhere_changes_nothing(world: World) -> None:
    sweep = await world.crash_everywhere(scenario)
    heard, answer, done, messages = sweep.result
    assert len(heard) == 8 and len(answer) == 7
    assert done == [("weather", "Lisbon"), ("pay", 500)]
    assert len(messages) == 8


# --- against the model's interface


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> Iterator[Model]:
    with serving() as standing_in:
        monkeypatch.setattr(example, "MODEL_URL", standing_in.url)
        yield standing_in


async def test_words_come_over_http(model: Model, world: World) -> None:
    await with_tools(world)
    assert " ".join(await listen("umbrella?")) == "Let me see. I heard : rain in Lisbon ."
    assert sorted(model.requests.values()) == [1, 1]


async def test_an_answer_that_breaks_off_goes_on_behind_what_came(
    model: Model, world: World
) -> None:
    model.break_off = 2
    assert await listen("a b c d") == ["You", "said", ":", "a", "b", "c", "d"]
    assert list(model.requests.values()) == [3]
    assert (await Agent.at("ada").messages())[-1]["content"] == "Yousaid:abcd"
