"""Throughput of dlkit's loop against a plain PyTorch loop: same network, rows, batch size and epochs, in turns.

python tests/bench/train_speed.py DATA [--target COLUMN] [--epochs N] [--rounds N] [-- NETWORK …]

The plain loop is what one would write by hand: float32 data normalised beforehand, a permutation an epoch, indexing,
AdamW and OneCycleLR as torch has them; evaluation is outside the clock on both sides.
"""

import argparse
import statistics
import time
from dataclasses import replace

import torch
from torch.nn import functional as F

from dlkit.core import console
from dlkit.core.job import JobOptions
from dlkit.core.reading import Reading
from dlkit.core.recipe import Recipe
from dlkit.nn.fit import fit
from dlkit.nn.job import Job, prepare
from dlkit.nn.train import begin
from dlkit.nn.watch import Watch


def plain(job: Job, epochs: int) -> float:
    """Rows a second of the hand-written loop."""
    model = job.model(0).to(memory_format=torch.contiguous_format)
    x = torch.cat([x for x, _ in job.train.in_order()]).contiguous()
    y = torch.cat([y for _, y in job.train.in_order()])
    size, steps = job.train.batch_size, len(job.train)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.003)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.003, total_steps=epochs * steps)
    classify = job.objective.task == "classification"
    seen, started = 0, time.perf_counter()
    for _ in range(epochs):
        order = torch.randperm(len(x))
        for i in range(steps):
            rows = order[i * size : (i + 1) * size]
            output = model(x[rows])
            loss = F.cross_entropy(output, y[rows]) if classify else F.mse_loss(output.squeeze(1), y[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            seen += len(rows)
    return seen / (time.perf_counter() - started)


def ours(job: Job, epochs: int) -> tuple[float, float]:
    """Rows a second of dlkit's loop, and the metric it reached."""
    with console.progress(0) as bar:
        recipe = Recipe(epochs, 0.003)
        shown = list(fit(begin(replace(job, recipe=recipe)), job.train, job.valid, job.objective, recipe, Watch(), bar))
    return sum(e.rows for e in shown) / sum(e.seconds for e in shown), shown[-1].metric


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("data")
    parser.add_argument("network", nargs="*")
    parser.add_argument("--target")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    job = prepare(JobOptions(given.data, tuple(given.network), reading=Reading(target=given.target)), Recipe())
    plain(job, 1), ours(job, 1)  # warm up
    ratios, metric = [], 0.0
    for _ in range(given.rounds):
        theirs, (mine, metric) = plain(job, given.epochs), ours(job, given.epochs)
        ratios.append(mine / theirs)
        print(f"plain {theirs:10.0f} rows/s   dlkit {mine:10.0f} rows/s   ratio {ratios[-1]:.3f}")
    ratio = statistics.median(ratios)
    print(f"median ratio {ratio:.3f}; {job.objective.metric} after {given.epochs} epochs {metric:.4f}")


if __name__ == "__main__":
    main()
