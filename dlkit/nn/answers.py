"""What `train` and `lrfind` answer: their work as a Result."""

import json
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import asdict, replace
from itertools import count
from pathlib import Path
from typing import Any

from dlkit.core import console, draw
from dlkit.core.errors import DlkitError, ExitCode
from dlkit.core.job import JobOptions
from dlkit.core.keeping import Keeping, Processes
from dlkit.core.peers import restarted
from dlkit.core.recipe import Recipe
from dlkit.core.result import Column, Result, Row
from dlkit.core.run import RunDirectory, open_run
from dlkit.core.search import Search
from dlkit.core.suggest import Found, peak
from dlkit.data import figure
from dlkit.data.compare import Rival, compare
from dlkit.nn import lrfind as finder
from dlkit.nn import picture, scalars
from dlkit.nn import train as training
from dlkit.nn.fit import Diverged
from dlkit.nn.gauge import findings
from dlkit.nn.job import Job
from dlkit.nn.predictor import open_network
from dlkit.nn.prepare import prepare
from dlkit.nn.ranks import joined
from dlkit.nn.resume import find, settled


def train(
    options: JobOptions,
    recipe: Recipe,
    keeping: Keeping,
    processes: Processes,
    out: str | None,
    rival: Rival | None = None,
) -> Result:
    """Prepare everything, so that what can fail fails before the first row, then train as the rows are read."""
    with ExitStack() as group:
        ranks = group.enter_context(joined())
        if restarted():
            keeping = replace(keeping, resume=keeping.resume or "auto")
        _check_pictures(keeping)
        job = prepare(options, recipe, ranks, processes.shard)
        if rival:
            rival.check(job.dataset)
        stem = f"{job.dataset.name}-{job.name}"
        if options.find_batch or recipe.find_lr:
            job = _settled(job, keeping, out, stem)
        training.begin(job)  # what cannot be built is an error of the command line, not of the run
        directory = find(keeping.resume, out, stem, training.config(job)) if ranks.first else None
        console.note(job.describe())
        return _training(job, keeping, directory, rival, group.pop_all())


def _check_pictures(keeping: Keeping) -> None:
    """Whether what is to be seen of the run can be written. A run that is taken up draws its picture anew."""
    if keeping.plot is not None:
        figure.check(keeping.plot, replaces=keeping.resume is not None)
    if keeping.tensorboard:
        scalars.check()


def _training(
    job: Job, keeping: Keeping, directory: RunDirectory | None, rival: Rival | None, group: ExitStack
) -> Result:
    outcome, summary = training.Outcome(), {}
    metric = job.objective.metric
    columns = [
        Column("epoch", "int", width=5),
        Column("step", "int", width=6, spare=True),
        Column("lr", "float", width=10, spare=True),
        Column("train_loss", "float", width=10),
        Column("valid_loss", "float", width=10),
        Column(metric, "share" if metric == "accuracy" else "float"),
        Column("samples_per_second", "int", "samples/s", spare=True),
    ]
    facts = [
        Column("best", columns[5].kind, f"best {metric}"),
        Column("best_epoch", "int", "in epoch"),
        Column("seconds", "seconds", "time"),
        Column("run"),
    ]
    rows = _epochs(job, keeping, directory, outcome, summary, rival, group)
    return Result(columns, rows, summary, "best", facts, streams=True)


def dry_run(options: JobOptions, recipe: Recipe) -> Result:
    """What `train` would do with the same words."""
    from dlkit.nn import estimate  # and all that measures a module

    job = _sized(prepare(options, recipe))
    console.note(job.describe())
    if recipe.find_lr:
        console.note(f"--lr auto: {Search.seeds} sweeps of {Search.steps} steps would find the rate first")
    return estimate.dry_run(job)


def _sized(job: Job) -> Job:
    """The job with the batch size that was left to be found."""
    if not job.options.find_batch:
        return job
    from dlkit.nn import batch  # and all that measures a module

    return batch.settle(job)


def _settled(job: Job, keeping: Keeping, out: str | None, stem: str) -> Job:
    """The job with the batch size and the rate that were left to be found; a run that is taken up has found them."""
    begun = settled(keeping.resume, out, stem, training.config(job)) if job.ranks.first else None
    begun = json.loads(job.ranks.from_first(json.dumps(begun).encode()))
    if job.options.find_batch and begun:
        job = replace(job.with_batch(begun["batch_size"]), batch_found=begun.get("batch_found", ""))
    else:
        job = _sized(job)
    if job.recipe.find_lr and begun:
        return replace(job, recipe=replace(job.recipe, lr=begun["recipe"]["lr"], find_lr=False))
    return _with_rate(job) if job.recipe.find_lr else job


def _with_rate(job: Job) -> Job:
    """The job with the rate of lrfind, and a note on how sure that is."""
    with console.progress(Search.seeds * Search.steps, "finding a rate") as bar:
        job, found = finder.settle(job, bar)
    console.note(f"--lr {found.suggestion:g}, from {found.low:g} to {found.high:g} over {Search.seeds} sweeps")
    return job


def _epochs(
    job: Job,
    keeping: Keeping,
    directory: RunDirectory | None,
    outcome: training.Outcome,
    summary: dict[str, Any],
    rival: Rival | None,
    group: ExitStack,
) -> Iterator[Row]:
    with group, console.progress(job.recipe.epochs * len(job.train), "training") as bar:
        try:
            for epoch in training.run(job, keeping, directory, bar, outcome):
                row = training.row(epoch, job.objective.metric)
                shown = f"epoch {epoch.epoch}  {job.objective.metric} {epoch.metric:.4g}"
                bar.describe(shown)
                yield row
        except Diverged:
            _draw(job, keeping, directory)
            raise
    _draw(job, keeping, directory)
    summary.update(training.summary(job, directory, outcome))
    for text in findings(list(outcome.layers)) if job.recipe.watch else ():
        console.note(f"watch: {text}")
    if outcome.verdict:
        console.note(f"verdict: {outcome.verdict.text}")
    if rival and directory:
        summary["against"] = _against(job, directory, rival)


