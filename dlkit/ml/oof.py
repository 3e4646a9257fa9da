"""Out-of-fold predictions of a saved baseline: each row's, by a model that has not seen it (S180)."""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import numpy as np

from dlkit.core.contest import Contest
from dlkit.core.errors import DlkitError, bad_data
from dlkit.core.reading import Reading
from dlkit.core.run import Run
from dlkit.core.splitting import Splitting
from dlkit.ml.data import prepare
from dlkit.ml.embedding import Embedding, rows_of
from dlkit.ml.engine import Engine
from dlkit.ml.families import BY_NAME
from dlkit.ml.model import Model
from dlkit.ml.trial import Data


def out_of_fold(run: Run, source: str, engine: Engine, embedding: Embedding | None = None) -> np.ndarray:
    """N×K probabilities or N values for the N rows of `source` that have a target; NaN for those that no fold scores.

    The run's family and setting, fitted again on the training side of each of the folds that it was chosen by: what
    scikit-learn's StackingClassifier does with `cv`. A run that a file scored (--valid) was chosen by no folds: it is
    fitted again on FOLDS of the rows that it was trained on, as if no file had been named.

    embedding  the network that the run reads its rows through, if it does
    """
    contest, family, setting = contest_of(run, source)
    dataset = rows_of(contest, embedding)
    prepared = prepare(contest, dataset, embedding)
    data = prepared.data
    shape = (len(data.labels), len(dataset.classes)) if dataset.classes else (len(data.labels),)
    found = np.full(shape, np.nan)
    scored = engine.map(_fold, range(prepared.folds), family, setting, data)
    for fold, predictions in zip(data.folds, scored, strict=False):
        found[fold.test] = predictions
    return found[: dataset.rows]


def _fold(number: int, family: str, setting: Mapping[str, Any], data: Data) -> np.ndarray:
    rows, test = data.folds[number].train, data.folds[number].test
    model = Model.fit(family, setting, data.context, data.layout, data.block(rows), data.labels[rows])
    return model.predict(data.block(test))


def contest_of(run: Run, source: str) -> tuple[Contest, str, Mapping[str, Any]]:
    """(what the run was told, the family of its model, the setting of that), from its config.json."""
    options, family, setting = (run.config.get(name) for name in ("options", "model", "settings"))
    if not isinstance(options, dict) or not isinstance(family, str) or not isinstance(setting, dict):
        raise bad_data(f"{run.path}: config.json does not say how the model was made")
    if family not in BY_NAME:
        raise bad_data(f"{run.path}: no family of models is called {family!r:.40}")
    try:
        reading, splitting = Reading(**options["reading"]), Splitting(**options["splitting"])
        told = {name: options[name] for name in ("folds", "metric", "seed", "balance")}
        contest = Contest(source, reading=reading, splitting=splitting, **told)
    except (KeyError, TypeError, DlkitError) as failure:
        known = ", ".join(field.name for field in fields(Contest))
        raise bad_data(f"{run.path}: config.json has not the options {known}: {failure}") from None
    return contest, family, setting
