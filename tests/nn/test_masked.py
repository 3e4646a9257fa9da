"""Masked language models: which tokens are hidden, the loss on them, training, and what such a run is refused for."""

import json
import math
import random

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from dlkit.core import network, spec
from dlkit.core.field import looks_ahead
from dlkit.core.graph import walk
from dlkit.nn.build import build
from dlkit.nn.initial import initialise_tables
from dlkit.nn.masking import Masked
from dlkit.nn.objective import IGNORED, Objective, evaluate

CPU = torch.device("cpu")
LETTERS = "abcdefghijklmnopqrstuvwxyz\n"
BERT = "bert:width=32,heads=2"
SMALL = ["--context", "16", "--batch-size", "16"]


@pytest.fixture
def text(tmp_path):
    """A text in which every letter follows from those beside it."""
    (tmp_path / "letters.txt").write_text(LETTERS * 60)
    return "letters.txt"


def windows(seed: int = 0, **more) -> Masked:
    tokens = np.random.Generator(np.random.PCG64(0)).integers(0, 50, 200_001).astype(np.int32)
    return Masked(tokens, 100, 64, CPU, 50, seed, **more)


def shown(batches) -> tuple[torch.Tensor, torch.Tensor]:
    x, y = zip(*((batch.x, batch.y) for batch in batches), strict=True)
    return torch.cat(x), torch.cat(y)


def test_fifteen_percent_are_to_be_told_hidden_swapped_or_left_as_they_are():
    """Devlin et al. 2019: of the chosen 80 % are the mask, 10 % any token, 10 % as they were."""
    batches = windows()
    x, y = shown(batches.in_order())
    original = batches.x[: x.numel()].view_as(x).long()
    chosen = y != IGNORED
    assert torch.equal(x[~chosen], original[~chosen]) and torch.equal(y[chosen], original[chosen])
    assert chosen.sum() == batches.count == pytest.approx(0.15 * x.numel(), rel=0.02)
    hidden, kept = (x == 50)[chosen].double().mean(), (x == original)[chosen].double().mean()
    assert hidden == pytest.approx(0.8, abs=0.01) and not (x == 50)[~chosen].any()
    assert kept == pytest.approx(0.1 + 0.1 / 50, abs=0.01)
    swapped = x[chosen & (x != 50) & (x != original)]
    assert len(swapped.unique()) == 50 and swapped.max() == 49


def test_evaluation_hides_the_same_tokens_every_time_and_training_others_in_each_epoch():
    batches, other = windows(moves=False), windows(seed=1)
    assert torch.equal(shown(batches.in_order())[0], shown(batches.in_order())[0])
    assert not torch.equal(shown(batches.in_order())[1], shown(other.in_order())[1])
    rows = torch.arange(4) * 100
    first, again, second = (batches.take(rows, epoch)[1] for epoch in (1, 1, 2))
    assert torch.equal(first, again) and not torch.equal(first, second)
    apart = torch.cat([batches.take(row[None], 1)[0] for row in rows])
    assert torch.equal(apart, batches.take(rows, 1)[0]), "a row is hidden alike whatever stands beside it"


def test_the_loss_is_the_cross_entropy_of_the_chosen_alone():
    torch.manual_seed(0)
    output, target = torch.randn(4, 10, 7, requires_grad=True), torch.randint(7, (4, 10))
    chosen = torch.rand(4, 10) < 0.3
    objective = Objective("masked-language-model", 7)
    loss = objective.loss(output, target.masked_fill(~chosen, IGNORED))
    expected = F.cross_entropy(output[chosen], target[chosen])
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
    (ours,), (theirs,) = torch.autograd.grad(loss, output), torch.autograd.grad(expected, output)
    torch.testing.assert_close(ours, theirs)
    assert objective.loss(output, torch.full((4, 10), IGNORED)).item() == 0
    batches, model = windows(), torch.nn.Embedding(51, 51)
    x, y = shown(batches.in_order())
    loss, perplexity = evaluate(model, batches, Objective("masked-language-model", 51))
    by_hand = F.cross_entropy(model(x).flatten(0, 1), y.flatten()).item()
    assert loss == pytest.approx(by_hand, rel=1e-5) and perplexity == pytest.approx(math.exp(loss))


