"""A training run from first step to finished directory."""

import hashlib
import json
import math
import platform
import shlex
import time
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save

from dlkit import __version__
from dlkit.core import console, signals
from dlkit.core.console import Bar
from dlkit.core.errors import DlkitError
from dlkit.core.keeping import Keeping
from dlkit.core.peers import Echo
from dlkit.core.reading import OF_TEXT
from dlkit.core.run import MANIFEST, RunDirectory
from dlkit.nn.blame import with_rows
from dlkit.nn.checkpoint import Checkpoints, Saved
from dlkit.nn.device import describe, release
from dlkit.nn.fit import Diverged, Epoch, fit
from dlkit.nn.gauge import Gauge
from dlkit.nn.job import Job
from dlkit.nn.lora import merged
from dlkit.nn.own import SOURCE
from dlkit.nn.resume import check
from dlkit.nn.scalars import Scalars
from dlkit.nn.schedule import Plan, check_rise, idle
from dlkit.nn.state import State
from dlkit.nn.step import Stepper
from dlkit.nn.verdict import Verdict, judge, train_score
from dlkit.nn.watch import Watch


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
    valid_losses: list[float] = field(default_factory=list)
    metric: float = math.nan
    layers: Sequence[dict[str, Any]] = ()
    verdict: Verdict | None = None

    def take(self, state: State) -> None:
        self.epochs, self.steps, self.best, self.best_epoch = state.epoch - 1, state.step, state.best, state.best_epoch

    @property
    def samples_per_second(self) -> float:
        """Rows trained on a second of training steps, data loading included, evaluation not."""
        return self.rows / self.train_seconds if self.train_seconds else 0.0


def run(job: Job, keeping: Keeping, directory: RunDirectory | None, bar: Bar, outcome: Outcome) -> Iterator[Epoch]:
    """Train, and yield each epoch once its line is in metrics.jsonl. Fills in `outcome`. Of several processes the first
    alone has the directory.

    The first checkpoint is written before the first step, to prove that there is room. Stopped by a signal, it saves
    where it is, finishes the directory and raises with that signal's exit code. Diverged, it keeps the best weights of
    before, or leaves the directory unfinished if there are none.
    """
    started, watch = time.perf_counter(), Watch(keeping.every, job.ranks)
    with signals.deferred(), directory or nullcontext():
        state, checkpoints = _ready(job, keeping, directory)
        scalars = Scalars.begin(directory, keeping.tensorboard) if directory else None
        gauge = Gauge(state.model, state.stepper.optimizers, job.ranks) if job.recipe.watch else None
        bar.advance(state.step)
        try:
            for epoch in fit(state, job.train, job.valid, job.objective, job.recipe, watch, bar):
                if epoch is None:
                    checkpoints.save(state)
                    watch.saved()
                    continue
                epoch = replace(epoch, layers=gauge.take()) if gauge else epoch
                _record(job, state, epoch, directory, outcome)
                if scalars:
                    scalars.add(row(epoch, job.objective.metric))
                outcome.seconds = time.perf_counter() - started
                yield epoch
        except Diverged as failure:
            if state.best_epoch:
                _finish(state, directory)
            raise with_rows(job, state, failure) from None
        outcome.take(state)
        checkpoints.save(state, done=not watch.stopped)
        if outcome.valid_losses and not watch.stopped:
            outcome.verdict = _verdict(job, state, outcome)
        _finish(state, directory)
    if watch.code:
        where = f"stopped at step {state.step}, in epoch {state.epoch} of {job.recipe.epochs}"
        if not directory:
            raise Echo(where, code=watch.code)
        raise DlkitError(where, f"go on with: dlkit train {_again(job, directory)}", watch.code)


def _again(job: Job, directory: RunDirectory) -> str:
    """The words that take the run up again. A module of the user's own is named by the command line alone, never by a
    run."""
    return shlex.join(["--resume", str(directory.path), *([job.own.word] if job.own else [])])


def _ready(job: Job, keeping: Keeping, directory: RunDirectory | None) -> tuple[State, Checkpoints]:
    """The state to train from and where it is saved: fresh, or as the newest checkpoint has it."""
    release(job.device)  # of the network by which the command line was checked
    about, state = config(job), begin(job)
    unheard = idle(job.recipe)
    if unheard:
        console.warn(unheard)
    checkpoints = Checkpoints(directory, keeping.keep, about)
    saved = checkpoints.latest(job.ranks) if keeping.resume else None
    if saved:
        _take_up(state, saved, checkpoints, directory, about)
    else:
        state.stepper.make_room()
        checkpoints.prove_room(state)
    if directory:
        directory.write_json("config.json", about)
        directory.write_json("schema.json", job.schema.to_json())
        for name, text in job.own.sources.items() if job.own else ():
            directory.write(f"{SOURCE}/{name}", text)
    checkpoints.save(state)
    return state, checkpoints


def _take_up(
    state: State, saved: Saved, checkpoints: Checkpoints, directory: RunDirectory | None, about: dict[str, Any]
) -> None:
    """Bring `state` to where a checkpoint was taken, and the directory with it."""
    if directory:
        check(saved, about, directory.path)
        if "batch_found" in saved.facts["config"]:  # why it is so large stays on record
            about["batch_found"] = saved.facts["config"]["batch_found"]
    saved.restore(state)
    checkpoints.goes_on(state, saved)
    if directory:
        text = _left(state, about["recipe"], directory.path)
        directory.remove(MANIFEST)
        directory.reopen_log(state.epoch - 1)
        console.note(text)


