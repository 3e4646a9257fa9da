"""The learning-rate range test (Smith 2017): raise the rate a little every step and watch the loss."""

import math
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import count

from dlkit.core.console import Bar
from dlkit.core.errors import DlkitError
from dlkit.nn.fit import Diverged, fit
from dlkit.nn.job import Job
from dlkit.nn.loader import Batch
from dlkit.nn.schedule import Rates
from dlkit.nn.step import Stepper
from dlkit.nn.stop import stop_on_signals
from dlkit.nn.train import begin

START, END = 1e-6, 10.0
"""First and last rate of a sweep."""
SMOOTHING = 0.9
"""Weight of the past in the moving average of the loss."""
DIVERGED = 4.0
"""A sweep ends where the smoothed loss is this many times its lowest."""
APART, MOST_BEYOND = 3.0, 2
"""Candidates that are verified are so many times apart; so many more are tried beyond them."""
PEAKS = {"one-cycle": 4.0}
"""How many times the rate that the rules read off the curve a schedule's peak is: one-cycle is at it for a moment only,
where a constant rate stays. Measured by tests/bench/lrfind.py; 1 for the others."""
RULES = ("consensus", "valley", "steep", "minimum", "slide")
TRIM = 5
"""Points left out at each end when suggesting: the average is still settling, the loss already climbing."""


@dataclass(frozen=True)
class Sweep:
    """The recorded points of one sweep: rate, loss of the batch, bias-corrected moving average of the loss."""

    lrs: list[float]
    losses: list[float]
    smoothed: list[float]


@dataclass(frozen=True)
class Suggestions:
    """The rate that each rule picks; None where a rule finds nothing."""

    valley: float | None
    steep: float | None
    minimum: float | None
    slide: float | None

    @property
    def consensus(self) -> float | None:
        """The median of valley, steep and minimum; None where one of them is missing."""
        values = [self.valley, self.steep, self.minimum]
        return statistics.median(v for v in values if v is not None) if None not in values else None


def sweep(
    job: Job, seed: int, start: float, end: float, steps: int, bar: Bar, spacing: str = "geometric"
) -> Sweep:
    """One sweep with a fresh network, geometric or linear from `start` to `end`, stopped where the loss diverges.

    Nothing needs restoring after it: network and optimiser are its own, and the order of rows has its own generator.
    The step is that of training, averages of weights apart, which it does not read.
    """
    model = job.model(seed)
    step = Stepper(model, job.objective, replace(job.recipe, ema=None, swa=None))
    result, average = Sweep([], [], []), 0.0
    model.train()
    for i, batch in zip(range(steps), _endless(job, seed), strict=False):
        share = i / (steps - 1)
        lr = start * (end / start) ** share if spacing == "geometric" else start + (end - start) * share
        loss = step(batch, Rates(lr)).item()
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


def _endless(job: Job, seed: int) -> Iterator[Batch]:
    for epoch in count(seed * 1_000_003):
        yield from job.train.shuffled(epoch)


def verify(job: Job, candidates: Sequence[float], epochs: int, bar: Bar) -> list[tuple[float, float]]:
    """(rate, validation loss) of a short run at each candidate under the schedule asked for; ∞ where it diverged.

    Every run starts from the same weights and sees the rows in the same order. Where the best is the first or the last
    the next one out is tried too, at most `MOST_BEYOND` times.
    """
    tried = {lr: _short_run(job, lr, epochs, bar) for lr in candidates}
    for _ in range(MOST_BEYOND):
        best = min(tried, key=lambda lr: tried[lr])
        if not math.isfinite(tried[best]) or min(tried) < best < max(tried):
            break
        beyond = _rounded(best / APART if best == min(tried) else best * APART)
        tried[beyond] = _short_run(job, beyond, epochs, bar)
    return sorted(tried.items())


def candidates(suggestion: float) -> list[float]:
    """Five rates around a suggestion, each three times the one before."""
    return [_rounded(suggestion * APART**k) for k in range(-2, 3)]


def _short_run(job: Job, lr: float, epochs: int, bar: Bar) -> float:
    recipe = replace(job.recipe, lr=lr, epochs=epochs, patience=None, ema=None, swa=None)
    state = begin(replace(job, recipe=recipe), recipe)
    bar.describe(f"verifying {lr:g}")
    try:
        with stop_on_signals() as stop:
            shown = list(fit(state, job.train, job.valid, job.objective, recipe, stop, bar))
    except Diverged:
        return math.inf
    if stop.asked:
        raise DlkitError("stopped while verifying", code=stop.code)
    return shown[-1].valid_loss if math.isfinite(shown[-1].valid_loss) else math.inf


