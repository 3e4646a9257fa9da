"""The rules that read a learning rate off the curves of range tests, and their consensus over several of them."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

PEAKS = {
    "minimum": ((1.1, 4.5), (4.1, 12.0)),
    "consensus": ((1.4, 6.0), (5.5, 12.0)),
    "valley": ((12.0, 39.0), (50.0, 59.0)),
    "steep": ((1.1, 4.0), (1.2, 2.5)),
    "slide": ((0.09, 0.45), (0.24, 0.33)),
}
"""How many times the rate that a rule reads off the curve the best one is: constant; and the peak of one-cycle, which
is at it for a moment only. First for optimisers that scale their own steps, as Adam does, then for SGD. Measured by
tests/bench/lrfind.py."""
RULES = ("valley", "steep", "minimum", "slide")
TRIM = 5
"""Points left out at each end when suggesting: the average is still settling, the loss already climbing."""


SMOOTHING = 0.8
"""Weight of the past in a moving average of losses."""


@dataclass(frozen=True)
class Sweep:
    """The recorded points of one sweep: rate, loss of the batch, and of the same held-out rows after each step."""

    lrs: list[float]
    losses: list[float]
    valid_losses: list[float]

    @property
    def smoothed(self) -> list[float]:
        """What the rules read: the moving average of the held-out rows' loss."""
        return averaged(self.valid_losses)


class Average:
    """An exponential moving average, corrected for its start at 0."""

    def __init__(self) -> None:
        self.sum, self.weight = 0.0, 0.0

    def __call__(self, value: float) -> float:
        """The average once this value is in it."""
        self.sum = SMOOTHING * self.sum + (1 - SMOOTHING) * value
        self.weight = SMOOTHING * self.weight + (1 - SMOOTHING)
        return self.sum / self.weight


def averaged(values: Sequence[float]) -> list[float]:
    """The moving average up to each value."""
    return list(map(Average(), values))


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
    """Whether the loss of batches falls by clearly more than it scatters, and that of held-out rows with it: otherwise
    there is no minimum to speak of."""
    smoothed = averaged(found.losses)
    start = smoothed[TRIM]
    scatter = statistics.pstdev(a - b for a, b in zip(found.losses, smoothed, strict=True) if a <= 2 * start)
    # The average of weight .8 scatters with a third of the losses' own deviation; three and a half of those are clear.
    return _drop(smoothed) > 1.2 * scatter and all(
        _drop(losses) > 0.01 * abs(losses[TRIM]) for losses in (smoothed, found.smoothed)
    )


def _drop(smoothed: Sequence[float]) -> float:
    """From where the sweep starts to where the loss is lowest."""
    return statistics.median(smoothed[TRIM : 3 * TRIM]) - min(smoothed[TRIM:])


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
    """The answer over several seeds: the median suggestion, its spread, what each rule reads, and the mean curve of the
    sweeps."""

    suggestion: float | None
    low: float | None
    high: float | None
    rules: dict[str, float | None]
    curve: Sweep
    sweeps: Sequence[Sweep]

    @property
    def decades(self) -> float | None:
        """The spread over seeds."""
        return None if self.low is None or self.high is None else math.log10(self.high / self.low)


def peak(rule: str, optimizer: str, schedule: str) -> float:
    """What a rule's rate is multiplied by; schedules that are not one-cycle count as constant."""
    return PEAKS[rule][optimizer == "sgd"][schedule == "one-cycle"]


def combine(sweeps: Sequence[Sweep], optimizer: str, schedule: str, rule: str = "minimum") -> Found:
    """The median over sweeps of what a rule says, for an optimiser and the peak of its schedule; nothing where most
    sweeps find nothing.

    `rules` are as read off the curves.
    """
    suggested = [suggest(s) for s in sweeps]
    rules = {name: _median([getattr(s, name) for s in suggested]) for name in RULES}
    values = [getattr(s, rule) for s in suggested if s.consensus is not None and getattr(s, rule) is not None]
    curve = _mean_curve(sweeps)
    if 2 * len(values) <= len(sweeps):
        return Found(None, None, None, rules, curve, sweeps)
    times = peak(rule, optimizer, schedule)
    middle, low, high = (rounded(times * f(values)) for f in (statistics.median, min, max))
    return Found(middle, low, high, rules, curve, sweeps)


def _median(values: Sequence[float | None]) -> float | None:
    there = [v for v in values if v is not None]
    return rounded(statistics.median(there)) if there else None


def rounded(value: float) -> float:
    """Two significant digits: the finder knows no more than that."""
    return float(f"{value:.2g}")


def _mean_curve(sweeps: Sequence[Sweep]) -> Sweep:
    length = min(len(s.lrs) for s in sweeps)

    def mean(name: str) -> list[float]:
        return [statistics.fmean(values) for values in zip(*(getattr(s, name)[:length] for s in sweeps), strict=True)]

    return Sweep(sweeps[0].lrs[:length], mean("losses"), mean("valid_losses"))
