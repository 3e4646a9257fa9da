"""The finder from the outside: it repeats, leaves nothing behind, says no, and its rate is that of `--lr auto`."""

import json
import math

import numpy as np
import pytest


def test_the_finder_leaves_nothing_behind(inside, tmp_path):
    ran = inside("lrfind", "iris", "--json")
    assert ran.code == 0 and not list(tmp_path.iterdir())
    summary = json.loads(ran.out)["summary"]
    assert summary["low"] <= summary["suggestion"] <= summary["high"]
    assert set(summary["suggestions"]) == {"valley", "steep", "minimum", "slide"}
    again = json.loads(inside("lrfind", "iris", "--json").out)["summary"]
    assert again == summary


def test_the_finder_says_no_where_there_is_nothing_to_find(inside, tmp_path):
    """Labels without any relation to the inputs."""
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "noise.npz", X=rng.normal(size=(4000, 3)), y=rng.integers(0, 2, 4000))
    ran = inside("lrfind", "noise.npz", "linear:2", "--json")
    assert ran.code == 1
    answer = json.loads(ran.out)
    assert answer["ok"] is False and answer["summary"]["suggestion"] is None
    assert "no clear minimum" in ran.err


def test_what_is_only_learned_by_heart_is_no_minimum(inside, tmp_path):
    """Few rows with random labels: their loss falls to nothing, that of the rows held out does not."""
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "few.npz", X=rng.normal(size=(120, 100)), y=rng.integers(0, 2, 120))
    words = ["few.npz", "linear:256", "relu", "linear:2", "--steps", "300", "--seeds", "1", "--json"]
    ran = inside("lrfind", *words)
    answer = json.loads(ran.out)
    assert ran.code == 1 and answer["summary"]["suggestion"] is None
    assert min(row["loss"] for row in answer["rows"]) < 0.3 * answer["rows"][0]["loss"]


def test_the_rules_read_the_loss_of_the_same_held_out_rows(inside):
    """Which moves less from step to step than that of batches, and starts where validation does."""
    answer = json.loads(inside("lrfind", "digits", "--seeds", "1", "--json").out)
    rows = answer["rows"][:50]
    jumps = {name: np.abs(np.diff([row[name] for row in rows])).mean() for name in ("loss", "valid_loss")}
    assert jumps["valid_loss"] < jumps["loss"] / 3
    average = 0.0
    for i, row in enumerate(answer["rows"], 1):
        average = 0.8 * average + 0.2 * row["valid_loss"]
        assert row["smoothed"] == pytest.approx(average / (1 - 0.8**i))


def test_no_more_rows_are_watched_than_a_batch_has_or_tell_enough():
    from dlkit.core.job import JobOptions
    from dlkit.core.recipe import Recipe
    from dlkit.nn.lrfind import HeldOut
    from dlkit.nn.prepare import prepare

    for batch, rows in ((32, 256), (300, 300), (1000, 359)):
        job = prepare(JobOptions("digits", ("flatten", "linear:10"), batch_size=batch), Recipe())
        assert len(HeldOut(job, job.model(0)).x) == rows


def test_auto_is_the_run_with_the_rate_that_is_found(inside, tmp_path):
    """To the last bit, with dropout in the network and the printed command's options in both."""
    said = ["digits", "flatten", "linear:32", "relu", "dropout:0.2", "linear:10", "--optimizer", "sgd", "--clip", "5"]
    rate = inside("lrfind", *said, "-q").out.strip()
    for name, lr in (("a", "auto"), ("b", rate)):
        assert inside("train", *said, "--epochs", "2", "--lr", lr, "--out", name).code == 0
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in "ab"]
    configs = [json.loads((tmp_path / name / "config.json").read_text())["recipe"] for name in "ab"]
    assert weights[0] == weights[1] and configs[0] == configs[1]
    assert configs[0]["lr"] == float(rate)


def test_the_printed_command_says_the_recipe(inside):
    ran = inside("lrfind", "iris", "--optimizer", "sgd", "--no-nesterov", "--batch-size", "16", "--seeds", "1")
    assert "next: dlkit train iris --batch-size 16 --optimizer sgd --no-nesterov --lr " in ran.err


