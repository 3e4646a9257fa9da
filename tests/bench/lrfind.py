"""The finder judged by what it is for: the final validation loss of runs with its suggestion, over a grid's best.

python tests/bench/lrfind.py CACHE DATA_FOLDER [--tasks NAME …] [--seconds N] [--report]

Each task × optimiser is swept over three seeds; each of these × schedule is trained at 12 rates over several seeds, and
verified by short runs of a quarter and of half the epochs, with seeds of their own. Results go to the file CACHE as
they come, so that the whole can be made in slices: a call stops after --seconds and goes on at the next. --report reads
the file alone. A rule's regret is (loss − best)/best and at most 2. dlkit's rates, verified or not, are trained; the
loss at those of other rules is interpolated between the grid's in the logarithm of the rate, beyond the grid it is that
of the grid's end. The rules of fastai, Lightning and torch-lr-finder are written here as they are there, with their own
smoothing, on the batches' losses of each seed. "left out" is our rule with the constants that are best on the other
tasks.
"""

import argparse
import json
import math
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from dlkit.core import console
from dlkit.core.job import JobOptions
from dlkit.core.reading import Reading
from dlkit.core.recipe import Recipe
from dlkit.core.search import Search
from dlkit.core.suggest import Sweep, combine
from dlkit.nn import lrfind as finder
from dlkit.nn.fit import Diverged, fit
from dlkit.nn.job import Job
from dlkit.nn.prepare import prepare
from dlkit.nn.train import begin
from dlkit.nn.watch import Watch

MLP = "flatten linear:128 relu linear:128 relu linear:10"
CNN = "conv:16,k3,p1 bn relu maxpool:k2 conv:32,k3,p1 bn relu maxpool:k2 flatten linear:10"
GPT = "embed:63,32 pos 2*(sum(ln attn:4,causal=1 | ) sum(ln mlp:128 | )) ln lmhead:63,tie=1"
TASKS: dict[str, tuple[str, str, int, Reading]] = {
    "digits-mlp": ("digits", MLP, 15, Reading()),
    "digits-cnn": ("digits", CNN, 8, Reading()),
    "mnist-cnn": ("mnist10k-images-idx3-ubyte.gz", CNN, 3, Reading()),
    "housing": ("california_housing.csv", "", 8, Reading(target="median_house_value")),
    "titanic": ("titanic.csv", "", 15, Reading(target="survived", drop=("alive",))),
    "gpt": ("tinyshakespeare.txt", GPT, 2, Reading()),
    "hymenoptera": ("hymenoptera", CNN.replace("linear:10", "linear:2"), 12, Reading(image_size=32)),
}
"""Name -> data, network, epochs, what is said about reading it."""
CHARACTERS, CONTEXT = 300_000, 32
"""Of the text the beginning is read."""
REPEATS = {"digits-mlp": 7, "digits-cnn": 7}
"""Seeds over which a run's loss is averaged where they differ most; else three. Of a rate whose first run is more than
HOPELESS times as bad as the best first run there is that one alone."""
HOPELESS, VERIFYING = 3, 1000
"""VERIFYING is the seed of the short runs: the weights that verify are not those that judge."""
PARTS = (4, 2)
"""Runs that verify take the epochs through so many."""
RANGES = {"adamw": (1e-4, 0.3), "sgd": (1e-3, 3.0)}
SCHEDULES = ("constant", "one-cycle")
POINTS, SEEDS, STEPS, WORST = 12, 3, 150, 2.0

Curve = dict[str, list[float]]


def grid(optimizer: str) -> list[float]:
    low, high = RANGES[optimizer]
    return [float(f"{low * (high / low) ** (i / (POINTS - 1)):.3g}") for i in range(POINTS)]


