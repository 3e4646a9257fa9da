"""The options that spread a run over processes: the command starts itself so many times and waits for the end."""

import inspect
import os
from collections.abc import Callable, Sequence
from typing import Annotated, Any

import typer

from dlkit.core import peers
from dlkit.core.errors import DlkitError, ExitCode
from dlkit.core.keeping import Processes
from dlkit.core.result import Result

_PANEL = "Processes"
_EACH = 8
"""Processes for each processor, beyond which a machine is lost to everybody: each loads torch and holds the data."""

Nproc = Annotated[
    int, typer.Option(min=1, help="Processes on this machine (torchrun for several).", rich_help_panel=_PANEL)
]
_OPTIONS: dict[str, Any] = {
    "nproc": Nproc,
    "shard": Annotated[
        bool, typer.Option(help="FSDP: weights and moments in shards, not whole in each.", rich_help_panel=_PANEL)
    ],
    "max_restarts": Annotated[
        int,
        typer.Option(min=0, help="Go on so often from the last checkpoint after a kill.", rich_help_panel=_PANEL),
    ],
}


def processes(*names: str) -> Callable[[Callable[..., Result]], Callable[..., Result]]:
    """`command(…)` with the options of a Processes, or with those named alone; it is told if it has a `processes`."""
    kept = names or tuple(_OPTIONS)

    def decorate(command: Callable[..., Result]) -> Callable[..., Result]:
        def wrapper(*arguments: Any, **said: Any) -> Result:
            how, job = Processes(**{name: said.pop(name) for name in kept}), arguments[0]
            start(how, job.data, *job.network)
            return command(*arguments, **said, **({"processes": how} if wants else {}))

        wants = "processes" in inspect.signature(command).parameters
        own = [p for name, p in inspect.signature(command).parameters.items() if name != "processes"]
        wrapper.__signature__ = inspect.Signature([*own, *map(_parameter, kept)])  # type: ignore[attr-defined]
        wrapper.__module__ = command.__module__
        return wrapper

    return decorate


def _parameter(name: str) -> inspect.Parameter:
    default = Processes.__dataclass_fields__[name].default
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=_OPTIONS[name])


def start(how: Processes, *inputs: str) -> None:
    """Run the command as so many processes, and end with their exit code; go on in one of these, or where it is alone.

    What would have no effect is refused, and standard input among the `inputs`.
    """
    _check(how, inputs)
    if how.nproc > 1 and not peers.several():
        from dlkit.core import launch

        raise typer.Exit(launch.run(peers.argv, how.nproc, how.max_restarts))


def single(nproc: int, what: str) -> None:
    """Refuse --nproc for what one process does; of torchrun's processes the first goes on, and the others end."""
    if nproc > 1:
        raise DlkitError(f"--nproc has no effect on {what}: that is the work of one process", "leave --nproc out")
    if peers.rank():
        raise peers.Echo("", code=ExitCode.OK)


def _check(how: Processes, inputs: Sequence[str]) -> None:
    """Refuse what would have no effect."""
    if how.nproc > 1 and peers.under_torchrun():
        raise DlkitError("--nproc: torchrun has started the processes already", "leave --nproc out")
    if how.nproc > 1 and "-" in inputs:
        raise DlkitError("--nproc: several processes cannot share one standard input", "give a file")
    cores = os.cpu_count() or 1
    if how.nproc > _EACH * cores:
        raise DlkitError(f"--nproc {how.nproc}: this machine has {cores} processors", f"at most {_EACH * cores}")
    if how.nproc == 1 and not peers.several():
        for flag, given in (("--shard", how.shard), ("--max-restarts", how.max_restarts)):
            if given:
                raise DlkitError(f"{flag} has no effect on one process", "add --nproc 2, or start it with torchrun")
