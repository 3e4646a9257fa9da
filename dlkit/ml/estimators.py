"""The few models that scikit-learn does not have as such, each put together from its own."""

from typing import Any

import numpy as np
import scipy.sparse as sp
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, logsumexp, softmax
from sklearn.base import BaseEstimator, ClassifierMixin, clone
from sklearn.cluster import KMeans
from sklearn.kernel_approximation import Nystroem
from sklearn.linear_model import Ridge
from sklearn.mixture import GaussianMixture
from sklearn.naive_bayes import CategoricalNB, GaussianNB, MultinomialNB
from sklearn.svm import SVC, SVR, LinearSVC, LinearSVR

# Rows that a margin's temperature is learned on, and that it is fitted on to learn it.
TEMPERED_ROWS = 1000


class MixedBayes(ClassifierMixin, BaseEstimator):
    """Naive Bayes over columns of several kinds: Gaussian numbers, categorical codes, multinomial words (S044, S060).

    log P(c|x) = log P(c) + Σ log p(number|c) + Σ log P(code|c) + Σ word·log P(word|c) + const: the columns are
    independent given the class. `parts` is how many columns of X are numbers, codes (from 0) and words, in that order.
    """

    def __init__(self, parts: tuple[int, int, int] = (0, 0, 0), smoothing: float = 1e-9, alpha: float = 1.0) -> None:
        self.parts, self.smoothing, self.alpha = parts, smoothing, alpha

    def fit(self, x: Any, y: np.ndarray) -> "MixedBayes":
        self.classes_, counts = np.unique(y, return_counts=True)
        self.log_prior_ = np.log(counts / counts.sum())
        number, code, word = self._split(x)
        self.gaussian_ = GaussianNB(var_smoothing=self.smoothing).fit(number, y) if number.shape[1] else None
        self.words_ = MultinomialNB(alpha=self.alpha).fit(word, y) if word.shape[1] else None
        self.codes_ = None
        if code.shape[1]:
            self.largest_ = code.max(0)
            self.codes_ = CategoricalNB(alpha=self.alpha, min_categories=self.largest_.astype(int) + 1).fit(code, y)
        return self

    def predict_proba(self, x: Any) -> np.ndarray:
        number, code, word = self._split(x)
        total = np.tile(self.log_prior_, (x.shape[0], 1))
        if self.codes_ is not None:
            code = np.where(code > self.largest_, 0, code)
        for model, columns in ((self.gaussian_, number), (self.codes_, code), (self.words_, word)):
            if model is not None:  # each counts the prior once: it is added once
                total += model.predict_joint_log_proba(columns) - self.log_prior_
        return softmax(total, axis=1)

    def _split(self, x: Any) -> tuple[np.ndarray, np.ndarray, Any]:
        a, b, _ = np.cumsum(self.parts)
        number, code, word = x[:, :a], x[:, a:b], x[:, b:]
        dense = [part.toarray() if sp.issparse(part) else part for part in (number, code)]
        return dense[0], dense[1], word


