"""A module of the user's own on the command line: how it is named, built, refused, and shown."""

import json

import pytest
from test_contract import assert_error

from dlkit.core.errors import DlkitError
from dlkit.core.network import is_module, read
from dlkit.nn import live

NET = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, width, depth=2, act="relu", kernel=(3, 3)):
        super().__init__()
        print("hello from the constructor")
        self.body = nn.Sequential(*[nn.Conv2d(3 if i == 0 else width, width, kernel, padding=1) for i in range(depth)])
        self.mask = torch.ones(8, 8)  # no buffer: it stays on the CPU
        self.spare = nn.Linear(2, 2)

    def forward(self, x):
        return {"map": self.body(x) * self.mask + torch.arange(8), "others": [x]}

class Peeks(nn.Module):
    def forward(self, x):
        if x.sum() > 0:
            return x
        return -x

class Imports(nn.Module):
    def __init__(self):
        super().__init__()
        import no_such_package_at_all

class Raises(nn.Module):
    def __init__(self):
        super().__init__()
        raise ValueError("first\\nsecond")

class Indexes(nn.Module):
    def forward(self, x):
        return x[5]

class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding, self.head = nn.Embedding(50, 8), nn.Linear(8, 50, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, tokens):
        return self.head(self.embedding(tokens))

class Plain:
    pass

