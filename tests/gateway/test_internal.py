"""What lies under /_perdure/, and who may ask for it."""

from __future__ import annotations

from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from perdure.errors import Unauthorized, UnknownObject
from perdure.gateway.http import Gateway
from perdure.gateway.problem import CODES
from perdure.settings import Settings
from tests.gateway.fakes import FakeHost, Reply, hand, settle

ADMIN = [
    *("metrics", "classes", "objects", "objects/Counter/a", "objects/Counter/a/why"),
    *("doctor", "quarantine"),
]


class AdminHost(FakeHost):
    """Writes down what it is asked for."""

    rows = 3

    async def list_objects(self, *given: Any) -> list[dict[str, Any]]:
        self.done.append(("list_objects", *given))
        return [{"address": f"Counter/{n}"} for n in range(min(self.rows, given[3]))]

    async def show(self, address: str) -> dict[str, Any]:
        if address == "Counter/none":
            raise UnknownObject(f"there is no object {address}")
        return {"address": address}

    async def history(self, *given: Any) -> list[dict[str, Any]]:
        self.done.append(("history", *given))
        return []

    async def why(self, address: str) -> list[dict[str, Any]]:
        self.done.append(("why", address))
        return []

    async def examine(self, *given: Any) -> dict[str, Any]:
        self.done.append(("examine", *given))
        return {}

    async def quarantined(self) -> list[dict[str, Any]]:
        return []

    async def delete(self, address: str) -> None:
        self.done.append(("delete", address))

    async def retry(self, address: str) -> None:
        self.done.append(("retry", address))

    async def skip(self, address: str) -> None:
        self.done.append(("skip", address))


def gateway(
    host: Any = None, authorize: Any = None, ready: Any = lambda: True, token: str = ""
) -> Gateway:
    return Gateway(host or AdminHost(), Settings(admin_token=token), authorize, ready=ready)


async def ask(g: Gateway, line: str, **facts: Any) -> Reply:
    method, path = line.split(" ")
    headers = facts.pop("headers", None)
    return await settle(hand(g, f"{method} /_perdure/{path}", headers=headers, **facts))


def code(reply: Reply) -> str:
    found = str(reply.json()["code"])
    assert reply.status == CODES[found][0]
    return found


# ---- who may


@pytest.mark.parametrize("path", ADMIN)
@pytest.mark.parametrize("remote", ["127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1"])
async def test_loopback_may_administrate(path: str, remote: str) -> None:
    assert (await ask(gateway(), f"GET {path}", remote=remote)).status == 200


@pytest.mark.parametrize("path", ADMIN)
@pytest.mark.parametrize("remote", ["10.0.0.1", "::2", "testclient", "", None])
async def test_nobody_else_may_without_a_token(path: str, remote: str | None) -> None:
    assert code(await ask(gateway(), f"GET {path}", remote=remote)) == "forbidden"
    assert code(await ask(gateway(token="s3"), f"GET {path}", remote=remote)) == "unauthorized"


@pytest.mark.parametrize("line", ["DELETE objects/Counter/a", "POST quarantine/Counter/a/skip"])
async def test_what_changes_something_is_not_done_for_strangers(line: str) -> None:
    host = AdminHost()
    assert code(await ask(gateway(host), line, remote="10.0.0.1")) == "forbidden"
    assert host.done == []


@pytest.mark.parametrize(
    ("field", "status"),
    [
        ("Bearer s3cret ä", 200),
        ("bearer  s3cret ä", 200),
        ("Bearer s3cret", 401),
        ("Bearer", 401),
        ("Bearer ", 401),
        ("Basic s3cret ä", 401),
        ("", 401),
    ],
)
async def test_the_token_opens_the_door(field: str, status: int) -> None:
    headers = [("Authorization", field)]
    g = gateway(token="s3cret ä")
    assert (await ask(g, "GET objects", remote="10.0.0.1", headers=headers)).status == status


