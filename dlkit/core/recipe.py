"""How to train: all that `train` and `lrfind` are told about the step and the run, besides the rows and the network."""

import shlex
from dataclasses import dataclass, fields
from typing import Any

from dlkit.core.augment import parse_augment
from dlkit.core.errors import DlkitError
from dlkit.core.reading import MULTI_LABEL

OPTIMIZERS = ("adamw", "adam", "sgd", "rmsprop", "muon")
SCHEDULES = ("one-cycle", "cosine", "cosine-restarts", "linear", "wsd", "plateau", "constant")
LOSSES = {
    "classification": ("cross-entropy", "focal", "bce"),
    "regression": ("mse", "mae", "huber", "smooth-l1"),
    MULTI_LABEL: ("bce", "focal"),
}
PRECISIONS = ("fp32", "tf32", "bf16", "fp16")

_ADAMS = ("adamw", "adam", "muon")
_FLOORED = ("cosine", "cosine-restarts", "linear", "wsd", "plateau")
_MEANS_SOMETHING = {
    "beta2": ("optimizer", (*_ADAMS, "rmsprop")),
    "nesterov": ("optimizer", ("sgd", "muon")),
    "min_lr": ("schedule", _FLOORED),
    "cycles": ("schedule", ("cosine-restarts",)),
    "decay": ("schedule", ("wsd",)),
    "gamma": ("loss", ("focal",)),
    "delta": ("loss", ("huber", "smooth-l1")),
    "label_smoothing": ("loss", (None, "cross-entropy", "bce")),
    "class_weights": ("loss", (None, *LOSSES["classification"])),
}
"""Option -> the option that it belongs to, and the values of that with which it has an effect."""


@dataclass(frozen=True)
class Recipe:
    """The fields are options of the command line; None is 'not said', and means what `or_default` says.

    epochs, lr       passes over the training rows; the peak learning rate
    schedule         how the rate moves; `warmup` is a share of the steps below 1, a number of steps from 1 on
    optimizer        with `momentum` (β₁ of the Adam family), `beta2` (α of RMSprop), `nesterov`, `weight_decay`
    loss             None: cross-entropy, binary cross-entropy or mean squared error, as the task asks
    accumulate       micro-batches a step; the step's batch is the whole of them
    patience         epochs without a better metric before the run ends
    watch            measure a step an epoch, layer by layer
    find_lr          `lr` is what lrfind suggests, found before the run
    augment          how images are changed (core.augment)
    ema, swa         decay of the moving average of weights; share of the epochs at the end whose weights are averaged
    """

    epochs: int = 20
    lr: float = 0.003
    schedule: str = "one-cycle"
    warmup: float | None = None
    min_lr: float | None = None
    cycles: int | None = None
    decay: float | None = None
    optimizer: str = "adamw"
    weight_decay: float | None = None
    momentum: float | None = None
    beta2: float | None = None
    nesterov: bool | None = None
    loss: str | None = None
    label_smoothing: float | None = None
    class_weights: str | None = None
    gamma: float | None = None
    delta: float | None = None
    l1: float = 0.0
    clip: float | None = None
    patience: int | None = None
    ema: float | None = None
    swa: float | None = None
    augment: str | None = None
    precision: str = "fp32"
    accumulate: int = 1
    checkpoint_activations: bool = False
    compile: bool = False
    find_lr: bool = False
    watch: bool = False

    def __post_init__(self) -> None:
        for name, (owner, values) in _MEANS_SOMETHING.items():
            if getattr(self, name) is not None and getattr(self, owner) not in values:
                _refuse(name, owner, getattr(self, owner), values)
        if self.ema is not None and self.swa is not None:
            raise DlkitError("--ema and --swa are two ways to average weights: give one of them")
        if self.watch and self.compile:
            raise DlkitError("--watch has no effect on a compiled network: leave --compile out")
        if self.compile and self.checkpoint_activations:
            raise DlkitError("--checkpoint-activations does not go with --compile: leave one of them out")
        if self.augment is not None and parse_augment(self.augment).mixes:
            clash = "loss focal" if self.loss == "focal" else "class-weights" if self.class_weights else None
            if clash:
                raise DlkitError(f"--augment mixup and cutmix mix targets, which --{clash} does not take")
        if self.nesterov and self.momentum == 0:
            raise DlkitError("--nesterov needs a momentum above 0")
        if self.min_lr is not None and self.min_lr > self.lr and not self.find_lr:
            raise DlkitError(f"--min-lr {self.min_lr:g} is above the peak, --lr {self.lr:g}")
        if self.warmup is not None and self.schedule == "one-cycle" and self.warmup >= 1:
            raise DlkitError("--warmup of one-cycle is a share of the steps, such as 0.3")

    def words(self, *leave_out: str) -> str:
        """The part of a command line that says this, defaults left out."""
        return " ".join(option_words(self, leave_out))

    @property
    def decays(self) -> float:
        """The weight decay: 0.01 where it is decoupled, 0.0001 for SGD, none for Adam and RMSprop unless said."""
        default = {"adamw": 0.01, "muon": 0.01, "sgd": 1e-4}.get(self.optimizer, 0.0)
        return default if self.weight_decay is None else self.weight_decay

    @property
    def cycles_momentum(self) -> bool:
        """One-cycle moves the momentum against the rate (Smith 2018) unless the user fixed it."""
        return self.schedule == "one-cycle" and self.momentum is None and self.optimizer != "rmsprop"


def _refuse(name: str, owner: str, chosen: Any, values: tuple[Any, ...]) -> None:
    has = [value for value in values if value]
    said = f"--{_flag(owner)} {chosen}" if chosen else f"the default --{_flag(owner)}"
    raise DlkitError(f"--{_flag(name)} has no effect with {said}", f"it is for --{_flag(owner)} {' or '.join(has)}")


def _flag(name: str) -> str:
    return name.replace("_", "-")


def _number(value: float) -> str:
    """As short as it is read back as the same."""
    return f"{value:g}" if float(f"{value:g}") == value else repr(value)


def option_words(options: Any, leave_out: tuple[str, ...] = ()) -> list[str]:
    """The fields of a dataclass that differ from their defaults, as shell words: --name value, --flag, --no-flag."""
    words: list[str] = []
    for option in fields(options):
        value, flag = getattr(options, option.name), f"--{_flag(option.name)}"
        if value == option.default or option.name in leave_out:
            continue
        if isinstance(value, bool):
            words.append(flag if value else f"--no-{flag[2:]}")
            continue
        for one in value if isinstance(value, tuple) else (value,):
            words += [flag, shlex.quote(_number(one) if isinstance(one, float) else str(one))]
    return words
