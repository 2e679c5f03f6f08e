"""An agent: a language model in a loop with tools, its words as they come, and a human in between.

    MODEL_URL=http://127.0.0.1:11434/v1 MODEL=qwen3 perdure dev examples/agent.py

    curl -N -d '{"question": "Do I need an umbrella in Lisbon?"}' http://127.0.0.1:7373/Agent/ada/ask
    perdure promises                                                   # what a human has to allow
    curl -d 'true' http://127.0.0.1:7373/_perdure/promises/TOKEN

Any server with OpenAI's interface will do. The loop is ordinary Python, so all of it is durable: an
answer that was paid for is never asked for again, a tool never used twice for one call, and whoever
listens comes back with `Last-Event-ID` and misses no word.
"""

import json
import os
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from perdure import Object, Promise, Retry, http, query, step

MODEL_URL = os.environ.get("MODEL_URL", "http://127.0.0.1:11434/v1")
MODEL = os.environ.get("MODEL", "qwen3")

Message = dict[str, Any]

TOOLS = [
    {
        "type": "function",
        "function": {
            "name": name,
            "description": what,
            "parameters": {
                "type": "object",
                "properties": {argument: {"type": kind}},
                "required": [argument],
            },
        },
    }
    for name, what, argument, kind in [
        ("weather", "The weather in a city.", "city", "string"),
        ("pay", "Pay an amount to the traveller.", "cents", "integer"),
    ]
]


@dataclass(frozen=True)
class ToolCall:
    """What the model wants to have done."""

    id: str
    name: str
    arguments: str


async def complete(messages: list[Message]) -> AsyncIterator[str | ToolCall]:
    """One answer of the model: its words as they come, and the tools that it wants to use.

    A stream that breaks off is asked for again, with the same key; what was heard is left out.
    """
    body = {"model": MODEL, "messages": messages, "tools": TOOLS, "stream": True}
    url = f"{MODEL_URL}/chat/completions"
    async for event in http.events("POST", url, json=body, retry=Retry(attempts=10)):
        if event.data == "[DONE]":
            return
        delta = event.json()["choices"][0]["delta"]
        if delta.get("content"):
            yield delta["content"]
        for call in delta.get("tool_calls") or ():
            yield ToolCall(call["id"], call["function"]["name"], call["function"]["arguments"])


@step(retry=Retry(attempts=5))
async def weather(city: str) -> str:
    """The weather in a city."""
    return f"rain in {city}, 14 degrees"  # a weather service here


@step(retry=Retry(attempts=20))
async def pay(cents: int) -> str:
    """Pay somebody."""
    return f"paid {cents} cents"  # a payment service here, with step_id() as idempotency key


class Agent(Object):
    """A conversation; its key is whose it is."""

    def __init__(self) -> None:
        self._messages: list[Message] = []
        self._asked: dict[str, str] = {}

    async def ask(self, question: str) -> AsyncIterator[str]:
        """Answer a question, word by word."""
        self._messages.append({"role": "user", "content": question})
        while True:
            words: list[str] = []
            calls: list[ToolCall] = []
            async for item in complete(list(self._messages)):
                if isinstance(item, ToolCall):
                    calls.append(item)
                else:
                    words.append(item)
                    yield item
            self._messages.append(_said("".join(words), calls))
            if not calls:
                return
            for call in calls:
                done = {"role": "tool", "tool_call_id": call.id, "content": await self._use(call)}
                self._messages.append(done)

    async def _use(self, call: ToolCall) -> str:
        arguments = json.loads(call.arguments)
        if call.name == "weather":
            return await weather(arguments["city"])
        if call.name == "pay":
            cents = int(arguments["cents"])
            return await pay(cents) if await self._allowed(f"pay {cents} cents") else "not allowed"
        return f"there is no tool {call.name}"

    async def _allowed(self, what: str) -> bool:
        """Ask a human, who has three days to answer."""
        promise = Promise[bool](timeout=timedelta(days=3))
        self._asked[promise.token] = what
        try:
            return await promise
        except TimeoutError:
            return False
        finally:
            del self._asked[promise.token]

    @query
    async def waiting(self) -> dict[str, str]:
        """What a human has to allow, by token."""
        return self._asked

    @query
    async def messages(self) -> list[Message]:
        return self._messages


def _said(words: str, calls: list[ToolCall]) -> Message:
    message: Message = {"role": "assistant", "content": words}
    if calls:
        message["tool_calls"] = [
            {
                "id": call.id,
                "type": "function",
                "function": {"name": call.name, "arguments": call.arguments},
            }
            for call in calls
        ]
    return message
