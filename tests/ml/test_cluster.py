"""`dlkit cluster`: scikit-learn's own numbers, a choice that can be followed, and a run that predicts."""

import json

import numpy as np
import polars as pl
import pytest
from sklearn.cluster import KMeans
from sklearn.datasets import load_iris
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score, silhouette_score
from sklearn.mixture import GaussianMixture
from test_contract import assert_error

from dlkit.core.clustering import parse_ks
from dlkit.core.run import open_run
from dlkit.data import read
from dlkit.ml import cluster, persist


@pytest.fixture(autouse=True, scope="module")
def one_process():
    """What is small is not worth a process, however slow the machine is just now."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("dlkit.ml.engine.START_SECONDS", 1e9)
        yield


def run(inside, *words):
    ran = inside("cluster", *words, "--json")
    assert ran.code == 0, ran.err
    return json.loads(ran.out), ran.err


@pytest.fixture(scope="module")
def iris(tmp_path_factory):
    """The answer on iris for two and three clusters, and its run directory."""
    import contextlib
    import io

    from dlkit.cli import run

    out = tmp_path_factory.mktemp("iris") / "run"
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        assert run(["cluster", "iris", "--k", "2:4", "--bootstrap", "5", "--out", str(out), "--json"]) == 0
    return json.loads(printed.getvalue()), out


def test_iris_has_scikit_learns_numbers(iris):
    """And those that are published: BIC 574.0 and 580.9 for two and three full covariances, silhouette .681 … .498."""
    x = load_iris().data
    rows = {(row["model"], row["k"]): row for row in iris[0]["rows"]}
    assert len(rows) == 15
    for k, silhouette in ((2, 0.681), (3, 0.553), (4, 0.498)):
        theirs = KMeans(k, n_init=10, random_state=0).fit(x)
        assert rows["kmeans", k]["inertia"] == theirs.inertia_
        assert rows["kmeans", k]["silhouette"] == pytest.approx(silhouette_score(x, theirs.labels_), abs=1e-12)
        assert rows["kmeans", k]["silhouette"] == pytest.approx(silhouette, abs=5e-4)
        for form in ("full", "tied", "diag", "spherical"):
            mixture = GaussianMixture(k, covariance_type=form, n_init=4, random_state=0).fit(x)
            assert rows[f"em-{form}", k]["bic"] == mixture.bic(x)
    assert rows["em-full", 2]["bic"] == pytest.approx(574.0, abs=0.05)
    assert rows["em-full", 3]["bic"] == pytest.approx(580.9, abs=0.05)
    summary = iris[0]["summary"]
    assert (summary["model"], summary["k"], summary["criterion"]) == ("em-full", 2, "bic")
    assert [part["rows"] for part in summary["clusters"]] == [100, 50]
    assert summary["clusters"][1]["centre"]["petal length (cm)"] == pytest.approx(1.462)
    assert summary["columns"][0]["column"] == "petal length (cm)" and summary["stability"] > 0.95


@pytest.mark.parametrize(
    ("words", "ari"), [(["--models", "em", "--covariance", "full"], 0.904), (["--models", "kmeans"], 0.730)]
)
def test_three_clusters_against_the_species(inside, words, ari, tmp_path):
    whole, _ = run(inside, "iris", "--k", "3", "--bootstrap", "0", "--out", "run", *words)
    truth = load_iris().target
    labels = pl.read_csv(tmp_path / "run" / "clusters.csv")["cluster"].to_numpy()
    assert whole["summary"]["ari"] == pytest.approx(ari, abs=5e-4)
    assert whole["summary"]["ari"] == pytest.approx(adjusted_rand_score(truth, labels))
    assert whole["summary"]["nmi"] == pytest.approx(normalized_mutual_info_score(truth, labels))
    assert whole["summary"]["stability"] is None


def test_predict_gives_each_row_the_cluster_that_it_had(inside, iris, tmp_path):
    _, path = iris
    rows = [json.loads(line) for line in inside("predict", str(path), "iris", "--format", "jsonl").out.splitlines()]
    saved = pl.read_csv(path / "clusters.csv")
    assert [row["cluster"] for row in rows] == saved["cluster"].to_list()
    np.testing.assert_allclose([row["p_1"] for row in rows], saved["p_1"].to_numpy(), atol=1e-9)
    assert persist.load(open_run(path)).predict(read("iris")).shape == (150, 2)
    assert_error(inside("eval", str(path), "iris"), 2, "cluster")


def test_categories_gaps_and_a_target(inside, tmp_path, shared):
    """Penguins: two categories, missing cells; three species come back; a new row of an unknown island is placed."""
    data = str(shared("penguins.csv"))
    whole, err = run(inside, data, "--target", "species", "--models", "kmeans", "--k", "3", "--bootstrap", "3",
                     "--out", "run", "--drop", "island", "--drop", "sex")  # fmt: skip
    assert whole["summary"]["ari"] > 0.75 and "median stands in" in err and "standardised" in err
    run(inside, data, "--models", "kmeans", "--k", "2", "--bootstrap", "0", "--out", "mixed", "--target", "species")
    (tmp_path / "new.csv").write_text(
        "island,bill_length_mm,bill_depth_mm,flipper_length_mm,body_mass_g,sex\nAtlantis,40,,190,3700,\n"
    )
    ran = inside("predict", "mixed", "new.csv", "--format", "csv")
    assert ran.code == 0 and ran.out.splitlines()[1].split(",")[6] in ("1", "2")


def test_covariances_that_collapse_are_reported_and_not_believed(inside, tmp_path):
    """Two columns, one of them whole numbers: a component on a single value has no variance, and a likelihood of ∞."""
    rng = np.random.default_rng(0)
    x = np.column_stack([rng.integers(0, 3, 60), rng.normal(size=60)])
    pl.DataFrame(x, schema=["a", "b"]).write_csv(tmp_path / "x.csv")
    whole, err = run(inside, "x.csv", "--models", "em", "--k", "2:3", "--bootstrap", "0", "--scale", "none")
    assert any(row["collapsed"] for row in whole["rows"]) and "held up by a ridge" in err
    assert whole["summary"]["collapsed"] == 0


def test_one_gaussian_has_no_clusters(inside, tmp_path):
    x = np.random.default_rng(0).normal(size=(300, 2))
    pl.DataFrame(x, schema=["a", "b"]).write_csv(tmp_path / "x.csv")
    _, err = run(inside, "x.csv", "--models", "em", "--k", "2:3", "--bootstrap", "3")
    assert "there may be no clusters" in err


def test_images(inside):
    whole, _ = run(inside, "digits", "--models", "kmeans", "--k", "10", "--bootstrap", "0", "--out", "run")
    assert whole["summary"]["features"] == 64 and whole["summary"]["ari"] > 0.6
    assert inside("predict", "run", "digits").out.splitlines()[0].split("\t")[:3] == ["row", "target", "cluster"]


def test_large_tables_take_samples(monkeypatch):
    """Mini-batches, a sample for EM and one for the silhouette: three blobs are still found."""
    monkeypatch.setattr(cluster, "MINI_BATCH_ROWS", 1000)
    monkeypatch.setattr(cluster, "EM_ROWS", 500)
    monkeypatch.setattr(cluster, "SAMPLE", 300)
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 3, 2000)
    x = rng.normal(size=(2000, 2)) + 10 * truth[:, None]
    sample = cluster.make_sample(x, 0)
    assert sample.distances.shape == (300, 300)
    for job in (cluster.Job(3), cluster.Job(3, "full")):
        fit = cluster.fit(job, x, sample, 3, 0)
        cluster.by_size(fit, x)
        assert adjusted_rand_score(truth, fit.estimator.predict(x)) > 0.99 and fit.silhouette > 0.7
        sizes = np.bincount(fit.estimator.predict(x))
        assert (np.diff(sizes) <= 0).all()
    assert type(cluster.fit(cluster.Job(3), x, None, 1, 0).estimator).__name__ == "MiniBatchKMeans"


@pytest.mark.parametrize(
    ("text", "ks"), [("2:4", (2, 3, 4)), ("3", (3,)), ("8,2,2", (2, 8)), ("1:3", None), ("4:2", None), ("x", None)]
)
def test_numbers_of_clusters(text, ks):
    if ks is None:
        with pytest.raises(ValueError, match="2:12"):
            parse_ks(text)
    else:
        assert parse_ks(text) == ks


@pytest.mark.parametrize(
    ("text", "words", "code", "said"),
    [
        ("a\n1\n2\n", [], 65, "too few"),
        ("a\n" + "1\n2\n" * 20, ["--k", "5"], 65, "2 different rows"),
        ("a\n" + "text of many words here %d\n" * 3, [], 65, "no column"),
        ("a\n1\n2\n3\n", ["--models", "dbscan"], 2, "kmeans"),
        ("a\n1\n2\n3\n", ["--k", "1"], 2, "--k"),
        ("a\n1\n2\n3\n", ["--models", "kmeans", "--criterion", "bic"], 2, "no likelihood"),
        ("a\n1\n2\n3\n", ["--models", "kmeans", "--covariance", "full"], 2, "no effect"),
        ("a\n1\n2\n3\n", ["--target", "b"], 2, "'b'"),
    ],
)
def test_what_has_no_clusters(inside, tmp_path, text, words, code, said):
    (tmp_path / "x.csv").write_text(text)
    assert_error(inside("cluster", "x.csv", *words), code, said)
    assert [path.name for path in tmp_path.iterdir()] == ["x.csv"]


def test_a_table_shows_the_curve_and_the_clusters(inside):
    ran = inside("cluster", "iris", "--k", "2:3", "--models", "kmeans", "--bootstrap", "2", "--format", "table")
    assert "silhouette" in ran.out and "⠉" in ran.out and "petal length (cm)" in ran.out and "tells" in ran.out