def job_of(task: str, optimizer: str, folder: Path) -> Job:
    data, network, _, reading = TASKS[task]
    source, context = str(folder / data) if (folder / data).exists() else data, None
    words = (network,) if "(" in network else tuple(network.split())
    with tempfile.TemporaryDirectory() as scratch:
        if data.endswith(".txt"):
            text, source, context = Path(source).read_text()[:CHARACTERS], f"{scratch}/{data}", CONTEXT
            Path(source).write_text(text)
        return prepare(JobOptions(source, words, context=context, reading=reading), Recipe(optimizer=optimizer))


def trained(job: Job, epochs: int, lr: float, schedule: str) -> float:
    """The validation loss after the last epoch; infinite where the run diverged."""
    recipe = replace(job.recipe, epochs=epochs, lr=lr, schedule=schedule)
    job = replace(job, recipe=recipe)
    with console.progress(0) as bar:
        try:
            shown = fit(begin(job), job.train, job.valid, job.objective, recipe, Watch(), bar)
            return [epoch.valid_loss for epoch in shown if epoch][-1]
        except Diverged:
            return math.inf


def work(tasks: list[str], folder: Path, done: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """Every measurement that is not there yet, under its key."""
    for task in tasks:
        for optimizer in RANGES:
            job: Job | None = None
            for key, make in _jobs(task, optimizer, done):
                if key not in done:
                    job = job or job_of(task, optimizer, folder)
                    yield key, make(job)
            for schedule in SCHEDULES:
                recipe = Recipe(optimizer=optimizer, schedule=schedule)
                rate = ours([done[f"curve {task} {optimizer} {seed}"] for seed in range(SEEDS)], recipe)
                for part in PARTS:
                    key = f"verify {task} {optimizer} {schedule} {part}"
                    if key not in done and rate is not None:
                        job = job or job_of(task, optimizer, folder)
                        options = replace(job.options, seed=VERIFYING)
                        short = replace(job, recipe=recipe, options=options)
                        yield key, verified(short, rate, max(TASKS[task][2] // part, 1))
            for schedule in SCHEDULES:
                for lr in own_rates(done, task, optimizer, schedule).values():
                    for key, make in _at(task, optimizer, schedule, lr, _seeds(task)):
                        if key not in done:
                            job = job or job_of(task, optimizer, folder)
                            yield key, make(job)


def verified(job: Job, rate: float, epochs: int) -> list[tuple[float, float]]:
    with console.progress(0) as bar:
        return finder.verify(job, rate, epochs, bar)


def _jobs(task: str, optimizer: str, done: dict[str, Any]) -> Iterator[tuple[str, Callable[[Job], Any]]]:
    for seed in range(SEEDS):
        yield f"curve {task} {optimizer} {seed}", lambda job, seed=seed: curve(job, seed)
    for schedule in SCHEDULES:
        for lr in grid(optimizer):
            yield from _at(task, optimizer, schedule, lr, 1)
        for lr in grid(optimizer):
            yield from _at(task, optimizer, schedule, lr, _worth(done, task, optimizer, schedule, lr))


def _at(task: str, optimizer: str, schedule: str, lr: float, seeds: int) -> Iterator[tuple[str, Callable[[Job], Any]]]:
    """The runs at one rate."""
    for seed, key in enumerate(_runs(task, optimizer, schedule, lr, seeds)):

        def make(job: Job, seed: int = seed) -> float:
            job = replace(job, options=replace(job.options, seed=seed))
            return trained(job, TASKS[task][2], lr, schedule)

        yield key, make


def _seeds(task: str) -> int:
    return REPEATS.get(task, 3)


def _worth(done: dict[str, Any], task: str, optimizer: str, schedule: str, lr: float) -> int:
    """How many seeds a rate of the grid is trained with."""
    first = {at: done.get(_runs(task, optimizer, schedule, at, 1)[0], math.inf) for at in grid(optimizer)}
    return _seeds(task) if first[lr] <= HOPELESS * min(first.values()) else 1


def own_rates(done: dict[str, Any], task: str, optimizer: str, schedule: str) -> dict[str, float]:
    """What dlkit would have one train with: its suggestion, and those that short runs have verified."""
    curves = [done.get(f"curve {task} {optimizer} {seed}") for seed in range(SEEDS)]
    suggestion = None if None in curves else ours(curves, Recipe(optimizer=optimizer, schedule=schedule))
    tried = {f"verify 1/{part}": done.get(f"verify {task} {optimizer} {schedule} {part}") for part in PARTS}
    found = {"dlkit": suggestion}
    found |= {name: finder.chosen(runs, suggestion, schedule) for name, runs in tried.items() if runs}
    return {name: rate for name, rate in found.items() if rate is not None}


def _runs(task: str, optimizer: str, schedule: str, lr: float, seeds: int) -> list[str]:
    """The keys of the runs at one rate, seed by seed."""
    name = f"run {task} {optimizer} {schedule} {lr:g}"
    return [name if not seed else f"{name} {seed}" for seed in range(seeds)]


def curve(job: Job, seed: int) -> Curve:
    with console.progress(0) as bar:
        found = finder.sweep(job, Search(steps=STEPS), seed, bar)
    return {"lrs": found.lrs, "losses": found.losses, "valid_losses": found.valid_losses}


# The rules of others -----------------------------------------------------------------------------


def average(losses: list[float], past: float, corrected: bool) -> np.ndarray:
    value, out = losses[0] if not corrected else 0.0, []
    for i, loss in enumerate(losses):
        value = past * value + (1 - past) * loss
        out.append(value / (1 - past ** (i + 1)) if corrected else value)
    return np.array(out)


def fastai_valley(c: Curve) -> float:
    lrs, ys = c["lrs"], average(c["losses"], 0.98, corrected=True)
    lrs, ys = lrs[STEPS // 10 : -5], ys[STEPS // 10 : -5]
    lengths, end = [1] * len(ys), 0
    for i in range(1, len(ys)):
        for j in range(i):
            if ys[i] < ys[j] and lengths[i] < lengths[j] + 1:
                lengths[i] = lengths[j] + 1
            if lengths[end] < lengths[i]:
                end = i
    section = lengths[end] / 3
    return lrs[max(end - lengths[end], 0) + int(section) + int(section / 2)]


def lightning(c: Curve) -> float:
    ys = average(c["losses"], 0.98, corrected=True)[10:-1]
    return c["lrs"][10:-1][int(np.gradient(ys).argmin())]


def torch_lr_finder(c: Curve) -> float:
    ys = average(c["losses"], 0.05, corrected=False)[10:-5]
    return c["lrs"][10:-5][int(np.gradient(ys).argmin())]


def ours(curves: list[Curve], recipe: Recipe) -> float | None:
    return combine([Sweep(**c) for c in curves], recipe.optimizer, recipe.schedule).suggestion


# The report --------------------------------------------------------------------------------------


def regret(rates: list[float], losses: list[float], lr: float | None) -> float:
    best = min(losses)
    if lr is None:
        return WORST
    excess = [min((loss - best) / best, WORST) for loss in losses]
    return float(np.interp(math.log(lr), np.log(rates), excess))


def report(done: dict[str, Any]) -> None:
    rows: dict[str, dict[str, float]] = {}
    for task in TASKS:
        for optimizer in RANGES:
            curves = [done.get(f"curve {task} {optimizer} {seed}") for seed in range(SEEDS)]
            for schedule in SCHEDULES:
                losses, rates = _losses(done, task, optimizer, schedule), grid(optimizer)
                if None in curves or losses is None:
                    continue
                name = f"{task} {optimizer} {schedule}"
                rows[name] = _row(rates, losses, curves, Recipe(optimizer=optimizer, schedule=schedule))
                for own, rate in own_rates(done, task, optimizer, schedule).items():
                    runs = [done.get(key) for key in _runs(task, optimizer, schedule, rate, _seeds(task))]
                    loss = None if None in runs else statistics.fmean(runs)
                    best = min(losses)
                    # Better than the grid's best is no regret.
                    rows[name][own] = (
                        regret(rates, losses, rate) if loss is None else min(max(loss - best, 0) / best, WORST)
                    )
                rows[name]["left out"] = regret(rates, losses, left_out(done, task, optimizer, schedule))
    if not rows:
        print("nothing is complete yet")
        return
    names = list(next(iter(rows.values())))
    print(f"{'regret, %':32}" + "".join(f"{n:>16}" for n in names))
    for name, row in rows.items():
        print(
            f"{name:32}" + "".join(f"{row[n] if n == 'best lr' else 100 * row.get(n, math.nan):16.4g}" for n in names)
        )
    for part in ("", *SCHEDULES, *RANGES):
        chosen = [row for name, row in rows.items() if part in name.split() or not part]
        means = [statistics.fmean(row[n] for row in chosen if n in row) for n in names[1:]]
        print(f"{f'mean {part}':32}{'':16}" + "".join(f"{100 * mean:16.4g}" for mean in means))


def left_out(done: dict[str, Any], task: str, optimizer: str, schedule: str) -> float | None:
    """The rate of our rule, with the constant of least mean regret over the other tasks with this optimiser and
    schedule."""
    others = []
    for other in TASKS:
        minimum, losses = _minimum(done, other, optimizer), _losses(done, other, optimizer, schedule)
        if other != task and minimum and losses:
            others.append((grid(optimizer), losses, minimum))
    mine = _minimum(done, task, optimizer)
    if mine is None or not others:
        return None
    times = np.geomspace(0.5, 32, 61).tolist()
    best = min(times, key=lambda k: sum(regret(rates, losses, k * found) for rates, losses, found in others))
    return mine * best


def _minimum(done: dict[str, Any], task: str, optimizer: str) -> float | None:
    curves = [done.get(f"curve {task} {optimizer} {seed}") for seed in range(SEEDS)]
    return None if None in curves else combine([Sweep(**c) for c in curves], "adamw", "constant").rules["minimum"]


def _losses(done: dict[str, Any], task: str, optimizer: str, schedule: str) -> list[float] | None:
    """The mean loss at each rate of the grid; None where a run is not there yet."""
    seeds = {lr: _worth(done, task, optimizer, schedule, lr) for lr in grid(optimizer)}
    runs = [[done.get(key) for key in _runs(task, optimizer, schedule, lr, n)] for lr, n in seeds.items()]
    return None if any(None in found for found in runs) else [statistics.fmean(found) for found in runs]


def _row(rates: list[float], losses: list[float], curves: list[Curve], recipe: Recipe) -> dict[str, float]:
    row = {"best lr": rates[losses.index(min(losses))], "dlkit": regret(rates, losses, ours(curves, recipe))}
    for rule in ("valley", "steep", "minimum", "slide"):
        found = combine([Sweep(**c) for c in curves], recipe.optimizer, recipe.schedule).rules[rule]
        row[rule] = regret(rates, losses, found)
    for rule in (fastai_valley, lightning, torch_lr_finder):
        row[rule.__name__] = statistics.fmean(regret(rates, losses, rule(c)) for c in curves)
    return row


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("cache", type=Path)
    parser.add_argument("folder", type=Path, nargs="?", default=Path())
    parser.add_argument("--tasks", nargs="*", default=list(TASKS), choices=TASKS)
    parser.add_argument("--seconds", type=float, default=math.inf)
    parser.add_argument("--report", action="store_true")
    given = parser.parse_args()
    done = json.loads(given.cache.read_text()) if given.cache.exists() else {}
    console.quiet, started = True, time.monotonic()
    for key, value in () if given.report else work(given.tasks, given.folder, done):
        done[key] = value
        given.cache.write_text(json.dumps(done))
        if time.monotonic() - started > given.seconds:
            break
    report(done)


if __name__ == "__main__":
    main()
