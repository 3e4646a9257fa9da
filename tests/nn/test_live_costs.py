"""`flops` and `memory` of a user's module: against FlopCounterMode, autograd's hooks on real data, dlkit's own walk."""

import json
import random

import pytest
import torch
from test_contract import assert_error
from torch import nn
from torch.autograd.graph import saved_tensors_hooks
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from dlkit.core.compute import Counting, exact
from dlkit.core.graph import walk
from dlkit.core.spec import parse
from dlkit.nn.build import build
from dlkit.nn.live_costs import measured
from dlkit.nn.passes import passes

MODULES = """
import torch
from torch import nn
from torch.nn import functional as F

class Net(nn.Module):
    def __init__(self, width=8):
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3, padding=1)
        self.body = nn.Sequential(nn.Conv2d(width, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU())
        self.head = nn.Linear(width, 10)
        self.register_buffer("scale", torch.ones(7))

    def forward(self, x):
        x = self.body(self.stem(x))
        mixed = torch.einsum("bchw,bdhw->bcd", x, x)
        return self.head(x.mean((2, 3)) + mixed.mean(2))

class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.table, self.head = nn.Embedding(50, 8), nn.Linear(8, 50, bias=False)
        self.head.weight = self.table.weight

    def forward(self, tokens):
        return self.head(self.table(tokens))

class Frozen(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4)
        self.b.requires_grad_(False)

    def forward(self, x):
        return self.c(self.b(self.a(x)))

class TrainsNot(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Linear(4, 4)

    def forward(self, x):
        if self.training:
            raise ValueError("targets are needed")
        return self.a(x)
"""


@pytest.fixture
def nets(tmp_path, monkeypatch):
    """A folder with nets.py in it, which is where the user is."""
    (tmp_path / "nets.py").write_text(MODULES)
    monkeypatch.setattr("sys.path", [*__import__("sys").path])
    monkeypatch.delitem(__import__("sys").modules, "nets", raising=False)
    return tmp_path


def per_child(module, x):
    """MACs of each child, both ways, by FlopCounterMode; of the whole, forward and backward."""
    name = type(module).__name__
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        out = module(x)
        ends = [out] if isinstance(out, torch.Tensor) else [t for t in out if isinstance(t, torch.Tensor)]
        forward = counter.get_total_flops()
        sum(end.sum() for end in ends if end.requires_grad).backward()
    children = {
        key.partition(".")[2]: sum(ops.values()) // 2
        for key, ops in counter.get_flop_counts().items()
        if key.startswith(f"{name}.") and key.count(".") == 1
    }
    return children, forward // 2, (counter.get_total_flops() - forward) // 2


class Branches(nn.Module):
    """Functional products, a shared layer, a detached branch, an output that nothing reads, a product in place."""

    def __init__(self):
        super().__init__()
        self.shared, self.left, self.right = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 6)
        self.weight = nn.Parameter(torch.randn(6, 6))

    def forward(self, x):
        x = self.shared(self.shared(x))
        y = F.relu_(self.left(x) @ self.weight)
        self.right(x)
        return y, self.right(x.detach()), torch.einsum("bij,bkj->bik", y, x)


class Transposed(nn.Module):
    def __init__(self):
        super().__init__()
        self.up, self.down = nn.ConvTranspose1d(3, 5, 4, stride=2), nn.Conv1d(5, 2, 3, stride=2)

    def forward(self, x):
        return self.down(self.up(x))


class Encoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(30, 16)
        self.blocks = nn.TransformerEncoder(nn.TransformerEncoderLayer(16, 4, 32, batch_first=True), 2)
        self.head = nn.Linear(16, 30)

    def forward(self, tokens):
        return self.head(self.blocks(self.embed(tokens)))


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.LSTM(5, 4, 2, batch_first=True, bidirectional=True), nn.GRU(8, 3, batch_first=True)

    def forward(self, x):
        return self.second(self.first(x)[0])[0]


CASES = {
    Branches: (lambda: torch.empty(2, 7, 6, device="meta")),
    Transposed: (lambda: torch.empty(2, 3, 9, device="meta")),
    Encoder: (lambda: torch.zeros(2, 11, dtype=torch.int64, device="meta")),
    Recurrent: (lambda: torch.empty(2, 6, 5, device="meta")),
}


