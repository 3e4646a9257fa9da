"""Which rows train and which validate."""

import numpy as np

from dlkit.core.errors import DlkitError, bad_data
from dlkit.data.dataset import Dataset


def split_indices(dataset: Dataset, valid: float = 0.2, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """(training rows, validation rows): two sorted int64 arrays that share nothing and leave nothing out.

    Stratified by class; for a regression random; the source's own split where it has one. round(valid·N) rows validate.
    """
    if not 0 < valid < 1:
        raise DlkitError(f"--valid must be between 0 and 1, both excluded; got {valid:g}")
    if seed < 0:
        raise DlkitError(f"--seed must not be negative; got {seed}")
    mask = dataset.fixed_split
    if mask is None:
        mask = _draw(dataset, round(valid * dataset.rows), np.random.Generator(np.random.PCG64(seed)))
    train, held_out = np.flatnonzero(~mask), np.flatnonzero(mask)
    if min(len(train), len(held_out)) < 2:
        message = f"{dataset.source}: {len(train)} rows to train on and {len(held_out)} to validate"
        raise bad_data(message, "each side needs two at least: more rows, or another --valid")
    return train.astype(np.int64), held_out.astype(np.int64)


def _draw(dataset: Dataset, valid: int, rng: np.random.Generator) -> np.ndarray:
    """N bool, `valid` of them True."""
    order = rng.permutation(dataset.rows)
    mask = np.zeros(dataset.rows, bool)
    if dataset.task != "classification":
        mask[order[:valid]] = True
        return mask
    counts = np.bincount(dataset.labels, minlength=len(dataset.classes))
    # The shuffled rows, class by class; the first of each class validate.
    by_class = order[np.argsort(dataset.labels[order], kind="stable")]
    position = np.arange(dataset.rows) - np.repeat(np.cumsum(counts) - counts, counts)
    mask[by_class[position < np.repeat(allocate(counts, valid), counts)]] = True
    return mask


def allocate(counts: np.ndarray, total: int) -> np.ndarray:
    """How many of each class to take so that `total` are taken: in proportion, by largest remainder.

    Of a class with two rows or more at least one is taken and one left, where `total` allows it.
    """
    quota = total * counts / counts.sum()
    low, high = np.minimum(counts // 2, 1), np.maximum(counts - 1, 0)
    if low.sum() > total:
        low = np.zeros_like(counts)
    if high.sum() < total:
        high = counts
    taken = np.clip(np.floor(quota).astype(np.int64), low, high)
    while (short := total - int(taken.sum())) != 0:
        step = 1 if short > 0 else -1
        free = np.flatnonzero(taken < high if step > 0 else taken > low)
        nearest = free[np.argsort(step * (taken - quota)[free], kind="stable")]
        taken[nearest[: abs(short)]] += step
    return np.asarray(taken)
