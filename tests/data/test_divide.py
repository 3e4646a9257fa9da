"""`dlkit split`: what it writes is what was there, row for row, in the same format; all of it or nothing."""

import csv
import gzip
import io
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import environment
from test_contract import assert_error

from dlkit.core.errors import DlkitError
from dlkit.core.reading import Reading
from dlkit.core.splitting import Splitting
from dlkit.core.whole import whole_directory
from dlkit.data import read
from dlkit.data.divide import Order, split
from dlkit.data.source import zstandard

TABLE = "id,word,x,y\n" + "".join(f"{i},{'ab'[i % 2]},{i / 2},{i % 3}\n" for i in range(50))


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def cut(path: str, splitting: Splitting = Splitting(), reading: Reading = Reading(), **order):  # noqa: B008
    return split(path, reading, splitting, Order(out="out", **order))


def records(data: bytes) -> list[bytes]:
    """The records of a CSV file with their line ends, quotes respected."""
    found, start = [], 0
    while start < len(data):
        stop = start
        while True:
            stop = data.find(b"\n", stop) + 1 or len(data)
            if data.count(b'"', start, stop) % 2 == 0 or stop == len(data):
                break
        found.append(data[start:stop])
        start = stop
    return found


cell = st.text(alphabet='ab1,"\n é', max_size=6)


@st.composite
def tables(draw) -> tuple[bytes, bytes]:
    """(byte order mark or nothing, a CSV file as the csv module writes it, its last line end perhaps left out)."""
    rows = draw(st.lists(st.lists(cell, min_size=2, max_size=2), min_size=4, max_size=12))
    ends, quoting = draw(st.sampled_from(["\n", "\r\n"])), draw(st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]))
    out = io.StringIO(newline="")
    csv.writer(out, lineterminator=ends, quoting=quoting).writerows([["a", "b"], *[[a + "x", b] for a, b in rows]])
    content = out.getvalue().encode()
    return draw(st.sampled_from([b"", b"\xef\xbb\xbf"])), content if draw(st.booleans()) else content[: -len(ends)]


def check_kept(folder: Path, mark: bytes, content: bytes) -> None:
    """The sides of a file together are its records, byte for byte, each in the order in which they were."""
    (folder / "a.csv").write_bytes(mark + content)
    split(str(folder / "a.csv"), Reading(), Splitting(), Order(0.5, out=str(folder / "out")))
    end = b"\r\n" if records(content)[0].endswith(b"\r\n") else b"\n"
    head, *expected = records(content if content.endswith(end) else content + end)
    sides = [(folder / "out" / f"{side}.csv").read_bytes() for side in ("train", "valid")]
    assert all(side.startswith(mark + head) for side in sides)
    kept = [records(side[len(mark) :])[1:] for side in sides]
    assert sorted(kept[0] + kept[1]) == sorted(expected)
    for side in kept:
        at = iter(expected)
        assert all(record in at for record in side)


@given(tables())
@settings(max_examples=40)
def test_records_are_kept_byte_for_byte(tmp_path_factory, table):
    check_kept(tmp_path_factory.mktemp("bytes"), *table)


@pytest.mark.slow
@given(tables())
@settings(max_examples=3000, deadline=None)
def test_records_are_kept_byte_for_byte_3000_times(tmp_path_factory, table):
    folder = tmp_path_factory.mktemp("bytes")
    check_kept(folder, *table)
    shutil.rmtree(folder)


