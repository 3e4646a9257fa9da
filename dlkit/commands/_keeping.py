"""The options that say how a run is kept and taken up again."""

import inspect
from collections.abc import Callable
from typing import Annotated, Any

import typer

from dlkit.commands import _options as opt
from dlkit.core.errors import DlkitError
from dlkit.core.keeping import Every, Keeping
from dlkit.core.peers import restarted
from dlkit.core.result import Result
from dlkit.core.run import RunDirectory

_PANEL, _LOOK = "Run", "Seeing"


def _interval(text: str) -> Every:
    try:
        return Every.parse(text)
    except ValueError as problem:
        raise typer.BadParameter(str(problem)) from None


CheckpointEvery = Annotated[
    Any,
    typer.Option(parser=_interval, metavar="TIME|STEPS", help="Save the state of the run so often: 5m, 2h, 500.",
                 rich_help_panel=_PANEL),
]  # fmt: skip
Keep = Annotated[int, typer.Option(min=1, help="Checkpoints that stay, the newest.", rich_help_panel=_PANEL)]
Resume = Annotated[
    str | None,
    typer.Option(
        metavar="RUN|auto",
        help="Go on with a run, exactly; auto: with the newest unfinished one of this command.",
        rich_help_panel=_PANEL,
    ),
]
Plot = Annotated[
    str | None,
    typer.Option(parser=opt.picture, metavar="FILE", help="Draw the curves: .png, .svg or .pdf.", rich_help_panel=_LOOK,
                 show_default="none"),
]  # fmt: skip
Tensorboard = Annotated[
    bool,
    typer.Option("--tensorboard", help="Write RUN/tensorboard, for tensorboard --logdir runs.", rich_help_panel=_LOOK),
]
_OPTIONS: dict[str, Any] = {
    "checkpoint_every": ("5m", CheckpointEvery),
    "keep": (Keeping.keep, Keep),
    "resume": (None, Resume),
    "plot": (None, Plot),
    "tensorboard": (False, Tensorboard),
}


def keeping(command: Callable[..., Result]) -> Callable[..., Result]:
    """`command(job, recipe, keeping, …)` as `command(job, recipe, …)` with the options of a Keeping."""

    def wrapper(job: Any, recipe: Any, **said: Any) -> Result:
        how = {name: said.pop(name) for name in _OPTIONS}
        return command(job, recipe, Keeping(every=how.pop("checkpoint_every"), **how), **said)

    job, recipe, _, *own = inspect.signature(command).parameters.values()
    options = [_option(name, default, annotation) for name, (default, annotation) in _OPTIONS.items()]
    wrapper.__signature__ = inspect.Signature([job, recipe, *own, *options])  # type: ignore[attr-defined]
    wrapper.__module__ = command.__module__
    return wrapper


def check_out(out: str | None, keeping: Keeping) -> None:
    """Whether the run directory can be made, before anything is loaded. A run that is taken up has one."""
    if keeping.resume is None and not restarted():
        RunDirectory.check_free(out)
    elif out is not None and keeping.resume not in (None, "auto"):
        raise DlkitError(f"--out has no effect: {keeping.resume} goes on in its own directory", "leave --out out")


def _option(name: str, default: Any, annotation: Any) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
