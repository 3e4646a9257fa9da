"""Recipes from the command line: they train, they end when they should, and refuse by name what has no effect."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from support import last_weights


def summary(inside, *words: str) -> dict:
    ran = inside("train", *words, "--json")
    assert ran.code == 0, ran.err
    return json.loads(ran.out)["summary"]


@pytest.mark.parametrize(
    "words",
    [
        "--optimizer muon --lr 0.02 --schedule cosine --warmup 5 --min-lr 1e-4",
        "--optimizer sgd --lr 0.1 --momentum 0.8 --schedule cosine-restarts --cycles 2",
        "--optimizer rmsprop --schedule linear --clip 1 --l1 1e-5",
        "--optimizer adam --schedule wsd --decay 0.5 --loss focal --gamma 1",
        "--schedule plateau --loss bce --class-weights balanced",
        "--precision bf16 --accumulate 2 --label-smoothing 0.1",
        "--precision fp16 --ema 0.99",
        "--swa 0.3 --checkpoint-activations",
    ],
)
def test_recipes_learn(inside, words):
    assert summary(inside, "iris", "--epochs", "12", *words.split())["best"] >= 0.9


@pytest.mark.parametrize("loss", ["mse", "mae", "huber", "smooth-l1"])
def test_regression_losses_learn(inside, loss):
    """The target's standard deviation is 77: half of its variance is explained."""
    assert summary(inside, "diabetes", "--loss", loss, "--epochs", "10")["best"] < 62


def test_patience_ends_a_run_that_gets_no_better(inside):
    answer = summary(inside, "iris", "--patience", "2", "--epochs", "60")
    assert answer["epochs"] == answer["best_epoch"] + 2 < 60


def test_the_average_is_kept_and_the_live_weights_beside_it(inside, tmp_path):
    summary(inside, "iris", "--epochs", "2", "--ema", "0.9", "--out", "run")
    kept, live = load_file(tmp_path / "run" / "model.safetensors"), last_weights(tmp_path / "run")
    assert kept.keys() == live.keys()
    assert any(not torch.equal(kept[name], live[name]) for name in kept)


@pytest.mark.parametrize(
    ("words", "named"),
    [
        ("iris --loss mse", "--loss mse"),
        ("diabetes --class-weights balanced", "--class-weights"),
        ("iris --class-weights rose=2", "rose"),
        ("iris --precision tf32 --device cpu", "--precision tf32"),
        ("iris --beta2 0.9 --optimizer sgd", "--beta2"),
        ("iris --momentum 1", "--momentum"),
        ("iris --accumulate 33 --batch-size 32", "--accumulate"),
        ("iris linear:3 --checkpoint-activations", "--checkpoint-activations"),
        ("digits conv:4,k3 gap linear:10 --optimizer muon", "--optimizer muon"),
        ("iris linear:8 bn linear:3 --accumulate 20 --batch-size 32", "--batch-size 40"),
    ],
)
@pytest.mark.parametrize("command", ["train", "lrfind"])
def test_what_has_no_effect_is_refused(inside, tmp_path, command, words, named):
    ran = inside(command, *words.split())
    assert (ran.code, ran.out) == (2, ""), ran
    assert named in ran.err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("rows", [17, 18, 19, 20, 23])
def test_batch_norm_goes_with_micro_batches_of_two_rows(inside, tmp_path, rows):
    """Whatever is left for the last step of an epoch."""
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "d.npz", X=rng.normal(size=(rows + 5, 4)).astype(np.float32), y=np.arange(rows + 5) % 3)
    words = "linear:8 bn linear:3 --accumulate 4 --batch-size 8 --epochs 1 --valid"
    assert summary(inside, "d.npz", *words.split(), str(5 / (rows + 5)))["train_rows"] == rows


def test_a_rise_that_outlasts_the_run(inside, tmp_path):
    for more in ([], ["--dry-run"]):
        ran = inside("train", "iris", "--warmup", "1000", "--schedule", "cosine", *more)
        assert (ran.code, ran.out) == (2, "") and "--warmup 1000" in ran.err
    assert not list(tmp_path.iterdir())
