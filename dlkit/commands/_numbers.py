"""Readers of option values: numbers in a range, and what the core reads."""

import math
from collections.abc import Callable
from typing import TypeVar

import typer

T = TypeVar("T")


def reader(read: Callable[[str], T]) -> Callable[[str], T]:
    """A parser of option values out of one that raises ValueError with what would be right; defaults pass as well."""

    def parse(text: str) -> T:
        try:
            return read(str(text))
        except ValueError as error:
            raise typer.BadParameter(str(error)) from None

    return parse


def _number(text: str, low: float, closed: bool) -> float:
    """A finite number of at least (or above) `low`; the message says the range and what was given."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value) or value < low or (value == low and not closed):
        bound = "at least" if closed else "above"
        raise typer.BadParameter(f"must be a finite number {bound} {low:g}. Got {text!r} instead.")
    return value


def positive(text: str) -> float:
    return _number(text, 0, closed=False)


def not_negative(text: str) -> float:
    return _number(text, 0, closed=True)


def share(text: str) -> float:
    value = _number(text, 0, closed=False)
    if value >= 1:
        raise typer.BadParameter(f"must be a share between 0 and 1, such as 0.2. Got {text!r} instead.")
    return value


def below_one(text: str) -> float:
    value = _number(text, 0, closed=True)
    if value >= 1:
        raise typer.BadParameter(f"must be at least 0 and below 1, such as 0.9. Got {text!r} instead.")
    return value