@pytest.mark.parametrize(
    ("text", "ahead"),
    [
        ("embed:9,8 pos sum(ln attn:2,causal=1 | ) ln lmhead:9,tie=1", False),
        ("embed:9,8 lstm:8 lmhead:9", False),
        ("embed:9,8 lmhead:9", False),
        ("embed:9,8 attn:2,causal=1,window=3 lmhead:9", False),
        ("embed:9,8 channelsfirst conv:8,k3,p2.0 channelslast lmhead:9", False),
        ("embed:9,8 attn:2 lmhead:9", True),
        ("embed:9,8 gru:8,bidirectional=1 lmhead:9", True),
        ("embed:9,8 channelsfirst conv:8,k3,p1 channelslast lmhead:9", True),
        ("embed:9,8 sum(attn:2,causal=1 | attn:2) lmhead:9", True),
    ],
)
def test_the_network_tells_whether_it_sees_what_comes_next(text, ahead):
    steps = walk(spec.parse(text).graph, (12,))
    assert steps[-1].output == (12, 9) and looks_ahead(steps[-1].field) is ahead


def test_what_a_named_network_leaves_open_is_filled_in():
    assert network.filled(["bert"], vocab=9, context=4) == ["bert:vocab=9,context=4"]
    assert network.filled(["bert:vocab=8,layers=1"], vocab=9) == ["bert:vocab=8,layers=1"]
    assert network.filled(["resnet18"], classes=3, vocab=9) == ["resnet18:classes=3"]
    assert network.filled(["gpt2:context=8"], vocab=9, context=4) == ["gpt2:context=8,vocab=9"]
    for words in (["linear:3"], ["embed:9,8", "lmhead:9"], ["@net.dlk"]):
        assert network.filled(words, vocab=9) == words


def test_training_learns_to_fill_gaps_and_eval_agrees(inside, text, tmp_path):
    network = ["embed:29,16", "gru:32,bidirectional=1", "lmhead:29"]
    words = ["train", text, *network, *SMALL, "--epochs", "25", "--lr", "0.03", "--out", "run", "--json"]
    ran = inside(*words)
    assert ran.code == 0 and "masked language model" in ran.err, ran.err
    summary = json.loads(ran.out)["summary"]
    assert summary["task"] == "masked-language-model" and summary["best"] < 2
    schema = json.loads((tmp_path / "run" / "schema.json").read_text())
    assert schema["task"] == "masked-language-model"
    whole = (tmp_path / text).read_text()
    (tmp_path / "end.txt").write_text(whole[len(whole) - round(0.2 * len(whole)) :])
    scored = json.loads(inside("eval", "run", "end.txt", "--json").out)["summary"]
    assert scored["perplexity"] == pytest.approx(summary["best"], rel=1e-5) and set(scored) == {
        "perplexity",
        "loss",
        "rows",
    }
    for words, said in [
        (["predict", "run", "--generate", "5"], "masked"),
        (["predict", "run", text], "predicts no rows"),
        (["export", "run", "x.pt2"], "a language model"),
    ]:
        ran = inside(*words)
        assert (ran.code, ran.out) == (2, "") and said in ran.err, ran


def test_a_small_bert_finds_what_stands_beside_a_hidden_token(inside, tmp_path):
    """Each letter three times, the next drawn: only the neighbours tell, and the commonest letter is right 1 in 8."""
    draw = random.Random(0)
    (tmp_path / "thrice.txt").write_text("".join(3 * draw.choice("abcdefgh") for _ in range(6000)))
    words = ["bert:layers=1,width=32", "--context", "16", "--batch-size", "32", "--lr", "0.005", "--epochs", "20"]
    ran = inside("train", "thrice.txt", *words, "-q")
    assert ran.code == 0 and float(ran.out) < 3, ran


def test_learned_positions_begin_as_waves_as_strong_as_the_tokens():
    """One matrix moves all of them by a place; of random vectors as many as half the width it moves none."""
    graph = spec.parse("embed:9,16 pos attn:2 lmhead:9,tie=1").graph
    model = build(graph, (64,))
    initialise_tables(model, written=True)
    tokens, table = model.get_submodule("embed1").weight.detach(), model.get_submodule("pos1").weight.detach()
    assert table.square().mean().sqrt() == pytest.approx(0.02) and tokens.std() == pytest.approx(0.02, rel=0.2)
    step = torch.linalg.pinv(table[:-1].double(), rtol=1e-6) @ table[1:].double()
    assert (table[:-1].double() @ step - table[1:]).norm() < 1e-3 * table.norm()
    odd = build(spec.parse("embed:9,7 pos attn:1 select:mean linear:2").graph, (5,))
    initialise_tables(odd, written=False)
    assert odd.get_submodule("pos1").weight.shape == (5, 7)


