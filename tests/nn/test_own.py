"""A module of the user's own as the network of a run: trained, kept, opened again only when it is named again."""

import hashlib
import json
import os
import shutil
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file
from test_contract import assert_error
from torch import nn

from dlkit.core.job import JobOptions
from dlkit.core.recipe import Recipe
from dlkit.nn.average import Ema
from dlkit.nn.prepare import prepare
from dlkit.nn.train import begin

NET = """
import random
import torch
from torch import nn
from parts import Head

class Net(nn.Module):
    def __init__(self, width=8, classes=3):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(4, width), nn.BatchNorm1d(width), nn.ReLU())
        self.head = Head(width, classes)
        self.start = nn.Parameter(torch.tensor(random.random()))

    def forward(self, x):
        print("forward")
        return self.head(self.body(x)) + self.start

class Pixels(nn.Module):
    def __init__(self, classes=10):
        super().__init__()
        self.conv, self.fc = nn.Conv2d(1, 4, 3), nn.LazyLinear(classes)

    def forward(self, x):
        return self.fc(self.conv(x).view(x.shape[0], -1))

class Value(nn.Module):
    def __init__(self, flat=False):
        super().__init__()
        self.fc, self.spare, self.flat = nn.Linear(10, 1), nn.Linear(2, 2), flat

    def forward(self, x):
        return self.fc(x)[:, 0] if self.flat else self.fc(x)

class Two(Net):
    def forward(self, x):
        return super().forward(x), x

class Detached(Net):
    def forward(self, x):
        return super().forward(x).detach()

class Whole(Net):
    def forward(self, x):
        return super().forward(x).argmax(1, keepdim=True).expand(-1, 3)

class Late(Net):
    def forward(self, x):
        if len(x) > 3:
            raise RuntimeError("too many rows")
        return super().forward(x)

class Nothing(nn.Module):
    def forward(self, x):
        return x[:, :3]

class Looks(Net):
    def forward(self, x):
        y = super().forward(x)
        return y if y.sum().item() > 0 else -y

class Bag(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.head = nn.Embedding(20, 8), nn.Linear(8, 2)

    def forward(self, tokens):
        there = (tokens >= 0)[..., None]
        return self.head((self.embed(tokens.clamp(min=0)) * there).sum(1) / there.sum(1))

class Small(nn.Module):
    def __init__(self, tokens, outputs, pool=1):
        super().__init__()
        self.embed, self.head, self.pool = nn.Embedding(tokens, 8), nn.Linear(8, outputs), pool

    def forward(self, tokens):
        found = self.embed(tokens.clamp(min=0))
        return self.head(found.mean(1) if self.pool else found)

class Tied(nn.Module):
    def __init__(self, vocab):
        super().__init__()
        self.embed, self.head = nn.Embedding(vocab, 8), nn.Linear(8, vocab, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, tokens):
        return self.head(self.embed(tokens))
"""
PARTS = """
from torch import nn

class Head(nn.Linear):
    pass
"""


@pytest.fixture(autouse=True)
def anew(monkeypatch):
    """What a module imports from beside it is imported in each test, as in a process of its own."""
    monkeypatch.delitem(sys.modules, "parts", raising=False)
    yield
    sys.modules.pop("parts", None)


