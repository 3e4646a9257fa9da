"""Tables of any format: the target, the task, the columns' roles and the options that override them."""

import json

import numpy as np
import polars as pl
import pytest

from dlkit.core.reading import Reading
from dlkit.data import load


def csv_of(columns: dict) -> str:
    return pl.DataFrame(columns).write_csv()


def roles(dataset) -> dict[str, str]:
    return {column.name: str(column.role) for column in dataset.columns}


# ---------------------------------------------------------------- the target


@pytest.mark.parametrize(
    ("values", "task", "classes"),
    [
        (["b", "a"] * 5, "classification", ("a", "b")),
        ([1, 0] * 5, "classification", ("0", "1")),
        (["1.0", "0.0"] * 5, "classification", ("0", "1")),
        (["True", "False"] * 5, "classification", ("False", "True")),
        ([-1, 1] * 5, "classification", ("-1", "1")),
        ([0, 1, 2] * 5, "classification", ("0", "1", "2")),
        ([2, 10, 9] * 20, "classification", ("2", "9", "10")),
        ([*range(20)] * 20, "classification", tuple(map(str, range(20)))),
        (["007", "010", "9"] * 5, "classification", ("007", "9", "010")),
        ([*range(21)] * 20, "regression", ()),
        ([3, 7, 12] * 4, "regression", ()),
        ([0.5, 1.5] * 5, "regression", ()),
        ([*range(50)], "regression", ()),
        (["NA", "b"] * 5, "classification", ("NA", "b")),
    ],
)
def test_the_task_follows_from_the_target(write, values, task, classes):
    content = csv_of({"x": [i % 7 for i in range(len(values))], "y": values})
    dataset = load(write("a.csv", content))
    assert (dataset.task, dataset.classes) == (task, classes)
    if classes:
        names = [str(v).removesuffix(".0") for v in values]
        assert [classes[label] for label in dataset.labels] == names and dataset.labels.dtype == np.int64
    else:
        assert dataset.labels.tolist() == [float(v) for v in values]


def test_the_task_can_be_forced(write, refused):
    path = write("a.csv", csv_of({"x": [1, 2, 3, 4], "y": [0, 1, 0, 1], "z": ["a", "b", "a", "b"]}))
    assert load(path, Reading(task="regression")).labels.tolist() == [0, 1, 0, 1]
    floats = write("b.csv", csv_of({"x": [1, 2, 3, 4], "y": [0.5, 1.5, 0.5, 1.5]}))
    assert load(floats, Reading(task="classification")).classes == ("0.5", "1.5")
    error = refused(path, target="z", task="regression")
    assert error.code == 65 and "line 2, column 'z': 'a' is not a number" in error.message
    assert refused(path, task="classificaton").code == 2


def test_odd_cells_of_a_target_are_classes_if_classes_are_asked_for(write, refused):
    path = write("a.csv", csv_of({"x": [*range(1, 61)], "y": ["0", "1"] * 29 + ["?", "?"]}))
    assert "line 60, column 'y': '?'" in refused(path).message
    assert load(path, Reading(task="classification", numeric=["x"])).classes == ("0", "1", "?")
    assert load(path, Reading(na=["?"], numeric=["x"])).rows == 58


def test_which_column_is_the_target(write, refused):
    path = write("a.csv", csv_of({"alpha": [1, 2, 3], "beta": [0, 1, 0]}))
    error = refused(path)
    assert error.code == 2 and "--target" in error.message and "alpha, beta" in error.hint
    error = refused(path, target="bta")
    assert error.code == 2 and "beta" in error.hint
    assert load(path, Reading(target="beta")).target == "beta"
    names = {"y": [0, 1, 0], "label": [1, 0, 1], "x": [1, 2, 3]}
    dataset = load(write("b.csv", csv_of(names)))
    assert dataset.target == "label" and any("label" in note for note in dataset.notes)
    assert load(write("c.csv", csv_of(names)), Reading(drop=["label"])).target == "y"
    assert refused(path, target="beta", drop=["beta"]).code == 2


def test_rows_without_a_target_are_left_out(write):
    dataset = load(write("a.csv", "x,y\n1,a\n2,\n3,b\n4,\n5,a\n"))
    assert dataset.rows == dataset.frame.height == 3
    assert [dataset.where(row) for row in range(3)] == ["line 2", "line 4", "line 6"]
    assert any("left out 2 rows" in note for note in dataset.notes)
    assert any("only one row for 'b'" in note for note in dataset.notes)


# ---------------------------------------------------------------- roles


