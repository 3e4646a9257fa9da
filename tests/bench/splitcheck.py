"""Seconds and memory of split checks on one table of 50,000 rows, in turns.

python tests/bench/splitcheck.py [PEER=PYTHON]…, where PEER is deepchecks, evidently or alibi, and PYTHON an interpreter
that has it. Each runs in a process of its own, with one thread.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import polars as pl

ROWS, ROUNDS = 50_000, 3
OURS = "from dlkit.cli import run\nrun(['splitcheck', 'train.csv', 'valid.csv', '--target', 'y', '-q'])"
READ = "import pandas as pd\ntrain, valid = pd.read_csv('train.csv'), pd.read_csv('valid.csv')\n"
NAMES = "words = list(train.select_dtypes(exclude='number').columns)\n"
PEERS = {
    "deepchecks": READ
    + NAMES
    + "from deepchecks.tabular import Dataset\n"
    + "from deepchecks.tabular.suites import train_test_validation\n"
    + "both = [Dataset(side, label='y', cat_features=words) for side in (train, valid)]\n"
    + "train_test_validation().run(*both)\n",
    "evidently": READ
    + "from evidently import DataDefinition, Dataset, Report\n"
    + "from evidently.presets import DataDriftPreset\n"
    + "both = [Dataset.from_pandas(side, data_definition=DataDefinition()) for side in (valid, train)]\n"
    + "Report([DataDriftPreset()]).run(*both).dict()\n",
    "alibi": READ
    + "import numpy as np\n"
    + "from sklearn.ensemble import HistGradientBoostingClassifier\n"
    + "from alibi_detect.cd import ClassifierDrift\n"
    + "x, z = (pd.get_dummies(side).to_numpy(np.float32) for side in (train, valid))\n"
    + "model = HistGradientBoostingClassifier()\n"
    + "ClassifierDrift(x, model, backend='sklearn', n_folds=5, preds_type='probs').predict(z)\n",
}
WATCH = "\nimport resource, sys\nprint('PEAK', resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, file=sys.stderr)"


def write_tables(folder: Path) -> None:
    """Twelve numbers, six columns of words, a label that follows from them, missing values; one column has moved."""
    rng = np.random.default_rng(0)
    columns = {f"x{i}": rng.normal(size=ROWS).round(4) for i in range(12)}
    columns |= {f"c{i}": rng.choice(list("abcdefghij")[: 3 + i], ROWS) for i in range(6)}
    columns["y"] = (columns["x0"] + rng.normal(size=ROWS) > 0).astype(int)
    frame = pl.DataFrame(columns).with_columns(x1=pl.when(pl.col("x2") > 1.5).then(None).otherwise("x1"))
    cut = 4 * ROWS // 5
    frame[:cut].write_csv(folder / "train.csv")
    frame[cut:].with_columns(pl.col("x3") + 0.2).write_csv(folder / "valid.csv")


def run(python: str, code: str, folder: Path) -> tuple[float, float, float]:
    """(wall seconds, CPU seconds, MB at the peak) of one process."""
    before = os.times()
    started = time.perf_counter()
    program = f"try:\n    exec({code!r})\nexcept SystemExit:\n    pass{WATCH}"
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [python, "-W", "ignore", "-c", program], cwd=folder, capture_output=True, text=True, env=environment
    )
    if done.returncode:
        raise SystemExit(done.stderr[-2000:])
    after = os.times()
    peak = int(done.stderr.rpartition("PEAK ")[2])
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    return time.perf_counter() - started, cpu, peak / 1024


def main() -> None:
    programs = {"dlkit splitcheck": (sys.executable, OURS)}
    for word in sys.argv[1:]:
        name, _, python = word.partition("=")
        programs[name] = (python, PEERS[name])
    found: dict[str, list[tuple[float, float, float]]] = {name: [] for name in programs}
    with tempfile.TemporaryDirectory() as folder:
        write_tables(Path(folder))
        for _ in range(ROUNDS):
            for name, (python, code) in programs.items():
                found[name].append(run(python, code, Path(folder)))
    for name, runs in found.items():
        wall, cpu, peak = (statistics.median(values) for values in zip(*runs, strict=True))
        print(json.dumps({"program": name, "wall_s": round(wall, 2), "cpu_s": round(cpu, 2), "peak_mb": round(peak)}))


if __name__ == "__main__":
    main()
