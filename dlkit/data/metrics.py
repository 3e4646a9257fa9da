"""Every metric of the project, one definition each, in numpy alone; compared with scikit-learn's in the tests.

Everywhere: `truth` is N int64 class indices, `proba` N×K float64 rows that sum to 1, `predicted` N indices. A metric
that the rows do not define (AUC of one class, R² of one value) is NaN, never a made-up number.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

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

    support, predicted   rows of the class in the truth, and among the predictions
    """

    precision: np.ndarray
    recall: np.ndarray
    f1: np.ndarray
    support: np.ndarray
    predicted: np.ndarray

    def macro(self, name: str) -> float:
        """Mean over the classes that are there, in the truth or in the predictions."""
        return float(np.mean(getattr(self, name)[self.support + self.predicted > 0]))

    def weighted(self, name: str) -> float:
        """Mean over the rows' classes: weighted by support."""
        return float(np.average(getattr(self, name), weights=self.support))


def per_class(table: np.ndarray) -> PerClass:
    """Precision, recall and F1 of each class from a confusion table."""
    hits, predicted, support = np.diag(table), table.sum(0), table.sum(1)
    precision, recall, f1 = _ratio(hits, predicted), _ratio(hits, support), _ratio(2 * hits, predicted + support)
    return PerClass(precision, recall, f1, support, predicted)


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.asarray(np.divide(part, whole, out=np.zeros(len(part)), where=whole > 0))


def ranks(values: np.ndarray) -> np.ndarray:
    """Ranks from 1, ties sharing their mean rank."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return np.asarray((last - (counts - 1) / 2)[inverse])


def auc(truth: np.ndarray, score: np.ndarray) -> float:
    """Area under the ROC curve: P(score of a positive > of a negative), ties half (Mann & Whitney 1947)."""
    return auc_of_counts(truth, score)(np.ones(len(truth)))


def auc_of_counts(truth: np.ndarray, score: np.ndarray) -> Callable[[np.ndarray], float]:
    """The AUC as a function of how often each row is there: sorted once, for many resamples."""
    _, tie = np.unique(score, return_inverse=True)
    positive = truth.astype(bool)

    def value(counts: np.ndarray) -> float:
        above, below = (np.bincount(tie, counts * side, tie.max() + 1) for side in (positive, ~positive))
        pairs = above.sum() * below.sum()
        wins = above * (np.cumsum(below) - below / 2)
        return float(wins.sum() / pairs) if pairs else float("nan")

    return value


def placements(truth: np.ndarray, score: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(of each positive row the share of negatives below it, of each negative the share of positives above it), ties
    half: the mean of either is the AUC (DeLong et al. 1988, by ranks: Sun & Xu 2014)."""
    positive = truth.astype(bool)
    n, m = int(positive.sum()), int((~positive).sum())
    together = ranks(score)
    over = (together[positive] - ranks(score[positive])) / m
    return over, 1 - (together[~positive] - ranks(score[~positive])) / n


def auc_error(truth: np.ndarray, score: np.ndarray) -> float:
    """Standard error of the AUC for rows that are independent (DeLong et al. 1988); NaN where a side has one row."""
    n = int(truth.astype(bool).sum())
    if min(n, len(truth) - n) < 2:
        return float("nan")
    return float(np.sqrt(sum(part.var(ddof=1) / len(part) for part in placements(truth, score))))


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


def brier_errors(truth: np.ndarray, proba: np.ndarray) -> np.ndarray:
    """N float64: Σ_k (p_k − y_k)², halved for two classes, so that it lies in 0 … 1 there (Brier 1950)."""
    errors = ((proba - np.eye(proba.shape[1])[truth]) ** 2).sum(1)
    return np.asarray(errors / (2 if proba.shape[1] == 2 else 1))


def brier(truth: np.ndarray, proba: np.ndarray) -> float:
    """Mean squared error of the probabilities, as scikit-learn's brier_score_loss."""
    return float(brier_errors(truth, proba).mean())


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


# --- several labels --------------------------------------------------------------------------------------------------
# `truth` and `predicted` are N×K bool, `proba` N×K float64: of each label the probability that a row has it.


