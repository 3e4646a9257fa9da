"""Learning-rate schedules as pure functions of the step: nothing to save, nothing to step out of order.

The one exception is `plateau`, which looks at the validation loss: its state is a few numbers.
"""

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, NamedTuple

from dlkit.core.errors import DlkitError
from dlkit.core.recipe import Recipe

Schedule = Callable[[int, int], float]
"""(step, total steps) -> factor of the learning rate, for step 0 … total − 1."""

WARM = 0.3  # share of one-cycle's steps that rise
_WARM = {"one-cycle": WARM, "linear": 0.1, "wsd": 0.05}
CYCLES = 3
DECAY = 0.2
MOMENTUM = (0.95, 0.85)  # one-cycle: at its ends, and at the peak


def one_cycle(step: int, total: int, warm: float = WARM, start: float = 25.0, end: float = 1e4) -> float:
    """Cosine, 1/25 to 1 over 30 % of the steps, then to 1/250,000 (Smith & Topin 2018; as torch's OneCycleLR)."""
    return _there_and_back(step, total, warm, 1 / start, 1.0, 1 / start / end)


def one_cycle_momentum(step: int, total: int, warm: float = WARM) -> float:
    """Against the rate: 0.95 to 0.85 and back, as OneCycleLR cycles it."""
    high, low = MOMENTUM
    return _there_and_back(step, total, warm, high, low, high)


def _there_and_back(step: int, total: int, warm: float, first: float, middle: float, last: float) -> float:
    peak = max(warm * total - 1, 0.0)
    if step <= peak and peak > 0:
        return _cosine(first, middle, step / peak)
    return _cosine(middle, last, (step - peak) / max(total - 1 - peak, 1e-9))


def cosine(step: int, total: int, floor: float = 0.0) -> float:
    """Cosine annealing from 1 to `floor` (Loshchilov & Hutter 2017)."""
    return _cosine(1.0, floor, step / total)


def cosine_restarts(step: int, total: int, cycles: int = CYCLES, floor: float = 0.0) -> float:
    """`cycles` cosines, each twice as long as the one before: floor + ½(1 − floor)(1 + cos πT/Tᵢ) (SGDR, ibid.)."""
    length = total / (2**cycles - 1)
    for _ in range(cycles - 1):
        if step < length:
            break
        step, length = step - length, 2 * length  # type: ignore[assignment]
    return _cosine(1.0, floor, step / length)


def linear(step: int, total: int, floor: float = 0.0) -> float:
    """A straight line from 1 to `floor`."""
    return 1 - (1 - floor) * step / total


def wsd(step: int, total: int, decay: float = DECAY, floor: float = 0.0) -> float:
    """Stable at 1, then 1 − √share to `floor` over the last `decay` of the steps (Hägele et al. 2024)."""
    start = (1 - decay) * total
    return 1.0 if step <= start else 1 - (1 - floor) * math.sqrt((step - start) / (total - start))


def constant(step: int, total: int) -> float:
    return 1.0


def warmed(schedule: Schedule, steps: int) -> Schedule:
    """`schedule` after `steps` of a straight rise from near 0 to 1."""

    def factor(step: int, total: int) -> float:
        if step < steps:
            return (step + 1) / (steps + 1)
        return schedule(step - steps, max(total - steps, 1))

    return factor


def _cosine(first: float, last: float, share: float) -> float:
    return last + (first - last) * (1 + math.cos(math.pi * min(share, 1.0))) / 2


SCHEDULES: dict[str, Schedule] = {
    "one-cycle": one_cycle,
    "cosine": cosine,
    "cosine-restarts": cosine_restarts,
    "linear": linear,
    "wsd": wsd,
    "plateau": constant,
    "constant": constant,
}


@dataclass
class Plateau:
    """A tenth of the rate after `patience` epochs in a row whose validation loss is not below the best by 0.01 %.

    ReduceLROnPlateau's rule, with `floor` as the least factor.
    """

    floor: float = 0.0
    patience: int = 5
    factor: float = 1.0
    best: float = math.inf
    bad: int = 0

    def observe(self, loss: float) -> None:
        if loss < self.best * (1 - 1e-4):
            self.best, self.bad = loss, 0
        else:
            self.bad += 1
        if self.bad > self.patience:
            self.factor, self.bad = max(self.factor * 0.1, self.floor), 0


