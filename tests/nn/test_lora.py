"""--lora: adapters as a formula by hand has them, what learns and what does not, and the weights that are kept."""

import json
import os

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from support import last_weights
from test_contract import assert_error
from torch import nn

from dlkit.core.graph import walk
from dlkit.core.job import JobOptions
from dlkit.core.matrices import Lora, adapter_params, resolved_for
from dlkit.core.recipe import Recipe
from dlkit.core.spec import parse
from dlkit.nn.build import build
from dlkit.nn.lora import adapt, in_graph, merged
from dlkit.nn.prepare import prepare
from dlkit.nn.train import begin

NETWORKS = {
    "attention": "16x12 attn:3,kv=1 ln mlp:24 gmlp:20 select:mean linear:5",
    "experts": "16x12 moe:3,20,top=2 select:mean linear:5",
    "language": "8 embed:11,12 pos sum(ln attn:2,causal=1 | ) ln lmhead:11",
    "tied": "8 embed:11,12 pos sum(ln attn:2,causal=1 | ) ln lmhead:11,tie=1",
    "images": "3x8x8 conv:6,k3,p1 relu dwconv:k3 conv:8,k3,g2,s2 conv:4,k3,p1.0.1.2 flatten linear:5",
}


def adapted(name: str, targets: tuple[str, ...], scale: float = 2.0):
    """(network with adapters whose B is no longer 0, the graph's steps)."""
    net = parse(NETWORKS[name])
    steps = walk(net.graph, net.input)
    torch.manual_seed(0)
    model = build(net.graph, net.input).eval()
    for _, path in ((n, p) for n, p in in_graph(steps) if n in targets):
        adapt(model.get_submodule(path), 2, scale)
    for parameter_name, parameter in model.named_parameters():
        if parameter_name.endswith("lora_b"):
            nn.init.normal_(parameter, std=0.3)
    return model, steps, net


@pytest.mark.parametrize(
    ("name", "targets"),
    [
        ("attention", ("q", "k", "v", "o", "gate", "up", "down", "linear")),
        ("experts", ("gate", "up", "down", "linear")),
        ("language", ("q", "v", "head")),
        ("tied", ("q", "k")),
        ("images", ("conv", "linear")),
    ],
)
def test_merged_weights_say_what_adapters_say(name, targets):
    """W + (α/r)·BA in a network without adapters; and the core's count of them is torch's."""
    model, steps, net = adapted(name, targets)
    state = merged(model)
    plain = build(net.graph, net.input).eval()
    before = plain.state_dict()
    assert state.keys() == before.keys()
    plain.load_state_dict(state)
    tokens = len(net.input) == 1
    x = torch.randint(11, (3, *net.input)) if tokens else torch.randn(3, *net.input)
    with torch.inference_mode():
        assert torch.allclose(model(x), plain(x), rtol=1e-4, atol=1e-5)
    counted = sum(p.numel() for n, p in model.named_parameters() if "lora_" in n)
    assert counted == adapter_params(steps, Lora(2, targets))


def test_the_formula_by_hand():
    layer = nn.Linear(5, 7)
    weight, bias = layer.weight.detach().clone(), layer.bias.detach().clone()
    adapt(layer, 3, 16 / 3)
    x = torch.randn(4, 5)
    assert torch.equal(layer(x), F.linear(x, weight, bias))  # B is 0
    assert layer.lora_a.shape == (3, 5) and layer.lora_b.shape == (7, 3)
    # Kaiming's uniform with a = √5, as nn.Linear draws its own: |a| ≤ 1/√in
    assert 0 < layer.lora_a.abs().max() <= 5**-0.5
    with torch.no_grad():
        layer.lora_b.normal_()
    whole = weight + 16 / 3 * layer.lora_b @ layer.lora_a
    assert torch.allclose(layer(x), F.linear(x, whole, bias), atol=1e-5)
    assert torch.allclose(merged(layer)["weight"], whole, atol=1e-6)


