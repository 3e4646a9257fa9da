"""The learning-rate range test (Smith 2017): raise the rate a little every step and watch the loss."""

import math
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count

from dlkit.core.console import Bar
from dlkit.nn.job import Job
from dlkit.nn.loader import Batch
from dlkit.nn.schedule import Rates
from dlkit.nn.step import Stepper

SMOOTHING = 0.9
"""Weight of the past in the moving average of the loss."""
DIVERGED = 4.0
"""A sweep ends where the smoothed loss is this many times its lowest."""
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


def sweep(job: Job, seed: int, start: float, end: float, steps: int, bar: Bar) -> Sweep:
    """One sweep with a fresh network, geometric from `start` to `end`, stopped where the loss diverges.

    Nothing needs restoring after it: network and optimiser are its own, and the order of rows has its own generator.
    """
    model = job.model(seed)
    step = Stepper(model, job.objective, job.recipe)
    result, average = Sweep([], [], []), 0.0
    model.train()
    for i, batch in zip(range(steps), _endless(job, seed), strict=False):
        lr = start * (end / start) ** (i / (steps - 1))
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
    """The answer over several seeds: the median suggestion, its spread, and the mean curve."""

    suggestion: float | None
    low: float | None
    high: float | None
    rules: dict[str, float | None]
    curve: Sweep


def combine(sweeps: Sequence[Sweep]) -> Found:
    """The median over sweeps of each rule and of their consensus; no suggestion where most sweeps find none."""
    suggested = [suggest(s) for s in sweeps]
    rules = {name: _median([getattr(s, name) for s in suggested]) for name in ("valley", "steep", "minimum", "slide")}
    values = [s.consensus for s in suggested if s.consensus is not None]
    if 2 * len(values) <= len(sweeps):
        return Found(None, None, None, rules, _mean_curve(sweeps))
    return Found(
        _rounded(statistics.median(values)),
        _rounded(min(values)),
        _rounded(max(values)),
        rules,
        _mean_curve(sweeps),
    )


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
