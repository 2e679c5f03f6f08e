"""An expense that somebody has to approve: with a reminder each day, and an end after a week.

    perdure dev examples/approval.py

    perdure send Expense/17 submit what=chair cents=30000 boss=grace
    perdure promises                                                      # what waits for whom
    curl -d '{"yes": true, "by": "grace"}' http://127.0.0.1:7373/_perdure/promises/TOKEN
    curl http://127.0.0.1:7373/Expense/17/status                          # "approved by grace"

The week is counted from the submission, whatever crashes, sleeps or is deployed meanwhile.
"""

import asyncio
from dataclasses import dataclass
from datetime import timedelta

from perdure import Object, Promise, Retry, query, sleep, step

WEEK = timedelta(days=7)


@dataclass(frozen=True)
class Decision:
    """What the boss said."""

    yes: bool
    by: str
    why: str = ""


@step(retry=Retry(attempts=20))
async def mail(to: str, text: str) -> None:
    """Send a mail."""
    print(f"to {to}: {text}")  # your mail service here, with step_id() as idempotency key


class Expense(Object):
    """Money that somebody wants to spend."""

    state: str = "new"

    async def submit(self, what: str, cents: int, boss: str) -> str:
        """Ask the boss; gives what came of it."""
        if self.state != "new":
            raise ValueError(f"{self.address} was submitted before")
        promise = Promise[Decision](timeout=WEEK)
        self.state = f"waits for {boss}"
        question = f"{what} for {cents / 100:.2f}? Answer with {promise.token}"
        await mail(boss, question)
        reminders = asyncio.create_task(self._remind(boss, question))
        try:
            decision = await promise
            answer = "approved" if decision.yes else "refused"
            self.state = f"{answer} by {decision.by}"
        except TimeoutError:
            self.state = "refused: nobody answered within a week"
        finally:
            reminders.cancel()
        return self.state

    async def _remind(self, boss: str, question: str) -> None:
        while True:
            await sleep(timedelta(days=1))
            await mail(boss, f"a reminder: {question}")

    @query
    async def status(self) -> str:
        return self.state
