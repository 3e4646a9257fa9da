"""Language models: windows of a text, training on them, perplexity, and what they write."""

import json
import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from dlkit.nn.objective import Objective, evaluate
from dlkit.nn.windows import Windows

CPU = torch.device("cpu")
SMALL = ["--context", "16", "--epochs", "1", "--batch-size", "16"]
NET = "embed:28,16 pos sum(ln attn:2,causal=1 | ) ln lmhead:28,tie=1"
LETTERS = "abcdefghijklmnopqrstuvwxyz\n"


@pytest.fixture
def text(tmp_path):
    """A text in which every letter follows from the one before."""
    (tmp_path / "letters.txt").write_text(LETTERS * 60)
    return "letters.txt"


@pytest.fixture
def model(inside, text):
    ran = inside("train", text, *NET.split(" ", 2)[:2], NET.split(" ", 2)[2], *SMALL, "--out", "run", "--json")
    assert ran.code == 0, ran.err
    return "run"


def test_windows_cover_the_text_and_targets_are_one_further():
    tokens = np.arange(1000, dtype=np.int32)
    windows = Windows(tokens, 16, 8, CPU)
    seen = torch.cat([batch.x.flatten() for batch in windows.in_order()])
    assert torch.equal(seen, torch.arange(62 * 16)) and windows.count == 62 * 16
    assert all(torch.equal(batch.y, batch.x + 1) for batch in windows.in_order())


def test_an_epoch_shows_tokens_once_and_moves_on_in_the_next():
    windows = Windows(np.arange(1000, dtype=np.int32), 16, 8, CPU, seed=3, moves=True)
    epochs = [torch.cat([b.x for b in windows.shuffled(e)]) for e in (1, 2)]
    for shown in epochs:
        assert len(shown.unique()) == shown.numel() == windows.count - (windows.rows % 8 == 1) * 16
    assert not torch.equal(*epochs)
    assert torch.equal(epochs[0], torch.cat([b.x for b in windows.shuffled(1)]))
    places = {int(b.x[0, 0]) % 16 for e in range(20) for b in windows.shuffled(e)}
    assert len(places) > 5


def test_the_loss_is_the_cross_entropy_of_the_next_token():
    output, target = torch.randn(3, 5, 7), torch.randint(7, (3, 5))
    objective = Objective("language-model", 7)
    expected = F.cross_entropy(output.reshape(15, 7), target.reshape(15))
    assert objective.loss(output, target).item() == pytest.approx(expected.item(), rel=1e-6)
    assert objective.metric == "perplexity" and objective.better(2.0, 3.0)
    assert objective.value(expected.item() * 15, 15) == pytest.approx(math.exp(expected))


def test_training_learns_the_alphabet_and_writes_it(inside, text):
    words = ["embed:28,16", "pos", "sum(ln attn:2,causal=1 | )", "ln", "lmhead:28,tie=1"]
    ran = inside("train", text, *words, "--context", "16", "--epochs", "30", "--lr", "0.03", "--out", "run", "--json")
    assert ran.code == 0, ran.err
    summary = json.loads(ran.out)["summary"]
    assert (summary["task"], summary["metric"]) == ("language-model", "perplexity") and summary["best"] < 1.3
    wrote = inside("predict", "run", "--generate", "30", "--prompt", "abc", "--temperature", "0")
    assert wrote.code == 0 and wrote.out.rstrip("\n") == (LETTERS * 2)[:33].rstrip("\n")
    scored = json.loads(inside("eval", "run", text, "--json").out)["summary"]
    assert scored["perplexity"] < 1.3 and scored["rows"] == (27 * 60 - 1) // 16 * 16
    assert scored["bits_per_byte"] == pytest.approx(scored["loss"] / math.log(2))


def test_validation_and_eval_agree_and_lines_hold_the_contract(inside, text, tmp_path, model):
    """The last fifth, read by `eval` as a text of its own, has the perplexity that training reported."""
    whole = (tmp_path / text).read_text()
    (tmp_path / "end.txt").write_text(whole[len(whole) - round(0.2 * len(whole)) :])
    row = json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[-1])
    scored = json.loads(inside("eval", model, "end.txt", "--json").out)["summary"]
    assert scored["perplexity"] == pytest.approx(row["perplexity"], rel=1e-5)
    assert {"epoch", "step", "lr", "train_loss", "valid_loss", "perplexity"} <= set(row)


def test_drawing_is_repeatable_and_top_k_one_is_the_likeliest(inside, model):
    def wrote(*words):
        return inside("predict", model, "--generate", "20", "--prompt", "a", *words).out

    assert wrote() == wrote() and wrote("--seed", "1") != wrote("--seed", "2")
    assert wrote("--top-k", "1") == wrote("--temperature", "0")
    answer = json.loads(inside("predict", model, "--generate", "5", "--json").out)
    assert answer["summary"]["tokens"] == 5 and len(answer["summary"]["text"]) == 5


@pytest.mark.parametrize("vocabulary", ["byte", "bpe:280"])
def test_other_vocabularies_train_and_are_read_back(inside, text, vocabulary):
    if vocabulary != "byte":
        pytest.importorskip("tokenizers")
    ran = inside("train", text, "--vocab", vocabulary, *SMALL, "--out", "run", "-q")
    assert ran.code == 0, ran.err
    assert inside("eval", "run", text, "-q").code == 0
    assert inside("predict", "run", "--generate", "3", "-q").code == 0


