"""CSV: what is read, what is refused and how it is named, with Python's own csv module as the oracle."""

import csv
import gzip
import io

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from dlkit.core.errors import DlkitError
from dlkit.core.reading import Reading
from dlkit.data import Role, csvscan, load
from dlkit.data.delimited import read_delimited
from dlkit.data.source import Source


def table(*lines: str) -> str:
    return "".join(line + "\n" for line in lines)


PATHOLOGIES = {
    # name: (content, what the message must say)
    "short row": (table("x,y", "1,a", "2"), ["line 3 has 1 cell;", "header has 2"]),
    "long row": (table("x,y", "1,a", "2,b,c"), ["line 3 has 3 cells", "header has 2"]),
    "blank line": (table("x,y", "1,a", "", "2,b"), ["line 3 is blank"]),
    "blank line, CRLF": ("x,y\r\n1,a\r\n\r\n2,b\r\n", ["line 3 is blank"]),
    "short after a quoted line end": (table('x,y,"z\nz"', '1,a,"p\nq"', "2"), ["line 5 has 1 cell"]),
    "ragged record that spans lines": (table("x,y", "1,a", '"p\nq"'), ["line 3 has 1 cell"]),
    "duplicate name": (table("x,y,x", "1,a,2"), ["columns 1 and 3", "'x'"]),
    "no name": (table("x,,y", "1,2,a"), ["column 2 has no name"]),
    "blank name": (table("x, ,y", "1,2,a"), ["column 2 has no name"]),
    "index column": (table(",x,y", "0,1,a"), ["column 1 has no name"]),
    "NUL": ("x,y\n1,\0\n", ["line 2", "NUL"]),
    "latin-1": ("x,y\n1,a\n2,é\n".encode("latin-1"), ["line 3", "UTF-8", "0xe9"]),
    "UTF-16": ("x,y\n1,a\n".encode("utf-16"), ["UTF-16"]),
    "open quote": (table("x,y", '1,"a', "2,b"), ["line 2", "never closes"]),
    "quote in a cell": (table("x,y", '5" disk,a'), ["line 2", "quote inside a cell"]),
    "text after a quote": (table("x,y", '"1"2,a'), ["line 2", "after a closing quote"]),
    "text after a quote, lines on": (table("x,y", '1,"a', '2,"b"'), ["line 3", "opened in line 2"]),
    "blank before a quote": (table("x,y", '1, "a"'), ["line 2", "quote inside a cell"]),
    "old Mac": ("x,y\r1,a\r2,b\r", ["carriage return"]),
    "stray return": ("x,y\n1,a\rb\n", ["line 2", "carriage return"]),
    "header alone": ("x,y\n", ["header and no rows"]),
    "nothing": ("", ["nothing in it"]),
    "line ends alone": ("\n\n\n", ["nothing in it"]),
    "byte order mark alone": (b"\xef\xbb\xbf", ["nothing in it"]),
    "semicolons": (table("x;y", "1;a"), ["one column", "';'"]),
    "odd cell": (table("x,y", *["1,a", "2,b"] * 20, "?,a"), ["line 42", "column 'x'", "'?'", "not a number"]),
    "infinity": (table("x,y", *["1,a", "2,b"] * 20, "inf,a"), ["line 42", "column 'x'", "'inf'"]),
    "overflow": (table("x,y", *["1,a", "2,b"] * 20, "1e999,a"), ["line 42", "'1e999'"]),
    "blanks for missing": (table("x,y", *["1,a", "2,b"] * 20, "  ,a"), ["line 42", "'  '"]),
    "odd cell after a quoted line end": (
        table("z,x,y", *['"p\nq",1,a', "r,2,b"] * 20, "r,x9,a"),
        ["line 62", "'x9'"],
    ),
    "constant target": (table("x,y", "1,a", "2,a"), ["'y'", "'a' in every row"]),
    "target missing everywhere": (table("x,y", "1,", "2,"), ["every cell", "'y'"]),
    "one class a row": (table("x,y", "1,a", "2,b"), ["every row has its own value"]),
    "nothing to learn from": (table("x,y", "1,a", "1,b", "1,b"), ["no column beside the target"]),
    "png": (b"\x89PNG\r\n\x1a\n" + bytes(50), ["PNG"]),
    "pickle": (b"\x80\x04\x95" + bytes(50), ["pickle"]),
    "random bytes": (bytes(range(1, 256)), ["not UTF-8"]),
    "damaged gzip": (gzip.compress(b"x,y\n" * 99)[:-9], ["damaged"]),
}


