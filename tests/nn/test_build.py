"""The built network against the walk: shapes, parameters and MACs must be torch's own, and so must refusals."""

import copy
import pickle
import random
import weakref
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from dlkit.core import zoo
from dlkit.core.errors import DlkitError
from dlkit.core.graph import totals, walk
from dlkit.core.layers import CATALOGUE, show
from dlkit.core.spec import parse
from dlkit.core.zoo_sequence import NETS
from dlkit.nn.build import build

BATCH = 2

# torch's own padding='same', an oracle here, says so of even kernels
pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same'")


def compare(graph, shape):
    """Every output shape, all parameters and all MACs of the walk against the module that torch runs."""
    steps = walk(graph, shape)
    model = build(graph, shape)
    seen = {}
    for name, child in model.named_children():
        child.register_forward_hook(lambda _m, _i, y, name=name: seen.__setitem__(name, tuple(y.shape[1:])))
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        y = model(torch.randn(BATCH, *shape))
    whole = totals(steps)
    assert seen == {step.name: step.output for step in steps}
    assert tuple(y.shape) == (BATCH, *whole.output)
    for step in steps:
        assert sum(p.numel() for p in getattr(model, step.name).parameters()) == step.params, step.text
    assert counter.get_total_flops() == 2 * BATCH * whole.macs


# Random stacks -------------------------------------------------------------------------------------

SIMPLE = "relu tanh sigmoid gelu silu elu selu mish lrelu:0.2 relu6 logsigmoid softplus hardswish hardsigmoid prelu"
SIMPLE += " dropout:0.3 softmax softmin logsoftmax bn in gn:1 ln rms identity"


class Draw:
    """Random layers from one seed, each one fitted to the shape that it gets."""

    def __init__(self, seed):
        self.random = random.Random(seed)

    def net(self):
        """A shape and the words of a network that takes it."""
        rank = self.random.choice([1, 2, 2, 3])
        sizes = {1: (5, 40), 2: (5, 20), 3: (4, 9)}[rank]
        shape = (self.random.randint(1, 6), *(self.random.randint(*sizes) for _ in range(rank)))
        words, y = self.stack(shape, self.random.randint(1, 6))
        if self.random.random() < 0.4:
            head = self.random.choice(["gap linear:{}", "flatten linear:{}", "flatten:2 linear:{} relu ln:1"])
            words, y = self.extend(words, y, head.format(self.random.randint(1, 9)))
        return shape, " ".join(words or ["relu"])

    def stack(self, shape, count):
        words = []
        for _ in range(count):
            words, shape = self.extend(words, shape, self.item(shape))
        return words, shape

    def extend(self, words, shape, word):
        """The words with one more, if it fits."""
        try:
            y = walk(parse(word).graph, shape)[-1].output
        except DlkitError:
            return words, shape
        return ([*words, word], y) if max(y) < 100 and y else (words, shape)

    def item(self, shape):
        if self.random.random() < 0.2:
            return self.join(shape)
        return self.random.choice([self.conv, self.conv, self.convt, self.pool, self.resize, self.simple])(shape)

    def join(self, shape):
        branches = []
        kind = self.random.choice(["sum", "cat", "mul"])
        for _ in range(self.random.randint(2, 3)):
            words, y = self.stack(shape, self.random.randint(0, 2))
            fits = y[1:] == shape[1:] if kind == "cat" else y == shape
            branches.append(" ".join(words) if fits else "bn")
        if kind == "mul":
            gates = ["gap", f"gap linear:{shape[0]}", "adaptiveavgpool:1", "conv:1,k1", "adaptivemaxpool:1 conv:1,k1"]
            branches.append(f"{self.random.choice(gates)} sigmoid")
        return f"{kind}({' | '.join(branches)})"

    def axes(self, shape, low, high):
        if self.random.random() < 0.6:
            return str(self.random.randint(low, high))
        return "x".join(str(self.random.randint(low, high)) for _ in shape[1:])

    def padding(self, shape):
        pairs = "x".join(f"{self.random.randint(0, 2)}.{self.random.randint(0, 2)}" for _ in shape[1:])
        return self.random.choice([self.axes(shape, 0, 2), "same", "same-tf", pairs])

    def conv(self, shape):
        groups = self.random.choice([g for g in range(1, shape[0] + 1) if shape[0] % g == 0])
        window = f"k{self.axes(shape, 1, 4)},s{self.axes(shape, 1, 3)},d{self.axes(shape, 1, 2)}"
        window += f",p{self.padding(shape)},bias={self.random.randint(0, 1)}"
        if self.random.random() < 0.25:
            return f"dwconv:{window},m{self.random.randint(1, 2)}"
        return f"conv:{groups * self.random.randint(1, 3)},{window},g{groups}"

    def convt(self, shape):
        groups = self.random.choice([1, shape[0]])
        return (
            f"convt:{groups * self.random.randint(1, 3)},k{self.axes(shape, 1, 4)},s{self.axes(shape, 1, 3)},g{groups}"
            f",p{self.axes(shape, 0, 2)},op{self.axes(shape, 0, 1)},d{self.axes(shape, 1, 2)}"
        )

    def pool(self, shape):
        kind = self.random.choice(["maxpool", "avgpool", "adaptiveavgpool", "adaptivemaxpool"])
        if kind.startswith("adaptive"):
            return f"{kind}:{self.axes(shape, 1, 6)}"
        extra = (
            f",d{self.axes(shape, 1, 2)}" if kind == "maxpool" else f",count_include_pad={self.random.randint(0, 1)}"
        )
        pad = self.random.choice(
            ["0", "1", "same-tf", self.padding(shape).replace("same-tf", "0").replace("same", "0")]
        )
        ceil = self.random.randint(0, 1)
        return f"{kind}:k{self.axes(shape, 1, 4)},s{self.axes(shape, 1, 3)},p{pad},ceil_mode={ceil}{extra}"

    def resize(self, shape):
        linear = ["linear", "bilinear", "trilinear"][len(shape) - 2]
        mode = self.random.choice(["nearest", "nearest-exact", linear, "bicubic", f"{linear},align_corners=1"])
        size = self.random.choice([f"k{self.axes(shape, 1, 2)}", f"size={self.axes(shape, 2, 12)}"])
        return f"upsample:{size},mode={mode}"

    def simple(self, shape):
        return self.random.choice([*SIMPLE.split(), f"prelu:{shape[0]}", f"gn:{shape[0]}", "ln:1", "in:affine=1"])


