"""From what a reader found to Rows, or to a Dataset: options applied, columns typed, target encoded."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl

from dlkit.core.errors import bad_data
from dlkit.core.reading import Reading
from dlkit.data.dataset import Column, Dataset, Role, Rows
from dlkit.data.infer import Inference
from dlkit.data.roles import describe
from dlkit.data.table import Table
from dlkit.data.target import read_target

NAMED = ("target", "na", "numeric", "categorical", "datetime", "text", "id", "drop")


def to_rows(table: Table, reading: Reading, only: Sequence[str] | None = None) -> Rows:
    """Every column typed, or `only` these, the target's as any other. The table's own columns are used up."""
    source = table.place.source
    if table.arrays is not None:
        reading.refuse_for("a set of images", *NAMED)
        labels = Reading(categorical=[label.name for label in table.frame if label.dtype == pl.String])
        frame, _, _ = _typed(table, table.frame.columns, labels)
        columns = _described(frame, labels)
        return Rows(columns=columns, frame=frame if frame.width else None, **_common(table), notes=table.notes)
    names = table.frame.columns
    reading.check_columns(source, names)
    wanted = [name for name in names if name not in reading.drop and (only is None or name in only)]
    frame, unread, inference = _typed(table, wanted, reading)
    if not frame.width:
        held = f": {unread[0]!r} holds lists, objects or bytes" if unread else ""
        raise bad_data(f"{source}: no column that can be read{held}")
    left_out = [f"columns of no type that can be read: {', '.join(unread[:20])}"] if unread else []
    notes = (*table.notes, *inference.notes, *left_out)
    return Rows(columns=_described(frame, reading), frame=frame, **_common(table), notes=notes)


def to_dataset(table: Table, reading: Reading, texts: bool = False) -> Dataset:
    """The target taken out and encoded; rows without it are left out. The table's own columns are used up.

    texts  whether whoever asks can learn from columns of text
    """
    return _images(table, reading) if table.arrays is not None else _learnable(table, reading, texts)


def _learnable(table: Table, reading: Reading, texts: bool) -> Dataset:
    source, names = table.place.source, table.frame.columns
    reading.check_columns(source, names)
    name = reading.choose_target(source, names)
    features = [column for column in names if column != name and column not in reading.drop]
    frame, unread, inference = _typed(table, features, reading)
    target = read_target(table.frame[name], inference, reading.task, reading.role(name))
    kept = target.kept
    frame = frame if kept.all() else frame.filter(kept)
    columns = _described(frame, reading)
    unused = tuple(c for c in columns if not (c.role.is_used or (texts and c.role is Role.TEXT)))
    if len(unused) == len(columns):
        raise bad_data(f"{source}: no column beside the target {name!r} can be learned from", _left_out(unused))
    # `class` may as well be a feature (it is one in the titanic's table): say what was taken.
    guessed = reading.target is None and name not in ("target", "y")
    chosen = (f"target: {name}; --target names another",) if guessed else ()
    left_out = _left_out(unused, unread)
    return Dataset(
        task=target.task,
        target=name,
        classes=target.classes,
        labels=target.labels,
        columns=columns,
        frame=frame,
        **_common(table) | _kept(table, kept),
        notes=(*table.notes, *chosen, *inference.notes, *target.notes, *([left_out] if left_out else [])),
    )


def _images(table: Table, reading: Reading) -> Dataset:
    assert table.arrays is not None
    reading.refuse_for("a set of images", *NAMED)
    if not table.frame.width:
        raise bad_data(f"{table.place.source}: images without labels: there is nothing to learn")
    labels = table.frame.to_series()
    found = read_target(labels, Inference(table.place, is_text=False), reading.task)
    kept = found.kept
    return Dataset(
        task=found.task,
        target=labels.name,
        classes=found.classes,
        labels=found.labels,
        **_common(table) | _kept(table, kept) | {"arrays": table.arrays if kept.all() else table.arrays[kept]},
        notes=(*table.notes, *found.notes),
    )


def _common(table: Table) -> dict[str, Any]:
    """The fields of Rows that a table has already."""
    same = {name: getattr(table, name) for name in ("name", "place", "fingerprint", "arrays", "fixed_split")}
    return {"source": table.place.source, **same}


def _kept(table: Table, kept: np.ndarray) -> dict[str, Any]:
    """Those of them that change where rows are left out: `kept` is N bool."""
    fixed = table.fixed_split
    return {"place": table.place.keep(kept), "fixed_split": None if fixed is None else fixed[kept]}


def _typed(table: Table, names: list[str], reading: Reading) -> tuple[pl.DataFrame, list[str], Inference]:
    """(the columns that could be typed, the names of those that could not, what typed them).

    Each column of cells is let go as soon as it is typed: a table of text takes more room than its numbers.
    """
    inference = Inference(table.place, reading.na, table.is_text)
    typed, unread = [], []
    for name in names:
        cells = table.frame.drop_in_place(name)
        values = inference.column(cells, reading.role(name), lenient=name == reading.target)
        if values is None:
            unread.append(name)
        else:
            typed.append(values)
    return pl.DataFrame(typed), unread, inference


def _described(frame: pl.DataFrame, reading: Reading) -> tuple[Column, ...]:
    return tuple(describe(values, reading.role(values.name)) for values in frame)


def _left_out(columns: tuple[Column, ...], unread: list[str] | None = None) -> str | None:
    """One line on the columns that are not learned from, and why."""
    names = [f"{column.name} ({_reason(column)})" for column in columns]
    names += [f"{name} (no type a model can use)" for name in unread or []]
    if not names:
        return None
    listed = ", ".join(names[:20]) + (", …" if len(names) > 20 else "")
    return f"columns left out: {listed}; --categorical or --numeric keeps one"


def _reason(column: Column) -> str:
    return "empty" if column.distinct == 0 else str(column.role)
