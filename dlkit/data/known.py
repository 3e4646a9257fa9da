"""Rows as a fitted schema reads them: its columns by name and in its types, whatever else the source holds."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from dlkit.core.errors import bad_data, nearest
from dlkit.core.reading import MULTI_LABEL, ROLES, Reading
from dlkit.core.splitting import Splitting
from dlkit.data.build import targets_of, to_dataset, to_rows
from dlkit.data.dataset import Dataset, Rows, shown
from dlkit.data.infer import Inference
from dlkit.data.labels import label_matrix
from dlkit.data.schema import Schema
from dlkit.data.table import Table
from dlkit.data.target import ABSENT, UNKNOWN, class_indices


def known_rows(table: Table, schema: Schema, reading: Reading) -> Rows:
    """The rows with the columns that the schema needs, and no other: what else is there is no matter.

    A column that is missing, or a cell that is not of its column's type: bad data. The table is left as it is.
    """
    if table.arrays is not None or schema.pixels is not None:
        return _images(table, schema)
    roles = _roles(table, schema)
    named: dict[str, Any] = {role: [name for name, kind in roles.items() if kind == role] for role in ROLES}
    frame = pl.DataFrame([table.frame[name] for name in roles])
    return to_rows(replace(table, frame=frame, labels=()), replace(reading, target=None, **named))


def known_dataset(table: Table, schema: Schema, reading: Reading, splitting: Splitting) -> Dataset:
    """The rows that have the target of `reading`, with the columns that the schema needs and those that split.

    The roles that it names do not count: the schema knows them. Errors are those of `known_rows` and `to_dataset`.
    """
    if table.arrays is not None or schema.pixels is not None:
        _images(table, schema)
        return to_dataset(table, reading)
    roles = _roles(table, schema)
    names = table.frame.columns
    apart = {*targets_of(table, reading), *splitting.columns.values()}
    wanted: dict[str, Any] = {role: [name for name, kind in roles.items() if kind == role] for role in ROLES}
    wanted["drop"] = [name for name in names if name not in roles and name not in apart]
    return to_dataset(table, splitting.reading(replace(reading, **wanted)), known=True)


def _roles(table: Table, schema: Schema) -> dict[str, str]:
    """Column -> what it was at fit. One that the table has not: bad data."""
    roles = {encoder.column: encoder.kind for encoder in schema.encoders}
    absent = [name for name in roles if name not in table.frame.columns]
    if absent:
        more = f" (and {len(absent) - 1} more)" if len(absent) > 1 else ""
        hint = nearest(absent[0], table.frame.columns)
        raise bad_data(f"{table.place.source}: no column {absent[0]!r}{more}, which the model needs", hint)
    return roles


def sized(source: str, schema: Schema, reading: Reading) -> Reading:
    """`reading`, that of a folder of images at the size that the schema has."""
    is_images = Path(source).is_dir() and len(schema.input_shape) == 3
    return replace(reading, image_size=schema.input_shape[-1]) if is_images else reading


def _images(table: Table, schema: Schema) -> Rows:
    rows = Rows(name=table.name, source=table.place.source, fingerprint="", place=table.place, arrays=table.arrays)
    schema.inputs(rows, np.arange(0))  # images where a table is needed, a table where images are: it says which
    return rows


@dataclass(frozen=True, eq=False)
class Truth:
    """What is true of the rows that say so: `labels` K int64 indices into the schema's classes, or K float64 values, or
    of several targets K×targets bool; `kept` N bool, the rows that have them."""

    labels: np.ndarray
    kept: np.ndarray


def truth(table: Table, schema: Schema, reading: Reading) -> Truth:
    """The target's column read as it was at fit. No such column, or no row that has it: bad data."""
    source = table.place.source
    if (table.arrays is None) is (schema.pixels is not None):
        _images(table, schema)
    if table.arrays is not None and not table.frame.width:
        raise bad_data(f"{source}: images without labels: there is nothing to compare predictions with")
    inference = Inference(table.place, reading.na, table.is_text)
    if schema.task == MULTI_LABEL:
        columns = [_typed(inference, _column(table, name)) for name in schema.classes]
        return Truth(*label_matrix(table.place, columns, schema.values))
    cells = _column(table, str(schema.target)) if table.arrays is None else table.frame.to_series()
    is_classes = schema.task == "classification"
    values = _typed(inference, cells, "categorical" if is_classes else "numeric")
    labels = class_indices(values, schema.classes) if is_classes else values.to_numpy()
    wrong = np.flatnonzero(labels == UNKNOWN) if is_classes else np.empty(0, int)
    if len(wrong):
        problem = "is a class that was not there in training"
        hint = f"classes: {', '.join(map(shown, schema.classes[:8]))}{', …' if len(schema.classes) > 8 else ''}"
        raise table.place.bad_cell(int(wrong[0]), cells.name, values[int(wrong[0])], problem, hint)
    kept = labels != ABSENT if is_classes else ~np.isnan(labels)
    if not kept.any():
        raise bad_data(f"{source}: every cell of the target {cells.name!r} is missing")
    return Truth(labels[kept], kept)


def _column(table: Table, name: str) -> pl.Series:
    """The cells of a target."""
    if name not in table.frame.columns:
        hint = f"dlkit predict needs none; {nearest(name, table.frame.columns)}"
        raise bad_data(f"{table.place.source}: no column {name!r} to compare predictions with", hint)
    return table.frame[name]


def _typed(inference: Inference, cells: pl.Series, role: str = "categorical") -> pl.Series:
    """The cells of a target, typed."""
    values = inference.column(cells, role)
    if values is None:
        held = f"the target {cells.name!r} holds {cells.dtype}"
        raise bad_data(f"{inference.place.source}: {held}, which are no classes and no numbers")
    return values