@pytest.mark.parametrize("kind", CASES)
def test_children_against_flop_counter(kind):
    module, x = kind().to("meta"), CASES[kind]()
    children, forward, backward = per_child(module, x)
    found = passes(module, x)
    assert (sum(found.forward.values()), sum(found.backward.values())) == (forward, backward)
    if kind is Branches:  # torch's counter gives a layer that runs twice, and products between layers, to the wrong one
        product, own = 504, 2 * 504 + 588  # with the weight, and the einsum
        assert found.forward == {"shared": 2 * product, "left": product, "right": 2 * product, "": product + 588}
        assert found.backward == {
            "shared": 3 * product,
            "left": 2 * product,
            "right": product,
            "": 2 * own - 2 * product,
        }
        return
    for child, macs in children.items():
        inside = [path for path in {*found.forward, *found.backward} if path == child or path.startswith(f"{child}.")]
        assert sum(found.forward[path] + found.backward[path] for path in inside) == macs


@pytest.mark.parametrize("groups", [1, 2, 4, 8])
@pytest.mark.parametrize("kind", [nn.Conv2d, nn.ConvTranspose2d])
def test_gradients_of_grouped_convolutions(kind, groups):
    """As many MACs for each gradient as forward: torch's counter does not divide the weights' by the groups."""
    module = nn.Sequential(nn.Conv2d(8, 8, 1), kind(8, 16, 3, groups=groups)).to("meta")
    found = passes(module, torch.empty(2, 8, 6, 6, device="meta"))
    size = 4 if kind is nn.Conv2d else 6
    assert found.forward["1"] == 2 * 16 * 8 // groups * 9 * size**2
    assert found.backward == {"0": found.forward["0"], "1": 2 * found.forward["1"]}


@pytest.mark.parametrize(
    "text",
    [
        "resnet18",
        pytest.param("mobilenet_v2", marks=pytest.mark.slow),
        "3x32x32 conv:8,k3 gn:2 relu convt:4,k2,s2 sum(conv:4,k3,p1 | dwconv:k3,p1 | ) gap linear:3",
        "48 embed:90,32 pos:48 2*(sum(ln attn:4,causal=1 | ) sum(ln mlp:64 | )) ln lmhead:90,tie=1",
        "48 embed:90,32 2*(sum(rms attn:4,kv=2,causal=1,rope=1,bias=0 | ) sum(rms gmlp:80 | )) rms lmhead:90",
    ],
)
def test_a_built_network_costs_what_its_text_says(text):
    net = parse(text)
    whole = exact(walk(net.graph, net.input), None, Counting()).total()
    found = measured(build(net.graph, net.input), net.input, None)
    assert 2 * sum(found.forward.values()) == whole.forward
    assert 2 * sum(found.backward.values()) == whole.backward


WORDS = [
    *("conv:4,k3,p1", "conv:4,k1,bias=0", "convt:4,k3,p1", "dwconv:k3,p1", "conv:4,k3,p1,g2", "relu", "gn:2"),
    *("sigmoid", "bn", "conv:4,k3,p2,d2", "dropout:0.1"),
]


def check(seed):
    choose = random.Random(seed)

    def chain(count):
        return " ".join(choose.choice(WORDS) for _ in range(count))

    join = choose.choice(["sum", "cat"])
    text = f"4x7x7 {chain(2)} {join}({chain(2)} | {chain(choose.randrange(3))}) {chain(2)} flatten linear:5 linear:3"
    net = parse(text)
    steps = walk(net.graph, net.input)
    learned = [step.name for step in steps if step.params]
    frozen = tuple(choose.sample(learned, choose.randrange(len(learned))))
    whole = exact(steps, None, Counting(freeze=frozen)).total()
    found = measured(build(net.graph, net.input), net.input, None, frozen)
    assert 2 * sum(found.forward.values()) == whole.forward, (text, frozen)
    assert 2 * sum(found.backward.values()) == whole.backward, (text, frozen)


