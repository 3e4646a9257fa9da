"""From a data set to what the fits of a board share: coded columns, folds, and the schema that a saved model keeps."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dlkit.core.contest import FOLDS, Contest
from dlkit.core.errors import DlkitError
from dlkit.data import Dataset, Rows, Schema, fit_schema
from dlkit.data.known import known_rows, truth
from dlkit.data.load import read_table
from dlkit.data.split import folds as split_folds
from dlkit.data.split import hold_out
from dlkit.ml.block import Coding
from dlkit.ml.checks.leak import FEWEST_ROWS, THRESHOLD, predicts
from dlkit.ml.families import Context
from dlkit.ml.scoring import Metric, choose
from dlkit.ml.trial import Data, Fold

LEAK_ROWS, LEAK_COLUMNS = (FEWEST_ROWS, 2_000), 200
MOST_TEST_ROWS = 20_000
"""Rows of a fold that are scored: five folds of these tell models apart well enough."""


@dataclass(frozen=True, eq=False)
class Prepared:
    """A data set ready for a board. `folds` of the data's folds score; the one after them is the final fit's.

    width  columns of the expanded matrix
    ratio  test rows over training rows, of all that a fold has
    """

    dataset: Dataset
    schema: Schema
    coding: Coding
    data: Data
    metric: Metric
    folds: int
    width: int
    ratio: float
    notes: tuple[str, ...]

    @property
    def train_rows(self) -> int:
        return len(self.data.folds[0].train)


def prepare(contest: Contest, dataset: Dataset) -> Prepared:
    """Code the columns, deal out the folds. What does not fit the data is an error before anything is fitted."""
    metric = choose(contest.metric, dataset.task, contest.balance)
    if contest.balance and dataset.task != "classification":
        raise DlkitError("--balance is for classes, and this is regression")
    schema = fit_schema(dataset, np.arange(dataset.rows), texts=True)
    coding = Coding.fit(dataset, schema)
    numbers, texts = coding.arrays(dataset)
    labels, notes = dataset.labels, list(dataset.notes)
    if contest.valid is not None:
        other, marks = _validation(contest, schema)
        more, more_texts = coding.arrays(other)
        numbers, labels = np.concatenate([numbers, more]), np.concatenate([labels, marks])
        texts = tuple(first.followed_by(second) for first, second in zip(texts, more_texts, strict=True))
    sides, said = _sides(contest, dataset, len(labels))
    folds = [_fold(train, test, contest.seed, i) for i, (train, test) in enumerate(sides)]
    ratio = len(sides[0][1]) / len(sides[0][0])
    everything = np.arange(len(labels)) if len(sides) > 1 else sides[0][0]
    final = _fold(everything, np.empty(0, np.int64), contest.seed, len(sides))
    if any(len(test) > MOST_TEST_ROWS for _, test in sides):
        notes.append(f"each fold is scored on {MOST_TEST_ROWS:,} of its rows")
    context = Context(
        *(dataset.task, dataset.rows, coding.features, len(dataset.classes), contest.balance, metric.name),
        *(contest.seed, coding.layout.texts > 0),
    )
    data = Data(numbers, texts, labels, (*folds, final), coding.layout, context)
    return Prepared(dataset, schema, coding, data, metric, len(sides), coding.width, ratio, (*notes, *said))


def near_leaks(prepared: Prepared, known: Sequence[str]) -> dict[str, float]:
    """Columns that alone predict nearly all there is to predict, by splitcheck's rule, and how much; `known` apart.

    A look at a few rows of each column: tables of very many columns are left to splitcheck.
    """
    coding, data = prepared.coding, prepared.data
    if coding.image or not LEAK_ROWS[0] <= prepared.dataset.rows or data.numbers.shape[1] > LEAK_COLUMNS:
        return {}
    rows = data.folds[-1].sample(LEAK_ROWS[1])
    found: dict[str, float] = {}
    for i, name in enumerate(coding.names):
        if name not in known:
            share = predicts(data.numbers[rows, i], data.labels[rows], bool(prepared.dataset.classes))
            found |= {name: max(share, found.get(name, 0.0))} if share >= THRESHOLD else {}
    return found


def _validation(contest: Contest, schema: Schema) -> tuple[Rows, np.ndarray]:
    """The rows of --valid that have a target, read as the schema says, and their labels."""
    assert contest.valid is not None
    table = read_table(contest.valid, contest.reading, labelled=True)
    known, rows = truth(table, schema, contest.reading), known_rows(table, schema, contest.reading)
    return rows.take(np.flatnonzero(known.kept)), known.labels


def _sides(contest: Contest, dataset: Dataset, total: int) -> tuple[list[tuple[np.ndarray, np.ndarray]], list[str]]:
    """(training rows, test rows) of each fold, and what is to be said about them."""
    if contest.valid is not None:
        return [(np.arange(dataset.rows), np.arange(dataset.rows, total))], []
    folds = contest.folds or FOLDS
    if dataset.fixed_split is not None and not contest.splitting.columns:
        note = f"the source says which rows validate: one split, not {folds} folds"
        return [(np.flatnonzero(~dataset.fixed_split), np.flatnonzero(dataset.fixed_split))], [note]
    if contest.splitting.split is not None:
        split = hold_out(dataset, contest.splitting, seed=contest.seed)
        return [(split.train, split.valid)], list(split.notes)
    found = split_folds(dataset, contest.splitting, folds, contest.seed)
    return [(split.train, split.valid) for split in found], list(found[0].notes)


def _fold(train: np.ndarray, test: np.ndarray, seed: int, number: int) -> Fold:
    rng = np.random.Generator(np.random.PCG64([seed, number]))
    if len(test) > MOST_TEST_ROWS:
        test = np.sort(rng.choice(test, MOST_TEST_ROWS, replace=False))
    return Fold(train, test, rng.permutation(len(train)))
