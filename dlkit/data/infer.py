"""From cells to values: which columns are numbers, which are dates, and which cell does not belong.

Every column becomes Float64, String or Datetime (µs), with null for what is missing.
"""

import re
import shlex
from collections.abc import Sequence

import polars as pl

from dlkit.core.errors import DlkitError
from dlkit.data.dataset import Place, shown

# The words that mean "missing", in a column that is otherwise numeric; anywhere else they are words.
MISSING_WORDS = ("NA", "NaN", "null")
# A column of at least ODD_ROWS numbers is taken for numeric if no more than this share of its cells is odd.
ODD_SHARE, ODD_ROWS = 0.05, 20
LEADING_ZERO = r"^[ \t]*[+-]?0[0-9]"
ISO_DATE = r"^D{4}-D{2}-D{2}(?:[T ]D{2}:D{2}(?::D{2}(?:\.D{1,9})?)?(?:Z|[+-]D{2}:?D{2})?)?$".replace("D", "[0-9]")
ISO_OFFSET = r"(?:Z|:[0-9.]+[+-][0-9:]+)$"
DATETIME = pl.Datetime("us")
# What is read as the text that stands there.
WORDS = ("categorical", "text")


class Inference:
    """Types the columns of one table. `notes` collects what the user should know about how they were read."""

    def __init__(self, place: Place, na: Sequence[str] = (), is_text: bool = True) -> None:
        self.place, self.na, self.is_text = place, list(na), is_text
        self.notes: list[str] = []

    def column(self, cells: pl.Series, force: str | None = None, lenient: bool = False) -> pl.Series | None:
        """A typed column; None for a type that no model can use (lists, bytes).

        force    what the user says that the column is: a role's name
        lenient  a cell that does not belong makes the column text, not an error
        """
        if cells.dtype in (pl.String, pl.Categorical, pl.Enum):
            return self._text(cells.cast(pl.String), force, lenient or force == "id")
        values = self._native(cells)
        if values is None or force in (None, "id"):
            return values
        if force in WORDS:
            return as_text(values)
        wanted, what = (DATETIME, "date") if force == "datetime" else (pl.Float64(), "number")
        if values.dtype != wanted and values.null_count() < len(values):
            first = values.drop_nulls().first()
            row = int(values.is_not_null().arg_max() or 0)
            raise self.place.bad_cell(row, cells.name, str(first), f"is not a {what}")
        return values.cast(wanted)

    def _text(self, cells: pl.Series, force: str | None, lenient: bool) -> pl.Series:
        absent = [*self.na, ""]
        cells = cells.set(cells.is_in(absent), None) if cells.is_in(absent).any() else cells
        if force in WORDS:
            return cells
        if force == "datetime":
            return self._dates(cells)
        if self.is_text or force == "numeric":
            values = self._numbers(cells, force == "numeric", lenient)
            if values is not None:
                return values
        dates = parse_dates(cells)
        return cells if dates is None else dates

    def _dates(self, cells: pl.Series) -> pl.Series:
        """Every cell a date, because the user says so."""
        values = read_dates(cells.set(cells.is_in(MISSING_WORDS), None))
        odd = values.is_null() & cells.is_not_null() & ~cells.is_in(MISSING_WORDS)
        if odd.any():
            row = int(odd.arg_max() or 0)
            hint = "dates are 2024-05-31, or 2024-05-31 14:00:00, with an offset such as +02:00 in all cells or in none"
            raise self.place.bad_cell(row, cells.name, cells[row], "is not a date", hint)
        return values

    def _numbers(self, cells: pl.Series, forced: bool, lenient: bool) -> pl.Series | None:
        """The column as numbers; None where it is text."""
        values, odd = parse_numbers(cells)
        words = odd.is_in(MISSING_WORDS)
        strange = odd.filter(~words)
        total = len(cells) - cells.null_count() - int(words.sum())
        if not forced and len(strange) == total > 0:
            return None
        if not forced and cells.str.contains(LEADING_ZERO).any():
            if 2 * len(strange) <= total:
                self._note_zeros(cells)
            return None
        if not len(strange):
            return values
        if forced or (not lenient and total >= ODD_ROWS and len(strange) <= ODD_SHARE * total):
            raise self._odd_cell(cells, strange, forced)
        self._note_odd(cells, strange, total)
        return None

    def _odd_cell(self, cells: pl.Series, strange: pl.Series, forced: bool) -> DlkitError:
        value = strange[0]
        hint = f"--na {_word(value, 'VALUE')} reads it as missing"
        if not forced:
            hint += f"; --categorical {_word(cells.name, 'COLUMN')} makes every value a category"
        problem = "is not a number" if forced else "is not a number, as the rest of the column is"
        return self.place.bad_cell(int((cells == value).arg_max() or 0), cells.name, value, problem, hint)

    def _note_zeros(self, cells: pl.Series) -> None:
        row = int(cells.str.contains(LEADING_ZERO).arg_max() or 0)
        where = self.place.where(row)
        self.notes.append(
            f"column {cells.name!r} is read as text, not numbers: {shown(cells[row])} ({where}) begins with 0"
        )

    def _note_odd(self, cells: pl.Series, strange: pl.Series, total: int) -> None:
        """Worth a word where most of the column is numbers: the odd cells may stand for missing ones."""
        if 2 * len(strange) <= total:
            value = strange[0]
            where = self.place.where(int((cells == value).arg_max() or 0))
            self.notes.append(
                f"column {cells.name!r} is read as text: {len(strange)} of {total} cells are not numbers, "
                f"such as {shown(value)} ({where}); --na {_word(value, 'VALUE')} would read that as missing"
            )

    def _native(self, cells: pl.Series) -> pl.Series | None:
        """A column that came with a type of its own, in one of ours."""
        if cells.dtype == pl.Boolean:
            return cells.cast(pl.String)
        if cells.dtype.is_numeric() or cells.dtype == pl.Null:
            return self._finite(cells.cast(pl.Float64).fill_nan(None))
        if cells.dtype in (pl.Date, pl.Datetime):
            if getattr(cells.dtype, "time_zone", None):
                cells = cells.dt.convert_time_zone("UTC").dt.replace_time_zone(None)
            return cells.cast(DATETIME)
        return None

    def _finite(self, values: pl.Series) -> pl.Series:
        infinite = values.is_infinite().fill_null(False)
        if infinite.any():
            row = int(infinite.arg_max() or 0)
            raise self.place.bad_cell(row, values.name, values[row], "is not a finite number")
        return values