def _left(state: State, recipe: dict[str, Any], path: Path) -> str:
    """Where a run goes on. One that has more epochs behind it than are asked for is refused."""
    done, epochs, patience = state.epoch - 1, recipe["epochs"], recipe["patience"]
    if done > epochs:
        message = f"cannot resume {path}: {done} epochs of it are done, and --epochs is {epochs}"
        raise DlkitError(message, f"--epochs {done + 1} or more goes on")
    if done == epochs:
        return f"{path} is done, all {epochs} epochs: nothing is left to train; --epochs {epochs + 1} or more goes on"
    if patience and state.stale >= patience:
        return f"{path} is done, by --patience {patience} after {done} epochs; a larger one goes on"
    return f"resuming {path} at step {state.step}, in epoch {state.epoch}"


def begin(job: Job) -> State:
    """The state before the first step: fresh weights, and an optimiser that has seen nothing."""
    recipe = job.recipe
    check_rise(recipe, recipe.epochs * len(job.train))
    stepper = Stepper(job.model(job.options.seed), job.objective, recipe, job.ranks, job.shard)
    return State(stepper.model, stepper, Plan(recipe, recipe.epochs * len(job.train), len(job.train)))


def _record(job: Job, state: State, epoch: Epoch, directory: RunDirectory | None, outcome: Outcome) -> None:
    """One epoch into the state and metrics.jsonl; the weights that were judged are kept where they are the best."""
    outcome.rows += epoch.rows
    outcome.train_seconds += epoch.seconds
    outcome.valid_losses.append(epoch.valid_loss)
    outcome.metric, outcome.layers = epoch.metric, epoch.layers
    better = job.objective.better(epoch.metric, state.best) or state.best is None
    state.stale = 0 if better else state.stale + 1
    if better:
        state.best, state.best_epoch = epoch.metric, epoch.epoch
        state.best_weights = merged(state.stepper.judged)
    outcome.take(state)
    if directory:
        directory.log(row(epoch, job.objective.metric))


def _verdict(job: Job, state: State, outcome: Outcome) -> Verdict:
    """Of the last epoch: as many training rows as there are validation rows are looked at."""
    objective = job.objective
    score = train_score(state.stepper.judged, job.train, objective, job.valid.count)
    return judge(objective, score, outcome.metric, job.valid.y.cpu(), outcome.valid_losses)


def _finish(state: State, directory: RunDirectory | None) -> None:
    """The best weights under the name that everybody looks for, then the manifest."""
    weights = state.best_weights or merged(state.stepper.judged)
    if directory:
        directory.write("model.safetensors", save(weights))
        directory.finish()


def row(epoch: Epoch, metric: str) -> dict[str, Any]:
    """One epoch as a row of the answer and a line of metrics.jsonl."""
    keys = ("epoch", "step", "lr", "train_loss", "valid_loss")
    rate = epoch.rows / epoch.seconds if epoch.seconds else None
    values = {k: getattr(epoch, k) for k in keys}
    values |= {metric: epoch.metric, "seconds": epoch.seconds, "samples_per_second": rate}
    return values | {"layers": list(epoch.layers)} if epoch.layers else values


def summary(job: Job, directory: RunDirectory | None, outcome: Outcome) -> dict[str, Any]:
    """The summary of `dlkit train --json`."""
    return {
        "run": str(directory.path) if directory else None,
        "task": job.objective.task,
        "params": job.params,
        "trainable_params": job.trained,
        "epochs": outcome.epochs,
        "steps": outcome.steps,
        "metric": job.objective.metric,
        "best": outcome.best,
        "best_epoch": outcome.best_epoch,
        "seconds": outcome.seconds,
        "samples_per_second": outcome.samples_per_second,
        "device": describe(job.device),
        "batch_size": job.train.batch_size,
        "train_rows": job.train.rows,
        "valid_rows": job.valid.rows,
        "train_score": outcome.verdict and outcome.verdict.train_score,
        "verdict": outcome.verdict and outcome.verdict.word,
    }


def config(job: Job) -> dict[str, Any]:
    """Everything needed to repeat the run, and to know that the data is the same."""
    return {
        "command": "train",
        "network": str(job.graph),
        "input": list(job.schema.input_shape),
        "options": asdict(job.options),
        "recipe": asdict(job.recipe),
        "batch_size": job.train.batch_size,
        **({"batch_found": job.batch_found} if job.batch_found else {}),
        "fingerprint": job.dataset.fingerprint,
        "rows": job.dataset.rows,
        "folder": str(Path.cwd()),
        "versions": {"dlkit": __version__, "torch": torch.__version__, "python": platform.python_version()},
        **({"module": job.own.facts} if job.own else {}),
        **_vocabulary(job),
    }


def _vocabulary(job: Job) -> dict[str, str]:
    """The digest of a vocabulary that came from another run, which data and options do not tell."""
    reads = job.schema if job.schema.task in OF_TEXT else job.schema.tokens
    if not (reads and job.options.init_from):
        return {}
    content = json.dumps(reads.vocabulary.to_json(), sort_keys=True)  # type: ignore[union-attr]
    return {"vocabulary": hashlib.sha256(content.encode()).hexdigest()}
