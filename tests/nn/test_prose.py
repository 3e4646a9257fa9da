"""A column of text as what a network reads: padding, vocabularies, and the commands on such runs."""

import csv
import json
import random
import shutil

import numpy as np
import polars as pl
import pytest
import torch
from support import SHARED
from torch import nn
from torch.nn import functional as F

from dlkit.core import spec
from dlkit.core.errors import DlkitError
from dlkit.core.graph import walk
from dlkit.data import vocabulary
from dlkit.data.schema import Schema
from dlkit.data.tokens import PAD, Tokens, fit_tokens
from dlkit.data.vocabulary import Bytes, Characters
from dlkit.nn.build import build
from dlkit.nn.loader import Sequences
from dlkit.nn.padding import heed

LENGTHS = (12, 1, 5, 9)
NETS = [
    "embed:9,8 pos 2*(sum(ln attn:2 | ) sum(ln mlp:16 | )) ln select:mean linear:3",
    "embed:9,8 sinpos sum(rms attn:4,kv=2,rope=1,qk_norm=1 gelu | ) select:first linear:3",
    "embed:9,8 cls pos sum(attn:2,relative=8 | ) sum(attn:2,relative=8,tie=1 | ) select:mean linear:3",
    "embed:9,8 pos sum(attn:2,causal=1,window=3 | ) select:last linear:3",
    "embed:9,8 gru:6 select:last relu linear:3",
    "embed:9,8 lstm:6,l2,bidirectional=1 ln select:mean linear:3",
    "embed:9,8 rnn:6,bidirectional=1 select:last linear:3",
    "embed:9,8 mul(linear:8 sigmoid | ) moe:3,16 select:mean bn linear:3",
]


def texts(seed: int = 0) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(9, (n,), generator=generator) for n in LENGTHS]


def padded(rows: list[torch.Tensor], width: int) -> torch.Tensor:
    return torch.stack([F.pad(row, (0, width - len(row)), value=PAD) for row in rows])


def network(text: str, context: int = 12) -> tuple[nn.Module, nn.Module]:
    """(a network that heeds lengths, the same with the same weights that does not)."""
    torch.manual_seed(1)
    graph = spec.parse(text).graph
    plain = build(graph, (context,)).eval()
    heeding = build(graph, (context,)).eval()
    heeding.load_state_dict(plain.state_dict())
    return heed(heeding, walk(graph, (context,))), plain