def parse_numbers(cells: pl.Series) -> tuple[pl.Series, pl.Series]:
    """(Float64 values, the cells that are neither null nor finite decimal numbers): blanks around are no harm."""
    values = cells.cast(pl.Float64, strict=False)
    at = (cells.is_not_null() & ~values.is_finite().fill_null(False)).arg_true()
    if not len(at):
        return values, cells.clear()
    left = cells.gather(at)
    again = left.str.strip_chars(" \t").cast(pl.Float64, strict=False)
    fine = again.is_finite().fill_null(False)
    values = values.scatter(at, again.set(~fine, None))
    return values, left.filter(~fine)


def parse_dates(cells: pl.Series) -> pl.Series | None:
    """ISO 8601 dates and times as Datetime (µs, UTC where they have an offset); None where any cell is not one."""
    first = cells.drop_nulls().first()
    if first is None or not re.match(ISO_DATE, str(first)):
        return None
    values = read_dates(cells)
    return values if values.null_count() == cells.null_count() else None


def read_dates(cells: pl.Series) -> pl.Series:
    """Each cell as a date, null where it is none (2023-02-30), or has no offset where others do."""
    iso = cells.set(~cells.str.contains(ISO_DATE).fill_null(False), None)
    zone = "%z" if iso.str.contains(ISO_OFFSET).any() else ""
    plain = iso.str.replace("T", " ", literal=True).str.replace("Z", "+0000", literal=True)
    # Seconds and a fraction are optional; a date alone is its midnight.
    formats = ["%Y-%m-%d %H:%M:%S%.f" + zone, "%Y-%m-%d %H:%M" + zone] + ([] if zone else ["%Y-%m-%d"])
    parsed = [plain.str.to_datetime(form, strict=False, time_unit="us") for form in formats]
    values = pl.select(pl.coalesce(*parsed)).to_series().rename(cells.name)
    return values.dt.replace_time_zone(None) if zone else values


def as_text(values: pl.Series) -> pl.Series:
    """Values as the text of categories: whole numbers without '.0'."""
    if values.dtype == pl.Float64 and is_whole(values):
        return values.cast(pl.Int64).cast(pl.String)
    return values.cast(pl.String)


def is_whole(values: pl.Series) -> bool:
    """Whether every number that is there is an integer that float64 holds exactly."""
    return bool(((values == values.round()) & (values.abs() < 2**53)).all())


def _word(text: str, instead: str) -> str:
    """`text` as a word of a command line, or `instead` where that would not fit into a hint."""
    return shlex.quote(text) if text.isprintable() and len(text) <= 40 else instead
