"""The options of `convshape`'s quick form, one convolution, and of its inverse."""

from typing import Annotated, Any

import typer

from dlkit.core.result import Result

_QUICK = "Quick form: one convolution, transposed or not"

KernelSize = Annotated[
    str | None, typer.Option("-k", "--kernel-size", metavar="K", help="7, or 3x5.", rich_help_panel=_QUICK)
]
Stride = Annotated[
    str | None, typer.Option("-s", "--stride", metavar="S", help="2, or 2x1.", show_default="1", rich_help_panel=_QUICK)
]
Padding = Annotated[
    str | None,
    typer.Option(
        "-p", "--padding", metavar="P", help="3, 1x2, same, same-tf, or 1.2x0.1 (before.after).",
        show_default="0", rich_help_panel=_QUICK,
    ),
]  # fmt: skip
Dilation = Annotated[
    str | None,
    typer.Option("-d", "--dilation", metavar="D", help="1, or 2x1.", show_default="1", rich_help_panel=_QUICK),
]
Transposed = Annotated[bool, typer.Option("--transposed", help="A transposed convolution.", rich_help_panel=_QUICK)]
OutputPadding = Annotated[
    str | None,
    typer.Option(metavar="P", help="Of a transposed one: 1, or 1x0.", show_default="0", rich_help_panel=_QUICK),
]
Filters = Annotated[
    int | None,
    typer.Option(
        "-f", "--filters", min=1, help="Output channels; without them parameters and MACs are unknown.",
        rich_help_panel=_QUICK,
    ),
]  # fmt: skip
Want = Annotated[
    str | None,
    typer.Option(
        metavar="SIZE", help="The wanted output, 112 or 112x56: solves for what is not given of -k, -s, -p, -d.",
        rich_help_panel=_QUICK,
    ),
]  # fmt: skip


def answer(words: list[str], quick: tuple[Any, ...], want: str | None, depth: int | None, explain: bool) -> Result:
    """The quick form, or with `want` its inverse."""
    from dlkit.core.quick import Options, table

    options = Options(*quick)
    if depth is not None:
        raise typer.BadParameter("one convolution has no blocks", param_hint="--depth")
    if want is None:
        return table(words, options, explain)
    if explain:
        raise typer.BadParameter(
            "--want answers with settings; run one of them to have it explained", param_hint="--explain"
        )
    if options.filters is not None:
        raise typer.BadParameter("--want solves for sizes, on which the output channels have no say", param_hint="-f")
    from dlkit.core import inverse

    return inverse.table(words, options, want)
