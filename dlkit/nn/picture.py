"""Pictures of a run's curves and of the finder's sweeps."""

import bisect
import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dlkit.core.console import safe
from dlkit.core.reading import MULTI_LABEL
from dlkit.core.search import Search
from dlkit.core.suggest import RULES, TRIM, Found, Sweep, suggest
from dlkit.core.units import significant
from dlkit.data import figure
from dlkit.data.figure import MARK, TRAIN, VALID
from dlkit.nn.job import Job

ANSWER = "#b3123f"
FEW, WIDE, NAMED = 30, 30.0, 6
"""Epochs up to which each is a dot; largest loss over the smallest beyond which its axis is logarithmic; sweeps up to
which each has its name beside it."""
_LOSSES = {"mse": "mean squared error", "mae": "mean absolute error", "huber": "Huber loss", "smooth-l1": "smooth L1"}
_SHAPES = {"valley": "v", "steep": "s", "minimum": "o", "slide": "D"}


def training(path: Path, job: Job, rows: Sequence[Mapping[str, Any]], name: str) -> None:
    """Loss of both sides, the metric and the rate by epoch: the lines of metrics.jsonl, of which there is one at least.

    A number that was not finite leaves a gap.
    """
    picture = figure.make(path, 13, 4.2)
    losses, metric, rate = picture.subplots(1, 3, width_ratios=(5, 5, 4))
    _lines(losses, rows, {"train_loss": ("train", TRAIN), "valid_loss": ("validation", VALID)})
    losses.set_title("loss")
    losses.set_ylabel(_loss_name(job), parse_math=False)
    losses.legend()
    _lines(metric, rows, {job.objective.metric: ("validation", VALID)})
    _best(metric, job, rows)
    _lines(rate, rows, {"lr": ("lr", TRAIN)})
    rate.set(title="learning rate", ylabel="at the end of the epoch", yscale="linear")
    picture.suptitle(safe(f"{name}: {job.name} on {job.dataset.name}"), parse_math=False)
    figure.write(path, picture)


def _lines(axes: Any, rows: Sequence[Mapping[str, Any]], what: Mapping[str, tuple[str, str]]) -> None:
    """A line by epoch for each key of a row: its label and its colour."""
    epochs = [row["epoch"] for row in rows]
    for key, (label, colour) in what.items():
        values = [float("nan") if row[key] is None else row[key] for row in rows]
        axes.plot(epochs, values, "o-" if len(rows) <= FEW else "-", color=colour, label=label, markersize=4)
    axes.set_xlabel("epoch")
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.grid(alpha=0.25)
    _log_where_wide(axes, [row[key] for row in rows for key in what if row[key] is not None])


def _log_where_wide(axes: Any, values: Sequence[float]) -> None:
    if values and min(values) > 0 and max(values) > WIDE * min(values):
        axes.set_yscale("log")


def _loss_name(job: Job) -> str:
    objective = job.objective
    if objective.task == "regression":
        kind = _LOSSES[objective.name or "mse"]
        return f"{kind}\n({figure.short(str(job.dataset.target))}, standardised)"
    usual = "binary cross-entropy" if objective.task == MULTI_LABEL else "cross-entropy"
    return {"focal": "focal loss", "bce": "binary cross-entropy"}.get(objective.name, usual) + " in nats"


def _best(axes: Any, job: Job, rows: Sequence[Mapping[str, Any]]) -> None:
    """The metric's name and unit, and its best epoch pointed out."""
    objective, best = job.objective, None
    for row in rows:
        value = row[objective.metric]
        if value is not None and objective.better(value, best and best[objective.metric]):
            best = row
    unit = f"\n(in the unit of {figure.short(str(job.dataset.target))})" if objective.task == "regression" else ""
    name = objective.metric.replace("_", " ")
    axes.set_ylabel(name + unit, parse_math=False)
    axes.set_title(name)
    if best:
        value = best[objective.metric]
        axes.plot(best["epoch"], value, "o", markersize=9, markerfacecolor="none", color=MARK)
        axes.set_title(f"{name}: best {significant(value, 5)} in epoch {best['epoch']}")


