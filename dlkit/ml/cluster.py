"""K-means and Gaussian mixtures for a range of numbers of clusters, and which of them to believe (S061, S066)."""

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.cluster import KMeans, MiniBatchKMeans
from sklearn.metrics import pairwise_distances, silhouette_score
from sklearn.mixture import GaussianMixture

from dlkit.core.clustering import Clustering
from dlkit.core.errors import bad_data
from dlkit.data import metrics
from dlkit.ml.engine import Engine

MINI_BATCH_ROWS, EM_ROWS, SAMPLE = 100_000, 50_000, 3000
"""Rows beyond which K-means takes mini-batches, that EM is fitted on at most, that the silhouette is measured on."""
RIDGE = 1e-6
"""Added to every variance, as scikit-learn does. A fit that fails even so is tried again with more."""
RIDGES = (RIDGE, 1e-4, 1e-2)


@dataclass(frozen=True)
class Job:
    """One model to fit: `form` is a mixture's covariance, and empty for K-means."""

    k: int
    form: str = ""

    @property
    def model(self) -> str:
        return f"em-{self.form}" if self.form else "kmeans"


@dataclass(frozen=True, eq=False)
class Fit:
    """A fitted model.

    bic         of the rows that it was fitted on, smaller is better; None for K-means
    inertia     Σ squared distance to the nearest centre; None for EM
    silhouette  mean over a sample of rows; None where all are in one cluster
    collapsed   components whose variance in some direction is nothing but the ridge: their likelihood says nothing
    failed      why there is no model
    """

    job: Job
    estimator: Any = None
    silhouette: float | None = None
    bic: float | None = None
    inertia: float | None = None
    ridge: float = RIDGE
    collapsed: int = 0
    failed: str = ""

    @property
    def is_sound(self) -> bool:
        return not self.failed and not self.collapsed


@dataclass(frozen=True, eq=False)
class Sample:
    """Rows that are compared pair by pair, and their S×S distances."""

    rows: np.ndarray
    distances: np.ndarray


def make_sample(x: np.ndarray, seed: int) -> Sample:
    rows = np.arange(len(x))
    if len(x) > SAMPLE:
        rows = np.sort(np.random.Generator(np.random.PCG64(seed)).choice(len(x), SAMPLE, replace=False))
    return Sample(rows, pairwise_distances(x[rows]))


