"""Options of commands that meet a module of the user's own."""

from collections.abc import Sequence
from typing import Annotated, Literal

import typer

from dlkit.core.errors import DlkitError
from dlkit.core.run import Run

Dtype = Annotated[
    Literal["float32", "float16", "bfloat16", "int64"] | None,
    typer.Option(
        help="The input's type, for a module of your own.",
        rich_help_panel="A module of your own",
        show_default="its parameters'; int64 if it starts with an embedding",
    ),
]
Module = Annotated[
    list[str] | None,
    typer.Option(
        metavar="FILE.py:CLASS", show_default="none",
        help="The module that a run was trained with, as it was named to train: its code is run, so it is never taken "
        "from the run itself. Its files must be what they were. Repeatable.",
    ),
]  # fmt: skip


def refuse_idle(modules: Sequence[str] | None, runs: Sequence[Run]) -> None:
    """A --module where no run has one."""
    if modules and not any("module" in run.config for run in runs):
        names = " and ".join(str(run.path) for run in runs)
        raise DlkitError(f"--module has no effect on {names}: no module of your own was trained there")
