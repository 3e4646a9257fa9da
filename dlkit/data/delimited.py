"""CSV and TSV: checked strictly, then parsed with every cell as text."""

import hashlib

import polars as pl

from dlkit.core.errors import DlkitError, ExitCode, bad_data
from dlkit.data.csvscan import scan
from dlkit.data.dataset import Place
from dlkit.data.options import Options
from dlkit.data.source import Source, short_name
from dlkit.data.table import Table

BOM = b"\xef\xbb\xbf"


def read_delimited(source: Source, options: Options) -> Table:
    """A strict RFC 4180 table with a header. Bad data names its line."""
    foreign = source.foreign()
    if foreign:
        raise bad_data(f"{source.path}: this is {foreign}, not a CSV or TSV file")
    data = source.data.removeprefix(BOM)
    stop = len(data.rstrip(b"\r\n"))
    if not stop:
        raise bad_data(f"{source.path}: there is nothing in it")
    # Most files end in one line end and need no copy.
    data = data if data[stop:] in (b"", b"\n", b"\r\n") else data[:stop]
    delimiter = _delimiter(source, data, options.delimiter)
    records = scan(source.path, data, stop, delimiter)
    if not records.rows:
        raise bad_data(f"{source.path}: there is a header and no rows")
    if options.delimiter is None and len(records.names) == 1:
        _check_one_column(source.path, records.names[0], delimiter)
    frame = _parse(source.path, data, records.names, delimiter)
    if frame.height != records.rows:
        message = f"{source.path}: {records.rows} rows were counted, {frame.height} read; this is a bug in dlkit"
        raise DlkitError(message, code=ExitCode.INTERNAL)
    fingerprint = hashlib.sha256(source.data).hexdigest()
    return Table(short_name(source.path), Place(source.path, records.lines), frame, fingerprint, is_text=True)


def _delimiter(source: Source, data: bytes, given: str | None) -> str:
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


def _check_one_column(path: str, name: str, delimiter: str) -> None:
    for other in ";\t|,":
        if other != delimiter and other in name:
            shown = repr(other)
            message = f"{path}: line 1: one column between {delimiter!r}, but its name has {shown} in it"
            raise bad_data(message, f"--delimiter {shown}")


def _parse(path: str, data: bytes, names: tuple[str, ...], delimiter: str) -> pl.DataFrame:
    """Every cell as text; an empty one is null or ''.

    The header is read as a row and cut off: a parser would strip a byte order mark from whatever comes first.
    """
    try:
        return pl.read_csv(
            data, has_header=False, schema=dict.fromkeys(names, pl.String), separator=delimiter, quote_char='"'
        ).slice(1)
    except pl.exceptions.PolarsError as failure:
        raise bad_data(f"{path}: {str(failure).splitlines()[0]}") from None
