"""The outside world as a process of its own: it keeps book, is slow, refuses, and loses answers.

`POST /effect/{what}` has an effect once for each `Idempotency-Key`, and answers the same to each
request with it. `GET /events/{name}` streams, goes on behind `Last-Event-ID`, and breaks off.
`GET /page/{name}` is large. `GET /book` tells all of it.
"""

from __future__ import annotations

import json
import random
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

EVENTS = 12
PAGE = 150_000

lock = threading.Lock()
chance = random.Random(int(sys.argv[1]) if len(sys.argv) > 1 else 0)
requests: dict[str, list[str]] = {}
"""The keys of the requests for each effect, in the order of their coming."""
effects: dict[str, list[str]] = {}
"""The keys under which each effect was had."""


class Book(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        what = self.path.removeprefix("/effect/")
        key = self.headers["Idempotency-Key"]
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with lock:
            requests.setdefault(what, []).append(key)
            fate = chance.random()
        time.sleep(fate * 0.02)
        if fate < 0.1 and not body.get("sure"):
            self._answer(503, {"error": "not now"})
            return
        with lock:
            had = effects.setdefault(what, [])
            if key not in had:
                had.append(key)
        if fate > 0.9 and not body.get("sure"):
            # It has happened, and nobody hears of it.
            self.close_connection = True
            self.connection.close()
            return
        self._answer(200, {"what": what.partition(":")[2], "cents": body["cents"] * 2})

    def do_GET(self) -> None:
        if self.path == "/book":
            with lock:
                self._answer(200, {"requests": requests, "effects": effects})
        elif self.path.startswith("/page/"):
            self._answer(200, {"page": "x" * PAGE})
        else:
            self._stream()

    def _stream(self) -> None:
        self.close_connection = True
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        self.end_headers()
        first = int(self.headers.get("Last-Event-ID", 0)) + 1
        for number in range(first, EVENTS + 1):
            self.wfile.write(f"id: {number}\ndata: part {number}\n\n".encode())
            self.wfile.flush()
            time.sleep(0.01)

    def _answer(self, status: int, value: Any) -> None:
        data = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def handle(self) -> None:
        try:
            super().handle()
        except (OSError, ValueError):
            pass  # whoever asked was killed, perhaps in the middle of asking

    def log_message(self, *args: object) -> None:
        """Nothing."""


if __name__ == "__main__":
    server = ThreadingHTTPServer(("127.0.0.1", 0), Book)
    server.daemon_threads = True
    print(server.server_port, flush=True)
    server.serve_forever()
