"""The training loop, on one page."""

import time
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import nn

from dlkit.core.console import Bar
from dlkit.core.errors import DlkitError, ExitCode
from dlkit.nn.device import synchronize
from dlkit.nn.loader import Batches
from dlkit.nn.objective import Objective, evaluate
from dlkit.nn.schedule import SCHEDULES
from dlkit.nn.step import Stepper, make_optimizer
from dlkit.nn.stop import Stop

CHECK_EVERY = 50
"""Steps between looks at the losses: each look waits for the device."""


@dataclass(frozen=True)
class Recipe:
    """How to train: all that the loop is told besides the network and the rows."""

    epochs: int
    lr: float
    optimizer: str = "adamw"
    schedule: str = "one-cycle"
    weight_decay: float = 0.01


@dataclass(frozen=True)
class Epoch:
    """What one epoch showed. Losses are means over rows; `seconds` is the time in training steps alone."""

    epoch: int
    step: int
    lr: float
    train_loss: float
    valid_loss: float
    metric: float
    rows: int
    seconds: float


class Diverged(DlkitError):
    """The loss or a gradient is not finite. The weights are those of before."""

    def __init__(self, step: int, epoch: int, lr: float) -> None:
        super().__init__(
            f"training diverged: the loss or a gradient is not finite at step {step} (epoch {epoch}, lr {lr:.3g})",
            f"try a smaller rate, such as --lr {lr / 10:.2g}, or find one with 'dlkit lrfind'",
            ExitCode.INTERNAL,
        )


def fit(
    model: nn.Module,
    train: Batches,
    valid: Batches,
    objective: Objective,
    recipe: Recipe,
    stop: Stop,
    bar: Bar,
) -> Iterator[Epoch]:
    """Train `model` in place; yield after every epoch. Ends early, with a last shorter epoch, when `stop` is set."""
    steps = Stepper(model, objective, make_optimizer(model, recipe.optimizer, recipe.lr, recipe.weight_decay))
    factor, total, done = SCHEDULES[recipe.schedule], recipe.epochs * len(train), 0
    model.train()
    for epoch in range(1, recipe.epochs + 1):
        losses, rows, first, started = [], 0, done, time.perf_counter()
        for batch in train.shuffled(epoch):
            lr = recipe.lr * factor(done, total)
            losses.append(steps(batch, lr) * len(batch[1]))
            rows, done = rows + len(batch[1]), done + 1
            bar.advance()
            if done % CHECK_EVERY == 0:
                _check(losses, first, epoch, lr)
            if stop.asked:
                break
        _check(losses, first, epoch, lr)
        synchronize(train.device)
        seconds = time.perf_counter() - started
        train_loss = torch.stack(losses).cpu().double().sum().item() / rows
        valid_loss, metric = evaluate(model, valid, objective)
        yield Epoch(epoch, done, lr, train_loss, valid_loss, metric, rows, seconds)
        if stop.asked:
            return


def _check(losses: list[torch.Tensor], first: int, epoch: int, lr: float) -> None:
    """Raise at the first loss of this epoch that is not finite."""
    finite = torch.isfinite(torch.stack(losses[-CHECK_EVERY:])).cpu()
    if not finite.all():
        offset = max(len(losses) - CHECK_EVERY, 0) + int(finite.logical_not().nonzero()[0])
        raise Diverged(first + offset + 1, epoch, lr)
