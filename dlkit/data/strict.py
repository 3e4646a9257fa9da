"""Dataclasses read back from JSON that may have been touched: every field checked, none ignored, none made up."""

import math
from dataclasses import fields
from types import UnionType
from typing import Any, TypeVar, get_args, get_origin

from dlkit.core.errors import bad_data

T = TypeVar("T")
MOST_CONTEXT = 1 << 20


def read(cls: type[T], data: object, where: str) -> T:
    """A `cls` from a JSON object with exactly its fields, each of its annotated type. Anything else: bad data."""
    kinds = {field.name: field.type for field in fields(cls)}  # type: ignore[arg-type]
    values = members(data, where, set(kinds))
    return cls(**{name: value(kind, values[name], f"{where}: {name}") for name, kind in kinds.items()})


def members(data: object, where: str, names: set[str]) -> dict[str, Any]:
    """A JSON object that has exactly the keys `names`."""
    if not isinstance(data, dict):
        raise bad_data(f"{where} is not a JSON object")
    if set(data) != names:
        odd = sorted(map(str, set(data) ^ names))[0]
        raise bad_data(f"{where}: {odd!r} is {'not known' if odd in data else 'missing'}")
    return data


def value(kind: Any, data: object, where: str) -> Any:
    """`data` as a value of an annotated type; anything else is bad data."""
    if isinstance(kind, UnionType):
        return None if data is None else value(get_args(kind)[0], data, where)
    if get_origin(kind) is tuple:
        if not isinstance(data, list):
            raise bad_data(f"{where} is not a list")
        return tuple(value(get_args(kind)[0], item, where) for item in data)
    if kind is float:
        return _number(data, where)
    if type(data) is not kind:
        raise bad_data(f"{where} is {data!r:.40}, which is no {_NAMES[kind]}")
    return data


_NAMES = {str: "text", bool: "true or false", int: "integer"}


def _number(data: object, where: str) -> float:
    try:
        number = float(data) if type(data) in (int, float) else math.nan  # type: ignore[arg-type]
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise bad_data(f"{where} is {data!r:.40}, which is no finite number")
    return number


def check(ok: bool, where: str, problem: str) -> None:
    if not ok:
        raise bad_data(f"{where}: {problem}")


def context(value: object, where: str) -> int:
    """A number of tokens that a network may read at once."""
    if type(value) is not int or not 1 <= value <= MOST_CONTEXT:
        raise bad_data(f"{where}: context is no number of tokens")
    return value