def per_label(truth: np.ndarray, predicted: np.ndarray, counts: np.ndarray | None = None) -> PerClass:
    """Precision, recall and F1 of each label; support and predicted are the rows that have it, or are said to.

    counts  N: how often each row is there
    """
    counts = np.ones(len(truth)) if counts is None else counts
    hits, support, said = (counts @ rows for rows in (truth & predicted, truth, predicted))
    return PerClass(_ratio(hits, said), _ratio(hits, support), _ratio(2 * hits, said + support), support, said)


def micro(each: PerClass) -> tuple[float, float, float]:
    """(precision, recall, F1) over the cells of all labels together, as of one label; 0/0 is 0."""
    hits, said, support = (each.recall * each.support).sum(), each.predicted.sum(), each.support.sum()
    precision, recall, f1 = _ratio(np.array([hits, hits, 2 * hits]), np.array([said, support, said + support]))
    return float(precision), float(recall), float(f1)


def average_precision(truth: np.ndarray, score: np.ndarray) -> float:
    """Σ (Rₙ − Rₙ₋₁)·Pₙ over the thresholds, highest first (as scikit-learn's); NaN where no row is positive."""
    _, tie = np.unique(-score, return_inverse=True)
    gained = np.bincount(tie, truth)
    hits, said = np.cumsum(gained), np.cumsum(np.bincount(tie))
    return float((gained * hits / said).sum() / hits[-1]) if hits[-1] else float("nan")


def label_log_losses(truth: np.ndarray, proba: np.ndarray) -> np.ndarray:
    """N×K float64: −ln of what a label's truth was given, cut off as in `log_losses`."""
    eps = np.finfo(np.float64).eps
    return np.asarray(-np.log(np.clip(np.where(truth, proba, 1 - proba), eps, 1 - eps)))


def label_calibration_error(truth: np.ndarray, proba: np.ndarray, bins: int = BINS) -> float:
    """Mean over the labels of the calibration error of each as two classes."""
    each = (np.column_stack([1 - p, p]) for p in proba.T)
    return float(np.mean([calibration_error(t.astype(int), p, bins) for t, p in zip(truth.T, each, strict=True)]))


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


# --- ranking ---------------------------------------------------------------------------------------------------------

GAINS: dict[str, Callable[[np.ndarray], np.ndarray]] = {"linear": np.asarray, "exponential": lambda rel: 2.0**rel - 1}
"""What a relevance is worth: itself (Järvelin & Kekäläinen 2002), or 2^rel − 1 (Burges et al. 2005)."""


def ndcg(relevance: np.ndarray, score: np.ndarray, gain: str = "linear", at: int | None = None) -> float:
    """DCG over the best DCG of one query's documents, the discount being log₂(rank + 1), up to rank `at`.

    Documents of one score share the mean gain of their ranks (McSherry & Najork 2008), as in scikit-learn's ndcg_score.
    0 where no document is relevant.
    """
    gains = GAINS[gain](np.asarray(relevance, np.float64))
    discount = 1 / np.log2(np.arange(len(gains)) + 2)
    discount[at if at is not None else len(gains) :] = 0
    best = float(np.sort(gains)[::-1] @ discount)
    _, tie, counts = np.unique(-score, return_inverse=True, return_counts=True)
    stops = np.cumsum(counts)
    total = np.concatenate([[0.0], np.cumsum(discount)])
    shares = (total[stops] - total[stops - counts]) / counts
    return float(np.bincount(tie, gains) @ shares) / best if best > 0 else 0.0


def reciprocal_rank(relevance: np.ndarray, score: np.ndarray) -> float:
    """1 / rank of the first relevant document (relevance > 0); among documents of one score, what is expected of a
    random order. 0 where none is relevant."""
    relevant = np.asarray(relevance) > 0
    if not relevant.any():
        return 0.0
    top = score[relevant].max()
    before, tied = int((score > top).sum()), int((score == top).sum())
    right = int((relevant & (score == top)).sum())
    places = np.arange(tied - right + 1)  # how many of the tied may come before the first relevant one
    misses = np.cumprod(np.concatenate([[1.0], (tied - right - places[:-1]) / (tied - places[:-1])]))
    return float((misses * right / (tied - places) / (before + places + 1)).sum())


# --- images, as they look --------------------------------------------------------------------------------------------


def psnr(truth: np.ndarray, other: np.ndarray, data_range: float) -> float:
    """10·log₁₀(range² / mean squared error), decibels; infinite for equal images."""
    error = float(np.mean((truth.astype(np.float64) - other.astype(np.float64)) ** 2))
    return float(10 * np.log10(data_range**2 / error)) if error else float("inf")


