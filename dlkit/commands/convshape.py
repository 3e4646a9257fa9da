"""Output shape, parameters, MACs and receptive field of a network, layer by layer.

Examples:
  dlkit convshape 224 -k 7 -s 2 -p 3
  dlkit convshape 224 --want 112
  dlkit convshape 3x224x224 conv:64,k7,s2,p3 bn relu maxpool:k3,s2,p1 --explain
  dlkit convshape 3x32x32 '3*(conv:64,k3,p1 bn relu maxpool:k2)' flatten linear:10
  dlkit convshape 3x224x224 3x256x256 resnet50
  dlkit convshape 3x512x512 @net.dlk --json | jq .summary.output
  dlkit convshape gpt2:context=512
  dlkit convshape 3x224x224 net.py:Net:width=64,depth=3
  python -c 'print(model)' | dlkit convshape 3x224x224 -

A shape is C×L, C×H×W or C×D×H×W without the batch; T tokens before an embedding. MACs are
multiply-accumulates of convolutions, linear layers and attention (causal or not) for one
sample, not of bias, norm, pooling, activation, softmax or look-ups; FLOPs = 2·MACs. A Hugging
Face config.json is a network too. FILE.py:CLASS or PACKAGE.MODULE:CLASS, with arguments after
a second colon (literals; a plain word is a string, 3x5 a tuple), is a module of your own: it
is imported, which runs its code, and traced with torch on the meta device. Only the command
line may name one, never a file. Next: dlkit train DATA NETWORK trains the same text.
"""

from typing import Annotated

import typer

from dlkit.commands import _conv
from dlkit.commands._module import Dtype
from dlkit.core import shapes
from dlkit.core.network import is_module
from dlkit.core.result import Result


def command(
    network: Annotated[
        list[str],
        typer.Argument(
            metavar="[SHAPE...] NETWORK...",
            help="Input shapes; then layers, a name (dlkit models), @FILE, - for stdin, or FILE.py:CLASS.",
            show_default=False,
        ),
    ],
    depth: Annotated[
        int | None,
        typer.Option(
            min=0, help="Group the layers: 1 by block, 2 with joins opened once, … ; 0 shows every layer.",
            show_default="0; on a terminal 1 for more than 40 layers",
        ),
    ] = None,
    explain: Annotated[bool, typer.Option("--explain", help="Show each layer's formula with its numbers.")] = False,
    kernel_size: _conv.KernelSize = None,
    stride: _conv.Stride = None,
    padding: _conv.Padding = None,
    dilation: _conv.Dilation = None,
    filters: _conv.Filters = None,
    transposed: _conv.Transposed = False,
    output_padding: _conv.OutputPadding = None,
    want: _conv.Want = None,
    dtype: Dtype = None,
) -> Result:  # fmt: skip
    quick = kernel_size, stride, padding, dilation, output_padding, filters, transposed
    if want is not None or any(quick):
        return _conv.answer(network, quick, want, depth, explain)
    if explain and depth:
        raise typer.BadParameter("a block of layers has no formula; leave out --depth", param_hint="--explain")
    if any(map(is_module, network)):
        if explain:
            raise typer.BadParameter("--explain needs a network in the network language")
        from dlkit.nn import live

        return live.table(network, dtype, depth)
    if dtype is not None:
        raise typer.BadParameter("only a module of your own, FILE.py:CLASS, has a type", param_hint="--dtype")
    return shapes.table(network, depth, explain)
