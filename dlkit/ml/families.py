"""The families of models, their defaults, and the settings that a search may try in each."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from sklearn.compose import TransformedTargetRegressor
from sklearn.dummy import DummyClassifier, DummyRegressor
from sklearn.ensemble import (
    ExtraTreesClassifier,
    ExtraTreesRegressor,
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
    RandomForestClassifier,
    RandomForestRegressor,
)
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.neighbors import KNeighborsClassifier, KNeighborsRegressor
from sklearn.preprocessing import StandardScaler
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor

from dlkit.core.errors import DlkitError, nearest
from dlkit.ml.estimators import Density, KernelMachine, MixedBayes, Tempered, linear_machine

KERNEL_ROWS = 20_000
"""A kernel matrix of more rows than this is approximated (Williams & Seeger 2001)."""
LANDMARKS = 300
# A forest on more rows than this grows leaves of several: trees down to single rows would take gigabytes.
LEAF_ROWS = 50_000
CACHE_MB = 500

Setting = Mapping[str, Any]


@dataclass(frozen=True)
class Context:
    """What a family needs to know of the data to choose its settings.

    rows, features  of the whole data set
    """

    task: str
    rows: int
    features: int
    classes: int = 0
    balance: bool = False
    metric: str = "accuracy"
    seed: int = 0
    sparse: bool = False

    @property
    def is_classification(self) -> bool:
        return self.task == "classification"

    @property
    def approximates(self) -> bool:
        return self.rows > KERNEL_ROWS


@dataclass(frozen=True)
class Family:
    """A kind of model.

    view      what it eats: scaled, dense, plain, native or apart (`features.Features`)
    make      setting, context -> estimator
    settings  context -> settings to try, the default first
    growth    fit time grows as rows to this power
    slow      predict time grows with the training rows
    weighs    takes class weights; others get their rows resampled under --balance
    bytes     rows, columns, context -> memory of a fit beside its matrix
    seconds   rows, columns, context -> a fold's time on an ordinary core, within a factor of three or so: for order
    tasks     what it can do
    """

    name: str
    view: str
    make: Callable[[Setting, Context], Any]
    settings: Callable[[Context], list[Setting]] = field(default=lambda context: [{}])
    growth: float = 1.0
    slow: bool = False
    weighs: bool = False
    bytes: Callable[[int, int, Context], float] = field(default=lambda rows, columns, context: 0.0)
    seconds: Callable[[int, int, Context], float] = field(default=lambda rows, columns, context: 0.0)
    tasks: tuple[str, ...] = ("classification", "regression")

    def remark(self, context: Context) -> str:
        """What the board should say about how the family was fitted."""
        return f"kernel approximated: Nyström, {LANDMARKS} landmarks" if _is_kernel(self, context) else ""


def _is_kernel(family: Family, context: Context) -> bool:
    return family.name in ("svm-rbf", "svm-poly") and context.approximates


def _pick(context: Context, classifier: type, regressor: type, **arguments: Any) -> Any:
    """One of a pair of scikit-learn's classes; class weights only where there are classes."""
    if not context.is_classification:
        return regressor(**arguments)
    weights = {"class_weight": "balanced"} if context.balance else {}
    return classifier(**arguments, **weights)


def _draw(first: Setting, context: Context, most: int, **choices: tuple[Any, ...]) -> list[Setting]:
    """The default, then `most` different settings drawn from the grid of choices, in an order that the seed fixes."""
    rng = np.random.Generator(np.random.PCG64([context.seed, 7]))
    names = list(choices)
    total = math.prod(len(values) for values in choices.values())
    found: list[Setting] = [first]
    for index in rng.permutation(total):
        setting = {}
        for name in names:
            index, at = divmod(int(index), len(choices[name]))
            setting[name] = choices[name][at]
        if setting not in found:
            found.append(setting)
        if len(found) > most:
            break
    return found


# --- one family after another ----------------------------------------------------------------------------------------


def _dummy(setting: Setting, context: Context) -> Any:
    if context.is_classification:
        return DummyClassifier(strategy="prior")
    return DummyRegressor(strategy="median" if context.metric == "mae" else "mean")


def _linear(setting: Setting, context: Context) -> Any:
    return Ridge(random_state=context.seed, **setting)


def _logistic(setting: Setting, context: Context) -> Any:
    weights = "balanced" if context.balance else None
    return LogisticRegression(max_iter=1000, class_weight=weights, **setting)