class Density(ClassifierMixin, BaseEstimator):
    """A mixture fitted to each class; Bayes' rule turns the densities into probabilities (S061, S066).

    kind  em      Gaussian mixture by expectation maximisation, `covariance` full, tied, diag or spherical
          kmeans  K-means: components of equal weight and one spherical variance for all classes
    """

    def __init__(self, kind: str = "em", components: int = 2, covariance: str = "diag", seed: int = 0) -> None:
        self.kind, self.components, self.covariance, self.seed = kind, components, covariance, seed

    def fit(self, x: np.ndarray, y: np.ndarray) -> "Density":
        self.classes_, counts = np.unique(y, return_counts=True)
        self.log_prior_ = np.log(counts / counts.sum())
        self.models_ = [self._model(count).fit(x[y == c]) for c, count in zip(self.classes_, counts, strict=True)]
        if self.kind == "kmeans":
            spread = sum(model.inertia_ for model in self.models_)
            self.variance_ = max(spread / x.size, np.finfo(float).tiny)
        return self

    def _model(self, rows: int) -> Any:
        components = max(min(self.components, rows), 1)
        if self.kind == "kmeans":
            return KMeans(components, n_init=3, random_state=self.seed)
        # A component needs rows to have a covariance at all; the ridge keeps a degenerate one from a density of ∞.
        components = max(min(components, rows // 4), 1)
        return GaussianMixture(components, covariance_type=self.covariance, reg_covar=1e-3, random_state=self.seed)

    def predict_proba(self, x: np.ndarray) -> np.ndarray:
        return softmax(np.column_stack([self._log_density(m, x) for m in self.models_]) + self.log_prior_, axis=1)

    def _log_density(self, model: Any, x: np.ndarray) -> np.ndarray:
        if self.kind == "em":
            return np.asarray(model.score_samples(x))
        distances = model.transform(x) ** 2
        return np.asarray(logsumexp(-distances / (2 * self.variance_), axis=1) - np.log(distances.shape[1]))


class Clusters(ClassifierMixin, BaseEstimator):
    """A fitted K-means or Gaussian mixture as a classifier: the classes are its clusters, 0, 1, … (S061, S066).

    K-means gives each row to one cluster alone; a mixture says how probable each one is.
    """

    def __init__(self, base: Any) -> None:
        self.base = base
        self.classes_ = np.arange(len(centres(base)))

    def predict_proba(self, x: Any) -> np.ndarray:
        x = np.asarray(x, np.float64)  # as it was fitted; pixels come as float32
        if isinstance(self.base, GaussianMixture):
            return np.asarray(self.base.predict_proba(x))
        return np.eye(len(self.classes_))[self.base.predict(x)]


def centres(base: Any) -> np.ndarray:
    """K×F: the means of a mixture's components, or K-means' centres."""
    return np.asarray(base.means_ if isinstance(base, GaussianMixture) else base.cluster_centers_)


class KernelMachine(BaseEstimator):
    """A support vector machine with a Gaussian (rbf) or polynomial (poly) kernel (S045-S049).

    width      multiplies scikit-learn's gamma="scale", which is 1/(F·Var X)
    landmarks  0: the kernel as it is; else the kernel's features over so many rows (Nyström), and a linear machine
    """

    def __init__(
        self,
        kernel: str = "rbf",
        cost: float = 1.0,
        width: float = 1.0,
        degree: int = 3,
        landmarks: int = 0,
        is_classifier: bool = True,
        class_weight: str | None = None,
        cache_mb: int = 300,
        seed: int = 0,
    ) -> None:
        self.kernel, self.cost, self.width, self.degree, self.landmarks = kernel, cost, width, degree, landmarks
        self.is_classifier, self.class_weight, self.cache_mb, self.seed = is_classifier, class_weight, cache_mb, seed

    def fit(self, x: Any, y: np.ndarray) -> "KernelMachine":
        shape = {"degree": self.degree, "coef0": 1.0} if self.kernel == "poly" else {}
        gamma = self.width / (x.shape[1] * _variance(x))
        self.map_ = None
        if self.landmarks:
            count = min(self.landmarks, x.shape[0])
            self.map_ = Nystroem(self.kernel, gamma=gamma, n_components=count, random_state=self.seed, **shape)
            x = self.map_.fit_transform(x)
        self.machine_ = (self._linear() if self.landmarks else self._exact(gamma, shape)).fit(x, y)
        if self.is_classifier:
            self.classes_ = self.machine_.classes_
        return self

    def _exact(self, gamma: float, shape: dict[str, Any]) -> Any:
        known = {"kernel": self.kernel, "C": self.cost, "gamma": gamma, "cache_size": self.cache_mb, **shape}
        return SVC(break_ties=True, class_weight=self.class_weight, **known) if self.is_classifier else SVR(**known)

    def _linear(self) -> Any:
        """Over landmarks; for values with the squared loss, ½‖w‖² + C·Σr², which has a closed form."""
        if self.is_classifier:
            return linear_machine(self.cost, True, self.class_weight, self.seed)
        return Ridge(1 / (2 * self.cost))

    def _seen(self, x: Any) -> Any:
        return x if self.map_ is None else self.map_.transform(x)

    def decision_function(self, x: Any) -> np.ndarray:
        return np.asarray(self.machine_.decision_function(self._seen(x)))

    def predict(self, x: Any) -> np.ndarray:
        return np.asarray(self.machine_.predict(self._seen(x)))


def linear_machine(cost: float, is_classifier: bool, class_weight: str | None, seed: int) -> Any:
    """½‖w‖² + C·Σ squared hinge loss, or ε-insensitive loss for values of unit scale."""
    if is_classifier:
        return LinearSVC(C=cost, max_iter=2000, random_state=seed, class_weight=class_weight)
    return LinearSVR(C=cost, epsilon=0.1, max_iter=2000, random_state=seed)


def _variance(x: Any) -> float:
    """Of all cells together; 1 where there is none, as scikit-learn has it."""
    if sp.issparse(x):
        return float(x.multiply(x).mean() - x.mean() ** 2) or 1.0
    return float(x.var()) or 1.0


class Tempered(ClassifierMixin, BaseEstimator):
    """Probabilities for a classifier that has margins only: softmax(margin / T), which keeps its decisions.

    T minimises the log loss on rows that a small copy of the model was not fitted on (Guo et al. 2017, §4.2).
    """

    def __init__(self, base: Any, seed: int = 0) -> None:
        self.base, self.seed = base, seed

    def fit(self, x: Any, y: np.ndarray) -> "Tempered":
        self.model_ = clone(self.base).fit(x, y)
        self.classes_ = self.model_.classes_
        self.temperature_ = self._temperature(x, y)
        return self

    def predict_proba(self, x: Any) -> np.ndarray:
        return softmax(_margins(self.model_, x) / self.temperature_, axis=1)

    def _temperature(self, x: Any, y: np.ndarray) -> float:
        order = np.random.Generator(np.random.PCG64(self.seed)).permutation(len(y))[: 3 * TEMPERED_ROWS]
        third = len(order) // 3
        held, kept = order[:third], order[third:]
        held = held[np.isin(y[held], y[kept])]
        if len(np.unique(y[kept])) < len(self.classes_) or not len(held):
            return 1.0
        margins = _margins(clone(self.base).fit(x[kept], y[kept]), x[held])
        truth = np.searchsorted(self.classes_, y[held])

        def loss(log_t: float) -> float:
            return -float(log_softmax(margins / np.exp(log_t), axis=1)[np.arange(len(truth)), truth].mean())

        return float(np.exp(minimize_scalar(loss, bounds=(-5, 5), method="bounded").x))


def _margins(model: Any, x: Any) -> np.ndarray:
    """N×K: of two classes the margin counts for the second, as its sign decides."""
    found = model.decision_function(x)
    return np.column_stack([np.zeros(len(found)), found]) if found.ndim == 1 else found
