"""Output shape, parameters, MACs and receptive field of a network, layer by layer.

Examples:
  dlkit convshape 224 -k 7 -s 2 -p 3
  dlkit convshape 3x224x224 conv:64,k7,s2,p3 bn relu maxpool:k3,s2,p1
  dlkit convshape 3x32x32 '3*(conv:64,k3,p1 bn relu maxpool:k2)' flatten linear:10
  dlkit convshape resnet50
  dlkit convshape 3x512x512 @net.dlk --json | jq .summary.output
  dlkit convshape 3x224x224 net.py:Net:width=64,depth=3
  python -c 'print(model)' | dlkit convshape 3x224x224 -

A shape is C×L, C×H×W or C×D×H×W, without the batch. MACs are multiply-accumulates of
convolutions and linear layers for one sample (bias, norm, pooling, activation not
counted); FLOPs = 2·MACs. FILE.py:CLASS or PACKAGE.MODULE:CLASS, with arguments after a
second colon (literals; a plain word is a string, 3x5 a tuple), is a module of your own: it
is imported, which runs its code, and traced with torch on the meta device. Only the command
line may name one, never a file. Next: dlkit train DATA NETWORK trains the same text.
"""

from typing import Annotated, Literal

import typer

from dlkit.core import shapes
from dlkit.core.network import is_module
from dlkit.core.result import Result

_QUICK = "Quick form: one convolution"
_OWN = "A module of your own"


def command(
    network: Annotated[
        list[str],
        typer.Argument(
            metavar="[SHAPE] NETWORK...",
            help="The input's shape, then layers, a name (dlkit models), @FILE, - for stdin, or FILE.py:CLASS.",
            show_default=False,
        ),
    ],
    kernel_size: Annotated[
        str | None, typer.Option("-k", "--kernel-size", metavar="K", help="7, or 3x5.", rich_help_panel=_QUICK)
    ] = None,
    stride: Annotated[
        str, typer.Option("-s", "--stride", metavar="S", help="2, or 2x1.", rich_help_panel=_QUICK)
    ] = "1",
    padding: Annotated[
        str,
        typer.Option(
            "-p", "--padding", metavar="P", help="3, 1x2, same, or 1.2x0.1 (before.after).", rich_help_panel=_QUICK
        ),
    ] = "0",
    dilation: Annotated[
        str, typer.Option("-d", "--dilation", metavar="D", help="1, or 2x1.", rich_help_panel=_QUICK)
    ] = "1",
    filters: Annotated[
        int | None,
        typer.Option(
            "-f", "--filters", min=1, help="Output channels; without them parameters and MACs are unknown.",
            rich_help_panel=_QUICK,
        ),
    ] = None,
    dtype: Annotated[
        Literal["float32", "float16", "bfloat16", "int64"] | None,
        typer.Option(
            help="The input's type, for a module of your own.", rich_help_panel=_OWN,
            show_default="its parameters'; int64 if it starts with an embedding",
        ),
    ] = None,
) -> Result:  # fmt: skip
    if kernel_size is not None:
        return shapes.quick(network, kernel_size, stride, padding, dilation, filters)
    if (stride, padding, dilation, filters) != ("1", "0", "1", None):
        raise typer.BadParameter("the quick form needs a kernel size, for example -k 3", param_hint="-k")
    if any(map(is_module, network)):
        from dlkit.nn import live

        return live.table(network, dtype)
    if dtype is not None:
        raise typer.BadParameter("only a module of your own, FILE.py:CLASS, has a type", param_hint="--dtype")
    return shapes.table(network)
