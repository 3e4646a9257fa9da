"""One argument, told apart by what it is: a file, a folder, stdin, or the name of a set at hand."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from dlkit.core.errors import DlkitError, ExitCode, bad_data
from dlkit.core.reading import Reading
from dlkit.data.arrays import read_npy, read_npz
from dlkit.data.build import to_dataset, to_rows
from dlkit.data.bundled import NAMES, read_bundled
from dlkit.data.columnar import read_jsonl, read_parquet
from dlkit.data.corpus import read_lines
from dlkit.data.dataset import Dataset, Rows
from dlkit.data.delimited import read_delimited
from dlkit.data.idx import read_idx
from dlkit.data.images import read_folder
from dlkit.data.source import Source, read_source
from dlkit.data.table import Table

ARRAY_READERS = {"npy": read_npy, "npz": read_npz, "idx": read_idx}
DELIMITED = ("csv", "tsv", "unknown")
DEFAULT = Reading()


def read(source: str, reading: Reading = DEFAULT, columns: Sequence[str] | None = None) -> Rows:
    """Read a data set as it is: its target, if it has one, is a column as any other.

    source   CSV, TSV, JSON lines, text (a line is a row of one column, `text`), Parquet, NPZ with X (and y), NPY, IDX
             (with its labels beside it), each also compressed (.gz, .zst) or `-` for stdin; a folder of images, of
             class folders of images, or train/ and valid/ of those; or the name of a set that scikit-learn ships:
             digits, iris, wine, breast_cancer, diabetes
    columns  of a table only these; the cells of others are not looked at

    Raises DlkitError: bad data 65, no such input 66, an argument that does not fit 2.
    """
    return to_rows(read_table(source, reading, labelled=False), reading, columns)


def load(
    source: str, reading: Reading = DEFAULT, texts: bool = False, several: bool = False, only: str | None = None
) -> Dataset:
    """Read a data set with the column to predict: `reading.target`, or one named target, label, y or class.

    Sources and errors are those of `read`; rows whose target is missing are left out, and a note says so.

    texts    whether columns of text can be learned from: a table of them alone is then no error
    several  whether several targets can be learned at once: `reading.targets`, or those that an array has for each row
    only     the one column that is learned from, a note naming the others
    """
    return to_dataset(read_table(source, reading, labelled=True), reading, texts, several, only)


def read_table(source: str, reading: Reading, labelled: bool) -> Table:
    """What a reader finds, not yet typed. `labelled`: images without labels are refused."""
    kind = sort_of(source, reading)
    if kind == "set":
        return read_bundled(source)
    if kind == "folder":
        return read_folder(source, reading, labelled)
    return read_bytes(read_source(source, NAMES), reading, labelled)


def sort_of(source: str, reading: Reading) -> Literal["set", "folder", "file"]:
    """What an argument names; options that mean nothing for it are refused."""
    if not source or "\0" in source:
        raise DlkitError(f"{source!r} names no file", code=ExitCode.NO_INPUT)
    path = Path(source)
    if source in NAMES and not path.exists():
        reading.refuse_for("a set at hand", "delimiter", "header", "encoding", "image_size")
        return "set"
    if source != "-" and _is_folder(path):
        reading.refuse_for("a folder", "delimiter", "header", "encoding")
        return "folder"
    return "file"


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:  # a name too long, a closed folder on the way: reading it will say so
        return False


def read_bytes(source: Source, reading: Reading, labelled: bool) -> Table:
    """The table in a file's content."""
    kind = check_source(source, reading)
    if kind in DELIMITED:
        return read_delimited(source, reading)
    if kind == "jsonl":
        return read_jsonl(source, reading)
    if kind == "txt":
        if labelled:
            raise bad_data(f"{source.path}: text has no target", "a table needs the suffix .csv or .tsv")
        return read_lines(source, reading)
    if kind in ARRAY_READERS:
        return ARRAY_READERS[kind](source, reading, labelled)
    return read_parquet(source)


def check_source(source: Source, reading: Reading) -> str:
    """The kind of a file's content; what is not read, and options that mean nothing for it, are refused."""
    kind = source.kind
    _check_kind(source, kind)
    reading.refuse_for("a file", "image_size")
    if kind not in DELIMITED:
        reading.refuse_for(f"a file of {kind.upper()}", "delimiter", "header")
        if kind not in ("jsonl", "txt"):
            reading.refuse_for(f"a file of {kind.upper()}", "encoding")
    return kind


def _check_kind(source: Source, kind: str) -> None:
    """Refuse what is not read, and a file that is not what its name says."""
    path = source.path
    if kind == "json":
        raise bad_data(f"{path}: JSON is read as one object a line", "name it .jsonl; jq -c '.[]' makes one of a list")
    if kind == "image":
        raise bad_data(f"{path}: one image is no data set", "name a folder with one folder of images for each class")
    if kind == "unknown" and "-ubyte" in Path(path).name:
        raise bad_data(f"{path}: damaged, or not an IDX file")
