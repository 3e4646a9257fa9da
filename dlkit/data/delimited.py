"""CSV and TSV: checked strictly, then parsed with every cell as text."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import polars as pl

from dlkit.core.errors import DlkitError, ExitCode, bad_data
from dlkit.core.reading import Reading
from dlkit.data.csvscan import Records, scan
from dlkit.data.dataset import Place
from dlkit.data.encoding import as_utf8
from dlkit.data.source import Source, short_name
from dlkit.data.table import Table


@dataclass(frozen=True, eq=False)
class Delimited:
    """A checked table, its cells not yet parsed: `data` is UTF-8 without a byte order mark, in which `records` lie.

    skip  records before the first row: 1 where there is a header
    """

    path: str
    data: bytes
    records: Records
    delimiter: str
    skip: int

    def frame(self, columns: Sequence[str] | None = None) -> pl.DataFrame:
        """Every cell of all columns, or of these, as text; an empty one is null or ''."""
        frame = _parse(self.path, self.data, self.records.names, self.delimiter, self.skip, columns)
        if frame.height != self.records.rows:
            message = f"{self.path}: {self.records.rows} rows were counted, {frame.height} read; this is a bug in dlkit"
            raise DlkitError(message, code=ExitCode.INTERNAL)
        return frame


def read_delimited(source: Source, reading: Reading) -> Table:
    """A strict RFC 4180 table. Bad data names its line."""
    found = find_records(source, reading)
    place = Place(source.path, found.records.lines, "line")
    fingerprint = hashlib.sha256(source.data).hexdigest()
    return Table(short_name(source.path), place, found.frame(), fingerprint, is_text=True)


def find_records(source: Source, reading: Reading) -> Delimited:
    """The records of a strict RFC 4180 table, of which there is one beside the header. Bad data names its line."""
    foreign = source.foreign(reading.encoding)
    if foreign:
        hint = "--encoding utf-16 reads it" if foreign == "UTF-16 text" else None
        raise bad_data(f"{source.path}: this is {foreign}, not a CSV or TSV file", hint)
    data = as_utf8(source.path, source.data, reading.encoding)
    stop = len(data.rstrip(b"\r\n"))
    if not stop:
        raise bad_data(f"{source.path}: there is nothing in it")
    # Most files end in one line end and need no copy.
    data = data if data[stop:] in (b"", b"\n", b"\r\n") else data[:stop]
    delimiter = find_delimiter(source, data, reading.delimiter)
    records = scan(source.path, data, stop, delimiter, reading.header, source.names, source.line)
    if not records.rows:
        raise bad_data(f"{source.path}: there is a header and no rows")
    if reading.delimiter is None and len(records.names) == 1:
        _check_one_column(source.path, data[: records.ends[0]].decode(), delimiter)
    return Delimited(source.path, data, records, delimiter, int(reading.header and source.names is None))


def find_delimiter(source: Source, data: bytes, given: str | None) -> str:
    """What the user says, or what the file's name says; where neither does, a tab if the header has tabs alone."""
    if given is not None:
        char = {"\\t": "\t", "tab": "\t"}.get(given, given)
        if len(char) != 1 or not char.isascii() or char.isalnum() or char in '"\r\n\0':
            raise DlkitError(f"--delimiter {given!r}: one ASCII character is needed", r"such as ',' ';' '|' or '\t'")
        return char
    if source.kind != "unknown":
        return "\t" if source.kind == "tsv" else ","
    header = data.partition(b"\n")[0]
    return "\t" if b"\t" in header and b"," not in header else ","


def _check_one_column(path: str, first: str, delimiter: str) -> None:
    for other in ";\t|,":
        if other != delimiter and other in first:
            shown = repr(other)
            message = f"{path}: line 1: one column between {delimiter!r}, but it has {shown} in it"
            raise bad_data(message, f"--delimiter {shown}")


def _parse(
    path: str, data: bytes, names: tuple[str, ...], delimiter: str, skip: int, columns: Sequence[str] | None
) -> pl.DataFrame:
    """The header is read as a row and cut off: a parser would strip a byte order mark from what comes first."""
    wanted = None if columns is None else [i for i, name in enumerate(names) if name in columns]
    try:
        return pl.read_csv(
            data,
            has_header=False,
            schema=dict.fromkeys(names, pl.String),
            columns=wanted,
            separator=delimiter,
            quote_char='"',
        ).slice(skip)
    except pl.exceptions.PolarsError as failure:
        raise bad_data(f"{path}: {str(failure).splitlines()[0]}") from None
