"""Options of commands that trace a module of the user's own."""

from typing import Annotated, Literal

import typer

Dtype = Annotated[
    Literal["float32", "float16", "bfloat16", "int64"] | None,
    typer.Option(
        help="The input's type, for a module of your own.",
        rich_help_panel="A module of your own",
        show_default="its parameters'; int64 if it starts with an embedding",
    ),
]
