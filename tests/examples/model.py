"""A stand-in for a language model, with OpenAI's streaming interface, that honours keys.

What it says follows from the conversation alone. It counts requests and answers by their
idempotency key, and can be told to break off in the middle of answers.
"""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


def words(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The deltas of an answer."""
    last = messages[-1]
    if last["role"] == "tool":
        return [{"content": word} for word in f"I heard : {last['content']} .".split()]
    question = last["content"]
    if "umbrella" in question:
        return [{"content": "Let me see."}, tool("weather", city="Lisbon")]
    if "refund" in question:
        return [{"content": "Let me ask."}, tool("pay", cents=500)]
    return [{"content": word} for word in f"You said : {question}".split()]


def tool(name: str, **arguments: Any) -> dict[str, Any]:
    function = {"name": name, "arguments": json.dumps(arguments)}
    return {"tool_calls": [{"index": 0, "id": f"call-{name}", "function": function}]}


class Model:
    """The server's book, and its orders."""

    def __init__(self) -> None:
        self.requests: Counter[str] = Counter()
        """How often each key has come."""
        self.break_off = 0
        """So many of the next answers end after two deltas."""
        self.url = ""

    def answer(self, key: str, messages: list[dict[str, Any]]) -> Iterator[bytes]:
        self.requests[key] += 1
        broken = self.break_off > 0
        self.break_off -= broken
        for number, delta in enumerate(words(messages)):
            if broken and number == 2:
                return
            yield b"data: " + json.dumps({"choices": [{"delta": delta}]}).encode() + b"\n\n"
        yield b"data: [DONE]\n\n"


@contextmanager
def serving() -> Iterator[Model]:
    """The stand-in on a port of its own."""
    model = Model()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            parts = list(model.answer(self.headers["Idempotency-Key"], body["messages"]))
            whole = parts[-1].startswith(b"data: [DONE]")
            self.send_response(200)
            self.send_header("Content-Type", "text/event-stream")
            # One that is broken off is shorter than it says.
            self.send_header("Content-Length", str(sum(map(len, parts)) + (not whole)))
            self.end_headers()
            for part in parts:
                self.wfile.write(part)

        def log_message(self, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    model.url = f"http://127.0.0.1:{server.server_port}/v1"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield model
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
