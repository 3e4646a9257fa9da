"""`baseline --embed RUN`: classic models on what a trained network makes of each row, from the board to `predict`."""

import io
import json
import shutil
from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from safetensors.numpy import load_file, save_file
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from test_contract import assert_error

from dlkit.cli import run as command_line
from dlkit.commands._runs import open_embedding
from dlkit.core import console
from dlkit.core.contest import Contest
from dlkit.core.errors import DlkitError
from dlkit.core.reading import Reading
from dlkit.core.run import RunDirectory, open_run
from dlkit.core.splitting import Splitting
from dlkit.data import load
from dlkit.data.split import folds
from dlkit.ml import baseline
from dlkit.ml.data import prepare
from dlkit.ml.engine import Engine
from dlkit.ml.oof import out_of_fold

QUICK = ("--models", "logistic", "--tries", "1", "--budget", "10m")
N = 240
RNG = np.random.default_rng(5)
A, B = RNG.normal(size=(2, N)).round(3)
COLOUR = RNG.choice(["red", "green", ""], N)
ROWS = {
    "a": A,
    "colour": COLOUR,
    "b": [f"{b:.3f}" if i % 9 else "?" for i, b in enumerate(B)],
    "sold": np.where(A - B + RNG.normal(size=N) > 0, "yes", "no"),
    "price": (A + 2 * B + 0.1 * RNG.normal(size=N)).round(3),
    "shop": [f"s{i // 20}" for i in range(N)],
    "note": [None if i % 3 else f"row {i}" for i in range(N)],
}


def quietly(*words) -> None:
    assert command_line([*map(str, words), "-q"]) == 0
    console.quiet = False


@pytest.fixture(autouse=True)
def steady(monkeypatch):
    """Neither the memory of this machine nor its pace decides what is fitted where."""
    monkeypatch.setattr(baseline, "free_bytes", lambda: None)
    monkeypatch.setattr("dlkit.ml.engine.START_SECONDS", 1e9)


@pytest.fixture
def inside(inside):
    """As everywhere, paths being words too."""
    return lambda *words: inside(*map(str, words))


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder with digits in two halves, a table of two halves, and what was trained on the first half of each:
    networks `images`, `columns` (of price), and on the second halves baselines `seen.images` and `seen.columns`."""
    folder = tmp_path_factory.mktemp("made")
    data = load("digits")
    for name, part in (("one", slice(0, 900)), ("two", slice(900, None))):
        np.savez(folder / f"{name}.npz", X=data.arrays[part], y=data.labels[part])
    frame = pl.DataFrame(ROWS)
    for name, part in (("one", frame[:120]), ("two", frame[120:])):
        part.write_csv(folder / f"{name}.csv")
    quick = ("--epochs", "2", "--device", "cpu")
    net = ("flatten", "linear:24", "relu", "linear:10")
    quietly("train", folder / "one.npz", *net, *quick, "--out", folder / "images")
    table = (
        "--target",
        "price",
        "--na",
        "?",
        *(word for name in ("sold", "shop", "note") for word in ("--drop", name)),
    )
    quietly("train", folder / "one.csv", "linear:8", "relu", "linear:1", *table, *quick, "--out", folder / "columns")
    words = ("--embed", folder / "images", *QUICK, "--folds", "3", "--out", folder / "seen.images")
    quietly("baseline", folder / "two.npz", *words)
    words = ("--embed", folder / "columns", *QUICK, "--target", "sold", "--out", folder / "seen.columns")
    quietly("baseline", folder / "two.csv", *words, "--folds", "3", "--group", "shop")
    return folder


def logistic():
    return make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))


def seen_by_hand(made, data) -> np.ndarray:
    """N×24: pixels standardised, the first layer, ReLU, in numpy."""
    weights, schema = (load_file(made / "images/model.safetensors"), open_run(made / "images").schema)
    pixels = schema["pixels"]
    x = (data.arrays.reshape(data.rows, -1) - pixels["mean"][0]) / pixels["std"][0]
    return np.maximum(x @ weights["linear1.weight"].T.astype(float) + weights["linear1.bias"], 0)


def board_of(path) -> list[dict]:
    return [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]


def test_scores_are_scikit_learns_on_the_same_activations_and_folds(made):
    data = load(str(made / "two.npz"))
    x = open_embedding(str(made / "images")).numbers(data)
    np.testing.assert_allclose(x, seen_by_hand(made, data), rtol=1e-4, atol=1e-4)
    y = data.labels
    found = [logistic().fit(x[s.train], y[s.train]).score(x[s.valid], y[s.valid]) for s in folds(data, k=3)]
    assert board_of(made / "seen.images")[1]["score"] == pytest.approx(np.mean(found), abs=1e-12)


def test_its_run_directory_is_enough_to_predict(made, inside, tmp_path):
    """The network's own run may be gone; images, from a file as at fit, go through the copy."""
    shutil.copytree(made / "seen.images", tmp_path / "alone")
    for name in ("one.npz", "two.npz"):
        shutil.copy(made / name, tmp_path / name)
    assert str(made) not in (tmp_path / "alone/schema.json").read_text()
    ran = inside("predict", "alone", "one.npz", "--format", "jsonl")
    assert ran.code == 0, ran.err
    told = [json.loads(line) for line in ran.out.splitlines()]
    fit, new = load(str(tmp_path / "two.npz")), load(str(tmp_path / "one.npz"))
    embedding = open_embedding(str(made / "images"))
    model = logistic().fit(embedding.numbers(fit), fit.labels)
    proba = model.predict_proba(embedding.numbers(new))
    np.testing.assert_allclose([[row[f"p_{c}"] for c in range(10)] for row in told], proba, atol=1e-6)
    # The rows that the network learned are not new to what reads through it.
    scored = inside("eval", "alone", "one.npz", "--json")
    assert json.loads(scored.out)["summary"]["accuracy"] == pytest.approx(np.mean(proba.argmax(1) == new.labels))
    assert "the network of alone was trained on" in scored.err
    assert_error(inside("eval", "alone", "one.npz", "--rows", "valid"), 2, "though its network was")


