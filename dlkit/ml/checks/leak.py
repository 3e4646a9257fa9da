"""Columns that give the target away: alone, as a function of it, or by the order of the rows."""

import numpy as np
import polars as pl
from scipy import stats
from sklearn.model_selection import KFold
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor

from dlkit.data import Role
from dlkit.data.leak import ROWS_A_VALUE, SAME, correlates, follows
from dlkit.data.metrics import r2
from dlkit.ml.checks.finding import Finding, skip
from dlkit.ml.checks.matrix import LARGEST, encode, floats
from dlkit.ml.checks.sides import Sides

THRESHOLD, SUSPECT = 0.99, 0.95
"""Share of what there is to predict that one column may predict: to fail, to be worth a word."""
ORDER = 0.5
FOLDS, MOST_ROWS, FEWEST_ROWS = 3, 10_000, 30


def check_target_leak(sides: Sides, seed: int = 0) -> Finding:
    """Each column alone, by a tree out of fold; exact functions; the order of the rows of train."""
    if sides.target is None:
        return skip("target_leak", "no labels on both sides" if sides.target_name else "no target: --target names it")
    if sides.arrays is not None:
        return skip("target_leak", "images have no columns to look at")
    rows = np.flatnonzero(sides.target.kept)
    if len(rows) < FEWEST_ROWS:
        return skip("target_leak", f"too few rows to tell: it needs {FEWEST_ROWS} with a label")
    if len(rows) > MOST_ROWS:
        rows = np.sort(np.random.default_rng(seed).choice(rows, MOST_ROWS, replace=False))
    labels, is_class = sides.labels[rows], bool(sides.target.classes)
    exact = _exact(sides, rows, labels, is_class)
    names = [*sides.features, *sides.named(Role.DATETIME)]
    matrix = encode(sides.frame[rows], names, sides.roles)
    scores = {name: predicts(matrix.x[:, i], labels, is_class, seed) for i, name in enumerate(names)}
    order = _order(sides, labels, rows, is_class)
    best = max(scores, key=lambda name: scores[name]) if scores else None
    value = max(scores.values(), default=0.0)
    unit = "accuracy above the most frequent class" if is_class else "R²"
    said = [f"{name!r} {why}" for name, why in exact.items()]
    said += [
        f"{name!r} alone predicts it ({unit} {s:.3f})"
        for name, s in scores.items()
        if s >= THRESHOLD and name not in exact
    ]
    target = sides.target_name
    if said:
        drop = ",".join([*exact, *(n for n, s in scores.items() if s >= THRESHOLD and n not in exact)])
        return Finding(
            "target_leak", "fail", f"{'; '.join(said)}; next: --drop {drop}", 1.0 if exact else value, THRESHOLD
        )
    if value >= SUSPECT:
        detail = f"{best!r} alone predicts {target!r} ({unit} {value:.3f}): is it known before the answer is?"
        return Finding("target_leak", "warn", detail, value, THRESHOLD)
    if order >= ORDER:
        detail = (
            f"the order of train's rows predicts {target!r} ({unit} {order:.3f}): neighbours are alike; shuffle before "
            "taking rows off an end"
        )
        return Finding("target_leak", "warn", detail, order, ORDER)
    if best is None:
        return Finding(
            "target_leak", "pass", "no column to look at; the order of the rows tells nothing", 0.0, THRESHOLD
        )
    detail = f"{len(names)} columns, the most telling {best!r} ({unit} {value:.3f}); the order of rows tells nothing"
    return Finding("target_leak", "pass", detail, value, THRESHOLD)


def predicts(values: np.ndarray, labels: np.ndarray, is_class: bool, seed: int = 0) -> float:
    """What a tree on this one column predicts out of fold, 1 all and 0 nothing: (accuracy − most frequent) / (1 − most
    frequent) of classes, R² of numbers."""
    classes = len(np.unique(labels))
    if is_class and 2 * classes > len(labels):
        return 0.0  # hardly a class has a second row
    x = np.clip(values, -LARGEST, LARGEST).astype(np.float32).reshape(-1, 1)
    predicted = np.empty(len(labels))
    for train, held_out in KFold(FOLDS, shuffle=True, random_state=seed).split(x):
        tree = (DecisionTreeClassifier if is_class else DecisionTreeRegressor)(min_samples_leaf=2, random_state=seed)
        predicted[held_out] = tree.fit(x[train], labels[train]).predict(x[held_out])
    if not is_class:
        return r2(labels, predicted)
    base = float(np.bincount(labels.astype(int)).max() / len(labels))
    return float(((predicted == labels).mean() - base) / (1 - base)) if base < 1 else 0.0


def _exact(sides: Sides, rows: np.ndarray, labels: np.ndarray, is_class: bool) -> dict[str, str]:
    """Columns that are the target in other words, or follow from it."""
    found = {}
    for name in [*sides.features, *sides.named(Role.ID)]:
        values = sides.frame[name][rows]
        if (follows if is_class else correlates)(values, labels):
            found[name] = "is the target under another name"
        elif is_function_of(values, labels, is_class):
            found[name] = "is a function of the target"
    return found


def is_function_of(values: pl.Series, labels: np.ndarray, is_class: bool) -> bool:
    """Whether the column follows from the target in every row: one value a class; of numbers, one value an interval
    of the target (a price band), or the same order (its logarithm)."""
    there = values.is_not_null().to_numpy()
    values, labels = values.filter(pl.Series(there)), labels[there]
    distinct = values.n_unique()
    if distinct < 2 or len(values) < 2 * ROWS_A_VALUE:
        return False
    if is_class:
        counts = (
            pl.DataFrame({"class": labels, "value": values}).group_by("class").agg(pl.col("value").n_unique(), pl.len())
        )
        usual = counts.filter(pl.col("len") >= ROWS_A_VALUE)
        return len(usual) >= 2 and usual["value"].max() == 1 and usual.height == counts.height
    order = np.argsort(labels, kind="stable")
    sorted_ = values.gather(order)
    if distinct * ROWS_A_VALUE <= len(values):
        changes = int((sorted_ != sorted_.shift(1)).sum())
        return changes == distinct - 1
    return values.dtype == pl.Float64 and abs(float(stats.spearmanr(floats(values), labels).statistic)) > SAME


def _order(sides: Sides, labels: np.ndarray, rows: np.ndarray, is_class: bool) -> float:
    train = rows < sides.train.rows
    if train.sum() < FEWEST_ROWS or len(np.unique(labels[train])) < 2:
        return 0.0
    return predicts(rows[train].astype(np.float64), labels[train], is_class)
