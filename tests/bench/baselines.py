"""Boards of `dlkit baseline` beside lazypredict and FLAML on the same files: best score, wall time, CPU time, memory.

python tests/bench/baselines.py [--budget 60s] [--peers PYTHON] [--limit 15m] [--million] [housing titanic mnist10k …]

PYTHON is the interpreter of an environment with lazypredict and flaml[automl]; without it only dlkit runs. Each peer
gets the matrix as a notebook would make it (gaps filled, categories one-hot) and one split of 80 to 20 drawn by
scikit-learn; FLAML gets the same budget, lazypredict has none, and is stopped at --limit. A peer's score is of that one
split, dlkit's of five folds.
`--million` adds a million rows by 20 columns, made on the spot.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import polars as pl

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"
SETS = {
    "housing": ["california_housing.csv", "--target", "median_house_value"],
    "titanic": ["titanic.csv", "--target", "survived", "--drop", "alive"],
    "mnist10k": ["mnist10k-images-idx3-ubyte.gz"],
    "penguins": ["penguins.csv", "--target", "species"],
    "taxis": ["taxis.csv", "--target", "tip", "--drop", "total"],
}

PEER = """
import json, sys, time, warnings
warnings.filterwarnings("ignore")
import numpy as np
which, path, task, budget = sys.argv[1], sys.argv[2], sys.argv[3], float(sys.argv[4])
held = np.load(path)
x, y = held["x"], held["y"]
from sklearn.model_selection import train_test_split
a, b, ya, yb = train_test_split(x, y, test_size=0.2, random_state=0, stratify=y if task == "classification" else None)
started = time.perf_counter()
if which == "lazypredict":
    from lazypredict import Supervised
    kind = Supervised.LazyClassifier if task == "classification" else Supervised.LazyRegressor
    table, _ = kind(verbose=0, ignore_warnings=True).fit(a, b, ya, yb)
    column = "Accuracy" if task == "classification" else "RMSE"
    best = table[column].max() if task == "classification" else table[column].min()
else:
    from flaml import AutoML
    automl = AutoML()
    metric = "accuracy" if task == "classification" else "rmse"
    automl.fit(a, ya, task=task, time_budget=budget, metric=metric, verbose=0, n_jobs=2, seed=0)
    guess = automl.predict(b)
    best = (guess == yb).mean() if task == "classification" else ((guess - yb) ** 2).mean() ** 0.5
