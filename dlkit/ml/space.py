"""Rows as points between which distances mean something: what K-means and Gaussian mixtures are fitted to."""

import warnings
from dataclasses import dataclass, replace

import numpy as np
import polars as pl

from dlkit.core.errors import bad_data
from dlkit.core.reading import TARGET_NAMES, Reading, check_column
from dlkit.data.dataset import Column, Dataset, Role, Rows
from dlkit.data.encode import MOST_CATEGORIES
from dlkit.data.infer import as_text
from dlkit.data.load import read
from dlkit.data.schema import Schema, fit_schema
from dlkit.ml.block import Block, Coding
from dlkit.ml.features import Features

SPREAD = 10.0
"""Columns whose standard deviations differ by more than this factor are standardised: one alone would decide."""


@dataclass(frozen=True, eq=False)
class Space:
    """N rows, as they were read and as N×F points.

    truth   the column to compare with, as text; None where there is none
    scaled  whether columns were standardised
    """

    dataset: Dataset
    schema: Schema
    coding: Coding
    block: Block
    features: Features
    x: np.ndarray
    truth: pl.Series | None
    scaled: bool
    notes: tuple[str, ...]


def make_space(source: str, reading: Reading, scale: str, seed: int) -> Space:
    """Read a source; the target, if there is one, is put aside. Nothing numeric or categorical in it: bad data."""
    rows = read(source, replace(reading, target=None))
    rows, truth, notes = _apart(rows, reading)
    dataset, said = _learnable(rows)
    schema = fit_schema(dataset, np.arange(dataset.rows))
    coding = Coding.fit(dataset, schema)
    block = coding.block(dataset)
    scaled, why = _decide(scale, block, coding)
    features = Features("scaled" if scaled else "plain", coding.layout, "multiclass", seed, flags=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        x = np.ascontiguousarray(features.fit_transform(block, np.zeros(block.rows)), np.float64)
    notes = (*rows.notes, *notes, *said, *why, *_gaps(block, coding))
    return Space(dataset, schema, coding, block, features, x, truth, scaled, notes)


def _apart(rows: Rows, reading: Reading) -> tuple[Rows, pl.Series | None, tuple[str, ...]]:
    """The rows without their target, and that as text: clusters are found without it."""
    frame = rows.frame
    if frame is None:
        if reading.target is not None:
            check_column(rows.source, "target", reading.target, [])
        return rows, None, ()
    if reading.target is not None:
        check_column(rows.source, "target", reading.target, frame.columns)
    is_images = rows.arrays is not None
    name = reading.target or next((name for name in TARGET_NAMES if name in frame.columns), None)
    if name is None:
        return rows, None, ()
    truth = as_text(frame[name])
    columns = tuple(column for column in rows.columns if column.name != name)
    said = () if reading.target else (f"{name!r} is left out, to compare the clusters with; --target names another",)
    left = None if is_images else frame.drop(name)
    return replace(rows, frame=left, columns=columns), truth, said


def _learnable(rows: Rows) -> tuple[Dataset, tuple[str, ...]]:
    """The rows as a data set that a schema can be fitted to, without columns in which there is no distance."""
    fields = {name: getattr(rows, name) for name in Rows.__dataclass_fields__}
    out: list[str] = []
    if rows.arrays is None:
        used = [column for column in rows.columns if _has_distance(column)]
        out = [f"{column.name} ({column.role})" for column in rows.columns if column not in used]
        if not used:
            raise bad_data(f"{rows.source}: no column of numbers or categories to tell rows apart by")
        fields |= {"columns": tuple(used)}
    dataset = Dataset(task="classification", target=None, classes=("1", "2"), labels=np.zeros(rows.rows, int), **fields)
    if dataset.rows < 3:
        raise bad_data(f"{rows.source}: {dataset.rows} rows are too few for clusters")
    return dataset, (f"columns left out: {', '.join(out[:20])}",) if out else ()


def _has_distance(column: Column) -> bool:
    many = column.role is Role.CATEGORICAL and column.distinct > MOST_CATEGORIES
    return column.role.is_used and not many


def _decide(scale: str, block: Block, coding: Coding) -> tuple[bool, tuple[str, ...]]:
    layout = coding.layout
    if layout.image or scale == "none":
        return False, ()
    if scale == "standard":
        return True, ()
    spreads = np.nanstd(block.numbers[:, list(layout.numeric)], axis=0)
    spreads = spreads[spreads > 0]
    if layout.low:
        return True, ("numbers are standardised, because there are categories too; --scale none leaves them",)
    if len(spreads) and spreads.max() > SPREAD * spreads.min():
        times = spreads.max() / spreads.min()
        return True, (f"columns are standardised: their spreads differ by a factor of {times:,.0f}; --scale none: not",)
    return False, ()


def _gaps(block: Block, coding: Coding) -> tuple[str, ...]:
    if coding.layout.image:
        return ()
    gaps = int(np.isnan(block.numbers[:, list(coding.layout.numeric)]).any(1).sum())
    return (f"{gaps} rows have missing numbers: the column's median stands in",) if gaps else ()