@pytest.fixture
def net(tmp_path):
    (tmp_path / "net.py").write_text(NET)
    (tmp_path / "parts.py").write_text(PARTS)
    return tmp_path / "net.py"


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The files of a finished run of net.py:Net:width=6 on iris."""
    from dlkit.cli import run

    folder = tmp_path_factory.mktemp("own")
    (folder / "net.py").write_text(NET)
    (folder / "parts.py").write_text(PARTS)
    before = os.getcwd()
    os.chdir(folder)
    try:
        assert run(["train", "iris", "net.py:Net:width=6", "--epochs", "2", "--out", "run", "-q"]) == 0
    finally:
        os.chdir(before)
    return folder


@pytest.fixture
def copied(trained, tmp_path):
    """Those files, to be changed, in the folder of the test."""
    shutil.copytree(trained, tmp_path, dirs_exist_ok=True)
    return tmp_path


def test_it_is_what_plain_torch_trains(net, monkeypatch):
    """The same class by hand: the weights after a step are those of a loop without dlkit."""
    monkeypatch.chdir(net.parent)
    recipe = Recipe(optimizer="sgd", lr=0.1, momentum=0.0, schedule="constant", weight_decay=0.0)
    job = prepare(JobOptions("diabetes", ("net.py:Value",)), recipe)
    state = begin(job)
    torch.manual_seed(0)
    by_hand = job.own.make()
    start = by_hand.state_dict()
    assert all(torch.equal(value, start[name]) for name, value in state.model.state_dict().items())
    batch = next(iter(job.train.shuffled(1)))
    state.stepper(batch, state.plan(0))
    torch.nn.functional.mse_loss(by_hand(batch.x)[:, 0], batch.y).backward()
    with torch.no_grad():
        for p in by_hand.parameters():
            p -= 0.1 * p.grad if p.grad is not None else 0.0
    for name, value in by_hand.state_dict().items():
        assert torch.allclose(state.model.state_dict()[name], value, rtol=1e-6, atol=1e-7), name


def test_a_run_keeps_what_opens_it_again(trained):
    config = json.loads((trained / "run" / "config.json").read_text())
    assert config["network"] == config["module"]["word"] == "net.py:Net:width=6"
    assert set(config["module"]["files"]) == {"net.py", "parts.py"}
    assert (trained / "run" / "source" / "parts.py").read_text() == PARTS
    assert "source/net.py" in json.loads((trained / "run" / "manifest.json").read_text())["sha256"]


def test_eval_predict_and_export_take_it_when_it_is_named(inside, copied):
    named = ["--module", "net.py:Net:width=6"]
    assert inside("eval", "run", "iris", *named, "-q").code == 0
    ran = inside("predict", "run", "iris", *named, "--format", "csv")
    assert ran.code == 0 and "forward" not in ran.out and "forward" in ran.err
    made = inside("export", "run", "net.pt2", *named, "--json")
    assert made.code == 0, made.err
    assert json.loads(made.out)["summary"]["max_difference"] < 1e-5


@pytest.mark.parametrize("command", [["eval", "run", "iris"], ["predict", "run", "iris"], ["export", "run", "x.pt2"],
                                     ["train", "iris", "linear:3", "--against", "run"]])  # fmt: skip
def test_no_file_makes_code_run(inside, copied, command):
    """The class is on the disk, and the run says where: without the command line's word nothing of it is run."""
    (copied / "net.py").write_text("raise SystemExit('it ran')")
    ran = inside(*command)
    assert_error(ran, 2)
    assert "its network is a module of your own, net.py:Net:width=6" in ran.err and "it ran" not in ran.err


@pytest.mark.parametrize("words", [[], ["--effective"]])
def test_rf_says_how_such_a_network_is_traced(inside, copied, words):
    ran = inside("rf", "--run", "run", *words)
    assert_error(ran, 2)
    assert "dlkit rf SHAPE net.py:Net:width=6" in ran.err


def test_a_package_of_ones_own_is_known_again_by_its_files(inside, tmp_path, monkeypatch):
    home = tmp_path / "mine" / "nets"
    home.mkdir(parents=True)
    (tmp_path / "mine" / "__init__.py").touch()
    (home / "__init__.py").write_text("from torch.nn import Linear as Layer\n")
    assert inside("train", "iris", "mine.nets:Layer:4,3", "--epochs", "1", "--out", "run", "-q").code == 0
    kept = json.loads((tmp_path / "run" / "config.json").read_text())["module"]["files"]
    assert set(kept) == {"mine/__init__.py", "mine/nets/__init__.py"}
    assert inside("eval", "run", "iris", "--module", "mine.nets:Layer:4,3", "-q").code == 0
    (home / "__init__.py").write_text("from torch.nn import Linear as Layer  # another\n")
    ran = inside("eval", "run", "iris", "--module", "mine.nets:Layer:4,3")
    assert_error(ran, 65)
    assert "mine/nets/__init__.py is not what it was" in ran.err and "PYTHONPATH=run/source" in ran.err
    for name in [name for name in sys.modules if name.partition(".")[0] == "mine"]:
        monkeypatch.delitem(sys.modules, name)


def test_a_run_taken_up_by_its_name_alone_asks_for_the_module(inside, copied):
    ran = inside("train", "--resume", "run")
    assert_error(ran, 2)
    assert "dlkit train --resume run net.py:Net:width=6" in ran.err
    ran = inside("train", "iris", "--init-from", "run")
    assert_error(ran, 2)
    assert "dlkit train DATA net.py:Net:width=6 --init-from run" in ran.err


