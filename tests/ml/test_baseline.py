"""`dlkit baseline` as a user runs it: the board, the honest splits, the saved model, and what goes wrong."""

import errno
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from test_contract import assert_error

from dlkit.core.reading import Reading
from dlkit.core.run import RunDirectory, open_run
from dlkit.core.splitting import Splitting
from dlkit.data import load, metrics
from dlkit.data.split import folds
from dlkit.ml import baseline, persist, pool
from dlkit.ml.pool import Finisher, Processes, outran

# A budget that no busy machine uses up: what takes part is then fixed.
HELD = ("--tries", "1", "--budget", "10m")
QUICK = (*HELD, "--folds", "3")
N = 120
RNG = np.random.default_rng(0)
X = RNG.normal(size=N).round(4)
Y = np.where(X + 0.5 * RNG.normal(size=N) > 0, "yes", "no")


@pytest.fixture(autouse=True)
def enough_memory(monkeypatch):
    """What else runs on the machine must not decide which models are fitted."""
    monkeypatch.setattr(baseline, "free_bytes", lambda: None)


@pytest.fixture
def table(tmp_path):
    """table(name, column=…) writes a CSV file into the folder that `inside` runs in."""

    def write(name: str, **columns) -> str:
        pl.DataFrame(columns).write_csv(tmp_path / name)
        return name

    return write


@pytest.fixture
def board(inside):
    """board(*words) is the JSON answer of a board that succeeds, and what stderr said."""

    def run(*words: str) -> tuple[dict, list[dict], str]:
        ran = inside("baseline", *words, "--json")
        assert ran.code == 0, ran.err
        whole = json.loads(ran.out)
        return whole["summary"], whole["rows"], ran.err

    return run


def test_scores_are_scikit_learns_on_the_same_folds(board):
    summary, rows, _ = board("breast_cancer", "--models", "logistic", *QUICK)
    dataset = load("breast_cancer")
    x, y = dataset.frame.to_numpy(), dataset.labels
    by_hand = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    found = [by_hand.fit(x[s.train], y[s.train]).score(x[s.valid], y[s.valid]) for s in folds(dataset, k=3)]
    assert summary["score"] == rows[1]["score"] == pytest.approx(np.mean(found), abs=1e-12)
    assert summary["score_se"] == pytest.approx(np.std(found, ddof=1) / np.sqrt(3))
    assert (summary["best"], summary["task"], summary["metric"]) == ("logistic", "classification", "accuracy")
    assert (summary["rows"], summary["features"], summary["folds"]) == (569, 30, 3)
    assert summary["like_best"] == [] and rows[1]["p_dummy"] < 0.01 and rows[1]["ece"] < 0.2


def test_what_is_saved_predicts_as_a_fit_on_all_rows(board, inside, tmp_path):
    board("diabetes", "--models", "linear,tree", "--save", "linear", "--out", "kept", *QUICK)
    dataset = load("diabetes")
    x = dataset.frame.to_numpy()
    expected = make_pipeline(StandardScaler(), Ridge()).fit(x, dataset.labels).predict(x)
    found = persist.load(open_run(tmp_path / "kept")).predict(dataset)
    np.testing.assert_allclose(found, expected)
    scored = json.loads(inside("eval", "kept", "diabetes", "--json").out)["summary"]
    assert scored["rmse"] == pytest.approx(metrics.rmse(dataset.labels, expected))
    told = inside("predict", "kept", "diabetes", "--format", "csv").out.splitlines()
    assert len(told) == 443 and float(told[1].rpartition(",")[2]) == pytest.approx(expected[0])


def test_a_column_that_is_the_target_is_named(board, table):
    name = table("x.csv", x=X, alive=np.where(Y == "yes", "1", "0"), y=Y)
    summary, _, said = board(name, "--target", "y", "--models", "tree", *QUICK)
    assert summary["leaks"] == ["alive"] and summary["score"] == 1
    assert "'alive'" in said and "--drop alive" in said
    summary, _, said = board(name, "--target", "y", "--drop", "alive", "--models", "tree", *QUICK)
    assert summary["leaks"] == [] and summary["score"] < 1 and "warning" not in said


