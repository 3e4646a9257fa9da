"""What `dlkit split` answers: a source read, its rows dealt out, and the files written, all of them or none."""

import gzip
import os
import shlex
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
import polars as pl

from dlkit.core import console
from dlkit.core.errors import DlkitError
from dlkit.core.reading import TARGET_NAMES, Reading
from dlkit.core.recipe import option_words
from dlkit.core.result import Column, Kind, Result, Row
from dlkit.core.splitting import Splitting
from dlkit.core.whole import whole_directory
from dlkit.data.bundled import NAMES, read_bundled
from dlkit.data.cut import ROW, Contents, Cut, Folder, Lines, cut_file, cut_table
from dlkit.data.dataset import Rows
from dlkit.data.images import Files as FilePlace
from dlkit.data.load import check_source, read, sort_of
from dlkit.data.source import COMPRESSIONS, read_source, zstandard
from dlkit.data.split import OUT, Split, as_text_each, folds, hold_out

MOST_CLASSES = 10
VALID = 0.2
"""The share held out, unless another is asked for."""


@dataclass(frozen=True)
class Order:
    """What is asked for beside the reading of the source and the method.

    column  write the table once, with a column of this name, and not a file for each side
    link    make a folder of links to a folder's images, and not a manifest
    """

    valid: float | None = None
    test: float = 0.0
    seed: int = 0
    folds: int | None = None
    out: str | None = None
    column: str | None = None
    link: bool = False
    dry_run: bool = False


def roles(source: str, reading: Reading, splitting: Splitting, order: Order) -> Result:
    """The columns of a source, each with the role that it has to a model. What says how to split is refused."""
    for asked in (splitting, order):
        if words := option_words(asked):
            raise DlkitError(f"{words[0]} has no effect with --roles, which splits nothing")
    rows = read(source, reading)
    for text in rows.notes:
        console.note(text)
    columns = [Column("column"), Column("role"), Column("missing", "int"), Column("distinct", "int")]
    found = [
        {"column": column.name, "role": str(column.role), "missing": column.missing, "distinct": column.distinct}
        for column in rows.columns
    ]
    summary = {"rows": rows.rows, "columns": len(found)}
    return Result(columns, found, summary, "columns", [Column("rows", "int")])


def split(source: str, reading: Reading, splitting: Splitting, order: Order) -> Result:
    """Deal out the rows of a source and write the sides, or only say what they would be."""
    _check(order)
    cut = _open(source, reading, splitting)
    if cut.rows.fixed_split is not None:
        message = f"{source}: it says itself how it is split: train it as it is"
        raise DlkitError(message, "or name one of its folders" if isinstance(cut, Folder) else None)
    if order.column is not None and order.column in cut.names:
        raise DlkitError(f"--column: {source} has a column {order.column!r} already", "give it a name that is free")
    if order.link and not isinstance(cut, Folder):
        raise DlkitError("--link is for folders of images")
    splitting.check_columns(source, cut.names)
    splits = _dealt(cut, splitting, order)
    for text in (*cut.rows.notes, *splits[0].notes):
        console.note(text)
    out = Path(f"{cut.rows.name}-split" if order.out is None else order.out)
    paths = _plan(cut, splits, order, _compression(source))
    if not order.dry_run:
        with whole_directory(out) as hidden:
            for name, content in paths.items():
                _write(hidden / name, content)
            if order.link:
                _link(hidden, cast(Folder, cut), splits)
    return _result(cut.rows, splits, splitting, reading, order, out, list(paths))


def _dealt(cut: Cut, splitting: Splitting, order: Order) -> list[Split]:
    """One split, or the folds. Lines of text follow each other: what comes last validates, as by time."""
    in_order = isinstance(cut, Lines) and cut.suffix == "txt" and not splitting.columns
    method = Splitting(time=ROW) if in_order else splitting
    if order.folds is None:
        splits = [hold_out(cut.rows, method, order.valid or VALID, order.seed, order.test)]
    else:
        splits = folds(cut.rows, method, order.folds, order.seed)
    return [replace(split, method="order") for split in splits] if in_order else splits