@pytest.mark.parametrize(("content", "said"), PATHOLOGIES.values(), ids=PATHOLOGIES)
def test_bad_input_is_named(write, refused, content, said):
    path = write("data.csv", content)
    error = refused(path)
    assert error.code == 65 and error.message.startswith(path)
    for words in said:
        assert words in error.message


FINE = {
    "CRLF": "x,y\r\n1,a\r\n2,a\r\n3,b\r\n",
    "no last line end": "x,y\n1,a\n2,a\n3,b",
    "blank lines at the end": "x,y\n1,a\n2,a\n3,b\n\n\n",
    "blank lines at the end, CRLF": "x,y\r\n1,a\r\n2,a\r\n3,b\r\n\r\n\r\n",
    "byte order mark": "\ufeffx,y\n1,a\n2,a\n3,b\n",
    "quotes": '"x","y"\n"1","a"\n"2",a\n3,"b"\n',
    "blanks around numbers": "x,y\n 1,a\n2 ,a\n\t3 ,b\n",
}


@pytest.mark.parametrize("content", FINE.values(), ids=FINE)
def test_what_is_fine(write, content):
    dataset = load(write("data.csv", content))
    assert dataset.frame["x"].to_list() == [1, 2, 3] and dataset.classes == ("a", "b")
    assert [dataset.where(row) for row in range(3)] == ["line 2", "line 3", "line 4"]


def test_compressed_is_the_same_data(write):
    from pathlib import Path

    zstd = pytest.importorskip("backports.zstd", reason="Zstandard is read by an optional package")
    content = FINE["CRLF"].encode()
    plain = load(write("a.csv", content))
    for name, data in (("b.csv.gz", gzip.compress(content)), ("c.csv.zst", zstd.compress(content))):
        packed = load(write(name, data))
        assert packed.frame.equals(plain.frame) and packed.fingerprint == plain.fingerprint
        assert packed.name == Path(name).name[0]


def test_a_bomb_is_refused_as_it_unpacks(write, refused, monkeypatch):
    monkeypatch.setattr("dlkit.data.source.BOMB_BYTES", 1 << 20)
    monkeypatch.setattr("dlkit.data.source.BOMB_RATIO", 100)
    packed = gzip.compress(bytes(1 << 27))
    error = refused(write("bomb.csv.gz", packed))
    assert error.code == 65 and "bomb" in error.message


def test_delimiters(write, refused):
    for name, char in (("a.tsv", "\t"), ("a.csv", ";"), ("b.csv", "|")):
        path = write(name, FINE["no last line end"].replace(",", char))
        assert load(path, Reading(delimiter=None if name == "a.tsv" else char)).frame.columns == ["x"]
    assert refused(write("c.csv", "x;y\n1;a\n")).hint == "--delimiter ';'"
    assert load(write("d.csv", "x\ty\n1\ta\n2\ta\n3\tb\n"), Reading(delimiter="\\t")).rows == 3
    for wrong in ("", ",,", "é", '"', "a", "\n"):
        assert refused(path, delimiter=wrong).code == 2


def test_stdin(monkeypatch):
    for content in (FINE["CRLF"], FINE["CRLF"].replace(",", "\t")):
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(content.encode())))
        dataset = load("-")
        assert dataset.rows == 3 and dataset.name == "stdin"


# ---------------------------------------------------------------- what is missing, what is a number

NUMBERS = ["0", "-1", "+2.5", "3.", ".5", "1e3", "-1.25E-2", "123456789.123456789", "0.1", "1e-320", "9007199254740993"]


def test_numbers_are_read_as_python_reads_them(write):
    rows = [f"{text},{'ab'[i % 2]}" for i, text in enumerate(NUMBERS)]
    assert load(write("a.csv", table("x,y", *rows))).frame["x"].to_list() == [float(text) for text in NUMBERS]


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_a_number_survives(value):
    content = f"x,y\n{value!r},1\n0.5,2\n".encode()
    frame = read_delimited(Source("x.csv", content, ".csv"), Reading()).frame
    from dlkit.data.infer import parse_numbers

    assert parse_numbers(frame["x"])[0][0] == value


