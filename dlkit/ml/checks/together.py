"""Groups and time: what must not be on both sides, and what must not be later in train."""

import re

import numpy as np
import polars as pl

from dlkit.core.errors import bad_data
from dlkit.data import Role
from dlkit.data.infer import as_text, is_whole
from dlkit.data.roles import LOOKS_LIKE_ID
from dlkit.ml.checks.finding import Finding, listed, percent, skip
from dlkit.ml.checks.importance import rank_auc, shown
from dlkit.ml.checks.sides import Sides

NO_COLUMNS = "images have no columns to look at"
GROUP_WORDS = re.compile(
    r"(^|[^a-z])(user|patient|customer|client|subject|person|session|group|household|family|player|author|speaker|"
    r"account|device|doc|document|video|scene|recording|site|hospital|machine)(_?(name|no|nr|number|code))?$",
    re.IGNORECASE,
)
TIME_WORDS = re.compile(r"(^|[^a-z])(year|timestamp|epoch|unix_?time|date|time)$", re.IGNORECASE)
# A group has this many rows on average, and there are at least so many groups.
FEWEST_GROUPS, ROWS_A_GROUP = 10, 1.5
# Columns that a group's value decides make it look like a thing of its own: a patient has an age and a sex.
DECIDED = 2


def check_groups(sides: Sides) -> Finding:
    """Groups on both sides; without --group the columns that look like groups."""
    if sides.arrays is not None:
        return skip("groups", NO_COLUMNS)
    if not sides.groups:
        return _unasked(sides)
    said, worst = [], 0.0
    for name in sides.groups:
        both, share, example = _shared(sides, name)
        worst = max(worst, share)
        parts = [sides.frame[name].filter(pl.Series(side)) for side in (~sides.is_valid, sides.is_valid)]
        counts = [part.drop_nulls().n_unique() for part in parts]
        found = f"{counts[0]:,} values of {name!r} in train, {counts[1]:,} in valid, {both:,} in both"
        said.append(found + (f" ({percent(share)} of valid, such as {example})" if both else ""))
    if worst:
        return Finding("groups", "fail", f"{'; '.join(said)}; next: dlkit split --group {sides.groups[0]}", worst, 0.0)
    return Finding("groups", "pass", "; ".join(said), 0.0, 0.0)


def _shared(sides: Sides, name: str) -> tuple[int, float, str]:
    """(values on both sides, share of valid's rows that have one of them, an example)."""
    train = sides.frame[name].filter(pl.Series(~sides.is_valid)).drop_nulls().unique()
    valid = sides.frame[name].filter(pl.Series(sides.is_valid))
    both = valid.is_in(train.implode()).fill_null(False)
    values = valid.filter(both).unique(maintain_order=True)
    return len(values), float(both.mean() or 0.0), repr(as_text(values)[0]) if len(values) else ""


def _unasked(sides: Sides) -> Finding:
    whole, torn = [], []
    for name in _candidates(sides):
        _, share, _ = _shared(sides, name)
        (torn if share > 0 else whole).append((share, name))
    names = [name for _, name in whole]
    kept = f"the split keeps {listed(names)} whole: judge it so with --group {names[0]}" if whole else ""
    if torn:
        share, name = max(torn)
        rows = sides.rows / max(sides.frame[name].n_unique(), 1)
        detail = (
            f"{name!r} looks like a group ({rows:.1f} rows a value), and {percent(share)} of valid share one;"
            f" if its rows belong together: dlkit split --group {name}, and --group {name} here"
        )
        return Finding("groups", "warn", "; ".join(filter(None, [detail, kept])), share, 0.0)
    if whole:
        return Finding("groups", "pass", kept, 0.0, 0.0)
    return Finding("groups", "pass", f"no --group, and none of {len(sides.columns)} columns looks like one", None, None)


def _candidates(sides: Sides) -> list[str]:
    """Columns that repeat as groups do, and are named as ids, or decide what other columns hold."""
    found = []
    for column in sides.columns:
        values = sides.frame[column.name]
        if column.name in (sides.target_name, sides.time) or column.role in (Role.DATETIME, Role.CONSTANT):
            continue
        present = len(values) - column.missing
        if column.distinct < FEWEST_GROUPS or ROWS_A_GROUP * column.distinct > present:
            continue
        if values.dtype == pl.Float64 and not is_whole(values.drop_nulls()):
            continue
        named = bool(LOOKS_LIKE_ID.search(column.name) or GROUP_WORDS.search(column.name))
        if named or (values.dtype == pl.String and len(_decided(sides, column.name)) >= DECIDED):
            found.append(column.name)
    return found