def test_targets_unless_said():
    for name, targets in (("attention", ("q", "v")), ("images", ("linear",)), ("experts", ("linear",))):
        net = parse(NETWORKS[name])
        assert resolved_for(Lora(2), walk(net.graph, net.input)).targets == targets


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A run on iris whose network has two linear layers and a norm."""
    return trained(tmp_path_factory.mktemp("base"), "iris", "linear:16", "bn", "relu", "linear:3", "--epochs", "3")


def trained(folder, *words: str):
    from dlkit.cli import run

    before = os.getcwd()
    os.chdir(folder)
    try:
        assert run(["train", *words, "--out", "base", "-q"]) == 0
    finally:
        os.chdir(before)
    return folder / "base"


def job(base, monkeypatch, lora: str = "r=2,alpha=4", **recipe):
    monkeypatch.chdir(base.parent)
    return prepare(JobOptions("iris", init_from="base", lora=lora), Recipe(**recipe))


def test_adapters_alone_learn_and_have_moments(base, monkeypatch):
    state = begin(job(base, monkeypatch))
    names = {name for name, p in state.model.named_parameters() if p.requires_grad}
    assert names == {f"linear{i}.lora_{part}" for i in (1, 2) for part in "ab"}
    given = job(base, monkeypatch)
    assert given.trained == 2 * (4 + 16) + 2 * (16 + 3) and given.params == 4 * 16 + 16 + 32 + 16 * 3 + 3
    batch = next(iter(given.train.shuffled(1)))
    before = {name: value.clone() for name, value in state.model.state_dict().items()}
    for _ in range(3):
        state.stepper(batch, state.plan(0))
    moved = {name for name, value in state.model.state_dict().items() if not torch.equal(value, before[name])}
    assert moved == names
    (optimizer,) = state.stepper.optimizers
    assert len(optimizer.state) == 4


def test_the_first_step_starts_from_the_run(base, monkeypatch, inside):
    from dlkit.core.run import open_run
    from dlkit.nn.predictor import open_network

    given = job(base, monkeypatch)
    x, _ = given.valid.take(torch.arange(20))
    ours, theirs = given.model(7).eval(), open_network(open_run("base"), "cpu").model
    with torch.inference_mode():
        assert torch.equal(ours(x), theirs(x))


def test_a_step_is_that_of_a_loop_by_hand(base, monkeypatch):
    """SGD on A and B of W + 2BA, gradients by autograd of the merged product."""
    given = job(base, monkeypatch, optimizer="sgd", lr=0.5, momentum=0.0, weight_decay=0.0, schedule="constant")
    state = begin(given)
    weights = {name: value.detach().clone() for name, value in state.model.state_dict().items()}
    low = {name: value.requires_grad_() for name, value in weights.items() if "lora_" in name}
    batch = next(iter(given.train.shuffled(1)))
    for step in range(2):  # in the first the gradient of A is 0, for B is
        whole = {
            i: weights[f"linear{i}.weight"] + 2 * low[f"linear{i}.lora_b"] @ low[f"linear{i}.lora_a"] for i in (1, 2)
        }
        hidden = F.linear(batch.x, whole[1], weights["linear1.bias"])
        norm = [weights[f"bn1.{part}"] for part in ("running_mean", "running_var", "weight", "bias")]
        out = F.linear(F.batch_norm(hidden, *norm).relu(), whole[2], weights["linear2.bias"])
        gradients = torch.autograd.grad(F.cross_entropy(out, batch.y), list(low.values()))
        with torch.no_grad():
            for value, gradient in zip(low.values(), gradients, strict=True):
                value -= 0.5 * gradient
        state.stepper(batch, state.plan(step))
    after = state.model.state_dict()
    assert all(torch.allclose(after[name], value, rtol=1e-5, atol=1e-7) for name, value in low.items())


def test_the_run_is_one_of_the_network_itself(base, inside, tmp_path):
    ran = inside("train", "iris", "--init-from", str(base), "--lora", "r=2,alpha=4", "--epochs", "2", "--out", "run",
                 "--json")  # fmt: skip
    assert ran.code == 0, ran.err
    summary = json.loads(ran.out)["summary"]
    assert (summary["params"], summary["trainable_params"]) == (163, 78)
    kept, start, live = load_file(tmp_path / "run" / "model.safetensors"), load_file(base / "model.safetensors"), \
        last_weights(tmp_path / "run")  # fmt: skip
    assert kept.keys() == start.keys()
    assert {name for name in kept if not torch.equal(kept[name], start[name])} == {"linear1.weight", "linear2.weight"}
    assert {name for name in live if "lora_" in name}
    valid = float(inside("eval", "run", "iris", "--rows", "valid", "-q").out)
    assert valid == pytest.approx(summary["best"], abs=1e-6)
    made = inside("export", "run", "low.pt2", "--json")
    assert json.loads(made.out)["summary"]["max_difference"] < 1e-5, made.err


@pytest.mark.parametrize("words", [[], ["--ema", "0.9", "--clip", "1"]])
def test_resume_is_exact(base, inside, tmp_path, words):
    command = ["train", "iris", "--init-from", str(base), "--lora", "r=2", "--schedule", "constant", *words]
    assert inside(*command, "--epochs", "4", "--out", "whole").code == 0
    assert inside(*command, "--epochs", "2", "--out", "half").code == 0
    ran = inside("train", "--resume", "half", "--epochs", "4")
    assert ran.code == 0, ran.err
    for read in (last_weights, lambda run: load_file(run / "model.safetensors")):
        whole, half = (read(tmp_path / name) for name in ("whole", "half"))
        assert whole.keys() == half.keys() and all(torch.equal(whole[name], half[name]) for name in whole)
    ran = inside("train", "--resume", "half", "--lora", "r=3", "--epochs", "5")
    assert_error(ran, 2)
    assert "lora was r=2, it is r=3" in ran.err


def test_what_is_drawn_afresh_is_trained_whole(base, inside, tmp_path):
    """Another number of classes: the last layer is new, and an adapter on it would leave it as it was drawn."""
    (tmp_path / "two.csv").write_text(
        "a,b,c,d,y\n" + "".join(f"{i % 7},{i % 5},{i % 3},{i % 2},{'no' if i % 3 else 'yes'}\n" for i in range(60))
    )
    numeric = [word for name in "abcd" for word in ("--numeric", name)]
    ran = inside("train", "two.csv", "linear:16", "bn", "relu", "linear:2", "--init-from", str(base), "--lora", "r=2",
                 *numeric, "--epochs", "1", "--json")  # fmt: skip
    assert ran.code == 0, ran.err
    assert "drawn afresh, and trained whole: linear2.weight, linear2.bias" in ran.err
    assert json.loads(ran.out)["summary"]["trainable_params"] == 2 * (4 + 16) + 2 * 16 + 2


def test_a_rank_above_every_matrix_and_a_run_of_other_columns_are_named(inside, tmp_path):
    rows = "".join(f"{i % 7},{i % 5},{'xy'[i % 2]},{'pq'[i // 2 % 2]}\n" for i in range(60))
    (tmp_path / "t.csv").write_text("a,b,one,two\n" + rows)
    net = ["linear:4", "relu", "linear:2"]
    assert inside("train", "t.csv", *net, "--target", "one", "--drop", "two", "--epochs", "1", "--out", "r").code == 0
    more = ["train", "t.csv", "--init-from", "r", "--epochs", "1", "--lora"]
    ran = inside(*more, "r=5", "--target", "one", "--drop", "two")
    assert (ran.code, ran.out) == (2, "") and "no low rank" in ran.err
    ran = inside(*more, "r=1", "--target", "two", "--drop", "one", "--out", "s")
    assert ran.code == 0 and "r knows other classes (x)" in ran.err and "other columns" not in ran.err
    ran = inside(*more, "r=1", "--target", "one", "--drop", "two", "--out", "t")
    assert ran.code == 0 and "knows other" not in ran.err


def test_dry_run_counts_adapters_as_they_are(base, inside):
    words = ["train", "iris", "--init-from", str(base), "--batch-size", "10", "--dry-run", "--json"]
    low = json.loads(inside(*words, "--lora", "r=2").out)["summary"]
    whole = json.loads(inside(*words).out)["summary"]
    assert (low["params"], low["trainable_params"], whole["trainable_params"]) == (163, 78, 163)
    assert low["memory"]["optimiser states"] == 8 * 78 and low["memory"]["frozen weights"] == 4 * 163
    # forward: W and, for each, A and B; back: to the hidden layer through W2 and A2, B2; each adapter's own gradients
    first, second = 2 * (4 + 16), 2 * (16 + 3)
    forward = 64 + 48 + first + second
    backward = 48 + second + first - 2 * 4 + second + first
    assert low["step_flops"] == 2 * 10 * (forward + backward)
    assert whole["step_flops"] == 2 * 10 * (64 + 48 + 64 + 2 * 48)


OWN = """
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.query, self.value = nn.Linear(4, 8), nn.Linear(4, 8)
        self.body = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, 0.0, batch_first=True), 1)
        self.head = nn.Linear(8, 3)

    def forward(self, x):
        return self.head(self.body((self.query(x) * self.value(x))[:, None])[:, 0])

