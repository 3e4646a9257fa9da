"""A saved baseline, fitted anew on fewer rows: what it would score on rows that it must not have seen."""

from dataclasses import replace

from dlkit.core.run import Run
from dlkit.data import Dataset
from dlkit.ml.embedding import Embedding
from dlkit.ml.oof import contest_of
from dlkit.ml.persist import Baseline, load


def refit(run: Run, rows: Dataset, embedding: Embedding | None = None) -> Baseline:
    """The same family, settings and preprocessing as the run's model, learnt from `rows` alone."""
    saved = load(run, embedding)
    contest, family, _ = contest_of(run, rows.source)
    y = rows.labels if saved.task != "classification" else saved.schema.targets(rows)
    model = saved.model.again(family, contest.balance, saved.block(rows), y)
    return replace(saved, model=model)