def test_verified_by_short_runs(inside):
    """The best of rates around the sweeps' suggestion, by validation loss."""
    answer = json.loads(inside("lrfind", "iris", "--verify", "2", "--json").out)["summary"]
    tried = {run["lr"]: run["valid_loss"] for run in answer["verified"]}
    assert len(tried) >= 5 and list(tried) == sorted(tried) and answer["suggestion"] in tried
    assert answer["low"] <= answer["suggestion"] <= answer["high"]
    assert f"{len(tried)} rates by {3 * len(tried)} runs" in answer["method"]  # 30 rows are held out


def test_neighbours_have_a_say_in_which_rate_is_chosen():
    from dlkit.nn.lrfind import chosen

    def best(*tried):
        return chosen(tried, 0.1, "one-cycle")

    assert best((0.1, 4.0), (0.2, 3.0), (0.3, 4.0)) == 0.2
    assert best((0.1, 3.2), (0.2, 3.1), (0.3, 3.0), (0.4, math.inf)) == 0.2
    assert best((0.1, 3.0), (0.2, 3.1), (0.3, 6.0)) == 0.1
    assert best((0.1, 5.0), (0.2, math.inf)) == 0.1


def test_where_the_rate_stays_short_runs_have_half_a_say():
    from dlkit.nn.lrfind import chosen

    assert chosen([(0.1, 4.0), (0.4, 3.0), (0.8, 4.0)], 0.1, "constant") == 0.2


@pytest.mark.parametrize("best, runs", [(0.01, 5), (0.015, 5), (0.04, 6), (0.0005, 8), (0.3, 8)])
def test_rates_are_tried_until_the_best_has_neighbours_that_are_worse(monkeypatch, best, runs):
    from dlkit.core import console
    from dlkit.nn import lrfind

    monkeypatch.setattr(lrfind, "repeats", lambda job: 1)
    monkeypatch.setattr(lrfind, "_short_run", lambda job, lr, epochs, seed, bar: abs(math.log(lr / best)))
    with console.progress(0) as bar:
        tried = dict(lrfind.verify(None, 0.01, 1, bar))
    assert len(tried) == runs
    found = min(tried, key=tried.get)
    assert abs(math.log(found / best)) < math.log(3) / 4 + 0.02
    assert min(tried) < found < max(tried)


def test_where_every_run_diverges_lower_rates_are_tried(monkeypatch):
    from dlkit.core import console
    from dlkit.nn import lrfind

    monkeypatch.setattr(lrfind, "repeats", lambda job: 1)
    monkeypatch.setattr(lrfind, "_short_run", lambda job, lr, epochs, seed, bar: math.inf if lr > 0.001 else 1.0)
    with console.progress(0) as bar:
        tried = dict(lrfind.verify(None, 0.01, 1, bar))
    assert min(tried, key=tried.get) < 0.001


def test_a_linear_sweep(inside):
    words = ["--spacing", "linear", "--start", "0.001", "--end", "0.1", "--steps", "50", "--seeds", "1", "--json"]
    answer = json.loads(inside("lrfind", "iris", *words).out)
    steps = np.diff([row["lr"] for row in answer["rows"]])
    assert steps == pytest.approx(0.099 / 49)


def test_a_sweep_that_ran_away_says_so_with_q_too(inside):
    ran = inside("lrfind", "iris", "--spacing", "linear", "--seeds", "1", "-q")
    assert (ran.code, ran.out) == (1, "") and "ran away" in ran.err and "--end" in ran.err


def test_where_the_rate_stays_the_method_says_what_the_answer_is(inside):
    words = ["iris", "--schedule", "constant", "--seeds", "1", "--verify", "1", "--json"]
    summary = json.loads(inside("lrfind", *words).out)["summary"]
    assert "geometric mean" in summary["method"] and "of 1 epoch," in summary["method"]


@pytest.mark.parametrize("words", [["iris", "bert"], ["wine", "embed:10,4", "select:mean", "linear:3"]])
def test_a_network_of_tokens_is_refused_for_a_table(inside, words):
    ran = inside("lrfind", *words)
    assert (ran.code, ran.out) == (2, "") and "reads tokens" in ran.err and "--text" in ran.err


def test_auto_without_a_minimum_is_an_error(inside, tmp_path):
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "noise.npz", X=rng.normal(size=(4000, 3)), y=rng.integers(0, 2, 4000))
    ran = inside("train", "noise.npz", "linear:2", "--lr", "auto")
    assert (ran.code, ran.out) == (1, "") and "no clear minimum" in ran.err
    assert not (tmp_path / "runs").exists()