class Reads(Net):
    def forward(self, x):
        return super().forward(x) + nn.functional.linear(x, self.query.weight)[:, :3]

class Tied(Net):
    def __init__(self):
        super().__init__()
        self.value.weight = self.query.weight
"""


@pytest.mark.parametrize(
    ("word", "lora", "layers"),
    [
        ("net.py:Net", "r=2", {"query", "value", "head", "body.layers.0.linear1", "body.layers.0.linear2"}),
        ("net.py:Net", "r=2,targets=query,linear1", {"query", "body.layers.0.linear1"}),
        ("net.py:Tied", "r=2", {"head", "body.layers.0.linear1", "body.layers.0.linear2"}),
    ],
)
def test_a_module_of_ones_own(inside, tmp_path, word, lora, layers):
    """Its own names are targets; a weight with two owners is none; torch's encoder does not slip past its adapters."""
    (tmp_path / "net.py").write_text(OWN)
    assert inside("train", "iris", word, "--epochs", "1", "--out", "base", "-q").code == 0
    ran = inside(
        "train", "iris", word, "--init-from", "base", "--lora", lora, "--epochs", "2", "--out", "run", "--json"
    )
    assert ran.code == 0, ran.err
    kept, start = (load_file(tmp_path / name / "model.safetensors") for name in ("run", "base"))
    moved = {name for name in kept if not torch.equal(kept[name], start[name])}
    assert moved == {f"{layer}.weight" for layer in layers}
    said = float(inside("eval", "run", "iris", "--rows", "valid", "--module", word, "-q").out)
    assert said == pytest.approx(json.loads(ran.out)["summary"]["best"], abs=1e-6)


