"""What `predict` answers: the rows of a source as they came, with predictions appended, a piece at a time."""

import gzip
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from dlkit.core import render
from dlkit.core.errors import DlkitError, ExitCode, bad_data
from dlkit.core.io import check_place, replacing, sync_file
from dlkit.core.reading import MULTI_LABEL, Reading
from dlkit.core.result import Column, Result, Row
from dlkit.data.ensemble import Ensemble
from dlkit.data.images import Files
from dlkit.data.infer import Inference
from dlkit.data.known import sized
from dlkit.data.scores import THRESHOLD
from dlkit.data.source import bare_name
from dlkit.data.stream import tables
from dlkit.data.table import Table

ROW_GROUP = 1 << 16
SHOWN = 40
"""Rows that a terminal shows; a pipe and a file get all."""


@dataclass
class Tally:
    """What the predictions were like, counted as they go by."""

    rows: int = 0
    classes: Counter[str] = field(default_factory=Counter)
    total: float = 0.0
    low: float = float("inf")
    high: float = float("-inf")

    def add(self, appended: pl.DataFrame, labels: Sequence[tuple[str, tuple[str, str]]] = ()) -> None:
        """`labels`: name and words of each, where the first columns say that a row has it; its rows are counted."""
        predictions = appended.to_series()
        self.rows += len(predictions)
        for i, (name, words) in enumerate(labels):
            self.classes[name] += int((appended.to_series(i).cast(pl.String) == words[1]).sum())
        if labels:
            return
        if not predictions.dtype.is_float():
            self.classes.update(map(str, predictions.to_list()))
            return
        values = predictions.to_numpy()
        self.total += float(values.sum())
        self.low, self.high = min(self.low, float(values.min())), max(self.high, float(values.max()))


@dataclass(frozen=True, eq=False)
class Piece:
    """Some rows of the source with what was predicted for them.

    given      the source's columns, as they stood
    appended   prediction, and the probability of each class
    numeric    the columns of `given` that are text and that the model reads as numbers, as such
    """

    given: pl.DataFrame
    appended: pl.DataFrame
    numeric: dict[str, pl.Series]

    def frame(self, as_read: bool) -> pl.DataFrame:
        """All columns; `as_read` leaves cells as they stood, else numbers are numbers and an empty cell is none."""
        columns = list(self.given)
        if not as_read:
            columns = [self.numeric.get(cells.name, _no_blanks(cells)) for cells in columns]
        return pl.DataFrame([*columns, *self.appended])

    def text(self, form: str, header: bool) -> str:
        """The rows in tsv, csv or jsonl, as `core.render` writes them."""
        if form == "jsonl":
            return self.frame(as_read=False).write_ndjson()
        frame = pl.DataFrame([_flat(cells) for cells in self.frame(as_read=True)])
        if form == "csv":
            return frame.write_csv(include_header=header)
        escaped = pl.DataFrame([_escaped(cells).rename(cells.name.translate(render.TSV_ESCAPES)) for cells in frame])
        return escaped.write_csv(include_header=header, separator="\t", quote_style="never")


def _flat(cells: pl.Series) -> pl.Series:
    """Lists and objects as the text of a cell."""
    if not (cells.dtype.is_nested() or cells.dtype == pl.Object):
        return cells
    return pl.Series(cells.name, [render.exact(value) for value in cells.to_list()], dtype=pl.String)


def _escaped(cells: pl.Series) -> pl.Series:
    if cells.dtype != pl.String or not cells.str.contains(r"[\\\x00-\x1f\x7f-\u{9f}]").any():
        return cells
    return cells.str.replace_many([chr(code) for code in render.TSV_ESCAPES], list(render.TSV_ESCAPES.values()))


def _no_blanks(cells: pl.Series) -> pl.Series:
    return cells.set(cells == "", None) if cells.dtype == pl.String and (cells == "").any() else cells


def pieces(whole: Ensemble, source: str, reading: Reading, prefix: str) -> Iterator[Piece]:
    """The source's rows in order, each piece predicted by itself: bounded memory, whatever the source's size."""
    for table in tables(source, sized(source, whole.schema, reading)):
        given = _given(table)
        appended = _appended(whole, whole.predict(table, reading), prefix)
        twice = next((name for name in appended.columns if name in given.columns), None)
        if twice is not None:
            message = f"{source}: it has a column {twice!r} already"
            raise DlkitError(message, "--prefix TEXT puts a text before the names of the new columns")
        yield Piece(given, appended, _numeric(whole, table, reading))


