"""Rows of valid that are in train as well: as they are, without their label, and after trimming and rounding."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
from scipy import stats

from dlkit.data import Role
from dlkit.ml.checks.finding import Finding, Verdict, percent, skip
from dlkit.ml.checks.sides import Sides

THRESHOLD = 0.01
"""Share of valid that may be copies before the check fails."""
DIGITS = 5
# Of the distinct rows so many must be told apart by either half of the columns for a repeat to be no coincidence.
TELLS_APART = 0.95
CHANCE = 0.001


@dataclass(frozen=True, eq=False)
class Repeats:
    """in_train: of each row of valid, whether train has it. within: share of train rows that train has again."""

    in_train: np.ndarray
    within: float

    @property
    def share(self) -> float:
        return float(self.in_train.mean())

    @property
    def count(self) -> int:
        return int(self.in_train.sum())


def repeats(keys: np.ndarray, is_valid: np.ndarray) -> Repeats:
    """keys: N uint64, equal where rows are."""
    train, valid = keys[~is_valid], keys[is_valid]
    known, counts = np.unique(train, return_counts=True)
    return Repeats(np.isin(valid, known), float(counts[counts > 1].sum() / len(train)))


def keys_of(frame: pl.DataFrame) -> np.ndarray:
    """N uint64: rows that are equal, missing values included, have one key (64 bits: a million rows do not collide)."""
    return frame.hash_rows(seed=0).to_numpy()


def plain(frame: pl.DataFrame) -> pl.DataFrame:
    """Words without case and outer blanks, numbers to five digits."""
    return frame.with_columns(
        pl.col(pl.String).str.strip_chars().str.to_lowercase(), pl.col(pl.Float64).round_sig_figs(DIGITS)
    )


def compared(sides: Sides) -> list[str]:
    """The columns that rows are compared by: ids, which no copy shares, and the target apart."""
    return [
        name for name, role in sides.roles.items() if role not in (Role.ID, Role.CONSTANT) and name != sides.target_name
    ]


def check_duplicates(sides: Sides) -> Finding:
    """Exact copies across the sides."""
    if sides.arrays is not None:
        found = repeats(array_keys(sides.arrays), sides.is_valid)
        return _verdict(found, True, [f"{found.count:,} of {len(found.in_train):,} images of valid are in train"])
    names = compared(sides)
    if not names:
        return skip("duplicates", "no column to compare rows by, beside ids")
    frame = sides.frame.select(names)
    bare = repeats(keys_of(frame), sides.is_valid)
    rough = repeats(keys_of(plain(frame)), sides.is_valid)
    parts = [f"{bare.count:,} of {len(bare.in_train):,} rows of valid are in train"]
    if sides.target_name in sides.frame.columns:
        whole = repeats(keys_of(sides.frame.select(*names, sides.target_name)), sides.is_valid)
        parts.append(f"{whole.count:,} with the same {sides.target_name!r}")
    parts.append(f"{rough.count:,} once trimmed and rounded to {DIGITS} digits")
    return _verdict(rough, is_distinctive(frame), parts)


def _verdict(found: Repeats, distinctive: bool, parts: Sequence[str]) -> Finding:
    said = ", ".join(parts)
    if not found.count:
        return Finding("duplicates", "pass", said, 0.0, THRESHOLD)
    said += f" ({percent(found.share)}; of train {percent(found.within)} repeat within it)"
    allowed = 0.0 if distinctive else found.within
    chance = stats.binomtest(found.count, len(found.in_train), max(allowed, THRESHOLD), alternative="greater").pvalue
    verdict: Verdict = "warn"
    if found.share > THRESHOLD and (distinctive or chance < CHANCE):
        verdict = "fail"
        said += "; next: take them out of one side"
    elif not distinctive:
        said += ": no more than the table's own repeats; next: take them out, if each row stands for a thing of its own"
    return Finding("duplicates", verdict, said, found.share, THRESHOLD)


def is_distinctive(frame: pl.DataFrame) -> bool:
    """Whether rows hold so much that equal ones are copies: each half of the columns tells the distinct rows apart.

    In a table of few values (the titanic's) two passengers are alike by coincidence; two houses with the same
    coordinates, rooms and price are one.
    """
    if frame.width < 2:
        return frame.width == 1 and frame.to_series().n_unique() > TELLS_APART * frame.height
    distinct = frame.unique(maintain_order=True)
    order = sorted(frame.columns, key=lambda name: -distinct[name].n_unique())
    needed = TELLS_APART * distinct.height
    return all(distinct.select(order[start::2]).n_unique() >= needed for start in (0, 1))


def array_keys(arrays: np.ndarray) -> np.ndarray:
    """N uint64 of the content of each array."""
    import hashlib

    digests = [hashlib.blake2b(np.ascontiguousarray(one).tobytes(), digest_size=8).digest() for one in arrays]
    return np.frombuffer(b"".join(digests), np.uint64)


def check_conflicts(sides: Sides, keys: np.ndarray | None = None) -> Finding:
    """The same input with another label on the other side: nothing can predict both.

    keys  N uint64, equal for the same input; those of the columns, or of the images, where none are given
    """
    if sides.target is None:
        return skip("conflicts", "no labels on both sides" if sides.target_name else "no target: --target names it")
    if keys is None:
        names = compared(sides)
        if sides.arrays is None and not names:
            return skip("conflicts", "no column to compare rows by, beside ids")
        keys = array_keys(sides.arrays) if sides.arrays is not None else keys_of(plain(sides.frame.select(names)))
    kept = sides.target.kept
    rows = pl.DataFrame({"key": keys[kept], "label": sides.target.labels, "valid": sides.is_valid[kept]})
    train = rows.filter(~pl.col("valid")).group_by("key").agg(pl.col("label").unique().alias("known"))
    both = rows.filter("valid").join(train, on="key")
    odd = both.filter(pl.col("known").list.len() > pl.col("known").list.contains(pl.col("label")).cast(pl.UInt32))
    count, total = odd.height, int(sides.is_valid[kept].sum())
    share = count / max(total, 1)
    if not count:
        return Finding(
            "conflicts", "pass", f"of {total:,} rows of valid none is in train with another label", 0.0, THRESHOLD
        )
    distinctive = sides.arrays is not None or is_distinctive(sides.frame.select(compared(sides)))
    verdict: Verdict = "fail" if distinctive and share > THRESHOLD else "warn"
    why = (
        "; next: find out which label is right"
        if distinctive
        else ", as few values make likely: no model is right on both"
    )
    detail = (
        f"{count:,} of {total:,} rows of valid ({percent(share)}) are in train with another {sides.target_name!r}{why}"
    )
    return Finding("conflicts", verdict, detail, share, THRESHOLD)
