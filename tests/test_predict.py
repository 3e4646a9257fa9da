"""`dlkit predict`: the input's rows as they came, with what the run says of each."""

import gzip
import io
import json

import numpy as np
import polars as pl
import pytest
from test_contract import assert_error

NAMES = "sepal length (cm),sepal width (cm),petal length (cm),petal width (cm)"
ADDED = ["prediction", "p_setosa", "p_versicolor", "p_virginica"]


@pytest.fixture
def run(finished_run):
    return str(finished_run)


@pytest.fixture(scope="module")
def table_run(tmp_path_factory):
    """A run on a table with a number, a category, a date and missing cells."""
    from dlkit.cli import run
    from dlkit.core import console

    folder = tmp_path_factory.mktemp("table")
    rng = np.random.default_rng(0)
    rows = [
        f"{round(x, 3) if i % 9 else ''},{'abc'[i % 3]},2024-0{1 + i % 9}-01,{i % 7 + 1:03d},{'yes' if x > 0 else 'no'}"
        for i, x in enumerate(rng.normal(size=120))
    ]
    (folder / "t.csv").write_text("size,kind,day,code,bought\n" + "\n".join(rows))
    words = ["train", str(folder / "t.csv"), "linear:2", "--target", "bought", "--epochs", "1"]
    assert run([*words, "--out", str(folder / "run"), "-q"]) == 0
    console.quiet = False
    return str(folder / "run")


def test_columns_stay_as_they_are_written(inside, run, tmp_path):
    """Order, spelling and strange cells: only the new columns are ours."""
    text = f'note,{NAMES},id\n"a ""b"", c",5.10,3.5,1.4,0.2,007\n"two\nlines",6.0,2.2,4.00,1,008\n,7,3,6,2.,\n'
    (tmp_path / "x.csv").write_text(text)
    ran = inside("predict", run, "x.csv", "--format", "csv")
    frame = pl.read_csv(io.StringIO(ran.out), infer_schema=False)
    assert frame.columns == ["note", *NAMES.split(","), "id", *ADDED]
    assert frame["note"].to_list() == ['a "b", c', "two\nlines", None]
    assert frame["sepal length (cm)"].to_list() == ["5.10", "6.0", "7"]
    assert frame["petal width (cm)"].to_list() == ["0.2", "1", "2."] and frame["id"][0] == "007"
    rows = [json.loads(line) for line in inside("predict", run, "x.csv", "--format", "jsonl").out.splitlines()]
    assert rows[0]["sepal length (cm)"] == 5.1 and rows[0]["id"] == "007" and rows[2]["note"] is None


def test_every_format_holds_the_same(inside, run, tmp_path):
    (tmp_path / "x.csv").write_text(f"{NAMES},mark\n" + "5.1,3.5,1.4,0.2,a\n6,3,4.5,1.5,\n" * 3)
    for name in ("o.csv", "o.tsv", "o.jsonl", "o.parquet", "o.csv.gz"):
        ran = inside("predict", run, "x.csv", "--out", name, "--json")
        assert ran.code == 0, ran.err
        assert json.loads(ran.out)["summary"] == {"rows": 6, "out": name}
    frames = [
        pl.read_csv(tmp_path / "o.csv"),
        pl.read_csv(tmp_path / "o.tsv", separator="\t"),
        pl.read_ndjson(tmp_path / "o.jsonl"),
        pl.read_parquet(tmp_path / "o.parquet"),
        pl.read_csv(gzip.decompress((tmp_path / "o.csv.gz").read_bytes())),
    ]
    for frame in frames:
        assert frame.with_columns(pl.col(NAMES.split(",")).cast(float)).equals(frames[3])
    assert frames[3].columns == [*NAMES.split(","), "mark", *ADDED]
    for name in ("o.jsonl", "o.parquet"):
        assert inside("predict", run, name, "--prefix", "again_", "-q").out == "6\n"


def test_pieces_and_the_whole_agree(inside, run, tmp_path, monkeypatch):
    from dlkit.data import stream

    rng = np.random.default_rng(0)
    cells = rng.uniform(1, 7, (300, 4)).round(2)
    (tmp_path / "x.csv").write_text(NAMES + "\n" + "\n".join(",".join(map(str, row)) for row in cells))
    whole = inside("predict", run, "x.csv").out
    monkeypatch.setattr(stream, "BLOCK", 512)
    pieces = inside("predict", run, "x.csv").out
    assert_equal_but_for_rounding(whole, pieces)
    inside("predict", run, "x.csv", "--out", "o.parquet")
    assert pl.read_parquet(tmp_path / "o.parquet").height == 300
    assert_equal_but_for_rounding(whole, pl.read_parquet(tmp_path / "o.parquet").write_csv(separator="\t"))


