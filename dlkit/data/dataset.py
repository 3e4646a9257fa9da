"""What a data set is, whatever it was read from."""

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any, Self

import numpy as np
import polars as pl

from dlkit.core.errors import DlkitError, bad_data


class Role(StrEnum):
    """What a column of a table is to a model. Text, id and constant columns are left out of training."""

    NUMERIC = "numeric"
    CATEGORICAL = "categorical"
    DATETIME = "datetime"
    TEXT = "text"
    ID = "id"
    CONSTANT = "constant"

    @property
    def is_used(self) -> bool:
        return self in (Role.NUMERIC, Role.CATEGORICAL, Role.DATETIME)


@dataclass(frozen=True)
class Column:
    """One column of a table, the target apart. `distinct` counts the values that are there."""

    name: str
    role: Role
    missing: int
    distinct: int


@dataclass(frozen=True, eq=False)
class Place:
    """Where the rows of a source came from, so that a message can point there.

    numbers  N numbers of lines or of rows, from 1 as an editor counts; None for the rows 1, 2, 3, …
    unit     what is counted: 'line' of a text file, 'row' of anything else
    """

    source: str
    numbers: np.ndarray | None = None
    unit: str = "row"

    def where(self, row: int) -> str:
        """'line 57' of a text file, 'row 56' of anything else."""
        return f"{self.unit} {row + 1 if self.numbers is None else self.numbers[row]}"

    def bad_cell(self, row: int, column: str, value: object, problem: str, hint: str | None = None) -> DlkitError:
        return bad_data(f"{self.source}: {self.where(row)}, column {column!r}: {shown(value)} {problem}", hint)

    def take(self, indices: np.ndarray) -> "Place":
        """The place of the rows at `indices`, each still where it stands in the source."""
        return replace(self, numbers=self.numbers_of(indices))

    def numbers_of(self, indices: np.ndarray) -> np.ndarray:
        """The lines, or else the rows from 1, of the rows at `indices`."""
        return indices + 1 if self.numbers is None else self.numbers[indices]

    def keep(self, mask: np.ndarray) -> "Place":
        """The place of the rows that are kept: N bool."""
        return self if mask.all() else self.take(np.flatnonzero(mask))


def shown(value: object) -> str:
    """A value as an error shows it: quoted, one line, not too long."""
    text = repr(value.item() if isinstance(value, np.generic) else value)
    return text if len(text) <= 60 else text[:57] + "…" + text[0]


@dataclass(frozen=True, eq=False, kw_only=True)
class Rows:
    """N rows as they were read: a table (`frame`) or images (`arrays`).

    name         short, fit for a directory's name
    columns      the frame's columns
    frame        Float64 for numbers, String for categories and text, Datetime (µs) for dates; missing is null
    arrays       N×C×H×W, uint8 or float32; `frame` then holds the labels, where the source has them
    fixed_split  N bool, True for validation, where the source says how it is split
    fingerprint  sha256 of the content
    """

    name: str
    source: str
    fingerprint: str
    place: Place
    columns: tuple[Column, ...] = ()
    frame: pl.DataFrame | None = None
    arrays: np.ndarray | None = None
    fixed_split: np.ndarray | None = None
    notes: tuple[str, ...] = ()

    @property
    def rows(self) -> int:
        if self.arrays is not None:
            return len(self.arrays)
        return 0 if self.frame is None else self.frame.height

    def where(self, row: int) -> str:
        """Where a row stands in its source: 'line 57', 'row 56'."""
        return self.place.where(row)

    def take(self, indices: np.ndarray) -> Self:
        """The rows at `indices` (integers, any order, repeats allowed), as if the source had only them."""
        parts = {name: getattr(self, name) for name in ("frame", "arrays", "fixed_split")}
        taken: dict[str, Any] = {name: None if part is None else part[indices] for name, part in parts.items()}
        return replace(self, place=self.place.take(indices), **taken)


@dataclass(frozen=True, eq=False, kw_only=True)
class Dataset(Rows):
    """Rows with their targets. Rows whose target is missing are left out; the target is not among the columns.

    labels  N int64 class indices, or N float64 regression targets
    Of several targets (multi-label) there is no `target`: `classes` are their names, `labels` is N×K bool, and `values`
    are the two words of each, of rows without the label and of rows with it.
    """

    task: str
    target: str | None
    classes: tuple[str, ...]
    labels: np.ndarray
    values: tuple[tuple[str, str], ...] = ()

    @property
    def rows(self) -> int:
        return len(self.labels)

    @property
    def targets(self) -> tuple[str, ...]:
        """The names of all targets."""
        return self.classes if self.values else () if self.target is None else (self.target,)

    def take(self, indices: np.ndarray) -> Self:
        return replace(super().take(indices), labels=self.labels[indices])
