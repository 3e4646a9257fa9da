"""Images and arrays: features that a classifier of the sides can use, and images that look the same."""

import numpy as np
import polars as pl
from scipy import stats
from sklearn.decomposition import PCA

from dlkit.data import Column, Role
from dlkit.ml.checks.finding import Finding, percent
from dlkit.ml.checks.sides import Sides
from dlkit.ml.embedding import Embed

SIDE, COMPONENTS = 8, 20
HASH_SIDE = 16
HASH_BITS = HASH_SIDE * HASH_SIDE
SAME_BITS = HASH_BITS // 10
"""Of the hash's bits so many may differ between two images that look the same: chance alone makes about half."""
CHANNELS = ("red", "green", "blue", "alpha")
THRESHOLD, CHANCE = 0.01, 0.001
MOST_PAIRS = 400_000_000
CHUNK = 1024


def embedded(sides: Sides, embed: Embed | None) -> Sides:
    """The same rows, with numbers for columns that say what an image looks like: a network's activations, or pixels."""
    if embed is not None:
        activations = np.concatenate([embed(sides.train), embed(sides.valid)])
        table = _components(activations, "embedding")
    else:
        assert sides.arrays is not None
        table = looks(sides.arrays) | _components(downsampled(sides.arrays, SIDE), "pattern")
    frame = pl.DataFrame(table)
    columns = tuple(Column(name, Role.NUMERIC, 0, frame[name].n_unique()) for name in frame.columns)
    return Sides(sides.train, sides.valid, frame, columns, None, sides.target, arrays=sides.arrays)


def _components(values: np.ndarray, name: str) -> dict[str, np.ndarray]:
    """N×D as its principal components, as many as there are up to 20."""
    count = min(COMPONENTS, *values.shape)
    found = PCA(count, svd_solver="full" if values.shape[1] <= 500 else "randomized", random_state=0)
    parts = found.fit_transform(values.astype(np.float64))
    return {f"{name} {i + 1}": parts[:, i] for i in range(count)}


def downsampled(arrays: np.ndarray, side: int) -> np.ndarray:
    """N×(C·side·side) float64: the mean of each cell of a grid of side×side."""
    rows, cols = (_cells(arrays.shape[axis], side) for axis in (2, 3))
    parts = []
    for start in range(0, len(arrays), CHUNK):
        block = arrays[start : start + CHUNK].astype(np.float64)
        parts.append((rows @ block @ cols.T).reshape(len(block), -1))
    return np.concatenate(parts)


def _cells(length: int, side: int) -> np.ndarray:
    """side×length: row i averages its stretch of the axis, parts of pixels counted as parts."""
    edges = np.linspace(0, length, side + 1)
    low, high = edges[:-1, None], edges[1:, None]
    at = np.arange(length)
    overlap = np.clip(np.minimum(high, at + 1) - np.maximum(low, at), 0, None)
    return overlap / overlap.sum(1, keepdims=True)


def looks(arrays: np.ndarray) -> dict[str, np.ndarray]:
    """What differs between cameras and exports: brightness, contrast, sharpness, the colour of each channel."""
    found: dict[str, list[np.ndarray]] = {}
    count = arrays.shape[1]
    names = CHANNELS if count in (3, 4) else tuple(f"channel {i + 1}" for i in range(count))
    for start in range(0, len(arrays), CHUNK):
        block = arrays[start : start + CHUNK].astype(np.float64)
        found.setdefault("brightness", []).append(block.mean((1, 2, 3)))
        found.setdefault("contrast", []).append(block.std((1, 2, 3)))
        steps = np.abs(np.diff(block, axis=2)).mean((1, 2, 3)) if block.shape[2] > 1 else np.zeros(len(block))
        found.setdefault("sharpness", []).append(steps)
        if block.shape[1] > 1:
            for channel in range(block.shape[1]):
                found.setdefault(names[channel], []).append(block[:, channel].mean((1, 2)) - block.mean((1, 2, 3)))
    return {name: np.concatenate(parts) for name, parts in found.items()}


def difference_hash(arrays: np.ndarray) -> np.ndarray:
    """N×256 of ±1 float32: whether a cell of a 16×17 grid is brighter than the one to its left (dHash, Krawetz 2013).

    Brightness, contrast, size and compression change few of them.
    """
    grey = arrays.mean(1, keepdims=True)
    rows, cols = _cells(arrays.shape[2], HASH_SIDE), _cells(arrays.shape[3], HASH_SIDE + 1)
    grid = rows @ grey.astype(np.float64) @ cols.T
    return np.where(np.diff(grid[:, 0], axis=2) > 1e-9, 1, -1).reshape(len(arrays), HASH_BITS).astype(np.float32)


def nearest(asked: np.ndarray, known: np.ndarray, own: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """(bits that differ from the nearest known hash, which one), for each; `own` is the known one that is itself."""
    bits, found = np.empty(len(asked)), np.empty(len(asked), int)
    for start in range(0, len(asked), CHUNK):
        block = (HASH_BITS - asked[start : start + CHUNK] @ known.T) / 2
        if own is not None:
            block[np.arange(len(block)), own[start : start + CHUNK]] = np.inf
        found[start : start + CHUNK] = block.argmin(1)
        bits[start : start + CHUNK] = block.min(1)
    return bits, found


def check_same_looks(sides: Sides, seed: int = 0) -> Finding:
    """Images of valid that look like one of train, beyond how often those of train look like one another."""
    assert sides.arrays is not None
    hashes = difference_hash(sides.arrays)
    rng = np.random.default_rng(seed)
    train, valid = np.flatnonzero(~sides.is_valid), np.flatnonzero(sides.is_valid)
    most = max(MOST_PAIRS // len(train), 1)
    asked = valid if len(valid) <= most else np.sort(rng.choice(valid, most, replace=False))
    own = np.arange(len(train)) if len(train) <= most else np.sort(rng.choice(len(train), most, replace=False))
    bits, found = nearest(hashes[asked], hashes[train])
    within, _ = nearest(hashes[train][own], hashes[train], own)
    same = bits <= SAME_BITS
    count, usual = int(same.sum()), float((within <= SAME_BITS).mean()) if len(train) > 1 else 0.0
    share = count / len(asked)
    chance = stats.binomtest(count, len(asked), min(max(usual, THRESHOLD), 1.0), alternative="greater").pvalue
    detail = (
        f"{count:,} of {len(asked):,} images of valid look like one of train (hashes differ in at most {SAME_BITS} of "
        f"{HASH_BITS} bits); of train {percent(usual)} look like another"
    )
    if count:
        first = int(np.flatnonzero(same)[np.argmin(bits[same])])
        here, there = sides.valid.where(int(asked[first]) - len(train)), sides.train.where(int(found[first]))
        detail += f"; {here} is like {there}"
    if share > THRESHOLD and chance < CHANCE:
        return Finding("near_duplicates", "fail", f"{detail}; next: take them out of one side", share, THRESHOLD)
    return Finding("near_duplicates", "warn" if count and usual <= THRESHOLD else "pass", detail, share, THRESHOLD)
