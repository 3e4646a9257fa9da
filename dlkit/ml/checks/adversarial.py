"""Can the two sides be told apart? One of three verdicts, and the columns that tell."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from sklearn.ensemble import RandomForestClassifier

from dlkit.data import Role
from dlkit.data.metrics import auc
from dlkit.ml.checks import importance
from dlkit.ml.checks.finding import Finding, chance, skip
from dlkit.ml.checks.importance import Telling
from dlkit.ml.checks.matrix import Matrix
from dlkit.ml.checks.separate import (
    Model,
    Separation,
    choose,
    hold_out_p,
    normal_p,
    permutation_p,
    separate,
)
from dlkit.ml.checks.sides import Sides
from dlkit.ml.checks.units import sample, sides_of, thin
from dlkit.ml.engine import Engine

CHECK = "adversarial"
# Below this many rows, or groups, of the smaller side there is no verdict.
FEWEST_ROWS, FEWEST_UNITS = 50, 5
SIGNIFICANT, PLAIN = 0.05, 0.001
# What is fitted a hundred times over is smaller than what is fitted once.
PERMUTED_TREES, GROUPED_TREES, GROUPED_FOLDS, GROUPED_ROWS = 30, 20, 3, 2000
BATCH = 10
# Of more rows the corrected interval says as much as refitting the forest would.
MOST_REFITTED = 1000
MOST_COLUMNS = 10
APART = 0.9
"""An id or a date with this AUC of its own is said to separate the sides."""


@dataclass(frozen=True)
class Settings:
    """What the command line says: None lets the number of rows choose the model."""

    threshold: float = 0.55
    model: Model | None = None
    seed: int = 0


@dataclass(frozen=True)
class ColumnReport:
    """A column that tells the sides apart: the AUC that it reaches alone, what shuffling it costs, and in words."""

    name: str
    auc: float
    importance: float | None
    sentence: str
    cluster: tuple[str, ...] = ()

    def __str__(self) -> str:
        says = "alone separates the sides" if self.auc > APART else "alone"
        return f"`{self.name}` {says}: AUC {self.auc:.2f}; {self.sentence}"


@dataclass(frozen=True, eq=False)
class Adversarial:
    """The verdict with all it rests on. `rows` are those that the classifier saw; without a fit there is no matrix."""

    finding: Finding
    rows: np.ndarray
    separation: Separation | None = None
    matrix: Matrix | None = None
    p_value: float | None = None
    tellings: tuple[Telling, ...] = ()
    columns: tuple[ColumnReport, ...] = ()


def check(sides: Sides, settings: Settings, engine: Engine, units: np.ndarray | None, is_later: bool) -> Adversarial:
    """units: N int64, where groups are given. is_later: the user said that it is a split by time, and it is one."""
    apart = _apart(sides)
    rows = sample(sides.is_valid, settings.seed)
    matrix = sides.encoding(sides.frame[rows])
    varying = [i for i in range(len(matrix.names)) if not _is_constant(matrix.x[:, i])]
    if not varying:
        why = "no column that varies, beside ids, dates and what options take out, to tell the sides apart by"
        return Adversarial(skip(CHECK, _and_apart(why, apart)), rows, columns=apart)
    matrix, is_valid = matrix.take(varying), sides.is_valid[rows]
    units = None if units is None else units[rows]
    fewest = min(map(len, sides_of(np.arange(len(rows)) if units is None else units, is_valid)))
    if fewest < 2:
        what = "row" if units is None else "group"
        return Adversarial(skip(CHECK, f"too few rows to tell: one {what} on a side"), rows, columns=apart)
    model = settings.model or choose(len(rows))
    separation = separate(matrix, is_valid, engine, model, units, settings.seed)
    is_few = fewest < (FEWEST_ROWS if units is None else FEWEST_UNITS)
    p = normal_p(separation) if is_few else p_value(matrix, is_valid, separation, engine, units, settings.seed)
    tellings = tuple(importance.importances(matrix, is_valid, separation.folds, settings.seed))
    told = _report(sides, rows, matrix, is_valid, units, tellings, settings.seed) if p <= SIGNIFICANT else ()
    columns = (*apart, *told)
    finding = verdict(separation, p, settings.threshold, is_few, is_later, units is not None)
    said = _describe(sides, rows, matrix, separation, p, units)
    detail = _and_apart(f"{said}: {finding.detail}", (*told[:2], *apart[:2]))
    return Adversarial(
        Finding(CHECK, finding.verdict, detail, separation.auc, settings.threshold),
        rows, separation, matrix, p, tellings, columns,
    )  # fmt: skip


def _is_constant(values: np.ndarray) -> bool:
    missing = np.isnan(values)
    there = values[~missing]
    return not len(there) or (not missing.any() and there.min() == there.max())


def verdict(
    separation: Separation, p: float, threshold: float, is_few: bool, is_later: bool, is_grouped: bool = False
) -> Finding:
    """Fails only where the corrected interval lies wholly above the threshold, or as far below 0.5.

    Folds of whole groups are below 0.5 by themselves: a group is like none of its own side, and like some of the other.
    """
    area = separation.auc
    if is_few:
        needed = f"{FEWEST_UNITS} groups" if is_grouped else f"{FEWEST_ROWS} rows"
        return skip(CHECK, f"too few rows to tell: a verdict needs {needed} a side")
    if separation.high < 1 - threshold and not is_grouped:
        return Finding(CHECK, "fail", "far below 0.5: rows are shared between the sides; see duplicates")
    if separation.low > threshold and p <= SIGNIFICANT:
        if is_later:
            return Finding(CHECK, "warn", "the sides differ, as those of a split by time do: expect the future to")
        return Finding(CHECK, "fail", "the sides can be told apart; next: dlkit split, or --ablate to see what can go")
    if area > threshold and p <= SIGNIFICANT:
        return Finding(CHECK, "warn", f"too few rows to tell: separable, but the interval reaches below {threshold:g}")
    return Finding(CHECK, "pass", "not told apart by these columns, which does not prove that P(y|x) is the same")


def _describe(
    sides: Sides, rows: np.ndarray, matrix: Matrix, separation: Separation, p: float, units: np.ndarray | None
) -> str:
    """What was looked at: the model, the rows, the interval."""
    valid = int(sides.is_valid[rows].sum())
    sampled = f" (drawn from {sides.rows:,})" if len(rows) < sides.rows else ""
    grouped = "" if units is None else ", whole groups"
    return (
        f"AUC {separation.auc:.3f} ({separation.low:.2f} to {separation.high:.2f}), {chance(p)}; {separation.model}, "
        f"{len(separation.folds)} folds{grouped}, {len(rows) - valid:,} + {valid:,} rows{sampled}, "
        f"{len(matrix.names)} column{'s' * (len(matrix.names) > 1)}"
    )


def _and_apart(said: str, columns: Sequence[ColumnReport]) -> str:
    return "; ".join([said, *map(str, columns)])


# --- the p-value -----------------------------------------------------------------------------------------------------


def p_value(
    matrix: Matrix,
    is_valid: np.ndarray,
    separation: Separation,
    engine: Engine,
    units: np.ndarray | None,
    seed: int,
) -> float:
    """One-sided. Groups: whole groups change sides. Few rows: rows do. Else the corrected interval says."""
    if units is not None:
        return _permute_groups(matrix, is_valid, engine, units, seed)
    if separation.model != "forest" or len(is_valid) > MOST_REFITTED:
        return normal_p(separation)
    plain = hold_out_p(is_valid, separation)
    if plain < PLAIN:
        return plain
    shared = (matrix.x, is_valid, seed)
    observed = _out_of_bag(-1, *shared)
    return permutation_p(observed, lambda jobs: list(engine.map(_out_of_bag, jobs, *shared)), BATCH)[0]


def _out_of_bag(draw: int, x: np.ndarray, is_valid: np.ndarray, seed: int) -> float:
    """The out-of-bag AUC of one forest, the rows' sides dealt out anew (draw −1: as they are).

    Any statistic makes an exact permutation test; this one needs one fit where five folds need five.
    """
    side = is_valid if draw < 0 else np.random.default_rng([seed, draw]).permutation(is_valid)
    forest = RandomForestClassifier(PERMUTED_TREES, min_samples_leaf=3, oob_score=_no_score, random_state=seed)
    with warnings.catch_warnings():
        # A row that each tree happens to have seen has no score: rare, and as rare in every draw.
        warnings.simplefilter("ignore", UserWarning)
        forest.fit(x, side)
    return auc(side, forest.oob_decision_function_[:, 1])


def _no_score(truth: np.ndarray, predicted: np.ndarray) -> float:
    """A score that costs nothing: the out-of-bag probabilities are what is wanted."""
    return 0.0


def _permute_groups(matrix: Matrix, is_valid: np.ndarray, engine: Engine, units: np.ndarray, seed: int) -> float:
    """Whole groups change sides: the rows of one know each other (permuting rows is wrong 97 % of the time)."""
    kept = thin(units, seed, GROUPED_ROWS)
    number = np.unique(units[kept], return_inverse=True)[1]
    side_of_unit = np.zeros(number.max() + 1, bool)
    side_of_unit[number] = is_valid[kept]
    shared = (matrix.rows(kept), number, side_of_unit, seed)
    observed = _grouped(-1, *shared)
    return permutation_p(observed, lambda jobs: list(engine.map(_grouped, jobs, *shared)), BATCH)[0]


def _grouped(draw: int, matrix: Matrix, number: np.ndarray, side_of_unit: np.ndarray, seed: int) -> float:
    side = side_of_unit if draw < 0 else np.random.default_rng([seed, draw]).permutation(side_of_unit)
    return separate(matrix, side[number], Engine(1), "forest", number, seed, GROUPED_TREES, GROUPED_FOLDS).auc


# --- the columns that tell -------------------------------------------------------------------------------------------


def _report(
    sides: Sides,
    rows: np.ndarray,
    matrix: Matrix,
    is_valid: np.ndarray,
    units: np.ndarray | None,
    tellings: Sequence[Telling],
    seed: int,
) -> tuple[ColumnReport, ...]:
    """The columns of the clusters that matter, each with its own AUC, the most telling of a cluster first."""
    found: list[ColumnReport] = []
    frame = sides.frame[rows]
    for telling in (one for one in tellings if one.is_clear):
        members = []
        for name in telling.names:
            area = importance.alone(matrix, is_valid, matrix.names.index(name), units, seed)
            said = importance.sentence(frame[name], sides.roles[name], is_valid)
            members.append(ColumnReport(name, area, telling.importance, said, telling.names))
        found += sorted((one for one in members if one.auc > 0.5), key=lambda one: -one.auc)
        if len(found) >= MOST_COLUMNS:
            break
    return tuple(found[:MOST_COLUMNS])


def _apart(sides: Sides) -> tuple[ColumnReport, ...]:
    """Ids and dates that separate the sides by themselves."""
    names = sides.named(Role.ID, Role.DATETIME) + ([sides.time] if sides.time else [])
    found = []
    for name in names:
        area = importance.rank_auc(sides.frame[name], sides.is_valid)
        if area > APART:
            said = importance.sentence(sides.frame[name], sides.roles[name], sides.is_valid)
            found.append(ColumnReport(name, area, None, said))
    return tuple(found)
