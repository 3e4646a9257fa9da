"""Rows of valid that are nearly rows of train: nearer to it than the rows of train are to each other."""

import numpy as np
from scipy import stats
from sklearn.neighbors import NearestNeighbors

from dlkit.ml.checks.finding import Finding, percent, skip
from dlkit.ml.checks.matrix import Matrix
from dlkit.ml.checks.sides import Sides

THRESHOLD, NEAR, FEWEST_NEAR = 0.05, 0.01, 6
"""Of valid this share may be nearer than the nearest 1 % of train (six rows at least) are to one another."""
CHANCE = 0.001
MOST_KNOWN, MOST_ASKED = 50_000, 2_000
FEWEST = 30
MOST_CATEGORIES = 16


def check_near_duplicates(sides: Sides, seed: int = 0) -> Finding:
    """The lower tail of the distances from valid to train against that within train."""
    train, valid = np.flatnonzero(~sides.is_valid), np.flatnonzero(sides.is_valid)
    if not sides.features:
        return skip("near_duplicates", "no column to measure distances by, beside ids and dates")
    if min(len(train), len(valid)) < FEWEST:
        return skip("near_duplicates", f"too few rows to tell: it needs {FEWEST} a side")
    rng = np.random.default_rng(seed)
    known, asked, own = (
        _some(rows, most, rng) for rows, most in ((train, MOST_KNOWN), (valid, MOST_ASKED), (train, MOST_ASKED))
    )
    rows = np.concatenate([known, asked, own])
    space = _space(sides.encoding(sides.frame[rows]))
    parts = np.split(space, [len(known), len(known) + len(asked)])
    index = NearestNeighbors(n_neighbors=2).fit(parts[0])
    across = index.kneighbors(parts[1], n_neighbors=1)[0][:, 0]
    within = _to_others(index, parts[2], known, own)
    tiny = 1e-5 * max(float(np.median(within)), 1e-12)  # equal rows are the business of `duplicates`
    apart = within[within > tiny]
    if len(apart) < FEWEST:
        return skip("near_duplicates", "rows repeat too often for distances between them to mean anything")
    rank = max(round(NEAR * len(apart)), FEWEST_NEAR)
    near = float(np.partition(apart, rank - 1)[rank - 1])
    rest = across[across > tiny]
    count = int((rest < near).sum())
    share = count / len(across)
    # How many of m fall below the k-th smallest of n is beta-binomial, whatever the distribution; two rows that are
    # each other's nearest make one distance twice, so that k and n count by half.
    law = stats.betabinom(max(len(rest), 1), rank / 2, (len(apart) - rank + 1) / 2)
    chance = float(law.sf(count - 1))
    middle = [float(np.median(side)) for side in (across, within)]
    detail = (
        f"{percent(share)} of {len(asked):,} rows of valid are nearer to train than its nearest {rank:,} are to "
        f"each other; median distance {middle[0]:.3g}, within train {middle[1]:.3g}"
    )
    if len(known) < len(train):
        detail += f" (against {len(known):,} of {len(train):,} rows)"
    if share > THRESHOLD and chance < CHANCE:
        return Finding(
            "near_duplicates", "fail", f"{detail}; next: dlkit split --group what they share", share, THRESHOLD
        )
    return Finding("near_duplicates", "pass", detail, share, THRESHOLD)


def _some(rows: np.ndarray, most: int, rng: np.random.Generator) -> np.ndarray:
    return rows if len(rows) <= most else np.sort(rng.choice(rows, most, replace=False))


def _to_others(index: NearestNeighbors, points: np.ndarray, known: np.ndarray, own: np.ndarray) -> np.ndarray:
    """The distance of rows of train to the nearest that is not the row itself."""
    distances, found = index.kneighbors(points, n_neighbors=2)
    is_self = known[found[:, 0]] == own
    is_known = np.isin(own, known)
    # A row with an exact twin may find the twin first: then both are at distance 0, and the first will do.
    return np.where(is_self | (is_known & (distances[:, 0] == 0)), distances[:, 1], distances[:, 0])


def _space(matrix: Matrix) -> np.ndarray:
    """N×F float32: numbers standardised, missing ones in the middle and marked, categories as indicators."""
    blocks = []
    for i in range(len(matrix.names)):
        values = matrix.x[:, i].astype(np.float64)
        missing = np.isnan(values)
        if matrix.is_category[i]:
            top = min(int(np.nanmax(values, initial=-1)) + 1, MOST_CATEGORIES)
            blocks += [(values == k).astype(np.float64) for k in range(top)]
        elif not missing.all() and (spread := float(np.nanstd(values))) > 0:
            blocks.append(np.where(missing, 0.0, (values - np.nanmean(values)) / spread))
        if missing.any():
            blocks.append(missing.astype(np.float64))
    return np.stack(blocks or [np.zeros(len(matrix.x))], axis=1).astype(np.float32)