def test_micro_batches_and_resuming_change_nothing(inside, text, tmp_path):
    words = ["train", text, "embed:28,8", "pos", "ln", "lmhead:28", "--context", "16", "--batch-size", "16"]
    one, parts = (
        json.loads(inside(*words, "--epochs", "1", *extra, "--json").out)["rows"][0]["train_loss"]
        for extra in ([], ["--accumulate", "4"])
    )
    assert one == pytest.approx(parts, rel=1e-5)
    constant = [*words, "--schedule", "constant", "--out"]
    assert inside(*constant, "long", "--epochs", "2", "-q").code == 0
    assert inside(*constant, "short", "--epochs", "1", "-q").code == 0
    assert inside(*words, "--schedule", "constant", "--resume", "short", "--epochs", "2", "-q").code == 0
    weights = [(tmp_path / run / "model.safetensors").read_bytes() for run in ("long", "short")]
    assert weights[0] == weights[1]


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["train", "letters.txt", "--context", "2000"], 65, "tokens"),
        (["train", "letters.txt", "--target", "x"], 2, "--target"),
        (["train", "letters.txt", "--augment", "flip"], 2, "--augment"),
        (["train", "letters.txt", "--class-weights", "balanced"], 2, "--class-weights"),
        (["train", "letters.txt", "--loss", "focal"], 2, "--loss focal"),
        (["train", "letters.txt", "--device", "cpu", "--precision", "tf32"], 2, "--precision tf32"),
        (["train", "letters.txt", *NET.split(" ", 2), *SMALL, "--lr", "1e38"], 70, "its rows are token "),
        (["train", "letters.txt", "--vocab", "words"], 2, "--vocab words"),
        (["train", "letters.txt", "--image-size", "8"], 2, "--image-size"),
        (["train", "letters.txt", "--group", "a"], 2, "--group has no effect"),
        (["train", "letters.txt", "embed:9,8", "lmhead:9"], 2, "lmhead:28"),
        (["train", "iris", "--context", "8"], 2, "--context"),
        (["train", "iris", "--vocab", "byte"], 2, "--vocab"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_what_does_not_fit_is_named(inside, text, words, code, said):
    ran = inside(*words)
    assert (ran.code, ran.out) == (code, "") and said in ran.err, ran


def test_a_language_model_is_not_taken_for_another(inside, text, model, finished_run):
    for words, said in [
        (["predict", model, text], "--generate"),
        (["predict", model, "--prompt", "x"], "--generate"),
        (["export", model, "net.pt2"], "can be exported"),
        (["predict", str(finished_run), "--generate", "3"], "language model"),
        (["predict", model, "--generate", "3", "--out", "x.txt"], "--out has no effect"),
        (["predict", model, "--generate", "3", "--tta", "flip"], "--tta has no effect"),
        (["predict", model, "--generate", "3", "--na", "?"], "--na has no effect"),
        (["export", model, "x.pt2"], "language model"),
        (["eval", model, text, "--tta", "flip"], "--tta"),
        (["eval", model, text, "--rows", "valid"], "--rows"),
        (["eval", model, text, "--weights", "1,2"], "--weights"),
    ]:
        ran = inside(*words)
        assert ran.code == 2 and ran.out == "" and said in ran.err, ran


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_shakespeare_at_the_published_size(inside, shared):
    """nanoGPT's README, CPU configuration: 1.88 after 2,000 iterations; here two passes over nine tenths."""
    block = "4*(sum(ln attn:4,causal=1,bias=0 | ) sum(ln mlp:512,bias=0 | ))"
    network = ["embed:66,128", "pos", block, "ln", "lmhead:66,tie=1"]
    size = ["--context", "64", "--batch-size", "16", "--epochs", "2", "--valid", "0.1"]
    recipe = ["--lr", "0.001", "--min-lr", "0.0001", "--schedule", "cosine", "--warmup", "100", "--beta2", "0.99"]
    ran = inside("train", str(shared("tinyshakespeare.txt")), *network, *size, *recipe, "--weight-decay", "0.1",
                 "--clip", "1", "--json")  # fmt: skip
    assert ran.code == 0, ran.err
    answer = json.loads(ran.out)
    assert answer["summary"]["steps"] <= 2000
    assert min(row["valid_loss"] for row in answer["rows"]) <= 1.88


def test_evaluation_computes_the_cross_entropy_once(monkeypatch):
    """Over a large vocabulary it is a good part of an evaluation."""
    windows = Windows(np.arange(200, dtype=np.int32) % 7, 16, 4, CPU)
    model, calls, real = torch.nn.Embedding(7, 7), [], F.cross_entropy
    monkeypatch.setattr(F, "cross_entropy", lambda *args, **more: calls.append(1) or real(*args, **more))
    loss, perplexity = evaluate(model, windows, Objective("language-model", 7))
    assert len(calls) == len(list(windows.in_order())) and perplexity == pytest.approx(math.exp(loss))
