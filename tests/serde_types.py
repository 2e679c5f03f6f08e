"""Classes of every sort, for the tests of what can be an argument or a result."""

from __future__ import annotations

import dataclasses
import datetime as dt
import enum
from decimal import Decimal
from typing import Annotated, Generic, NamedTuple, NewType, NotRequired, TypedDict, TypeVar

import msgspec
import pydantic

from perdure import Object

T = TypeVar("T")
Number = TypeVar("Number", int, str)
Bounded = TypeVar("Bounded", bound=int)

UserId = NewType("UserId", int)
Positive = Annotated[int, msgspec.Meta(ge=1)]


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 2


class Mixed(enum.Enum):
    ONE = 1
    TWO = "two"
    HALF = 0.5


class Permission(enum.IntFlag):
    READ = 1
    WRITE = 2


@dataclasses.dataclass
class Point:
    x: int
    y: int = 0


@dataclasses.dataclass(frozen=True, slots=True)
class Money:
    cents: int
    currency: str = "EUR"


@dataclasses.dataclass
class Line:
    """A line of an order."""

    item: str
    price: Money
    tags: list[str] = dataclasses.field(default_factory=list)


@dataclasses.dataclass
class Tree:
    value: int
    below: list[Tree] = dataclasses.field(default_factory=list)


@dataclasses.dataclass
class Box(Generic[T]):
    inside: T


@dataclasses.dataclass
class Chest(Box[list[T]], Generic[T]):
    lid: T


@dataclasses.dataclass
class Even:
    number: int

    def __post_init__(self) -> None:
        if self.number % 2:
            raise ValueError("the number is odd")


@dataclasses.dataclass
class Explosive:
    number: int

    def __post_init__(self) -> None:
        raise KeyError("boom")


@dataclasses.dataclass
class Seeded:
    seed: dataclasses.InitVar[int]
    total: int = dataclasses.field(init=False, default=0)

    def __post_init__(self, seed: int) -> None:
        self.total = seed * 2


@dataclasses.dataclass
class Event:
    """With a field that msgspec alone would refuse."""

    at: dt.datetime | str
    room: Room | None = None
    causes: list[Event] = dataclasses.field(default_factory=list)


@dataclasses.dataclass
class Cat:
    name: str
    lives: int = 9


@dataclasses.dataclass
class Dog:
    name: str
    tricks: list[str] = dataclasses.field(default_factory=list)


class Struct(msgspec.Struct):
    a: int
    b: str = "b"


class Renamed(msgspec.Struct, rename="camel", forbid_unknown_fields=True):
    first_name: str
    the_room: Room | None = None


class Circle(msgspec.Struct, tag="circle"):
    radius: float


class Square(msgspec.Struct, tag="square"):
    side: float


class Enter(msgspec.Struct, tag=True):
    room: Room


class Leave(msgspec.Struct, tag=True):
    room: Room


class Movie(TypedDict):
    title: str
    year: NotRequired[int]


class RoomInfo(TypedDict):
    room: Room
    when: NotRequired[dt.datetime | str]


class Pair(NamedTuple):
    left: int
    right: str = "r"


class Visit(NamedTuple):
    room: Room
    times: int = 1


class Account(pydantic.BaseModel):
    owner: str
    cents: int = 0
    opened: dt.date | None = None


class Bank(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(strict=True)

    accounts: list[Account]
    limit: Decimal = Decimal(10)


class Page(pydantic.BaseModel, Generic[T]):
    items: list[T]


@pydantic.dataclasses.dataclass
class Checked:
    n: int = pydantic.Field(gt=0)


class Plain:
    """A class without fields that anybody knows of."""


class Room(Object):
    async def post(self, text: str) -> int:
        return len(text)


class Lobby(Room):
    pass


class Counter(Object):
    pass
