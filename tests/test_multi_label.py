"""Several --target from training to predictions, on the real titanic; what takes one target refuses more by name."""

import json

import numpy as np
import polars as pl
import pytest
from test_contract import assert_error

sk = pytest.importorskip("sklearn.metrics")
LABELS = ("survived", "adult_male", "alone")
TARGETS = [word for name in LABELS for word in ("--target", name)]
TITANIC = [*TARGETS, "--drop", "alive", "--drop", "who"]


@pytest.fixture(autouse=True)
def few_draws(monkeypatch):
    monkeypatch.setattr("dlkit.data.scores.DRAWS", 40)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """made(*words) trains on those words, quietly, and returns the run; not to be changed."""
    from dlkit.cli import run
    from dlkit.core import console

    def make(*words):
        out = str(tmp_path_factory.mktemp("runs") / "run")
        assert run(["train", *words, "--out", out, "-q"]) == 0
        console.quiet = False
        return out

    return make


@pytest.fixture(scope="module")
def titanic(shared_titanic, made):
    return made(shared_titanic, *TITANIC, "--epochs", "4")


@pytest.fixture(scope="module")
def linear(shared_titanic, made):
    """The same labels in another order, from another network."""
    turned = [word for name in LABELS[::-1] for word in ("--target", name)]
    return made(shared_titanic, "linear:3", *turned, "--drop", "alive", "--drop", "who", "--epochs", "2")


@pytest.fixture(scope="module")
def shared_titanic():
    from support import SHARED

    if not (SHARED / "titanic.csv").exists():
        pytest.skip("no titanic.csv in ../shared/data")
    return str(SHARED / "titanic.csv")


def answer(inside, *words):
    ran = inside(*words, "--json")
    assert ran.code == 0, ran.err
    return json.loads(ran.out)


def test_training_reports_what_eval_finds(inside, shared_titanic, tmp_path):
    """`best` is the log loss of the rows held out, whose mean over rows and labels scikit-learn has too."""
    told = answer(inside, "train", shared_titanic, *TITANIC, "--epochs", "3", "--out", "run")
    summary = told["summary"]
    assert (summary["task"], summary["metric"]) == ("multi-label", "log_loss")
    assert summary["best"] == min(row["log_loss"] for row in told["rows"])
    assert [row["log_loss"] for row in told["rows"]] == [row["valid_loss"] for row in told["rows"]]
    found = answer(inside, "eval", "run", shared_titanic, "--rows", "valid")["summary"]
    assert found["log_loss"] == pytest.approx(summary["best"], rel=1e-5) and found["rows"] == summary["valid_rows"]
    schema = json.loads((tmp_path / "run" / "schema.json").read_text())
    assert schema["classes"] == list(LABELS) and schema["values"] == [["0", "1"], ["False", "True"], ["False", "True"]]
    again = answer(inside, "train", "--resume", "run", "--epochs", "4")
    assert again["summary"]["epochs"] == 4 and again["summary"]["metric"] == "log_loss"
    fewer = inside("train", shared_titanic, *TITANIC[2:], "--resume", "run")
    assert_error(fewer, 2, "--target was ['survived', 'adult_male', 'alone'], it is ['adult_male'")


def test_predictions_and_their_scores(inside, shared_titanic, titanic, tmp_path):
    """The input stays; each label's own words, true above one half; the metrics are scikit-learn's."""
    told = answer(inside, "predict", titanic, shared_titanic, "--out", "p.csv")
    frame = pl.read_csv(tmp_path / "p.csv")
    given = pl.read_csv(shared_titanic)
    assert frame.columns == [*given.columns, *(f"prediction_{n}" for n in LABELS), *(f"p_{n}" for n in LABELS)]
    assert (tmp_path / "p.csv").read_text().splitlines()[1].startswith("0,3,male,22.0,1,0,7.25,S,Third,man,True,,")
    truth = np.column_stack([given[name].cast(pl.Int64) for name in LABELS])
    proba = frame.select(f"p_{name}" for name in LABELS).to_numpy()
    said = np.column_stack([frame[f"prediction_{name}"].cast(pl.Int64) for name in LABELS])
    assert (said == (proba > 0.5)).all() and frame["prediction_alone"].dtype == pl.Boolean
    assert [(row["label"], row["rows"]) for row in told["rows"]] == list(zip(LABELS, said.sum(0).tolist(), strict=True))
    found = answer(inside, "eval", titanic, shared_titanic)
    expected = {
        "subset_accuracy": sk.accuracy_score(truth, said),
        "hamming_loss": sk.hamming_loss(truth, said),
        "f1_micro": sk.f1_score(truth, said, average="micro"),
        "f1_macro": sk.f1_score(truth, said, average="macro"),
        "auc_macro": sk.roc_auc_score(truth, proba),
        "average_precision_macro": sk.average_precision_score(truth, proba),
        "log_loss": np.mean([sk.log_loss(t, p) for t, p in zip(truth.T, proba.T, strict=True)]),
    }
    for name, value in expected.items():
        assert found["summary"][name] == pytest.approx(value, rel=1e-6), name
    assert found["summary"]["labels"] == list(LABELS)
    alone = found["rows"][2]
    assert (alone["label"], alone["rows"]) == ("alone", int(truth[:, 2].sum()))
    assert alone["auc"] == pytest.approx(sk.roc_auc_score(truth[:, 2], proba[:, 2]))
    truths = [word for name in LABELS for word in ("--truth", name)]
    scored = answer(inside, "eval", "--predictions", "p.csv", *truths)
    assert scored["summary"] == {name: pytest.approx(value) for name, value in found["summary"].items()}
    bare = frame.drop([f"p_{name}" for name in LABELS])
    bare.write_csv(tmp_path / "bare.csv")
    without = answer(inside, "eval", "--predictions", "bare.csv", *truths)["summary"]
    assert "log_loss" not in without and without["f1_micro"] == pytest.approx(expected["f1_micro"])
    assert_error(inside("eval", "--predictions", shared_titanic, *truths), 2, "--pred or --proba is needed")
    assert_error(inside("eval", "--predictions", "p.csv", *truths, "--query", "sex"), 2, "--query takes one --truth")
    assert_error(inside("eval", "--predictions", "p.csv", *truths, "--pred", "zz_"), 2, "no column 'zz_survived'")


