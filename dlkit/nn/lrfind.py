"""The learning-rate range test (Smith 2017): raise the rate a little every step and watch the loss."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import count

from dlkit.core.console import Bar
from dlkit.core.errors import DlkitError, ExitCode
from dlkit.core.search import Search
from dlkit.core.suggest import TRIM, Found, Sweep, combine, rounded
from dlkit.nn.fit import Diverged, fit
from dlkit.nn.job import Job
from dlkit.nn.loader import Batch
from dlkit.nn.schedule import Rates
from dlkit.nn.step import Stepper
from dlkit.nn.train import begin
from dlkit.nn.watch import Watch

SMOOTHING = 0.8
"""Weight of the past in the moving average of the loss."""
DIVERGED = 4.0
"""A sweep ends where the smoothed loss is this many times its lowest."""
APART, MOST_BEYOND = 3.0, 3
"""Rates that are verified are so many times apart, and at the end the root of it around the best; so many more are
tried beyond the first three."""
UNCLEAR = "no clear minimum: the loss does not fall by more than it scatters"


def sweep(job: Job, search: Search, seed: int, bar: Bar) -> Sweep:
    """One sweep with a fresh network, from the first rate to the last, stopped where the loss diverges.

    Nothing needs restoring after it: network and optimiser are its own, and the order of rows has its own generator.
    The step is that of training, averages of weights apart, which it does not read.
    """
    model = job.model(seed)
    step = Stepper(model, job.objective, replace(job.recipe, ema=None, swa=None), job.ranks, job.shard)
    result, average = Sweep([], [], []), 0.0
    model.train()
    for i, batch in zip(range(search.steps), _endless(job, seed), strict=False):
        lr = _rate(search, i / (search.steps - 1))
        loss = job.ranks.total(step(batch, Rates(lr)).reshape(1))[0]
        bar.advance()
        if not math.isfinite(loss):
            break
        average = SMOOTHING * average + (1 - SMOOTHING) * loss
        smoothed = average / (1 - SMOOTHING ** (i + 1))
        if i > TRIM and smoothed > DIVERGED * min(result.smoothed):
            break
        result.lrs.append(lr)
        result.losses.append(loss)
        result.smoothed.append(smoothed)
    return result


def _rate(search: Search, share: float) -> float:
    """The rate after this share of a sweep."""
    if search.spacing == "geometric":
        return search.start * (search.end / search.start) ** share
    return search.start + (search.end - search.start) * share


def _endless(job: Job, seed: int) -> Iterator[Batch]:
    for epoch in count(seed * 1_000_003):
        yield from job.train.shuffled(epoch)


def verify(job: Job, suggestion: float, epochs: int, bar: Bar) -> list[tuple[float, float]]:
    """(rate, validation loss) of short runs around a suggestion under the schedule asked for; ∞ where one diverged.

    Every run starts from the same weights and sees the rows in the same order. First a third of the suggestion, itself
    and three times it; where the best is the last on a side, the next one out; then one on either side of the best.
    """
    tried: dict[float, float] = {}

    def run(lr: float) -> None:
        lr = rounded(lr)
        if lr not in tried:
            tried[lr] = _short_run(job, lr, epochs, bar)

    for k in (-1, 0, 1):
        run(suggestion * APART**k)
    for _ in range(MOST_BEYOND):
        best = _best(tried)
        if min(tried) < best < max(tried):
            break
        run(best / APART if best == min(tried) else best * APART)
    best = _best(tried)
    for times in (APART**-0.5, APART**0.5):
        run(best * times)
    return sorted(tried.items())


def chosen(tried: Sequence[tuple[float, float]]) -> float:
    """The rate of least loss, of verified ones in order, where a rate's neighbours count half as much as itself each:
    the last loss of a short run is noisy, and beside a rate that diverges nobody should train. ∞ and what is far off
    count as three times the least.
    """
    losses = [min(loss, 3 * min(loss for _, loss in tried)) for _, loss in tried]
    last = len(losses) - 1
    smooth = [losses[max(i - 1, 0)] + 2 * losses[i] + losses[min(i + 1, last)] for i in range(len(losses))]
    return tried[smooth.index(min(smooth))][0]


def _best(tried: dict[float, float]) -> float:
    """The rate of least loss. Where every run diverged the rates are too high: the lowest."""
    return min(tried, key=lambda lr: (tried[lr], lr))


def _short_run(job: Job, lr: float, epochs: int, bar: Bar) -> float:
    recipe = replace(job.recipe, lr=lr, epochs=epochs, patience=None, ema=None, swa=None)
    state = begin(replace(job, recipe=recipe))
    bar.describe(f"verifying {lr:g}")
    try:
        shown = [e for e in fit(state, job.train, job.valid, job.objective, recipe, Watch(), bar) if e]
    except Diverged:
        return math.inf
    return shown[-1].valid_loss if math.isfinite(shown[-1].valid_loss) else math.inf


def search_all(job: Job, search: Search, bar: Bar) -> Found:
    """Sweep once a seed, and combine what they show."""
    sweeps = [sweep(job, search, job.options.seed + i, bar) for i in range(search.seeds)]
    return combine(sweeps, job.recipe.optimizer, job.recipe.schedule, search.rule)


def settle(job: Job, bar: Bar) -> tuple[Job, Found]:
    """`--lr auto`: the job with the rate that `dlkit lrfind` suggests for it. No clear minimum: exit code 1."""
    found = search_all(job, Search(), bar)
    if found.suggestion is None:
        raise DlkitError(f"--lr auto: {UNCLEAR}", "give a rate: --lr 0.003", ExitCode.NO)
    return replace(job, recipe=replace(job.recipe, lr=found.suggestion, find_lr=False)), found