def test_micro_batches_and_resuming_change_nothing(inside, text, tmp_path):
    words = ["train", text, "embed:29,8", "pos", "attn:2", "ln", "lmhead:29", *SMALL, "--schedule", "constant"]
    one, parts = (
        json.loads(inside(*words, "--epochs", "1", *extra, "--json").out)["rows"][0]["train_loss"]
        for extra in ([], ["--accumulate", "4"])
    )
    assert one == pytest.approx(parts, rel=1e-5)
    assert inside(*words, "--epochs", "2", "--out", "long", "-q").code == 0
    assert inside(*words, "--epochs", "1", "--out", "short", "-q").code == 0
    assert inside("train", "--resume", "short", "--epochs", "2", "-q").code == 0
    weights = [(tmp_path / run / "model.safetensors").read_bytes() for run in ("long", "short")]
    assert weights[0] == weights[1]


OWN = """
from torch import nn

class Net(nn.Module):
    def __init__(self, causal=True):
        super().__init__()
        self.causal = bool(causal)
        self.embed, self.lstm = nn.Embedding(28, 8), nn.LSTM(8, 8, batch_first=True, bidirectional=not causal)
        self.head = nn.Linear(8 if causal else 16, 28)

    def forward(self, x):
        return self.head(self.lstm(self.embed(x))[0])
"""


def test_a_module_of_ones_own_that_sees_ahead_is_refused(inside, text, tmp_path):
    (tmp_path / "net.py").write_text(OWN)
    assert inside("train", text, "net.py:Net", *SMALL, "--epochs", "1", "-q").code == 0
    ran = inside("train", text, "net.py:Net:causal=0", *SMALL, "--epochs", "1")
    assert (ran.code, ran.out) == (2, "") and "sees the tokens that it is to foretell" in ran.err


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["embed:28,8", "attn:2", "lmhead:28"], 2, "lmhead:29"),
        (["embed:29,8", "attn:2", "lmhead:29", "--loss", "focal"], 2, "--loss focal"),
        (["bert:vocab=28"], 2, "28 tokens and the mask"),
        (["bert:context=8", "--context", "16"], 2, "--context 8"),
        (["bert:width=33"], 2, "heads"),
        (["bert:classes=2"], 2, "16x29"),
        (["bert", "--context", "1200"], 65, "tokens"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_what_does_not_fit_is_named(inside, text, words, code, said):
    ran = inside("train", text, *([] if "--context" in words else SMALL), *words)
    assert (ran.code, ran.out) == (code, "") and said in ran.err, ran


# --- a run that another one begins with ------------------------------------------------------------------------------


def test_a_run_hands_on_its_vocabulary(inside, text, tmp_path):
    """Other letters, in another number: fitted anew, every token would mean another one."""
    assert inside("train", text, BERT, *SMALL, "--epochs", "1", "--out", "first", "-q").code == 0
    (tmp_path / "other.txt").write_text("zyx ZYX äöü\n" * 120)
    ran = inside("train", "other.txt", "--init-from", "first", "--epochs", "1", "--out", "second", "--json")
    assert ran.code == 0 and "that of first" in ran.err and "drawn afresh" not in ran.err, ran.err
    first, second = (json.loads((tmp_path / run / "schema.json").read_text()) for run in ("first", "second"))
    assert first == second
    config = json.loads((tmp_path / "second" / "config.json").read_text())
    assert len(config["vocabulary"]) == 64
    ran = inside("train", "other.txt", "--init-from", "first", "--vocab", "byte")
    assert (ran.code, ran.out) == (2, "") and "--vocab has no effect" in ran.err


def test_a_masked_model_begins_a_classifier(inside, text, tmp_path):
    assert inside("train", text, BERT, *SMALL, "--epochs", "1", "--out", "first", "-q").code == 0
    rows = [f"{LETTERS[i % 20 : i % 20 + 4]}{'é' * (i % 3)},{'xy'[i % 2]}" for i in range(80)]
    (tmp_path / "t.csv").write_text("review,label\n" + "\n".join(rows) + "\n")
    words = ["train", "t.csv", "--text", "review", "--init-from", "first", "--epochs", "1"]
    ran = inside(*words, BERT, "--out", "second", "--json")
    assert ran.code == 0 and "drawn afresh: linear1.weight, linear1.bias" in ran.err, ran.err
    tokens = json.loads((tmp_path / "second" / "schema.json").read_text())["tokens"]
    first = json.loads((tmp_path / "first" / "schema.json").read_text())
    assert tokens == {"context": 16, "vocabulary": first["vocabulary"]}
    assert inside("eval", "second", "t.csv", "-q").code == 0 and inside("predict", "second", "t.csv", "-q").code == 0
    ran = inside(*words)
    assert (ran.code, ran.out) == (2, "") and "name a NETWORK" in ran.err
    ran = inside(*words, BERT, "--vocab", "char")
    assert (ran.code, ran.out) == (2, "") and "--vocab has no effect" in ran.err
