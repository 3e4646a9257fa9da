"""`dlkit eval`: what it says of runs and of files, against scikit-learn on the same predictions."""

import json

import numpy as np
import polars as pl
import pytest
from PIL import Image
from test_contract import assert_error

sk = pytest.importorskip("sklearn.metrics")


@pytest.fixture(scope="module")
def digits_run(tmp_path_factory):
    """A small run of `train digits`; not to be changed."""
    return train(tmp_path_factory, "digits", "flatten", "linear:10", "--epochs", "2")


@pytest.fixture(scope="module")
def other_run(tmp_path_factory):
    return train(
        tmp_path_factory, "digits", "flatten", "linear:16", "relu", "linear:10", "--epochs", "2", "--seed", "1"
    )


@pytest.fixture(scope="module")
def values_run(tmp_path_factory):
    return train(tmp_path_factory, "diabetes", "linear:1", "--epochs", "2")


@pytest.fixture(autouse=True)
def few_draws(monkeypatch):
    """Enough of a bootstrap to have ends."""
    monkeypatch.setattr("dlkit.data.scores.DRAWS", 40)


def train(tmp_path_factory, *words):
    from dlkit.cli import run
    from dlkit.core import console

    out = tmp_path_factory.mktemp("runs") / "run"
    assert run(["train", *words, "--out", str(out), "-q"]) == 0
    console.quiet = False
    return str(out)


def summary(inside, *words):
    ran = inside("eval", *words, "--json")
    assert ran.code == 0, ran.err
    return json.loads(ran.out)["summary"]


def predicted(inside, *words):
    return pl.DataFrame([json.loads(line) for line in inside("predict", *words, "--format", "jsonl").out.splitlines()])


def test_classes_as_scikit_learn_scores_them(inside, digits_run, tmp_path):
    found = summary(inside, digits_run, "digits")
    frame = predicted(inside, digits_run, "digits")
    proba = frame.select(f"p_{k}" for k in range(10)).to_numpy()
    truth, labels = frame["target"].to_numpy().astype(int), frame["prediction"].to_numpy()
    expected = {
        "accuracy": sk.accuracy_score(truth, labels),
        "balanced_accuracy": sk.balanced_accuracy_score(truth, labels),
        "precision_macro": sk.precision_score(truth, labels, average="macro"),
        "recall_weighted": sk.recall_score(truth, labels, average="weighted"),
        "f1_macro": sk.f1_score(truth, labels, average="macro"),
        "auc": sk.roc_auc_score(truth, proba, multi_class="ovr"),
        "log_loss": sk.log_loss(truth, proba),
        "brier": sk.brier_score_loss(truth, proba),
        "rows": 1797,
    }
    assert {name: found[name] for name in expected} == pytest.approx(expected, abs=1e-6)
    assert found["confusion"] == sk.confusion_matrix(truth, labels).tolist()
    assert found["accuracy_low"] < found["accuracy"] < found["accuracy_high"]
    frame.write_csv(tmp_path / "p.csv")
    again = summary(inside, "--predictions", "p.csv", "--truth", "target", "--pred", "prediction")
    assert set(again) == set(found)
    for name in expected:
        assert again[name] == pytest.approx(found[name])


def test_values_as_scikit_learn_scores_them(inside, values_run, tmp_path):
    found = summary(inside, values_run, "diabetes")
    frame = predicted(inside, values_run, "diabetes")
    y, x = frame["target"].to_numpy(), frame["prediction"].to_numpy()
    assert found["rmse"] == pytest.approx(sk.root_mean_squared_error(y, x))
    assert found["mae"] == pytest.approx(sk.mean_absolute_error(y, x))
    assert found["r2"] == pytest.approx(sk.r2_score(y, x))
    assert found["rmse_low"] < found["rmse"] < found["rmse_high"]
    frame.write_parquet(tmp_path / "p.parquet")
    words = ["--predictions", "p.parquet", "--truth", "target", "--pred", "prediction", "--task", "regression"]
    assert summary(inside, *words)["rmse"] == found["rmse"]


def test_rows_that_the_run_knows_are_said(inside, finished_run, tmp_path):
    assert "was trained on" in inside("eval", str(finished_run), "iris").err
    inside("predict", str(finished_run), "iris", "--out", "other.csv", "--prefix", "x_")
    ran = inside("eval", str(finished_run), "other.csv")
    assert ran.code == 0 and "trained on" not in ran.err


