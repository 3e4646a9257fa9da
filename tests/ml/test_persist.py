"""Saved models: they predict what they did, run no code, and a damaged or crafted one is refused in one line."""

import io
import json
import pickle
import zipfile

import numpy as np
import polars as pl
import pytest
import skops.io
from hypothesis import given, settings
from hypothesis import strategies as st

from dlkit.core.errors import DlkitError
from dlkit.core.run import RunDirectory, open_run
from dlkit.data import fit_schema, load
from dlkit.ml import persist, trees
from dlkit.ml.block import Block, Coding
from dlkit.ml.families import BY_NAME, Context
from dlkit.ml.model import Model, take

ROWS = 60


@pytest.fixture(scope="module")
def mixed(tmp_path_factory):
    """A small table with every kind of column: numbers, few and many categories, dates, text, all with gaps."""
    rng = np.random.default_rng(0)
    words = np.array(["good", "bad", "film", "plot", "very", "slow", "fine"])
    frame = pl.DataFrame(
        {
            "size": [None if i % 9 == 0 else float(x) for i, x in enumerate(rng.normal(size=ROWS))],
            "few": [None if i % 7 == 0 else "abc"[i % 3] for i in range(ROWS)],
            "many": [f"k{i % 30:02d}" for i in range(ROWS)],
            "day": [f"2024-0{1 + i % 9}-1{i % 7} 0{i % 8}:30" for i in range(ROWS)],
            "prose": [" ".join(rng.choice(words, 5)) + f" {i}" for i in range(ROWS)],
            "y": ["yes" if i % 3 else "no" for i in range(ROWS)],
            "price": rng.normal(size=ROWS).round(3),
        }
    )
    path = tmp_path_factory.mktemp("mixed") / "mixed.csv"
    frame.write_csv(path)
    return str(path)


def fitted(source: str, family: str, target: str | None = None, drop=(), setting=None):
    """(data set, schema, coding, a model of `family` fitted on all its rows)."""
    from dlkit.core.reading import Reading

    dataset = load(source, Reading(target=target, drop=drop), texts=True)
    schema = fit_schema(dataset, np.arange(dataset.rows), texts=True)
    coding = Coding.fit(dataset, schema)
    context = Context(dataset.task, dataset.rows, coding.features, len(dataset.classes), sparse=coding.layout.texts > 0)
    setting = BY_NAME[family].settings(context)[0] if setting is None else setting
    model = Model.fit(family, setting, context, coding.layout, coding.block(dataset), dataset.labels)
    return dataset, schema, coding, model


def saved(folder, source: str, family: str, target: str | None = None, **more):
    """A run directory with that model, and what the model predicted before it was saved."""
    dataset, schema, coding, model = fitted(source, family, target, **more)
    before = model.predict(coding.block(dataset))
    directory = RunDirectory.create(str(folder / "run"), "x")
    directory.write_json("config.json", {"command": "baseline"})
    directory.write_json("schema.json", schema.to_json())
    probes = take(coding.block(dataset), persist.probe_rows(dataset.rows))
    persist.save(directory, persist.dumps(model, probes), coding)
    directory.finish()
    return directory.path, dataset, before


def everything(task: str) -> list[str]:
    return [name for name, family in BY_NAME.items() if task in family.tasks]


class TestRoundTrip:
    @pytest.mark.parametrize("family", everything("classification"))
    def test_classes(self, tmp_path, mixed, family):
        path, dataset, before = saved(tmp_path, mixed, family, "y", drop=("price",))
        after = persist.load(open_run(path)).predict(dataset)
        assert after.shape == (ROWS, 2) and np.allclose(after.sum(1), 1)
        np.testing.assert_allclose(after, before, atol=1e-5)

    @pytest.mark.parametrize("family", everything("regression"))
    def test_values(self, tmp_path, mixed, family):
        path, dataset, before = saved(tmp_path, mixed, family, "price", drop=("y",))
        np.testing.assert_allclose(persist.load(open_run(path)).predict(dataset), before, rtol=1e-5, atol=1e-6)

    @pytest.mark.parametrize("family", ["bayes", "knn", "boosting", "svm-rbf"])
    def test_images(self, tmp_path, family):
        setting = {"max_iter": 2} if family == "boosting" else None
        path, dataset, before = saved(tmp_path, "digits", family, setting=setting)
        np.testing.assert_allclose(persist.load(open_run(path)).predict(dataset), before, atol=1e-5)

    def test_columns_are_found_by_name_and_unknown_categories_are_no_error(self, tmp_path, mixed):
        from dlkit.core.reading import Reading
        from dlkit.data.known import known_rows
        from dlkit.data.load import read_table

        path, _, before = saved(tmp_path, mixed, "boosting", "y", drop=("price",))
        baseline = persist.load(open_run(path))
        frame = pl.read_csv(mixed, infer_schema=False)
        shuffled = tmp_path / "shuffled.csv"
        frame.select("prose", "day", "price", "many", "few", "size").write_csv(shuffled)
        rows = known_rows(read_table(str(shuffled), Reading(), labelled=False), baseline.schema, Reading())
        np.testing.assert_allclose(baseline.predict(rows), before, atol=1e-6)
        strange = frame.with_columns(few=pl.lit("never seen"), many=pl.lit("nor this"))
        strange.write_csv(shuffled)
        rows = known_rows(read_table(str(shuffled), Reading(), labelled=False), baseline.schema, Reading())
        assert np.isfinite(baseline.predict(rows)).all()
        frame.drop("few").write_csv(shuffled)
        with pytest.raises(DlkitError, match="'few'"):
            known_rows(read_table(str(shuffled), Reading(), labelled=False), baseline.schema, Reading())


