"""CSV and TSV: checked strictly, then parsed with every cell as text."""

import hashlib

import polars as pl

from dlkit.core.errors import DlkitError, ExitCode, bad_data
from dlkit.core.reading import Reading
from dlkit.data.csvscan import scan
from dlkit.data.dataset import Place
from dlkit.data.encoding import as_utf8
from dlkit.data.source import Source, short_name
from dlkit.data.table import Table


def read_delimited(source: Source, reading: Reading) -> Table:
    """A strict RFC 4180 table. Bad data names its line."""
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
    frame = _parse(source.path, data, records.names, delimiter, skip=int(reading.header and source.names is None))
    if frame.height != records.rows:
        message = f"{source.path}: {records.rows} rows were counted, {frame.height} read; this is a bug in dlkit"
        raise DlkitError(message, code=ExitCode.INTERNAL)
    fingerprint = hashlib.sha256(source.data).hexdigest()
    return Table(short_name(source.path), Place(source.path, records.lines, "line"), frame, fingerprint, is_text=True)


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


def _parse(path: str, data: bytes, names: tuple[str, ...], delimiter: str, skip: int) -> pl.DataFrame:
    """Every cell as text; an empty one is null or ''.

    The header is read as a row and cut off (`skip` rows): a parser would strip a byte order mark from what comes first.
    """
    try:
        return pl.read_csv(
            data, has_header=False, schema=dict.fromkeys(names, pl.String), separator=delimiter, quote_char='"'
        ).slice(skip)
    except pl.exceptions.PolarsError as failure:
        raise bad_data(f"{path}: {str(failure).splitlines()[0]}") from None
