"""Stacking: a small model on what the members of an ensemble predict (Wolpert 1992; S180)."""

import numpy as np
from sklearn.linear_model import LogisticRegression, RidgeCV

from dlkit.core.errors import bad_data
from dlkit.data.ensemble import Combine


def fit(each: np.ndarray, truth: np.ndarray, task: str) -> Combine:
    """What scikit-learn's StackingClassifier and StackingRegressor put on top with `cv="prefit"`: fitted on `each`,
    M×N×K probabilities or M×N values that the members predict for rows that none of them has seen.

    truth  N class indices, or N values
    """
    if task != "classification":
        ridge = RidgeCV().fit(each.T, truth)
        return lambda new: np.asarray(ridge.predict(new.T), np.float64)
    classes = each.shape[2]
    if len(np.unique(truth)) < classes:
        missing = classes - len(np.unique(truth))
        raise bad_data(f"--stack: {missing} of {classes} classes have no row to be fitted on")
    top = LogisticRegression(max_iter=1000).fit(_features(each), truth)
    return lambda new: np.asarray(top.predict_proba(_features(new)))


def _features(each: np.ndarray) -> np.ndarray:
    """N×(M·K), or N×M for two classes, whose second column says all."""
    used = each[:, :, 1:] if each.shape[2] == 2 else each
    return np.hstack(list(used))
