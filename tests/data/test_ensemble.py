"""Weights against scipy's optimiser, on the simplex."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dlkit.core.errors import DlkitError
from dlkit.data import ensemble

optimize = pytest.importorskip("scipy.optimize")


def best(loss, members):
    start = np.full(members, 1 / members)
    total = {"type": "eq", "fun": lambda w: w.sum() - 1}
    found = optimize.minimize(loss, start, bounds=[(0, 1)] * members, constraints=[total], tol=1e-12)
    return loss(found.x)


@given(st.integers(2, 4), st.integers(2, 4), st.integers(5, 80), st.integers(0, 2**32 - 1))
@settings(max_examples=25)
def test_weights_of_probabilities_have_the_least_log_loss(members, classes, rows, seed):
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, classes, rows)
    each = rng.dirichlet(np.ones(classes), (members, rows)) + 0.5 * np.eye(classes)[truth] * rng.random((members, 1, 1))
    each /= each.sum(2, keepdims=True)

    def loss(w):
        return -np.log(np.tensordot(w, each, 1)[np.arange(rows), truth]).mean()

    weights = ensemble.fit_weights(each, truth)
    assert weights.min() >= 0 and weights.sum() == pytest.approx(1)
    assert loss(weights) <= best(loss, members) + 1e-5


@given(st.integers(2, 4), st.integers(5, 80), st.integers(0, 2**32 - 1))
@settings(max_examples=25)
def test_weights_of_values_have_the_least_squared_error(members, rows, seed):
    rng = np.random.default_rng(seed)
    truth = rng.normal(100, 20, rows)
    each = truth + rng.normal(0, 1, (members, 1)) * 5 + rng.normal(size=(members, rows)) * rng.random((members, 1)) * 20

    def loss(w):
        return ((w @ each - truth) ** 2).mean()

    weights = ensemble.fit_weights(each, truth)
    assert weights.min() >= 0 and weights.sum() == pytest.approx(1)
    assert loss(weights) <= best(loss, members) * (1 + 1e-6) + 1e-9


def test_weights_as_typed():
    assert ensemble.parse_weights("3,1", 2).tolist() == [3, 1]
    assert ensemble.parse_weights("valid.csv", 2) is None
    for text in ("1,2,3", "-1,2", "nan,1", "0,0"):
        with pytest.raises(DlkitError, match="--weights"):
            ensemble.parse_weights(text, 2)