class Canary:
    """Makes a file when it is unpickled."""

    def __init__(self, path) -> None:
        self.path = str(path)

    def __reduce__(self):
        return open, (self.path, "w")


def rehash(path) -> None:
    """Make the manifest agree with what is there: what an attacker would do, and a damaged disk cannot."""
    (path / "manifest.json").unlink()
    RunDirectory(path).finish()


class TestNoCodeRuns:
    def test_a_pickle_in_its_place(self, tmp_path):
        path, _, _ = saved(tmp_path, "iris", "tree")
        canary = tmp_path / "canary"
        for slot in (persist.MODEL, persist.FACTS):
            kept = (path / slot).read_bytes()
            (path / slot).write_bytes(pickle.dumps(Canary(canary)))
            with pytest.raises(DlkitError):  # the manifest knows better
                persist.load(open_run(path))
            rehash(path)
            with pytest.raises(DlkitError) as caught:
                persist.load(open_run(path))
            assert caught.value.code == 65 and not canary.exists()
            (path / slot).write_bytes(kept)
            rehash(path)

    def test_object_arrays_and_pickles_inside_the_archive(self, tmp_path):
        path, _, _ = saved(tmp_path, "iris", "tree")
        canary = tmp_path / "canary"
        stream = io.BytesIO()
        np.save(stream, np.array([Canary(canary)], object), allow_pickle=True)
        with zipfile.ZipFile(path / persist.MODEL) as archive:
            members = {name: archive.read(name) for name in archive.namelist()}
        for name in members:
            if name.endswith(".npy"):
                archive_bytes = zipped({**members, name: stream.getvalue()})
                with pytest.raises(DlkitError):
                    persist.loads(archive_bytes, "x")
        assert not canary.exists()

    @pytest.mark.parametrize(
        "node",
        [
            {"__class__": "system", "__module__": "os", "__loader__": "FunctionNode", "content": "x"},
            {"__class__": "Popen", "__module__": "subprocess", "__loader__": "ObjectNode"},
            {"__class__": "partial", "__module__": "functools", "__loader__": "PartialNode"},
            {"__class__": "Tree", "__module__": "sklearn.tree._tree", "__loader__": "TreeNode"},
            {"__class__": "SVC", "__module__": "sklearn.svm._classes", "__loader__": "MethodNode"},
        ],
        ids=lambda node: node["__class__"],
    )
    def test_types_off_the_list(self, mixed, node):
        """Some of these skops would trust by itself; none is in a model of ours."""
        data = dumped("iris", "tree")
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = {name: archive.read(name) for name in archive.namelist()}
        schema = json.loads(members["schema.json"])
        schema["content"]["classes"] = node
        with pytest.raises(DlkitError) as caught:
            persist.loads(zipped({**members, "schema.json": json.dumps(schema).encode()}), "x")
        assert caught.value.code == 65 and node["__class__"] in caught.value.message

    def test_no_bomb(self):
        data = dumped("iris", "tree")
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = {name: archive.read(name) for name in archive.namelist()}
        name = next(n for n in members if n.endswith(".npy"))
        header = io.BytesIO()
        np.lib.format.write_array_header_1_0(header, {"descr": "<f8", "fortran_order": False, "shape": (10**13,)})
        with pytest.raises(DlkitError, match="as large as it says"):
            persist.loads(zipped({**members, name: header.getvalue()}), "x")
        with pytest.raises(DlkitError, match="compressed"):
            persist.loads(zipped(members, zipfile.ZIP_DEFLATED), "x")


def zipped(members: dict[str, bytes], how: int = zipfile.ZIP_STORED) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", how) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return stream.getvalue()


DUMPED: dict[tuple[str, str], bytes] = {}


