"""The outside world as a process of its own: it counts requests and effects by idempotency key.

    python tests/crash/ledger.py SEED

It prints its port. Now and then it fails before it has done anything, or does what it is asked and
hangs up without an answer: then only the key keeps an effect from happening twice.
"""

from __future__ import annotations

import json
import random
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.examples.model import words

PAGES = 12


class Book:
    """What was asked for, and what was done."""

    def __init__(self, seed: str) -> None:
        self.lock = threading.Lock()
        self.chance = random.Random(seed)
        self.requests: dict[str, int] = {}
        self.effects: dict[str, list[Any]] = {}

    def trouble(self) -> str:
        with self.lock:
            return self.chance.choices(["", "before", "after"], [90, 5, 5])[0]

    def do(self, key: str, what: str, args: list[Any]) -> tuple[int, Any]:
        with self.lock:
            self.requests[key] = self.requests.get(key, 0) + 1
            if what == "send_parcel" and args[0].endswith("3"):
                return 409, "nobody lives there"
            self.effects.setdefault(key, [what, *args])
        return 200, answer(what, key, args)


def answer(what: str, key: str, args: list[Any]) -> Any:
    if what == "measure":
        return float(args[0].partition("-")[2])
    if what == "fetch":
        number = int(args[0].rpartition("/")[2] or 1)
        children = [n for n in (2 * number, 2 * number + 1) if n <= PAGES]
        return "".join(f'<a href="/{n}">{n}</a>' for n in children)
    return f"{what} {key}"


class Handler(BaseHTTPRequestHandler):
    """`POST /steps/{step}`, `POST /v1/chat/completions`, `GET /book`."""

    book: Book
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        key = self.headers["Idempotency-Key"]
        trouble = self.book.trouble()
        if trouble == "before":
            self._answer(503, b"busy")
            return
        if self.path.startswith("/v1/"):
            self.book.do(key, "complete", [len(body["messages"])])
            deltas = [json.dumps({"choices": [{"delta": one}]}) for one in words(body["messages"])]
            text = "".join(f"data: {line}\n\n" for line in [*deltas, "[DONE]"]).encode()
            self._answer(200, text, "text/event-stream", short=trouble == "after")
            return
        status, result = self.book.do(key, self.path.rpartition("/")[2], body)
        if trouble == "after":
            self.close_connection = True
            return
        self._answer(status, json.dumps(result).encode())

    def do_GET(self) -> None:
        with self.book.lock:
            text = json.dumps({"requests": self.book.requests, "effects": self.book.effects})
        self._answer(200, text.encode())

    def _answer(
        self, status: int, body: bytes, kind: str = "application/json", *, short: bool = False
    ) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: len(body) // 2] if short else body)
        self.close_connection |= short

    def log_message(self, *args: Any) -> None:
        pass


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        # Whoever asked was killed.
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)


def main() -> None:
    Handler.book = Book(sys.argv[1])
    server = Server(("127.0.0.1", 0), Handler)
    print(server.server_port, flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