def test_missing_words_are_words_in_a_column_of_words(write):
    rows = ["NA,NA,1", "NaN,a,2", "null,a,1", ",,2", "1.5,NA,1", "2.5,b,2"]
    frame = load(write("a.csv", table("number,word,y", *rows))).frame
    assert frame["number"].to_list() == [None] * 4 + [1.5, 2.5]
    assert frame["word"].to_list() == ["NA", "a", "a", None, "NA", "b"]


def test_na_adds_to_what_is_missing(write, refused):
    rows = [f"{'?' if i == 7 else i % 5},{'-' if i == 3 else 'uv'[i % 2]},{i % 2}" for i in range(40)]
    path = write("a.csv", table("x,word,y", *rows))
    assert "--na '?'" in refused(path).hint
    frame = load(path, Reading(na=["?", "-"])).frame
    assert frame["x"].null_count() == frame["word"].null_count() == 1
    assert load(path, Reading(categorical=["x"])).frame["x"][7] == "?"
    assert load(path, Reading(drop=["x"])).frame.columns == ["word"]


def test_other_spellings_of_missing_are_not_guessed(write):
    rows = [f"{'nan' if i % 4 == 0 else i % 7},{i % 2}" for i in range(40)]
    dataset = load(write("a.csv", table("x,y", *rows)))
    assert dataset.frame["x"].null_count() == 0
    assert any("--na nan" in note and "column 'x'" in note for note in dataset.notes)


def test_leading_zeros_stay_text(write):
    rows = [f"{i % 4:05d},{i},{i % 2}" for i in range(40)]
    dataset = load(write("a.csv", table("zip,x,y", *rows)))
    assert dataset.frame["zip"][1] == "00001" and any("'zip'" in note for note in dataset.notes)
    assert load(write("b.csv", table("zip,x,y", *rows)), Reading(numeric=["zip"])).frame["zip"][1] == 1
    plain = load(write("c.csv", table("x,y", "0,1", "0.5,1", "-0.5,2")))
    assert plain.frame["x"].to_list() == [0, 0.5, -0.5]


def test_forced_numbers_must_be_numbers(write, refused):
    path = write("a.csv", table("x,y", "1,u", "b,u", "c,v"))
    error = refused(path, numeric=["x"])
    assert error.code == 65 and "line 3, column 'x': 'b'" in error.message
    assert load(path, Reading(numeric=["x"], na=["b", "c"])).frame["x"].to_list() == [1, None, None]


@pytest.mark.parametrize(
    ("cells", "first"),
    [
        (["2019-03-23", "2020-02-29"], "2019-03-23 00:00:00"),
        (["2019-03-23 20:21:09", "2020-02-29 00:00"], "2019-03-23 20:21:09"),
        (["2019-03-23T20:21:09.25", "2020-02-29"], "2019-03-23 20:21:09.250000"),
        (["2019-03-23T20:21:09Z", "2020-02-29 01:00:00+01:00"], "2019-03-23 20:21:09"),
        (["2019-03-23T20:21:09-05:00", "2020-02-29 01:00+01:00"], "2019-03-24 01:21:09"),
    ],
)
def test_dates(write, cells, first):
    dataset = load(
        write("a.csv", table("t,x,y", *[f"{c},{i},{i}" for i, c in enumerate(cells)])), Reading(task="regression")
    )
    assert str(dataset.frame["t"][0]) == first and dataset.columns[0].role == Role.DATETIME


@pytest.mark.parametrize("wrong", ["2019-02-30", "2019-13-01", "2019-1-1", "NA", "2019-03-23 25:00:00"])
def test_what_is_no_date_makes_no_dates(write, wrong):
    dataset = load(
        write("a.csv", table("t,x,y", "2019-01-01,1,1", "2019-01-02,2,2", f"{wrong},3,3")), Reading(task="regression")
    )
    assert dataset.frame["t"][2] == wrong


# ---------------------------------------------------------------- against an oracle


def oracle(text: str, delimiter: str = ",") -> list[list[str]]:
    """Rows as the csv module reads them; of a table of one column, a blank line is an empty cell."""
    rows = list(csv.reader(io.StringIO(text.rstrip("\r\n"), newline=""), delimiter=delimiter, strict=True))
    return [row or [""] for row in rows]


