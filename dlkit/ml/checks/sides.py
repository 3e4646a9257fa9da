"""The two sides of a split, read by the same rules and laid under one another."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import polars as pl

from dlkit.core.errors import DlkitError, bad_data
from dlkit.core.reading import TARGET_NAMES, Reading, check_column, listed
from dlkit.data import Column, Role, Rows, read
from dlkit.data.dataset import Place
from dlkit.data.infer import Inference, as_text
from dlkit.data.roles import describe
from dlkit.data.target import Target, read_target

TRAIN_WORDS = ("train", "training", "tr", "0", "false")
VALID_WORDS = ("valid", "val", "validation", "dev", "eval", "holdout", "1", "true", "test", "te")


@dataclass(frozen=True, eq=False)
class Sides:
    """N rows, those of train first.

    frame    the columns that both sides have, as one type each: text where the sides disagree
    columns  their roles, as both sides together show them
    arrays   N×C×H×W, where the sides are images
    target   the labels, typed together; None where there are none on both sides
    groups, time   the columns that the user says are these
    """

    train: Rows
    valid: Rows
    frame: pl.DataFrame
    columns: tuple[Column, ...]
    target_name: str | None = None
    target: Target | None = None
    groups: tuple[str, ...] = ()
    time: str | None = None
    arrays: np.ndarray | None = None
    notes: tuple[str, ...] = ()

    @cached_property
    def is_valid(self) -> np.ndarray:
        return np.arange(self.train.rows + self.valid.rows) >= self.train.rows

    @property
    def rows(self) -> int:
        return len(self.is_valid)

    @cached_property
    def roles(self) -> dict[str, Role]:
        return {column.name: column.role for column in self.columns}

    def named(self, *roles: Role) -> list[str]:
        """Columns of these roles, the target, the groups and the time apart."""
        apart = {self.target_name, self.time, *self.groups}
        return [name for name, role in self.roles.items() if role in roles and name not in apart]

    @cached_property
    def features(self) -> list[str]:
        """What the classifier may see. Dates and ids separate any two sides: they are judged apart."""
        return self.named(Role.NUMERIC, Role.CATEGORICAL, Role.TEXT)

    @cached_property
    def labels(self) -> np.ndarray:
        """N float64 class indices or target values, NaN where the target is missing."""
        assert self.target is not None
        values = np.full(self.rows, np.nan)
        values[self.target.kept] = self.target.labels
        return values


def open_sides(
    train: str,
    valid: str | None,
    reading: Reading,
    split: str | None = None,
    groups: Sequence[str] = (),
    time: str | None = None,
) -> Sides:
    """Read two sources, or one that says which of its rows are for validation: by `split`, or as it is made.

    Raises DlkitError: bad data 65, no such input 66, an argument that does not fit 2.
    """
    plain = replace(reading, target=None)  # a side without the target is no error here
    if valid is not None:
        if split is not None:
            raise DlkitError("--split is for one file that holds both sides; two were given")
        if train == valid == "-":
            raise DlkitError("stdin can be one side only", "give the other as a file")
        first, second = read(train, plain), read(valid, plain)
    else:
        first, second = _halves(read(train, plain), split)
    for side, rows in (("train", first), ("valid", second)):
        if not rows.rows:
            raise bad_data(f"{rows.source}: the {side} side has no rows")
    sides = _pool(first, second, reading)
    for option, names in (("group", groups), ("time", () if time is None else (time,))):
        for name in names:
            check_column(f"{first.source} (with {second.source})", option, name, sides.frame.columns)
    return _with_target(replace(sides, groups=tuple(groups), time=time), reading)


def _halves(rows: Rows, split: str | None) -> tuple[Rows, Rows]:
    """One source in two."""
    if split is not None:
        if rows.frame is None or rows.arrays is not None:
            raise DlkitError("--split is for tables with named columns")
        check_column(rows.source, "split", split, rows.frame.columns)
        side = _sides_of(rows.source, as_text(rows.frame[split]))
        kept = tuple(column for column in rows.columns if column.name != split)
        rows = replace(rows, frame=rows.frame.drop(split), columns=kept)
    elif rows.fixed_split is not None:
        side = rows.fixed_split.astype(np.int8)
    else:
        message = f"{rows.source}: one source, and nothing says which rows are for validation"
        raise DlkitError(message, "give TRAIN and VALID, or name the column that says it: --split COLUMN")
    return rows.take(np.flatnonzero(side == 0)), rows.take(np.flatnonzero(side == 1))


def _sides_of(source: str, values: pl.Series) -> np.ndarray:
    """N int8: 0 train, 1 valid, 2 neither (test rows beside valid ones, blank cells)."""
    words = values.str.strip_chars().str.to_lowercase()
    found = set(words.drop_nulls())
    strange = found - {*TRAIN_WORDS, *VALID_WORDS}
    if strange or not found & {*TRAIN_WORDS} or not found & {*VALID_WORDS}:
        held = ", ".join(repr(word) for word in sorted(strange or found)[:5])
        raise DlkitError(f"--split: {source}: column {values.name!r} holds {held}", "words such as train and valid")
    tested = {"test", "te"} if found & {*VALID_WORDS} - {"test", "te"} else set()
    valid = words.is_in(sorted({*VALID_WORDS} - tested)).fill_null(False).to_numpy()
    train = words.is_in(TRAIN_WORDS).fill_null(False).to_numpy()
    return np.where(train, 0, np.where(valid, 1, 2)).astype(np.int8)


def _pool(train: Rows, valid: Rows, reading: Reading) -> Sides:
    if (train.arrays is None) != (valid.arrays is None):
        kinds = ["a table" if rows.arrays is None else "a set of images" for rows in (train, valid)]
        raise bad_data(f"{train.source} is {kinds[0]}, {valid.source} {kinds[1]}")
    notes = dict.fromkeys((*train.notes, *valid.notes))
    arrays = None
    if train.arrays is not None and valid.arrays is not None:
        arrays = _stack(train, valid)
    frames = [pl.DataFrame() if rows.frame is None else rows.frame for rows in (train, valid)]
    shared = [name for name in frames[0].columns if name in frames[1].columns]
    if arrays is None and not shared:
        held = [listed(frame.columns, 6) for frame in frames]
        raise bad_data(f"{train.source} and {valid.source} have no column in common", f"{held[0]}; {held[1]}")
    pooled = [together(frames[0][name], frames[1][name]) for name in shared]
    columns = tuple(_describe(values, train, valid, reading) for values in pooled)
    return Sides(train, valid, pl.DataFrame(pooled), columns, arrays=arrays, notes=tuple(notes))


def _stack(train: Rows, valid: Rows) -> np.ndarray:
    assert train.arrays is not None and valid.arrays is not None
    shapes = [rows.arrays.shape[1:] for rows in (train, valid) if rows.arrays is not None]
    if shapes[0] != shapes[1]:
        said = " and ".join("x".join(map(str, shape)) for shape in shapes)
        raise bad_data(f"{train.source} and {valid.source} hold images of different shapes: {said}")
    return np.concatenate([train.arrays, valid.arrays])


def together(train: pl.Series, valid: pl.Series) -> pl.Series:
    """One column of both sides. Types that differ become text; a side that is empty has no type of its own."""
    if train.dtype != valid.dtype:
        if train.null_count() == len(train):
            train = train.cast(valid.dtype)
        elif valid.null_count() == len(valid):
            valid = valid.cast(train.dtype)
        else:
            train, valid = as_text(train), as_text(valid)
    return pl.concat([train, valid])


def _describe(values: pl.Series, train: Rows, valid: Rows, reading: Reading) -> Column:
    """The role of a column of both sides. Row numbers that start anew in the second file are still ids."""
    column = describe(values, reading.role(values.name))
    alone = {role for rows in (train, valid) for name, role in _roles(rows) if name == values.name}
    is_number = values.dtype == pl.Float64 and column.role == Role.NUMERIC
    return replace(column, role=Role.ID) if is_number and Role.ID in alone else column


def _roles(rows: Rows) -> list[tuple[str, Role]]:
    return [(column.name, column.role) for column in rows.columns]


def _with_target(sides: Sides, reading: Reading) -> Sides:
    """The target typed on both sides together, where both have one."""
    here = [] if sides.train.frame is None else sides.train.frame.columns
    name = reading.target
    if name is not None:
        check_column(sides.train.source, "target", name, here)
    elif sides.arrays is not None:
        name = here[0] if here else None
    else:
        name = next((word for word in TARGET_NAMES if word in here), None)
    if name is None:
        return sides
    notes = sides.notes
    if reading.target is None and name not in ("target", "y") and sides.arrays is None:
        notes = (*notes, f"target: {name}; --target names another")
    if name not in sides.frame.columns:
        return replace(sides, target_name=name, notes=notes)
    numbers = [rows.place.numbers_of(np.arange(rows.rows)) for rows in (sides.train, sides.valid)]
    place = Place(f"{sides.train.source} and {sides.valid.source}", np.concatenate(numbers), sides.train.place.unit)
    inference = Inference(place, is_text=False)
    target = read_target(sides.frame[name], inference, reading.task, reading.role(name))
    return replace(sides, target_name=name, target=target, notes=(*notes, *inference.notes))
