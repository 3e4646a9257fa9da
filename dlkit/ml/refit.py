"""A saved baseline, fitted anew on fewer rows: what it would score on rows that it must not have seen."""

from dlkit.core.run import Run
from dlkit.data import Dataset
from dlkit.ml.oof import contest_of
from dlkit.ml.persist import Baseline, load


def refit(run: Run, rows: Dataset) -> Baseline:
    """The same family, settings and preprocessing as the run's model, learnt from `rows` alone."""
    saved = load(run)
    contest, family, _ = contest_of(run, rows.source)
    y = rows.labels if saved.task != "classification" else saved.schema.targets(rows)
    model = saved.model.again(family, contest.balance, saved.coding.block(rows), y)
    return Baseline(saved.schema, saved.coding, model)
