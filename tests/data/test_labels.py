"""Several targets at once: how they are read, what is refused, and their metrics against scikit-learn's."""

import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dlkit.core.errors import DlkitError
from dlkit.core.reading import Reading
from dlkit.data import Schema, fit_schema, hold_out, load, metrics, scores
from dlkit.data.known import known_rows, truth
from dlkit.data.load import read_table

sk = pytest.importorskip("sklearn.metrics")
FILMS = "year,drama,comedy,war\n1990,1,no,f\n1991,0,yes,t\n1992,1,yes,t\n1993,0,no,f\n"


def films(write, content=FILMS, **said):
    return load(write("films.csv", content), Reading(**({"targets": ("drama", "comedy")} | said)), several=True)


def test_columns_of_the_real_titanic(shared):
    """Numbers, True and False; the targets are no features, and their rows are those of the file."""
    path = str(shared("titanic.csv"))
    found = load(path, Reading(targets=("survived", "adult_male", "alone")), several=True)
    assert (found.task, found.target, found.classes) == ("multi-label", None, ("survived", "adult_male", "alone"))
    assert found.values == (("0", "1"), ("False", "True"), ("False", "True"))
    raw = read_table(path, Reading(), labelled=False).frame
    for i, (name, word) in enumerate((("survived", "1"), ("adult_male", "True"), ("alone", "True"))):
        assert (found.labels[:, i] == (raw[name] == word).to_numpy()).all()
    assert not {"survived", "adult_male", "alone"} & {column.name for column in found.columns}
    assert not any(note.startswith("target:") for note in found.notes)


def test_order_words_and_the_rows_without_any(write):
    found = films(write, targets=("war", "comedy", "drama"))
    assert found.classes == ("war", "comedy", "drama") and found.labels[0].tolist() == [False, False, True]
    late = films(write, FILMS.replace("f\n", "\n", 1) + "1994,,,\n", targets=("comedy", "drama"))
    assert late.labels.tolist() == [[False, True], [True, False], [True, True], [False, False]]
    assert late.place.where(3) == "line 5" and "left out 1 rows whose targets are all missing" in late.notes
    words = films(write, FILMS.replace("yes", "live").replace("no", "canned"))
    assert words.values[1] == ("canned", "live") and any("'live'" in note for note in words.notes)


def test_a_label_of_one_value(write):
    """Known words have a partner; another value alone says nothing of what the second would be."""
    found = films(write, FILMS.replace("yes", "no"))
    assert found.values[1] == ("no", "yes") and not found.labels[:, 1].any()
    from dlkit.data.labels import one_sided

    assert one_sided(found, np.arange(4)) == [
        "label 'comedy' is 'no' in every training row: nothing else is learned of it"
    ]
    assert one_sided(found, np.array([0, 2]))[0].startswith("label 'drama' is '1'")
    with pytest.raises(DlkitError, match="'comedy' is 'maybe' in every row"):
        films(write, FILMS.replace("yes", "maybe").replace("no", "maybe"))