@pytest.mark.parametrize("text", NETS)
@torch.no_grad()
def test_logits_are_those_of_each_text_alone_whatever_the_padding(text):
    """Against the network without any padding: each text in a batch of its own."""
    heeding, plain = network(text)
    alone = torch.cat([plain(row[None]) for row in texts()])
    torch.testing.assert_close(heeding(padded(texts(), 12)), alone, rtol=1e-5, atol=1e-6)
    short = [row for row in texts() if len(row) < 9]
    expected = torch.cat([plain(row[None]) for row in short])
    for width in (5, 7, 12):
        torch.testing.assert_close(heeding(padded(short, width)), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("text", NETS)
def test_gradients_do_not_see_the_padding(text):
    heeding, plain = network(text)
    sum(plain(row[None]).square().sum() for row in texts()).backward()
    heeding(padded(texts(), 12)).square().sum().backward()
    for (name, ours), theirs in zip(heeding.named_parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-4, atol=1e-5, msg=name)


def test_the_mean_and_the_last_are_those_of_real_positions_by_hand():
    rows = texts()
    heeding, plain = network("embed:9,8 select:mean linear:3")
    table, linear = plain.get_submodule("embed1").weight, plain.get_submodule("linear1")
    expected = torch.stack([linear(table[row].mean(0)) for row in rows])
    torch.testing.assert_close(heeding(padded(rows, 12)), expected)
    heeding, plain = network("embed:9,8 select:last linear:3")
    table, linear = plain.get_submodule("embed1").weight, plain.get_submodule("linear1")
    torch.testing.assert_close(heeding(padded(rows, 12)), torch.stack([linear(table[row[-1]]) for row in rows]))


def test_attention_is_torchs_with_a_key_padding_mask():
    heeding, _ = network("embed:9,8 attn:2 select:first linear:3")
    ours, theirs = heeding.get_submodule("attn1"), nn.MultiheadAttention(8, 2, batch_first=True)
    with torch.no_grad():
        theirs.in_proj_weight.copy_(torch.cat([ours.q.weight, ours.k.weight, ours.v.weight]))
        theirs.in_proj_bias.copy_(torch.cat([ours.q.bias, ours.k.bias, ours.v.bias]))
        theirs.out_proj.load_state_dict(ours.out.state_dict())
        x = padded(texts(), 12)
        embedded = heeding.get_submodule("embed1")(x)
        expected, _ = theirs(embedded, embedded, embedded, key_padding_mask=x == PAD)
        torch.testing.assert_close(ours(embedded), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("linear:8 linear:3", "begins with embed"),
        ("embed:9,8 flatten linear:3", "flatten1"),
        ("embed:9,8 gap linear:3", "gap1"),
        ("embed:9,8 bn select:mean linear:3", "bn1"),
        ("embed:9,8 ln:2 select:mean linear:3", "ln1"),
        ("embed:9,8 softmax select:mean linear:3", "softmax1"),
        ("embed:9,8 take:4 select:mean linear:3", "take1"),
        ("embed:9,8 conv:4,k3 flatten linear:3", "conv1"),
        ("embed:9,8 channelsfirst conv:4,k3,p1 channelslast select:mean linear:3", "channelsfirst1"),
        ("embed:9,8 cat(linear:8 | ) select:mean linear:3", "cat1"),
        ("embed:9,8 mul(select:mean | ) select:mean linear:3", "mul"),
        ("embed:9,8 crossattn:2,4 select:mean linear:3", "crossattn1"),
    ],
)
def test_what_would_see_the_padding_is_refused_by_name(text, said):
    with pytest.raises(DlkitError, match=said):
        network(text)


def test_batches_are_as_long_as_their_longest_row():
    rows = padded(texts(), 12).int().numpy()
    batches = Sequences(rows, np.arange(4), 2, torch.device("cpu"))
    shapes = [tuple(x.shape) for x, _ in batches.in_order()]
    assert shapes == [(2, 12), (2, 9)] and all(x.dtype == torch.long for x, _ in batches.in_order())


def test_texts_become_tokens_and_what_is_cut_is_said_once(capsys):
    tokens = fit_tokens(pl.Series(["abc", None, "", "ab"]), "char", 2)
    assert isinstance(tokens.vocabulary, Characters) and tokens.vocabulary.characters == "\nabc"
    found = tokens.encode(pl.Series(["cab", "é", "", None]))
    assert found.tolist() == [[4, 2], [0, PAD], [1, PAD], [1, PAD]] and found.dtype == np.int32
    assert tokens.encode(pl.Series(["abc"])).tolist() == [[2, 3]]
    assert capsys.readouterr().err.splitlines() == ["note: 1 of 4 texts have more than 2 tokens, and are cut there"]
    assert fit_tokens(pl.Series(["abc", "a" * 9]), "byte", None) == Tokens(Bytes(), 9)
    assert fit_tokens(pl.Series(["a" * 9999]), "byte", None).context == 512