def jobs(options: Clustering, x: np.ndarray) -> list[Job]:
    """Every model and number of clusters; for EM also one component, as what clusters have to beat."""
    distinct = len(np.unique(x[:: max(len(x) // SAMPLE, 1)], axis=0))
    ks = [k for k in options.ks if k < len(x) and k <= distinct]
    if not ks:
        raise bad_data(f"{options.data}: {distinct} different rows are too few for {min(options.ks)} clusters")
    found = [Job(k) for k in ks] if "kmeans" in options.models else []
    if "em" in options.models:
        found += [Job(k, form) for form in options.covariances for k in (1, *ks)]
    return found


def search(engine: Engine, todo: Sequence[Job], x: np.ndarray, sample: Sample, options: Clustering) -> Iterator[Fit]:
    """The fits, in the order of `todo`."""
    return engine.map(fit, todo, x, sample, options.starts, options.seed)


def fit(job: Job, x: np.ndarray, sample: Sample | None, starts: int, seed: int) -> Fit:
    with warnings.catch_warnings():
        # Not converged, fewer distinct points than clusters: the criteria tell.
        warnings.simplefilter("ignore")
        found = _mixture(job, x, starts, seed) if job.form else _kmeans(job, x, starts, seed)
        if sample is None or found.failed or job.k == 1:
            return found
        return Fit(**{**vars(found), "silhouette": _silhouette(found.estimator, x, sample)})


def _kmeans(job: Job, x: np.ndarray, starts: int, seed: int) -> Fit:
    kind: Any = KMeans
    settings: dict[str, Any] = {"n_clusters": job.k, "n_init": starts, "random_state": seed}
    if len(x) > MINI_BATCH_ROWS:
        kind, settings = MiniBatchKMeans, {**settings, "batch_size": 4096}
    model = kind(**settings).fit(x)
    return Fit(job, model, inertia=float(model.inertia_))


def _mixture(job: Job, x: np.ndarray, starts: int, seed: int) -> Fit:
    rows = x
    if len(x) > EM_ROWS:
        rows = x[np.sort(np.random.Generator(np.random.PCG64(seed)).choice(len(x), EM_ROWS, replace=False))]
    # Each begins from a K-means of its own: a third as many find the same.
    beginnings = -(-starts // 3) if job.k > 1 else 1
    for ridge in RIDGES:
        settings = {"n_init": beginnings, "random_state": seed, "reg_covar": ridge}
        model = GaussianMixture(job.k, covariance_type=job.form, **settings)
        try:
            model.fit(rows)
        except ValueError as failure:  # a covariance that has no inverse even so
            reason = str(failure).split(".")[0]
            continue
        return Fit(job, model, bic=float(model.bic(rows)), ridge=ridge, collapsed=_collapsed(model, ridge))
    return Fit(job, failed=reason, ridge=ridge)


def _collapsed(model: GaussianMixture, ridge: float) -> int:
    """Components with a direction in which their rows vary by less than the ridge."""
    covariances, form = model.covariances_, model.covariance_type
    if form == "full":
        least = np.linalg.eigvalsh(covariances)[:, 0]
    elif form == "tied":
        least = np.linalg.eigvalsh(covariances)[:1]
    else:
        least = covariances.min(1) if form == "diag" else covariances
    return int((least <= 2 * ridge).sum())


def _silhouette(estimator: Any, x: np.ndarray, sample: Sample) -> float | None:
    labels = estimator.predict(x[sample.rows])
    if not 1 < len(np.unique(labels)) < len(labels):
        return None
    return float(silhouette_score(sample.distances, labels, metric="precomputed"))


# --- which to believe ------------------------------------------------------------------------------------------------


def choose(fits: Sequence[Fit], criterion: str) -> Fit | None:
    """The best by BIC, or by silhouette; of models whose covariances collapsed only where there is no other."""
    known = [fit for fit in fits if fit.job.k > 1 and not fit.failed and getattr(fit, criterion) is not None]
    known = [fit for fit in known if fit.is_sound] or known
    sign = -1 if criterion == "bic" else 1
    return max(known, key=lambda fit: sign * getattr(fit, criterion), default=None)


@dataclass(frozen=True, eq=False)
class Stability:
    """How well clusters come back on bootstrap samples: adjusted Rand index over all rows, mean and deviation; and for
    each cluster the mean Jaccard overlap with the one most like it (Hennig 2007)."""

    mean: float
    std: float
    each: np.ndarray


def stability(engine: Engine, found: Fit, x: np.ndarray, resamples: int, seed: int) -> Stability:
    rows = make_rows(len(x), seed)
    labels = found.estimator.predict(x[rows])
    results = list(engine.map(_again, range(resamples), x[rows], labels, found.job, seed))
    scores, overlaps = zip(*results, strict=True)
    return Stability(float(np.mean(scores)), float(np.std(scores)), np.mean(overlaps, axis=0))


def make_rows(count: int, seed: int, most: int = 10_000) -> np.ndarray:
    """All rows, or a sample of them that is enough to see whether clusters come back."""
    if count <= most:
        return np.arange(count)
    return np.sort(np.random.Generator(np.random.PCG64([seed, 1])).choice(count, most, replace=False))


def _again(draw: int, x: np.ndarray, labels: np.ndarray, job: Job, seed: int) -> tuple[float, np.ndarray]:
    rng = np.random.Generator(np.random.PCG64([seed, draw]))
    again = fit(job, x[rng.integers(0, len(x), len(x))], None, 3, seed + draw)
    if again.failed:
        return 0.0, np.zeros(job.k)
    new = again.estimator.predict(x)
    table = np.bincount(labels * job.k + new, minlength=job.k * job.k).reshape(job.k, job.k)
    union = table.sum(1, keepdims=True) + table.sum(0, keepdims=True) - table
    overlap = np.divide(table, union, out=np.zeros(table.shape), where=union > 0)
    return metrics.adjusted_rand(labels, new), overlap.max(1)


def by_size(found: Fit, x: np.ndarray) -> None:
    """Number the clusters by their size, the largest first: a fit's own numbers are an accident."""
    model, k = found.estimator, found.job.k
    order = np.argsort(-np.bincount(model.predict(x), minlength=k), kind="stable")
    if isinstance(model, GaussianMixture):
        names = ["weights_", "means_"]
        if model.covariance_type != "tied":
            names += ["covariances_", "precisions_", "precisions_cholesky_"]
        for name in names:
            setattr(model, name, getattr(model, name)[order])
        return
    model.cluster_centers_ = np.ascontiguousarray(model.cluster_centers_[order])
    place = np.empty(k, np.int32)
    place[order] = np.arange(k, dtype=np.int32)
    model.labels_ = place[model.labels_]
