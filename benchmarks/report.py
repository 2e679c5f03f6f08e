"""Figures: what was measured, beside which yardstick, against which goal; as text and table."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any


class Missing(Exception):
    """A figure cannot be measured here; the text says what is missing and how to get it."""


@dataclass(frozen=True, slots=True)
class Goal:
    """What a figure should come to, and whether it did."""

    text: str
    met: bool


@dataclass(frozen=True, slots=True)
class Beside:
    """The yardstick: what it is, what it came to in the same run, and how the figure compares."""

    what: str
    value: str
    ratio: float


@dataclass(frozen=True, slots=True)
class Figure:
    """One line of the table."""

    name: str
    value: str
    cpu_us: float | None = None
    """CPU of the measured process for one operation, user and system."""
    beside: Sequence[Beside] = ()
    goals: Sequence[Goal] = ()
    note: str = ""
    samples: dict[str, list[float]] = field(default_factory=dict)
    """Each round of each contender, for the JSON."""

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        return asdict(self)


def median(values: Iterable[float]) -> float:
    """The middle one of the rounds."""
    return statistics.median(values)


def at_least(value: float, goal: float, unit: str = "") -> Goal:
    """A goal for a rate or a ratio."""
    return Goal(f"≥ {_number(goal, unit)}", value >= goal)


def at_most(value: float, goal: float, unit: str) -> Goal:
    """A goal for a cost."""
    return Goal(f"≤ {_number(goal, unit)}", value <= goal)


def rate(value: float) -> str:
    """Operations a second, for people."""
    return f"{value / 1000:,.1f} k/s" if value >= 1000 else f"{value:,.0f} /s"


def micro(value: float) -> str:
    """Microseconds, for people."""
    return f"{value:,.0f} µs" if value >= 100 else f"{value:.2f} µs"


def _number(value: float, unit: str) -> str:
    if unit == "/s":
        return f"{value / 1000:g} k/s"
    return f"{value:g} {unit}".rstrip()


# --- for people


def print_figure(figure: Figure) -> None:
    """A figure on the terminal."""
    cpu = f"{figure.cpu_us:.2f} µs CPU" if figure.cpu_us is not None else ""
    print(f"  {figure.name:<58}{figure.value:>14}{cpu:>16}")
    for beside in figure.beside:
        print(f"      {beside.ratio:6.2f} × {beside.what} ({beside.value})")
    for goal in figure.goals:
        print(f"      goal {goal.text:<24} {'met' if goal.met else 'MISSED'}")
    if figure.note:
        print(f"      {figure.note}")


def table(figures: Iterable[Figure]) -> str:
    """The figures as a table in Markdown."""
    lines = [
        "| figure | measured | CPU each | beside its yardstick | goals |",
        "|---|---|---|---|---|",
    ]
    for figure in figures:
        cells = (
            figure.name + (f" ({figure.note})" if figure.note else ""),
            figure.value,
            f"{figure.cpu_us:.1f} µs" if figure.cpu_us is not None else "",
            "<br>".join(f"{one.ratio:.2f} × {one.what} ({one.value})" for one in figure.beside),
            "<br>".join(
                f"{goal.text}: {'met' if goal.met else '**missed**'}" for goal in figure.goals
            ),
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)