def test_the_rows_that_a_run_held_out(inside, digits_run, other_run, tmp_path):
    """The accuracy that training reported, on the rows that it reported it for."""
    epochs = [json.loads(line) for line in (tmp_path / digits_run / "metrics.jsonl").read_text().splitlines()]
    found = summary(inside, digits_run, "digits", "--rows", "valid")
    assert found["accuracy"] == pytest.approx(max(epoch["accuracy"] for epoch in epochs))
    assert found["rows"] == 359
    assert summary(inside, digits_run, "digits", "--rows", "train")["rows"] == 1797 - 359
    assert summary(inside, digits_run, other_run, "digits", "--rows", "valid")["rows"] < 359
    np.savez(tmp_path / "new.npz", X=np.zeros((4, 8, 8), np.uint8), y=np.arange(4))
    assert_error(inside("eval", digits_run, "new.npz", "--rows", "valid"), 2, "not trained on")


def test_labels_that_are_missing_strange_or_alone(inside, finished_run, tmp_path):
    names = "sepal length (cm),sepal width (cm),petal length (cm),petal width (cm)"
    rows = ["5,3,1.4,0.2", "6,3,4.5,1.5"]
    (tmp_path / "x.csv").write_text(f"{names},target\n{rows[0]},setosa\n{rows[1]},\n")
    ran = inside("eval", str(finished_run), "x.csv", "--json")
    assert json.loads(ran.out)["summary"]["rows"] == 1
    assert "left out 1 rows" in ran.err and "no row is 'versicolor', 'virginica'" in ran.err
    (tmp_path / "x.csv").write_text(f"{names},target\n{rows[0]},setosa\n{rows[1]},tulip\n")
    assert_error(inside("eval", str(finished_run), "x.csv"), 65, "line 3", "'tulip'", "setosa")
    (tmp_path / "x.csv").write_text(f"{names}\n{rows[0]}\n")
    assert_error(inside("eval", str(finished_run), "x.csv"), 65, "'target'", "dlkit predict")
    (tmp_path / "x.csv").write_text(f"{names},target\n{rows[0]},\n")
    assert_error(inside("eval", str(finished_run), "x.csv"), 65, "every cell")


def test_class_names_that_are_numbers_however_written(inside, tmp_path):
    (tmp_path / "x.csv").write_text("truth,pred,p_0,p_1\n1.0,1,.2,.8\n0,0.0,.9,.1\n1,0,.7,.3\n")
    found = summary(inside, "--predictions", "x.csv", "--truth", "truth", "--pred", "pred")
    assert (found["accuracy"], found["classes"]) == (pytest.approx(2 / 3), ["0", "1"])
    assert found["auc"] == 1 and found["positive"] == "1"


def test_one_column_of_probabilities(inside, tmp_path):
    (tmp_path / "x.csv").write_text("y,score\nno,.2\nyes,.8\nno,.6\n")
    found = summary(inside, "--predictions", "x.csv", "--truth", "y", "--proba", "score")
    assert found["accuracy"] == pytest.approx(2 / 3)
    assert found["log_loss"] == pytest.approx(-np.log([0.8, 0.8, 0.4]).mean())


@pytest.mark.parametrize(
    ("text", "words", "code", "said"),
    [
        ("y,p\na,b\n", ["--truth", "z", "--pred", "p"], 2, "'z'"),
        ("y,p\na,b\n", ["--pred", "p"], 2, "--truth"),
        ("y,p\na,b\n", ["--truth", "y"], 2, "--pred"),
        ("y,p\na,b\n", ["--truth", "y", "--pred", "z"], 2, "--pred: x.csv has no column 'z'"),
        ("y,p\na,b\na,\n", ["--truth", "y", "--pred", "p"], 65, "line 3"),
        ("y,p\n1.5,b\n2.5,1\n", ["--truth", "y", "--pred", "p"], 65, "'b'"),
        ("y,s\na,1.5\nb,.5\n", ["--truth", "y", "--proba", "s"], 65, "line 2"),
        ("y,p_a,p_b\na,.9,.9\nb,.5,.5\n", ["--truth", "y"], 65, "no probabilities"),
        ("y,q\n-1,a\n", ["--truth", "y", "--pred", "y", "--query", "q"], 65, "relevance"),
        ("lp\n0.5\n", ["--log-prob", "lp"], 65, "line 2"),
    ],
)
def test_files_that_cannot_be_scored(inside, tmp_path, text, words, code, said):
    (tmp_path / "x.csv").write_text(text)
    assert_error(inside("eval", "--predictions", "x.csv", *words), code, said)


