"""From typed columns to the numbers and texts that the folds are cut from. Nothing here looks at a target."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import polars as pl

from dlkit.core.errors import bad_data
from dlkit.data import strict
from dlkit.data.dataset import Dataset, Role, Rows
from dlkit.data.encode import (
    MICROSECONDS_PER_DAY,
    MOST_CATEGORIES,
    Categorical,
    Datetime,
    Encoder,
    Numeric,
    Text,
    match_type,
)
from dlkit.data.infer import as_text
from dlkit.data.schema import Schema

UNKNOWN = -1.0
"""The code of a category that was not there when the categories were listed. NaN is a missing one."""
PARTS = ("days", "month", "weekday", "hour")


@dataclass(frozen=True, eq=False)
class Texts:
    """N texts as one run of UTF-8 bytes, so that they can be mapped from a file: `ends` are N+1 offsets."""

    data: np.ndarray
    ends: np.ndarray

    @classmethod
    def of(cls, values: pl.Series) -> "Texts":
        """A missing text is an empty one."""
        encoded = [text.encode() for text in values.fill_null("")]
        ends = np.concatenate([[0], np.cumsum([len(text) for text in encoded], dtype=np.int64)]).astype(np.int64)
        return cls(np.frombuffer(b"".join(encoded), np.uint8), ends)

    def followed_by(self, other: "Texts") -> "Texts":
        return Texts(
            np.concatenate([self.data, other.data]), np.concatenate([self.ends, self.ends[-1] + other.ends[1:]])
        )

    def take(self, rows: np.ndarray) -> list[str]:
        return [self.data[self.ends[i] : self.ends[i + 1]].tobytes().decode() for i in rows]


@dataclass(frozen=True, eq=False)
class Block:
    """N rows: N×F float64 (NaN is missing; categories are codes), or N×P pixels as they come; and T columns of text."""

    numbers: np.ndarray
    texts: tuple[list[str], ...] = ()

    @property
    def rows(self) -> int:
        return len(self.numbers)


@dataclass(frozen=True)
class Layout:
    """Which columns of a block are what: indices into `numbers`, the number of text columns, or an image's C×H×W.

    low, high  categories of few and of many (more than `MOST_CATEGORIES`) values
    """

    numeric: tuple[int, ...] = ()
    low: tuple[int, ...] = ()
    high: tuple[int, ...] = ()
    texts: int = 0
    image: tuple[int, ...] = ()


@dataclass(frozen=True)
class Coding:
    """How the columns of a table become a block, kept with a saved model as plain lists.

    columns  name, kind (numeric, categorical, datetime, text), and what it needs: categories, or a date's parts
    """

    columns: tuple[Mapping[str, Any], ...] = ()
    image: tuple[int, ...] = ()
    dtype: str = "float64"

    @classmethod
    def fit(cls, dataset: Dataset, schema: Schema) -> "Coding":
        """The schema's columns: list the categories, the parts of dates that vary, and the columns of text."""
        if dataset.arrays is not None:
            return cls(image=dataset.arrays.shape[1:], dtype=str(dataset.arrays.dtype))
        assert dataset.frame is not None
        return cls(tuple(_column(dataset.frame[e.column], Role(e.kind)) for e in schema.encoders))

    @classmethod
    def of_activations(cls, count: int) -> "Coding":
        """That of what a network makes of each row: so many numbers."""
        return cls(tuple({"name": f"activation {i + 1}", "kind": "numeric"} for i in range(count)))

    @cached_property
    def layout(self) -> Layout:
        kinds: dict[str, list[int]] = {"numeric": [], "low": [], "high": []}
        width = texts = 0
        for column in self.columns:
            if column["kind"] == "text":
                texts += 1
            elif column["kind"] == "categorical":
                kinds["low" if len(column["categories"]) <= MOST_CATEGORIES else "high"].append(width)
                width += 1
            else:
                parts = len(column.get("parts", ("value",)))
                kinds["numeric"] += range(width, width + parts)
                width += parts
        return Layout(*(tuple(indices) for indices in kinds.values()), texts, self.image)

    @property
    def features(self) -> int:
        """Columns of a table, pixels of an image."""
        return int(np.prod(self.image)) if self.image else len(self.columns)

    @property
    def names(self) -> list[str]:
        """The column that each column of `numbers` comes from."""
        return [c["name"] for c in self.columns if c["kind"] != "text" for _ in c.get("parts", ("value",))]

    @property
    def width(self) -> int:
        """Columns of the matrix that most models are fitted on: categories of few values one-hot; words apart."""
        sizes = [len(column.get("categories", ())) for column in self.columns]
        few = sum(size for size in sizes if size <= MOST_CATEGORIES)
        return int(np.prod(self.image)) if self.image else max(few + len(self.layout.numeric + self.layout.high), 1)

    def arrays(self, rows: Rows) -> tuple[np.ndarray, tuple[Texts, ...]]:
        """(N×F numbers, T columns of text). Columns are found by name; one that is missing, or of another type: bad
        data."""
        if self.image:
            return self._pixels(rows), ()
        if rows.frame is None:
            raise bad_data(f"{rows.source}: images, where a table with {len(self.columns)} columns is needed")
        numbers, texts = [], []
        for column in self.columns:
            if column["name"] not in rows.frame.columns:
                raise bad_data(f"{rows.source}: no column {column['name']!r}, which the model needs")
            values = match_type(_BLANK[column["kind"]](column["name"]), rows, rows.frame[column["name"]], None)
            if column["kind"] == "text":
                texts.append(Texts.of(values))
            else:
                numbers += _CODES[column["kind"]](values, column)
        return np.column_stack(numbers) if numbers else np.zeros((rows.frame.height, 0)), tuple(texts)

    def _pixels(self, rows: Rows) -> np.ndarray:
        needed = "×".join(map(str, self.image)) + f" of {self.dtype}"
        if rows.arrays is None:
            raise bad_data(f"{rows.source}: a table, where images {needed} are needed")
        if rows.arrays.shape[1:] != self.image or str(rows.arrays.dtype) != self.dtype:
            found = "×".join(map(str, rows.arrays.shape[1:])) + f" of {rows.arrays.dtype}"
            raise bad_data(f"{rows.source}: images are {found}, where {needed} are needed")
        return rows.arrays.reshape(len(rows.arrays), -1)

    def block(self, rows: Rows) -> Block:
        """All the rows at once."""
        numbers, texts = self.arrays(rows)
        return Block(numbers, tuple(text.take(np.arange(len(numbers))) for text in texts))

    def to_json(self) -> dict[str, Any]:
        return {"columns": [dict(column) for column in self.columns], "image": list(self.image), "dtype": self.dtype}

    @classmethod
    def from_json(cls, data: object) -> "Coding":
        """A coding out of what `to_json` made; anything else is bad data."""
        where = "coding"
        values = strict.members(data, where, {"columns", "image", "dtype"})
        strict.check(isinstance(values["columns"], list), where, "columns is not a list")
        columns = tuple(_checked(column, f"{where}: column {i}") for i, column in enumerate(values["columns"], 1))
        return cls(columns, **vars(strict.read(_Pixels, {k: values[k] for k in ("image", "dtype")}, where)))