TOKENS = {"context": 4, "vocabulary": {"kind": "char", "characters": "ab"}}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"tokens": TOKENS | {"context": 5}}, "not those of one column"),
        ({"tokens": TOKENS | {"context": True}}, "context"),
        ({"tokens": TOKENS | {"context": 0}}, "context"),
        ({"tokens": {"context": 4}}, "vocabulary"),
        ({"tokens": None}, "tokens"),
        ({"columns": []}, "not those of one column"),
        ({"input_shape": [3]}, "not those of one column"),
    ],
)
def test_a_damaged_schema_is_bad_data(change, said):
    plain = {"task": "classification", "target": "y", "classes": ["n", "y"], "target_mean": None, "target_std": None}
    about = {"format": 1, "input_shape": [4], "columns": [{"kind": "text", "column": "t"}], "pixels": None}
    whole = plain | about | {"tokens": TOKENS}
    assert Schema.from_json(whole).to_json() == whole
    with pytest.raises(DlkitError, match=said) as failure:
        Schema.from_json(whole | change)
    assert failure.value.code == 65


# --- as a user runs it -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def lines(tmp_path_factory):
    """900 lines of Shakespeare, every other one written backwards; their share of spaces and a number beside them."""
    corpus = SHARED / "tinyshakespeare.txt"
    if not corpus.exists():
        pytest.skip(f"{corpus} is not there")
    found = [line for line in corpus.read_text().split("\n") if 20 < len(line) < 40]
    path = tmp_path_factory.mktemp("prose") / "lines.csv"
    with path.open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["line", "label", "spaces", "noise"])
        for i, line in enumerate(random.Random(0).sample(found, 900)):
            table.writerow(
                [line[::-1] if i % 2 else line, ["forward", "backward"][i % 2], line.count(" ") / len(line), i % 7]
            )
    return path


@pytest.fixture(scope="module")
def reader(lines, tmp_path_factory):
    """A run of the default network of characters on those lines."""
    from dlkit.cli import run

    out = tmp_path_factory.mktemp("prose") / "reader"
    words = [
        "--text",
        "line",
        "--target",
        "label",
        "--vocab",
        "char",
        "--epochs",
        "4",
        "--lr",
        "0.01",
        "--out",
        str(out),
    ]
    assert run(["train", str(lines), *words, "-q"]) == 0
    return out


def test_the_default_network_tells_forwards_from_backwards(inside, lines, reader, tmp_path):
    """The order of letters alone tells them apart: no bag of letters does."""
    scored = json.loads(inside("eval", str(reader), str(lines), "--rows", "valid", "--json").out)["summary"]
    last = json.loads((reader / "metrics.jsonl").read_text().splitlines()[-1])
    assert scored["accuracy"] > 0.95 and scored["rows"] == 180
    best = max(json.loads(row)["accuracy"] for row in (reader / "metrics.jsonl").read_text().splitlines())
    assert scored["accuracy"] == pytest.approx(best) and last["accuracy"] > 0.9


def test_without_a_network_pieces_of_words_are_read_and_rare_words_count(inside, tmp_path):
    """A word in ten tells the class, and each that does stands in fifteen texts: nothing to learn by heart."""
    pytest.importorskip("tokenizers")
    draw = random.Random(0)
    words = ["".join(draw.choice("abcdefghijkl") for _ in range(5)) for _ in range(340)]
    rows = []
    for i in range(600):
        told = draw.choice(words[300 + 20 * (i % 2) : 320 + 20 * (i % 2)])
        rows.append(" ".join(draw.sample([told, *draw.choices(words[:300], k=9)], 10)) + f",{'xy'[i % 2]}")
    (tmp_path / "t.csv").write_text("said,label\n" + "\n".join(rows) + "\n")
    ran = inside("train", "t.csv", "--text", "said", "--target", "label", "--out", "r", "-q")
    assert ran.code == 0 and float(ran.out) > 0.82, ran
    assert json.loads((tmp_path / "r" / "schema.json").read_text())["tokens"]["vocabulary"]["kind"] == "bpe"
    for more in (["embed:99,8", "select:mean", "linear:2"], ["--vocab", "char"]):
        assert inside("train", "t.csv", *more, "--text", "said", "--epochs", "1", "--out", "c", "-q").code == 0
        assert json.loads((tmp_path / "c" / "schema.json").read_text())["tokens"]["vocabulary"]["kind"] == "char"
        shutil.rmtree(tmp_path / "c")


