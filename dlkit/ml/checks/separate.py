"""Adversarial validation (note S035): how well a classifier tells the rows of one side from those of the other.

Scores are out of fold. Folds share training rows, so that DeLong's standard error is too small: on true nulls its 95 %
interval is wrong 10 to 15 % of the time. Times √(1 + K/(K−1)), after Nadeau and Bengio (2003), it is wrong 2 to 3 %.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from scipy import stats
from sklearn.compose import make_column_transformer
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from dlkit.data.metrics import auc, auc_error, placements
from dlkit.ml.checks.matrix import Matrix
from dlkit.ml.engine import Engine

Model = Literal["forest", "boosting", "linear"]
FOLDS = 5
# From here on boosting finds more than a forest, and in less time.
FOREST_ROWS = 5000
Z = 1.959963984540054


def choose(rows: int) -> Model:
    return "forest" if rows < FOREST_ROWS else "boosting"


def build(model: Model, is_category: np.ndarray, seed: int, trees: int = 100) -> Any:
    """An unfitted classifier of binary labels, with scikit-learn's settings but for what is said here."""
    if model == "forest":
        return RandomForestClassifier(trees, min_samples_leaf=3, max_features="sqrt", random_state=seed)
    if model == "boosting":
        return HistGradientBoostingClassifier(max_iter=trees, categorical_features=is_category, random_state=seed)
    numbers = make_pipeline(SimpleImputer(add_indicator=True, keep_empty_features=True), StandardScaler())
    names = OneHotEncoder(max_categories=20, handle_unknown="infrequent_if_exist")
    columns = make_column_transformer((numbers, np.flatnonzero(~is_category)), (names, np.flatnonzero(is_category)))
    return make_pipeline(columns, LogisticRegression(max_iter=1000))


@dataclass(frozen=True, eq=False)
class Fold:
    """One fit: the classifier and the rows that it has not seen."""

    classifier: Any
    held_out: np.ndarray


@dataclass(frozen=True, eq=False)
class Separation:
    """What cross-validation gave. `scores` are N probabilities of being a row of valid, each out of fold."""

    model: Model
    scores: np.ndarray
    folds: tuple[Fold, ...]
    auc: float
    low: float
    high: float
    error: float


def separate(
    matrix: Matrix,
    is_valid: np.ndarray,
    engine: Engine,
    model: Model,
    units: np.ndarray | None = None,
    seed: int = 0,
    trees: int = 100,
    most_folds: int = FOLDS,
) -> Separation:
    """Cross-validate a classifier of the sides.

    units  N int64: rows of one unit (a group) are in one fold, and count as one observation in the interval
    """
    splits = folds_of(is_valid, units, seed, most_folds)
    jobs = [(train, held_out, seed + k) for k, (train, held_out) in enumerate(splits)]
    fits = engine.map(_fit, jobs, matrix.x, is_valid, model, matrix.is_category, trees)
    scores, folds = np.empty(len(is_valid)), []
    for (_, held_out, _), (classifier, predicted) in zip(jobs, fits, strict=True):
        scores[held_out] = predicted
        folds.append(Fold(classifier, held_out))
    area = auc(is_valid, scores)
    error = error_of(is_valid, scores, units) * correction(len(folds))
    low, high = max(area - Z * error, 0.0), min(area + Z * error, 1.0)
    return Separation(model, scores, tuple(folds), area, low, high, error)


def _fit(
    job: tuple[np.ndarray, np.ndarray, int],
    x: np.ndarray,
    is_valid: np.ndarray,
    model: Model,
    is_category: np.ndarray,
    trees: int,
) -> tuple[Any, np.ndarray]:
    train, held_out, seed = job
    classifier = build(model, is_category, seed, trees).fit(x[train], is_valid[train])
    return classifier, classifier.predict_proba(x[held_out])[:, 1]