def test_several_runs(inside, shared_titanic, titanic, linear, tmp_path):
    """Averaged label by label, whatever the order; weights are those of least log loss; a stack is refused."""
    pieces = {}
    for name, runs in (("a", [titanic]), ("b", [linear]), ("both", [titanic, linear])):
        inside("predict", *runs, shared_titanic, "--out", f"{name}.csv")
        pieces[name] = pl.read_csv(tmp_path / f"{name}.csv").select(f"p_{label}" for label in LABELS).to_numpy()
    np.testing.assert_allclose(pieces["both"], (pieces["a"] + pieces["b"]) / 2, atol=1e-12)
    found = answer(inside, "eval", titanic, linear, shared_titanic)["summary"]
    alone = [answer(inside, "eval", run, shared_titanic)["summary"]["log_loss"] for run in (titanic, linear)]
    assert [run["log_loss"] for run in found["runs"]] == pytest.approx(alone)
    rows = pl.read_csv(shared_titanic)
    rows.head(300).write_csv(tmp_path / "some.csv")
    ran = inside("eval", titanic, linear, "some.csv", "--weights", "some.csv", "--json")
    fitted = json.loads(ran.out)["summary"]["log_loss"]
    words = [f"{w:.2f},{1 - w:.2f}" for w in (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)]
    tried = [answer(inside, "eval", titanic, linear, "some.csv", "--weights", w)["summary"]["log_loss"] for w in words]
    assert fitted <= min(tried) + 1e-6
    assert_error(
        inside("eval", titanic, linear, "some.csv", "--stack", "some.csv"), 2, "--stack is for classes and values"
    )


def test_runs_that_do_not_belong_together(inside, shared_titanic, titanic, made, tmp_path):
    frame = pl.read_csv(shared_titanic)
    swapped = frame.with_columns(
        pl.when(pl.col("survived") == 1).then(pl.lit("no")).otherwise(pl.lit("yes")).alias("survived")
    )
    swapped.write_csv(tmp_path / "swapped.csv")
    other = made(str(tmp_path / "swapped.csv"), "linear:3", *TITANIC, "--epochs", "1")
    ran = inside("predict", titanic, other, shared_titanic)
    assert_error(ran, 2, f"'survived' means '1' to {titanic}, 'yes' to {other}: they cannot be combined")
    fewer = made(shared_titanic, "linear:2", *TITANIC[2:], "--epochs", "1")
    assert_error(inside("predict", titanic, fewer, shared_titanic), 2, "have not the same labels: 'survived'")
    against = inside("train", shared_titanic, *TITANIC, "--epochs", "1", "--against", fewer)
    assert_error(
        against, 2, "it predicts 'adult_male', 'alone' (multi-label), and this is 'adult_male', 'alone', 'survived'"
    )


def test_from_another_run_and_beside_it(inside, shared_titanic, titanic):
    still = ["--epochs", "1", "--lr", "1e-9", "--schedule", "constant", "--watch"]
    told = answer(inside, "train", shared_titanic, *TITANIC, *still, "--init-from", titanic, "--against", titanic)
    against = told["summary"]["against"]
    assert against["log_loss"] == pytest.approx(told["summary"]["best"], abs=1e-4) and "layers" in told["rows"][0]


def test_export(inside, shared_titanic, titanic, tmp_path):
    import torch

    told = answer(inside, "export", titanic, "net.pt2")
    assert told["rows"][1]["names"] == list(LABELS) and told["summary"]["max_difference"] < 1e-5
    module = torch.export.load(str(tmp_path / "net.pt2")).module()
    y = module(torch.zeros(5, int(told["rows"][0]["shape"].partition("×")[2]))).detach()
    assert y.shape == (5, 3) and ((y > 0) & (y < 1)).all()