def _bayes(setting: Setting, context: Context) -> Any:
    return MixedBayes(**setting)


def _tree(setting: Setting, context: Context) -> Any:
    return _pick(context, DecisionTreeClassifier, DecisionTreeRegressor, random_state=context.seed, **setting)


def _tree_settings(context: Context) -> list[Setting]:
    purity = ("gini", "entropy") if context.is_classification else ("squared_error",)
    choices = {"min_samples_leaf": (1, 2, 5, 10, 20, 50), "max_depth": (None, 4, 6, 8, 12), "criterion": purity}
    return _draw({"min_samples_leaf": 5}, context, 12, **choices)


def _leaf(context: Context) -> int:
    return 1 if context.rows <= LEAF_ROWS else 5


def _forest(classifier: type, regressor: type) -> Callable[[Setting, Context], Any]:
    def make(setting: Setting, context: Context) -> Any:
        return _pick(context, classifier, regressor, random_state=context.seed, n_jobs=1, **setting)

    return make


def _forest_settings(context: Context) -> list[Setting]:
    share = ("sqrt", 0.2, 0.4) if context.is_classification else (0.2, 0.33, 0.5, 1.0)
    default = {"n_estimators": 100, "min_samples_leaf": _leaf(context)}
    choices = {"max_features": share, "min_samples_leaf": (_leaf(context), 3, 10), "n_estimators": (100, 200)}
    return _draw(default, context, 8, **choices)


def _forest_bytes(rows: int, columns: int, context: Context) -> float:
    """Up to two nodes a row, each with its values, in 200 trees; in float32 the matrix once more."""
    return 200 * 2 * rows / _leaf(context) * (64 + 8 * max(context.classes, 1)) + 4 * rows * columns


def _boosting(setting: Setting, context: Context) -> Any:
    kinds = HistGradientBoostingClassifier, HistGradientBoostingRegressor
    # A slow rate needs many trees, how many the rows held back for it say.
    patience = {"early_stopping": True, "n_iter_no_change": 15} if "learning_rate" in setting else {}
    return _pick(context, *kinds, random_state=context.seed, **patience, **setting)


def _boosting_settings(context: Context) -> list[Setting]:
    """scikit-learn's own, which stops early beyond 10,000 rows; then slower rates with as many trees as they need."""
    slow = ({"learning_rate": 0.1, "max_iter": 400}, {"learning_rate": 0.05, "max_iter": 800})
    found: list[Setting] = [{}]
    for setting in _draw(
        {},
        context,
        14,
        rate=slow,
        max_leaf_nodes=(7, 15, 31, 63),
        l2_regularization=(0.0, 1.0, 10.0),
        min_samples_leaf=(5, 20, 50),
        max_features=(1.0, 0.5),
    )[1:]:
        rate = setting["rate"]
        rest = {name: value for name, value in setting.items() if name != "rate"}
        found.append(rate | {k: v for k, v in rest.items() if v not in (0.0, 1.0)})
    return found


def _knn(setting: Setting, context: Context) -> Any:
    known = {"n_neighbors": starting_k(context.rows)} | dict(setting)
    kind = KNeighborsClassifier if context.is_classification else KNeighborsRegressor
    return kind(algorithm="brute" if context.sparse or context.features > 20 else "auto", n_jobs=1, **known)


def starting_k(rows: int) -> int:
    """k = ln N: where cross-validation starts, not where it ends (S055)."""
    return max(round(math.log(max(rows, 2))), 1)


