"""Which columns give the split away: permutation importance on held-out rows, over clusters of correlated columns.

A dominant column masks its twins: permuted alone, each of two copies seems worth nothing. So columns that say the same
are permuted together, and each has besides the AUC that it reaches alone.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
from scipy.cluster import hierarchy
from scipy.spatial.distance import squareform
from sklearn.tree import DecisionTreeClassifier

from dlkit.data import Role
from dlkit.data.metrics import auc, ranks
from dlkit.ml.checks.finding import listed, percent
from dlkit.ml.checks.matrix import Matrix, floats
from dlkit.ml.checks.separate import Fold, correction, folds_of

# Columns whose associations are above this are one cluster.
TOGETHER = 0.7
# Of each fold so many held-out rows are permuted at most; of a category column so many categories are compared.
MOST_ROWS, MOST_INDICATORS = 2000, 8
REPEATS = 3


@dataclass(frozen=True)
class Telling:
    """A cluster of columns: the AUC that is lost when its values are shuffled, mean over folds and its error."""

    names: tuple[str, ...]
    importance: float
    error: float

    @property
    def is_clear(self) -> bool:
        return self.importance > max(2 * self.error, 0.002)


def clusters_of(matrix: Matrix) -> list[list[int]]:
    """Columns grouped by association: the largest |correlation| between ranks, or indicators of the categories."""
    count = len(matrix.names)
    if count < 2:
        return [[i] for i in range(count)]
    blocks = [_block(matrix.x[:, i], bool(matrix.is_category[i])) for i in range(count)]
    owner = np.repeat(np.arange(count), [block.shape[1] for block in blocks])
    together = np.abs(_correlations(np.concatenate(blocks, axis=1)))
    starts = np.flatnonzero(np.diff(owner, prepend=-1))
    strength = np.maximum.reduceat(np.maximum.reduceat(together, starts, axis=0), starts, axis=1)
    distance = 1 - np.clip((strength + strength.T) / 2, 0, 1)
    np.fill_diagonal(distance, 0)
    tree = hierarchy.linkage(squareform(distance, checks=False), "average")
    found = hierarchy.fcluster(tree, 1 - TOGETHER, "distance")
    return [np.flatnonzero(found == label).tolist() for label in dict.fromkeys(found)]


def _block(values: np.ndarray, is_category: bool) -> np.ndarray:
    """N×B: the ranks of a number, missing ones in the middle, or an indicator of each frequent category."""
    missing = np.isnan(values)
    if is_category:
        top = min(MOST_INDICATORS, int(np.nanmax(values, initial=0)) + 1)
        return np.stack([*((values == k) for k in range(top)), missing], axis=1).astype(np.float32)
    order = ranks(np.where(missing, np.inf, values))
    order[missing] = (len(values) - missing.sum() + 1) / 2
    return np.stack([order, missing], axis=1).astype(np.float32)


def _correlations(columns: np.ndarray) -> np.ndarray:
    centred = columns - columns.mean(0)
    norms = np.sqrt((centred**2).sum(0))
    with np.errstate(divide="ignore", invalid="ignore"):
        unit = np.where(norms > 1e-6 * math.sqrt(len(columns)), centred / norms, 0)
    return unit.T @ unit


def importances(matrix: Matrix, is_valid: np.ndarray, folds: Sequence[Fold], seed: int = 0) -> list[Telling]:
    """The clusters, the most telling first."""
    rng = np.random.default_rng(seed)
    found = clusters_of(matrix)
    lost = np.array([_lost(matrix.x, is_valid, fold, found, rng) for fold in folds])
    mean, spread = lost.mean(0), lost.std(0, ddof=1) if len(folds) > 1 else np.full(len(found), np.inf)
    error = spread / math.sqrt(len(folds)) * correction(max(len(folds), 2))
    told = [
        Telling(tuple(matrix.names[i] for i in members), float(mean[k]), float(error[k]))
        for k, members in enumerate(found)
    ]
    return sorted(told, key=lambda one: -one.importance)


def _lost(
    x: np.ndarray, is_valid: np.ndarray, fold: Fold, clusters: list[list[int]], rng: np.random.Generator
) -> list[float]:
    """The fall of a fold's AUC for each cluster: its values dealt out anew among the held-out rows."""
    rows = fold.held_out
    if len(rows) > MOST_ROWS:
        rows = np.sort(rng.choice(rows, MOST_ROWS, replace=False))
    side, held = is_valid[rows], x[rows]
    if not 0 < side.sum() < len(side):
        return [0.0] * len(clusters)
    whole = auc(side, fold.classifier.predict_proba(held)[:, 1])
    orders = [rng.permutation(len(rows)) for _ in range(REPEATS)]
    values = []
    for members in clusters:
        shuffled = np.tile(held, (REPEATS, 1))
        shuffled[:, members] = np.concatenate([held[order][:, members] for order in orders])
        scores = fold.classifier.predict_proba(shuffled)[:, 1].reshape(REPEATS, -1)
        values.append(whole - float(np.mean([auc(side, score) for score in scores])))
    return values