def assert_equal_but_for_rounding(one, other):
    """Another batch size sums in another order."""
    one, other = (pl.read_csv(io.StringIO(text), separator="\t") for text in (one, other))
    assert one.drop(ADDED[1:]).equals(other.drop(ADDED[1:]))
    np.testing.assert_allclose(one[ADDED[1:]].to_numpy(), other[ADDED[1:]].to_numpy(), atol=1e-6)


def test_a_late_bad_cell_leaves_no_file(inside, run, tmp_path, monkeypatch):
    from dlkit.data import stream

    monkeypatch.setattr(stream, "BLOCK", 256)
    (tmp_path / "x.csv").write_text(NAMES + "\n" + "1,2,3,4\n" * 100 + "1,2,x,4\n")
    for out in ("o.csv", "o.parquet"):
        assert_error(inside("predict", run, "x.csv", "--out", out), 65, "line 102", "petal length", "'x'")
    assert [path.name for path in tmp_path.iterdir()] == ["x.csv"]


def test_stdin(inside, run, monkeypatch):
    class Stdin:
        buffer = io.BufferedReader(io.BytesIO(f"{NAMES}\n5.1,3.5,1.4,0.2\n".encode()))

    monkeypatch.setattr("sys.stdin", Stdin)
    ran = inside("predict", run, "-", "--format", "csv")
    assert ran.code == 0 and ran.out.splitlines()[1].startswith("5.1,3.5,1.4,0.2,")


def test_columns_by_name_and_categories_as_at_fit(inside, table_run, tmp_path):
    """Another order, no target, an unknown category, missing cells, a code that is a number without its zeros."""
    (tmp_path / "x.csv").write_text("extra,kind,code,day,size\n1,a,001,2024-02-01,0.5\nx,z,,,\n,b,002,2031-12-31,NA\n")
    ran = inside("predict", table_run, "x.csv", "--format", "jsonl")
    rows = [json.loads(line) for line in ran.out.splitlines()]
    assert [set(row) for row in rows] == [{"extra", "kind", "code", "day", "size", "prediction", "p_no", "p_yes"}] * 3
    assert all(row["p_no"] + row["p_yes"] == pytest.approx(1) for row in rows)
    (tmp_path / "x.jsonl").write_text('{"size": 0.5, "kind": "a", "day": "2024-02-01", "code": "001"}\n')
    again = json.loads(inside("predict", table_run, "x.jsonl", "--format", "jsonl").out)
    assert again["p_yes"] == pytest.approx(rows[0]["p_yes"], abs=1e-6)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("sise,kind,day,code\n1,a,2024-01-01,001\n", ["'size'", "'sise'"]),
        ("kind\na\n", ["'size' (and 2 more)"]),
        ("size,kind,day,code\nbig,a,2024-01-01,001\n", ["line 2", "'size'", "'big'"]),
        ("size,kind,day,code\n1,a,yesterday,001\n", ["line 2", "'day'", "'yesterday'"]),
        ("size,kind,day,code,prediction\n1,a,2024-01-01,001,no\n", ["'prediction' already"]),
        ("size,kind,day,code\n", ["no rows"]),
        ("", ["nothing in it"]),
        ("size,kind,day,code\n1,a\n", ["line 2"]),
    ],
)
def test_what_cannot_be_predicted(inside, table_run, tmp_path, text, words):
    (tmp_path / "x.csv").write_text(text)
    assert_error(inside("predict", table_run, "x.csv"), 2 if "already" in words[0] else 65, "x.csv", *words)


def test_out_that_cannot_be(inside, run, tmp_path):
    assert_error(inside("predict", run, "iris", "--out", "x.xlsx"), 2, ".parquet")
    assert_error(inside("predict", run, "iris", "--out", "no/such/x.csv"), 73, "no/such/x.csv")
    (tmp_path / "x.csv").mkdir()
    assert_error(inside("predict", run, "iris", "--out", "x.csv"), 73, "x.csv")
    assert not list((tmp_path / "x.csv").iterdir())
    (tmp_path / "y.csv").write_text(NAMES + "\n1,2,3,4\n")
    assert_error(inside("predict", run, "y.csv", "--out", "./y.csv"), 73, "the data itself")
    assert (tmp_path / "y.csv").read_text() == NAMES + "\n1,2,3,4\n"