def many(n: int = 60) -> dict:
    return {
        "number": [i % 13 / 4 for i in range(n)],
        "row": [*range(n)],
        "passenger_id": [100 + 3 * i for i in range(n)],
        "code": [f"k{i:04}" for i in range(n)],
        "prose": [f"this is the sentence number {i}" for i in range(n)],
        "some": [f"v{i % 40}" for i in range(n)],
        "colour": ["red", "blue", "dark green thing here"] * (n // 3),
        "flag": ["true", "false"] * (n // 2),
        "same": ["x"] * n,
        "empty": [None] * n,
        "partly": [1 if i % 3 else None for i in range(n)],
        "day": [f"2024-01-{i % 28 + 1:02}" for i in range(n)],
        "year": [1950 + i for i in range(n)],
        "y": [i % 2 for i in range(n)],
    }


EXPECTED = {
    "number": "numeric",
    "row": "id",
    "passenger_id": "id",
    "code": "id",
    "prose": "text",
    "some": "text",
    "colour": "categorical",
    "flag": "categorical",
    "same": "constant",
    "empty": "constant",
    "partly": "numeric",
    "day": "datetime",
    "year": "numeric",
}


def test_roles(write):
    dataset = load(write("a.csv", csv_of(many())))
    assert roles(dataset) == EXPECTED
    note = next(note for note in dataset.notes if "left out" in note)
    for said in ("row (id)", "prose (text)", "same (constant)", "empty (empty)"):
        assert said in note
    counts = {column.name: (column.missing, column.distinct) for column in dataset.columns}
    assert counts["empty"] == (60, 0) and counts["partly"] == (20, 1) and counts["number"] == (0, 13)


def test_roles_can_be_overridden(write, refused):
    path = write("a.csv", csv_of(many()))
    dataset = load(path, Reading(numeric=["row"], categorical=["year", "some"], drop=["prose", "number"]))
    found = roles(dataset)
    assert (found["row"], found["year"], found["some"]) == ("numeric", "categorical", "categorical")
    assert not {"prose", "number"} & set(found) and dataset.frame["year"][0] == "1950"
    for option in ("numeric", "categorical", "drop"):
        error = refused(path, **{option: ["colur"]})
        assert error.code == 2 and "colour" in error.hint
    assert refused(path, numeric=["row"], categorical=["row"]).code == 2
    assert refused(path, numeric=["row"], drop=["row"]).code == 2


# ---------------------------------------------------------------- other formats


def test_formats_agree(write, tmp_path):
    columns = {name: values for name, values in many().items() if name != "empty"}
    columns["flag"] = [value == "true" for value in columns["flag"]]
    plain = load(write("a.csv", csv_of(columns)))
    frame = pl.DataFrame(columns).with_columns(pl.col("day").str.to_date())
    frame.write_parquet(tmp_path / "a.parquet")
    lines = "".join(
        json.dumps(dict(zip(columns, row, strict=True))) + "\n" for row in zip(*columns.values(), strict=True)
    )
    for path in (str(tmp_path / "a.parquet"), write("a.jsonl", lines)):
        dataset = load(path)
        assert roles(dataset) == roles(plain) and dataset.labels.tolist() == plain.labels.tolist()
        assert dataset.frame.equals(plain.frame)
    assert dataset.where(0) == "line 1" and load(str(tmp_path / "a.parquet")).where(0) == "row 1"


JSONL = {
    "not JSON": ('{"x": 1, "y": 0}\n{"x": 1, "y"\n', ["line 2", "not JSON"]),
    "blank": ('{"x": 1, "y": 0}\n\n{"x": 1, "y": 1}\n', ["line 2 is blank"]),
    "a list": ("[1, 2]\n", ["line 1", "no object"]),
    "key twice": ('{"x": 1, "x": 2}\n', ["line 1", "'x' is there twice"]),
    "mixed": ('{"x": 1, "y": 0}\n{"x": "abc", "y": 1}\n', ["line 2, column 'x': 'abc' is text", "line 1 has number"]),
    "infinity": ('{"x": Infinity, "y": 0}\n', ["line 1", "Infinity"]),
    "overflow": ('{"x": 1, "y": 0}\n{"x": 1e999, "y": 1}\n', ["line 2, column 'x'", "finite"]),
    "huge integer": ('{"x": 1' + "0" * 400 + ', "y": 0}\n{"x": 0, "y": 1}\n', ["line 1, column 'x'"]),
    "too many digits": ('{"x": 1' + "0" * 5000 + "}\n", ["line 1"]),
    "deep": ("[" * 100_000 + "\n", ["line 1"]),
    "surrogate": ('{"x": "\\ud800", "y": 0}\n', ["'x'"]),
    "latin-1": ('{"x": "é"}\n'.encode("latin-1"), ["line 1", "UTF-8"]),
    "no keys": ("{}\n{}\n", ["no keys"]),
}


@pytest.mark.parametrize(("content", "said"), JSONL.values(), ids=JSONL)
def test_bad_json_lines(write, refused, content, said):
    error = refused(write("a.jsonl", content), target="y")
    assert error.code == 65 and all(words in error.message for words in said)


def test_json_lines_may_leave_keys_out(write):
    lines = ['{"x": 1, "y": "a"}', '{"y": "b", "z": [1]}', '{"x": NaN, "y": "a"}', '{"x": 2.5, "y": "b"}']
    dataset = load(write("a.jsonl", "\n".join(lines)))
    assert dataset.frame["x"].to_list() == [1, None, None, 2.5]
    assert any("z (no type" in note for note in dataset.notes)


def test_parquet_values(tmp_path, refused):
    path = str(tmp_path / "a.parquet")
    pl.DataFrame({"x": [1.0, float("inf")], "y": [0, 1]}).write_parquet(path)
    error = refused(path)
    assert error.code == 65 and "row 2, column 'x'" in error.message
    pl.DataFrame({"x": [1.0, float("nan")], "s": ["", "-"], "l": [[1], [2]], "y": [0.5, 1]}).write_parquet(path)
    frame = load(path, Reading(na=["-"])).frame
    assert frame["x"].null_count() == 1 and frame["s"].null_count() == 2 and "l" not in frame.columns


def test_damaged_parquet_is_bad_data(write, tmp_path, refused):
    pl.DataFrame({"x": [*range(99)], "y": [0, 1, 1] * 33}).write_parquet(tmp_path / "a.parquet")
    data = (tmp_path / "a.parquet").read_bytes()
    assert refused(write("cut.parquet", data[:-20]), target="y").code == 65
    assert refused(write("not.parquet", "x,y\n1,2\n"), target="y").code == 65
    wild = data[:-8] + (2**31 - 1).to_bytes(4, "little") + data[-4:]
    assert refused(write("wild.parquet", wild), target="y").code == 65


# ---------------------------------------------------------------- sources


def test_a_missing_file_has_near_names(write, refused, tmp_path):
    write("titanic.csv", "x,y\n1,2\n")
    error = refused(str(tmp_path / "titanc.csv"))
    assert error.code == 66 and "titanic.csv" in error.hint
    error = refused("diggits")
    assert error.code == 66 and "digits" in error.hint


@pytest.mark.parametrize("name", ["", "a" * 5000, "a\0b", "no/such/folder/x.csv"])
def test_names_of_nothing(refused, name):
    assert refused(name).code == 66


def test_a_target_of_dates(write, refused):
    path = write("a.csv", csv_of({"x": [1, 2, 3], "y": ["2024-01-01", "2024-01-02", "2024-01-02"]}))
    assert "dates" in refused(path).message
    assert load(path, Reading(task="classification")).classes == ("2024-01-01", "2024-01-02")


def test_hints_stay_short(write, refused):
    error = refused(write("a.csv", "x,y\n" + "1,a\n2,b\n" * 20 + '"' + "p\nq" * 99 + '",a\n'))
    assert "--na VALUE" in error.hint and len(error.message) < 300


def test_unreadable(write, refused, monkeypatch):
    path = write("a.csv", "x,y\n1,2\n")

    def denied(self):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("pathlib.Path.read_bytes", denied)
    assert refused(path).code == 66


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.txt", "some text"),
        ("a.json", "[]"),
        ("a.png", "x"),
        ("a-idx3-ubyte", "xxxxxxxxxx"),
        ("a.npz", "x,y"),
        ("a.npy", "x,y"),
    ],
)
def test_what_is_not_read(write, refused, name, content):
    assert refused(write(name, content)).code == 65


