"""What a board may be sorted by, and how sure one is of a difference on it."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import norm, t

from dlkit.core.errors import DlkitError, nearest
from dlkit.data import metrics

Score = Callable[[np.ndarray, np.ndarray], float]
DRAWS = 200
"""Bootstrap draws where one validation side is all there is."""


@dataclass(frozen=True)
class Metric:
    """score  truth (N indices or values), prediction (N×K probabilities or N values) -> number
    sign   1 where more is better, else −1
    kind   how a person reads it: `result.Column.kind`
    """

    name: str
    task: str
    score: Score
    sign: int
    kind: str = "float"


def _table(truth: np.ndarray, proba: np.ndarray) -> np.ndarray:
    return metrics.confusion(truth, proba.argmax(1), proba.shape[1])


CLASSES, VALUES = "classification", "regression"
METRICS = {
    metric.name: metric
    for metric in (
        Metric("accuracy", CLASSES, lambda y, p: metrics.accuracy(y, p.argmax(1)), 1, "share"),
        Metric("balanced_accuracy", CLASSES, lambda y, p: metrics.balanced_accuracy(_table(y, p)), 1, "share"),
        Metric("f1", CLASSES, lambda y, p: metrics.per_class(_table(y, p)).macro("f1"), 1),
        Metric("auc", CLASSES, metrics.auc_ovr, 1),
        Metric("log_loss", CLASSES, lambda y, p: float(metrics.log_losses(y, p).mean()), -1),
        Metric("brier", CLASSES, metrics.brier, -1),
        Metric("rmse", VALUES, metrics.rmse, -1),
        Metric("mae", VALUES, metrics.mae, -1),
        Metric("r2", VALUES, metrics.r2, 1),
    )
}


def choose(name: str | None, task: str, balance: bool = False) -> Metric:
    """The metric asked for; else accuracy (balanced where balance is asked for) or RMSE. Not for the task: exit 2."""
    if name is None:
        name = ("balanced_accuracy" if balance else "accuracy") if task == CLASSES else "rmse"
    able = [metric.name for metric in METRICS.values() if metric.task == task]
    if name not in able:
        problem = f"is for {METRICS[name].task}, and this is {task}" if name in METRICS else "is not there"
        raise DlkitError(f"--metric {name} {problem}", nearest(name, able))
    return METRICS[name]


def resampled(metric: Metric, truth: np.ndarray, prediction: np.ndarray) -> list[float]:
    """The metric over DRAWS resamples of the rows, the same ones for every model: they can be compared in pairs."""
    rng = np.random.Generator(np.random.PCG64(0))
    return [metric.score(truth[i], prediction[i]) for i in rng.integers(0, len(truth), (DRAWS, len(truth)))]


@dataclass(frozen=True)
class Sample:
    """A model's scores: one a fold; or of one validation side the score and its resamples.

    ratio  test rows over training rows of a fold
    """

    scores: tuple[float, ...]
    ratio: float
    draws: tuple[float, ...] = ()

    @property
    def mean(self) -> float:
        return float(np.mean(self.scores))

    @property
    def error(self) -> float:
        """Standard error: s/√K over folds, as cross-validation reports it; the resamples' own spread of one side."""
        if self.draws:
            return _spread(self.draws)
        return _spread(self.scores) / math.sqrt(len(self.scores)) if len(self.scores) > 1 else math.nan

    def p_value(self, other: "Sample") -> float:
        """Two-sided p of no difference between two models on the same rows.

        Over folds by Nadeau and Bengio's corrected t (2003): folds share their training rows, so that the variance of
        the mean difference is s²·(1/K + test/train) and not s²/K. Of one side: the resampled difference over its
        standard deviation.
        """
        if self.draws and other.draws:
            differences = np.subtract(self.draws, other.draws)
            return _p(self.mean - other.mean, _spread(differences), None)
        differences = np.subtract(self.scores, other.scores)
        count = len(differences)
        if count < 2:
            return math.nan
        return _p(float(differences.mean()), _spread(differences) * math.sqrt(1 / count + self.ratio), count - 1)


def _spread(values: Sequence[float] | np.ndarray) -> float:
    return float(np.std(values, ddof=1))


def _p(difference: float, error: float, freedom: int | None) -> float:
    if not math.isfinite(difference) or not math.isfinite(error):
        return math.nan
    if error == 0:
        return 1.0 if difference == 0 else 0.0
    size = abs(difference) / error
    return float(2 * (norm.sf(size) if freedom is None else t.sf(size, freedom)))