@pytest.mark.parametrize("name", ["o.csv", "o.csv.gz", "o.jsonl", "o.parquet"])
def test_a_full_disk(inside, run, tmp_path, monkeypatch, name):
    """Every format goes to a device that is full, as the temporary file would be."""
    from contextlib import contextmanager
    from pathlib import Path

    @contextmanager
    def full(path):
        yield Path("/dev/full")

    monkeypatch.setattr("dlkit.data.predict.replacing", full)
    assert_error(inside("predict", run, "iris", "--out", name), 74, f"cannot write {name}", "no space left")


def test_a_list_has_no_cell_in_csv(inside, run, tmp_path):
    columns = {name: [1.0] for name in NAMES.split(",")}
    pl.DataFrame({**columns, "list": [[1, 2]]}).write_parquet(tmp_path / "x.parquet")
    assert inside("predict", run, "x.parquet", "--out", "o.parquet").code == 0
    assert pl.read_parquet(tmp_path / "o.parquet")["list"].to_list() == [[1, 2]]
    assert_error(inside("predict", run, "x.parquet", "--out", "o.csv"), 65, "'list'")
    assert not (tmp_path / "o.csv").exists()


def test_images_without_labels(inside, tmp_path):
    out = str(tmp_path / "run")
    assert inside("train", "digits", "flatten", "linear:10", "--epochs", "1", "--out", out, "-q").code == 0
    np.savez(tmp_path / "x.npz", X=np.zeros((3, 8, 8), np.uint8))
    rows = inside("predict", out, "x.npz").out.splitlines()
    assert rows[0].split("\t")[:3] == ["row", "prediction", "p_0"] and len(rows) == 4
    np.savez(tmp_path / "big.npz", X=np.zeros((3, 9, 9), np.uint8))
    assert_error(inside("predict", out, "big.npz"), 65, "1×9×9", "1×8×8")
    assert_error(inside("predict", out, "iris"), 65, "images")


def test_text_formats_are_those_of_every_command(inside, run, tmp_path):
    """A million rows are written by another way than a few: cell by cell it must come to the same."""
    from dlkit import __version__
    from dlkit.commands import _runs
    from dlkit.core import render
    from dlkit.core.reading import Reading
    from dlkit.core.run import open_run
    from dlkit.data import predict

    cells = ['"a\tb"', '"c\\d"', '"two\nlines"', "x\x1by", '"q""q"', "", "ü"]
    text = f"{NAMES},mark\n" + "".join(f"5,3.10,1.4,,{cell}\n" for cell in cells)
    (tmp_path / "x.csv").write_text(text)
    for form in ("tsv", "csv", "jsonl"):
        fast = inside("predict", run, "x.csv", "--format", form).out
        result = predict.printed(
            _runs.open_ensemble([open_run(run)], Reading(), "cpu", None, None, None), "x.csv", Reading(), ""
        )
        result.encode = None
        slow = io.StringIO()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("sys.stdout", slow)
            render.write(result, "predict", __version__, form, False)
        if form == "jsonl":
            assert [json.loads(line) for line in fast.splitlines()] == [
                json.loads(line) for line in slow.getvalue().splitlines()
            ]
        else:
            assert fast == slow.getvalue().replace("5.0", "5").replace("3.1\t", "3.10\t").replace("3.1,", "3.10,")


def test_a_table_is_for_reading(inside, run, tmp_path):
    """The first rows of many, and no name or cell that a terminal would obey."""
    shown = inside("predict", run, "iris", "--format", "table").out
    assert "the first 40 rows" in shown and len(shown.splitlines()) < 50
    (tmp_path / "x.csv").write_text(f"[/]\x1b[31m,{NAMES}\n\x1b[31m,1,2,3,4\n")
    shown = inside("predict", run, "x.csv", "--format", "table").out
    assert "\x1b" not in shown and "[/]\\x1b[31m" in shown
    assert inside("predict", run, "x.csv", "--format", "csv").out.startswith("[/]\x1b[31m,")
