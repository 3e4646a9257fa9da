"""Rows without a target: what `read` gives, and rows taken out of it."""

import io

import numpy as np
import pytest

from dlkit.core.errors import DlkitError
from dlkit.core.reading import Reading
from dlkit.data import Role, load, read, read_text_corpus

TABLE = "id,word,x,y\n" + "".join(f"{i},{'ab'[i % 2]},{i / 2},{i % 3}\n" for i in range(40))


def roles(rows) -> dict[str, str]:
    return {column.name: str(column.role) for column in rows.columns}


def test_every_column_is_read_the_target_too(write):
    rows = read(write("a.csv", TABLE))
    assert roles(rows) == {"id": "id", "word": "categorical", "x": "numeric", "y": "numeric"}
    assert rows.rows == 40 and rows.frame["y"].to_list() == [i % 3 for i in range(40)]


def test_roles_are_the_users_to_say(write):
    said = Reading(numeric=["id"], text=["word"], id=["y"], drop=["x"])
    rows = read(write("a.csv", TABLE), said)
    assert roles(rows) == {"id": "numeric", "word": "text", "y": "id"}
    dataset = load(write("b.csv", TABLE), Reading(target="x", id=["y"], text=["word"], numeric=["id"]))
    assert [c.name for c in dataset.columns if c.role.is_used] == ["id"]


def test_said_dates_must_be_dates(write):
    path = write("a.csv", "t,y\n2024-01-01,1\n2024-01-02 03:04,2\nNA,3\n")
    assert read(path, Reading(datetime=["t"])).columns[0].role == Role.DATETIME
    with pytest.raises(DlkitError, match=r"line 3, column 't': '5/6/2024' is not a date"):
        read(write("b.csv", "t,y\n2024-01-01,1\n5/6/2024,2\n"), Reading(datetime=["t"]))


def test_one_column_has_one_role():
    with pytest.raises(DlkitError, match="both --numeric and --id"):
        Reading(numeric=["x"], id=["x"])


@pytest.mark.parametrize("indices", [[3, 1, 1], [], [39]])
def test_taken_rows_stand_where_they_stood(write, indices):
    rows = read(write("a.csv", TABLE))
    taken = rows.take(np.array(indices, int))
    assert taken.rows == len(indices) and taken.frame["id"].to_list() == indices
    assert [taken.where(i) for i in range(len(indices))] == [rows.where(i) for i in indices]
    again = taken.take(np.arange(len(indices)))
    assert [again.where(i) for i in range(len(indices))] == [rows.where(i) for i in indices]


def test_taken_rows_of_a_dataset_keep_their_labels(write):
    dataset = load(write("a.csv", TABLE), Reading(target="word"))
    taken = dataset.take(np.array([5, 0]))
    assert taken.labels.tolist() == [1, 0] and taken.rows == 2 and taken.where(0) == "line 7"


def test_images_bring_their_labels(write, tmp_path):
    x = np.arange(6 * 4 * 4, dtype=np.uint8).reshape(6, 4, 4)
    path = str(tmp_path / "a.npz")
    np.savez(path, X=x, y=np.arange(6) % 2)
    rows = read(path)
    assert rows.arrays.shape == (6, 1, 4, 4) and rows.frame["y"].to_list() == [0, 1, 0, 1, 0, 1]
    assert rows.take(np.array([4])).arrays[0, 0, 0, 0] == 64
    np.savez(path, X=x)
    assert read(path).frame is None and read(path).rows == 6
    with pytest.raises(DlkitError, match="'X' and 'y' are needed"):
        load(path)
    np.save(tmp_path / "b.npy", np.eye(3))
    assert read(str(tmp_path / "b.npy")).frame.columns == ["x1", "x2", "x3"]