def test_without_the_extra_characters_are_read(inside, tmp_path, monkeypatch):
    monkeypatch.setattr(vocabulary, "has_pairs", lambda: False)
    (tmp_path / "t.csv").write_text("said,label\n" + "ab,x\nba,y\n" * 20)
    ran = inside("train", "t.csv", "--text", "said", "--target", "label", "--epochs", "1", "--out", "r", "-q")
    assert ran.code == 0, ran.err
    config = json.loads((tmp_path / "r" / "config.json").read_text())
    assert "gru" in config["network"]


def test_predictions_do_not_hang_on_their_neighbours(inside, lines, reader, tmp_path):
    rows = lines.read_text().splitlines()
    pieces = {"one": rows[:2], "many": rows[:30], "long": [*rows[:2], "x" * 400 + ",forward,1,1"]}
    found = {}
    for name, part in pieces.items():
        (tmp_path / f"{name}.csv").write_text("\n".join(part) + "\n")
        answer = json.loads(inside("predict", str(reader), f"{name}.csv", "--json").out)
        found[name] = answer["rows"][0]["p_forward"]
    assert found["many"] == pytest.approx(found["one"], rel=1e-5) == found["long"]


def test_a_run_holds_its_vocabulary_and_unknown_letters_are_read(inside, reader, tmp_path):
    schema = Schema.from_json(json.loads((reader / "schema.json").read_text()))
    assert schema.tokens is not None and schema == Schema.from_json(json.loads(json.dumps(schema.to_json())))
    (tmp_path / "new.csv").write_text('line\nдруг\n""\n')
    answer = json.loads(inside("predict", str(reader), "new.csv", "--json").out)
    assert len(answer["rows"]) == 2 and all(0 <= row["p_forward"] <= 1 for row in answer["rows"])


def test_the_vocabulary_is_that_of_the_training_side(inside, tmp_path):
    rows = [f"{'ab' * (i % 3 + 1)},{'xy'[i % 2]},train" for i in range(40)] + ["abzz,x,valid", "ba,y,valid"]
    (tmp_path / "t.csv").write_text("review,label,side\n" + "\n".join(rows) + "\n")
    ran = inside(
        "train", "t.csv", "--text", "review", "--vocab", "char", "--split", "side", "--epochs", "1", "--out", "r", "-q"
    )
    assert ran.code == 0, ran.err
    tokens = json.loads((tmp_path / "r" / "schema.json").read_text())["tokens"]
    assert tokens == {"context": 6, "vocabulary": {"kind": "char", "characters": "\nab"}}


def test_a_regression_of_a_text(inside, lines, tmp_path):
    """The share of spaces is linear in the mean of embeddings; the columns beside the text are not read."""
    words = ["train", str(lines), "embed:80,8", "select:mean", "linear:1", "--text", "line", "--target", "spaces"]
    ran = inside(*words, "--epochs", "8", "--lr", "0.05", "--batch-size", "32", "--out", "r", "--json")
    assert ran.code == 0 and "columns not read: label, noise" in ran.err, ran.err
    assert json.loads(ran.out)["summary"]["best"] < pl.read_csv(lines)["spaces"].std() / 4
    predicted = json.loads(inside("predict", "r", str(lines), "--json").out)["rows"]
    assert np.corrcoef([(r["prediction"], float(r["spaces"])) for r in predicted], rowvar=False)[0, 1] > 0.95