def test_a_table_with_another_target(made, inside, tmp_path, monkeypatch):
    """Price was the network's; sold is the baseline's. Words for missing are the network's; other columns do not
    matter; folds keep shops whole; the target may have gaps, and stdin is read."""
    path = str(made / "two.csv")
    data = load(path, Reading(target="sold", na=["?"], numeric=["b"], categorical=["colour"], id=["shop"]))
    x = open_embedding(str(made / "columns")).numbers(data)
    groups = folds(data, Splitting(group="shop"), 3)
    y = data.labels
    found = [logistic().fit(x[s.train], y[s.train]).score(x[s.valid], y[s.valid]) for s in groups]
    assert board_of(made / "seen.columns")[1]["score"] == pytest.approx(np.mean(found), abs=1e-12)
    few = pl.read_csv(path, infer_schema=False)[:30].select("colour", "b", "a")

    class Stdin:
        buffer = io.BufferedReader(io.BytesIO(few.write_csv().encode()))

    monkeypatch.setattr("sys.stdin", Stdin)
    ran = inside("predict", made / "seen.columns", "-", "--format", "jsonl")
    assert ran.code == 0, ran.err
    told = [json.loads(line)["p_yes"] for line in ran.out.splitlines()]
    np.testing.assert_allclose(told, logistic().fit(x, y).predict_proba(x[:30])[:, 1], atol=1e-6)
    few.drop("a").write_csv(tmp_path / "few.csv")
    assert_error(inside("predict", made / "seen.columns", "few.csv"), 65, "'a'", "which the model needs")