@dataclass(frozen=True)
class _Pixels:
    image: tuple[int, ...]
    dtype: str


# What a column of each kind says besides its name and kind.
_EXTRA = {"numeric": None, "categorical": "categories", "datetime": "parts", "text": None}


def _checked(column: Any, where: str) -> Mapping[str, Any]:
    kind = column.get("kind") if isinstance(column, dict) else None
    strict.check(isinstance(kind, str) and kind in _EXTRA, where, f"no kind of column: {kind!r:.40}")
    extra = _EXTRA[kind]
    strict.members(column, where, {"name", "kind", *([extra] if extra else [])})
    words = column[extra] if extra else []
    strict.check(
        isinstance(words, list) and all(isinstance(w, str) for w in [column["name"], *words]), where, "no text"
    )
    strict.check(
        len(set(words)) == len(words) and (extra != "parts" or set(words) <= set(PARTS)), where, "no such part"
    )
    return column


def _column(values: pl.Series, role: Role) -> dict[str, Any]:
    column: dict[str, Any] = {"name": values.name, "kind": role.value}
    if role is Role.CATEGORICAL:
        column["categories"] = sorted(as_text(values).drop_nulls().unique())
    elif role is Role.DATETIME:
        parts = dict(zip(PARTS, _parts(values), strict=True))
        vary = [name for name, part in parts.items() if len(np.unique(part[~np.isnan(part)])) > 1]
        column["parts"] = vary or ["days"]
    return column


def _parts(values: pl.Series) -> list[np.ndarray]:
    """Days since 1970, month, weekday (Monday is 1), hour with its minutes as a fraction; NaN for missing."""
    turns = values.to_physical().cast(pl.Float64) / MICROSECONDS_PER_DAY
    found = [turns, values.dt.month(), values.dt.weekday(), turns % 1 * 24]
    return [part.cast(pl.Float64).fill_null(float("nan")).to_numpy() for part in found]


# Encoders that only say their type: what is fitted is fitted inside the folds.
_BLANK: dict[str, Callable[[str], Encoder]] = {
    "numeric": lambda name: Numeric(name, 0.0, 1.0, False),
    "categorical": lambda name: Categorical(name, (), False, False),
    "datetime": lambda name: Datetime(name, 0.0, 1.0, False, False, False),
    "text": Text,
}


def _numeric(values: pl.Series, column: Mapping[str, Any]) -> list[np.ndarray]:
    return [values.fill_null(float("nan")).to_numpy()]


def _categorical(values: pl.Series, column: Mapping[str, Any]) -> list[np.ndarray]:
    codes = values.cast(pl.Enum(column["categories"]), strict=False).to_physical().cast(pl.Float64)
    codes = codes.fill_null(UNKNOWN).to_numpy()
    return [np.where(values.is_null().to_numpy(), np.nan, codes)]


def _datetime(values: pl.Series, column: Mapping[str, Any]) -> list[np.ndarray]:
    found = dict(zip(PARTS, _parts(values), strict=True))
    return [found[name] for name in column["parts"]]


_CODES = {"numeric": _numeric, "categorical": _categorical, "datetime": _datetime}
