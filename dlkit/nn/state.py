"""All that the next step of a run depends on, in one place: what a checkpoint holds and a resumed run begins with.

The order of rows is a function of (seed, epoch), a step's randomness of (seed, step), what is done to a row of (seed,
epoch, row), and the rate of the step: so none of them is state.
"""

from dataclasses import dataclass, field, fields
from typing import Any

import torch
from torch import nn

from dlkit.nn.schedule import Plan
from dlkit.nn.step import Stepper
from dlkit.nn.tree import like


@dataclass
class State:
    """A run between two steps.

    `model`, `stepper` (optimisers, loss scale, averaged weights), `plan` and whatever else has a `state_dict` and a
    `load_state_dict` goes into a checkpoint by the attribute's name; the plain numbers go with them. To keep one thing
    more is to add one field.

    step, epoch, position  updates done; the epoch under way, from 1; batches of it done (all: not evaluated yet)
    lr                     of the last step
    loss_sum, loss_rows    of this epoch's training so far
    averaged               the last epoch that went into the averages of weights
    best, best_epoch       the best metric and where; `stale` epochs have passed since
    best_weights           those of that epoch, on the host; a file of their own beside the checkpoints
    """

    model: nn.Module
    stepper: Stepper
    plan: Plan
    step: int = 0
    epoch: int = 1
    position: int = 0
    lr: float = 0.0
    loss_sum: float = 0.0
    loss_rows: int = 0
    averaged: int = 0
    best: float | None = None
    best_epoch: int = 0
    stale: int = 0
    best_weights: dict[str, torch.Tensor] = field(default_factory=dict)

    def _parts(self) -> dict[str, Any]:
        return {name: part for name, part in vars(self).items() if hasattr(part, "state_dict")}

    def _numbers(self) -> dict[str, Any]:
        return {f.name: vars(self)[f.name] for f in fields(self) if isinstance(vars(self)[f.name], int | float)}

    def state_dict(self) -> dict[str, Any]:
        """All of it but the best weights, as nested dicts."""
        return self._numbers() | {name: part.state_dict() for name, part in self._parts().items()}

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """Bring this to where `saved` was taken. KeyError where a part is missing."""
        for name, part in self._parts().items():
            weights = part.state_dict() if isinstance(part, nn.Module) else {}
            part.load_state_dict({k: like(weights[k], v) if k in weights else v for k, v in saved[name].items()})
            lay_out(part)
        for f in fields(self):
            if isinstance(saved.get(f.name), int | float):
                setattr(self, f.name, saved[f.name])

    def end_epoch(self) -> None:
        """The next epoch begins."""
        self.epoch, self.position, self.loss_sum, self.loss_rows = self.epoch + 1, 0, 0.0, 0


def lay_out(part: Any) -> None:
    """Bring an optimiser's moments into the memory layout of their weights, which a file does not keep."""
    for optimizer in getattr(part, "optimizers", [part]):
        if not isinstance(optimizer, torch.optim.Optimizer):
            continue
        for weight, moments in optimizer.state.items():
            for name, value in moments.items():
                if isinstance(value, torch.Tensor) and value.shape == weight.shape:
                    moments[name] = like(weight, value)
