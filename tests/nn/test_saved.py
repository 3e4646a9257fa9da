"""Kept activations against what torch's autograd saves, by hooks, on the meta device."""

import random

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
    own = sum(
        4 * (k.inner + k.scores) + k.inner_bytes + k.score_bytes + k.stream_bytes + k.batch_bytes for k in kept.kept
    )
    return 4 * kept.stream() + own


def torchs(text):
    net = parse(text)
    model = build(net.graph, net.input).to("meta")
    return saved_bytes(model, [torch.zeros(batch, *net.input, device="meta") for batch in (2, 3)])


# Left out: logsigmoid keeps a buffer on the CPU alone; rms keeps its input and one number a position where torch has
# one kernel for it, as on a GPU, and more where it is composed of several.
MAP = [
    *("conv:4,k3,p1", "conv:4,k3,s2,bias=0", "dwconv:k3,p1", "convt:4,k2,s2", "maxpool:k2", "avgpool:k2"),
    *(
        "bn",
        "bn:affine=0",
        "adaptiveavgpool:2",
        "adaptivemaxpool:2",
        "upsample:k2",
        "gn:2",
        "ln",
        "in",
        "in:affine=1",
        "dropout:0.3",
    ),
    *("relu", "relu6", "sigmoid", "tanh", "selu", "silu", "mish", "hardswish", "hardsigmoid"),
    *("lrelu", "elu", "softplus", "gelu", "prelu", "softmax", "logsoftmax", "identity"),
]


@pytest.mark.parametrize("layer", MAP)
def test_each_layer(layer):
    """Between two convolutions, which keep their own inputs: what is shared must not count twice."""
    text = f"4x12x12 conv:4,k3,p1 {layer} conv:6,k2 gap linear:3"
    assert ours(text) == torchs(text)


@pytest.mark.parametrize(
    "layer",
    [
        "mlp:24",
        "mlp:24,act=relu",
        "mlp:24,act=gelu-tanh",
        "gmlp:24",
        "gmlp:24,act=relu",
        "ln",
        "lmhead:50",
        "attn:4",
        "attn:6,kv=3",
        "attn:2,kv=1,dim=8",
    ],
)
def test_each_layer_of_a_sequence(layer):
    text = f"16x12 linear:12 {layer} linear:5"
    assert ours(text) == torchs(text)


@pytest.mark.parametrize("name", ["resnet50", "vgg11_bn", "densenet121", "googlenet", "unet"])
def test_named_networks(name):
    """To the byte, the statistics of batch norm among them: two fp32 numbers a channel and batch."""
    assert ours(name) == torchs(name)


@pytest.mark.parametrize("text", ["4x9x9 mish relu6 conv:2,k1 gap", "4x9x9 sum(relu | tanh) gn:2 gap"])
def test_nothing_is_kept_before_the_first_weight(text):
    assert ours(text) == torchs(text)


SEQUENCES = [
    *(
        "ln",
        "gelu",
        "relu",
        "silu",
        "dropout:0.1",
        "linear:12",
        "linear:12,bias=0",
        "mlp:24",
        "mlp:20,act=relu",
        "gmlp:24",
    ),
    *(
        "attn:4",
        "attn:4,causal=1,bias=0",
        "attn:6,kv=3,causal=1",
        "attn:2,dim=4",
        "attn:4,dropout=0.1",
        "gmlp:8,act=relu",
    ),
    *("sum(ln attn:4 | )", "sum(mlp:8 dropout:0.1 | )", "sum(attn:2 | gmlp:8)", "mul(linear:12 sigmoid | )"),
]


def drawn(seed):
    """Layers in any order, with branches that read one tensor twice: of a map, or of a sequence."""
    choose = random.Random(seed)
    same = [layer for layer in MAP if layer.partition(":")[0] not in ("convt", "maxpool", "avgpool", "upsample")]
    same = [layer for layer in same if "adaptive" not in layer and "s2" not in layer]

    def chain(count, words):
        return " ".join(choose.choice(words) for _ in range(count))

    if choose.random() < 0.4:
        return f"9x12 {chain(choose.randrange(2, 8), SEQUENCES)} linear:3"
    join = choose.choice(["sum", "mul"])
    branches = f"{chain(2, same)} | {chain(choose.randrange(3), same)}"
    return f"4x9x9 conv:4,k1 {chain(3, same)} {join}({branches}) {chain(2, same)} cat(relu | conv:2,k1) gap"


@pytest.mark.parametrize("seed", range(60))
def test_random_chains_and_branches(seed):
    text = drawn(seed)
    assert ours(text) == torchs(text)


@pytest.mark.slow
@pytest.mark.parametrize("block", range(20))
def test_many_random_chains_and_branches(block):
    for seed in range(1000 + 150 * block, 1150 + 150 * block):
        text = drawn(seed)
        assert ours(text) == torchs(text), text


@pytest.mark.parametrize("layer", ["moe:4,48,top=2", "moe:8,32,top=1,gated=0,act=gelu"])
def test_experts(layer):
    """On real data, because routing depends on it: each position's copies, and where they came from."""
    text = f"64x32 linear:32 {layer} linear:5"
    net = parse(text)
    model = build(net.graph, net.input)
    known = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    saved = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            saved[storage.data_ptr()] = (storage.nbytes(), tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        model(torch.randn(1, *net.input))
    assert sum(size for size, _ in saved.values()) == ours(text)
