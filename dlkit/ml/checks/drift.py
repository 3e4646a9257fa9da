"""Column by column: does it have the same distribution on both sides? (notes S040-S041)

Significance alone would flag any difference of a large table and none of a small one: a finding needs an effect too.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
from scipy import stats

from dlkit.data import Role
from dlkit.data.infer import as_text
from dlkit.ml.checks.finding import Finding, Verdict, chance, skip
from dlkit.ml.checks.matrix import LARGEST, codes, floats
from dlkit.ml.checks.sides import Sides
from dlkit.ml.checks.units import sample

LARGE, SMALL = 0.2, 0.1
"""Effects (largest distance of the distributions, or of the shares in sum) to fail, and to be worth a word."""
SURE, LIKELY = 0.01, 0.05
MOST_ROWS = 200_000
# Categories with fewer rows expected on a side are one, as the chi-square test needs.
FEWEST_EXPECTED = 5
PERMUTATIONS, PERMUTED_ROWS = 499, 20_000
BINS = 10


@dataclass(frozen=True)
class Drift:
    """One column. effect: KS distance of numbers, half the summed difference of shares of categories (0 … 1).

    wasserstein  in standard deviations of train, of numbers
    psi          population stability index, of deciles of train or of categories
    p            of KS or chi-square; `adjusted` after Benjamini and Hochberg, over all columns
    """

    column: str
    is_number: bool
    effect: float
    psi: float
    wasserstein: float | None
    p: float
    adjusted: float = 1.0

    def __str__(self) -> str:
        kind = "KS" if self.is_number else "shares"
        beside = f"Wasserstein {self.wasserstein:.2g} sd" if self.wasserstein is not None else f"PSI {self.psi:.2g}"
        return f"{self.column!r} ({kind} {self.effect:.2f}, {beside}, {chance(self.adjusted)})"


def numeric(name: str, train: np.ndarray, valid: np.ndarray) -> Drift:
    """Two samples of numbers without NaN."""
    test = stats.ks_2samp(train, valid, method="asymp")
    spread = float(train.std())
    distance = float(stats.wasserstein_distance(train, valid)) / spread if spread > 0 else None
    edges = np.unique(np.quantile(train, np.linspace(0, 1, BINS + 1)[1:-1]))
    counts = [np.bincount(np.searchsorted(edges, side), minlength=len(edges) + 1) for side in (train, valid)]
    return Drift(name, True, float(test.statistic), psi(*counts), distance, float(test.pvalue))


def categorical(name: str, train: np.ndarray, valid: np.ndarray) -> Drift:
    """Two samples of codes 0, 1, 2, … in order of frequency."""
    size = int(max(train.max(initial=0), valid.max(initial=0))) + 1
    table = np.stack([np.bincount(side.astype(int), minlength=size) for side in (train, valid)])
    table = lump(table[:, table.sum(0) > 0])
    p = float(stats.chi2_contingency(table, correction=False).pvalue) if table.shape[1] > 1 else 1.0
    shares = table / table.sum(1, keepdims=True)
    return Drift(name, False, float(np.abs(shares[0] - shares[1]).sum() / 2), psi(table[0], table[1]), None, p)


def lump(table: np.ndarray) -> np.ndarray:
    """2×C counts with the rare categories as one."""
    expected = table.sum(0) * table.sum(1).min() / table.sum()
    rare = expected < FEWEST_EXPECTED
    return np.column_stack([table[:, ~rare], table[:, rare].sum(1)]) if rare.sum() > 1 else table


def psi(train: np.ndarray, valid: np.ndarray) -> float:
    """Σ (q − p)·ln(q/p) of C counts, half a row added to each, less what chance alone makes: (C − 1)(1/n + 1/m)."""
    p, q = ((side + 0.5) / (side.sum() + 0.5 * len(side)) for side in (train, valid))
    by_chance = (len(train) - 1) * (1 / train.sum() + 1 / valid.sum())
    return max(float(((q - p) * np.log(q / p)).sum() - by_chance), 0.0)


def measure(
    frame: pl.DataFrame, names: Sequence[str], roles: dict[str, Role], is_valid: np.ndarray, units: np.ndarray | None
) -> list[Drift]:
    """Every column that both sides have values of. With units, p is that of permuting whole ones."""
    found = []
    for name in names:
        values, is_number = column_of(frame[name], roles[name])
        there = ~np.isnan(values)
        train, valid = values[there & ~is_valid], values[there & is_valid]
        if min(len(train), len(valid)) >= 2:
            found.append((numeric if is_number else categorical)(name, train, valid))
    if not found:
        return []
    if units is None:
        adjusted = stats.false_discovery_control([one.p for one in found])
    else:
        adjusted = _by_units(frame, [one.column for one in found], roles, is_valid, units)
    return [Drift(**{**vars(one), "adjusted": float(p)}) for one, p in zip(found, adjusted, strict=True)]


def column_of(values: pl.Series, role: Role) -> tuple[np.ndarray, bool]:
    """(N float64 with NaN for missing, whether they are numbers): codes of categories, lengths of prose."""
    if role == Role.TEXT and values.dtype == pl.String:
        values = values.str.len_chars().cast(pl.Float64)
    if values.dtype == pl.String or role == Role.CATEGORICAL:
        return codes(as_text(values)), False
    return np.clip(floats(values), -LARGEST, LARGEST), True


def _by_units(
    frame: pl.DataFrame, names: Sequence[str], roles: dict[str, Role], is_valid: np.ndarray, units: np.ndarray
) -> np.ndarray:
    """Adjusted p of each column: whole units change sides, and each draw's largest effect, in deviations, is what a
    column has to beat (Westfall & Young 1993): valid however the columns and the rows of a unit hang together."""
    rng = np.random.default_rng(0)
    kept = (
        np.arange(len(units)) if len(units) <= PERMUTED_ROWS else rng.choice(len(units), PERMUTED_ROWS, replace=False)
    )
    number = np.unique(units[kept], return_inverse=True)[1]
    side = np.zeros(number.max() + 1, bool)
    side[number] = is_valid[kept]
    effects = [_effect(*column_of(frame[name][kept], roles[name])) for name in names]
    observed = np.array([effect(side[number]) for effect in effects])
    drawn = np.array([[effect(order[number]) for effect in effects] for order in _orders(side, rng)])
    middle, spread = drawn.mean(0), drawn.std(0)
    spread[spread == 0] = np.inf
    largest = ((drawn - middle) / spread).max(1)
    return (1 + (largest[:, None] >= (observed - middle) / spread).sum(0)) / (1 + len(drawn))


def _orders(side: np.ndarray, rng: np.random.Generator) -> list[np.ndarray]:
    return [rng.permutation(side) for _ in range(PERMUTATIONS)]


def _effect(values: np.ndarray, is_number: bool) -> Callable[[np.ndarray], float]:
    """The effect of one column as a function of the sides, sorted once."""
    there = ~np.isnan(values)
    present = values[there]
    order = np.argsort(present, kind="stable")
    ends = np.flatnonzero(np.diff(present[order], append=np.inf) > 0)

    def of(side: np.ndarray) -> float:
        valid = side[there][order]
        seen = np.cumsum(valid)[ends]
        n, m = len(valid) - seen[-1] if len(seen) else 0, seen[-1] if len(seen) else 0
        if not n or not m:
            return 0.0
        gaps = seen / m - (ends + 1 - seen) / n
        return float(np.abs(gaps).max() if is_number else np.abs(np.diff(gaps, prepend=0.0)).sum() / 2)

    return of


def check_drift(sides: Sides, units: np.ndarray | None, is_later: bool, seed: int = 0) -> tuple[Finding, list[Drift]]:
    """All columns but ids and dates."""
    if not sides.features:
        return skip("drift", "no column to compare, beside ids and dates"), []
    rows = sample(sides.is_valid, seed, MOST_ROWS)
    within = None if units is None else units[rows]
    found = measure(sides.frame[rows], sides.features, sides.roles, sides.is_valid[rows], within)
    return _judge("drift", found, is_later), found


def check_target_drift(sides: Sides, units: np.ndarray | None, is_later: bool) -> Finding:
    """The target, as one column more."""
    if sides.target is None:
        return skip("target_drift", "no labels on both sides" if sides.target_name else "no target: --target names it")
    kept = sides.target.kept
    is_class = bool(sides.target.classes)
    name = str(sides.target_name)
    frame = pl.DataFrame({name: sides.labels[kept]})
    if is_class:
        frame = frame.cast(pl.Int64).cast(pl.String)
    role = {name: Role.CATEGORICAL if is_class else Role.NUMERIC}
    found = measure(frame, [name], role, sides.is_valid[kept], None if units is None else units[kept])
    if not found:
        return skip("target_drift", f"too few rows to tell: {name!r} is missing on one side")
    return _judge("target_drift", found, is_later)


def _judge(check: str, found: Sequence[Drift], is_later: bool) -> Finding:
    """The worst column decides. After a split by time a difference is news of the world, not of the split."""
    if not found:
        return skip(check, "no column has values on both sides")
    ranked = sorted(found, key=lambda one: (-(one.adjusted < LIKELY), -one.effect))
    bad = [one for one in ranked if one.adjusted < SURE and one.effect > LARGE]
    odd = [one for one in ranked if one.adjusted < LIKELY and one.effect > SMALL]
    most = (bad or odd or ranked)[0]
    named = ", ".join(map(str, (bad or odd)[:3])) or str(most)
    every = f"{len(found)} columns compared" if len(found) > 1 else "compared"
    if not odd:
        return Finding(check, "pass", f"{every}, the largest difference {named}", most.effect, LARGE)
    verdict: Verdict = "fail" if bad and not is_later else "warn"
    count = len(bad or odd)
    said = f"{count} of {len(found)} columns differ: {named}" if len(found) > 1 else f"differs: {named}"
    more = " and more" if count > 3 else ""
    after = "expect it to go on" if is_later else _NEXT[check].format(column=most.column)
    return Finding(check, verdict, f"{said}{more}; next: {after}", most.effect, LARGE)


_NEXT = {"drift": "dlkit split, or --ablate to see what can go", "target_drift": "dlkit split --stratify {column}"}
