"""The two sides of a split, read by the same rules and laid under one another."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import polars as pl

from dlkit.core.errors import DlkitError, bad_data
from dlkit.core.reading import TARGET_NAMES, Reading, check_column, listed
from dlkit.core.splitting import Splitting
from dlkit.data import Column, Role, Rows, read
from dlkit.data.dataset import Place
from dlkit.data.infer import Inference, as_text, is_whole
from dlkit.data.roles import LOOKS_LIKE_ID, describe
from dlkit.data.split import hold_out
from dlkit.data.target import Target, read_target
from dlkit.ml.checks.matrix import Encoding

# A column named as an id, with more values than this, is one though they repeat: customer_id.
FEWEST_IDS = 20
LARGEST_TARGET = 1e100


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
    def encoding(self) -> Encoding:
        """How the features become numbers."""
        return Encoding.fit(self.frame, self.features, self.roles)

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
    if valid is not None and split is not None:
        raise DlkitError("--split is for one file that holds both sides; two were given")
    if train == valid == "-":
        raise DlkitError("stdin can be one side only", "give the other as a file")
    plain = replace(reading, target=None)  # a side without the target is no error here
    first = read(train, Splitting(split=split).reading(plain))
    if reading.target is not None:
        check_column(first.source, "target", reading.target, [] if first.frame is None else first.frame.columns)
    first, second = _halves(first, split) if valid is None else (first, read(valid, plain))
    for side, rows in (("train", first), ("valid", second)):
        if not rows.rows:
            raise bad_data(f"{rows.source}: the {side} side has no rows")
    sides = _pool(first, second, reading)
    for option, names in (("group", groups), ("time", () if time is None else (time,))):
        for name in names:
            check_column(both_names(first, second), option, name, sides.frame.columns)
    return _with_target(replace(sides, groups=tuple(groups), time=time), reading)


def both_names(train: Rows, valid: Rows) -> str:
    """The sources as a message names them."""
    return train.source if train.source == valid.source else f"{train.source} and {valid.source}"


def _halves(rows: Rows, split: str | None) -> tuple[Rows, Rows]:
    """One source in two; rows for a test beside those for validation are left out."""
    if split is None and rows.fixed_split is None:
        message = f"{rows.source}: one source, and nothing says which rows are for validation"
        raise DlkitError(message, "give TRAIN and VALID, or name the column that says it: --split COLUMN")
    parts = hold_out(rows, Splitting(split=split))
    if split is not None and rows.frame is not None:
        kept = tuple(column for column in rows.columns if column.name != split)
        rows = replace(rows, frame=rows.frame.drop(split), columns=kept)
    if len(parts.test):
        rows = replace(rows, notes=(*rows.notes, f"{len(parts.test):,} rows for a test are left out"))
    return rows.take(parts.train), rows.take(parts.valid)


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
    """The role of a column of both sides. Ids are ids where they repeat, and where a second file counts anew."""
    said = reading.role(values.name)
    column = describe(values, said)
    if said is not None or column.role not in (Role.NUMERIC, Role.CATEGORICAL) or values.dtype == pl.Datetime:
        return column
    alone = [role for rows in (train, valid) for name, role in _roles(rows) if name == values.name]
    counts_anew = column.role == Role.NUMERIC and Role.ID in alone
    is_named = bool(LOOKS_LIKE_ID.search(values.name)) and column.distinct > FEWEST_IDS
    whole = values.dtype == pl.String or is_whole(values.drop_nulls())
    return replace(column, role=Role.ID) if counts_anew or (is_named and whole) else column


def _roles(rows: Rows) -> list[tuple[str, Role]]:
    return [(column.name, column.role) for column in rows.columns]


def _with_target(sides: Sides, reading: Reading) -> Sides:
    """The target typed on both sides together, where both have one."""
    here = [] if sides.train.frame is None else sides.train.frame.columns
    guesses = TARGET_NAMES if sides.arrays is None else here
    name = reading.target or next((word for word in guesses if word in here), None)
    if name is None:
        return sides
    notes = sides.notes
    if reading.target is None and name not in ("target", "y") and sides.arrays is None:
        notes = (*notes, f"target: {name}; --target names another")
    if name not in sides.frame.columns:
        return replace(sides, target_name=name, notes=notes)
    numbers = [rows.place.numbers_of(np.arange(rows.rows)) for rows in (sides.train, sides.valid)]
    place = Place(both_names(sides.train, sides.valid), np.concatenate(numbers), sides.train.place.unit)
    inference = Inference(place, is_text=False)
    target = read_target(sides.frame[name], inference, reading.task, reading.role(name))
    if not target.classes and float(np.abs(target.labels).max()) > LARGEST_TARGET:
        raise bad_data(f"{place.source}: the target {name!r} has numbers beyond {LARGEST_TARGET:g}")
    return replace(sides, target_name=name, target=target, notes=(*notes, *inference.notes))
