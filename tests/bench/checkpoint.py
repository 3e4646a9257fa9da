"""What checkpoints cost, and what a second process brings.

python tests/bench/checkpoint.py [DATA NETWORK…] [--rounds N]

Cost: seconds to write one checkpoint of the whole state (median), against the time of a step, and the share of a run
that saves every 5 minutes, or every 100 steps. Scaling: rows a second of one process and of two, each with one thread,
in turns, by the command line's own count.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from dlkit.core import console
from dlkit.core.job import JobOptions
from dlkit.core.recipe import Recipe
from dlkit.core.run import RunDirectory
from dlkit.nn.checkpoint import Checkpoints, listed
from dlkit.nn.fit import fit
from dlkit.nn.prepare import prepare
from dlkit.nn.train import begin, config
from dlkit.nn.watch import Watch


def cost(words: list[str], rounds: int) -> None:
    job = prepare(JobOptions(words[0], tuple(words[1:])), Recipe(epochs=2))
    state = begin(job)
    with console.progress(0) as bar:
        epochs = list(fit(state, job.train, job.valid, job.objective, job.recipe, Watch(), bar))
    step = epochs[-1].seconds / len(job.train)
    with tempfile.TemporaryDirectory(dir=".") as folder, RunDirectory.create(f"{folder}/run", "x") as directory:
        checkpoints, taken = Checkpoints(directory, 2, config(job)), []
        for _ in range(rounds):
            state.step += 1  # the same place is not saved twice
            started = time.perf_counter()
            checkpoints.save(state)
            taken.append(time.perf_counter() - started)
        size = listed(Path(directory.path) / "checkpoint")[0].stat().st_size
    save = statistics.median(taken)
    print(
        f"{job.params:,} parameters, {size / 1e6:.1f} MB: {1e3 * save:.1f} ms a checkpoint, {1e3 * step:.2f} ms a step"
    )
    print(f"share of the run: {save / 300:.4%} every 5 minutes, {save / (100 * step + save):.1%} every 100 steps")


def speed(words: list[str], processes: int) -> float:
    """Rows a second in the last epoch of a run."""
    with tempfile.TemporaryDirectory() as folder:
        line = ["train", *words, "--epochs", "3", "--out", f"{folder}/run", "--nproc", str(processes), "--json"]
        done = subprocess.run([sys.executable, "-m", "dlkit", *line], capture_output=True, text=True, check=True)
    return json.loads(done.stdout)["rows"][-1]["samples_per_second"]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("words", nargs="*", default=["digits"])
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    cost(given.words, 4 * given.rounds)
    one, two = [], []
    for _ in range(given.rounds):
        one.append(speed(given.words, 1))
        two.append(speed(given.words, 2))
    single, pair = statistics.median(one), statistics.median(two)
    print(f"rows/s: {single:,.0f} by one process, {pair:,.0f} by two; efficiency {pair / single / 2:.2f}")


if __name__ == "__main__":
    main()