def test_images_with_labels(inside, tmp_path):
    """Which quarters of an image are bright: learned from arrays, and predicted for arrays without labels."""
    rng = np.random.default_rng(0)
    y = rng.integers(0, 2, (300, 4))
    x = rng.integers(0, 60, (300, 8, 8)).astype(np.uint8)
    x += (y.reshape(-1, 2, 2).repeat(4, 1).repeat(4, 2) * 150).astype(np.uint8)
    np.savez(tmp_path / "quarters.npz", X=x, y=y)
    np.savez(tmp_path / "new.npz", X=x[:50])
    words = ["quarters.npz", "flatten", "linear:4", "--epochs", "8", "--lr", "0.03", "--out", "run"]
    assert (
        answer(inside, "train", *words, "--class-weights", "y1=2", "--label-smoothing", "0.02")["summary"]["best"] < 0.1
    )
    found = answer(inside, "eval", "run", "quarters.npz")
    assert found["summary"]["subset_accuracy"] == 1 and [row["label"] for row in found["rows"]] == [
        "y1",
        "y2",
        "y3",
        "y4",
    ]
    assert inside("predict", "run", "new.npz", "--out", "p.csv").code == 0
    frame = pl.read_csv(tmp_path / "p.csv")
    assert (frame.select(f"prediction_y{i}" for i in range(1, 5)).to_numpy() == y[:50]).all()
    for words in (["baseline", "quarters.npz"], ["cluster", "quarters.npz"], ["splitcheck", *["quarters.npz"] * 2]):
        assert_error(inside(*words), 65, "4 targets for each row (y1 … y4); one is needed")
    assert answer(inside, "split", "quarters.npz", "--stratify", "y2", "--out", "sides")["summary"]["valid_rows"] == 60
    held = np.load(tmp_path / "sides" / "valid.npz")["y"]
    assert held.shape == (60, 4) and abs(held[:, 1].mean() - y[:, 1].mean()) < 0.02


def test_penguins(inside, shared, tmp_path):
    """Labels made of the real table; the eleven birds whose sex is not known are an error until they are left out."""
    birds = pl.read_csv(shared("penguins.csv"), null_values="NA")
    adelie, male = (pl.col("species") == "Adelie").cast(int), pl.col("sex").str.to_lowercase() == "male"
    labels = birds.with_columns(adelie=adelie, male=male, heavy=(pl.col("body_mass_g") > 4200).cast(int))
    labels = labels.drop("species", "sex", "body_mass_g")
    labels.write_csv(tmp_path / "some.csv")
    labels.drop_nulls("male").write_csv(tmp_path / "all.csv")
    words = [word for name in ("adelie", "male", "heavy") for word in ("--target", name)]
    first = int(labels["male"].is_null().arg_max()) + 2
    assert_error(inside("train", "some.csv", *words), 65, f"line {first}, column 'male': nothing is there")
    assert inside("train", "all.csv", *words, "--epochs", "15", "--out", "run", "--class-weights", "balanced").code == 0
    found = answer(inside, "eval", "run", "all.csv", "--rows", "valid")["summary"]
    assert found["f1_macro"] > 0.85 and found["log_loss"] < 0.35


@pytest.mark.parametrize("words", [["baseline"], ["cluster"], ["split"], ["splitcheck", "--split", "sex"]])
def test_commands_of_one_target(inside, shared_titanic, words):
    ran = inside(words[0], shared_titanic, *words[1:], "--target", "survived", "--target", "alone")
    assert_error(ran, 2, f"--target survived --target alone: {words[0]} takes one target")


@pytest.mark.parametrize("command", ["train", "lrfind"])
def test_what_cannot_be(inside, shared_titanic, command):
    for words, message in (
        (["--task", "regression"], "--task regression is of one target; got --target survived --target adult_male"),
        (["--loss", "mse"], "--loss mse is not for multi-label"),
        (["--class-weights", "died=3"], "--class-weights: no label 'died'"),
        (["--target", "alone"], "--target alone is given twice"),
        (["--target", "sex", "--target", "embarked"], "the target 'embarked' has 3 values"),
        (["linear:2"], "the network's output is 2, but titanic has 3 labels"),
    ):
        at = 2 if words[0].startswith("linear") else len(TARGETS) + 2
        given = [command, shared_titanic, *TARGETS]
        assert_error(inside(*given[:at], *words, *given[at:]), 65 if "embarked" in message else 2, message)


def test_lrfind(inside, shared_titanic):
    told = answer(inside, "lrfind", shared_titanic, *TITANIC, "--seeds", "1", "--steps", "60")
    assert told["summary"]["suggestion"] > 0
    ran = inside("lrfind", shared_titanic, *TITANIC, "--seeds", "1", "--steps", "60", "--format", "table")
    assert " ".join(TARGETS[:4]) in " ".join(ran.err.split()) + " ".join(ran.out.split())
