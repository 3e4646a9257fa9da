"""The column to predict: which task it makes, its classes, and the rows that have it."""

from dataclasses import dataclass

import numpy as np
import polars as pl

from dlkit.core.errors import bad_data
from dlkit.data.dataset import Place
from dlkit.data.infer import MISSING_WORDS, WORDS, Inference, as_text, is_whole, parse_numbers

# Integers are classes if there are no more than this many, and each has this many rows on average.
MOST_CLASSES, ROWS_PER_CLASS = 20, 20


@dataclass(frozen=True, eq=False)
class Target:
    """Labels of the kept rows: K int64 class indices, or K float64 values. `kept` is N bool.

    Of several targets `classes` are their names, `labels` is K×targets bool, and `values` are the two words of each.
    """

    task: str
    classes: tuple[str, ...]
    labels: np.ndarray
    kept: np.ndarray
    notes: tuple[str, ...]
    values: tuple[tuple[str, str], ...] = ()


def read_target(cells: pl.Series, inference: Inference, task: str | None, force: str | None = None) -> Target:
    """Type the target, infer the task unless given, and encode the labels. All missing or all the same: bad data."""
    place = inference.place
    values = typed(cells, inference, task, force)
    kept = values.is_not_null().to_numpy()
    values = values.drop_nulls()
    if not len(values):
        raise bad_data(f"{place.source}: every cell of the target {cells.name!r} is missing")
    if force in WORDS:
        task = task or "classification"
    task = task or infer_task(values)
    notes = []
    if not kept.all():
        notes.append(f"left out {np.count_nonzero(~kept)} rows whose target {cells.name!r} is missing")
    if task == "regression":
        return Target(task, (), _numbers(values, place.keep(kept)), kept, tuple(notes))
    classes, labels = encode_classes(values)
    _check_classes(place.source, cells.name, classes, labels)
    rare = [name for name, count in zip(classes, np.bincount(labels), strict=True) if count < 2]
    if rare:
        names = ", ".join(map(repr, rare[:5])) + (", …" if len(rare) > 5 else "")
        notes.append(f"only one row for {names}: a class of one row cannot be on both sides of a split")
    return Target(task, classes, labels, kept, tuple(notes))


def typed(cells: pl.Series, inference: Inference, task: str | None, force: str | None) -> pl.Series:
    """The target as Float64 or String."""
    values = inference.column(cells, force, lenient=task == "classification")
    if values is not None and values.dtype == pl.Datetime and task == "classification":
        values = inference.column(cells, "categorical")
    if values is None or values.dtype == pl.Datetime:
        held = str(cells.dtype) if values is None else "dates"
        source = inference.place.source
        raise bad_data(f"{source}: the target {cells.name!r} holds {held}, which are no classes and no numbers")
    return values


def infer_task(values: pl.Series) -> str:
    """Text is classes. So are integers if they are few: two, or 0, 1, 2, … with five rows each, or 20 with 20 each."""
    if values.dtype == pl.String:
        return "classification"
    if not is_whole(values):
        return "regression"
    distinct, rows = values.n_unique(), len(values)
    if distinct <= 2 or (distinct <= MOST_CLASSES and rows >= ROWS_PER_CLASS * distinct):
        return "classification"
    low, high = int(values.min()), int(values.max())  # type: ignore[arg-type]
    counted = low in (0, 1) and high - low + 1 == distinct
    return "classification" if counted and distinct <= MOST_CLASSES and rows >= 5 * distinct else "regression"


def encode_classes(values: pl.Series) -> tuple[tuple[str, ...], np.ndarray]:
    """(class names in order, N int64 indices). Integers are in numeric order, anything else in code-point order."""
    text = as_text(values)
    names = text.unique().to_list()
    try:
        names.sort(key=lambda name: (int(name), name))
    except ValueError:
        names.sort()
    codes = text.cast(pl.Enum(names)).to_physical().to_numpy()
    return tuple(names), codes.astype(np.int64)


ABSENT, UNKNOWN = -1, -2


def class_indices(values: pl.Series, classes: tuple[str, ...]) -> np.ndarray:
    """N int64 indices of cells into `classes`: ABSENT where a cell is missing, UNKNOWN where it is none of them.

    What is no class as it stands may be a number that is one otherwise written: 1.0 for 1.
    """
    text = as_text(values)
    index = {name: i for i, name in enumerate(classes)}
    distinct = text.drop_nulls().unique()
    strange = distinct.filter(~distinct.is_in(list(classes)))
    numbers, _ = parse_numbers(strange)
    for word, number in zip(strange, numbers, strict=True):
        name = str(int(number)) if number is not None and float(number).is_integer() else word
        index[word] = index.get(name, ABSENT if word in MISSING_WORDS else UNKNOWN)
    return text.replace_strict(index, default=ABSENT, return_dtype=pl.Int64).to_numpy()


def _check_classes(source: str, name: str, classes: tuple[str, ...], labels: np.ndarray) -> None:
    if len(classes) < 2:
        raise bad_data(f"{source}: the target {name!r} is {classes[0]!r} in every row: there is nothing to learn")
    if len(classes) == len(labels):
        message = f"{source}: every row has its own value of the target {name!r}: these are no classes"
        raise bad_data(message, "--task regression, if they are numbers")


def _numbers(values: pl.Series, place: Place) -> np.ndarray:
    if values.dtype == pl.String:
        values, odd = parse_numbers(values)
        if len(odd):
            row = int(values.is_null().arg_max() or 0)
            raise place.bad_cell(row, values.name, odd[0], "is not a number, as a regression's target must be")
    if values.n_unique() < 2:
        raise bad_data(
            f"{place.source}: the target {values.name!r} is {values[0]:g} in every row: there is nothing to learn"
        )
    return values.to_numpy().astype(np.float64)
