"""`--batch-size auto`: the search, steps that run out of memory, the estimate, and that the number is what is kept."""

import json
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dlkit.core.errors import DlkitError
from dlkit.core.footprint import parts, total
from dlkit.core.graph import walk
from dlkit.core.job import JobOptions
from dlkit.core.model import Walked
from dlkit.core.recipe import Recipe
from dlkit.nn import batch
from dlkit.nn.estimate import planned
from dlkit.nn.prepare import prepare
from dlkit.nn.ranks import Ranks

NET = ("flatten", "linear:16", "relu", "linear:10")
MIB = 1 << 20


def job(**recipe):
    return prepare(JobOptions("digits", NET), Recipe(**recipe))


@given(st.integers(1, 5000), st.integers(1, 64), st.integers(1, 5000))
def test_the_search_ends_an_eighth_below_what_does_not_fit(room, first, most):
    asked = []
    size, beyond = batch.largest(lambda rows: asked.append(rows) or rows <= room, min(first, most), most)
    assert size <= room and size <= most and max(asked) <= most
    if beyond is None:
        assert size == most
    else:
        assert beyond > room and (size == 0 or beyond - size <= max(size // 8, 1))
    assert (size == 0) == (min(first, most) > room)
    assert len(asked) <= 20 and len(set(asked)) == len(asked)


def trial(training: int, evaluation: int, **recipe):
    """A network that takes no more than so many rows at once in training and in evaluation, as a full device would."""
    found = batch.Trial(job(**recipe), room=0)

    def full(module, inputs):
        if len(inputs[0]) > (training if module.training else evaluation):
            raise torch.OutOfMemoryError(f"no room for {len(inputs[0])} rows")

    found.step.model.register_forward_pre_hook(full)
    return found


@pytest.mark.parametrize(
    ("training", "evaluation", "recipe", "size"),
    [
        (100, 10**6, {}, 96),
        (100, 10**6, {"accumulate": 4}, 384),
        (10**6, 200, {}, 48),
        (100, 10**6, {"ema": 0.9, "clip": 1.0, "optimizer": "sgd"}, 96),
    ],
)
def test_steps_are_tried_until_memory_runs_out(capfd, training, evaluation, recipe, size):
    """In micro-batches the whole batch may be larger; four times the rows are evaluated at once."""
    one = trial(training, evaluation, **recipe)
    assert batch.largest(one.fits, 2, 1438)[0] == size
    assert all(p.grad is None for p in one.step.parameters)
    assert "out of memory" not in capfd.readouterr().err  # that is for a run, which goes on in smaller parts


def test_another_error_is_no_lack_of_memory():
    one = trial(100, 100)
    one.step.forward = lambda x: x.no_such_thing
    with pytest.raises(AttributeError):
        one.fits(8)


def test_the_estimate_is_that_of_the_calculators():
    one = job()
    model = Walked(one.graph, walk(one.graph, one.schema.input_shape), None)
    for rows in (2, 64, 1000):
        step = total(parts(model, planned(one, rows)))
        assert batch.estimate(one)(rows) >= step > total(parts(model, planned(one, rows // 2)))
        assert step == total(parts(model, planned(one.with_batch(rows), one.with_batch(rows).train.batch_size)))


def test_the_number_is_printed_recorded_and_all_that_the_run_depends_on(inside, tmp_path, monkeypatch):
    one = job()
    free = 2 * batch.estimate(one)(1000)
    monkeypatch.setattr(batch, "free_bytes", lambda: free)
    words = ["train", "digits", *NET, "--epochs", "2", "--json"]
    ran = inside(*words, "--batch-size", "auto", "--out", "auto")
    size = json.loads(ran.out)["summary"]["batch_size"]
    config = json.loads((tmp_path / "auto" / "config.json").read_text())
    assert 1000 * 8 / 9 <= size <= 1000 and size == config["batch_size"] == config["options"]["batch_size"]
    assert f"--batch-size {size}: {config['batch_found']}" in ran.err and "2 steps" in ran.err
    assert inside(*words, "--batch-size", str(size), "--out", "said").code == 0
    one, two = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("auto", "said"))
    assert one == two


@pytest.mark.parametrize(
    ("again", "words"),
    [(True, ["--resume", "run"]), (True, ["--resume", "auto", "--out", "run"]), (False, ["--resume", "run"])],
)
def test_a_resumed_run_keeps_the_size_and_the_rate_that_it_found(inside, tmp_path, monkeypatch, again, words):
    said = ["train", "digits", *NET, "--schedule", "constant", "--batch-size", "auto", "--lr", "auto"]
    monkeypatch.setattr(batch, "free_bytes", lambda: MIB)
    assert inside(*said, "--epochs", "1", "--out", "run").code == 0
    before = json.loads((tmp_path / "run" / "config.json").read_text())
    monkeypatch.setattr(batch, "settle", None)
    monkeypatch.setattr("dlkit.nn.lrfind.settle", None)
    ran = inside(*(said if again else ["train"]), "--epochs", "2", *words)
    assert ran.code == 0, ran.err
    after = json.loads((tmp_path / "run" / "config.json").read_text())
    assert {**before, "recipe": {**before["recipe"], "epochs": 2}} == after and before["batch_size"] < 1438


def test_an_unfinished_run_is_found_again_whatever_is_free_now(inside, tmp_path, monkeypatch):
    said = ["train", "digits", *NET, "--schedule", "constant", "--batch-size", "auto"]
    monkeypatch.setattr(batch, "free_bytes", lambda: MIB)
    assert inside(*said, "--epochs", "1").code == 0
    run = tmp_path / "runs" / "digits-net-1"
    (run / "manifest.json").unlink()
    name = next(p for p in (run / "checkpoint").iterdir() if not p.name.startswith("best"))
    from dlkit.nn import resume

    monkeypatch.setattr(resume, "header", lambda path, real=resume.header: real(path) | {"done": False})
    monkeypatch.setattr(batch, "free_bytes", lambda: 100 * MIB)
    assert name.exists() and inside(*said, "--epochs", "2", "--resume", "auto").code == 0
    assert [p.name for p in (tmp_path / "runs").iterdir()] == ["digits-net-1"]


def test_the_finder_hands_the_size_on(inside, monkeypatch):
    monkeypatch.setattr(batch, "free_bytes", lambda: MIB)
    ran = inside("lrfind", "digits", *NET, "--batch-size", "auto", "--seeds", "1", "--json")
    size = json.loads(ran.out)["summary"]["batch_size"]
    assert 2 < size < 1438 and f"--batch-size {size} --lr " in ran.err


@pytest.mark.parametrize(
    ("free", "code", "word"),
    [(None, 2, "not known"), (1000, 1, "not even 2 rows"), (10**12, 0, "all 1,438 training rows")],
)
def test_why_or_why_not(inside, tmp_path, monkeypatch, free, code, word):
    monkeypatch.setattr(batch, "free_bytes", lambda: free)
    ran = inside("train", "digits", *NET, "--epochs", "1", "--batch-size", "auto")
    assert ran.code == code and word in ran.err
    assert code == 0 or (ran.out == "" and not list(tmp_path.iterdir()))


def test_several_processes_are_told_to_ask_one():
    with pytest.raises(DlkitError, match="one process"):
        batch.settle(replace(job(), ranks=Ranks(0, 2)))


@pytest.mark.gpu
def test_a_gpu_is_filled_by_steps_that_are_taken(inside):
    """A batch of what is found trains; the note has the peak."""
    words = [
        "train",
        "digits",
        "conv:256,k3,p1",
        "relu",
        "4*(conv:256,k3,p1 relu)",
        "gap",
        "linear:10",
        "--epochs",
        "1",
    ]
    ran = inside(*words, "--batch-size", "auto", "--device", "cuda", "--json")
    assert ran.code == 0 and "are taken" in ran.err
    assert json.loads(ran.out)["summary"]["batch_size"] >= 2
