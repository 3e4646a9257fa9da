"""Rows that belong together, and rows that are enough to look at."""

from collections.abc import Sequence

import numpy as np
import polars as pl
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

MOST_ROWS = 50_000
"""Rows that the classifier sees: more would sharpen an interval that is sharp already."""
MOST_UNEVEN = 20
"""Of the larger side so many times the smaller one: 20 or 200 make the same interval."""


def units_of(columns: Sequence[pl.Series]) -> np.ndarray:
    """N int64: rows that share a value in any of the columns, or share it with a row that does, are one unit.

    A row without a group is a unit of its own.
    """
    rows = len(columns[0])
    firsts, seconds = [], []
    for column in columns:
        present = np.flatnonzero(column.is_not_null().to_numpy())
        codes = np.unique(column.drop_nulls().to_numpy(), return_inverse=True)[1]
        first = np.zeros(codes.max(initial=-1) + 1, np.int64)
        first[codes[::-1]] = present[::-1]
        firsts.append(first[codes])
        seconds.append(present)
    start, end = np.concatenate(firsts), np.concatenate(seconds)
    links = coo_matrix((np.ones(len(start), bool), (start, end)), shape=(rows, rows))
    return connected_components(links, directed=False)[1].astype(np.int64)


def whole_units(columns: Sequence[pl.Series], is_valid: np.ndarray) -> np.ndarray | None:
    """The units of the group columns; None where there are none, or where one is on both sides: then the split is torn,
    as the check of groups says, whole groups cannot change sides, and rows are judged by themselves."""
    if not columns:
        return None
    units = units_of(columns)
    return None if len(np.intersect1d(*sides_of(units, is_valid))) else units


def sides_of(units: np.ndarray, is_valid: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(train units, valid units): the distinct ones on each side. A unit on both sides is in both."""
    return np.unique(units[~is_valid]), np.unique(units[is_valid])


def sample(is_valid: np.ndarray, seed: int, most: int = MOST_ROWS) -> np.ndarray:
    """Sorted rows for the classifier, drawn at random: at most `most`, the larger side at most 20 times the smaller."""
    rng = np.random.default_rng(seed)
    valid, train = np.flatnonzero(is_valid), np.flatnonzero(~is_valid)
    small, large = sorted((valid, train), key=len)
    few = min(len(small), max(most // 2, most - len(large)))
    many = min(len(large), most - few, MOST_UNEVEN * few)
    taken = [rng.choice(rows, size, replace=False) for rows, size in ((small, few), (large, many))]
    return np.sort(np.concatenate(taken))


def thin(units: np.ndarray, seed: int, most: int) -> np.ndarray:
    """Sorted rows, about `most` of them: of each unit as many as all can have alike, drawn at random."""
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(units))
    by_unit = order[np.argsort(units[order], kind="stable")]
    counts = np.unique(units, return_counts=True)[1]
    place = np.arange(len(units)) - np.repeat(np.cumsum(counts) - counts, counts)
    cap = 1
    while np.minimum(counts, cap + 1).sum() <= most and cap < counts.max():
        cap += 1
    kept = by_unit[place < cap]
    return np.sort(kept if len(kept) <= most else rng.choice(kept, most, replace=False))
