"""Embeddings of columns: their values by other means, their counts against torch's, and what they refuse."""

import json

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from dlkit.core.compute import Counting, exact
from dlkit.core.errors import DlkitError
from dlkit.core.graph import totals, walk
from dlkit.core.saved import activations
from dlkit.core.spec import parse
from dlkit.nn.build import build
from dlkit.nn.columns import fit_edges
from dlkit.nn.memory import saved_bytes

TEXT = "8 columns:4,bins=5,widths=1x3x1x2x1 linear:3"


def made(text: str = TEXT):
    net = parse(text)
    torch.manual_seed(0)
    return net, walk(net.graph, net.input), build(net.graph, net.input)


def rows(count: int, seed: int = 0) -> np.ndarray:
    """Numbers skewed, constant but for a few, and 0/1; two one-hot categories, of which some are unknown."""
    rng = np.random.default_rng(seed)
    x = np.zeros((count, 8), np.float32)
    x[:, 0] = rng.lognormal(size=count)
    x[:, 1:4] = np.eye(3)[rng.integers(0, 3, count)]
    x[:, 4] = np.where(rng.random(count) < 0.01, rng.normal(size=count), 2.0)
    x[:, 5:7] = np.eye(2)[rng.integers(0, 2, count)]
    x[:, 7] = rng.integers(0, 2, count)
    x[::7, 1:4] = 0
    return x


def test_a_number_is_interpolated_between_its_quantiles():
    """np.interp over the unique quantiles, and a category's vector is a row of its table; an unknown one is 0."""
    _, steps, model = made()
    x = rows(400)
    layer = model[0]
    layer.load_state_dict(fit_edges(steps, torch.from_numpy(x))["columns1"], strict=False)
    ours = layer(torch.from_numpy(x)).detach().numpy().reshape(400, 5, 4)
    weight, bias, table = (p.detach().numpy() for p in (layer.weight, layer.bias, layer.table))
    for at, feature in enumerate((0, 4, 7)):
        edges = np.unique(np.quantile(x[:, feature].astype(np.float64), np.linspace(0, 1, 6)))
        heights = np.vstack([np.zeros(4), np.cumsum(weight[at], 0)])[: len(edges)]
        expected = np.stack([np.interp(x[:, feature], edges, heights[:, d]) for d in range(4)], 1) + bias[at]
        assert ours[:, at] == pytest.approx(expected, abs=1e-5)
    assert ours[:, 3] == pytest.approx(x[:, 1:4] @ table[:3], abs=1e-6)
    assert ours[:, 4] == pytest.approx(x[:, 5:7] @ table[3:], abs=1e-6)
    assert (ours[::7, 3] == 0).all()


def test_any_finite_row_has_a_finite_embedding():
    _, steps, model = made()
    x = torch.from_numpy(rows(50))
    model[0].load_state_dict(fit_edges(steps, x)["columns1"], strict=False)
    far = torch.full((2, 8), float(np.finfo(np.float32).max)) * torch.tensor([[1.0], [-1.0]])
    far[:, 1:4] = far[:, 5:7] = 0
    assert torch.isfinite(model(far)).all()


@pytest.mark.parametrize("text", [TEXT, "6 columns:8 relu linear:2", "5 columns:3,widths=2x3 linear:2"])
def test_counts_are_torchs(text):
    """Parameters, FLOPs both ways, and the bytes that autograd keeps."""
    net, steps, model = made(text)
    assert sum(p.numel() for p in model.parameters()) == totals(steps).params
    x = torch.zeros(2, *net.input, device="meta")
    model = model.to("meta")
    with FlopCounterMode(display=False) as forward:
        y = model(x)
    with FlopCounterMode(display=False) as backward:
        y.sum().backward()
    whole = exact(steps, None, Counting()).total()
    assert (whole.forward, whole.backward) == (forward.get_total_flops() // 2, backward.get_total_flops() // 2)
    kept = activations(steps, flash=False)
    ours = 4 * (kept.stream() + sum(k.inner for k in kept.kept))
    assert not kept.unknown
    assert ours == saved_bytes(model, [torch.zeros(b, *net.input, device="meta") for b in (2, 3)])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("8 columns:4,widths=1x3", "add up to 4, and the row has 8"),
        ("3x8x8 columns:4", "needs a vector"),
        ("8 columns", "columns:16"),
        ("8 columns:4,widths=0x8", "widths"),
    ],
)
def test_what_does_not_fit_is_refused(text, words):
    with pytest.raises(DlkitError, match=words):
        net = parse(text)
        walk(net.graph, net.input)


def test_the_default_network_of_a_table_is_a_text(inside, tmp_path):
    """Written out by hand it is the same run, and the edges are those of the training side alone."""
    rng = np.random.default_rng(0)
    lines = [f"{rng.normal():.4f},{rng.choice(['a', 'b', 'c'])},{rng.integers(0, 2)}" for _ in range(200)]
    (tmp_path / "t.csv").write_text("size,kind,y\n" + "\n".join(lines) + "\n")
    assert inside("train", "t.csv", "--epochs", "2", "--out", "a").code == 0
    network = json.loads((tmp_path / "a" / "config.json").read_text())["network"]
    assert network.startswith("columns:16,bins=64,widths=1x3 ")
    assert inside("train", "t.csv", *network.split(), "--epochs", "2", "--out", "b").code == 0
    files = [(tmp_path / name / "model.safetensors").read_bytes() for name in "ab"]
    assert files[0] == files[1]
    assert inside("convshape", "4", *network.split(), "-q").out == "2\n"


def test_one_hot_columns_have_vectors_that_are_learnt():
    _, _, model = made()
    before = model[0].table.detach().clone()
    nn.functional.cross_entropy(model(torch.from_numpy(rows(20))), torch.zeros(20, dtype=torch.long)).backward()
    assert model[0].table.grad.abs().sum() > 0 and torch.equal(before, model[0].table)
