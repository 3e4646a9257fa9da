"""Traced modules: what other tools count wrong, published networks, and the walk over the same graph."""

import math
import random

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from nn.test_build import Draw
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from dlkit.core.field import WHOLE
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


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.slow if n in ("resnet101", "googlenet") else ()) for n in PUBLISHED]
)
def test_torchvisions_published_numbers(torchvision, name):  # N-S015, N-S019
    from torchvision import models

    extra = {"aux_logits": False, "init_weights": False} if name == "googlenet" else {}
    traced = trace(getattr(models, name)(**extra), (3, 224, 224))
    params, gmacs, *reach = PUBLISHED[name]
    assert (traced.params, round(traced.macs / 1e9, 3), traced.output) == (params, gmacs, (1000,))
    if reach[0] is not None:
        assert [(axis.size, axis.stride, axis.padding) for axis in traced.field] == [tuple(reach)] * 2


# Random modules ------------------------------------------------------------------------------------------


def compare_with_the_walk(seed):
    """Counts, output and every receptive field of a random network, built and traced, against its walk."""
    shape, text = Draw(seed).net()
    graph = parse(text).graph
    steps = walk(graph, shape)
    whole = totals(steps)
    traced = trace(build(graph, shape), shape)
    assert (traced.params, traced.macs, traced.output) == (whole.params, whole.macs, whole.output), text
    seen = {step.name: step for step in traced.steps}
    for step in steps:
        # A flatten is not followed by the walk; the trace knows tokens that are the positions of a map.
        if step.name in seen and not step.name.startswith("flatten"):
            found = seen[step.name]
            assert (found.output, found.params) == (step.output, step.params), (text, step.name)
            # On a map of one position the trace may not know a mean from a position; it says so, and no number.
            one = math.prod(step.output[1:]) == 1 or math.prod(step.positions) == 1
            unsaid = one and found.field in (None, WHOLE)
            assert unsaid or found.field == step.field, (text, step.name, found.undefined)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32))
def test_random_networks_trace_as_they_walk(seed):
    compare_with_the_walk(seed)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_thousand_random_networks_trace_as_they_walk():
    for seed in range(1000):
        compare_with_the_walk(seed)


class Random(nn.Module):
    """A forward drawn from a seed: modules, functions, products of all kinds, on a map or on a sequence."""

    def __init__(self, seed):
        super().__init__()
        draw = random.Random(seed)
        self.size, self.width = draw.randint(3, 8), 2 * draw.randint(1, 4)
        self.plan = [draw.choice(self.SEQUENCE) for _ in range(draw.randint(1, 6))]
        d, hidden = self.width, draw.randint(1, 9)
        self.linear, self.weight = nn.Linear(d, d, bias=draw.random() < 0.5), nn.Parameter(torch.randn(d, hidden))
        self.attention = nn.MultiheadAttention(d, draw.choice([1, 2]), batch_first=True)
        self.norm, self.drop = nn.LayerNorm(d), nn.Dropout(0.1)
        self.conv = nn.Conv1d(d, d, 3, padding=1, groups=draw.choice([1, 2]))
        self.deconv = nn.ConvTranspose1d(d, d, 3, padding=1, groups=draw.choice([1, 2]))
        self.recurrent = draw.choice([nn.LSTM, nn.GRU, nn.RNN])(d, d, batch_first=True)

    SEQUENCE = (
        *("linear", "einsum", "matmul", "attention", "sdpa", "norm", "conv", "deconv", "recurrent", "gate", "scores"),
        *("fold", "residual"),
    )

    def forward(self, x):
        for name in self.plan:
            x = getattr(self, f"do_{name}")(x)
        return x

    def do_linear(self, x):
        return F.gelu(self.linear(x))

    def do_einsum(self, x):
        return torch.einsum("btd,dh,eh->bte", x, self.weight, self.weight)

    def do_matmul(self, x):
        return x @ self.weight @ self.weight.T

    def do_attention(self, x):
        return x + self.attention(x, x, x, need_weights=False)[0]

    def do_sdpa(self, x):
        heads = x.unflatten(-1, (2, -1)).transpose(1, 2)
        return F.scaled_dot_product_attention(heads, heads, heads).transpose(1, 2).flatten(2)

    def do_norm(self, x):
        return self.drop(self.norm(x))

    def do_conv(self, x):
        return self.conv(x.mT).mT

    def do_deconv(self, x):
        return self.deconv(x.mT).mT

    def do_recurrent(self, x):
        return self.recurrent(x)[0]

    def do_gate(self, x):
        return x * torch.sigmoid(x.mean(1, keepdim=True))

    def do_scores(self, x):
        return torch.bmm(torch.softmax(x @ x.mT, -1), x)

    def do_fold(self, x):
        return F.linear(x.flatten(0, 1), self.linear.weight).view_as(x)

    def do_residual(self, x):
        return x + self.norm(self.linear(x))


