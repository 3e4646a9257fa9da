"""Each metric against scikit-learn's, on drawn labels and scores, ties and absent classes among them."""

import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dlkit.data import metrics

sk = pytest.importorskip("sklearn.metrics")


@st.composite
def classified(draw, classes=None):
    """(truth, probabilities): ties are common, and a class may be absent."""
    k = classes or draw(st.integers(2, 5))
    n = draw(st.integers(2, 60))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    truth = rng.integers(0, k, n)
    proba = np.round(rng.dirichlet(np.ones(k) * draw(st.sampled_from([0.1, 1.0, 10.0])), n), draw(st.integers(1, 6)))
    proba += 1e-3
    return truth, proba / proba.sum(1, keepdims=True)


@given(classified())
@settings(max_examples=60)
def test_labels(case):
    truth, proba = case
    k, predicted = proba.shape[1], proba.argmax(1)
    table = metrics.confusion(truth, predicted, k)
    assert (table == sk.confusion_matrix(truth, predicted, labels=range(k))).all()
    assert metrics.accuracy(truth, predicted) == pytest.approx(sk.accuracy_score(truth, predicted), abs=1e-12)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a class that is only predicted: scikit-learn leaves it out, and says so
        assert metrics.balanced_accuracy(table) == pytest.approx(sk.balanced_accuracy_score(truth, predicted))
    found = metrics.per_class(table)
    theirs = sk.precision_recall_fscore_support(truth, predicted, labels=range(k), zero_division=0)
    for ours, other in zip((found.precision, found.recall, found.f1, found.support), theirs, strict=True):
        np.testing.assert_allclose(ours, other, atol=1e-12)
    for name, score in (("precision", sk.precision_score), ("recall", sk.recall_score), ("f1", sk.f1_score)):
        assert found.macro(name) == pytest.approx(score(truth, predicted, average="macro", zero_division=0))
        assert found.weighted(name) == pytest.approx(score(truth, predicted, average="weighted", zero_division=0))


@given(classified())
@settings(max_examples=60)
def test_probabilities(case):
    truth, proba = case
    k = proba.shape[1]
    labels = list(range(k))
    assert metrics.log_losses(truth, proba).mean() == pytest.approx(sk.log_loss(truth, proba, labels=labels))
    one = proba[:, 1] if k == 2 else proba
    assert metrics.brier(truth, proba) == pytest.approx(sk.brier_score_loss(truth, one, labels=labels))
    if len(np.unique(truth)) == k:
        theirs = sk.roc_auc_score(truth, one, multi_class="ovr", labels=labels)
        assert metrics.auc_ovr(truth, proba) == pytest.approx(theirs, abs=1e-12)
    else:
        assert np.isnan(metrics.auc_ovr(truth, proba))


@given(classified(2))
@settings(max_examples=40)
def test_auc_error_is_delongs(case):
    """By definition: the variance of the placements, O(N²)."""
    truth, proba = case
    a, b = proba[truth == 1, 1], proba[truth == 0, 1]
    if min(len(a), len(b)) < 2:
        assert np.isnan(metrics.auc_error(truth, proba[:, 1]))
        return
    wins = (a[:, None] > b) + 0.5 * (a[:, None] == b)
    expected = wins.mean(1).var(ddof=1) / len(a) + wins.mean(0).var(ddof=1) / len(b)
    assert metrics.auc_error(truth, proba[:, 1]) == pytest.approx(expected**0.5, abs=1e-12)


def test_calibration_error_by_hand():
    """Two bins are used: two rows at .95, one right; two at .6, both right."""
    proba = np.array([[0.95, 0.05], [0.05, 0.95], [0.6, 0.4], [0.4, 0.6]])
    assert metrics.calibration_error(np.array([0, 0, 0, 1]), proba) == pytest.approx((0.45 * 2 + 0.4 * 2) / 4)
    assert metrics.calibration_error(np.array([0, 1]), np.eye(2)) == 0


def test_calibration_of_what_is_calibrated_vanishes():
    rng = np.random.default_rng(0)
    p = rng.uniform(0.5, 1, 200_000)
    truth = (rng.uniform(size=len(p)) > p).astype(int)
    assert metrics.calibration_error(truth, np.column_stack([p, 1 - p])) < 0.006