def _check(order: Order) -> None:
    if order.column is not None and not order.column.strip():
        raise DlkitError("--column needs a name")
    for first, second in (("folds", "valid"), ("folds", "test"), ("column", "link")):
        if getattr(order, first) and getattr(order, second):
            raise DlkitError(f"--{first} and --{second} do not go together")


def _open(source: str, reading: Reading, splitting: Splitting) -> Cut:
    reading = splitting.reading(reading)
    wanted = [*splitting.columns.values(), *([reading.target] if reading.target else [])]
    kind = sort_of(source, reading)
    if kind == "set":
        return cut_table(read_bundled(source), reading, wanted or None)
    if kind == "folder":
        return Folder.find(source, reading)
    data = read_source(source, NAMES)
    check_source(data, reading)
    return cut_file(data, reading, wanted)


# ---------------------------------------------------------------- writing


def _plan(cut: Cut, splits: list[Split], order: Order, compression: str) -> Contents:
    """File name -> content, nothing of which is made before it is written."""
    if order.column is not None:
        contents = cut.tagged(order.column, _values(splits, cut.rows.rows, order.folds is not None))
    elif order.link:
        contents = {}
    else:
        contents = {}
        for prefix, split in _prefixed(splits):
            for side, rows in split.sides.items():
                contents |= {prefix + name: content for name, content in cut.part(side, rows).items()}
    return {name + (compression if _is_packed(name) else ""): content for name, content in contents.items()}


def _prefixed(splits: list[Split]) -> list[tuple[str, Split]]:
    return [(f"fold{i}/" if len(splits) > 1 else "", split) for i, split in enumerate(splits, 1)]


def _values(splits: list[Split], rows: int, is_folds: bool) -> Sequence[str]:
    """For each row the name of its side; with folds the number of the one it validates in, 0 for none."""
    values = np.full(rows, "0" if is_folds else OUT, dtype=object)
    for i, split in enumerate(splits, 1):
        for side, held in split.sides.items():
            if not is_folds:
                values[held] = side
            elif side == "valid":
                values[held] = str(i)
    return cast(Sequence[str], values.tolist())


def _is_packed(name: str) -> bool:
    """Whether a compressed source of this kind gives compressed files: NPZ and Parquet pack themselves."""
    return not name.endswith((".npz", ".parquet"))


def _compression(source: str) -> str:
    suffix = Path(source).suffix.lower()
    return suffix if suffix in COMPRESSIONS else ""


def _write(path: Path, content: Iterable[bytes]) -> None:
    """A file, compressed as its suffix says, and on the disk before anything else happens."""
    path.parent.mkdir(exist_ok=True)
    with path.open("wb") as raw:
        with _packing(path, raw) as out:
            for piece in content:
                out.write(piece)
        raw.flush()
        os.fsync(raw.fileno())


@contextmanager
def _packing(path: Path, raw: BinaryIO) -> Iterator[BinaryIO]:
    if path.suffix == ".gz":
        with gzip.GzipFile("", "wb", 6, raw, mtime=0) as packed:  # no name and no time: the same bytes every time
            yield cast(BinaryIO, packed)
    elif path.suffix == ".zst":
        with zstandard(str(path)).ZstdFile(raw, "wb") as packed:
            yield packed
    else:
        yield raw


def _link(hidden: Path, folder: Folder, splits: list[Split]) -> None:
    for prefix, split in _prefixed(splits):
        for side, rows in split.sides.items():
            for name, target in folder.links(side, rows):
                link = hidden / f"{prefix}{name}"
                link.parent.mkdir(parents=True, exist_ok=True)
                link.symlink_to(target)


# ---------------------------------------------------------------- the answer


