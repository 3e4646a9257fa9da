"""From what a reader found to a Dataset: options applied, columns typed, target encoded."""

import numpy as np
import polars as pl

from dlkit.core.errors import bad_data
from dlkit.data.dataset import Column, Dataset, Place
from dlkit.data.infer import Inference
from dlkit.data.options import Options
from dlkit.data.roles import describe
from dlkit.data.table import Table
from dlkit.data.target import read_target


def from_table(table: Table, options: Options) -> Dataset:
    """A data set of a table's columns. The target is taken out; rows without it are left out."""
    source, names = table.place.source, table.frame.columns
    options.check_columns(source, names)
    name = options.choose_target(source, names)
    inference = Inference(table.place, options.na, table.is_text)
    features = [column for column in names if column != name and column not in options.drop]
    frame, unread = _typed(table.frame.select(features), inference, options)
    target = read_target(table.frame[name], inference, options.task, _force(name, options))
    kept = target.kept
    frame = frame if kept.all() else frame.filter(kept)
    columns = tuple(describe(values, _force(values.name, options) is not None) for values in frame)
    if not any(column.role.is_used for column in columns):
        raise bad_data(f"{source}: no column beside the target {name!r} can be learned from", _left_out(columns))
    # `class` may as well be a feature (it is one in the titanic's table): say what was taken.
    guessed = options.target is None and name not in ("target", "y")
    chosen = (f"target: {name}; --target names another",) if guessed else ()
    left_out = _left_out(columns, unread)
    return Dataset(
        name=table.name,
        source=source,
        task=target.task,
        target=name,
        classes=target.classes,
        labels=target.labels,
        fingerprint=table.fingerprint,
        place=table.place.keep(kept),
        columns=columns,
        frame=frame,
        fixed_split=None if table.fixed_split is None else table.fixed_split[kept],
        notes=(*chosen, *inference.notes, *target.notes, *([left_out] if left_out else [])),
    )


def _force(name: str, options: Options) -> str | None:
    return "numeric" if name in options.numeric else "categorical" if name in options.categorical else None


def _typed(frame: pl.DataFrame, inference: Inference, options: Options) -> tuple[pl.DataFrame, list[str]]:
    """(the columns that could be typed, the names of those that could not)."""
    typed, unread = [], []
    for cells in frame:
        values = inference.column(cells, _force(cells.name, options))
        if values is None:
            unread.append(cells.name)
        else:
            typed.append(values)
    return pl.DataFrame(typed), unread


def _left_out(columns: tuple[Column, ...], unread: list[str] | None = None) -> str | None:
    """One line on the columns that training will not see, and why."""
    names = [f"{column.name} ({_reason(column)})" for column in columns if not column.role.is_used]
    names += [f"{name} (no type a model can use)" for name in unread or []]
    if not names:
        return None
    listed = ", ".join(names[:20]) + (", …" if len(names) > 20 else "")
    return f"columns left out: {listed}; --categorical or --numeric keeps one"


def _reason(column: Column) -> str:
    return "empty" if column.distinct == 0 else str(column.role)


def from_arrays(
    name: str,
    place: Place,
    arrays: np.ndarray,
    target: pl.Series,
    options: Options,
    fingerprint: str,
    fixed_split: np.ndarray | None = None,
    notes: tuple[str, ...] = (),
) -> Dataset:
    """A data set of images, N×C×H×W, with one target each."""
    options.refuse_for("a set of images", "target", "na", "categorical", "numeric", "drop")
    found = read_target(target, Inference(place, is_text=False), options.task)
    kept = found.kept
    return Dataset(
        name=name,
        source=place.source,
        task=found.task,
        target=target.name,
        classes=found.classes,
        labels=found.labels,
        fingerprint=fingerprint,
        place=place.keep(kept),
        arrays=arrays if kept.all() else arrays[kept],
        fixed_split=None if fixed_split is None else fixed_split[kept],
        notes=(*notes, *found.notes),
    )
