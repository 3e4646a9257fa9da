"""Two predictors on the same labelled rows: their scores, and whether the difference is more than chance."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dlkit.core.errors import DlkitError
from dlkit.core.reading import MULTI_LABEL
from dlkit.data import metrics
from dlkit.data.dataset import Dataset
from dlkit.data.predictor import Predictor
from dlkit.data.schema import Schema


@dataclass(frozen=True)
class Rival:
    """A run to compare with, and what makes a predictor of it, given the training rows.

    config  that of its network, or of the one that it reads rows through; of a plain baseline its own
    """

    path: str
    config: Mapping[str, Any]
    schema: Mapping[str, Any]
    predictor: Callable[[Dataset], Predictor]

    def check(self, rows: Dataset) -> None:
        """DlkitError where it predicts something else than the targets of `rows`."""
        task = self.schema.get("task")
        theirs = _targets(str(task), self.schema.get("target"), self.schema.get("classes", ()))
        ours = _targets(rows.task, rows.target, rows.classes if rows.task == MULTI_LABEL else ())
        if (task, theirs) != (rows.task, ours):
            raise DlkitError(f"--against {self.path}: it predicts {theirs} ({task}), and this is {ours} ({rows.task})")
        Schema.from_json(self.schema).inputs(rows, np.arange(0))  # columns or images that it cannot read

    def knows(self, fingerprint: str, options: Mapping[str, Any]) -> bool:
        """Whether a network was trained on the same data divided in another way: then it has seen rows of this side."""
        said = self.config.get("options")
        same = isinstance(said, Mapping) and all(said.get(name) == value for name, value in options.items())
        return self.config.get("command") == "train" and self.config.get("fingerprint") == fingerprint and not same


@dataclass(frozen=True)
class Comparison:
    """Accuracy, log loss or RMSE of both; `z` is the mean difference of the rows' own errors over its standard error.

    Positive where the first errs less. Rows are paired, so what is hard for both does not count (McNemar's idea).
    """

    metric: str
    ours: float
    theirs: float
    z: float

    @property
    def sentence(self) -> str:
        apart = "better" if self.z > 0 else "worse"
        return f"{apart}, by more than chance" if abs(self.z) > 2 else "no difference beyond chance"


def compare(rows: Dataset, ours: Predictor, theirs: Predictor) -> Comparison:
    """Both on `rows`, whose target they predict."""
    metric = {"classification": "accuracy", MULTI_LABEL: "log_loss"}.get(ours.task, "rmse")
    if metric == "accuracy":
        errors = [_wrong(rows, one) for one in (ours, theirs)]
        scores = [1 - float(e.mean()) for e in errors]
    elif metric == "log_loss":
        errors = [_surprise(rows, one) for one in (ours, theirs)]
        scores = [float(e.mean()) for e in errors]
    else:
        predicted = [one.predict(rows) for one in (ours, theirs)]
        errors = [(values - rows.labels) ** 2 for values in predicted]
        scores = [metrics.rmse(rows.labels, values) for values in predicted]
    difference = errors[1] - errors[0]
    error = float(difference.std()) / len(difference) ** 0.5
    mean = float(difference.mean())
    # One difference in every row has no error at all.
    z = mean / error if error else math.copysign(math.inf, mean) if mean else 0.0
    return Comparison(metric, scores[0], scores[1], z)


def _targets(task: str, target: str | None, classes: Sequence[str]) -> str:
    """What is predicted; several labels in one order, whatever theirs is."""
    return ", ".join(map(repr, sorted(classes))) if task == MULTI_LABEL else repr(target)


def _surprise(rows: Dataset, one: Predictor) -> np.ndarray:
    """N float64: the log loss of a row, mean over its labels, which are found by name."""
    order = [one.schema.classes.index(name) for name in rows.classes]
    return np.asarray(metrics.label_log_losses(rows.labels, one.predict(rows)[:, order]).mean(1))


def _wrong(rows: Dataset, one: Predictor) -> np.ndarray:
    """N float64, 1 where the class is another than the true one. Classes are compared by name."""
    names = np.array(one.schema.classes)
    return np.asarray(names[one.predict(rows).argmax(1)] != np.array(rows.classes)[rows.labels], np.float64)
