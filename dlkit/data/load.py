"""One argument, told apart by what it is: a file, a folder, stdin, or the name of a set at hand."""

from collections.abc import Sequence
from pathlib import Path

from dlkit.core.errors import DlkitError, ExitCode, bad_data
from dlkit.data.arrays import read_npy, read_npz
from dlkit.data.build import from_table
from dlkit.data.bundled import NAMES, read_bundled
from dlkit.data.columnar import read_jsonl, read_parquet
from dlkit.data.dataset import Dataset
from dlkit.data.delimited import read_delimited
from dlkit.data.idx import read_idx
from dlkit.data.images import read_folder
from dlkit.data.options import Options
from dlkit.data.source import Source, read_source

ARRAY_READERS = {"npy": read_npy, "npz": read_npz, "idx": read_idx}
TYPED_READERS = {"parquet": read_parquet, "jsonl": read_jsonl}
DELIMITED = ("csv", "tsv", "unknown")


def load(
    source: str,
    *,
    target: str | None = None,
    task: str | None = None,
    na: Sequence[str] = (),
    categorical: Sequence[str] = (),
    numeric: Sequence[str] = (),
    drop: Sequence[str] = (),
    delimiter: str | None = None,
    image_size: int = 64,
) -> Dataset:
    """Read a data set with the column to predict.

    source       CSV, TSV (.gz, .zst), Parquet, JSON lines, NPZ with X and y, IDX images with their labels beside,
                 a folder of class folders of images (or train/ and valid/ of those), `-` for CSV on stdin, or the
                 name of a set that scikit-learn ships: digits, iris, wine, breast_cancer, diabetes
    target       the column to predict; without it one named target, label, y or class
    task         'classification' or 'regression', where the inferred one is not wanted
    na           cells that are missing, besides the empty one
    categorical, numeric, drop   columns to read so, or not at all
    image_size   side of the square that the images of a folder are cut to, in pixels

    Raises DlkitError: bad data 65, no such input 66, an argument that does not fit 2.
    """
    options = Options(target, task, tuple(na), tuple(categorical), tuple(numeric), tuple(drop), delimiter, image_size)
    if not source or "\0" in source:
        raise DlkitError(f"{source!r} names no file", code=ExitCode.NO_INPUT)
    path = Path(source)
    if source in NAMES and not path.exists():
        options.refuse_delimiter()
        return read_bundled(source, options)
    if source != "-" and _is_folder(path):
        options.refuse_delimiter()
        return read_folder(source, options)
    return _read_file(read_source(source, NAMES), options)


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:  # a name too long, a closed folder on the way: reading it will say so
        return False


def _read_file(source: Source, options: Options) -> Dataset:
    kind = source.kind
    _check_kind(source, kind)
    if kind in DELIMITED:
        table = read_delimited(source, options)
        del source  # the file's bytes: the table has its own
        return from_table(table, options)
    options.refuse_delimiter()
    if kind in ARRAY_READERS:
        return ARRAY_READERS[kind](source, options)
    return from_table(TYPED_READERS[kind](source), options)


def _check_kind(source: Source, kind: str) -> None:
    """Refuse what is not read, and a file that is not what its name says."""
    path = source.path
    if kind == "txt":
        raise bad_data(f"{path}: text is not read yet", "a table needs the suffix .csv or .tsv")
    if kind == "json":
        raise bad_data(f"{path}: JSON is read as one object a line", "name it .jsonl; jq -c '.[]' makes one of a list")
    if kind == "image":
        raise bad_data(f"{path}: one image is no data set", "name a folder with one folder of images for each class")
    if kind == "unknown" and "-ubyte" in Path(path).name:
        raise bad_data(f"{path}: damaged, or not an IDX file")
