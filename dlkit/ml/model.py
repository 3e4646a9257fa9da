"""One model: preprocessing and estimator, fitted together on rows of a block."""

import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
from sklearn.base import clone

from dlkit.ml.block import Block, Layout
from dlkit.ml.families import BY_NAME, Context, Family
from dlkit.ml.features import Features

CELLS = 1 << 24
"""Cells of a matrix that are predicted at a time: a million rows need not be expanded at once."""


class Model:
    """A family's estimator with one setting, behind the features that it eats.

    `predict` gives N×classes probabilities, or N values in the target's units, float64.
    """

    def __init__(self, features: Features, estimator: Any, classes: int) -> None:
        self.features, self.estimator, self.classes = features, estimator, classes

    @classmethod
    def fit(
        cls, name: str, setting: Mapping[str, Any], context: Context, layout: Layout, block: Block, y: np.ndarray
    ) -> "Model":
        """Fit on a block's rows: y are N class indices or N values. What scikit-learn raises passes through."""
        family = BY_NAME[name]
        features = Features(family.view, layout, _target(context), context.seed)
        return cls(features, family.make(setting, context), context.classes)._learn(family, context.balance, block, y)

    def again(self, name: str, balance: bool, block: Block, y: np.ndarray) -> "Model":
        """A copy with the same family (`name`) and settings that has learnt from these rows alone."""
        copy = Model(clone(self.features), clone(self.estimator), self.classes)
        return copy._learn(BY_NAME[name], balance, block, y)

    def _learn(self, family: Family, balance: bool, block: Block, y: np.ndarray) -> "Model":
        if balance and self.classes and not family.weighs and family.name != "dummy":
            rows = balanced(y, self.features.seed)
            block, y = take(block, rows), y[rows]
        with warnings.catch_warnings():
            # Convergence, a class of few rows, a column missing throughout: the score will tell.
            warnings.simplefilter("ignore")
            x = self.features.fit_transform(block, y)
            if not x.shape[1] and family.name != "dummy":
                raise ValueError("nothing is left to learn from: the text has no words")
            _introduce(self.estimator, family, self.features)
            self.estimator.fit(x, y)
        return self

    def predict(self, block: Block) -> np.ndarray:
        size = max(CELLS // max(sum(self.features.parts_), 1), 256)
        rows = range(0, max(block.rows, 1), size)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return np.concatenate([self._predict(part(block, start, start + size)) for start in rows])

    def _predict(self, block: Block) -> np.ndarray:
        x = self.features.transform(block)
        if not self.classes:
            return np.asarray(self.estimator.predict(x), np.float64)
        out = np.zeros((block.rows, self.classes))
        out[:, self.estimator.classes_] = self.estimator.predict_proba(x)
        return out


def _introduce(estimator: Any, family: Family, features: Features) -> None:
    """Tell an estimator which columns are what."""
    if family.name == "bayes":
        estimator.set_params(parts=features.parts_)
    elif family.name == "boosting" and features.categorical_:
        estimator.set_params(categorical_features=features.categorical_)


def _target(context: Context) -> str:
    if not context.is_classification:
        return "continuous"
    return "binary" if context.classes == 2 else "multiclass"


def take(block: Block, rows: np.ndarray) -> Block:
    return Block(block.numbers[rows], tuple([column[i] for i in rows] for column in block.texts))


def part(block: Block, start: int, stop: int) -> Block:
    return Block(block.numbers[start:stop], tuple(column[start:stop] for column in block.texts))


def balanced(y: np.ndarray, seed: int) -> np.ndarray:
    """Row indices in which each class is as frequent as the most frequent one: its rows, and then copies of them."""
    rng = np.random.Generator(np.random.PCG64(seed))
    counts = np.bincount(y)
    extra = [rng.choice(np.flatnonzero(y == c), counts.max() - n) for c, n in enumerate(counts) if n]
    return np.sort(np.concatenate([np.arange(len(y)), *extra]))