@pytest.mark.parametrize("suffix", ["", ".gz", ".zst"])
@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl", "txt"])
def test_text_in_its_own_format_and_compression(here, kind, suffix):
    lines = [json.dumps({"a": i, "b": "é"}) for i in range(20)] if kind == "jsonl" else [f"{i}" for i in range(20)]
    head = ["n"] if kind in ("csv", "tsv") else []
    content = "\n".join([*head, *lines]).encode()
    pack = {"": bytes, ".gz": gzip.compress, ".zst": zstandard("").compress}[suffix]
    name = f"a.{kind}{suffix}"
    Path(name).write_bytes(pack(content))
    result = cut(name, valid=0.25)
    assert [Path(row["path"]).name for row in result.rows] == [f"train.{kind}{suffix}", f"valid.{kind}{suffix}"]
    undo = {"": bytes, ".gz": gzip.decompress, ".zst": zstandard("").decompress}[suffix]
    sides = [undo(Path(row["path"]).read_bytes()).decode().splitlines()[len(head) :] for row in result.rows]
    assert sorted(sides[0] + sides[1]) == sorted(lines) and len(sides[1]) == 5
    if kind == "txt":
        assert sides[0] == lines[:15] and result.summary["method"] == "order"
    again = split(name, Reading(), Splitting(), Order(0.25, out="again"))
    for first, second in zip(result.rows, again.rows, strict=True):
        assert Path(first["path"]).read_bytes() == Path(second["path"]).read_bytes()


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "latin-1", "cp1252", "utf-32"])
def test_other_encodings_stay_what_they_are(here, encoding):
    content = "ä,b\n" + "".join(f"é{i},{i}\n" for i in range(12))
    Path("a.csv").write_bytes(content.encode(encoding))
    result = cut("a.csv", reading=Reading(encoding=encoding), valid=0.5)
    frames = [read(row["path"], Reading(encoding=encoding, text=["ä"])).frame for row in result.rows]
    assert pl.concat(frames).sort("b")["ä"].to_list() == [f"é{i}" for i in range(12)]
    mark = content.encode(encoding)[: 2 if encoding == "utf-16" else 4 if encoding == "utf-32" else 0]
    assert all(Path(row["path"]).read_bytes().startswith(mark) for row in result.rows)


def test_an_encoding_that_does_not_come_back_is_refused(here):
    Path("a.csv").write_bytes(b"a,b\n1,+AGE-\n2,x\n3,y\n4,z\n")
    with pytest.raises(DlkitError, match="byte for byte") as caught:
        cut("a.csv", reading=Reading(encoding="utf-7"))
    assert caught.value.code == 65 and not Path("out").exists()


def test_parquet_keeps_its_types(here):
    frame = pl.DataFrame({"a": range(10), "b": [[i] for i in range(10)], "c": [f"c{i % 3}" for i in range(10)]})
    frame = frame.with_columns(pl.col("c").cast(pl.Categorical))
    frame.write_parquet("a.parquet")
    result = cut("a.parquet", Splitting(group="c"), valid=0.3)
    back = pl.concat([pl.read_parquet(row["path"]) for row in result.rows]).sort("a")
    assert back.schema == frame.schema and back["b"].to_list() == frame["b"].to_list()


def test_arrays_are_cut_together(here):
    x, y = np.arange(40).reshape(20, 2), np.arange(20)
    np.savez("a.npz", X=x, y=y, names=np.array(["p", "q"]))
    result = cut("a.npz", Splitting(stratify="x1"))
    sides = [np.load(row["path"]) for row in result.rows]
    for side in sides:
        assert (side["X"][:, 0] == 2 * side["y"]).all() and side["names"].tolist() == ["p", "q"]
    assert sorted(np.concatenate([side["y"] for side in sides])) == y.tolist()
    np.save("b.npy", x)
    result = split("b.npy", Reading(), Splitting(), Order(out="b"))
    assert sorted(np.concatenate([np.load(row["path"]) for row in result.rows])[:, 0]) == x[:, 0].tolist()


def test_idx_files_are_cut_together(here):
    images = np.arange(30 * 4, dtype=np.uint8).reshape(30, 2, 2)
    header = b"\0\0\x08\x03" + b"".join(n.to_bytes(4, "big") for n in images.shape)
    Path("t-images-idx3-ubyte").write_bytes(header + images.tobytes())
    Path("t-labels-idx1-ubyte").write_bytes(b"\0\0\x08\x01" + (30).to_bytes(4, "big") + bytes(range(30)))
    result = cut("t-images-idx3-ubyte", valid=0.5)
    with pytest.raises(DlkitError, match="no column 'z'"):
        split("t-images-idx3-ubyte", Reading(), Splitting(stratify="z"), Order(out="z"))
    even = split("t-images-idx3-ubyte", Reading(), Splitting(stratify="y"), Order(out="even"))
    assert even.summary["method"] == "stratify"
    for row in result.rows:
        side = read(row["path"])
        assert side.rows == 15 and (side.arrays[:, 0, 0, 0] == 4 * side.frame["y"].to_numpy()).all()


