"""Importance weights of the rows of train: how much likelier each is on the other side (note S040)."""

import io
from pathlib import Path

import numpy as np

from dlkit.core.io import write_atomic
from dlkit.ml.checks.adversarial import Adversarial
from dlkit.ml.checks.sides import Sides

CLIP = 20.0
CHUNK = 50_000


def importance_weights(sides: Sides, found: Adversarial) -> np.ndarray:
    """T float64 of mean 1: p/(1 − p) times the sides' ratio, clipped to 1/20 … 20 (Bickel et al. 2009).

    p is out of fold where the classifier saw the row, else the mean of all folds. Without a classifier all are 1.
    """
    separation, matrix = found.separation, found.matrix
    count = sides.train.rows
    if separation is None or matrix is None:
        return np.ones(count)
    p = np.full(count, np.nan)
    seen = found.rows < count
    p[found.rows[seen]] = separation.scores[seen]
    for rows in _chunks(np.flatnonzero(np.isnan(p))):
        x = sides.encoding(sides.frame[rows], matrix.names).x
        p[rows] = np.mean([fold.classifier.predict_proba(x)[:, 1] for fold in separation.folds], axis=0)
    drawn = sides.is_valid[found.rows]
    ratio = (~drawn).sum() / drawn.sum()
    with np.errstate(divide="ignore"):
        weights = np.clip(p / (1 - p) * ratio, 1 / CLIP, CLIP)
    return np.asarray(weights / weights.mean())


def _chunks(rows: np.ndarray) -> list[np.ndarray]:
    return [rows[start : start + CHUNK] for start in range(0, len(rows), CHUNK)]


def write_weights(path: Path, sides: Sides, weights: np.ndarray) -> None:
    """A CSV of the rows of train in order: where each stands in its source, and its weight."""
    place = sides.train.place
    numbers = place.numbers_of(np.arange(sides.train.rows))
    out = io.StringIO()
    out.write(f"{place.unit},weight\n")
    out.writelines(
        f"{number},{weight:.6g}\n" for number, weight in zip(numbers.tolist(), weights.tolist(), strict=True)
    )
    write_atomic(path, out.getvalue().encode())