def compare_with_the_counter(seed):
    """FlopCounterMode is right on the CPU where attention is written out and recurrent layers are not fused."""
    module = Random(seed)
    shape = (module.size, module.width)
    module.double()  # there is no fused recurrent layer for these
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        module.train()(torch.randn(1, *shape, dtype=torch.float64))
    traced = trace(module, shape)
    assert 2 * traced.macs == counter.get_total_flops(), module.plan
    assert 2 * sum(step.macs for step in traced.steps) == counter.get_total_flops(), module.plan
    assert traced.params == sum(p.numel() for p in module.parameters()) == sum(s.params for s in traced.steps)
    assert traced.output == shape


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 2**32))
def test_random_modules_count_as_torch_counts(seed):
    compare_with_the_counter(seed)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_two_thousand_random_modules_count_as_torch_counts():
    for seed in range(2000):
        compare_with_the_counter(seed)


# Receptive fields of functions, against what a gradient reaches ----------------------------------------------

REACHES = {
    "slices": lambda x: x[..., 2::3, 1:-1],
    "pads": lambda x: F.avg_pool2d(F.pad(x, (2, 1, 0, 1)), 3, 2),
    "reflection": lambda x: F.avg_pool2d(F.pad(x, (1, 1, 1, 1), mode="reflect"), 3),
    "halves of the channels": lambda x: torch.cat([F.avg_pool2d(h, 3, 1, 1) for h in x.chunk(2, 1)], 1),
    "channels last": lambda x: F.avg_pool2d(x.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2), 2) * 2,
    "tokens and back": lambda x: F.avg_pool2d(x.flatten(2).transpose(1, 2).mT.unflatten(2, x.shape[2:]), 3),
    "gate of the channels": lambda x: F.avg_pool2d(x, 3) * F.softmax(x.mean(1, keepdim=True)[..., ::3, ::3], 1),
    "normalised by hand": lambda x: F.avg_pool2d(x / x.pow(2).mean(1, keepdim=True).sqrt(), 2),
    "resized": lambda x: F.interpolate(F.avg_pool2d(x, 3, 2, 1), scale_factor=2.0),
}


@pytest.mark.parametrize("name", REACHES)
def test_functions_reach_as_far_as_gradients(name):  # N-S019, N-S021
    run, side = REACHES[name], 24
    traced = trace(Function(run), (4, side, side))
    x = torch.rand(1, 4, side, side, dtype=torch.float64).add(1).requires_grad_()
    y = run(x)
    assert isinstance(traced.field, tuple)
    for at in range(2, min(y.shape[-2:]) - 2):
        (slope,) = torch.autograd.grad(y[0, :, at, at].sum(), x, retain_graph=True)
        touched = slope.abs().sum((0, 1)) > 0
        for axis in (0, 1):
            hit = touched.any(1 - axis).nonzero().flatten()
            assert traced.field[axis].interval(at) == (int(hit.min()), int(hit.max())), axis


@pytest.mark.parametrize(
    ("run", "why"),
    [
        (lambda x: x.flip(-1), "flip"),
        (lambda x: x.roll(1, -1), "roll"),
        (lambda x: torch.cat([x, x], -1), "cat along the positions"),
        (lambda x: x.unflatten(-1, (2, -1)).mean(-1), "view"),
        (lambda x: x.mean(-1, keepdim=True) + x, "mean"),
        (lambda x: x[..., 3], "select"),
        (lambda x: F.pixel_shuffle(x, 2), "pixel_shuffle"),
    ],
)
def test_what_cannot_be_said_is_not_said(run, why):
    (*_, last) = trace(Function(run), (4, 8, 8)).steps
    assert last.field is None and why in last.undefined


