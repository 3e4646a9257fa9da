"""A source as a row of tables, each of which fits into memory: for work that looks at every row once."""

import io
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Protocol, cast

import numpy as np
import polars as pl

from dlkit.core.errors import bad_data
from dlkit.core.reading import Reading
from dlkit.data.bundled import NAMES
from dlkit.data.columnar import parquet_parts, read_jsonl
from dlkit.data.dataset import Place
from dlkit.data.delimited import find_delimiter, read_delimited
from dlkit.data.load import DELIMITED, read_bytes, read_table
from dlkit.data.source import Inflating, Source, bare_name, inflating, not_there, short_name
from dlkit.data.table import Table

BLOCK = 4 << 20
MOST = 256 << 20
"""Bytes that one record may have at most."""
PARQUET_ROWS = 1 << 15


class _Readable(Protocol):
    def read(self, size: int, /) -> bytes: ...


def tables(source: str, reading: Reading) -> Iterator[Table]:
    """The rows of a source in order, a table at a time; errors are those of `read`, and name the same lines.

    CSV, TSV, JSON lines and Parquet are read piece by piece, from stdin and compressed too (Parquet as a plain file);
    anything else as a whole, and so is text that is not UTF-8. A piece has no fingerprint.
    """
    path = Path(source)
    try:
        if source != "-" and (path.is_dir() or not path.exists()):  # a folder, a set at hand, or not there
            yield read_table(source, reading, labelled=False)
            return
        with nullcontext(sys.stdin.buffer) if source == "-" else path.open("rb") as raw:
            buffered = cast(io.BufferedReader, raw)
            stream: _Readable = inflating(source, buffered.peek(4), buffered) or buffered
            yield from _pieces(source, stream, reading)
    except OSError as failure:
        raise not_there(source, failure, NAMES) from None


def _pieces(path: str, stream: _Readable, reading: Reading) -> Iterator[Table]:
    first = Source(path, _block(stream), bare_name(path)[1])
    if not first.data:
        raise bad_data(f"{path}: there is nothing in it")
    if len(first.data) < BLOCK:
        yield read_bytes(first, reading, labelled=False)
    elif first.kind in (*DELIMITED, "jsonl") and reading.encoding == "utf-8" and not first.foreign():
        yield from _records(first, stream, reading)
    elif path != "-" and first.data.startswith(b"PAR1") and not isinstance(stream, Inflating):
        yield from _row_groups(path)
    else:
        rest = b"".join(iter(lambda: _block(stream), b""))
        yield read_bytes(replace(first, data=first.data + rest), reading, labelled=False)


def _block(stream: _Readable) -> bytes:
    """BLOCK bytes, fewer only at the end: a pipe gives what it has."""
    parts: list[bytes] = []
    missing = BLOCK
    while missing and (part := stream.read(missing)):
        parts.append(part)
        missing -= len(part)
    return b"".join(parts)


def _row_groups(path: str) -> Iterator[Table]:
    start = 1
    for frame in parquet_parts(path, Path(path), Path(path).stat().st_size, PARQUET_ROWS):
        numbers = np.arange(start, start + frame.height)
        yield Table(short_name(path), Place(path, numbers), frame, "")
        start += frame.height


def _records(first: Source, stream: _Readable, reading: Reading) -> Iterator[Table]:
    """Pieces of text that end where a record does. The first one's names are those of all that follow."""
    is_jsonl = first.kind == "jsonl"
    if not is_jsonl:
        reading = replace(reading, delimiter=find_delimiter(first, first.data, reading.delimiter))
    names: tuple[str, ...] | None = None
    line, rest = 1, first.data
    while rest.strip(b"\r\n"):
        block = _block(stream)
        stop = len(rest) if not block else _cut(rest, quotes=not is_jsonl)
        if stop:
            piece = replace(first, data=rest[:stop], names=names, line=line)
            table = read_jsonl(piece, reading) if is_jsonl else read_delimited(piece, reading)
            names = names or tuple(table.frame.columns)
            yield _same_columns(table, names) if is_jsonl else table
            line += rest.count(b"\n", 0, stop)
        elif len(rest) > MOST:
            raise bad_data(f"{first.path}: line {line}: a record of more than {MOST >> 20} MiB")
        rest = rest[stop:] + block


def _cut(data: bytes, quotes: bool) -> int:
    """How much of `data` is whole records; 0 where that is less than half. What a line feed between quotes ends is no
    record, and a blank line is left to what follows, which tells whether it is the end."""
    stop = data.rfind(b"\n") + 1
    odd = data.count(b'"', 0, stop) % 2 if quotes else 0
    while stop > len(data) // 2:
        before = data.rfind(b"\n", 0, stop - 1) + 1
        blank = not data[before : stop - 1].strip(b"\r")
        if not odd and not blank:
            return stop
        odd ^= data.count(b'"', before, stop) % 2 if quotes else 0
        stop = before
    return 0


def _same_columns(table: Table, names: tuple[str, ...]) -> Table:
    """A later piece of JSON lines, with the columns of the first: a key that was not there then has no column."""
    new = [name for name in table.frame.columns if name not in names]
    if new:
        raise bad_data(f"{table.place.source}: key {new[0]!r} first comes after {table.place.where(0)}: too late")
    there = set(table.frame.columns)
    nothing = [None] * table.frame.height
    cells = [table.frame[name] if name in there else pl.Series(name, nothing) for name in names]
    return replace(table, frame=pl.DataFrame(cells))
