"""Sources that can be cut into files of their own format: text byte for byte, tables and arrays value for value."""

import csv
import io
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar, Protocol

import numpy as np
import polars as pl

from dlkit.core.errors import DlkitError, bad_data
from dlkit.core.reading import Reading
from dlkit.data.arrays import Members, read_npy, read_npz
from dlkit.data.build import to_rows
from dlkit.data.columnar import read_jsonl, read_parquet
from dlkit.data.corpus import checked_text, read_lines
from dlkit.data.csvscan import LF
from dlkit.data.dataset import Place, Rows
from dlkit.data.delimited import find_records
from dlkit.data.encoding import BOM, as_utf8
from dlkit.data.idx import find_labels, read_idx, with_rows
from dlkit.data.images import Files as FilePlace
from dlkit.data.images import Picture, find_pictures
from dlkit.data.source import Source, read_source, short_name
from dlkit.data.table import Table

Contents = dict[str, Iterator[bytes]]
"""File name -> its content, in pieces."""
ROW = "row"
"""The column that stands for rows of which no other is wanted: their numbers."""
PIECE = 100_000
"""Rows that are put together at a time."""


class Cut(Protocol):
    """A source whose rows can be written to files, each a file of the source's own format.

    rows   the columns that were asked for; of images the classes
    names  of all columns
    """

    @property
    def rows(self) -> Rows: ...

    @property
    def names(self) -> Sequence[str]: ...

    def part(self, side: str, rows: np.ndarray) -> Contents:
        """The files of one side, which has the N int64 `rows`."""
        ...

    def tagged(self, column: str, values: Sequence[str]) -> Contents:
        """The whole source with one more column, which says the side of each row."""
        ...


# ---------------------------------------------------------------- text


@dataclass(frozen=True)
class Encoding:
    """How UTF-8 becomes a file's own bytes again: each piece in the encoding, after a byte order mark."""

    name: str
    mark: bytes

    MARKED: ClassVar = (
        ("utf-32-le", b"\xff\xfe\0\0"),
        ("utf-32-be", b"\0\0\xfe\xff"),
        ("utf-16-le", b"\xff\xfe"),
        ("utf-16-be", b"\xfe\xff"),
    )

    @classmethod
    def of(cls, source: Source, encoding: str) -> "Encoding":
        """Refused where what is written would not be what was read."""
        text = as_utf8(source.path, source.data, encoding)
        if text is source.data or source.data == BOM + text:
            return cls("utf-8", source.data[: len(source.data) - len(text)])
        for name, mark in (*cls.MARKED, (encoding, b"")):
            found = cls(name, mark)
            if source.data.startswith(mark) and found._gives(text, source.data):
                return found
        message = f"{source.path}: its {encoding} text cannot be written again byte for byte"
        raise bad_data(message, f"make it UTF-8 first: iconv -f {encoding} -t utf-8")

    def _gives(self, text: bytes, data: bytes) -> bool:
        try:
            return b"".join(self.pieces([text])) == data
        except UnicodeEncodeError:
            return False

    def pieces(self, text: Iterable[bytes]) -> Iterator[bytes]:
        yield self.mark
        yield from text if self.name == "utf-8" else (piece.decode().encode(self.name) for piece in text)