def pictures(folder: Path) -> None:
    for name in ("a", "b"):
        (folder / name).mkdir(parents=True)
        for i in range(6):
            (folder / name / f"{i}.png").write_bytes(b"\x89PNG not looked at")


def test_images_stay_where_they_are(here):
    pictures(here / "photos")
    result = cut("photos", Splitting(stratify="class"), valid=0.5)
    found = [row for path in result.rows for row in csv.DictReader(Path(path["path"]).read_text().splitlines())]
    assert len({row["path"] for row in found}) == 12 and all(Path(row["path"]).exists() for row in found)
    assert all(row["class=a"] == 0.5 for row in result.rows)


def test_links_make_a_folder_that_train_reads(here, shared):
    source = shared("hymenoptera") / "val"
    cut(str(source), Splitting(stratify="class"), link=True)
    rows = read("out", Reading(image_size=4))
    assert rows.rows == 153 and rows.fixed_split.sum() == round(0.2 * 153)


def test_one_table_with_a_column(here):
    Path("a.csv").write_text(TABLE.replace("\n", "\r\n"), newline="")
    result = cut("a.csv", Splitting(group="word"), column="side", valid=0.5)
    (path,) = {row["path"] for row in result.rows}
    rows = read(path)
    assert rows.frame.columns == ["id", "word", "x", "y", "side"]
    assert set(zip(rows.frame["word"], rows.frame["side"], strict=True)) in (
        {("a", "train"), ("b", "valid")},
        {("a", "valid"), ("b", "train")},
    )
    assert Path(path).read_bytes().splitlines(keepends=True)[1].endswith(b"\r\n")
    lines = [json.dumps({"a": i}) for i in range(8)] + ["{}", '{"a": 3 } ']
    Path("b.jsonl").write_text("\n".join(lines))
    split("b.jsonl", Reading(), Splitting(), Order(out="b", folds=2, column='f"é'))
    folds = [json.loads(line) for line in Path("b/b.jsonl").read_text().splitlines()]
    assert sorted(row['f"é'] for row in folds) == ["1"] * 5 + ["2"] * 5
    with pytest.raises(DlkitError, match="a column 'x' already"):
        cut("a.csv", column="x")


def test_rows_in_a_gap_are_out(here):
    Path("a.csv").write_text(TABLE)
    result = cut("a.csv", Splitting(time="id", gap="5"), Reading(numeric=["id"]), column="side")
    side = read(result.rows[0]["path"]).frame["side"]
    assert result.summary["left_out_rows"] == (side == "out").sum() == 5


def test_folds(here):
    Path("a.csv").write_text(TABLE)
    result = cut("a.csv", folds=4)
    assert [row["split"] for row in result.rows][:2] == ["fold1/train", "fold1/valid"]
    held = [read(row["path"]).frame["id"].to_list() for row in result.rows if row["split"].endswith("valid")]
    assert sorted(i for fold in held for i in fold) == [*range(50)]


def test_what_is_wrong_elsewhere_is_no_matter(here):
    """Only the columns that split are typed: an odd number in another one is for whoever uses it."""
    odd = TABLE.replace("3.5", "three")
    Path("a.csv").write_text(odd)
    assert cut("a.csv", Splitting(stratify="word")).summary["valid_rows"] == 10


@pytest.mark.parametrize(
    ("name", "splitting", "order", "code", "words"),
    [
        ("a.csv", Splitting(stratify="wrod"), {}, 2, "'wrod'"),
        ("a.csv", Splitting(), {"link": True}, 2, "--link"),
        ("a.csv", Splitting(), {"folds": 3, "test": 0.1}, 2, "--folds and --test"),
        ("a.csv", Splitting(), {"folds": 3, "valid": 0.1}, 2, "--folds and --valid"),
        ("a.csv", Splitting(), {"folds": 99}, 2, "--folds"),
        ("one.csv", Splitting(stratify="a"), {}, 65, "the same in every row"),
        ("one.csv", Splitting(stratify="b"), {}, 65, "the same in every row"),
        ("a.csv", Splitting(), {"valid": 0.001}, 65, "0 to validate"),
        ("a.csv", Splitting(), {"test": 0.001}, 65, "no rows are left to test"),
        ("missing.csv", Splitting(), {}, 66, "missing.csv"),
    ],
)
def test_refused_and_nothing_written(here, name, splitting, order, code, words):
    Path("a.csv").write_text(TABLE)
    Path("one.csv").write_text("a,b\n1,\n" + "1,\n" * 9)
    with pytest.raises(DlkitError) as caught:
        cut(name, splitting, **order)
    assert caught.value.code == code and words in caught.value.message
    assert sorted(path.name for path in here.iterdir()) == ["a.csv", "one.csv"]


