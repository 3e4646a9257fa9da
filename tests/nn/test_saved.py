"""Kept activations against what torch's autograd saves, by hooks, on the meta device."""

import pytest
import torch

from dlkit.core.graph import walk
from dlkit.core.saved import activations
from dlkit.core.spec import parse
from dlkit.nn.build import build
from dlkit.nn.memory import saved_bytes


def ours(text, flash=False):
    """Bytes of one sample at 32 bits."""
    net = parse(text)
    kept = activations(walk(net.graph, net.input), flash)
    assert not kept.unknown
    own = sum(4 * (k.inner + k.scores) + k.inner_bytes + k.score_bytes + k.stream_bytes for k in kept.kept)
    return 4 * sum(kept.stream) + own


def torchs(text):
    net = parse(text)
    model = build(net.graph, net.input).to("meta")
    return saved_bytes(model, [torch.zeros(batch, *net.input, device="meta") for batch in (2, 3)])


# Left out: logsigmoid keeps a buffer on the CPU alone; rms keeps its input and one number a position where torch has
# one kernel for it, as on a GPU, and more where it is composed of several.
MAP = [
    *("conv:4,k3,p1", "conv:4,k3,s2,bias=0", "dwconv:k3,p1", "convt:4,k2,s2", "maxpool:k2", "avgpool:k2"),
    *("adaptiveavgpool:2", "adaptivemaxpool:2", "upsample:k2", "gn:2", "ln", "in", "in:affine=1", "dropout:0.3"),
    *("relu", "relu6", "sigmoid", "tanh", "selu", "silu", "mish", "hardswish", "hardsigmoid"),
    *("lrelu", "elu", "softplus", "gelu", "prelu", "softmax", "logsoftmax", "identity"),
]


@pytest.mark.parametrize("layer", MAP)
def test_each_layer(layer):
    """Between two convolutions, which keep their own inputs: what is shared must not count twice."""
    text = f"4x12x12 conv:4,k3,p1 {layer} conv:6,k2 gap linear:3"
    assert ours(text) == torchs(text)


@pytest.mark.parametrize(
    "layer", ["mlp:24", "mlp:24,act=relu", "mlp:24,act=gelu-tanh", "gmlp:24", "gmlp:24,act=relu", "ln", "lmhead:50"]
)
def test_each_layer_of_a_sequence(layer):
    text = f"16x12 linear:12 {layer} linear:5"
    assert ours(text) == torchs(text)


@pytest.mark.parametrize(
    "name", ["resnet18", "resnet50", "vgg11_bn", "densenet121", "googlenet", "mobilenet_v2", "unet"]
)
def test_named_networks(name):
    """To the byte, but for the statistics of batch norm: two fp32 numbers a channel and batch."""
    net = parse(name)
    channels = sum(step.output[0] for step in walk(net.graph, net.input) if step.op == "bn")
    assert ours(name) + 8 * channels == torchs(name)
