"""The trial that an interpreter passes or not, and what follows from it."""

from __future__ import annotations

import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from perdure.suspend import layout, probe, trial


@pytest.fixture(autouse=True)
def _untried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(probe, "_reason", None)


def test_this_interpreter_passes() -> None:
    if layout.unfit():
        pytest.skip(layout.unfit())
    trial.run(layout)
    assert probe.unfit() == ""


def test_that_it_passed_is_remembered_for_this_build(monkeypatch: pytest.MonkeyPatch) -> None:
    if layout.unfit():
        pytest.skip(layout.unfit())
    asked: list[str] = []

    def answer() -> str:
        asked.append("")
        return asked[-1]

    monkeypatch.setattr(probe, "_try", answer)
    for _ in range(2):
        assert probe.unfit() == ""
        monkeypatch.setattr(probe, "_reason", None)
    assert len(asked) == 1
    monkeypatch.setattr(sys, "version", "another build")
    assert probe.unfit() == ""
    assert len(asked) == 2


def test_a_failure_is_not_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = ["the disk was full", ""]
    monkeypatch.setattr(layout, "unfit", lambda: "")
    monkeypatch.setattr(probe, "_try", lambda: answers.pop(0))
    assert probe.unfit() == "the disk was full"
    monkeypatch.setattr(probe, "_reason", None)
    assert probe.unfit() == ""


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)", "crashed with signal 11"),
        ("def run(layout): raise RuntimeError('it differs')", "failed: RuntimeError: it differs"),
        ("import sys\nprint('passed')\nsys.exit(3)", "failed: it said nothing"),
    ],
)
def test_a_trial_that_goes_wrong_switches_it_off(
    text: str, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "trial.py"
    file.write_text(text)
    monkeypatch.setattr(layout, "unfit", lambda: "")
    monkeypatch.setattr(probe, "trial", types.SimpleNamespace(__file__=str(file)))
    assert reason in probe.unfit()
    assert reason in probe.unfit()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"MINOR": (3, 99)}, "CPython 3.99 is not known here yet"),
        ({"_LOCALS": 80}, "and not 80"),
        ({"_WORD": 4}, "only 64-bit builds"),
    ],
)
def test_what_is_not_known_is_not_tried(
    change: dict[str, Any], reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if layout.unfit():
        pytest.skip(layout.unfit())
    for name, value in change.items():
        monkeypatch.setattr(layout, name, value)
    assert reason in probe.unfit()


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ('("exception", c_void_p)', '("previous_exception", c_void_p)'),
        ('("instruction", c_void_p)', '("frame_object", c_void_p)'),
        ('("instruction", c_void_p)', '("previous", c_void_p)'),
        ('("closed", c_byte)', '("state", c_int8)'),
        ('("used", c_ssize_t)', '("position", c_ssize_t)'),
        ('("position", c_ssize_t)', '("left", c_ssize_t)'),
        ('("generator", c_void_p)', '("argument", c_void_p)'),
        ("_COMPLETED = 1", "_COMPLETED = 0"),
        ("CREATED = -3 if MINOR == (3, 13) else -2", "CREATED = -5"),
    ],
)
def test_a_wrong_layout_fails_the_trial_and_hurts_nobody(
    one: str, other: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if layout.unfit():
        pytest.skip(layout.unfit())
    text = Path(str(layout.__file__)).read_text()
    assert one in text
    changed = text.replace(one, "\0").replace(other, one).replace("\0", other)
    file = tmp_path / "layout.py"
    file.write_text(changed)
    files = types.SimpleNamespace(__file__=str(file), unfit=lambda: "")
    monkeypatch.setattr(probe, "layout", files)
    assert "the trial of its frames" in probe.unfit()


def count(n: int) -> Iterator[int]:
    i = 0
    while i < n:
        yield i
        i += 1


def test_a_frame_is_filled_with_what_fits_it_or_not_at_all() -> None:
    generator = count(5)
    next(generator)
    state = layout.read(generator)
    for wrong in (
        state._replace(state=77),
        state._replace(at=10_000),
        state._replace(at=-50),
        state._replace(values=state.values * 20),
        state._replace(values=[], nulls=0),
    ):
        fresh = layout.blank(generator.gi_code, globals())  # type: ignore[attr-defined]
        with pytest.raises(layout.Broken):
            layout.write(fresh, wrong)
        layout.write(fresh, state)
        with pytest.raises(layout.Broken, match="no fresh frame"):
            layout.write(fresh, state)
        assert list(fresh) == [1, 2, 3, 4]
    assert list(generator) == [1, 2, 3, 4]


def test_an_exception_that_a_call_has_handled_leaves_no_trace() -> None:
    def guess() -> None:
        try:
            raise KeyError(1)
        except KeyError:
            pass

    def guesses(*, guessing: bool) -> Iterator[int]:
        if guessing:
            guess()
        yield 1

    states = []
    for guessing in (True, False):
        generator = guesses(guessing=guessing)
        next(generator)
        states.append(layout.read(generator))
    assert states[0].nulls == states[1].nulls
    assert states[0].nulls & 1


def test_a_line_is_that_where_it_waits() -> None:
    generator = count(5)
    next(generator)
    assert layout.line_of(generator) == generator.gi_frame.f_lineno  # type: ignore[attr-defined]
