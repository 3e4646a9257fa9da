"""The effective receptive field: what the paper's theory says of stacks of convolutions, and the picture."""

import hashlib
import json
import math

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from test_contract import assert_error

from dlkit.core import draw
from dlkit.core.errors import DlkitError
from dlkit.nn import effective


def measured(text, samples=20):
    subject = effective.of_text(text.split())
    walked = subject.walked
    return effective.measure(subject, len(walked.steps) - 1, walked.input, samples, seed=0)


def answer(words, at=None, want=None, samples=2, seed=0):
    return effective.answer(effective.of_text(words), at, want, samples, seed)


@pytest.mark.parametrize("layers", [5, 10, 20])  # N-S020
def test_a_stack_is_as_wide_as_the_theory_says(layers):
    """Luo et al. 2016: σ² = n(k² − 1)/12 for the energy of n random linear convolutions; its root has σ·√2."""
    found = measured(f"3x{2 * layers + 33} {layers}*conv:16,k3,p1,bias=0", 60)
    sigma = math.sqrt(layers * (3**2 - 1) / 12) * math.sqrt(2)
    assert found.widths[0] == pytest.approx(4 * sigma, rel=0.15)
    assert found.luo == pytest.approx(2 * sigma * math.sqrt(2 * math.log(1 / (1 - effective.MASS))), rel=0.25)
    assert found.widths[0] < 2 * layers + 1


def test_one_layer_sees_its_kernel_and_nothing_else():
    found = measured("3x33x33 conv:8,k5x3")
    assert found.widths == [5, 3]
    assert [len(rows.unique()) for rows in found.gradient.nonzero().T] == [5, 3]
    assert measured("3x16x16 conv:8,k1").widths == [1, 1]


def test_seeds_repeat():
    first, second = measured("3x32x32 4*(conv:8,k3,p1 relu)", 3), measured("3x32x32 4*(conv:8,k3,p1 relu)", 3)
    assert torch.equal(first.gradient, second.gradient)


def test_skips_narrow_it():
    """Luo et al. 2016, section 2: identity shortcuts concentrate the gradient."""
    plain = measured("8x65x65 16*(conv:8,k3,p1)")
    skipped = measured("8x65x65 16*(sum(conv:8,k3,p1 | ))")
    assert max(skipped.widths) < min(plain.widths)


def test_the_answer():
    result = answer(["3x64x64", "resnet18"], "maxpool1")
    summary = result.summary
    assert summary["rf"] == [11, 11] and summary["measured_on"] == [3, 64, 64] and summary["samples"] == 2
    assert all(1 < width <= 11 for width in summary["effective"]) and summary["luo"] <= 11
    assert summary[result.headline] in ("x".join(map(str, summary["effective"])), str(summary["effective"][0]))
    *picture, where = result.drawing(80).splitlines()
    assert where.startswith("input positions [") and "█" in "".join(picture)
    assert len({len(line) for line in picture}) == 1


def test_an_input_is_chosen_where_none_is_given():
    assert answer(["10*conv:4,k3"], samples=1).summary["measured_on"] == [3, 32, 32]


def test_a_field_larger_than_the_input_is_said():
    assert "borders" in answer(["3x8x8", "4*conv:4,k5,p2"], samples=1).notes[0]


@pytest.mark.parametrize("shape", ["3x40", "3x9x9x9"])
def test_other_ranks(shape):
    rank = shape.count("x")
    result = answer([shape, "2*conv:4,k3,p1"])
    assert len(result.summary["effective"]) == rank and result.drawing(40)


@pytest.mark.parametrize(
    ("words", "rf"), [(["40x8", "attn:2,causal=1,w5"], 5), (["40", "embed:9,8", "attn:2,causal=1,w5", "lmhead:9"], 5)]
)
def test_sequences(words, rf):
    """A window's gradient lies in the window; that of tokens is taken at what embeds them."""
    found = measured(" ".join(words))
    (seen,) = found.gradient.nonzero().T
    assert (int(seen.min()), int(seen.max())) == (20 - rf + 1, 20)
    assert answer(words).summary["rf"] == [rf] and "█" in answer(words).drawing(80)


