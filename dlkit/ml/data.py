"""From a data set to what the fits of a board share: coded columns, folds, and the schema that a saved model keeps."""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dlkit.core import console
from dlkit.core.contest import FOLDS, Contest
from dlkit.core.errors import DlkitError
from dlkit.data import Dataset, Rows, Schema, fit_schema
from dlkit.data.known import known_rows, sized, truth
from dlkit.data.load import read_table
from dlkit.data.split import folds as split_folds
from dlkit.data.split import hold_out
from dlkit.ml.block import Coding, Texts
from dlkit.ml.checks.leak import FEWEST_ROWS, THRESHOLD, predicts
from dlkit.ml.embedding import Embedding
from dlkit.ml.families import Context
from dlkit.ml.scoring import Metric, choose
from dlkit.ml.trial import Data, Fold

LEAK_ROWS, LEAK_COLUMNS = (FEWEST_ROWS, 2_000), 200
MOST_TEST_ROWS = 20_000
"""Rows of a fold that are scored: five folds of these tell models apart well enough."""


@dataclass(frozen=True, eq=False)
class Prepared:
    """A data set ready for a board. `folds` of the data's folds score; the one after them is the final fit's.

    width   columns of the expanded matrix
    ratio   test rows over training rows, of all that a fold has
    scored  fingerprint of the source whose rows score
    embedding  what the rows were read through, if anything
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
    scored: str
    embedding: Embedding | None = None

    @property
    def train_rows(self) -> int:
        return len(self.data.folds[0].train)


def prepare(
    contest: Contest, dataset: Dataset, embedding: Embedding | None = None, until: float = math.inf
) -> Prepared:
    """Code the columns, or what a network makes of them; deal out the folds. What does not fit the data is an error
    before anything is fitted, and so is a network that is not done when the clock (`time.monotonic`) says `until`."""
    metric = choose(contest.metric, dataset.task, contest.balance)
    if contest.balance and dataset.task != "classification":
        raise DlkitError("--balance is for classes, and this is regression")
    network = embedding and embedding.schema
    schema = fit_schema(dataset, np.arange(dataset.rows), texts=True, columns=network)
    numbers, texts, coding = _coded(dataset, schema, embedding, until)
    labels, notes, scored = dataset.labels, list(dataset.notes), dataset.fingerprint
    if contest.valid is not None:
        other, marks, scored = _validation(contest, schema)
        more, more_texts = (_activations(other, embedding, until), ()) if embedding else coding.arrays(other)
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
    said = (*notes, *said)
    return Prepared(dataset, schema, coding, data, metric, len(sides), coding.width, ratio, said, scored, embedding)


def _coded(
    dataset: Dataset, schema: Schema, embedding: Embedding | None, until: float
) -> tuple[np.ndarray, tuple[Texts, ...], Coding]:
    """(N×F numbers, columns of text, how they come about)."""
    if embedding is not None:
        numbers = _activations(dataset, embedding, until)
        return numbers, (), Coding.of_activations(numbers.shape[1])
    coding = Coding.fit(dataset, schema)
    return *coding.arrays(dataset), coding


def _activations(rows: Rows, embedding: Embedding, until: float) -> np.ndarray:
    """N×D: what the network makes of the rows, once."""
    with console.progress(rows.rows, "embedding", "row") as bar:

        def done(count: int) -> None:
            bar.advance(count)
            if time.monotonic() > until:
                message = f"{rows.source}: its rows did not get through {embedding.run.path} within the budget"
                raise DlkitError(message, "give it more: --budget 10m")

        return embedding.numbers(rows, done)


def near_leaks(prepared: Prepared, known: Sequence[str]) -> dict[str, float]:
    """Columns that alone predict nearly all there is to predict, by splitcheck's rule, and how much; `known` apart.

    A look at a few rows of each column: tables of very many columns are left to splitcheck.
    """
    coding, data = prepared.coding, prepared.data
    if (
        coding.image
        or prepared.embedding
        or not LEAK_ROWS[0] <= prepared.dataset.rows
        or data.numbers.shape[1] > LEAK_COLUMNS
    ):
        return {}
    rows = data.folds[-1].sample(LEAK_ROWS[1])
    found: dict[str, float] = {}
    for i, name in enumerate(coding.names):
        if name not in known:
            share = predicts(data.numbers[rows, i], data.labels[rows], bool(prepared.dataset.classes))
            found |= {name: max(share, found.get(name, 0.0))} if share >= THRESHOLD else {}
    return found


def _validation(contest: Contest, schema: Schema) -> tuple[Rows, np.ndarray, str]:
    """The rows of --valid that have a target, read as the schema says, their labels, and the file's fingerprint."""
    assert contest.valid is not None
    table = read_table(contest.valid, sized(contest.valid, schema, contest.reading), labelled=True)
    known, rows = truth(table, schema, contest.reading), known_rows(table, schema, contest.reading)
    return rows.take(np.flatnonzero(known.kept)), known.labels, table.fingerprint


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