def _result(
    rows: Rows, splits: list[Split], splitting: Splitting, reading: Reading, order: Order, out: Path, names: list[str]
) -> Result:
    looks = _Looks.at(rows, splitting, reading)
    found: list[Row] = []
    for prefix, split in _prefixed(splits):
        for side, held in split.sides.items():
            path = out / _path_of(prefix + side, order, names)
            sizes = {"rows": len(held), "share": len(held) / rows.rows}
            found.append({"split": prefix + side, "path": str(path), **sizes, **looks.of(held)})
    first = splits[0]
    summary = {
        "method": first.method,
        "train_rows": len(first.train),
        "valid_rows": len(first.valid),
        "test_rows": len(first.test),
        "left_out_rows": first.left_out(rows.rows),
        "folds": order.folds,
        "seed": order.seed,
        "out": str(out),
    }
    columns = [Column("split"), Column("path"), Column("rows", "int"), Column("share", "share"), *looks.columns]
    facts = [Column("method"), Column("left_out_rows", "int", "left out")]
    result = Result(columns, found, summary, "out", facts if summary["left_out_rows"] else facts[:1])
    result.notes = _next(rows, order, found, out)
    return result


def _path_of(side: str, order: Order, names: list[str]) -> str:
    if order.column is not None:
        return names[0]
    return side if order.link else next(name for name in names if name.startswith(f"{side}.") or f"{side}-" in name)


def _next(rows: Rows, order: Order, found: list[Row], out: Path) -> list[str]:
    """Where to go from here."""
    if order.dry_run:
        return ["nothing is written; the same without --dry-run does"]
    if order.link:
        return [f"next: dlkit train {shlex.quote(str(out))}"] if order.folds is None else []
    first, second = (shlex.quote(row["path"]) for row in found[:2])
    if order.column is not None:
        return [f"next: dlkit train {first} --split {shlex.quote(order.column)}"] if order.folds is None else []
    if isinstance(rows.place, FilePlace):
        return ["these are lists of files; --link makes folders, which dlkit train reads"]
    return [f"next: dlkit splitcheck {first} {second}"]


@dataclass(frozen=True)
class _Looks:
    """What a row of the answer says of the rows of a side: shares of classes, number of groups, stretch of time."""

    classes: pl.Series | None
    groups: pl.Series | None
    times: pl.Series | None
    values: Sequence[str]

    @classmethod
    def at(cls, rows: Rows, splitting: Splitting, reading: Reading) -> "_Looks":
        frame = pl.DataFrame() if rows.frame is None else rows.frame
        group, time = (frame[name] if name else None for name in (splitting.group, splitting.time))
        names = [splitting.stratify, reading.target, *(TARGET_NAMES if rows.arrays is not None else ()), "class"]
        name = next((name for name in names if name in frame.columns), None)
        if name is None:
            return cls(None, group, time, ())
        classes = as_text_each(frame[name])
        counts = classes.drop_nulls().value_counts().sort(["count", name], descending=[True, False])
        few = counts.height <= 2 * MOST_CLASSES or frame[name].dtype == pl.String
        values = sorted(counts[name].head(MOST_CLASSES).to_list(), key=_natural) if few else []
        return cls(classes, group, time, values)

    @property
    def columns(self) -> list[Column]:
        kinds: list[tuple[str, Kind]] = [(self._key(value), "share") for value in self.values]
        kinds += [] if self.groups is None else [("groups", "int")]
        kinds += [] if self.times is None else [("first", "text"), ("last", "text")]
        return [Column(name, kind) for name, kind in kinds]

    def _key(self, value: str) -> str:
        return f"{self.classes.name}={value}" if self.classes is not None else value

    def of(self, held: np.ndarray) -> dict[str, Any]:
        said: dict[str, Any] = {}
        if self.classes is not None and len(held):
            classes = self.classes.gather(held)
            said |= {self._key(value): (classes == value).sum() / len(held) for value in self.values}
        if self.groups is not None:
            said["groups"] = self.groups.gather(held).n_unique()
        if self.times is not None and len(held):
            times = self.times.gather(held)
            said |= {"first": _moment(times.min()), "last": _moment(times.max())}
        return said


def _natural(value: str) -> tuple[float, str]:
    """Numbers in their order, before words in theirs."""
    try:
        return float(value), ""
    except ValueError:
        return np.inf, value


def _moment(value: object) -> Any:
    return value if isinstance(value, float) else str(value)
