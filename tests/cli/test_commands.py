"""What the commands send, and what they make of the answers: against a server that is scripted."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from click.testing import CliRunner, Result

from perdure.cli.main import commands, main


class Script:
    """The answers of a server by method and target, and what it was asked."""

    def __init__(self) -> None:
        self.answers: dict[str, tuple[int, Any, dict[str, str]]] = {}
        self.asked: list[tuple[str, dict[str, str], bytes]] = []
        script = self

        class Handler(BaseHTTPRequestHandler):
            def answer(self) -> None:
                size = int(self.headers.get("Content-Length", 0))
                what = f"{self.command} {self.path}"
                script.asked.append((what, dict(self.headers), self.rfile.read(size)))
                status, body, headers = script.answers.get(what, (599, {"unscripted": what}, {}))
                text = body if isinstance(body, bytes) else json.dumps(body).encode()
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)

            do_GET = do_POST = do_DELETE = answer

            def log_message(self, *args: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    def on(self, what: str, body: Any, status: int = 200, **headers: str) -> None:
        self.answers[what] = (status, body, headers)

    def problem(self, what: str, status: int, code: str, detail: str, **more: Any) -> None:
        self.on(what, {"code": code, "detail": detail, "status": status, **more}, status)

    def run(self, *arguments: str, stdin: str | None = None) -> Result:
        return CliRunner().invoke(commands, [*arguments, "--url", self.url], input=stdin)

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Script]:
    monkeypatch.delenv("PERDURE_ADMIN_TOKEN", raising=False)
    script = Script()
    yield script
    script.close()


def test_call_prints_the_result(server: Script) -> None:
    server.on("POST /Counter/lobby/increment", {"value": 2, "ü": [1]})
    result = server.run("call", "Counter/lobby", "increment", "by=2", "to=x")
    assert (result.exit_code, json.loads(result.stdout)) == (0, {"value": 2, "ü": [1]})
    assert json.loads(server.asked[0][2]) == {"by": 2, "to": "x"}


def test_call_passes_on_keys_headers_and_stdin(server: Script) -> None:
    server.on("POST /Room/a%2Fb%20c/post", None)
    result = server.run(
        *("call", "Room/a%2Fb c", "post", "-", "--idempotency-key", "k1", "--timeout", "2.5"),
        *("-H", "X-User: ada", "--token", "secret"),
        stdin='["hi"]',
    )
    assert result.exit_code == 0, result.stderr
    _, headers, body = server.asked[0]
    assert body == b'["hi"]'
    assert headers["Idempotency-Key"] == "k1"
    assert headers["Perdure-Timeout"] == "2.5"
    assert headers["X-User"] == "ada"
    assert headers["Authorization"] == "Bearer secret"


def test_send_prints_the_id(server: Script) -> None:
    location = "/_perdure/calls/c-1"
    server.on("POST /Order/42/run", b"", 202, Location=location)
    assert server.run("send", "Order/42", "run").stdout == "c-1\n"
    assert server.asked[0][1]["Prefer"] == "respond-async"
    told = json.loads(server.run("send", "Order/42", "run", "--json").stdout)
    assert told == {"id": "c-1", "location": location}


def test_a_problem_is_told_in_words_and_is_1(server: Script) -> None:
    errors = [{"path": "$.by", "message": "expected int, got str"}]
    server.problem("POST /C/a/inc", 422, "invalid-arguments", "bad arguments", errors=errors)
    result = server.run("call", "C/a", "inc", "by=x")
    assert result.exit_code == 1
    assert result.stdout == ""
    assert "error: bad arguments (invalid-arguments)" in result.stderr
    assert "$.by: expected int, got str" in result.stderr


def test_a_problem_as_json(server: Script) -> None:
    server.problem("GET /_perdure/objects/C/a", 404, "unknown-object", "there is no C/a")
    result = server.run("show", "C/a", "--json")
    assert result.exit_code == 1
    assert json.loads(result.stderr)["code"] == "unknown-object"


def test_a_server_that_is_not_there() -> None:
    result = CliRunner().invoke(commands, ["ls", "--url", "http://127.0.0.1:1"])
    assert result.exit_code == 1
    expected = "no perdure server at http://127.0.0.1:1; start one with: perdure dev APP"
    assert expected in result.stderr


def test_something_else_that_answers(server: Script) -> None:
    server.on("GET /_perdure/quarantine", b"<html>", 404)
    result = server.run("quarantine", "list")
    assert result.exit_code == 1
    assert "is no perdure server" in result.stderr


@pytest.mark.parametrize("url", ["ftp://x", "http://", "http://h:99999", "http://h:x"])
def test_an_url_that_is_none_is_wrong_use(url: str) -> None:
    assert CliRunner().invoke(commands, ["ls", "--url", url]).exit_code == 2


@pytest.mark.parametrize("address", ["Counter", "/x", "Counter/", "Counter/a/b", ""])
def test_an_address_that_is_none_is_wrong_use(server: Script, address: str) -> None:
    for command in (["show"], ["history"], ["delete", "--yes"], ["quarantine", "retry"]):
        assert server.run(*command, address).exit_code == 2
    assert server.run("call", address, "read").exit_code == 2
    assert server.asked == []


def row(key: str, **more: Any) -> dict[str, Any]:
    given = {"class": "C", "key": key, "status": "idle", "seq": 3, "updated": None}
    return {"address": f"C/{key}", **given, **more}


def test_ls_asks_for_pages_and_says_that_there_is_more(server: Script) -> None:
    first = "GET /_perdure/objects?class=C&prefix=a&status=asleep&limit=3"
    server.on(first, [row("a1"), row("a2"), row("a3")])
    result = server.run("ls", "C", "--prefix", "a", "--status", "asleep", "--limit", "2")
    assert result.stdout.splitlines()[0].split() == ["ADDRESS", "STATUS", "SEQ", "UPDATED"]
    assert [line.split()[0] for line in result.stdout.splitlines()[1:]] == ["C/a1", "C/a2"]
    assert "more" in result.stderr


def test_ls_of_nothing(server: Script) -> None:
    server.on("GET /_perdure/objects?limit=101", [])
    assert server.run("ls").stdout == "no objects yet\n"
    assert json.loads(server.run("ls", "--json").stdout) == []


def test_ls_fetches_page_after_page(server: Script) -> None:
    server.on("GET /_perdure/objects?limit=1000", [row(f"{n:04}") for n in range(1000)])
    server.on("GET /_perdure/objects?limit=501&after=C%2F0999", [row("1000")])
    result = server.run("ls", "--limit", "1500", "--json")
    assert len(json.loads(result.stdout)) == 1001


def wait(task: str, on: str, **more: Any) -> dict[str, Any]:
    frames = [
        {
            "file": "shop.py",
            "line": 31,
            "function": "Order.run",
            "text": "await self.paid.wait()",
            "library": False,
            "locals": {"patience": "7.0"},
        },
        {
            "file": "locks.py",
            "line": 213,
            "function": "Event.wait",
            "text": "await fut",
            "library": True,
            "locals": {"fut": "<Future>"},
        },
    ]
    known = {"task": task, "waiting_on": on, "stack": frames, "since": None, "until": None}
    return known | {"call_id": "c-1", "handler": "run", "began": None} | more


def test_show_prints_state_and_leaves_out_what_is_empty(server: Script) -> None:
    why = "C/a: run() line 31: local 'f' is an open file"
    rebuild = {"by": "replay", "entries": 3, "snapshot_seq": 0, "base_seq": 0, "why": why}
    waits = [wait("Task-1", "Event self.paid, to be set", until="2026-01-02T03:04:05Z")]
    shown = row("a", state={"value": 7, "tags": ["x"]}, timers=[], waits=waits, rebuild=rebuild)
    server.on("GET /_perdure/objects/C/a", shown)
    text = server.run("show", "C/a").stdout
    assert "C/a  idle" in text
    assert "  value = 7\n" in text
    assert "timers" not in text
    _, _, told = text.partition("waits:\n")
    lines = told.splitlines()
    assert lines[0] == "  Task-1 (run, call c-1): Event self.paid, to be set"
    assert lines[1].startswith("    until 2026-01-02 ")
    assert lines[2:] == [
        '    File "shop.py", line 31, in Order.run',
        "      await self.paid.wait()",
        "        patience = 7.0",
        '    File "locks.py", line 213, in Event.wait',
        "rebuild: by a replay of 3 turns from the first on",
        f"  it cannot be kept as a snapshot now: {why}",
    ]
    assert json.loads(server.run("show", "C/a", "--json").stdout) == shown


@pytest.mark.parametrize(
    ("rebuild", "text"),
    [
        (("snapshot", 0, 9, 9, None), "from the snapshot of turn 9"),
        (("snapshot", 0, 9, 4, None), "from the snapshot of turn 9 (base: turn 4)"),
        (
            ("snapshot and replay", 1, 9, 0, None),
            "from the snapshot of turn 9 and a replay of 1 turn",
        ),
    ],
)
def test_show_tells_how_the_object_comes_back(
    server: Script, rebuild: tuple[Any, ...], text: str
) -> None:
    names = ("by", "entries", "snapshot_seq", "base_seq", "why")
    shown = row("a", state={}, waits=[], rebuild=dict(zip(names, rebuild, strict=True)))
    server.on("GET /_perdure/objects/C/a", shown)
    assert server.run("show", "C/a").stdout.splitlines()[-1] == f"rebuild: {text}"


def test_why_prints_a_tree(server: Script) -> None:
    first = wait("Task-1", "call D/b.enter") | {"address": "C/a", "depth": 0, "end": None}
    second = {"address": "D/b", "depth": 1, "end": "quarantined", "task": None, "stack": []}
    second |= {"waiting_on": "D/b is quarantined", "since": None, "until": None}
    server.on("GET /_perdure/objects/C/a/why", [first, second])
    assert server.run("why", "C/a").stdout.splitlines() == [
        "C/a Task-1: call D/b.enter",
        '  File "shop.py", line 31, in Order.run',
        "    await self.paid.wait()",
        '  File "locks.py", line 213, in Event.wait',
        "  D/b: D/b is quarantined",
    ]
    assert json.loads(server.run("why", "C/a", "--json").stdout) == [first, second]
    server.on("GET /_perdure/objects/C/a/why", [])
    assert server.run("why", "C/a").stdout == "C/a waits for nothing\n"
    assert server.run("why", "C/a", "--json").stdout == "[]\n"


def page(checked: int, *problems: dict[str, Any], next_: str | None = None) -> dict[str, Any]:
    return {
        "checked": checked,
        "interpreter": "CPython 3.11.7",
        "suspended_code": {"kept": True, "why": None},
        "problems": list(problems),
        "next": next_,
    }


def problem(key: str, *, loadable: bool) -> dict[str, Any]:
    follows = "replay of 3 turns from turn 1" if loadable else "cannot be loaded"
    facts = {"address": f"C/{key}", "what": "base snapshot", "why": "it is damaged"}
    return facts | {"follows": follows, "loadable": loadable}


def test_doctor_goes_through_all_pages(server: Script) -> None:
    server.on("GET /_perdure/doctor?limit=200", page(200, next_="C/x"))
    server.on("GET /_perdure/doctor?after=C%2Fx&limit=200", page(5, problem("y", loadable=True)))
    result = server.run("doctor")
    assert result.exit_code == 0
    assert result.stdout.splitlines() == [
        "C/y  base snapshot",
        "  it is damaged",
        "  what follows: replay of 3 turns from turn 1",
        "205 objects checked under CPython 3.11.7",
        "suspended code can be kept here",
        "1 of them come back in another way",
    ]
    report = json.loads(server.run("doctor", "--json").stdout)
    assert report["checked"] == 205
    assert report["suspended_code"] == {"kept": True, "why": None}
    assert [found["address"] for found in report["problems"]] == ["C/y"]


def test_doctor_says_no_where_something_cannot_be_loaded(server: Script) -> None:
    found = page(1, problem("y", loadable=False))
    found["suspended_code"] = {"kept": False, "why": "this is no Python"}
    server.on("GET /_perdure/doctor?class=C&limit=200", found)
    result = server.run("doctor", "--class", "C")
    assert result.exit_code == 1
    assert result.stdout.splitlines()[-3:] == [
        "1 object checked under CPython 3.11.7",
        "suspended code cannot be kept here, and comes back by replay: this is no Python",
        "1 of them cannot be loaded",
    ]
    assert server.run("doctor", "--class", "C", "--json").exit_code == 1


def entry(seq: int) -> dict[str, Any]:
    known = {"kind": "call", "input": {"by": 2}, "output": 2, "duration_us": 12, "version": "v"}
    return {"seq": seq, "time": "2026-01-02T03:04:05.678Z", **known}


def test_history_prints_an_entry_a_line(server: Script) -> None:
    server.on("GET /_perdure/objects/C/a/history?after=5&limit=1000", [entry(6), entry(7)])
    lines = server.run("history", "C/a", "--after", "5").stdout.splitlines()
    assert [line.split()[0] for line in lines] == ["6", "7"]
    assert 'call     {"by": 2}  → 2  12 µs' in lines[0]


def test_history_follows_until_its_limit(server: Script) -> None:
    server.on("GET /_perdure/objects/C/a/history?after=0&limit=3&wait=20", [entry(1), entry(2)])
    server.on("GET /_perdure/objects/C/a/history?after=2&limit=1&wait=20", [entry(3)])
    result = server.run("history", "C/a", "--follow", "--limit", "3", "--json")
    assert [json.loads(line)["seq"] for line in result.stdout.splitlines()] == [1, 2, 3]
    server.on("GET /_perdure/objects/C/a/history?after=0&limit=3", [entry(1), entry(2)])
    listed = server.run("history", "C/a", "--limit", "3", "--json")
    assert [found["seq"] for found in json.loads(listed.stdout)] == [1, 2]


def test_delete_asks(server: Script) -> None:
    server.on("GET /_perdure/objects/C/a", {"address": "C/a"})
    server.on("DELETE /_perdure/objects/C/a", b"", 204)
    for answer in ("n\n", ""):
        declined = server.run("delete", "C/a", stdin=answer)
        assert declined.exit_code == 1
        assert "nothing was done" in declined.stderr
    assert server.asked == []
    assert server.run("delete", "C/a", stdin="y\n").exit_code == 0
    assert server.run("delete", "C/a", "--yes").stdout == "C/a is deleted\n"
    assert len(server.asked) == 4
    server.on("GET /_perdure/objects/C/b", {"code": "unknown-object", "title": "none"}, 404)
    assert server.run("delete", "C/b", "--yes").exit_code == 1


def test_quarantine(server: Script) -> None:
    server.on("GET /_perdure/quarantine", [{"object": "C/a", "reason": "it diverged"}])
    server.on("POST /_perdure/quarantine/C/a/retry", b"", 204)
    server.on("POST /_perdure/quarantine/C/a/skip", b"", 204)
    lines = server.run("quarantine", "list").stdout.splitlines()
    assert lines[1].split(maxsplit=1) == ["C/a", "it diverged"]
    assert server.run("quarantine", "retry", "C/a").exit_code == 0
    skipped = server.run("quarantine", "skip", "C/a", "--json")
    assert json.loads(skipped.stdout) == {"address": "C/a"}


def test_each_command_has_help_with_an_example() -> None:
    def walk(group: Any, path: list[str]) -> Iterator[list[str]]:
        for name in group.list_commands(None):
            command = group.get_command(None, name)
            if hasattr(command, "list_commands"):
                yield from walk(command, [*path, name])
            yield [*path, name]

    for path in [[], *walk(commands, [])]:
        result = CliRunner().invoke(commands, [*path, "--help"])
        assert result.exit_code == 0
        assert "Example" in result.stdout, path


def test_a_command_that_is_not_there_names_the_near_one() -> None:
    result = CliRunner().invoke(commands, ["serv"])
    assert result.exit_code == 2
    assert "'serve'" in result.stderr


def test_no_colours_in_a_pipe(server: Script) -> None:
    server.on("GET /_perdure/objects?limit=101", [row("a")])
    assert "\x1b" not in server.run("ls").output


def run_main(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr("sys.argv", ["perdure", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    assert isinstance(ended.value.code, int)
    return ended.value.code


@pytest.mark.parametrize(
    "arguments",
    [
        ("show", "--json"),
        ("shew", "--json"),
        ("show", "Room/a", "--json", "--no-such-option"),
        ("ls", "--limit", "x", "--json"),
        ("import", "no-such-file", "--json"),
        ("repair", "set", "Room/a", "n", "3", "--json"),
    ],
)
def test_who_asks_for_json_reads_json_also_of_a_command_that_is_not_understood(
    arguments: tuple[str, ...],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run_main(monkeypatch, *arguments) == 2
    out, err = capsys.readouterr()
    assert not out
    document = json.loads(err)
    assert document["code"] == "error"
    assert document["detail"]
    assert document["hint"].endswith("--help")


@pytest.mark.parametrize("option", ["--timeout", "--deadline"])
def test_seconds_are_sent_as_digits_however_many(server: Script, option: str) -> None:
    server.on("POST /Room/a/post", 1)
    field = "Perdure-" + option[2:].title()
    for text, sent in ("2592000", "2592000"), ("2.5", "2.5"), ("0.000001", "0.000001"):
        assert server.run("call", "Room/a", "post", option, text).exit_code == 0
        assert server.asked[-1][1][field] == sent
    for text in "nan", "inf", "1e300", "-1", "soon":
        result = server.run("call", "Room/a", "post", option, text)
        assert result.exit_code == 2
        assert "is no number of seconds" in result.output


@pytest.mark.parametrize(
    "arguments",
    [
        ("call", "Room/a", "p\udcff"),
        ("call", "Room/a", "post", "-H", "x: \udcff"),
        ("call", "Room/a", "post", "--idempotency-key", "\udcff"),
        ("resolve", "\udcff", "1"),
        ("cancel", "\udcff"),
        ("ls", "\udcff"),
        ("history", "Room/a", "--handler", "\udcff"),
        ("versions", "\udcff"),
    ],
)
def test_an_argument_that_is_no_utf8_is_named(
    arguments: tuple[str, ...],
    server: Script,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run_main(monkeypatch, *arguments, "--url", server.url) == 2
    assert "is not valid UTF-8" in capsys.readouterr().err
    assert not server.asked


def test_a_value_that_is_nested_too_deeply_is_wrong_use(server: Script) -> None:
    deep = "[" * 100_000
    for more in ("call", "Room/a", "post", f"v={deep}"), ("call", "Room/a", "post", deep):
        result = server.run(*more)
        assert result.exit_code == 2
        assert "nested too deeply" in result.output