def _given(table: Table) -> pl.DataFrame:
    """The columns of a table; of images, which file or row it is, and the label where there is one."""
    if table.arrays is None:
        return table.frame
    name, cells = "row", pl.Series("row", np.arange(1, table.rows + 1))
    if isinstance(table.place, Files):
        name, cells = "file", pl.Series("file", list(table.place.files))
    return pl.DataFrame([cells, *(label for label in table.frame if label.name != name)])


def _appended(whole: Ensemble, found: np.ndarray, prefix: str) -> pl.DataFrame:
    if whole.task == MULTI_LABEL:
        has = (found > THRESHOLD).astype(int)
        words = [_numbers(pl.Series(f"{prefix}prediction_{name}", pair)) for name, pair in whole.labels]
        said = [pair.gather(has[:, i]) for i, pair in enumerate(words)]
        return pl.DataFrame([*said, *_shares(whole, found, prefix)])
    name = prefix + ("cluster" if whole.is_clustering else "prediction")
    if found.ndim == 1:
        return pl.DataFrame([pl.Series(name, found)])
    classes = _numbers(pl.Series(name, list(whole.schema.classes), dtype=pl.String))
    return pl.DataFrame([classes.gather(found.argmax(1)), *_shares(whole, found, prefix)])


def _shares(whole: Ensemble, found: np.ndarray, prefix: str) -> list[pl.Series]:
    return [pl.Series(f"{prefix}p_{c}", found[:, i]) for i, c in enumerate(whole.schema.classes)]


def _numbers(classes: pl.Series) -> pl.Series:
    """Classes that are integers as such."""
    numbers = classes.cast(pl.Int64, strict=False)
    return numbers if numbers.cast(pl.String).equals(classes) else classes  # 0 and 1, but not 00501


def _numeric(whole: Ensemble, table: Table, reading: Reading) -> dict[str, pl.Series]:
    """The text columns that the model reads as numbers, read so."""
    if not table.is_text:
        return {}
    member = whole.members[0]
    inference = Inference(table.place, member.reads(reading).na)
    names = [encoder.column for encoder in member.predictor.schema.encoders if encoder.kind == "numeric"]
    found = {name: inference.column(table.frame[name], "numeric") for name in names}
    return {name: values for name, values in found.items() if values is not None}


# --- to stdout -------------------------------------------------------------------------------------------------------


def printed(whole: Ensemble, source: str, reading: Reading, prefix: str) -> Result:
    """The rows as they are read: the first piece is predicted at once, so that what can fail fails before a row."""
    all_pieces = pieces(whole, source, reading, prefix)
    first = next(all_pieces)
    tally = Tally()
    summary: dict[str, Any] = {}
    columns = [Column(cells.name, _kind(cells)) for cells in first.frame(as_read=False)]

    def rows() -> Iterator[Row]:
        for piece in chain([first], all_pieces):
            tally.add(piece.appended, whole.labels)
            yield from piece.frame(as_read=False).iter_rows(named=True)
        summary.update(rows=tally.rows, out=None)

    def encode(form: str) -> Iterator[str]:
        for i, piece in enumerate(chain([first], all_pieces)):
            yield piece.text(form, header=i == 0)

    result = Result(columns, rows(), summary, "rows", encode=encode)
    if first.given.height > SHOWN:
        result.overview = list(first.frame(as_read=False).head(SHOWN).iter_rows(named=True))
        result.title = f"the first {SHOWN} rows; --out FILE and a pipe get all"
    return result


def _kind(cells: pl.Series) -> Any:
    return "float" if cells.dtype.is_float() else "int" if cells.dtype.is_integer() else "text"


# --- to a file -------------------------------------------------------------------------------------------------------


def written(whole: Ensemble, source: str, reading: Reading, prefix: str, out: str) -> Result:
    """Every row in a file, whole or not at all; the answer says what the predictions were like."""
    write = _writer(out)
    all_pieces = pieces(whole, source, reading, prefix)
    first, tally = next(all_pieces), Tally()

    def counted() -> Iterator[Piece]:
        for piece in chain([first], all_pieces):
            tally.add(piece.appended, whole.labels)
            yield piece

    try:
        with replacing(Path(out)) as temporary:
            try:
                write(temporary, counted())
                sync_file(temporary)
            except OSError as failure:
                raise _cannot(out, failure, ExitCode.IO_ERROR) from None
    except OSError as failure:
        raise _cannot(out, failure, ExitCode.CANT_CREATE) from None
    return _told(whole, tally, out)