@pytest.mark.parametrize(
    "run",
    [
        lambda x: x.mean((2, 3)),
        lambda x: x.mean(2).mean(2),
        lambda x: x * x.mean((2, 3), keepdim=True),
        lambda x: x.flatten(1) @ torch.ones(4 * 64, 3, device=x.device),
        lambda x: torch.softmax(x.flatten(2).mT @ x.flatten(2), -1) @ x.flatten(2).mT,
        lambda x: F.adaptive_avg_pool2d(x.unflatten(-1, (2, -1)).flatten(-2).roll(1, -1), 1),
    ],
)
def test_what_sees_everything(run):
    assert trace(Function(run), (4, 8, 8)).steps[-1].field == WHOLE


# Activation bytes -----------------------------------------------------------------------------------------


class Layer(nn.Module):
    """One transformer layer as Korthikanti et al. 2022 write it: what is kept for the backward pass, to the byte."""

    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.norms = nn.ModuleList([nn.LayerNorm(width), nn.LayerNorm(width)])
        self.queries, self.keys, self.values, self.out = (nn.Linear(width, width) for _ in range(4))
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x):
        y = self.norms[0](x)
        q, k, v = (f(y).unflatten(-1, (self.heads, -1)).transpose(1, 2) for f in (self.queries, self.keys, self.values))
        shares = torch.softmax(q @ k.mT, -1)
        y = (F.dropout(shares, 0.1, self.training) @ v).transpose(1, 2).flatten(2)
        x = x + F.dropout(self.out(y), 0.1, self.training)
        return x + F.dropout(self.down(F.gelu(self.up(self.norms[1](x)))), 0.1, self.training)


@pytest.mark.parametrize(("s", "h", "a"), [(16, 32, 4), (48, 24, 3)])
def test_activation_bytes_of_a_transformer_layer(s, h, a):
    """sbh(34 + 5as/h) in 16-bit numbers, and each norm's mean and deviation of a row, of 4 bytes."""
    module = Layer(h, a).to(torch.bfloat16)
    assert trace(module, (s, h)).activation_bytes == s * h * 34 + 5 * a * s * s + 2 * 2 * s * 4


def test_activation_bytes_by_hand():
    module = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(0.5))
    x, y = 3 * 8 * 8 * 4, 8 * 6 * 6 * 4
    # kept: the input, what batch norm takes and ReLU returns, a mask of one byte, and the statistics of 8 channels
    assert trace(module, (3, 8, 8)).activation_bytes == x + 2 * y + 8 * 6 * 6 + 2 * 8 * 4


def test_a_module_that_cannot_train_has_no_activation_bytes():
    class Frozen(nn.Linear):
        def train(self, mode=True):
            self.frozen = mode
            return super().train(mode)

        def forward(self, x):
            if self.frozen:
                raise RuntimeError("this one only predicts")
            return super().forward(x)

    assert trace(Frozen(3, 4), (3,)).activation_bytes is None


def test_a_forward_may_look_at_constants():
    """As masks are made: positions of whole numbers are there for real, though the input has no numbers."""

    def run(x):
        positions = torch.arange(x.shape[1], device=x.device)
        return x.cumsum(1) if bool((positions.diff() == 1).all()) else x

    assert [step.name for step in trace(Function(run), (7, 5)).steps] == ["cumsum"]


@pytest.mark.slow
def test_gpt2_of_transformers_is_gpt2_of_the_zoo(torchvision):
    """124,439,808 parameters, the tied head once; a tied head still costs its V·d for each token."""
    transformers = pytest.importorskip("transformers", reason="transformers' definitions are not installed")
    net = parse("gpt2")
    whole = totals(walk(net.graph, net.input))
    traced = trace(transformers.GPT2LMHeadModel(transformers.GPT2Config(use_cache=False)), net.input)
    assert traced.params == whole.params == 124_439_808
    assert (traced.macs, traced.output, traced.field) == (whole.macs, whole.output, whole.field)
