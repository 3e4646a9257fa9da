"""The classifier of the sides against scikit-learn called by hand, its interval and p-values against definitions."""

import numpy as np
import pytest
from scipy import stats
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedKFold, cross_val_predict

from dlkit.data.metrics import auc_error
from dlkit.ml.checks.adversarial import verdict
from dlkit.ml.checks.matrix import Matrix
from dlkit.ml.checks.separate import (
    Fold,
    Separation,
    choose,
    correction,
    error_of,
    folds_of,
    hold_out_p,
    normal_p,
    permutation_p,
    separate,
)
from dlkit.ml.engine import Engine


def shifted(rows: int, valid: int, by: float, seed: int = 0) -> tuple[Matrix, np.ndarray]:
    rng = np.random.default_rng(seed)
    is_valid = np.arange(rows) >= rows - valid
    x = rng.normal(size=(rows, 4)).astype(np.float32)
    x[is_valid, 1] += by
    x[rng.random((rows, 4)) < 0.05] = np.nan
    return Matrix(x, ("a", "b", "c", "d"), np.zeros(4, bool)), is_valid


def test_scores_are_those_of_scikit_learn_by_hand():
    matrix, is_valid = shifted(300, 80, 0.8)
    found = separate(matrix, is_valid, Engine(1), "forest", seed=3, trees=20)
    folds = list(StratifiedKFold(5, shuffle=True, random_state=3).split(matrix.x, is_valid))
    scores = np.empty(300)
    for k, (train, held_out) in enumerate(folds):
        forest = RandomForestClassifier(20, min_samples_leaf=3, random_state=3 + k).fit(
            matrix.x[train], is_valid[train]
        )
        scores[held_out] = forest.predict_proba(matrix.x[held_out])[:, 1]
    assert np.array_equal(found.scores, scores)
    assert found.auc == pytest.approx(roc_auc_score(is_valid, scores), abs=1e-12)
    assert found.error == pytest.approx(1.5 * auc_error(is_valid, scores))
    assert found.low == pytest.approx(found.auc - 1.96 * found.error, abs=1e-4)


def test_boosting_is_scikit_learns_cross_val_predict():
    matrix, is_valid = shifted(300, 80, 0.8)
    found = separate(matrix, is_valid, Engine(1), "boosting", seed=0, trees=10)
    by_hand = cross_val_predict(
        HistGradientBoostingClassifier(max_iter=10, categorical_features=matrix.is_category, random_state=0),
        matrix.x, is_valid, cv=StratifiedKFold(5, shuffle=True, random_state=0), method="predict_proba",
    )[:, 1]  # fmt: skip
    assert found.auc == pytest.approx(roc_auc_score(is_valid, by_hand), abs=1e-12)


def test_a_linear_model_takes_missing_values_and_categories():
    matrix, is_valid = shifted(200, 60, 1.5)
    colours = np.random.default_rng(1).integers(0, 3, 200).astype(np.float32)
    both = Matrix(np.column_stack([matrix.x, colours]), (*matrix.names, "e"), np.array([False] * 4 + [True]))
    assert separate(both, is_valid, Engine(1), "linear").auc > 0.75


def test_the_correction_of_five_folds_is_one_and_a_half():
    assert correction(5) == pytest.approx(1.5)


def test_rows_of_a_unit_are_in_one_fold():
    rng = np.random.default_rng(0)
    units = rng.integers(0, 40, 400)
    is_valid = units < 9
    seen = np.zeros(400, int)
    for train, held_out in folds_of(is_valid, units, 0):
        assert not set(units[train]) & set(units[held_out])
        assert 0 < is_valid[train].mean() < 1 and 0 < is_valid[held_out].mean() < 1
        seen[held_out] += 1
    assert (seen == 1).all()
    assert len(folds_of(units < 3, units, 0)) == 3


def test_the_error_of_clustered_rows():
    """Singletons are DeLong's rows; k copies of each row say no more than one of each."""
    rng = np.random.default_rng(0)
    is_valid, scores = rng.random(300) < 0.3, rng.normal(size=300)
    scores += is_valid
    alone = error_of(is_valid, scores, np.arange(300))
    assert alone == pytest.approx(auc_error(is_valid, scores))
    copied = [np.repeat(part, 7) for part in (is_valid, scores, np.arange(300))]
    assert error_of(*copied) == pytest.approx(alone, rel=1e-6)
    assert error_of(*copied[:2]) < alone / 2


def fixed(auc: float, low: float, high: float, model: str = "forest") -> Separation:
    return Separation(model, np.empty(0), (), auc, low, high, (high - low) / 4)


@pytest.mark.parametrize(
    ("separation", "p", "few", "later", "expected", "word"),
    [
        (fixed(0.70, 0.60, 0.80), 0.005, False, False, "fail", "told apart"),
        (fixed(0.70, 0.60, 0.80), 0.005, False, True, "warn", "split by time"),
        (fixed(0.70, 0.60, 0.80), 0.30, False, False, "pass", "P(y|x)"),
        (fixed(0.60, 0.50, 0.70), 0.010, False, False, "warn", "too few rows to tell"),
        (fixed(0.60, 0.50, 0.70), 0.200, False, False, "pass", "P(y|x)"),
        (fixed(0.54, 0.53, 0.55), 1e-9, False, False, "pass", "P(y|x)"),
        (fixed(1.00, 1.00, 1.00), 0.005, True, False, "skip", "too few rows to tell"),
        (fixed(0.29, 0.25, 0.33), 1.0, False, False, "fail", "shared"),
        (fixed(0.47, 0.41, 0.53), 0.9, False, False, "pass", "P(y|x)"),
    ],
)
def test_the_three_verdicts(separation, p, few, later, expected, word):
    found = verdict(separation, p, 0.55, few, later)
    assert found.verdict == expected and word in found.detail


def test_a_p_value_by_permutation_stops_early():
    def draws(values):
        return lambda jobs: [values[i] for i in jobs]

    rising = [0.0] * 5 + [1.0] * 195
    assert permutation_p(0.5, draws(rising), 10) == (10 / 15, 15)
    assert permutation_p(2.0, draws(rising), 10) == (1 / 100, 99)
    sometimes = [1.0 if i % 40 == 0 else 0.0 for i in range(200)]
    assert permutation_p(0.5, draws(sometimes), 7) == (6 / 200, 199)


def test_few_draws_make_a_valid_p_value():
    """Under the null a p-value is below 5 % in 5 % of cases, early stops or not."""
    rng = np.random.default_rng(0)
    found = [
        permutation_p(values[0], lambda jobs, v=values: [v[1 + i] for i in jobs], 10)[0]
        for values in rng.random((2000, 200))
    ]
    assert 0.03 < np.mean(np.array(found) <= 0.05) < 0.065


def test_the_hold_out_p_is_mann_whitneys():
    rng = np.random.default_rng(0)
    is_valid, scores = rng.random(100) < 0.4, rng.normal(size=100)
    scores[is_valid] += 0.3
    halves = (np.arange(50), np.arange(50, 100))
    separation = Separation("forest", scores, tuple(Fold(None, half) for half in halves), 0.6, 0.5, 0.7, 0.05)
    each = [
        stats.mannwhitneyu(scores[half][is_valid[half]], scores[half][~is_valid[half]], alternative="greater").pvalue
        for half in halves
    ]
    assert hold_out_p(is_valid, separation) == pytest.approx(2 * min(each))
    assert normal_p(separation) == pytest.approx(stats.norm.sf(2))


def test_a_forest_for_few_rows_boosting_for_many():
    assert (choose(4999), choose(5000)) == ("forest", "boosting")
