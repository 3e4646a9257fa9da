"""Do both sides hold the same columns, of the same types, with the same words in them?"""

import re
from collections.abc import Iterable, Mapping
from itertools import combinations

import numpy as np
import polars as pl
from scipy import stats

from dlkit.data import Role
from dlkit.data.infer import as_text
from dlkit.ml.checks.finding import Finding, Verdict, listed, percent, skip
from dlkit.ml.checks.sides import Sides

# Unknown categories, and missing values, are worth a word from this share, or this difference of shares, on.
UNKNOWN, GAP = 0.05, 0.10
RARE_LABELS = 0.01
SIGNIFICANT = 0.01
# Two columns of no more than this many values are compared for saying the same.
MOST_VALUES = 1000


def check_schema(sides: Sides) -> Finding:
    """Columns missing, extra, retyped; categories that one side does not know; missing values."""
    train, valid = (list(rows.frame.columns) if rows.frame is not None else [] for rows in (sides.train, sides.valid))
    wrong, odd = [], []
    missing = [name for name in train if name not in valid]
    extra = [name for name in valid if name not in train]
    if lacking := [name for name in missing if name != sides.target_name]:
        wrong.append(f"valid lacks {listed(lacking)}")
    if sides.target_name in missing:
        odd.append(f"valid lacks the target {sides.target_name!r}")
    if extra:
        odd.append(f"train lacks {listed(extra)}")
    for name in sides.frame.columns:
        is_broken, said = _retyped(sides, name)
        if said:
            (wrong if is_broken else odd).append(said)
    for name in sides.named(Role.CATEGORICAL):
        is_broken, said = _unknown(sides, name)
        if said:
            (wrong if is_broken else odd).append(said)
    odd += _missing_rates(sides)
    problems = len(wrong) + len(odd)
    if problems:
        next_step = "; next: write both sides with one script, or --drop the columns" if wrong else ""
        verdict: Verdict = "fail" if wrong else "warn"
        return Finding("schema", verdict, "; ".join([*wrong, *odd]) + next_step, problems, 0)
    if sides.arrays is not None:
        shape = "x".join(map(str, sides.arrays.shape[1:]))
        return Finding("schema", "pass", f"images of {shape} ({sides.arrays.dtype}) on both sides", 0, 0)
    same = _say_the_same(sides)
    return Finding(
        "schema", "pass", f"{len(train)} columns of the same names and types, no unknown categories{same}", 0, 0
    )


def _retyped(sides: Sides, name: str) -> tuple[bool, str | None]:
    """Numbers on one side and words on the other: broken where no word of that side is a number."""
    frames = [rows.frame for rows in (sides.train, sides.valid)]
    first, second = (frame[name] for frame in frames if frame is not None)
    if first.dtype == second.dtype or first.null_count() == len(first) or second.null_count() == len(second):
        return False, None
    kinds = [_KINDS[side.dtype.base_type()] for side in (first, second)]
    words = next((side for side in (first, second) if side.dtype == pl.String), None)
    numbers = 0 if words is None else len(words) - words.cast(pl.Float64, strict=False).null_count()
    mixed = " in part" if numbers else ""
    return not numbers, f"{name!r} is {kinds[0]} in train and {kinds[1]} in valid{mixed}"


_KINDS = {pl.Float64: "numbers", pl.String: "text", pl.Datetime: "dates"}


def _unknown(sides: Sides, name: str) -> tuple[bool, str | None]:
    train, valid = side_counts(sides.frame[name], sides.is_valid)
    strangers = {value: count for value, count in valid.items() if value not in train}
    share = sum(strangers.values()) / max(sum(valid.values()), 1)
    alike = look_alikes(strangers, train)
    if alike:
        return True, f"{name!r}: {_pairs(alike)}"
    if share > UNKNOWN:
        return False, f"{name!r}: {percent(share)} of valid has categories that train has not ({listed(strangers)})"
    return False, None


def side_counts(values: pl.Series, is_valid: np.ndarray) -> tuple[dict[str, int], dict[str, int]]:
    """How often each value is there, in train and in valid, as text."""
    text = as_text(values)
    sides = (text.filter(pl.Series(~is_valid)), text.filter(pl.Series(is_valid)))
    first, second = (dict(side.drop_nulls().value_counts(sort=True).iter_rows()) for side in sides)
    return first, second


def _plain(text: str) -> str:
    """A word without what differs by accident: case, blanks, a dot or comma at the end."""
    return re.sub(r"\s+", " ", text).strip().rstrip(".,; ").casefold()