def test_several_labels_of_a_text(inside, tmp_path):
    """Which of two letters a text holds: a bag of letters tells both."""
    draw = random.Random(1)
    words = ["".join(draw.choice("abcd") for _ in range(draw.randint(1, 5))) for _ in range(300)]
    rows = [f"{word},{int('a' in word)},{int('b' in word)}" for word in words]
    (tmp_path / "t.csv").write_text("word,has_a,has_b\n" + "\n".join(rows) + "\n")
    network = ["embed:6,16", "attn:2", "select:mean", "linear:32", "relu", "linear:2"]
    told = ["--text", "word", "--target", "has_a", "--target", "has_b"]
    ran = inside("train", "t.csv", *network, *told, "--lr", "0.02", "--epochs", "20", "--out", "r", "--json")
    assert ran.code == 0 and json.loads(ran.out)["summary"]["best"] < 0.05, ran
    assert inside("eval", "r", "t.csv", "-q").code == 0 and inside("predict", "r", "t.csv", "-q").code == 0


@pytest.mark.parametrize("network", ["", "embed:80,16 lstm:8,bidirectional=1 select:mean linear:2"])
def test_a_resumed_run_ends_in_the_same_bits(inside, lines, tmp_path, network):
    words = ["train", str(lines), *network.split(), "--text", "line", "--target", "label", "--schedule", "constant"]
    words += ["--batch-size", "128", "--context", "16"]
    assert inside(*words, "--epochs", "2", "--out", "long", "-q").code == 0
    assert inside(*words, "--epochs", "1", "--out", "short", "-q").code == 0
    assert inside("train", "--resume", "short", "--epochs", "2", "-q").code == 0
    weights = [(tmp_path / run / "model.safetensors").read_bytes() for run in ("long", "short")]
    assert weights[0] == weights[1]
    ran = inside(*words[:-1], "20", "--resume", "short", "--epochs", "3")
    assert ran.code == 2 and "context" in ran.err


@pytest.mark.parametrize("extra", [["--accumulate", "4"], ["--checkpoint-activations"]])
def test_parts_of_a_batch_make_the_same_step(inside, lines, extra):
    words = ["train", str(lines), "embed:80,16", "pos", "sum(ln attn:2 | )", "select:mean", "linear:2"]
    words += ["--text", "line", "--target", "label", "--batch-size", "128", "--epochs", "1"]
    whole, parts = (json.loads(inside(*words, *more, "--json").out)["rows"][0]["train_loss"] for more in ([], extra))
    assert parts == pytest.approx(whole, rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("file", ["reader.pt2", "reader.onnx"])
def test_a_reader_is_exported(inside, reader, file):
    if file.endswith("onnx"):
        pytest.importorskip("onnxruntime"), pytest.importorskip("onnxscript")
    ran = inside("export", str(reader), file, "--json")
    assert ran.code == 0, ran.err
    assert json.loads(ran.out)["rows"][0]["type"] == "int64"


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["--text", "line", "--text", "noise"], 2, "--text names 2 columns"),
        (["--text", "lime"], 2, "'line'"),
        (["--text", "label"], 2, "is the target"),
        (["--context", "9"], 2, "--text COLUMN"),
        (["--vocab", "byte"], 2, "--text COLUMN"),
        (["--text", "line", "--vocab", "words"], 2, "--vocab words"),
        (["linear:2", "--text", "line"], 2, "begins with embed"),
        (["embed:9,8", "select:mean", "linear:2", "--text", "line"], 2, "begin with 'embed:"),
        (["embed:99,8", "select:mean", "linear:3", "--text", "line"], 2, "2 classes"),
        (["embed:99,8", "linear:2", "--text", "line"], 2, "select:mean"),
        (["embed:99,8", "flatten", "linear:2", "--text", "line"], 2, "flatten1"),
        (["7", "embed:99,8", "select:mean", "linear:2", "--text", "line", "--context", "8"], 2, "input is 7"),
        (["--text", "line", "--augment", "flip"], 2, "--augment"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_what_does_not_fit_a_column_of_text_is_named(inside, lines, words, code, said):
    ran = inside("train", str(lines), "--target", "label", *words)
    assert (ran.code, ran.out) == (code, "") and said in ran.err, ran
    assert len(ran.err.strip().splitlines()[-1]) and "Traceback" not in ran.err
