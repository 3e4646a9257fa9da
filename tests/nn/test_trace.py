"""Traced modules: what other tools count wrong, published networks, and the walk over the same graph."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from dlkit.core.graph import totals, walk
from dlkit.core.layers import Shape
from dlkit.core.spec import parse
from dlkit.nn.build import build
from dlkit.nn.trace import trace


class Function(nn.Module):
    """A forward of plain functions."""

    def __init__(self, run, *sizes: Shape):
        super().__init__()
        self.run = run
        self.weights = nn.ParameterList([nn.Parameter(torch.zeros(size)) for size in sizes])

    def forward(self, x):
        return self.run(x, *self.weights)


# What others count wrong: reported ÷ true MACs as in the comparison of tools -----------------------------

B, T, D, H = 2, 7, 12, 3

MEASURED = {
    # torchinfo and thop say 4 times as much: out·k²·in instead of one kernel for each input position
    "transposed convolution k4 s2": (nn.ConvTranspose2d(6, 5, 4, 2, 1), (6, 8, 9), 6 * 8 * 9 * 5 * 16),
    "grouped transposed convolution": (nn.ConvTranspose1d(6, 4, 3, groups=2), (6, 8), 6 * 8 * 2 * 3),
    # torchinfo says 1/T of it
    "linear on positions": (nn.Linear(D, 5), (T, D), T * D * 5),
    # 0 in torchinfo; einsum 0 in ptflops, thop and calflops as well
    "functional linear": (Function(F.linear, (5, D)), (T, D), T * D * 5),
    "functional convolution": (Function(F.conv2d, (5, 6, 3, 3)), (6, 8, 9), 6 * 7 * 5 * 6 * 9),
    "@": (Function(lambda x, w: x @ w, (D, 5)), (T, D), T * D * 5),
    "einsum of weights": (Function(lambda x, w: torch.einsum("btd,de->bte", x, w), (D, 5)), (T, D), T * D * 5),
    "einsum of scores": (Function(lambda x: torch.einsum("bqd,bkd->bqk", x, x)), (T, D), T * T * D),
    "bmm": (Function(lambda x: torch.bmm(x, x.mT)), (T, D), T * T * D),
    "matrix times vector": (Function(lambda x, w: (x @ w[0]).sum(-1), (1, D)), (T, D), T * D),
    # 0 in FlopCounterMode on the CPU
    "attention": (Function(lambda x: F.scaled_dot_product_attention(x, x, x)), (H, T, D), 2 * H * T * T * D),
    "causal attention": (
        Function(lambda x: F.scaled_dot_product_attention(x, x, x, is_causal=True)),
        (H, T, D),
        2 * H * T * T * D,
    ),
    "grouped-query attention": (
        Function(lambda x: F.scaled_dot_product_attention(x, x[:, :1], x[:, :1], enable_gqa=True)),
        (H, T, D),
        2 * H * T * T * D,
    ),
    "lstm": (nn.LSTM(D, 5, batch_first=True), (T, D), T * 4 * 5 * (D + 5)),
    "lstm of two layers, both ways": (
        nn.LSTM(D, 5, num_layers=2, bidirectional=True, batch_first=True),
        (T, D),
        T * 2 * 4 * 5 * ((D + 5) + (10 + 5)),
    ),
    "gru": (nn.GRU(D, 5, batch_first=True), (T, D), T * 3 * 5 * (D + 5)),
    "rnn": (nn.RNN(D, 5, batch_first=True), (T, D), T * 5 * (D + 5)),
    "bilinear": (Function(lambda x, w: F.bilinear(x, x, w), (5, D, D)), (D,), 5 * D * D),
    # N-S024: projections 4·T·d², scores and values 2·T²·d for all heads together
    "transformer layer": (
        nn.TransformerEncoderLayer(D, H, 20, batch_first=True),
        (T, D),
        4 * T * D * D + 2 * T * T * D + 2 * T * D * 20,
    ),
    "embedding": (nn.Sequential(nn.Embedding(50, D), nn.Linear(D, 50)), (T,), T * D * 50),
}


@pytest.mark.parametrize("name", MEASURED)
def test_true_macs(name):  # N-S002, N-S017, N-S024
    module, shape, macs = MEASURED[name]
    traced = trace(module, shape)
    assert traced.macs == sum(step.macs for step in traced.steps) == macs
    assert traced.params == sum(step.params for step in traced.steps) == sum(p.numel() for p in module.parameters())


def test_attention_on_the_cpu_is_counted():
    """The fused op that the CPU runs, which FlopCounterMode gives 0."""
    from dlkit.nn import counting

    query, key = torch.zeros(2, H, T, D), torch.zeros(2, H, 5, D)
    op = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default
    out = op(query, key, key)
    assert counting.macs(op, (query, key, key), {}, out) == 2 * H * T * 5 * 2 * D


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_grouped_convolutions(groups):
    traced = trace(nn.Conv2d(4, 8, 3, groups=groups), (4, 9, 9))
    assert traced.macs == 8 * 7 * 7 * 9 * 4 // groups


# The same network, walked and traced ---------------------------------------------------------------------


@pytest.mark.parametrize("name", ["lenet", "alexnet", "resnet18", "resnet50"])
def test_named_networks_trace_as_they_walk(name):
    """N-S019: ResNet-50 with the stride in the 3×3 sees 427 positions."""
    net = parse(name)
    steps = walk(net.graph, net.input)
    whole = totals(steps)
    traced = trace(build(net.graph, net.input), net.input)
    assert (traced.params, traced.macs, traced.output) == (whole.params, whole.macs, whole.output)
    assert traced.field == whole.field
    seen = {step.name.split("#")[0]: step for step in traced.steps}
    for step in steps:
        if step.name in seen:
            assert (seen[step.name].output, seen[step.name].field) == (step.output, step.field), step.name
    assert name != "resnet50" or [axis.size for axis in traced.field] == [427, 427]


@pytest.fixture(scope="module")
def torchvision():
    """torchvision's definitions: where it has no operators of its own, the two that it asks for are declared."""
    declared = torch.library.Library("torchvision", "FRAGMENT")
    for op in ("nms", "qnms"):
        if not hasattr(torch.ops.torchvision, op):
            declared.define(f"{op}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    yield pytest.importorskip("torchvision", reason="torchvision's definitions are not installed", exc_type=ImportError)


PUBLISHED = {
    # parameters, GMAC, receptive field, stride, padding
    "alexnet": (61_100_840, 0.714, 195, 32, 66),
    "vgg16": (138_357_544, 15.47, 212, 32, 90),
    "resnet18": (11_689_512, 1.814, 435, 32, 217),
    "resnet50": (25_557_032, 4.089, 427, 32, 213),
    "densenet121": (7_978_856, 2.834, 2071, 32, 1021),
    "mobilenet_v2": (3_504_872, 0.301, 491, 32, 245),
    "resnet101": (44_549_160, 7.801, 971, 32, 485),
    "googlenet": (6_624_904, 1.498, None, None, None),
    "swin_t": (28_288_354, 4.491, None, None, None),
    "vit_b_16": (86_567_656, 17.564, None, None, None),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_torchvisions_published_numbers(torchvision, name):  # N-S015, N-S019
    from torchvision import models

    extra = {"aux_logits": False, "init_weights": False} if name == "googlenet" else {}
    traced = trace(getattr(models, name)(**extra), (3, 224, 224))
    params, gmacs, *reach = PUBLISHED[name]
    assert (traced.params, round(traced.macs / 1e9, 3), traced.output) == (params, gmacs, (1000,))
    if reach[0] is not None:
        assert [(axis.size, axis.stride, axis.padding) for axis in traced.field] == [tuple(reach)] * 2