def check_against_oracle(content: bytes, chunk: int = 1 << 22, header: bool = True) -> bool:
    """Whether `content` is read. Refused it is as bad data; read, its cells are the oracle's."""
    before, csvscan.CHUNK = csvscan.CHUNK, chunk
    try:
        read = read_delimited(Source("data.csv", content, ".csv"), Reading(delimiter=",", header=header))
    except DlkitError as error:
        assert error.code == 65 and "\n" not in error.message
        return False
    finally:
        csvscan.CHUNK = before
    expected = oracle(content.decode().removeprefix("\ufeff"))
    if not header:
        expected.insert(0, [f"c{i}" for i in range(1, len(expected[0]) + 1)])
    assert read.frame.columns == expected[0]
    assert [[cell or "" for cell in row] for row in read.frame.rows()] == expected[1:]
    lines = content.decode().removeprefix("\ufeff").split("\n")
    starts = [lines[line - 1] for line in read.place.numbers]
    for start, row in zip(starts, expected[1:], strict=True):
        assert start.lstrip('"').startswith(row[0].split("\n")[0].split('"')[0].rstrip("\r"))
    return True


hostile_bytes = st.one_of(
    st.binary(max_size=60),
    st.text(alphabet='ab1,"\n\r \t;\ufeffé', max_size=60).map(str.encode),
)
cell = st.text(alphabet='ab1,"\n\r é\ufeff', max_size=5)


@st.composite
def honest_tables(draw) -> bytes:
    """A table as the csv module writes it, perhaps with one byte of damage."""
    width = draw(st.integers(1, 4))
    rows = draw(st.lists(st.lists(cell, min_size=width, max_size=width), min_size=1, max_size=6))
    out = io.StringIO(newline="")
    quoting = draw(st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]))
    ends = draw(st.sampled_from(["\n", "\r\n"]))
    writer = csv.writer(out, quoting=quoting, lineterminator=ends)
    writer.writerows([[f"h{i}" for i in range(width)], *rows])
    content = bytearray(out.getvalue().encode())
    if draw(st.booleans()):
        content[draw(st.integers(0, len(content) - 1))] = draw(st.sampled_from(b',"\n\r a\0\xff'))
    return bytes(content)


ANY_FILE = {
    "content": st.one_of(honest_tables(), hostile_bytes),
    "chunk": st.sampled_from([1, 2, 3, 7, 1 << 22]),
    "header": st.booleans(),
}


@given(**ANY_FILE)
@settings(max_examples=500, deadline=None)
@example(b'h\n"\n"\n', 1, True)
@example(b'h0\n""\n\n\n', 1, True)
@example(b"\xef\xbb\xbf\xef\xbb\xbfa\n1\n", 1, True)
def test_read_as_the_oracle_reads_it_or_refused(content, chunk, header):
    check_against_oracle(content, chunk, header)


@pytest.mark.slow
@given(**ANY_FILE)
@settings(max_examples=10_000, deadline=None, suppress_health_check=list(HealthCheck))
def test_read_as_the_oracle_reads_it_or_refused_10000_times(content, chunk, header):
    check_against_oracle(content, chunk, header)


@given(st.lists(st.lists(cell, min_size=3, max_size=3), min_size=1, max_size=8))
@settings(max_examples=200, deadline=None)
def test_what_the_csv_module_writes_is_read(rows):
    out = io.StringIO(newline="")
    csv.writer(out, quoting=csv.QUOTE_ALL).writerows([["a", "b", "c"], *rows])
    assert check_against_oracle(out.getvalue().encode(), 5)


def test_a_table_beyond_one_chunk(write):
    """Quoted line ends and quotes across the borders of chunks, and of the parser's own."""
    rng = np.random.default_rng(0)
    pool = ["plain", 'say "hi"', "two\nlines", "a,b", "", "\r\n", '"', "x" * 300]
    cells = rng.choice(np.array(pool, dtype=object), size=(40_000, 3))
    out = io.StringIO(newline="")
    csv.writer(out).writerows([["a", "b", "c"], *cells.tolist()])
    assert check_against_oracle(out.getvalue().encode(), 1 << 16)