def suggest(found: Sweep) -> Suggestions:
    """Apply every rule to the smoothed curve without its ends."""
    lrs, ys = found.lrs[TRIM:-TRIM], found.smoothed[TRIM:-TRIM]
    if len(ys) < 10 or not _falls(found):
        return Suggestions(None, None, None, None)
    lowest = min(range(len(ys)), key=ys.__getitem__)
    slopes = [_slope(lrs, ys, i) for i in range(len(ys))]
    steepest = min(range(lowest + 1), key=slopes.__getitem__)
    return Suggestions(_valley(lrs, ys), lrs[steepest], lrs[lowest] / 10, _slide(lrs, ys, slopes))


def _falls(found: Sweep) -> bool:
    """Whether the loss falls by clearly more than it scatters: otherwise there is no minimum to speak of."""
    head = found.smoothed[TRIM : 3 * TRIM]
    scatter = statistics.pstdev(a - b for a, b in zip(found.losses, found.smoothed, strict=True) if a <= 2 * head[0])
    drop = statistics.median(head) - min(found.smoothed[TRIM:])
    # The average of weight .9 scatters with about a quarter of the losses' own deviation; three of those are clear.
    return drop > 0.75 * scatter and drop > 0.01 * abs(statistics.median(head))


def _slope(lrs: Sequence[float], ys: Sequence[float], i: int) -> float:
    """Δloss/Δln(lr) by central difference."""
    a, b = max(i - 1, 0), min(i + 1, len(ys) - 1)
    return (ys[b] - ys[a]) / math.log(lrs[b] / lrs[a])


def _valley(lrs: Sequence[float], ys: Sequence[float]) -> float:
    """Half-way along the longest decreasing subsequence of the losses (fastai's valley)."""
    lengths = [1] * len(ys)
    for i in range(len(ys)):
        lengths[i] += max((lengths[j] for j in range(i) if ys[j] > ys[i]), default=0)
    end = max(range(len(ys)), key=lengths.__getitem__)
    return lrs[max(end - lengths[end] // 2, 0)]


def _slide(lrs: Sequence[float], ys: Sequence[float], slopes: Sequence[float]) -> float | None:
    """The last rate, before the final climb, at which the loss still falls by 5 % of its range a decade."""
    threshold = 0.05 * (max(ys[: len(ys) // 2]) - min(ys)) / math.log(10)
    falling = [i for i, slope in enumerate(slopes) if slope < -threshold]
    return lrs[falling[-1]] if falling else None


@dataclass(frozen=True)
class Found:
    """The answer over several seeds: the median suggestion, its spread, what each rule reads, and the mean curve."""

    suggestion: float | None
    low: float | None
    high: float | None
    rules: dict[str, float | None]
    curve: Sweep

    @property
    def decades(self) -> float | None:
        """The spread over seeds."""
        return None if self.low is None or self.high is None else math.log10(self.high / self.low)


def combine(sweeps: Sequence[Sweep], schedule: str, rule: str = "consensus") -> Found:
    """The median over sweeps of what a rule says, for the peak of `schedule`; nothing where most sweeps find nothing.

    `rules` are as read off the curves, for a constant rate.
    """
    suggested = [suggest(s) for s in sweeps]
    rules = {name: _median([getattr(s, name) for s in suggested]) for name in RULES[1:]}
    values = [getattr(s, rule) for s in suggested if s.consensus is not None and getattr(s, rule) is not None]
    curve = _mean_curve(sweeps)
    if 2 * len(values) <= len(sweeps):
        return Found(None, None, None, rules, curve)
    peak = PEAKS.get(schedule, 1.0)
    middle, low, high = (_rounded(peak * f(values)) for f in (statistics.median, min, max))
    return Found(middle, low, high, rules, curve)


def _median(values: Sequence[float | None]) -> float | None:
    there = [v for v in values if v is not None]
    return _rounded(statistics.median(there)) if there else None


def _rounded(value: float) -> float:
    """Two significant digits: the finder knows no more than that."""
    return float(f"{value:.2g}")


def _mean_curve(sweeps: Sequence[Sweep]) -> Sweep:
    length = min(len(s.lrs) for s in sweeps)

    def mean(name: str) -> list[float]:
        return [statistics.fmean(values) for values in zip(*(getattr(s, name)[:length] for s in sweeps), strict=True)]

    return Sweep(sweeps[0].lrs[:length], mean("losses"), mean("smoothed"))