async def test_no_token_is_no_empty_token() -> None:
    headers = [("Authorization", "Bearer ")]
    assert (await ask(gateway(), "GET objects", remote="10.0.0.1", headers=headers)).status == 403


PROXIED = {
    "proxy": [("X-Forwarded-For", "127.0.0.1")],
    "proxy by the standard": [("Forwarded", "for=127.0.0.1")],
    "proxy of another kind": [("X-Real-IP", "127.0.0.1")],
    "proxy that signs": [("Via", "1.1 proxy")],
    "page of another site": [("Host", "127.0.0.1:7373"), ("Origin", "https://evil.example")],
    "page without an origin": [("Host", "127.0.0.1:7373"), ("Origin", "null")],
    "rebound name": [("Host", "evil.example:7373")],
    "rebound name of its own": [
        ("Host", "evil.example:7373"),
        ("Origin", "http://evil.example:7373"),
    ],
}


@pytest.mark.parametrize("headers", PROXIED.values(), ids=PROXIED.keys())
async def test_loopback_that_speaks_for_somebody_else_is_a_stranger(
    headers: list[tuple[str, str]],
) -> None:
    assert code(await ask(gateway(), "GET objects", headers=headers)) == "forbidden"


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1:7373",
        "localhost",
        "localhost:80",
        "[::1]:7373",
        "perdure",
        "my.localhost",
        "",
        "::1",
    ],
)
async def test_loopback_by_any_of_its_names_is_loopback(host: str) -> None:
    headers = [("Host", host)]
    assert (await ask(gateway(), "GET objects", headers=headers)).status == 200
    headers.append(("Origin", f"http://{host}"))
    assert (await ask(gateway(), "GET objects", headers=headers)).status == (200 if host else 403)


@pytest.mark.parametrize("path", ["health", "ready", "openapi.json"])
async def test_some_paths_are_open_to_all(path: str) -> None:
    def nobody(request: Any) -> None:
        raise Unauthorized("no")

    g = gateway(authorize=nobody)
    reply = await ask(g, f"GET {path}", remote="10.0.0.1")
    assert reply.status == 200
    assert (await ask(g, f"HEAD {path}", remote="10.0.0.1")).status == 200


async def test_a_node_that_is_not_ready_says_so_and_is_healthy() -> None:
    g = gateway(ready=lambda: False)
    assert code(await ask(g, "GET ready")) == "unavailable"
    assert (await ask(g, "GET health")).json() == {"status": "ok"}


# ---- what there is


async def test_objects_are_listed_by_the_page() -> None:
    host = AdminHost()
    g = gateway(host)
    reply = await ask(g, "GET objects")
    assert [row["address"] for row in reply.json()] == ["Counter/0", "Counter/1", "Counter/2"]
    assert host.done == [("list_objects", None, None, None, 100, None)]
    assert "link" not in reply.headers
    reply = await ask(
        g, "GET objects?class=Counter&prefix=a%20b&status=asleep&limit=2&after=Counter/x"
    )
    assert host.done[-1] == ("list_objects", "Counter", "a b", "asleep", 2, "Counter/x")
    assert reply.headers["link"] == (
        "</_perdure/objects?class=Counter&prefix=a+b&status=asleep&limit=2&after=Counter%2F1>; "
        'rel="next"'
    )


@pytest.mark.parametrize(
    "query", ["limit=0", "limit=1001", "limit=x", "limit=-1", "limit=", "limit=٣"]
)
async def test_a_limit_is_a_number_in_its_bounds(query: str) -> None:
    assert code(await ask(gateway(), f"GET objects?{query}")) == "bad-request"
    assert code(await ask(gateway(), f"GET objects/Counter/a/history?{query}")) == "bad-request"


@pytest.mark.parametrize("query", ["prefix=a&prefix=b", "prefix=%FF", "prefix=%00", "class=\x7f"])
async def test_a_parameter_that_makes_no_sense_is_refused(query: str) -> None:
    assert code(await ask(gateway(), f"GET objects?{query}")) == "bad-request"


