"""The ES module in a browser: calls, errors, streams, and connections through thick and thin."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.examples.conftest import Server

pytestmark = [pytest.mark.slow, pytest.mark.crash]

APP = str(Path(__file__).with_name("app.py"))

SET_UP = """async () => {
    const { connect, PerdureError } = await import("/_perdure/client.js");
    window.PerdureError = PerdureError;
    window.lab = connect().object("Lab", "a/b", { query: { name: "ada", n: 2 } });
    window.got = [];
    window.states = [];
    lab.onstatus = (status) => states.push(status);
}"""


@pytest.fixture
def server(serve_example: Callable[[str], Server]) -> Server:
    return serve_example(APP)


@pytest.fixture
def page(server: Server, open_page: Callable[[str], Any]) -> Any:
    page = open_page(f"{server.url}/Lab/page")
    page.evaluate(SET_UP)
    return page


def wait(page: Any, condition: str, argument: Any = None) -> None:
    page.wait_for_function(condition, arg=argument)


def test_calls_bring_results_and_errors(page: Any) -> None:
    assert page.evaluate("lab.call('add', {by: 2})") == 2
    assert page.evaluate("lab.call('add', [3])") == 5
    assert page.evaluate("lab.query('read', {times: 2, tags: ['x', 'y']})") == ["10", "x", "y"]
    raised = "error => [error instanceof PerdureError, error.code, error.status, error.error]"
    assert page.evaluate(f"lab.call('fail').catch({raised})") == [
        True,
        "handler-error",
        500,
        "LookupError",
    ]
    assert page.evaluate(f"lab.call('add', {{by: 'x'}}).catch({raised})")[1:3] == [
        "invalid-arguments",
        422,
    ]
    call_id = page.evaluate("lab.tell('add', {by: 1})")
    assert page.evaluate(f"fetch('/_perdure/calls/{call_id}?wait=5').then(r => r.json())") == 6


def test_a_call_with_a_key_happens_once_over_a_killed_server(page: Any, server: Server) -> None:
    page.evaluate("lab.call('add', {by: 1}, {idempotencyKey: 'k'})")
    server.kill()
    page.evaluate(
        "() => { lab.call('add', {by: 1}, {idempotencyKey: 'k'}).then(n => got.push(n));"
        " lab.call('add', {by: 5}, {idempotencyKey: 'l'}).then(n => got.push(n)); }"
    )
    server.start()
    wait(page, "got.length == 2")
    assert sorted(page.evaluate("got")) == [1, 6]


def test_a_stream_goes_on_where_it_was(page: Any, server: Server) -> None:
    page.evaluate(
        "() => { (async () => { for await (const n of lab.stream('count', {to: 6, pause: 0.3}))"
        " got.push(n); got.push('end'); })(); }"
    )
    wait(page, "got.length >= 2")
    server.kill()
    server.start()
    wait(page, "got.at(-1) == 'end'")
    assert page.evaluate("got") == [1, 2, 3, 4, 5, 6, "end"]


def test_a_connection_carries_text_json_and_bytes(page: Any) -> None:
    page.evaluate("() => { lab.on('message', (m) => got.push(m)); }")
    wait(page, "got.length == 1")
    assert page.evaluate("got[0]") == {"query": {"name": "ada", "n": "2"}}
    page.evaluate("() => { lab.send('plain ü'); lab.send({x: [1]}); }")
    page.evaluate("() => lab.send(new Uint8Array([1, 2, 10, 3]))")
    wait(page, "got.length == 4")
    assert page.evaluate("got.slice(1, 3)") == ["plain ü", {"x": [1]}]
    assert page.evaluate("[...new Uint8Array(got[3])]") == [3, 10, 2, 1]
    page.evaluate("() => { lab.on('ephemeral', (m) => got.push(m)); lab.sendEphemeral({y: 1}); }")
    wait(page, "got.length == 5")
    assert page.evaluate("got[4]") == {"y": 1}


def test_what_was_sent_while_the_line_is_down_is_heard_once(page: Any, server: Server) -> None:
    page.evaluate("() => { lab.on('message', (m) => got.push(m)); }")
    wait(page, "got.length == 1")
    for round_ in range(3):
        page.evaluate(f"() => {{ for (let i = 0; i < 20; i++) lab.send(`{round_}.${{i}} x`); }}")
        server.kill()
        page.evaluate(f"() => lab.send('down {round_} x')")
        server.start()
    wait(page, "got.length == 64")
    expected = [
        text
        for round_ in range(3)
        for text in [*(f"{round_}.{i} x" for i in range(20)), f"down {round_} x"]
    ]
    assert page.evaluate("got.slice(1)") == expected
    shown = server.client.get("/_perdure/objects/Lab/a%2Fb").json()
    assert shown["state"]["heard"] == expected


def test_an_end_is_an_end_and_a_new_connection_is_one(page: Any, server: Server) -> None:
    page.evaluate("() => { lab.on('message', (m) => got.push(m)); }")
    page.evaluate("() => { lab.on('close', ({ code, reason }) => got.push([code, reason])); }")
    wait(page, "got.length == 1")
    page.evaluate("lab.call('kick', {code: 4001})")
    wait(page, "got.length == 2")
    assert page.evaluate("got[1]") == [4001, "out"]
    assert page.evaluate("lab.status") == "closed"
    page.evaluate("() => lab.open()")
    wait(page, "got.length == 3")
    page.evaluate("() => lab.close()")
    wait(page, "lab.status == 'closed'")


def test_an_end_that_cannot_be_said_is_none(page: Any) -> None:
    page.evaluate("() => { lab.on('message', (m) => got.push(m)); }")
    wait(page, "got.length == 1")
    for wrong in ("1001, 'away'", "4000, 'é'.repeat(100)"):
        assert page.evaluate(f"() => {{ try {{ lab.close({wrong}) }} catch {{ return 1 }} }}") == 1
    assert page.evaluate("lab.status") == "open"
    page.evaluate("() => lab.close(4000, 'enough')")
    assert page.evaluate("lab.status") == "closed"
    refused = (
        "key => { try { lab.client.object('Lab', key) } catch (error) { return error.message } }"
    )
    assert page.evaluate(refused, "..") == 'no URL can name the key ".."'


def test_a_connection_is_kept_over_a_reload_of_the_page(page: Any, server: Server) -> None:
    begin = """async () => {
        const { connect } = await import("/_perdure/client.js");
        window.lab = connect().object("Lab", "kept", { persist: "tab" });
        window.got = [];
        window.opened = [];
        lab.on("open", (facts) => opened.push(facts));
        lab.on("message", (m) => got.push(m));
    }"""
    page.evaluate(begin)
    wait(page, "got.length == 1")
    page.evaluate("() => lab.send('before x')")
    wait(page, "got.length == 2")
    page.reload()
    page.evaluate(begin)
    wait(page, "opened.length == 1")
    assert page.evaluate("opened[0].resumed") is True
    page.evaluate("() => lab.send('after x')")
    wait(page, "got.length == 1")
    assert page.evaluate("got") == ["after x"]
