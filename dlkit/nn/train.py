"""A training run from first step to finished directory."""

import platform
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import torch
from safetensors.torch import save
from torch import nn

from dlkit import __version__
from dlkit.core.console import Bar
from dlkit.core.errors import DlkitError
from dlkit.core.recipe import Recipe
from dlkit.core.run import RunDirectory
from dlkit.nn.device import describe
from dlkit.nn.fit import Diverged, Epoch, fit
from dlkit.nn.job import Job
from dlkit.nn.precision import set_matmul
from dlkit.nn.schedule import Plan
from dlkit.nn.state import State
from dlkit.nn.step import Stepper
from dlkit.nn.stop import stop_on_signals


@dataclass
class Outcome:
    """What a run has shown so far; complete when its epochs are."""

    epochs: int = 0
    steps: int = 0
    best: float | None = None
    best_epoch: int = 0
    rows: int = 0
    train_seconds: float = 0.0
    seconds: float = 0.0

    @property
    def samples_per_second(self) -> float:
        """Rows trained on a second of training steps, data loading included, evaluation not."""
        return self.rows / self.train_seconds if self.train_seconds else 0.0


def run(job: Job, recipe: Recipe, directory: RunDirectory, bar: Bar, outcome: Outcome) -> Iterator[Epoch]:
    """Train, and yield each epoch once it is on disk. Fills in `outcome`.

    Stopped by a signal, it saves what was learnt, finishes the directory and raises with that signal's exit code.
    Diverged, it keeps the best weights of before, or leaves the directory unfinished if there are none.
    """
    started = time.perf_counter()
    directory.write_json("config.json", _config(job, recipe))
    directory.write_json("schema.json", job.schema.to_json())
    with stop_on_signals() as stop:
        state = begin(job, recipe)
        epochs = fit(state, job.train, job.valid, job.objective, recipe, stop, bar)
        try:
            for epoch in epochs:
                _record(job, state, epoch, directory, outcome)
                outcome.seconds = time.perf_counter() - started
                yield epoch
        except Diverged:
            if outcome.epochs:
                directory.finish()
            raise
        if stop.asked:
            _save(state, directory, best=not outcome.epochs)
        directory.finish()
    if stop.asked:
        raise DlkitError(
            f"stopped at step {state.step}, in epoch {state.epoch} of {recipe.epochs}; "
            f"what was learnt is in {directory.path}",
            code=stop.code,
        )


def begin(job: Job, recipe: Recipe) -> State:
    """The state before the first step: fresh weights, and an optimiser that has seen nothing."""
    set_matmul(recipe.precision)
    model, steps = job.model(job.options.seed), len(job.train)
    return State(model, Stepper(model, job.objective, recipe), Plan(recipe, recipe.epochs * steps, steps))


def _record(job: Job, state: State, epoch: Epoch, directory: RunDirectory, outcome: Outcome) -> None:
    """Put one epoch on disk: the last weights, the best ones where these are, and the line in metrics.jsonl."""
    outcome.epochs, outcome.steps = epoch.epoch, epoch.step
    outcome.rows += epoch.rows
    outcome.train_seconds += epoch.seconds
    better = job.objective.better(epoch.metric, state.best) or state.best is None
    state.stale = 0 if better else state.stale + 1
    if better:
        state.best, state.best_epoch = epoch.metric, epoch.epoch
    outcome.best, outcome.best_epoch = state.best, state.best_epoch
    _save(state, directory, better)
    directory.log(row(epoch, job.objective.metric))


def _save(state: State, directory: RunDirectory, best: bool) -> None:
    """The last weights to go on from; where they are the best, the ones that were judged: live or averaged."""
    directory.write("checkpoint/last.safetensors", _bytes(state.model))
    if best:
        directory.write("model.safetensors", _bytes(state.stepper.judged))


def _bytes(model: nn.Module) -> bytes:
    return save({k: v.contiguous() for k, v in model.state_dict().items()})


def row(epoch: Epoch, metric: str) -> dict[str, Any]:
    """One epoch as a row of the answer and a line of metrics.jsonl."""
    keys = ("epoch", "step", "lr", "train_loss", "valid_loss")
    rate = epoch.rows / epoch.seconds if epoch.seconds else None
    values = {k: getattr(epoch, k) for k in keys}
    return values | {metric: epoch.metric, "seconds": epoch.seconds, "samples_per_second": rate}


def summary(job: Job, directory: RunDirectory, outcome: Outcome) -> dict[str, Any]:
    """The summary of `dlkit train --json`."""
    return {
        "run": str(directory.path),
        "task": job.objective.task,
        "params": job.params,
        "epochs": outcome.epochs,
        "steps": outcome.steps,
        "metric": job.objective.metric,
        "best": outcome.best,
        "best_epoch": outcome.best_epoch,
        "seconds": outcome.seconds,
        "samples_per_second": outcome.samples_per_second,
        "device": describe(job.device),
        "train_rows": job.train.rows,
        "valid_rows": job.valid.rows,
    }


def _config(job: Job, recipe: Recipe) -> dict[str, Any]:
    """Everything needed to repeat the run, and to know that the data is the same."""
    return {
        "command": "train",
        "network": str(job.graph),
        "input": list(job.schema.input_shape),
        "options": asdict(job.options),
        "recipe": asdict(recipe),
        "batch_size": job.train.batch_size,
        "fingerprint": job.dataset.fingerprint,
        "versions": {"dlkit": __version__, "torch": torch.__version__, "python": platform.python_version()},
    }
