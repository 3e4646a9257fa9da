"""One fit of one model on one fold, and what it showed: the work that processes and clusters are given."""

import resource
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from dlkit.data import metrics
from dlkit.ml import persist
from dlkit.ml.block import Block, Layout, Texts
from dlkit.ml.families import BY_NAME, Context
from dlkit.ml.model import Model
from dlkit.ml.scoring import METRICS, resampled


@dataclass(frozen=True, eq=False)
class Fold:
    """Rows to fit on and rows to score on. `order` is a permutation of the first: samples are its beginnings."""

    train: np.ndarray
    test: np.ndarray
    order: np.ndarray

    def sample(self, rows: int) -> np.ndarray:
        """So many training rows, the smaller samples within the larger ones; all of them for 0."""
        return np.sort(self.train[self.order[:rows]]) if 0 < rows < len(self.train) else self.train


@dataclass(frozen=True, eq=False)
class Data:
    """All that the fits of a board share. The last fold's training side may be all rows: what the final fit is on."""

    numbers: np.ndarray
    texts: tuple[Texts, ...]
    labels: np.ndarray
    folds: tuple[Fold, ...]
    layout: Layout
    context: Context

    def block(self, rows: np.ndarray) -> Block:
        return Block(self.numbers[rows], tuple(text.take(rows) for text in self.texts))

    def save(self, folder: Path) -> "Stored":
        """The arrays as files that processes map, so that all of them share one copy in memory."""
        np.save(folder / "numbers.npy", self.numbers)
        np.save(folder / "labels.npy", self.labels)
        for i, text in enumerate(self.texts):
            np.save(folder / f"text{i}.npy", text.data)
            np.save(folder / f"ends{i}.npy", text.ends)
        for i, fold in enumerate(self.folds):
            for name in ("train", "test", "order"):
                np.save(folder / f"{name}{i}.npy", getattr(fold, name))
        return Stored(folder, len(self.texts), len(self.folds), self.layout, self.context)


@dataclass(frozen=True)
class Stored:
    """Where `Data` lies, small enough to be sent with every fit."""

    folder: Path
    texts: int
    folds: int
    layout: Layout
    context: Context

    def open(self) -> Data:
        def load(name: str) -> np.ndarray:
            return np.load(self.folder / f"{name}.npy", mmap_mode="r", allow_pickle=False)

        texts = tuple(Texts(load(f"text{i}"), load(f"ends{i}")) for i in range(self.texts))
        folds = tuple(Fold(load(f"train{i}"), load(f"test{i}"), load(f"order{i}")) for i in range(self.folds))
        return Data(load("numbers"), texts, np.asarray(load("labels")), folds, self.layout, self.context)


@dataclass(frozen=True)
class Trial:
    """A family with one setting, fitted on so many rows of a fold (0: all)."""

    family: str
    setting: Mapping[str, Any] = field(hash=False)
    fold: int
    rows: int = 0


@dataclass(frozen=True)
class Outcome:
    """What a trial showed. `problem` says why it has no score.

    bytes  the most memory that its process held; None where the system does not tell
    size   of the fitted model, roughly
    """

    score: float = float("nan")
    draws: tuple[float, ...] = ()
    fit_seconds: float = 0.0
    predict_seconds: float = 0.0
    bytes: int | None = None
    size: int = 0
    ece: float | None = None
    brier: float | None = None
    train_rows: int = 0
    problem: str | None = None


def run(trial: Trial, data: Data | Stored) -> Outcome:
    """Fit and score."""
    return _told(_run, trial, data)


def finish(trial: Trial, data: Data | Stored, path: Path) -> Outcome:
    """The final fit, on the training side of the last fold: write the model's file, and read it once to be sure."""
    return _told(_finish, trial, data, path)


def _told(work: Callable[..., Outcome], trial: Trial, data: Data | Stored, *more: Any) -> Outcome:
    """`work` with one thread. What a model raises is its problem, not the board's."""
    try:
        with threadpool_limits(1):
            return work(trial, data.open() if isinstance(data, Stored) else data, *more)
    except MemoryError:
        return Outcome(problem="out of memory")
    except Exception as failure:  # noqa: BLE001  a model that cannot be fitted is a row of the board with its reason
        reason = " ".join(str(failure).split())[:200]
        return Outcome(problem=f"{type(failure).__name__}: {reason}" if reason else type(failure).__name__)


def _run(trial: Trial, data: Data) -> Outcome:
    fold = data.folds[trial.fold]
    rows = fold.sample(trial.rows)
    if data.context.is_classification and trial.family != "dummy" and len(np.unique(data.labels[rows])) < 2:
        return Outcome(problem=f"the training rows of fold {trial.fold + 1} are all of one class")
    started = time.perf_counter()
    model = Model.fit(trial.family, trial.setting, data.context, data.layout, data.block(rows), data.labels[rows])
    fitted = time.perf_counter()
    prediction = model.predict(data.block(fold.test))
    predicted = time.perf_counter()
    truth = data.labels[fold.test]
    metric = METRICS[data.context.metric]
    outcome = Outcome(
        metric.score(truth, prediction),
        tuple(resampled(metric, truth, prediction)) if len(data.folds) == 2 else (),
        fitted - started,
        predicted - fitted,
        _peak_bytes(),
        _size(model),
        train_rows=len(rows),
    )
    if not np.isfinite(outcome.score):
        return replace(outcome, problem=f"its {metric.name} is not a finite number")
    if data.context.is_classification:
        ece, brier = metrics.calibration_error(truth, prediction), metrics.brier(truth, prediction)
        outcome = replace(outcome, ece=ece, brier=brier)
    return outcome


def _peak_bytes() -> int:
    """The most that this process has held at a time (`ru_maxrss` is in KiB, except on macOS)."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(peak) * (1 if sys.platform == "darwin" else 1024)


def _size(model: Model) -> int:
    """Bytes of the arrays in a model; trees count by their nodes."""
    total = 0
    for part in persist.trees.parts([model.features, model.estimator]):
        values = list(vars(part).values())
        if (tree := vars(part).get("tree_")) is not None:
            total += tree.node_count * (64 + 8 * tree.value.shape[2])
        for step in vars(part).get("_predictors", ()):
            total += sum(one.nodes.nbytes for one in step)
        total += sum(value.nbytes for value in values if isinstance(value, np.ndarray))
    return total


def _finish(trial: Trial, data: Data, path: Path) -> Outcome:
    rows = data.folds[-1].sample(trial.rows)
    started = time.perf_counter()
    labels = data.labels[rows]
    model = Model.fit(trial.family, trial.setting, data.context, data.layout, data.block(rows), labels)
    fitted = time.perf_counter()
    content = persist.dumps(model, data.block(rows[persist.probe_rows(len(rows))]))
    path.write_bytes(content)
    persist.loads(content, str(path))
    return Outcome(fit_seconds=fitted - started, size=len(content), bytes=_peak_bytes(), train_rows=len(rows))


def fits_in_memory(trial: Trial, data_rows: int, features: int, context: Context, free: int | None) -> str | None:
    """Why a trial is not even started: it would need more memory than is free. None where it fits, or nobody knows."""
    if free is None:
        return None
    rows = trial.rows or data_rows
    need = 2 * 8.0 * rows * features + BY_NAME[trial.family].bytes(rows, features, context)
    if need <= free:
        return None
    return f"would need about {need / 2**30:.1f} GiB of memory; {free / 2**30:.1f} GiB are free"