def test_the_module_alone_is_said_and_the_rest_is_as_the_run_was_told(inside, net, tmp_path):
    assert inside("train", "iris", "net.py:Net:width=6", "--lr", "0.01", "--epochs", "1", "--out", "run").code == 0
    ran = inside("train", "--resume", "run", "net.py:Net:width=6", "--epochs", "2", "--json")
    assert ran.code == 0 and [row["epoch"] for row in json.loads(ran.out)["rows"]] == [2], ran.err
    assert json.loads((tmp_path / "run" / "config.json").read_text())["recipe"]["lr"] == 0.01
    ran = inside("train", "--resume", "run", "net.py:Net:width=7", "--epochs", "3")
    assert_error(ran, 2)
    assert "the network differs" in ran.err


def test_an_embedding_smaller_than_the_vocabulary_is_found_before_the_run(inside, net, tmp_path):
    words = [f"{'no' if i % 2 else 'yes'} {i:03d} abcdefghij" for i in range(40)]
    (tmp_path / "t.csv").write_text("line,y\n" + "".join(f"{word},{word[:2]}\n" for word in words))
    (tmp_path / "t.txt").write_text("\n".join(words))
    for command in (
        ["t.csv", "net.py:Small:4,2", "--text", "line", "--target", "y"],
        ["t.txt", "net.py:Small:4,27,pool=0", "--context", "8"],
        ["t.txt", "embed:4,8", "linear:27", "--context", "8"],
    ):
        for what in ("train", "lrfind"):
            ran = inside(what, *command)
            assert_error(ran, 2)
            assert "tokens" in ran.err and "27" in ran.err.splitlines()[-1], ran.err
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("file", ["net.py", "parts.py"])
def test_code_that_has_changed_is_refused_and_what_it_was_opens(inside, copied, monkeypatch, file):
    (copied / file).write_text((copied / file).read_text() + "\n# another line\n")
    monkeypatch.delitem(sys.modules, "parts", raising=False)
    ran = inside("eval", "run", "iris", "--module", "net.py:Net:width=6", "-q")
    assert_error(ran, 65)
    assert f"{file} is not what it was when run was trained" in ran.err
    assert "--module run/source/net.py:Net:width=6" in ran.err
    ran = inside("train", "iris", "net.py:Net:width=6", "--resume", "run", "--epochs", "3")
    assert_error(ran, 2)
    assert f"{file} is not what it was" in ran.err
    monkeypatch.delitem(sys.modules, "parts", raising=False)
    assert inside("eval", "run", "iris", "--module", "run/source/net.py:Net:width=6", "-q").code == 0


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["--module", "net.py:Net:width=7"], 2, "its network is net.py:Net:width=6"),
        (["--module", "gone.py:Net:width=6"], 2, "its network is net.py:Net:width=6"),
        (["--module", "gone/net.py:Net:width=6"], 66, "gone/net.py"),
    ],
)
def test_another_module_is_refused(inside, copied, words, code, said):
    ran = inside("eval", "run", "iris", *words)
    assert_error(ran, code)
    assert said in ran.err


def test_a_module_where_there_is_none_has_no_effect(inside):
    assert inside("train", "iris", "linear:3", "--epochs", "1", "--out", "run", "-q").code == 0
    for words in (["eval", "run", "iris"], ["export", "run", "x.pt2"]):
        ran = inside(*words, "--module", "torch.nn:Linear:4,3")
        assert_error(ran, 2)
        assert "--module has no effect" in ran.err


def rewritten(run, name: str) -> None:
    """The manifest as somebody would write it who has changed that file."""
    manifest = json.loads((run / "manifest.json").read_text())
    manifest["sha256"][name] = hashlib.sha256((run / name).read_bytes()).hexdigest()
    (run / "manifest.json").write_text(json.dumps(manifest))


def test_weights_of_another_network_are_not_loaded(inside, copied):
    save_file({"body.0.weight": torch.zeros(6, 4)}, copied / "run" / "model.safetensors")
    rewritten(copied / "run", "model.safetensors")
    ran = inside("eval", "run", "iris", "--module", "net.py:Net:width=6")
    assert_error(ran, 65)
    assert "these are not the weights" in ran.err