number = 3
model = nn.Linear(4, 2)
"""


@pytest.fixture
def net(tmp_path, monkeypatch):
    """A folder with net.py in it, which is where the user is."""
    (tmp_path / "net.py").write_text(NET)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", [*__import__("sys").path])
    return tmp_path


def test_the_answer_has_convshapes_keys(net, dlkit):
    ran = dlkit("convshape", "3x8x8", "net.py:Net:width=4,depth=3", "--json")
    assert ran.code == 0, ran.err
    whole = json.loads(ran.out)  # what the user's code prints is not in it
    ours = json.loads(dlkit("convshape", "3x8x8", "conv:4,k3,p1", "--json").out)
    assert all(set(row) == set(ours["rows"][0]) for row in whole["rows"])
    assert set(whole["summary"]) == {*ours["summary"], "activation_bytes"}
    assert whole["summary"]["params"] == 3 * 4 * 9 + 4 + 2 * (16 * 9 + 4) + 6 == sum(r["params"] for r in whole["rows"])
    assert whole["summary"]["macs"] == (3 * 4 + 16 + 16) * 9 * 64 and whole["summary"]["rf"] == [7, 7]
    assert [row["layer"] for row in whole["rows"]] == [*(f"body.{i}" for i in range(3)), "mul", "add", "(not used)"]
    assert "hello" in ran.err and "torch was loaded" in ran.err and "mul 1, add 1" in ran.err


def test_errors_end_in_one_line(net, dlkit):
    assert_error(dlkit("convshape", "3x8x8", "net.py:Net"), 2, "net.py:Net", "width")
    assert_error(dlkit("convshape", "5x8x8", "net.py:Net:4"), 65, "RuntimeError at net.py:14", "5x8x8")


@pytest.mark.parametrize("command", ["convshape", "rf"])
def test_what_torch_raises_under_the_trace_is_the_modules_own(net, inside, command):
    ran = inside(command, "3x8x8", "net.py:Indexes")
    assert_error(ran, 65, "IndexError at net.py:", "out of bounds")


@pytest.mark.parametrize(
    ("word", "code", "said"),
    [
        ("net.py:Nett:4", 2, "'Net'"),
        ("net.py:Net:4,wide=2", 2, "'wide'"),
        ("net.py:Net:4,2,relu,3,5", 2, "takes 4 arguments; got 5"),
        ("net.py:Net:width=4,width=5", 2, "width is given twice"),
        ("net.py:Net:width=4,5", 2, "without a name"),
        ("net.py:Net:width=__import__('os')", 2, "neither a literal nor a plain word"),
        ("net.py:Net:(1+2", 2, "neither a literal nor a plain word"),
        ("net.py:Net:width=none", 2, "TypeError at net.py:9"),
        ("net.py:Plain", 2, "not an nn.Module"),
        ("net.py:number", 2, "int"),
        ("net.py:model:3", 2, "already built"),
        ("net.py:Raises", 2, "ValueError at net.py:30: first second"),
        ("net.py:Imports", 69, "no_such_package_at_all"),
        ("no_such_package_at_all.net:Net", 69, "no_such_package_at_all"),
        ("torch.no_such_part:Net", 2, "torch.no_such_part"),
        ("nett.py:Net", 66, "no such file"),
        ("bad.py:Net", 2, "SyntaxError at bad.py:1"),
        ("ends.py:Net", 2, "exit code 3"),
    ],
)
def test_what_cannot_be_built(net, word, code, said):
    (net / "bad.py").write_text("class Net(:\n")
    (net / "ends.py").write_text("raise SystemExit(3)\n")
    with pytest.raises(DlkitError) as refused:
        live.load(word)
    assert refused.value.code == code and said in refused.value.message, refused.value.message
    assert "\n" not in refused.value.message


def test_a_forward_that_looks_at_values(net):
    with pytest.raises(DlkitError) as refused:
        live.table(["3", "net.py:Peeks"])
    assert refused.value.code == 65 and "net.py:18" in refused.value.message and "values" in refused.value.hint


@pytest.mark.parametrize(
    "word", ["net.py:Net(4, depth=1)", "net.py:Net:4,depth=1", "net:Net:width=4,depth=1,kernel=3x3"]
)
def test_ways_to_say_it(net, word):
    assert is_module(word)
    assert live.load(word).body[0].out_channels == 4


def test_arguments_are_literals():
    read_as = live.read_arguments(
        "64,act=gelu,sizes=[1,2],kernel=3x5,rate=1e-3,none=None,on=True,name='a,b',pair=(1,2)"
    )
    named = {"act": "gelu", "sizes": [1, 2], "kernel": (3, 5), "rate": 1e-3, "none": None, "on": True, "name": "a,b"}
    assert read_as == ([64], named | {"pair": (1, 2)})


def test_tokens_and_shared_weights(net):
    result = live.table(["9", "net.py:Tied"])
    assert (result.summary["params"], result.summary["macs"], result.summary["output"]) == (400, 9 * 400, [9, 50])


def test_a_long_module_is_shown_by_its_parts(net):
    """A terminal gets blocks whose sums are the module's; the rows for a program stay one for each step."""
    (net / "deep.py").write_text(
        "from torch import nn\n"
        "def block(): return nn.Sequential(nn.Conv1d(4, 4, 3, padding=1), nn.BatchNorm1d(4), nn.ReLU())\n"
        "def deep(): return nn.Sequential(nn.Conv1d(2, 4, 1), nn.Sequential(*[block() for _ in range(20)]))\n"
    )
    result = live.table(["2x9", "deep.py:deep"])
    assert len(result.rows) == 61 and len(result.overview) == 21
    assert [row["layer"] for row in result.overview[:2]] == ["0", "1.0"]
    assert result.overview[1]["op"] == "Sequential (3 steps)" and result.overview[1]["rf"] == [3]
    for key in ("params", "macs"):
        assert sum(row[key] for row in result.overview) == result.summary[key]
    assert [row["layer"] for row in live.table(["2x9", "deep.py:deep"], depth=1).rows] == ["0", "1"]


def test_layers_and_networks_are_no_modules(net):
    words = [
        "conv:64,k3",
        "resnet50:classes=10",
        "gn:8",
        "cnov:k3",
        "relu",
        "net.py",
        "3x8x8",
        "embed:50,8",
        "upsample:k2",
    ]
    assert not any(map(is_module, words))


def test_a_file_can_name_no_module(net):
    """Only the command line runs code."""
    (net / "net.dlk").write_text("3x8x8 net.py:Net:4\n")
    with pytest.raises(DlkitError, match="unknown layer"):
        read(["@net.dlk"])
