"""Parquet and JSON lines: tables whose cells come with types."""

import hashlib
import io
import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import polars as pl

from dlkit.core.errors import bad_data
from dlkit.core.reading import Reading
from dlkit.data.dataset import Place, shown
from dlkit.data.encoding import as_utf8
from dlkit.data.source import Source, refuse_bomb, short_name
from dlkit.data.table import Table


def read_parquet(source: Source) -> Table:
    """A Parquet file. Its declared size is checked before a row is read."""
    frame = pl.concat(parquet_parts(source.path, io.BytesIO(source.data), len(source.data)))
    return Table(short_name(source.path), Place(source.path), frame, hashlib.sha256(source.data).hexdigest())


def parquet_parts(path: str, file: Path | io.BytesIO, size: int, rows: int | None = None) -> Iterator[pl.DataFrame]:
    """A Parquet file of `size` bytes, at most `rows` rows at a time."""
    try:
        lazy = pl.scan_parquet(file)
        columns = lazy.collect_schema().len()
        height = int(lazy.select(pl.len()).collect().item())
        refuse_bomb(path, height * columns * 8, size)
        for start in range(0, height, rows or height):
            yield lazy.slice(start, rows).collect()
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError, ValueError) as failure:
        reason = (str(failure).splitlines() or [""])[0]
        raise bad_data(f"{path}: damaged, or not a Parquet file ({reason})") from None
    if not height:
        raise bad_data(f"{path}: no rows in it")


class _NotFinite(ValueError):
    """An infinity in JSON, which JSON does not have."""


def read_jsonl(source: Source, reading: Reading, only: Sequence[str] | None = None) -> Table:
    """One JSON object a line, with the same kind of value under the same key; a key left out is a missing cell.

    Of the keys that are not in `only` (None: all are) there is a column that is empty.
    """
    columns: dict[str, list[Any]] = {}
    rows = as_utf8(source.path, source.data, reading.encoding).rstrip().split(b"\n")
    for row, line in enumerate(rows):
        for key, value in _parse(source.path, row + source.line, line).items():
            cells = columns.setdefault(key, [])
            if only is not None and key not in only:
                continue
            cells.extend([None] * (row - len(cells)))
            cells.append(value)
    place = Place(source.path, None if source.line == 1 else np.arange(len(rows)) + source.line, "line")
    series = [_column(place, name, cells, len(rows)) for name, cells in columns.items()]
    frame = pl.DataFrame(series)
    if not frame.width:
        raise bad_data(f"{source.path}: line 1 has no keys, which would be the columns")
    return Table(short_name(source.path), place, frame, hashlib.sha256(source.data).hexdigest())


def _parse(path: str, line: int, text: bytes) -> dict[str, Any]:
    where = f"{path}: line {line}"
    try:
        value = json.loads(text, parse_constant=_constant, object_pairs_hook=_object)
    except UnicodeDecodeError as failure:
        raise bad_data(f"{where} is not UTF-8 text (byte 0x{text[failure.start]:02x})") from None
    except json.JSONDecodeError as failure:
        problem = "is blank" if not text.strip() else f"is not JSON: {failure.msg} at character {failure.pos + 1}"
        raise bad_data(f"{where} {problem}", "JSON lines hold one object {…} a line") from None
    except _NotFinite as failure:
        raise bad_data(f"{where}: {failure}") from None
    except (ValueError, RecursionError) as failure:  # an integer of thousands of digits; brackets without end
        raise bad_data(f"{where} cannot be read as JSON ({type(failure).__name__})") from None
    if not isinstance(value, dict):
        raise bad_data(f"{where}: {shown(value)} is no object {{…}}", "JSON lines hold one object {…} a line")
    return value


def _constant(word: str) -> None:
    """NaN, which Python writes for a missing number, is one."""
    if word != "NaN":
        raise _NotFinite(f"{word} is not a finite number")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise _NotFinite(f"key {shown(twice)} is there twice")
    return found


def _column(place: Place, name: str, cells: list[Any], rows: int) -> pl.Series:
    """The values of one key as booleans, numbers, text or (nested) objects that no model can use."""
    cells.extend([None] * (rows - len(cells)))
    kinds = [_kind(value) for value in cells]
    found = {kind for kind in kinds if kind}
    if len(found) > 1:
        _mixed(place, name, cells, kinds)
    kind = found.pop() if found else "number"
    if kind == "nested":
        return pl.Series(name, [value is not None for value in cells], dtype=pl.Object)
    try:
        numbers = kind == "number"
        return pl.Series(name, [_float(v) for v in cells] if numbers else cells, dtype=_DTYPES[kind])
    except UnicodeEncodeError:
        raise bad_data(f"{place.source}: column {shown(name)} has half of a surrogate pair: not a text") from None


_DTYPES = {"number": pl.Float64, "text": pl.String, "boolean": pl.Boolean}


def _kind(value: object) -> str | None:
    if value is None:
        return None
    if isinstance(value, bool):
        return "boolean"
    return "number" if isinstance(value, int | float) else "text" if isinstance(value, str) else "nested"


def _float(value: float | None) -> float | None:
    try:
        return None if value is None else float(value)
    except OverflowError:
        return math.inf


def _mixed(place: Place, name: str, cells: list[Any], kinds: list[str | None]) -> NoReturn:
    first = next(row for row, kind in enumerate(kinds) if kind)
    other = next(row for row, kind in enumerate(kinds) if kind and kind != kinds[first])
    problem = f"is {kinds[other]}, where {place.where(first)} has {kinds[first]} ({shown(cells[first])})"
    raise place.bad_cell(other, name, cells[other], problem)