numbers = st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=40)


@given(numbers, st.integers(0, 2**32 - 1))
@settings(max_examples=60)
def test_regression(values, seed):
    truth = np.array(values)
    predicted = truth + np.random.default_rng(seed).normal(size=len(truth))
    assert metrics.mae(truth, predicted) == pytest.approx(sk.mean_absolute_error(truth, predicted))
    assert metrics.rmse(truth, predicted) == pytest.approx(sk.root_mean_squared_error(truth, predicted))
    if np.ptp(truth) > 1e-3:
        assert metrics.r2(truth, predicted) == pytest.approx(sk.r2_score(truth, predicted), rel=1e-6)
    assert np.isnan(metrics.r2(np.ones(3), np.zeros(3)))


@given(st.integers(1, 6), st.integers(1, 6), st.integers(1, 50), st.integers(0, 2**32 - 1))
@settings(max_examples=60)
def test_clusters(a, b, n, seed):
    rng = np.random.default_rng(seed)
    first, second = rng.integers(0, a, n), rng.integers(0, b, n)
    assert metrics.adjusted_rand(first, second) == pytest.approx(sk.adjusted_rand_score(first, second), abs=1e-9)
    theirs = sk.normalized_mutual_info_score(first, second)
    assert metrics.normalised_mutual_info(first, second) == pytest.approx(theirs, abs=1e-9)


def test_bootstrap_covers_the_mean_as_theory_says():
    x = np.random.default_rng(1).normal(size=400)
    low, high = metrics.bootstrap(lambda rows: float(x[rows].mean()), len(x))
    half = 1.96 * x.std() / 20
    assert low == pytest.approx(x.mean() - half, abs=0.01) and high == pytest.approx(x.mean() + half, abs=0.01)
    assert np.isnan(metrics.bootstrap(lambda rows: float("nan"), 5)).all()


def test_perplexity_is_that_of_a_fair_die():
    assert metrics.perplexity(np.log(np.full(10, 1 / 6))) == pytest.approx(6)


def test_bootstrap_of_several_metrics_is_that_of_each():
    x = np.random.default_rng(2).normal(size=50)

    def both(rows):
        return [x[rows].mean(), float("nan"), x[rows].std()]

    low, high = metrics.bootstrap(both, 50, 200)
    assert np.isnan(low[1]) and np.isnan(high[1])
    assert (low[0], high[0]) == metrics.bootstrap(lambda rows: x[rows].mean(), 50, 200)
    assert (low[2], high[2]) == metrics.bootstrap(lambda rows: x[rows].std(), 50, 200)


@given(classified(2), st.integers(0, 2**32 - 1))
@settings(max_examples=30)
def test_auc_of_counts_is_that_of_repeated_rows(case, seed):
    truth, proba = case
    rows = np.random.default_rng(seed).integers(0, len(truth), len(truth))
    counts = np.bincount(rows, minlength=len(truth))
    found = metrics.auc_of_counts(truth, proba[:, 1])(counts)
    np.testing.assert_allclose(found, metrics.auc(truth[rows], proba[rows, 1]), atol=1e-12)


@st.composite
def ranked(draw):
    n = draw(st.integers(2, 30))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    return rng.integers(0, 4, n), np.round(rng.normal(size=n), draw(st.integers(0, 3)))


@given(ranked(), st.sampled_from(["linear", "exponential"]), st.sampled_from([None, 1, 3, 10]))
@settings(max_examples=80)
def test_ndcg(case, gain, at):
    relevance, score = case
    theirs = sk.ndcg_score([2.0**relevance - 1 if gain == "exponential" else relevance], [score], k=at)
    assert metrics.ndcg(relevance, score, gain, at) == pytest.approx(theirs, abs=1e-12)


@given(ranked())
@settings(max_examples=60)
def test_reciprocal_rank_is_the_mean_over_orders_of_ties(case):
    relevance, score = case
    rng = np.random.default_rng(0)
    if len(np.unique(score)) == len(score):
        order = np.argsort(-score)
        found = np.flatnonzero(relevance[order] > 0)
        assert metrics.reciprocal_rank(relevance, score) == (1 / (found[0] + 1) if len(found) else 0)
        return
    draws = []
    for _ in range(400):
        order = np.lexsort((rng.random(len(score)), -score))
        found = np.flatnonzero(relevance[order] > 0)
        draws.append(1 / (found[0] + 1) if len(found) else 0)
    assert metrics.reciprocal_rank(relevance, score) == pytest.approx(np.mean(draws), abs=0.1)