def test_a_layer_without_a_middle_is_refused():
    with pytest.raises(DlkitError, match="gap1 has no map"):
        answer(["3x8x8", "conv:4,k3", "gap"], at="gap1")


MODULES = """
from torch import nn
from torch.nn import functional as F

class Net(nn.Module):
    def __init__(self, scale=1.0):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, (5, 3), padding=(2, 1))

    def forward(self, x):
        return F.avg_pool2d(F.relu(x + 0), 2).mean() + self.second(self.first(x))

class Lm(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.conv = nn.Embedding(9, 8), nn.Conv1d(8, 8, 3, padding=1)

    def forward(self, x):
        return F.gelu(self.conv(self.embed(x).mT)).mT

built = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3))
"""


@pytest.fixture
def place(tmp_path):
    (tmp_path / "live_net.py").write_text(MODULES)


def test_a_module_of_ones_own(place, inside):  # N-S020
    found = inside("rf", "3x33x33", "live_net.py:Net", "--at", "second", "--effective", "--json")
    summary = json.loads(found.out)["summary"]
    assert (summary["rf"], summary["effective"]) == ([7, 5], [7, 5])
    assert json.loads(inside("rf", "3x33x33", "live_net.py:Net", "--at", "first", "--effective", "--json").out)[
        "summary"
    ]["effective"] == [3, 3]
    assert inside("rf", "20", "live_net.py:Lm", "--effective", "-q").out == "3\n"
    assert inside("rf", "3x33x33", "live_net.py:built", "--effective", "-q").out == "5\n"


def test_the_weights_of_a_run(tmp_path, inside):
    """Weights that are zero but for one shift: the gradient is at one place, which those at initialisation are not."""
    x, y = np.random.default_rng(0).random((40, 1, 8, 8), np.float32), np.arange(40) % 2
    np.savez(tmp_path / "data.npz", X=x, y=y)
    ran = inside("train", "data.npz", "conv:4,k3,p1", "relu", "gap", "linear:2", "--epochs", "1", "--out", "run", "-q")
    assert ran.code == 0, ran.err
    run = tmp_path / "run"
    assert inside("rf", "--run", "run", "-q").out == "3\n"
    assert inside("rf", "--run", "run", "--at", "conv1", "--effective", "-q").out == "3\n"
    weights = {name: torch.zeros_like(value) for name, value in load_file(run / "model.safetensors").items()}
    weights["conv1.weight"][:, :, 0, 2] = 1.0
    save_file(weights, run / "model.safetensors")
    damaged = inside("rf", "--run", "run", "--effective")
    assert_error(damaged, 65, "model.safetensors")
    manifest = json.loads((run / "manifest.json").read_text())
    manifest["sha256"]["model.safetensors"] = hashlib.sha256((run / "model.safetensors").read_bytes()).hexdigest()
    (run / "manifest.json").write_text(json.dumps(manifest))
    found = json.loads(inside("rf", "--run", "run", "--at", "conv1", "--effective", "--json").out)["summary"]
    assert (found["effective"], found["rf"], found["weights"]) == ([1, 1], [3, 3], "with the weights of run")
    assert_error(inside("rf", "--run", "run", "resnet18"), 2, "--run")
    assert_error(inside("rf", "--run", "nowhere"), 66)
    assert_error(inside("rf"), 2, "network is missing")


def test_bars():
    assert draw.bars([0.0, 0.5, 1.0], 10, height=2) == "  █\n ██"
    assert draw.bars([1.0] * 100, 10, height=1) == "█" * 10


def test_shades():
    assert draw.heat([[0.0, 1.0], [0.5, 0.25]], 4) == "  ██\n▒▒░░"
    assert draw.heat([[1.0]], 10) in ("█", "██")
    lines = draw.heat([[1.0] * 200] * 100, 40).splitlines()
    assert {len(line) for line in lines} == {40} and len(lines) == 10
