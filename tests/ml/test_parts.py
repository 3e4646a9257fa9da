"""Groups of rows, samples, encodings, clusters, statistics of drift: each against a definition or a library."""

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from dlkit.data import Role
from dlkit.ml.checks import drift
from dlkit.ml.checks.importance import alone, clusters_of, importances, rank_auc, sentence
from dlkit.ml.checks.matrix import Encoding, Matrix, encode
from dlkit.ml.checks.separate import separate
from dlkit.ml.checks.units import sample, thin, units_of
from dlkit.ml.engine import Engine

MAYBE = st.one_of(st.none(), st.sampled_from("abcdefg"))


@settings(max_examples=60)
@given(st.lists(st.tuples(MAYBE, MAYBE), min_size=1, max_size=30))
def test_units_are_connected_rows(rows):
    """A walk from each row over shared values reaches its unit, and a missing value links nothing."""
    units = units_of([pl.Series("ab"[c], [row[c] for row in rows], pl.String) for c in (0, 1)])
    for start in range(len(rows)):
        reached, todo = {start}, [start]
        while todo:
            here = rows[todo.pop()]
            near = {j for j, row in enumerate(rows) for c in (0, 1) if row[c] is not None and row[c] == here[c]}
            todo += near - reached
            reached |= near
        assert {j for j in range(len(rows)) if units[j] == units[start]} == reached


def test_a_sample_keeps_the_smaller_side():
    is_valid = np.arange(100_000) < 300
    rows = sample(is_valid, 0)
    assert is_valid[rows].sum() == 300 and len(rows) == 300 * 21 and (np.diff(rows) > 0).all()
    both = sample(np.arange(100_000) < 40_000, 0, 1000)
    assert len(both) == 1000 and (both < 40_000).sum() == 500
    assert len(sample(np.arange(100) < 20, 0)) == 100


def test_thinned_units_keep_their_number():
    units = np.repeat(np.arange(50), np.r_[np.full(49, 2), 1000])
    kept = thin(units, 0, 150)
    assert len(np.unique(units[kept])) == 50 and len(kept) <= 150
    assert len(thin(units, 0, 10**6)) == len(units)


def test_sides_are_encoded_together_and_missing_stays_missing():
    frame = pl.DataFrame(
        {"n": [1.0, None, 3.0, 5e300], "c": ["b", "a", "b", None], "t": ["x y z", "", None, "long text here"]}
    )
    roles = {"n": Role.NUMERIC, "c": Role.CATEGORICAL, "t": Role.TEXT}
    matrix = encode(frame, list(roles), roles)
    assert matrix.x[:, 1].tolist()[:3] == [0, 1, 0] and np.isnan(matrix.x[3, 1]) and np.isnan(matrix.x[1, 0])
    assert np.isfinite(matrix.x[[0, 2, 3], 0]).all() and matrix.is_category.tolist() == [False, True, False]
    assert np.diff(matrix.x[:2, 2]) == -5
    part = Encoding.fit(frame, list(roles), roles)(frame[1:2])
    assert np.array_equal(part.x, matrix.x[1:2], equal_nan=True)


def test_seconds_since_1970_keep_their_digits():
    frame = pl.DataFrame({"t": [1.7e9, 1.7e9 + 1, 1.7e9 + 2]})
    assert np.diff(encode(frame, ["t"], {"t": Role.NUMERIC}).x[:, 0]).tolist() == [1, 1]


def test_columns_that_say_the_same_are_one_cluster():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=500), rng.integers(0, 3, 500)
    x = np.column_stack(
        [a, np.exp(a), rng.normal(size=500), b, [2, 0, 1] @ (b == np.arange(3)[:, None]), np.zeros(500)]
    )
    matrix = Matrix(x.astype(np.float32), tuple("abcdef"), np.array([False] * 3 + [True] * 2 + [False]))
    assert sorted(map(sorted, clusters_of(matrix))) == [[0, 1], [2], [3, 4], [5]]


def test_a_column_that_tells_is_named_with_its_twin():
    rng = np.random.default_rng(0)
    is_valid = np.arange(400) >= 280
    x = rng.normal(size=(400, 4))
    x[:, 0] += 3 * is_valid
    x[:, 1] = 2 * x[:, 0] + 0.01 * rng.normal(size=400)
    matrix = Matrix(x.astype(np.float32), ("a", "twin", "b", "c"), np.zeros(4, bool))
    found = separate(matrix, is_valid, Engine(1), "forest", trees=20)
    told = importances(matrix, is_valid, found.folds)
    assert set(told[0].names) == {"a", "twin"} and told[0].is_clear
    assert not any(one.is_clear for one in told[1:])
    assert alone(matrix, is_valid, 0) > 0.95 > 0.6 > alone(matrix, is_valid, 2)


def test_a_difference_of_spread_is_found_alone():
    rng = np.random.default_rng(0)
    is_valid = np.arange(600) >= 300
    x = (rng.normal(size=600) * np.where(is_valid, 4, 1)).astype(np.float32)
    assert alone(Matrix(x[:, None], ("a",), np.zeros(1, bool)), is_valid, 0) > 0.7


