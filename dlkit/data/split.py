"""Which rows train, validate and test: random, in a column's shares, by group, by time, by hash, as a column says."""

import hashlib
import re
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from dlkit.core.errors import DlkitError, bad_data
from dlkit.core.reading import MULTI_LABEL
from dlkit.core.splitting import Splitting
from dlkit.data.dataset import Dataset, Rows
from dlkit.data.groups import balanced, nearest_sum
from dlkit.data.infer import DATETIME, as_text

# Numbers of more different values than this are stratified by BINS quantiles.
MOST_STRATA, BINS = 20, 10
# Places in time at which groups are tried to be kept apart.
MOST_CUTS = 100
# Groups times strata that fit into memory several times.
MOST_COUNTS = 50_000_000
NOTHING = Splitting()
SIDES = ("train", "valid", "test")
# On no side: in a gap, or with a group that is on another.
OUT = "out"
WORDS = {
    **dict.fromkeys(("train", "training", "0", "false"), 0),
    **dict.fromkeys(("valid", "val", "validation", "dev", "held out", "1", "true"), 1),
    **dict.fromkeys(("test", "testing"), 2),
    OUT: -1,
}


@dataclass(frozen=True, eq=False)
class Split:
    """Sorted int64 rows of each side, which share nothing. Rows on no side are left out (a gap, a straddling group).

    method  what was done, in the words of the options: random, stratify, group, time, 'group + time', hash, split
    """

    method: str
    train: np.ndarray
    valid: np.ndarray
    test: np.ndarray
    notes: tuple[str, ...] = ()

    @property
    def sides(self) -> dict[str, np.ndarray]:
        """train, valid, and test where it has rows."""
        return {side: rows for side in SIDES if len(rows := getattr(self, side)) or side != "test"}

    def left_out(self, rows: int) -> int:
        return rows - len(self.train) - len(self.valid) - len(self.test)


def hold_out(rows: Rows, splitting: Splitting = NOTHING, valid: float = 0.2, seed: int = 0, test: float = 0.0) -> Split:
    """Rows held out once: shares `valid` and `test` of all, as nearly as the method allows.

    A Dataset of classes is stratified by them where `splitting` asks for nothing that decides otherwise; a source that
    says itself how it is split is split so, where `splitting` asks for nothing. Each side has two rows at least.
    """
    _check_shares(valid, test, seed)
    if splitting == NOTHING and rows.fixed_split is not None:
        return _checked(rows, _from_mask("split", rows.fixed_split.astype(np.int64)))
    dealer = _Dealer(rows, splitting, np.random.Generator(np.random.PCG64(seed)), seed)
    split = _checked(rows, dealer.hold_out(np.array([1 - valid - test, valid, test])))
    if test and not len(split.test):
        raise bad_data(f"{rows.source}: no rows are left to test", "a larger --test")
    return split


def folds(rows: Rows, splitting: Splitting = NOTHING, k: int = 5, seed: int = 0) -> list[Split]:
    """k splits: each row validates once; by time the k later of k + 1 stretches do, with all before them to train."""
    _check_shares(0.5, 0.0, seed)
    if not 2 <= k <= rows.rows // 2:
        raise DlkitError(f"--folds must be in the range [2, {max(rows.rows // 2, 2)}] for {rows.rows} rows; got {k}")
    dealer = _Dealer(rows, splitting, np.random.Generator(np.random.PCG64(seed)), seed)
    return [_checked(rows, split, "fewer --folds") for split in dealer.folds(k)]


def _check_shares(valid: float, test: float, seed: int) -> None:
    if not 0 < valid < 1:
        raise DlkitError(f"--valid must be between 0 and 1, both excluded; got {valid:g}")
    if not 0 <= test < 1 or valid + test >= 1:
        raise DlkitError(f"--valid and --test must leave rows to train on; got {valid:g} and {test:g}")
    if seed < 0:
        raise DlkitError(f"--seed must not be negative; got {seed}")


def _checked(rows: Rows, split: Split, instead: str = "another --valid") -> Split:
    """Two rows at least on each side."""
    if min(len(split.train), len(split.valid)) < 2:
        message = f"{rows.source}: {len(split.train)} rows to train on and {len(split.valid)} to validate"
        raise bad_data(message, f"each side needs two at least: more rows, or {instead}")
    return split