def test_scores_that_flatter_are_called_so(made, inside, tmp_path):
    """Folds of the network's own rows flatter; a file that it has not seen does not, whatever was fitted on."""
    one, two = (str(made / name) for name in ("one.npz", "two.npz"))
    ran = inside("baseline", one, "--embed", made / "images", *QUICK, "--folds", "2", "--json")
    assert ran.code == 0 and ran.err.count("warning: ") == 1
    assert "trained on the rows that score: its embeddings know the answers" in ran.err
    assert json.loads(ran.out)["summary"]["features"] == 24
    embedding, data = open_embedding(str(made / "images")), load(one)
    for valid, flatters in ((two, False), (one, True)):
        contest = Contest(one, valid)
        prepared = prepare(contest, data, embedding)
        assert prepared.scored == load(valid).fingerprint
        assert embedding.has_seen(contest, data, prepared.scored)[0] is flatters
        np.testing.assert_allclose(prepared.data.numbers[data.rows :], embedding.numbers(load(valid)), atol=1e-6)


def test_the_knowledge_of_a_network_is_put_in_one_sentence(made):
    embedding, data = open_embedding(str(made / "columns")), load(str(made / "one.csv"), Reading(target="sold"))
    plain = Contest("one.csv", embed="columns")
    flatters, said = embedding.has_seen(plain, data, data.fingerprint)
    assert flatters and "know their 'price'" in said
    assert embedding.has_seen(plain, data, "another") == (False, None)
    embedding.run.config["options"]["splitting"]["split"] = "side"
    by_side = Contest("one.csv", splitting=Splitting(split="side"))
    flatters, said = embedding.has_seen(by_side, data, data.fingerprint)
    assert not flatters and "chose the best epoch" in said


@pytest.fixture
def spoilt(made, tmp_path):
    """A copy of `seen.images`, and what makes its manifest true again."""
    path = tmp_path / "spoilt"
    shutil.copytree(made / "seen.images", path)

    def seal():
        (path / "manifest.json").unlink()
        RunDirectory(path).finish()

    return path, seal


class TestDamage:
    @pytest.mark.parametrize("name", ["config.json", "schema.json", "model.safetensors"])
    def test_a_file_of_the_network(self, spoilt, made, inside, name):
        path, seal = spoilt
        data = (path / "embed" / name).read_bytes()
        (path / "embed" / name).write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
        assert_error(inside("predict", "spoilt", made / "one.npz"), 65, f"spoilt/embed/{name}", "damaged")
        (path / "embed" / name).unlink()
        assert_error(inside("eval", "spoilt", made / "one.npz"), 65, f"spoilt/embed/{name}", "missing")
        seal()
        assert_error(inside("eval", "spoilt", made / "one.npz"), 65, "spoilt/embed")

    @pytest.mark.parametrize(("other", "word"), [("columns", "not the network"), ("seen.columns", "reads rows")])
    def test_another_run_in_its_place(self, spoilt, made, inside, other, word):
        path, seal = spoilt
        shutil.rmtree(path / "embed")
        shutil.copytree(made / other, path / "embed", ignore=shutil.ignore_patterns("checkpoint", "manifest.json"))
        seal()
        assert_error(inside("predict", "spoilt", made / "one.npz"), 65, "spoilt/embed", word)