def test_no_better_than_the_dummy_is_said(board, table):
    name = table("x.csv", x=RNG.permutation(X), y=Y)
    summary, _, said = board(name, "--target", "y", "--models", "logistic", *QUICK)
    assert "no model is distinguishable from the dummy" in said
    assert {summary["best"], *summary["like_best"]} == {"dummy", "logistic"}


class TestHonestSplits:
    """A target that only the group tells: row folds find it, group folds do not."""

    def test_groups(self, board, table):
        group = np.repeat(np.arange(12), 10)
        jump = np.random.default_rng(1).normal(size=12)
        name = table("x.csv", person=[f"p{g}" for g in group], trait=group + RNG.normal(0, 0.01, N), y=jump[group])
        words = (name, "--target", "y", "--models", "knn", *QUICK)
        rows = {row["model"]: row["score"] for row in board(*words, "--drop", "person")[1]}
        kept = {row["model"]: row["score"] for row in board(*words, "--group", "person")[1]}
        assert rows["knn"] < 0.5 * rows["dummy"] and kept["knn"] > 0.8 * kept["dummy"]

    def test_time_folds_are_those_of_split(self, board, table):
        days = [f"2024-{1 + i // 28:02d}-{1 + i % 28:02d}" for i in range(N)]
        name = table("x.csv", day=days, x=X, y=X + RNG.normal(size=N))
        summary, *_ = board(name, "--target", "y", "--models", "linear", "--time", "day", *QUICK)
        by_time = Splitting(time="day")
        dataset = load(str(Path(name).resolve()), by_time.reading(Reading(target="y")))
        for split in folds(dataset, by_time, 3):
            assert dataset.frame["day"][split.train].max() < dataset.frame["day"][split.valid].min()
        assert summary["folds"] == 3

    def test_a_file_to_score_on(self, board, inside, table):
        fit, held = table("fit.csv", x=X[:80], y=Y[:80]), table("held.csv", y=Y[80:], x=X[80:])
        summary, rows, _ = board(fit, "--target", "y", "--valid", held, "--models", "logistic", *HELD, "--out", "r")
        assert summary["folds"] == 1 and 0.02 < summary["score_se"] < 0.15
        scored = json.loads(inside("eval", "r", held, "--json").out)["summary"]
        assert summary["score"] == pytest.approx(scored["accuracy"])
        assert rows[1]["train_rows"] == 80

    def test_an_unknown_class_or_a_missing_column_is_refused(self, inside, table):
        fit, held = table("fit.csv", x=X, y=Y), table("held.csv", y=["maybe"] * 3, x=[1, 2, 3])
        ran = inside("baseline", fit, "--target", "y", "--valid", held)
        assert (ran.code, ran.out) == (65, "") and "'maybe'" in ran.err and "line 2" in ran.err
        ran = inside("baseline", fit, "--target", "y", "--valid", table("held.csv", y=["yes"]))
        assert (ran.code, ran.out) == (65, "") and "'x'" in ran.err
        ran = inside("baseline", fit, "--target", "y", "--valid", held, "--folds", "3")
        assert (ran.code, ran.out) == (2, "") and "--valid and --folds" in ran.err


def test_what_meant_missing_at_fit_means_it_in_eval(board, inside, table):
    """In the target as in the other columns, without being told again."""
    unknown = np.arange(N) % 10 == 0
    cells = [("?" if i % 7 == 0 else str(x)) for i, x in enumerate(X)]
    name = table("x.csv", x=cells, y=np.where(unknown, "?", Y))
    board(name, "--target", "y", "--na", "?", "--models", "logistic", "--out", "r", *QUICK)
    ran = inside("eval", "r", name, "--json")
    assert ran.code == 0, ran.err
    assert json.loads(ran.out)["summary"]["rows"] == N - unknown.sum()


