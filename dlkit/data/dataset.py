"""What a data set is, whatever it was read from."""

from dataclasses import dataclass
from enum import StrEnum

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

    lines  N line numbers, from 1 as an editor counts; None where the source has rows but no lines.
    """

    source: str
    lines: np.ndarray | None = None

    def where(self, row: int) -> str:
        """'line 57' of a text file, 'row 56' (from 1) of anything else."""
        return f"row {row + 1}" if self.lines is None else f"line {self.lines[row]}"

    def bad_cell(self, row: int, column: str, value: object, problem: str, hint: str | None = None) -> DlkitError:
        return bad_data(f"{self.source}: {self.where(row)}, column {column!r}: {shown(value)} {problem}", hint)

    def keep(self, mask: np.ndarray) -> "Place":
        """The place of the rows that are kept: N bool."""
        lines = np.arange(1, len(mask) + 1) if self.lines is None else self.lines
        return self if mask.all() else Place(self.source, lines[mask])


def shown(value: object) -> str:
    """A value as an error shows it: quoted, one line, not too long."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "…" + text[0]


@dataclass(frozen=True, eq=False)
class Dataset:
    """N rows with their targets: a table (`frame`) or images (`arrays`).

    name         short, fit for a directory's name
    labels       N int64 class indices, or N float64 regression targets
    columns      the frame's columns (the target is not among them)
    frame        Float64 for numbers, String for categories and text, Datetime (µs) for dates; missing is null
    arrays       N×C×H×W, uint8 or float32
    fixed_split  N bool, True for validation, where the source says how it is split
    fingerprint  sha256 of the content
    """

    name: str
    source: str
    task: str
    target: str | None
    classes: tuple[str, ...]
    labels: np.ndarray
    fingerprint: str
    place: Place
    columns: tuple[Column, ...] = ()
    frame: pl.DataFrame | None = None
    arrays: np.ndarray | None = None
    fixed_split: np.ndarray | None = None
    notes: tuple[str, ...] = ()

    @property
    def rows(self) -> int:
        return len(self.labels)

    def where(self, row: int) -> str:
        """Where a row stands in its source: 'line 57', 'row 56'."""
        return self.place.where(row)