class TestRefused:
    @pytest.mark.parametrize(
        ("words", "code", "said"),
        [
            (("two.npz", "--embed", "seen.images"), 2, ("--embed seen.images", "a run of baseline")),
            (("two.npz", "--embed", "writer"), 2, ("--embed writer", "language model")),
            (("two.npz", "--embed", "own"), 2, ("--embed own", "a module of your own")),
            (("two.npz", "--embed", "nowhere"), 66, ("nowhere",)),
            (("two.npz", "--embed", "two.npz"), 65, ("two.npz", "a run is needed")),
            (("digits", "--embed", "colours"), 65, ("1×8×8", "3×8×8")),
            (("two.csv", "--target", "sold", "--embed", "images"), 65, ("a table", "1×8×8")),
            (("two.npz", "--embed", "columns"), 65, ("images", "table")),
            (("two.csv", "--target", "a", "--embed", "columns"), 2, ("'a'", "the target")),
            (("two.csv", "--target", "sold", "--embed", "columns", "--drop", "note"), 2, ("--drop and --embed",)),
            (("two.npz", "--embed", "images", "--image-size", "8"), 2, ("--image-size and --embed",)),
            (("poor.csv", "--target", "sold", "--embed", "columns"), 65, ("'colour'", "which the model needs")),
        ],
    )
    def test_in_one_line(self, inside, copies, words, code, said):
        before = sorted(path.name for path in copies.iterdir())
        assert_error(inside("baseline", *words), code, *said)
        assert sorted(path.name for path in copies.iterdir()) == before

    @pytest.fixture
    def copies(self, made, tmp_path):
        """What was made, and besides: `writer`, a language model, as its schema says; `own`, of somebody's module, as
        its config says; `colours`, of 3×8×8; `poor.csv`, of one column."""
        for name in ("two.npz", "two.csv"):
            shutil.copy(made / name, tmp_path)
        for name in ("images", "columns", "seen.images"):
            shutil.copytree(made / name, tmp_path / name)
        pl.read_csv(made / "two.csv").select("a", "sold").write_csv(tmp_path / "poor.csv")
        changes = {"writer": {"task": "language-model"}, "own": {}, "colours": {"input_shape": [3, 8, 8]}}
        for name, change in changes.items():
            shutil.copytree(made / "images", tmp_path / name)
            schema = json.loads((tmp_path / name / "schema.json").read_text()) | change
            if name == "own":
                config = json.loads((tmp_path / name / "config.json").read_text()) | {"module": {"files": {}}}
                (tmp_path / name / "config.json").write_text(json.dumps(config))
            if name == "colours":
                schema["pixels"] = {"dtype": "uint8", "mean": [0.0] * 3, "std": [1.0] * 3}
                config = json.loads((tmp_path / name / "config.json").read_text())
                config["network"] = "gap linear:10"
                (tmp_path / name / "config.json").write_text(json.dumps(config))
                weights = {"linear1.weight": np.zeros((10, 3), "f4"), "linear1.bias": np.zeros(10, "f4")}
                save_file(weights, tmp_path / name / "model.safetensors")
            (tmp_path / name / "schema.json").write_text(json.dumps(schema))
            (tmp_path / name / "manifest.json").unlink()
            RunDirectory(tmp_path / name).finish()
        return tmp_path

    def test_splitcheck_wants_a_network_too(self, inside, made):
        ran = inside("splitcheck", made / "one.npz", made / "two.npz", "--embed", made / "seen.images")
        assert_error(ran, 2, "--embed", "a run of baseline")

    def test_positions_of_a_text(self, inside, tmp_path):
        """Texts of several lengths: one vector of each can be learned from, one of each position cannot."""
        texts = [" ".join(["fine", "dull", "film", "plot"][(i * j) % 4] for j in range(2 + i % 7)) for i in range(80)]
        pl.DataFrame({"review": texts, "y": ["good", "bad"] * 40}).write_csv(tmp_path / "x.csv")
        words = ("--target", "y", "--text", "review", "--vocab", "byte", "--epochs", "1", "--device", "cpu", "-q")
        for net, size in ((("select:last", "linear:2"), 4), (("linear:2", "select:last"), 0)):
            name = f"text{size}"
            ran = inside("train", "x.csv", "embed:257,4", "gru:4", *net, *words, "--out", name)
            assert ran.code == 0, ran.err
            opened, data = open_embedding(str(tmp_path / name)), load(str(tmp_path / "x.csv"), texts=True)
            if size:
                assert opened.numbers(data).shape == (80, size)
                continue
            with pytest.raises(DlkitError, match="each position of a text"):
                opened.numbers(data)

    def test_numbers_that_are_not_finite(self, made):
        """A row that overflows on its way through the network is named."""
        opened, data = open_embedding(str(made / "columns")), load(str(made / "two.csv"), Reading(target="sold"))
        overflowing = replace(
            opened, embed=lambda rows, done: np.where(np.arange(rows.rows)[:, None] == 5, np.inf, 0.0)
        )
        with pytest.raises(DlkitError, match=r"line 7: .*no finite numbers") as caught:
            overflowing.numbers(data)
        assert caught.value.code == 65


