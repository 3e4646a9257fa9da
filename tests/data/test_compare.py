"""Two predictors on the same rows, against scipy's paired test; and a baseline fitted anew beside a network."""

import json
from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import pytest
from scipy.stats import ttest_rel
from sklearn.neighbors import KNeighborsClassifier

from dlkit.data import hold_out, load
from dlkit.data.compare import compare


@dataclass
class Told:
    """A predictor that says what it was told."""

    task: str
    values: np.ndarray
    classes: tuple[str, ...] = ()

    @property
    def schema(self):
        return SimpleNamespace(classes=self.classes)

    def predict(self, rows):
        return self.values


@pytest.mark.parametrize("seed", range(3))
def test_of_numbers(seed):
    rng = np.random.default_rng(seed)
    rows = load("diabetes")
    first, second = (rows.labels + rng.normal(0, size, rows.rows) for size in (50, 55))
    found = compare(rows, Told("regression", first), Told("regression", second))
    errors = [(values - rows.labels) ** 2 for values in (second, first)]
    assert found.z == pytest.approx(ttest_rel(*errors).statistic, rel=0.01)
    assert (found.ours, found.theirs) == tuple(pytest.approx(e.mean() ** 0.5) for e in errors[::-1])


@pytest.mark.parametrize(("first", "z"), [(1.0, np.inf), (3.0, -np.inf), (-2.0, 0.0)])
def test_one_difference_in_every_row(first, z):
    rows = load("diabetes")
    found = compare(rows, Told("regression", rows.labels + first), Told("regression", rows.labels + 2.0))
    assert found.z == z


def test_of_classes_in_another_order():
    rows = load("iris")
    right = np.eye(3)[rows.labels]
    turned = Told("classification", right[:, [2, 0, 1]], tuple(rows.classes[i] for i in (2, 0, 1)))
    wrong = right.copy()
    wrong[:30] = wrong[:30, [1, 2, 0]]
    found = compare(rows, turned, Told("classification", wrong, rows.classes))
    assert (found.ours, found.theirs) == (1.0, 0.8) and found.z > 2 and found.sentence.startswith("better")


def test_a_baseline_is_fitted_anew_on_the_training_side(inside):
    """Its score is that of scikit-learn's own fit on those rows, not of the model that has seen all of them."""
    said = inside("baseline", "iris", "--models", "knn", "--tries", "1", "--out", "base", "--json")
    assert said.code == 0, said.err
    answer = json.loads(inside("train", "iris", "--epochs", "2", "--against", "base", "--json").out)["summary"]
    rows = load("iris")
    split = hold_out(rows, seed=0)
    x = rows.frame.to_numpy()
    mean, std = x[split.train].mean(0), x[split.train].std(0)
    neighbours = json.loads(said.out)["rows"][0]["settings"].get("n_neighbors", 5)
    knn = KNeighborsClassifier(neighbours).fit((x[split.train] - mean) / std, rows.labels[split.train])
    score = knn.score((x[split.valid] - mean) / std, rows.labels[split.valid])
    assert answer["against"]["accuracy"] == pytest.approx(score, abs=0.04)
    assert answer["against"]["difference"] == pytest.approx(answer["best"] - answer["against"]["accuracy"])


def test_another_target_is_refused_before_training(inside, tmp_path):
    assert inside("train", "wine", "--epochs", "1", "--out", "other").code == 0
    ran = inside("train", "diabetes", "--against", "other")
    assert (ran.code, ran.out) == (2, "") and "--against other" in ran.err
    assert not (tmp_path / "runs").exists()
