"""A source read piece by piece is the source read whole, and is wrong in the same lines."""

import gzip
import io
import json
import random

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dlkit.core.errors import DlkitError
from dlkit.core.reading import Reading
from dlkit.data import stream
from dlkit.data.load import read_table
from dlkit.data.stream import tables


@pytest.fixture
def small_blocks(monkeypatch):
    monkeypatch.setattr(stream, "BLOCK", 64)
    monkeypatch.setattr(stream, "PARQUET_ROWS", 7)


def pieces(path, reading=None):
    return list(tables(str(path), reading or Reading()))


def assert_same(path, reading=None):
    """Every cell, and where each row stands."""
    whole, parts = read_table(str(path), reading or Reading(), False), pieces(path, reading)
    assert len(parts) > 1
    assert pl.concat([part.frame for part in parts]).equals(whole.frame)
    places = [part.place.where(row) for part in parts for row in range(part.rows)]
    assert places == [whole.place.where(row) for row in range(whole.rows)]


def test_csv_with_quotes_across_lines(small_blocks, tmp_path):
    draw = random.Random(0)
    cells = ["1", "", "plain", '"a,b"', '"two\nlines"', '"say ""hi"""', '"\n\n"', "ü"]
    rows = [",".join(draw.choice(cells) for _ in range(3)) for _ in range(200)]
    (tmp_path / "x.csv").write_text("a,b,c\n" + "\n".join(rows) + "\n\n\n")
    assert_same(tmp_path / "x.csv")
    (tmp_path / "x.csv.gz").write_bytes(gzip.compress((tmp_path / "x.csv").read_bytes()))
    assert_same(tmp_path / "x.csv.gz")
    (tmp_path / "crlf.tsv").write_bytes(("\ufeffa\tb\r\n" + "1\t2\r\n" * 100).encode())
    assert_same(tmp_path / "crlf.tsv")
    (tmp_path / "bare.csv").write_text("1;2\n" * 100)
    assert_same(tmp_path / "bare.csv", Reading(delimiter=";", header=False))


def test_json_lines_and_parquet(small_blocks, tmp_path):
    rows = [{"a": i, "b": "x" * (i % 5), "c": None if i % 3 else i / 7} for i in range(100)]
    (tmp_path / "x.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert_same(tmp_path / "x.jsonl")
    pl.DataFrame(rows).write_parquet(tmp_path / "x.parquet")
    assert_same(tmp_path / "x.parquet")


def test_keys_of_later_lines(small_blocks, tmp_path):
    """A key left out is an empty cell; one that comes too late is an error, as its column was not there before."""
    lines = ['{"a": 1, "b": 2}'] * 20 + ['{"b": 3}'] * 20
    (tmp_path / "x.jsonl").write_text("\n".join(lines))
    together = pl.concat([part.frame for part in pieces(tmp_path / "x.jsonl")], how="vertical_relaxed")
    assert together["a"].to_list() == [1.0] * 20 + [None] * 20
    (tmp_path / "x.jsonl").write_text("\n".join([*lines, '{"b": 3, "c": 4}']))
    with pytest.raises(DlkitError, match="'c' first comes"):
        pieces(tmp_path / "x.jsonl")


@pytest.mark.parametrize("bad", ["1,2,3", "1", '1,"open', '1,x"', '"a"b,2', "\x00,1", "", "1,\udce9"])
@pytest.mark.parametrize("at", [0, 3, 57, 99])
def test_errors_name_the_line_that_the_whole_file_has(small_blocks, tmp_path, bad, at):
    rows = ['"x\ny",2' if i % 7 == 0 else "1,2" for i in range(100)]
    rows[at] = bad
    text = "a,b\n" + "\n".join(rows) + "\n"
    (tmp_path / "x.csv").write_bytes(text.encode("utf-8", "surrogateescape"))
    if at == 99 and not bad:
        assert sum(part.rows for part in pieces(tmp_path / "x.csv")) == 99
        return
    with pytest.raises(DlkitError) as whole:
        read_table(str(tmp_path / "x.csv"), Reading(), False)
    with pytest.raises(DlkitError) as parts:
        pieces(tmp_path / "x.csv")
    assert (parts.value.message, parts.value.code) == (whole.value.message, whole.value.code)


@given(st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\0\r"), max_size=12), min_size=1, max_size=40))
@settings(max_examples=40)
def test_any_text_comes_out_as_it_went_in(tmp_path_factory, cells):
    path = tmp_path_factory.mktemp("s") / "x.csv"
    frame = pl.DataFrame({"a": cells, "b": cells[::-1]})
    path.write_bytes(frame.write_csv(quote_style="always").encode())
    block, stream.BLOCK = stream.BLOCK, 32
    try:
        assert pl.concat([part.frame for part in tables(str(path), Reading())]).equals(frame)
    finally:
        stream.BLOCK = block


def test_stdin_in_pieces(small_blocks, monkeypatch):
    class Stdin:
        buffer = io.BufferedReader(io.BytesIO(b"a,b\n" + b"1,2\n" * 100))

    monkeypatch.setattr("sys.stdin", Stdin)
    parts = pieces("-")
    assert len(parts) > 5 and sum(part.rows for part in parts) == 100


def test_what_is_read_whole(tmp_path):
    np.savez(tmp_path / "x.npz", X=np.zeros((3, 4, 4), np.uint8))
    assert [part.rows for part in pieces(tmp_path / "x.npz")] == [3]
    assert [part.rows for part in pieces("iris")] == [150]
    (tmp_path / "x.csv").write_text("a\n1\n")
    assert [part.rows for part in pieces(tmp_path / "x.csv")] == [1]


@pytest.mark.parametrize(("content", "code"), [(None, 66), (b"", 65), (b"\x1f\x8b broken", 65), (b"a,b\n", 65)])
def test_no_rows(tmp_path, content, code):
    if content is not None:
        (tmp_path / "x.csv").write_bytes(content)
    with pytest.raises(DlkitError) as caught:
        pieces(tmp_path / "x.csv")
    assert caught.value.code == code


def test_a_record_without_end_is_refused(small_blocks, monkeypatch, tmp_path):
    monkeypatch.setattr(stream, "MOST", 1000)
    (tmp_path / "x.csv").write_text("a\n" + "1" * 5000)
    with pytest.raises(DlkitError, match="a record of more than"):
        pieces(tmp_path / "x.csv")
