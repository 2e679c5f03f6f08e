"""A supervisor with the fake worker, as a process: `run_supervisor.py APP FLAGS-AS-JSON`."""

from __future__ import annotations

import functools
import json
import sys
from pathlib import Path

from perdure.supervisor import process, supervise
from perdure.supervisor.link import Orders, Ready
from perdure.supervisor.process import Worker


def main() -> None:
    app, flags = sys.argv[1], json.loads(sys.argv[2])
    process.SILENCE_LEAST_S = 1.0  # type: ignore[misc]
    supervise.GRACE_S = 0.3  # type: ignore[misc]
    supervise.BACKOFF_MOST_S = 0.2  # type: ignore[misc]

    def on_ready(ready: Ready, url: str) -> None:
        print(f"ready {url}", file=sys.stderr, flush=True)

    def say(text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    fake = [sys.executable, str(Path(__file__).parent / "fake_worker.py")]
    supervisor = supervise.Supervisor(
        Orders(app, flags, "file" in flags),
        say=say,
        on_ready=on_ready,
        start=functools.partial(Worker, command=fake),
    )
    sys.exit(supervisor.run())


if __name__ == "__main__":
    main()
