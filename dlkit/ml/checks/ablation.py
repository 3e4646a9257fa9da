"""Drop and see (note S036): take the most telling columns away step by step, and refit the task's model each time.

What is dropped is chosen by the task's score on validation and not by AUC: of the California houses split by longitude
two columns dropped leave AUC .81 and the best error, seven leave AUC .56 and a worse one.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.ensemble import (
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
    RandomForestClassifier,
    RandomForestRegressor,
)
from sklearn.model_selection import GroupKFold, KFold

from dlkit.core.errors import DlkitError
from dlkit.data.metrics import accuracy, bootstrap, rmse
from dlkit.ml.checks.adversarial import Settings
from dlkit.ml.checks.finding import Finding
from dlkit.ml.checks.importance import importances
from dlkit.ml.checks.matrix import Matrix
from dlkit.ml.checks.separate import Model, choose, separate
from dlkit.ml.checks.sides import Sides
from dlkit.ml.checks.units import sample
from dlkit.ml.engine import Engine

CHECK = "ablation"
NO_PROOF = "AUC near 0.5 would not prove that P(y|x) is the same"
MOST_STEPS, FOLDS = 8, 5


@dataclass(frozen=True)
class Step:
    """The columns that are gone, how well the sides can still be told apart, and how well the task goes.

    valid, train   the task's score on validation, and of train in cross-validation: accuracy, or RMSE
    low, high      95 % interval of the change of `valid` against nothing dropped, over the same rows
    """

    dropped: tuple[str, ...]
    auc: float
    auc_low: float
    auc_high: float
    valid: float
    train: float
    low: float = 0.0
    high: float = 0.0


@dataclass(frozen=True)
class Ablation:
    """The steps, the first with nothing dropped. `metric` is accuracy (more is better) or rmse (less is)."""

    metric: str
    steps: tuple[Step, ...]

    @property
    def sign(self) -> int:
        return 1 if self.metric == "accuracy" else -1

    @property
    def best(self) -> Step:
        """By the task's score; of equal ones the one with the most columns."""
        return max(self.steps, key=lambda step: (self.sign * step.valid, -len(step.dropped)))

    @property
    def free(self) -> Step:
        """The step with the most columns gone and no loss that the rows could show."""
        return max((step for step in self.steps if not self.is_loss(step)), key=lambda step: len(step.dropped))

    def is_gain(self, step: Step) -> bool:
        return min(self.sign * step.low, self.sign * step.high) > 0

    def is_loss(self, step: Step) -> bool:
        return max(self.sign * step.low, self.sign * step.high) < 0


def refuse(sides: Sides) -> None:
    """DlkitError where there is no target to see by, or nothing to drop."""
    if sides.target is None:
        raise DlkitError("--ablate refits the task's model, and there is no target", "--target names it, on both sides")
    if sides.arrays is not None or len(sides.features) < 2:
        raise DlkitError("--ablate needs a table of two columns at least, beside target, ids and dates")
    both = [int(side[sides.target.kept].sum()) for side in (~sides.is_valid, sides.is_valid)]
    if min(both) < FOLDS:
        raise DlkitError(f"--ablate needs {FOLDS} rows with a label on each side; there are {both[0]} and {both[1]}")


def ablate(sides: Sides, settings: Settings, engine: Engine, units: np.ndarray | None) -> Ablation:
    """The steps; `refuse` says where there can be none."""
    assert sides.target is not None
    labelled = np.flatnonzero(sides.target.kept)
    rows = labelled[sample(sides.is_valid[labelled], settings.seed)]
    is_valid, labels = sides.is_valid[rows], sides.labels[rows]
    within = None if units is None else units[rows]
    task = _Task(labels, is_valid, bool(sides.target.classes), within, engine, settings.seed)
    whole = sides.encoding(sides.frame[rows])
    model = settings.model or choose(len(rows))
    steps: list[Step] = []
    dropped: tuple[str, ...] = ()
    base: np.ndarray | None = None
    while len(steps) <= MOST_STEPS:
        matrix = whole.without(dropped)
        found = separate(matrix, is_valid, engine, model, within, settings.seed)
        predicted, train = task.fit(matrix)
        base = predicted if base is None else base
        low, high = task.change(predicted, base) if steps else (0.0, 0.0)
        score = task.score(labels[is_valid], predicted)
        steps.append(Step(dropped, found.auc, found.low, found.high, score, train, low, high))
        told = importances(matrix, is_valid, found.folds, settings.seed)[0]
        if found.low <= 0.5 or not told.is_clear or len(told.names) >= len(matrix.names):
            break
        dropped = (*dropped, *told.names)
    return Ablation(task.metric, tuple(steps))


