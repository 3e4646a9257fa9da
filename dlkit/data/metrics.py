"""Every metric of the project, one definition each, in numpy alone; compared with scikit-learn's in the tests.

Everywhere: `truth` is N int64 class indices, `proba` N×K float64 rows that sum to 1, `predicted` N indices. A metric
that the rows do not define (AUC of one class, R² of one value) is NaN, never a made-up number.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

BINS = 15
"""Bins of equal width of the calibration error."""


# --- classification --------------------------------------------------------------------------------------------------


def confusion(truth: np.ndarray, predicted: np.ndarray, classes: int) -> np.ndarray:
    """K×K int64: rows are what is true, columns what is predicted."""
    return np.bincount(truth * classes + predicted, minlength=classes * classes).reshape(classes, classes)


def accuracy(truth: np.ndarray, predicted: np.ndarray) -> float:
    return float(np.mean(truth == predicted))


def balanced_accuracy(table: np.ndarray) -> float:
    """Mean recall over the classes that the truth has, from a confusion table (as scikit-learn's)."""
    support = table.sum(1)
    there = support > 0
    return float(np.mean(np.diag(table)[there] / support[there])) if there.any() else float("nan")


@dataclass(frozen=True)
class PerClass:
    """K each. Where nothing is predicted or nothing is true, 0/0 is 0 (`zero_division=0` of scikit-learn).

    support  rows of the class in the truth; `there` is True where truth or predictions have it
    """

    precision: np.ndarray
    recall: np.ndarray
    f1: np.ndarray
    support: np.ndarray
    there: np.ndarray

    def macro(self, name: str) -> float:
        """Mean over the classes that are there, in the truth or in the predictions."""
        return float(np.mean(getattr(self, name)[self.there]))

    def weighted(self, name: str) -> float:
        """Mean over the rows' classes: weighted by support."""
        return float(np.average(getattr(self, name), weights=self.support))


def per_class(table: np.ndarray) -> PerClass:
    """Precision, recall and F1 of each class from a confusion table."""
    hits, predicted, support = np.diag(table), table.sum(0), table.sum(1)
    precision, recall, f1 = _ratio(hits, predicted), _ratio(hits, support), _ratio(2 * hits, predicted + support)
    return PerClass(precision, recall, f1, support, predicted + support > 0)


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.asarray(np.divide(part, whole, out=np.zeros(len(part)), where=whole > 0))


def ranks(values: np.ndarray) -> np.ndarray:
    """Ranks from 1, ties sharing their mean rank."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return np.asarray((last - (counts - 1) / 2)[inverse])


def auc(truth: np.ndarray, score: np.ndarray) -> float:
    """Area under the ROC curve: P(score of a positive > of a negative), ties half (Mann & Whitney 1947)."""
    positive = truth.astype(bool)
    n, m = int(positive.sum()), int((~positive).sum())
    if not n or not m:
        return float("nan")
    return float((ranks(score)[positive].sum() - n * (n + 1) / 2) / (n * m))


def auc_error(truth: np.ndarray, score: np.ndarray) -> float:
    """Standard error of the AUC for rows that are independent (DeLong et al. 1988, by ranks: Sun & Xu 2014)."""
    positive = truth.astype(bool)
    n, m = int(positive.sum()), int((~positive).sum())
    if min(n, m) < 2:
        return float("nan")
    together = ranks(score)
    over = (together[positive] - ranks(score[positive])) / m
    under = 1 - (together[~positive] - ranks(score[~positive])) / n
    return float(np.sqrt(over.var(ddof=1) / n + under.var(ddof=1) / m))


def auc_ovr(truth: np.ndarray, proba: np.ndarray) -> float:
    """AUC of two classes (the second is the positive one), or the mean over classes of one against the rest.

    NaN where a class has no row: leaving it out would make another metric of the same name.
    """
    if proba.shape[1] == 2:
        return auc(truth == 1, proba[:, 1])
    return float(np.mean([auc(truth == k, proba[:, k]) for k in range(proba.shape[1])]))


def log_losses(truth: np.ndarray, proba: np.ndarray) -> np.ndarray:
    """N float64: −ln p of the true class, p cut off at the float's epsilon (as scikit-learn's log_loss)."""
    eps = np.finfo(np.float64).eps
    return np.asarray(-np.log(np.clip(proba[np.arange(len(truth)), truth], eps, 1 - eps)))


def brier(truth: np.ndarray, proba: np.ndarray) -> float:
    """Mean squared error of the probabilities (Brier 1950): Σ_k (p_k − y_k)², halved for two classes (0 … 1)."""
    errors = ((proba - np.eye(proba.shape[1])[truth]) ** 2).sum(1)
    return float(errors.mean() / (2 if proba.shape[1] == 2 else 1))


def calibration_error(truth: np.ndarray, proba: np.ndarray, bins: int = BINS) -> float:
    """ECE: mean over bins of |accuracy − confidence| of the top class, weighted by rows (Guo et al. 2017, eq. 3)."""
    confidence, right = proba.max(1), proba.argmax(1) == truth
    bin_of = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)  # bins are (lower, upper]
    gaps = np.bincount(bin_of, right - confidence, bins)
    return float(np.abs(gaps).sum() / len(truth))


def perplexity(log_probabilities: np.ndarray) -> float:
    """exp(mean negative log-likelihood), natural logarithms."""
    with np.errstate(over="ignore"):
        return float(np.exp(-np.mean(log_probabilities)))


# --- regression ------------------------------------------------------------------------------------------------------


def mae(truth: np.ndarray, predicted: np.ndarray) -> float:
    return float(np.mean(np.abs(truth - predicted)))


def rmse(truth: np.ndarray, predicted: np.ndarray) -> float:
    return float(np.sqrt(np.mean((truth - predicted) ** 2)))


def r2(truth: np.ndarray, predicted: np.ndarray) -> float:
    """1 − Σ(y − ŷ)² / Σ(y − ȳ)²; NaN where the truth is one value."""
    spread = float(((truth - truth.mean()) ** 2).sum())
    return 1 - float(((truth - predicted) ** 2).sum()) / spread if spread > 0 else float("nan")


# --- clusters against classes ----------------------------------------------------------------------------------------


def adjusted_rand(first: np.ndarray, second: np.ndarray) -> float:
    """Rand index of two labellings, adjusted for chance (Hubert & Arabie 1985): 1 equal, 0 as by chance."""
    table = _contingency(first, second)

    def pairs(counts: np.ndarray) -> float:
        return float((counts.astype(np.float64) * (counts - 1) / 2).sum())

    both, a, b, every = pairs(table), pairs(table.sum(1)), pairs(table.sum(0)), pairs(np.array([len(first)]))
    if a == b == both or not every:
        return 1.0
    expected = a * b / every
    return (both - expected) / ((a + b) / 2 - expected)


def normalised_mutual_info(first: np.ndarray, second: np.ndarray) -> float:
    """Mutual information of two labellings over the mean of their entropies."""
    table = _contingency(first, second) / len(first)
    a, b = table.sum(1), table.sum(0)
    there = table > 0
    shared = float((table[there] * np.log((table / np.outer(a, b))[there])).sum())
    mean = (_entropy(a) + _entropy(b)) / 2
    return min(max(shared / mean, 0.0), 1.0) if mean > 0 else 1.0


def _contingency(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    (a, x), (b, y) = (np.unique(labels, return_inverse=True) for labels in (first, second))
    return np.bincount(x * len(b) + y, minlength=len(a) * len(b)).reshape(len(a), len(b))


def _entropy(shares: np.ndarray) -> float:
    there = shares[shares > 0]
    return float(-(there * np.log(there)).sum())


# --- how sure --------------------------------------------------------------------------------------------------------


def bootstrap(
    metric: Callable[[np.ndarray], float], rows: int, draws: int = 1000, level: float = 0.95, seed: int = 0
) -> tuple[float, float]:
    """Percentile interval of `metric`, a function of row indices, over rows drawn with replacement (Efron 1979).

    Draws in which the metric is not defined are left out; NaN where that is most of them.
    """
    rng = np.random.Generator(np.random.PCG64(seed))
    values = np.array([metric(rng.integers(0, rows, rows)) for _ in range(draws)])
    values = values[np.isfinite(values)]
    if len(values) < draws / 2:
        return float("nan"), float("nan")
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
