"""Record and replay of what steps answer: a file that stands for the outside world.

The first run records what the real steps returned or raised; later ones answer from the file and
run no step. Outcomes are found by step and arguments, in the order in which they were recorded, so
a scenario may call a step many times. The file is JSON to be read and reviewed; values that JSON
cannot hold stand in it as base64. Load only files of your own: values may be of any class.
"""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

from perdure.suspend import heap
from perdure.testing.attempts import StepCall

MODES = ("auto", "record", "replay")


class Cassette:
    """One file. `auto`: replay it if it is there, and record it if not."""

    def __init__(self, path: str | Path, mode: str = "auto") -> None:
        self._path = Path(path)
        if mode not in MODES:
            raise ValueError(f"mode is one of {', '.join(MODES)}, not {mode!r}")
        there = self._path.is_file()
        if mode == "replay" and not there:
            raise FileNotFoundError(f"there is no cassette {path}; record it with mode='record'")
        self.replays = mode == "replay" or (mode == "auto" and there)
        self._recorded: list[dict[str, Any]] = []
        if self.replays:
            self._recorded = json.loads(self._path.read_text(encoding="utf-8"))["calls"]
        self._given: dict[tuple[str, str], int] = {}
        self._by_id: dict[str, dict[str, Any]] = {}

    def find(self, call: StepCall) -> StepCall | None:
        """The recorded outcome of an attempt; None while recording. Raises LookupError."""
        if not self.replays:
            return None
        arguments = _arguments(call)
        mark = (call.step, arguments)
        # An attempt that runs again after a crash gets what the first one got.
        found = self._by_id.get(call.id) if call.attempt > 1 else None
        known = [one for one in self._recorded if (one["step"], one["arguments"]) == mark]
        if found is None or found["outcome"] == "failed":
            nth = self._given.get(mark, 0)
            if nth >= len(known):
                raise LookupError(
                    f"the cassette {self._path} has {len(known)} outcomes of "
                    f"{call.step}{arguments}, and one more was asked for; "
                    "record it anew with mode='record'"
                )
            self._given[mark] = nth + 1
            found = self._by_id[call.id] = known[nth]
        outcome = StepCall(call.step, call.object, (), {}, call.id, call.attempt, call.at)
        outcome.outcome = found["outcome"]
        outcome.items = [_value(item) for item in found.get("items", ())]
        if found["outcome"] == "failed":
            outcome.error = _value(found["error"])
        else:
            outcome.result = _value(found["result"])
        return outcome

    def keep(self, call: StepCall) -> None:
        """Record an attempt that has ended."""
        if self.replays:
            return
        entry: dict[str, Any] = {
            "step": call.step,
            "arguments": _arguments(call),
            "outcome": call.outcome,
        }
        if call.items:
            entry["items"] = [_told(item) for item in call.items]
        if call.outcome == "failed":
            entry["error"] = _told(call.error)
        else:
            entry["result"] = _told(call.result)
        self._recorded.append(entry)

    def close(self) -> None:
        """Write what was recorded."""
        if not self.replays:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            text = json.dumps({"calls": self._recorded}, indent=2, ensure_ascii=False)
            self._path.write_text(text + "\n", encoding="utf-8")


def _arguments(call: StepCall) -> str:
    named = [*map(repr, call.args), *(f"{name}={arg!r}" for name, arg in call.kwargs.items())]
    return f"({', '.join(named)})"


def _told(value: Any) -> Any:
    """A value for the file: as it is where JSON gives the same back, else as bytes."""
    try:
        if json.loads(json.dumps(value)) == value and _is_plain(value):
            return {"json": value}
    except (TypeError, ValueError):
        pass
    return {"repr": repr(value), "bytes": base64.b64encode(heap.dumps(value)).decode()}


def _is_plain(value: Any) -> bool:
    if type(value) is dict:
        return all(type(name) is str and _is_plain(one) for name, one in value.items())
    if type(value) is list:
        return all(map(_is_plain, value))
    return value is None or type(value) in (str, int, float, bool)


def _value(told: dict[str, Any]) -> Any:
    return told["json"] if "json" in told else heap.loads(base64.b64decode(told["bytes"]))
