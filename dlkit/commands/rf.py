"""Receptive field of a network: size, effective stride, effective padding and centre, layer by layer.

Examples:
  dlkit rf resnet50
  dlkit rf conv:64,k7,s2,p3 relu maxpool:k3,s2,p1
  dlkit rf resnet50 --at conv10
  dlkit rf 3x224x224 vgg16 --pixel 3,3
  dlkit rf vgg16 --want 200 -q
  dlkit rf resnet18 --effective
  dlkit rf 3x224x224 net.py:Net

The field is the theoretical one: the input positions that can change an output at all, borders
not clipped, in input pixels, axis by axis; statistics of norms are taken as given. The answer is
for the last map, before gap or flatten. Stride is the product of strides, padding how far output
0 reaches before the input, centre the middle of what it sees. After a transposed convolution rf
is the largest of all positions, rf_min the smallest. A squeeze-excite gate sees the whole input.
A sequence is T×D or C×L as the first layer that minds takes it; causal layers see the past.
Branches of different strides that join have no common field: exit 2. --effective loads torch, and
measures at initialisation how wide the part is that matters. FILE.py:CLASS or PACKAGE.MODULE:CLASS
is a module of your own: it is imported, which runs its code, and traced. Next: dlkit convshape.
"""

from typing import Annotated

import typer

from dlkit.core import receptive
from dlkit.core.network import is_module
from dlkit.core.result import Result

_WHICH = "Which layer (default: the last map)"
_EFFECTIVE = "Effective receptive field (loads torch)"


def command(
    network: Annotated[
        list[str],
        typer.Argument(
            metavar="[SHAPE] NETWORK...",
            help="Layers, a name (dlkit models), @FILE, - for stdin, or FILE.py:CLASS; the input's shape first.",
            show_default=False,
        ),
    ],
    at: Annotated[
        str | None, typer.Option(metavar="LAYER", help="This layer, named as in the table.", rich_help_panel=_WHICH)
    ] = None,
    want: Annotated[
        str | None,
        typer.Option(
            metavar="SIZE", help="The first layer that sees this much: 200, or 200x100. Exit 1 if none does.",
            rich_help_panel=_WHICH,
        ),
    ] = None,
    pixel: Annotated[
        str | None,
        typer.Option(
            metavar="Y,X", help="Which box of the input this output position sees; -q prints it as slices.",
            rich_help_panel="What one position sees",
        ),
    ] = None,
    effective: Annotated[
        bool,
        typer.Option(
            "--effective",
            help="Measure the gradient at the input of the middle output, over random weights and inputs: the width "
            "that holds 95.45 % of it on each axis, and the size of Luo et al. 2016.",
            rich_help_panel=_EFFECTIVE,
        ),
    ] = False,
    samples: Annotated[int, typer.Option(min=1, help="Draws to average.", rich_help_panel=_EFFECTIVE)] = 20,
    seed: Annotated[int, typer.Option(min=0, help="Of weights and inputs.", rich_help_panel=_EFFECTIVE)] = 0,
) -> Result:  # fmt: skip
    if at is not None and want is not None:
        raise typer.BadParameter("--at and --want both choose the layer; give one of them", param_hint="--at")
    if effective and pixel is not None:
        raise typer.BadParameter("--effective measures the middle position", param_hint="--pixel")
    if any(map(is_module, network)):
        if effective:
            raise typer.BadParameter("needs a network in the network language", param_hint="--effective")
        from dlkit.nn import live

        return live.field(network, at, pixel, want)
    if effective:
        from dlkit.nn import effective as measured

        return measured.answer(network, at, want, samples, seed)
    return receptive.answer(network, at, pixel, want)