def test_delimiter_is_for_delimited_files(refused):
    assert refused("iris", delimiter=";").code == 2


def test_names(write):
    content = "x,y\n1,0\n2,1\n3,1\n"
    for name, short in (("my data (1).csv", "my-data-1"), ("a.b.csv", "a.b"), ("--.csv", "data"), ("é.csv", "data")):
        assert load(write(name, content)).name == short


# ---------------------------------------------------------------- real data


def test_real_tables(shared):
    housing = load(str(shared("california_housing.csv")), Reading(target="median_house_value"))
    assert (housing.rows, housing.task, len(housing.columns)) == (20640, "regression", 9)
    assert housing.frame["total_bedrooms"].null_count() == 207
    titanic = load(str(shared("titanic.csv")), Reading(target="survived"))
    assert titanic.classes == ("0", "1") and np.bincount(titanic.labels).tolist() == [549, 342]
    penguins = load(str(shared("penguins.csv")), Reading(target="species"))
    assert penguins.classes == ("Adelie", "Chinstrap", "Gentoo") and roles(penguins)["sex"] == "categorical"
    taxis = load(str(shared("taxis.csv")), Reading(target="fare"))
    assert roles(taxis)["pickup"] == "datetime" and roles(taxis)["pickup_zone"] == "categorical"
