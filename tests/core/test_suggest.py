"""The rules of the finder, on curves whose answers are known."""

import math
from itertools import pairwise

import numpy as np
import pytest

from dlkit.core.suggest import SMOOTHING, Sweep, averaged, combine, peak, suggest


def curve(loss, steps: int = 150, start: float = 1e-6, end: float = 10.0, noise: float = 0.0, seed: int = 0) -> Sweep:
    """A sweep whose smoothed held-out loss is loss(log10 lr), and that of its batches too but for their scatter."""
    lrs = [start * (end / start) ** (i / (steps - 1)) for i in range(steps)]
    smooth = [loss(math.log10(lr)) for lr in lrs]
    scatter = np.random.default_rng(seed).normal(0, noise, steps) if noise else np.zeros(steps)
    return Sweep(lrs, [float(a + b) for a, b in zip(smooth, scatter, strict=True)], rough(smooth))


def rough(smooth: list[float]) -> list[float]:
    """What has these for its moving averages."""
    sums = [value * (1 - SMOOTHING**i) for i, value in enumerate(smooth, 1)]
    return [(now - SMOOTHING * before) / (1 - SMOOTHING) for before, now in pairwise([0.0, *sums])]


def test_the_moving_average_is_corrected_for_its_start():
    assert averaged([3.0, 3.0, 3.0]) == pytest.approx([3, 3, 3])
    assert averaged([1.0, 2.0]) == pytest.approx([1, (0.8 * 0.2 * 1 + 0.2 * 2) / (1 - 0.8**2)])
    assert curve(bowl).smoothed == pytest.approx([bowl(x) for x in np.linspace(-6, 1, 150)])


def bowl(x: float) -> float:
    """Flat at 2 until 1e-4, a fall to 0.5 at 1e-1, and up again."""
    return 2 - 1.5 / (1 + math.exp(-3 * (x + 2.5))) + 40 / (1 + math.exp(-6 * (x - 0.6)))


def test_the_rules_on_a_bowl():
    found = suggest(curve(bowl))
    xs = np.linspace(-6, 1, 150)[5:-5]
    ys = np.array([bowl(x) for x in xs])
    assert math.log10(found.minimum) == pytest.approx(xs[ys.argmin()] - 1, abs=0.06)
    assert math.log10(found.steep) == pytest.approx(xs[np.gradient(ys, xs)[: ys.argmin()].argmin()], abs=0.06)
    assert found.valley < found.minimum * 10 and found.slide is not None
    assert found.consensus == sorted([found.valley, found.steep, found.minimum])[1]


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e4])
def test_suggestions_do_not_depend_on_the_scale_of_the_loss(scale):
    assert suggest(curve(lambda x: scale * bowl(x))) == suggest(curve(bowl))


@pytest.mark.parametrize("loss", [lambda x: 1.0, lambda x: 1 + 0.1 * (x + 6), lambda x: 1 - 0.001 * (x + 6)])
def test_no_fall_is_no_suggestion(loss):
    found = combine([curve(loss, noise=0.05, seed=i) for i in range(3)], "adamw", "constant")
    assert found.suggestion is None and found.low is None and found.high is None


def test_a_sweep_cut_short_gives_nothing():
    short = Sweep([1e-6, 1e-5], [1.0, 1.0], [1.0, 1.0])
    assert suggest(short).consensus is None
    assert combine([short], "adamw", "constant").suggestion is None


def test_median_and_spread_over_seeds():
    shifted = [curve(lambda x, s=s: bowl(x + s)) for s in (0.0, 0.5, -0.5)]
    found = combine(shifted, "adamw", "constant")
    assert found.low < found.suggestion < found.high
    assert found.suggestion == pytest.approx(
        peak("minimum", "adamw", "constant") * suggest(shifted[0]).minimum, rel=0.05
    )
    assert math.log10(found.high / found.low) == pytest.approx(1.0, abs=0.1)


def test_a_schedule_that_is_seldom_at_its_peak_gets_a_higher_one():
    """And SGD more than an optimiser that scales its own steps."""
    sweeps = [curve(bowl)]
    flat, peaked = combine(sweeps, "sgd", "constant"), combine(sweeps, "sgd", "one-cycle")
    times = peak("minimum", "sgd", "one-cycle") / peak("minimum", "sgd", "constant")
    assert times > 1 and peaked.suggestion == pytest.approx(times * flat.suggestion, rel=0.06)
    assert peaked.rules == flat.rules
    assert combine(sweeps, "adamw", "constant").suggestion < flat.suggestion


@pytest.mark.parametrize("rule", ["valley", "steep", "minimum", "slide"])
def test_one_rule_alone(rule):
    found = combine([curve(bowl)], "adamw", "constant", rule)
    assert found.suggestion == pytest.approx(peak(rule, "adamw", "constant") * found.rules[rule], rel=0.06)
    assert found.decades == 0