class Rates(NamedTuple):
    """What a step is taken with. `momentum` is None where the optimiser's own stays."""

    lr: float
    momentum: float | None = None


class Plan:
    """The rate and the momentum of every step of a run of `total` steps, `per_epoch` of them an epoch.

    Called with the number of updates made so far: a step that loss scaling skipped is none. Only `plateau` has a state.
    """

    def __init__(self, recipe: Recipe, total: int, per_epoch: int) -> None:
        self.recipe, self.total = recipe, total
        self.schedule = _schedule(recipe, total)
        self.plateau = Plateau((recipe.min_lr or 0.0) / recipe.lr)
        # Averaging wants weights that still move: from its start on the rate stays where it is, its rise behind it.
        averaged = averaged_epochs(recipe.epochs, recipe.swa) * per_epoch if recipe.swa else 0
        self.last = max(total - averaged, _rise(recipe, total))

    def __call__(self, step: int) -> Rates:
        step = min(step, self.last, self.total - 1)
        lr = self.recipe.lr * self.schedule(step, self.total) * self.plateau.factor
        if not self.recipe.cycles_momentum:
            return Rates(lr)
        return Rates(lr, one_cycle_momentum(step, self.total, _warm(self.recipe)))

    def observe(self, valid_loss: float) -> None:
        """What an epoch showed."""
        if self.recipe.schedule == "plateau":
            self.plateau.observe(valid_loss)

    def state_dict(self) -> dict[str, Any]:
        return asdict(self.plateau)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.plateau = Plateau(**state)


def averaged_epochs(epochs: int, share: float) -> int:
    """How many epochs at the end stochastic weight averaging takes: one at least."""
    return max(round(share * epochs), 1)


def check_rise(recipe: Recipe, total: int) -> None:
    """Refuse a rise that is not over before the run is."""
    if _rise(recipe, total) >= total > 1:
        raise DlkitError(f"--warmup {recipe.warmup:g}: the run has {total} steps", "a share of them, such as 0.1")


def idle(recipe: Recipe) -> str | None:
    """Why a plateau's rate would never fall: the run is over before."""
    if recipe.schedule != "plateau":
        return None
    waits, patience = Plateau.patience + 1, recipe.patience
    falls = f"--schedule plateau lowers the rate after {waits} epochs without a lower loss"
    if patience is not None and patience <= waits:
        return f"{falls}; --patience {patience} ends the run before"
    return f"{falls}; --epochs is {recipe.epochs}" if recipe.epochs <= waits + 1 else None


def _warm(recipe: Recipe) -> float:
    """The rise at the start, as the user says it. One-cycle, linear and wsd have one in their name."""
    return _WARM.get(recipe.schedule, 0.0) if recipe.warmup is None else recipe.warmup


def _rise(recipe: Recipe, total: int) -> int:
    """Steps before the rate is at its peak."""
    warm = _warm(recipe)
    return round(warm * total) if warm < 1 else round(warm)


def _schedule(recipe: Recipe, total: int) -> Schedule:
    if recipe.schedule == "one-cycle":
        return partial(one_cycle, warm=_warm(recipe))
    said: dict[str, Any] = {}
    if recipe.min_lr is not None and recipe.schedule != "plateau":
        said["floor"] = recipe.min_lr / recipe.lr
    steps = _rise(recipe, total)
    if recipe.cycles is not None:
        said["cycles"] = recipe.cycles
    if recipe.schedule == "wsd":  # a share of all steps, of which the rise takes some
        share = DECAY if recipe.decay is None else recipe.decay
        said["decay"] = min(share * total / max(total - steps, 1), 1.0)
    schedule = partial(SCHEDULES[recipe.schedule], **said) if said else SCHEDULES[recipe.schedule]
    return warmed(schedule, steps) if steps else schedule
