"""The options of `rf`."""

from typing import Annotated

import typer

from dlkit.core.network import is_module
from dlkit.core.result import Result

_WHICH, _EFFECTIVE = "Which layer (default: the last map)", "Effective receptive field (loads torch)"

Network = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[SHAPE] NETWORK...",
        help="Layers, a name (dlkit models), @FILE, - for stdin, or FILE.py:CLASS; the input's shape first.",
        show_default=False,
    ),
]
At = Annotated[
    str | None, typer.Option(metavar="LAYER", help="This layer, named as in the table.", rich_help_panel=_WHICH)
]
Want = Annotated[
    str | None,
    typer.Option(
        metavar="SIZE", help="The first layer that sees this much: 200, or 200x100. Exit 1 if none does.",
        rich_help_panel=_WHICH,
    ),
]  # fmt: skip
Pixel = Annotated[
    str | None,
    typer.Option(
        metavar="Y,X", help="Which box of the input this output position sees; -q prints it as slices.",
        rich_help_panel="What one position sees",
    ),
]  # fmt: skip
Run = Annotated[
    str | None,
    typer.Option(metavar="DIR", help="The network of a run of dlkit train, in place of NETWORK; its weights are "
                 "those that --effective measures.", rich_help_panel=_EFFECTIVE),
]  # fmt: skip
Effective = Annotated[
    bool,
    typer.Option(
        "--effective",
        help="Measure the gradient at the input of the middle output, over random weights and inputs: the width "
        "that holds 95.45 % of it on each axis, and the size of Luo et al. 2016.",
        rich_help_panel=_EFFECTIVE,
    ),
]
Samples = Annotated[
    int | None, typer.Option(min=1, help="Draws to average.", show_default="20", rich_help_panel=_EFFECTIVE)
]
Seed = Annotated[
    int | None, typer.Option(min=0, help="Of weights and inputs.", show_default="0", rich_help_panel=_EFFECTIVE)
]


def measured(network: list[str], run: str | None, at: str | None, want: str | None, samples: int, seed: int) -> Result:
    """`rf --effective`: of a run, of a module of the user's own, or of a network in the language."""
    from dlkit.nn import effective

    if run is not None:
        subject = effective.of_run(run)
    elif any(map(is_module, network)):
        from dlkit.nn import live

        subject = live.subject(network)
    else:
        subject = effective.of_text(network)
    return effective.answer(subject, at, want, samples, seed)