def alone(matrix: Matrix, is_valid: np.ndarray, column: int, units: np.ndarray | None = None, seed: int = 0) -> float:
    """The out-of-fold AUC of one column: a small tree finds a difference of spread as well as one of level."""
    x, scores = matrix.x[:, [column]], np.empty(len(is_valid))
    leaf = max(5, len(is_valid) // 200)
    for train, held_out in folds_of(is_valid, units, seed):
        tree = DecisionTreeClassifier(max_leaf_nodes=24, min_samples_leaf=leaf, random_state=seed).fit(
            x[train], is_valid[train]
        )
        scores[held_out] = tree.predict_proba(x[held_out])[:, 1]
    return auc(is_valid, scores)


def sentence(values: pl.Series, role: Role, is_valid: np.ndarray) -> str:
    """How a column differs between the sides, in words: 'values of valid are all later'."""
    train, valid = values.filter(pl.Series(~is_valid)), values.filter(pl.Series(is_valid))
    gaps = [side.null_count() / len(side) for side in (train, valid)]
    if abs(gaps[0] - gaps[1]) > 0.2:
        return f"missing in {percent(gaps[1])} of valid and {percent(gaps[0])} of train"
    train, valid = train.drop_nulls(), valid.drop_nulls()
    if not len(train) or not len(valid):
        return "missing on one side"
    if role == Role.TEXT and values.dtype == pl.String:
        train, valid = train.str.len_chars(), valid.str.len_chars()
    elif values.dtype == pl.String and role == Role.CATEGORICAL:
        return _categories(train, valid)
    return _order(train, valid, "characters" if role == Role.TEXT else "")


def _categories(train: pl.Series, valid: pl.Series) -> str:
    shares = [{value: n / len(side) for value, n in side.value_counts().iter_rows()} for side in (train, valid)]
    if not shares[0].keys() & shares[1].keys():
        return f"no value of valid is in train ({listed(sorted(shares[1]), 2)})"
    gap = {value: shares[1].get(value, 0.0) - shares[0].get(value, 0.0) for value in {**shares[0], **shares[1]}}
    most = max(sorted(gap), key=lambda value: abs(gap[value]))
    there = [percent(side.get(most, 0.0)) for side in (shares[1], shares[0])]
    return f"{most!r} is {there[0]} of valid and {there[1]} of train"


def _order(train: pl.Series, valid: pl.Series, unit: str) -> str:
    words = ("later", "earlier") if train.dtype == pl.Datetime else ("higher", "lower")
    first, second = (side.to_physical() for side in (train, valid))
    if second.min() > first.max():  # type: ignore[operator]
        return f"values of valid are all {words[0]}"
    if second.max() < first.min():  # type: ignore[operator]
        return f"values of valid are all {words[1]}"
    if train.dtype == pl.String:
        return "values of valid sort apart from those of train"
    middle = [shown(side.median()) + (f" {unit}" if unit else "") for side in (valid, train)]
    if middle[0] != middle[1]:
        return f"its median is {middle[0]} in valid and {middle[1]} in train"
    ends = [f"{shown(side.quantile(0.1))} to {shown(side.quantile(0.9))}" for side in (valid, train)]
    return f"most of it is {ends[0]} in valid and {ends[1]} in train"


def shown(value: object) -> str:
    """A number or a time as a sentence holds it."""
    return f"{value:.4g}" if isinstance(value, float | int) else f"{value:%Y-%m-%d %H:%M}".removesuffix(" 00:00")


def rank_auc(values: pl.Series, is_valid: np.ndarray) -> float:
    """The AUC of the values themselves, the wrong way round counted as well: of ids and dates, whatever their type."""
    present = values.is_not_null().to_numpy()
    side = is_valid[present]
    if not 0 < side.sum() < len(side):
        return float("nan")
    here = values.drop_nulls()
    order = here.rank("dense").cast(pl.Float64).to_numpy() if here.dtype == pl.String else floats(here)
    area = auc(side, order)
    return max(area, 1 - area)
