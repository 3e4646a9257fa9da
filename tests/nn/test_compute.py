"""Forward and backward FLOPs against torch's FlopCounterMode, and fvcore's count against fvcore."""

import random

import pytest
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from dlkit.core.compute import Counting, exact
from dlkit.core.conventions import CONVENTIONS
from dlkit.core.graph import walk
from dlkit.core.spec import parse
from dlkit.nn.build import build


def torch_flops(graph, shape, frozen=()):
    """FLOPs of one sample, forward and backward, on the meta device."""
    model = build(graph, shape).to("meta")
    for name, child in model.named_children():
        for parameter in child.parameters():
            parameter.requires_grad_(name not in frozen)
    batch = 2
    if len(shape) == 1 and graph.nodes[0].layer.op == "embed":
        x = torch.zeros(batch, *shape, dtype=torch.long, device="meta")
    else:
        x = torch.zeros(batch, *shape, device="meta")
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as forward:
        y = model(x)
    with FlopCounterMode(display=False) as backward:
        y.sum().backward()
    return forward.get_total_flops() // batch, backward.get_total_flops() // batch


NETWORKS = [
    "resnet18",
    "resnet50",
    "1x16x16x16 conv:8,k3 relu convt:4,k2,s2 flatten linear:3",
    "12 linear:8 relu linear:8 relu linear:2",
    "64 embed:100,32 pos:64 2*(sum(ln attn:4,causal=1 | ) sum(ln mlp:64 | )) ln lmhead:100",
    "64 embed:100,32 2*(sum(rms attn:4,kv=2,causal=1,rope=1,bias=0 | ) sum(rms gmlp:80 | )) rms lmhead:100,tie=1",
]


def steps_of(text):
    net = parse(text)
    return net, walk(net.graph, net.input)


@pytest.mark.parametrize("text", NETWORKS)
def test_forward_and_backward(text):  # N-S022 N-S023 N-S024
    net, steps = steps_of(text)
    whole = exact(steps, None, Counting()).total()
    assert (whole.forward, whole.backward) == torch_flops(net.graph, net.input)


MAPS = [
    "conv:4,k3,p1",
    "conv:4,k1,bias=0",
    "convt:4,k3,p1",
    "relu",
    "gn:2",
    "sigmoid",
    "conv:4,k3,p2,d2",
    "dropout:0.1",
]
SEQUENCES = [
    *("ln", "rms", "gelu", "dropout:0.1", "linear:16", "linear:16,bias=0", "mlp:24", "mlp:20,act=relu", "gmlp:24"),
    *("attn:4", "attn:4,causal=1,bias=0", "attn:4,kv=2,causal=1,rope=1", "attn:2,dim=4", "attn:8,kv=1,bias=0"),
    *("sum(ln attn:4 | )", "sum(mlp:8 dropout:0.1 | )", "sum(attn:2 | gmlp:8)"),
]


def drawn(seed):
    """A network of convolutions, branches and dense layers in any order, or one of a sequence's; and what is frozen.

    Groups are left out: torch overcounts their weights' gradients.
    """
    choose = random.Random(seed)

    def chain(count, words):
        return " ".join(choose.choice(words) for _ in range(count))

    join = choose.choice(["sum", "cat"])
    if choose.random() < 0.5:
        text = (
            f"4x9x9 {chain(2, MAPS)} {join}({chain(2, MAPS)} | {chain(choose.randrange(3), MAPS)}) {chain(2, MAPS)} "
            "flatten linear:8 relu linear:3"
        )
    else:
        text = f"10 embed:30,16 {chain(choose.randrange(1, 7), SEQUENCES)} lmhead:30{choose.choice(['', ',tie=1'])}"
    net, steps = steps_of(text)
    learned = [step.name for step in steps if step.params]
    if ",tie=1" in text:  # a frozen table freezes its head too, and the other way round
        learned.remove("embed1")
    return net, steps, tuple(choose.sample(learned, choose.randrange(len(learned) + 1)))


def check(seed):
    net, steps, frozen = drawn(seed)
    if len(frozen) == sum(bool(step.params) for step in steps):
        return  # nothing learns, and torch has no way back
    whole = exact(steps, None, Counting(freeze=frozen)).total()
    assert (whole.forward, whole.backward) == torch_flops(net.graph, net.input, frozen), (seed, str(net.graph), frozen)


@pytest.mark.parametrize("seed", range(60))
def test_random_networks(seed):
    check(seed)


@pytest.mark.slow
@pytest.mark.parametrize("block", range(20))
def test_many_random_networks(block):
    for seed in range(1000 + 150 * block, 1150 + 150 * block):
        check(seed)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("text", [NETWORKS[-2], "8 linear:8 relu linear:8 relu linear:8 relu linear:2"])
def test_frozen_layers(text, seed):
    """Any choice of frozen layers: their weights need no gradient, and what is before all learning none at all."""
    net, steps = steps_of(text)
    choose = random.Random(seed)
    learned = [step.name for step in steps if step.params]
    frozen = choose.sample(learned, choose.randrange(len(learned)))
    if seed % 2:
        frozen = learned[: len(frozen)]
    whole = exact(steps, None, Counting(freeze=tuple(frozen))).total()
    assert (whole.forward, whole.backward) == torch_flops(net.graph, net.input, frozen)


@pytest.mark.parametrize("name", ["alexnet", "resnet18", "mobilenet_v2", "googlenet", "unet"])
def test_fvcore(name):
    """fvcore 0.1.5, where it is installed: convolutions, linear layers, norms, adaptive pooling, resizing."""
    fvcore = pytest.importorskip("fvcore.nn")
    net, steps = steps_of(name)
    model: nn.Module = build(net.graph, net.input).eval()
    analysis = fvcore.FlopCountAnalysis(model, torch.zeros(1, *net.input))
    analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
    counted = CONVENTIONS["fvcore"].counts(steps, None, "none").total().forward
    assert counted == analysis.total()