@pytest.mark.parametrize("seed", range(20))
def test_random_networks_with_frozen_layers(seed):
    check(seed)


@pytest.mark.slow
@pytest.mark.parametrize("block", range(10))
def test_many_random_networks_with_frozen_layers(block):
    for seed in range(1000 + 100 * block, 1100 + 100 * block):
        check(seed)


@pytest.mark.parametrize("batch", [1, 5])
def test_what_is_kept_against_hooks_on_real_data(batch):
    """Bytes of the storages that autograd saves of a real batch, parameters and buffers aside."""
    torch.manual_seed(0)
    text = "3x16x16 conv:8,k3,p1 bn relu maxpool:k2 conv:8,k3,g2 silu flatten linear:20 relu linear:5"
    net = parse(text)
    module = build(net.graph, net.input).train()
    known = {tensor.untyped_storage().data_ptr() for tensor in (*module.parameters(), *module.buffers())}
    held = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            held[storage.data_ptr()] = (storage.nbytes(), tensor)
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        out = module(torch.randn(batch, *net.input))
    found = measured(build(net.graph, net.input), net.input, None).saved
    assert batch * sum(found.each.values()) + sum(found.fixed.values()) == sum(size for size, _ in held.values())
    assert sum(found.fixed.values()) == 8 * 8 and out.shape == (batch, 5)


# The commands ---------------------------------------------------------------------------------------


def ask(inside, line):
    ran = inside(*line.split(), "--json")
    assert ran.code == 0, ran.err
    return json.loads(ran.out), ran.err


def test_flops_of_a_module(inside, nets):
    whole, err = ask(inside, "flops 3x16x16 nets.py:Net")
    rows = {row["component"]: row for row in whole["rows"]}
    stem, body = 2 * 27 * 8 * 256, 2 * 72 * 8 * 256
    assert [rows["stem: Conv2d"][key] for key in ("params", "forward_flops", "backward_flops")] == [224, stem, stem]
    assert rows["body: Sequential"]["backward_flops"] == 2 * body == 2 * rows["body: Sequential"]["forward_flops"]
    assert rows["(Net's own forward)"]["forward_flops"] == 2 * 64 * 256
    summary = whole["summary"]
    for key in ("params", "forward_flops", "backward_flops", "train_flops"):
        assert sum(row[key] for row in whole["rows"]) == summary[key]
    assert summary["activation_bytes"] == sum(row["activation_bytes"] for row in whole["rows"]) > 0
    assert summary["uncounted"]["batch_norm"] == summary["uncounted"]["threshold_backward"] == 1
    assert "torch was loaded" in err and "relu 1" in err


def test_flops_of_a_module_go_on_as_those_of_a_network(inside, nets):
    summary = ask(inside, "flops 9 nets.py:Tied --tokens 1M --gpu h100 --mfu 0.4 --gpus 8")[0]["summary"]
    assert summary["params"] == 400 and summary["train_flops"] == 6 * 400 * 10**6
    assert summary["over_6nd"] == 1 and summary["days"] > 0
    images = ask(inside, "flops 3x16x16 nets.py:Net --samples 1k --epochs 2")[0]["summary"]
    assert images["train_flops"] == 2000 * ask(inside, "flops 3x16x16 nets.py:Net")[0]["summary"]["train_flops"]


def test_frozen_parameters(inside, nets):
    """b is frozen by the module itself: its weights need no gradient, its input still does. Then a as well."""
    product = 2 * 16
    for line, backward, frozen in (
        ("flops 4 nets.py:Frozen", [product, product, 2 * product], 20),
        ("flops 4 nets.py:Frozen --freeze a", [0, 0, product], 40),
        ("flops 4 nets.py:Frozen --freeze a.weight", [0, product, 2 * product], 36),
    ):
        whole, _ = ask(inside, line)
        assert [row["backward_flops"] for row in whole["rows"]] == backward
        assert whole["summary"]["frozen_params"] == frozen
    states = {row["component"]: row["bytes"] for row in ask(inside, "memory 4 nets.py:Frozen")[0]["rows"]}
    assert states["weights"] == 2 * 40 and states["frozen weights"] == 2 * 20 and states["optimiser states"] == 8 * 40


