"""Models of the board against scikit-learn called by hand on the same folds, and what preprocessing may look at."""

import numpy as np
import pytest
from sklearn.compose import ColumnTransformer, TransformedTargetRegressor
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor, RandomForestClassifier
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.model_selection import KFold, StratifiedKFold
from sklearn.naive_bayes import CategoricalNB, GaussianNB
from sklearn.neighbors import KNeighborsClassifier, KNeighborsRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from sklearn.svm import SVC, SVR
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor

from dlkit.data import metrics
from dlkit.ml.block import Block, Layout
from dlkit.ml.estimators import Density, KernelMachine
from dlkit.ml.families import BY_NAME, Context, starting_k
from dlkit.ml.features import Features
from dlkit.ml.model import Model, balanced, take

RNG = np.random.default_rng(0)
N = 300
NUMBERS = RNG.normal(size=(N, 3))
CODES = RNG.integers(0, 4, N).astype(float)
SIGNAL = NUMBERS[:, 0] + (CODES == 2) - NUMBERS[:, 1] ** 2 + 0.3 * RNG.normal(size=N)
NUMBERS[::7, 0] = np.nan
BLOCK = Block(np.column_stack([NUMBERS, CODES]))
LAYOUT = Layout(numeric=(0, 1, 2), low=(3,))
CLASSES = np.digitize(SIGNAL, [-0.8, 0.3])


def by_hand(estimator, scale: bool = True):
    """The same preprocessing in scikit-learn's own words."""
    steps = [SimpleImputer(strategy="median", add_indicator=True), *([StandardScaler()] if scale else [])]
    onehot = OneHotEncoder(handle_unknown="ignore", sparse_output=False)
    return make_pipeline(ColumnTransformer([("n", make_pipeline(*steps), [0, 1, 2]), ("c", onehot, [3])]), estimator)


def native(estimator):
    """Boosting takes gaps and categories as they are."""
    return estimator.set_params(categorical_features=[3])


def context(task: str, **more) -> Context:
    return Context(task, N, 4, 3 if task == "classification" else 0, **more)


def scores(family: str, task: str) -> list[float]:
    """Of five folds, by the board's own model."""
    y, found = (CLASSES if task == "classification" else SIGNAL), []
    for train, test in folds(task):
        first = BY_NAME[family].settings(context(task))[0]
        model = Model.fit(family, first, context(task), LAYOUT, take(BLOCK, train), y[train])
        prediction = model.predict(take(BLOCK, test))
        found.append(score(y[test], prediction))
    return found


def folds(task: str):
    y = CLASSES if task == "classification" else SIGNAL
    kind = StratifiedKFold if task == "classification" else KFold
    return list(kind(5, shuffle=True, random_state=0).split(BLOCK.numbers, y))


def score(truth: np.ndarray, prediction: np.ndarray) -> float:
    return metrics.accuracy(truth, prediction.argmax(1)) if prediction.ndim > 1 else metrics.rmse(truth, prediction)


K = starting_k(N)


@pytest.mark.parametrize(
    ("family", "pipeline"),
    [
        ("logistic", by_hand(LogisticRegression(max_iter=1000))),
        ("knn", by_hand(KNeighborsClassifier(K))),
        ("tree", by_hand(DecisionTreeClassifier(min_samples_leaf=5, random_state=0), scale=False)),
        ("forest", by_hand(RandomForestClassifier(100, random_state=0), scale=False)),
        ("boosting", native(HistGradientBoostingClassifier(random_state=0))),
        ("svm-rbf", by_hand(SVC(break_ties=True))),
    ],
)
def test_classes_as_by_hand(family, pipeline):
    expected = []
    for train, test in folds("classification"):
        pipeline.fit(BLOCK.numbers[train], CLASSES[train])
        expected.append(metrics.accuracy(CLASSES[test], pipeline.predict(BLOCK.numbers[test])))
    assert scores(family, "classification") == pytest.approx(expected)


@pytest.mark.parametrize(
    ("family", "pipeline"),
    [
        ("linear", by_hand(Ridge())),
        ("knn", by_hand(KNeighborsRegressor(K))),
        ("tree", by_hand(DecisionTreeRegressor(min_samples_leaf=5, random_state=0), scale=False)),
        ("boosting", native(HistGradientBoostingRegressor(random_state=0))),
        ("svm-rbf", by_hand(TransformedTargetRegressor(SVR(), transformer=StandardScaler()))),
    ],
)
def test_values_as_by_hand(family, pipeline):
    expected = []
    for train, test in folds("regression"):
        pipeline.fit(BLOCK.numbers[train], SIGNAL[train])
        expected.append(metrics.rmse(SIGNAL[test], pipeline.predict(BLOCK.numbers[test])))
    assert scores(family, "regression") == pytest.approx(expected)


