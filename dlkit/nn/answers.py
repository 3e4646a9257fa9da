"""What `train` and `lrfind` answer: their work as a Result."""

from collections.abc import Iterator
from typing import Any

from dlkit.core import console, draw
from dlkit.core.job import JobOptions
from dlkit.core.keeping import Keeping
from dlkit.core.recipe import Recipe
from dlkit.core.result import Column, Result, Row
from dlkit.core.run import RunDirectory
from dlkit.nn import lrfind as finder
from dlkit.nn import train as training
from dlkit.nn.job import Job, prepare
from dlkit.nn.resume import find


def train(options: JobOptions, recipe: Recipe, keeping: Keeping, out: str | None) -> Result:
    """Prepare everything, so that what can fail fails before the first row, then train as the rows are read."""
    job = prepare(options, recipe)
    training.begin(job)  # what cannot be built is an error of the command line, not of the run
    directory = find(keeping.resume, out, f"{job.dataset.name}-{job.name}", training.config(job))
    console.note(job.describe())
    outcome, summary = training.Outcome(), {}
    metric = job.objective.metric
    columns = [
        Column("epoch", "int", width=5),
        Column("step", "int", width=6),
        Column("lr", "float"),
        Column("train_loss", "float", width=10),
        Column("valid_loss", "float", width=10),
        Column(metric, "share" if metric == "accuracy" else "float"),
        Column("samples_per_second", "int", "samples/s"),
    ]
    facts = [
        Column("best", columns[5].kind, f"best {metric}"),
        Column("best_epoch", "int", "in epoch"),
        Column("seconds", "seconds", "time"),
        Column("run"),
    ]
    rows = _epochs(job, keeping, directory, outcome, summary)
    return Result(columns, rows, summary, "best", facts, streams=True)


def _epochs(
    job: Job, keeping: Keeping, directory: RunDirectory, outcome: training.Outcome, summary: dict[str, Any]
) -> Iterator[Row]:
    with console.progress(job.recipe.epochs * len(job.train), "training") as bar:
        for epoch in training.run(job, keeping, directory, bar, outcome):
            row = training.row(epoch, job.objective.metric)
            shown = f"epoch {epoch.epoch}  {job.objective.metric} {epoch.metric:.4g}"
            bar.describe(shown)
            yield row
    summary.update(training.summary(job, directory, outcome))


def lrfind(options: JobOptions, recipe: Recipe, start: float, end: float, steps: int, seeds: int) -> Result:
    """Sweep once a seed, and answer with the median suggestion; none where the loss shows no clear minimum."""
    job = prepare(options, recipe)
    console.note(job.describe())
    with console.progress(seeds * steps, "sweeping") as bar:
        sweeps = [finder.sweep(job, options.seed + i, start, end, steps, bar) for i in range(seeds)]
    found = finder.combine(sweeps)
    summary = {
        "suggestion": found.suggestion,
        "method": "median of valley, steep and minimum",
        "low": found.low,
        "high": found.high,
        "suggestions": found.rules,
        "seeds": seeds,
        "steps": len(found.curve.lrs),
    }
    return _lrfind_result(job, found, summary)


def _lrfind_result(job: Job, found: finder.Found, summary: dict[str, Any]) -> Result:
    columns = [
        Column("step", "int"),
        Column("lr", "float"),
        Column("loss", "float"),
        Column("smoothed", "float"),
    ]
    curve = found.curve
    points = zip(curve.lrs, curve.losses, curve.smoothed, strict=True)
    rows = [{"step": i, "lr": lr, "loss": a, "smoothed": b} for i, (lr, a, b) in enumerate(points, 1)]
    facts = [Column(name, "float") for name in ("suggestion", "low", "high")]
    notes = (
        [f"next: dlkit train {job.options.words()} --lr {found.suggestion:g}"]
        if found.suggestion is not None
        else ["no clear minimum: the loss does not fall by more than it scatters; try more --steps or a wider range"]
    )
    result = Result(columns, rows, summary, "suggestion", facts, notes=notes, ok=found.suggestion is not None)
    if len(rows) > 1:
        result.drawing = lambda width: draw.curve(
            curve.lrs, curve.smoothed, width, mark=found.suggestion, x_title="learning rate", y_title="loss"
        )
    return result
