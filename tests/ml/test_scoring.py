"""Metrics by name, standard errors, and the corrected paired test against its published formula."""

import math

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics as theirs

from dlkit.core.errors import DlkitError
from dlkit.ml.scoring import METRICS, Sample, choose, resampled

RNG = np.random.default_rng(0)
TRUTH = RNG.integers(0, 3, 200)
PROBA = RNG.dirichlet([1, 1, 1], 200)
VALUES, GUESSES = RNG.normal(size=200), RNG.normal(size=200)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("accuracy", theirs.accuracy_score(TRUTH, PROBA.argmax(1))),
        ("balanced_accuracy", theirs.balanced_accuracy_score(TRUTH, PROBA.argmax(1))),
        ("f1", theirs.f1_score(TRUTH, PROBA.argmax(1), average="macro")),
        ("auc", theirs.roc_auc_score(TRUTH, PROBA, multi_class="ovr")),
        ("log_loss", theirs.log_loss(TRUTH, PROBA)),
        ("rmse", theirs.root_mean_squared_error(VALUES, GUESSES)),
        ("mae", theirs.mean_absolute_error(VALUES, GUESSES)),
        ("r2", theirs.r2_score(VALUES, GUESSES)),
    ],
)
def test_a_metric_is_scikit_learns(name, expected):
    metric = METRICS[name]
    truth, prediction = (TRUTH, PROBA) if metric.task == "classification" else (VALUES, GUESSES)
    assert metric.score(truth, prediction) == pytest.approx(expected)


def test_the_default_metric():
    assert choose(None, "classification").name == "accuracy"
    assert choose(None, "classification", balance=True).name == "balanced_accuracy"
    assert choose(None, "regression").name == "rmse"


@pytest.mark.parametrize(
    ("name", "task", "word"), [("rmse", "classification", "regression"), ("accurcy", "classification", "accuracy")]
)
def test_a_metric_that_does_not_fit_is_refused(name, task, word):
    with pytest.raises(DlkitError) as caught:
        choose(name, task)
    assert caught.value.code == 2 and word in f"{caught.value.message} {caught.value.hint}"


def test_the_corrected_t_test_is_nadeau_and_bengios():
    """t = mean / √(s²·(1/K + n_test/n_train)), K − 1 degrees of freedom (2003, eq. 9)."""
    a, b = Sample((0.9, 0.8, 0.85, 0.9, 0.87), 0.25), Sample((0.8, 0.79, 0.8, 0.85, 0.86), 0.25)
    d = np.subtract(a.scores, b.scores)
    t = d.mean() / math.sqrt(d.var(ddof=1) * (1 / 5 + 0.25))
    assert a.p_value(b) == pytest.approx(2 * stats.t.sf(abs(t), 4))
    assert a.p_value(b) > stats.ttest_rel(a.scores, b.scores).pvalue  # the naive one is too sure
    assert a.error == pytest.approx(stats.sem(a.scores))


def test_the_corrected_test_keeps_its_level():
    """Two models that differ by noise alone, scores of folds correlated as those of shared training rows are."""
    rng = np.random.default_rng(0)
    ratio, k, rejected, naive = 0.25, 5, 0, 0
    rho = ratio / (1 + ratio)  # Nadeau and Bengio's estimate of the correlation: n2/(n1 + n2)
    for _ in range(2000):
        d = np.sqrt(rho) * rng.normal() + np.sqrt(1 - rho) * rng.normal(size=k)
        zero = Sample((0.0,) * k, ratio)
        rejected += Sample(tuple(d), ratio).p_value(zero) < 0.05
        naive += stats.ttest_1samp(d, 0).pvalue < 0.05
    assert rejected / 2000 < 0.06 < naive / 2000


def test_no_difference_and_a_constant_one():
    one, same, better = Sample((0.5,) * 3, 0.5), Sample((0.5,) * 3, 0.5), Sample((0.6,) * 3, 0.5)
    assert one.p_value(same) == 1 and one.p_value(better) == 0
    assert math.isnan(Sample((0.5,), 0.5).p_value(Sample((0.6,), 0.5)))


def test_one_validation_side_is_resampled_in_pairs():
    metric = METRICS["accuracy"]
    good = np.eye(3)[np.where(np.arange(200) % 10 == 0, (TRUTH + 1) % 3, TRUTH)]
    a = Sample((metric.score(TRUTH, good),), 0.2, tuple(resampled(metric, TRUTH, good)))
    b = Sample((metric.score(TRUTH, PROBA),), 0.2, tuple(resampled(metric, TRUTH, PROBA)))
    assert a.error == pytest.approx(math.sqrt(0.9 * 0.1 / 200), rel=0.2)
    assert a.p_value(b) < 1e-6 and a.p_value(a) == 1