def check_out(out: str, source: str) -> None:
    """Refuse a file that could not be written, before anything is read: a name of no format is exit code 2, one that
    cannot be made 73. One that is there is replaced, unless it is the data."""
    _writer(out)
    path = Path(out)
    if path.exists() and Path(source).exists() and path.samefile(source):
        raise DlkitError(f"--out {out}: this is the data itself", "give another name", ExitCode.CANT_CREATE)
    check_place(path)


def _cannot(out: str, failure: OSError, code: ExitCode) -> DlkitError:
    # Polars has the system's words and no number: 'No space left on device (os error 28)'.
    reason = re.sub(r" \(os error \d+\)$", "", failure.strerror or str(failure)).lower()
    return DlkitError(f"cannot write {out}: {reason}", code=code)


def _told(whole: Ensemble, tally: Tally, out: str) -> Result:
    summary: dict[str, Any] = {"rows": tally.rows, "out": out}
    facts = [Column("rows", "int"), Column("out")]
    if whole.task == "regression":
        numbers = {"mean": tally.total / tally.rows, "low": tally.low, "high": tally.high}
        columns = [Column("rows", "int"), *(Column(name, "float") for name in numbers)]
        return Result(columns, [{"rows": tally.rows, **numbers}], summary, "rows", facts)
    what = "label" if whole.task == MULTI_LABEL else "prediction"
    rows: list[Row] = [
        {what: name, "rows": tally.classes[name], "share": tally.classes[name] / tally.rows}
        for name in whole.schema.classes
    ]
    columns = [Column(what), Column("rows", "int"), Column("share", "share")]
    return Result(columns, rows, summary, "rows", facts)


Write = Callable[[Path, Iterator[Piece]], None]


def _writer(out: str) -> Write:
    """How to write a file of that name. One that no format has: exit code 2."""
    suffix, is_gz = bare_name(out)[1], out.lower().endswith(".gz")
    if out.lower().endswith(".zst") or (is_gz and suffix in (".parquet", ".pq")) or suffix not in _FORMATS:
        hint = "name it .csv, .tsv or .jsonl (also with .gz), or .parquet"
        raise DlkitError(f"--out {out}: which format? Its name says none that is written", hint)
    append = _FORMATS[suffix]
    if append is None:
        return _parquet

    def write(path: Path, parts: Iterator[Piece]) -> None:
        with gzip.open(path, "wb") if is_gz else path.open("wb") as file:
            for i, piece in enumerate(parts):
                append(piece, file, i == 0)

    return write


def _delimited(separator: str) -> Callable[[Piece, Any, bool], None]:
    def append(piece: Piece, file: Any, first: bool) -> None:
        frame = piece.frame(as_read=True)
        for cells in frame:
            if cells.dtype.is_nested() or cells.dtype == pl.Object:
                message = f"column {cells.name!r} holds lists or objects, which no cell of a CSV holds"
                raise bad_data(message, "name the file .parquet")
        frame.write_csv(file, include_header=first, separator=separator)

    return append


def _json_lines(piece: Piece, file: Any, first: bool) -> None:
    piece.frame(as_read=False).write_ndjson(file)


def _parquet(path: Path, parts: Iterator[Piece]) -> None:
    """Polars pulls the pieces one by one and writes each as a row group or so."""
    from polars.io.plugins import register_io_source

    first = next(parts).frame(as_read=False)
    failed: list[BaseException] = []

    def frames(*_: Any) -> Iterator[pl.DataFrame]:
        try:
            yield first
            for piece in parts:
                yield piece.frame(as_read=False)
        except BaseException as failure:  # which polars would wrap in one of its own
            failed.append(failure)
            raise

    try:
        register_io_source(frames, schema=first.schema).sink_parquet(path, row_group_size=ROW_GROUP)
    except (pl.exceptions.PolarsError, OSError) as failure:
        if failed:
            raise failed[0] from None
        # What the disk says comes wrapped in words of Parquet's.
        raise OSError(str(failure).rpartition(": ")[2]) from None


_FORMATS: dict[str, Callable[[Piece, Any, bool], None] | None] = {
    ".csv": _delimited(","), ".tsv": _delimited("\t"), ".jsonl": _json_lines, ".ndjson": _json_lines,
    ".parquet": None, ".pq": None,
}  # fmt: skip