@pytest.mark.parametrize("module", [1, [], {}, {"word": 1, "files": 2, "package": 3}, {"files": {}}])
def test_a_damaged_record_of_the_module_is_bad_data(inside, copied, module):
    config = copied / "run" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"module": module}))
    rewritten(copied / "run", "config.json")
    assert_error(inside("eval", "run", "iris", "--module", "net.py:Net:width=6"), 65)


def test_a_name_from_a_file_reaches_the_terminal_as_text(inside, copied):
    config = copied / "run" / "config.json"
    told = json.loads(config.read_text())
    told["network"] = told["module"]["word"] = "\x1b[31mnet.py:Net$(touch ran)"
    config.write_text(json.dumps(told))
    rewritten(copied / "run", "config.json")
    ran = inside("eval", "run", "iris")
    assert_error(ran, 2)
    assert "\x1b" not in ran.err and not (copied / "ran").exists()


def test_an_export_that_torch_cannot_follow_is_one_line(inside, net):
    assert inside("train", "iris", "net.py:Looks", "--epochs", "1", "--out", "run", "-q").code == 0
    ran = inside("export", "run", "x.pt2", "--module", "net.py:Looks")
    assert_error(ran, 65)
    line = NET.splitlines().index("        return y if y.sum().item() > 0 else -y") + 1
    assert f"cannot be written as .pt2: GuardOnDataDependentSymNode at net.py:{line}" in ran.err
    ran = inside("train", "iris", "net.py:Looks", "--dry-run", "--json")
    assert ran.code == 0 and "costs are not known" in ran.err
    assert json.loads(ran.out)["summary"]["memory_bytes"] is None


def test_texts_come_as_tokens_with_their_ends_marked(inside, net):
    rows = "".join(
        f"{'ab ' * (1 + i % 4) if i % 2 else 'xy ' * (1 + i % 3)},{'no' if i % 2 else 'yes'}\n" for i in range(80)
    )
    (net.parent / "prose.csv").write_text(f"words,y\n{rows}")
    words = ["prose.csv", "--text", "words", "--target", "y"]
    ran = inside("train", *words, "net.py:Bag", "--epochs", "15", "--out", "run", "-q")
    assert ran.code == 0 and float(ran.out) > 0.9, ran
    assert float(inside("eval", "run", "prose.csv", "--module", "net.py:Bag", "-q").out) > 0.9


@pytest.mark.parametrize(
    ("data", "word", "said"),
    [
        ("iris", "net.py:Net:classes=4", "makes 3x4 of 3 rows, but iris has 3 classes: 3x3 is needed"),
        ("digits", "net.py:Net", "net.py:Net cannot take 1x8x8"),
        ("diabetes", "net.py:Value:flat=True", "makes 3 of 3 rows, but diabetes has one target to predict: 3x1"),
        ("iris", "net.py:Two", "returns a tuple"),
        ("iris", "net.py:Detached", "no gradient"),
        ("iris", "net.py:Whole", "returns int64"),
        ("iris", "net.py:Nothing", "no parameter to train"),
        ("iris", "net.py:Nett", "did you mean 'Net'"),
        ("iris", "net.py:Net:depth=3", "no argument 'depth'"),
        ("iris", "net.py:Net relu", "the whole network"),
    ],
)
def test_what_does_not_fit_is_named(inside, net, tmp_path, data, word, said):
    for command in ("train", "lrfind"):
        ran = inside(command, data, *word.split())
        assert_error(ran, 2)
        assert said in ran.err
    assert not (tmp_path / "runs").exists()


def test_its_output_has_a_hint(inside, net):
    assert "net.py:Net:classes=3" in inside("train", "iris", "net.py:Net:classes=4").err


def test_a_failure_on_the_way_names_its_line(inside, net):
    line = NET.splitlines().index('            raise RuntimeError("too many rows")') + 1
    ran = inside("train", "iris", "net.py:Late", "--out", "late")
    assert_error(ran, 70)
    assert f"net.py:{line}: RuntimeError: too many rows" in ran.err and "bug in dlkit" not in ran.err