def _from_mask(method: str, side: np.ndarray, notes: tuple[str, ...] = ()) -> Split:
    """N int64: 0 train, 1 valid, 2 test, anything else on no side."""
    train, valid, test = (np.flatnonzero(side == i).astype(np.int64) for i in range(3))
    return Split(method, train, valid, test, notes)


class _Dealer:
    """One data set and what is asked of its split."""

    def __init__(self, rows: Rows, splitting: Splitting, rng: np.random.Generator, seed: int) -> None:
        self.rows, self.splitting, self.rng, self.seed = rows, splitting, rng, seed
        self.notes: list[str] = []
        names = [] if rows.frame is None else rows.frame.columns
        if splitting.columns and rows.frame is None:
            raise DlkitError(
                f"--{next(iter(splitting.columns))} is for tables with named columns; {rows.source} has none"
            )
        splitting.check_columns(rows.source, names, rows.targets if isinstance(rows, Dataset) else ())
        asked = [option for option in ("group", "time", "stratify", "hash", "split") if option in splitting.columns]
        self.method = " + ".join(asked) or "random"

    def hold_out(self, shares: np.ndarray) -> Split:
        asked = self.splitting
        if asked.split is not None:
            return self._split(_said(self.rows, asked.split))
        if asked.hash is not None:
            return self._split(np.searchsorted(np.cumsum(shares)[:2], self._hashed(asked.hash), side="right"))
        if asked.time is not None and asked.group is not None:
            return self._group_and_time(shares)
        used = shares if shares[2] else shares[:2]
        if asked.time is not None:
            return self._split(self._timed(used))
        return self._split(self._grouped(used) if asked.group is not None else self._drawn(used))

    def folds(self, k: int) -> list[Split]:
        asked = self.splitting
        if asked.split is not None:
            raise DlkitError("--folds and --split: the column says it all", "leave one of them out")
        if asked.time is not None:
            return self._time_folds(k)
        shares = np.full(k, 1 / k)
        if asked.hash is not None:
            fold = (self._hashed(asked.hash) * k).astype(np.int64)
        else:
            fold = self._grouped(shares) if asked.group is not None else self._drawn(shares)
        return [self._split((fold == i).astype(np.int64)) for i in range(k)]

    def _split(self, side: np.ndarray) -> Split:
        return _from_mask(self.method, side, tuple(self.notes))

    # ------------------------------------------------------------ by chance

    def _drawn(self, shares: np.ndarray) -> np.ndarray:
        """N int64 sides at random: round(share·N) rows each, every stratum in proportion."""
        order = self.rng.permutation(self.rows.rows)
        strata = self._strata()
        strata = np.zeros(self.rows.rows, np.int64) if strata is None else strata
        counts = np.bincount(strata)
        # The shuffled rows, stratum by stratum; the first of each go to the last side, and so on.
        rest = order[np.argsort(strata[order], kind="stable")]
        side = np.zeros(self.rows.rows, np.int64)
        bounds = np.round(np.cumsum(shares[::-1])[::-1] * len(side)).astype(np.int64)
        for i in range(len(shares) - 1, 0, -1):
            total = int(bounds[i] - (bounds[i + 1] if i + 1 < len(shares) else 0))
            position = np.arange(len(rest)) - np.repeat(np.cumsum(counts) - counts, counts)
            taken = allocate(counts, min(total, len(rest)))
            mask = position < np.repeat(taken, counts)
            side[rest[mask]] = i
            rest, counts = rest[~mask], counts - taken
        return side

    def _strata(self) -> np.ndarray | None:
        """N int64 codes from 0 of what is to be held in proportion; None where nothing is."""
        name = self.splitting.stratify
        if name is None:
            if isinstance(self.rows, Dataset) and self.rows.task == MULTI_LABEL:
                self.notes.append("the rows held out are drawn without regard to their labels")
            classes = isinstance(self.rows, Dataset) and self.rows.task == "classification"
            return self.rows.labels if classes and isinstance(self.rows, Dataset) else None
        values = self._column(name)
        if values.n_unique() < 2:
            message = f"{self.rows.source}: {name!r} is the same in every row: there is nothing to hold in proportion"
            raise bad_data(message, "leave --stratify out, or name another column")
        if values.dtype != pl.String and values.n_unique() > MOST_STRATA:
            self.notes.append(f"{name!r} has many different values: its {BINS} quantiles are held in proportion")
            ranks = values.to_physical().rank("dense").fill_null(0).to_numpy().astype(np.int64)
            edges = np.quantile(ranks, np.arange(1, BINS) / BINS)
            values = pl.Series(name, np.searchsorted(edges, ranks))
        return _codes(values)

    def _column(self, name: str) -> pl.Series:
        assert self.rows.frame is not None
        return self.rows.frame[name]

    # ------------------------------------------------------------ by group

    def _groups(self) -> np.ndarray:
        """N int64 codes from 0 of the groups."""
        name = self.splitting.group or ""
        values = self._column(name)
        if values.null_count():
            self.notes.append(f"{values.null_count()} rows without {name!r} are kept together, as one group")
        codes = _codes(values)
        if codes.max(initial=0) < 1:
            raise bad_data(f"{self.rows.source}: {name!r} is the same in every row: there is one group")
        return codes

    def _grouped(self, shares: np.ndarray) -> np.ndarray:
        """N int64 sides, whole groups on each."""
        codes = self._groups()
        sizes = np.bincount(codes)
        if len(sizes) < len(shares):
            name = self.splitting.group
            raise bad_data(f"{self.rows.source}: {len(sizes)} groups of {name!r} cannot be on {len(shares)} sides")
        strata = self._strata()
        if strata is not None or len(shares) > 3:
            strata = np.zeros(len(codes), np.int64) if strata is None else strata
            if len(sizes) * (int(strata.max()) + 1) > MOST_COUNTS:
                values = f"{strata.max() + 1:,} values of {self.splitting.stratify!r} in {len(sizes):,} groups"
                raise bad_data(f"{self.rows.source}: {values} cannot be held in proportion")
            counts = np.zeros((len(sizes), strata.max() + 1), np.int64)
            np.add.at(counts, (codes, strata), 1)
            return np.asarray(balanced(counts, shares, self.rng)[codes])
        side = np.zeros(len(sizes), np.int64)
        for i in range(len(shares) - 1, 0, -1):
            # Every side that is still to come needs a group too.
            free = np.flatnonzero(side == 0)
            if i < len(free):
                side[free[self._pick(sizes[free], round(shares[i] * len(codes)), i)]] = i
        return np.asarray(side[codes])

    def _pick(self, sizes: np.ndarray, target: int, sides: int) -> np.ndarray:
        """Groups for one side, so many that `sides` others can have one each."""
        chosen = nearest_sum(sizes, target, self.rng)
        while len(sizes) - chosen.sum() < sides:
            chosen[np.flatnonzero(chosen)[np.argmax(sizes[chosen])]] = False
        return chosen

    # ------------------------------------------------------------ by time

    def _times(self) -> np.ndarray:
        """N float64 numbers or int64 microseconds."""
        name = self.splitting.time or ""
        values = self._column(name)
        if values.null_count():
            row = int(values.is_null().arg_max() or 0)
            where = f"{self.rows.source}: {self.rows.where(row)}"
            raise bad_data(f"{where} has no {name!r}: when was it?", "leave such rows out, or split by something else")
        if values.dtype == pl.String:
            first = as_text(values)[0]
            hint = "dates are 2024-05-31 or 2024-05-31 14:00:00; --datetime names the cell that is none"
            raise bad_data(f"{self.rows.source}: {name!r} holds text such as {first!r:.40}, no times", hint)
        return np.asarray(values.to_physical().to_numpy())

    def _gap(self) -> float:
        """In the time column's own unit: microseconds of dates."""
        is_date = self._column(self.splitting.time or "").dtype == DATETIME
        return 0.0 if self.splitting.gap is None else parse_gap(self.splitting.gap, is_date)

    def _timed(self, shares: np.ndarray) -> np.ndarray:
        """N int64 sides, each later than the one before; rows in a gap are on none (-1). Ties are never cut."""
        times = self._times()
        values, counts = np.unique(times, return_counts=True)
        if len(values) < len(shares):
            name, held = self.splitting.time, "is the same" if len(values) == 1 else "has two times"
            raise bad_data(
                f"{self.rows.source}: {name!r} {held} in all rows: {len(shares)} sides cannot follow each other"
            )
        ends = np.cumsum(counts)
        first = [_nearest_cut(ends, share * len(times)) for share in np.cumsum(shares)[:-1]]
        for i in range(len(first)):  # a stretch of no rows gets the next time, or the last ones that are left
            low = first[i - 1] + 1 if i else 1
            first[i] = min(max(first[i], low), len(values) - len(first) + i)
        starts = values[first]
        side = np.searchsorted(starts, times, side="right")
        return self._without_gap(times, side, starts)

    def _without_gap(self, times: np.ndarray, side: np.ndarray, starts: np.ndarray) -> np.ndarray:
        gap = self._gap()
        if not gap:
            return side
        # The last start has nothing after it: nobody is too close to that.
        nexts = np.append(starts.astype(np.float64), np.inf)[side]
        inside = (side < len(starts)) & (nexts - times <= gap)
        if inside.any():
            self.notes.append(f"{np.count_nonzero(inside)} rows lie in the gap and are on no side")
        return np.where(inside, -1, side)

    def _time_folds(self, k: int) -> list[Split]:
        side = self._timed(np.full(k + 1, 1 / (k + 1)))
        groups = self._groups() if self.splitting.group is not None else None
        found = []
        for i in range(1, k + 1):
            mask = np.where(side == i, 1, np.where((side >= 0) & (side < i), 0, -1))
            if groups is not None:
                mask[(mask == 0) & np.isin(groups, groups[mask == 1])] = -1
            found.append(self._split(mask))
        return found

    def _group_and_time(self, shares: np.ndarray) -> Split:
        """Validation later than training, and no group on both sides: whoever is on both is left out of one.

        Cuts through time are tried, and at each how many late rows a group needs, beside its early ones, to validate;
        of those whose share of validation is near enough, the one that leaves the fewest rows out.
        """
        if shares[2]:
            hint = "split twice: first --valid for the test rows, then the training file again"
            raise DlkitError("--test with both --group and --time: three sides leave too few rows", hint)
        times, groups = self._times(), self._groups()
        values = np.unique(times)
        if len(values) < 2:
            raise bad_data(f"{self.rows.source}: {self.splitting.time!r} is the same in every row")
        tried = values[np.unique(np.linspace(1, len(values) - 1, MOST_CUTS).astype(np.int64))]
        cut, validates = min(
            ((cut, *_decide_straddlers(groups, self._early(times, cut), times >= cut, shares[1])) for cut in tried),
            key=lambda found: found[1],
        )[::2]
        mine = validates[groups]
        side = np.where((times >= cut) & mine, 1, np.where(self._early(times, cut) & ~mine, 0, -1))
        if min((side == 0).sum(), (side == 1).sum()) < 2:
            asked = f"{self.splitting.group!r} and {self.splitting.time!r}"
            raise bad_data(
                f"{self.rows.source}: no cut through time keeps the groups apart: {asked} do not go together"
            )
        left_out = int((side < 0).sum())
        if left_out:
            self.notes.append(
                f"{left_out} of {len(side)} rows are on no side: their group is on the other, or they lie in the gap"
            )
        return self._split(side)

    def _early(self, times: np.ndarray, cut: float) -> np.ndarray:
        """N bool: far enough before a cut to train."""
        early, gap = times < cut, self._gap()
        return early & (cut - times > gap) if gap else early

    # ------------------------------------------------------------ by hash

    def _hashed(self, name: str) -> np.ndarray:
        """N float64 in [0, 1): what the text of a cell, with the seed, comes to."""
        values = as_text_each(self._column(name))
        if values.null_count():
            self.notes.append(f"{values.null_count()} rows without {name!r} are kept together")
        codes, distinct = _coded(values)
        return np.asarray(np.array([_place(self.seed, value) for value in distinct])[codes])