class TestCutShort:
    def test_nothing_is_left_where_it_is_interrupted(self, inside, tmp_path, monkeypatch):
        def interrupted(self, until):
            raise KeyboardInterrupt

        monkeypatch.setattr(Processes, "wait", interrupted)
        ran = inside("baseline", "iris", *QUICK)
        assert (ran.code, ran.out) == (130, "")
        assert list((tmp_path / "runs").iterdir()) == []

    def test_an_error_in_saving_is_the_one_that_is_told(self, inside, tmp_path, monkeypatch):
        """Nothing half-written stays; what cannot be removed is named, and is no run."""

        def full(directory):
            directory.write_json("manifest.json", {"sha256": {}})
            raise OSError(errno.ENOSPC, "No space left on device", str(directory.path / "schema.json"))

        monkeypatch.setattr(RunDirectory, "finish", full)
        words = ("baseline", "iris", "--models", "dummy", *QUICK, "--out", "r", "-q")
        assert_error(inside(*words), 74, "r/schema.json", "No space left")
        assert not (tmp_path / "r").exists()

        def closed(path):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))

        monkeypatch.setattr("dlkit.core.run.shutil", SimpleNamespace(rmtree=closed))
        ran = inside(*words)
        assert_error(ran, 74, "No space left", "warning: r came to nothing, and cannot be removed: permission denied")
        assert (tmp_path / "r/schema.json").exists() and not (tmp_path / "r/manifest.json").exists()

    def test_a_budget_too_small_for_anything(self, inside, tmp_path):
        ran = inside("baseline", "iris", "--budget", "0.001s")
        assert_error(ran, 2, "no model could be scored within 0.001 s", "--budget")
        assert list((tmp_path / "runs").iterdir()) == []

    def test_the_next_best_is_saved_where_the_best_could_not_be_fitted_in_time(self, board, monkeypatch):
        finish = Finisher.finish

        def slow(self, trial, seconds):
            return outran(seconds) if trial.family == "logistic" else finish(self, trial, seconds)

        monkeypatch.setattr(Finisher, "finish", slow)
        summary, _, said = board("breast_cancer", "--models", "logistic,bayes", *QUICK)
        assert (summary["best"], summary["saved"]) == ("logistic", "bayes")
        assert "bayes is saved instead" in said
        assert json.loads(Path(summary["run"], "config.json").read_text())["model"] == "bayes"

    def test_what_would_not_fit_into_memory_is_a_row_with_its_reason(self, board, monkeypatch):
        family = baseline.BY_NAME["tree"]
        monkeypatch.setattr(
            baseline, "fits_in_memory", lambda trial, *_: "would need 12.0 GiB" if trial.family == family.name else None
        )
        _, rows, _ = board("iris", "--models", "tree,bayes", *QUICK)
        assert [row["model"] for row in rows] == ["dummy", "bayes", "tree"]
        assert rows[2]["score"] is None and rows[2]["remark"] == "would need 12.0 GiB"


def test_a_family_that_cannot_be_fitted_is_a_row_with_its_reason(board, table):
    """One row of a class: a fold without it has nothing to tell apart."""
    name = table("x.csv", x=X, y=["often"] * (N - 1) + ["once"])
    _, rows, said = board(name, "--target", "y", "--models", "logistic", *QUICK)
    assert rows[0]["score"] > 0.98 and rows[1]["score"] is None and "one class" in rows[1]["problem"]
    assert "99.2 % of the rows are 'often'" in said