def sweeps(path: Path, job: Job, search: Search, found: Found, summary: Mapping[str, Any]) -> None:
    """Loss against rate of each sweep, what every rule reads off them, and the answer with its spread."""
    tried = summary.get("verified")
    picture = figure.make(path, 10, 7.4 if tried else 5.4)
    axes, *below = picture.subplots(2, sharex=True, height_ratios=(5, 2)) if tried else [picture.subplots()]
    for i, sweep in enumerate(found.sweeps):
        name = f"sweep {i + 1}, smoothed" if len(found.sweeps) <= NAMED else None
        axes.plot(sweep.lrs, sweep.valid_losses, color=f"C{i}", alpha=0.35, linewidth=0.8)
        axes.plot(sweep.lrs, sweep.smoothed, color=f"C{i}", label=name)
    _rules(axes, found)
    _answer(axes, search, summary)
    for one in below:
        _verified(one, tried or (), summary["suggestion"])
    axes.set(ylabel="loss of held-out rows", ylim=_heights(found.sweeps))
    axes.set_xscale("log" if search.spacing == "geometric" else "linear")
    (below or [axes])[-1].set_xlabel("learning rate")
    axes.grid(alpha=0.25)
    axes.legend(fontsize="small", loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False)
    picture.suptitle(safe(f"lrfind: {job.name} on {job.dataset.name}"), parse_math=False)
    figure.write(path, picture)


def _rules(axes: Any, found: Found) -> None:
    """The rate of each rule on the mean curve, and that of consensus with its range over the sweeps."""
    for name in RULES:
        lr = found.rules[name]
        if lr is not None:
            label = f"{name} {lr:.2g}"
            axes.plot(lr, _height(found.curve, lr), _SHAPES[name], color=MARK, markersize=6, label=label, zorder=5)
    agreed = [lr for lr in (suggest(sweep).consensus for sweep in found.sweeps) if lr is not None]
    if agreed:
        lr, low, high = statistics.median(agreed), min(agreed), max(agreed)
        height, label = _height(found.curve, lr), f"consensus {lr:.2g} ({low:.2g} to {high:.2g})"
        axes.plot([low, high], [height, height], "|-", color="black", markersize=9, zorder=4)
        style = {"color": "black", "markerfacecolor": "white", "markersize": 15, "zorder": 4}
        axes.plot(lr, height, "*", label=label, **style)


def _answer(axes: Any, search: Search, summary: Mapping[str, Any]) -> None:
    lr, low, high = (summary[name] for name in ("suggestion", "low", "high"))
    if lr is None:
        axes.set_title("no clear minimum: no suggestion", fontsize="medium")
        return
    axes.axvline(lr, color=ANSWER, linestyle="--", label=f"suggestion {lr:.2g}")
    if low < high:
        axes.axvspan(low, high, color=ANSWER, alpha=0.12, label=f"by {search.rule}: {low:.2g} to {high:.2g}")
    axes.set_title(f"suggestion {lr:.2g}: {summary['method']}", fontsize="medium")


def _verified(axes: Any, tried: Sequence[Mapping[str, float]], suggestion: float) -> None:
    """The short runs: validation loss against rate, without those that diverged."""
    shown = [run for run in tried if math.isfinite(run["valid_loss"])]
    axes.plot([run["lr"] for run in shown], [run["valid_loss"] for run in shown], "o-", color=VALID, markersize=5)
    axes.axvline(suggestion, color=ANSWER, linestyle="--")
    axes.set_ylabel("validation loss\nof the short runs")
    _log_where_wide(axes, [run["valid_loss"] for run in shown])
    axes.grid(alpha=0.25)


def _height(curve: Sweep, lr: float) -> float:
    """The mean curve's smoothed loss at the point nearest to a rate."""
    at = min(bisect.bisect_left(curve.lrs, lr), len(curve.lrs) - 1)
    return curve.smoothed[at]


def _heights(found: Sequence[Sweep]) -> tuple[float, float]:
    """The losses before they run away: what the picture is about is the fall, not the end."""
    lowest = min((loss for sweep in found for loss in sweep.valid_losses), default=0.0)
    start = max((loss for sweep in found for loss in sweep.valid_losses[: 3 * TRIM]), default=1.0)
    room = start - lowest or 1.0
    return lowest - 0.05 * room, start + 0.12 * room