def _place(seed: int, value: str | None) -> float:
    """A number in [0, 1) that depends on nothing else: 53 bits of BLAKE2b."""
    digest = hashlib.blake2b(f"{seed}:{value or ''}".encode(), digest_size=8).digest()
    return (int.from_bytes(digest, "big") >> 11) / (1 << 53)


def as_text_each(values: pl.Series) -> pl.Series:
    """Each value as text, whatever the others are: 12 and 12.0 are '12'."""
    if values.dtype != pl.Float64:
        return values.cast(pl.String)
    unique = values.unique().drop_nulls()
    text = [str(int(value)) if value == int(value) else repr(value) for value in unique.to_list()]
    return values.replace_strict(unique, pl.Series(text, dtype=pl.String), default=None)


def _nearest_cut(ends: np.ndarray, wanted: float) -> int:
    """The index of the distinct time with which the later side begins: as nearly `wanted` rows as can be before it."""
    return int(np.argmin(np.abs(ends - wanted))) + 1


def _decide_straddlers(
    groups: np.ndarray, early: np.ndarray, late: np.ndarray, share: float
) -> tuple[float, np.ndarray]:
    """(cost, G bool: the groups that validate) of one cut: one with rows before and after it keeps one of the two."""
    before, after = (np.bincount(groups[mask], minlength=groups.max() + 1) for mask in (early, late))
    best: tuple[float, np.ndarray] = (np.inf, after > 0)
    for weight in (0.0, 0.1, 0.25, 0.5, 1.0, 2.0, 4.0, 10.0, 1e9):
        validates = after > weight * before
        cost = _cost(int(before[~validates].sum()), int(after[validates].sum()), len(groups), share)
        if cost < best[0]:
            best = (cost, validates)
    return best


