"""What the checks saw, as a picture: the ROC curve, the columns that tell, how the worst of them are distributed."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from dlkit.data import Role, figure
from dlkit.data.figure import TRAIN, VALID
from dlkit.ml.checks.adversarial import Adversarial
from dlkit.ml.checks.drift import Drift, column_of
from dlkit.ml.checks.matrix import frequent
from dlkit.ml.checks.sides import Sides

MOST_BARS, MOST_COLUMNS, MOST_CATEGORIES, BINS = 8, 4, 8, 30


def draw(path: Path, sides: Sides, found: Adversarial, drifts: Sequence[Drift]) -> None:
    """Write the picture of one run of the checks."""
    names = [one.name for one in found.columns if one.name in sides.features]
    names += [one.column for one in sorted(drifts, key=lambda one: -one.effect) if one.column not in names]
    names = names[:MOST_COLUMNS]
    picture = figure.make(path, 12, 7.5)
    above, below = picture.subfigures(2, 1)
    roc, bars = above.subplots(1, 2)
    _roc(roc, sides, found)
    _bars(bars, found)
    for axes, name in zip(below.subplots(1, max(len(names), 1), squeeze=False)[0], names, strict=False):
        _distribution(axes, sides.frame[name], sides.roles[name], sides.is_valid)
    figure.write(path, picture)


def _roc(axes: Any, sides: Sides, found: Adversarial) -> None:
    from sklearn.metrics import roc_curve

    axes.plot([0, 1], [0, 1], ":", color="grey")
    axes.set(xlabel="share of train taken for valid", ylabel="share of valid found", xlim=(0, 1), ylim=(0, 1))
    if found.separation is None:
        axes.set_title("no classifier could be fitted")
        return
    separation = found.separation
    false, true, _ = roc_curve(sides.is_valid[found.rows], separation.scores)
    axes.plot(false, true, color=VALID)
    axes.set_title(
        f"can the sides be told apart? AUC {separation.auc:.3f} ({separation.low:.2f} to {separation.high:.2f})"
    )


def _bars(axes: Any, found: Adversarial) -> None:
    told = found.tellings[:MOST_BARS][::-1]
    axes.barh(range(len(told)), [one.importance for one in told], xerr=[min(one.error, 1) for one in told], color=TRAIN)
    axes.set_yticks(range(len(told)), [figure.short(", ".join(one.names)) for one in told])
    for label in axes.get_yticklabels():
        label.set_parse_math(False)
    axes.set(xlabel="AUC lost when shuffled", title="the columns that tell")


def _distribution(axes: Any, values: pl.Series, role: Role, is_valid: np.ndarray) -> None:
    """A histogram, or bars of the most frequent categories, as shares of each side."""
    numbers, is_number = column_of(values, role)
    parts = [numbers[side & ~np.isnan(numbers)] for side in (~is_valid, is_valid)]
    if is_number:
        low, high = np.nanquantile(numbers, [0.005, 0.995])
        edges = np.linspace(low, high if high > low else low + 1, BINS + 1)
        for part, colour, name in zip(parts, (TRAIN, VALID), ("train", "valid"), strict=True):
            axes.hist(
                part, edges, weights=np.full(len(part), 1 / max(len(part), 1)), color=colour, alpha=0.6, label=name
            )
    else:
        words = frequent(values)[:MOST_CATEGORIES]
        for k, (part, colour, name) in enumerate(zip(parts, (TRAIN, VALID), ("train", "valid"), strict=True)):
            shares = np.bincount(part.astype(int), minlength=len(words))[: len(words)] / max(len(part), 1)
            axes.barh(np.arange(len(words)) + 0.4 * k, shares, 0.4, color=colour, label=name)
        axes.set_yticks(np.arange(len(words)) + 0.2, [figure.short(word, 14) for word in words])
        for label in axes.get_yticklabels():
            label.set_parse_math(False)
        axes.invert_yaxis()
    axes.set_title(figure.short(values.name), parse_math=False)
    axes.locator_params(axis="x", nbins=4)
    axes.legend(fontsize="small")
