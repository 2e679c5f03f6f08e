"""examples/bank.py on a real server: money moves to the cent, across a kill too."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.examples.conftest import Server


def test_a_transfer_moves_money_between_two_accounts(serve: Callable[[str], Server]) -> None:
    server = serve("bank.py")
    server.call("Account/ada", "deposit", cents=10_000)
    assert server.call("Account/ada", "transfer", to="grace", cents=2_500) == 7_500
    assert server.read("Account/grace", "balance") == 2_500
    statement = server.read("Account/grace", "statement")
    assert [(line["cents"], line["text"]) for line in statement] == [(2_500, "from ada")]
    server.kill()
    server.start()
    assert server.read("Account/ada", "balance") == 7_500
    assert server.read("Account/grace", "statement") == statement


def test_a_transfer_without_the_funds_changes_nothing(serve: Callable[[str], Server]) -> None:
    server = serve("bank.py")
    server.call("Account/ada", "deposit", cents=100)
    before = server.read("Account/ada", "statement")
    for handler, arguments in [("transfer", {"to": "grace"}), ("withdraw", {})]:
        problem = server.problem("Account/ada", handler, cents=101, **arguments)
        assert problem["code"] == "handler-error"
        assert problem["error"] == "InsufficientFunds"
    assert server.read("Account/ada", "statement") == before
    assert server.read("Account/grace", "balance") == 0
    assert server.problem("Account/ada", "deposit", cents=0)["error"] == "ValueError"


def test_money_comes_back_from_a_closed_account(serve: Callable[[str], Server]) -> None:
    server = serve("bank.py")
    server.call("Account/ada", "deposit", cents=1_000)
    assert server.call("Account/grace", "close") == 0
    problem = server.problem("Account/ada", "transfer", to="grace", cents=400)
    assert problem["error"] == "AccountClosed"
    assert server.read("Account/ada", "balance") == 1_000
    assert server.read("Account/grace", "balance") == 0
    texts = [line["text"] for line in server.read("Account/ada", "statement")]
    assert texts == ["deposit", "to grace", "returned by grace"]


def test_transfers_in_a_circle_keep_the_sum(serve: Callable[[str], Server]) -> None:
    server = serve("bank.py")
    names = [f"account-{n}" for n in range(4)]
    for name in names:
        server.call(f"Account/{name}", "deposit", cents=1_000)

    def pay(n: int) -> None:
        giver, taker = names[n % 4], names[(n + 1) % 4]
        server.call(f"Account/{giver}", "transfer", to=taker, cents=1 + n % 7)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(pay, range(100)))
    server.kill()
    server.start()
    balances = [server.read(f"Account/{name}", "balance") for name in names]
    assert sum(balances) == 4_000


def test_a_payment_that_is_sent_again_is_paid_once(serve: Callable[[str], Server]) -> None:
    server = serve("bank.py")
    server.call("Account/ada", "deposit", cents=1_000)
    for again in (False, True):
        answer = server.client.post(
            "/Account/ada/transfer",
            json={"to": "grace", "cents": 300},
            headers={"Idempotency-Key": "rent-may"},
        )
        assert answer.json() == 700
        assert ("Idempotent-Replayed" in answer.headers) is again
    assert server.read("Account/grace", "balance") == 300
