"""The options that say how to train, declared once for `train` and `lrfind`."""

import inspect
from collections.abc import Callable
from typing import Annotated, Any, Literal

import typer

from dlkit.commands import _options as opt
from dlkit.core.recipe import Recipe
from dlkit.core.result import Result

_TRAINING, _SCHEDULE, _LOSS = "Training", "Schedule", "Loss"
_REGULAR, _MEMORY, _LOOK = "Regularisation", "Precision and memory", "Seeing"


def _rate(text: str) -> float | str:
    return text if text == "auto" else opt.positive(text)


def _number(parser: Callable[[str], Any], help: str, panel: str, unit: str = "NUMBER", shown: str | None = None) -> Any:
    option = typer.Option(help=help, parser=parser, metavar=unit, rich_help_panel=panel, show_default=shown or True)
    return Annotated[float if shown is None else float | None, option]


def _count(help: str, panel: str, shown: str | None = None) -> Any:
    option = typer.Option(min=1, help=help, rich_help_panel=panel, show_default=shown or True)
    return Annotated[int if shown is None else int | None, option]


def _flag(help: str, panel: str) -> Any:
    return Annotated[bool, typer.Option(help=help, rich_help_panel=panel)]


_OPTIONS: dict[str, Any] = {
    "epochs": _count("Passes over the training rows.", _TRAINING),
    "lr": _number(_rate, "Peak learning rate; auto: what dlkit lrfind suggests.", _TRAINING, "NUMBER|auto"),
    "optimizer": Annotated[
        Literal["adamw", "adam", "sgd", "rmsprop", "muon"],
        typer.Option(help="As torch has them; muon: matrices, AdamW for the rest.", rich_help_panel=_TRAINING),
    ],
    "weight_decay": _number(
        opt.not_negative, "Not on biases and norms.", _TRAINING, shown="0.01 adamw, muon; 0.0001 sgd; else 0"
    ),
    "momentum": _number(
        opt.below_one, "Adam's β1 likewise. Said, it is not cycled.", _TRAINING, shown="0.9; 0.95 muon; 0 rmsprop"
    ),
    "beta2": _number(opt.below_one, "Adam's β2, RMSprop's α.", _TRAINING, shown="0.999; 0.99 rmsprop"),
    "nesterov": Annotated[
        bool | None,
        typer.Option("--nesterov/--no-nesterov", help="For sgd and muon.", rich_help_panel=_TRAINING,
                     show_default="on"),
    ],
    "schedule": Annotated[
        Literal["one-cycle", "cosine", "cosine-restarts", "linear", "wsd", "plateau", "constant"],
        typer.Option(help="How the rate moves; wsd: warm-up, stable, decay.", rich_help_panel=_SCHEDULE),
    ],
    "warmup": _number(
        opt.not_negative, "Rise at the start: a share of the steps, or steps.", _SCHEDULE,
        shown="0.3 one-cycle; 0.1 linear; 0.05 wsd; else 0",
    ),
    "min_lr": _number(opt.not_negative, "The rate at the end.", _SCHEDULE, shown="0"),
    "cycles": _count("Cosines of cosine-restarts, each twice as long.", _SCHEDULE, "3"),
    "decay": _number(opt.share, "Share of the steps at the end in which wsd falls.", _SCHEDULE, "SHARE", "0.2"),
    "loss": Annotated[
        Literal["cross-entropy", "focal", "bce", "mse", "mae", "huber", "smooth-l1"] | None,
        typer.Option(help="What is minimised; targets of a regression are standardised.", rich_help_panel=_LOSS,
                     show_default="cross-entropy, bce of several labels, or mse"),
    ],
    "label_smoothing": _number(opt.share, "Of the cross-entropy.", _LOSS, "SHARE", "0"),
    "class_weights": Annotated[
        str | None,
        typer.Option(metavar="balanced|NAME=W,…", help="What a class counts; of several labels, a row with it.",
                     rich_help_panel=_LOSS,
                     show_default="1 each"),
    ],
    "gamma": _number(opt.not_negative, "Focal loss: exponent of 1 - p.", _LOSS, shown="2"),
    "delta": _number(opt.positive, "Huber's δ, smooth L1's β, in std of the target.", _LOSS, shown="1"),
    "l1": _number(opt.not_negative, "Penalty on the size of weights.", _REGULAR),
    "clip": _number(opt.positive, "Largest norm of the gradient.", _REGULAR, shown="none"),
    "patience": _count("Stop after so many epochs without a better metric.", _REGULAR, "none"),
    "ema": _number(opt.share, "Judge and keep a moving average of the weights, of this decay.", _REGULAR, "DECAY",
                   "none"),
    "swa": _number(opt.share, "Average the weights of this share of epochs at the end.", _REGULAR, "SHARE", "none"),
    "watch": _flag("Measure a step an epoch: gradients, updates, dead units.", _LOOK),
    "augment": Annotated[
        str | None,
        typer.Option(metavar="flip,crop:4,…", help="Change images in training: flip, vflip, crop:PIXELS, resize:SHARE, "
                     "color:STRENGTH, mixup:ALPHA, cutmix:ALPHA.", rich_help_panel=_REGULAR, show_default="none"),
    ],
    "precision": Annotated[
        Literal["fp32", "tf32", "bf16", "fp16"],
        typer.Option(help="Of matrix products; fp16 with loss scaling.", rich_help_panel=_MEMORY),
    ],
    "accumulate": _count("Micro-batches that a step's batch is cut into.", _MEMORY),
    "checkpoint_activations": _flag("Keep few activations, compute the others twice.", _MEMORY),
    "compile": _flag("Compile the network with torch.compile.", _MEMORY),
}  # fmt: skip


def recipe(*leave_out: str) -> Callable[[Callable[..., Result]], Callable[..., Result]]:
    """`command(job, recipe, …)` as `command(job, …)` with the options of a recipe, those of `leave_out` apart."""
    names = [name for name in _OPTIONS if name not in leave_out]

    def decorate(command: Callable[..., Result]) -> Callable[..., Result]:
        def wrapper(job: Any, **arguments: Any) -> Result:
            said = {name: arguments.pop(name) for name in names}
            if said.get("lr") == "auto":
                said |= {"lr": Recipe.lr, "find_lr": True}
            return command(job, Recipe(**said), **arguments)

        first, _, *own = inspect.signature(command).parameters.values()
        options = [_parameter(name) for name in names]
        wrapper.__signature__ = inspect.Signature([first, *own, *options])  # type: ignore[attr-defined]
        wrapper.__module__ = command.__module__
        return wrapper

    return decorate


def _parameter(name: str) -> inspect.Parameter:
    default = Recipe.__dataclass_fields__[name].default
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=_OPTIONS[name])