async def test_one_object_is_shown_and_ended() -> None:
    host = AdminHost()
    g = gateway(host)
    assert (await ask(g, "GET objects/Counter/a%2Fb")).json() == {"address": "Counter/a%2Fb"}
    assert code(await ask(g, "GET objects/Counter/none")) == "unknown-object"
    assert code(await ask(g, "GET objects/Counter/")) == "invalid-key"
    reply = await ask(g, "DELETE objects/Counter/a%2Fb")
    assert (reply.status, reply.body) == (204, b"")
    assert host.done == [("delete", "Counter/a%2Fb")]


async def test_why_and_doctor_are_asked_of_the_host() -> None:
    host = AdminHost()
    g = gateway(host)
    assert (await ask(g, "GET objects/Counter/a%2Fb/why")).json() == []
    await ask(g, "GET doctor")
    await ask(g, "GET doctor?class=Counter&after=Counter%2Fa&limit=7")
    assert host.done == [
        ("why", "Counter/a%2Fb"),
        ("examine", None, None, 100),
        ("examine", "Counter", "Counter/a", 7),
    ]
    assert code(await ask(g, "GET doctor?limit=0")) == "bad-request"


async def test_the_history_of_an_object_is_read_by_the_page() -> None:
    host = AdminHost()
    g = gateway(host)
    assert (await ask(g, "GET objects/Counter/a/history")).json() == []
    await ask(g, "GET objects/Counter/a/history?after=7&limit=1000")
    assert host.done == [("history", "Counter/a", 0, 100), ("history", "Counter/a", 7, 1000)]


async def test_quarantine_is_listed_retried_and_skipped() -> None:
    host = AdminHost()
    g = gateway(host)
    assert (await ask(g, "GET quarantine")).json() == []
    assert (await ask(g, "POST quarantine/Counter/a/retry")).status == 204
    assert (await ask(g, "POST quarantine/Counter/a/skip")).status == 204
    assert host.done == [("retry", "Counter/a"), ("skip", "Counter/a")]
    assert code(await ask(g, "GET quarantine/Counter/a/retry")) == "method-not-allowed"
    assert code(await ask(g, "POST quarantine/Counter/a/forget")) == "not-found"


async def test_classes_are_told_with_their_handlers() -> None:
    (counter,) = (await ask(gateway(), "GET classes")).json()
    assert (counter["class"], counter["doc"]) == ("Counter", "A counter.")
    handlers = {handler["name"]: handler for handler in counter["handlers"]}
    assert handlers["read"]["query"]
    assert handlers["increment"] == {"name": "increment", "query": False, "doc": "Add to it."}


async def test_openapi_knows_the_prefix() -> None:
    document = (await ask(gateway(), "GET openapi.json", mounted_at="/my objects")).json()
    assert document["openapi"].startswith("3.1")
    assert document["servers"][0]["url"] == "/my%20objects"
    assert "/Counter/{key}/increment" in document["paths"]


async def test_metrics_are_a_page_for_prometheus() -> None:
    g = gateway()
    hand(g, "POST /Counter/a/increment")
    hand(g, "POST /Counter/a/increment", b"{")
    reply = await ask(g, "GET metrics")
    assert reply.headers["content-type"].startswith("text/plain; version=0.0.4")
    families = {
        family.name: family for family in text_string_to_metric_families(reply.body.decode())
    }
    requests = {
        (sample.labels["class"], sample.labels["handler"], sample.labels["status"]): sample.value
        for sample in families["perdure_http_requests"].samples
    }
    assert requests == {("Counter", "increment", "200"): 1, ("Counter", "increment", "400"): 1}
    assert families["perdure_live"].type == "gauge"
    assert families["perdure_turns"].type == "counter"
    assert families["perdure_connections"].type == "gauge"
    assert set(AdminHost().stats()._fields) <= {name.removeprefix("perdure_") for name in families}
