"""Options that several commands share, declared once."""

import inspect
from collections.abc import Callable, Iterable
from typing import Annotated, Any, Literal, get_args

import typer

from dlkit.commands._numbers import below_one as below_one
from dlkit.commands._numbers import not_negative as not_negative
from dlkit.commands._numbers import positive as positive
from dlkit.commands._numbers import reader
from dlkit.commands._numbers import share as share
from dlkit.commands._resumed import resumed
from dlkit.core import complete
from dlkit.core.draw import PICTURES
from dlkit.core.errors import DlkitError
from dlkit.core.job import JobOptions
from dlkit.core.reading import ROLES, Reading
from dlkit.core.result import Result
from dlkit.core.splitting import Splitting

_DATA, _SPLIT, _TRAINING, _MACHINE, _START = "Reading the data", "Split", "Training", "Machine", "Starting point"
_TEXT = "Text"


Data = Annotated[
    str,
    typer.Argument(
        metavar="DATA",
        help="A CSV, TSV, Parquet, JSONL, NPZ or IDX file, a folder of class folders of images, a text (.txt), "
        "or digits, iris, wine, breast_cancer, diabetes.",
        show_default=False,
    ),
]
Network = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[NETWORK]...",
        autocompletion=complete.networks,
        help="Layers, a name (dlkit models), @FILE, - or FILE.py:CLASS, whose code is run. Left out: a perceptron "
        "for tables, a CNN for images, a recurrent network for a column of text, a small GPT for a .txt.",
        show_default=False,
    ),
]


def _low_rank(text: str) -> str:
    """A --lora in the one way of writing it."""
    from dlkit.core.matrices import parse_lora

    return str(parse_lora(text))


def picture(text: str) -> str:
    """The name of a file that can be drawn in."""
    if not text.lower().endswith(PICTURES):
        raise typer.BadParameter(f"must end in {', '.join(PICTURES)}. Got {text!r} instead.")
    return text


def _columns(what: str, *names: str) -> Any:
    """A repeatable option that names columns."""
    option = typer.Option(*names, help=what, autocompletion=complete.columns, metavar="COLUMN", rich_help_panel=_DATA)
    return Annotated[list[str] | None, option]


Valid = Annotated[
    float,
    typer.Option(
        help="Share of the rows held out for validation.",
        parser=share,
        metavar="SHARE",
        rich_help_panel=_SPLIT,
    ),
]


def _rows(text: str) -> int | str:
    if text == "auto":
        return text
    if not text.isdecimal() or not int(text):
        raise typer.BadParameter(f"must be a whole number of rows, 1 or more, or auto. Got {text!r} instead.")
    return int(text)


