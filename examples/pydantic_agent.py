"""A pydantic-ai agent that survives whatever happens to its server.

    pip install pydantic-ai-slim[openai]
    MODEL=openai:gpt-5 OPENAI_API_KEY=... perdure dev examples/pydantic_agent.py

    perdure call Guide/ada ask question='What shall I wear in Lisbon?'
    perdure call Guide/ada book city=Lisbon          # waits for a human
    perdure promises

The agent's own loop runs inside the object, since Python is durable there. Only what reaches the
outside has to be a step: the request to the model, by way of a WrapperModel, and what tools do. The
ids of a run are handed in, as pydantic-ai would make them of state that a replay does not have.
Without MODEL it is pydantic-ai's own TestModel, which needs no network.
"""

import os
import uuid
from datetime import timedelta

from pydantic_ai import Agent, ModelMessage, ModelResponse, RunContext
from pydantic_ai.models import ModelRequestParameters, infer_model
from pydantic_ai.models.wrapper import WrapperModel
from pydantic_ai.settings import ModelSettings

from perdure import Object, Promise, Retry, query, step

MODEL = infer_model(os.environ.get("MODEL", "test"))


@step(retry=Retry(attempts=8, max_delay=120), timeout=300)
async def request(
    messages: list[ModelMessage],
    settings: ModelSettings | None,
    parameters: ModelRequestParameters,
) -> ModelResponse:
    """One answer of the model: paid for once, whatever crashes behind it."""
    return await MODEL.request(messages, settings, parameters)


class DurableModel(WrapperModel):
    """A model whose requests are steps."""

    async def request(
        self,
        messages: list[ModelMessage],
        model_settings: ModelSettings | None,
        model_request_parameters: ModelRequestParameters,
    ) -> ModelResponse:
        return await request(messages, model_settings, model_request_parameters)


@step(retry=Retry(attempts=5))
async def look_up(city: str) -> str:
    """The weather in a city."""
    return f"rain in {city}, 14 degrees"  # a weather service here


@step(retry=Retry(attempts=20))
async def reserve(city: str) -> str:
    """A room in a city; gives the number of the reservation."""
    return f"a room in {city}"  # a booking service here, with step_id() as idempotency key


agent = Agent(DurableModel(MODEL), deps_type=str, instructions="You help people who travel.")


@agent.tool_plain
async def weather(city: str) -> str:
    """The weather in a city."""
    return await look_up(city)


@agent.tool
async def book_room(context: RunContext[str], city: str) -> str:
    """Book a room, if a human allows it within a day."""
    allowed = Promise[bool](timeout=timedelta(days=1))
    try:
        return await reserve(city) if await allowed else f"{context.deps} may not book"
    except TimeoutError:
        return "nobody was there to allow it"


class Guide(Object):
    """A conversation; its key is whose it is."""

    def __init__(self) -> None:
        self._history: list[ModelMessage] = []

    async def ask(self, question: str) -> str:
        """Answer a question, with what was said before in mind."""
        result = await agent.run(
            question,
            deps=self.key,
            message_history=self._history,
            run_id=str(uuid.uuid4()),
            conversation_id=self.address,
        )
        self._history = result.all_messages()
        return result.output

    async def book(self, city: str) -> str:
        return await self.ask(f"Book a room in {city}.")

    @query
    async def length(self) -> int:
        """How many messages there were."""
        return len(self._history)
