"""All that the next step of a run depends on, in one place: what a checkpoint holds and a resumed run begins with.

The order of rows is a function of (seed, epoch), a step's randomness of (seed, step), what is done to a row of (seed,
epoch, row), and the rate of the step: so none of them is state.
"""

from dataclasses import dataclass

from torch import nn

from dlkit.nn.schedule import Plan
from dlkit.nn.step import Stepper


@dataclass
class State:
    """A run between two steps.

    `model`, `stepper` (optimisers, loss scale, averaged weights), `plan` and whatever else has a `state_dict` and a
    `load_state_dict` goes into a checkpoint by the attribute's name; the plain numbers go with them. To keep one thing
    more is to add one field.

    step, epoch, position  updates done; the epoch under way, from 1; batches of it done (all: not evaluated yet)
    loss_sum, loss_rows    of this epoch's training so far
    best, best_epoch       the best metric and where; `stale` epochs have passed since
    """

    model: nn.Module
    stepper: Stepper
    plan: Plan
    step: int = 0
    epoch: int = 1
    position: int = 0
    loss_sum: float = 0.0
    loss_rows: int = 0
    best: float | None = None
    best_epoch: int = 0
    stale: int = 0

    def end_epoch(self) -> None:
        """The next epoch begins."""
        self.epoch, self.position, self.loss_sum, self.loss_rows = self.epoch + 1, 0, 0.0, 0