def _draw(job: Job, keeping: Keeping, directory: RunDirectory | None) -> None:
    """The picture of a run, which shows the epochs before it was taken up as well."""
    rows = directory.logged() if directory and keeping.plot else []
    if rows and directory and keeping.plot:
        picture.training(Path(keeping.plot), job, rows, str(directory.path))


def _against(job: Job, directory: RunDirectory, rival: Rival) -> dict[str, Any]:
    """The run that was just made beside another, on the validation rows."""
    told = {"valid": job.options.valid, "seed": job.options.seed, "splitting": asdict(job.options.splitting)}
    if rival.knows(job.dataset.fingerprint, told):
        console.warn(f"{rival.path} was trained on another part of the same rows: it knows some of those held out here")
    rows = job.dataset.take(job.split.valid)
    theirs = rival.predictor(job.dataset.take(job.split.train))
    found = compare(rows, open_network(open_run(directory.path), str(job.device), modules=job.options.network), theirs)
    console.note(
        f"{found.metric} {found.ours:.5g} against {found.theirs:.5g} of {rival.path} on the same "
        f"{rows.rows:,} rows: {found.sentence}"
    )
    return {"run": rival.path, found.metric: found.theirs, "difference": found.ours - found.theirs, "z": found.z}


def lrfind(options: JobOptions, recipe: Recipe, search: Search, plot: str | None = None) -> Result:
    """Sweep once a seed, and answer with the median suggestion; none where the loss shows no clear minimum."""
    with joined() as ranks:
        if plot is not None:
            figure.check(plot)
        return _sweeps(_sized(prepare(options, recipe, ranks)), search, plot)


def _sweeps(job: Job, search: Search, plot: str | None) -> Result:
    recipe = job.recipe
    console.note(job.describe())
    with console.progress(search.seeds * search.steps, "sweeping") as bar:
        found = finder.search_all(job, search, bar)
    rule = "median of valley, steep and minimum" if search.rule == "consensus" else search.rule
    times = peak(search.rule, recipe.optimizer, recipe.schedule)
    summary = {
        "suggestion": found.suggestion,
        "method": f"{rule}, times {times:g} for {recipe.optimizer} and {recipe.schedule}",
        "low": found.low,
        "high": found.high,
        "decades": found.decades,
        "suggestions": found.rules,
        "seeds": search.seeds,
        "steps": len(found.curve.lrs),
        "batch_size": job.train.batch_size,
    }
    if search.verify and found.suggestion is not None:
        summary |= _verified(job, found, search.verify)
    if plot is not None and job.ranks.first:
        picture.sweeps(Path(plot), job, search, found, summary)
    return _lrfind_result(job, search, found, summary)


def _verified(job: Job, found: Found, epochs: int) -> dict[str, Any]:
    """The best of the rates around a suggestion, by short runs, as entries of the summary. The spread over sweeps is
    widened to hold it."""
    each = finder.repeats(job)
    with console.progress(5 * each * epochs * len(job.train), "verifying") as bar:
        tried = finder.verify(job, found.suggestion, epochs, bar)
    for lr, value in tried:
        console.note(
            f"{epochs} epoch{'s' * (epochs > 1)} at {lr:g}: validation loss {value:.4g}"
            + f", mean of {each}" * (each > 1)
        )
    if min(loss for _, loss in tried) == float("inf"):
        raise DlkitError("every short run diverged", "try a lower --start", ExitCode.NO)
    runs = [{"lr": lr, "valid_loss": value} for lr, value in tried]
    lr = finder.chosen(tried, found.suggestion, job.recipe.schedule)
    length = f"{epochs} epoch{'s' * (epochs > 1)}"
    method = f"the best of {len(tried)} rates by {each * len(tried)} runs of {length}, each seen with its neighbours"
    if job.recipe.schedule == "constant":
        method += ", and the sweeps' suggestion: their geometric mean"
    wider = replace(found, suggestion=lr, low=min(lr, found.low), high=max(lr, found.high))
    spread = {name: getattr(wider, name) for name in ("suggestion", "low", "high", "decades")}
    return spread | {"method": method, "verified": runs}


def _lrfind_result(job: Job, search: Search, found: Found, summary: dict[str, Any]) -> Result:
    curve, names = found.curve, ("lr", "loss", "valid_loss", "smoothed")
    columns = [Column("step", "int"), *(Column(name, "float") for name in names)]
    points = zip(count(1), curve.lrs, curve.losses, curve.valid_losses, curve.smoothed)
    rows = [dict(zip(("step", *names), point, strict=True)) for point in points]
    facts = [Column(name, "float") for name in ("suggestion", "low", "high", "decades")]
    facts += [Column("method")]
    suggestion = summary["suggestion"]
    words = " ".join(part for part in (job.options.words(), job.recipe.words()) if part)
    result = Result(columns, rows, summary, "suggestion", facts, ok=suggestion is not None)
    if suggestion is None:
        result.warnings = [finder.unclear(search, found)]
    else:
        result.notes = [f"next: dlkit train {words} --lr {suggestion:g}"]
    if len(rows) > 1:
        result.drawing = lambda width: draw.curve(
            curve.lrs, curve.smoothed, width, mark=suggestion, x_title="learning rate", y_title="held-out loss"
        )
    return result