def look_alikes(strangers: Iterable[str], known: Iterable[str]) -> list[tuple[str, str, str]]:
    """(stranger, known, how they differ) for words that differ by case, blanks or a dot at the end alone."""
    by_plain: dict[str, str] = {}
    for word in known:
        by_plain.setdefault(_plain(word), word)
    found = []
    for word in strangers:
        twin = by_plain.get(_plain(word))
        if twin is not None and twin != word and _plain(word):
            found.append((word, twin, _difference(word, twin)))
    return found


def _difference(first: str, second: str) -> str:
    if first.casefold() == second.casefold():
        return "case"
    if re.sub(r"\s", "", first) == re.sub(r"\s", "", second):
        return "blanks"
    if first.rstrip(".") == second.rstrip("."):
        return "a trailing dot"
    return "case, blanks or punctuation"


def _pairs(alike: list[tuple[str, str, str]]) -> str:
    named = [f"{word!r} of valid is {twin!r} of train but for {how}" for word, twin, how in alike[:3]]
    return ", ".join(named) + (f" and {len(alike) - 3} more" if len(alike) > 3 else "")


def _missing_rates(sides: Sides) -> list[str]:
    """Columns that are missing more often on one side, by ten points or more and not by chance."""
    n, m = int((~sides.is_valid).sum()), int(sides.is_valid.sum())
    found = []
    for values in sides.frame:
        missing = values.is_null().to_numpy()
        counts = [int(missing[~sides.is_valid].sum()), int(missing[sides.is_valid].sum())]
        gap = counts[1] / m - counts[0] / n
        if abs(gap) < GAP:
            continue
        p = stats.fisher_exact([[counts[0], n - counts[0]], [counts[1], m - counts[1]]]).pvalue
        if p * sides.frame.width < SIGNIFICANT:
            rates = f"{percent(counts[1] / m)} of valid and {percent(counts[0] / n)} of train"
            found.append(f"{values.name!r} is missing in {rates}")
    return found


def _say_the_same(sides: Sides) -> str:
    """Columns each of which is a function of the other: class and pclass of the titanic's table."""
    few = [c.name for c in sides.columns if 1 < c.distinct <= MOST_VALUES and 2 * c.distinct < sides.rows]
    counts = {name: sides.frame[name].n_unique() for name in few}
    pairs = [
        f"{first} and {second}"
        for first, second in combinations(few, 2)
        if counts[first] == counts[second] == sides.frame.select(pl.struct(first, second).n_unique()).item()
    ]
    return f"; the same said twice: {listed_plain(pairs)}" if pairs else ""


def listed_plain(names: list[str]) -> str:
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")


def check_labels(sides: Sides) -> Finding:
    """Classes that one side does not know, and those that are written in two ways."""
    if sides.target is None:
        why = f"no target {sides.target_name!r} in valid" if sides.target_name else "no target: --target names it"
        return skip("labels", why)
    if not sides.target.classes:
        return skip("labels", f"{sides.target_name!r} is a number: it has no classes (see target_drift)")
    names = pl.Series("label", sides.target.classes)
    present = sides.target.kept
    text = names[sides.labels[present].astype(int)]
    train, valid = side_counts(text, sides.is_valid[present])
    strangers = {word: count for word, count in valid.items() if word not in train}
    share = sum(strangers.values()) / max(sum(valid.values()), 1)
    alike = look_alikes(strangers, train) + _twice(train)
    if alike:
        fix = "; next: write them alike"
        return Finding("labels", "fail", _pairs(alike) + fix, share, RARE_LABELS)
    absent = [word for word in train if word not in valid]
    beside = f"; not in valid: {listed(absent)}" if absent else ""
    if strangers:
        verdict: Verdict = "fail" if share > RARE_LABELS else "warn"
        detail = f"train has never seen {listed(strangers)}: {percent(share)} of valid{beside}"
        return Finding(
            "labels", verdict, f"{detail}; next: dlkit split --stratify {sides.target_name}", share, RARE_LABELS
        )
    detail = f"all {len(valid)} classes of valid are in train{beside}"
    if absent:
        detail += f"; next: dlkit split --stratify {sides.target_name}"
    return Finding("labels", "warn" if absent else "pass", detail, 0.0, RARE_LABELS)


def _twice(train: Mapping[str, int]) -> list[tuple[str, str, str]]:
    """Labels of train that are one word in two spellings."""
    words = sorted(train, key=lambda word: -train[word])
    return [pair for i, word in enumerate(words) for pair in look_alikes([word], words[:i])]