@dataclass(frozen=True, eq=False)
class Lines:
    """Text whose rows are stretches of bytes with their line ends: N int64 `starts` and `ends` in UTF-8 `data`.

    head    what comes before the first row
    suffix  csv, tsv, jsonl or txt
    """

    rows: Rows
    names: Sequence[str]
    suffix: str
    data: bytes
    head: bytes
    starts: np.ndarray
    ends: np.ndarray
    encoding: Encoding
    delimiter: str = ","

    def part(self, side: str, rows: np.ndarray) -> Contents:
        return {f"{side}.{self.suffix}": self.encoding.pieces(self._stretches(rows))}

    def _stretches(self, rows: np.ndarray) -> Iterator[bytes]:
        yield self.head
        # Neighbours are one stretch: a split by time has few.
        first = np.flatnonzero(np.diff(rows, prepend=-2) != 1)
        last = np.append(first[1:], len(rows)) - 1
        starts, ends = self.starts[rows[first]], self.ends[rows[last]]
        for at in range(0, len(starts), PIECE):
            pairs = zip(starts[at : at + PIECE].tolist(), ends[at : at + PIECE].tolist(), strict=True)
            yield b"".join([self.data[start:end] for start, end in pairs])

    def tagged(self, column: str, values: Sequence[str]) -> Contents:
        if self.suffix == "txt":
            raise DlkitError("--column is for tables; lines of text have no columns")
        return {f"{self.rows.name}.{self.suffix}": self.encoding.pieces(self._tagged(column, values))}

    def _tagged(self, column: str, values: Sequence[str]) -> Iterator[bytes]:
        if self.head:
            yield self._with_cell(self.head, column)
        with_value = self._with_cell if self.suffix != "jsonl" else lambda line, value: _with_key(line, column, value)
        for at in range(0, len(self.starts), PIECE):
            stretch = slice(at, at + PIECE)
            rows = zip(self.starts[stretch].tolist(), self.ends[stretch].tolist(), values[stretch], strict=True)
            yield b"".join([with_value(self.data[start:end], value) for start, end, value in rows])

    def _with_cell(self, record: bytes, value: str) -> bytes:
        out = io.StringIO(newline="")
        csv.writer(out, delimiter=self.delimiter, lineterminator="").writerow([value])
        text = record.rstrip(b"\r\n")
        return text + f"{self.delimiter}{out.getvalue()}".encode() + record[len(text) :]


def _with_key(line: bytes, key: str, value: str) -> bytes:
    """A line of one JSON object, with one more key."""
    text = line.rstrip()
    body = text[:-1].rstrip()
    comma = "" if body.endswith(b"{") else ", "
    return body + f"{comma}{json.dumps(key, ensure_ascii=False)}: {json.dumps(value)}}}".encode() + line[len(text) :]


def _line_ends(data: bytes, stop: int) -> np.ndarray:
    """Where each line of `data[:stop]` ends, beyond its line feed; for the last, beyond `stop` as if it had one."""
    return np.append(np.flatnonzero(np.frombuffer(data, np.uint8, stop) == LF), stop) + 1


def _closed(data: bytes, ends: np.ndarray) -> tuple[bytes, np.ndarray]:
    """The last record with the line end that it has, or else that of the first."""
    stop = int(ends[-1]) - 1
    end = next((sign for sign in (b"\r\n", b"\n") if data.startswith(sign, stop)), None)
    if end is None:
        end = b"\r\n" if len(ends) > 1 and data[ends[0] - 2 : ends[0]] == b"\r\n" else b"\n"
        data = data[:stop] + end
    return data, np.append(ends[:-1], stop + len(end))


def _delimited(source: Source, reading: Reading, columns: Sequence[str] | None) -> Lines:
    found = find_records(source, reading)
    names = found.records.names
    reading.check_columns(source.path, names)
    place = Place(source.path, found.records.lines, "line")
    wanted = [name for name in names if columns is None or name in columns]
    frame = found.frame(wanted) if wanted else _numbers(found.records.rows)
    table = Table(short_name(source.path), place, frame, "", is_text=True)
    data, ends = _closed(found.data, found.records.ends + 1)
    starts, skip = np.append(0, ends[:-1]), found.skip
    return Lines(
        rows=to_rows(table, reading.only(wanted)),
        names=names,
        suffix="tsv" if source.kind == "tsv" else "csv",
        data=data,
        head=data[: ends[0]] if skip else b"",
        starts=starts[skip:],
        ends=ends[skip:],
        encoding=Encoding.of(source, reading.encoding),
        delimiter=found.delimiter,
    )


def _numbers(rows: int) -> pl.DataFrame:
    return pl.DataFrame({ROW: pl.int_range(1, rows + 1, eager=True)})


def _json_lines(source: Source, reading: Reading, columns: Sequence[str] | None) -> Lines:
    table = read_jsonl(source, reading, columns)
    names = table.frame.columns
    reading.check_columns(source.path, names)
    data = as_utf8(source.path, source.data, reading.encoding)
    data, ends = _closed(data, _line_ends(data, len(data.rstrip())))
    if columns is not None:
        wanted = [name for name in names if name in columns]
        table = replace(table, frame=table.frame.select(wanted) if wanted else _numbers(table.rows))
        reading = reading.only(columns)
    starts = np.append(0, ends[:-1])
    return Lines(
        to_rows(table, reading), names, "jsonl", data, b"", starts, ends, Encoding.of(source, reading.encoding)
    )


