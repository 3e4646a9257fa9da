"""A saved baseline, fitted anew on fewer rows: what it would score on rows that it must not have seen."""

import warnings

import numpy as np
from sklearn.base import clone

from dlkit.core.run import Run
from dlkit.data import Dataset
from dlkit.ml.model import Model
from dlkit.ml.persist import Baseline, load


def refit(run: Run, rows: Dataset) -> Baseline:
    """The same family, settings and preprocessing as the run's model, learnt from `rows` alone."""
    saved = load(run)
    features, estimator = clone(saved.model.features), clone(saved.model.estimator)
    block = saved.coding.block(rows)
    y = rows.labels if saved.task != "classification" else saved.schema.targets(rows)
    with warnings.catch_warnings():
        # As at the first fit: convergence, a class of few rows. The score will tell.
        warnings.simplefilter("ignore")
        estimator.fit(features.fit_transform(block, np.asarray(y)), y)
    return Baseline(saved.schema, saved.coding, Model(features, estimator, saved.model.classes))