@pytest.mark.parametrize("words", [["--seed", "3"], ["--dry-run"], ["--group", "a"], ["--valid", "0.3"]])
def test_roles_take_nothing_that_says_how_to_split(inside, here, words):
    Path("a.csv").write_text(TABLE)
    assert_error(inside("split", "a.csv", "--roles", *words), 2, f"{words[0]} has no effect")


# ---------------------------------------------------------------- all files or none


def test_what_is_there_is_not_touched(here):
    Path("a.csv").write_text(TABLE)
    for make in (lambda: Path("out").mkdir(), lambda: Path("out").write_text("mine"), lambda: os.symlink("x", "out")):
        make()
        with pytest.raises(DlkitError, match="already exists") as caught:
            cut("a.csv")
        assert caught.value.code == 73
        Path("out").rmdir() if Path("out").is_dir() else Path("out").unlink()


def test_a_full_disk_leaves_nothing(here, monkeypatch):
    Path("a.csv").write_text(TABLE)
    real, calls = os.fsync, []

    def full(handle):
        calls.append(handle)
        if len(calls) == 2:
            raise OSError(28, "No space left on device")
        real(handle)

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(DlkitError, match="cannot write out: no space left on device") as caught:
        cut("a.csv")
    assert caught.value.code == 74
    assert [path.name for path in here.iterdir()] == ["a.csv"]


def test_a_killed_process_blocks_nobody(here):
    """kill -9 leaves a hidden directory; the next run works and sweeps it, and leaves that of a living one."""
    code = (
        "import sys, time, pathlib\nfrom dlkit.core.whole import whole_directory\n"
        "with whole_directory(pathlib.Path('out')) as hidden:\n"
        "    (hidden / 'half').write_text('x')\n    print(hidden.name, flush=True)\n    sys.stdin.read()\n"
    )
    words = [sys.executable, "-c", code]
    killed, alive = (
        subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment())
        for _ in range(2)
    )
    with killed, alive:
        names = [process.stdout.readline().strip() for process in (killed, alive)]
        killed.send_signal(signal.SIGKILL)
        killed.wait(timeout=60)
        with whole_directory(Path("out")) as hidden:
            (hidden / "whole").write_text("y")
        assert [path.name for path in Path("out").iterdir()] == ["whole"]
        assert not Path(names[0]).exists() and Path(names[1]).exists()
        alive.kill()


def test_the_command(dlkit, tmp_path):
    (tmp_path / "a.csv").write_text(TABLE)
    assert dlkit("split", "a.csv", "-q") == (0, "a-split\n", "")
    ran = dlkit("split", "-", "--stratify", "word", "--json", "--out", "b", stdin=TABLE)
    body = json.loads(ran.out)
    assert body["summary"]["train_rows"] == 40 and body["summary"]["valid_rows"] == 10
    assert body["rows"][0] | {"share": 0} == {
        "split": "train",
        "path": "b/train.csv",
        "rows": 40,
        "share": 0,
        "word=a": 0.5,
        "word=b": 0.5,
    }
    dry = dlkit("split", "a.csv", "--dry-run", "--out", "c")
    assert dry.code == 0 and not (tmp_path / "c").exists()
    roles = json.loads(dlkit("split", "a.csv", "--roles", "--json").out)
    assert {row["column"]: row["role"] for row in roles["rows"]}["word"] == "categorical"
    refused = dlkit("split", "a.csv", "--out", "/proc/nowhere")
    assert (refused.code, refused.out) == (73, "")
