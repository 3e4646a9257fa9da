"""How a column becomes features: fitted on training rows, applied to any, kept as plain JSON."""

import math
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import numpy as np
import polars as pl

from dlkit.core.errors import bad_data
from dlkit.data import strict
from dlkit.data.dataset import Column, Role, Rows
from dlkit.data.infer import DATETIME, as_text, parse_numbers, read_dates

# Categories beyond this many, in order of their frequency, share one feature.
MOST_CATEGORIES = 64
MICROSECONDS_PER_DAY = 86_400_000_000
LARGEST = float(np.finfo(np.float32).max)


@dataclass(frozen=True)
class Scale:
    """(x − mean)/std in float64, cut off where float32 ends; a missing value becomes 0, which is the mean."""

    mean: float
    std: float

    @classmethod
    def fit(cls, x: np.ndarray, what: str) -> "Scale | None":
        """Mean and standard deviation (of the population) of what is there; None where that is one value."""
        x = x[~np.isnan(x)]
        if not len(x) or x.min() == x.max():
            return None
        with np.errstate(over="ignore", invalid="ignore"):
            mean, std = float(x.mean()), float(x.std())
        if not (math.isfinite(mean) and math.isfinite(std) and std > 0):
            raise bad_data(f"{what}: its numbers are too large or too close to each other to be standardised")
        return cls(mean, std)

    def __call__(self, x: np.ndarray) -> np.ndarray:
        with np.errstate(over="ignore"):
            scaled = np.clip((x - self.mean) / self.std, -LARGEST, LARGEST)
        return np.nan_to_num(scaled, copy=False, nan=0.0)


@dataclass(frozen=True)
class Numeric:
    """The standardised value, and whether it is missing, where it is on the training side."""

    kind: ClassVar[str] = "numeric"
    dtype: ClassVar[pl.DataType] = pl.Float64()
    column: str
    mean: float
    std: float
    missing: bool

    @property
    def features(self) -> tuple[str, ...]:
        return (self.column, *([f"{self.column} missing"] if self.missing else []))

    @classmethod
    def fit(cls, values: pl.Series) -> "Numeric | None":
        missing = values.null_count() > 0
        scale = Scale.fit(_floats(values), f"column {values.name!r}")
        if scale is None and missing and values.null_count() < len(values):
            # One value, or none: only which of the two it is can tell anything.
            mean = float(values.drop_nulls()[0])
            return cls(values.name, mean, max(abs(mean), 1.0), True)
        return None if scale is None else cls(values.name, scale.mean, scale.std, missing)

    def encode(self, values: pl.Series, out: np.ndarray) -> None:
        x = _floats(values)
        out[:, 0] = Scale(self.mean, self.std)(x)
        if self.missing:
            out[:, 1] = np.isnan(x)


@dataclass(frozen=True)
class Categorical:
    """One feature for each category of the training side; one for missing and one for all other values, if it has them.

    A category that training has not seen is `other` where there is one, and else all zeros.
    """

    kind: ClassVar[str] = "categorical"
    dtype: ClassVar[pl.DataType] = pl.String()
    column: str
    categories: tuple[str, ...]
    missing: bool
    other: bool

    @property
    def features(self) -> tuple[str, ...]:
        names = [f"{self.column}={category}" for category in self.categories]
        return (*names, *[f"{self.column} {n}" for n in ("missing", "other") if getattr(self, n)])

    @classmethod
    def fit(cls, values: pl.Series) -> "Categorical | None":
        missing = values.null_count() > 0
        counts = values.drop_nulls().alias("value").value_counts().sort(["count", "value"], descending=[True, False])
        if counts.height + missing < 2:
            return None
        most = sorted(counts["value"].head(MOST_CATEGORIES))
        return cls(values.name, tuple(most), missing, counts.height > MOST_CATEGORIES)

    def encode(self, values: pl.Series, out: np.ndarray) -> None:
        codes = values.cast(pl.Enum(self.categories), strict=False).to_physical().cast(pl.Int64)
        known = codes.is_not_null().to_numpy()
        out[np.flatnonzero(known), codes.drop_nulls().to_numpy()] = 1
        absent = values.is_null().to_numpy()
        if self.missing:
            out[absent, len(self.categories)] = 1
        if self.other:
            out[~known & ~absent, -1] = 1


