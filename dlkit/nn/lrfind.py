"""The learning-rate range test (Smith 2017): raise the rate a little every step and watch the loss."""

import math
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import count

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from dlkit.core.console import Bar
from dlkit.core.errors import DlkitError, ExitCode
from dlkit.core.search import Search
from dlkit.core.suggest import TRIM, Average, Found, Sweep, combine, rounded
from dlkit.nn.fit import Diverged, fit
from dlkit.nn.job import Job
from dlkit.nn.loader import Batch
from dlkit.nn.schedule import Rates
from dlkit.nn.step import Stepper
from dlkit.nn.train import begin
from dlkit.nn.watch import Watch

WATCHED = 256
"""Rows (tokens) held out that a sweep watches, or as many as a batch has."""
DIVERGED = 4.0
"""A sweep ends where the smoothed loss is this many times its lowest."""
APART, MOST_BEYOND = 3.0, 3
"""Rates that are verified are so many times apart, and at the end the root of it around the best; so many more are
tried beyond the first three."""
SURE, REPEATS = 1000, 3
"""Rates are verified by one run each where so many rows (tokens) are held out; where fewer are, by up to so many."""
UNCLEAR = "no clear minimum: the loss does not fall by more than it scatters"


def sweep(job: Job, search: Search, seed: int, bar: Bar) -> Sweep:
    """One sweep with a fresh network, from the first rate to the last, stopped where the loss diverges.

    Nothing needs restoring after it: network and optimiser are its own, and the order of rows has its own generator.
    The step is that of training, averages of weights apart, which it does not read.
    """
    step = Stepper(job.model(seed), job.objective, replace(job.recipe, ema=None, swa=None), job.ranks, job.shard)
    step.model.train()
    held_out, result = HeldOut(job, step.model), Sweep([], [], [])
    average, lowest = Average(), math.inf
    for i, batch in zip(range(search.steps), _endless(job, seed), strict=False):
        lr = _rate(search, i / (search.steps - 1))
        loss = job.ranks.total(step(batch, Rates(lr)).reshape(1))[0]
        valid_loss = held_out.loss() if math.isfinite(loss) else math.nan
        bar.advance()
        if not math.isfinite(valid_loss):
            break
        smoothed = average(valid_loss)
        if i > TRIM and smoothed > DIVERGED * lowest:
            break
        lowest = min(lowest, smoothed)
        result.lrs.append(lr)
        result.losses.append(loss)
        result.valid_losses.append(valid_loss)
    return result


class HeldOut:
    """Some rows of the validation side, the same after every step. A batch's loss tells as much of its rows as of the
    rate, and of few rows it falls while they are learned by heart."""

    def __init__(self, job: Job, model: nn.Module) -> None:
        side = job.valid
        rows = max(job.train.batch_size, -(-WATCHED * side.rows // side.count))
        self.x, self.y = (part[:rows] for part in next(side.resized(rows).mixed()))
        self.objective, self.ranks = job.objective.plain(), job.ranks
        self.model, self.norms = model, [module for module in model.modules() if isinstance(module, _BatchNorm)]

    @torch.no_grad()
    def loss(self) -> float:
        """Their mean loss, without dropout. Batch norms go by these rows' own statistics: running ones lag behind."""
        self.model.eval()
        for norm in self.norms if len(self.x) > 1 else ():
            norm.train()
        loss = self.objective.loss(self.model(self.x).float(), self.y)
        self.model.train()
        return self.ranks.total(loss.reshape(1))[0] / self.ranks.world


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

    Runs start from the same weights and see the rows in the same order; where few rows are held out, the loss is the
    mean over several weights to start from. First a third of the suggestion, itself and three times it; where the best
    is the last on a side, the next one out; then one on either side of the best.
    """
    tried: dict[float, float] = {}

    def run(lr: float) -> None:
        lr = rounded(lr)
        if lr not in tried:
            bar.describe(f"verifying {lr:g}")
            tried[lr] = statistics.fmean(_short_run(job, lr, epochs, seed, bar) for seed in range(repeats(job)))

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


def chosen(tried: Sequence[tuple[float, float]], suggestion: float, schedule: str) -> float:
    """What to train with, by verified rates in order: that of least loss, where a rate's neighbours count half as much
    as itself each, for the last loss of a short run is noisy, and beside a rate that diverges nobody should train.

    ∞ and what is far off count as three times the least. Where the rate stays, a short run favours one that is too high
    for a long run, whose end it does not see: there it is the geometric mean of that and of the sweeps' suggestion.
    """
    losses = [min(loss, 3 * min(loss for _, loss in tried)) for _, loss in tried]
    last = len(losses) - 1
    smooth = [losses[max(i - 1, 0)] + 2 * losses[i] + losses[min(i + 1, last)] for i in range(len(losses))]
    best = tried[smooth.index(min(smooth))][0]
    return rounded(math.sqrt(best * suggestion)) if schedule == "constant" else best


def _best(tried: dict[float, float]) -> float:
    """The rate of least loss. Where every run diverged the rates are too high: the lowest."""
    return min(tried, key=lambda lr: (tried[lr], lr))


def repeats(job: Job) -> int:
    """Runs at each rate that is verified."""
    return min(-(-SURE // job.valid.count), REPEATS)


def _short_run(job: Job, lr: float, epochs: int, seed: int, bar: Bar) -> float:
    recipe = replace(job.recipe, lr=lr, epochs=epochs, patience=None, ema=None, swa=None)
    options = replace(job.options, seed=job.options.seed + seed)
    state = begin(replace(job, recipe=recipe, options=options))
    try:
        shown = [e for e in fit(state, job.train, job.valid, job.objective, recipe, Watch(), bar) if e]
    except Diverged:
        return math.inf
    return shown[-1].valid_loss if math.isfinite(shown[-1].valid_loss) else math.inf


def search_all(job: Job, search: Search, bar: Bar) -> Found:
    """Sweep once a seed, and combine what they show."""
    sweeps = [sweep(job, search, job.options.seed + i, bar) for i in range(search.seeds)]
    return combine(sweeps, job.recipe.optimizer, job.recipe.schedule, search.rule)


def unclear(search: Search, found: Found) -> str:
    """That there is no suggestion, and what to try: a sweep may have run away before there was anything to see."""
    ends = [sweep.lrs[-1] if sweep.lrs else search.start for sweep in found.sweeps if len(sweep.lrs) < 6 * TRIM]
    if ends:
        return f"no clear minimum: the loss ran away at a rate of {max(ends):.2g}; try a lower --end, or --start"
    return f"{UNCLEAR}; try more --steps or a wider range"


def settle(job: Job, bar: Bar) -> tuple[Job, Found]:
    """`--lr auto`: the job with the rate that `dlkit lrfind` suggests for it. No clear minimum: exit code 1."""
    found = search_all(job, Search(), bar)
    if found.suggestion is None:
        raise DlkitError(f"--lr auto: {UNCLEAR}", "give a rate: --lr 0.003", ExitCode.NO)
    return replace(job, recipe=replace(job.recipe, lr=found.suggestion, find_lr=False)), found