def ssim(truth: np.ndarray, other: np.ndarray, data_range: float, window: str = "gaussian") -> float:
    """Structural similarity of two C×H×W images, mean over channels and positions (Wang et al. 2004).

    K₁ = .01, K₂ = .03. `gaussian`: their window, σ = 1.5, 11×11; `uniform`: 7×7 with sample covariance, which is what
    scikit-image does without being asked. Only windows that lie within the image count.
    """
    weights = _window(window)
    bessel = len(weights) ** 2 / (len(weights) ** 2 - 1) if window == "uniform" else 1.0
    x, y = truth.astype(np.float64), other.astype(np.float64)
    mx, my, xx, yy, xy = (_smooth(image, weights) for image in (x, y, x * x, y * y, x * y))
    vx, vy, vxy = ((a - b) * bessel for a, b in ((xx, mx * mx), (yy, my * my), (xy, mx * my)))
    c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    similarity = (2 * mx * my + c1) * (2 * vxy + c2) / ((mx * mx + my * my + c1) * (vx + vy + c2))
    return float(similarity.mean())


def _window(name: str) -> np.ndarray:
    if name == "uniform":
        return np.full(7, 1 / 7)
    weights = np.exp(-0.5 * (np.arange(-5, 6) / 1.5) ** 2)
    return np.asarray(weights / weights.sum())


def _smooth(images: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The two-dimensional window is the product of its one-dimensional ones."""
    for axis in (-2, -1):
        images = np.lib.stride_tricks.sliding_window_view(images, len(weights), axis) @ weights
    return images


# --- images, as a network sees them ----------------------------------------------------------------------------------


def frechet_distance(first: np.ndarray, second: np.ndarray) -> float:
    """‖μ₁ − μ₂‖² + tr(Σ₁ + Σ₂ − 2(Σ₁Σ₂)^½) of two sets of features, N×D and M×D (Heusel et al. 2017: FID).

    (Σ₁Σ₂)^½ has the trace of (Σ₁^½ Σ₂ Σ₁^½)^½, which is symmetric: no complex roots, no matrix square root.
    """
    (m1, s1), (m2, s2) = ((f.mean(0), np.atleast_2d(np.cov(f, rowvar=False))) for f in (first, second))
    values, vectors = np.linalg.eigh(s1)
    root = (vectors * np.sqrt(np.clip(values, 0, None))) @ vectors.T
    shared = np.sqrt(np.clip(np.linalg.eigvalsh(root @ s2 @ root), 0, None)).sum()
    return float(((m1 - m2) ** 2).sum() + np.trace(s1) + np.trace(s2) - 2 * shared)


def inception_score(proba: np.ndarray, splits: int = 1) -> tuple[float, float]:
    """exp(mean over rows of KL(p(y|x) ‖ p(y))): mean and deviation over `splits` parts (Salimans et al. 2016)."""
    scores = []
    for part in np.array_split(proba, splits):
        with np.errstate(divide="ignore", invalid="ignore"):
            terms = np.where(part > 0, part * np.log(part / part.mean(0)), 0.0)
        scores.append(np.exp(terms.sum(1).mean()))
    return float(np.mean(scores)), float(np.std(scores))


# --- how sure --------------------------------------------------------------------------------------------------------


def bootstrap(
    metric: Callable[[np.ndarray], Any], rows: int, draws: int = 1000, level: float = 0.95, seed: int = 0
) -> tuple[Any, Any]:
    """Percentile interval (low, high) of `metric`, a function of row indices, over rows drawn with replacement.

    The metric may be an array: so is each end then. Draws in which it is not defined are left out; an end is NaN where
    that is most of them (Efron 1979).
    """
    rng = np.random.Generator(np.random.PCG64(seed))
    values = np.array([metric(rng.integers(0, rows, rows)) for _ in range(draws)], np.float64)
    ends = np.full((2, *values.shape[1:]), np.nan)
    enough = np.isfinite(values).sum(0) >= max(draws / 2, 1)
    values = np.where(np.isfinite(values), values, np.nan)
    if np.any(enough):
        ends[..., enough] = np.nanquantile(values[..., enough], [(1 - level) / 2, (1 + level) / 2], axis=0)
    return (float(ends[0]), float(ends[1])) if values.ndim == 1 else (ends[0], ends[1])
