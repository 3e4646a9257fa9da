"""A run of `train` as a predictor: what is loaded is what was trained, and nothing else is ever loaded."""

import json
import pickle
import random
import shutil
import struct

import numpy as np
import pytest
import torch
from safetensors.torch import load, save

from dlkit.core.errors import DlkitError
from dlkit.core.reading import Reading
from dlkit.core.run import RunDirectory, open_run
from dlkit.data import hold_out, metrics
from dlkit.data import load as load_data
from dlkit.nn.predictor import open_network
from dlkit.nn.views import parse


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A small run of `train digits`; not to be changed."""
    from dlkit.cli import run
    from dlkit.core import console

    out = tmp_path_factory.mktemp("runs") / "run"
    words = ["digits", "conv:8,k3,s2", "bn", "relu", "flatten", "dropout:0.5", "linear:16", "relu", "linear:10"]
    assert run(["train", *words, "--epochs", "3", "--out", str(out), "-q"]) == 0
    console.quiet = False
    return out


@pytest.fixture
def copy(run, tmp_path):
    """A run that may be spoilt, with `seal` to make its manifest true again."""
    path = tmp_path / "run"
    shutil.copytree(run, path)

    def seal():
        (path / "manifest.json").unlink(missing_ok=True)
        RunDirectory(path).finish()

    return path, seal


def test_it_predicts_what_training_reported(run):
    """Accuracy on the validation rows is the best that metrics.jsonl has: dropout is off, batch norm's means are on."""
    network, data = open_network(open_run(run), "cpu"), load_data("digits")
    proba = network.predict(data)
    valid = hold_out(data).valid
    best = max(json.loads(line)["accuracy"] for line in (run / "metrics.jsonl").read_text().splitlines())
    assert metrics.accuracy(data.labels[valid], proba[valid].argmax(1)) == pytest.approx(best)
    np.testing.assert_allclose(proba.sum(1), 1)
    np.testing.assert_allclose(network.predict(data.take(valid)), proba[valid], atol=1e-6)


def test_an_embedding_is_what_the_last_layer_is_given(run):
    network, data = open_network(open_run(run), "cpu"), load_data("digits")
    embedding = network.embed(data)
    weights = load((run / "model.safetensors").read_bytes())
    logits = torch.from_numpy(embedding).float() @ weights["linear2.weight"].T + weights["linear2.bias"]
    assert embedding.shape == (1797, 16)
    np.testing.assert_allclose(torch.softmax(logits.double(), 1).numpy(), network.predict(data), atol=1e-5)


def test_views_are_averaged(run):
    data = load_data("digits")
    flipped = data.take(np.arange(50))
    mirrored = flipped.arrays[..., ::-1].copy()
    plain, both = open_network(open_run(run), "cpu"), open_network(open_run(run), "cpu", parse("flip"))
    one = plain.predict(flipped)
    other = plain.predict(type(flipped)(**{**vars(flipped), "arrays": mirrored}))
    np.testing.assert_allclose(both.predict(flipped), (one + other) / 2, atol=1e-6)
    crops = [view(torch.arange(64.0).reshape(1, 1, 8, 8)) for view in parse("crop")]
    assert [int(x[0, 0, 3, 3]) for x in crops] == [27, 18, 20, 34, 36]
    assert len(parse("flip,vflip,crop")) == 20


class Canary:
    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return open, (self.path, "w")


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "schema.json", "manifest.json"])
def test_no_pickle_is_ever_run(copy, tmp_path, name):
    path, seal = copy
    for i, data in enumerate((pickle.dumps(Canary(tmp_path / "sung")), torch_pickle(tmp_path))):
        (path / name).write_bytes(data)
        if name != "manifest.json":
            seal()
        with pytest.raises(DlkitError) as caught:
            open_network(open_run(path), "cpu")
        assert caught.value.code == 65, (i, caught.value)
    assert not (tmp_path / "sung").exists()


def torch_pickle(tmp_path):
    torch.save({"weight": Canary(tmp_path / "sung")}, tmp_path / "x.pt")
    return (tmp_path / "x.pt").read_bytes()


def flips(path, files, count, seed):
    """Single flipped bits, one after another, each undone after its turn."""
    draw = random.Random(seed)
    for _ in range(count):
        file = path / draw.choice(files)
        data = file.read_bytes()
        bit = draw.randrange(8 * len(data))
        file.write_bytes(data[: bit // 8] + bytes([data[bit // 8] ^ 1 << bit % 8]) + data[bit // 8 + 1 :])
        yield file
        file.write_bytes(data)


@pytest.mark.parametrize("count", [60, pytest.param(2000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "schema.json", "manifest.json"])
def test_a_flipped_bit_is_named(copy, name, count):
    path, _ = copy
    for file in flips(path, [name], count, seed=1):
        with pytest.raises(DlkitError) as caught:
            open_run(path)
        assert caught.value.code == 65 and file.parent.name in caught.value.message


@pytest.mark.parametrize("count", [40, pytest.param(2000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", ["config.json", "schema.json"])
def test_a_crafted_run_is_used_or_refused(copy, name, count):
    """Bits flipped and the manifest made true again, as someone who means harm would: an answer, or one error."""
    path, seal = copy
    rows = load_data("digits").take(np.arange(3))
    for _ in flips(path, [name], count, seed=2):
        seal()
        try:
            proba = open_network(open_run(path), "cpu").predict(rows)
        except DlkitError as failure:
            assert failure.code == 65 and "\n" not in failure.message
        else:
            assert proba.shape[0] == 3


def test_weights_of_another_network(copy):
    path, seal = copy
    weights = load((path / "model.safetensors").read_bytes())
    for other in (
        {name: value for name, value in weights.items() if name != "linear1.bias"},
        {**weights, "linear1.bias": torch.zeros(17)},
        {**weights, "extra": torch.zeros(1)},
        {},
    ):
        (path / "model.safetensors").write_bytes(save(other))
        seal()
        with pytest.raises(DlkitError) as caught:
            open_network(open_run(path), "cpu")
        assert caught.value.code == 65


@pytest.mark.parametrize("network", ["linear:1000000000000", "flatten 64*(linear:1000000)", "", "x" * 100, None, "@x"])
def test_a_network_that_its_weights_do_not_fill_is_not_built(copy, network):
    path, seal = copy
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps({**config, "network": network}))
    seal()
    with pytest.raises(DlkitError) as caught:
        open_network(open_run(path), "cpu")
    assert caught.value.code == 65


def test_a_header_that_promises_more_than_there_is(copy):
    path, seal = copy
    header = json.dumps({"linear1.bias": {"dtype": "F32", "shape": [2**60], "data_offsets": [0, 2**62]}}).encode()
    for data in (struct.pack("<Q", len(header)) + header, struct.pack("<Q", 2**63) + header, b"", b"\0" * 8):
        (path / "model.safetensors").write_bytes(data)
        seal()
        with pytest.raises(DlkitError) as caught:
            open_network(open_run(path), "cpu")
        assert caught.value.code == 65


@pytest.mark.gpu
def test_the_gpu_predicts_what_the_cpu_does(run):
    data = load_data("digits", Reading())
    cpu, cuda = (open_network(open_run(run), device, parse("flip")) for device in ("cpu", "cuda"))
    np.testing.assert_allclose(cuda.predict(data), cpu.predict(data), atol=1e-4)
    np.testing.assert_allclose(cuda.embed(data), cpu.embed(data), rtol=1e-3, atol=1e-3)