def test_a_network_slower_than_the_budget(made):
    """It is left where the clock says so, after some rows, with the hint that helps."""
    data, opened = load(str(made / "two.npz")), open_embedding(str(made / "images"))
    ticks = []

    def slow(rows, done):
        for count in (100, 200):
            ticks.append(count)
            done(count)

    with pytest.raises(DlkitError, match="within the budget") as caught:
        prepare(Contest("two.npz"), data, replace(opened, embed=slow), until=0.0)
    assert (caught.value.code, caught.value.hint, ticks) == (2, "give it more: --budget 10m", [100])
    counted = []
    opened.numbers(data, counted.append)
    assert sum(counted) == data.rows


class TestTogether:
    """Ensembles, and comparisons, which fit a baseline again."""

    def test_out_of_fold_through_the_same_network(self, made):
        data = load(str(made / "two.npz"))
        embedding = open_embedding(str(made / "images"))
        x, found = embedding.numbers(data), np.empty((data.rows, 10))
        for split in folds(data, k=3):
            model = logistic().fit(x[split.train], data.labels[split.train])
            found[split.valid] = model.predict_proba(x[split.valid])
        run = open_run(made / "seen.images")
        np.testing.assert_allclose(out_of_fold(run, str(made / "two.npz"), Engine(1), embedding), found, atol=1e-6)

    def test_a_stack_wants_rows_that_the_network_has_not_seen(self, made, inside):
        runs = (made / "seen.images", made / "images")
        ran = inside("eval", *runs, made / "one.npz", "--stack", made / "one.npz")
        assert_error(ran, 65, "--stack", "the network of", "by heart")
        ran = inside("eval", *runs, made / "two.npz", "--weights", made / "two.npz", "--json")
        assert ran.code == 0 and "fitted again on folds" in ran.err, ran.err

    def test_against(self, made, inside):
        words = ("--epochs", "1", "--device", "cpu", "-q", "--against", made / "seen.images")
        ran = inside("train", made / "two.npz", "flatten", "linear:10", *words)
        assert ran.code == 0 and "another part" not in ran.err
        ran = inside("train", made / "one.npz", "flatten", "linear:10", *words, "--seed", "3")
        assert ran.code == 0 and "another part of the same rows" in ran.err
        ran = inside("train", "digits", "flatten", "linear:10", "--against", made / "seen.columns")
        assert_error(ran, 2, "--against", "'sold'")

    def test_against_what_cannot_read_the_rows_is_refused_before_training(self, made, inside, tmp_path):
        pl.read_csv(made / "two.csv").drop("colour", "price").write_csv(tmp_path / "poor.csv")
        words = ("--target", "sold", "--na", "?", "--against", made / "seen.columns")
        assert_error(inside("train", "poor.csv", *words), 65, "'colour'")
        assert [path.name for path in tmp_path.iterdir()] == ["poor.csv"]


@pytest.mark.slow
def test_a_dask_cluster_gives_the_same_board(made, inside):
    distributed = pytest.importorskip("distributed")
    words = (made / "two.npz", "--embed", made / "images", *QUICK, "--folds", "3", "--json")
    with distributed.LocalCluster(
        n_workers=1, threads_per_worker=1, dashboard_address=None, scheduler_port=0
    ) as cluster:
        ran = inside("baseline", *words, "--engine", cluster.scheduler_address.replace("tcp://", "dask://"))
    rows = json.loads(ran.out)["rows"]
    assert [row["score"] for row in rows] == [row["score"] for row in board_of(made / "seen.images")]


@pytest.mark.slow
def test_photographs(shared, inside, tmp_path):
    """Of the network's size; the folder's own validation side, which chose its best epoch, is said to be that."""
    folder = shared("hymenoptera")
    net = ("conv:16,k3,s2", "relu", "gap", "linear:8", "relu", "linear:2", "--image-size", "32", "--epochs", "1")
    assert inside("train", folder, *net, "--out", "net").code == 0
    ran = inside("baseline", folder, "--embed", "net", *QUICK, "--out", "kept", "--json")
    assert ran.code == 0 and "chose the best epoch of net" in ran.err and "warning" not in ran.err
    ran = inside("predict", "kept", folder / "val", "--format", "csv")
    assert ran.code == 0 and len(ran.out.splitlines()) == 154
