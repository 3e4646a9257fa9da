"""The named sets are scikit-learn's own."""

import numpy as np
import pytest
from sklearn import datasets

from dlkit.core.reading import Reading
from dlkit.data import load


@pytest.mark.parametrize("name", ["iris", "wine", "breast_cancer", "diabetes"])
def test_tables(name):
    bunch = getattr(datasets, f"load_{name}")(**({"scaled": False} if name == "diabetes" else {}))
    ours = load(name)
    assert ours.frame.columns == list(bunch.feature_names) and np.array_equal(ours.frame.to_numpy(), bunch.data)
    if ours.task == "regression":
        assert np.array_equal(ours.labels, bunch.target)
    else:
        assert [ours.classes[i] for i in ours.labels] == bunch.target_names[bunch.target].tolist()


def test_digits():
    bunch, ours = datasets.load_digits(), load("digits")
    assert np.array_equal(ours.arrays[:, 0], bunch.images) and ours.arrays.dtype == np.uint8
    assert np.array_equal(ours.labels, bunch.target) and ours.classes == tuple("0123456789")


def test_a_file_of_the_name_goes_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "iris").write_text("x,y\n1,a\n2,b\n3,b\n")
    assert load("iris").rows == 3


def test_without_scikit_learn(refused, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    error = refused("iris")
    assert error.code == 69 and "scikit-learn" in error.hint


def test_options_apply(refused):
    assert load("iris", Reading(drop=["sepal width (cm)"])).frame.width == 3
    assert load("wine", Reading(target="alcohol")).task == "regression"
    assert refused("digits", target="x").code == 2