def compare_drawn(seed):
    shape, text = Draw(seed).net()
    try:
        compare(parse(text).graph, shape)
    except Exception as error:
        error.add_note(f"{show(shape)} {text}")
        raise


@settings(max_examples=400, deadline=None)
@given(st.integers(0, 2**32))
def test_random_stacks_agree_with_torch(seed):
    compare_drawn(seed)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_ten_thousand_random_stacks_agree_with_torch():
    for seed in range(10_000):
        compare_drawn(seed)


# Refusals: one layer, made and run by torch without our rules ---------------------------------------


def oracle(text, shape):
    """The shape that torch gives for one layer of plain arguments, or None where it refuses or leaves nothing."""
    op, _, rest = text.partition(":")
    values = dict(part.split("=") for part in rest.split(","))
    rank = len(shape) - 1
    try:
        made = _torch_layer(op, values, shape, rank)
        with torch.no_grad():
            made_of = tuple(made(torch.randn(BATCH, *shape)).shape[1:])
            return made_of if all(made_of) else None
    except (RuntimeError, ValueError, IndexError, AssertionError, NotImplementedError):
        return None


def _torch_layer(op, values, shape, rank):
    named = {
        key: value if key in ("padding", "mode") and value.isalpha() else int(value) for key, value in values.items()
    }
    for key in ("ceil_mode", "count_include_pad", "bias", "affine"):
        if key in named:
            named[key] = bool(named[key])
    if op in ("conv", "convt"):
        return getattr(nn, f"Conv{'Transpose' * (op == 'convt')}{rank}d")(shape[0], named.pop("out_channels"), **named)
    if op in ("maxpool", "avgpool"):
        return getattr(nn, f"{op[:3].title()}Pool{rank}d")(**named)
    if op == "upsample":
        return nn.Upsample(**named)
    if op == "bn":
        return getattr(nn, f"BatchNorm{rank or 1}d")(shape[0], **named)
    if op == "in":
        return getattr(nn, f"InstanceNorm{rank}d")(shape[0], **named)
    if op == "gn":
        return nn.GroupNorm(num_channels=shape[0], **named)
    return {"softmax": nn.Softmax, "flatten": nn.Flatten, "prelu": nn.PReLU}[op](**named)


