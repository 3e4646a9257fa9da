"""A run from the outside: what it writes, that it repeats, how it stops, and that its numbers are true."""

import hashlib
import json
import signal
import subprocess

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from sklearn.metrics import accuracy_score, root_mean_squared_error
from support import command_line, environment, last_weights

from dlkit.core import spec
from dlkit.data import Schema, hold_out, load
from dlkit.nn.build import build


def trained(inside, *words: str) -> dict:
    ran = inside("train", *words, "--json")
    assert ran.code == 0, ran.err
    return json.loads(ran.out)


def hashes(folder) -> dict[str, str]:
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.rglob("*.safetensors")}


def test_the_run_directory(inside, tmp_path):
    answer = trained(inside, "iris", "--epochs", "3")
    run = tmp_path / answer["summary"]["run"]
    assert run == tmp_path / "runs" / "iris-mlp-1"
    manifest = json.loads((run / "manifest.json").read_text())["sha256"]
    assert {n for n in manifest if "/" not in n} == {
        "config.json", "schema.json", "metrics.jsonl", "model.safetensors",
    }  # fmt: skip
    assert all(name.endswith(f"-{digest}.safetensors") for name, digest in manifest.items() if "/" in name)
    for name, digest in manifest.items():
        assert hashlib.sha256((run / name).read_bytes()).hexdigest() == digest
    logged = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert logged == answer["rows"] and [row["epoch"] for row in logged] == [1, 2, 3]
    assert answer["summary"]["best"] == max(row["accuracy"] for row in logged)
    assert not list(run.rglob(".*"))
    assert trained(inside, "iris", "--epochs", "1")["summary"]["run"].endswith("iris-mlp-2")


@pytest.mark.parametrize("data", ["digits", "iris", "diabetes"])
def test_the_same_seed_gives_the_same_run(inside, tmp_path, data):
    epochs = ("--epochs", "2")
    first, again = (trained(inside, data, *epochs, "--out", name) for name in ("a", "b"))
    other = trained(inside, data, *epochs, "--out", "c", "--seed", "1")
    assert hashes(tmp_path / "a") == hashes(tmp_path / "b") != hashes(tmp_path / "c")
    losses = [[row["valid_loss"] for row in answer["rows"]] for answer in (first, again, other)]
    assert losses[0] == losses[1] != losses[2]


@pytest.mark.parametrize(("data", "metric"), [("digits", "accuracy"), ("wine", "accuracy"), ("diabetes", "rmse")])
def test_the_best_weights_score_what_was_reported(inside, tmp_path, data, metric):
    """The network, schema and weights of the directory alone give the reported metric, by scikit-learn's own count."""
    answer = trained(inside, data, "--epochs", "4", "--out", "run")
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    schema = Schema.from_json(json.loads((tmp_path / "run" / "schema.json").read_text()))
    model = build(spec.parse(config["network"]).graph, tuple(config["input"])).eval()
    model.load_state_dict(load_file(tmp_path / "run" / "model.safetensors"))
    dataset = load(data)
    rows = hold_out(dataset).valid
    x = torch.from_numpy(schema.inputs(dataset, rows)).float()
    if schema.pixels:
        along = (1, -1, 1, 1)
        x = (x - torch.tensor(schema.pixel_mean).view(along)) / torch.tensor(schema.pixel_std).view(along)
    with torch.inference_mode():
        output = model(x).numpy()
    if metric == "accuracy":
        score = accuracy_score(dataset.labels[rows], output.argmax(1))
    else:
        score = root_mean_squared_error(dataset.labels[rows], schema.unscale(output[:, 0]))
    assert answer["summary"]["metric"] == metric
    assert answer["summary"]["best"] == pytest.approx(score, rel=1e-4)


def test_the_validation_side_has_no_influence_on_what_is_learnt(inside, tmp_path):
    """Other values in validation rows: the same weights to the last bit."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(100, 4)).astype(np.float32), np.arange(100) % 2
    np.savez(tmp_path / "one.npz", X=x, y=y)
    held_out = hold_out(load(str(tmp_path / "one.npz"))).valid
    x[held_out] *= 50
    np.savez(tmp_path / "two.npz", X=x, y=y)
    for name in ("one", "two"):
        trained(inside, f"{name}.npz", "--epochs", "2", "--out", name)
    one, two = (last_weights(tmp_path / name) for name in ("one", "two"))
    assert one.keys() == two.keys() and all(torch.equal(one[k], two[k]) for k in one)


def test_divergence_is_an_answer_with_its_step(inside, tmp_path):
    ran = inside("train", "diabetes", "--optimizer", "sgd", "--lr", "1e6", "--out", "run", "--schedule", "constant")
    assert ran.code == 70
    assert "diverged" in ran.err and "step" in ran.err and "--lr" in ran.err
    for path in (tmp_path / "run").rglob("*.safetensors"):
        assert all(torch.isfinite(v).all() for v in load_file(path).values())
    assert (tmp_path / "run" / "manifest.json").exists() == (tmp_path / "run" / "model.safetensors").exists()


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_keeps_what_was_learnt(tmp_path, signum, code):
    words = command_line("train", "digits", "--epochs", "10000", "--out", "run", "--format", "jsonl")
    pipe = subprocess.PIPE
    with subprocess.Popen(words, stdout=pipe, stderr=pipe, text=True, cwd=tmp_path, env=environment()) as process:
        assert json.loads(process.stdout.readline())["epoch"] == 1
        process.send_signal(signum)
        rest, err = process.communicate(timeout=240)
    assert process.returncode == code
    assert "stopped at step" in err and "Traceback" not in err
    assert (tmp_path / "run" / "manifest.json").exists()
    logged = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert len(logged) == 1 + len(rest.splitlines())


@pytest.mark.parametrize(
    ("name", "words", "metric", "bound"),
    [
        ("titanic.csv", ["--target", "survived", "--drop", "alive"], "accuracy", 0.78),
        ("california_housing.csv", ["--target", "median_house_value", "--epochs", "5"], "rmse", 62000),
        ("penguins.csv", ["--target", "species"], "accuracy", 0.97),
    ],
)
def test_real_tables(inside, shared, name, words, metric, bound):
    best = trained(inside, str(shared(name)), *words)["summary"]
    assert best["metric"] == metric
    assert best["best"] >= bound if metric == "accuracy" else best["best"] <= bound


def test_a_network_from_the_command_line_on_real_digits(inside, shared):
    """97 % on a held-out fifth of 10,000 handwritten digits; three epochs are enough to be close, twenty to pass it."""
    shared("mnist10k-labels-idx1-ubyte.gz")
    network = "conv:16,k3,p1 relu maxpool:k2 conv:32,k3,p1 relu maxpool:k2 flatten linear:10"
    answer = trained(inside, str(shared("mnist10k-images-idx3-ubyte.gz")), *network.split(), "--epochs", "8")
    assert answer["summary"]["best"] >= 0.97


def test_photographs(inside, shared):
    answer = trained(inside, str(shared("hymenoptera")), "--epochs", "1")
    assert (answer["summary"]["train_rows"], answer["summary"]["valid_rows"]) == (245, 153)