def _decided(sides: Sides, name: str) -> list[str]:
    """Columns that are one value for each value of `name`, though they vary more than by chance that would be."""
    rows = sides.frame.drop_nulls(name)
    groups = rows[name].n_unique()
    others = [
        c.name for c in sides.columns
        if c.name != name and c.role in (Role.NUMERIC, Role.CATEGORICAL) and 1 < c.distinct < groups
    ]  # fmt: skip
    if 2 * groups > rows.height or not others:
        return []
    spread = rows.group_by(name).agg(pl.col(others).n_unique())
    return [other for other in others if spread[other].max() == 1]


# --- time ------------------------------------------------------------------------------------------------------------


def is_later(sides: Sides) -> bool:
    """Whether the user named the time, and validation comes after all of train by it."""
    return sides.time is not None and _early(sides, sides.time)[0] == 0


def check_time(sides: Sides) -> Finding:
    """Validation not later than train; without --time the columns that look like time."""
    if sides.arrays is not None:
        return skip("time", NO_COLUMNS)
    if sides.time is None:
        return _unasked_time(sides)
    share, said = _early(sides, sides.time)
    if share:
        detail = f"{percent(share)} of valid is not later than the last of train: {said}"
        return Finding("time", "fail", f"{detail}; next: dlkit split --time {sides.time}", share, 0.0)
    return Finding("time", "pass", said, 0.0, 0.0)


def _early(sides: Sides, name: str) -> tuple[float, str]:
    """(share of valid that is not after all of train, from when to when the sides are)."""
    values = sides.frame[name]
    if values.dtype == pl.String:
        raise bad_data(
            f"--time: column {name!r} holds text, neither dates nor numbers",
            f"--datetime {name} says which cell is no date",
        )
    train, valid = (values.filter(pl.Series(side)).drop_nulls() for side in (~sides.is_valid, sides.is_valid))
    if not len(train) or not len(valid):
        raise bad_data(f"--time: column {name!r} is empty on one side")
    spans = [f"{shown(side.min())} to {shown(side.max())}" for side in (train, valid)]
    early = float((valid <= train.max()).mean() or 0.0)
    return early, f"{name!r} is {spans[0]} in train, {spans[1]} in valid"


def _unasked_time(sides: Sides) -> Finding:
    names = sides.named(Role.DATETIME) + [name for name in sides.named(Role.NUMERIC) if _looks_like_time(sides, name)]
    mixed, later = [], []
    for name in names:
        train, valid = (
            sides.frame[name].filter(pl.Series(side)).drop_nulls() for side in (~sides.is_valid, sides.is_valid)
        )
        if len(train) and len(valid):
            (later if _early(sides, name)[0] == 0 else mixed).append(name)
    if later:
        area = rank_auc(sides.frame[later[0]], sides.is_valid)
        said = f"a split by time: `{later[0]}` alone separates the sides: AUC {area:.2f}; {_early(sides, later[0])[1]}"
        return Finding("time", "pass", f"{said}; next: --time {later[0]} says that it is meant", 0.0, 0.0)
    if mixed:
        share, said = _early(sides, mixed[0])
        detail = f"looks like time, and the sides overlap in it: {said}; if it is for later data: dlkit split --time"
        return Finding("time", "warn", f"{mixed[0]!r} {detail} {mixed[0]}", share, 0.0)
    return Finding("time", "pass", f"no --time, and none of {len(sides.columns)} columns looks like one", None, None)


def _looks_like_time(sides: Sides, name: str) -> bool:
    """A number named as a time: years, or seconds or milliseconds since 1970."""
    values = sides.frame[name].drop_nulls()
    if not TIME_WORDS.search(name) or not len(values) or not is_whole(values):
        return False
    low, high = float(np.asarray(values.min())), float(np.asarray(values.max()))
    return 1900 <= low <= high <= 2100 or 1e8 <= low <= high <= 5e9 or 1e11 <= low <= high <= 5e12