print(json.dumps({"best": float(best), "fit": time.perf_counter() - started}))
"""


def measured(words: list[str], cwd: Path) -> tuple[str, str, float, float, float]:
    """(stdout, stderr, wall seconds, CPU seconds, largest process in MiB) of a command with all it started."""
    timer = ["/usr/bin/env", "time", "-f", "%e %U %S %M"] if Path("/usr/bin/time").exists() else []
    started = time.perf_counter()
    before = os.times()
    done = subprocess.run([*timer, *words], capture_output=True, text=True, cwd=cwd, check=False)
    wall = time.perf_counter() - started
    after = os.times()
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    peak = float(done.stderr.split()[-1]) / 1024 if timer and done.stderr else float("nan")
    return done.stdout, done.stderr, wall, cpu, peak


def dlkit(words: list[str], budget: str, cwd: Path) -> dict:
    command = [sys.executable, "-m", "dlkit", "baseline", *words, "--budget", budget, "--json"]
    out, err, wall, _, peak = measured(command, cwd)
    if not out:
        return {"who": "dlkit", "error": err.strip()[-200:], "wall": wall}
    answer = json.loads(out)
    summary = answer["summary"]
    fits = max((row["memory_bytes"] or 0 for row in answer["rows"]), default=0) / 2**20
    board = ", ".join(f"{one['model']} {one['score']:.5g}" for one in summary["board"])
    return {"who": "dlkit", "best": summary["score"], "se": summary["score_se"], "model": summary["best"], "wall": wall,
            "parent_mib": peak, "fit_mib": fits, "board": board, "tried": summary["tried"]}  # fmt: skip


def matrix(words: list[str], path: Path) -> str:
    """The file as numbers, the way a notebook would make them; the task."""
    from dlkit.core.reading import Reading
    from dlkit.data import load

    target = words[words.index("--target") + 1] if "--target" in words else None
    drop = (words[words.index("--drop") + 1],) if "--drop" in words else ()
    dataset = load(words[0], Reading(target=target, drop=drop))
    if dataset.arrays is not None:
        x = dataset.arrays.reshape(dataset.rows, -1).astype(np.float32)
    else:
        names = [column.name for column in dataset.columns if column.role.is_used]
        frame = dataset.frame.select(
            pl.col(name).to_physical().cast(pl.Float64) if dataset.frame[name].dtype != pl.String else pl.col(name)
            for name in names
        )
        numbers = frame.select(pl.selectors.numeric().fill_null(pl.selectors.numeric().median()))
        words_of = (
            frame.select(pl.selectors.string()).to_dummies() if frame.select(pl.selectors.string()).width else None
        )
        x = np.hstack([numbers.to_numpy(), *([words_of.to_numpy()] if words_of is not None else [])])
    np.savez(path, x=x, y=dataset.labels)
    return dataset.task


def peer(which: str, python: str, path: Path, task: str, seconds: float, limit: float, cwd: Path) -> dict:
    command = ["timeout", f"{limit:g}", python, "-c", PEER, which, str(path), task, str(seconds)]
    out, err, wall, cpu, peak = measured(command, cwd)
    if not out and wall >= limit:
        return {"who": which, "error": f"nothing after {limit:g} s"}
    if not out:
        return {"who": which, "error": err.strip().splitlines()[-2:], "wall": wall}
    found = json.loads(out.splitlines()[-1])
    return {"who": which, "best": found["best"], "wall": wall, "cpu": cpu, "parent_mib": peak}


def million(folder: Path) -> list[str]:
    """A million rows by 20 columns: numbers, gaps, categories of few and of many values."""
    rng = np.random.default_rng(0)
    rows = 1_000_000
    numbers = {f"n{i}": rng.normal(size=rows).astype(np.float32) for i in range(16)}
    few = {f"c{i}": rng.integers(0, 8, rows) for i in range(3)}
    many = rng.integers(0, 500, rows)
    y = numbers["n0"] * 2 + np.sin(3 * numbers["n1"]) + (few["c0"] == 3) * numbers["n2"] + rng.normal(size=500)[many]
    frame = pl.DataFrame(
        {**numbers, **{k: [f"v{v}" for v in values] for k, values in few.items()}, "k": [f"k{v}" for v in many]}
        | {"y": (y + rng.normal(size=rows)).astype(np.float32)}
    )
    frame.write_csv(folder / "million.csv", float_precision=4)
    return [str(folder / "million.csv"), "--target", "y"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sets", nargs="*", default=["housing", "titanic", "mnist10k"])
    parser.add_argument("--budget", default="60s")
    parser.add_argument("--peers")
    parser.add_argument("--limit", default="15m")
    parser.add_argument("--million", action="store_true")
    asked = parser.parse_args()
    from dlkit.core import units

    seconds = units.duration(asked.budget)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        for name in asked.sets:
            words = [str(SHARED / SETS[name][0]), *SETS[name][1:]]
            print(name, json.dumps(dlkit(words, asked.budget, folder)), flush=True)
            if asked.peers:
                task = matrix(words, folder / "held.npz")
                for which in ("lazypredict", "flaml"):
                    found = peer(
                        which, asked.peers, folder / "held.npz", task, seconds, units.duration(asked.limit), folder
                    )
                    print(name, json.dumps(found), flush=True)
        if asked.million:
            print("million", json.dumps(dlkit(million(folder), asked.budget, folder)), flush=True)


if __name__ == "__main__":
    main()