def test_frechet_distance_is_the_closed_form_and_scipys():
    """Gaussians with diagonal covariances: Σ (μ₁−μ₂)² + (σ₁−σ₂)². Correlated features: the matrix square root."""
    rng = np.random.default_rng(0)
    a, b = rng.normal(0, 2, (200_000, 3)), rng.normal(1, 1, (200_000, 3))
    assert metrics.frechet_distance(a, b) == pytest.approx(6, abs=0.1)
    a, b = rng.normal(size=(50, 6)) @ rng.normal(size=(6, 6)), rng.normal(size=(60, 6)) @ rng.normal(size=(6, 6)) + 1
    linalg = pytest.importorskip("scipy.linalg")
    s1, s2 = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    root = linalg.sqrtm(s1 @ s2).real
    expected = ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(s1 + s2 - 2 * root)
    assert metrics.frechet_distance(a, b) == pytest.approx(expected)
    assert metrics.frechet_distance(a, a) == pytest.approx(0, abs=1e-9)
    assert metrics.frechet_distance(a[:, :1], b[:, :1]) == pytest.approx(
        (a[:, 0].mean() - b[:, 0].mean()) ** 2 + (a[:, 0].std(ddof=1) - b[:, 0].std(ddof=1)) ** 2
    )


def test_inception_score_of_certain_and_of_blind_networks():
    assert metrics.inception_score(np.eye(4)) == (pytest.approx(4), 0)
    assert metrics.inception_score(np.full((8, 4), 0.25), 2)[0] == pytest.approx(1)
    proba = np.random.default_rng(0).dirichlet(np.ones(5), 100)
    kl = [pytest.importorskip("scipy.stats").entropy(p, proba.mean(0)) for p in proba]
    assert metrics.inception_score(proba)[0] == pytest.approx(np.exp(np.mean(kl)))


def test_psnr_and_ssim_by_definition():
    """PSNR of an error of 5 everywhere; SSIM of the one window of an 11×11 image, summed out in two dimensions."""
    a = np.full((1, 8, 8), 100, np.uint8)
    assert metrics.psnr(a, a + np.uint8(5), 255) == pytest.approx(20 * np.log10(255 / 5))
    assert metrics.psnr(a, a, 255) == np.inf
    rng = np.random.default_rng(0)
    for window, size in (("gaussian", 11), ("uniform", 7)):
        x, y = rng.uniform(0, 255, (2, size, size))
        g = np.exp(-0.5 * (np.arange(size) - size // 2) ** 2 / 2.25) if window == "gaussian" else np.ones(size)
        w = np.outer(g, g) / g.sum() ** 2
        mx, my = (w * x).sum(), (w * y).sum()
        cov = [[(w * (a - m) * (b - n)).sum() for b, n in ((x, mx), (y, my))] for a, m in ((x, mx), (y, my))]
        cov = np.array(cov) * (49 / 48 if window == "uniform" else 1)
        c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
        expected = (2 * mx * my + c1) * (2 * cov[0, 1] + c2)
        expected /= (mx**2 + my**2 + c1) * (cov[0, 0] + cov[1, 1] + c2)
        assert metrics.ssim(x[None], y[None], 255, window) == pytest.approx(expected)
        assert metrics.ssim(x[None], x[None], 255, window) == pytest.approx(1)


def test_ssim_is_scikit_images():
    """scikit-image 0.26 on these images: its defaults, and its form of Wang et al.'s window."""
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (3, 32, 40)).astype(np.uint8)
    y = np.clip(x + rng.normal(0, 20, x.shape), 0, 255).astype(np.uint8)
    assert metrics.ssim(x, y, 255, "uniform") == pytest.approx(0.9678292372517433, abs=1e-12)
    assert metrics.ssim(x, y, 255) == pytest.approx(0.9674263837687057, abs=1e-12)