def dumped(source: str, family: str) -> bytes:
    if (source, family) not in DUMPED:
        setting = {"max_iter": 3} if family == "boosting" else {"n_estimators": 3} if family == "forest" else None
        dataset, _, coding, model = fitted(source, family, setting=setting)
        probes = take(coding.block(dataset), persist.probe_rows(dataset.rows))
        DUMPED[source, family] = persist.dumps(model, probes)
    return DUMPED[source, family]


class TestDamage:
    @pytest.mark.parametrize("count", [100, pytest.param(2000, marks=pytest.mark.slow)])
    def test_every_bit_flip_is_named(self, tmp_path, count):
        path, _, _ = saved(tmp_path, "iris", "tree")
        whole = (path / persist.MODEL).read_bytes()
        rng = np.random.default_rng(0)
        for bit in rng.integers(0, 8 * len(whole), count):
            bad = bytearray(whole)
            bad[bit // 8] ^= 1 << bit % 8
            (path / persist.MODEL).write_bytes(bad)
            with pytest.raises(DlkitError, match=persist.MODEL) as caught:
                open_run(path)
            assert caught.value.code == 65
        (path / persist.MODEL).write_bytes(whole)
        persist.load(open_run(path))

    @pytest.mark.parametrize("family", ["tree", "forest", "boosting", "knn", "svm-rbf"])
    @settings(max_examples=30)
    @given(data=st.data())
    def test_mutations_that_the_manifest_agrees_with_neither_crash_nor_pass_for_another_error(self, family, data):
        whole = bytearray(dumped("iris", family))
        for _ in range(data.draw(st.integers(1, 4))):
            whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
        if data.draw(st.booleans()):
            del whole[data.draw(st.integers(0, len(whole))) :]
        try:
            model = persist.loads(bytes(whole), "x")
        except DlkitError as failure:
            assert failure.code == 65 and "\n" not in failure.message
        else:
            assert model.predict(Block(np.zeros((2, 4)))).shape == (2, 3)

    @pytest.mark.parametrize("family", ["tree", "forest", "boosting"])
    @settings(max_examples=60)
    @given(data=st.data())
    def test_crafted_nodes_are_refused_or_predict(self, family, data):
        """Archives whose checksums are right, with any field of any node changed."""
        content = skops.io.loads(dumped("iris", family), trusted=sorted(persist.TYPES))
        nodes = content["trees"][0]["nodes"]
        field = data.draw(st.sampled_from(nodes.dtype.names))
        row = data.draw(st.integers(0, len(nodes) - 1))
        kind = nodes.dtype[field].kind
        low, high = (0, 255) if nodes.dtype[field].itemsize == 1 else (0 if kind == "u" else -(2**31), 2**31 - 1)
        nodes[field][row] = data.draw(st.floats(width=32) if kind == "f" else st.integers(low, high))
        model = Model(content["features"], content["estimator"], content["classes"])
        try:
            trees.put_in(model.estimator, content["trees"])
        except DlkitError as failure:
            assert "damaged" in failure.message
        else:
            assert model.predict(Block(np.zeros((2, 4)))).shape == (2, 3)

    @pytest.mark.parametrize(
        ("field", "value"), [("left_child", 0), ("right_child", 10**6), ("left_child", -2), ("feature", 4)]
    )
    def test_a_tree_that_is_none(self, field, value):
        content = skops.io.loads(dumped("iris", "tree"), trusted=sorted(persist.TYPES))
        content["trees"][0]["nodes"][field][0] = value
        with pytest.raises(DlkitError, match="damaged"):
            trees.put_in(content["estimator"], content["trees"])


class TestAnotherVersion:
    def test_the_same_predictions_are_good_enough_and_it_is_said(self, tmp_path, capsys):
        path, dataset, before = saved(tmp_path, "iris", "logistic")
        as_if_saved_with(path, "1.5.0")
        after = persist.load(open_run(path)).predict(dataset)
        assert "1.5.0" in capsys.readouterr().err
        np.testing.assert_allclose(after, before)

    def test_other_predictions_are_refused_and_both_versions_named(self, tmp_path):
        path, _, _ = saved(tmp_path, "iris", "logistic")
        content = skops.io.loads((path / persist.MODEL).read_bytes(), trusted=sorted(persist.TYPES))
        content["estimator"].coef_ = content["estimator"].coef_ * 1.5
        (path / persist.MODEL).write_bytes(skops.io.dumps(content))
        as_if_saved_with(path, "1.5.0")
        with pytest.raises(DlkitError, match="does not predict what it predicted") as caught:
            persist.load(open_run(path))
        assert "1.5.0" in str(caught.value.hint)


def as_if_saved_with(path, version: str) -> None:
    facts = json.loads((path / persist.FACTS).read_text())
    facts["versions"]["scikit-learn"] = version
    (path / persist.FACTS).write_text(json.dumps(facts))
    rehash(path)