def _knn_settings(context: Context) -> list[Setting]:
    """ln N first, then 1, √N and what lies between, by distance or not, in another metric."""
    n = context.rows
    root = round(math.sqrt(n))
    ks = dict.fromkeys([starting_k(n), 1, min(root, 200), 3, 5, 2 * starting_k(n), max(starting_k(n) // 2, 1)])
    found: list[Setting] = [{"n_neighbors": k} for k in ks]
    found += [{"n_neighbors": k, "weights": "distance"} for k in list(ks) if k > 1]
    other = "cosine" if context.sparse else "manhattan"
    return found + [{"n_neighbors": k, "weights": "distance", "metric": other} for k in (starting_k(n), 5)]


def _linear_svm(setting: Setting, context: Context) -> Any:
    machine = linear_machine(setting.get("cost", 1.0), context.is_classification, _weights(context), context.seed)
    return Tempered(machine, context.seed) if context.is_classification else _scaled_target(machine)


def _weights(context: Context) -> str | None:
    return "balanced" if context.balance else None


def _scaled_target(regressor: Any) -> Any:
    """ε and C of a support vector regression mean something only for a target of unit scale."""
    return TransformedTargetRegressor(regressor, transformer=StandardScaler())


def _kernel_svm(kernel: str) -> Callable[[Setting, Context], Any]:
    def make(setting: Setting, context: Context) -> Any:
        machine = KernelMachine(
            kernel,
            landmarks=LANDMARKS if context.approximates else 0,
            is_classifier=context.is_classification,
            class_weight=_weights(context) if context.is_classification else None,
            cache_mb=CACHE_MB,
            seed=context.seed,
            **setting,
        )
        return Tempered(machine, context.seed) if context.is_classification else _scaled_target(machine)

    return make


def _rbf_settings(context: Context) -> list[Setting]:
    return _draw({"cost": 1.0}, context, 8, cost=(0.3, 1.0, 3.0, 10.0, 30.0), width=(0.3, 1.0, 3.0))


def _poly_settings(context: Context) -> list[Setting]:
    return _draw({"cost": 1.0}, context, 6, cost=(0.1, 1.0, 10.0), degree=(2, 3), width=(0.3, 1.0))


def _kernel_bytes(rows: int, columns: int, context: Context) -> float:
    """libsvm keeps a copy of the rows and its cache; the approximation a matrix of landmarks."""
    if context.approximates:
        return 8.0 * rows * LANDMARKS * 2
    return 8.0 * rows * columns * 2 + CACHE_MB * 2**20


def _density(kind: str) -> Callable[[Setting, Context], Any]:
    return lambda setting, context: Density(kind, seed=context.seed, **setting)


def _density_settings(*choices: Setting) -> Callable[[Context], list[Setting]]:
    return lambda context: list(choices)


def _values(name: str, *values: Any) -> Callable[[Context], list[Setting]]:
    return lambda context: [{name: value} for value in values]


def _copies(count: float) -> Callable[[int, int, Context], float]:
    return lambda rows, columns, context: count * 8.0 * rows * columns


def _cells(nanoseconds: float, by_class: bool = False) -> Callable[[int, int, Context], float]:
    """Time in proportion to the cells of the matrix, and to the classes."""
    return lambda n, d, c: 1e-9 * nanoseconds * n * d * (max(c.classes, 1) if by_class else 1)


def _tree_seconds(trees: int, nanoseconds: float) -> Callable[[int, int, Context], float]:
    """Each tree sorts its rows, level by level, by a square root of the columns (all of them for values)."""

    def seconds(n: int, d: int, context: Context) -> float:
        columns = math.sqrt(d) if context.is_classification and trees > 1 else d
        return 1e-9 * nanoseconds * trees * n * math.log2(n + 2) * columns

    return seconds


def _boosting_seconds(n: int, d: int, context: Context) -> float:
    """100 rounds of a tree a class, each a histogram of every column."""
    trees = 100 * (context.classes if context.classes > 2 else 1)
    return trees * (5e-9 * n * d + 6e-6 * d + 1e-3)


def _knn_seconds(n: int, d: int, context: Context) -> float:
    return 2e-10 * n * (n / 4) * d + 1e-6 * n


def _kernel_seconds(n: int, d: int, context: Context) -> float:
    if context.approximates:
        return 1e-9 * n * LANDMARKS * (d + 100) * max(context.classes / 2, 1)
    return 2e-10 * n * n * (d + 20) * (1 if context.is_classification else 3)


BOTH = ("classification", "regression")
CLASSES, VALUES = BOTH[:1], BOTH[1:]
_FOREST = _forest(RandomForestClassifier, RandomForestRegressor)
_EXTRA = _forest(ExtraTreesClassifier, ExtraTreesRegressor)
FAMILIES = (
    Family("dummy", "plain", _dummy),
    Family("bayes", "apart", _bayes, _values("smoothing", 1e-9, 1e-3, 1e-2, 1e-1, 0.5), seconds=_cells(5),
           tasks=CLASSES),
    Family("linear", "scaled", _linear, _values("alpha", 1.0, 10.0, 100.0, 0.1, 1000.0), bytes=_copies(2),
           seconds=_cells(10), tasks=VALUES),
    Family("tree", "plain", _tree, _tree_settings, weighs=True, bytes=_copies(1), seconds=_tree_seconds(1, 50)),
    Family("logistic", "scaled", _logistic, _values("C", 1.0, 0.1, 10.0, 0.01, 100.0, 0.001), weighs=True,
           bytes=_copies(2), seconds=_cells(60, by_class=True), tasks=CLASSES),
    Family("knn", "scaled", _knn, _knn_settings, slow=True, bytes=_copies(2), seconds=_knn_seconds),
    Family("svm-linear", "scaled", _linear_svm, _values("cost", 1.0, 0.1, 0.01, 10.0), weighs=True, bytes=_copies(2),
           seconds=_cells(80, by_class=True)),
    Family("boosting", "native", _boosting, _boosting_settings, weighs=True, bytes=_copies(1),
           seconds=_boosting_seconds),
    Family("svm-rbf", "scaled", _kernel_svm("rbf"), _rbf_settings, 2.0, True, True, _kernel_bytes, _kernel_seconds),
    Family("extra-trees", "plain", _EXTRA, _forest_settings, 1.1, weighs=True, bytes=_forest_bytes,
           seconds=_tree_seconds(100, 8)),
    Family("forest", "plain", _FOREST, _forest_settings, 1.1, weighs=True, bytes=_forest_bytes,
           seconds=_tree_seconds(100, 25)),
    Family("svm-poly", "scaled", _kernel_svm("poly"), _poly_settings, 2.0, True, True, _kernel_bytes, _kernel_seconds),
)  # fmt: skip
"""What takes part unless told otherwise. On small data this is the order; else cheap ones go first."""
ON_REQUEST = (
    Family("kmeans", "dense", _density("kmeans"),
           _density_settings({"components": 3}, {"components": 1}, {"components": 8}, {"components": 20}),
           seconds=_cells(200), tasks=CLASSES),
    Family("em", "dense", _density("em"),
           _density_settings(*({"components": c, "covariance": v} for v in ("diag", "full") for c in (2, 1, 4, 8))),
           bytes=_copies(4), seconds=_cells(1000), tasks=CLASSES),
)  # fmt: skip
ALIASES = {
    "ridge": ("linear",), "regression": ("linear", "logistic"), "nb": ("bayes",), "naive-bayes": ("bayes",),
    "decision-tree": ("tree",), "random-forest": ("forest",), "rf": ("forest",), "extratrees": ("extra-trees",),
    "gbdt": ("boosting",), "gbm": ("boosting",), "hist": ("boosting",), "svm": ("svm-linear", "svm-rbf", "svm-poly"),
    "svc": ("svm-rbf",), "svr": ("svm-rbf",), "rbf": ("svm-rbf",), "poly": ("svm-poly",), "gmm": ("em",),
    "k-means": ("kmeans",), "linear": ("linear", "logistic"),
}  # fmt: skip
BY_NAME = {family.name: family for family in (*FAMILIES, *ON_REQUEST)}


def choose(asked: Sequence[str], task: str, option: str = "--models") -> list[Family]:
    """The families asked for, the dummy always among them; all that suit the task where none is.

    A name that there is not, or that cannot do the task: exit code 2.
    """
    if not asked:
        return [family for family in FAMILIES if task in family.tasks]
    wanted = {"dummy"}
    for name in asked:
        names = [n for n in ALIASES.get(name.lower(), (name.lower(),)) if n in BY_NAME]
        if not names:
            known = [*BY_NAME, *sorted(set(ALIASES) - set(BY_NAME))]
            raise DlkitError(f"{option}: there is no model {name!r}", nearest(name, known))
        able = [n for n in names if task in BY_NAME[n].tasks]
        if not able:
            raise DlkitError(f"{option}: {name} does not do {task}", "known: " + ", ".join(_able(task)))
        wanted |= set(able)
    return [family for family in BY_NAME.values() if family.name in wanted]


def in_order(families: Sequence[Family], rows: int, columns: int, context: Context) -> list[Family]:
    """Cheap ones before dear ones, as far as that can be told: what takes less than a second counts as nothing."""
    return sorted(families, key=lambda family: max(family.seconds(rows, columns, context), 1.0))


def _able(task: str) -> list[str]:
    return [name for name, family in BY_NAME.items() if task in family.tasks]
