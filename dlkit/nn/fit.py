"""The training loop, on one page."""

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from dlkit.core.console import Bar
from dlkit.core.errors import DlkitError, ExitCode
from dlkit.core.recipe import Recipe
from dlkit.nn.device import draw, synchronize
from dlkit.nn.loader import Batches
from dlkit.nn.objective import Objective, evaluate
from dlkit.nn.ranks import Ranks
from dlkit.nn.state import State
from dlkit.nn.watch import Stopped, Watch

CHECK_EVERY = 50
"""Steps between looks at the losses: each look waits for the device."""


@dataclass(frozen=True)
class Epoch:
    """What one epoch showed. Losses are means over rows; `seconds` is the time in training steps alone.

    `layers` is what a step of it did to each layer, where that is watched.
    """

    epoch: int
    step: int
    lr: float
    train_loss: float
    valid_loss: float
    metric: float
    rows: int
    seconds: float
    layers: Sequence[dict[str, Any]] = ()


class Diverged(DlkitError):
    """The loss or a gradient is not finite. The weights are those of before. `lr` is the step's, `peak` is --lr."""

    def __init__(self, step: int, epoch: int, lr: float, peak: float, rows: str = "") -> None:
        self.step, self.epoch, self.lr, self.peak = step, epoch, lr, peak
        super().__init__(
            f"training diverged: the loss or a gradient is not finite at step {step} (epoch {epoch}, lr {lr:.3g})"
            f"{rows}",
            f"try a smaller rate, such as --lr {peak / 10:.2g}, or find one with 'dlkit lrfind'",
            ExitCode.INTERNAL,
        )


def fit(
    state: State,
    train: Batches,
    valid: Batches,
    objective: Objective,
    recipe: Recipe,
    watch: Watch,
    bar: Bar,
) -> Iterator[Epoch | None]:
    """Train from `state` on, in place; yield each epoch, and None where `watch` wants a checkpoint.

    Once it wants a stop, this ends after the step at hand, an evaluation under way left undone. It may be left wherever
    it yields or ends and taken up from the same state: the end is the same to the last bit.
    """
    steps, plan = state.stepper, state.plan
    state.model.train()
    while state.epoch <= recipe.epochs and not (recipe.patience and state.stale >= recipe.patience):
        losses, trained, started = Losses(state, train.ranks), 0, time.perf_counter()
        for batch in train.shuffled(state.epoch, state.position):
            rates = plan(state.step - steps.skipped)
            loss, state.lr = steps(batch, rates, draw(train.seed, state.step)), rates.lr
            state.step, state.position = state.step + 1, state.position + 1
            losses.add(loss, len(batch.targets), state.lr)
            trained += len(batch.targets)
            bar.advance()
            if watch.look(state.step):
                losses.fold()
                if watch.stopped:
                    return
                paused = time.perf_counter()
                yield None
                started += time.perf_counter() - paused
        losses.fold()
        synchronize(train.device)
        seconds = time.perf_counter() - started
        if state.averaged < state.epoch:  # not again where an evaluation is taken up after it
            steps.end_epoch(state.epoch, train)
            state.averaged = state.epoch
        try:
            valid_loss, metric = evaluate(steps.judged, valid, objective, watch)
        except Stopped:
            return
        plan.observe(valid_loss)
        train_loss = state.loss_sum / state.loss_rows
        epoch = Epoch(state.epoch, state.step, state.lr, train_loss, valid_loss, metric, trained, seconds)
        state.end_epoch()
        yield epoch


class Losses:
    """The losses of an epoch, left on the device and looked at now and then, because each look waits for it."""

    def __init__(self, state: State, ranks: Ranks) -> None:
        self.state, self.ranks = state, ranks
        self.waiting: list[tuple[torch.Tensor, int, float]] = []

    def add(self, loss: torch.Tensor, rows: int, lr: float) -> None:
        """One step's mean loss over so many rows: NaN where the step was skipped."""
        self.waiting.append((loss, rows, lr))
        if len(self.waiting) == CHECK_EVERY:
            self.fold()

    def fold(self) -> None:
        """Add what waits to the state's sums, in order, so that the sum does not depend on when; Diverged at a NaN."""
        if not self.waiting:
            return
        losses, rows, lrs = zip(*self.waiting, strict=True)
        first = self.state.step - len(self.waiting) + 1
        self.waiting = []
        for i, loss in enumerate(self.ranks.total(torch.stack(losses))):
            if not math.isfinite(loss):
                raise Diverged(first + i, self.state.epoch, lrs[i], self.state.plan.recipe.lr)
            self.state.loss_sum += loss * rows[i]
            self.state.loss_rows += rows[i]
