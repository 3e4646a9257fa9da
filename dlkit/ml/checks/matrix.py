"""Columns of both sides as one matrix for a tree model: encoded together, missing stays missing."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from dlkit.data import Role
from dlkit.data.infer import as_text

# scikit-learn's histogram trees take no more categories than this; those beyond, in order of frequency, are one.
MOST_CATEGORIES = 254
LARGEST = 1e30
"""Numbers beyond are cut off: their squares would leave float32 and float64 behind, and trees ask for no more."""


@dataclass(frozen=True, eq=False)
class Matrix:
    """x: N×D float32, NaN where a value is missing. Categories are 0, 1, 2, … in order of frequency.

    is_category  D bool
    """

    x: np.ndarray
    names: tuple[str, ...]
    is_category: np.ndarray

    def take(self, columns: Sequence[int] | np.ndarray) -> "Matrix":
        at = np.asarray(columns, int)
        return Matrix(self.x[:, at], tuple(self.names[i] for i in at), self.is_category[at])

    def without(self, dropped: Sequence[str]) -> "Matrix":
        return self.take([i for i, name in enumerate(self.names) if name not in dropped])

    def rows(self, at: np.ndarray) -> "Matrix":
        return Matrix(self.x[at], self.names, self.is_category)


@dataclass(frozen=True, eq=False)
class Encoding:
    """How columns become numbers, by all rows of both sides, so that any of them are encoded alike.

    categories  of each category column its values, the most frequent first
    middles     of each other column its median
    """

    roles: dict[str, Role]
    categories: dict[str, list[str]]
    middles: dict[str, float]

    @classmethod
    def fit(cls, frame: pl.DataFrame, names: Sequence[str], roles: dict[str, Role]) -> "Encoding":
        categories, middles = {}, {}
        for name in names:
            if roles[name] == Role.CATEGORICAL:
                categories[name] = frequent(frame[name])
            else:
                middles[name] = float(np.asarray(_number(frame[name], roles[name]).median() or 0.0))
        return cls({name: roles[name] for name in names}, categories, middles)

    def __call__(self, frame: pl.DataFrame, names: Sequence[str] | None = None) -> Matrix:
        """The rows of `frame`; of prose its length is a feature, because formats differ in it."""
        names = tuple(self.roles) if names is None else tuple(names)
        x = np.empty((frame.height, len(names)), np.float32, order="F")
        for i, name in enumerate(names):
            x[:, i] = self._column(name, frame[name])
        return Matrix(x, names, np.array([name in self.categories for name in names], bool))

    def _column(self, name: str, values: pl.Series) -> np.ndarray:
        if name in self.categories:
            return np.minimum(coded(values, self.categories[name]), MOST_CATEGORIES)
        # float32 has seven digits: seconds since 1970 would lose theirs, were they not counted from the middle.
        return np.clip(floats(_number(values, self.roles[name])) - self.middles[name], -LARGEST, LARGEST)


def encode(frame: pl.DataFrame, names: Sequence[str], roles: dict[str, Role]) -> Matrix:
    """The columns `names` of a frame that is all there is."""
    return Encoding.fit(frame, names, roles)(frame)


def _number(values: pl.Series, role: Role) -> pl.Series:
    if role == Role.TEXT and values.dtype == pl.String:
        return values.str.len_chars().cast(pl.Float64)
    return values if values.dtype.is_numeric() else values.to_physical().cast(pl.Float64)


def frequent(values: pl.Series) -> list[str]:
    """The distinct values as text, the most frequent first."""
    text = as_text(values).drop_nulls()
    return text.value_counts().sort(["count", values.name], descending=[True, False])[values.name].to_list()


def coded(values: pl.Series, names: list[str]) -> np.ndarray:
    """N float64: the place of each value in `names`, NaN for missing."""
    if not names:
        return np.full(len(values), np.nan)
    return floats(as_text(values).cast(pl.Enum(names)).to_physical().cast(pl.Float64))


def codes(values: pl.Series) -> np.ndarray:
    """N float64: 0 for the most frequent category, 1 for the next, …; NaN for missing."""
    return coded(values, frequent(values))


def floats(values: pl.Series) -> np.ndarray:
    """N float64, NaN for null. Dates count in microseconds."""
    physical = values if values.dtype.is_numeric() else values.to_physical()
    return physical.cast(pl.Float64).fill_null(float("nan")).to_numpy()
