"""Rows as a trained network sees them: what its last linear layer is given, as numbers that classic models learn from.

Nothing here opens a network: a command does, and hands it over.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace

import numpy as np

from dlkit.core.contest import Contest
from dlkit.core.errors import DlkitError, bad_data
from dlkit.core.run import METRICS, Run, RunDirectory
from dlkit.data import Dataset, Rows, Schema, load
from dlkit.data.build import targets_of
from dlkit.data.known import known_dataset, sized
from dlkit.data.load import read_table

FOLDER = "embed"
"""Where a baseline's run directory holds the network that it reads its rows through."""

Embed = Callable[[Rows], np.ndarray]
Done = Callable[[int], None]


@dataclass(frozen=True, eq=False)
class Embedding:
    """An opened network.

    embed  N rows with the columns of `schema`, the network's own -> N×D float64; it tells how many more rows are done
    """

    run: Run
    schema: Schema
    embed: Callable[[Rows, Done], np.ndarray]

    def numbers(self, rows: Rows, done: Done = lambda rows: None) -> np.ndarray:
        """N×D float64, finite: columns are found by name. What the network cannot read, or what overflows in it: bad
        data."""
        found = self.embed(rows, done)
        odd = np.flatnonzero(~np.isfinite(found).all(1))
        if len(odd):
            raise bad_data(f"{rows.source}: {rows.where(int(odd[0]))}: {self.run.path} makes no finite numbers of it")
        return found

    def copy_into(self, directory: RunDirectory) -> None:
        """All that it takes to open the network again, each file proved against the manifest of its run."""
        for name in self.run.digests:
            if "/" not in name and name != METRICS:
                directory.write(f"{FOLDER}/{name}", self.run.read(name))

    def has_seen(self, contest: Contest, dataset: Dataset, scored: str) -> tuple[bool, str | None]:
        """(whether scores flatter, a sentence on how the network knows the rows that score, if it does).

        scored  fingerprint of the source of these rows
        """
        if self.run.config.get("fingerprint") != scored:
            return False, None
        options = self.run.config.get("options")
        splitting = options.get("splitting") if isinstance(options, dict) else None
        by_column = contest.splitting.split is not None
        held_out = by_column or (dataset.fixed_split is not None and not contest.splitting.columns)
        if contest.valid is None and held_out and splitting == asdict(contest.splitting):
            return False, f"the rows that score chose the best epoch of {self.run.path}: others are a sterner judge"
        knows = "the answers" if self.schema.target == dataset.target else f"their {self.schema.about}"
        return (
            True,
            f"{self.run.path} was trained on the rows that score: its embeddings know {knows}, and scores flatter",
        )


def network_within(run: Run) -> Run | None:
    """The network that a baseline reads its rows through; None where it reads them as they are.

    Missing, or no network: exit code 65.
    """
    options = run.config.get("options")
    if run.command != "baseline" or not isinstance(options, dict) or not options.get("embed"):
        return None
    found = run.inner(FOLDER)
    if found.command != "train" or found.of_text:
        raise bad_data(f"{found.path}: not the run of a network that reads rows")
    return found


def rows_of(contest: Contest, embedding: Embedding | None) -> Dataset:
    """The rows of a contest's data: as they are, or with the columns that a network knows and its own target."""
    if embedding is None:
        return load(contest.data, contest.splitting.reading(contest.reading), texts=True)
    schema = embedding.schema
    table = read_table(contest.data, sized(contest.data, schema, contest.reading), labelled=True)
    read = [name for name in targets_of(table, contest.reading) if name in schema.slices]
    if read:
        message = f"--embed {embedding.run.path}: the network reads {read[0]!r}, which is the target"
        raise DlkitError(message, "train one that does not: dlkit train --drop")
    return known_dataset(table, schema, contest.reading, contest.splitting)


def told(contest: Contest, run: Run) -> Contest:
    """The contest with the words for missing that the network knows."""
    na = (*contest.reading.na, *(word for word in run.na if word not in contest.reading.na))
    return replace(contest, reading=replace(contest.reading, na=na))
