"""Arguments of a layer: how a value is read from text, checked, and written back.

A kind's `read` takes text and `check` a Python value; both return the value or raise ValueError, and
whoever knows the parameter's name makes a message of that and of the kind's `expected`.
"""

import math
import re
from typing import Any

from dlkit.core.errors import DlkitError

LARGEST = 10**9
AXES = 3

Pairs = tuple[tuple[int, int], ...]


class Kind:
    """How one sort of value is read, checked and written."""

    expected = ""
    words: tuple[str, ...] = ()

    def read(self, text: str) -> Any:
        raise NotImplementedError

    def check(self, value: Any) -> Any:
        raise NotImplementedError

    def write(self, value: Any) -> str:
        return str(value)


def whole(text: str) -> int:
    """The integer that `text` spells in plain digits; ValueError for anything else, or too many."""
    if not re.fullmatch(r"-?[0-9]{1,18}", text):
        raise ValueError(text)
    return int(text)


class Whole(Kind):
    """One integer in [low, high]."""

    def __init__(self, low: int = 1, high: int = LARGEST) -> None:
        self.low, self.high = low, high
        self.expected = f"a whole number in the range [{low}, {high}]"

    def read(self, text: str) -> int:
        return self.check(whole(text))

    def check(self, value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not self.low <= value <= self.high:
            raise ValueError(value)
        return value


class Sizes(Kind):
    """An integer for all axes, or one for each: (3,) or (3, 5), written 3 or 3x5."""

    def __init__(self, low: int = 1) -> None:
        self.item = Whole(low)
        self.expected = f"{self.item.expected}, or one for each axis as in 3x5"

    def read(self, text: str) -> tuple[int, ...]:
        return self.check(tuple(whole(part) for part in text.split("x")))

    def check(self, value: Any) -> tuple[int, ...]:
        items = (value,) if isinstance(value, int) else tuple(value)
        if not 1 <= len(items) <= AXES:
            raise ValueError(value)
        return tuple(self.item.check(item) for item in items)

    def write(self, value: tuple[int, ...]) -> str:
        return "x".join(map(str, value))


class Padding(Kind):
    """Pairs, the padding before and after, per axis; or a word that works it out ("same", "same-tf")."""

    item = Whole(0)

    def __init__(self, *words: str) -> None:
        self.words = ("valid", *words)
        self.expected = (
            f"{self.item.expected}, one for each axis as in 1x2, before.after pairs as in 0.1x0.1, "
            f"or {' or '.join(self.words)}"
        )

    def read(self, text: str) -> str | Pairs:
        if text in self.words:
            return self.check(text)
        axes = [tuple(whole(n) for n in part.split(".")) for part in text.split("x")]
        if len(axes) == 1 and len(axes[0]) in (4, 6):  # top.bottom.left.right
            flat = axes[0]
            axes = [flat[i : i + 2] for i in range(0, len(flat), 2)]
        return self.check(axes)

    def check(self, value: Any) -> str | Pairs:
        if isinstance(value, str):
            if value not in self.words:
                raise ValueError(value)
            return ((0, 0),) if value == "valid" else value
        axes = [value] if isinstance(value, int) else list(value)
        if not 1 <= len(axes) <= AXES:
            raise ValueError(value)
        return tuple(self._pair(axis) for axis in axes)

    def _pair(self, axis: Any) -> tuple[int, int]:
        numbers = (axis,) if isinstance(axis, int) else tuple(axis)
        if len(numbers) not in (1, 2):
            raise ValueError(axis)
        return self.item.check(numbers[0]), self.item.check(numbers[-1])

    def write(self, value: str | Pairs) -> str:
        if isinstance(value, str):
            return value
        if all(before == after for before, after in value):
            return "x".join(str(before) for before, _ in value)
        return "x".join(f"{before}.{after}" for before, after in value)


class Flag(Kind):
    """0 or 1."""

    expected = "0 or 1"

    def read(self, text: str) -> bool:
        words = {"0": False, "1": True, "false": False, "true": True}
        if text.lower() not in words:
            raise ValueError(text)
        return words[text.lower()]

    def check(self, value: Any) -> bool:
        if value not in (0, 1):
            raise ValueError(value)
        return bool(value)

    def write(self, value: bool) -> str:
        return str(int(value))


class Real(Kind):
    """A finite number in [low, high]."""

    def __init__(self, low: float = -math.inf, high: float = math.inf) -> None:
        self.low, self.high = low, high
        left = "(-inf" if low == -math.inf else f"[{low:g}"
        right = "inf)" if high == math.inf else f"{high:g}]"
        self.expected = f"a number in the range {left}, {right}"

    def read(self, text: str) -> float:
        if not text.isascii() or "_" in text:
            raise ValueError(text)
        return self.check(float(text))

    def check(self, value: Any) -> float:
        if not math.isfinite(value) or not self.low <= value <= self.high:
            raise ValueError(value)
        return float(value)

    def write(self, value: float) -> str:
        return repr(int(value)) if value == int(value) and abs(value) < LARGEST else repr(value)


class Choice(Kind):
    """One of a few words."""

    def __init__(self, *words: str) -> None:
        self.words = words
        self.expected = f"one of {', '.join(words)}"

    def read(self, text: str) -> str:
        return self.check(text)

    def check(self, value: Any) -> str:
        if value not in self.words:
            raise ValueError(value)
        return str(value)


REQUIRED = object()


class Argument:
    """An argument of a layer: torch's name, the short letter, the kind of value, its default, what it is."""

    __slots__ = ("default", "kind", "name", "short", "what")

    def __init__(self, name: str, kind: Kind, default: Any = REQUIRED, short: str = "", what: str = "") -> None:
        self.name = name
        self.kind = kind
        self.default = default
        self.short = short
        self.what = what or name.replace("_", " ")

    @property
    def label(self) -> str:
        return f"{self.name} ({self.short})" if self.short else self.name

    def check(self, value: Any) -> Any:
        """`value` in its stored form; DlkitError names the allowed range. A default of None may be given."""
        if value is None and self.default is None:
            return None
        try:
            return self.kind.check(value)
        except (ValueError, TypeError):
            raise DlkitError(f"{self.name} must be {self.kind.expected}; got {value!r}") from None

    def write(self, value: Any, bare: bool = False) -> str:
        text = self.kind.write(value)
        if self.short:
            return self.short + text
        return text if bare else f"{self.name}={text}"
