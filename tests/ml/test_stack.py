"""Stacking is scikit-learn's, on predictions for rows that no member has seen."""

import json
import shutil
from dataclasses import asdict

import numpy as np
import pytest
from sklearn.datasets import load_breast_cancer, load_diabetes
from sklearn.ensemble import StackingClassifier, StackingRegressor
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor
from test_contract import assert_error

from dlkit.core.contest import Contest
from dlkit.core.run import RunDirectory, open_run
from dlkit.data import load
from dlkit.data.split import folds
from dlkit.ml import persist, stack
from dlkit.ml.data import prepare
from dlkit.ml.engine import Engine
from dlkit.ml.families import BY_NAME, Context
from dlkit.ml.model import Model
from dlkit.ml.oof import out_of_fold


@pytest.mark.parametrize("classes", [2, 3])
def test_classes_as_scikit_learn_stacks_them(classes):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(300, 4)), rng.integers(0, classes, 300)
    x[:, 0] += y
    members = [("a", DecisionTreeClassifier(max_depth=2).fit(x[:100], y[:100])),
               ("b", LogisticRegression().fit(x[:100, :], y[:100]))]  # fmt: skip
    theirs = StackingClassifier(members, LogisticRegression(max_iter=1000), cv="prefit").fit(x[100:200], y[100:200])
    each = [np.stack([model.predict_proba(part) for _, model in members]) for part in (x[100:200], x[200:])]
    ours = stack.fit(each[0], y[100:200], "classification")
    np.testing.assert_allclose(ours(each[1]), theirs.predict_proba(x[200:]), atol=1e-12)


def test_values_as_scikit_learn_stacks_them():
    x, y = load_diabetes(return_X_y=True)
    members = [("a", DecisionTreeRegressor(max_depth=3).fit(x[:200], y[:200])), ("b", Ridge().fit(x[:200], y[:200]))]
    theirs = StackingRegressor(members, cv="prefit").fit(x[200:300], y[200:300])
    each = [np.stack([model.predict(part) for _, model in members]) for part in (x[200:300], x[300:])]
    np.testing.assert_allclose(stack.fit(each[0], y[200:300], "regression")(each[1]), theirs.predict(x[300:]))


@pytest.fixture(autouse=True)
def one_process(monkeypatch):
    """What is small is not worth a process, however slow the machine is just now."""
    monkeypatch.setattr("dlkit.ml.engine.START_SECONDS", 1e9)


@pytest.fixture(scope="module")
def baselines(tmp_path_factory):
    """A tree and a linear model on breast_cancer, three folds: what `baseline` saves, without its race."""
    contest = Contest("breast_cancer", folds=3)
    dataset = load("breast_cancer")
    prepared = prepare(contest, dataset)
    data, rows = prepared.data, np.arange(dataset.rows)
    paths = []
    for name in ("logistic", "tree"):
        setting = BY_NAME[name].settings(data.context)[0]
        model = Model.fit(name, setting, data.context, data.layout, data.block(rows), data.labels)
        directory = RunDirectory.create(str(tmp_path_factory.mktemp("runs") / name), name)
        persist.save(directory, persist.dumps(model, data.block(persist.probe_rows(len(rows)))), prepared.coding)
        directory.write_json("schema.json", prepared.schema.to_json())
        facts = {"command": "baseline", "model": name, "settings": setting, "options": asdict(contest)}
        directory.write_json("config.json", facts | {"fingerprint": dataset.fingerprint})
        directory.finish()
        paths.append(directory.path)
    return paths


def test_out_of_fold_predictions_are_those_of_the_same_folds(baselines):
    dataset = load("breast_cancer")
    x = load_breast_cancer().data
    run = open_run(baselines[0])
    context = Context("classification", len(x), x.shape[1], 2, False, "accuracy", 0, False)
    model = make_pipeline(StandardScaler(), BY_NAME[run.config["model"]].make(run.config["settings"], context))
    found = out_of_fold(run, "breast_cancer", Engine(1))
    for split in folds(dataset, k=3):
        model.fit(x[split.train], dataset.labels[split.train])
        np.testing.assert_allclose(found[split.valid], model.predict_proba(x[split.valid]), atol=1e-6)


def test_a_run_that_a_file_scored_gets_folds_of_its_own_rows(baselines, tmp_path):
    """As one that five folds chose: of the file that it was scored on nothing is read."""
    whole = out_of_fold(open_run(baselines[0]), "breast_cancer", Engine(1))
    for options in ({"valid": "gone.csv", "folds": None}, {"valid": None, "folds": 5}):
        path = tmp_path / str(options["folds"])
        shutil.copytree(baselines[0], path)
        config = json.loads((path / "config.json").read_text())
        config["options"] |= options
        (path / "config.json").write_text(json.dumps(config))
        (path / "manifest.json").unlink()
        RunDirectory(path).finish()
    found = [out_of_fold(open_run(tmp_path / name), "breast_cancer", Engine(1)) for name in ("None", "5")]
    np.testing.assert_array_equal(*found)
    assert np.isfinite(found[0]).all() and not np.array_equal(found[0], whole)


def test_a_stack_of_baselines_on_the_rows_that_they_know(inside, baselines, tmp_path):
    """The whole of StackingClassifier: out-of-fold predictions below, a logistic regression on top."""
    words = ["predict", *map(str, baselines), "breast_cancer", "--format", "jsonl"]
    ran = inside(*words, "--stack", "breast_cancer")
    assert ran.code == 0 and ran.err.count("fitted again on folds") == 2
    each = np.stack([out_of_fold(open_run(path), "breast_cancer", Engine(1)) for path in baselines])
    labels = load("breast_cancer").labels
    top = LogisticRegression(max_iter=1000).fit(each[:, :, 1].T, labels)
    alone = [[json.loads(line) for line in inside("predict", str(p), *words[3:]).out.splitlines()] for p in baselines]
    second = f"p_{load('breast_cancer').classes[1]}"
    features = np.array([[row[second] for row in rows] for rows in alone]).T
    found = [json.loads(line)[second] for line in ran.out.splitlines()]
    np.testing.assert_allclose(found, top.predict_proba(features)[:, 1], atol=1e-9)
    weighted = inside("eval", *map(str, baselines), "breast_cancer", "--weights", "breast_cancer", "--json")
    assert weighted.code == 0 and "weights: " in weighted.err


def test_a_network_is_not_fitted_again(inside, finished_run):
    words = ["eval", str(finished_run), str(finished_run), "iris"]
    assert_error(inside(*words, "--stack", "iris"), 65, "by heart")
