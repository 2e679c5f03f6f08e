"""What a request means: calls and queries, header fields, the hook, and every problem code."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from structlog.testing import capture_logs

from perdure.errors import Forbidden, Overloaded, Unauthorized
from perdure.failure import Failure, failure_of
from perdure.gateway.http import Gateway
from perdure.gateway.problem import CODES
from perdure.host.incoming import Answer
from perdure.settings import Settings
from tests.gateway.fakes import FakeClock, FakeHost, Reply, Sent, hand, settle


def gateway(
    host: FakeHost | None = None, authorize: Any = None, clock: Any = None, **settings: Any
) -> Gateway:
    made: Any = host or FakeHost()
    return Gateway(made, Settings(**settings), authorize, clock=clock or FakeClock())


def ask(line: str, body: bytes = b"", **facts: Any) -> Reply:
    return hand(gateway(), line, body, **facts).reply()


def refused(reply: Reply | Sent, code: str) -> dict[str, Any]:
    """The problem in a reply, which must have that code and look as all problems do."""
    if isinstance(reply, Sent):
        reply = reply.reply()
    status, title = CODES[code]
    problem: dict[str, Any] = reply.json()
    assert problem["code"] == code
    assert reply.status == problem["status"] == status
    assert reply.headers["content-type"] == "application/problem+json"
    assert problem["type"] == f"urn:perdure:problem:{code}"
    assert problem["title"] == title
    assert problem["detail"]
    return problem


# ---- calls and queries


@pytest.mark.parametrize(
    ("body", "by"), [(b"", 1), (b'{"by": 2}', 2), (b"[2]", 2), (b"{}", 1), (b"[]", 1)]
)
def test_a_post_is_a_call(body: bytes, by: int) -> None:
    host = FakeHost()
    reply = hand(gateway(host), "POST /Counter/lobby/increment", body).reply()
    assert reply.status == 200
    assert reply.headers == {"content-type": "application/json"}
    assert reply.json() == ["increment", "lobby", [by], {}]
    call = host.calls[0]
    assert (call.kind.name, call.key, call.body) == ("Counter", "lobby", body)


def test_a_get_is_a_query() -> None:
    host = FakeHost()
    reply = hand(gateway(host), "GET /Counter/lobby/plus?by=2&tags=a&tags=b").reply()
    assert reply.status == 200
    args, kwargs = host.calls[0].args
    assert [*args, *kwargs.values()] == [2, ["a", "b"]]


def test_a_query_may_be_posted_and_asked_for_its_head() -> None:
    assert ask("POST /Counter/lobby/read").status == 200
    assert ask("HEAD /Counter/lobby/read").status == 200


def test_the_query_of_a_post_is_nobodys_business() -> None:
    assert ask("POST /Counter/lobby/increment?by=nonsense").status == 200


def test_a_target_may_be_absolute() -> None:
    host = FakeHost()
    reply = hand(gateway(host), "POST http://example.org/Counter/lobby/increment").reply()
    assert (reply.status, host.calls[0].key) == (200, "lobby")


KEYS = {
    "lobby": "lobby",
    "a%2Fb": "a/b",
    "a%2fb%25": "a/b%",
    "%C3%A4": "ä",
    "a+b": "a+b",
    "a%20b": "a b",
    "%00": "\0",
    "%": "%",
    "%zz": "%zz",
    "..": "..",
    "k" * 512: "k" * 512,
    "a%3Fb": "a?b",
    "%E2%82%AC" * 170: "€" * 170,
}


@pytest.mark.parametrize(("raw", "key"), KEYS.items())
@pytest.mark.parametrize("how", ["POST", "GET"])
def test_a_key_is_percent_encoded(raw: str, key: str, how: str) -> None:
    host = FakeHost()
    g = gateway(host)
    handler = "read" if how == "GET" else "increment"
    for _ in range(2):
        assert hand(g, f"{how} /Counter/{raw}/{handler}").reply().status == 200
    assert [call.key for call in host.calls] == [key, key]


@pytest.mark.parametrize("raw", ["%FF", "%C3", "k" * 513, "%E2%82%AC" * 171, ""])
def test_a_key_that_names_no_object_is_refused(raw: str) -> None:
    refused(ask(f"POST /Counter/{raw}/increment"), "invalid-key")


def test_names_may_be_percent_encoded_too() -> None:
    assert ask("POST /%43ounter/lobby/increm%65nt").status == 200


def test_many_objects_do_not_make_the_gateway_grow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("perdure.gateway.http._PLACES_MAX", 10)
    host = FakeHost()
    g = gateway(host)
    for n in range(100):
        assert hand(g, f"POST /Counter/{n}/increment").reply().status == 200
    assert len(g._places) <= 10
    assert [call.key for call in host.calls] == [str(n) for n in range(100)]


# ---- what is wrong with a request


@pytest.mark.parametrize(
    ("line", "code"),
    [
        ("POST /Conter/lobby/increment", "unknown-class"),
        ("POST /Counter/lobby/incrment", "unknown-handler"),
        ("POST /Counter/lobby/_private", "unknown-handler"),
        ("POST /Counter/lobby/on_create", "unknown-handler"),
        ("POST /Counter/lobby/authorize", "unknown-handler"),
        ("POST /Counter/lobby/at", "unknown-handler"),
        ("POST /Counter/lobby/increment/more", "unknown-handler"),
        ("GET /", "not-found"),
        ("GET /favicon.ico", "not-found"),
        ("POST /Counter", "not-found"),
        ("POST /Counter/lobby", "not-found"),
        ("POST /Counter/lobby/", "not-found"),
        ("POST example.org:80", "not-found"),
        ("GET /Counter/lobby/increment", "method-not-allowed"),
        ("HEAD /Counter/lobby/increment", "method-not-allowed"),
        ("PUT /Counter/lobby/increment", "method-not-allowed"),
        ("DELETE /Counter/lobby/read", "method-not-allowed"),
        ("GET /Counter/lobby/plus", "invalid-arguments"),
        ("GET /Counter/lobby/plus?by=x", "invalid-arguments"),
        ("GET /Counter/lobby/plus?by=%FF", "invalid-arguments"),
        ("GET /_perdure", "not-found"),
        ("GET /_perdure/", "not-found"),
        ("GET /_perdure/nothing", "not-found"),
        ("POST /_perdure/health", "method-not-allowed"),
        ("GET /_perdure/%FF", "bad-request"),
        ("POST /Counter/" + "k" * 17_000, "uri-too-long"),
    ],
)
def test_a_path_that_leads_nowhere_says_why(line: str, code: str) -> None:
    refused(ask(line), code)


def test_a_problem_names_what_there_is() -> None:
    assert "increment" in refused(ask("POST /Counter/a/incr"), "unknown-handler")["detail"]
    assert "Counter" in refused(ask("POST /counter/a/incr"), "unknown-class")["detail"]


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"{", "bad-json"),
        (b"\xff", "bad-json"),
        (b'{"by": "x"}', "invalid-arguments"),
        (b'{"to": 1}', "invalid-arguments"),
        (b"[1, 2]", "invalid-arguments"),
        (b"3", "invalid-arguments"),
        (b"null", "invalid-arguments"),
    ],
)
@pytest.mark.parametrize("long", [False, True])
def test_a_body_that_does_not_fit_is_refused(body: bytes, code: str, long: bool) -> None:
    headers = [("X-Unknown", "1")] if long else None
    host = FakeHost()
    g = gateway(host)
    problem = refused(hand(g, "POST /Counter/a/increment", body, headers=headers), code)
    assert host.calls == []
    if code == "invalid-arguments":
        assert all(set(error) == {"path", "message"} for error in problem["errors"])
        assert problem["errors"]
    assert g.stats().requests == {("Counter", "increment", CODES[code][0]): 1}


def test_allow_lists_what_a_path_takes() -> None:
    assert ask("PUT /Counter/a/increment").headers["allow"] == "POST, OPTIONS"
    assert ask("PUT /Counter/a/read").headers["allow"] == "GET, HEAD, POST, OPTIONS"
    for line in ("/Counter/a/increment", "/Counter/a/read", "/_perdure/objects/Counter/a", "*"):
        reply = ask(f"OPTIONS {line}")
        assert (reply.status, reply.body) == (204, b"")
        assert "OPTIONS" in reply.headers["allow"]
    assert ask("OPTIONS /_perdure/objects/Counter/a").headers["allow"] == (
        "GET, HEAD, DELETE, OPTIONS"
    )


# ---- what an answer looks like


@pytest.mark.parametrize(
    ("failure", "status"),
    [
        (Failure("handler-error", "ValueError", "no"), 500),
        (Failure("unauthorized", "Unauthorized", "who?"), 401),
        (Failure("forbidden", "Forbidden", "no"), 403),
        (Failure("conflict", "Conflict", "no"), 409),
        (Failure("cancelled", "CallCancelled", "no"), 409),
        (Failure("idempotency-mismatch", "IdempotencyMismatch", "no"), 422),
        (Failure("overloaded", "Overloaded", "later"), 503),
        (Failure("unavailable", "Unavailable", "later"), 503),
        (Failure("object-quarantined", "ObjectQuarantined", "no"), 503),
        (Failure("outcome-unknown", "OutcomeUnknown", "who knows"), 500),
        (Failure("deadlock", "DeadlockError", "a circle"), 500),
    ],
)
@pytest.mark.parametrize("long", [False, True])
def test_a_failed_call_is_a_problem(failure: Failure, status: int, long: bool) -> None:
    host = FakeHost()
    host.failure = failure
    g = gateway(host)
    headers = [("X-Unknown", "1")] if long else None
    sent = hand(g, "POST /Counter/a/increment", headers=headers)
    problem = refused(sent, failure.code)
    assert sent.reply().status == status
    assert problem["error"] == failure.error
    assert "traceback" not in problem
    assert (sent.reply().headers.get("retry-after") is not None) == (
        failure.code in ("overloaded", "unavailable")
    )
    assert g.stats().requests == {("Counter", "increment", status): 1}


def test_a_handler_error_names_the_exception() -> None:
    host = FakeHost()
    host.failure = Failure("handler-error", "KeyError", "'x'", [], "Traceback …")
    problem = refused(hand(gateway(host), "POST /Counter/a/increment"), "handler-error")
    assert (problem["error"], problem["message"]) == ("KeyError", "'x'")
    assert problem["traceback"] == "Traceback …"
    host.failure = Failure("handler-error", "AssertionError", "")
    problem = refused(hand(gateway(host), "POST /Counter/a/increment"), "handler-error")
    assert (problem["error"], problem["message"]) == ("AssertionError", "")


def test_a_code_that_nobody_knows_is_a_500() -> None:
    host = FakeHost()
    host.failure = Failure("brand-new", "BrandNew", "hm")
    reply = hand(gateway(host), "POST /Counter/a/increment").reply()
    assert (reply.status, reply.json()["code"]) == (500, "brand-new")


def test_a_text_that_is_no_unicode_does_not_lose_the_problem() -> None:
    host = FakeHost()
    host.failure = Failure("handler-error", "ValueError", "a \udcff b")
    problem = refused(hand(gateway(host), "POST /Counter/a/increment"), "handler-error")
    assert problem["message"] == "a ? b"


@pytest.mark.parametrize("error", [RuntimeError("secret"), Overloaded("full")])
def test_a_host_that_raises_is_answered_for(error: Exception) -> None:
    class Raising(FakeHost):
        def call(self, call: Any) -> None:
            raise error

    with capture_logs() as logs:
        sent = hand(gateway(Raising()), "POST /Counter/a/increment")
    if isinstance(error, RuntimeError):
        assert "secret" not in refused(sent, "internal-error")["detail"]
        assert logs[0]["exc_info"] is error
    else:
        refused(sent, "overloaded")
        assert logs == []


# ---- header fields


def test_an_idempotency_key_goes_to_the_host_and_a_replay_is_marked() -> None:
    host = FakeHost()
    g = gateway(host)
    key = [("Idempotency-Key", "k-1")]
    first = hand(g, "POST /Counter/a/increment", headers=key).reply()
    assert host.calls[0].idempotency_key == "k-1"
    assert "idempotent-replayed" not in first.headers
    host.replayed = True
    assert hand(g, "POST /Counter/a/increment", headers=key).reply().headers == {
        "content-type": "application/json",
        "perdure-call-id": "c",
        "idempotent-replayed": "true",
    }
    host.failure = failure_of(ValueError("no"))
    again = hand(g, "POST /Counter/a/increment", headers=key)
    refused(again, "handler-error")
    assert again.reply().headers["idempotent-replayed"] == "true"


def test_a_query_needs_no_idempotency_key() -> None:
    host = FakeHost()
    headers = [("Idempotency-Key", "k"), ("Prefer", "respond-async")]
    assert hand(gateway(host), "GET /Counter/a/read", headers=headers).reply().status == 200
    assert (host.calls[0].idempotency_key, host.calls[0].keep) == (None, False)


@pytest.mark.parametrize(
    "headers",
    [
        [("Idempotency-Key", "")],
        [("Idempotency-Key", "k" * 256)],
        [("Idempotency-Key", "a\tb")],
        [("Idempotency-Key", "a"), ("idempotency-key", "b")],
        [("Perdure-Timeout", "soon")],
        [("Perdure-Timeout", "-1")],
        [("Perdure-Timeout", "0")],
        [("Perdure-Timeout", "0.0")],
        [("Perdure-Timeout", "nan")],
        [("Perdure-Timeout", "inf")],
        [("Perdure-Timeout", "1e3")],
        [("Perdure-Timeout", "1_0")],
        [("Perdure-Timeout", "٣")],
        [("Perdure-Timeout", "9" * 400)],
        [("Perdure-Timeout", "")],
        [("Perdure-Timeout", "1"), ("Perdure-Timeout", "2")],
        [("Prefer", "x, " * 1000)],
        [("Prefer", "wait=1")] * 200,
    ],
)
def test_a_field_that_makes_no_sense_is_refused(headers: list[tuple[str, str]]) -> None:
    host = FakeHost()
    refused(hand(gateway(host), "POST /Counter/a/increment", headers=headers), "bad-request")
    assert host.calls == []


def test_a_field_that_is_no_unicode_is_refused() -> None:
    from tests.gateway.fakes import PlainRequest

    for name in (b"Idempotency-Key", b"Prefer", b"Perdure-Timeout"):
        g = gateway()
        sent = Sent(g)
        request = PlainRequest(b"POST", b"/Counter/a/increment", [(name, b"\xff")], b"", False)
        g.handle(request, sent.respond)
        refused(sent, "bad-request")


def test_the_same_field_twice_with_one_value_is_one() -> None:
    host = FakeHost()
    twice = [("Idempotency-Key", "k")] * 2
    assert hand(gateway(host), "POST /Counter/a/increment", headers=twice).reply().status == 200
    assert host.calls[0].idempotency_key == "k"


PREFERENCES = {
    "respond-async": True,
    "Respond-Async": True,
    "respond-async; foo=bar": True,
    "wait=10, respond-async": True,
    'foo="a, b", respond-async': True,
    'foo="respond-async"': False,
    'foo="a, respond-async"': False,
    'foo="a\\", respond-async': False,
    "respond-asynchronously": False,
    "return=minimal": False,
    "": False,
    ",,,": False,
    ", respond-async,": True,
}


@pytest.mark.parametrize(("prefer", "is_async"), PREFERENCES.items())
def test_prefer_is_a_list_of_which_one_is_known(prefer: str, is_async: bool) -> None:
    host = FakeHost()
    reply = hand(gateway(host), "POST /Counter/a/increment", headers=[("Prefer", prefer)]).reply()
    assert reply.status == (202 if is_async else 200)
    assert host.calls[0].keep is is_async


def test_respond_async_is_accepted_and_says_where_the_result_will_be() -> None:
    host = FakeHost()
    host.holding = True
    headers = [("Prefer", "respond-async")]
    sent = hand(
        gateway(host), "POST /Counter/a/increment", headers=headers, mounted_at="/my objects"
    )
    reply = sent.reply()
    assert reply.status == 202
    assert reply.headers["location"] == "/my%20objects/_perdure/calls/c1"
    assert reply.headers["preference-applied"] == "respond-async"
    assert reply.json() == {"id": "c1", "status": "running"}
    host.answer(host.calls[0])
    assert len(sent.replies) == 1


def test_respond_async_that_is_refused_says_so() -> None:
    host = FakeHost()
    host.failure = Failure("overloaded", "Overloaded", "later")
    headers = [("Prefer", "respond-async")]
    refused(hand(gateway(host), "POST /Counter/a/increment", headers=headers), "overloaded")


@pytest.mark.parametrize("seconds", ["2.5", "2.50", " 2.5 "])
def test_a_timeout_ends_the_wait_and_not_the_call(seconds: str) -> None:
    host, clock = FakeHost(), FakeClock()
    host.holding = True
    g = gateway(host, clock=clock)
    sent = hand(g, "POST /Counter/a/increment", headers=[("Perdure-Timeout", seconds)])
    clock.advance(2.4)
    assert sent.replies == []
    clock.advance(0.2)
    assert "2.5 s" in refused(sent, "timeout")["detail"]
    host.answer(host.calls[0])
    assert len(sent.replies) == 1


def test_an_answer_in_time_ends_the_timer() -> None:
    host, clock = FakeHost(), FakeClock()
    g = gateway(host, clock=clock)
    sent = hand(g, "GET /Counter/a/read", headers=[("Perdure-Timeout", "999999999")])
    assert sent.reply().status == 200
    assert [timer.cancelled for timer in clock.timers] == [True]


def test_a_websocket_is_declined() -> None:
    headers = [("Connection", "Upgrade"), ("Upgrade", "websocket")]
    refused(ask("GET /Counter/a", headers=headers), "upgrade-required")
    headers += [("Sec-WebSocket-Version", "13"), ("Sec-WebSocket-Key", "AAAA")]
    refused(ask("GET /Counter/a", headers=headers), "bad-request")
    headers[-1] = ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ==")
    refused(ask("GET /Counter/a", headers=headers), "unknown-handler")
    refused(ask("GET /Nothing/a", headers=headers), "unknown-class")
    refused(ask("GET /Counter/%ff", headers=headers), "unknown-handler")
    refused(ask("POST /Counter/a", headers=headers), "method-not-allowed")


def test_a_page_of_another_site_may_not_call() -> None:
    foreign = [("Sec-Fetch-Site", "cross-site")]
    refused(ask("POST /Counter/a/increment", headers=foreign), "forbidden")
    assert ask("GET /Counter/a/read", headers=foreign).status == 200
    for site in ("same-origin", "same-site", "none"):
        reply = ask("POST /Counter/a/increment", headers=[("Sec-Fetch-Site", site)])
        assert reply.status == 200


# ---- the hook


def hook(request: Any) -> str:
    match request.headers.get("authorization"):
        case None:
            raise Unauthorized("say who you are")
        case "Bearer mallory":
            raise Forbidden("not you")
        case "Bearer broken":
            raise ZeroDivisionError("secret")
        case user:
            return str(user)


async def slow_hook(request: Any) -> str:
    await asyncio.sleep(0)
    return hook(request)


class CallableHook:
    async def __call__(self, request: Any) -> str:
        return hook(request)


@pytest.mark.parametrize("authorize", [hook, slow_hook, CallableHook()])
async def test_the_hook_decides_who_may_call(authorize: Any) -> None:
    host = FakeHost()
    g = gateway(host, authorize)

    async def ask_as(user: str | None, line: str = "POST /Counter/a/increment") -> Reply:
        headers = [("Authorization", f"Bearer {user}")] if user else None
        return await settle(hand(g, line, headers=headers))

    reply = await ask_as(None)
    assert "say who you are" in refused(reply, "unauthorized")["detail"]
    assert reply.headers["www-authenticate"] == "Bearer"
    refused(await ask_as("mallory"), "forbidden")
    refused(await ask_as(None, "GET /Counter/a/read"), "unauthorized")
    refused(await ask_as(None, "GET /_perdure/calls/x"), "unauthorized")
    assert host.calls == host.done == []
    with capture_logs() as logs:
        problem = refused(await ask_as("broken"), "handler-error")
    assert (problem["error"], problem["message"]) == ("ZeroDivisionError", "")
    assert len(logs) == 1
    assert (await ask_as("ada")).status == 200
    assert host.calls[0].principal == "Bearer ada"


async def test_a_hook_that_fails_shows_its_text_in_debug_alone() -> None:
    g = gateway(authorize=slow_hook, debug=True)
    with capture_logs():
        headers = [("Authorization", "Bearer broken")]
        sent = hand(g, "POST /Counter/a/increment", headers=headers)
        assert refused(await settle(sent), "handler-error")["message"] == "secret"


async def test_a_hook_that_is_cut_off_by_the_end_is_answered() -> None:
    g = gateway(authorize=slow_hook)
    sent = hand(g, "POST /Counter/a/increment")
    await asyncio.sleep(0)
    for task in g._tasks:
        task.cancel()
    refused(await settle(sent), "unavailable")


async def test_the_path_is_looked_at_before_the_hook_is_asked() -> None:
    g = gateway(authorize=hook)
    refused(hand(g, "POST /Nothing/a/increment"), "unknown-class")
    assert hand(g, "OPTIONS /Counter/a/increment").reply().status == 204


def test_a_bad_body_is_not_looked_at_before_the_hook() -> None:
    refused(hand(gateway(authorize=hook), "POST /Counter/a/increment", b"{"), "unauthorized")


# ---- calls that were accepted


async def test_an_accepted_call_is_found_again() -> None:
    host = FakeHost()
    host.kept = {
        "running": None,
        "done": Answer("done", b"3", None),
        "failed": Answer("failed", b"", failure_of(ValueError("no"))),
    }
    g = gateway(host)

    async def find(path: str, **facts: Any) -> Reply:
        return await settle(hand(g, f"GET /_perdure/calls/{path}", **facts))

    reply = await find("running?wait=0.5", mounted_at="/objects")
    assert (reply.status, reply.headers["location"]) == (202, "/objects/_perdure/calls/running")
    assert host.done[-1] == ("find_call", "running", 0.5)
    reply = await find("done?wait=1000000")
    assert (reply.status, reply.json()) == (200, 3)
    assert host.done[-1][2] <= 60
    refused(await find("failed"), "handler-error")
    refused(await find("other"), "unknown-call")
    refused(await find("done?wait=x"), "bad-request")
    refused(await find("done?wait=1&wait=2"), "bad-request")
    refused(await find(""), "not-found")
    sent = hand(g, "PUT /_perdure/calls/done")
    refused(sent, "method-not-allowed")
    assert sent.reply().headers["allow"] == "GET, HEAD, DELETE, OPTIONS"


# ---- figures


async def test_answers_are_counted() -> None:
    g = gateway()
    for _ in range(3):
        hand(g, "POST /Counter/a/increment")
    hand(g, "POST /Counter/a/increment", headers=[("X-Unknown", "1")])
    hand(g, "POST /Counter/a/increment", b"{")
    hand(g, "GET /Counter/a/read")
    hand(g, "GET /nothing")
    await settle(hand(g, "GET /_perdure/health"))
    assert g.stats().requests == {
        ("Counter", "increment", 200): 4,
        ("Counter", "increment", 400): 1,
        ("Counter", "read", 200): 1,
        ("", "", 404): 1,
        ("", "", 200): 1,
    }


def test_every_code_has_its_own_title() -> None:
    assert len({title for _, title in CODES.values()}) == len(CODES)
    assert json.dumps(CODES)
