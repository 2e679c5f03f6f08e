"""What lies under /_perdure/, and who may ask for it."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from perdure.clock import iso
from perdure.errors import Unauthorized
from perdure.gateway.http import Gateway
from perdure.gateway.problem import CODES
from perdure.host.host import Host
from perdure.journal.identity import oid_of
from perdure.settings import Settings
from tests.gateway.fakes import Counter, Reply, hand, settle
from tests.host.stage import Stage

ADMIN = [
    *("metrics", "classes", "objects", "objects/Counter/1", "objects/Counter/1/why"),
    *("doctor", "quarantine"),
]


@asynccontextmanager
async def counters() -> AsyncIterator[Host]:
    async with Stage(Counter) as stage:
        for key in ("a/b", "1", "2"):
            await Counter.at(key).increment()
        yield stage.host


@pytest.fixture
def host() -> AbstractAsyncContextManager[Host]:
    """A host with three objects: 1, 2 and a/b."""
    return counters()


def gateway(
    host: Host, authorize: Any = None, ready: Any = lambda: True, token: str = ""
) -> Gateway:
    return Gateway(host, Settings(admin_token=token), authorize, ready=ready)


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
async def test_loopback_may_administrate(host: Host, path: str, remote: str) -> None:
    assert (await ask(gateway(host), f"GET {path}", remote=remote)).status == 200


@pytest.mark.parametrize("path", ADMIN)
@pytest.mark.parametrize("remote", ["10.0.0.1", "::2", "testclient", "", None])
async def test_nobody_else_may_without_a_token(host: Host, path: str, remote: str | None) -> None:
    assert code(await ask(gateway(host), f"GET {path}", remote=remote)) == "forbidden"
    g = gateway(host, token="s3")
    assert code(await ask(g, f"GET {path}", remote=remote)) == "unauthorized"


@pytest.mark.parametrize("line", ["DELETE objects/Counter/1", "POST quarantine/Counter/1/skip"])
async def test_what_changes_something_is_not_done_for_strangers(host: Host, line: str) -> None:
    assert code(await ask(gateway(host), line, remote="10.0.0.1")) == "forbidden"
    assert host.live_count == 3


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
async def test_the_token_opens_the_door(host: Host, field: str, status: int) -> None:
    headers = [("Authorization", field)]
    g = gateway(host, token="s3cret ä")
    assert (await ask(g, "GET objects", remote="10.0.0.1", headers=headers)).status == status


async def test_no_token_is_no_empty_token(host: Host) -> None:
    headers = [("Authorization", "Bearer ")]
    reply = await ask(gateway(host), "GET objects", remote="10.0.0.1", headers=headers)
    assert reply.status == 403


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
    host: Host,
    headers: list[tuple[str, str]],
) -> None:
    assert code(await ask(gateway(host), "GET objects", headers=headers)) == "forbidden"


@pytest.mark.parametrize(
    "name",
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
async def test_loopback_by_any_of_its_names_is_loopback(host: Host, name: str) -> None:
    headers = [("Host", name)]
    assert (await ask(gateway(host), "GET objects", headers=headers)).status == 200
    headers.append(("Origin", f"http://{name}"))
    reply = await ask(gateway(host), "GET objects", headers=headers)
    assert reply.status == (200 if name else 403)


@pytest.mark.parametrize("path", ["health", "ready", "openapi.json", "client.js"])
async def test_some_paths_are_open_to_all(host: Host, path: str) -> None:
    def nobody(request: Any) -> None:
        raise Unauthorized("no")

    g = gateway(host, authorize=nobody)
    reply = await ask(g, f"GET {path}", remote="10.0.0.1")
    assert reply.status == 200
    assert (await ask(g, f"HEAD {path}", remote="10.0.0.1")).status == 200


async def test_a_node_that_is_not_ready_says_so_and_is_healthy(host: Host) -> None:
    g = gateway(host, ready=lambda: False)
    assert code(await ask(g, "GET ready")) == "unavailable"
    assert (await ask(g, "GET health")).json() == {"status": "ok"}


# ---- what there is


async def test_objects_are_listed_by_the_page(host: Host) -> None:
    g = gateway(host)
    reply = await ask(g, "GET objects")
    assert [row["key"] for row in reply.json()] == ["1", "2", "a/b"]
    assert "link" not in reply.headers
    assert (await ask(g, "GET objects?status=asleep")).json() == []
    reply = await ask(g, "GET objects?class=Counter&status=active&limit=2&after=Counter/1")
    assert [row["key"] for row in reply.json()] == ["2", "a/b"]
    assert reply.headers["link"] == (
        "</_perdure/objects?class=Counter&status=active&limit=2&after=Counter%2Fa%252Fb>; "
        'rel="next"'
    )
    (found,) = (await ask(g, "GET objects?prefix=a%2F")).json()
    assert found["address"] == "Counter/a%2Fb"


@pytest.mark.parametrize(
    "query", ["limit=0", "limit=1001", "limit=x", "limit=-1", "limit=", "limit=٣"]
)
async def test_a_limit_is_a_number_in_its_bounds(host: Host, query: str) -> None:
    assert code(await ask(gateway(host), f"GET objects?{query}")) == "bad-request"
    assert code(await ask(gateway(host), f"GET objects/Counter/a/history?{query}")) == "bad-request"


@pytest.mark.parametrize("query", ["prefix=a&prefix=b", "prefix=%FF", "prefix=%00", "class=\x7f"])
async def test_a_parameter_that_makes_no_sense_is_refused(host: Host, query: str) -> None:
    assert code(await ask(gateway(host), f"GET objects?{query}")) == "bad-request"


async def test_one_object_is_shown_and_ended(host: Host) -> None:
    g = gateway(host)
    shown = (await ask(g, "GET objects/Counter/a%2Fb")).json()
    assert (shown["address"], shown["state"]) == ("Counter/a%2Fb", {"value": 1})
    assert code(await ask(g, "GET objects/Counter/none")) == "unknown-object"
    assert code(await ask(g, "GET objects/Counter/")) == "invalid-key"
    reply = await ask(g, "DELETE objects/Counter/a%2Fb")
    assert (reply.status, reply.body) == (204, b"")
    assert code(await ask(g, "GET objects/Counter/a%2Fb")) == "unknown-object"


async def test_why_and_doctor_look_at_objects(host: Host) -> None:
    g = gateway(host)
    assert (await ask(g, "GET objects/Counter/a%2Fb/why")).json() == []
    assert (await ask(g, "GET doctor")).json()["checked"] == 3
    found = (await ask(g, "GET doctor?class=Nobody&after=Counter%2F1&limit=7")).json()
    assert found["checked"] == 0
    assert code(await ask(g, "GET doctor?limit=0")) == "bad-request"


async def test_the_history_of_an_object_is_read_by_the_page(host: Host) -> None:
    g = gateway(host)
    (entry,) = (await ask(g, "GET objects/Counter/1/history")).json()
    assert (entry["seq"], entry["kind"]) == (1, "call")
    assert (await ask(g, "GET objects/Counter/1/history?after=1&limit=1000")).json() == []


async def test_quarantine_is_listed_retried_and_skipped(host: Host) -> None:
    g = gateway(host)
    assert (await ask(g, "GET quarantine")).json() == []
    assert code(await ask(g, "POST quarantine/Counter/1/retry")) == "conflict"
    assert code(await ask(g, "POST quarantine/Counter/1/skip")) == "conflict"
    assert code(await ask(g, "GET quarantine/Counter/1/retry")) == "method-not-allowed"
    assert code(await ask(g, "POST quarantine/Counter/1/forget")) == "not-found"
    facts = {"object": "Counter/1", "since": 1_500_000_000, "reason": "it diverged"}
    host.quarantine.objects[oid_of("Counter", "1")] = json.dumps(facts)
    (listed,) = (await ask(g, "GET quarantine")).json()
    assert listed == facts | {"since": iso(1_500_000_000)}


async def test_classes_are_told_with_their_handlers(host: Host) -> None:
    (counter,) = (await ask(gateway(host), "GET classes")).json()
    assert (counter["class"], counter["doc"]) == ("Counter", "A counter.")
    handlers = {handler["name"]: handler for handler in counter["handlers"]}
    assert handlers["read"]["query"]
    assert handlers["increment"] == {"name": "increment", "query": False, "doc": "Add to it."}


async def test_openapi_knows_the_prefix(host: Host) -> None:
    document = (await ask(gateway(host), "GET openapi.json", mounted_at="/my objects")).json()
    assert document["openapi"].startswith("3.1")
    assert document["servers"][0]["url"] == "/my%20objects"
    assert "/Counter/{key}/increment" in document["paths"]


async def test_metrics_are_a_page_for_prometheus(host: Host) -> None:
    g = gateway(host)
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
    assert set(host.stats()._fields) <= {name.removeprefix("perdure_") for name in families}
