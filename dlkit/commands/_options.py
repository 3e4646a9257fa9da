"""Options that several commands share, declared once."""

import inspect
import math
from collections.abc import Callable
from typing import Annotated, Any, Literal

import typer

from dlkit.core import complete
from dlkit.core.job import JobOptions
from dlkit.core.result import Result

_DATA, _SPLIT, _TRAINING, _MACHINE = "Reading the data", "Split", "Training", "Machine"


def _number(text: str, low: float, closed: bool) -> float:
    """A finite number of at least (or above) `low`; the message says the range and what was given."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value) or value < low or (value == low and not closed):
        bound = "at least" if closed else "above"
        raise typer.BadParameter(f"must be a finite number {bound} {low:g}. Got {text!r} instead.")
    return value


def positive(text: str) -> float:
    return _number(text, 0, closed=False)


def not_negative(text: str) -> float:
    return _number(text, 0, closed=True)


def share(text: str) -> float:
    value = _number(text, 0, closed=False)
    if value >= 1:
        raise typer.BadParameter(f"must be a share between 0 and 1, such as 0.2. Got {text!r} instead.")
    return value


Data = Annotated[
    str,
    typer.Argument(
        metavar="DATA",
        help="A CSV, TSV, Parquet, JSONL, NPZ or IDX file, a folder of class folders of images, "
        "or digits, iris, wine, breast_cancer, diabetes.",
        show_default=False,
    ),
]
Network = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[NETWORK]...",
        autocompletion=complete.networks,
        help="Layers, a name (dlkit models), @FILE or -. Left out: a perceptron for tables, a CNN for images.",
        show_default=False,
    ),
]
Target = Annotated[
    str | None,
    typer.Option(
        help="The column to predict.",
        autocompletion=complete.columns,
        rich_help_panel=_DATA,
        show_default="target, label, y or class",
    ),
]
Task = Annotated[
    Literal["classification", "regression"] | None,
    typer.Option(help="What to predict it as.", rich_help_panel=_DATA, show_default="told by the target"),
]
Na = Annotated[
    list[str] | None,
    typer.Option(help="A cell that means missing, besides the empty one. Repeatable.", rich_help_panel=_DATA),
]
Categorical = Annotated[
    list[str] | None,
    typer.Option(
        help="A column to read as categories. Repeatable.", autocompletion=complete.columns, rich_help_panel=_DATA
    ),
]
Numeric = Annotated[
    list[str] | None,
    typer.Option(
        help="A column to read as numbers. Repeatable.", autocompletion=complete.columns, rich_help_panel=_DATA
    ),
]
Drop = Annotated[
    list[str] | None,
    typer.Option(help="A column to leave out. Repeatable.", autocompletion=complete.columns, rich_help_panel=_DATA),
]
Delimiter = Annotated[
    str | None,
    typer.Option(help="What separates the cells.", rich_help_panel=_DATA, show_default="comma; tab in .tsv"),
]
Valid = Annotated[
    float,
    typer.Option(
        help="Share of the rows held out for validation.",
        parser=share,
        metavar="SHARE",
        rich_help_panel=_SPLIT,
    ),
]
BatchSize = Annotated[
    int | None,
    typer.Option(min=1, help="Rows a step.", rich_help_panel=_TRAINING, show_default="about 64 steps an epoch"),
]
Optimizer = Annotated[
    Literal["adamw", "sgd"],
    typer.Option(help="AdamW, or SGD with Nesterov momentum 0.9.", rich_help_panel=_TRAINING),
]
WeightDecay = Annotated[
    float,
    typer.Option(
        help="Decoupled for AdamW; biases and norms are left out.",
        parser=not_negative, metavar="NUMBER", rich_help_panel=_TRAINING,
    ),
]  # fmt: skip
Seed = Annotated[
    int,
    typer.Option(
        min=0,
        max=2**31 - 1,
        help="Fixes the split, the weights and the order of rows.",
        rich_help_panel=_SPLIT,
    ),
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.", rich_help_panel=_MACHINE)]

_JOB: dict[str, Any] = {
    "data": Data,
    "network": Network,
    "batch_size": BatchSize,
    "optimizer": Optimizer,
    "weight_decay": WeightDecay,
    "valid": Valid,
    "seed": Seed,
    "target": Target,
    "task": Task,
    "na": Na,
    "categorical": Categorical,
    "numeric": Numeric,
    "drop": Drop,
    "delimiter": Delimiter,
    "device": Device,
}
_REPEATABLE = ("network", "na", "categorical", "numeric", "drop")


def job(command: Callable[..., Result]) -> Callable[..., Result]:
    """`command(job, …)` as a command line: DATA, NETWORK, its own options, then those that say the rest of a job."""

    def wrapper(**arguments: Any) -> Result:
        said = {name: arguments.pop(name) for name in _JOB}
        said |= {name: tuple(said[name] or ()) for name in _REPEATABLE}
        return command(JobOptions(**said), **arguments)

    own = list(inspect.signature(command).parameters.values())[1:]
    shared = [_parameter(name, kind) for name, kind in _JOB.items()]
    signature = inspect.Signature([*shared[:2], *own, *shared[2:]])
    wrapper.__signature__ = signature  # type: ignore[attr-defined]
    wrapper.__module__ = command.__module__
    return wrapper


def _parameter(name: str, annotation: Any) -> inspect.Parameter:
    default = JobOptions.__dataclass_fields__[name].default
    if name == "data":
        default = inspect.Parameter.empty
    elif name in _REPEATABLE:
        default = None
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
