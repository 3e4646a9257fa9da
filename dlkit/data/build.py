"""From what a reader found to Rows, or to a Dataset: options applied, columns typed, target encoded."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl

from dlkit.core.errors import DlkitError, bad_data
from dlkit.core.reading import MULTI_LABEL, Reading
from dlkit.data.dataset import Column, Dataset, Role, Rows
from dlkit.data.infer import Inference
from dlkit.data.labels import read_labels
from dlkit.data.roles import describe
from dlkit.data.table import Table
from dlkit.data.target import Target, read_target

NAMED = ("target", "targets", "na", "numeric", "categorical", "datetime", "text", "id", "drop")


def to_rows(table: Table, reading: Reading, only: Sequence[str] | None = None) -> Rows:
    """Every column typed, or `only` these, the target's as any other. The table's own columns are used up."""
    source = table.place.source
    _refuse_several(table, table.labels)
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


def to_dataset(
    table: Table,
    reading: Reading,
    texts: bool = False,
    several: bool = False,
    only: str | None = None,
    known: bool = False,
) -> Dataset:
    """The target taken out and encoded; rows without it are left out. The table's own columns are used up.

    texts    whether whoever asks can learn from columns of text
    several  whether it can learn several targets at once
    only     the one column that it learns from
    known    whether a model knows the columns already: then none is left out, whatever it holds
    """
    if table.arrays is not None:
        reading.refuse_for("a set of images", *NAMED)
        if not table.frame.width:
            raise bad_data(f"{table.place.source}: images without labels: there is nothing to learn")
    chosen = targets_of(table, reading)
    if not several:
        _refuse_several(table, chosen)
    _check_task(table, chosen, reading)
    if table.arrays is not None:
        return _images(table, reading)
    return _learnable(table, chosen, reading, texts, only, known)


def targets_of(table: Table, reading: Reading) -> Sequence[str]:
    """The columns to predict: those named, or the labels that the source says it has."""
    if table.arrays is not None or (table.labels and not reading.named_targets):
        return table.labels
    reading.check_columns(table.place.source, table.frame.columns)
    return reading.choose_targets(table.place.source, table.frame.columns)


def _refuse_several(table: Table, targets: Sequence[str]) -> None:
    if len(targets) > 1:
        each = f"{len(targets)} targets for each row ({targets[0]} … {targets[-1]})"
        raise bad_data(
            f"{table.place.source}: {each}; one is needed",
            "dlkit train learns several at once; one-hot rows? save y.argmax(axis=1)",
        )


def _check_task(table: Table, targets: Sequence[str], reading: Reading) -> None:
    """Refuse a task that is of several targets where there is one, and the other way round."""
    source = table.place.source
    if len(targets) < 2:
        if reading.task == MULTI_LABEL:
            message = f"--task {MULTI_LABEL}: {source} has one target for each row"
            raise DlkitError(message, "--target once more names another")
        return
    if reading.task not in (None, MULTI_LABEL):
        raise DlkitError(f"--task {reading.task}: {source} has {len(targets)} targets for each row")
    is_one_hot = targets == table.labels and bool((table.frame.select(targets).to_numpy().sum(1) == 1).all())
    if is_one_hot and reading.task is None:
        message = f"{source}: a single 1 in every row of y, {len(targets)} columns: is it a class?"
        raise bad_data(message, f"save y.argmax(axis=1), or say --task {MULTI_LABEL}")


def _target(table: Table, names: Sequence[str], inference: Inference, reading: Reading) -> Target:
    """The columns to predict: one of any task, or several labels."""
    roles = [reading.role(name) for name in names]
    if len(names) > 1:
        return read_labels([table.frame[name] for name in names], inference, roles)
    return read_target(table.frame[names[0]], inference, reading.task, roles[0])


def _learnable(
    table: Table, chosen: Sequence[str], reading: Reading, texts: bool, only: str | None, known: bool
) -> Dataset:
    source, names, name = table.place.source, table.frame.columns, ", ".join(chosen)
    features = [column for column in names if column not in (*chosen, *reading.drop)]
    frame, unread, inference = _typed(table, features, reading)
    target = _target(table, chosen, inference, reading)
    kept = target.kept
    frame = frame if kept.all() else frame.filter(kept)
    columns = _described(frame, reading)
    unused = tuple(c for c in columns if not (c.role.is_used or (texts and c.role is Role.TEXT)))
    if len(unused) == len(columns) and only is None and not known:
        raise bad_data(f"{source}: no column beside the target {name!r} can be learned from", _left_out(unused))
    if only in chosen:
        raise DlkitError(f"--text: column {only!r} is the target")
    # `class` may as well be a feature (it is one in the titanic's table): say what was taken.
    guessed = len(chosen) == 1 and not reading.named_targets and name not in ("target", "y")
    said = (f"target: {name}; --target names another",) if guessed else ()
    left_out = _beside(only, [*frame.columns, *unread]) if only else None if known else _left_out(unused, unread)
    return Dataset(
        **_encoded(target, name),
        columns=columns,
        frame=frame,
        **_common(table) | _kept(table, kept),
        notes=(*table.notes, *said, *inference.notes, *target.notes, *([left_out] if left_out else [])),
    )


def _images(table: Table, reading: Reading) -> Dataset:
    assert table.arrays is not None
    names = table.frame.columns
    found = _target(table, names, Inference(table.place, is_text=False), reading)
    kept = found.kept
    return Dataset(
        **_encoded(found, names[0]),
        **_common(table) | _kept(table, kept) | {"arrays": table.arrays if kept.all() else table.arrays[kept]},
        notes=(*table.notes, *found.notes),
    )


def _encoded(target: Target, name: str) -> dict[str, Any]:
    """The fields of a Dataset that its target says."""
    same = {field: getattr(target, field) for field in ("task", "classes", "labels", "values")}
    return {"target": None if target.values else name, **same}


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


def _beside(only: str, names: list[str]) -> str | None:
    """One line on the columns beside the one that is read."""
    others = [name for name in names if name != only]
    if not others:
        return None
    listed = ", ".join(others[:20]) + (", …" if len(others) > 20 else "")
    return f"columns not read: {listed}; a network that reads text reads nothing else"


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
