"""A module of the user's own, and its receptive field: the same as that of the same network in our language."""

import json

import pytest
from test_contract import assert_error

from dlkit.core.receptive import answer

NET = """
from torch import nn

class Net(nn.Sequential):
    def __init__(self):
        pool = nn.MaxPool2d(3, 2, 1)
        super().__init__(nn.Conv2d(3, 8, 7, 2, 3), nn.ReLU(), pool, nn.Conv2d(8, 8, (3, 5), padding=1, dilation=2))

class Flips(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, x):
        return self.conv(x.flip(-1))
"""
TEXT = "3x64x64 conv:8,k7,s2,p3 relu maxpool:k3,s2,p1 conv:8,k3x5,p1,d2"


@pytest.fixture
def place(tmp_path, monkeypatch):
    (tmp_path / "net.py").write_text(NET)
    monkeypatch.chdir(tmp_path)


def test_the_same_fields_as_the_text(place, dlkit):
    ran = dlkit("rf", "3x64x64", "net.py:Net", "--json")
    found, wanted = json.loads(ran.out), answer(TEXT.split())
    keys = "op", "rf", "rf_min", "stride", "padding", "center"
    assert [{k: row[k] for k in keys} for row in found["rows"]] == [{k: row[k] for k in keys} for row in wanted.rows]
    assert {**found["summary"], "layer": ""} == {**wanted.summary, "layer": ""}


def test_a_recurrent_layer_over_the_batch_is_named(inside):
    assert_error(inside("rf", "20x8", "torch.nn:GRU:8,4"), 2, "batch_first")
    assert inside("convshape", "20x8", "torch.nn:GRU:8,4").code == 0


def test_its_options(place, dlkit):
    assert dlkit("rf", "3x64x64", "net.py:Net", "--at", "2", "-q").out == "11\n"
    assert dlkit("rf", "3x64x64", "net.py:Net", "--want", "8", "-q").out == "2\n"
    text = dlkit("rf", *TEXT.split(), "--pixel", "3,3", "-q").out
    assert dlkit("rf", "3x64x64", "net.py:Net", "--pixel", "3,3", "-q").out == text


def test_what_loses_the_field_is_named(place, dlkit):
    ran = dlkit("rf", "3x64x64", "net.py:Flips")
    assert_error(ran, 2)
    assert "flip" in ran.err


def test_only_traced(place, dlkit):
    assert_error(dlkit("rf", "net.py:Net"), 2)


@pytest.mark.parametrize(
    ("word", "seen", "causal"),
    [
        ("LSTM:8,4,batch_first=True", "20", True),
        ("GRU:8,4,2,batch_first=True", "20", True),
        ("RNN:8,4,batch_first=True,nonlinearity=relu", "20", True),
        ("GRU:8,4,batch_first=True,bidirectional=True", "20", False),
        ("TransformerEncoderLayer:8,2,16,batch_first=True", "20", False),
        ("Linear:8,3", "1", False),
        ("Conv1d:20,3,5", "5", False),
    ],
)
def test_sequences_run_along_their_positions(place, inside, word, seen, causal):
    ran = inside("rf", "20x8", f"torch.nn:{word}")
    assert ran.code == 0, ran.err
    assert inside("rf", "20x8", f"torch.nn:{word}", "-q").out == f"{seen}\n"
    assert ("causal" in ran.err) == causal