def _cost(train: int, valid: int, rows: int, share: float) -> float:
    """Rows left out, and far more dearly a share of validation off by more than 0.01."""
    if min(train, valid) < 2:
        return np.inf
    off = max(abs(valid / (train + valid) - share) - 0.01, 0.0)
    return 10 * off + 1 - (train + valid) / rows


_UNITS = {"s": 1e6, "m": 60e6, "h": 3600e6, "d": 86400e6, "w": 7 * 86400e6}


def parse_gap(text: str, is_date: bool) -> float:
    """'7d', '12h', '30m', '45s', '2w' in microseconds; of a numeric column, a number of its own unit."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smhdw]?)", text.strip())
    if not found or bool(found[2]) != is_date:
        what = "dates need a unit, such as 7d, 12h or 30m" if is_date else "a numeric time needs a plain number"
        raise DlkitError(f"--gap {text!r}: {what}")
    return float(found[1]) * _UNITS.get(found[2], 1.0)


def _said(rows: Rows, name: str) -> np.ndarray:
    """N int64 sides that a column says."""
    assert rows.frame is not None
    values = as_text_each(rows.frame[name])
    words = values.str.strip_chars().str.to_lowercase()
    known = words.is_in(list(WORDS))
    if not known.fill_null(False).all():
        row = int((~known.fill_null(False)).arg_max() or 0)
        problem = "is no side" if values[row] is not None else "is missing, and every row needs a side"
        raise rows.place.bad_cell(row, name, values[row], problem, "sides are train, valid (or 0 and 1) and test")
    side = words.replace_strict(WORDS, return_dtype=pl.Int64).to_numpy()
    return side if (side == 1).any() else np.minimum(side, 1)  # train and test: the test rows validate


def _codes(values: pl.Series) -> np.ndarray:
    return _coded(values)[0]


def _coded(values: pl.Series) -> tuple[np.ndarray, list[Any]]:
    """(N int64 from 0, equal for equal values; the distinct values). Missing is a value, and the last."""
    if values.dtype != pl.String:
        distinct, codes = np.unique(values.to_physical().to_numpy(), return_inverse=True)
        return codes.astype(np.int64), distinct.tolist()
    present = values.drop_nulls().unique(maintain_order=True)
    coded = values.cast(pl.Enum(present)).to_physical().cast(pl.Int64).fill_null(len(present))
    return coded.to_numpy(), [*present.to_list(), *([None] if values.null_count() else [])]


def allocate(counts: np.ndarray, total: int) -> np.ndarray:
    """How many of each class to take so that `total` are taken: in proportion, by largest remainder.

    Of a class with two rows or more at least one is taken and one left, where `total` allows it.
    """
    quota = total * counts / counts.sum()
    low, high = np.minimum(counts // 2, 1), np.maximum(counts - 1, 0)
    if low.sum() > total:
        low = np.zeros_like(counts)
    if high.sum() < total:
        high = counts
    taken = np.clip(np.floor(quota).astype(np.int64), low, high)
    while (short := total - int(taken.sum())) != 0:
        step = 1 if short > 0 else -1
        free = np.flatnonzero(taken < high if step > 0 else taken > low)
        nearest = free[np.argsort(step * (taken - quota)[free], kind="stable")]
        taken[nearest[: abs(short)]] += step
    return np.asarray(taken)