def test_rankings(inside, tmp_path):
    rng = np.random.default_rng(0)
    relevance, score = rng.integers(0, 4, (5, 8)), np.round(rng.normal(size=(5, 8)), 1)
    rows = [f"q{q},{relevance[q, d]},{score[q, d]}" for q in range(5) for d in range(8)]
    (tmp_path / "x.csv").write_text("query,rel,score\n" + "\n".join(rows))
    words = ["--predictions", "x.csv", "--truth", "rel", "--pred", "score", "--query", "query"]
    assert summary(inside, *words)["ndcg"] == pytest.approx(sk.ndcg_score(relevance, score))
    found = summary(inside, *words, "--gain", "exponential", "--at", "3")
    assert found["ndcg"] == pytest.approx(sk.ndcg_score(2.0**relevance - 1, score, k=3))
    assert (found["gain"], found["at"], found["queries"], found["rows"]) == ("exponential", 3, 5, 40)
    assert 0 < found["mrr_low"] <= found["mrr"] <= found["mrr_high"] <= 1


@pytest.mark.parametrize(("gain", "line", "cell"), [("linear", 3, "-1.0"), ("exponential", 2, "100.0")])
def test_what_is_no_relevance_is_named(inside, tmp_path, gain, line, cell):
    (tmp_path / "hits.csv").write_text("rel,score,q\n100,1,a\n-1,2,a\n")
    words = ("--truth", "rel", "--pred", "score", "--query", "q", "--gain", gain)
    ran = inside("eval", "--predictions", "hits.csv", *words)
    assert (ran.code, ran.out) == (65, "") and f"line {line}, column 'rel': {cell} is no relevance" in ran.err


def test_perplexity(inside, tmp_path):
    (tmp_path / "x.csv").write_text("lp\n" + "-0.6931471805599453\n" * 20)
    assert summary(inside, "--predictions", "x.csv", "--log-prob", "lp")["perplexity"] == pytest.approx(2)


def test_image_pairs(inside, tmp_path):
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (3, 20, 24, 3)).astype(np.uint8)
    y = np.clip(x + rng.normal(0, 10, x.shape), 0, 255).astype(np.uint8)
    for folder, images in (("a", x), ("b", y)):
        (tmp_path / folder).mkdir()
        for i, image in enumerate(images):
            Image.fromarray(image).save(tmp_path / folder / f"{i}.png")
        np.save(tmp_path / f"{folder}.npy", images)
    found = summary(inside, "--images", "a", "b")
    error = np.mean((x.astype(float) - y) ** 2, axis=(1, 2, 3))
    assert found["psnr"] == pytest.approx(np.mean(10 * np.log10(255**2 / error)))
    assert 0.9 < found["ssim"] < 1 and found["rows"] == 3
    by_array = summary(inside, "--images", "a.npy", "b.npy")
    assert by_array == pytest.approx(found)
    assert summary(inside, "--images", "a", "b", "--window", "uniform")["ssim"] != found["ssim"]
    same = inside("eval", "--images", "a", "a", "--json")
    assert json.loads(same.out)["summary"] == {**found, "psnr": None, "ssim": pytest.approx(1)}
    (tmp_path / "b" / "2.png").unlink()
    assert_error(inside("eval", "--images", "a", "b"), 65, "2.png")
    np.save(tmp_path / "f.npy", x.astype(np.float32))
    assert_error(inside("eval", "--images", "f.npy", "f.npy"), 2, "--data-range")
    assert summary(inside, "--images", "f.npy", "f.npy", "--data-range", "255")["ssim"] == pytest.approx(1)


def test_features_and_inception(inside, tmp_path):
    rng = np.random.default_rng(0)
    np.save(tmp_path / "a.npy", rng.normal(0, 1, (500, 3)))
    pl.DataFrame(rng.normal(1, 1, (500, 3))).write_csv(tmp_path / "b.csv")
    assert summary(inside, "--features", "a.npy", "b.csv")["frechet"] == pytest.approx(3, abs=0.5)
    np.save(tmp_path / "p.npy", np.eye(5)[rng.integers(0, 5, 2000)])
    found = summary(inside, "--inception", "p.npy")
    assert found["inception_score"] == pytest.approx(5, abs=0.1) and found["splits"] == 10
    assert_error(inside("eval", "--inception", "a.npy"), 65, "row 1", "softmax")
    np.save(tmp_path / "one.npy", np.zeros((1, 3)))
    assert_error(inside("eval", "--features", "a.npy", "one.npy"), 65, "one.npy", "one row")


def test_files_are_scored_without_torch_and_scikit_learn(tmp_path):
    from test_imports import loaded

    (tmp_path / "x.csv").write_text("y,p\na,b\nb,b\n")
    modules = loaded(tmp_path, "eval", "--predictions", "x.csv", "--truth", "y", "--pred", "p")
    assert not modules & {"torch", "sklearn", "scipy"}


