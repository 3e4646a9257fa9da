"""What each column of a typed table is to a model."""

import re

import polars as pl

from dlkit.data.dataset import Column, Role

TRUTH = {"true", "false"}
LOOKS_LIKE_ID = re.compile(r"(^|[^a-z])(id|uuid|guid|index|rowid|row_id|key)$|^unnamed: \d+$", re.IGNORECASE)
# Fewer rows than this are too few to call 1, 2, 3, … a row number.
ROW_NUMBER_ROWS = 20
TEXT_WORDS = 3


def describe(values: pl.Series, said: str | None = None) -> Column:
    """A column with its role: what the user `said` that it is (a role's name), or else what it looks like."""
    missing = values.null_count()
    distinct = values.n_unique() - (missing > 0)
    return Column(values.name, _role(values, len(values) - missing, distinct, said), missing, distinct)


def _role(values: pl.Series, present: int, distinct: int, said: str | None) -> Role:
    if said in (Role.TEXT, Role.ID):
        return Role(said)
    if distinct == 0 or (distinct == 1 and present == len(values)):
        return Role.CONSTANT
    if values.dtype == pl.Float64:
        return Role.ID if said is None and distinct == len(values) and _is_row_number(values) else Role.NUMERIC
    if values.dtype != pl.String:
        return Role.DATETIME
    return Role.CATEGORICAL if said == Role.CATEGORICAL else _text_role(values, present, distinct)


def _is_row_number(values: pl.Series) -> bool:
    """Distinct integers under a name such as passenger_id, or 0, 1, 2, … from top to bottom."""
    if not (values == values.round()).all():
        return False
    if LOOKS_LIKE_ID.search(values.name):
        return True
    return len(values) >= ROW_NUMBER_ROWS and values[0] in (0, 1) and bool((values.diff().drop_nulls() == 1).all())


def _text_role(values: pl.Series, present: int, distinct: int) -> Role:
    """Categories repeat: on average every one is there twice. What does not is an id, or prose."""
    if 2 * distinct <= present or (distinct <= 2 and set(values.drop_nulls().str.to_lowercase()) <= TRUTH):
        return Role.CATEGORICAL
    words = values.str.count_matches(r"\S+").mean()
    if isinstance(words, float) and words > TEXT_WORDS:
        return Role.TEXT
    return Role.ID if distinct == present else Role.TEXT