def _text(source: Source, reading: Reading) -> Lines:
    table = read_lines(source, reading)
    data = checked_text(source, reading)
    data, ends = _closed(data, _line_ends(data, len(data.removesuffix(b"\n"))))
    starts = np.append(0, ends[:-1])
    frame = pl.concat([table.frame, _numbers(table.rows).cast(pl.Float64)], how="horizontal")
    rows = to_rows(replace(table, frame=frame), replace(reading, text=["text"], id=[ROW]))
    return Lines(rows, ["text"], "txt", data, b"", starts, ends, Encoding.of(source, reading.encoding))


# ---------------------------------------------------------------- tables and arrays


@dataclass(frozen=True, eq=False)
class Frame:
    """A table with types of its own, written as Parquet; one of a set at hand as CSV."""

    rows: Rows
    frame: pl.DataFrame
    suffix: str

    @property
    def names(self) -> Sequence[str]:
        return self.frame.columns

    def part(self, side: str, rows: np.ndarray) -> Contents:
        return {f"{side}.{self.suffix}": self._written(self.frame[rows])}

    def tagged(self, column: str, values: Sequence[str]) -> Contents:
        tagged = self.frame.with_columns(pl.Series(column, values, dtype=pl.String))
        return {f"{self.rows.name}.{self.suffix}": self._written(tagged)}

    def _written(self, frame: pl.DataFrame) -> Iterator[bytes]:
        out = io.BytesIO()
        if self.suffix == "parquet":
            frame.write_parquet(out)
        else:
            frame.write_csv(out)
        yield out.getvalue()


@dataclass(frozen=True, eq=False)
class Arrays:
    """Arrays by name, those of N rows cut; packed as they were."""

    rows: Rows
    arrays: dict[str, np.ndarray]
    packed: bool = False

    @property
    def names(self) -> Sequence[str]:
        return [*self.arrays, *_columns(self.rows)]

    def part(self, side: str, rows: np.ndarray) -> Contents:
        cut = {name: a[rows] if a.ndim and len(a) == self.rows.rows else a for name, a in self.arrays.items()}
        return {f"{side}.npz": self._written(cut)}

    def tagged(self, column: str, values: Sequence[str]) -> Contents:
        return {f"{self.rows.name}.npz": self._written(self.arrays | {column: np.array(values)})}

    def _written(self, arrays: dict[str, np.ndarray]) -> Iterator[bytes]:
        out = io.BytesIO()
        save = np.savez_compressed if self.packed else np.savez
        save(out, **arrays)  # type: ignore[arg-type]
        yield out.getvalue()


def _columns(rows: Rows) -> list[str]:
    return [] if rows.frame is None else rows.frame.columns


@dataclass(frozen=True, eq=False)
class Single:
    """One array in a file, or an IDX file of images with its file of labels."""

    rows: Rows
    files: dict[str, bytes]

    @property
    def names(self) -> Sequence[str]:
        return _columns(self.rows)

    def part(self, side: str, rows: np.ndarray) -> Contents:
        return {name.format(side=side): self._cut(name, data, rows) for name, data in self.files.items()}

    def _cut(self, name: str, data: bytes, rows: np.ndarray) -> Iterator[bytes]:
        if not name.endswith(".npy"):
            yield with_rows(data, rows)
            return
        out = io.BytesIO()
        np.save(out, np.load(io.BytesIO(data), allow_pickle=False)[rows])
        yield out.getvalue()

    def tagged(self, column: str, values: Sequence[str]) -> Contents:
        raise DlkitError("--column is for tables, NPZ and folders of images; an array has no columns")


def _npz(source: Source, reading: Reading) -> Arrays:
    members = Members(source)
    packed = any(info.compress_type for info in members.infos.values())
    table = read_npz(source, reading, labelled=False)
    rows = to_rows(replace(table, labels=()), reading)  # whole rows are cut: several targets are no matter
    return Arrays(rows, {name: members.read(name) for name in members.infos}, packed)