BatchSize = Annotated[
    Any,
    typer.Option(parser=_rows, metavar="ROWS|auto", help="Rows a step; auto: as many as memory holds.",
                 rich_help_panel=_TRAINING, show_default="about 64 steps an epoch"),
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


def _target(what: str) -> Any:
    guessed = "target, label, y or class"
    option = typer.Option(
        help=what, autocompletion=complete.columns, metavar="COLUMN", rich_help_panel=_DATA, show_default=guessed
    )
    return Annotated[list[str] | None, option]


_READING: dict[str, Any] = {
    "target": _target("The column to predict."),
    "task": Annotated[
        Literal["classification", "regression"] | None,
        typer.Option(help="What to predict it as.", rich_help_panel=_DATA, show_default="told by the target"),
    ],
    "na": Annotated[
        list[str] | None,
        typer.Option(
            help="A cell that means missing, besides the empty one. Repeatable, as are these:",
            metavar="TEXT", rich_help_panel=_DATA,
        ),
    ],
    "numeric": _columns("Read as numbers."),
    "categorical": _columns("Read as categories."),
    "datetime": _columns("Read as dates and times."),
    "text": _columns("Prose: words for baseline; the one column that train reads, as tokens; else no feature."),
    "id": _columns("Tells rows or groups apart: no feature.", "--id"),
    "drop": _columns("Left out."),
    "delimiter": Annotated[
        str | None,
        typer.Option(
            help="What separates the cells.",
            metavar="CHAR",
            rich_help_panel=_DATA,
            show_default="comma; tab in .tsv",
        ),
    ],
    "header": Annotated[
        bool,
        typer.Option("--no-header", help="The first row is data; columns are c1, c2, …", rich_help_panel=_DATA),
    ],
    "encoding": Annotated[
        str, typer.Option(help="utf-16, cp1252, latin-1, … of a text.", metavar="NAME", rich_help_panel=_DATA)
    ],
    "image_size": Annotated[
        int,
        typer.Option(
            help="Side of the square that a folder's images are cut to.",
            metavar="PIXELS",
            rich_help_panel=_DATA,
        ),
    ],
}  # fmt: skip


def _split_column(what: str) -> Any:
    option = typer.Option(help=what, autocompletion=complete.columns, metavar="COLUMN", rich_help_panel=_SPLIT)
    return Annotated[str | None, option]


_SPLITTING: dict[str, Any] = {
    "stratify": _split_column("Its values are in the same shares on every side."),
    "group": _split_column("None of its values is on two sides."),
    "time": _split_column("Validation is strictly later than training."),
    "gap": Annotated[
        str | None,
        typer.Option(help="Time left out between the sides: 7d, 12h, 30m.", metavar="TIME", rich_help_panel=_SPLIT),
    ],
    "hash": _split_column("Its value alone decides the side, in any other file too."),
    "split": _split_column("It says the side: train, valid (or 0, 1), test."),
}
_JOB_SPLITTING = ("group", "time", "gap", "split")
_JOB: dict[str, Any] = {
    "data": Data,
    "network": Network,
    "batch_size": BatchSize,
    "valid": Valid,
    "seed": Seed,
    "device": Device,
    "init_from": Annotated[
        str | None,
        typer.Option(metavar="RUN", help="Start from a run's weights, and its network if none is given.",
                     rich_help_panel=_START, show_default="drawn"),
    ],
    "vocab": Annotated[
        str | None,
        typer.Option(metavar="char|byte|bpe:SIZE", help="What a token of a .txt or of --text COLUMN is.",
                     rich_help_panel=_TEXT,
                     show_default="char; of a column without NETWORK bpe:4000, with the extra [text]"),
    ],
    "context": Annotated[
        int | None,
        typer.Option(min=1, max=1 << 20, metavar="TOKENS", help="Tokens that the network reads at once.",
                     rich_help_panel=_TEXT, show_default="128; of a column its longest text, 512 at most"),
    ],
    "freeze": Annotated[
        list[str] | None,
        typer.Option(metavar="PATTERN", help="Layers or weights that stay: conv*, linear1.bias. Repeatable.",
                     rich_help_panel=_START, show_default="none"),
    ],
    "lora": Annotated[
        str | None,
        typer.Option(parser=reader(_low_rank), metavar="r=R,alpha=A,targets=q,v", rich_help_panel=_START,
                     show_default="none", help="With --init-from: train low-rank adapters alone, merged into the "
                     "weights that are kept. Targets: q,v, or linear without attention; of a module of your own also "
                     "the names of its layers."),
    ],
}  # fmt: skip


_JOB_READING: dict[str, Any] = {
    "target": _target("The column to predict; given again, several of two values each (multi-label)."),
    "task": Annotated[
        Literal["classification", "regression", "multi-label"] | None,
        typer.Option(help="What to predict it as.", rich_help_panel=_DATA, show_default="told by the target"),
    ],
}
"""What a command that can learn several targets says otherwise."""


def reading(*, without: tuple[str, ...] = ()) -> Callable[[Callable[..., Result]], Callable[..., Result]]:
    """`command(reading, …)` as a command line: its own arguments and options, then those of Reading, some left out."""

    def decorate(command: Callable[..., Result]) -> Callable[..., Result]:
        names = [name for name in _READING if name not in without]

        def wrapper(**arguments: Any) -> Result:
            return command(_read_options(arguments, names, command.__module__.rpartition(".")[2]), **arguments)

        own = list(inspect.signature(command).parameters.values())[1:]
        return _as_command(wrapper, command, [*own, *(_parameter(name, _READING[name], Reading) for name in names)])

    return decorate


def splitting(*names: str) -> Callable[[Callable[..., Result]], Callable[..., Result]]:
    """`command(reading, splitting, …)` as `command(reading, …)` with the options `names` of Splitting."""

    def decorate(command: Callable[..., Result]) -> Callable[..., Result]:
        def wrapper(reading: Reading, **arguments: Any) -> Result:
            return command(reading, Splitting(**{name: arguments.pop(name) for name in names}), **arguments)

        first, _, *own = inspect.signature(command).parameters.values()
        options = [_parameter(name, _SPLITTING[name], Splitting) for name in names]
        return _as_command(wrapper, command, [first, *own, *options])

    return decorate


def _read_options(arguments: dict[str, Any], names: Iterable[str] = _READING, alone: str | None = None) -> Reading:
    """A Reading out of the arguments of a command, which loses them. `alone` is a command that takes one target."""
    said = {name: arguments.pop(name) for name in names}
    if targets := said.pop("target", None):
        if alone and len(targets) > 1:
            given = " ".join(f"--target {name}" for name in targets)
            raise DlkitError(f"{given}: {alone} takes one target", "dlkit train learns several at once")
        said |= {"target": targets[0]} if len(targets) == 1 else {"targets": tuple(targets)}
    said |= {name: tuple(value or ()) for name, value in said.items() if name in _REPEATABLE}
    if "header" in said:
        said["header"] = not said["header"]  # the flag is --no-header
    return Reading(**said)


_REPEATABLE = ("na", *ROLES)


def job(command: Callable[..., Result]) -> Callable[..., Result]:
    """`command(job, …)` as a command line: DATA, NETWORK, its own options, then those that say the rest of a job."""

    own = list(inspect.signature(command).parameters.values())[1:]
    resumes = any(parameter.name == "resume" for parameter in own)

    def wrapper(**arguments: Any) -> Result:
        if resumes:
            arguments = resumed(arguments.pop("ctx"), arguments)
        said = {name: arguments.pop(name) for name in _JOB}
        said |= {name: tuple(said[name] or ()) for name in ("network", "freeze")}
        if said["batch_size"] == "auto":
            said |= {"batch_size": None, "find_batch": True}
        divided = Splitting(**{name: arguments.pop(name) for name in _JOB_SPLITTING})
        return command(JobOptions(**said, reading=_read_options(arguments), splitting=divided), **arguments)

    shared = [_parameter(name, kind, JobOptions) for name, kind in _JOB.items()]
    if resumes:  # then DATA may be left out: the run that is taken up says it
        shared[0] = shared[0].replace(default=None, annotation=_optional(Data))
        own.append(inspect.Parameter("ctx", inspect.Parameter.KEYWORD_ONLY, annotation=typer.Context))
    divide = [_parameter(name, _SPLITTING[name], Splitting) for name in _JOB_SPLITTING]
    read = [_parameter(name, kind, Reading) for name, kind in (_READING | _JOB_READING).items()]
    return _as_command(wrapper, command, [*shared[:2], *own, *shared[2:], *divide, *read])


def _optional(annotation: Any) -> Any:
    kind, option = get_args(annotation)
    return Annotated[kind | None, option]


def _as_command(
    wrapper: Callable[..., Result], command: Callable[..., Result], parameters: list[inspect.Parameter]
) -> Callable[..., Result]:
    wrapper.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    wrapper.__module__ = command.__module__
    return wrapper


def _parameter(
    name: str, annotation: Any, owner: type[JobOptions] | type[Reading] | type[Splitting]
) -> inspect.Parameter:
    """One option, with the default that the field of its name has in `owner`."""
    default = owner.__dataclass_fields__[name].default
    if name == "data":
        default = inspect.Parameter.empty
    elif name == "header":
        default = False
    elif default == ():
        default = None
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