REFUSED = {
    "three values": (FILMS.replace("yes", "perhaps", 1), {}, "'comedy' has 3 values .'no', 'perhaps', 'yes'"),
    "one cell missing": (FILMS.replace("1991,0", "1991,"), {}, "line 3, column 'drama': nothing is there"),
    "twice": (FILMS, {"targets": ("drama", "drama")}, "--target drama is given twice"),
    "no such column": (FILMS, {"targets": ("drama", "horror")}, "--target: .* has no column 'horror'"),
    "dropped": (FILMS, {"drop": ("comedy",)}, "--drop: column 'comedy' is the target"),
    "one for several": (FILMS, {"targets": (), "target": "drama", "task": "multi-label"}, "one target, 'drama'"),
    "several for one": (FILMS, {"task": "regression"}, "--task regression is of one target"),
    "nothing there": ("year,drama,comedy\n1,0,\n2,1,\n", {}, "every cell of the target 'comedy' is missing"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(write, case):
    content, said, message = REFUSED[case]
    with pytest.raises(DlkitError, match=message) as caught:
        films(write, content, **said)
    assert "\n" not in caught.value.message


def arrays(tmp_path, y, x=None, name="a.npz"):
    x = np.random.default_rng(0).normal(size=(len(y), 3)) if x is None else x
    np.savez(tmp_path / name, X=x, y=y)
    return str(tmp_path / name)


@pytest.mark.parametrize("dtype", [np.uint8, bool, np.float32])
def test_arrays(tmp_path, dtype):
    y = np.random.default_rng(1).integers(0, 2, (40, 3))
    found = load(arrays(tmp_path, y.astype(dtype)), several=True)
    assert found.task == "multi-label" and found.classes == ("y1", "y2", "y3") and (found.labels == y).all()
    images = load(arrays(tmp_path, y.astype(dtype), np.zeros((40, 5, 5), np.uint8)), several=True)
    assert images.arrays.shape == (40, 1, 5, 5) and (images.labels == y).all() and images.frame is None


def test_arrays_that_are_something_else(tmp_path):
    """One-hot rows are classes unless it is said; counts are no labels; who learns one target refuses several."""
    one_hot = arrays(tmp_path, np.eye(3)[np.arange(30) % 3])
    with pytest.raises(DlkitError, match="a single 1 in every row of y, 3 columns") as caught:
        load(one_hot, several=True)
    assert "argmax" in caught.value.hint and "--task multi-label" in caught.value.hint
    assert load(one_hot, Reading(task="multi-label"), several=True).labels.sum() == 30
    with pytest.raises(DlkitError, match="one target for each row is needed"):
        load(arrays(tmp_path, np.arange(60).reshape(30, 2)), several=True)
    several = arrays(tmp_path, np.random.default_rng(1).integers(0, 2, (40, 3)))
    with pytest.raises(DlkitError, match=r"3 targets for each row .y1 … y3."):
        load(several)
    with pytest.raises(DlkitError, match=r"--task regression: .* has 3 targets"):
        load(several, Reading(task="regression"), several=True)
    single = arrays(tmp_path, np.arange(40) % 2)
    with pytest.raises(DlkitError, match=r"--task multi-label: .* has one target"):
        load(single, Reading(task="multi-label"), several=True)


def test_the_split_is_at_random_and_says_so(write):
    rows = "".join(f"{i * 3 % 50},{i % 2},{'yes' if i % 7 < 2 else 'no'},t\n" for i in range(50))
    split = hold_out(films(write, FILMS.splitlines()[0] + "\n" + rows))
    assert split.method == "random" and (len(split.train), len(split.valid)) == (40, 10)
    assert any("without regard to their labels" in note for note in split.notes)


def test_a_schema_there_and_back(write):
    dataset = films(write)
    schema = fit_schema(dataset, np.arange(4))
    assert schema.targets(dataset).tolist() == [[1, 0], [0, 1], [1, 1], [0, 0]]
    assert schema.targets(dataset).dtype == np.float32
    told = schema.to_json()
    assert Schema.from_json(told) == schema and told["values"] == [["0", "1"], ["no", "yes"]]
    for wrong in ({"values": [["0", "1"]]}, {"values": [["0"], ["no", "yes"]]}, {"target": "drama"}):
        with pytest.raises(DlkitError, match="values do not fit the labels"):
            Schema.from_json(told | wrong)
    with pytest.raises(DlkitError, match="'values' is missing"):
        Schema.from_json({name: value for name, value in told.items() if name != "values"})
    assert "values" not in fit_schema(load("iris"), np.arange(150)).to_json()


def test_the_truth_of_another_file(write):
    """Read in the words of the training file; other columns are no matter, and a cell that is neither is named."""
    schema = fit_schema(films(write, drop=("war",)), np.arange(4))
    other = read_table(write("new.csv", "comedy,drama,year\nYes,1.0,1\n,,2\nno,0,3\n"), Reading(), labelled=False)
    found = truth(other, schema, Reading())
    assert found.labels.tolist() == [[True, True], [False, False]] and found.kept.tolist() == [True, False, True]
    assert known_rows(other, schema, Reading()).frame.columns == ["year"]
    odd = read_table(write("odd.csv", "comedy,drama,year\nyes,1,1\nnever,0,2\n"), Reading(), labelled=False)
    with pytest.raises(DlkitError, match="line 3, column 'comedy': 'never' is neither 'no' nor 'yes'"):
        truth(odd, schema, Reading())
    with pytest.raises(DlkitError, match="no column 'comedy' to compare"):
        truth(read_table(write("few.csv", "drama,year\n1,1\n0,2\n"), Reading(), labelled=False), schema, Reading())


@st.composite
def labelled(draw):
    """(truth, probabilities): ties are common, and a label may be constant or never be predicted."""
    n, k = draw(st.integers(2, 60)), draw(st.integers(2, 4))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    found = rng.random((n, k)) < rng.choice([0.0, 0.1, 0.5, 0.9, 1.0], k)
    return found, np.round(
        rng.beta(*draw(st.sampled_from([(0.5, 0.5), (2, 2), (1, 8)])), (n, k)), draw(st.integers(1, 6))
    )


@given(labelled())
@settings(max_examples=25)
def test_metrics(case):
    actual, proba = case
    said = proba > 0.5
    each = metrics.per_label(actual, said)
    theirs = sk.precision_recall_fscore_support(actual, said, zero_division=0, average=None)
    for ours, other in zip((each.precision, each.recall, each.f1, each.support), theirs, strict=True):
        np.testing.assert_allclose(ours, other, atol=1e-12)
    together = sk.precision_recall_fscore_support(actual, said, zero_division=0, average="micro")[:3]
    assert metrics.micro(each) == pytest.approx(together)
    for i in range(actual.shape[1]):
        average = metrics.average_precision(actual[:, i], proba[:, i])
        if actual[:, i].any():
            assert average == pytest.approx(sk.average_precision_score(actual[:, i], proba[:, i]))
        else:
            assert np.isnan(average)


@given(labelled())
@settings(max_examples=10)
def test_the_answer(case):
    """Every number of the summary, and the intervals around it."""
    actual, proba = case
    found = scores.labelled(actual, proba > 0.5, proba, [f"l{i}" for i in range(actual.shape[1])])
    said, got = proba > 0.5, found.summary
    expected = {
        "subset_accuracy": sk.accuracy_score(actual, said),
        "hamming_loss": sk.hamming_loss(actual, said),
        "log_loss": np.mean([sk.log_loss(t, p, labels=[0, 1]) for t, p in zip(actual.T, proba.T, strict=True)]),
        "brier": np.mean((proba - actual) ** 2),
    }
    for average in ("micro", "macro"):
        for name, score in (("f1", sk.f1_score), ("precision", sk.precision_score), ("recall", sk.recall_score)):
            expected[f"{name}_{average}"] = score(actual, said, average=average, zero_division=0)
    for name, value in expected.items():
        assert got[name] == pytest.approx(value), name
    varied = actual.any(0) & ~actual.all(0)
    if varied.all():
        assert got["auc_macro"] == pytest.approx(sk.roc_auc_score(actual, proba, average="macro"))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            assert got["average_precision_macro"] == pytest.approx(sk.average_precision_score(actual, proba))
    else:
        assert np.isnan(got["auc_macro"]) and any("no AUC there" in note for note in found.notes)
    assert got["f1_micro_low"] <= got["f1_micro"] + 1e-9 and got["f1_micro"] <= got["f1_micro_high"] + 1e-9


@pytest.fixture(autouse=True, scope="module")
def few_draws():
    before, scores.DRAWS = scores.DRAWS, 40
    yield
    scores.DRAWS = before