class _Task:
    """The model of the target, fitted on train: its predictions of valid, and its score in cross-validation."""

    def __init__(
        self,
        labels: np.ndarray,
        is_valid: np.ndarray,
        is_class: bool,
        units: np.ndarray | None,
        engine: Engine,
        seed: int,
    ) -> None:
        self.is_class, self.engine, self.seed = is_class, engine, seed
        self.metric = "accuracy" if is_class else "rmse"
        self.score: Callable[[np.ndarray, np.ndarray], float] = accuracy if is_class else rmse
        self.labels = labels.astype(int) if is_class else labels
        self.train, self.valid = np.flatnonzero(~is_valid), np.flatnonzero(is_valid)
        self.jobs = [(self.train, self.valid), *self._folds(None if units is None else units[self.train])]

    def _folds(self, units: np.ndarray | None) -> list[tuple[np.ndarray, np.ndarray]]:
        if units is not None and len(np.unique(units)) >= FOLDS:
            parts = GroupKFold(FOLDS).split(self.train, groups=units)
        else:
            parts = KFold(FOLDS, shuffle=True, random_state=self.seed).split(self.train)
        return [(self.train[fitted], self.train[held_out]) for fitted, held_out in parts]

    def fit(self, matrix: Matrix) -> tuple[np.ndarray, float]:
        """(predictions of valid, score of train out of fold)."""
        model = choose(len(self.train))
        shared = (matrix.x, self.labels, model, self.is_class, matrix.is_category, self.seed)
        valid, *held = self.engine.map(_predict, self.jobs, *shared)
        truth = np.concatenate([self.labels[rows] for _, rows in self.jobs[1:]])
        return valid, self.score(truth, np.concatenate(held))

    def change(self, predicted: np.ndarray, base: np.ndarray) -> tuple[float, float]:
        """Paired interval of the change of the score: both predictions of the same rows, drawn anew together."""
        truth = self.labels[self.valid]
        return bootstrap(
            lambda at: self.score(truth[at], predicted[at]) - self.score(truth[at], base[at]),
            len(truth),
            seed=self.seed,
        )


def _predict(
    job: tuple[np.ndarray, np.ndarray],
    x: np.ndarray,
    labels: np.ndarray,
    model: Model,
    is_class: bool,
    is_category: np.ndarray,
    seed: int,
) -> np.ndarray:
    fitted, asked = job
    if is_class and len(np.unique(labels[fitted])) < 2:
        return np.full(len(asked), labels[fitted][0])
    estimator: Any
    if model == "forest":
        estimator = (RandomForestClassifier if is_class else RandomForestRegressor)(random_state=seed)
    else:
        kind = HistGradientBoostingClassifier if is_class else HistGradientBoostingRegressor
        estimator = kind(categorical_features=is_category, random_state=seed)
    return np.asarray(estimator.fit(x[fitted], labels[fitted]).predict(x[asked]))


def finding(ablation: Ablation) -> Finding:
    """What can go, what is gained, and what that choice costs."""
    first, best, free = ablation.steps[0], ablation.best, ablation.free
    name = {"accuracy": "accuracy", "rmse": "RMSE"}[ablation.metric]
    spent = f"chosen on validation, which that spends: judge it on rows not seen yet; {NO_PROOF}"
    if best.dropped and ablation.is_gain(best):
        low, high = sorted((ablation.sign * best.low, ablation.sign * best.high))
        said = (
            f"--drop {_words(best.dropped)}: {name} {_number(first.valid)} to {_number(best.valid)} on validation, "
            f"better by {_number(low)} to {_number(high)} (in train {_number(first.train)} to {_number(best.train)}), "
            f"AUC {first.auc:.2f} to {best.auc:.2f}; {spent}"
        )
        return Finding(CHECK, "warn", said, best.valid, first.valid)
    if free.dropped:
        said = f"{_words(free.dropped)} can go without loss: {name} {_number(first.valid)} to {_number(free.valid)}"
        return Finding(
            CHECK, "pass", f"{said}, AUC {first.auc:.2f} to {free.auc:.2f}; {spent}", free.valid, first.valid
        )
    tried = f"; dropping {_words(ablation.steps[1].dropped)} costs" if len(ablation.steps) > 1 else ""
    said = f"no column tells the sides apart that could go: {name} {_number(first.valid)} with all of them{tried}"
    return Finding(CHECK, "pass", f"{said}; {NO_PROOF}", first.valid, first.valid)


def lines(ablation: Ablation) -> list[str]:
    """The steps for a reader."""
    name = {"accuracy": "accuracy", "rmse": "RMSE"}[ablation.metric]
    return [
        f"{f'without {_words(step.dropped)}' if step.dropped else 'all columns'}: AUC {step.auc:.3f}, {name} of valid "
        f"{_number(step.valid)}{f' ({_number(step.low)} to {_number(step.high)})' if step.dropped else ''}, of train "
        f"{_number(step.train)}{', the best' if step is ablation.best else ''}"
        for step in ablation.steps
    ]


def _words(names: Sequence[str]) -> str:
    return ",".join(names)


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}" if abs(value) < 100 else f"{value:.1f}"