def _idx(source: Source, reading: Reading) -> Single:
    rows = to_rows(read_idx(source, reading, labelled=False), reading)
    files = {"{side}-images-idx" + f"{source.data[3]}-ubyte": source.data}
    beside = find_labels(source.path, needed=False)
    if beside is not None:
        files["{side}-labels-idx1-ubyte"] = read_source(beside).data
    return Single(rows, files)


def _frame(table: Table, reading: Reading, columns: Sequence[str] | None, suffix: str) -> Frame:
    frame = table.frame.clone()
    columns = columns if columns is None else [name for name in frame.columns if name in columns]
    if columns is not None and not columns:
        reading.check_columns(table.place.source, frame.columns)
        return Frame(to_rows(replace(table, frame=_numbers(table.rows)), Reading()), frame, suffix)
    return Frame(to_rows(table, reading, columns), frame, suffix)


def cut_table(table: Table, reading: Reading, columns: Sequence[str] | None) -> Cut:
    """A set at hand: a table as CSV, images as NPZ."""
    if table.arrays is None:
        return _frame(table, reading, columns, "csv")
    y = table.frame.to_series().to_numpy()
    return Arrays(to_rows(table, reading), {"X": table.arrays, "y": y}, True)


def cut_file(source: Source, reading: Reading, columns: Sequence[str] | None) -> Cut:
    """A file's content; of a table `columns` are read (None: all) and the others are only checked to be there."""
    kind = source.kind
    if kind == "jsonl":
        return _json_lines(source, reading, columns)
    if kind == "txt":
        return _text(source, reading)
    if kind == "parquet":
        return _frame(read_parquet(source), reading, columns, "parquet")
    if kind == "npz":
        return _npz(source, reading)
    if kind == "idx":
        return _idx(source, reading)
    if kind == "npy":
        return Single(to_rows(read_npy(source, reading, labelled=False), reading), {"{side}.npy": source.data})
    return _delimited(source, reading, columns)


# ---------------------------------------------------------------- folders of images


@dataclass(frozen=True, eq=False)
class Folder:
    """Pictures that stay where they are: a manifest names them by path and class."""

    rows: Rows
    root: Path
    pictures: list[Picture]
    names: Sequence[str] = ("path", "class")

    @classmethod
    def find(cls, source: str, reading: Reading) -> "Folder":
        root = Path(source)
        pictures, notes, is_split = find_pictures(root, labelled=False)
        fixed = np.array([picture.is_valid for picture in pictures]) if is_split else None
        paths = [os.fsdecode(picture.path.relative_to(root)) for picture in pictures]
        labels = [pl.Series("class", [p.label for p in pictures])] if pictures[0].label is not None else []
        frame = pl.DataFrame([pl.Series("path", paths), *labels])
        place = FilePlace(source, files=tuple(str(picture.path) for picture in pictures))
        table = Table(short_name(source), place, frame, "", fixed_split=fixed, notes=tuple(notes))
        return cls(to_rows(table, replace(reading, categorical=[label.name for label in labels])), root, pictures)

    def part(self, side: str, rows: np.ndarray) -> Contents:
        return {f"{side}.csv": self._manifest(["path", "class"], rows, [])}

    def tagged(self, column: str, values: Sequence[str]) -> Contents:
        rows = np.arange(len(self.pictures))
        return {f"{self.rows.name}.csv": self._manifest(["path", "class", column], rows, [values])}

    def _manifest(self, names: list[str], rows: np.ndarray, more: list[Sequence[str]]) -> Iterator[bytes]:
        out = io.StringIO(newline="")
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(names)
        for row in rows.tolist():
            picture = self.pictures[row]
            writer.writerow([picture.path, picture.label or "", *(values[row] for values in more)])
        yield os.fsencode(out.getvalue())

    def links(self, side: str, rows: np.ndarray) -> Iterator[tuple[str, Path]]:
        """(name, what it leads to) of each picture of a side, in class folders as they were."""
        for row in rows.tolist():
            path = self.pictures[row].path
            yield f"{side}/{path.relative_to(self.root)}", path.resolve()