class TestBayes:
    def test_the_parts_multiply(self):
        """log P(c|x) is the sum of scikit-learn's Gaussian and categorical models, the prior counted once (S060)."""
        whole = Block(np.nan_to_num(BLOCK.numbers))
        model = Model.fit("bayes", {}, context("classification"), LAYOUT, whole, CLASSES)
        gauss = GaussianNB().fit(whole.numbers[:, :3], CLASSES).predict_joint_log_proba(whole.numbers[:, :3])
        # Code 0 stands for missing, which occurs nowhere here and is smoothed as any other code.
        codes = CODES[:, None] + 1
        categorical = CategoricalNB(min_categories=5).fit(codes, CLASSES).predict_joint_log_proba(codes)
        total = gauss + categorical - np.log(np.bincount(CLASSES) / N)
        total -= np.logaddexp.reduce(total, axis=1, keepdims=True)
        np.testing.assert_allclose(model.predict(whole), np.exp(total), atol=1e-9)

    def test_no_gaussian_on_indicators(self):
        features = Features("apart", LAYOUT, "multiclass")
        x = features.fit_transform(BLOCK, CLASSES)
        numbers, codes, words = features.parts_
        assert (codes, words) == (1, 0) and set(np.unique(x[:, numbers:])) <= set(range(5))


class TestPreprocessing:
    @pytest.mark.parametrize("view", ["scaled", "plain", "dense", "native", "apart"])
    def test_a_row_is_transformed_by_the_training_rows_alone(self, view):
        features = Features(view, Layout((0, 1, 2), (), (3,)), "multiclass")
        features.fit_transform(take(BLOCK, np.arange(200)), CLASSES[:200])
        alone = features.transform(take(BLOCK, np.array([250])))
        together = features.transform(take(BLOCK, np.arange(200, 300)))
        np.testing.assert_array_equal(alone[0], together[50])

    def test_a_categorys_mean_does_not_tell_a_row_its_own_target(self):
        """Of a column that is another value in each row, cross-fitted means say nothing; naive ones say all."""
        ids = Block(np.arange(N, dtype=float)[:, None])
        x = Features("plain", Layout(high=(0,)), "continuous").fit_transform(ids, SIGNAL)
        assert abs(np.corrcoef(x[:, 0], SIGNAL)[0, 1]) < 0.3

    def test_gaps_are_flagged_and_columns_of_gaps_are_no_error(self):
        block = Block(np.column_stack([BLOCK.numbers, np.full(N, np.nan)]))
        layout = Layout((0, 1, 2, 4), (3,))
        x = Features("scaled", layout, "multiclass").fit_transform(block, CLASSES)
        assert np.isfinite(x).all() and x.shape[1] > 4 + 4
        for family in ("logistic", "tree", "boosting", "bayes", "knn"):
            model = Model.fit(family, BY_NAME[family].settings(context("classification"))[0], context("classification"),
                              layout, block, CLASSES)  # fmt: skip
            assert np.isfinite(model.predict(block)).all()

    def test_unknown_and_missing_categories_are_no_error(self):
        strange = Block(np.array([[0.0, 0.0, 0.0, -1.0], [0.0, np.nan, 0.0, np.nan]]))
        for name, family in BY_NAME.items():
            task = family.tasks[0]
            y = CLASSES if task == "classification" else SIGNAL
            setting = family.settings(context(task))[0]
            if name in ("forest", "extra-trees"):
                setting = {"n_estimators": 3}
            model = Model.fit(name, setting, context(task), LAYOUT, BLOCK, y)
            assert np.isfinite(model.predict(strange)).all(), name

    @pytest.mark.parametrize("family", ["logistic", "svm-linear", "bayes", "knn", "tree", "boosting"])
    def test_a_table_of_text_alone(self, family):
        good, bad = ["a fine film", "fine plot, good film"], ["a dull film", "bad plot, dull end"]
        texts = [*(good * 30), *(bad * 30)]
        y = np.array([1] * 60 + [0] * 60)
        block = Block(np.zeros((120, 0)), (texts,))
        known = Context("classification", 120, 1, 2, sparse=True)
        model = Model.fit(family, BY_NAME[family].settings(known)[0], known, Layout(texts=1), block, y)
        assert metrics.accuracy(y, model.predict(block).argmax(1)) == 1

    def test_many_pixels_become_components(self):
        images = RNG.integers(0, 255, (60, 48 * 48)).astype(np.uint8)
        x = Features("scaled", Layout(image=(1, 48, 48)), "binary").fit_transform(Block(images), np.arange(60) % 2)
        assert x.shape == (60, 59)
        few = Features("scaled", Layout(image=(1, 8, 8)), "binary").fit_transform(Block(images[:, :64]), np.arange(60))
        assert few.shape == (60, 64) and few.max() == 1