def folds_of(
    is_valid: np.ndarray, units: np.ndarray | None, seed: int, most: int = FOLDS
) -> list[tuple[np.ndarray, np.ndarray]]:
    """(fitted rows, held-out rows) of each fold: as many as `most`, or as the smaller side has rows or units.

    Units, not rows, are dealt out evenly; each is on one side.
    """
    if units is None:
        return _stratified(is_valid, seed, most)
    number = np.unique(units, return_inverse=True)[1]
    side = np.bincount(number, is_valid) > 0
    return [tuple(np.flatnonzero(np.isin(number, part)) for part in fold) for fold in _stratified(side, seed, most)]


def _stratified(sides: np.ndarray, seed: int, most: int) -> list[tuple[np.ndarray, np.ndarray]]:
    count = min(most, int(min(sides.sum(), (~sides).sum())))
    return list(StratifiedKFold(count, shuffle=True, random_state=seed).split(sides, sides))


def correction(folds: int) -> float:
    return math.sqrt(1 + folds / (folds - 1))


def error_of(is_valid: np.ndarray, scores: np.ndarray, units: np.ndarray | None = None) -> float:
    """Standard error of the AUC: DeLong et al. (1988); with units, of clustered rows, Obuchowski (1997, eq. 5)."""
    if units is None:
        return auc_error(is_valid, scores)
    over, under = placements(is_valid, scores)
    number = np.unique(units, return_inverse=True)[1]
    spread, area = np.zeros(number.max() + 1), float(over.mean())
    for side, parts in ((is_valid, over), (~is_valid, under)):
        clusters = len(np.unique(number[side]))
        total = np.bincount(number[side], parts - area, len(spread))
        spread += total * math.sqrt(clusters / max(clusters - 1, 1)) / len(parts)
    return float(np.sqrt((spread**2).sum()))  # a unit on both sides has its covariance in the square of its sum


def hold_out_p(is_valid: np.ndarray, separation: Separation) -> float:
    """A p-value without refitting: in each fold the held-out rows are new to their classifier, so that Mann and
    Whitney's test is exact there; the smallest of K counts K times (Bonferroni)."""
    values = []
    for fold in separation.folds:
        side, score = is_valid[fold.held_out], separation.scores[fold.held_out]
        if 0 < side.sum() < len(side):
            values.append(stats.mannwhitneyu(score[side], score[~side], alternative="greater").pvalue)
    return min(1.0, len(values) * min(values)) if values else 1.0


def normal_p(separation: Separation) -> float:
    """One-sided p-value of the corrected interval, which is what many rows need."""
    if separation.error == 0:
        return 1.0 if separation.auc <= 0.5 else float(np.finfo(float).eps)
    return max(float(stats.norm.sf((separation.auc - 0.5) / separation.error)), float(np.finfo(float).eps))


MOST_DRAWS, EXCEEDANCES = 199, 10
# Where p will be far below 0.05, it need not be known to the last digit.
CLEAR_DRAWS, CLEAR_EXCEEDANCES = 99, 1


def permutation_p(observed: float, draw: Callable[[range], list[float]], batch: int) -> tuple[float, int]:
    """(p-value, draws) of a test that stops early: at ten draws as large as the observed value (Besag & Clifford 1991),
    or after 99 draws of which one was at most; else after 199."""
    seen: list[float] = []
    while len(seen) < MOST_DRAWS:
        stop = CLEAR_DRAWS if len(seen) < CLEAR_DRAWS else MOST_DRAWS
        seen += draw(range(len(seen), min(len(seen) + batch, stop)))
        as_large = np.flatnonzero(np.array(seen) >= observed)
        if len(as_large) >= EXCEEDANCES:
            stop = int(as_large[EXCEEDANCES - 1]) + 1
            return EXCEEDANCES / stop, stop
        if len(seen) >= CLEAR_DRAWS and len(as_large) <= CLEAR_EXCEEDANCES:
            break
    return (int((np.array(seen) >= observed).sum()) + 1) / (len(seen) + 1), len(seen)