def test_a_forward_that_reads_a_weight_itself_is_refused(inside, tmp_path):
    (tmp_path / "net.py").write_text(OWN)
    assert inside("train", "iris", "net.py:Reads", "--epochs", "1", "--out", "base", "-q").code == 0
    words = ["train", "iris", "net.py:Reads", "--init-from", "base", "--epochs", "1"]
    ran = inside(*words, "--lora", "r=2")
    assert_error(ran, 2)
    assert "otherwise than by calling its layer" in ran.err
    assert inside(*words, "--lora", "r=2,targets=head").code == 0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "--lora adapts the weights of a run"),
        (["--init-from", "BASE", "--freeze", "linear1"], "--freeze has no effect with --lora"),
        (["--init-from", "BASE", "--optimizer", "muon"], "--optimizer muon does not go with --lora"),
        (["--init-from", "BASE", "--lora", "r=2,targets=q"], "this network has linear"),
        (["--init-from", "BASE", "--lora", "r=0"], "must be a rank"),
        (["linear:5", "linear:3", "--init-from", "BASE"], "no weight of linear comes from"),
    ],
)
def test_refused_by_name(base, inside, tmp_path, words, said):
    lora = [] if "--lora" in words else ["--lora", "r=2"]
    ran = inside("train", "iris", *lora, *(str(base) if word == "BASE" else word for word in words))
    assert_error(ran, 2)
    assert said in ran.err
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
@pytest.mark.parametrize("shard", [[], ["--shard"]])
def test_two_processes_make_the_weights_of_one(base, dlkit, tmp_path, shard):
    words = ["train", "iris", "--init-from", str(base), "--lora", "r=2,alpha=4", "--epochs", "2", "-q"]
    one = dlkit(*words, "--out", "one")
    two = dlkit(*words, "--nproc", "2", *shard, "--out", "two")
    assert (one.code, two.code) == (0, 0), two.err
    first, second = (load_file(tmp_path / name / "model.safetensors") for name in ("one", "two"))
    assert first.keys() == second.keys()
    assert all(torch.allclose(first[name], second[name], atol=1e-6) for name in first)