def test_depth(inside, nets):
    names = [row["component"] for row in ask(inside, "flops 3x16x16 nets.py:Net --depth 0")[0]["rows"]]
    assert {"body.0: Conv2d", "body.1: BatchNorm2d", "stem: Conv2d", "head: Linear"} <= set(names)
    with_children = [row["component"] for row in ask(inside, "flops 3x16x16 nets.py:Net")[0]["rows"]]
    assert with_children == [row["component"] for row in ask(inside, "flops 3x16x16 nets.py:Net --depth 1")[0]["rows"]]


def test_memory_of_a_module(inside, nets):
    whole, err = ask(inside, "memory 3x16x16 nets.py:Net --batch 4 --precision fp32 --optimizer adafactor")
    held = {row["component"]: row["bytes"] for row in whole["rows"]}
    kept = ask(inside, "flops 3x16x16 nets.py:Net")[0]["summary"]["activation_bytes"]
    assert held["activations"] == 4 * (kept - 64) + 64  # the sums of batch norm are kept once
    assert held["buffers"] == 7 * 4 + 2 * 8 * 4 + 8
    assert held["optimiser states"] == 4 * (8 + 27 + 8 + 72 + 10 + 8 + 8 + 8 + 16 + 10)
    half = ask(inside, "memory 3x16x16 nets.py:Net --batch 4")[0]["rows"]
    assert next(row["bytes"] for row in half if row["component"] == "activations") < 0.52 * held["activations"]
    assert ask(inside, "memory 3x16x16 nets.py:Net --fit 1GiB")[0]["summary"]["largest_batch"] > 1000
    assert "torch was loaded" in err


def test_attention_of_a_module_keeps_its_scores_only_if_written_out(inside, tmp_path):
    (tmp_path / "one.py").write_text(
        "from torch import nn\nfrom torch.nn import functional as F\n"
        "class One(nn.Module):\n"
        "    def __init__(self):\n        super().__init__()\n        self.w = nn.Linear(8, 8)\n"
        "    def forward(self, x):\n"
        "        x = self.w(x).unsqueeze(1)\n        return F.scaled_dot_product_attention(x, x, x)\n"
    )
    plain, flash = (
        ask(inside, f"memory 100x8 one.py:One --precision fp32 --attention {kind}")[0]["rows"][-1]["bytes"]
        for kind in ("plain", "flash")
    )
    # written out: scores, and two copies that torch makes; fused: the output and one number a row
    assert plain == 4 * (800 + 100 * 100 + 3 * 800) and flash == 4 * (800 + 2 * 800 + 100)


def test_a_module_without_training_mode(inside, nets):
    whole, err = ask(inside, "flops 4 nets.py:TrainsNot")
    assert whole["summary"]["train_flops"] == 2 * 2 * 16 and "evaluation mode" in err
    rows = ask(inside, "memory 4 nets.py:TrainsNot")[0]["rows"]
    assert rows[-1] == {"component": "activations", "bytes": None, "share": None, "batch": 1}


@pytest.mark.parametrize(
    ("line", "words"),
    {
        "flops 4 nets.py:Frozen --context 5": ("--context has no effect", "input's shape"),
        "flops 4 nets.py:Frozen --convention palm --recompute full": ("--recompute and --convention", ""),
        "flops 4 nets.py:Frozen --freeze d": ("'d' matches no child", "a.weight"),
        "flops nets.py:Frozen": ("needs the input shape", "hint"),
        "memory 4 nets.py:Frozen --lora r=8": ("--lora has no effect", ""),
        "memory 4 nets.py:Frozen --tp 2 --gpus 2": ("--tp has no effect", ""),
        "memory gpt2 --freeze conv1": ("--freeze has no effect", "FILE.py:CLASS"),
        "memory gpt2 --dtype int64": ("--dtype has no effect", ""),
        "flops gpt2 --dtype int64": ("--dtype has no effect", ""),
    }.items(),
)
def test_options_that_a_module_does_not_take(inside, nets, line, words):
    assert_error(inside(*line.split()), 2, *words)