def test_images_come_as_pytorch_lays_them_out_and_lazy_layers_get_their_size(inside, net, tmp_path):
    ran = inside("train", "digits", "net.py:Pixels", "--epochs", "1", "--out", "run", "--json")
    assert ran.code == 0, ran.err
    assert json.loads(ran.out)["summary"]["params"] == 40 + 10 * (4 * 36 + 1)
    assert inside("eval", "run", "digits", "--module", "net.py:Pixels", "--tta", "crop", "-q").code == 0


def test_what_the_forward_leaves_out_is_said(inside, net):
    ran = inside("train", "diabetes", "net.py:Value", "--epochs", "1")
    assert ran.code == 0 and "no use of spare.weight, spare.bias" in ran.err


def test_a_language_model_of_ones_own(inside, net, tmp_path):
    (tmp_path / "book.txt").write_text("abcd\n" * 400)
    word = "net.py:Tied:6"
    assert inside("train", "book.txt", word, "--context", "16", "--epochs", "2", "--out", "run").code == 0
    assert inside("predict", "run", "--generate", "9", "--module", word).code == 0
    assert inside("eval", "run", "book.txt", "--module", word, "-q").code == 0
    assert_error(inside("eval", "run", "book.txt"), 2)
    assert_error(inside("predict", "run", "--generate", "9"), 2)


def test_dry_run_measures_the_module(inside, net):
    ran = inside("train", "iris", "net.py:Net:width=16", "--dry-run", "--batch-size", "32", "--json")
    answer = json.loads(ran.out)
    assert ran.code == 0, ran.err
    assert answer["summary"]["params"] == 4 * 16 + 16 + 32 + 16 * 3 + 3 + 1
    # two products forward; on the way back one for the first layer's weight, and two for the second layer
    assert answer["summary"]["step_flops"] == 2 * 32 * (2 * 64 + 3 * 48)
    assert answer["summary"]["memory"]["weights"] == 4 * answer["summary"]["params"]
    assert [row["layer"] for row in answer["rows"]][:3] == ["body.0", "body.1", "body.2"]


def test_an_average_moves_a_weight_with_two_names_once():
    embed = nn.Embedding(3, 2)
    head = nn.Linear(2, 3, bias=False)
    head.weight = embed.weight
    live = nn.Sequential(embed, head)
    average = Ema(live, 0.5)
    before = embed.weight.detach().clone()
    with torch.no_grad():
        embed.weight += 1.0
    average.after_step(live)
    share = 1 - min(0.5, 1 / 10)
    assert torch.allclose(average.model[0].weight, before + share)
    assert average.model[0].weight is average.model[1].weight


@pytest.mark.parametrize("words", [[], ["--ema", "0.9", "--accumulate", "2", "--watch"]])
def test_resume_is_exact(inside, net, tmp_path, words):
    command = ["train", "iris", "net.py:Net", "--epochs", "4", "--schedule", "constant", *words]
    assert inside(*command, "--out", "whole").code == 0
    assert inside(*command[:3], "--epochs", "2", *command[5:], "--out", "half").code == 0
    ran = inside(*command, "--resume", "half")
    assert ran.code == 0, ran.err
    whole, half = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "half"))
    assert whole.keys() == half.keys() and all(torch.equal(whole[name], half[name]) for name in whole)


def test_another_run_of_it_starts_from_its_weights(inside, copied):
    ran = inside("train", "iris", "net.py:Net:width=6", "--init-from", "run", "--freeze", "body*", "--epochs", "1",
                 "--out", "next", "--json")  # fmt: skip
    assert ran.code == 0, ran.err
    assert json.loads(ran.out)["summary"]["trainable_params"] == 6 * 3 + 3 + 1
    first, second = (load_file(copied / name / "model.safetensors") for name in ("run", "next"))
    assert torch.equal(first["body.0.weight"], second["body.0.weight"])
    assert torch.equal(first["body.1.running_mean"], second["body.1.running_mean"])


@pytest.mark.slow
def test_two_processes_match_one(dlkit, net, tmp_path):
    """Batch norm over both, parameters that nothing uses, and a forward of its own under DDP."""
    words = ["train", "diabetes", "net.py:Value", "--epochs", "2", "--json"]
    one, two = dlkit(*words, "--out", "one"), dlkit(*words, "--nproc", "2", "--out", "two")
    assert (one.code, two.code) == (0, 0), two.err
    losses = [[row["valid_loss"] for row in json.loads(ran.out)["rows"]] for ran in (one, two)]
    assert losses[0] == pytest.approx(losses[1], abs=1e-6)
