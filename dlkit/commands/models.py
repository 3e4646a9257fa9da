"""List the named networks, or print one in the network language.

Examples:
  dlkit models
  dlkit models resnet50
  dlkit models resnet50:classes=10 > my.dlk && dlkit convshape @my.dlk

What is printed is the very text that the name stands for: copy it and change it.
"""

from typing import Annotated

import typer

from dlkit.core import catalogue
from dlkit.core.result import Result


def command(
    name: Annotated[
        str | None,
        typer.Argument(
            help="The network to print, with options as in resnet50:classes=10; none lists them all.",
            show_default=False,
            autocompletion=catalogue.names,
        ),
    ] = None,
) -> Result:
    return catalogue.listing() if name is None else catalogue.source(name)
