"""Receptive field of a network: size, effective stride, effective padding and centre, layer by layer.

Examples:
  dlkit rf resnet50
  dlkit rf conv:64,k7,s2,p3 relu maxpool:k3,s2,p1
  dlkit rf resnet50 --at conv10
  dlkit rf 3x224x224 vgg16 --pixel 3,3
  dlkit rf vgg16 --want 200 -q
  dlkit rf resnet18 --effective
  dlkit rf --run runs/digits-cnn-1 --effective
  dlkit rf 3x224x224 net.py:Net

The field is the theoretical one: the input positions that can change an output at all, borders
not clipped, in input pixels, axis by axis; statistics of norms are taken as given. The answer is
for the last map, before gap or flatten. Stride is the product of strides, padding how far output
0 reaches before the input, centre the middle of what it sees. After a transposed convolution rf
is the largest of all positions, rf_min the smallest. A squeeze-excite gate sees the whole input.
A sequence is T×D or C×L as the first layer that minds takes it; causal layers see the past.
Branches of different strides that join have no common field: exit 2. --effective loads torch, and
measures how wide the part is that matters: at initialisation, or with the weights of a run of
dlkit train. FILE.py:CLASS or PACKAGE.MODULE:CLASS is a module of your own: it is imported, which
runs its code, and traced. Next: dlkit convshape.
"""

import typer

from dlkit.commands import _rf
from dlkit.core import receptive
from dlkit.core.network import is_module
from dlkit.core.result import Result


def command(
    network: _rf.Network = None,
    at: _rf.At = None,
    want: _rf.Want = None,
    pixel: _rf.Pixel = None,
    effective: _rf.Effective = False,
    run: _rf.Run = None,
    samples: _rf.Samples = None,
    seed: _rf.Seed = None,
) -> Result:
    if at is not None and want is not None:
        raise typer.BadParameter("--at and --want both choose the layer; give one of them", param_hint="--at")
    if not network and run is None:
        raise typer.BadParameter("a network is missing, for example resnet50", param_hint="NETWORK")
    words = network or []
    if words and run is not None:
        raise typer.BadParameter("a run has its own network; leave NETWORK out", param_hint="--run")
    if effective:
        if pixel is not None:
            raise typer.BadParameter("--effective measures the middle position", param_hint="--pixel")
        return _rf.measured(words, run, at, want, samples or 20, seed or 0)
    for name, value in (("--samples", samples), ("--seed", seed)):
        if value is not None:
            raise typer.BadParameter("it belongs to --effective", param_hint=name)
    if run is not None:
        from dlkit.core.run import open_run

        return receptive.answer_for(receptive.of(receptive.network_of(open_run(run))), at, pixel, want)
    if any(map(is_module, words)):
        from dlkit.nn import live

        return live.field(words, at, pixel, want)
    return receptive.answer(words, at, pixel, want)
