"""examples/cart.py on a real server: exact totals, and a wait that outlives its process."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.examples.conftest import Server


def test_totals_are_exact_decimals(serve: Callable[[str], Server]) -> None:
    server = serve("cart.py")
    assert server.call("Cart/ada", "add", sku="tea", price="4.20", quantity=2) == "8.40"
    assert server.call("Cart/ada", "add", sku="mug", price="11.50") == "19.90"
    assert server.call("Cart/ada", "add", sku="mug", price="11.50") == "31.40"
    assert server.call("Cart/ada", "change", sku="tea", quantity=0) == "23.00"
    assert server.read("Cart/ada", "show") == [{"sku": "mug", "price": "11.50", "quantity": 2}]
    receipt = server.call("Cart/ada", "check_out")
    assert receipt["total"] == "23.00"
    assert server.read("Cart/ada", "total") == "0"
    assert server.problem("Cart/ada", "check_out")["error"] == "ValueError"


def test_a_wrong_price_is_refused_with_its_path(serve: Callable[[str], Server]) -> None:
    server = serve("cart.py")
    problem = server.problem("Cart/ada", "add", sku="tea", price="cheap")
    assert problem["code"] == "invalid-arguments"
    assert [error["path"] for error in problem["errors"]] == ["$.price"]


def test_carts_do_not_share_their_default(serve: Callable[[str], Server]) -> None:
    server = serve("cart.py")
    server.call("Cart/ada", "add", sku="tea", price="4.20")
    assert server.read("Cart/grace", "show") == []


def test_a_cart_left_standing_empties_itself_across_a_kill(
    serve: Callable[[str], Server],
) -> None:
    server = serve("cart.py")
    server.call("Cart/ada", "add", sku="tea", price="4.20")
    server.call("Cart/grace", "add", sku="tea", price="4.20")
    server.call("Cart/ada", "keep_for", seconds=1.5)
    server.kill()
    server.start()
    deadline = time.monotonic() + 20
    while server.read("Cart/ada", "show"):
        assert time.monotonic() < deadline, "the cart never emptied itself"
        time.sleep(0.05)
    assert len(server.read("Cart/grace", "show")) == 1
