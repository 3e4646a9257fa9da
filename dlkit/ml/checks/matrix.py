"""Columns of both sides as one matrix for a tree model: encoded together, missing stays missing."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from dlkit.data import Role

# scikit-learn's histogram trees take no more categories than this; those beyond, in order of frequency, are one.
MOST_CATEGORIES = 254
LARGEST = float(np.finfo(np.float32).max)


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


def encode(frame: pl.DataFrame, names: Sequence[str], roles: dict[str, Role]) -> Matrix:
    """The columns `names` of a typed frame. Of prose its length is a feature: formats differ in it."""
    x = np.empty((frame.height, len(names)), np.float32, order="F")
    is_category = np.array([roles[name] == Role.CATEGORICAL for name in names], bool)
    for i, name in enumerate(names):
        x[:, i] = _column(frame[name], roles[name])
    return Matrix(x, tuple(names), is_category)


def _column(values: pl.Series, role: Role) -> np.ndarray:
    if role == Role.CATEGORICAL:
        return codes(values)
    if role == Role.TEXT and values.dtype == pl.String:
        values = values.str.len_chars().cast(pl.Float64)
    numbers = floats(values)
    if len(values) == values.null_count():
        return numbers
    # float32 has seven digits: seconds since 1970 would lose theirs, were they not counted from the middle.
    return np.clip(numbers - np.nanmedian(numbers), -LARGEST, LARGEST)


def codes(values: pl.Series) -> np.ndarray:
    """N float64: 0 for the most frequent category, 1 for the next, …; NaN for missing."""
    text = values if values.dtype == pl.String else values.cast(pl.String)
    counts = text.drop_nulls().value_counts().sort(["count", values.name], descending=[True, False])
    names = counts[values.name]
    if not len(names):
        return np.full(len(values), np.nan)
    found = text.cast(pl.Enum(names)).to_physical().cast(pl.Float64)
    return np.minimum(floats(found), MOST_CATEGORIES)


def floats(values: pl.Series) -> np.ndarray:
    """N float64, NaN for null. Dates count in microseconds."""
    physical = values if values.dtype.is_numeric() else values.to_physical()
    return physical.cast(pl.Float64).fill_null(float("nan")).to_numpy()