@st.composite
def one_layer(draw):
    number = partial(draw, st.integers(1, 5))
    small = partial(draw, st.integers(0, 4))
    kind = draw(st.sampled_from(["conv", "convt", "maxpool", "avgpool", "upsample", "norm", "other"]))
    window = f"kernel_size={number()},stride={number()},padding={small()}"
    if kind == "conv":
        window = (
            window if draw(st.booleans()) else f"kernel_size={number()},stride={draw(st.integers(1, 2))},padding=same"
        )
        return f"conv:out_channels={number()},groups={draw(st.integers(1, 3))},{window},dilation={number()}"
    if kind == "convt":
        extra = f"output_padding={small()},dilation={number()},groups={draw(st.integers(1, 2))}"
        return f"convt:out_channels={number()},{window},{extra}"
    if kind == "maxpool":
        return f"maxpool:{window},dilation={number()},ceil_mode={draw(st.integers(0, 1))}"
    if kind == "avgpool":
        flags = f"ceil_mode={draw(st.integers(0, 1))},count_include_pad={draw(st.integers(0, 1))}"
        return f"avgpool:{window},{flags}"
    if kind == "upsample":
        mode = draw(st.sampled_from(["nearest", "linear", "bilinear", "bicubic", "trilinear"]))
        return f"upsample:{draw(st.sampled_from(['scale_factor', 'size']))}={number()},mode={mode}"
    if kind == "norm":
        return draw(st.sampled_from(["bn:affine=1", "in:affine=0", f"gn:num_groups={number()}"]))
    return draw(
        st.sampled_from(
            [f"softmax:dim={number()}", f"flatten:start_dim={1 + small() % 4}", f"prelu:num_parameters={number()}"]
        )
    )


shapes = st.integers(1, 3).flatmap(lambda rank: st.tuples(st.integers(1, 6), *[st.integers(1, 9)] * rank).map(tuple))


@settings(max_examples=600, deadline=None)
@given(one_layer(), shapes)
@example("maxpool:kernel_size=2,stride=3,padding=1,ceil_mode=1", (1, 1))
@example("conv:out_channels=1,kernel_size=4,stride=2,padding=same", (1, 8))
def test_refusals_are_torchs(text, shape):
    check_refusal(text, shape)


@pytest.mark.slow
@settings(max_examples=20_000, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(one_layer(), shapes)
def test_refusals_are_torchs_at_length(text, shape):
    check_refusal(text, shape)


def check_refusal(text, shape):
    try:
        ours = walk(parse(text).graph, shape)[-1].output
    except DlkitError:
        ours = None
    assert ours == oracle(text, shape)


# What is built -------------------------------------------------------------------------------------

EVERY = {
    "conv": "conv:4,k3",
    "dwconv": "dwconv:k3",
    "convt": "convt:4,k3",
    "maxpool": "maxpool:k2",
    "avgpool": "avgpool:k2",
    "adaptiveavgpool": "adaptiveavgpool:2",
    "adaptivemaxpool": "adaptivemaxpool:2",
    "upsample": "upsample:k2",
    "linear": "flatten linear:3",
    "gn": "gn:2",
    "sum": "sum(relu | )",
    "cat": "cat(relu | )",
    "mul": "mul(gap | | conv:1,k1)",
    "yolo": "yolo:3,2",
}


@pytest.mark.parametrize("op", sorted({kind.names[0] for kind in CATALOGUE.values()}))
@pytest.mark.parametrize("shape", [(4, 9), (4, 9, 8), (4, 6, 5, 4)])
def test_the_whole_catalogue_builds(op, shape):
    compare(parse(EVERY.get(op, op)).graph, shape)


@pytest.mark.parametrize(
    "text", ["bn", "ln", "rms", "gn:2", "relu", "softmax", "linear:3", "prelu:4", "dropout", "flatten"]
)
def test_vectors_build(text):
    compare(parse(text).graph, (4,))


@pytest.mark.parametrize("name", sorted(set(zoo.names()) - set(NETS)))
def test_named_networks_on_the_meta_device(name):
    """N-S015: parameters and MACs of the built network, against FlopCounterMode."""
    net = parse(name)
    whole = totals(walk(net.graph, net.input))
    with torch.device("meta"):
        model = build(net.graph, net.input).eval()  # a batch of one has no statistics
        with FlopCounterMode(display=False) as counter:
            assert tuple(model(torch.empty(1, *net.input)).shape[1:]) == whole.output
    assert sum(p.numel() for p in model.parameters()) == whole.params
    assert counter.get_total_flops() == 2 * whole.macs


def test_state_dict_keys_are_node_names():
    net = parse("3x8x8 conv:4,k4,psame bn sum(conv:4,k3,p1 | ) maxpool:k2,psame-tf gap linear:2")
    keys = list(build(net.graph, net.input).state_dict())
    assert keys[:3] == ["conv1.weight", "conv1.bias", "bn1.weight"]
    assert {key.split(".")[0] for key in keys} == {"conv1", "bn1", "conv2", "linear1"}


def test_a_chain_is_a_sequential():
    net = parse("lenet")
    model = build(net.graph, net.input)
    assert type(model) is nn.Sequential
    assert [name for name, _ in model.named_children()] == [node.name for node in net.graph.nodes]


def test_weights_are_torchs():
    """Same seed, same layers, same numbers."""
    net = parse("3x8x8 conv:8,k3,psame bn relu convt:4,k2 flatten linear:5")
    torch.manual_seed(0)
    ours = build(net.graph, net.input).eval()
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.ConvTranspose2d(8, 4, 2), nn.Flatten()]
    theirs = nn.Sequential(*layers, nn.Linear(4 * 81, 5)).eval()
    x = torch.randn(BATCH, 3, 8, 8)
    assert torch.equal(ours(x), theirs(x))


