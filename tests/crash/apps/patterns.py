"""The examples as one app; what their steps do is done by the ledger outside (LEDGER_URL)."""

from __future__ import annotations

import dataclasses
import os
from typing import Any

import httpx

from examples import agent
from examples.agent import Agent
from examples.approval import Expense
from examples.crawler import Crawl
from examples.fan_out import Report, Station
from examples.order import Order, Refused, Stock
from examples.transfer import Account, Transfer
from perdure import App, step_id, steps
from perdure.steps import Step

LEDGER_URL = os.environ["LEDGER_URL"]
agent.MODEL_URL = f"{LEDGER_URL}/v1"


async def asked(name: str, args: tuple[Any, ...]) -> Any:
    async with httpx.AsyncClient(timeout=20) as client:
        headers = {"Idempotency-Key": step_id()}
        answer = await client.post(f"{LEDGER_URL}/steps/{name}", json=list(args), headers=headers)
    if answer.status_code == 409:
        raise Refused(answer.text)
    return answer.raise_for_status().json()


def outside(step: Step) -> Step:
    if not step.name.startswith("examples."):
        return step
    name = step.name.rpartition(":")[2]

    async def ask(*args: Any) -> Any:
        return await asked(name, args)

    return dataclasses.replace(step, function=ask)


steps.stand_in(outside)

app = App([Order, Stock, Transfer, Account, Report, Station, Expense, Crawl, Agent])