@dataclass(frozen=True)
class Datetime:
    """Days since 1970, standardised; the hour and the day of the week as sine and cosine, where they vary."""

    kind: ClassVar[str] = "datetime"
    dtype: ClassVar[pl.DataType] = DATETIME
    column: str
    mean: float
    std: float
    hour: bool
    weekday: bool
    missing: bool

    @property
    def features(self) -> tuple[str, ...]:
        cycles = [f"{name} {wave}" for name in ("hour", "weekday") if getattr(self, name) for wave in ("sin", "cos")]
        return tuple(f"{self.column} {n}" for n in ["days", *cycles, *(["missing"] if self.missing else [])])

    @classmethod
    def fit(cls, values: pl.Series) -> "Datetime | None":
        there = values.drop_nulls()
        scale = Scale.fit(_days(there), f"column {values.name!r}")
        if scale is None:
            return None
        hour, weekday = (bool(part.n_unique() > 1) for part in (there.dt.time(), there.dt.weekday()))
        return cls(values.name, scale.mean, scale.std, hour, weekday, len(there) < len(values))

    def encode(self, values: pl.Series, out: np.ndarray) -> None:
        days = _days(values)
        columns = [Scale(self.mean, self.std)(days)]
        if self.hour:
            columns += _wave(days % 1)
        if self.weekday:
            columns += _wave((np.floor(days) + 3) % 7 / 7)  # 1970 began on a Thursday
        if self.missing:
            columns.append(np.isnan(days))
        out[:] = np.column_stack(columns)


@dataclass(frozen=True)
class Text:
    """A column of prose: no feature of a network's, but a column that a classic model may read."""

    kind: ClassVar[str] = "text"
    dtype: ClassVar[pl.DataType] = pl.String()
    column: str

    @property
    def features(self) -> tuple[str, ...]:
        return ()

    @classmethod
    def fit(cls, values: pl.Series) -> "Text":
        return cls(values.name)

    def encode(self, values: pl.Series, out: np.ndarray) -> None:
        """Nothing to encode."""


Encoder = Numeric | Categorical | Datetime | Text
KINDS: dict[str, type[Encoder]] = {encoder.kind: encoder for encoder in (Numeric, Categorical, Datetime, Text)}


def fit_encoder(column: Column, values: pl.Series, texts: bool = False) -> Encoder | None:
    """The encoder of a column's training values; None for a column that tells nothing on that side.

    texts  whether columns of text count
    """
    is_used = column.role.is_used or (texts and column.role is Role.TEXT)
    return KINDS[Role(column.role)].fit(values) if is_used else None


def encoder_to_json(encoder: Encoder) -> dict[str, Any]:
    return {"kind": encoder.kind} | {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(encoder).items()}


def encoder_from_json(data: object, where: str) -> Encoder:
    kind = data.get("kind") if isinstance(data, dict) else None
    strict.check(isinstance(kind, str) and kind in KINDS, where, f"no kind of column: {kind!r:.40}")
    assert isinstance(data, dict) and isinstance(kind, str)
    encoder = strict.read(KINDS[kind], {k: v for k, v in data.items() if k != "kind"}, where)
    if isinstance(encoder, Categorical):
        unique = len(set(encoder.categories)) == len(encoder.categories)
        strict.check(unique and len(encoder.categories) <= MOST_CATEGORIES, where, "categories repeat or are too many")
    elif not isinstance(encoder, Text):
        strict.check(encoder.std > 0, where, "std is not positive")
    return encoder


def match_type(encoder: Encoder, dataset: Rows, values: pl.Series, rows: np.ndarray | None) -> pl.Series:
    """A column as the type that the encoder was fitted on; a cell that cannot be that is named."""
    if values.dtype == encoder.dtype:
        return values
    if values.null_count() == len(values):
        return pl.Series(values.name, [None] * len(values), dtype=encoder.dtype)
    if encoder.kind in ("categorical", "text"):
        return as_text(values)
    is_number = encoder.kind == "numeric"
    parsed = pl.Series([None] * len(values))
    if values.dtype == pl.String:
        parsed = parse_numbers(values)[0] if is_number else read_dates(values)
    wrong = parsed.is_null() & values.is_not_null()
    if not wrong.any():
        return parsed
    at = int(wrong.arg_max() or 0)
    problem = f"is not a {'number' if is_number else 'date'}, as it was in training"
    raise dataset.place.bad_cell(at if rows is None else int(rows[at]), values.name, as_text(values)[at], problem)


def _floats(values: pl.Series) -> np.ndarray:
    """N float64, NaN for missing."""
    return values.cast(pl.Float64).fill_null(math.nan).to_numpy()


def _days(values: pl.Series) -> np.ndarray:
    """Days since 1970-01-01, NaN for missing."""
    return _floats(values.to_physical()) / MICROSECONDS_PER_DAY


def _wave(turn: np.ndarray) -> list[np.ndarray]:
    """Sine and cosine of a share of a turn; 0 for missing."""
    return [np.nan_to_num(f(2 * np.pi * turn)) for f in (np.sin, np.cos)]