def test_branches_compute_what_they_say():
    net = parse("3x8x8 conv:4,k3,p1 sum(bn relu | | tanh) cat(sigmoid | ) sum( | )")
    model = build(net.graph, net.input)
    x = torch.randn(BATCH, 3, 8, 8)
    y = model.conv1(x)
    y = model.bn1(y).relu() + y + y.tanh()
    y = torch.cat([y.sigmoid(), y], 1)
    torch.testing.assert_close(model(x), y + y)


def test_torchs_own_same_padding():
    net = parse("2x7x9 conv:3,k4x5,d2x1,psame")
    model = build(net.graph, net.input)
    conv = nn.Conv2d(2, 3, (4, 5), padding="same", dilation=(2, 1))
    conv.load_state_dict(model.conv1.state_dict())
    x = torch.randn(BATCH, 2, 7, 9)
    torch.testing.assert_close(model(x), conv(x))


def test_uneven_pooling():
    x = torch.randn(BATCH, 2, 7) - 10  # below zero: a maximum over zero padding would show
    built = build(parse("maxpool:k2,s2,p0.1").graph, (2, 7))
    assert torch.equal(built(x), F.max_pool1d(x, 2, 2, ceil_mode=True))
    inside = build(parse("avgpool:k2,s2,p0.1,count_include_pad=0").graph, (2, 7))
    torch.testing.assert_close(inside(x)[..., -1], x[..., -1])
    padded = build(parse("avgpool:k2,s2,p0.1").graph, (2, 7))
    torch.testing.assert_close(padded(x)[..., -1], x[..., -1] / 2)


def test_models_are_copied_and_pickled():
    net = parse("3x9x9 conv:4,k4,psame sum(conv:4,k2,psame | ) avgpool:k2,psame-tf,count_include_pad=0 gap")
    model = build(net.graph, net.input)
    x = torch.randn(BATCH, *net.input)
    for again in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(again(x), model(x))


def test_results_are_let_go_after_their_last_use():
    """A chain of joins holds a few maps at a time, however long it is."""
    net = parse("4x8x8 50*(sum(relu | ))")
    model = build(net.graph, net.input)
    alive, most = set(), 0

    def count(_module, _inputs, y):
        nonlocal most
        alive.add(id(y))
        weakref.finalize(y, alive.discard, id(y))
        most = max(most, len(alive))

    for child in model.children():
        child.register_forward_hook(count)
    with torch.no_grad():
        model(torch.randn(1, 4, 8, 8))
    assert most <= 3


def test_misfits_are_refused_before_building():
    with pytest.raises(DlkitError, match="conv1"):
        build(parse("conv:4,k9").graph, (3, 5, 5))
