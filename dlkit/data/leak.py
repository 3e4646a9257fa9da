"""The target under another name: a column that gives the answer away by itself. Cheap enough to look every time."""

import numpy as np
import polars as pl

from dlkit.data.dataset import Dataset

ROWS_A_VALUE = 10
"""A column with fewer rows for each of its values can tell classes apart by chance: it is not accused."""
SAME = 1 - 1e-9
"""Correlation from which on a number is the target in other units."""


def tell_tales(dataset: Dataset) -> list[str]:
    """Columns of a table from which alone a target follows, in every row."""
    return list(dict.fromkeys(name for name, _ in telling(dataset)))


def telling(dataset: Dataset) -> list[tuple[str, str]]:
    """Each such column with the target that follows from it. One that is the same in every row follows from nothing."""
    if dataset.frame is None or dataset.rows < 2 * ROWS_A_VALUE:
        return []
    used = {column.name: dataset.frame[column.name] for column in dataset.columns if column.role.is_used}
    if not dataset.classes:
        return [(name, str(dataset.target)) for name, values in used.items() if correlates(values, dataset.labels)]
    columns = dataset.labels.reshape(len(dataset.labels), -1).T
    each = zip(dataset.targets, columns, strict=True)
    varied = {target: labels for target, labels in each if (labels != labels[0]).any()}
    return [(name, target) for name, values in used.items() for target in _following(values, varied)]


def follows(values: pl.Series, labels: np.ndarray) -> bool:
    """Whether every value of the column comes with one class only."""
    return bool(_following(values, {"": labels}))


def _following(values: pl.Series, targets: dict[str, np.ndarray]) -> list[str]:
    """Those of the targets, each N classes, that follow."""
    if not targets or values.n_unique() * ROWS_A_VALUE > len(values):
        return []
    classes = pl.DataFrame({str(i): labels for i, labels in enumerate(targets.values())} | {"value": values})
    most = classes.group_by("value").agg(pl.all().n_unique()).drop("value").max().row(0)
    return [target for target, count in zip(targets, most, strict=True) if count == 1]


def correlates(values: pl.Series, labels: np.ndarray) -> bool:
    """Whether the target is the column times a constant plus a constant."""
    if values.dtype != pl.Float64 or values.null_count() or values.n_unique() < 2:
        return False
    with np.errstate(all="ignore"):  # of huge values there is no correlation, and NaN is not above anything
        return bool(abs(np.corrcoef(values.to_numpy(), labels)[0, 1]) > SAME)