# ---------------------------------------------------------------- other encodings, no header, stdin


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "latin-1", "cp1252", "utf-32"])
def test_encodings(write, encoding):
    content = "naïve,y\ncafé,1\nthé,2\ncafé,3\n"
    rows = read(write("a.csv", content.encode(encoding)), Reading(encoding=encoding))
    assert rows.frame["naïve"].to_list() == ["café", "thé", "café"]
    lines = read(write("a.txt", content.encode(encoding)), Reading(encoding=encoding))
    assert lines.frame["text"].to_list() == content.splitlines()
    json_lines = '{"ä": "é"}\n{"ä": "è"}\n'.encode(encoding)
    assert read(write("a.jsonl", json_lines), Reading(encoding=encoding)).frame["ä"].to_list() == ["é", "è"]


@pytest.mark.parametrize(
    ("content", "encoding", "line"),
    [
        (b"a,b\n1,2\n\xe9,3\n", "utf-8", "line 3"),
        (b"a,b\n1,2\n3,\x81\n", "cp1252", "line 3"),
        ("a,b\n1,2\n3,".encode("utf-16") + b"\x00\xd8", "utf-16", "line 3"),
        ("a,b\n1,é\n".encode(), "ascii", "line 2"),
    ],
)
def test_wrong_bytes_are_named_by_line(write, content, encoding, line):
    with pytest.raises(DlkitError, match=f"{line} is not .* text") as caught:
        read(write("a.csv", content), Reading(encoding=encoding))
    assert caught.value.code == 65


def test_utf16_without_being_told(write):
    with pytest.raises(DlkitError) as caught:
        read(write("a.csv", "a,b\n1,2\n".encode("utf-16")))
    assert caught.value.code == 65 and caught.value.hint == "--encoding utf-16 reads it"


@pytest.mark.parametrize("name", ["utf-99", "base64", "", "\0"])
def test_no_such_encoding(name):
    with pytest.raises(DlkitError, match="--encoding") as caught:
        Reading(encoding=name)
    assert caught.value.code == 2


def test_no_header(write):
    rows = read(write("a.csv", "1,a\n2,b\n3,a\n"), Reading(header=False))
    assert rows.frame.columns == ["c1", "c2"] and rows.frame["c1"].to_list() == [1, 2, 3]
    assert [rows.where(i) for i in range(3)] == ["line 1", "line 2", "line 3"]
    with pytest.raises(DlkitError, match="line 2 has 1 cell; the first row has 2"):
        read(write("b.csv", "1,a\n2\n"), Reading(header=False))


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_stdin_of_every_kind(monkeypatch, kind):
    import polars as pl

    frame, out = pl.DataFrame({"a": [1.0, 2.0], "b": ["x", "y"]}), io.BytesIO()
    {"csv": frame.write_csv, "jsonl": frame.write_ndjson, "parquet": frame.write_parquet}[kind](out)
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(out.getvalue())))
    assert read("-").frame.equals(frame)


def test_a_corpus(write):
    path = write("a.txt", "\ufeffFirst line\r\n\nlast".encode())
    corpus = read_text_corpus(path, Reading())
    assert corpus.text == "First line\r\n\nlast" and len(corpus.fingerprint) == 64 and corpus.name == "a"
    assert read(path).frame["text"].to_list() == ["First line", None, "last"]
    with pytest.raises(DlkitError, match="NUL"):
        read_text_corpus(write("b.txt", b"a\0b"), Reading())


@pytest.mark.parametrize(
    ("source", "reading", "option"),
    [
        ("iris", Reading(delimiter=";"), "--delimiter"),
        ("iris", Reading(header=False), "--no-header"),
        ("digits", Reading(encoding="latin-1"), "--encoding"),
        ("digits", Reading(numeric=["x"]), "--numeric"),
        ("iris", Reading(image_size=8), "--image-size"),
    ],
)
def test_options_that_mean_nothing_are_refused(source, reading, option):
    with pytest.raises(DlkitError, match=option) as caught:
        read(source, reading)
    assert caught.value.code == 2