class TestClasses:
    def test_probabilities_of_a_margin_keep_its_decisions(self):
        model = Model.fit("svm-rbf", {"cost": 1.0}, context("classification"), LAYOUT, BLOCK, CLASSES)
        x = model.features.transform(BLOCK)
        margins = model.estimator.model_.decision_function(x)
        np.testing.assert_array_equal(model.predict(BLOCK).argmax(1), margins.argmax(1))

    def test_a_class_that_a_fold_lacks_has_probability_zero(self):
        rows = np.flatnonzero(CLASSES != 1)
        model = Model.fit("tree", {}, context("classification"), LAYOUT, take(BLOCK, rows), CLASSES[rows])
        proba = model.predict(BLOCK)
        assert proba.shape == (N, 3) and not proba[:, 1].any() and np.allclose(proba.sum(1), 1)

    def test_balance_raises_the_recall_of_a_rare_class(self):
        y = (np.nan_to_num(NUMBERS[:, 0]) + RNG.normal(size=N) > 1.8).astype(int)
        assert 0.02 < y.mean() < 0.2
        for family in ("logistic", "knn", "bayes", "svm-linear", "boosting"):
            found = []
            for balance in (False, True):
                known = Context("classification", N, 4, 2, balance=balance)
                first = BY_NAME[family].settings(known)[0]
                proba = Model.fit(family, first, known, LAYOUT, BLOCK, y).predict(BLOCK)
                found.append(metrics.per_class(metrics.confusion(y, proba.argmax(1), 2)).recall[1])
            assert found[1] > found[0] or found[0] == 1, family

    def test_balanced_rows_have_each_class_as_often(self):
        y = np.array([0] * 50 + [1] * 5 + [3] * 20)
        rows = balanced(y, 0)
        assert np.bincount(y[rows]).tolist() == [50, 50, 0, 50]
        assert set(range(len(y))) <= set(rows.tolist())

    @pytest.mark.parametrize("kind", ["em", "kmeans"])
    def test_a_density_of_two_lumps_beats_one(self, kind):
        """Class 1 lies on both sides of class 0: one component cannot say so, two can."""
        x = np.concatenate([RNG.normal(0, 1, (100, 2)), RNG.normal(-6, 1, (50, 2)), RNG.normal(6, 1, (50, 2))])
        y = np.array([0] * 100 + [1] * 100)
        right = [(Density(kind, components).fit(x, y).predict_proba(x).argmax(1) == y).mean() for components in (1, 2)]
        assert right[1] > 0.98 and right[1] > right[0]


class TestKernels:
    def test_the_approximation_is_near_the_kernel(self):
        x, y = np.nan_to_num(NUMBERS), (SIGNAL > 0).astype(int)
        linear, exact, near = (KernelMachine(**how).fit(x, y) for how in ({"width": 1e-6}, {}, {"landmarks": 200}))
        right = [(machine.predict(x) == y).mean() for machine in (linear, exact, near)]
        assert right[2] > right[1] - 0.05 > right[0]

    def test_it_is_used_and_said_so_beyond_20000_rows(self):
        family = BY_NAME["svm-rbf"]
        small, large = Context("regression", 20_000, 4), Context("regression", 20_001, 4)
        assert family.remark(small) == "" and "Nyström" in family.remark(large)
        assert family.make({"cost": 1.0}, small).regressor.landmarks == 0
        assert family.make({"cost": 1.0}, large).regressor.landmarks == 300


def test_k_starts_at_ln_n():
    """S055: where cross-validation starts; 1 and √N are tried too."""
    assert (starting_k(20_640), starting_k(2)) == (10, 1)
    tried = {s["n_neighbors"] for s in BY_NAME["knn"].settings(Context("regression", 10_000, 4))}
    assert {9, 1, 100} <= tried


@pytest.mark.parametrize("family", ["bayes", "knn", "boosting", "logistic"])
def test_a_copy_learns_from_other_rows_as_if_it_had_seen_no_others(family):
    """Rows without a gap have no column that says where gaps are: what is what is told anew."""
    known = context("classification", balance=True)
    setting = BY_NAME[family].settings(known)[0]
    rows = np.flatnonzero(~np.isnan(NUMBERS[:, 0]))[:150]
    some, y = take(BLOCK, rows), CLASSES[rows]
    copy = Model.fit(family, setting, known, LAYOUT, BLOCK, CLASSES).again(family, True, some, y)
    expected = Model.fit(family, setting, known, LAYOUT, some, y).predict(BLOCK)
    np.testing.assert_array_equal(copy.predict(BLOCK), expected)