def test_an_average_of_runs(inside, digits_run, other_run):
    one, two, both = (
        predicted(inside, *runs, "digits").select(f"p_{k}" for k in range(10)).to_numpy()
        for runs in ([digits_run], [other_run], [digits_run, other_run])
    )
    np.testing.assert_allclose(both, (one + two) / 2, atol=1e-9)
    weighted = predicted(inside, digits_run, other_run, "digits", "--weights", "3,1")
    np.testing.assert_allclose(weighted.select(f"p_{k}" for k in range(10)).to_numpy(), 0.75 * one + 0.25 * two)
    found = summary(inside, digits_run, other_run, "digits")
    assert [run["run"] for run in found["runs"]] == [digits_run, other_run]
    assert found["runs"][0]["accuracy"] == summary(inside, digits_run, "digits")["accuracy"]


def test_weights_and_stack_fitted_on_rows_that_no_run_has_seen(inside, digits_run, other_run, tmp_path):
    from sklearn.linear_model import LogisticRegression

    rng = np.random.default_rng(0)
    x = rng.integers(0, 17, (200, 8, 8)).astype(np.uint8)
    np.savez(tmp_path / "v.npz", X=x, y=rng.permutation(np.arange(200) % 10))
    assert_error(inside("eval", digits_run, other_run, "digits", "--weights", "digits"), 65, "trained on it")
    ran = inside("eval", digits_run, other_run, "digits", "--weights", "v.npz", "--json")
    assert ran.code == 0 and "weights: " in ran.err
    stacked = predicted(inside, digits_run, other_run, "digits", "--stack", "v.npz")
    frames = [predicted(inside, run, "v.npz") for run in (digits_run, other_run)]
    each = [frame.select(f"p_{k}" for k in range(10)).to_numpy() for frame in frames]
    top = LogisticRegression(max_iter=1000).fit(np.hstack(each), frames[0]["y"].to_numpy().astype(int))
    new = [
        predicted(inside, run, "digits").select(f"p_{k}" for k in range(10)).to_numpy()
        for run in (digits_run, other_run)
    ]
    found = stacked.select(f"p_{k}" for k in range(10)).to_numpy()
    np.testing.assert_allclose(found, top.predict_proba(np.hstack(new)), atol=1e-5)


def test_runs_that_do_not_go_together(inside, digits_run, values_run, finished_run):
    assert_error(inside("eval", digits_run, str(finished_run), "digits"), 2, "not the same classes")
    assert_error(inside("eval", digits_run, values_run, "digits"), 2, "regression", "combined")
    assert_error(inside("eval", digits_run, "digits", "--weights", "1"), 2, "several runs")
    assert_error(inside("eval", digits_run, digits_run, "digits", "--weights", "1,2,3"), 2, "3 weights for 2 runs")
    assert_error(inside("eval", digits_run, digits_run, "digits", "--weights", "1", "--stack", "x"), 2, "exclude")


def test_augmentation_at_test_time(inside, digits_run, finished_run):
    plain, flipped = (summary(inside, digits_run, "digits", *words) for words in ([], ["--tta", "flip,crop"]))
    assert plain["log_loss"] != flipped["log_loss"]
    assert_error(inside("eval", digits_run, "digits", "--tta", "flop"), 2, "'flip'")
    assert_error(inside("eval", str(finished_run), "iris", "--tta", "flip"), 2, "images")


def test_what_is_not_a_question(inside, digits_run):
    assert_error(inside("eval"), 2, "run directory")
    assert_error(inside("eval", digits_run), 2, "data is missing")
    assert_error(inside("eval", digits_run, "digits", "--truth", "y"), 2, "--truth")
    assert_error(inside("eval", digits_run, "--images", "a", "b"), 2, "one at a time")
    assert_error(inside("eval", "no-such-run", "digits"), 66, "no-such-run")
    assert_error(inside("eval", digits_run, "iris"), 65, "a table")


@pytest.mark.parametrize(
    "words, option",
    [
        (["--predictions", "p.csv", "--truth", "y", "--pred", "z", "--tta", "flip"], "--tta"),
        (["--predictions", "p.csv", "--truth", "y", "--pred", "z", "--rows", "valid"], "--rows"),
        (["--images", "a", "b", "--truth", "y"], "--truth"),
        (["--features", "a", "b", "--splits", "2"], "--splits"),
        (["a-run", "iris", "--window", "uniform"], "--window"),
        (["a-run", "iris", "--gain", "exponential"], "--gain"),
        (["--predictions", "p.csv", "--truth", "y", "--pred", "z", "--gain", "exponential"], "--gain"),
        (["--predictions", "p.csv", "--truth", "y", "--pred", "z", "--at", "5"], "--at"),
        (["--images", "a", "b", "--device", "cpu"], "--device"),
    ],
)
def test_an_option_of_something_else_is_refused(inside, words, option):
    assert_error(inside("eval", *words), 2, f"{option} is for")