def test_text_alone(board, table):
    words = ["a fine film", "what a dull film", "fine acting", "dull plot"]
    name = table("x.csv", review=[f"{words[i % 4]} no {i}" for i in range(N)], y=["good", "bad"] * (N // 2))
    summary, rows, said = board(name, "--target", "y", "--models", "bayes,logistic", *QUICK)
    assert summary["score"] == 1 and "review" not in said and len(rows) == 3


def test_models_by_name(inside, board):
    _, rows, _ = board("iris", "--models", "kmeans, nb", "--models", "em", *QUICK)
    assert {row["model"] for row in rows} == {"dummy", "bayes", "kmeans", "em"}
    for words, hint in (
        (("--models", "boostng"), "'boosting'"),
        (("--save", "svm"), "svm-rbf"),
        (("--save", "x"), "--save"),
    ):
        ran = inside("baseline", "iris", *words)
        assert (ran.code, ran.out) == (2, "") and hint in ran.err
    ran = inside("baseline", "diabetes", "--models", "logistic")
    assert ran.code == 2 and "regression" in ran.err


def test_rows_come_in_the_same_order_whatever_ends_first(inside):
    words = ("baseline", "iris", "--models", "tree,bayes", *QUICK, "--format", "jsonl")
    first, second = ([json.loads(line) for line in inside(*words).out.splitlines()] for _ in range(2))
    timed = {"fit_seconds", "predict_seconds", "memory_bytes"}
    for a, b in zip(first, second, strict=True):
        assert {k: v for k, v in a.items() if k not in timed} == {k: v for k, v in b.items() if k not in timed}


@pytest.mark.slow
class TestKnownScores:
    """Published or measured elsewhere, on five folds: what an honest board has to come to (± the folds' own spread)."""

    @pytest.mark.parametrize(
        ("models", "expected"),
        [
            ("dummy", 115_390),
            ("linear", 68_860),
            ("knn", 60_362),
            ("tree", 60_240),
            ("boosting", 47_679),
            ("forest", 49_175),
        ],
    )
    def test_housing(self, board, shared, models, expected):
        name = str(shared("california_housing.csv"))
        words = (name, "--target", "median_house_value", "--models", models, "--tries", "1", "--budget", "10m")
        rows = {row["model"]: row for row in board(*words)[1]}
        assert rows[models]["score"] == pytest.approx(expected, rel=0.015)
        assert rows[models]["train_rows"] == 16_512

    def test_digits_and_cells(self, board):
        rows = board("digits", "--models", "svm-rbf,knn,forest,logistic", "--tries", "1", "--budget", "5m")[1]
        found = {row["model"]: row["score"] for row in rows}
        for model, least in {"svm-rbf": 0.981, "knn": 0.974, "forest": 0.973, "logistic": 0.969}.items():
            assert found[model] >= least - 0.006, model
        summary, *_ = board("breast_cancer", "--models", "logistic", "--tries", "1", "--budget", "5m")
        assert summary["score"] == pytest.approx(0.979, abs=0.006)

    def test_titanics_alive(self, board, shared):
        summary, _, said = board(str(shared("titanic.csv")), "--target", "survived", "--models", "tree", "--tries", "1")
        assert summary["leaks"] == ["alive"] and "--drop alive" in said

    def test_the_whole_search_stays_within_its_budget(self, inside):
        """Wall time with room for a busy machine: what is held is that no fit, however slow, is waited for."""
        import time

        started = time.monotonic()
        assert inside("baseline", "digits", "--budget", "20s", "-q").code == 0
        assert time.monotonic() - started < 40


@pytest.mark.slow
def test_a_dask_cluster_gives_the_same_board(board, tmp_path):
    distributed = pytest.importorskip("distributed")
    words = ("iris", "--models", "tree,logistic,bayes", *QUICK)
    here = board(*words)[1]
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, dashboard_address=None, scheduler_port=0
    ) as cluster:
        summary, there, _ = board(*words, "--engine", cluster.scheduler_address.replace("tcp://", "dask://"))
    assert [(r["model"], r["score"]) for r in there] == [(r["model"], r["score"]) for r in here]
    assert Path(summary["run"], "manifest.json").exists()


def test_processes_are_forked_from_a_server_where_there_is_one():
    assert pool.context().get_start_method() in ("forkserver", "spawn")