@pytest.mark.parametrize(
    ("train", "valid", "role", "said"),
    [
        ([1.0, 2.0, 3.0], [4.0, 5.0], Role.NUMERIC, "all higher"),
        ([4.0, 5.0], [1.0, 2.0], Role.NUMERIC, "all lower"),
        ([1.0, 2.0, 9.0], [8.0, 9.0, 10.0], Role.NUMERIC, "median is 9 in valid and 2 in train"),
        ([1.0, 5.0, 9.0], [4.9, 5.0, 5.1], Role.NUMERIC, "most of it"),
        ([1.0, 2.0, 3.0], [None, None, 1.0], Role.NUMERIC, "missing in 67 % of valid and 0 % of train"),
        (["a", "b"], ["c", "d"], Role.CATEGORICAL, "no value of valid is in train"),
        (["a", "b", "b", "b"], ["a", "a", "b", "a"], Role.CATEGORICAL, "'a' is 75 % of valid and 25 % of train"),
        (["x", "xx"], ["xxxxx", "xxxxxx"], Role.TEXT, "all higher"),
    ],
)
def test_a_plain_sentence(train, valid, role, said):
    values = pl.Series("c", train + valid)
    assert said in sentence(values, role, np.arange(len(values)) >= len(train))


def test_dates_are_later():
    values = pl.Series("t", ["2024-01-01", "2024-01-02", "2024-02-01"]).str.to_datetime()
    assert sentence(values, Role.DATETIME, np.array([False, False, True])) == "values of valid are all later"
    assert rank_auc(values, np.array([False, False, True])) == 1
    assert rank_auc(pl.Series(["c", "b", "a"]), np.array([False, False, True])) == 1


def test_drift_of_numbers_is_scipys():
    rng = np.random.default_rng(0)
    train, valid = rng.normal(size=500), rng.normal(0.5, 2, 300)
    found = drift.numeric("x", train, valid)
    ks = stats.ks_2samp(train, valid, method="asymp")
    assert (found.effect, found.p) == (ks.statistic, pytest.approx(ks.pvalue))
    assert found.wasserstein == pytest.approx(stats.wasserstein_distance(train, valid) / train.std())


def test_drift_of_categories_is_scipys():
    train, valid = np.repeat([0, 1, 2], [50, 30, 20]), np.repeat([0, 1, 2], [20, 20, 20])
    found = drift.categorical("x", train, valid)
    assert found.p == pytest.approx(stats.chi2_contingency([[50, 30, 20], [20, 20, 20]]).pvalue)
    assert found.effect == pytest.approx((abs(0.5 - 1 / 3) + abs(0.3 - 1 / 3) + abs(0.2 - 1 / 3)) / 2)
    rare = np.repeat(np.arange(40), 2)
    assert drift.lump(np.array([np.bincount(rare), np.bincount(rare)])).shape == (2, 1)


def test_psi_is_what_its_definition_says_less_chance():
    p, q = np.array([500, 300, 200]), np.array([400, 300, 300])
    exact = sum((b - a) * np.log(b / a) for a, b in zip(p / 1000, q / 1000, strict=True))
    assert drift.psi(p, q) == pytest.approx(exact - 2 * (2 / 1000), abs=1e-3)
    rng = np.random.default_rng(0)
    null = [drift.psi(*(np.bincount(rng.integers(0, 10, n), minlength=10) for n in (200, 50))) for _ in range(200)]
    assert np.mean(null) < 0.05


def test_p_values_are_benjamini_hochbergs():
    rng = np.random.default_rng(0)
    names = [f"x{i}" for i in range(12)]
    frame = pl.DataFrame({name: rng.normal(size=300) for name in names}).with_columns(
        pl.col("x0") + pl.Series(np.arange(300) > 200)
    )
    found = drift.measure(frame, names, dict.fromkeys(names, Role.NUMERIC), np.arange(300) > 200, None)
    order = np.argsort([one.p for one in found])
    by_hand, least = np.empty(12), 1.0
    for rank in range(12, 0, -1):
        least = min(least, found[order[rank - 1]].p * 12 / rank)
        by_hand[order[rank - 1]] = least
    assert np.allclose([one.adjusted for one in found], by_hand) and found[0].adjusted < 0.001


def test_drift_of_groups_is_no_drift_of_rows():
    """Sixty groups that differ in level: rows say that most splits of them drift, whole groups do not."""
    units, role, found = np.repeat(np.arange(60), 20), {"x": Role.NUMERIC}, []
    for seed in range(20):
        rng = np.random.default_rng(seed)
        frame = pl.DataFrame({"x": rng.normal(size=60)[units] + 0.1 * rng.normal(size=1200)})
        is_valid = units < 12
        found.append([drift.measure(frame, ["x"], role, is_valid, by)[0].adjusted for by in (None, units)])
    rows, groups = (np.array(found) < 0.05).sum(0)
    assert rows >= 15 and groups <= 3
    moved = frame.with_columns(pl.col("x") + pl.Series(5.0 * is_valid))
    assert drift.measure(moved, ["x"], role, is_valid, units)[0].adjusted < 0.01
